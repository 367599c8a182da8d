//! Since when members have not been reached. The status keeps it (`members[].unreachableSince`), so
//! that an operator that has just begun goes on counting where the last one stopped; and the
//! leader's own word corrects it: whoever was heard later is away since later.

use jiff::{SignedDuration, Timestamp};
use pgraft_core::NodeId;
use std::collections::BTreeMap;

use super::group::{GroupView, MemberSeen};
use pgraft_api::cluster::ClusterMemberStatus;

/// What two clocks, and the time that an answer takes, may differ by: less is no news.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(5);

/// Who is away, and since when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Absences {
    since: BTreeMap<NodeId, Timestamp>,
    recalled: bool,
}

impl Absences {
    /// Takes in one look, and before the first one what the status has. Only a leader that reaches
    /// a majority knows who is away.
    pub fn look(
        &mut self,
        told: &[ClusterMemberStatus],
        group: Option<&GroupView>,
        now: Timestamp,
    ) {
        if !std::mem::replace(&mut self.recalled, true) {
            self.since = told
                .iter()
                .filter_map(|m| {
                    Some((NodeId::new(m.id).ok()?, m.unreachable_since.as_ref()?.0.min(now)))
                })
                .collect();
        }
        let Some(group) = group.filter(|group| group.authoritative) else { return };
        let away: BTreeMap<NodeId, &MemberSeen> = group
            .members
            .iter()
            .filter(|m| m.reachable == Some(false))
            .map(|m| (m.id, m))
            .collect();
        self.since.retain(|id, _| away.contains_key(id));
        for (id, member) in away {
            let heard = member.last_contact.map(|ago| now - ago);
            let since = self.since.entry(id).or_insert(heard.unwrap_or(now));
            if let Some(heard) = heard.filter(|heard| heard.duration_since(*since) > TOLERANCE) {
                *since = heard;
            }
        }
    }

    /// As if it had begun so much earlier.
    #[cfg(test)]
    pub fn backdate(&mut self, node: NodeId, by: SignedDuration) {
        self.since.entry(node).and_modify(|since| *since -= by);
    }

    /// Since when, by member.
    pub fn since(&self) -> &BTreeMap<NodeId, Timestamp> {
        &self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::*;
    use crate::cluster::status::{self, ConditionSubject};
    use crate::cluster::step::{Step, StepOutcome};
    use pgraft_api::cluster::PgRaftClusterStatus;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    /// Three members, all there.
    fn whole() -> GroupView {
        healthy(&wanted(3), 3).group.unwrap()
    }

    /// Three members, of which node 2 was last heard so long ago, or nobody knows when.
    fn silent(ago: Option<i64>) -> GroupView {
        let mut group = whole();
        group.members[1].reachable = Some(false);
        group.members[1].last_contact = ago.map(SignedDuration::from_secs);
        group
    }

    fn since(absences: &Absences) -> Option<i64> {
        absences.since().get(&id(2)).map(|since| since.as_second())
    }

    #[test]
    fn it_counts_from_a_leaders_word_only() {
        let mut absences = Absences::default();
        let mut look = |group: &GroupView, now: i64| {
            absences.look(&[], Some(group), at(now));
            since(&absences)
        };
        assert_eq!(look(&whole(), 0), None);
        assert_eq!(look(&silent(None), 10), Some(10));
        assert_eq!(look(&silent(None), 600), Some(10));
        let deaf = GroupView { authoritative: false, ..whole() };
        assert_eq!(look(&deaf, 610), Some(10), "who does not lead does not know");
        assert_eq!(look(&whole(), 620), None);
        assert_eq!(look(&silent(Some(3)), 630), Some(627), "the leader knows better");
        assert_eq!(look(&silent(Some(12)), 640), Some(627), "which is the same");
        assert_eq!(look(&silent(Some(10)), 1000), Some(990), "it was there meanwhile");
    }

    #[test]
    fn the_next_operator_goes_on_counting() {
        let (mut first, mut seen) = (Absences::default(), healthy(&wanted(3), 3));
        seen.group = Some(silent(None));
        seen.now = at(10);
        first.look(&[], seen.group.as_ref(), seen.now);
        seen.away.clone_from(first.since());
        let subject = ConditionSubject {
            name: "demo",
            namespace: "default",
            generation: None,
            replicas: 3,
            template: None,
            storage: None,
            switchover: None,
            invalid: None,
        };
        let published = status::derive(
            subject,
            &seen,
            &StepOutcome::Took(Step::Steady),
            &PgRaftClusterStatus::default(),
        );
        let next = |group: Option<&GroupView>, now: i64| {
            let mut next = Absences::default();
            next.look(&published.members, None, at(now));
            next.look(&published.members, group, at(now + 1));
            since(&next)
        };
        assert_eq!(next(seen.group.as_ref(), 500), Some(10));
        assert_eq!(next(None, 500), Some(10), "nobody knows better");
        assert_eq!(next(Some(&whole()), 500), None, "it came back");
        assert_eq!(next(Some(&silent(Some(20))), 500), Some(481), "it came back, and went again");
    }
}
