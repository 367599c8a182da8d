//! Which standbys confirm a commit, and which sets of recruits no confirmed commit can have
//! escaped.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use crate::NodeId;
use crate::quorum::majority;

/// `synchronous_standby_names` as the group knows it: every commit of `primary` waits for
/// `required` of `standbys`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SyncConfig {
    /// The epoch that it was made in.
    pub epoch: u64,
    /// Whose commits wait.
    pub primary: NodeId,
    /// Who can confirm them.
    pub standbys: BTreeSet<NodeId>,
    /// How many must.
    pub required: usize,
}

impl SyncConfig {
    /// The primary with `standbys`: a majority of all of them, the primary included, has every
    /// commit.
    pub fn new(epoch: u64, primary: NodeId, standbys: BTreeSet<NodeId>) -> Self {
        let required = majority(standbys.len() + 1) - 1;
        Self { epoch, primary, standbys, required }
    }

    /// Whether every set of nodes that could have confirmed a commit has a member in `recruits`:
    /// the primary itself, or so many of the standbys that fewer than `required` are left, without
    /// those of `abstained` that have confirmed nothing. Recruits outside of the config say nothing
    /// about it.
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

    /// Whether it is the other one, whenever each was made.
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

    /// All sets that could have confirmed a commit: the primary and `required` standbys (more of
    /// them only help).
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

    /// Sizes 1 to 7, every set of recruits: the arithmetic says what counting all sets says.
    #[test]
    fn met_means_that_no_confirming_set_escapes() {
        for size in 1..=7 {
            let config = SyncConfig::new(1, id(1), (2..=size).map(id).collect());
            let acks = could_have_confirmed(&config);
            for recruits in (0..1 << 9).map(set) {
                let met = acks.iter().all(|ack| !ack.is_disjoint(&recruits));
                assert_eq!(config.is_met_by(&recruits, &set(0)), met, "{config:?} {recruits:?}");
            }
        }
    }

    /// The same where some have confirmed nothing: no set that confirmed has one of them.
    #[test]
    fn who_abstained_is_in_no_confirming_set() {
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

    /// Any majority of the nodes of a config meets it, and any majority confirms.
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
        /// With two configs in force a commit was confirmed under one or the other: recruits that
        /// meet both have a member of it, and recruits that miss one can have missed a commit.
        #[test]
        fn two_configs(old in 0..256usize, new in 0..256usize, recruits in 0..512usize) {
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
