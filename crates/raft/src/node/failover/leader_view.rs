//! What the Raft leader knows for a failover: the recruits' reports, the members that it waits for,
//! and the target of a switchover. Written by the lead task and by switchovers.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use pgraft_core::NodeId;
use pgraft_core::failover::Report;
use tokio::sync::Notify;

#[derive(Default)]
struct LeaderState {
    reports: BTreeMap<NodeId, Report>,
    waits_for: BTreeSet<NodeId>,
    /// The node that becomes the primary of that epoch if no other has more WAL.
    preferred: Option<(u64, NodeId)>,
}

/// What the Raft leader knows. No method calls another role while it holds the lock.
#[derive(Default)]
pub struct LeaderView {
    state: Mutex<LeaderState>,
    /// Wakes the lead task: a voter is free, or may be.
    lead_task: Notify,
}

impl LeaderView {
    /// Keeps the reports.
    pub fn set_reports(&self, reports: BTreeMap<NodeId, Report>) {
        self.state.lock().reports = reports;
    }

    /// The latest report of each member.
    pub fn reports(&self) -> BTreeMap<NodeId, Report> {
        self.state.lock().reports.clone()
    }

    /// Keeps the members that the leader waits for.
    pub fn set_waits_for(&self, members: BTreeSet<NodeId>) {
        self.state.lock().waits_for = members;
    }

    /// The members that the leader waits for.
    pub fn waits_for(&self) -> BTreeSet<NodeId> {
        self.state.lock().waits_for.clone()
    }

    /// This member does not lead.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        state.reports.clear();
        state.waits_for.clear();
    }

    /// The switchover under way: the epoch that it begins, and its target.
    pub fn preferred(&self) -> Option<(u64, NodeId)> {
        self.state.lock().preferred
    }

    /// Prefers a node for as long as the guard lives; None while another switchover is under way.
    pub fn prefer(&self, epoch: u64, target: NodeId) -> Option<SwitchoverGuard<'_>> {
        let mut state = self.state.lock();
        if state.preferred.is_some_and(|(other, _)| other == epoch) {
            return None;
        }
        state.preferred = Some((epoch, target));
        Some(SwitchoverGuard(self, (epoch, target)))
    }

    /// Has the lead task ask the voters now.
    pub fn ask(&self) {
        self.lead_task.notify_one();
    }

    /// Waits for [`Self::ask`].
    pub async fn asked(&self) {
        self.lead_task.notified().await;
    }
}

/// The one switchover under way.
pub struct SwitchoverGuard<'a>(&'a LeaderView, (u64, NodeId));

impl Drop for SwitchoverGuard<'_> {
    fn drop(&mut self) {
        let preferred = &mut self.0.state.lock().preferred;
        *preferred = preferred.filter(|present| *present != self.1);
    }
}
