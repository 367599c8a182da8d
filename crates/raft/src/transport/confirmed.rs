//! What each peer has confirmed, as far as this process knows: committed entries, which nobody ever
//! takes back. A peer that has them no more runs on a directory of an earlier time, put back from a
//! backup: it has forgotten votes and entries. What it says is taken for nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use pgraft_core::NodeId;

use crate::types::TypeConfig;

/// By peer, the last of those entries.
#[derive(Default)]
pub struct Confirmed(Mutex<BTreeMap<NodeId, u64>>);

/// What a request is about: openraft takes the request itself away.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// The entry before those that were sent, the last of them, and the last one that is committed.
    /// None before the first entry of all, which is 0.
    after: Option<u64>,
    last: Option<u64>,
    committed: Option<u64>,
}

impl From<&AppendEntriesRequest<TypeConfig>> for Sent {
    fn from(request: &AppendEntriesRequest<TypeConfig>) -> Self {
        let after = request.prev_log_id.as_ref().map(|id| id.index);
        let last = request.entries.last().map(|entry| entry.log_id.index).or(after);
        Self { after, last, committed: request.leader_commit.as_ref().map(|id| id.index) }
    }
}

impl Confirmed {
    /// Takes notice of an answer. `Some` is the entry that the peer had confirmed and has lost.
    pub fn hear(
        &self,
        peer: NodeId,
        sent: Sent,
        response: &AppendEntriesResponse<TypeConfig>,
    ) -> Option<u64> {
        let has = match response {
            AppendEntriesResponse::Success => true,
            AppendEntriesResponse::Conflict => false,
            AppendEntriesResponse::PartialSuccess(_) | AppendEntriesResponse::HigherVote(_) => {
                return None;
            }
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, lost) = learn(all.get(&peer).copied(), sent, has);
        if let Some(known) = known {
            all.insert(peer, known);
        }
        lost
    }
}

/// From what was known, and whether the peer has what it was sent or not even the entry before:
/// what is known now, and what is lost.
fn learn(known: Option<u64>, sent: Sent, has: bool) -> (Option<u64>, Option<u64>) {
    if has {
        return (known.max(sent.last.min(sent.committed)), None);
    }
    (known, known.filter(|had| sent.after.is_some_and(|after| after <= *had)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_committed_and_confirmed_can_be_lost() {
        let has = |known, after, last, committed| {
            learn(
                known,
                Sent { after: Some(after), last: Some(last), committed: Some(committed) },
                true,
            )
        };
        let has_not = |known, after| {
            learn(
                known,
                Sent { after: Some(after), last: Some(after + 1), committed: Some(100) },
                false,
            )
        };
        let heartbeat = Sent { after: None, last: None, committed: Some(9) };
        assert_eq!(learn(None, heartbeat, true), (None, None), "a newcomer, which has nothing");
        assert_eq!(has_not(learn(None, heartbeat, true).0, 0), (None, None));
        assert_eq!(has_not(None, 5), (None, None), "nothing is known of it");
        assert_eq!(has(None, 4, 9, 7), (Some(7), None), "8 and 9 may give way to another leader's");
        assert_eq!(has(Some(7), 2, 3, 9), (Some(7), None), "sent once more");
        assert_eq!(has_not(Some(7), 8), (Some(7), None));
        assert_eq!(has_not(Some(7), 7), (Some(7), Some(7)));
        assert_eq!(has_not(Some(7), 3), (Some(7), Some(7)));
    }
}
