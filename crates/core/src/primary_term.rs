//! The replicated part of the failover protocol: the primary term, and how commands change it. All
//! members apply the same commands in the same order. Every command names the state for which it was
//! made; an outdated command has no effect.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use crate::NodeId;
use crate::sync_config::SyncConfig;

/// The maximum of sync configs in force: a change may be replaced by another one before it is
/// committed.
const MAX_CONFIGS: usize = 3;

/// The period of one primary: its epoch, timeline and sync configs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PrimaryTerm {
    /// The number of the primary term. A failover takes the next one.
    pub epoch: u64,
    /// Whether there is a primary.
    pub phase: Phase,
    /// The primary, while recruiting the last one.
    pub primary: NodeId,
    /// The timeline assigned to it.
    pub timeline: u32,
    /// The next timeline to assign. None is assigned twice, because `pg_rewind` cannot distinguish two
    /// promotions to the same timeline.
    pub next_timeline: u32,
    /// The sync configs in force; a commit was confirmed under one of them. The last one is the
    /// target, which `synchronous_standby_names` must follow.
    pub configs: Vec<SyncConfig>,
    /// Counts the changes of `configs`, so that a confirmation of an earlier one is not mistaken for
    /// that of a later one.
    pub change: u64,
    /// Whether the configs have been settled in this primary term. Before that its primary has
    /// acknowledged nothing.
    pub settled: bool,
}

/// Whether the group has a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Phase {
    /// There is a primary.
    Steady,
    /// A successor is being determined.
    Recruiting,
}

/// Why a primary term ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum TermEndReason {
    /// A majority of voters received no heartbeat of the primary for a lease timeout.
    LeaseExpired,
    /// The primary's Postgres has ended.
    Released,
    /// A switchover was requested.
    Switchover,
    /// A primary was forced, although acknowledged writes may be lost.
    Forced,
}

/// The latest change of the primary, for display.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastFailover {
    /// The epoch that began with it.
    pub epoch: u64,
    /// The previous primary.
    pub from: NodeId,
    /// The new primary; None until its standbys have confirmed its WAL.
    pub to: Option<NodeId>,
    /// The reason.
    pub reason: TermEndReason,
    /// Its beginning by the leader's clock: milliseconds since the Unix epoch.
    pub began_ms: i64,
    /// Its end by the new primary's clock, when it could take writes apart from its lease: milliseconds
    /// since the Unix epoch.
    pub ended_ms: Option<i64>,
}

/// A command was made for an earlier state and has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MovedOn;

impl PrimaryTerm {
    /// The first primary term: the bootstrap node alone, on the timeline of `initdb`.
    pub fn bootstrap(node: NodeId) -> Self {
        let config = SyncConfig::new(1, node, BTreeSet::new());
        Self {
            epoch: 1,
            phase: Phase::Steady,
            primary: node,
            timeline: 1,
            next_timeline: 2,
            configs: vec![config],
            change: 0,
            settled: true,
        }
    }

    /// The target sync config.
    pub fn target(&self) -> Option<&SyncConfig> {
        self.configs.last()
    }

    /// Whether exactly one sync config is in force, and confirmed.
    pub fn is_settled(&self) -> bool {
        self.phase == Phase::Steady && self.settled && self.configs.len() == 1
    }

    /// Ends the primary term.
    ///
    /// # Errors
    /// [`MovedOn`] unless `epoch` is the next one and there is a primary to replace.
    pub fn recruit(&mut self, epoch: u64) -> Result<(), MovedOn> {
        if self.phase != Phase::Steady || epoch != self.epoch + 1 {
            return Err(MovedOn);
        }
        // A primary term that was never settled has acknowledged nothing, so its configs can go.
        // This keeps the list short after several failures in a row.
        if !self.settled {
            let ended = self.epoch;
            self.configs.retain(|c| c.epoch != ended);
        }
        self.epoch = epoch;
        self.phase = Phase::Recruiting;
        self.change += 1;
        Ok(())
    }

