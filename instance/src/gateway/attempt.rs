//! Connects one client to one server: opens a connection, sends what the client has sent, and waits
//! for the server's reply. Until then the client can be sent to another server instead.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use super::Gateway;
use super::connection::PendingClient;
use super::route::PrimaryServer;
use super::startup::{SSL_REQUEST, StartupReply, StartupRequest};

/// For a connection to one address of the primary.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How much of a server's first reply is read at a time, in bytes.
const REPLY_BUFFER: usize = 16 * 1024;
/// TCP keepalive: idle time and interval in seconds, and the number of probes.
const KEEPALIVE: (u32, u32, u32) = (60, 10, 6);

/// A successful attempt.
pub enum Reached {
    /// The server's connection and its reply. The permit is held until encryption starts.
    Server(TcpStream, Vec<u8>, Option<OwnedSemaphorePermit>),
    /// The server supports TLS, so the gateway may grant it.
    Tls,
}

/// Why an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptFailure {
    /// The server cannot be reached, or closed the connection.
    Server,
    /// The server is starting up, in recovery, or shutting down.
    NotNow,
    /// The client has disconnected, or was promised TLS that the server does not support.
    Client,
}

/// The outcome of a server's reply; no bytes means that the server closed the connection. `None`:
/// the reply is incomplete.
fn outcome(request: StartupRequest, reply: &[u8]) -> Option<Result<(), AttemptFailure>> {
    match request {
        _ if reply.is_empty() => Some(if request == StartupRequest::Cancel {
            Ok(())
        } else {
            Err(AttemptFailure::Server)
        }),
        StartupRequest::Startup => match StartupReply::of(reply) {
            StartupReply::Incomplete => None,
            StartupReply::NotNow => Some(Err(AttemptFailure::NotNow)),
            StartupReply::Answer => Some(Ok(())),
        },
        _ => Some(Ok(())),
    }
}

impl PendingClient {
    /// Sends the client's bytes to that server and waits for its reply.
    pub async fn attempt(
        &mut self,
        gateway: &Gateway,
        target: &PrimaryServer,
    ) -> Result<Reached, AttemptFailure> {
        let (names, readiness) = (&gateway.names, &gateway.readiness);
        let asks = matches!(self.request, StartupRequest::Ssl | StartupRequest::Gss);
        // A client that has asked for encryption may never start it, and occupies a process of the
        // server meanwhile. So only few such clients are connected at a time.
        let permit = match self.request {
            StartupRequest::Ssl if readiness.has_tls(target) => return Ok(Reached::Tls),
            StartupRequest::Ssl => tokio::select! {
                permit = Arc::clone(&gateway.unencrypted).acquire_owned() => permit.ok(),
                () = readiness.until_tls(target) => return Ok(Reached::Tls),
            },
            StartupRequest::Gss => Arc::clone(&gateway.unencrypted).acquire_owned().await.ok(),
            _ => None,
        };
        if !readiness.may_accept(names, target).await {
            return Err(AttemptFailure::NotNow);
        }
        let mut server = self.connect(gateway, target).await.map_err(|_| AttemptFailure::Server)?;
        let connected = Instant::now();
        if self.request == StartupRequest::ClientHello {
            if !readiness.accepts_since(names, target, connected).await {
                return Err(AttemptFailure::NotNow);
            }
            self.request_tls(gateway, target, &mut server).await?;
        }
        let reply = self.exchange(&mut server).await.inspect_err(|failure| {
            if *failure == AttemptFailure::NotNow {
                readiness.refused(target);
            }
        })?;
        if asks && reply.first() != Some(&b'N') {
            if self.request == StartupRequest::Ssl && reply == b"S" {
                readiness.learn_tls(target, true);
            }
            if !readiness.accepts_since(names, target, connected).await {
                return Err(AttemptFailure::NotNow);
            }
        }
        Ok(Reached::Server(server, reply, permit))
    }

