//! What the instance manager sees to inside the server, for as long as it runs. Every step can be
//! repeated, and is after each start.
//!
//! ```text
//!  primary:  slots ▸ roles, passwords ▸ database ▸ extension ▸ grants ▸ pgraft_init() of the bootstrap node
//!  standby:  what it can't go on without (a rewind, a clone) ▸ its slot on the primary, where it does not stream ▸ slots
//! ```
//!
//! Where the members choose the primary the bootstrap node's cluster comes first: nothing is
//! written before it has a lease.
//!
//! Each look reads what is there and writes only what differs. All of it is in the database
//! `postgres`: a session in a database that somebody else owns would run with a superuser's rights
//! what that owner has left there.

mod grants;
mod lost_wal;
mod managed;
mod record;
pub mod roles;
mod schedule;
pub mod slots;
mod standby;
pub mod statements;

use pgraft_core::NodeState;
use pgraft_core::control::Request;
use pgraft_core::session::Session;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::control::{self, ControlError};
use crate::files::{self, FileError};
use crate::paths;
use crate::postgres::source::SourceError;
use crate::secrets::Secrets;
use crate::settings::Settings;
use crate::sql::{self, LocalSqlError};
use crate::supervisor::SupervisorEvent;
use crate::upstream::{self, UpstreamError};
use crate::view::MemberView;
use lost_wal::Patience;

/// Between two looks at a server where all is well: a slot that was in use may be free now, a
/// walreceiver may have lost its slot, a role of pgraft's may have been changed.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// For connecting, and for one round.
const CONNECT: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_mins(1);

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Why a round was not finished.
#[derive(Debug, thiserror::Error)]
pub enum ProvisioningError {
    /// The local server.
    #[error(transparent)]
    Sql(#[from] LocalSqlError),
    /// The worker.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// `instance.json`.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The primary.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Somebody else's code would run with a superuser's rights.
    #[error(
        "the schema pgraft in the database postgres, or its table applied, does not belong to a superuser: drop or rename it"
    )]
    ForeignSchema,
}

impl ProvisioningError {
    /// Whether this is what a server that is just starting, a worker that is, or a primary that is
    /// gone gives for a while.
    fn passes(&self) -> bool {
        match self {
            Self::Sql(error) => !error.is_refusal(),
            Self::Source(_) | Self::Control(ControlError::Io(_) | ControlError::Deadline) => true,
            Self::Control(_) | Self::File(_) | Self::Upstream(_) | Self::ForeignSchema => false,
        }
    }
}

impl From<tokio_postgres::Error> for ProvisioningError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Sql(error.into())
    }
}

/// What a round came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    Done,
    /// The bootstrap node's cluster does not know its primary yet.
    Unfinished,
    /// A primary that may not write now.
    Fenced,
}

/// What is kept from round to round of one run of the server.
#[derive(Default)]
struct ProvisioningMemory {
    digests: managed::Digests,
    patience: Patience,
    slots: slots::SlotActivity,
}

/// Runs until it is aborted, which is when the server is gone.
pub async fn run(
    mut view: watch::Receiver<MemberView>,
    events: mpsc::UnboundedSender<SupervisorEvent>,
) {
    let mut memory = ProvisioningMemory::default();
    let mut failures = 0_u32;
    loop {
        let settings = std::sync::Arc::clone(&view.borrow_and_update().settings);
        let round = timeout(INTERVAL, round(&settings, &mut memory, &events))
            .await
            .unwrap_or(Err(LocalSqlError::Deadline.into()));
        let next = match round {
            Ok(Round::Done) => {
                failures = 0;
                POLL_INTERVAL
            }
            Ok(Round::Unfinished) => schedule::SHORT_DELAY,
            Ok(Round::Fenced) => schedule::RETRY_DELAY,
            Err(error) => {
                failures += 1;
                let next = schedule::after(failures, error.passes());
                if next.logged {
                    let again = format!("{} s", next.pause.as_secs_f32());
                    tracing::warn!(%error, failures, again, "could not see to what the server needs; trying again");
                }
                next.pause
            }
        };
        // A file that changed is a reason to look at once.
        if let Ok(Err(_)) = timeout(next, view.changed()).await {
            return;
        }
    }
}

async fn round(
    settings: &Settings,
    memory: &mut ProvisioningMemory,
    events: &mpsc::UnboundedSender<SupervisorEvent>,
) -> Result<Round, ProvisioningError> {
    let secrets = Secrets::read(&settings.paths.secrets)?;
    let now = STARTED.elapsed();
    standby::rewind_if_asked(settings, &secrets, events).await?;
    let client =
        sql::local(settings, Session::Provisioning { waits: settings.failover }, CONNECT).await?;
    if client.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[]).await?.try_get(0)? {
        slots::maintain(settings, &client, slots::SlotsRole::Standby, &mut memory.slots, now)
            .await?;
        standby::round(settings, &secrets, &client, &mut memory.patience, events).await?;
        return Ok(Round::Done);
    }
    let writes = !settings.extension || found(settings).await?;
    slots::maintain(settings, &client, slots::SlotsRole::Primary, &mut memory.slots, now).await?;
    if writes {
        primary(settings, &client, &secrets, memory).await?;
    }
    Ok(if !bootstrapped(settings, writes)? {
        Round::Unfinished
    } else if writes {
        Round::Done
    } else {
        Round::Fenced
    })
}

/// Every step is tried, whatever became of the one before: what one of them trips over is no reason
/// to leave the others undone.
async fn primary(
    settings: &Settings,
    client: &Client,
    secrets: &Secrets,
    memory: &mut ProvisioningMemory,
) -> Result<(), ProvisioningError> {
    let managed = managed::tend(settings, client, secrets, &mut memory.digests).await;
    let extension = if settings.extension { grants::extension(client).await } else { Ok(()) };
    let granted = grants::all(client, settings.extension).await;
    managed.and(extension).and(granted)
}

/// `pgraft_init()`, where `initdb` was made for a cluster that does not exist yet. Whether this
/// server takes writes now.
async fn found(settings: &Settings) -> Result<bool, ProvisioningError> {
    let socket = settings.paths.control_socket();
    let status = control::status(&socket, CONNECT).await?;
    if status.state == NodeState::Uninitialized
        && files::read_if_there(&paths::bootstrap_mark(&settings.paths.data))?.is_some()
    {
        control::ask(&socket, &Request::Init, INTERVAL).await?;
        tracing::info!("the cluster is bootstrapped");
    }
    Ok(!settings.failover || status.failover.is_some_and(|f| f.gate_ms.is_some()))
}

/// From here on it is `instance.json` that says who the primary is, and no longer the mark of this
/// server's `initdb`.
fn bootstrapped(settings: &Settings, writes: bool) -> Result<bool, ProvisioningError> {
    let mark = paths::bootstrap_mark(&settings.paths.data);
    let Some(file) = upstream::instance_file(&settings.paths, settings.node)? else {
        return Ok(!settings.extension || files::read_if_there(&mark)?.is_none());
    };
    if file.primary.is_some() && writes {
        files::remove_file(&mark)?;
    }
    Ok(file.primary.is_some() && files::read_if_there(&mark)?.is_none())
}
