//! What the instance manager sees to inside the server, for as long as it runs. Every step can be repeated, and is after each start.
//!
//! ```text
//!  primary:  (roles, passwords ▸ database ▸ extension, grants) ▸ pgraft_init() of the founder ▸ slots
//!  standby:  what it can't go on without (a rewind, a clone) ▸ its slot on the primary, where it does not stream ▸ slots
//! ```
//!
//! Where the members choose the primary the founder's cluster comes first: nothing is written before it has a lease.

mod lost_wal;
pub mod slots;
mod standby;
pub mod statements;

use pgraft_core::NodeState;
use pgraft_core::control::Request;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::control::{self, ControlError};
use crate::files::{self, FileError};
use crate::paths;
use crate::postgres::source::SourceError;
use crate::secrets::Secrets;
use crate::settings::Settings;
use crate::sql::{self, SqlError};
use crate::supervisor::Event;
use crate::upstream::{self, UpstreamError};
use crate::view::View;
use lost_wal::Patience;

/// Before the next try of what failed, or what is not finished: often while a server is starting, then seldom.
const AGAIN_SOON: Duration = Duration::from_millis(100);
const AGAIN: Duration = Duration::from_secs(1);
const SOON: u32 = 30;

/// Between two looks at a server where all is well: a slot that was in use may be free now, a walreceiver may have lost its slot.
const LOOK: Duration = Duration::from_secs(10);

/// For connecting, and for one round.
const CONNECT: Duration = Duration::from_secs(5);
const ROUND: Duration = Duration::from_mins(1);

/// Why a round was not finished.
#[derive(Debug, thiserror::Error)]
pub enum DutiesError {
    /// The local server.
    #[error(transparent)]
    Sql(#[from] SqlError),
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
}

impl DutiesError {
    /// Whether this is what a server that is just starting, a worker that is, or a primary that is gone gives for a while.
    const fn passes(&self) -> bool {
        matches!(self, Self::Sql(_) | Self::Source(_) | Self::Control(ControlError::Io(_) | ControlError::Deadline))
    }
}

impl From<tokio_postgres::Error> for DutiesError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Sql(error.into())
    }
}

/// What a round came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    Done,
    /// The founder's cluster does not know its primary yet.
    Unfinished,
    /// A primary that may not write now.
    Fenced,
}

/// What is kept from round to round of one run of the server.
#[derive(Default)]
struct Memory {
    /// Passwords, database and owner that were written.
    applied: Option<(Secrets, String, String)>,
    patience: Patience,
}

/// Runs until it is aborted, which is when the server is gone.
pub async fn run(mut view: watch::Receiver<View>, events: mpsc::UnboundedSender<Event>) {
    let mut memory = Memory::default();
    let mut failures = 0_u32;
    loop {
        let settings = std::sync::Arc::clone(&view.borrow_and_update().settings);
        let round = timeout(ROUND, round(&settings, &mut memory, &events)).await.unwrap_or(Err(SqlError::Deadline.into()));
        let next = match round {
            Ok(Round::Done) => {
                failures = 0;
                LOOK
            }
            Ok(Round::Unfinished) => AGAIN_SOON,
            Ok(Round::Fenced) => AGAIN,
            Err(error) => {
                failures += 1;
                // The first seconds of a start are no news.
                if failures % SOON == SOON - 1 || !error.passes() {
                    tracing::warn!(%error, failures, "what the server needs is not all there yet");
                }
                if failures < SOON { AGAIN_SOON } else { AGAIN }
            }
        };
        // A file that changed is a reason to look at once.
        if let Ok(Err(_)) = timeout(next, view.changed()).await {
            return;
        }
    }
}

async fn round(settings: &Settings, memory: &mut Memory, events: &mpsc::UnboundedSender<Event>) -> Result<Round, DutiesError> {
    let secrets = Secrets::read(&settings.paths.secrets)?;
    standby::rewind_if_asked(settings, &secrets, events).await?;
    let client = sql::local(settings, "postgres", CONNECT).await?;
    if client.query_one("SELECT pg_is_in_recovery()", &[]).await?.try_get(0)? {
        slots::tend(settings, &client, slots::Role::Standby).await?;
        standby::round(settings, &secrets, &client, &mut memory.patience, events).await?;
        return Ok(Round::Done);
    }
    let writes = !settings.extension || found(settings).await?;
    slots::tend(settings, &client, slots::Role::Primary).await?;
    if writes {
        primary(settings, &client, secrets, memory).await?;
    }
    Ok(if !founded(settings, writes)? {
        Round::Unfinished
    } else if writes {
        Round::Done
    } else {
        Round::Fenced
    })
}

