//! What a person or the operator can tell a member to do. Every command checks first, changes the
//! log once, and waits until the change is committed, applied and published here; each can be
//! called again at any time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use pgraft_core::control::{LogRow, MAX_FRAME, Request, Response};
use pgraft_core::failover::force::may_force;
use pgraft_core::membership::{may_join, may_leave};
use pgraft_core::{
    Address, ClusterId, Command, MemberStatus, NodeId, NodeStatus, Outcome, Refusal,
};
use tokio::time::{Instant, sleep, timeout_at};

use super::NodeShared;
use super::failover::Switchover;
use super::primary_view::primary_update;
use crate::machine;
use crate::store::AppliedState;
use crate::types::{AppliedEntry, Endpoint, LogCommand, node_id, raft_id};

/// How long a command may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a newcomer may take to answer, where it matters whether it does.
const DIAL: Duration = Duration::from_secs(1);
/// Right after an election a write is refused until the first majority has answered: a moment later
/// it goes through.
const RETRY_DELAY: Duration = Duration::from_millis(5);
/// Entries that `pgraft_log()` can show, and the bytes that they may take, well below a frame of
/// the control socket.
const LOG_LIMIT: usize = 1000;
const LOG_BYTES: usize = MAX_FRAME * 3 / 4;

/// Who was asked is not the leader.
struct NotLeader(Option<(NodeId, Address)>);

enum Failed {
    NotLeader(NotLeader),
    Refused(Refusal),
}

impl From<Refusal> for Failed {
    fn from(no: Refusal) -> Self {
        Self::Refused(no)
    }
}

impl Failed {
    fn or(self, on_follower: impl FnOnce(Option<(NodeId, Address)>) -> Refusal) -> Refusal {
        match self {
            Self::NotLeader(NotLeader(leader)) => on_follower(leader),
            Self::Refused(no) => no,
        }
    }
}

/// Carries out the requests of one member.
pub struct Commands<'a> {
    node: &'a NodeShared,
}

impl<'a> Commands<'a> {
    /// Of that member.
    pub const fn of(node: &'a NodeShared) -> Self {
        Self { node }
    }

    /// Answers one request of the control socket.
    pub async fn answer(&self, request: Request) -> Response {
        let done = |notice: Result<Option<String>, Refusal>| {
            notice.map_or_else(Response::from, |notice| Response::Done { notice })
        };
        match request {
            Request::Init => done(
                self.init().await.map_err(|f| f.or(|_| Refusal::NotInitialized)).map(|()| None),
            ),
            Request::AddNode { node_id, address, port } => done(
                self.add_node(node_id, &address, port)
                    .await
                    .map_err(|f| f.or(|leader| Refusal::AddOnFollower { leader })),
            ),
            Request::RemoveNode { node_id } => done(
                self.remove_node(node_id)
                    .await
                    .map_err(|f| f.or(|leader| Refusal::RemoveOnFollower { leader })),
            ),
            Request::SetAddress { node_id, address, port } => done(
                self.set_address(node_id, &address, port)
                    .await
                    .map_err(|f| f.or(|leader| Refusal::SetAddressOnFollower { leader })),
            ),
            Request::Switchover { target } => done(self.switch_over(target).await),
            Request::ForcePrimary { node_id, accept_data_loss } => {
                let forced = self.force_primary(node_id, accept_data_loss).await;
                done(forced.map_err(|f| f.or(|leader| Refusal::ForceOnFollower { leader })))
            }
            Request::HandOver => done(self.hand_over().await),
            Request::Status => {
                Response::Status(Box::new(NodeStatus::clone(&self.node.status.borrow())))
            }
            Request::WatchPrimary { heard } => {
                Response::WatchPrimary(primary_update(self.node, heard).await)
            }
            Request::Log { limit } => match self.log_rows(limit.min(LOG_LIMIT)) {
                Ok(entries) => Response::Log { entries },
                Err(error) => Refusal::Stopped(error.to_string()).into(),
            },
        }
    }

    async fn switch_over(&self, target: i64) -> Result<Option<String>, Refusal> {
        Switchover::of(self.node)?.run(target).await
    }

    async fn hand_over(&self) -> Result<Option<String>, Refusal> {
        Switchover::of(self.node)?.to_most_advanced().await
    }

