//! Makes keys and certificates: the one place where there is randomness in them. Decides nothing.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use pgraft_core::NodeId;
use pgraft_core::instance_config::{OPERATOR_ROLE, certificate_name};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    PublicKeyData, SigningKey, date_time_ymd,
};
use rustls::SignatureScheme;
use rustls::pki_types::CertificateDer;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::certificates::{
    BACKDATED, CA_LIFETIME, CaTrouble, Certificate, authority, key_of,
};
use crate::cluster::render::Pair;

/// Of the operator's own certificate, which is made in memory and never leaves it.
pub const OPERATOR_LIFETIME: SignedDuration = SignedDuration::from_hours(24);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The CA.
    #[error(transparent)]
    Ca(#[from] CaTrouble),
    /// The CA's key has a kind that can't sign.
    #[error("the CA's key can't sign")]
    Key,
    /// Making it.
    #[error("could not make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// A CA that can sign.
pub struct Signer {
    /// Its certificate.
    pub certificate: Certificate,
    issuer: Issuer<'static, CaKey>,
}

impl Signer {
    /// The CA of a Secret.
    ///
    /// # Errors
    /// [`MakeError`].
    pub fn read(name: &str, secret: Option<&Secret>) -> Result<Self, MakeError> {
        let certificate = authority(name, secret)?;
        let pem = secret
            .and_then(|s| s.data.as_ref())
            .and_then(|data| data.get("tls.key"))
            .map(|key| key.0.clone())
            .unwrap_or_default();
        let key = key_of(&pem).map_err(|why| CaTrouble::Broken { secret: name.to_owned(), why })?;
        let key = CaKey::new(key).ok_or(MakeError::Key)?;
        let issuer =
            Issuer::from_ca_cert_der(&CertificateDer::from(certificate.der.as_slice()), key)?;
        Ok(Self { certificate, issuer })
    }

    /// A member's certificate, for the server that it is and the client that it is to others.
    ///
    /// # Errors
    /// [`MakeError`].
    pub fn member(
        &self,
        node: NodeId,
        names: &BTreeSet<String>,
        now: Timestamp,
        end: Timestamp,
    ) -> Result<Pair, MakeError> {
        let mut params = CertificateParams::new(names.iter().cloned().collect::<Vec<_>>())?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, &certificate_name(node), now, end)
    }

    /// The operator's own certificate: the role's name is all that is in it.
    ///
    /// # Errors
    /// [`MakeError`].
    pub fn operator(&self, now: Timestamp) -> Result<Pair, MakeError> {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, OPERATOR_ROLE, now, now + OPERATOR_LIFETIME)
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        name: &str,
        now: Timestamp,
        end: Timestamp,
    ) -> Result<Pair, MakeError> {
        describe(&mut params, name, now - BACKDATED, end);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = fresh_key()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// A new CA.
///
/// # Errors
/// [`MakeError`].
pub fn authority_of(cluster: &str, now: Timestamp) -> Result<Pair, MakeError> {
    let mut params = CertificateParams::default();
    // A name of its own, so that nobody takes an old CA of this cluster for a new one.
    describe(
        &mut params,
        &format!("pgraft {cluster} {}", now.as_second()),
        now - BACKDATED,
        now + CA_LIFETIME,
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = fresh_key()?;
    let certificate = params.self_signed(&key)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn fresh_key() -> Result<KeyPair, MakeError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

fn describe(params: &mut CertificateParams, name: &str, begin: Timestamp, end: Timestamp) {
    let time = |at: Timestamp| {
        date_time_ymd(1970, 1, 1) + Duration::from_secs(at.as_second().unsigned_abs())
    };
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (time(begin), time(end));
}

/// The CA's key as rustls has read it, which takes more kinds of file than rcgen does.
struct CaKey {
    key: Arc<dyn rustls::sign::SigningKey>,
    scheme: SignatureScheme,
    algorithm: &'static rcgen::SignatureAlgorithm,
    /// The key identifier of a CA that has none of its own is made from this.
    public: Vec<u8>,
}

impl CaKey {
    fn new(key: Arc<dyn rustls::sign::SigningKey>) -> Option<Self> {
        let known = [
            (SignatureScheme::ECDSA_NISTP256_SHA256, &PKCS_ECDSA_P256_SHA256),
            (SignatureScheme::ECDSA_NISTP384_SHA384, &PKCS_ECDSA_P384_SHA384),
            (SignatureScheme::ED25519, &PKCS_ED25519),
            (SignatureScheme::RSA_PKCS1_SHA256, &PKCS_RSA_SHA256),
        ];
        let (scheme, algorithm) =
            known.into_iter().find(|(scheme, _)| key.choose_scheme(&[*scheme]).is_some())?;
        let public = key.public_key()?.to_vec();
        Some(Self { key, scheme, algorithm, public })
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.algorithm
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signer = self.key.choose_scheme(&[self.scheme]).ok_or(rcgen::Error::RemoteKeyError)?;
        signer.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}