    /// If the gateway has granted TLS on the server's behalf, requests it from the server.
    async fn request_tls(
        &self,
        gateway: &Gateway,
        target: &PrimaryServer,
        server: &mut TcpStream,
    ) -> Result<(), AttemptFailure> {
        if !self.tls_granted {
            return Ok(());
        }
        server.write_all(&SSL_REQUEST).await.map_err(|_| AttemptFailure::Server)?;
        match server.read_u8().await {
            Ok(b'S') => Ok(()),
            Ok(_) => {
                tracing::warn!(primary = %target.node, "the primary no longer supports TLS: disconnecting a client that was promised it");
                gateway.readiness.learn_tls(target, false);
                Err(AttemptFailure::Client)
            }
            Err(_) => Err(AttemptFailure::Server),
        }
    }

    async fn exchange(&mut self, server: &mut TcpStream) -> Result<Vec<u8>, AttemptFailure> {
        server.write_all(&self.bytes).await.map_err(|_| AttemptFailure::Server)?;
        let (mut reply, mut sent) = (Vec::with_capacity(REPLY_BUFFER), self.bytes.len());
        loop {
            tokio::select! {
                read = server.read_buf(&mut reply) => {
                    let received = if read.is_ok_and(|n| n > 0) { &reply[..] } else { &[] };
                    if let Some(outcome) = outcome(self.request, received) {
                        return outcome.map(|()| reply);
                    }
                }
                here = self.read() => {
                    if !here {
                        return Err(AttemptFailure::Client);
                    }
                    server.write_all(&self.bytes[sent..]).await.map_err(|_| AttemptFailure::Server)?;
                    sent = self.bytes.len();
                }
            }
        }
    }

    async fn connect(&self, gateway: &Gateway, target: &PrimaryServer) -> io::Result<TcpStream> {
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for address in gateway.names.addresses(&target.host, target.port).await {
            match timeout(CONNECT_TIMEOUT, connect_from(self.from, address)).await {
                Ok(Ok(server)) => {
                    tune(&server);
                    return Ok(server);
                }
                Ok(Err(error)) => failure = error,
                Err(_) => failure = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(failure)
    }
}

/// Postgres requires no TLS on connections from its own host. A client of another host must not
/// seem to be local, so the gateway connects from 127.0.0.2 on its behalf.
async fn connect_from(client: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let own =
        |ip: IpAddr| ip == IpAddr::V4(Ipv4Addr::LOCALHOST) || ip == IpAddr::V6(Ipv6Addr::LOCALHOST);
    if to.ip().is_loopback() && !own(client.ip().to_canonical()) {
        if to.is_ipv6() {
            return Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "only clients of this host may connect to ::1",
            ));
        }
        socket.bind(SocketAddr::from(([127, 0, 0, 2], 0)))?;
    }
    socket.connect(to).await
}

/// Disables Nagle's algorithm and enables keepalives. Ignores errors.
pub fn tune(stream: &TcpStream) {
    let (idle, interval, count) = KEEPALIVE;
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
    let _ = setsockopt(stream, sockopt::TcpKeepIdle, &idle);
    let _ = setsockopt(stream, sockopt::TcpKeepInterval, &interval);
    let _ = setsockopt(stream, sockopt::TcpKeepCount, &count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_decides_whether_a_server_has_accepted_a_client() {
        let starting = b"E\0\0\0\x10C57P03\0Mno\0\0";
        for (request, reply, want) in [
            (StartupRequest::Startup, &b"R\0\0\0\x08\0\0\0\0"[..], Some(Ok(()))),
            (StartupRequest::Startup, starting, Some(Err(AttemptFailure::NotNow))),
            (StartupRequest::Startup, &starting[..9], None),
            (StartupRequest::Startup, b"", Some(Err(AttemptFailure::Server))),
            (StartupRequest::Ssl, b"S", Some(Ok(()))),
            (StartupRequest::Ssl, b"N", Some(Ok(()))),
            (StartupRequest::Ssl, b"", Some(Err(AttemptFailure::Server))),
            (StartupRequest::Gss, b"", Some(Err(AttemptFailure::Server))),
            // The reply inside TLS cannot be read.
            (StartupRequest::ClientHello, starting, Some(Ok(()))),
            (StartupRequest::ClientHello, b"", Some(Err(AttemptFailure::Server))),
            (StartupRequest::Cancel, b"", Some(Ok(()))),
        ] {
            assert_eq!(outcome(request, reply), want, "{request:?} {reply:?}");
        }
    }
}
