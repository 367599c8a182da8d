//! What was seen in this pass. Made by `controller::observe`; facts only.

use jiff::Timestamp;
use pgraft_core::configuration::ConfigurationStatus;
use pgraft_core::{ClusterId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::group::GroupView;
use crate::cluster::certificates::TlsSeen;
use crate::cluster::plan::failures::Failures;
use crate::cluster::plan::switchover_attempt::SwitchoverAttempt;
use crate::cluster::render::{Object, Template};
use pgraft_api::names::{ObjectKey, PodRole, SecretKind};

/// All that a decision may look at, besides what is wanted.
#[derive(Debug, Clone)]
pub struct Observed {
    /// When the observation began.
    pub now: Timestamp,
    /// Pods that carry the cluster's label, by the node id in theirs.
    pub pods: BTreeMap<NodeId, PodSeen>,
    /// Why pods are not ready, by their own word.
    pub unready: BTreeMap<NodeId, String>,
    /// Volumes of the same kind.
    pub volumes: BTreeMap<NodeId, VolumeSeen>,
    /// Services, ConfigMap and PodDisruptionBudget: what each is known to look like.
    pub objects: BTreeMap<ObjectKey, ObjectSeen>,
    /// Secrets that exist.
    pub secrets: BTreeMap<SecretKind, SecretSeen>,
    /// The certificates; None where TLS is disabled.
    pub tls: Option<TlsSeen>,
    /// What the Raft group says; None when no member answered.
    pub group: Option<GroupView>,
    /// The cluster id that the PgRaftCluster's status has: there was a cluster before.
    pub known: Option<ClusterId>,
    /// The request to be the primary that was carried out, by the PgRaftCluster's status.
    pub switched_to: Option<NodeId>,
    /// The switchover that was asked for last.
    pub switchover_attempt: Option<SwitchoverAttempt>,
    /// Since when members have not been reached.
    pub away: BTreeMap<NodeId, Timestamp>,
    /// What members say about their configuration.
    pub configurations: BTreeMap<NodeId, ConfigurationStatus>,
    /// What failed lately.
    pub failing: Failures,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSeen {
    /// Its identity.
    pub uid: String,
    /// How far it is.
    pub phase: PodPhase,
    /// Whether it is to go, or belongs to an earlier PgRaftCluster of the same name and will be
    /// collected.
    pub terminating: bool,
    /// Where it can be reached.
    pub ip: Option<IpAddr>,
    /// The label for Services.
    pub role: Option<PodRole>,
    /// Whether Services select it; None where the label is missing.
    pub routed: Option<bool>,
    /// What it was made from; None where that can't be read.
    pub template: Option<Template>,
    /// The hash of the configuration that its files were last refreshed for; None on a pod of an
    /// earlier operator.
    pub configuration: Option<String>,
    /// Whether the ConfigMap could not be applied when it was made: it may have started with an
    /// earlier one.
    pub outdated: bool,
    /// Whether the owner reference is there.
    pub owned: Owned,
}

/// How far a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodPhase {
    /// Not ready; with what Kubernetes says is in the way, when it says so.
    Starting(Option<String>),
    /// Ready.
    Ready,
    /// Evicted, or its host was shut down: its containers are gone and Kubernetes won't start them
    /// again.
    Finished,
}

/// Whether the PgRaftCluster owns an object, so that it goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owned {
    /// It does.
    Yes,
    /// It does not.
    No,
}

impl Owned {
    /// Yes when it is so.
    pub const fn when(owned: bool) -> Self {
        if owned { Self::Yes } else { Self::No }
    }

    /// Whether it does.
    pub fn is_yes(self) -> bool {
        self == Self::Yes
    }
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSeen {
    /// Its identity.
    pub uid: String,
    /// Whether it is to go.
    pub terminating: bool,
    /// Whether its member has left.
    pub retired: bool,
    /// The bytes that were asked for.
    pub requested: u128,
    /// The bytes that it has; 0 until it has any.
    pub capacity: u128,
    /// Whether it goes with the PgRaftCluster.
    pub owned: Owned,
}

/// A Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSeen {
    /// Its identity.
    pub uid: String,
    /// Whether it goes with the PgRaftCluster.
    pub owned: Owned,
}

impl VolumeSeen {
    /// The bytes that it was asked for and has. Provisioners round up, and a volume that was there
    /// before may be much larger.
    pub fn size(&self) -> u128 {
        self.requested.min(self.capacity)
    }
}

/// What is known of an object that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectSeen {
    /// As this process applied it: nobody has changed it since. The number is what
    /// `render::fingerprint` said then.
    AsApplied(u64),
    /// It is there, and this process does not know how it looks.
    Unknown,
}

impl Observed {
    /// All node ids that pods and volumes carry.
    pub fn ids(&self) -> BTreeSet<NodeId> {
        self.pods.keys().chain(self.volumes.keys()).copied().collect()
    }

    /// The bytes of the largest volume that a member has.
    pub fn largest_volume(&self) -> u128 {
        self.volumes
            .values()
            .filter(|v| !v.retired && !v.terminating)
            .map(VolumeSeen::size)
            .max()
            .unwrap_or(0)
    }

    /// Whether this object is there as rendered.
    pub fn has(&self, object: &Object) -> bool {
        self.objects.get(&object.key()) == Some(&ObjectSeen::AsApplied(object.fingerprint()))
    }

    /// Whether this pod serves.
    pub fn is_ready(&self, node: NodeId) -> bool {
        self.pods.get(&node).is_some_and(|pod| pod.phase == PodPhase::Ready && !pod.terminating)
    }
}
