//! Failover: carries out what `pgraft_core::failover` decides, on this member's Postgres and over
//! the network.
//!
//! | task | what it does | decisions |
//! |---|---|---|
//! | agent | this member's own Postgres: recruit, report, follow, promote; as the primary: names, barrier, gate | `node`, `primary` |
//! | lease | as the primary: heartbeats to every member, and the gate's deadline | `lease` |
//! | lead | on the Raft leader: asks the voters, recruits, appoints | `leader` |
//! | release | tells every voter that a run of this Postgres has ended | – |
//!
//! What the tasks share is split by role. Each role owns one lock and says in its file what can be
//! done with it; no lock is held while another one is taken.
//!
//! | role | what it holds |
//! |---|---|
//! | [`VoterRole`] | the promise, the report, the primary that this voter knows of |
//! | [`PrimaryRole`] | the run as the primary, the answers to heartbeats, the gate |
//! | [`LeaderView`] | the recruits' reports, the target of a switchover |
//! | [`Progress`] | the step that the status shows |
//!
//! What is on disk ([`Durable`]) belongs to the agent alone.

mod agent;
mod durable;
mod lead;
mod leader_view;
mod lease;
mod network;
mod postgres;
mod primary;
mod progress;
mod release;
mod switchover;
mod voter;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pgraft_core::NodeId;
use pgraft_core::failover::{LastFailover, Phase, PrimaryTerm};
use pgraft_core::status::FailoverStatus;
use tokio::sync::Notify;

use self::leader_view::LeaderView;
use self::primary::PrimaryRole;
use self::progress::Progress;
use self::voter::VoterRole;
use crate::identity::Identity;

pub use agent::Agent;
pub use durable::{Durable, FILE_NAME as PROMISES_FILE};
pub use lead::{leave_the_lead, run as lead};
pub use lease::run as lease;
pub use postgres::{PostgresControl, ServerDirective, ServerRepair, ServerState};
pub use release::{release_what_ends, run as release};
pub use switchover::Switchover;

/// What the tasks share.
pub struct Failover {
    pub postgres: Arc<dyn PostgresControl>,
    lease_ms: u64,
    pub voter: VoterRole,
    pub primary: PrimaryRole,
    pub leader: LeaderView,
    pub progress: Progress,
    /// Wakes the agent: something that a step may depend on has changed.
    agent: Notify,
}

impl Failover {
    /// Reads what this member has promised; the agent gets what is on disk.
    ///
    /// # Errors
    /// The file cannot be read or written, or is missing.
    pub fn open(
        dir: &Path,
        identity: &mut Identity,
        postgres: Arc<dyn PostgresControl>,
        lease: Duration,
    ) -> io::Result<(Self, Durable)> {
        let durable = Durable::open(dir, identity)?;
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let owes_ms = if durable.fresh { 0 } else { lease_ms };
        let failover = Self {
            voter: VoterRole::new(durable.epoch, postgres.now(), owes_ms, lease_ms),
            primary: PrimaryRole::new(Arc::clone(&postgres), lease_ms),
            leader: LeaderView::default(),
            progress: Progress::default(),
            agent: Notify::new(),
            postgres,
            lease_ms,
        };
        Ok((failover, durable))
    }

    /// Has the agent take its next step now.
    pub fn poke(&self) {
        self.agent.notify_one();
    }

    /// The part of the status that is about the failover.
    pub fn status(
        &self,
        primary_term: Option<&PrimaryTerm>,
        last: Option<LastFailover>,
        voters: &BTreeSet<NodeId>,
    ) -> FailoverStatus {
        let phase = primary_term.map_or(Phase::Steady, |term| term.phase);
        let text = self.progress.text();
        let waits_for = match phase {
            Phase::Steady => text.waits_for,
            Phase::Recruiting => self.leader.waits_for(),
        };
        let open_until = self.primary.open_until(voters);
        let target = primary_term.and_then(PrimaryTerm::target);
        FailoverStatus {
            phase,
            timeline: primary_term.map_or(0, |term| term.timeline),
            step: text.step,
            gate_ms: open_until.map(|until| until.0.saturating_sub(self.postgres.now().0)),
            waits_for: waits_for.into_iter().collect(),
            sync_standbys: target
                .map(|config| config.standbys.iter().copied().collect())
                .unwrap_or_default(),
            sync_required: target.map_or(0, |config| config.required),
            last,
        }
    }
}
