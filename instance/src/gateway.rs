//! The read-write gateway: a TCP port that leads to the primary, by what Raft says. No label, no
//! Service and no API server has to follow.
//!
//! ```text
//!  listener ▸ connection   one client: heard, opened at the primary, passed on, cut when the primary is another one
//!             ├─ lobby      clients that have not said yet what they want
//!             ├─ startup    pure: what a client asks for first, and whether the server has taken it
//!             ├─ aim        pure: where a client goes now, and when it must leave
//!             ├─ attempt    leads one client to one server
//!             │   └─ readiness  whether that server takes connections, and whether it speaks TLS
//!             ├─ knowledge  who is the primary, as far as anybody has told
//!             │   ├─ follow   the own member, over its control socket: told at once
//!             │   └─ ask      the other members' gateways, while the own one is silent or somebody waits
//!             ├─ relay      passes the bytes on
//!             ├─ names      host names to addresses, the last good ones where nobody answers
//!             └─ rejection   the error of a client that has waited in vain
//!  drain      how long it goes on when the node stops
//! ```
//!
//! Bytes are passed on as they are, TLS and all: the session is between the client and the primary.

mod ask;
mod attempt;
mod connection;
pub mod drain;
pub mod figures;
mod follow;
pub mod knowledge;
mod lobby;
mod names;
mod readiness;
mod rejection;
mod relay;
pub mod route;
pub mod startup;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::settings::GatewaySettings;
use crate::view::MemberView;
use connection::GatewayClient;
use figures::Figures;
use knowledge::Knowledge;
use lobby::Lobby;
use names::AddressCache;
use readiness::Readiness;

/// Clients that have not said yet what they want, at a time. They take a file and a little memory
/// each, and nothing of any server.
const SILENT: usize = 1000;
/// Clients that are told that there are too many of them, at a time. More are dropped without an
/// error message.
const TURNED_AWAY: usize = 64;
/// Clients that asked the server for encryption and have not begun with it, at a time.
const UNENCRYPTED: usize = 16;

/// What the gateway's parts share.
pub struct Gateway {
    settings: GatewaySettings,
    view: watch::Receiver<MemberView>,
    names: AddressCache,
    readiness: Readiness,
    lobby: Arc<Lobby>,
    /// Room for clients that have said what they want.
    disk_space: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
    unencrypted: Arc<Semaphore>,
    /// Who is the primary.
    pub knowledge: Knowledge,
    /// What it has done.
    pub figures: Figures,
}

impl Gateway {
    /// Nothing happens yet.
    pub fn new(settings: GatewaySettings, view: watch::Receiver<MemberView>) -> Arc<Self> {
        let knowledge = Knowledge::new(view.borrow().settings.lease);
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Arc::new(Self {
            disk_space: semaphore(settings.most),
            turned_away: semaphore(TURNED_AWAY),
            unencrypted: semaphore(UNENCRYPTED),
            lobby: Lobby::new(SILENT),
            settings,
            view,
            names: AddressCache::default(),
            readiness: Readiness::default(),
            knowledge,
            figures: Figures::default(),
        })
    }

    /// Serves until the process ends.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
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
}

/// Allows this process the files that so many clients need, as far as the system lets it; how many
/// clients there is room for then.
pub fn make_disk_space(most: usize) -> io::Result<usize> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    /// For everything else that this process has open.
    const OWN: u64 = 256 + SILENT as u64;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = 2 * u64::try_from(most).unwrap_or(u64::MAX / 4) + OWN;
    let allowed = if soft < wanted { wanted.min(hard) } else { soft };
    if allowed > soft {
        setrlimit(Resource::RLIMIT_NOFILE, allowed, hard)?;
    }
    Ok(most.min(usize::try_from(allowed.saturating_sub(OWN) / 2).unwrap_or(usize::MAX)))
}
