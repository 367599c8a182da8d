//! One client: reads its request, connects it to the primary, forwards it, and cuts it off when
//! another server becomes the primary.
//!
//! ```text
//!   silent ── a complete request ──▶ held ── a server has answered ──▶ forwarded
//!     ▲  (silent_clients)              │ (slots)
//!     └── encryption granted or denied ┘
//! ```
//!
//! The gateway does not connect to a server before the client has sent its request. Until a server
//! answers, the gateway keeps what the client has sent, and sends it to the next primary if this
//! one fails. (A host that is lost, or whose processes are stopped, may accept connections and
//! never answer.)

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::Gateway;
use super::attempt::{AttemptFailure, Reached, tune};
use super::knowledge::GatewayKnowledge;
use super::rejection::{self, Rejection};
use super::relay::relay;
use super::route::{self, PrimaryServer, Route, WaitCause};
use super::startup::{MAX_HELLO, StartupRequest, request};
use crate::settings::Settings;

/// Before the next attempt at a server that did not accept a connection.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// For all that a client sends before the gateway connects it, like Postgres'
/// `authentication_timeout`.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);
/// For a client's first byte inside the encryption that a server has just granted.
const ENCRYPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests for encryption before the startup packet: TLS, GSS, and one of them once more.
const MAX_REQUESTS: usize = 4;

/// One client.
pub struct GatewayClient {
    gateway: Arc<Gateway>,
    settings: Arc<Settings>,
    pending: PendingClient,
    /// When its request must be complete.
    request_deadline: Instant,
    /// When it is rejected for want of a primary.
    held_until: Option<Instant>,
}

/// A client that no server has answered, and what it has sent.
pub struct PendingClient {
    /// Its connection.
    pub stream: TcpStream,
    /// Its address.
    pub from: SocketAddr,
    /// What it asks for.
    pub request: StartupRequest,
    /// The bytes that it has sent since the last answer.
    pub bytes: Vec<u8>,
    /// Whether the gateway has granted it TLS.
    pub tls_granted: bool,
}

/// The outcome of looking for a server for a client.
enum Opened {
    /// A server has answered. The permit is held until encryption starts.
    At(PrimaryServer, TcpStream, Vec<u8>, Option<OwnedSemaphorePermit>),
    /// The primary supports TLS, and the client has asked for it.
    Tls,
    /// No server accepted the client in time.
    TimedOut(WaitCause),
    /// The client has disconnected.
    Gone,
}

impl PendingClient {
    /// Reads what the client sends while there is no server for it. False if it disconnects.
    pub async fn read(&mut self) -> bool {
        if self.bytes.len() >= MAX_HELLO {
            return std::future::pending().await;
        }
        self.stream.read_buf(&mut self.bytes).await.is_ok_and(|n| n > 0)
    }

    /// Reads a complete request. False if the client disconnects or sends something else.
    async fn read_request(&mut self) -> bool {
        loop {
            self.request = request(&self.bytes).0;
            match self.request {
                StartupRequest::Incomplete => {
                    if !self.read().await {
                        return false;
                    }
                }
                StartupRequest::Invalid => return false,
                // After TLS was granted nothing may come in the clear.
                request => return !self.tls_granted || request == StartupRequest::ClientHello,
            }
        }
    }

    /// Answers a request for encryption with `S` or `N`, and removes the request. False if the
    /// client has disconnected, or has already sent more: what comes in the clear after a request
    /// for TLS may have been injected by a third party.
    async fn answer_encryption(&mut self, answer: &[u8]) -> bool {
        let length = request(&self.bytes).1;
        self.tls_granted = answer == b"S";
        if self.tls_granted && self.bytes.len() > length {
            return false;
        }
        self.bytes.drain(..length);
        self.stream.write_all(answer).await.is_ok()
    }
}

impl GatewayClient {
    /// A client that has just connected.
    pub fn new(gateway: Arc<Gateway>, stream: TcpStream, from: SocketAddr) -> Self {
        let settings = Arc::clone(&gateway.view.borrow().settings);
        let pending = PendingClient {
            stream,
            from,
            request: StartupRequest::Incomplete,
            bytes: vec![],
            tls_granted: false,
        };
        let request_deadline = Instant::now() + REQUEST_TIMEOUT;
        Self { gateway, settings, pending, request_deadline, held_until: None }
    }

