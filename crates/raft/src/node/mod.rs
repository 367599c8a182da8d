//! One running member: openraft with its store and transport, and the tasks around it.
//!
//! | task | what it does | who decides |
//! |---|---|---|
//! | server | answers the other members | `transport::handshake` |
//! | control | answers backends and the instance manager | `commands` |
//! | driver | on the leader: membership follows the state | `pgraft_core::membership` |
//! | tell | tells the group about this node | here, `registration` |
//! | probe | on the leader: who answers, and how far its WAL is | – |
//! | publish | composes `NodeStatus` on every change | `compose` |
//! | files | writes `instance.json` when it changes | `publish` |
//! | agent, lease, lead, release | who is the primary, where that is on | `failover` |
//! | certificates | reads the TLS files again when they change | `transport::tls` |

mod commands;
pub mod compose;
mod driver;
mod failover;
mod primary_view;
mod probe;
mod publish;
mod registration;
mod shared;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Config, SnapshotPolicy};
use pgraft_core::control::{Request, Response};
use pgraft_core::{Address, NodeStatus};
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinSet;

use self::commands::Commands;
use self::failover::{Agent, Durable, Failover};
pub use self::failover::{
    PROMISES_FILE, PostgresControl, ServerDirective, ServerRepair, ServerState,
};
pub use self::shared::NodeShared;
use crate::control;
use crate::identity::{Identity, IdentityError};
use crate::machine::{self, watch};
use crate::settings::RaftSettings;
use crate::store::{LogStore, StateMachine};
use crate::transport::{
    self, FailoverEnd, Guard, LeaderContact, Listener, Local, LogDedup, MaterialError, Network,
    PeerFactory, Tcp, WalSource,
};
use crate::types::{Raft, raft_id};

/// How often it is looked whether Raft still runs.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long a stopped member's last tasks may take to let its directory go.
const LET_GO: Duration = Duration::from_secs(10);

/// What the member needs from its surroundings. Called from the runtime's threads: neither may call
/// into Postgres.
pub struct Hooks {
    /// Where this server's WAL ends.
    pub wal: WalSource,
    /// This member's Postgres, where the members decide who is the primary
    /// ([`Settings::lease_timeout`]).
    pub postgres: Option<Arc<dyn PostgresControl>>,
    /// Told on every change of the status, and twice a second.
    pub publish: Publish,
}

/// Takes a status.
pub type Publish = Box<dyn Fn(&NodeStatus) + Send + Sync>;

/// Why a member did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The Raft directory is not this node's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log or the snapshot is damaged or gone.
    #[error(
        "the Raft log or snapshot in {path} is damaged: {source}. Nothing was changed. This node can't come back under its old id: \
         remove it on the leader with pgraft_remove_node, and add a new node with an empty directory and a new id"
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// The log or the snapshot was written by a version that this one does not know.
    #[error(
        "can't read {path}: {source}. Nothing was changed: start the version of pgraft that wrote it"
    )]
    Format {
        /// The directory.
        path: PathBuf,
        /// What it has.
        source: io::Error,
    },
    /// The log or the snapshot can't be read or written now: a full disk, a directory that is not
    /// there, a lock that another server holds.
    #[error("can't use the Raft log or snapshot in {path}: {source}")]
    Store {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// The Raft port or the control socket is not to be had.
    #[error("can't listen on {at}: {source}")]
    Listen {
        /// Where.
        at: String,
        /// What the system said.
        source: io::Error,
    },
    /// Certificate, key or CA can't be used.
    #[error(transparent)]
    Tls(#[from] MaterialError),
    /// Openraft refused its configuration or its state.
    #[error("can't start Raft: {0}")]
    Raft(String),
}

impl StartError {
    /// Whether a later try can go better without anybody's help.
    pub const fn is_temporary(&self) -> bool {
        match self {
            Self::Listen { .. }
            | Self::Store { .. }
            | Self::Raft(_)
            | Self::Identity(IdentityError::Io { .. }) => true,
            Self::Identity(
                IdentityError::OtherNode { .. }
                | IdentityError::Format { .. }
                | IdentityError::Damaged { .. },
            )
            | Self::Format { .. }
            | Self::Damaged { .. }
            | Self::Tls(_) => false,
        }
    }

    fn of_store(path: PathBuf, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Self::Damaged { path, source }
            }
            io::ErrorKind::Unsupported => Self::Format { path, source },
            _ => Self::Store { path, source },
        }
    }
}

/// A running member. Dropping it ends its tasks; [`Node::shutdown`] is the orderly way.
pub struct Node {
    shared: Arc<NodeShared>,
    tasks: JoinSet<&'static str>,
}

impl Node {
    /// Starts a member on the current Tokio runtime and this host's network.
    pub async fn start(settings: RaftSettings, hooks: Hooks) -> Result<Self, StartError> {
        Self::start_on(settings, hooks, Arc::new(Tcp::default())).await
    }

