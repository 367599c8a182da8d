//! The certificate that a member presents on a port.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use pgraft_testkit::tls::accepts_every_certificate;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::failure::E2eFailure;

/// Postgres' port.
pub const POSTGRES: u16 = 5432;
/// Raft's port.
pub const RAFT: u16 = 7001;

/// Starts TLS on a port of a pod, and returns the certificate that it presents.
///
/// # Errors
/// [`E2eFailure::Kube`] if the pod cannot be reached, [`E2eFailure::Io`] if the handshake fails.
pub async fn certificate(pods: &Api<Pod>, pod: &str, port: u16) -> Result<Vec<u8>, E2eFailure> {
    let mut forward = pods.portforward(pod, &[port]).await?;
    let mut stream = forward
        .take_stream(port)
        .ok_or_else(|| E2eFailure::Wrong(format!("{pod}: no stream to port {port}")))?;
    if port == POSTGRES {
        // SSLRequest, of the frontend/backend protocol.
        stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await?;
        if stream.read_u8().await? != b'S' {
            return Err(E2eFailure::Wrong(format!("{pod}: Postgres does not accept TLS")));
        }
    }
    let name = ServerName::try_from("any").map_err(|e| E2eFailure::Wrong(e.to_string()))?;
    let tls =
        TlsConnector::from(Arc::new(accepts_every_certificate())).connect(name, stream).await?;
    let presented =
        tls.get_ref().1.peer_certificates().and_then(|all| all.first()).map(|c| c.to_vec());
    presented.ok_or_else(|| E2eFailure::Wrong(format!("{pod}: no certificate on port {port}")))
}
