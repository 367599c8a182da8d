//! Looks at the world. Reads only.

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt};
use pgraft_core::{ClusterId, NodeId};
use std::collections::BTreeMap;
use std::fmt::Debug;

use super::context::Context;
use super::error::Error;
use super::sql::Target;
use crate::api::PgRaftCluster;
use crate::core::group::{self, Answer};
use crate::core::names::{self, Kind, ObjectKey, PodRole, SecretKind};
use crate::core::observed::{ObjectSeen, Observed, Owned, PodPhase, PodSeen, SecretSeen, VolumeSeen};
use crate::core::quantity;
use crate::core::render::OPERATOR_PASSWORD;

/// Everything that a decision about this cluster may look at. `now` is when the pass began.
///
/// # Errors
/// When the API server does not answer. A member that does not answer is a fact, not an error.
pub async fn observe(ctx: &Context, cr: &PgRaftCluster, now: Timestamp) -> Result<Observed, Error> {
    let looker = Looker { ctx, cr, uid: cr.uid().unwrap_or_default() };
    let (pods, volumes, secrets, config_maps, services, budgets) = futures::try_join!(
        looker.list::<Pod>(),
        looker.list::<PersistentVolumeClaim>(),
        looker.list::<Secret>(),
        looker.versions::<ConfigMap>(Kind::ConfigMap),
        looker.versions::<Service>(Kind::Service),
        looker.versions::<PodDisruptionBudget>(Kind::PodDisruptionBudget),
    )?;
    let known = cr.status.as_ref().and_then(|s| s.cluster_id.as_deref()).and_then(cluster_id);
    let password = operator_password(&secrets, &cr.name_any());
    let pods: BTreeMap<NodeId, PodSeen> = pods.iter().filter_map(|pod| Some((node_of(&pod.metadata)?, looker.pod(pod)))).collect();
    let answers = looker.answers(&pods, password.as_deref()).await;
    Ok(Observed {
        now,
        volumes: volumes.iter().filter_map(|v| Some((node_of(&v.metadata)?, looker.volume(v)))).collect(),
        objects: config_maps.into_iter().chain(services).chain(budgets).collect(),
        secrets: looker.secrets(&secrets),
        group: group::merge(&answers, known),
        known,
        pods,
    })
}

/// The pods that can be asked: ready ones.
pub fn targets(pods: &BTreeMap<NodeId, PodSeen>) -> Vec<Target> {
    let ready = pods.iter().filter(|(_, pod)| pod.phase == PodPhase::Ready && !pod.terminating);
    ready.filter_map(|(node, pod)| Some(Target { node: *node, uid: pod.uid.clone(), ip: pod.ip? })).collect()
}

/// The password of the operator's role, out of the Secret `-internal`.
pub fn operator_password(secrets: &[Secret], cluster: &str) -> Option<String> {
    let name = SecretKind::Internal.name(cluster);
    let secret = secrets.iter().find(|s| s.metadata.name.as_deref() == Some(name.as_str()))?;
    String::from_utf8(secret.data.as_ref()?.get(OPERATOR_PASSWORD)?.0.clone()).ok()
}

struct Looker<'a> {
    ctx: &'a Context,
    cr: &'a PgRaftCluster,
    uid: String,
}