async fn primary(settings: &Settings, client: &Client, secrets: Secrets, memory: &mut Memory) -> Result<(), DutiesError> {
    session(settings, client).await?;
    let boot = &settings.config.bootstrap;
    // Once a server's run, and when it changed: each time is a write to the catalog, and a new SCRAM salt.
    let want = (secrets, boot.database.clone(), boot.owner.clone());
    if memory.applied.as_ref() != Some(&want) {
        roles(settings, client, &want.0).await?;
        database(settings, client).await?;
        memory.applied = Some(want);
        tracing::info!("roles, passwords and the database are in place");
    }
    Ok(())
}

async fn session(settings: &Settings, client: &Client) -> Result<(), DutiesError> {
    client.batch_execute(statements::SESSION).await?;
    if !settings.failover {
        client.batch_execute(statements::ALONE).await?;
    }
    Ok(())
}

async fn roles(settings: &Settings, client: &Client, secrets: &Secrets) -> Result<(), DutiesError> {
    for role in statements::roles(&settings.config.bootstrap.owner, secrets) {
        if client.query_opt("SELECT FROM pg_roles WHERE rolname = $1", &[&role.name]).await?.is_none() {
            client.batch_execute(&role.create()).await?;
        }
        client.batch_execute(&role.alter()).await?;
    }
    client.batch_execute(statements::MONITOR).await?;
    client.batch_execute(statements::REWIND).await?;
    Ok(())
}

async fn database(settings: &Settings, client: &Client) -> Result<(), DutiesError> {
    let boot = &settings.config.bootstrap;
    if client.query_opt("SELECT FROM pg_database WHERE datname = $1", &[&boot.database]).await?.is_none() {
        client.batch_execute(&statements::create_database(&boot.database, &boot.owner)).await?;
    }
    if settings.extension {
        extension(client).await?;
        client.batch_execute(statements::GRANTS).await?;
        if boot.database != "postgres" {
            let app = sql::local(settings, &boot.database, CONNECT).await?;
            session(settings, &app).await?;
            extension(&app).await?;
        }
    }
    Ok(())
}

async fn extension(client: &Client) -> Result<(), DutiesError> {
    client.batch_execute(statements::CREATE_EXTENSION).await?;
    if client.query_opt(statements::EXTENSION_IS_OLD, &[]).await?.is_some() {
        client.batch_execute(statements::UPDATE_EXTENSION).await?;
    }
    Ok(())
}

/// `pgraft_init()`, where `initdb` was made for a cluster that does not exist yet. Whether this server takes writes now.
async fn found(settings: &Settings) -> Result<bool, DutiesError> {
    let socket = settings.paths.control_socket();
    let status = control::status(&socket, CONNECT).await?;
    if status.state == NodeState::Uninitialized && files::read_if_there(&paths::founding_mark(&settings.paths.data))?.is_some() {
        control::ask(&socket, &Request::Init, ROUND).await?;
        tracing::info!("the cluster is founded");
    }
    Ok(!settings.failover || status.failover.is_some_and(|f| f.gate_ms.is_some()))
}

/// From here on it is `instance.json` that says who the primary is, and no longer the mark of this server's `initdb`.
fn founded(settings: &Settings, writes: bool) -> Result<bool, DutiesError> {
    let mark = paths::founding_mark(&settings.paths.data);
    let Some(file) = upstream::instance_file(&settings.paths, settings.node)? else {
        return Ok(!settings.extension || files::read_if_there(&mark)?.is_none());
    };
    if file.primary.is_some() && writes {
        files::remove_file(&mark)?;
    }
    Ok(file.primary.is_some() && files::read_if_there(&mark)?.is_none())
}