    /// Makes a cluster of this one node. A crash half way is finished by the next call: the
    /// cluster's id is on disk before anything else.
    async fn init(&self) -> Result<(), Failed> {
        let deadline = Instant::now() + DEADLINE;
        if let Some(cluster) = self.node.applied.borrow().cluster.cluster {
            return Err(Refusal::AlreadyInitialized(cluster).into());
        }
        let _one_at_a_time = self.node.bootstrapping.lock().await;
        let belonging = self
            .node
            .local
            .found(ClusterId(machine::new_uuid()))
            .map_err(|e| Refusal::Stopped(e.to_string()))?;
        if !belonging.bootstrapped_here {
            return Err(Refusal::AlreadyInitialized(belonging.id).into());
        }
        let cluster = belonging.id;
        if !self.node.raft.is_initialized().await.map_err(|e| Refusal::Stopped(e.to_string()))? {
            let me = raft_id(self.node.settings.node_id);
            let first = std::collections::BTreeMap::from([(
                me,
                Endpoint::from(&self.node.settings.advertise),
            )]);
            self.node.raft.initialize(first).await.map_err(|e| Refusal::Stopped(e.to_string()))?;
        }
        self.leads(deadline).await?;
        let command = Command::Init {
            cluster,
            node: self.node.settings.node_id,
            address: self.node.settings.advertise.clone(),
        };
        self.write(command, deadline).await.map(drop)
    }

