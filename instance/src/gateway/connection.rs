//! One client: heard, opened at the primary, passed on, and cut when the primary is another one.
//!
//! No server hears of a client before the client has said what it wants. Until a server has
//! answered, what the client has said is kept, and said to the next primary when this one is lost.
//! (A host that is gone, or whose processes stand still, takes connections and never speaks.)

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::Gateway;
use super::attempt::{Lost, Reached, tune};
use super::knowledge::GatewayKnowledge;
use super::rejection::{self, Rejection};
use super::relay::relay;
use super::route::{self, PrimaryServer, Route, WaitCause};
use super::startup::{LONGEST_HELLO, StartupRequest, request};
use crate::settings::Settings;

/// Before a server that did not take a connection is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// For everything that a client says before the gateway looks for a server: as Postgres'
/// `authentication_timeout`.
const SPEAK: Duration = Duration::from_mins(1);
/// For the first word inside the encryption that a server has just granted.
const ENCRYPT: Duration = Duration::from_secs(5);
/// Requests for encryption before the startup packet: TLS, GSS, and one of them again.
const MAX_REQUESTS: usize = 4;

/// One client.
pub struct GatewayClient {
    gateway: Arc<Gateway>,
    settings: Arc<Settings>,
    heard: Heard,
    /// When it must have spoken.
    speak_until: Instant,
    /// When it is told that there is no primary.
    held_until: Option<Instant>,
}

/// What a client has said, and no server has answered.
pub struct Heard {
    /// Its connection.
    pub stream: TcpStream,
    /// Where it came from.
    pub from: SocketAddr,
    /// What it wants.
    pub request: StartupRequest,
    /// Its words.
    pub bytes: Vec<u8>,
    /// Whether the gateway has granted it TLS.
    pub tls_granted: bool,
}

/// How far a client has come.
enum Opened {
    /// A server has answered.
    At(PrimaryServer, TcpStream, Vec<u8>, Option<OwnedSemaphorePermit>),
    /// The primary speaks TLS.
    Tls,
    /// Nobody took it.
    InVain(WaitCause),
    /// It is gone.
    Gone,
}

/// What comes first.
enum Begun {
    /// It has said what it wants of a server.
    Asked,
    /// That was decided already.
    Opened(Opened),
}

impl Heard {
    /// Takes what the client says while there is no server for it; false when it goes.
    pub async fn listen(&mut self) -> bool {
        if self.bytes.len() >= LONGEST_HELLO {
            return std::future::pending().await;
        }
        self.stream.read_buf(&mut self.bytes).await.is_ok_and(|n| n > 0)
    }

    /// Until it has said what it wants; false when it goes, or wants nothing that there is.
    async fn hear(&mut self) -> bool {
        loop {
            self.request = request(&self.bytes).0;
            match self.request {
                StartupRequest::Incomplete => {
                    if !self.listen().await {
                        return false;
                    }
                }
                StartupRequest::Invalid => return false,
                // Nothing in the clear after TLS was granted.
                request => return !self.tls_granted || request == StartupRequest::ClientHello,
            }
        }
    }

    /// Tells it which encryption it gets, and forgets that it has asked. False when it is gone, or
    /// has said more than it was asked for: what comes in the clear after a request for TLS may be
    /// somebody else's.
    async fn grant(&mut self, answer: &[u8]) -> bool {
        let asked = request(&self.bytes).1;
        self.tls_granted = answer == b"S";
        if self.tls_granted && self.bytes.len() > asked {
            return false;
        }
        self.bytes.drain(..asked);
        self.stream.write_all(answer).await.is_ok()
    }
}

impl GatewayClient {
    /// One that has just come.
    pub fn new(gateway: Arc<Gateway>, stream: TcpStream, from: SocketAddr) -> Self {
        let settings = Arc::clone(&gateway.view.borrow().settings);
        let heard = Heard {
            stream,
            from,
            request: StartupRequest::Incomplete,
            bytes: vec![],
            tls_granted: false,
        };
        Self { gateway, settings, heard, speak_until: Instant::now() + SPEAK, held_until: None }
    }

    /// Until it goes, or must.
    pub async fn run(mut self) {
        tune(&self.heard.stream);
        let mut place = self.gateway.lobby.enter();
        let begun = tokio::select! {
            begun = self.begin() => begun,
            () = place.lost() => {
                tracing::debug!(client = %self.heard.from, "dropped: it has not said what it wants, and others have come");
                return;
            }
        };
        drop(place);
        let opened = match begun {
            Begun::Opened(Opened::Gone) => return,
            Begun::Opened(opened) => Some(opened),
            Begun::Asked => None,
        };
        let Ok(_disk_space) = Arc::clone(&self.gateway.disk_space).try_acquire_owned() else {
            return self.turn_away().await;
        };
        let opened = match opened {
            Some(opened) => opened,
            None => self.open().await,
        };
        match opened {
            Opened::At(target, server, reply, permit) => {
                self.pass(&target, server, reply, permit).await;
            }
            Opened::InVain(why) => {
                let time = self.gateway.settings.hold;
                self.sent_away(Rejection::NoPrimary(why, time)).await;
            }
            Opened::Gone | Opened::Tls => {}
        }
    }

