//! A group of three to five nodes, its log and its Postgres servers, as far as the protocol touches
//! them. Every decision in it is made by `pgraft_core::failover`; what the world adds is what can
//! happen: crashes, lost messages, nodes that apply late, receivers that linger.
//!
//! Raft is one order of committed states, and a majority of the voters that is up commits. Each
//! node applies at its own pace; a restart may fall back by two entries. A change of the voters is
//! in the logs of a majority when it is committed, and in those of the others when they apply it. A
//! WAL is a list of records, each with its timeline. Time is what may be over: a promise ends at
//! any moment at which the lease that it carries does not stand.

use pgraft_core::NodeId;
use pgraft_core::failover::primary::NamesState;
use pgraft_core::failover::{PrimaryTerm, Report, SyncConfig};
use pgraft_core::membership::majority;
use pgraft_core::status::WalPosition;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

mod decide;
mod group;
mod happen;
mod laws;
mod possible;

/// Nodes at most.
pub const MAX: usize = 5;
/// Records of a WAL at most: what would be more does not happen.
const WAL: usize = 13;

pub type Bits = u8;

pub fn id(n: usize) -> NodeId {
    NodeId::new(i64::try_from(n + 1).unwrap()).unwrap()
}

pub fn index(id: NodeId) -> usize {
    id.get() as usize - 1
}

fn ids(bits: Bits) -> BTreeSet<NodeId> {
    (0..MAX).filter(|n| bits >> n & 1 == 1).map(id).collect()
}

fn bits<'a>(ids: impl IntoIterator<Item = &'a NodeId>) -> Bits {
    ids.into_iter().fold(0, |all, id| all | 1 << index(*id))
}

/// A record: its timeline, and the client's write that it is, if it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModelRecord {
    pub timeline: u8,
    pub write: Option<u8>,
}

/// One committed state. Hashed once.
#[derive(Debug, PartialEq, Eq)]
pub struct Committed {
    pub primary_term: PrimaryTerm,
    pub voters: BTreeSet<NodeId>,
    /// Which of the memberships it is.
    pub membership: u8,
    hash: u64,
}

impl Committed {
    fn new(primary_term: PrimaryTerm, voters: BTreeSet<NodeId>, membership: u8) -> Rc<Self> {
        let mut hasher = DefaultHasher::new();
        (&primary_term, &voters, membership).hash(&mut hasher);
        Rc::new(Self { primary_term, voters, membership, hash: hasher.finish() })
    }
}

impl Hash for Committed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// A primary's run.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelRun {
    pub epoch: u64,
    pub timeline: u8,
    /// Whose acknowledgements carry the lease, and which of these are older than the last change of
    /// the voters.
    grants: Bits,
    older: Bits,
    read: bool,
    names: NamesState,
    /// What commits wait for, and what some walsenders still go by.
    waits: Option<Rc<SyncConfig>>,
    lingering: Option<Rc<SyncConfig>>,
    /// The change that the end of the WAL was noted for, and that end.
    noted: Option<(u64, u8)>,
    /// Where the WAL ended when it began: what is older, no client of this run waits for.
    began: u8,
    pub open: bool,
    /// What each standby has confirmed, and what it has said that is on its way.
    confirmed: [u8; MAX],
    under_way: [u8; MAX],
}

/// What a node's Postgres is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModelPostgres {
    Stopped,
    Primary(Box<ModelRun>),
    Standby,
    /// Since its WAL had diverged from that of this epoch's primary.
    Rewinding(u64),
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelNode {
    pub up: bool,
    pub applied: u8,
    /// The last membership in its log, applied or not: none of those is taken back here.
    membership: u8,
    pub epoch: u64,
    /// Its promise is over.
    free: bool,
    pub wal: Vec<ModelRecord>,
    pub postgres: ModelPostgres,
    /// Whether `standby.signal` exists: the promotion of its server was not complete since it was a
    /// standby.
    standby_signal: bool,
    abandoned_promotion: Option<u8>,
    /// Whom to follow and on which timeline: as configured, and as the startup process has read it.
    configured: Option<(u8, u8)>,
    loaded: Option<(u8, u8)>,
    receiver: Option<u8>,
}

impl ModelNode {
    pub fn run(&self) -> Option<&ModelRun> {
        match &self.postgres {
            ModelPostgres::Primary(run) if self.up => Some(run),
            _ => None,
        }
    }

    fn run_mut(&mut self) -> Option<&mut ModelRun> {
        match &mut self.postgres {
            ModelPostgres::Primary(run) => Some(run),
            _ => None,
        }
    }

    fn end(&self) -> WalPosition {
        let last = self.wal.last().map_or(0, |r| r.timeline);
        WalPosition { timeline: u32::from(last), lsn: self.wal.len() as u64 }
    }

    fn has(&self, write: u8) -> bool {
        self.wal.iter().any(|r| r.write == Some(write))
    }
}

/// What a leader or a primary has proposed and what may be committed later, or never.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proposal {
    Recruit(u64),
    Appoint(u64, NodeId),
    CommitSyncConfig(u64, u64),
}

