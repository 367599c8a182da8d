//! What stands between a connection's bytes and its handshake: mutual TLS, or nothing.
//!
//! ```text
//!  dialler                                                     listener
//!    TLS 1.3, the server's name is node-<whom it means>  ─▶     its first byte says whether this is TLS at all
//!    checks chain and name                              ◀─▶     checks the chain of the client's certificate
//!    Hello { from, … }                                   ─▶     checks that the certificate is node-<from>'s, then handshake::admit
//! ```
//!
//! A certificate belongs to one node: its DNS name is `node-<id>.pgraft`. Sessions are never
//! resumed, so that every connection checks both certificates, and a connection lives for
//! [`MAX_AGE`] at most: that long an expired or replaced certificate goes on at the longest. Who
//! speaks plainly to a TLS port, or TLS to a plain one, is told so in plain words.

mod follow;
mod material;
mod trouble;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use pgraft_core::NodeId;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub use follow::follow;
pub use material::{MaterialError, Which};
pub use trouble::Trouble;

use super::handshake::{Rejected, Welcome};
use super::peek::Peeked;
use super::{BoxStream, MAX_FRAME, write_json};
use crate::settings::{Protection, RaftTlsFiles};
use material::Material;

/// How long a TLS connection lives.
pub const MAX_AGE: Duration = Duration::from_hours(1);

/// A TLS record that begins a handshake (RFC 8446, 5.1). Our own frames begin with the high byte of
/// a length that never needs it.
const TLS_HANDSHAKE: u8 = 22;
const OUR_FRAME: u8 = 0;

/// For the other side to read why it was refused, before the connection is reset under its answer.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: u64 = 64 << 10;

/// What protects a member's connections.
#[derive(Clone)]
pub enum Guard {
    /// Nothing.
    Plain,
    /// Mutual TLS.
    Tls(Arc<RaftTls>),
}

/// This node's certificate and the cluster's CA, as the files had them last.
pub struct RaftTls {
    me: NodeId,
    files: RaftTlsFiles,
    current: RwLock<Arc<Material>>,
}

/// What a dialler has shown of itself.
pub struct Shown(Option<CertificateDer<'static>>);

impl Guard {
    /// Reads the files, where there are any.
    pub fn open(me: NodeId, protection: &Protection) -> Result<Self, MaterialError> {
        match protection {
            Protection::Loopback | Protection::TrustedNetwork => Ok(Self::Plain),
            Protection::Tls(files) => {
                let current = RwLock::new(Arc::new(Material::load(files, me)?));
                Ok(Self::Tls(Arc::new(RaftTls { me, files: files.clone(), current })))
            }
        }
    }

    /// The dialling side, to reach `peer` and nobody else.
    pub async fn connect(&self, stream: BoxStream, peer: NodeId) -> Result<BoxStream, Trouble> {
        let Self::Tls(tls) = self else { return Ok(stream) };
        let client = Arc::clone(&tls.current().client);
        let stream = TlsConnector::from(client).connect(name_of(peer)?, stream).await?;
        Ok(Box::new(stream))
    }

    /// The listening side. What the dialler has shown still has to be held against what it says.
    pub async fn accept(&self, stream: BoxStream) -> Result<(BoxStream, Shown), Trouble> {
        let (stream, first) = Peeked::new(stream).await?;
        match (self, first) {
            (Self::Plain, TLS_HANDSHAKE) => Err(turn_away(
                stream,
                Trouble::SpeaksTls,
                "this node's Raft port does not speak TLS",
            )
            .await),
            (Self::Plain, _) => Ok((Box::new(stream), Shown(None))),
            (Self::Tls(_), OUR_FRAME) => {
                let why = "this node's Raft port takes TLS only: set pgraft.tls_cert_file, pgraft.tls_key_file and pgraft.tls_ca_file on every node";
                Err(turn_away(stream, Trouble::SpeaksPlainly, why).await)
            }
            (Self::Tls(tls), _) => {
                let server = Arc::clone(&tls.current().server);
                let stream = match TlsAcceptor::from(server).accept(stream).into_fallible().await {
                    Ok(stream) => stream,
                    Err((error, stream)) => {
                        linger(stream).await;
                        return Err(error.into());
                    }
                };
                let shown = stream
                    .get_ref()
                    .1
                    .peer_certificates()
                    .and_then(<[_]>::first)
                    .map(|c| c.clone().into_owned());
                Ok((Box::new(stream), Shown(shown)))
            }
        }
    }

    /// Whether the dialler has shown that it is the node that it calls itself.
    pub fn check(&self, shown: &Shown, from: NodeId) -> Result<(), Rejected> {
        let Self::Tls(_) = self else { return Ok(()) };
        let is_it = |certificate| -> Result<(), Trouble> {
            Ok(verify_server_name(&ParsedCertificate::try_from(certificate)?, &name_of(from)?)?)
        };
        match &shown.0 {
            Some(certificate) => is_it(certificate)
                .map_err(|no| Rejected::OtherCertificate { from, why: no.to_string() }),
            None => {
                Err(Rejected::OtherCertificate { from, why: Trouble::NoCertificate.to_string() })
            }
        }
    }

    /// After how long a connection is made anew.
    pub fn max_age(&self) -> Option<Duration> {
        match self {
            Self::Plain => None,
            Self::Tls(_) => Some(MAX_AGE),
        }
    }
}

impl RaftTls {
    fn current(&self) -> Arc<Material> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, material: Material) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(material);
    }

    fn paths(&self) -> [&PathBuf; 3] {
        let RaftTlsFiles { cert, key, ca } = &self.files;
        [cert, key, ca]
    }
}

/// The name in a node's certificate.
pub fn name_of(node: NodeId) -> Result<ServerName<'static>, rustls::Error> {
    ServerName::try_from(format!("node-{node}.pgraft"))
        .map_err(|e| rustls::Error::General(e.to_string()))
}

/// Says plainly why, to a peer that would take any other answer for noise.
async fn turn_away(mut stream: Peeked, trouble: Trouble, why: &str) -> Trouble {
    let refused = Welcome::Refused { why: why.to_owned() };
    if timeout(LINGER, write_json(&mut stream, &refused, MAX_FRAME))
        .await
        .is_ok_and(|sent| sent.is_ok())
    {
        linger(stream).await;
    }
    trouble
}

/// Reads what is under way already: closing over it would reset the connection, and the peer would
/// never see the answer.
async fn linger(mut stream: Peeked) {
    let read = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    if let Ok(Err(error)) = timeout(LINGER, read).await {
        tracing::trace!("a refused connection ended: {error}");
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => tls.clone().into(),
            None => Self::Network(error),
        }
    }
}

#[cfg(test)]
mod tests;
