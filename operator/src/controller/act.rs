//! Takes one step. Writes only; decides nothing.

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use pgraft_core::{Address, NodeId};
use rand::distr::{Alphanumeric, SampleString};
use serde_json::{Value, json};

use super::apply::ObjectWriter;
use super::certificates;
use super::context::Context;
use super::error::Error;
use super::facts::version;
use super::observe::{targets, unready_targets};
use super::sql::MemberSqlError;
use crate::core::observed::{PodSeen, VolumeSeen};
use crate::core::plan;
use crate::core::render::{self, Object, Passwords};
use crate::core::step::{MembershipRequest, OwnedObject, Step, WaitReason};
use crate::core::switchover_attempt::SwitchoverAttempt;
use crate::core::{ClusterSpec, Observed};
use pgraft_api::names::{self, ObjectKey, ObjectKind, RAFT_PORT, SecretKind};

const PASSWORD_LENGTH: usize = 32;

/// What came of a step.
#[derive(Debug, Default)]
pub struct Acted {
    /// The step that was taken; a change that the leader refuses comes back as the wait for a
    /// better moment. None when all of it failed.
    pub taken: Option<Step>,
    /// What failed, one target each; it can be tried again.
    pub failed: Vec<(Step, Error)>,
}

/// Takes the step, one target after the other: one that fails does not keep the rest from being
/// done.
pub async fn act(ctx: &Context, want: &ClusterSpec, seen: &Observed, step: &Step) -> Acted {
    let writer = ObjectWriter::new(&ctx.client, &want.namespace, &want.name, &want.uid);
    let actor = Actor { ctx, want, seen, writer };
    let mut acted = Acted::default();
    for part in step.parts() {
        match actor.take(part.clone()).await {
            Ok(taken) => {
                acted.taken = Some(match acted.taken.take() {
                    Some(before) => before.and(taken),
                    None => taken,
                });
            }
            Err(error) => acted.failed.push((part, error)),
        }
    }
    acted
}

struct Actor<'a> {
    ctx: &'a Context,
    want: &'a ClusterSpec,
    seen: &'a Observed,
    writer: ObjectWriter,
}