impl Looker<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.ctx.client.clone(), &self.cr.namespace().unwrap_or_default())
    }

    fn ours(&self) -> ListParams {
        ListParams::default().labels(&names::selector(&self.cr.name_any()))
    }

    async fn list<K>(&self) -> Result<Vec<K>, Error>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + Debug + serde::de::DeserializeOwned,
    {
        let list = self.api::<K>().list(&self.ours()).await;
        list.map(|list| list.items).map_err(Error::kube(format!("list {}", K::plural(&()))))
    }

    /// Names and versions only: what is in these objects is known from when they were applied.
    async fn versions<K>(&self, kind: Kind) -> Result<Vec<(ObjectKey, ObjectSeen)>, Error>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + Debug + serde::de::DeserializeOwned,
    {
        let list = self.api::<K>().list_metadata(&self.ours()).await.map_err(Error::kube(format!("list {}", K::plural(&()))))?;
        let seen = |meta: &ObjectMeta| {
            let key = ObjectKey { kind, name: meta.name.clone()? };
            let seen = self.ctx.recall(&self.uid, &key, version(meta).as_deref());
            Some((key, seen))
        };
        // An object that is to go, with its former owner or otherwise, is as good as not there.
        Ok(list.items.iter().filter(|o| o.metadata.deletion_timestamp.is_none()).filter_map(|o| seen(&o.metadata)).collect())
    }

    fn pod(&self, pod: &Pod) -> PodSeen {
        PodSeen {
            uid: pod.uid().unwrap_or_default(),
            phase: phase(pod),
            terminating: self.is_going(&pod.metadata),
            ip: pod.status.as_ref().and_then(|s| s.pod_ip.as_deref()).and_then(|ip| ip.parse().ok()),
            role: pod.labels().get(names::LABEL_ROLE).and_then(|role| PodRole::parse(role)),
            owned: self.owned(&pod.metadata),
        }
    }

    fn volume(&self, volume: &PersistentVolumeClaim) -> VolumeSeen {
        let requests = volume.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
        VolumeSeen {
            uid: volume.uid().unwrap_or_default(),
            terminating: self.is_going(&volume.metadata),
            retired: volume.labels().get(names::LABEL_RETIRED).is_some_and(|value| value == "true"),
            requested: requests.and_then(|r| r.get("storage")).and_then(|q| quantity::bytes(&q.0)).unwrap_or(u128::MAX),
            owned: self.owned(&volume.metadata),
        }
    }

    fn secrets(&self, secrets: &[Secret]) -> BTreeMap<SecretKind, SecretSeen> {
        let cluster = self.cr.name_any();
        let find = |kind: SecretKind| secrets.iter().find(|s| s.name_any() == kind.name(&cluster) && !self.is_going(&s.metadata));
        let seen = |secret: &Secret| SecretSeen { uid: secret.uid().unwrap_or_default(), owned: self.owned(&secret.metadata) };
        SecretKind::ALL.into_iter().filter_map(|kind| Some((kind, seen(find(kind)?)))).collect()
    }

    fn owned(&self, metadata: &ObjectMeta) -> Owned {
        Owned::when(metadata.owner_references.iter().flatten().any(|owner| owner.uid == self.uid))
    }

    /// On its way out: deleted, or owned by an earlier PgRaftCluster of this name and about to be collected.
    fn is_going(&self, metadata: &ObjectMeta) -> bool {
        let owners = metadata.owner_references.as_deref().unwrap_or_default();
        metadata.deletion_timestamp.is_some() || (!owners.is_empty() && owners.iter().all(|owner| owner.uid != self.uid))
    }

    /// Asks all ready pods at once: none of them waits for another.
    async fn answers(&self, pods: &BTreeMap<NodeId, PodSeen>, password: Option<&str>) -> Vec<Answer> {
        let Some(password) = password else { return Vec::new() };
        let targets = targets(pods);
        let asked = targets.iter().map(|target| async move {
            let answer = self.ctx.raft.ask(target, password).await;
            answer.inspect_err(|error| tracing::debug!(node = %target.node, %error, "no answer")).ok()
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}

/// What moves when somebody changes the object. Where Kubernetes counts generations, its own writes to the status do not move it.
pub fn version(metadata: &ObjectMeta) -> Option<String> {
    metadata.generation.map(|n| n.to_string()).or_else(|| metadata.resource_version.clone())
}

fn node_of(metadata: &ObjectMeta) -> Option<NodeId> {
    let label = metadata.labels.as_ref()?.get(names::LABEL_NODE)?;
    NodeId::new(label.parse().ok()?).ok()
}

fn cluster_id(text: &str) -> Option<ClusterId> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).ok()
}

fn phase(pod: &Pod) -> PodPhase {
    let Some(status) = &pod.status else { return PodPhase::Starting(None) };
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        return PodPhase::Finished;
    }
    let condition = |type_: &str| status.conditions.iter().flatten().find(|c| c.type_ == type_);
    if condition("Ready").is_some_and(|c| c.status == "True") {
        return PodPhase::Ready;
    }
    let containers = status.container_statuses.iter().flatten();
    let waiting = containers.filter_map(|c| c.state.as_ref()?.waiting.as_ref()).find_map(|w| match w.reason.as_deref() {
        None | Some("ContainerCreating" | "PodInitializing") => None,
        Some(reason) => Some(w.message.as_ref().map_or_else(|| reason.to_owned(), |message| format!("{reason}: {message}"))),
    });
    let unscheduled = || condition("PodScheduled").filter(|c| c.status == "False").and_then(|c| c.message.clone());
    PodPhase::Starting(waiting.or_else(unscheduled))
}