    /// There are too many.
    async fn turn_away(self) {
        let most = self.gateway.settings.most;
        if let Ok(_permit) = Arc::clone(&self.gateway.turned_away).try_acquire_owned() {
            self.sent_away(Rejection::TooMany(most)).await;
        }
    }

    async fn sent_away(self, rejection: Rejection) {
        self.gateway.figures.refuses();
        rejection::say(
            rejection,
            &self.settings,
            self.heard.stream,
            self.heard.bytes,
            self.heard.tls_granted,
        )
        .await;
    }

    /// Hears what the client wants. Requests for encryption are answered on the way: by the server,
    /// or as the server would.
    async fn begin(&mut self) -> Begun {
        for n in 0..MAX_REQUESTS {
            if !timeout_at(self.speak_until, self.heard.hear()).await.unwrap_or(false) {
                break;
            }
            if n == 0 {
                self.gateway.figures.came();
            }
            if !matches!(self.heard.request, StartupRequest::Ssl | StartupRequest::Gss) {
                return Begun::Asked;
            }
            let go_on = match self.open().await {
                Opened::Tls => self.heard.grant(b"S").await,
                Opened::At(_, _, reply, _) if reply == b"N" => self.heard.grant(b"N").await,
                opened => return Begun::Opened(opened),
            };
            if !go_on {
                break;
            }
        }
        Begun::Opened(Opened::Gone)
    }

    async fn open(&mut self) -> Opened {
        let (gateway, settings) = (Arc::clone(&self.gateway), Arc::clone(&self.settings));
        let mut known = gateway.knowledge.subscribe();
        let until = *self.held_until.get_or_insert_with(|| Instant::now() + gateway.settings.hold);
        let mut held = None;
        loop {
            let route = route::route(&facts(&known.borrow_and_update(), &settings));
            let why = match route {
                Route::Wait(why) => why,
                Route::To(target) => {
                    let lost = tokio::select! {
                        tried = self.heard.attempt(&gateway, &target) => match tried {
                            Ok(Reached::Server(server, reply, permit)) => return Opened::At(target, server, reply, permit),
                            Ok(Reached::Tls) => return Opened::Tls,
                            Err(Lost::Client) => return Opened::Gone,
                            Err(lost) => lost,
                        },
                        () = over(&mut known, &target, &settings) => continue,
                        () = sleep_until(until) => return Opened::InVain(WaitCause::Refused),
                    };
                    if lost == Lost::NotNow { WaitCause::NotNow } else { WaitCause::Refused }
                }
            };
            held.get_or_insert_with(|| gateway.figures.holds());
            let again = matches!(why, WaitCause::Refused | WaitCause::NotNow);
            tokio::select! {
                _ = known.changed() => {}
                () = sleep(RETRY_DELAY), if again => {}
                here = self.heard.listen() => if !here { return Opened::Gone },
                () = sleep_until(until) => return Opened::InVain(why),
            }
        }
    }

    async fn pass(
        self,
        target: &PrimaryServer,
        server: TcpStream,
        reply: Vec<u8>,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let Self { gateway, settings, heard: Heard { mut stream, from, bytes, .. }, .. } = self;
        let mut known = gateway.knowledge.subscribe();
        let _open = gateway.figures.passes();
        let passing = async {
            stream.write_all(&reply).await?;
            drop((reply, bytes));
            if let Some(permit) = permit {
                timeout(ENCRYPT, stream.readable())
                    .await
                    .map_err(|_| std::io::ErrorKind::TimedOut)??;
                drop(permit);
            }
            relay(stream, server).await
        };
        tokio::select! {
            passed = passing => if let Err(error) = passed {
                tracing::debug!(client = %from, %error, "its connection is lost");
            },
            () = over(&mut known, target, &settings) => {
                gateway.figures.cuts();
                tracing::debug!(client = %from, primary = %target.node, "cut off: the primary is another one");
            }
        }
    }
}

fn facts<'a>(known: &'a GatewayKnowledge, settings: &Settings) -> route::RouteFacts<'a> {
    known.facts(settings.node, settings.failover, settings.lease)
}

/// Returns when a client of that primary must leave.
async fn over(
    known: &mut watch::Receiver<GatewayKnowledge>,
    target: &PrimaryServer,
    settings: &Settings,
) {
    if known.wait_for(|known| route::is_over(target, &facts(known, settings))).await.is_err() {
        std::future::pending::<()>().await;
    }
}