    /// Runs until the client leaves or must leave.
    pub async fn run(mut self) {
        tune(&self.pending.stream);
        for n in 0..MAX_REQUESTS {
            if !self.next_request().await {
                return;
            }
            if n == 0 {
                self.gateway.counters.count_client();
            }
            // From its first request on, the client waits for the gateway and not the other way
            // round: it counts as a client, however long it is held.
            let Some(slot) = self.gateway.take_slot() else { return self.turn_away().await };
            let answered = match self.open().await {
                Opened::Tls => self.pending.answer_encryption(b"S").await,
                Opened::At(_, _, reply, _) if self.asks_for_encryption() && reply == b"N" => {
                    self.pending.answer_encryption(b"N").await
                }
                Opened::At(target, server, reply, permit) => {
                    return self.forward(&target, server, reply, permit).await;
                }
                Opened::TimedOut(cause) => {
                    let time = self.gateway.settings.hold;
                    return self.reject(Rejection::NoPrimary(cause, time)).await;
                }
                Opened::Gone => false,
            };
            drop(slot);
            if !answered {
                return;
            }
        }
    }

    /// Reads the next request, as one of the silent connections. False if there is none.
    async fn next_request(&mut self) -> bool {
        let mut silent = self.gateway.silent.enter();
        let request = timeout_at(self.request_deadline, self.pending.read_request());
        let complete = tokio::select! {
            complete = request => Some(complete.unwrap_or(false)),
            () = silent.evicted() => None,
        };
        if complete.is_none() {
            tracing::debug!(client = %self.pending.from, "closed a silent connection: there are too many");
        }
        complete.unwrap_or(false)
    }

    const fn asks_for_encryption(&self) -> bool {
        matches!(self.pending.request, StartupRequest::Ssl | StartupRequest::Gss)
    }

    /// Rejects the client because there are too many.
    async fn turn_away(self) {
        let limit = self.gateway.max_clients();
        if let Ok(_permit) = Arc::clone(&self.gateway.turned_away).try_acquire_owned() {
            self.reject(Rejection::TooManyClients(limit)).await;
        }
    }

    async fn reject(self, rejection: Rejection) {
        self.gateway.counters.count_refused();
        let PendingClient { stream, bytes, tls_granted, .. } = self.pending;
        rejection::send(rejection, &self.settings, stream, bytes, tls_granted).await;
    }

    /// Finds a server that answers the client's request, and holds the client meanwhile.
    async fn open(&mut self) -> Opened {
        let (gateway, settings) = (Arc::clone(&self.gateway), Arc::clone(&self.settings));
        let mut known = gateway.knowledge.subscribe();
        let until = *self.held_until.get_or_insert_with(|| Instant::now() + gateway.settings.hold);
        let mut held = None;
        loop {
            let route = route::route(&facts(&known.borrow_and_update(), &settings));
            let cause = match route {
                Route::Wait(cause) => cause,
                Route::To(target) => {
                    let failure = tokio::select! {
                        attempt = self.pending.attempt(&gateway, &target) => match attempt {
                            Ok(Reached::Server(server, reply, permit)) => return Opened::At(target, server, reply, permit),
                            Ok(Reached::Tls) => return Opened::Tls,
                            Err(AttemptFailure::Client) => return Opened::Gone,
                            Err(failure) => failure,
                        },
                        () = over(&mut known, &target, &settings) => continue,
                        () = sleep_until(until) => return Opened::TimedOut(WaitCause::Refused),
                    };
                    if failure == AttemptFailure::NotNow {
                        WaitCause::NotNow
                    } else {
                        WaitCause::Refused
                    }
                }
            };
            held.get_or_insert_with(|| gateway.counters.count_held());
            let again = matches!(cause, WaitCause::Refused | WaitCause::NotNow);
            tokio::select! {
                _ = known.changed() => {}
                () = sleep(RETRY_DELAY), if again => {}
                here = self.pending.read() => if !here { return Opened::Gone },
                () = sleep_until(until) => return Opened::TimedOut(cause),
            }
        }
    }

    async fn forward(
        self,
        target: &PrimaryServer,
        server: TcpStream,
        reply: Vec<u8>,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let Self { gateway, settings, pending, .. } = self;
        let PendingClient { mut stream, from, bytes, .. } = pending;
        let mut known = gateway.knowledge.subscribe();
        let _open = gateway.counters.count_open();
        let forwarding = async {
            stream.write_all(&reply).await?;
            drop((reply, bytes));
            if let Some(permit) = permit {
                timeout(ENCRYPT_TIMEOUT, stream.readable())
                    .await
                    .map_err(|_| std::io::ErrorKind::TimedOut)??;
                drop(permit);
            }
            relay(stream, server).await
        };
        tokio::select! {
            ended = forwarding => if let Err(error) = ended {
                tracing::debug!(client = %from, %error, "lost the connection of a client");
            },
            () = over(&mut known, target, &settings) => {
                gateway.counters.count_cut();
                tracing::debug!(client = %from, primary = %target.node, "disconnected a client: its server is no longer the primary");
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

#[cfg(test)]
mod tests;
