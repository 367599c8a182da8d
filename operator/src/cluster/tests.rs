//! This object leads to exactly these calls: whole passes against an API server and a Raft group
//! that are made of memory.

mod everyday;
mod fake;
mod lost;
mod moved_on;
mod primary;
mod restart;
mod tls;
mod watched;

use fake::{FakeApi, FakeGroup};
use pgraft_core::{NodeId, Role};
use serde_json::{Value, json};
use std::sync::Arc;

use super::*;
use crate::cluster::fixtures::{cr, id};
use crate::cluster::step::MembershipRequest;
use crate::cluster::validate::Defaults;

struct ControllerWorld {
    api: FakeApi,
    group: Arc<FakeGroup>,
    context: Arc<Context>,
}

impl ControllerWorld {
    fn new(spec: &Value) -> Self {
        let (api, group) = (FakeApi::default(), Arc::new(FakeGroup::default()));
        api.put("pgraftclusters", serde_json::to_value(cr(spec)).unwrap());
        let context = Self::operator(&api, &group);
        Self { api, group, context }
    }

    fn operator(api: &FakeApi, group: &Arc<FakeGroup>) -> Arc<Context> {
        Arc::new(Context::new(
            api.client(),
            group.clone(),
            Defaults { image: "pgraft/postgres:test".into() },
            crate::metrics::Metrics::new(),
        ))
    }

    /// The operator dies, and another one comes.
    fn restart(&mut self) {
        self.context = Self::operator(&self.api, &self.group);
    }

    async fn pass(&self) -> Result<Action, Error> {
        let cr: PgRaftCluster =
            serde_json::from_value(self.api.get("pgraftclusters", "demo").unwrap()).unwrap();
        reconcile(Arc::new(cr), self.context.clone()).await
    }

    /// Passes until nothing is written any more; returns what was.
    async fn settle(&self) -> String {
        let mut calls = Vec::new();
        for _ in 0..40 {
            self.pass().await.unwrap();
            let new = self.api.take_calls();
            if new.is_empty() {
                return calls.join("\n");
            }
            calls.extend(new);
        }
        panic!("it does not settle:\n{}", calls.join("\n"))
    }

    /// The kubelet says that this pod is ready.
    fn make_ready(&self, node: NodeId) {
        let status = json!({"phase": "Running", "podIP": format!("198.18.0.{node}"), "conditions": [{"type": "Ready", "status": "True"}]});
        self.api.change("pods", &format!("demo-{node}"), &json!({ "status": status }));
    }

    /// Founds a cluster of so many and lets it grow until all of them vote.
    async fn grown(replicas: u32) -> Self {
        let world = Self::new(&spec(i32::try_from(replicas).unwrap()));
        world.grow(replicas).await;
        world
    }

    async fn grow(&self, replicas: u32) {
        let world = self;
        world.settle().await;
        world.group.found(id(1));
        for n in 1..=replicas {
            world.make_ready(id(n));
            world.settle().await;
            world.group.set(id(n), Role::Voter);
            world.settle().await;
        }
        assert_eq!(world.phase(), "Ready");
        world.group.take_changes();
    }

    /// As if all that failed could be tried again.
    fn forget_failures(&self) {
        self.context.memories.of("uid-of-demo", |memory| {
            *memory.failing(Some(-1)) = plan::failures::Failures::default();
        });
    }

