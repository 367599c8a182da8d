//! How the operator shows who it is to a member: by a certificate, or by a password where TLS is disabled.

use jiff::Timestamp;
use kube::ResourceExt;
use pgraft_core::NodeId;
use pgraft_core::instance_config::certificate_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::sync::Arc;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::make::{OPERATOR_LIFETIME, Signer};
use super::read;
use crate::api::PgRaftCluster;
use crate::controller::{Context, Error};
use crate::core::certificates::{Certificate, TlsSeen, is_settled};
use crate::core::names::SecretKind;
use crate::core::render::Pair;

/// What a session begins with.
#[derive(Clone)]
pub enum Login {
    /// Without TLS.
    Password(String),
    /// With it.
    Certificate(Arc<Identity>),
}

/// The operator's certificate, and whom it believes.
pub struct Identity {
    shown: Pair,
    /// Who signed it.
    ca: Certificate,
    ends: Timestamp,
    trusted: Vec<Certificate>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password",
            Self::Certificate(_) => "Certificate",
        })
    }
}

impl Identity {
    /// The name that a member's certificate must have, and everything that is needed to look for it.
    ///
    /// # Errors
    /// What rustls says.
    pub fn connector(&self, node: NodeId) -> Result<(String, MakeRustlsConnect), rustls::Error> {
        let mut roots = RootCertStore::empty();
        for certificate in &self.trusted {
            roots.add(CertificateDer::from(certificate.der.clone()))?;
        }
        let unreadable = |e: rustls::pki_types::pem::Error| rustls::Error::General(e.to_string());
        let certificate = CertificateDer::from_pem_slice(self.shown.certificate.as_bytes()).map_err(unreadable)?;
        let key = PrivateKeyDer::from_pem_slice(self.shown.key.as_bytes()).map_err(unreadable)?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)?;
        Ok((certificate_name(node), MakeRustlsConnect::new(config)))
    }
}

/// The login of this pass, from the last one's where that still serves. None while there is no CA to sign a first one, or no password.
///
/// # Errors
/// What the API server says, or a CA that can't sign.
pub async fn login(
    ctx: &Context,
    cr: &PgRaftCluster,
    tls: &TlsSeen,
    before: Option<Login>,
    now: Timestamp,
) -> Result<Option<Login>, Error> {
    let trusted = tls.all_trusted();
    let before = match before {
        Some(Login::Certificate(identity)) => Some(identity),
        Some(Login::Password(_)) | None => None,
    };
    if let Some(identity) = before.filter(|identity| serves(identity, tls, now)) {
        if identity.trusted == trusted {
            return Ok(Some(Login::Certificate(identity)));
        }
        let Identity { shown, ca, ends, trusted: _ } = &*identity;
        return Ok(Some(Login::Certificate(Arc::new(Identity { shown: shown.clone(), ca: ca.clone(), ends: *ends, trusted }))));
    }
    if tls.ca.is_err() {
        return Ok(None);
    }
    let name = cr.spec.tls.ca_secret.clone().unwrap_or_else(|| SecretKind::Ca.name(&cr.name_any()));
    let secret = read(ctx, &cr.namespace().unwrap_or_default(), &name).await?;
    let signer = Signer::read(&name, secret.as_ref())?;
    let shown = signer.operator(now)?;
    let identity = Identity { shown, ca: signer.certificate, ends: now + OPERATOR_LIFETIME, trusted };
    Ok(Some(Login::Certificate(Arc::new(identity))))
}

/// A certificate of an earlier CA is shown until the members know the present one.
fn serves(identity: &Identity, tls: &TlsSeen, now: Timestamp) -> bool {
    if identity.ends <= now {
        return false;
    }
    match &tls.ca {
        Err(_) => true,
        Ok(ca) if *ca == identity.ca => identity.ends.duration_since(now) > OPERATOR_LIFETIME / 2,
        Ok(ca) => !is_settled(ca, tls, now),
    }
}
