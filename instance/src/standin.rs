//! The stand-in member: the node's Raft member while its data directory is rewound or cloned and no
//! server can run. It votes and stores the log, so a primary that is lost meanwhile is replaced.
//! This node is then rewound to, or cloned from, the new primary.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgraft_core::failover::lease::BootTime;
use pgraft_core::{Address, defaults};
use pgraft_raft::{
    Hooks, Node, PostgresControl, Protection, SNAPSHOT_EVERY, ServerDirective, ServerRepair,
    ServerState,
};
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;

use crate::files;
use crate::paths::Paths;
use crate::settings::{Settings, duration};
use crate::upstream;

const NO_VOTE: &str = "this node does not vote while its server is rewound or cloned";

/// The stand-in member. Clones share it.
#[derive(Clone, Default)]
pub struct StandInMember(Arc<Mutex<Option<RunningStandIn>>>);

struct RunningStandIn {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl StandInMember {
    /// Starts the member if failover is on and this node is in the cluster. Returns whether it runs.
    /// A failure is only logged.
    pub async fn begin(&self, settings: &Settings) -> bool {
        let mut running = self.0.lock().await;
        if running.as_ref().is_some_and(|r| !r.task.is_finished()) {
            return true;
        }
        *running = None;
        let is_member = upstream::instance_file(&settings.paths, settings.node)
            .is_ok_and(|file| file.is_some());
        if !settings.failover || !is_member {
            return false;
        }
        match start(settings).await {
            Ok(node) => {
                tracing::info!("this node keeps voting while its server is rewound or cloned");
                let (stop, stopped) = oneshot::channel();
                *running = Some(RunningStandIn { stop, task: tokio::spawn(run(node, stopped)) });
                true
            }
            Err(why) => {
                tracing::warn!(why, "{NO_VOTE}");
                false
            }
        }
    }

    /// Stops the member and leaves the Raft directory to the server's worker.
    pub async fn end(&self) {
        let Some(RunningStandIn { stop, task }) = self.0.lock().await.take() else { return };
        // The task may have ended by itself.
        let _ = stop.send(());
        let _ = task.await;
    }
}

async fn start(settings: &Settings) -> Result<Node, String> {
    let hooks = Hooks {
        wal: Arc::new(|| None),
        postgres: Some(Arc::new(NoServer {
            rewind_in_progress: settings.paths.rewind_in_progress(),
        })),
        publish: Box::new(|_| ()),
    };
    Node::start(member(settings)?, hooks).await.map_err(|e| e.to_string())
}

async fn run(mut node: Node, stopped: oneshot::Receiver<()>) {
    tokio::select! {
        why = node.failed() => {
            tracing::warn!(why, "{NO_VOTE}");
            return;
        }
        _ = stopped => {}
    }
    node.leave(false).await;
}

/// The member's settings, as on the server's command line (`postgres::config::command_line`).
fn member(settings: &Settings) -> Result<pgraft_raft::RaftSettings, String> {
    let raft = &settings.config.raft;
    let time = |text: &str| duration(text).ok_or_else(|| format!("\"{text}\" is not a duration"));
    let at = |host: &str| Address::new(host, raft.port.into()).map_err(|e| e.to_string());
    let tls = settings
        .config
        .tls
        .as_ref()
        .map(|t| [t.cert_file.as_str(), &t.key_file, &t.ca_file])
        .unwrap_or_default();
    let protection =
        Protection::new(tls[0], tls[1], tls[2], raft.allow_plaintext).map_err(|e| e.to_string())?;
    let listen = if raft.listen_address == "*" { "::" } else { &raft.listen_address };
    let member = pgraft_raft::RaftSettings {
        node_id: settings.node,
        listen: at(listen)?,
        advertise: at(settings.postgres.host())?,
        data_dir: settings.paths.raft.clone(),
        heartbeat_interval: time(&raft.heartbeat_interval)?,
        election_timeout: time(&raft.election_timeout)?,
        join_timeout: Some(defaults::JOIN_TIMEOUT),
        lease_timeout: Some(settings.lease),
        snapshot_every: SNAPSHOT_EVERY,
        postgres: settings.postgres.clone(),
        zone: String::new(),
        protection,
    };
    member.check(Some(&settings.paths.data)).map_err(|e| e.to_string())?;
    Ok(member)
}

/// The epoch in which the WAL of a data directory had diverged from the primary's, while it is being
/// rewound. It is written before the rewind changes anything.
pub fn diverged_in(rewind_in_progress: &Path) -> Option<u64> {
    let text = files::read_if_there(rewind_in_progress).ok().flatten()?;
    std::str::from_utf8(&text).ok()?.trim().parse().ok()
}

/// Records [`diverged_in`].
pub fn set_diverged_in(paths: &Paths, epoch: u64) -> Result<bool, files::FileError> {
    files::write_atomically(&paths.rewind_in_progress(), epoch.to_string().as_bytes())
}

/// The server's interface while there is no server.
struct NoServer {
    rewind_in_progress: PathBuf,
}

impl PostgresControl for NoServer {
    fn now(&self) -> BootTime {
        pgraft_raft::boot_time()
    }

    fn observed(&self) -> Option<ServerState> {
        None
    }

    fn repair(&self) -> Option<ServerRepair> {
        Some(ServerRepair { diverged_in: diverged_in(&self.rewind_in_progress) })
    }

    fn direct(&self, _: ServerDirective, _: bool) {}

    fn gate(&self, _: Option<BootTime>) {}
}
