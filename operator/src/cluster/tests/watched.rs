//! What the watches bring saves calls, and never leads to a wrong step.

use futures::{StreamExt, stream};
use kube::runtime::watcher::{self, Event};

use super::*;

/// A watch that brings all that is there now.
fn news<K: serde::de::DeserializeOwned + Send + 'static>(
    api: &FakeApi,
    plural: &str,
) -> impl observe::cache::CacheUpdate<K> {
    let objects = api.all::<K>(plural).into_iter().map(Event::InitApply);
    let all: Vec<Result<Event<K>, watcher::Error>> =
        [Event::Init].into_iter().chain(objects).chain([Event::InitDone]).map(Ok).collect();
    stream::iter(all)
}

impl ControllerWorld {
    /// The watches catch up.
    async fn catch_up(&self) {
        let (api, cache) = (&self.api, &self.context.cache);
        cache.pods(news(api, "pods")).count().await;
        cache.volumes(news(api, "persistentvolumeclaims")).count().await;
        cache.secrets(news(api, "secrets")).count().await;
        cache.config_maps(news(api, "configmaps")).count().await;
        cache.services(news(api, "services")).count().await;
        cache.budgets(news(api, "poddisruptionbudgets")).count().await;
    }
}

#[tokio::test]
async fn an_idle_cluster_costs_the_api_server_nothing() {
    let world = ControllerWorld::grown(3).await;
    world.catch_up().await;
    world.pass().await.unwrap();
    world.api.take_reads();
    world.group.take_asked();
    for _ in 0..3 * (observe::freshness::MAX_LEADER_ONLY_PASSES + 1) {
        assert_eq!(world.pass().await.unwrap(), Action::requeue(step::IDLE_INTERVAL));
    }
    assert_eq!((world.api.take_reads(), world.api.take_calls()), (0, vec![]));
    let asked = world.group.take_asked();
    let others = asked.iter().filter(|node| **node != id(1)).count();
    assert_eq!(others, 6, "the leader each time, the others once a minute: {asked:?}");
}

#[tokio::test]
async fn waiting_costs_the_api_server_nothing() {
    let world = ControllerWorld::grown(1).await;
    world.scale(2);
    world.settle().await;
    world.catch_up().await;
    world.api.take_reads();
    for _ in 0..10 {
        world.pass().await.unwrap();
    }
    assert_eq!((world.phase().as_str(), world.api.take_reads()), ("Waiting for pod demo-2", 0));
    world.make_ready(id(2));
    world.catch_up().await;
    world.pass().await.unwrap();
    assert_eq!(world.group.take_changes(), [MembershipRequest::Add(id(2))]);
}

/// The watches say that a pod is missing, and it is not.
#[tokio::test]
async fn old_news_start_a_closer_look_and_no_step() {
    let world = ControllerWorld::grown(3).await;
    world.api.remove("pods", "demo-2");
    world.catch_up().await;
    let like = world.api.get("pods", "demo-1").unwrap()["metadata"].clone();
    let metadata = json!({"name": "demo-2", "namespace": "default", "labels": like["labels"], "annotations": like["annotations"]});
    let pod = json!({ "metadata": metadata });
    world.api.put("pods", pod);
    world.api.change(
        "pods",
        "demo-2",
        &json!({"metadata": {"labels": {"pgraft.io/node-id": "2", "pgraft.io/role": "replica"}, "ownerReferences": [{"uid": "uid-of-demo", "name": "demo", "kind": "PgRaftCluster", "apiVersion": "pgraft.io/v1alpha1"}]}}),
    );
    world.make_ready(id(2));
    world.pass().await.unwrap();
    assert!(world.api.take_reads() > 0);
    assert_eq!(world.api.take_calls(), [""; 0]);
}

/// The watches still show what is long gone, and miss what is there: every write is refused or
/// right.
#[tokio::test]
async fn with_watches_that_never_catch_up_it_still_gets_there() {
    let world = ControllerWorld::grown(3).await;
    world.catch_up().await;
    world.scale(2);
    world.settle().await;
    assert_eq!(world.group.take_changes(), [MembershipRequest::Remove(id(3))]);
    world.group.retire(id(3));
    world.settle().await;
    assert_eq!(world.api.names("persistentvolumeclaims"), ["demo-1", "demo-2"]);
    world.scale(3);
    world.settle().await;
    world.make_ready(id(4));
    world.settle().await;
    assert_eq!(world.group.take_changes(), [MembershipRequest::Add(id(4))]);
    world.group.set(id(4), Role::Voter);
    world.settle().await;
    assert_eq!((world.phase().as_str(), world.api.names("pods").len()), ("Ready", 3));
}

/// A PgRaftCluster as it was before this process wrote its status is not believed.
#[tokio::test]
async fn the_own_writes_are_read() {
    let world = ControllerWorld::grown(1).await;
    world.catch_up().await;
    let before: PgRaftCluster =
        serde_json::from_value(world.api.get("pgraftclusters", "demo").unwrap()).unwrap();
    world.group.set(id(9), Role::Voter); // somebody else's member
    world.settle().await;
    world.api.take_calls();
    for _ in 0..3 {
        reconcile(Arc::new(before.clone()), world.context.clone()).await.unwrap();
    }
    assert_eq!(
        world.api.take_calls(),
        [""; 0],
        "what was said and written once is not said and written again"
    );
}
