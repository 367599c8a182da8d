//! The replicated half of the protocol: who is the primary, and what each command makes of it.
//! Every member applies the same commands in the same order, and every command names the state that
//! it was made for: one that comes late has no effect.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use crate::NodeId;
use crate::sync_config::SyncConfig;

/// Configs of one primary term that may be in force at a time: a change, and a change of mind.
const MAX_CONFIGS: usize = 3;

/// Who is the primary, and what a failover has to know about it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PrimaryTerm {
    /// Counts the primary terms; a failover begins with a higher one.
    pub epoch: u64,
    /// What is going on.
    pub phase: Phase,
    /// Who is, or (while recruiting) was, the primary.
    pub primary: NodeId,
    /// The timeline that it was given.
    pub timeline: u32,
    /// The next one to give. None is given twice: two promotions to one number look alike to
    /// `pg_rewind`.
    pub next_timeline: u32,
    /// The sync configs in force: a commit waited for one of them. The last one is what
    /// `synchronous_standby_names` is to be.
    pub configs: Vec<SyncConfig>,
    /// Counts the changes of `configs`: what was confirmed for an earlier one is not taken for a
    /// later one.
    pub change: u64,
    /// Whether the configs were ever settled in this primary term. Before that its primary has
    /// acknowledged nothing.
    pub settled: bool,
}

/// What the group is doing about its primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Phase {
    /// There is one.
    Steady,
    /// There is none: its successor is looked for.
    Recruiting,
}

/// Why a primary term ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum TermEndReason {
    /// A majority of voters heard nothing of the primary for a lease time.
    LeaseExpired,
    /// The primary's Postgres has ended.
    Released,
    /// Somebody asked for another primary.
    Switchover,
    /// Somebody named a primary, although acknowledged writes may be lost by that.
    Forced,
}

/// The latest change of the primary, for people to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastFailover {
    /// The epoch that it began.
    pub epoch: u64,
    /// Who was the primary.
    pub from: NodeId,
    /// Who is; None until its standbys have confirmed what it has.
    pub to: Option<NodeId>,
    /// Why.
    pub reason: TermEndReason,
    /// When the leader began: milliseconds since the Unix epoch.
    pub began_ms: i64,
    /// When the new primary could take writes, but for its lease: milliseconds since the Unix
    /// epoch, by its own clock.
    pub ended_ms: Option<i64>,
}

/// Why a command of the protocol had no effect: the state has moved on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MovedOn;

impl PrimaryTerm {
    /// The bootstrap node's: alone, on the timeline that `initdb` made.
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

    /// The config that `synchronous_standby_names` is to be.
    pub fn target(&self) -> Option<&SyncConfig> {
        self.configs.last()
    }

    /// Whether one config is in force, and confirmed.
    pub fn is_settled(&self) -> bool {
        self.phase == Phase::Steady && self.settled && self.configs.len() == 1
    }

    /// The primary term ends; its epoch is over for everybody who applies this.
    ///
    /// # Errors
    /// [`MovedOn`] unless `epoch` is the next one and there is a primary to replace.
    pub fn recruit(&mut self, epoch: u64) -> Result<(), MovedOn> {
        if self.phase != Phase::Steady || epoch != self.epoch + 1 {
            return Err(MovedOn);
        }
        // A primary term that was never settled has acknowledged nothing: its configs bind nobody.
        // The list stays short, whatever fails in a row.
        if !self.settled {
            let ended = self.epoch;
            self.configs.retain(|c| c.epoch != ended);
        }
        self.epoch = epoch;
        self.phase = Phase::Recruiting;
        self.change += 1;
        Ok(())
    }

    /// A new primary, with a timeline of its own. Its config joins those in force and replaces
    /// none: what was acknowledged under them is only safe when the new one has confirmed it
    /// ([`Self::commit_sync_config`]).
    ///
    /// # Errors
    /// [`MovedOn`] unless this epoch is recruiting and the appointee still votes. The first
    /// appointment of an epoch counts.
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

    /// A new primary by a person's word. What was acknowledged under the configs so far binds
    /// nobody any more: that is what was given up.
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

    /// The primary is to wait for other standbys. Going back is a change like any other: nothing
    /// leaves but by [`Self::commit_sync_config`].
    ///
    /// # Errors
    /// [`MovedOn`] unless `epoch` and `change` are the present ones, there is a primary, and fewer
    /// than three configs are in force.
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
                // Commits may wait for it already: it keeps the epoch that it was made in.
                let config = self.configs.remove(n);
                self.configs.push(config);
            }
            None if self.configs.len() >= MAX_CONFIGS => return Err(MovedOn),
            None => self.configs.push(config),
        }
        self.change += 1;
        Ok(())
    }

    /// The target has confirmed everything up to a position that was noted when it was the only one
    /// that commits wait for: the others leave.
    ///
    /// # Errors
    /// [`MovedOn`] unless `epoch` and `change` are the present ones.
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
        // Offsets from the present epoch and change: mostly right, sometimes late or early.
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
        fn whatever_comes_in_whatever_order(changes in prop::collection::vec(change(), 1..60)) {
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
                    prop_assert_eq!(&primary_term, &before, "what is refused changes nothing");
                }
                prop_assert!(primary_term.epoch >= before.epoch && primary_term.change >= before.change);
                prop_assert!((1..=MAX_CONFIGS + 1).contains(&primary_term.configs.len()), "{:?}", primary_term);
                if primary_term.timeline != before.timeline {
                    prop_assert!(given.insert(primary_term.timeline), "timeline {} was given twice", primary_term.timeline);
                }
                // No config under which something may be acknowledged leaves, but by being settled.
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
    fn what_is_forced_gives_up_what_was_acknowledged_and_is_a_primary_term_like_any_other() {
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
    fn failovers_in_a_row_do_not_pile_up_configs() {
        let mut primary_term = PrimaryTerm::bootstrap(id(1));
        primary_term.propose_sync_config(1, 0, voters().into_iter().skip(1).collect()).unwrap();
        primary_term.commit_sync_config(1, 1).unwrap();
        let acknowledged_under = primary_term.configs.clone();
        for epoch in 2..20 {
            primary_term.recruit(epoch).unwrap();
            assert_eq!(primary_term.configs, acknowledged_under, "nothing was acknowledged since");
            primary_term
                .appoint(epoch, id(u8::try_from(epoch % 5).unwrap() + 1), &voters())
                .unwrap();
            assert_eq!(primary_term.configs.len(), 2);
        }
    }
}
