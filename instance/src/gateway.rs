//! The read-write gateway: a TCP port that leads to the primary, by what Raft says. No label, no Service and no API server has to follow.
//!
//! ```text
//!  listener ▸ connection   one client: opened at the primary, passed on, cut when the primary is another one
//!             ├─ aim        pure: where a client goes now, and when it must leave
//!             ├─ knowledge  who is the primary, as far as anybody has told
//!             │   ├─ follow   the own member, over its control socket: told at once
//!             │   └─ ask      the other members' gateways, while the own one is silent or somebody waits
//!             ├─ relay      passes the bytes on
//!             ├─ names      host names to addresses, the last good ones where nobody answers
//!             └─ farewell   the error of a client that has waited in vain
//!  drain      how long it goes on when the node stops
//! ```
//!
//! Bytes are passed on as they are, TLS and all: the session is between the client and the primary.

pub mod aim;
mod ask;
mod connection;
pub mod drain;
mod farewell;
pub mod figures;
mod follow;
pub mod knowledge;
mod names;
mod relay;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::settings::GatewaySettings;
use crate::view::View;
use connection::Client;
use figures::Figures;
use knowledge::Knowledge;
use names::Names;

/// Clients that are told that there are too many of them, at a time. Whoever comes beyond is dropped without a word.
const TURNED_AWAY: usize = 64;

/// What the gateway's parts share.
pub struct Gateway {
    settings: GatewaySettings,
    view: watch::Receiver<View>,
    names: Names,
    /// Who is the primary.
    pub knowledge: Knowledge,
    /// What it has done.
    pub figures: Figures,
}

impl Gateway {
    /// Nothing happens yet.
    pub fn new(settings: GatewaySettings, view: watch::Receiver<View>) -> Arc<Self> {
        let knowledge = Knowledge::new(view.borrow().settings.lease);
        Arc::new(Self { settings, view, names: Names::default(), knowledge, figures: Figures::default() })
    }

    /// Serves until the process ends.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        tokio::spawn(follow::follow(Arc::clone(&self)));
        tokio::spawn(ask::ask(Arc::clone(&self)));
        let (room, hall) = (Arc::new(Semaphore::new(self.settings.most)), Arc::new(Semaphore::new(TURNED_AWAY)));
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection to the gateway");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let client = Client::new(Arc::clone(&self), stream, from);
            if let Ok(permit) = Arc::clone(&room).try_acquire_owned() {
                tokio::spawn(async move {
                    client.run().await;
                    drop(permit);
                });
            } else if let Ok(permit) = Arc::clone(&hall).try_acquire_owned() {
                tokio::spawn(async move {
                    client.turn_away().await;
                    drop(permit);
                });
            }
        }
    }
}

/// Allows this process the files that so many clients need, as far as the system lets it; how many clients there is room for then.
pub fn make_room(most: usize) -> io::Result<usize> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    /// For everything else that this process has open.
    const OWN: u64 = 256;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = 2 * u64::try_from(most).unwrap_or(u64::MAX / 4) + OWN;
    let allowed = if soft < wanted { wanted.min(hard) } else { soft };
    if allowed > soft {
        setrlimit(Resource::RLIMIT_NOFILE, allowed, hard)?;
    }
    Ok(most.min(usize::try_from(allowed.saturating_sub(OWN) / 2).unwrap_or(usize::MAX)))
}
