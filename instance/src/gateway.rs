//! The read-write gateway: a TCP port that leads to the primary, as Raft defines it. It needs no
//! label, no Service and no API server.
//!
//! ```text
//!  listener ▸ connection      one client: read its request, hold it, connect it, forward it, cut it off
//!             ├─ silent_clients  connections that have not sent a request, bounded
//!             ├─ slots           clients that are held or forwarded, bounded by maxConnections
//!             ├─ startup         pure: parses a client's first bytes and the server's reply
//!             ├─ route           pure: where a client goes now, and when it must leave
//!             ├─ attempt         connects one client to one server
//!             │   └─ readiness   whether that server accepts connections, and whether it supports TLS
//!             ├─ knowledge       the latest primary view that any member has reported
//!             │   ├─ follow      from this node's member, over its control socket, at once
//!             │   └─ ask         from the other members' gateways, while this member is silent or a client is held
//!             ├─ relay           forwards the bytes
//!             ├─ names           resolves host names, and keeps the last good addresses
//!             └─ rejection       the error for a client that is not let through
//!  drain      how long the gateway continues when the node stops
//! ```
//!
//! Bytes are forwarded unchanged, TLS included: the session is between the client and the primary.

mod ask;
mod attempt;
mod connection;
pub mod counters;
pub mod drain;
mod follow;
pub mod knowledge;
mod names;
mod readiness;
mod rejection;
mod relay;
pub mod route;
mod silent_clients;
mod slots;
pub mod startup;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::settings::GatewaySettings;
use crate::view::MemberView;
use connection::GatewayClient;
use counters::GatewayCounters;
use knowledge::Knowledge;
use names::AddressCache;
use readiness::Readiness;
use silent_clients::SilentClients;
use slots::{ClientSlot, ClientSlots};

/// How many connections may be silent at a time. Each takes a file and a little memory here, and
/// nothing of any server.
const MAX_SILENT: usize = 1000;
/// How many clients are sent an error at a time because there are too many. Others are closed
/// without one.
const MAX_TURNED_AWAY: usize = 64;
/// How many clients at a time may have asked the server itself for encryption without having
/// started it.
const MAX_UNENCRYPTED: usize = 16;

/// State that the parts of the gateway share.
pub struct Gateway {
    settings: GatewaySettings,
    view: watch::Receiver<MemberView>,
    names: AddressCache,
    readiness: Readiness,
    silent: Arc<SilentClients>,
    slots: Arc<ClientSlots>,
    turned_away: Arc<Semaphore>,
    unencrypted: Arc<Semaphore>,
    /// Which server is the primary.
    pub knowledge: Knowledge,
    /// Counters for `/metrics`.
    pub counters: GatewayCounters,
}

impl Gateway {
    /// A gateway that does not listen yet.
    pub fn new(settings: GatewaySettings, view: watch::Receiver<MemberView>) -> Arc<Self> {
        let knowledge = Knowledge::new(view.borrow().settings.lease);
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Arc::new(Self {
            turned_away: semaphore(MAX_TURNED_AWAY),
            unencrypted: semaphore(MAX_UNENCRYPTED),
            silent: SilentClients::new(MAX_SILENT),
            slots: Arc::default(),
            settings,
            view,
            names: AddressCache::default(),
            readiness: Readiness::default(),
            knowledge,
            counters: GatewayCounters::default(),
        })
    }

    /// Serves until the process ends.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        self.max_clients(); // raises the limit on open files
        tokio::spawn(follow::follow(Arc::clone(&self)));
        tokio::spawn(ask::ask(Arc::clone(&self)));
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection to the gateway");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            tokio::spawn(GatewayClient::new(Arc::clone(&self), stream, from).run());
        }
    }

    /// How many clients may be held or forwarded at a time, by the configuration in force.
    fn max_clients(&self) -> usize {
        let configured = self.view.borrow().settings.gateway.as_ref().map(|g| g.max_connections);
        self.slots.limit(configured.unwrap_or(self.settings.max_connections), MAX_SILENT)
    }

    fn take_slot(&self) -> Option<ClientSlot> {
        self.slots.take(self.max_clients())
    }
}