    /// Appoints a new primary, with a timeline of its own. Its config is added to those in force: what
    /// was acknowledged under them is safe only when the new one has confirmed it
    /// ([`Self::commit_sync_config`]).
    ///
    /// # Errors
    /// [`MovedOn`] unless this epoch is recruiting and the appointee is a voter. The first appointment
    /// of an epoch counts.
    pub fn appoint(
        &mut self,
        epoch: u64,
        primary: NodeId,
        voters: &BTreeSet<NodeId>,
    ) -> Result<(), MovedOn> {
        if self.phase != Phase::Recruiting || epoch != self.epoch || !voters.contains(&primary) {
            return Err(MovedOn);
        }
        let standbys = voters.iter().copied().filter(|v| *v != primary).collect();
        self.phase = Phase::Steady;
        self.primary = primary;
        self.timeline = self.next_timeline;
        self.next_timeline += 1;
        self.configs.push(SyncConfig::new(epoch, primary, standbys));
        self.change += 1;
        self.settled = false;
        Ok(())
    }

    /// Appoints a primary that an administrator has chosen, and drops the earlier configs. Writes that
    /// were acknowledged under them may be lost.
    ///
    /// # Errors
    /// [`MovedOn`] as [`Self::appoint`].
    pub fn force(
        &mut self,
        epoch: u64,
        primary: NodeId,
        voters: &BTreeSet<NodeId>,
    ) -> Result<(), MovedOn> {
        self.appoint(epoch, primary, voters)?;
        self.configs.drain(..self.configs.len() - 1);
        Ok(())
    }

    /// Proposes other standbys for the primary to wait for. Returning to an earlier config is a change
    /// like any other: a config leaves only by [`Self::commit_sync_config`].
    ///
    /// # Errors
    /// [`MovedOn`] unless `epoch` and `change` are the current ones, there is a primary, and fewer than
    /// three configs are in force.
    pub fn propose_sync_config(
        &mut self,
        epoch: u64,
        change: u64,
        standbys: BTreeSet<NodeId>,
    ) -> Result<(), MovedOn> {
        if self.phase != Phase::Steady
            || epoch != self.epoch
            || change != self.change
            || standbys.contains(&self.primary)
        {
            return Err(MovedOn);
        }
        let config = SyncConfig::new(epoch, self.primary, standbys);
        let known = self.configs.iter().position(|c| c.is_like(&config));
        match known {
            Some(n) if n + 1 == self.configs.len() => return Ok(()), // it is the target
            Some(n) => {
                // Commits may wait for it already, so it keeps its epoch.
                let config = self.configs.remove(n);
                self.configs.push(config);
            }
            None if self.configs.len() >= MAX_CONFIGS => return Err(MovedOn),
            None => self.configs.push(config),
        }
        self.change += 1;
        Ok(())
    }

    /// Commits the target: it has confirmed everything up to a position that was noted when commits
    /// waited for it alone. The other configs leave.
    ///
    /// # Errors
    /// [`MovedOn`] unless `epoch` and `change` are the current ones.
    pub fn commit_sync_config(&mut self, epoch: u64, change: u64) -> Result<(), MovedOn> {
        if self.phase != Phase::Steady || epoch != self.epoch || change != self.change {
            return Err(MovedOn);
        }
        let target = self.configs.pop();
        self.configs.clear();
        self.configs.extend(target);
        self.settled = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u8) -> NodeId {
        NodeId::new(i64::from(n)).unwrap()
    }

    fn voters() -> BTreeSet<NodeId> {
        (1..=5).map(id).collect()
    }

    #[derive(Debug, Clone)]
    enum TermChange {
        Recruit(u64),
        Appoint(u64, u8),
        ProposeSyncConfig(u64, u64, BTreeSet<u8>),
        CommitSyncConfig(u64, u64),
    }

