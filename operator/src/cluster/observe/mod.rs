//! Looks at the world. Reads only.

pub mod absence;
pub mod cache;
pub mod configuration;
pub mod facts;
pub mod freshness;
pub mod group;
pub mod observed;
pub mod readiness;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt};
use pgraft_core::{ClusterId, NodeId, NodeState};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use super::context::Context;
use super::error::Error;
use crate::cluster::certificates::TlsSeen;
use crate::cluster::certificates::secrets::{self, identity::LoginIdentity};
use crate::cluster::members::sql::SqlTarget;
use crate::cluster::render::OPERATOR_PASSWORD;
use crate::kubernetes::ObjectFact;
use facts::{ClusterFacts, PodFact, VolumeFact};
use freshness::Freshness;
use group::PodAnswer;
use observed::{ObjectSeen, Observed, Owned, PodPhase, PodSeen, SecretSeen, VolumeSeen};
use pgraft_api::cluster::PgRaftCluster;
use pgraft_api::names::{self, ObjectKey, ObjectKind, SecretKind};

/// Everything that a decision about this cluster may look at. `now` is when the pass began.
///
/// # Errors
/// When the API server does not answer. A member that does not answer is a fact, not an error.
pub async fn observe(
    ctx: &Context,
    cr: &PgRaftCluster,
    now: Timestamp,
    freshness: Freshness,
) -> Result<Observed, Error> {
    let observer = ClusterObserver { ctx, cr, uid: cr.uid().unwrap_or_default() };
    let ClusterFacts { pods, volumes, secrets, objects } = match freshness {
        Freshness::LeaderOnly(_) | Freshness::Cached => {
            ctx.cache.facts(&cr.namespace().unwrap_or_default(), &cr.name_any())
        }
        Freshness::Live => observer.read().await?,
    }
    .only(|common| observer.is_ours(common));
    let known = cr.status.as_ref().and_then(|s| s.cluster_id.as_deref()).and_then(cluster_id);
    let own: Vec<&ObjectFact> =
        secrets.iter().filter(|secret| !observer.is_going(secret)).collect();
    let tls = secrets::look(ctx, cr, &own, now, freshness).await?;
    let login = observer.login(&secrets, tls.as_ref(), now).await?;
    let pods: BTreeMap<NodeId, PodSeen> =
        pods.into_iter().map(|pod| (pod.node, observer.pod(pod))).collect();
    let mut targets = targets(&pods);
    if let Freshness::LeaderOnly(leader) = freshness {
        targets.retain(|target| target.node == leader);
    }
    let (mut answers, unready, configurations) = futures::join!(
        observer.answers(&targets, login.as_ref()),
        reasons(&pods),
        configuration::ask_all(ctx, &observer.uid, &pods, now)
    );
    let leads = |answer: &PodAnswer| answer.state == NodeState::Leader;
    if !matches!(freshness, Freshness::LeaderOnly(_)) && !answers.iter().any(leads) {
        // A leader that is not ready for reads leads all the same.
        answers.extend(observer.answers(&unready_targets(&pods), login.as_ref()).await);
    }
    let mut group = group::merge(&answers, known);
    if let Some(group) = &mut group {
        group.silent = targets
            .iter()
            .map(|t| t.node)
            .filter(|node| !answers.iter().any(|a| a.node == *node))
            .collect();
    }
    let (switchover_attempt, away, failing) = ctx.memories.of(&observer.uid, |memory| {
        memory.absences.look(cr.status.as_ref().map_or(&[], |s| &s.members), group.as_ref(), now);
        // What was asked for has come about.
        memory.switchover_attempt = memory
            .switchover_attempt
            .take()
            .filter(|a| group.as_ref().and_then(|g| g.primary) != Some(a.target));
        (
            memory.switchover_attempt.clone(),
            memory.absences.since().clone(),
            memory.failing(cr.metadata.generation).clone(),
        )
    });
    let switched_to = cr
        .status
        .as_ref()
        .and_then(|s| s.switchover.as_ref())
        .and_then(|s| names::node_of_pod(&cr.name_any(), &s.target));
    Ok(Observed {
        now,
        volumes: volumes.into_iter().map(|volume| (volume.node, observer.volume(volume))).collect(),
        objects: observer.objects(objects),
        secrets: observer.secrets(&secrets),
        tls,
        group,
        known,
        switched_to,
        switchover_attempt,
        away,
        unready,
        configurations,
        failing,
        pods,
    })
}

/// The freshness that a pass begins with.
pub fn first_freshness(ctx: &Context, cr: &PgRaftCluster) -> Freshness {
    let (version, uid) = (cr.resource_version(), cr.uid().unwrap_or_default());
    let (current, leader) = ctx.memories.of(&uid, |m| (m.is_current(version.as_deref()), m.leader));
    let cache_is_current = current
        && cr.status.is_some()
        && cr.metadata.deletion_timestamp.is_none()
        && ctx.cache.is_synced();
    Freshness::first(cache_is_current, leader)
}

