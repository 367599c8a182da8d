//! Provisioning: what the instance manager maintains inside the running server. All steps are
//! idempotent and repeated after each start.
//!
//! ```text
//!  primary:  slots ▸ roles, passwords ▸ database ▸ extension ▸ grants ▸ pgraft_init() of the bootstrap node
//!  standby:  request a rewind or a clone if needed ▸ its slot on the primary, while it does not stream ▸ slots
//! ```
//!
//! With failover the bootstrap node's cluster is created first: nothing is written without a lease.
//!
//! Each round reads the present state and writes only the differences. All sessions use the database
//! `postgres`. In another database a superuser's session could run code of that database's owner.

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
use lost_wal::LostWal;

/// Between two looks at a server where all is well: a slot that was in use may be free now, a
/// walreceiver may have lost its slot, a role of pgraft's may have been changed.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// For connecting, and for one round.
const CONNECT: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_mins(1);

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Why a round failed.
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
    /// Its owner's code could run with a superuser's rights.
    #[error(
        "schema \"pgraft\" in database \"postgres\", or its table \"applied\", is not owned by a superuser; drop or rename it"
    )]
    ForeignSchema,
}

impl ProvisioningError {
    /// Whether the error is temporary, as while the server or the worker starts or the primary is
    /// unreachable.
    fn is_transient(&self) -> bool {
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

/// The result of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    Done,
    /// The bootstrap node's cluster has no primary yet.
    Unfinished,
    /// The primary is fenced.
    Fenced,
}

/// The state of one run of the server.
#[derive(Default)]
struct ProvisioningMemory {
    digests: managed::Digests,
    lost_wal: LostWal,
    slots: slots::SlotActivity,
}

/// Runs until it is aborted when the server has ended.
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
                let next = schedule::after(failures, error.is_transient());
                if next.logged {
                    let again = format!("{} s", next.pause.as_secs_f32());
                    tracing::warn!(%error, failures, again, "could not provision the server; trying again");
                }
                next.pause
            }
        };
        // A changed file starts the next round immediately.
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
    standby::rewind_if_requested(settings, &secrets, events).await?;
    let client =
        sql::local(settings, Session::Provisioning { waits: settings.failover }, CONNECT).await?;
    if client.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[]).await?.try_get(0)? {
        slots::maintain(settings, &client, slots::SlotsRole::Standby, &mut memory.slots, now)
            .await?;
        standby::round(settings, &secrets, &client, &mut memory.lost_wal, events).await?;
        return Ok(Round::Done);
    }
    let writes = !settings.extension || bootstrap(settings).await?;
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

/// Runs all steps of a primary, even if an earlier one fails.
async fn primary(
    settings: &Settings,
    client: &Client,
    secrets: &Secrets,
    memory: &mut ProvisioningMemory,
) -> Result<(), ProvisioningError> {
    let managed = managed::maintain(settings, client, secrets, &mut memory.digests).await;
    let extension = if settings.extension { grants::extension(client).await } else { Ok(()) };
    let granted = grants::all(client, settings.extension).await;
    managed.and(extension).and(granted)
}

/// Calls `pgraft_init()` if `initdb` was run for a cluster that does not exist yet. Returns whether
/// this server accepts writes.
async fn bootstrap(settings: &Settings) -> Result<bool, ProvisioningError> {
    let socket = settings.paths.control_socket();
    let status = control::status(&socket, CONNECT).await?;
    if status.state == NodeState::Uninitialized
        && files::read_if_there(&paths::bootstrap_mark(&settings.paths.data))?.is_some()
    {
        control::ask(&socket, &Request::Init, INTERVAL).await?;
        tracing::info!("created the cluster");
    }
    Ok(!settings.failover || status.failover.is_some_and(|f| f.gate_ms.is_some()))
}

/// Removes the bootstrap mark once `instance.json` names the primary. Returns whether the bootstrap is
/// complete.
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
