//! A step with several targets, taken apart: what fails for one of them must not keep the others
//! from being done.

use super::Step;
use crate::cluster::certificates::Work;
use crate::cluster::plan::failures::ObjectTarget;

impl Step {
    /// What it works on; empty for a wait.
    pub fn targets(&self) -> Vec<ObjectTarget> {
        self.parts().iter().filter_map(Self::target).collect()
    }

    /// One step a target.
    pub fn parts(&self) -> Vec<Self> {
        match self {
            Self::CreateSecrets(kinds) => {
                kinds.iter().map(|kind| Self::CreateSecrets(vec![*kind])).collect()
            }
            Self::ApplyObjects(keys) => {
                keys.iter().map(|key| Self::ApplyObjects(vec![key.clone()])).collect()
            }
            Self::Certificates(work) => {
                work.iter().map(|work| Self::Certificates(vec![*work])).collect()
            }
            Self::RefreshPods(nodes) => {
                nodes.iter().map(|node| Self::RefreshPods(vec![*node])).collect()
            }
            Self::SetOwners(owners) => {
                owners.iter().map(|owner| Self::SetOwners(vec![*owner])).collect()
            }
            Self::LabelPods(pods) => pods.iter().map(|pod| Self::LabelPods(vec![*pod])).collect(),
            Self::RoutePods(pods) => pods.iter().map(|pod| Self::RoutePods(vec![*pod])).collect(),
            other => vec![other.clone()],
        }
    }

    /// The same step for those targets only; None when there are none.
    pub fn only(self, mut wanted: impl FnMut(&ObjectTarget) -> bool) -> Option<Self> {
        let mut parts = self.parts();
        parts.retain(|part| part.target().is_none_or(|target| wanted(&target)));
        parts.into_iter().reduce(Self::and)
    }

    /// Both; two steps of one kind.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        match (&mut self, other) {
            (Self::CreateSecrets(all), Self::CreateSecrets(more)) => all.extend(more),
            (Self::ApplyObjects(all), Self::ApplyObjects(more)) => all.extend(more),
            (Self::Certificates(all), Self::Certificates(more)) => all.extend(more),
            (Self::RefreshPods(all), Self::RefreshPods(more)) => all.extend(more),
            (Self::SetOwners(all), Self::SetOwners(more)) => all.extend(more),
            (Self::LabelPods(all), Self::LabelPods(more)) => all.extend(more),
            (Self::RoutePods(all), Self::RoutePods(more)) => all.extend(more),
            _ => {}
        }
        self
    }

    /// Of a step with one target.
    fn target(&self) -> Option<ObjectTarget> {
        let object = match self {
            Self::CreateSecrets(kinds) => format!("{:?}", kinds.first()?),
            Self::DeleteSecret(kind) => format!("{kind:?}"),
            Self::ApplyObjects(keys) => keys.first()?.to_string(),
            Self::DeleteObject(key) => key.to_string(),
            Self::Certificates(work) => match work.first()? {
                Work::RenewCa => "ca".to_owned(),
                Work::Issue(node) => format!("issue {node}"),
                Work::Trust(node) => format!("trust {node}"),
                Work::Share(kind) => format!("share {kind:?}"),
                Work::Remove(node) => format!("remove {node}"),
            },
            Self::RefreshPods(nodes) => nodes.first()?.to_string(),
            Self::SetOwners(owners) => format!("{:?}", owners.first()?.0),
            Self::LabelPods(pods) => pods.first()?.0.to_string(),
            Self::RoutePods(pods) => pods.first()?.0.to_string(),
            Self::CreateVolume(node)
            | Self::CreatePod { node, .. }
            | Self::ClearPod(node)
            | Self::RestartPod(node)
            | Self::AddNode(node)
            | Self::RemoveNode(node)
            | Self::SwitchOver(node)
            | Self::DeletePod(node)
            | Self::DeleteVolume(node)
            | Self::RetireVolume(node)
            | Self::GrowVolume(node) => node.to_string(),
            Self::Wait(_) | Self::Steady => return None,
        };
        Some(ObjectTarget { verb: self.name(), object })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::id;
    use crate::cluster::step::WaitReason;
    use pgraft_api::names::SecretKind;

    #[test]
    fn apart_and_together_again() {
        let many = Step::CreateSecrets(SecretKind::ALL.to_vec());
        assert_eq!((many.parts().len(), many.targets().len()), (4, 4));
        assert_eq!(many.clone().only(|_| true), Some(many.clone()));
        assert_eq!(
            many.clone().only(|target| target.object == "App"),
            Some(Step::CreateSecrets(vec![SecretKind::App]))
        );
        assert_eq!(many.only(|_| false), None);
        let one = Step::GrowVolume(id(3));
        assert_eq!(one.targets(), [ObjectTarget { verb: "GrowVolume", object: "3".into() }]);
        assert_eq!((one.clone().only(|_| true), one.clone().only(|_| false)), (Some(one), None));
        let wait = Step::Wait(WaitReason::NoLeader);
        assert_eq!((wait.targets(), wait.clone().only(|_| false)), (vec![], Some(wait)));
    }
}
