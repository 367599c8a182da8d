//! How long a membership change takes until every member shows it: pgraft, and in the same rounds
//! etcd and the disk.
//!
//! Three Postgres servers with fsync on. The fourth member runs in this process without a Postgres,
//! with the same code, disk and sockets, and with a new id and directory in each round. Learners
//! that are not running are added and removed too, as a comparison with etcd.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgraft_core::{Address, NodeId, NodeState};
use pgraft_raft::{Hooks, Node, Protection, RaftSettings, SNAPSHOT_EVERY};
use tempfile::TempDir;
use tokio_postgres::{Client, Statement};

use crate::disk;
use crate::etcd::{self, Etcd, EtcdGateway};
use crate::failure::BenchFailure;
use crate::servers::{TIMEOUT, cluster, until};
use crate::stats::BenchSample;
use crate::watcher::Watcher;
use pgraft_testkit::free_port;
use pgraft_testkit::postgres::scratch_in;
use pgraft_testkit::server::TestServer;

/// Writes of the disk measurement, in each round.
const DISK_WRITES: usize = 5;

#[derive(clap::Args)]
pub struct MembershipOptions {
    /// The directory in which the servers' directories are created.
    #[arg(long, default_value = "/tmp")]
    dir: PathBuf,
    /// The number of adds and removes of each kind.
    #[arg(long, default_value_t = 200)]
    rounds: usize,
}

pub async fn run(options: &MembershipOptions) -> Result<(), BenchFailure> {
    let dir = scratch_in(&options.dir);
    let mut pgraft = Pgraft::start(&dir).await?;
    let mut etcd = match etcd::version() {
        Some(version) => Some((version, EtcdSide::start(dir.path()).await?)),
        None => None,
    };
    let (mut disk, mut growing) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        disk.extend(disk::fdatasync(dir.path(), DISK_WRITES, disk::BenchFile::Preallocated)?);
        growing.extend(disk::fdatasync(dir.path(), DISK_WRITES, disk::BenchFile::Growing)?);
        pgraft.round().await?;
        pgraft.round_without_member().await?;
        if let Some((_, etcd)) = &mut etcd {
            etcd.round().await?;
        }
    }
    println!(
        "{}",
        BenchSample::new(disk).row("disk: fdatasync of 512 bytes into a preallocated file")
    );
    println!(
        "{}",
        BenchSample::new(growing).row("disk: fdatasync of 512 bytes at the end of a growing file")
    );
    pgraft.print();
    match etcd {
        Some((version, etcd)) => etcd.print(&version),
        None => {
            println!("etcd: not measured, it is not on PATH (Debian: apt-get install etcd-server)");
        }
    }
    Ok(())
}

/// The time from a call to its return, and until the last of three members showed the change.
#[derive(Default)]
struct MembershipChange {
    returned: Vec<Duration>,
    everywhere: Vec<Duration>,
}

impl MembershipChange {
    fn note<Q>(
        &mut self,
        begun: Instant,
        returned: Instant,
        watchers: &[Watcher<Q>],
    ) -> Result<(), BenchFailure>
    where
        Q: Send + 'static,
    {
        self.returned.push(returned - begun);
        let mut last = begun;
        for watcher in watchers {
            last = last.max(watcher.seen()?);
        }
        self.everywhere.push(last - begun);
        Ok(())
    }

    fn print(self, what: &str) {
        println!("{}", BenchSample::new(self.returned).row(&format!("{what}: the call returns")));
        println!(
            "{}",
            BenchSample::new(self.everywhere).row(&format!("{what}: all three members show it"))
        );
    }
}

/// The change that a watcher waits for: a node, and whether it is a member.
type Wanted = (i32, bool);

struct Pgraft {
    dir: PathBuf,
    _servers: Vec<TestServer>,
    watchers: Vec<Watcher<Wanted>>,
    caller: Client,
    add: Statement,
    remove: Statement,
    next_id: i32,
    call: Vec<Duration>,
    added: MembershipChange,
    shown_by_newcomer: Vec<Duration>,
    voter: Vec<Duration>,
    removed: MembershipChange,
    not_running_added: MembershipChange,
    not_running_removed: MembershipChange,
}

