//! What is known of the CA and of the members' certificates. Facts only.

use jiff::{SignedDuration, Timestamp};
use pgraft_core::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use pgraft_api::names::SecretKind;

/// The CA, the members' certificates, and what clients are told to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSeen {
    /// The CA that signs now.
    pub ca: Result<Certificate, CaTrouble>,
    /// The members' Secrets; None is one that can't be read.
    pub nodes: BTreeMap<NodeId, Option<NodeCertificate>>,
    /// The identities of those.
    pub uids: BTreeMap<NodeId, String>,
    /// `ca.crt` of the Secrets that are for clients.
    pub shared: BTreeMap<SecretKind, Vec<Certificate>>,
}

impl TlsSeen {
    /// When the first of the certificates ends.
    pub fn first_end(&self) -> Option<Timestamp> {
        self.nodes.values().flatten().map(|node| node.leaf.not_after).min()
    }

    /// Everything that some member trusts, the CA first: whoever connects in the middle of a change
    /// of the CA needs both.
    pub fn all_trusted(&self) -> Vec<Certificate> {
        let mut all: Vec<Certificate> = self.ca.iter().cloned().collect();
        for certificate in self.nodes.values().flatten().flat_map(|node| &node.trusted) {
            if !all.contains(certificate) {
                all.push(certificate.clone());
            }
        }
        all
    }
}

/// A certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    /// All of it.
    pub der: Vec<u8>,
    /// From when on it is valid.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
    /// DNS names and IP addresses.
    pub names: BTreeSet<String>,
}

impl Certificate {
    /// Whether a third of its life, or less, is left.
    pub fn is_due(&self, now: Timestamp) -> bool {
        let life: SignedDuration = self.not_after.duration_since(self.not_before);
        self.not_after.duration_since(now) <= life / 3
    }

    /// As a file has it.
    pub fn pem(&self) -> String {
        rustls_pem(&self.der)
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Certificate({} bytes, {} to {}, {:?})",
            self.der.len(),
            self.not_before,
            self.not_after,
            self.names
        )
    }
}

/// RFC 7468.
fn rustls_pem(der: &[u8]) -> String {
    use k8s_openapi::ByteString;
    let text = serde_json::to_value(ByteString(der.to_vec()))
        .ok()
        .and_then(|v| v.as_str().map(str::to_owned))
        .unwrap_or_default();
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for (at, character) in text.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem.push_str("\n-----END CERTIFICATE-----\n");
    pem
}

/// The Secret of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCertificate {
    /// Its certificate.
    pub leaf: Certificate,
    /// Whether the CA that signs now has signed it.
    pub of_ca: bool,
    /// `ca.crt`.
    pub trusted: Vec<Certificate>,
    /// Since when that reads as it does.
    pub trusted_since: Option<Timestamp>,
}

/// Who needs a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSubject {
    /// All names that it is called by.
    pub names: BTreeSet<String>,
    /// Whether its pod is there, and may be talking to others with what it had before.
    pub has_pod: bool,
}

/// Why there is no CA to sign with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaTrouble {
    /// The operator's own, before its first pass has made it.
    #[error("the CA is not made yet")]
    NotMade,
    /// There is no such Secret.
    #[error("there is no Secret {0} with the CA")]
    Missing(String),
    /// A key is missing.
    #[error("Secret {secret} has no {key}: it must have tls.crt and tls.key of a CA")]
    Incomplete {
        /// Its name.
        secret: String,
        /// Which.
        key: &'static str,
    },
    /// It can't be read, or the two don't belong together.
    #[error("Secret {secret}: {why}")]
    Broken {
        /// Its name.
        secret: String,
        /// In words.
        why: String,
    },
    /// It may not sign.
    #[error(
        "Secret {0}: tls.crt is no CA (its basic constraints say so); cert-manager makes one with isCA: true"
    )]
    NoCa(String),
    /// Its time is over.
    #[error("Secret {secret}: the CA ended at {at}")]
    Expired {
        /// Its name.
        secret: String,
        /// When.
        at: Timestamp,
    },
}