    fn change() -> impl Strategy<Value = TermChange> {
        // Offsets from the current epoch and change: mostly right, sometimes late or early.
        let off = prop_oneof![8 => Just(1u64), 1 => Just(0u64), 1 => Just(2u64)];
        prop_oneof![
            1 => off.clone().prop_map(TermChange::Recruit),
            3 => (off.clone(), 1..7u8).prop_map(|(e, p)| TermChange::Appoint(e, p)),
            2 => (off.clone(), off.clone(), prop::collection::btree_set(1..6u8, 0..5)).prop_map(|(e, c, s)| TermChange::ProposeSyncConfig(e, c, s)),
            4 => (off.clone(), off).prop_map(|(e, c)| TermChange::CommitSyncConfig(e, c)),
        ]
    }

    proptest! {
        #[test]
        fn holds_for_any_order_of_commands(changes in prop::collection::vec(change(), 1..60)) {
            let mut primary_term = PrimaryTerm::bootstrap(id(1));
            let mut given = BTreeSet::from([1]);
            for change in changes {
                let before = primary_term.clone();
                let at = |offset: u64, now: u64| (now + offset).saturating_sub(1);
                let result = match change.clone() {
                    TermChange::Recruit(e) => primary_term.recruit(at(e, primary_term.epoch) + 1),
                    TermChange::Appoint(e, p) => primary_term.appoint(at(e, primary_term.epoch), id(p), &voters()),
                    TermChange::ProposeSyncConfig(e, c, s) => primary_term.propose_sync_config(at(e, primary_term.epoch), at(c, primary_term.change), s.into_iter().map(id).collect()),
                    TermChange::CommitSyncConfig(e, c) => primary_term.commit_sync_config(at(e, primary_term.epoch), at(c, primary_term.change)),
                };
                if result.is_err() {
                    prop_assert_eq!(&primary_term, &before, "a refused command changes nothing");
                }
                prop_assert!(primary_term.epoch >= before.epoch && primary_term.change >= before.change);
                prop_assert!((1..=MAX_CONFIGS + 1).contains(&primary_term.configs.len()), "{:?}", primary_term);
                if primary_term.timeline != before.timeline {
                    prop_assert!(given.insert(primary_term.timeline), "timeline {} was assigned twice", primary_term.timeline);
                }
                // A config under which writes may be acknowledged leaves only by a commit.
                if !matches!(change, TermChange::CommitSyncConfig(..)) && before.settled {
                    prop_assert!(before.configs.iter().all(|c| primary_term.configs.contains(c)));
                }
                if primary_term.phase == Phase::Steady {
                    prop_assert!(primary_term.target().is_some_and(|t| t.primary == primary_term.primary));
                }
            }
        }
    }

    #[test]
    fn a_forced_primary_drops_the_earlier_configs() {
        let mut primary_term = PrimaryTerm::bootstrap(id(1));
        assert_eq!(primary_term.force(1, id(2), &voters()), Err(MovedOn), "there is a primary");
        primary_term.recruit(2).unwrap();
        assert_eq!(primary_term.force(2, id(9), &voters()), Err(MovedOn), "it has no vote");
        primary_term.force(2, id(2), &voters()).unwrap();
        assert_eq!(
            (
                primary_term.primary,
                primary_term.timeline,
                primary_term.configs.len(),
                primary_term.is_settled()
            ),
            (id(2), 2, 1, false)
        );
        assert_eq!(primary_term.force(2, id(3), &voters()), Err(MovedOn), "the first one counts");
    }

    #[test]
    fn repeated_failovers_do_not_accumulate_configs() {
        let mut primary_term = PrimaryTerm::bootstrap(id(1));
        primary_term.propose_sync_config(1, 0, voters().into_iter().skip(1).collect()).unwrap();
        primary_term.commit_sync_config(1, 1).unwrap();
        let acknowledged_under = primary_term.configs.clone();
        for epoch in 2..20 {
            primary_term.recruit(epoch).unwrap();
            assert_eq!(
                primary_term.configs, acknowledged_under,
                "nothing was acknowledged since then"
            );
            primary_term
                .appoint(epoch, id(u8::try_from(epoch % 5).unwrap() + 1), &voters())
                .unwrap();
            assert_eq!(primary_term.configs.len(), 2);
        }
    }
}