impl Pgraft {
    async fn start(dir: &TempDir) -> Result<Self, BenchFailure> {
        let servers = cluster(dir.path(), 3).await?;
        let watchers = servers.iter().map(watch).collect();
        let caller = servers[0].connect().await;
        let sql = BenchFailure::sql(1);
        let add =
            caller.prepare("select pgraft_add_node($1, '127.0.0.1', $2)").await.map_err(&sql)?;
        let remove = caller.prepare("select pgraft_remove_node($1)").await.map_err(&sql)?;
        Ok(Self {
            dir: dir.path().to_owned(),
            _servers: servers,
            watchers,
            caller,
            add,
            remove,
            next_id: 4,
            call: Vec::new(),
            added: MembershipChange::default(),
            shown_by_newcomer: Vec::new(),
            voter: Vec::new(),
            removed: MembershipChange::default(),
            not_running_added: MembershipChange::default(),
            not_running_removed: MembershipChange::default(),
        })
    }

    fn begin(&self, id: i32, there: bool) -> Instant {
        for watcher in &self.watchers {
            watcher.begin((id, there));
        }
        Instant::now()
    }

    /// A running member joins, becomes a voter, and leaves.
    async fn round(&mut self) -> Result<(), BenchFailure> {
        let begun = Instant::now();
        self.caller.query_one("select 1", &[]).await.map_err(BenchFailure::sql(1))?;
        self.call.push(begun.elapsed());

        let id = self.take_id();
        let dir = self.dir.join(format!("newcomer-{id}"));
        let (node, port) = newcomer(id, &dir).await?;
        let mut status = node.status();
        let itself =
            NodeId::new(i64::from(id)).map_err(|no| BenchFailure::Wrong(no.to_string()))?;

        let begun = self.begin(id, true);
        let newcomer_sees = tokio::spawn(async move {
            let seen =
                status.wait_for(|s| s.members.iter().any(|m| m.node_id == itself)).await.is_ok();
            let at = Instant::now();
            let votes = status.wait_for(|s| s.state == NodeState::Follower).await.is_ok();
            (seen && votes).then(|| (at, Instant::now()))
        });
        self.call(&self.add, &[&id, &i32::from(port)]).await?;
        self.added.note(begun, Instant::now(), &self.watchers)?;
        let (seen, votes) = tokio::time::timeout(TIMEOUT, newcomer_sees)
            .await
            .map_err(|_| BenchFailure::Deadline {
                what: "the new member to become a voter".into(),
                limit: TIMEOUT,
            })?
            .ok()
            .flatten()
            .ok_or_else(|| BenchFailure::Wrong("the new member has stopped".into()))?;
        self.shown_by_newcomer.push(seen - begun);
        self.voter.push(votes - begun);
        self.settled().await?;

        let begun = self.begin(id, false);
        self.call(&self.remove, &[&id]).await?;
        self.removed.note(begun, Instant::now(), &self.watchers)?;
        node.shutdown().await;
        std::fs::remove_dir_all(&dir).map_err(BenchFailure::io(dir.display().to_string()))
    }

    /// A learner that is not running is added and removed.
    async fn round_without_member(&mut self) -> Result<(), BenchFailure> {
        let (id, port) = (self.take_id(), free_port());
        let begun = self.begin(id, true);
        self.call(&self.add, &[&id, &i32::from(port)]).await?;
        self.not_running_added.note(begun, Instant::now(), &self.watchers)?;
        let begun = self.begin(id, false);
        self.call(&self.remove, &[&id]).await?;
        self.not_running_removed.note(begun, Instant::now(), &self.watchers)
    }

    fn take_id(&mut self) -> i32 {
        self.next_id += 1;
        self.next_id - 1
    }

