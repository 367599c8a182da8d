//! What of a Kubernetes object matters here: a few hundred bytes of each. Made from what the API
//! server sends, by a list or by a watch, before anything is kept; nobody behind this file sees a
//! whole Pod, and nobody at all the contents of a Secret that was not asked for by its name.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use pgraft_core::NodeId;
use std::net::IpAddr;

use crate::cluster::observe::observed::PodPhase;
use crate::cluster::quantity;
use crate::cluster::render::Template;
use crate::kubernetes::ObjectFact;
use crate::kubernetes::metadata::label;
use pgraft_api::names::{self, ObjectKind, PodRole};

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFact {
    /// Name, identity, owners.
    pub common: ObjectFact,
    /// The node id in its label.
    pub node: NodeId,
    /// How far it is.
    pub phase: PodPhase,
    /// Where it can be reached.
    pub ip: Option<IpAddr>,
    /// The label for Services.
    pub role: Option<PodRole>,
    /// Whether Services select it.
    pub routed: Option<bool>,
    /// What it was made from.
    pub template: Option<Template>,
    /// The hash of the configuration that its files were last refreshed for.
    pub configuration: Option<String>,
    /// Whether it was made while the ConfigMap could not be applied.
    pub outdated: bool,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFact {
    /// Name, identity, owners.
    pub common: ObjectFact,
    /// The node id in its label.
    pub node: NodeId,
    /// Whether its member has left.
    pub retired: bool,
    /// The bytes that were asked for.
    pub requested: u128,
    /// The bytes that it has.
    pub capacity: u128,
}

/// All that is there of one cluster.
#[derive(Debug, Clone, Default)]
pub struct ClusterFacts {
    /// Its pods.
    pub pods: Vec<PodFact>,
    /// Its volumes.
    pub volumes: Vec<VolumeFact>,
    /// Its Secrets, without what is in them.
    pub secrets: Vec<ObjectFact>,
    /// Services, ConfigMap and PodDisruptionBudget: what is in them is known from when they were
    /// applied.
    pub objects: Vec<(ObjectKind, ObjectFact)>,
}

impl ClusterFacts {
    /// Those about objects of which this holds.
    #[must_use]
    pub fn only(self, holds: impl Fn(&ObjectFact) -> bool) -> Self {
        Self {
            pods: self.pods.into_iter().filter(|pod| holds(&pod.common)).collect(),
            volumes: self.volumes.into_iter().filter(|volume| holds(&volume.common)).collect(),
            secrets: self.secrets.into_iter().filter(&holds).collect(),
            objects: self.objects.into_iter().filter(|(_, common)| holds(common)).collect(),
        }
    }
}

impl PodFact {
    /// None for a pod that says of no node to be its pod.
    pub fn of(pod: &Pod) -> Option<Self> {
        Some(Self {
            common: ObjectFact::of(&pod.metadata),
            node: node_of(&pod.metadata)?,
            routed: pod.labels().get(names::LABEL_SERVING).map(|value| value == "true"),
            outdated: pod
                .annotations()
                .get(names::ANNOTATION_OUTDATED)
                .is_some_and(|value| value == "true"),
            phase: phase(pod),
            ip: pod
                .status
                .as_ref()
                .and_then(|s| s.pod_ip.as_deref())
                .and_then(|ip| ip.parse().ok()),
            role: pod.labels().get(names::LABEL_ROLE).and_then(|role| PodRole::parse(role)),
            template: pod
                .annotations()
                .get(names::ANNOTATION_TEMPLATE)
                .and_then(|text| Template::parse(text)),
            configuration: pod.annotations().get(names::ANNOTATION_CONFIGURATION).cloned(),
        })
    }
}

impl VolumeFact {
    /// None for a volume that says of no node to be its volume.
    pub fn of(volume: &PersistentVolumeClaim) -> Option<Self> {
        let requests = volume
            .spec
            .as_ref()
            .and_then(|s| s.resources.as_ref())
            .and_then(|r| r.requests.as_ref());
        let capacity = volume.status.as_ref().and_then(|s| s.capacity.as_ref());
        Some(Self {
            common: ObjectFact::of(&volume.metadata),
            node: node_of(&volume.metadata)?,
            retired: volume.labels().get(names::LABEL_RETIRED).is_some_and(|value| value == "true"),
            capacity: capacity
                .and_then(|c| c.get("storage"))
                .and_then(|q| quantity::bytes(&q.0))
                .unwrap_or(0),
            requested: requests
                .and_then(|r| r.get("storage"))
                .and_then(|q| quantity::bytes(&q.0))
                .unwrap_or(u128::MAX),
        })
    }
}

/// By its labels and its name: a copy that carries the labels is no member's.
fn node_of(metadata: &ObjectMeta) -> Option<NodeId> {
    let node = NodeId::new(label(metadata, names::LABEL_NODE)?.parse().ok()?).ok()?;
    let name = names::pod(label(metadata, names::LABEL_CLUSTER)?, node);
    (metadata.name.as_ref() == Some(&name)).then_some(node)
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
    let waiting =
        containers.filter_map(|c| c.state.as_ref()?.waiting.as_ref()).find_map(|w| {
            match w.reason.as_deref() {
                None | Some("ContainerCreating" | "PodInitializing") => None,
                Some(reason) => {
                    Some(w.message.as_ref().map_or_else(
                        || reason.to_owned(),
                        |message| format!("{reason}: {message}"),
                    ))
                }
            }
        });
    let unscheduled = || {
        condition("PodScheduled").filter(|c| c.status == "False").and_then(|c| c.message.clone())
    };
    PodPhase::Starting(waiting.or_else(unscheduled))
}
