//! What this process remembers of each cluster from one pass to the next. A new process begins with
//! nothing and comes to the same steps; where something is to be waited for (a switchover that was
//! refused, a step that failed) it waits anew. It saves calls, and keeps the same words from being
//! said twice.

use jiff::Timestamp;
use pgraft_core::NodeId;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use crate::cluster::certificates::secrets::identity::LoginIdentity;
use crate::cluster::certificates::secrets::remembered::Remembered;
use crate::cluster::observe::absence::Absences;
use crate::cluster::observe::configuration::ConfigurationAnswers;
use crate::cluster::observe::observed::ObjectSeen;
use crate::cluster::plan::failures::Failures;
use crate::cluster::plan::switchover_attempt::SwitchoverAttempt;
use pgraft_api::names::ObjectKey;

/// Everything that is remembered, by the uid of the PgRaftCluster.
#[derive(Default)]
pub struct Memories(Mutex<HashMap<String, ClusterMemory>>);

/// Of one cluster.
#[derive(Debug, Default)]
pub struct ClusterMemory {
    applied: BTreeMap<ObjectKey, AppliedObjects>,
    /// The resource version and the time of the status that was written last.
    pub written: Option<(String, Timestamp)>,
    /// Who led when last looked, and how often nobody else was asked since.
    pub leader: Option<(NodeId, u32)>,
    /// What the Secrets with certificates say.
    pub certificates: Remembered,
    /// How the operator shows who it is.
    pub login: Option<LoginIdentity>,
    /// The password of the operator's role, and the version of the Secret that it was read from.
    pub password: Option<(String, String)>,
    /// The failure that was logged last.
    pub trouble: Option<String>,
    /// How often another member came to lead.
    pub leader_changes: u64,
    /// What failed lately, and the generation of the spec that it failed for.
    failing: (Option<i64>, Failures),
    /// The last spec that was accepted, in JSON.
    pub accepted: Option<String>,
    /// Who is away, and since when.
    pub absences: Absences,
    /// The switchover that was asked for last.
    pub switchover_attempt: Option<SwitchoverAttempt>,
    /// What the members said about their configuration.
    pub configurations: ConfigurationAnswers,
    /// The last epoch of which an Event has told.
    pub told_epoch: i64,
}

/// What an object was made to look like, and the version that it had then.
#[derive(Debug, Clone)]
struct AppliedObjects {
    fingerprint: u64,
    version: String,
}

impl Memories {
    /// Looks into the memory of one cluster, or writes into it. Not across an await.
    pub fn of<T>(&self, cluster_uid: &str, look: impl FnOnce(&mut ClusterMemory) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        look(all.entry(cluster_uid.to_owned()).or_default())
    }

    /// How often another member of this cluster came to lead.
    pub fn leader_changes(&self, cluster_uid: &str) -> u64 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(cluster_uid)
            .map_or(0, |memory| memory.leader_changes)
    }

    /// When the next of what failed in this cluster is tried again.
    pub fn next_attempt(&self, cluster_uid: &str) -> Option<Timestamp> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(cluster_uid)
            .and_then(ClusterMemory::next_attempt)
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, cluster_uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(cluster_uid);
    }
}

impl ClusterMemory {
    /// Remembers an object that was applied.
    pub fn applied(&mut self, key: ObjectKey, fingerprint: u64, version: String) {
        self.applied.insert(key, AppliedObjects { fingerprint, version });
    }

    /// What failed lately. Another spec gets another chance at once.
    pub fn failing(&mut self, generation: Option<i64>) -> &mut Failures {
        if self.failing.0 != generation {
            self.failing = (generation, Failures::default());
        }
        &mut self.failing.1
    }

    fn next_attempt(&self) -> Option<Timestamp> {
        self.failing.1.next_attempt()
    }

    /// What is known about an object of this version: as it was applied, unless somebody has
    /// changed it since.
    pub fn recall(&self, key: &ObjectKey, version: &str) -> ObjectSeen {
        match self.applied.get(key) {
            Some(known) if known.version == version => ObjectSeen::AsApplied(known.fingerprint),
            _ => ObjectSeen::Unknown,
        }
    }

    /// Whether an object of this resource version is not older than the status that was written
    /// last. Versions that are no numbers can't be compared; then it is not known.
    pub fn is_current(&self, version: Option<&str>) -> bool {
        let number = |text: &str| text.parse::<u64>().ok();
        match &self.written {
            None => true,
            Some((written, _)) => version
                .and_then(number)
                .zip(number(written))
                .is_some_and(|(seen, written)| seen >= written),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_than_what_was_written_is_not_current() {
        let mut memory = ClusterMemory::default();
        assert!(memory.is_current(Some("1")));
        memory.written = Some(("100".into(), Timestamp::UNIX_EPOCH));
        assert!(memory.is_current(Some("100")) && memory.is_current(Some("101")));
        assert!(
            !memory.is_current(Some("99"))
                && !memory.is_current(None)
                && !memory.is_current(Some("abc"))
        );
    }
}