/// The PgRaftCluster, as current as the observation. Returns None if it was deleted.
///
/// # Errors
/// The API server's error.
pub async fn latest<'a>(
    ctx: &Context,
    cr: &'a PgRaftCluster,
    freshness: Freshness,
) -> Result<Option<Cow<'a, PgRaftCluster>>, Error> {
    if freshness != Freshness::Live {
        return Ok(Some(Cow::Borrowed(cr)));
    }
    let api: Api<PgRaftCluster> =
        Api::namespaced(ctx.client.clone(), &cr.namespace().unwrap_or_default());
    let latest =
        api.get_opt(&cr.name_any()).await.map_err(Error::kube("read the PgRaftCluster"))?;
    Ok(latest.filter(|cr| cr.metadata.deletion_timestamp.is_none()).map(Cow::Owned))
}

/// The pods that are asked: ready ones.
pub fn targets(pods: &BTreeMap<NodeId, PodSeen>) -> Vec<SqlTarget> {
    some_targets(pods, |phase| *phase == PodPhase::Ready)
}

/// The pods that may answer all the same.
pub fn unready_targets(pods: &BTreeMap<NodeId, PodSeen>) -> Vec<SqlTarget> {
    some_targets(pods, |phase| matches!(phase, PodPhase::Starting(_)))
}

fn some_targets(
    pods: &BTreeMap<NodeId, PodSeen>,
    which: impl Fn(&PodPhase) -> bool,
) -> Vec<SqlTarget> {
    let those = pods.iter().filter(|(_, pod)| which(&pod.phase) && !pod.terminating);
    those
        .filter_map(|(node, pod)| {
            Some(SqlTarget { node: *node, uid: pod.uid.clone(), ip: pod.ip? })
        })
        .collect()
}

/// Why pods are not ready, as far as they say so.
async fn reasons(pods: &BTreeMap<NodeId, PodSeen>) -> BTreeMap<NodeId, String> {
    let asked = unready_targets(pods)
        .into_iter()
        .map(|target| async move { Some((target.node, readiness::reason(target.ip).await?)) });
    join_all(asked).await.into_iter().flatten().collect()
}

/// The password of the operator's role, out of the Secret `-internal`.
///
/// # Errors
/// What the API server says; a Secret without the password is none.
async fn read_password(
    ctx: &Context,
    namespace: &str,
    cluster: &str,
) -> Result<Option<String>, Error> {
    let name = SecretKind::Internal.name(cluster);
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), namespace);
    let secret = api.get_opt(&name).await.map_err(Error::kube(format!("read Secret {name}")))?;
    let bytes = secret.and_then(|s| s.data).and_then(|mut data| data.remove(OPERATOR_PASSWORD));
    Ok(bytes.and_then(|bytes| String::from_utf8(bytes.0).ok()))
}

struct ClusterObserver<'a> {
    ctx: &'a Context,
    cr: &'a PgRaftCluster,
    uid: String,
}

