//! Leads one client to one server: connects, passes on what the client has said, and waits for the
//! server's answer. Until there is one nothing has happened that could not begin again elsewhere.

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
use super::connection::Heard;
use super::route::PrimaryServer;
use super::startup::{SSL_REQUEST, StartupReply, StartupRequest};

/// For a connection to one address of the primary.
const CONNECT: Duration = Duration::from_secs(2);
/// What is read of a server's first answer at a time, in bytes.
const ANSWER: usize = 16 * 1024;
/// A peer that is silent for so long is asked whether it is there, every so often, so many times.
const KEEPALIVE: (u32, u32, u32) = (60, 10, 6);

/// What came of it.
pub enum Reached {
    /// The server has answered.
    Server(TcpStream, Vec<u8>, Option<OwnedSemaphorePermit>),
    /// The server speaks TLS: the gateway may say so.
    Tls,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The server is gone, or silent.
    Server,
    /// It is starting up, in recovery, or shutting down.
    NotNow,
    /// The client is gone, or can't be helped.
    Client,
}

/// What becomes of a client whose server has said that, or (no bytes) has ended the connection.
/// None: the server has not finished.
fn answered(request: StartupRequest, reply: &[u8]) -> Option<Result<(), Lost>> {
    match request {
        _ if reply.is_empty() => {
            Some(if request == StartupRequest::Cancel { Ok(()) } else { Err(Lost::Server) })
        }
        StartupRequest::Startup => match StartupReply::of(reply) {
            StartupReply::Incomplete => None,
            StartupReply::NotNow => Some(Err(Lost::NotNow)),
            StartupReply::Answer => Some(Ok(())),
        },
        _ => Some(Ok(())),
    }
}

impl Heard {
    /// Says to that server what the client has said, until it answers.
    pub async fn attempt(
        &mut self,
        gateway: &Gateway,
        target: &PrimaryServer,
    ) -> Result<Reached, Lost> {
        let (names, readiness) = (&gateway.names, &gateway.readiness);
        let asks = matches!(self.request, StartupRequest::Ssl | StartupRequest::Gss);
        // A connection of the server's is taken for a client that has asked for encryption and may
        // never begin with it: for few at a time.
        let permit = match self.request {
            StartupRequest::Ssl if readiness.has_tls(target) => return Ok(Reached::Tls),
            StartupRequest::Ssl => tokio::select! {
                permit = Arc::clone(&gateway.unencrypted).acquire_owned() => permit.ok(),
                () = readiness.until_tls(target) => return Ok(Reached::Tls),
            },
            StartupRequest::Gss => Arc::clone(&gateway.unencrypted).acquire_owned().await.ok(),
            _ => None,
        };
        if !readiness.may_take(names, target).await {
            return Err(Lost::NotNow);
        }
        let mut server = self.connect(gateway, target).await.map_err(|_| Lost::Server)?;
        let connected = Instant::now();
        if self.request == StartupRequest::ClientHello {
            if !readiness.takes_since(names, target, connected).await {
                return Err(Lost::NotNow);
            }
            self.ask_for_tls(gateway, target, &mut server).await?;
        }
        let reply = self.say(&mut server).await.inspect_err(|lost| {
            if *lost == Lost::NotNow {
                readiness.refused(target);
            }
        })?;
        if asks && reply.first() != Some(&b'N') {
            if self.request == StartupRequest::Ssl && reply == b"S" {
                readiness.learn_tls(target, true);
            }
            if !readiness.takes_since(names, target, connected).await {
                return Err(Lost::NotNow);
            }
        }
        Ok(Reached::Server(server, reply, permit))
    }

    /// The gateway has granted TLS in the server's stead: the server must do so, too.
    async fn ask_for_tls(
        &self,
        gateway: &Gateway,
        target: &PrimaryServer,
        server: &mut TcpStream,
    ) -> Result<(), Lost> {
        if !self.tls_granted {
            return Ok(());
        }
        server.write_all(&SSL_REQUEST).await.map_err(|_| Lost::Server)?;
        match server.read_u8().await {
            Ok(b'S') => Ok(()),
            Ok(_) => {
                tracing::warn!(primary = %target.node, "the primary no longer speaks TLS: a client that was promised it is dropped");
                gateway.readiness.learn_tls(target, false);
                Err(Lost::Client)
            }
            Err(_) => Err(Lost::Server),
        }
    }

    async fn say(&mut self, server: &mut TcpStream) -> Result<Vec<u8>, Lost> {
        server.write_all(&self.bytes).await.map_err(|_| Lost::Server)?;
        let (mut reply, mut sent) = (Vec::with_capacity(ANSWER), self.bytes.len());
        loop {
            tokio::select! {
                read = server.read_buf(&mut reply) => {
                    let said = if read.is_ok_and(|n| n > 0) { &reply[..] } else { &[] };
                    if let Some(answered) = answered(self.request, said) {
                        return answered.map(|()| reply);
                    }
                }
                here = self.listen() => {
                    if !here {
                        return Err(Lost::Client);
                    }
                    server.write_all(&self.bytes[sent..]).await.map_err(|_| Lost::Server)?;
                    sent = self.bytes.len();
                }
            }
        }
    }

    async fn connect(&self, gateway: &Gateway, target: &PrimaryServer) -> io::Result<TcpStream> {
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for address in gateway.names.addresses(&target.host, target.port).await {
            match timeout(CONNECT, connect_from(self.from, address)).await {
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

/// Postgres asks for no TLS on connections from its own host: a client of another one must not look
/// like one.
async fn connect_from(client: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let own =
        |ip: IpAddr| ip == IpAddr::V4(Ipv4Addr::LOCALHOST) || ip == IpAddr::V6(Ipv6Addr::LOCALHOST);
    if to.ip().is_loopback() && !own(client.ip().to_canonical()) {
        if to.is_ipv6() {
            return Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "the way to ::1 is for clients of this host",
            ));
        }
        socket.bind(SocketAddr::from(([127, 0, 0, 2], 0)))?;
    }
    socket.connect(to).await
}

/// Small messages go at once, and a peer that is gone without a word is noticed in the end. What
/// can't be had is done without.
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
    fn which_clients_a_server_has_taken() {
        let starting = b"E\0\0\0\x10C57P03\0Mno\0\0";
        for (request, reply, want) in [
            (StartupRequest::Startup, &b"R\0\0\0\x08\0\0\0\0"[..], Some(Ok(()))),
            (StartupRequest::Startup, starting, Some(Err(Lost::NotNow))),
            (StartupRequest::Startup, &starting[..9], None),
            (StartupRequest::Startup, b"", Some(Err(Lost::Server))),
            (StartupRequest::Ssl, b"S", Some(Ok(()))),
            (StartupRequest::Ssl, b"N", Some(Ok(()))),
            (StartupRequest::Ssl, b"", Some(Err(Lost::Server))),
            (StartupRequest::Gss, b"", Some(Err(Lost::Server))),
            // What is inside cannot be read.
            (StartupRequest::ClientHello, starting, Some(Ok(()))),
            (StartupRequest::ClientHello, b"", Some(Err(Lost::Server))),
            (StartupRequest::Cancel, b"", Some(Ok(()))),
        ] {
            assert_eq!(answered(request, reply), want, "{request:?} {reply:?}");
        }
    }
}
