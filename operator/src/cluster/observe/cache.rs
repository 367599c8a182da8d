//! What the watches have brought, by cluster: enough to see that there is nothing to do without
//! asking the API server anything. What is to be *done* is never decided from here (`reconcile`
//! looks afresh before it acts), so that news on its way can cost a moment and nothing else.

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event};
use kube::{Resource, ResourceExt};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

use super::facts::{ClusterFacts, PodFact, VolumeFact};
use crate::kubernetes::ObjectFact;
use pgraft_api::cluster::PgRaftCluster;
use pgraft_api::names::{LABEL_CLUSTER, ObjectKind};

/// A cluster, by namespace and name.
type CacheKey = (String, String);

/// All that is watched, besides the PgRaftClusters themselves.
#[derive(Default)]
pub struct Cache {
    pods: Index<PodFact>,
    volumes: Index<VolumeFact>,
    secrets: Index<ObjectFact>,
    config_maps: Index<ObjectFact>,
    services: Index<ObjectFact>,
    budgets: Index<ObjectFact>,
    synced: watch::Sender<bool>,
}

impl Cache {
    /// Whether every watch has brought all that there is, once at least.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Returns when it is synced.
    pub async fn wait_until_synced(&self) {
        // The sender lives as long as `self`.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// All that is known of one cluster.
    pub fn facts(&self, namespace: &str, name: &str) -> ClusterFacts {
        let key = (namespace.to_owned(), name.to_owned());
        let of = |kind: ObjectKind, index: &Index<ObjectFact>| {
            index.of(&key).into_iter().map(move |common| (kind, common)).collect::<Vec<_>>()
        };
        ClusterFacts {
            pods: self.pods.of(&key),
            volumes: self.volumes.of(&key),
            secrets: self.secrets.of(&key),
            objects: [
                of(ObjectKind::ConfigMap, &self.config_maps),
                of(ObjectKind::Service, &self.services),
                of(ObjectKind::PodDisruptionBudget, &self.budgets),
            ]
            .concat(),
        }
    }

    /// What one watch brings; the clusters that it concerns come out.
    pub fn pods(
        self: &Arc<Self>,
        news: impl CacheUpdate<Pod>,
    ) -> BoxStream<'static, ObjectRef<PgRaftCluster>> {
        self.follow(news, |cache| &cache.pods, PodFact::of)
    }

    /// As [`Self::pods`].
    pub fn volumes(
        self: &Arc<Self>,
        news: impl CacheUpdate<PersistentVolumeClaim>,
    ) -> BoxStream<'static, ObjectRef<PgRaftCluster>> {
        self.follow(news, |cache| &cache.volumes, VolumeFact::of)
    }

    /// As [`Self::pods`]. Metadata only: what is in other people's Secrets never comes here.
    pub fn secrets(
        self: &Arc<Self>,
        news: impl CacheUpdate<PartialObjectMeta<Secret>>,
    ) -> BoxStream<'static, ObjectRef<PgRaftCluster>> {
        self.follow(news, |cache| &cache.secrets, |o| Some(ObjectFact::of_metadata(o)))
    }

    /// As [`Self::pods`].
    pub fn config_maps(
        self: &Arc<Self>,
        news: impl CacheUpdate<PartialObjectMeta<ConfigMap>>,
    ) -> BoxStream<'static, ObjectRef<PgRaftCluster>> {
        self.follow(news, |cache| &cache.config_maps, |o| Some(ObjectFact::of_metadata(o)))
    }

    /// As [`Self::pods`].
    pub fn services(
        self: &Arc<Self>,
        news: impl CacheUpdate<PartialObjectMeta<Service>>,
    ) -> BoxStream<'static, ObjectRef<PgRaftCluster>> {
        self.follow(news, |cache| &cache.services, |o| Some(ObjectFact::of_metadata(o)))
    }

    /// As [`Self::pods`].
    pub fn budgets(
        self: &Arc<Self>,
        news: impl CacheUpdate<PartialObjectMeta<PodDisruptionBudget>>,
    ) -> BoxStream<'static, ObjectRef<PgRaftCluster>> {
        self.follow(news, |cache| &cache.budgets, |o| Some(ObjectFact::of_metadata(o)))
    }

    fn follow<K, T>(
        self: &Arc<Self>,
        news: impl CacheUpdate<K>,
        index: impl Fn(&Self) -> &Index<T> + Send + 'static,
        fact: impl Fn(&K) -> Option<T> + Send + 'static,
    ) -> BoxStream<'static, ObjectRef<PgRaftCluster>>
    where
        K: Resource<DynamicType = ()> + Send + 'static,
        T: Clone + PartialEq + Send + 'static,
    {
        let cache = self.clone();
        let mut broken = false;
        news.map(move |event| match event {
            Ok(event) => {
                broken = false;
                let complete = matches!(event, Event::InitDone);
                let concerned = index(&cache).take(event, &fact);
                if complete {
                    cache.update_synced();
                }
                concerned
            }
            Err(error) => {
                // It is begun again with a growing pause; said once, until it works again.
                if !std::mem::replace(&mut broken, true) {
                    tracing::warn!(kind = %K::kind(&()), %error, "a watch broke");
                }
                Vec::new()
            }
        })
        .flat_map(|concerned| {
            futures::stream::iter(
                concerned.into_iter().map(|(ns, name)| ObjectRef::new(&name).within(&ns)),
            )
        })
        .boxed()
    }

    fn update_synced(&self) {
        let Self { pods, volumes, secrets, config_maps, services, budgets, synced } = self;
        let all = pods.is_synced()
            && volumes.is_synced()
            && [secrets, config_maps, services, budgets].into_iter().all(Index::is_synced);
        synced.send_if_modified(|synced| !std::mem::replace(synced, all) && all);
    }
}