    async fn call(
        &self,
        statement: &Statement,
        arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<(), BenchFailure> {
        let row =
            self.caller.query_one(statement, arguments).await.map_err(BenchFailure::sql(1))?;
        if row.get(0) { Ok(()) } else { Err(BenchFailure::Wrong("a change returned false".into())) }
    }

    /// Waits until the leader has four voters.
    async fn settled(&self) -> Result<(), BenchFailure> {
        until("four voters", || async {
            let row = self
                .caller
                .query_one("select voters from pgraft_status()", &[])
                .await
                .map_err(BenchFailure::sql(1))?;
            Ok(row.get::<_, i32>(0) == 4)
        })
        .await
    }

    fn print(self) {
        println!("{}", BenchSample::new(self.call).row("pgraft: select 1 on the same connection"));
        self.added.print("pgraft, a member joins");
        println!(
            "{}",
            BenchSample::new(self.shown_by_newcomer)
                .row("pgraft, a member joins: the member shows it")
        );
        println!("{}", BenchSample::new(self.voter).row("pgraft, a member joins: it is a voter"));
        self.removed.print("pgraft, a voter leaves");
        self.not_running_added.print("pgraft, a learner that is not running is added");
        self.not_running_removed.print("pgraft, it is removed");
    }
}

/// A member without Postgres that is in no cluster yet.
async fn newcomer(id: i32, dir: &Path) -> Result<(Node, u16), BenchFailure> {
    let port = free_port();
    let at = Address::new(&Ipv4Addr::LOCALHOST.to_string(), i64::from(port))
        .map_err(|e| BenchFailure::Wrong(e.to_string()))?;
    let settings = RaftSettings {
        node_id: NodeId::new(i64::from(id)).map_err(|e| BenchFailure::Wrong(e.to_string()))?,
        listen: at.clone(),
        advertise: at.clone(),
        data_dir: dir.to_owned(),
        heartbeat_interval: Duration::from_millis(200),
        election_timeout: Duration::from_secs(1),
        join_timeout: None,
        lease_timeout: None,
        snapshot_every: SNAPSHOT_EVERY,
        postgres: at,
        zone: String::new(),
        protection: Protection::default(),
    };
    let hooks = Hooks { wal: Arc::new(|| None), postgres: None, publish: Box::new(|_| {}) };
    Ok((Node::start(settings, hooks).await?, port))
}

fn watch(server: &TestServer) -> Watcher<Wanted> {
    let id = server.id;
    let config = server.conninfo();
    Watcher::new(move |runtime| {
        let sql = BenchFailure::sql(id);
        let client = runtime.block_on(crate::servers::connect(&config)).map_err(&sql)?;
        let there = runtime
            .block_on(
                client.prepare("select exists (select from pgraft_get_nodes() where node_id = $1)"),
            )
            .map_err(&sql)?;
        Ok(move |runtime: &tokio::runtime::Runtime, (node, wanted): &Wanted| {
            let row = runtime.block_on(client.query_one(&there, &[node])).map_err(&sql)?;
            Ok(row.get::<_, bool>(0) == *wanted)
        })
    })
}

struct EtcdSide {
    _etcd: Etcd,
    watchers: Vec<Watcher<(String, bool)>>,
    caller: EtcdGateway,
    call: Vec<Duration>,
    added: MembershipChange,
    removed: MembershipChange,
}

impl EtcdSide {
    async fn start(dir: &Path) -> Result<Self, BenchFailure> {
        let etcd = Etcd::start(dir).await?;
        let watch = |port: u16| {
            Watcher::new(move |runtime| {
                let mut gateway = runtime.block_on(EtcdGateway::connect(port))?;
                Ok(move |runtime: &tokio::runtime::Runtime, (peer, wanted): &(String, bool)| {
                    Ok(runtime.block_on(gateway.shows(peer))? == *wanted)
                })
            })
        };
        let watchers = etcd.ports.iter().map(|&port| watch(port)).collect();
        let caller = EtcdGateway::connect(etcd.leader().await?).await?;
        Ok(Self {
            _etcd: etcd,
            watchers,
            caller,
            call: Vec::new(),
            added: MembershipChange::default(),
            removed: MembershipChange::default(),
        })
    }

    fn begin(&self, peer: &str, there: bool) -> Instant {
        for watcher in &self.watchers {
            watcher.begin((peer.to_owned(), there));
        }
        Instant::now()
    }

    async fn round(&mut self) -> Result<(), BenchFailure> {
        let peer = format!("http://127.0.0.1:{}", free_port());
        let begun = Instant::now();
        self.caller.shows(&peer).await?;
        self.call.push(begun.elapsed());
        let begun = self.begin(&peer, true);
        let id = self.caller.add_learner(&peer).await?;
        self.added.note(begun, Instant::now(), &self.watchers)?;
        let begun = self.begin(&peer, false);
        self.caller.remove(&id).await?;
        self.removed.note(begun, Instant::now(), &self.watchers)
    }

    fn print(self, version: &str) {
        println!(
            "{}",
            BenchSample::new(self.call)
                .row(&format!("etcd {version}: member list on the same connection"))
        );
        self.added.print(&format!("etcd {version}, a learner that is not running is added"));
        self.removed.print(&format!("etcd {version}, it is removed"));
    }
}