/// How much may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    pub writes: u8,
    pub crashes: u8,
    pub epochs: u8,
    /// Changes of the standbys.
    pub changes: u8,
    /// Changes of the voters.
    pub voters: u8,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelViolation {
    AcknowledgedWriteMissing,
    TwoConfirmInOneEpoch,
    TimelineUsedTwice,
    ShownAndTakenBack,
    TwoOpenGates,
    ConfirmsWhatItHasNot,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelWorld {
    pub nodes: Vec<ModelNode>,
    pub history: Vec<Rc<Committed>>,
    /// Who votes by each membership.
    memberships: Vec<BTreeSet<NodeId>>,
    pub reports: [Option<Report>; MAX],
    proposals: BTreeSet<Proposal>,
    /// The epoch that each write was made in.
    made_in: Vec<u64>,
    acknowledged: u16,
    shown: u16,
    /// Who has confirmed a write in an epoch.
    confirmer: BTreeMap<u64, u8>,
    used_timelines: u32,
    pub opened: u64,
    pub left: Budget,
    pub violation: Option<ModelViolation>,
}

/// What can happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    PromiseEnds(u8),
    LeaseEnds(u8),
    Crash(u8),
    Restart(u8, u8),
    /// The worker ends and is started again while its server runs on.
    WorkerRestarts(u8, u8),
    /// The instance manager starts the server.
    Start(u8),
    Apply(u8),
    /// The next step of `node::next_step`.
    Step(u8),
    PromotionBreaksOff(u8),
    PrimaryTerm(u8),
    LoadConninfo(u8),
    ReceiverStarts(u8),
    ReceiverEnds(u8),
    Receive(u8),
    RewindEnds(u8, u8),
    Confirm(u8, u8),
    Grant(u8, u8),
    NamesLoaded(u8),
    Write(u8),
    Lead,
    Commit(u8),
    ChangeStandbys(Bits),
    /// Whose vote comes or goes, and whose logs have it when it is committed.
    ChangeVoter(u8, Bits),
}

impl ModelWorld {
    /// `size` nodes of which `voters` vote; the first is the primary, its standbys are `standbys`.
    pub fn new(size: usize, voters: Bits, standbys: Bits, left: Budget) -> Self {
        let mut primary_term = PrimaryTerm::bootstrap(id(0));
        let _ = primary_term.propose_sync_config(1, 0, ids(standbys));
        let _ = primary_term.commit_sync_config(1, primary_term.change);
        let target = Rc::new(primary_term.configs[0].clone());
        let first = ModelRecord { timeline: 1, write: None };
        let mut nodes: Vec<ModelNode> = (0..size)
            .map(|n| ModelNode {
                up: true,
                applied: 0,
                membership: 0,
                epoch: 1,
                free: false,
                wal: vec![first],
                postgres: ModelPostgres::Standby,
                standby_signal: n > 0,
                abandoned_promotion: None,
                configured: (n > 0).then_some((0, 1)),
                loaded: (n > 0).then_some((0, 1)),
                receiver: (n > 0).then_some(0),
            })
            .collect();
        let change = primary_term.change;
        let run = ModelRun {
            epoch: 1,
            timeline: 1,
            grants: voters,
            older: 0,
            read: true,
            names: NamesState::Loaded(change),
            waits: Some(target),
            lingering: None,
            noted: Some((change, 1)),
            began: 1,
            open: true,
            confirmed: [1; MAX],
            under_way: [1; MAX],
        };
        nodes[0].postgres = ModelPostgres::Primary(Box::new(run));
        Self {
            nodes,
            history: vec![Committed::new(primary_term, ids(voters), 0)],
            memberships: vec![ids(voters)],
            reports: [None; MAX],
            proposals: BTreeSet::new(),
            made_in: Vec::new(),
            acknowledged: 0,
            shown: 0,
            confirmer: BTreeMap::new(),
            used_timelines: 0b10,
            opened: 1,
            left,
            violation: None,
        }
    }

    pub fn last(&self) -> &Rc<Committed> {
        self.history.last().unwrap()
    }

    fn applied(&self, n: usize) -> &Rc<Committed> {
        &self.history[self.nodes[n].applied as usize]
    }

    /// Who votes by the log of that node.
    fn voters_in_log(&self, n: usize) -> &BTreeSet<NodeId> {
        &self.memberships[self.nodes[n].membership as usize]
    }

    /// Whether a primary's lease stands.
    pub fn has_lease(&self, n: usize) -> bool {
        let voters = bits(self.voters_in_log(n));
        self.nodes[n].run().is_some_and(|run| {
            (run.grants & voters).count_ones() as usize >= majority(voters.count_ones() as usize)
        })
    }

    pub fn is_open(&self, n: usize) -> bool {
        self.nodes[n].run().is_some_and(|run| run.open) && self.has_lease(n)
    }

    fn majority_is_up(&self, voters: &BTreeSet<NodeId>) -> bool {
        voters.iter().filter(|v| self.nodes[index(**v)].up).count() >= majority(voters.len())
    }
}