impl ClusterObserver<'_> {
    /// Asks the API server, for all kinds at once.
    async fn read(&self) -> Result<ClusterFacts, Error> {
        let (pods, volumes, secrets, config_maps, services, budgets) = futures::try_join!(
            self.list::<Pod>(),
            self.list::<PersistentVolumeClaim>(),
            self.metadata::<Secret>(),
            self.metadata::<ConfigMap>(),
            self.metadata::<Service>(),
            self.metadata::<PodDisruptionBudget>(),
        )?;
        let of = |kind: ObjectKind, all: Vec<ObjectFact>| {
            all.into_iter().map(move |common| (kind, common)).collect::<Vec<_>>()
        };
        Ok(ClusterFacts {
            pods: pods.iter().filter_map(PodFact::of).collect(),
            volumes: volumes.iter().filter_map(VolumeFact::of).collect(),
            secrets,
            objects: [
                of(ObjectKind::ConfigMap, config_maps),
                of(ObjectKind::Service, services),
                of(ObjectKind::PodDisruptionBudget, budgets),
            ]
            .concat(),
        })
    }

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
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + serde::de::DeserializeOwned,
    {
        let list = self.api::<K>().list(&self.ours()).await;
        list.map(|list| list.items).map_err(Error::kube(format!("list {}", K::plural(&()))))
    }

    /// Names and versions only.
    async fn metadata<K>(&self) -> Result<Vec<ObjectFact>, Error>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + serde::de::DeserializeOwned,
    {
        let list = self
            .api::<K>()
            .list_metadata(&self.ours())
            .await
            .map_err(Error::kube(format!("list {}", K::plural(&()))))?;
        Ok(list.items.iter().map(ObjectFact::of_metadata).collect())
    }

    /// By certificate, or by password where there is no TLS; remembered for what is to be changed
    /// in this pass.
    async fn login(
        &self,
        secrets: &[ObjectFact],
        tls: Option<&TlsSeen>,
        now: Timestamp,
    ) -> Result<Option<LoginIdentity>, Error> {
        let login = match tls {
            None => self.password(secrets).await?.map(LoginIdentity::Password),
            Some(tls) => {
                let before = self.ctx.memories.of(&self.uid, |m| m.login.clone());
                secrets::login(self.ctx, self.cr, tls, before, now).await?
            }
        };
        self.ctx.memories.of(&self.uid, |m| m.login.clone_from(&login));
        Ok(login)
    }

    /// Remembered for as long as its Secret does not change.
    async fn password(&self, secrets: &[ObjectFact]) -> Result<Option<String>, Error> {
        let name = SecretKind::Internal.name(&self.cr.name_any());
        let Some(secret) = secrets.iter().find(|s| s.name == name) else { return Ok(None) };
        let version = format!("{}/{}", secret.uid, secret.version);
        let remembered = self.ctx.memories.of(&self.uid, |m| m.password.clone());
        if let Some((_, password)) = remembered.filter(|(of, _)| *of == version) {
            return Ok(Some(password));
        }
        let password =
            read_password(self.ctx, &self.cr.namespace().unwrap_or_default(), &self.cr.name_any())
                .await?;
        self.ctx
            .memories
            .of(&self.uid, |m| m.password = password.clone().map(|password| (version, password)));
        Ok(password)
    }

    fn objects(&self, objects: Vec<(ObjectKind, ObjectFact)>) -> BTreeMap<ObjectKey, ObjectSeen> {
        // An object that is to go, with its former owner or otherwise, is as good as not there.
        let there = objects.into_iter().filter(|(_, common)| !self.is_going(common));
        self.ctx.memories.of(&self.uid, |memory| {
            let seen = |(kind, common): (ObjectKind, ObjectFact)| {
                let key = ObjectKey { kind, name: common.name };
                let seen = memory.recall(&key, &common.version);
                (key, seen)
            };
            there.map(seen).collect()
        })
    }

    fn pod(&self, pod: PodFact) -> PodSeen {
        PodSeen {
            terminating: self.is_going(&pod.common),
            owned: self.owned(&pod.common),
            uid: pod.common.uid,
            phase: pod.phase,
            ip: pod.ip,
            role: pod.role,
            routed: pod.routed,
            template: pod.template,
            configuration: pod.configuration,
            outdated: pod.outdated,
        }
    }

    fn volume(&self, volume: VolumeFact) -> VolumeSeen {
        VolumeSeen {
            terminating: self.is_going(&volume.common),
            owned: self.owned(&volume.common),
            uid: volume.common.uid,
            retired: volume.retired,
            requested: volume.requested,
            capacity: volume.capacity,
        }
    }

    fn secrets(&self, secrets: &[ObjectFact]) -> BTreeMap<SecretKind, SecretSeen> {
        let cluster = self.cr.name_any();
        let find = |kind: SecretKind| {
            secrets.iter().find(|s| s.name == kind.name(&cluster) && !self.is_going(s))
        };
        let seen =
            |secret: &ObjectFact| SecretSeen { uid: secret.uid.clone(), owned: self.owned(secret) };
        SecretKind::ALL.into_iter().filter_map(|kind| Some((kind, seen(find(kind)?)))).collect()
    }

    fn owned(&self, common: &ObjectFact) -> Owned {
        Owned::when(common.owners.contains(&self.uid))
    }

    /// This cluster's, or that of an earlier one of its name.
    fn is_ours(&self, common: &ObjectFact) -> bool {
        common.belongs_to(&self.uid) || self.is_going(common)
    }

    /// On its way out: deleted, or owned by an earlier PgRaftCluster of this name and about to be
    /// collected.
    fn is_going(&self, common: &ObjectFact) -> bool {
        common.marked
            && (common.deleted || (!common.owners.is_empty() && !self.owned(common).is_yes()))
    }

    /// Asks all of them at once: none waits for another. Once the leader has answered, those that
    /// it does not reach are waited for no longer.
    async fn answers(
        &self,
        targets: &[SqlTarget],
        login: Option<&LoginIdentity>,
    ) -> Vec<PodAnswer> {
        let Some(login) = login else { return Vec::new() };
        let mut asked: FuturesUnordered<_> = targets
            .iter()
            .map(|target| async move {
                let answer = self.ctx.raft.ask(target, login).await;
                answer
                    .inspect_err(|error| tracing::debug!(node = %target.node, %error, "no answer"))
                    .map_err(|_| target.node)
            })
            .collect();
        let mut missing: BTreeSet<NodeId> = targets.iter().map(|target| target.node).collect();
        let mut answers: Vec<PodAnswer> = Vec::new();
        while missing.iter().any(|node| !is_out_of_reach(&answers, *node))
            && let Some(answer) = asked.next().await
        {
            match answer {
                Ok(answer) => {
                    missing.remove(&answer.node);
                    answers.push(answer);
                }
                Err(node) => drop(missing.remove(&node)),
            }
        }
        answers
    }
}

/// Whether one of these leads, and does not reach this node.
fn is_out_of_reach(answers: &[PodAnswer], node: NodeId) -> bool {
    let leader = answers.iter().filter(|answer| answer.state == NodeState::Leader);
    leader.flat_map(|answer| &answer.members).any(|m| m.id == node && m.reachable == Some(false))
}

fn cluster_id(text: &str) -> Option<ClusterId> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).ok()
}
