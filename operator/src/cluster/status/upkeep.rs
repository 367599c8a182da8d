//! The conditions of what is brought up to date in passing: pods, certificates, and everything that
//! is applied.

use pgraft_core::NodeId;

use super::{StatusInput, StatusVerdict};
use crate::cluster::certificates::CaTrouble;
use crate::cluster::quantity;
use pgraft_api::conditions::{ConditionReason, ConditionType};
use pgraft_api::names;

impl StatusInput<'_> {
    /// How far a rolling restart is.
    pub(super) fn pods_up_to_date(&self) -> StatusVerdict {
        let verdict = |holds, reason, message| StatusVerdict {
            type_: ConditionType::PodsUpToDate,
            holds,
            reason,
            message,
        };
        let Some(wanted) = self.subject.template else {
            return verdict(None, ConditionReason::InvalidSpec, "the spec is invalid".into());
        };
        let pods = &self.seen.pods;
        let stale = pods
            .iter()
            .filter(|(_, pod)| pod.template != Some(wanted))
            .map(|(id, _)| names::pod(self.subject.name, *id));
        let stale: Vec<String> = stale.collect();
        if stale.is_empty() {
            return verdict(
                Some(true),
                ConditionReason::AsExpected,
                "every pod matches the spec".into(),
            );
        }
        let words = format!(
            "{} of {} pods must still be restarted: {}",
            stale.len(),
            pods.len(),
            stale.join(", ")
        );
        verdict(Some(false), ConditionReason::Restarting, words)
    }

    /// Whether all that the spec wants could be applied. What could not is named, and nothing else
    /// waits for it.
    pub(super) fn reconciled(&self) -> StatusVerdict {
        let verdict = |holds, reason, message| StatusVerdict {
            type_: ConditionType::Reconciled,
            holds: Some(holds),
            reason,
            message,
        };
        let mut failures = self.failures();
        failures.extend(self.larger_volume().map(|words| (ConditionReason::VolumesLarger, words)));
        let Some((reason, _)) = failures.first() else {
            return verdict(true, ConditionReason::AsExpected, "no operation has failed".into());
        };
        let words: Vec<&str> = failures.iter().map(|(_, words)| words.as_str()).collect();
        verdict(false, *reason, words.join("; "))
    }

    /// A volume that is larger than the spec wants it.
    fn larger_volume(&self) -> Option<String> {
        let wanted = self.subject.storage?;
        let volumes = self
            .seen
            .volumes
            .iter()
            .filter(|(_, v)| !v.retired && !v.terminating && v.size() > wanted.bytes);
        let (node, volume) = volumes.max_by_key(|(_, volume)| volume.size())?;
        let (name, size) = (names::pod(self.subject.name, *node), quantity::shown(volume.size()));
        Some(format!(
            "storage.size {} is less than the {size} of volume {name}; volumes do not shrink, and new ones get {size}",
            wanted.size
        ))
    }

    /// None where TLS is disabled.
    pub(super) fn certificates(&self) -> Option<StatusVerdict> {
        let tls = self.seen.tls.as_ref()?;
        let verdict = |holds, reason, message| {
            Some(StatusVerdict {
                type_: ConditionType::CertificatesReady,
                holds: Some(holds),
                reason,
                message,
            })
        };
        if let Err(trouble) = &tls.ca
            && *trouble != CaTrouble::NotMade
        {
            let rest = tls
                .first_end()
                .map(|at| format!("; the first certificate expires at {at}"))
                .unwrap_or_default();
            return verdict(false, ConditionReason::CaUnusable, format!("{trouble}{rest}"));
        }
        let lacks = |id: &&NodeId| !matches!(tls.nodes.get(id), Some(Some(node)) if node.leaf.not_after > self.seen.now);
        match (self.seen.pods.keys().find(lacks), tls.first_end()) {
            (Some(id), _) => {
                let pod = names::pod(self.subject.name, *id);
                verdict(
                    false,
                    ConditionReason::CertificateMissing,
                    format!("pod {pod} has no valid certificate"),
                )
            }
            (None, Some(at)) => verdict(
                true,
                ConditionReason::CertificatesValid,
                format!("the first certificate expires at {at} and is renewed before"),
            ),
            (None, None) => verdict(
                false,
                ConditionReason::CertificateMissing,
                "no certificate has been issued yet".into(),
            ),
        }
    }
}
