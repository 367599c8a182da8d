//! Since when members have not been reached. Remembered by one process for as long as it looks: an operator that has just begun, or has not
//! looked for a while, counts from there. Nobody is given up too early for it.

use jiff::{SignedDuration, Timestamp};
use pgraft_core::NodeId;
use std::collections::BTreeMap;

use super::group::Group;

/// With a longer break between two looks nobody knows what was in between.
const BREAK: SignedDuration = SignedDuration::from_mins(1);

/// Who is away, and since when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Absences {
    since: BTreeMap<NodeId, Timestamp>,
    looked: Option<Timestamp>,
}

impl Absences {
    /// Takes in one look. Only a leader that reaches a majority knows who is away.
    pub fn look(&mut self, group: Option<&Group>, now: Timestamp) {
        let Some(group) = group.filter(|group| group.authoritative) else { return };
        if self.looked.is_none_or(|at| now.duration_since(at) > BREAK) {
            self.since.clear();
        }
        self.looked = Some(now);
        let away: Vec<NodeId> = group.members.iter().filter(|m| m.reachable == Some(false)).map(|m| m.id).collect();
        self.since.retain(|id, _| away.contains(id));
        for id in away {
            self.since.entry(id).or_insert(now);
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
    use crate::core::fixtures::*;

    #[test]
    fn it_counts_without_a_break_and_from_a_leaders_word_only() {
        let (here, mut away) = (healthy(&wanted(3), 3).group.unwrap(), healthy(&wanted(3), 3).group.unwrap());
        away.members[1].reachable = Some(false);
        let at = |seconds: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        let mut absences = Absences::default();
        let mut since = |group: &Group, now: i64| {
            absences.look(Some(group), at(now));
            absences.since().get(&id(2)).map(|since| since.as_second())
        };
        assert_eq!(since(&here, 0), None);
        assert_eq!(since(&away, 10), Some(10));
        assert_eq!(since(&away, 60), Some(10));
        let deaf = Group { authoritative: false, ..here.clone() };
        assert_eq!(since(&deaf, 70), Some(10), "who does not lead does not know");
        assert_eq!(since(&away, 100), Some(10));
        assert_eq!(since(&here, 110), None);
        assert_eq!(since(&away, 120), Some(120));
        assert_eq!(since(&away, 300), Some(300), "it was not looked for three minutes");
    }
}