    /// Starts a member on another network.
    pub async fn start_on(
        settings: RaftSettings,
        hooks: Hooks,
        network: Arc<dyn Network>,
    ) -> Result<Self, StartError> {
        let dir = settings.data_dir.clone();
        let mut identity = Identity::open(&dir, settings.node_id)?;
        let store = |source| StartError::of_store(dir.clone(), source);
        let log = LogStore::open(&dir, &identity).map_err(store)?;
        let state_machine = StateMachine::open(&dir).map_err(store)?;
        // Entries between the snapshot and the log would be passed over, and this replica would
        // differ from the others.
        if log.purged() > state_machine.watch().borrow().last_applied {
            let source = io::Error::new(
                io::ErrorKind::InvalidData,
                "the log begins behind the end of the snapshot",
            );
            return Err(StartError::Damaged { path: dir, source });
        }
        let guard = Guard::open(settings.node_id, &settings.protection)?;
        let Hooks { wal, postgres, publish } = hooks;
        let (failover, durable) = match (postgres, settings.lease_timeout) {
            (Some(postgres), Some(lease)) => {
                let opened = Failover::open(&dir, &mut identity, postgres, lease);
                let (failover, durable) = opened.map_err(store)?;
                (Some(Arc::new(failover)), Some(durable))
            }
            _ => (None, None),
        };
        let listener = listen(&*network, &settings.listen).await?;

        let local = Arc::new(Local::new(dir.clone(), identity));
        let applied = state_machine.watch();
        let log_dedup = Arc::new(LogDedup::default());
        let peers = PeerFactory {
            local: Arc::clone(&local),
            applied: applied.clone(),
            network,
            guard,
            log_dedup,
            confirmed: Arc::default(),
        };
        let config =
            Arc::new(config(&settings).validate().map_err(|e| StartError::Raft(e.to_string()))?);
        let raft =
            Raft::new(raft_id(settings.node_id), config, peers.clone(), log.clone(), state_machine)
                .await
                .map_err(|e| StartError::Raft(e.to_string()))?;
        let contact = Arc::new(LeaderContact::new());
        let shared = Arc::new(NodeShared {
            status: watch::channel(Arc::new(compose::unknown(settings.node_id))).0,
            probes: watch::channel(probe::Probes::default()).0,
            settings,
            raft,
            log,
            local,
            peers,
            applied,
            contact,
            failover,
            bootstrapping: Mutex::new(()),
            reload: Arc::new(Notify::new()),
        });
        let mut node = Self { shared, tasks: JoinSet::new() };
        node.spawn(listener, wal, publish, durable)?;
        Ok(node)
    }

    fn spawn(
        &mut self,
        listener: Box<dyn Listener>,
        wal: WalSource,
        publish: Publish,
        durable: Option<Durable>,
    ) -> Result<(), StartError> {
        let shared = &self.shared;
        let server = transport::RaftServer {
            raft: shared.raft.clone(),
            local: Arc::clone(&shared.local),
            wal: Arc::clone(&wal),
            contact: Arc::clone(&shared.contact),
            applied: shared.applied.clone(),
            guard: shared.peers.guard.clone(),
            log_dedup: Arc::new(LogDedup::default()),
            failover: Arc::clone(shared) as Arc<dyn FailoverEnd>,
        };
        let task = |name: &'static str,
                    task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| async move {
            task.await;
            name
        };
        self.tasks.spawn(task("server", Box::pin(transport::serve(listener, server))));
        // A simulated member has no socket: it is asked by `Node::ask`.
        if !machine::is_simulated() {
            let socket = shared.settings.socket();
            let control = control::listen(&socket).map_err(|source| StartError::Listen {
                at: socket.display().to_string(),
                source,
            })?;
            self.tasks.spawn(task("control", Box::pin(control::serve(control, asker(shared)))));
        }
        self.tasks.spawn(task("driver", Box::pin(driver::run(Arc::clone(shared)))));
        self.tasks.spawn(task("tell", Box::pin(registration::run(Arc::clone(shared)))));
        self.tasks.spawn(task("probe", Box::pin(probe::run(Arc::clone(shared)))));
        self.tasks.spawn(task("publish", Box::pin(publish::run(Arc::clone(shared), wal, publish))));
        self.tasks.spawn(task("files", Box::pin(publish::write_instance_file(Arc::clone(shared)))));
        if let Some((failover, durable)) = shared.failover.clone().zip(durable) {
            let agent = Agent::new(Arc::clone(shared), failover, durable);
            self.tasks.spawn(task("agent", Box::pin(agent.run())));
            self.tasks.spawn(task("lease", Box::pin(failover::lease(Arc::clone(shared)))));
            self.tasks.spawn(task("lead", Box::pin(failover::lead(Arc::clone(shared)))));
            self.tasks.spawn(task("release", Box::pin(failover::release(Arc::clone(shared)))));
        }
        let certificates =
            transport::follow(shared.peers.guard.clone(), Arc::clone(&shared.reload));
        self.tasks.spawn(task("certificates", Box::pin(certificates)));
        Ok(())
    }