    /// Waits until the only voter has elected itself.
    async fn leads(&self, deadline: Instant) -> Result<(), Failed> {
        let mut metrics = self.node.raft.metrics();
        while !self.node.raft.is_leader() {
            match timeout_at(deadline, metrics.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Refusal::Stopped("it is shutting down".into()).into()),
                Err(_) => return Err(Refusal::NoQuorum { seconds: DEADLINE.as_secs() }.into()),
            }
        }
        Ok(())
    }

    async fn add_node(&self, node: i64, host: &str, port: i64) -> Result<Option<String>, Failed> {
        let deadline = Instant::now() + DEADLINE;
        let node = NodeId::new(node).map_err(Refusal::from)?;
        let address = Address::new(host, port).map_err(Refusal::from)?;
        let applied = self.read(deadline).await?;
        let command = Command::Join { node, address: address.clone() };
        // Asked of the present state first, so that a "no" leaves no entry in the log.
        if machine::apply(&mut applied.cluster.clone(), &command)? == Outcome::AlreadySo {
            return Ok(Some(format!("node {node} is already a member with address {address}")));
        }
        self.resolves(&address).await?;
        if may_join(&self.node.status.borrow().members, node, false).is_err() {
            let answers =
                timeout_at(Instant::now() + DIAL, self.node.peers.network.connect(&address))
                    .await
                    .is_ok_and(|c| c.is_ok());
            self.majority_allows(|members| may_join(members, node, answers)).await?;
        }
        match self.write(command, deadline).await? {
            Outcome::Changed => Ok(None),
            Outcome::AlreadySo => {
                Ok(Some(format!("node {node} is already a member with address {address}")))
            }
        }
    }

    async fn remove_node(&self, node: i64) -> Result<Option<String>, Failed> {
        let deadline = Instant::now() + DEADLINE;
        let node = NodeId::new(node).map_err(Refusal::from)?;
        let applied = self.read(deadline).await?;
        let command = Command::Remove { node };
        let outcome = machine::apply(&mut applied.cluster.clone(), &command)?;
        if applied.cluster.retired.contains(&node) {
            return Ok(Some(format!("node {node} was removed before")));
        }
        if outcome == Outcome::Changed {
            self.majority_allows(|members| may_leave(members, node)).await?;
            self.write(command, deadline).await?;
        }
        self.gone(node, deadline).await
    }

    /// The same node and directory, listening elsewhere. Raft's membership follows, by the driver.
    async fn set_address(
        &self,
        node: i64,
        host: &str,
        port: i64,
    ) -> Result<Option<String>, Failed> {
        let deadline = Instant::now() + DEADLINE;
        let node = NodeId::new(node).map_err(Refusal::from)?;
        let address = Address::new(host, port).map_err(Refusal::from)?;
        let applied = self.read(deadline).await?;
        let command = Command::SetAddress { node, address: address.clone() };
        let outcome = match applied.cluster.clone().apply(&command)? {
            Outcome::AlreadySo => Outcome::AlreadySo,
            Outcome::Changed => {
                self.resolves(&address).await?;
                self.write(command, deadline).await?
            }
        };
        Ok((outcome == Outcome::AlreadySo)
            .then(|| format!("the cluster already looks for node {node} at {address}")))
    }

    /// On the leader, since nobody else knows who has reported what.
    async fn force_primary(
        &self,
        node: i64,
        accept_data_loss: bool,
    ) -> Result<Option<String>, Failed> {
        let deadline = Instant::now() + DEADLINE;
        let node = NodeId::new(node).map_err(Refusal::from)?;
        let failover = self.node.failover.as_ref().ok_or(Refusal::FailoverIsOff)?;
        let applied = self.read(deadline).await?;
        let primary_term = applied.cluster.primary_term.as_ref().ok_or(Refusal::NotInitialized)?;
        let reports = failover.leader.reports();
        if may_force(primary_term, &applied.cluster.electorate(), &reports, node, accept_data_loss)?
            == Outcome::AlreadySo
        {
            return Ok(Some(format!("node {node} is the primary already")));
        }
        let heard = reports.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        tracing::warn!(
            "node {node} is made the primary of epoch {} by force: only {heard} said how far their WAL reaches",
            primary_term.epoch
        );
        self.write(Command::Force { epoch: primary_term.epoch, primary: node }, deadline).await?;
        Ok(Some(format!(
            "node {node} becomes the primary: acknowledged writes that it has not are lost"
        )))
    }

    async fn resolves(&self, address: &Address) -> Result<(), Refusal> {
        let unresolvable = |_| Refusal::Unresolvable(address.host().to_owned());
        self.node.peers.network.knows(address.host()).await.map_err(unresolvable)
    }

    /// Asks a rule about who answers. A leader that is new has not heard everybody yet, and waits a
    /// moment before it takes them for dead.
    async fn majority_allows(
        &self,
        rule: impl Fn(&[MemberStatus]) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let patience = Instant::now() + 2 * self.node.settings.election_timeout;
        let mut status = self.node.status.subscribe();
        loop {
            let (answer, all_known) = {
                let now = status.borrow_and_update();
                (rule(&now.members), now.members.iter().all(|m| m.last_contact_ms.is_some()))
            };
            if answer.is_ok()
                || all_known
                || !matches!(timeout_at(patience, status.changed()).await, Ok(Ok(())))
            {
                return answer;
            }
        }
    }

    /// Waits until the member is out.
    async fn gone(&self, node: NodeId, deadline: Instant) -> Result<Option<String>, Failed> {
        let mut status = self.node.status.subscribe();
        loop {
            if !status.borrow_and_update().members.iter().any(|m| m.node_id == node) {
                return Ok(None);
            }
            if node == self.node.settings.node_id && !self.node.raft.is_leader() {
                return Ok(Some(format!(
                    "node {node} has handed over the lead; the new leader takes it out"
                )));
            }
            match timeout_at(
                deadline.min(Instant::now() + Duration::from_millis(100)),
                status.changed(),
            )
            .await
            {
                Ok(Err(_)) => return Err(Refusal::Stopped("it is shutting down".into()).into()),
                Err(_) if Instant::now() >= deadline => {
                    return Err(Refusal::NotComplete { seconds: DEADLINE.as_secs() }.into());
                }
                Ok(Ok(())) | Err(_) => {}
            }
        }
    }

    /// The applied state, once it holds everything that was committed before this call. On the
    /// leader only.
    async fn read(&self, deadline: Instant) -> Result<Arc<AppliedState>, Failed> {
        if self.node.applied.borrow().cluster.cluster.is_none() {
            return Err(Refusal::NotInitialized.into());
        }
        loop {
            match timeout_at(deadline, self.node.raft.get_read_linearizer(ReadPolicy::LeaseRead))
                .await
            {
                Err(_) => return Err(Refusal::NoQuorum { seconds: DEADLINE.as_secs() }.into()),
                Ok(Ok(linearizer)) => {
                    let ready = timeout_at(deadline, linearizer.await_ready(&self.node.raft)).await;
                    ready
                        .map_err(|_| Refusal::NoQuorum { seconds: DEADLINE.as_secs() })?
                        .map_err(|e| Refusal::Stopped(e.to_string()))?;
                    return Ok(self.node.applied.borrow().clone());
                }
                Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                    self.or_elsewhere(forward.leader_id)?;
                }
                Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => {}
                Ok(Err(RaftError::Fatal(fatal))) => {
                    return Err(Refusal::Stopped(fatal.to_string()).into());
                }
            }
            self.retry(deadline).await?;
        }
    }

    /// Appends the command and waits until it is committed, applied and published here.
    async fn write(&self, command: Command, deadline: Instant) -> Result<Outcome, Failed> {
        loop {
            match timeout_at(deadline, self.node.raft.client_write(LogCommand(command.clone())))
                .await
            {
                Err(_) => return Err(Refusal::NoQuorum { seconds: DEADLINE.as_secs() }.into()),
                Ok(Ok(written)) => {
                    self.published(written.log_id.index, deadline).await?;
                    return match written.data {
                        AppliedEntry::Command(result) => Ok(result?),
                        AppliedEntry::Raft => {
                            Err(Refusal::Stopped("a command was applied as something else".into())
                                .into())
                        }
                    };
                }
                Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                    self.or_elsewhere(forward.leader_id)?;
                }
                // Dropped for another leader's log: it may be there or not, and the same command
                // again finds out.
                Ok(Err(RaftError::APIError(_))) => {}
                Ok(Err(RaftError::Fatal(fatal))) => {
                    return Err(Refusal::Stopped(fatal.to_string()).into());
                }
            }
            self.retry(deadline).await?;
        }
    }

    /// Another node leads: say so. None or this one: a moment's patience.
    fn or_elsewhere(&self, leader: Option<u64>) -> Result<(), Failed> {
        match leader.and_then(node_id) {
            Some(leader) if leader != self.node.settings.node_id => {
                // Raft remembers the last leader for ever; the status says whether it is still
                // heard.
                let heard = self.node.compose(None).leader == Some(leader);
                let address = self
                    .node
                    .applied
                    .borrow()
                    .cluster
                    .members
                    .get(&leader)
                    .map(|m| m.address.clone());
                Err(Failed::NotLeader(NotLeader(address.filter(|_| heard).map(|a| (leader, a)))))
            }
            // A follower that knows of no leader has nothing to wait for.
            None if !self.node.raft.is_leader()
                && self.node.raft.metrics().borrow_watched().state
                    != openraft::ServerState::Candidate =>
            {
                Err(Failed::NotLeader(NotLeader(None)))
            }
            _ => Ok(()),
        }
    }

    async fn retry(&self, deadline: Instant) -> Result<(), Failed> {
        if Instant::now() + RETRY_DELAY >= deadline {
            return Err(Refusal::NoQuorum { seconds: DEADLINE.as_secs() }.into());
        }
        sleep(RETRY_DELAY).await;
        Ok(())
    }

    /// Waits until backends of this server see what was applied.
    async fn published(&self, index: u64, deadline: Instant) -> Result<(), Failed> {
        let mut status = self.node.status.subscribe();
        let seen = status.wait_for(|s| s.applied_index >= index);
        match timeout_at(deadline, seen).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Refusal::Stopped("it is shutting down".into()).into()),
            Err(_) => Err(Refusal::NotComplete { seconds: DEADLINE.as_secs() }.into()),
        }
    }

    fn log_rows(&self, limit: usize) -> io::Result<Vec<LogRow>> {
        let applied = self.node.applied.borrow().clone();
        let committed =
            self.node.raft.metrics().borrow_watched().local_committed.map_or(0, |id| id.index);
        let row = |entry: crate::types::Entry| {
            let (kind, data) = match &entry.payload {
                openraft::EntryPayload::Blank => ("blank", "{}".to_owned()),
                openraft::EntryPayload::Normal(command) => {
                    (command.0.kind(), serde_json::to_string(command)?)
                }
                openraft::EntryPayload::Membership(membership) => {
                    ("membership", serde_json::to_string(membership)?)
                }
            };
            let index = entry.log_id.index;
            Ok(LogRow {
                index,
                term: entry.log_id.committed_leader_id().term,
                kind: kind.to_owned(),
                data,
                committed: index <= committed,
                applied_at: applied
                    .times
                    .iter()
                    .rev()
                    .find(|(i, _)| *i == index)
                    .map(|(_, at)| *at),
            })
        };
        // The latest that fit into an answer.
        let mut rows = self
            .node
            .log
            .tail(limit)?
            .into_iter()
            .rev()
            .map(row)
            .collect::<io::Result<Vec<LogRow>>>()?;
        let mut room = LOG_BYTES;
        let fits = rows.iter().take_while(|r| {
            room = room.saturating_sub(2 * r.data.len() + 200);
            room > 0
        });
        let fitting = fits.count();
        rows.truncate(fitting);
        rows.reverse();
        Ok(rows)
    }
}
