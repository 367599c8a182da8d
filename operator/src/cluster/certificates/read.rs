//! Reads the Secrets: from PEM to facts. Pure; a private key is looked at, and not kept.

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::SigningKey;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

use super::seen::{CaTrouble, Certificate, NodeCertificate};
use pgraft_api::names::ANNOTATION_TRUSTED_SINCE;

type SecretData = BTreeMap<String, ByteString>;

/// The CA in a Secret of this name, which may not be there.
///
/// # Errors
/// [`CaTrouble`], in words for the user.
pub fn authority(name: &str, secret: Option<&Secret>) -> Result<Certificate, CaTrouble> {
    let secret = secret.ok_or_else(|| CaTrouble::Missing(name.to_owned()))?;
    let data = secret.data.clone().unwrap_or_default();
    let field = |key: &'static str| {
        data.get(key).ok_or_else(|| CaTrouble::Incomplete { secret: name.to_owned(), key })
    };
    let broken = |why: &str| CaTrouble::Broken { secret: name.to_owned(), why: why.to_owned() };
    let all =
        certificates(&field("tls.crt")?.0).map_err(|why| broken(&format!("tls.crt {why}")))?;
    let ca = all.into_iter().next().ok_or_else(|| broken("tls.crt holds no certificate"))?;
    let key = key_of(&field("tls.key")?.0).map_err(|why| broken(&why))?;
    let (_, parsed) = X509Certificate::from_der(&ca.der).map_err(|e| broken(&e.to_string()))?;
    if !parsed.is_ca() {
        return Err(CaTrouble::NoCa(name.to_owned()));
    }
    if key.public_key().is_none_or(|public| public.as_ref() != parsed.public_key().raw) {
        return Err(broken("tls.key is not the key of tls.crt"));
    }
    Ok(ca)
}

/// A private key in PEM: PKCS#8, or as cert-manager writes them by default (PKCS#1 of RSA, SEC 1 of
/// ECDSA).
///
/// # Errors
/// What is wrong with it, in words.
pub fn key_of(pem: &[u8]) -> Result<Arc<dyn SigningKey>, String> {
    let der = PrivateKeyDer::from_pem_slice(pem).map_err(|e| format!("tls.key: {e}"))?;
    rustls::crypto::ring::sign::any_supported_type(&der).map_err(|e| format!("tls.key: {e}"))
}

/// A member's Secret; None where it is not what it should be.
pub fn node_certificate(secret: &Secret, ca: Option<&Certificate>) -> Option<NodeCertificate> {
    let data: &SecretData = secret.data.as_ref()?;
    let leaf = certificates(&data.get("tls.crt")?.0).ok()?.into_iter().next()?;
    let key = key_of(&data.get("tls.key")?.0).ok()?;
    let (_, parsed) = X509Certificate::from_der(&leaf.der).ok()?;
    if key.public_key()?.as_ref() != parsed.public_key().raw {
        return None;
    }
    let of_ca = ca.is_some_and(|ca| {
        let signed = |ca: &X509Certificate<'_>| {
            parsed.issuer().as_raw() == ca.subject().as_raw()
                && parsed.verify_signature(Some(ca.public_key())).is_ok()
        };
        X509Certificate::from_der(&ca.der).is_ok_and(|(_, ca)| signed(&ca))
    });
    let since = secret.metadata.annotations.as_ref().and_then(|a| a.get(ANNOTATION_TRUSTED_SINCE));
    Some(NodeCertificate {
        of_ca,
        trusted: trusted(data),
        trusted_since: since.and_then(|at| at.parse().ok()),
        leaf,
    })
}

/// `ca.crt`.
pub fn trusted(data: &SecretData) -> Vec<Certificate> {
    data.get("ca.crt").and_then(|pem| certificates(&pem.0).ok()).unwrap_or_default()
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate>, String> {
    let mut all = Vec::new();
    for block in Pem::iter_from_buffer(pem) {
        let block = block.map_err(|e| format!("can't be read: {e}"))?;
        if block.label == "CERTIFICATE" {
            all.push(certificate(&block.contents)?);
        }
    }
    Ok(all)
}

fn certificate(der: &[u8]) -> Result<Certificate, String> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|e| format!("can't be read: {e}"))?;
    let time = |seconds: i64| Timestamp::from_second(seconds).map_err(|e| e.to_string());
    let validity = parsed.validity();
    let alternative = parsed.subject_alternative_name().ok().flatten();
    let names: BTreeSet<String> =
        alternative.iter().flat_map(|all| &all.value.general_names).filter_map(name).collect();
    Ok(Certificate {
        der: der.to_vec(),
        not_before: time(validity.not_before.timestamp())?,
        not_after: time(validity.not_after.timestamp())?,
        names,
    })
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
        },
        _ => None,
    }
}