/// A watch.
pub trait CacheUpdate<K>: Stream<Item = Result<Event<K>, watcher::Error>> + Send + 'static {}
impl<K, S: Stream<Item = Result<Event<K>, watcher::Error>> + Send + 'static> CacheUpdate<K> for S {}

/// Facts about objects of one kind.
struct Index<T>(Mutex<Shelves<T>>);

struct Shelves<T> {
    present: HashMap<CacheKey, BTreeMap<String, T>>,
    /// What a watch that begins anew has brought so far.
    incoming: Option<HashMap<CacheKey, BTreeMap<String, T>>>,
    synced: bool,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self(Mutex::new(Shelves { present: HashMap::new(), incoming: None, synced: false }))
    }
}

impl<T: Clone + PartialEq> Index<T> {
    fn lock(&self) -> MutexGuard<'_, Shelves<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_synced(&self) -> bool {
        self.lock().synced
    }

    fn of(&self, key: &CacheKey) -> Vec<T> {
        self.lock()
            .present
            .get(key)
            .map(|objects| objects.values().cloned().collect())
            .unwrap_or_default()
    }

    /// Takes in one event; returns the clusters for which something has changed that matters here.
    fn take<K: Resource<DynamicType = ()>>(
        &self,
        event: Event<K>,
        fact: impl Fn(&K) -> Option<T>,
    ) -> Vec<CacheKey> {
        let mut shelves = self.lock();
        match event {
            Event::Init => {
                shelves.incoming = Some(HashMap::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                if let (Some(key), Some(fact), Some(incoming)) =
                    (key(&object), fact(&object), &mut shelves.incoming)
                {
                    incoming.entry(key).or_default().insert(object.name_any(), fact);
                }
                Vec::new()
            }
            Event::InitDone => {
                let incoming = shelves.incoming.take().unwrap_or_default();
                let was = std::mem::replace(&mut shelves.present, incoming);
                shelves.synced = true;
                let is = &shelves.present;
                is.keys()
                    .chain(was.keys().filter(|key| !is.contains_key(*key)))
                    .filter(|key| is.get(*key) != was.get(*key))
                    .cloned()
                    .collect()
            }
            Event::Apply(object) => {
                let Some(key) = key(&object) else { return Vec::new() };
                let changed = match fact(&object) {
                    Some(fact) => {
                        let before = shelves
                            .present
                            .entry(key.clone())
                            .or_default()
                            .insert(object.name_any(), fact.clone());
                        before.as_ref() != Some(&fact)
                    }
                    None => shelves.remove(&key, &object.name_any()),
                };
                changed.then_some(key).into_iter().collect()
            }
            Event::Delete(object) => {
                let key = key(&object).filter(|key| shelves.remove(key, &object.name_any()));
                key.into_iter().collect()
            }
        }
    }
}

impl<T> Shelves<T> {
    fn remove(&mut self, key: &CacheKey, name: &str) -> bool {
        let Some(objects) = self.present.get_mut(key) else { return false };
        let removed = objects.remove(name).is_some();
        if objects.is_empty() {
            self.present.remove(key);
        }
        removed
    }
}

/// By label, since a volume that stays has no owner.
fn key<K: Resource<DynamicType = ()>>(object: &K) -> Option<CacheKey> {
    Some((object.namespace()?, object.labels().get(LABEL_CLUSTER)?.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, cluster: &str, ready: &str) -> Pod {
        let labels =
            json!({LABEL_CLUSTER: cluster, "pgraft.io/node-id": name.rsplit('-').next().unwrap()});
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": labels, "resourceVersion": "1"},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    fn of(name: &str) -> CacheKey {
        ("default".into(), name.into())
    }

    fn take(index: &Index<PodFact>, event: Event<Pod>) -> Vec<CacheKey> {
        let mut keys = index.take(event, PodFact::of);
        keys.sort();
        keys
    }

    #[test]
    fn only_what_matters_starts_a_pass() {
        let index = Index::default();
        take(&index, Event::Init);
        for (name, cluster) in [("a-1", "a"), ("a-2", "a"), ("b-1", "b")] {
            assert_eq!(take(&index, Event::InitApply(pod(name, cluster, "False"))), []);
        }
        assert!(!index.is_synced() && index.of(&of("a")).is_empty(), "half a list is none");
        assert_eq!(take(&index, Event::InitDone), [of("a"), of("b")]);
        assert_eq!(index.of(&of("a")).len(), 2);
        let mut touched = pod("a-1", "a", "False");
        touched.metadata.resource_version = Some("2".into());
        assert_eq!(take(&index, Event::Apply(touched)), []);
        assert_eq!(take(&index, Event::Apply(pod("a-1", "a", "True"))), [of("a")]);
        assert_eq!(take(&index, Event::Delete(pod("b-1", "b", "True"))), [of("b")]);
        assert_eq!(take(&index, Event::Delete(pod("b-1", "b", "True"))), []);
    }

    #[test]
    fn what_was_deleted_while_a_watch_was_away_is_noticed() {
        let index = Index::default();
        for name in ["a-1", "b-1"] {
            take(&index, Event::Apply(pod(name, &name[..1], "True")));
        }
        take(&index, Event::Init);
        take(&index, Event::InitApply(pod("b-1", "b", "True")));
        assert_eq!(index.of(&of("a")).len(), 1, "the old list stands until the new one is synced");
        assert_eq!(take(&index, Event::InitDone), [of("a")]);
        assert!(index.of(&of("a")).is_empty());
    }
}
