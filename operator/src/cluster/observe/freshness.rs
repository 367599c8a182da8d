//! How current an observation must be.

use pgraft_core::NodeId;

use crate::cluster::step::Step;

/// How many passes in a row may ask the leader alone: one minute at `IDLE_INTERVAL`.
pub const MAX_LEADER_ONLY_PASSES: u32 = 40;

/// How current an observation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// The objects as the watches delivered them, and an answer from this member only, the last
    /// known leader. Costs the API server nothing. Enough to find that nothing has changed.
    LeaderOnly(NodeId),
    /// The objects as the watches delivered them, and an answer from every member. Enough to go on
    /// waiting.
    Cached,
    /// The objects as the API server has them now, and an answer from every member. Every change
    /// requires it: a stale cache can delay a step, and never causes a wrong one.
    Live,
}

impl Freshness {
    /// The freshness that a pass begins with. `cache_is_current` says whether the watches have
    /// delivered everything that this operator wrote; `leader` is the last known leader, and how
    /// many passes have asked it alone since.
    pub fn first(cache_is_current: bool, leader: Option<(NodeId, u32)>) -> Self {
        match leader {
            _ if !cache_is_current => Self::Live,
            Some((leader, passes)) if passes < MAX_LEADER_ONLY_PASSES => Self::LeaderOnly(leader),
            Some(_) | None => Self::Cached,
        }
    }

    /// The next observation to make before this step is taken; None if this one is current enough.
    /// `is_new` says whether the step changes the phase of the cluster.
    pub fn next(self, step: &Step, is_new: bool) -> Option<Self> {
        match (self, step) {
            (Self::Live, _)
            | (Self::LeaderOnly(_), Step::Steady)
            | (Self::Cached, Step::Steady | Step::Wait(_))
                if self == Self::Live || !is_new =>
            {
                None
            }
            (Self::LeaderOnly(_), Step::Steady | Step::Wait(_)) => Some(Self::Cached),
            _ => Some(Self::Live),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::id;
    use crate::cluster::step::WaitReason;

    #[test]
    fn a_pass_begins_with_the_cheapest_observation() {
        assert_eq!(Freshness::first(false, Some((id(1), 0))), Freshness::Live);
        assert_eq!(Freshness::first(true, None), Freshness::Cached);
        assert_eq!(Freshness::first(true, Some((id(1), 0))), Freshness::LeaderOnly(id(1)));
        assert_eq!(
            Freshness::first(true, Some((id(1), MAX_LEADER_ONLY_PASSES))),
            Freshness::Cached
        );
    }

    #[test]
    fn a_change_requires_a_live_observation() {
        let (leader_only, cached, live) =
            (Freshness::LeaderOnly(id(1)), Freshness::Cached, Freshness::Live);
        let (wait, change) = (Step::Wait(WaitReason::NoLeader), Step::AddNode(id(2)));
        for (from, step, is_new, to) in [
            (leader_only, &Step::Steady, false, None),
            (leader_only, &Step::Steady, true, Some(cached)),
            (leader_only, &wait, false, Some(cached)),
            (leader_only, &change, false, Some(live)),
            (cached, &Step::Steady, false, None),
            (cached, &wait, false, None),
            (cached, &wait, true, Some(live)),
            (cached, &change, false, Some(live)),
            (live, &change, true, None),
            (live, &wait, true, None),
        ] {
            assert_eq!(from.next(step, is_new), to, "{from:?} {step:?} {is_new}");
        }
    }
}
