//! One client: opened at the primary, passed on, and cut when the primary is another one.
//!
//! Until the server has said its first byte nothing has happened that could not be begun again elsewhere: what the client has said so far is kept,
//! and said to the next primary when this one is lost. (A host that is gone, or whose processes stand still, takes connections and never speaks.)

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Gateway;
use super::aim::{self, Aim, Target, Why};
use super::farewell::{self, Beginning, Farewell};
use super::knowledge::Known;
use super::relay::relay;
use crate::settings::Settings;

/// For a connection to one address of the primary.
const CONNECT: Duration = Duration::from_secs(2);
/// Before a server that did not take a connection is tried again.
const AGAIN: Duration = Duration::from_millis(50);
/// What is kept of a client's first words, in bytes. Postgres reads no longer startup packet, and a client waits for its answer.
const FIRST: usize = 16 * 1024;
/// A peer that is silent for so long is asked whether it is there, every so often, so many times.
const KEEPALIVE: (u32, u32, u32) = (60, 10, 6);

/// One client.
pub struct Client {
    gateway: Arc<Gateway>,
    settings: Arc<Settings>,
    stream: TcpStream,
    from: SocketAddr,
    /// What it said before a server answered.
    first: Vec<u8>,
}

/// How far a client has come.
enum Opened {
    /// A server has answered.
    At(Target, TcpStream, Vec<u8>),
    /// Nobody took it.
    InVain(Why),
    /// It went.
    Gone,
}

/// Why a server did not answer.
enum Lost {
    /// The server's end.
    Server,
    /// The client's.
    Client,
}

impl Client {
    /// One that has just come.
    pub fn new(gateway: Arc<Gateway>, stream: TcpStream, from: SocketAddr) -> Self {
        let settings = Arc::clone(&gateway.view.borrow().settings);
        Self { gateway, settings, stream, from, first: vec![] }
    }

    /// Until it goes, or must.
    pub async fn run(mut self) {
        self.gateway.figures.came();
        tune(&self.stream);
        match self.open().await {
            Opened::At(target, server, reply) => self.pass(&target, server, reply).await,
            Opened::InVain(why) => {
                let time = self.gateway.settings.hold;
                self.sent_away(Farewell::NoPrimary(why, time)).await;
            }
            Opened::Gone => {}
        }
    }

    /// There are too many.
    pub async fn turn_away(self) {
        self.gateway.figures.came();
        let most = self.gateway.settings.most;
        self.sent_away(Farewell::TooMany(most)).await;
    }

    async fn sent_away(self, farewell: Farewell) {
        self.gateway.figures.refuses();
        farewell::say(farewell, &self.settings, self.stream, self.first).await;
    }

    async fn open(&mut self) -> Opened {
        let (gateway, settings) = (Arc::clone(&self.gateway), Arc::clone(&self.settings));
        let mut known = gateway.knowledge.subscribe();
        let until = Instant::now() + gateway.settings.hold;
        let mut held = None;
        loop {
            let aim = aim::aim(&facts(&known.borrow_and_update(), &settings));
            let why = match aim {
                Aim::Wait(why) => why,
                Aim::To(target) => {
                    tokio::select! {
                        tried = self.attempt(&target) => match tried {
                            Ok((server, reply)) => return Opened::At(target, server, reply),
                            Err(Lost::Client) => return Opened::Gone,
                            Err(Lost::Server) => {}
                        },
                        () = over(&mut known, &target, &settings) => continue,
                        () = sleep_until(until) => return Opened::InVain(Why::Refused),
                    }
                    Why::Refused
                }
            };
            held.get_or_insert_with(|| gateway.figures.holds());
            tokio::select! {
                _ = known.changed() => {}
                () = sleep(AGAIN), if why == Why::Refused => {}
                here = self.listen() => if !here { return Opened::Gone },
                () = sleep_until(until) => return Opened::InVain(why),
            }
        }
    }

    /// Takes what the client says while nobody is there for it; false when it goes.
    async fn listen(&mut self) -> bool {
        if self.first.len() >= FIRST {
            return std::future::pending().await;
        }
        self.stream.read_buf(&mut self.first).await.is_ok_and(|n| n > 0)
    }

    /// Says to a server what the client has said, until it answers.
    async fn attempt(&mut self, target: &Target) -> Result<(TcpStream, Vec<u8>), Lost> {
        let mut server = self.connect(target).await.map_err(|_| Lost::Server)?;
        server.write_all(&self.first).await.map_err(|_| Lost::Server)?;
        let (mut reply, mut sent) = (Vec::with_capacity(FIRST), self.first.len());
        loop {
            tokio::select! {
                answered = server.read_buf(&mut reply) => {
                    let lost = !answered.is_ok_and(|n| n > 0) && Beginning::of(&self.first).wants_an_answer();
                    return if lost { Err(Lost::Server) } else { Ok((server, reply)) };
                }
                here = self.listen() => {
                    if !here {
                        return Err(Lost::Client);
                    }
                    server.write_all(&self.first[sent..]).await.map_err(|_| Lost::Server)?;
                    sent = self.first.len();
                }
            }
        }
    }

    async fn connect(&self, target: &Target) -> io::Result<TcpStream> {
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for address in self.gateway.names.addresses(&target.host, target.port).await {
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

    async fn pass(mut self, target: &Target, server: TcpStream, reply: Vec<u8>) {
        let mut known = self.gateway.knowledge.subscribe();
        let _open = self.gateway.figures.passes();
        let passing = async {
            self.stream.write_all(&reply).await?;
            drop((reply, self.first));
            relay(self.stream, server).await
        };
        tokio::select! {
            passed = passing => if let Err(error) = passed {
                tracing::debug!(client = %self.from, %error, "its connection is lost");
            },
            () = over(&mut known, target, &self.settings) => {
                self.gateway.figures.cuts();
                tracing::debug!(client = %self.from, primary = %target.node, "cut off: the primary is another one");
            }
        }
    }
}

fn facts<'a>(known: &'a Known, settings: &Settings) -> aim::Facts<'a> {
    known.facts(settings.node, settings.failover, settings.lease)
}

/// Returns when a client of that primary must leave.
async fn over(known: &mut watch::Receiver<Known>, target: &Target, settings: &Settings) {
    if known.wait_for(|known| aim::is_over(target, &facts(known, settings))).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Postgres asks for no TLS on connections from its own host: a client of another one must not look like one.
async fn connect_from(client: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let own = |ip: IpAddr| ip == IpAddr::V4(Ipv4Addr::LOCALHOST) || ip == IpAddr::V6(Ipv6Addr::LOCALHOST);
    if to.ip().is_loopback() && !own(client.ip().to_canonical()) {
        if to.is_ipv6() {
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "the way to ::1 is for clients of this host"));
        }
        socket.bind(SocketAddr::from(([127, 0, 0, 2], 0)))?;
    }
    socket.connect(to).await
}

/// Small messages go at once, and a peer that is gone without a word is noticed in the end. What can't be had is done without.
fn tune(stream: &TcpStream) {
    let (idle, interval, count) = KEEPALIVE;
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
    let _ = setsockopt(stream, sockopt::TcpKeepIdle, &idle);
    let _ = setsockopt(stream, sockopt::TcpKeepInterval, &interval);
    let _ = setsockopt(stream, sockopt::TcpKeepCount, &count);
}
