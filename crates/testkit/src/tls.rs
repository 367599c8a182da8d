//! TLS clients of the test servers.

use crate::certificates::{Authority, IssuedCertificate};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres_rustls::MakeRustlsConnect;

/// A Postgres client that trusts a CA, and presents a certificate if it has one.
pub fn client(ca: &Authority, presents: Option<&IssuedCertificate>) -> MakeRustlsConnect {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der()).unwrap();
    let config = builder().with_root_certificates(roots);
    MakeRustlsConnect::new(match presents {
        None => config.with_no_client_auth(),
        Some(issued) => {
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
            config.with_client_auth_cert(vec![issued.der()], key).unwrap()
        }
    })
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
}

/// The configuration of a client that accepts every certificate.
pub fn accepts_every_certificate() -> ClientConfig {
    builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptsEveryCertificate))
        .with_no_client_auth()
}

/// The certificate that a Postgres server presents to new clients.
pub fn served(port: u16) -> Option<CertificateDer<'static>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    // SSLRequest, of the frontend/backend protocol.
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).ok()?;
    let mut answer = [0];
    stream.read_exact(&mut answer).ok()?;
    assert_eq!(answer, *b"S");
    let mut connection = ClientConnection::new(
        Arc::new(accepts_every_certificate()),
        ServerName::try_from("any").unwrap(),
    )
    .unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).ok()?;
    }
    connection.peer_certificates()?.first().map(|c| c.clone().into_owned())
}

#[derive(Debug)]
struct AcceptsEveryCertificate;

impl ServerCertVerifier for AcceptsEveryCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