    /// Status, reason and message of a condition.
    fn condition(&self, type_: &str) -> (String, String, String) {
        let cr = self.api.get("pgraftclusters", "demo").unwrap();
        let all = cr["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = all.into_iter().find(|c| c["type"] == type_).unwrap_or_default();
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"), text("message"))
    }

    fn scale(&self, replicas: i32) {
        self.api.change("pgraftclusters", "demo", &json!({"spec": {"replicas": replicas}}));
    }

    fn phase(&self) -> String {
        self.api.get("pgraftclusters", "demo").unwrap()["status"]["phase"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

fn spec(replicas: i32) -> Value {
    json!({"replicas": replicas, "storage": {"size": "1Gi"}})
}

#[tokio::test]
async fn a_cluster_is_made_grows_and_shrinks_by_exactly_these_calls() {
    let world = ControllerWorld::new(&spec(2));
    insta::assert_snapshot!("1_the_bootstrap_node", world.settle().await);
    world.make_ready(id(1));
    world.group.found(id(1));
    insta::assert_snapshot!("2_the_next_pod", world.settle().await);
    world.make_ready(id(2));
    insta::assert_snapshot!("3_one_call_on_the_leader", world.settle().await);
    assert_eq!(world.group.take_changes(), [MembershipRequest::Add(id(2))]);
    world.group.set(id(2), Role::Voter);
    insta::assert_snapshot!("4_a_voter", world.settle().await);
    world.scale(1);
    insta::assert_snapshot!("5_the_member_first", world.settle().await);
    assert_eq!(world.group.take_changes(), [MembershipRequest::Remove(id(2))]);
    world.group.retire(id(2));
    insta::assert_snapshot!("6_then_pod_and_volume", world.settle().await);
    assert_eq!(world.phase(), "Ready");
}

#[tokio::test]
async fn an_operator_that_died_goes_on_where_it_was() {
    let mut world = ControllerWorld::new(&spec(2));
    for life in 0..40 {
        world.restart();
        // The first pass applies what a fresh operator does not remember, the second takes one
        // step; then it dies.
        world.pass().await.unwrap();
        world.pass().await.unwrap();
        if life == 10 {
            world.make_ready(id(1));
            world.group.found(id(1));
        }
        if life == 20 {
            world.make_ready(id(2));
        }
    }
    assert_eq!(world.group.take_changes(), [MembershipRequest::Add(id(2))]);
    assert_eq!(world.api.names("pods"), ["demo-1", "demo-2"]);
    assert_eq!(world.api.names("persistentvolumeclaims"), ["demo-1", "demo-2"]);
}

#[tokio::test]
async fn passwords_are_made_once() {
    let world = ControllerWorld::new(&spec(1));
    world.settle().await;
    let password = |world: &ControllerWorld| {
        world.api.get("secrets", "demo-app").unwrap()["data"]["password"].clone()
    };
    let first = password(&world);
    assert!(first.as_str().is_some_and(|p| p.len() > 40));
    world.api.change(
        "pgraftclusters",
        "demo",
        &json!({"spec": {"enableSuperuserAccess": true, "inheritedMetadata": {"labels": {"a": "b"}}}}),
    );
    world.settle().await;
    assert_eq!(password(&world), first);
    assert!(world.api.get("secrets", "demo-superuser").is_some());
    world.api.change("pgraftclusters", "demo", &json!({"spec": {"enableSuperuserAccess": false}}));
    assert_eq!(world.settle().await.lines().next(), Some("delete secrets demo-superuser"));
}

#[tokio::test]
async fn what_somebody_changed_or_deleted_is_put_right() {
    let world = ControllerWorld::new(&spec(1));
    world.settle().await;
    world.api.change(
        "services",
        "demo-rw",
        &json!({"spec": {"selector": {"pgraft.io/role": "replica"}}}),
    );
    assert_eq!(world.settle().await.lines().next(), Some("apply services demo-rw"));
    world.api.remove("configmaps", "demo-instance");
    assert_eq!(world.settle().await.lines().next(), Some("create configmaps demo-instance"));
    assert_eq!(world.settle().await, "");
}

#[tokio::test]
async fn a_refusal_is_a_wait_and_is_shown() {
    let world = ControllerWorld::new(&spec(2));
    world.settle().await;
    world.make_ready(id(1));
    world.group.found(id(1));
    world.settle().await;
    world.make_ready(id(2));
    world.group.refuse("PGR04", "no majority of the voters confirmed the change within 10 s");
    world.pass().await.unwrap();
    assert_eq!(world.phase(), "Adding node 2: refused");
    world.pass().await.unwrap();
    assert_eq!(
        world.phase(),
        "Adding node 2: refused",
        "it is not asked again at once, and still shown"
    );
    world.group.accept();
    world.forget_failures();
    world.settle().await;
    assert_eq!(world.phase(), "Waiting for node 2 to catch up");
}

#[tokio::test]
async fn a_spec_that_makes_no_sense_changes_nothing() {
    let world = ControllerWorld::new(&json!({"replicas": 1, "storage": {"size": "lots"}}));
    let calls = world.settle().await;
    assert_eq!(
        calls,
        "event InvalidSpec: storage.size \"lots\" must be a size such as 10Gi\nstatus \"Invalid spec\""
    );
}

#[tokio::test]
async fn a_cluster_that_is_to_go_is_left_to_its_owner_references() {
    let world = ControllerWorld::new(&spec(1));
    world.api.change(
        "pgraftclusters",
        "demo",
        &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    );
    assert_eq!(world.pass().await.unwrap(), Action::await_change());
    assert_eq!(world.api.take_calls(), [""; 0]);
}

#[tokio::test]
async fn an_api_server_that_says_no_is_shown_and_tried_again() {
    let world = ControllerWorld::new(&spec(1));
    world.api.refuse("pods");
    let mut error = None;
    for _ in 0..20 {
        error = world.pass().await.err().or(error);
    }
    let error = error.unwrap();
    assert_eq!((error.reason().as_str(), error.retry()), ("Forbidden", Duration::from_millis(250)));
    assert_eq!(world.phase(), "Creating pod demo-1: failed");
    let events = world
        .api
        .take_calls()
        .into_iter()
        .filter(|c| c.starts_with("event OperationFailed"))
        .count();
    assert_eq!(events, 1, "the same trouble is told once");
}
