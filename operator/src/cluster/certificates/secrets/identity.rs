//! What the operator shows to a member: a certificate, or a password where TLS is disabled.

use jiff::Timestamp;
use pgraft_core::NodeId;
use pgraft_core::instance_config::certificate_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::sync::Arc;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::cluster::certificates::Certificate;
use crate::cluster::render::Pair;

/// What a session begins with.
#[derive(Clone)]
pub enum LoginIdentity {
    /// Without TLS.
    Password(String),
    /// With it.
    Certificate(Arc<ClientIdentity>),
}

/// The operator's certificate, and whom it believes.
pub struct ClientIdentity {
    pub(super) shown: Pair,
    /// Who signed it.
    pub(super) ca: Certificate,
    pub(super) ends: Timestamp,
    pub(super) trusted: Vec<Certificate>,
}

impl fmt::Debug for LoginIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password",
            Self::Certificate(_) => "Certificate",
        })
    }
}

impl ClientIdentity {
    /// The name that a member's certificate must have, and everything that is needed to look for
    /// it.
    ///
    /// # Errors
    /// What rustls says.
    pub fn connector(&self, node: NodeId) -> Result<(String, MakeRustlsConnect), rustls::Error> {
        let mut roots = RootCertStore::empty();
        for certificate in &self.trusted {
            roots.add(CertificateDer::from(certificate.der.clone()))?;
        }
        let unreadable = |e: rustls::pki_types::pem::Error| rustls::Error::General(e.to_string());
        let certificate = CertificateDer::from_pem_slice(self.shown.certificate.as_bytes())
            .map_err(unreadable)?;
        let key = PrivateKeyDer::from_pem_slice(self.shown.key.as_bytes()).map_err(unreadable)?;
        let config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots)
                .with_client_auth_cert(vec![certificate], key)?;
        Ok((certificate_name(node), MakeRustlsConnect::new(config)))
    }
}
