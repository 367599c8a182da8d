//! Takes one step. Writes only; decides nothing.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use pgraft_core::{Address, NodeId};
use rand::distr::{Alphanumeric, SampleString};
use serde_json::{Value, json};

use super::apply::Writer;
use super::certificates;
use super::context::Context;
use super::error::Error;
use super::facts::version;
use super::observe::{targets, unready_targets};
use super::sql::SqlError;
use crate::core::asked::Asked;
use crate::core::names::{self, ObjectKey, RAFT_PORT, SecretKind};
use crate::core::render::{self, Object, Passwords};
use crate::core::step::{Change, Possession, Step, Why};
use crate::core::{Cluster, Observed};

const PASSWORD_LENGTH: usize = 32;

/// Takes the step and returns it; a change that the leader refuses comes back as the wait for a better moment.
///
/// # Errors
/// The step was not taken, or not wholly; every one of them can be taken again.
pub async fn act(ctx: &Context, want: &Cluster, seen: &Observed, step: Step) -> Result<Step, Error> {
    let actor = Actor { ctx, want, seen, writer: Writer::new(&ctx.client, &want.namespace) };
    match &step {
        Step::Wait(_) | Step::Steady => {}
        Step::CreateSecrets(kinds) => actor.create_secrets(kinds).await?,
        Step::DeleteSecret(kind) => actor.delete_secret(*kind).await?,
        Step::ApplyObjects(keys) => actor.apply(keys).await?,
        Step::Certificates(todo) => certificates::work(ctx, want, seen, todo).await?,
        Step::RefreshPods(nodes) => actor.refresh(nodes).await?,
        Step::SetOwners(owners) => actor.set_owners(owners).await?,
        Step::LabelPods(pods) => {
            for (node, role) in pods {
                actor.label::<Pod>(*node, names::LABEL_ROLE, role.as_str()).await?;
            }
        }
        Step::CreateVolume(node) => actor.writer.create(&render::pvc(want, *node)).await?,
        Step::CreatePod { node, founder } => actor.writer.create(&render::pod(want, *node, *founder)).await?,
        Step::ClearPod(node) | Step::RestartPod(node) | Step::DeletePod(node) => actor.delete_pod(*node).await?,
        Step::DeleteVolume(node) => actor.delete_volume(*node).await?,
        Step::RetireVolume(node) => actor.label::<PersistentVolumeClaim>(*node, names::LABEL_RETIRED, "true").await?,
        Step::GrowVolume(node) => actor.grow_volume(*node).await?,
        Step::AddNode(node) => return actor.change(Change::Add(*node), step).await,
        Step::RemoveNode(node) => return actor.change(Change::Remove(*node), step).await,
        Step::SwitchOver(node) => return actor.switch_over(*node, step).await,
    }
    Ok(step)
}

struct Actor<'a> {
    ctx: &'a Context,
    want: &'a Cluster,
    seen: &'a Observed,
    writer: Writer,
}

