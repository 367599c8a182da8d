//! Certificates as a decision: what is to be issued, renewed, trusted or taken away. Makes nothing,
//! and sees no private key.
//!
//! ```text
//!  the CA (`<name>-ca`, or the user's own Secret) ─┐
//!  the members' Secrets (`<name>-<id>-tls`) ───────┼─▶ decide ─▶ Work …  (secrets)
//!  who needs one, and the time ────────────────────┘
//! ```
//!
//! **Another CA** comes in three steps, so that at no time a member meets a certificate that it
//! does not trust:
//! 1. every member's `ca.crt` gets the new CA beside the old one; the certificates stay;
//! 2. when the kubelets have had time to bring that to the pods ([`PROPAGATION`]), certificates of
//!    the new CA are issued;
//! 3. when those have been brought to the pods as well, the old CA is left out.
//!
//! The state of this is in the Secrets themselves, so that an operator that died, and a CA that was
//! swapped by somebody else, are no special cases.

mod read;
pub mod secrets;
mod seen;
#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};
use pgraft_core::NodeId;
use std::collections::{BTreeMap, BTreeSet};

pub use read::{authority, key_of, node_certificate, trusted};
pub use seen::{CaTrouble, Certificate, NodeCertificate, SecretSubject, TlsSeen};

use crate::cluster::spec::ClusterTls;
use pgraft_api::names::SecretKind;

/// For a changed Secret to be in its pod: the kubelet looks at least every 60 to 90 seconds, and
/// the instance manager every second.
pub const PROPAGATION: SignedDuration = SignedDuration::from_mins(5);

/// A certificate is valid from so long before it was issued, for hosts whose clock is behind.
pub const BACKDATED: SignedDuration = SignedDuration::from_mins(5);

/// Of the operator's own CA.
pub const CA_LIFETIME: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);

/// One thing to do. Each can be done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Put a new CA in the place of the operator's own.
    RenewCa,
    /// Issue this member's certificate, with everything that is to be trusted beside it.
    Issue(NodeId),
    /// Write what this member is to trust; its certificate stays.
    Trust(NodeId),
    /// Write what clients are to trust into one of their Secrets.
    Share(SecretKind),
    /// Delete the Secret of a node that is not there any more.
    Remove(NodeId),
}

/// What is decided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CertificateDecision {
    /// In this order.
    pub work: Vec<Work>,
    /// The CA first, then those that it replaces. Empty while there is no usable CA.
    pub trusted: Vec<Certificate>,
}

/// What is to be done now. `nodes` are those that have, or are about to get, a pod.
pub fn decide(
    want: &ClusterTls,
    seen: &TlsSeen,
    nodes: &BTreeMap<NodeId, SecretSubject>,
    now: Timestamp,
) -> CertificateDecision {
    let gone = seen.nodes.keys().filter(|id| !nodes.contains_key(id)).map(|id| Work::Remove(*id));
    // Without a CA nothing is issued, and what was issued goes on.
    let Ok(ca) = &seen.ca else {
        return CertificateDecision { work: gone.collect(), trusted: Vec::new() };
    };
    if want.ca_secret.is_none() && ca.is_due(now) {
        return CertificateDecision { work: vec![Work::RenewCa], trusted: Vec::new() };
    }
    let known = |id: &NodeId| matches!(seen.nodes.get(id), Some(Some(_)));
    let plan = CertificatePlan {
        want,
        ca,
        seen,
        now,
        settled: is_settled(ca, seen, now),
        changing: seen
            .nodes
            .values()
            .flatten()
            .any(|node| !node.of_ca || node.trusted != [ca.clone()]),
        deaf: nodes.iter().any(|(id, subject)| subject.has_pod && !known(id)),
    };
    let trusted = plan.trusted();
    let mut work: Vec<Work> =
        nodes.iter().filter_map(|(id, subject)| plan.node(*id, subject, &trusted)).collect();
    let clients = seen
        .shared
        .iter()
        .filter(|(_, shared)| **shared != trusted)
        .map(|(kind, _)| Work::Share(*kind));
    work.extend(clients);
    work.extend(gone);
    CertificateDecision { work, trusted }
}

/// Whether every member has trusted this CA for long enough to meet certificates of it.
pub fn is_settled(ca: &Certificate, seen: &TlsSeen, now: Timestamp) -> bool {
    seen.nodes.values().flatten().all(|node| {
        node.trusted.contains(ca)
            && node.trusted_since.is_some_and(|since| now.duration_since(since) >= PROPAGATION)
    })
}

struct CertificatePlan<'a> {
    want: &'a ClusterTls,
    ca: &'a Certificate,
    seen: &'a TlsSeen,
    now: Timestamp,
    /// [`is_settled`].
    settled: bool,
    /// One CA takes over from another.
    changing: bool,
    /// A pod's Secret is gone or broken: it goes on with what it has read, and hears of nothing
    /// new.
    deaf: bool,
}

impl CertificatePlan<'_> {
    /// The CA, and before it has taken over everywhere those that were trusted so far.
    fn trusted(&self) -> Vec<Certificate> {
        let taken_over = |node: &NodeCertificate| {
            node.of_ca && self.now.duration_since(node.leaf.not_before + BACKDATED) >= PROPAGATION
        };
        let mut trusted = vec![self.ca.clone()];
        if !self.deaf && self.seen.nodes.values().flatten().all(taken_over) {
            return trusted;
        }
        for certificate in self.seen.nodes.values().flatten().flat_map(|node| &node.trusted) {
            if certificate.not_after > self.now && !trusted.contains(certificate) {
                trusted.push(certificate.clone());
            }
        }
        // The same text whichever member came first.
        trusted[1..].sort_by(|a, b| a.der.cmp(&b.der));
        trusted
    }

    fn node(&self, id: NodeId, subject: &SecretSubject, trusted: &[Certificate]) -> Option<Work> {
        match self.seen.nodes.get(&id).and_then(Option::as_ref) {
            Some(node) if !self.wants_another(node, &subject.names) => {
                (node.trusted != trusted).then_some(Work::Trust(id))
            }
            // Not what the others don't know yet; and it comes before theirs, which it would not
            // know.
            None if subject.has_pod && self.changing && !self.settled => None,
            _ => Some(Work::Issue(id)),
        }
    }

    fn wants_another(&self, node: &NodeCertificate, names: &BTreeSet<String>) -> bool {
        let leaf = &node.leaf;
        if leaf.not_after <= self.now {
            return true;
        }
        if !node.of_ca {
            return self.settled && !self.deaf;
        }
        let end = not_after(self.want, self.ca, leaf.not_before + BACKDATED);
        let longer = not_after(self.want, self.ca, self.now) > leaf.not_after;
        (leaf.is_due(self.now) && longer) || leaf.not_after != end || leaf.names != *names
    }
}

/// When a certificate ends that is issued now: nothing outlives its CA.
pub fn not_after(want: &ClusterTls, ca: &Certificate, now: Timestamp) -> Timestamp {
    (now + want.lifetime).min(ca.not_after)
}
