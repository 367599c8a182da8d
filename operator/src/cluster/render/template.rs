//! What a pod is made from, in short: two pods of one template need no restart to become alike.

use pgraft_core::NodeId;
use std::fmt;

use super::pod_spec::spec;
use crate::cluster::ClusterSpec;

/// Of one cluster, the same for all its members: their numbers are not in it. Written on every pod,
/// so it must come out the same in the next operator; where that one makes its pods otherwise it
/// does not, and they are restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template(u64);

impl Template {
    /// Of an annotation's value.
    pub fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Everything that reaches a member only when its pod is made again. Settings of Postgres are not
/// in it: those that it can reload are reloaded.
pub fn template(want: &ClusterSpec) -> Template {
    let raft = (&want.heartbeat_interval, &want.election_timeout, &want.lease_timeout);
    let at_start = (spec(want, NodeId::default(), false), raft, &want.restarted_at);
    Template(fnv1a(&serde_json::to_vec(&at_start).unwrap_or_default()))
}

/// FNV-1a, 64 bits. The standard library's hasher may be another one in its next version.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::parsed;
    use serde_json::{Value, json};

    fn of(more: &Value) -> Template {
        let mut spec = json!({"replicas": 3, "storage": {"size": "1Gi"}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        template(&parsed(&spec))
    }

    #[test]
    fn what_needs_a_new_pod_and_what_does_not() {
        let base = of(&json!({}));
        for change in [
            json!({"image": "pgraft/postgres:next"}),
            json!({"resources": {"limits": {"memory": "2Gi"}}}),
            json!({"raft": {"heartbeatInterval": "50ms"}}),
            json!({"raft": {"electionTimeout": "2s"}}),
            json!({"failover": {"enabled": true}}),
            json!({"nodeSelector": {"disk": "ssd"}}),
            json!({"tolerations": [{"key": "db", "operator": "Exists"}]}),
            json!({"imagePullSecrets": [{"name": "pull"}]}),
        ] {
            assert_ne!(of(&change), base, "{change}");
        }
        for change in [
            json!({"replicas": 5}),
            json!({"storage": {"size": "2Gi"}}),
            json!({"postgresql": {"parameters": {"work_mem": "8MB"}, "pg_hba": ["local all all trust"]}}),
            json!({"enableSuperuserAccess": true}),
            json!({"tls": {"caSecret": "mine", "certificateDuration": "24h"}}),
            json!({"inheritedMetadata": {"labels": {"team": "data"}, "annotations": {"a": "b"}}}),
            json!({"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Retain"}}),
        ] {
            assert_eq!(of(&change), base, "{change}");
        }
    }

    #[test]
    fn a_request_to_restart() {
        let mut want = parsed(&json!({"replicas": 3, "storage": {"size": "1Gi"}}));
        let before = template(&want);
        want.restarted_at = Some("2026-01-02T03:04:05Z".into());
        assert_ne!(template(&want), before);
    }

    #[test]
    fn it_is_read_as_it_is_written() {
        let template = of(&json!({}));
        assert_eq!(Template::parse(&template.to_string()), Some(template));
        assert_eq!(Template::parse("by hand"), None);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8, "the test vector of its authors");
    }
}