impl Actor<'_> {
    async fn create_secrets(&self, kinds: &[SecretKind]) -> Result<(), Error> {
        for kind in kinds {
            if *kind == SecretKind::Ca {
                let ca = certificates::authority_of(&self.want.name, self.seen.now)?;
                self.writer.create(&render::ca_secret(self.want, &ca)).await?;
                continue;
            }
            let passwords = Passwords(std::array::from_fn(|_| Alphanumeric.sample_string(&mut rand::rng(), PASSWORD_LENGTH)));
            self.writer.create(&render::secret(self.want, *kind, &passwords)).await?;
        }
        Ok(())
    }

    async fn delete_secret(&self, kind: SecretKind) -> Result<(), Error> {
        let name = kind.name(&self.want.name);
        let secret = self.seen.secrets.get(&kind).ok_or_else(|| Error::MovedOn(format!("Secret {name}")))?;
        self.writer.delete::<Secret>(&name, &secret.uid).await
    }

    async fn apply(&self, keys: &[ObjectKey]) -> Result<(), Error> {
        let members = self.seen.group.as_ref().map_or(0, |g| g.members.len());
        for object in render::objects(self.want, members).into_iter().filter(|o| keys.contains(&o.key())) {
            let metadata = match &object {
                Object::ConfigMap(o) => self.writer.apply(o).await?,
                Object::Service(o) => self.writer.apply(&**o).await?,
                Object::PodDisruptionBudget(o) => self.writer.apply(o).await?,
            };
            let version = version(&metadata).unwrap_or_default();
            self.ctx.memories.of(&self.want.uid, |memory| memory.applied(object.key(), object.fingerprint(), version));
        }
        Ok(())
    }

    /// The kubelet looks at a pod's ConfigMap when the pod changes, and else once in a minute or so.
    async fn refresh(&self, nodes: &[NodeId]) -> Result<(), Error> {
        let patch = json!({ "metadata": { "annotations": { names::ANNOTATION_CONFIGURATION: render::configuration_hash(self.want) } } });
        for node in nodes {
            self.writer.merge::<Pod>(&self.pod(*node), &patch).await?;
        }
        Ok(())
    }

    async fn set_owners(&self, owners: &[(Possession, bool)]) -> Result<(), Error> {
        let owner = render::owner_reference(&self.want.name, &self.want.uid);
        for (what, owned) in owners {
            let references: Value = if *owned { json!([owner]) } else { Value::Null };
            let patch = json!({ "metadata": { "ownerReferences": references } });
            match what {
                Possession::Pod(node) => self.writer.merge::<Pod>(&self.pod(*node), &patch).await?,
                Possession::Volume(node) => self.writer.merge::<PersistentVolumeClaim>(&self.pod(*node), &patch).await?,
                Possession::Secret(kind) => self.writer.merge::<Secret>(&kind.name(&self.want.name), &patch).await?,
            }
        }
        Ok(())
    }

    async fn label<K: super::apply::Writable>(&self, node: NodeId, label: &str, value: &str) -> Result<(), Error> {
        self.writer.merge::<K>(&self.pod(node), &json!({ "metadata": { "labels": { label: value } } })).await
    }

    async fn delete_pod(&self, node: NodeId) -> Result<(), Error> {
        let pod = self.seen.pods.get(&node).ok_or_else(|| Error::MovedOn(format!("pod {}", self.pod(node))))?;
        self.writer.delete::<Pod>(&self.pod(node), &pod.uid).await
    }

    async fn delete_volume(&self, node: NodeId) -> Result<(), Error> {
        let volume = self.seen.volumes.get(&node).ok_or_else(|| Error::MovedOn(format!("volume {}", self.pod(node))))?;
        self.writer.delete::<PersistentVolumeClaim>(&self.pod(node), &volume.uid).await
    }

    async fn grow_volume(&self, node: NodeId) -> Result<(), Error> {
        let patch = json!({ "spec": { "resources": { "requests": { "storage": self.want.storage.size } } } });
        self.writer.merge::<PersistentVolumeClaim>(&self.pod(node), &patch).await
    }

    /// One call on the one that is to be the primary: it goes on when the primary, or a leader that is the primary, gives up.
    async fn switch_over(&self, node: NodeId, step: Step) -> Result<Step, Error> {
        let result = self.change(Change::SwitchOver(node), step.clone()).await;
        let refused = match &result {
            Ok(Step::Wait(Why::Refused { code, message, .. })) if code != "PGR06" => Some((code.clone(), message.clone())),
            _ => None,
        };
        self.ctx
            .memories
            .of(&self.want.uid, |memory| memory.asked = Some(Asked::again(memory.asked.as_ref(), node, self.seen.now, refused)));
        match result {
            // The primary may be another one for all that; the next look shows it.
            Err(Error::Sql { source: SqlError::Connection(_) | SqlError::Late(_), .. }) => Ok(step),
            Ok(Step::Wait(Why::Refused { code, .. })) if code == "PGR06" => Ok(step),
            other => other,
        }
    }

    /// One call on the leader. What it refuses is looked at anew in the next pass, and asked again if it still makes sense.
    async fn change(&self, change: Change, step: Step) -> Result<Step, Error> {
        let whom = match change {
            Change::SwitchOver(node) => Some(node),
            Change::Add(_) | Change::Remove(_) => self.seen.group.as_ref().and_then(|g| g.leader),
        };
        let mut all = targets(&self.seen.pods).into_iter().chain(unready_targets(&self.seen.pods));
        let target = all.find(|t| Some(t.node) == whom);
        let target = target.ok_or_else(|| Error::MovedOn("the pod to be asked".into()))?;
        let login = self.ctx.memories.of(&self.want.uid, |memory| memory.login.clone());
        let login = login.ok_or_else(|| Error::MovedOn(format!("the way into {}", self.want.name)))?;
        let (Change::Add(node) | Change::Remove(node) | Change::SwitchOver(node)) = change;
        let host = names::host(&self.want.name, &self.want.namespace, node);
        let address = Address::new(&host, i64::from(RAFT_PORT)).map_err(|_| Error::MovedOn(format!("the name of node {node}")))?;
        match self.ctx.raft.change(&target, &login, change, &address).await {
            Ok(()) => Ok(step),
            // Committed, and not complete in time: it goes on by itself.
            Err(SqlError::Refused { code, .. }) if code == "PGR05" => Ok(step),
            Err(SqlError::Refused { code, message }) if is_refusal(&code) => Ok(Step::Wait(Why::Refused { change, code, message })),
            Err(source) => Err(Error::Sql { node: target.node, source }),
        }
    }

    fn pod(&self, node: NodeId) -> String {
        names::pod(&self.want.name, node)
    }
}

/// Whether the leader has said no, and not that its server is stopping or the statement took too long. The classes are those of
/// `pgraft_core::refusal`, and Postgres' own for a missing privilege or function.
fn is_refusal(sqlstate: &str) -> bool {
    ["PGR", "22", "42", "54", "55"].iter().any(|class| sqlstate.starts_with(class))
}

#[cfg(test)]
mod tests {
    use super::is_refusal;
    use pgraft_core::Refusal;

    #[test]
    fn every_refusal_is_one_and_a_shutdown_is_none() {
        for refusal in [Refusal::NotInitialized, Refusal::BadPort(0), Refusal::NoQuorum { seconds: 1 }, Refusal::TooManyMembers(64)] {
            assert!(is_refusal(refusal.sqlstate()), "{refusal}");
        }
        assert!(!is_refusal("57014") && !is_refusal("57P01") && !is_refusal("08006"));
    }
}