    /// Returns when the member can't go on, with the reason: its process must end then.
    pub async fn failed(&mut self) -> String {
        let metrics = self.shared.raft.metrics();
        // Its metrics change fifty times a second: looked at now and then instead of followed.
        let mut look = tokio::time::interval(POLL_INTERVAL);
        loop {
            let fatal = || {
                metrics
                    .borrow_watched()
                    .running_state
                    .as_ref()
                    .err()
                    .map(|fatal| format!("Raft has stopped: {fatal}"))
            };
            if let Some(why) = fatal() {
                return why;
            }
            tokio::select! {
                biased; // in no random order: a simulation repeats itself
                // Tasks end when Raft has, mostly before it is seen here: why that ended is the
                // better word.
                ended = self.tasks.join_next() => return fatal().unwrap_or_else(|| match ended {
                    Some(Ok(task)) => format!("task {task} ended"),
                    Some(Err(error)) => format!("a task failed: {error}"),
                    None => "all tasks ended".into(),
                }),
                _ = look.tick() => {}
            }
        }
    }

    /// [`Node::shutdown`] with a word to the others: the lead goes to a voter that is up to date,
    /// and where the postmaster is dead the lease of its server is released.
    pub async fn leave(self, server_is_dead: bool) {
        let release = async {
            if server_is_dead {
                failover::release_what_ends(&self.shared).await;
            }
        };
        tokio::join!(release, failover::leave_the_lead(&self.shared));
        self.shutdown().await;
    }

    /// Stops Raft and every task, and waits until the directory is free for the next.
    pub async fn shutdown(self) {
        let gone = self.gone();
        let Self { shared, mut tasks } = self;
        if let Err(error) = shared.raft.shutdown().await {
            tracing::warn!("Raft did not stop cleanly: {error}");
        }
        tasks.shutdown().await;
        drop(shared);
        if tokio::time::timeout(LET_GO, gone).await.is_err() {
            tracing::warn!("something of the stopped member still holds its directory");
        }
    }

    /// Until nothing of this member uses its directory any more. Tasks that were ended end when
    /// they are next polled.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
        self.shared.log.gone()
    }

    /// Answers a request as the control socket does.
    pub async fn ask(&self, request: Request) -> Response {
        Commands::of(&self.shared).answer(request).await
    }

    /// [`Node::ask`] for whoever can't hold the node itself.
    #[cfg(feature = "sim")]
    pub fn asker(&self) -> impl control::ControlHandler + use<> {
        asker(&self.shared)
    }

    /// To have the TLS files looked at now, from any thread.
    pub fn reloader(&self) -> impl Fn() + Send + 'static {
        let reload = Arc::clone(&self.shared.reload);
        move || reload.notify_one()
    }

    /// To say that Postgres is not what it was at the last look, from any thread.
    pub fn poker(&self) -> impl Fn() + Send + 'static {
        let failover = self.shared.failover.clone();
        move || {
            if let Some(failover) = &failover {
                failover.poke();
            }
        }
    }

    /// Follows what this member knows.
    pub fn status(&self) -> watch::Receiver<Arc<NodeStatus>> {
        self.shared.status.subscribe()
    }
}

/// Answers as [`Node::ask`] does, for whoever can't hold the node itself.
fn asker(shared: &Arc<NodeShared>) -> impl control::ControlHandler + use<> {
    let shared = Arc::clone(shared);
    move |request| {
        let shared = Arc::clone(&shared);
        Box::pin(async move { Commands::of(&shared).answer(request).await })
    }
}

async fn listen(network: &dyn Network, at: &Address) -> Result<Box<dyn Listener>, StartError> {
    network.listen(at).await.map_err(|source| StartError::Listen { at: at.to_string(), source })
}

fn config(settings: &RaftSettings) -> Config {
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let election = ms(settings.election_timeout);
    let snapshot_every = settings.snapshot_every;
    Config {
        cluster_name: "pgraft".into(),
        heartbeat_interval: ms(settings.heartbeat_interval),
        election_timeout_min: election,
        election_timeout_max: election + election / 2,
        install_snapshot_timeout: 5_000,
        max_payload_entries: 64,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_every),
        max_in_snapshot_log_to_keep: snapshot_every,
        // A node that was cut off comes back without an election that nobody needs.
        enable_pre_vote: Some(true),
        // A leader that was restarted asks for votes like everybody: it must not call itself leader
        // before a majority does.
        enable_leader_restore: Some(false),
        ..Config::default()
    }
}
