//! The steps that change objects. A target that was not observed counts as changed since.

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use pgraft_core::NodeId;
use rand::distr::{Alphanumeric, SampleString};
use serde_json::{Value, json};

use crate::cluster::certificates::secrets;
use crate::cluster::context::Context;
use crate::cluster::error::Error;
use crate::cluster::observe::observed::{PodSeen, VolumeSeen};
use crate::cluster::plan;
use crate::cluster::render::{self, Object, Passwords};
use crate::cluster::step::{MembershipRequest, OwnedObject, Step};
use crate::cluster::{ClusterSpec, Observed};
use crate::kubernetes::metadata::version;
use crate::kubernetes::writer::{ObjectWriter, Writable};
use pgraft_api::names::{self, ObjectKey, ObjectKind, SecretKind};

const PASSWORD_LENGTH: usize = 32;

/// Takes the parts of a step.
pub(super) struct Actor<'a> {
    pub ctx: &'a Context,
    pub want: &'a ClusterSpec,
    pub seen: &'a Observed,
    pub writer: ObjectWriter,
}

impl Actor<'_> {
    /// Takes a step with one target. Returns the step; a change that the leader refuses comes back
    /// as a wait.
    pub async fn take(&self, step: Step) -> Result<Step, Error> {
        let Self { ctx, want, seen, writer } = self;
        match &step {
            Step::Wait(_) | Step::Steady => {}
            Step::CreateSecrets(kinds) => self.create_secrets(kinds).await?,
            Step::DeleteSecret(kind) => self.delete_secret(*kind).await?,
            Step::ApplyObjects(keys) => self.apply(keys).await?,
            Step::DeleteObject(key) => self.delete_object(key).await?,
            Step::Certificates(todo) => secrets::work(ctx, want, seen, todo).await?,
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
                let ca = secrets::authority_of(&self.want.name, self.seen.now)?;
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
            self.seen.secrets.get(&kind).ok_or_else(|| Error::changed(format!("Secret {name}")))?;
        Ok(self.writer.delete::<Secret>(&name, &secret.uid).await?)
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

    async fn delete<K: Writable>(&self, name: &str) -> Result<(), Error> {
        let Some(uid) = self.writer.owned::<K>(name).await?.and_then(|there| there.uid) else {
            return Ok(());
        };
        Ok(self.writer.delete::<K>(name, &uid).await?)
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
                        .ok_or_else(|| Error::changed(format!("Secret {name}")))?;
                    self.writer.merge::<Secret>(&name, &secret.uid, patch).await?;
                }
            }
        }
        Ok(())
    }

    fn seen_pod(&self, node: NodeId) -> Result<&PodSeen, Error> {
        self.seen.pods.get(&node).ok_or_else(|| Error::changed(format!("pod {}", self.pod(node))))
    }

    fn seen_volume(&self, node: NodeId) -> Result<&VolumeSeen, Error> {
        self.seen
            .volumes
            .get(&node)
            .ok_or_else(|| Error::changed(format!("volume {}", self.pod(node))))
    }

    async fn label_pod(&self, node: NodeId, label: &str, value: &str) -> Result<(), Error> {
        let patch = json!({ "metadata": { "labels": { label: value } } });
        Ok(self.writer.merge::<Pod>(&self.pod(node), &self.seen_pod(node)?.uid, patch).await?)
    }

    async fn change_volume(&self, node: NodeId, patch: Value) -> Result<(), Error> {
        Ok(self
            .writer
            .merge::<PersistentVolumeClaim>(&self.pod(node), &self.seen_volume(node)?.uid, patch)
            .await?)
    }

    async fn delete_pod(&self, node: NodeId) -> Result<(), Error> {
        Ok(self.writer.delete::<Pod>(&self.pod(node), &self.seen_pod(node)?.uid).await?)
    }

    async fn delete_volume(&self, node: NodeId) -> Result<(), Error> {
        Ok(self
            .writer
            .delete::<PersistentVolumeClaim>(&self.pod(node), &self.seen_volume(node)?.uid)
            .await?)
    }

    pub(super) fn pod(&self, node: NodeId) -> String {
        names::pod(&self.want.name, node)
    }
}
