//! Sync configs: which standbys confirm a commit, and which sets of recruits have every confirmed
//! commit.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use crate::NodeId;
use crate::quorum::majority;

/// The source of `synchronous_standby_names`: every commit of `primary` waits for `required` of
/// `standbys`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SyncConfig {
    /// The epoch in which it was proposed.
    pub epoch: u64,
    /// The server whose commits wait.
    pub primary: NodeId,
    /// The standbys that can confirm them.
    pub standbys: BTreeSet<NodeId>,
    /// How many must confirm.
    pub required: usize,
}

impl SyncConfig {
    /// The config in which a majority of the primary and `standbys` has every commit.
    pub fn new(epoch: u64, primary: NodeId, standbys: BTreeSet<NodeId>) -> Self {
        let required = majority(standbys.len() + 1) - 1;
        Self { epoch, primary, standbys, required }
    }

    /// Whether every set of nodes that could have confirmed a commit has a member in `recruits`. That
    /// is so if the primary is recruited, or fewer than `required` standbys are neither recruited nor
    /// in `abstained`, which have confirmed nothing. Recruits outside the config do not count.
    pub fn is_met_by(&self, recruits: &BTreeSet<NodeId>, abstained: &BTreeSet<NodeId>) -> bool {
        let left = self
            .standbys
            .iter()
            .filter(|id| !recruits.contains(id) && !abstained.contains(id))
            .count();
        recruits.contains(&self.primary) || left < self.required
    }

    /// Whether `required` standbys have confirmed.
    pub fn is_confirmed_by(&self, confirmed: impl Fn(NodeId) -> bool) -> bool {
        self.standbys.iter().filter(|id| confirmed(**id)).count() >= self.required
    }

    /// Whether it equals the other one, apart from the epoch.
    pub fn is_like(&self, other: &Self) -> bool {
        self.primary == other.primary
            && self.standbys == other.standbys
            && self.required == other.required
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: usize) -> NodeId {
        NodeId::new(i64::try_from(n).unwrap()).unwrap()
    }

    fn set(bits: usize) -> BTreeSet<NodeId> {
        (1..=8).filter(|n| bits >> n & 1 == 1).map(id).collect()
    }

    /// All minimal sets that could have confirmed a commit: the primary and `required` standbys.
    fn could_have_confirmed(config: &SyncConfig) -> Vec<BTreeSet<NodeId>> {
        let subsets = (0..1 << 9)
            .map(set)
            .filter(|s| s.is_subset(&config.standbys) && s.len() == config.required);
        subsets
            .map(|mut s| {
                s.insert(config.primary);
                s
            })
            .collect()
    }

    /// For sizes 1 to 7 and every set of recruits, the arithmetic agrees with an enumeration.
    #[test]
    fn a_config_is_met_if_every_confirming_set_has_a_recruit() {
        for size in 1..=7 {
            let config = SyncConfig::new(1, id(1), (2..=size).map(id).collect());
            let acks = could_have_confirmed(&config);
            for recruits in (0..1 << 9).map(set) {
                let met = acks.iter().all(|ack| !ack.is_disjoint(&recruits));
                assert_eq!(config.is_met_by(&recruits, &set(0)), met, "{config:?} {recruits:?}");
            }
        }
    }

    /// The same with standbys that have confirmed nothing.
    #[test]
    fn abstained_standbys_are_in_no_confirming_set() {
        for size in 1..=5 {
            let config = SyncConfig::new(1, id(1), (2..=size).map(id).collect());
            let acks = could_have_confirmed(&config);
            for abstained in (0..1 << size).map(set).filter(|s| !s.contains(&id(1))) {
                for recruits in (0..1 << size).map(set).filter(|s| s.is_disjoint(&abstained)) {
                    let met = acks
                        .iter()
                        .filter(|ack| ack.is_disjoint(&abstained))
                        .all(|ack| !ack.is_disjoint(&recruits));
                    assert_eq!(
                        config.is_met_by(&recruits, &abstained),
                        met,
                        "{config:?} {recruits:?} {abstained:?}"
                    );
                }
            }
        }
    }

    /// Any majority of the nodes of a config meets it, and can confirm a commit.
    #[test]
    fn a_majority_is_always_enough() {
        for size in 1..=7 {
            let config = SyncConfig::new(1, id(1), (2..=size).map(id).collect());
            let all: BTreeSet<NodeId> = (1..=size).map(id).collect();
            for recruits in
                (0..1 << 9).map(set).filter(|s| s.is_subset(&all) && s.len() >= majority(size))
            {
                assert!(config.is_met_by(&recruits, &set(0)), "{config:?} {recruits:?}");
                let others_confirm = config.is_confirmed_by(|n| recruits.contains(&n));
                assert!(others_confirm || !recruits.contains(&id(1)), "{config:?} {recruits:?}");
            }
        }
    }

    proptest! {
        /// With two configs in force, a commit was confirmed under one of them. Recruits that meet
        /// both have every commit; recruits that miss one may miss a commit.
        #[test]
        fn recruits_must_meet_both_configs(old in 0..256usize, new in 0..256usize, recruits in 0..512usize) {
            let config = |bits: usize| {
                let mut standbys = set(bits << 1);
                standbys.remove(&id(1));
                SyncConfig::new(1, id(1), standbys)
            };
            let (old, new, recruits) = (config(old), config(new), set(recruits));
            let escapes = [&old, &new].iter().any(|c| could_have_confirmed(c).iter().any(|ack| ack.is_disjoint(&recruits)));
            prop_assert_eq!(old.is_met_by(&recruits, &set(0)) && new.is_met_by(&recruits, &set(0)), !escapes);
        }
    }

    #[test]
    fn a_lone_primary_must_be_recruited_itself() {
        let alone = SyncConfig::new(1, id(1), BTreeSet::new());
        assert_eq!(alone.required, 0);
        assert!(!alone.is_met_by(&set(0b1100), &set(0)));
        assert!(alone.is_met_by(&set(0b10), &set(0)));
    }
}
