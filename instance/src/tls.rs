//! The node's certificate, its key and the cluster's CA, for this process's connections and for
//! detecting changes that Postgres must load. Postgres and the Raft member read the files themselves.

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::Path;
use std::sync::Arc;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::files::FileError;
use crate::settings::Settings;

/// Why the files cannot be used for TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not a valid PEM file.
    #[error("{file}: {source}")]
    Pem {
        /// The key in the configuration.
        file: &'static str,
        /// Why.
        source: pem::Error,
    },
    /// Certificate and key do not match, or rustls does not support them.
    #[error("could not use the certificate, its key or the CA: {0}")]
    Unusable(#[from] rustls::Error),
}

/// The content of the files.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresTlsFiles {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

impl PostgresTlsFiles {
    /// Reads the files; None without a `tls` section.
    pub fn read(settings: &Settings) -> Result<Option<Self>, TlsError> {
        let Some(tls) = &settings.config.tls else { return Ok(None) };
        let read = |file: &str| {
            let path = Path::new(file);
            std::fs::read(path).map_err(FileError::at("read", path))
        };
        Ok(Some(Self {
            cert: read(&tls.cert_file)?,
            key: read(&tls.key_file)?,
            ca: read(&tls.ca_file)?,
        }))
    }

    /// A client that presents the certificate. It accepts servers whose certificate was issued by the
    /// CA and matches the host name.
    pub fn connector(&self) -> Result<MakeRustlsConnect, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca, "tls.caFile")? {
            roots.add(certificate)?;
        }
        let config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots)
                .with_client_auth_cert(certificates(&self.cert, "tls.certFile")?, self.key()?)?;
        Ok(MakeRustlsConnect::new(config))
    }

    /// A server that presents the certificate and does not request client certificates.
    pub fn server(&self) -> Result<ServerConfig, TlsError> {
        let builder =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
        Ok(builder.with_single_cert(certificates(&self.cert, "tls.certFile")?, self.key()?)?)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|source| TlsError::Pem { file: "tls.keyFile", source })
    }
}

fn certificates(pem: &[u8], file: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem { file, source })
}
