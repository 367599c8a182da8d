//! What the instance manager sees to inside the server, for as long as it runs. Every step can be repeated, and is after each start.
//!
//! ```text
//!  primary:  roles, passwords ▸ database ▸ extension, grants ▸ pgraft_init() of the founder ▸ slots of removed members
//!  standby:  its slot on the primary, where it does not stream; a primary that moved, before it is a member
//! ```

pub mod statements;

use pgraft_core::NodeState;
use pgraft_core::control::Request;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::control::{self, ControlError};
use crate::files::{self, FileError};
use crate::paths;
use crate::peers;
use crate::postgres::clone::{self, CloneError};
use crate::secrets::Secrets;
use crate::settings::Settings;
use crate::sql::{self, SqlError};
use crate::upstream::{self, UpstreamError};
use crate::view::View;

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
    /// The slot on the primary.
    #[error(transparent)]
    Slot(#[from] CloneError),
}

impl DutiesError {
    /// Whether this is what a server that is just starting, or a worker that is, gives for a while.
    const fn passes(&self) -> bool {
        matches!(self, Self::Sql(_) | Self::Control(ControlError::Io(_) | ControlError::Deadline))
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
}

/// Runs until it is aborted, which is when the server is gone.
pub async fn run(mut view: watch::Receiver<View>) {
    let mut applied = None;
    let mut failures = 0_u32;
    loop {
        let settings = std::sync::Arc::clone(&view.borrow_and_update().settings);
        let round = timeout(ROUND, round(&settings, &mut applied)).await.unwrap_or(Err(SqlError::Deadline.into()));
        let next = match round {
            Ok(Round::Done) => {
                failures = 0;
                LOOK
            }
            Ok(Round::Unfinished) => AGAIN_SOON,
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

async fn round(settings: &Settings, applied: &mut Option<(Secrets, String, String)>) -> Result<Round, DutiesError> {
    let client = sql::local(settings, "postgres", CONNECT).await?;
    let row = client.query_one("SELECT pg_is_in_recovery(), (SELECT status FROM pg_stat_wal_receiver)", &[]).await?;
    let secrets = Secrets::read(&settings.paths.secrets)?;
    if row.try_get(0)? {
        let status: Option<String> = row.try_get(1)?;
        if status.as_deref() != Some("streaming") {
            slot_on_primary(settings, &secrets).await?;
        }
        return Ok(Round::Done);
    }
    client.batch_execute(statements::SESSION).await?;
    let boot = &settings.config.bootstrap;
    // Once a server's run, and when it changed: each time is a write to the catalog, and a new SCRAM salt.
    let want = (secrets, boot.database.clone(), boot.owner.clone());
    if applied.as_ref() != Some(&want) {
        roles(settings, &client, &want.0).await?;
        database(settings, &client).await?;
        *applied = Some(want);
        tracing::info!("roles, passwords and the database are in place");
    }
    if settings.extension {
        found(settings).await?;
    }
    retired_slots(settings, &client).await?;
    Ok(if founded(settings)? { Round::Done } else { Round::Unfinished })
}

async fn roles(settings: &Settings, client: &Client, secrets: &Secrets) -> Result<(), DutiesError> {
    for role in statements::roles(&settings.config.bootstrap.owner, secrets) {
        if client.query_opt("SELECT FROM pg_roles WHERE rolname = $1", &[&role.name]).await?.is_none() {
            client.batch_execute(&role.create()).await?;
        }
        client.batch_execute(&role.alter()).await?;
    }
    client.batch_execute(statements::MONITOR).await?;
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
            app.batch_execute(statements::SESSION).await?;
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

/// `pgraft_init()`, where `initdb` was made for a cluster that does not exist yet.
async fn found(settings: &Settings) -> Result<(), DutiesError> {
    let mark = paths::founding_mark(&settings.paths.data);
    if files::read_if_there(&mark)?.is_none() {
        return Ok(());
    }
    let socket = settings.paths.control_socket();
    let status = control::status(&socket, CONNECT).await?;
    if status.state == NodeState::Uninitialized {
        control::ask(&socket, &Request::Init, ROUND).await?;
        tracing::info!("the cluster is founded");
    }
    Ok(())
}

/// From here on it is `instance.json` that makes this server the primary, and no longer the mark of its `initdb`.
fn founded(settings: &Settings) -> Result<bool, DutiesError> {
    let mark = paths::founding_mark(&settings.paths.data);
    let Some(file) = upstream::instance_file(&settings.paths, settings.node)? else {
        return Ok(!settings.extension || files::read_if_there(&mark)?.is_none());
    };
    if file.primary.is_some() {
        files::remove_file(&mark)?;
    }
    Ok(file.primary.is_some())
}

async fn retired_slots(settings: &Settings, client: &Client) -> Result<(), DutiesError> {
    let Some(file) = upstream::instance_file(&settings.paths, settings.node)? else { return Ok(()) };
    let names = statements::slots_of(&file.retired);
    for row in client.query(statements::DROP_SLOTS, &[&names]).await? {
        let slot: String = row.try_get(0)?;
        tracing::info!(slot, "dropped the replication slot of a removed member");
    }
    Ok(())
}

async fn slot_on_primary(settings: &Settings, secrets: &Secrets) -> Result<(), DutiesError> {
    let file = upstream::instance_file(&settings.paths, settings.node)?;
    // A removed member makes no slot that would keep the primary's WAL for nobody.
    if file.as_ref().is_some_and(|f| f.retired.contains(&settings.node)) {
        return Ok(());
    }
    let Some(primary) = upstream::follow(settings.node, file.as_ref(), upstream::last(&settings.paths)?) else { return Ok(()) };
    let ensured = clone::ensure_slot(settings, secrets, &primary).await;
    let in_a_cluster = file.is_some_and(|f| f.primary.is_some());
    if ensured.is_err()
        && !in_a_cluster
        && let Some(other) = upstream::named_by_peers(settings.node, &peers::ask_all(&settings.config.peers).await)
        && upstream::remember(&settings.paths, &other)?
    {
        // No Raft member tells this node yet that the primary has moved; `watch` sees the file, and the server's configuration follows.
        tracing::info!(primary = %other.node_id, host = %other.host, port = other.port, "the peers name another primary");
    }
    Ok(ensured?)
}