impl Actor<'_> {
    async fn take(&self, step: Step) -> Result<Step, Error> {
        let Self { ctx, want, seen, writer } = self;
        match &step {
            Step::Wait(_) | Step::Steady => {}
            Step::CreateSecrets(kinds) => self.create_secrets(kinds).await?,
            Step::DeleteSecret(kind) => self.delete_secret(*kind).await?,
            Step::ApplyObjects(keys) => self.apply(keys).await?,
            Step::DeleteObject(key) => self.delete_object(key).await?,
            Step::Certificates(todo) => certificates::work(ctx, want, seen, todo).await?,
            Step::RefreshPods(nodes) => self.refresh(nodes).await?,
            Step::SetOwners(owners) => self.set_owners(owners).await?,
            Step::LabelPods(pods) => {
                for (node, role) in pods {
                    self.label_pod(*node, names::LABEL_ROLE, role.as_str()).await?;
                }
            }
            Step::RoutePods(pods) => {
                for (node, routed) in pods {
                    self.label_pod(
                        *node,
                        names::LABEL_SERVING,
                        if *routed { "true" } else { "false" },
                    )
                    .await?;
                }
            }
            Step::CreateVolume(node) => {
                drop(writer.create(&render::pvc(want, *node, seen.largest_volume())).await?);
            }
            Step::CreatePod { node, bootstrap } => {
                let configured = plan::is_configured(want, seen);
                writer.create(&render::pod(want, *node, *bootstrap, configured)).await?;
            }
            Step::ClearPod(node) | Step::RestartPod(node) | Step::DeletePod(node) => {
                self.delete_pod(*node).await?;
            }
            Step::DeleteVolume(node) => self.delete_volume(*node).await?,
            Step::RetireVolume(node) => {
                let patch = json!({ "metadata": { "labels": { names::LABEL_RETIRED: "true" } } });
                self.change_volume(*node, patch).await?;
            }
            Step::GrowVolume(node) => {
                let patch = json!({ "spec": { "resources": { "requests": { "storage": want.storage.size } } } });
                self.change_volume(*node, patch).await?;
            }
            Step::AddNode(node) => return self.change(MembershipRequest::Add(*node), step).await,
            Step::RemoveNode(node) => {
                return self.change(MembershipRequest::Remove(*node), step).await;
            }
            Step::SwitchOver(node) => return self.switch_over(*node, step).await,
        }
        Ok(step)
    }

    async fn create_secrets(&self, kinds: &[SecretKind]) -> Result<(), Error> {
        for kind in kinds {
            if *kind == SecretKind::Ca {
                let ca = certificates::authority_of(&self.want.name, self.seen.now)?;
                self.writer.create(&render::ca_secret(self.want, &ca)).await?;
                continue;
            }
            let passwords = Passwords(std::array::from_fn(|_| {
                Alphanumeric.sample_string(&mut rand::rng(), PASSWORD_LENGTH)
            }));
            self.writer.create(&render::secret(self.want, *kind, &passwords)).await?;
        }
        Ok(())
    }

    async fn delete_secret(&self, kind: SecretKind) -> Result<(), Error> {
        let name = kind.name(&self.want.name);
        let secret =
            self.seen.secrets.get(&kind).ok_or_else(|| Error::MovedOn(format!("Secret {name}")))?;
        self.writer.delete::<Secret>(&name, &secret.uid).await
    }

    async fn apply(&self, keys: &[ObjectKey]) -> Result<(), Error> {
        let members = self.seen.group.as_ref().map_or(0, |g| g.members.len());
        for object in
            render::objects(self.want, members).into_iter().filter(|o| keys.contains(&o.key()))
        {
            let metadata = match &object {
                Object::ConfigMap(o) => self.writer.apply(o).await?,
                Object::Service(o) => self.writer.apply(&**o).await?,
                Object::PodDisruptionBudget(o) => self.writer.apply(o).await?,
            };
            let version = version(&metadata).unwrap_or_default();
            self.ctx.memories.of(&self.want.uid, |memory| {
                memory.applied(object.key(), object.fingerprint(), version);
            });
        }
        Ok(())
    }

    /// The kubelet looks at a pod's ConfigMap when the pod changes, and else once in a minute or
    /// so.
    async fn refresh(&self, nodes: &[NodeId]) -> Result<(), Error> {
        let patch = json!({ "metadata": { "annotations": { names::ANNOTATION_CONFIGURATION: render::configuration_hash(self.want) } } });
        for node in nodes {
            self.writer
                .merge::<Pod>(&self.pod(*node), &self.seen_pod(*node)?.uid, patch.clone())
                .await?;
        }
        Ok(())
    }

    async fn delete_object(&self, key: &ObjectKey) -> Result<(), Error> {
        match key.kind {
            ObjectKind::ConfigMap => self.delete::<ConfigMap>(&key.name).await,
            ObjectKind::Service => self.delete::<Service>(&key.name).await,
            ObjectKind::PodDisruptionBudget => self.delete::<PodDisruptionBudget>(&key.name).await,
        }
    }

    async fn delete<K: super::apply::Writable>(&self, name: &str) -> Result<(), Error> {
        let Some(uid) = self.writer.owned::<K>(name).await?.and_then(|there| there.uid) else {
            return Ok(());
        };
        self.writer.delete::<K>(name, &uid).await
    }

    async fn set_owners(&self, owners: &[(OwnedObject, bool)]) -> Result<(), Error> {
        let owner = render::owner_reference(&self.want.name, &self.want.uid);
        for (what, owned) in owners {
            let references: Value = if *owned { json!([owner]) } else { Value::Null };
            let patch = json!({ "metadata": { "ownerReferences": references } });
            match what {
                OwnedObject::Pod(node) => {
                    self.writer
                        .merge::<Pod>(&self.pod(*node), &self.seen_pod(*node)?.uid, patch)
                        .await?;
                }
                OwnedObject::Volume(node) => self.change_volume(*node, patch).await?,
                OwnedObject::Secret(kind) => {
                    let name = kind.name(&self.want.name);
                    let secret = self
                        .seen
                        .secrets
                        .get(kind)
                        .ok_or_else(|| Error::MovedOn(format!("Secret {name}")))?;
                    self.writer.merge::<Secret>(&name, &secret.uid, patch).await?;
                }
            }
        }
        Ok(())
    }

    fn seen_pod(&self, node: NodeId) -> Result<&PodSeen, Error> {
        self.seen.pods.get(&node).ok_or_else(|| Error::MovedOn(format!("pod {}", self.pod(node))))
    }

    fn seen_volume(&self, node: NodeId) -> Result<&VolumeSeen, Error> {
        self.seen
            .volumes
            .get(&node)
            .ok_or_else(|| Error::MovedOn(format!("volume {}", self.pod(node))))
    }

    async fn label_pod(&self, node: NodeId, label: &str, value: &str) -> Result<(), Error> {
        let patch = json!({ "metadata": { "labels": { label: value } } });
        self.writer.merge::<Pod>(&self.pod(node), &self.seen_pod(node)?.uid, patch).await
    }

    async fn change_volume(&self, node: NodeId, patch: Value) -> Result<(), Error> {
        self.writer
            .merge::<PersistentVolumeClaim>(&self.pod(node), &self.seen_volume(node)?.uid, patch)
            .await
    }

    async fn delete_pod(&self, node: NodeId) -> Result<(), Error> {
        self.writer.delete::<Pod>(&self.pod(node), &self.seen_pod(node)?.uid).await
    }

    async fn delete_volume(&self, node: NodeId) -> Result<(), Error> {
        self.writer
            .delete::<PersistentVolumeClaim>(&self.pod(node), &self.seen_volume(node)?.uid)
            .await
    }

    /// One call on the one that is to be the primary: it goes on when the primary, or a leader that
    /// is the primary, gives up.
    async fn switch_over(&self, node: NodeId, step: Step) -> Result<Step, Error> {
        let result = self.change(MembershipRequest::SwitchOver(node), step.clone()).await;
        let refused = match &result {
            Ok(Step::Wait(WaitReason::Refused { code, message, .. })) if code != "PGR06" => {
                Some((code.clone(), message.clone()))
            }
            _ => None,
        };
        self.ctx.memories.of(&self.want.uid, |memory| {
            memory.switchover_attempt = Some(SwitchoverAttempt::again(
                memory.switchover_attempt.as_ref(),
                node,
                self.seen.now,
                refused,
            ));
        });
        match result {
            // The primary may be another one for all that; the next look shows it.
            Err(Error::Sql {
                source: MemberSqlError::Connection(_) | MemberSqlError::Late(_),
                ..
            }) => Ok(step),
            Ok(Step::Wait(WaitReason::Refused { code, .. })) if code == "PGR06" => Ok(step),
            other => other,
        }
    }

    /// One call on the leader. What it refuses is looked at anew in the next pass, and asked again
    /// if it still makes sense.
    async fn change(&self, change: MembershipRequest, step: Step) -> Result<Step, Error> {
        let whom = match change {
            MembershipRequest::SwitchOver(node) => Some(node),
            MembershipRequest::Add(_) | MembershipRequest::Remove(_) => {
                self.seen.group.as_ref().and_then(|g| g.leader)
            }
        };
        let mut all = targets(&self.seen.pods).into_iter().chain(unready_targets(&self.seen.pods));
        let target = all.find(|t| Some(t.node) == whom);
        let target = target.ok_or_else(|| Error::MovedOn("the pod to be asked".into()))?;
        let login = self.ctx.memories.of(&self.want.uid, |memory| memory.login.clone());
        let login =
            login.ok_or_else(|| Error::MovedOn(format!("the way into {}", self.want.name)))?;
        let (MembershipRequest::Add(node)
        | MembershipRequest::Remove(node)
        | MembershipRequest::SwitchOver(node)) = change;
        let host = names::host(&self.want.name, &self.want.namespace, node);
        let address = Address::new(&host, i64::from(RAFT_PORT))
            .map_err(|_| Error::MovedOn(format!("the name of node {node}")))?;
        match self.ctx.raft.change(&target, &login, change, &address).await {
            Ok(()) => Ok(step),
            // Committed, and not complete in time: it goes on by itself.
            Err(MemberSqlError::Refused { code, .. }) if code == "PGR05" => Ok(step),
            Err(MemberSqlError::Refused { code, message }) if is_refusal(&code) => {
                Ok(Step::Wait(WaitReason::Refused { change, code, message }))
            }
            Err(source) => Err(Error::Sql { node: target.node, source }),
        }
    }

    fn pod(&self, node: NodeId) -> String {
        names::pod(&self.want.name, node)
    }
}

/// Whether the leader has said no, and not that its server is stopping or the statement took too
/// long. The classes are those of `pgraft_core::refusal`, and Postgres' own for a missing privilege
/// or function.
fn is_refusal(sqlstate: &str) -> bool {
    ["PGR", "22", "42", "54", "55"].iter().any(|class| sqlstate.starts_with(class))
}

#[cfg(test)]
mod tests {
    use super::is_refusal;
    use pgraft_core::Refusal;
    use pgraft_core::id::InvalidNodeId;

    #[test]
    fn every_refusal_is_one_and_a_shutdown_is_none() {
        for refusal in [
            Refusal::NotInitialized,
            Refusal::from(InvalidNodeId(0)),
            Refusal::NoQuorum { seconds: 1 },
            Refusal::TooManyMembers(64),
        ] {
            assert!(is_refusal(refusal.sqlstate().as_str()), "{refusal}");
        }
        assert!(!is_refusal("57014") && !is_refusal("57P01") && !is_refusal("08006"));
    }
}
