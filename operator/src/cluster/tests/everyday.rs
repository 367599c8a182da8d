//! One thing that fails never blocks the rest; other people's objects are left alone; an invalid
//! spec does not end healing.

use super::*;

impl ControllerWorld {
    /// Passes until what is left has failed and waits for another attempt; returns what was
    /// written.
    async fn settle_with_failures(&self) -> Vec<String> {
        let mut calls = Vec::new();
        for _ in 0..40 {
            let result = self.pass().await;
            let new = self.api.take_calls();
            if new.is_empty() && result.is_ok() {
                return calls;
            }
            calls.extend(new);
        }
        panic!("it does not settle: {calls:#?}")
    }

    fn lose_pod(&self, node: u32) {
        self.api.remove("pods", &format!("demo-{node}"));
    }

    fn patch(&self, spec: &Value) {
        self.api.change("pgraftclusters", "demo", &json!({ "spec": spec }));
    }

    /// Somebody else's object.
    fn put_foreign(&self, plural: &str, name: &str) -> Value {
        self.api.put(plural, json!({"metadata": {"name": name, "namespace": "default", "labels": {"app": "other"}}, "theirs": true}));
        self.api.get(plural, name).unwrap()
    }
}

fn count(calls: &[String], what: &str) -> usize {
    calls.iter().filter(|call| call.starts_with(what)).count()
}

#[tokio::test]
async fn a_volume_that_can_not_grow_keeps_nothing_waiting_and_can_be_taken_back() {
    let world = ControllerWorld::grown(3).await;
    for node in 1..=3 {
        world.api.refuse(&format!("persistentvolumeclaims/demo-{node}"));
    }
    world.patch(&json!({"storage": {"size": "2Gi"}}));
    let calls = world.settle_with_failures().await;
    assert_eq!(
        (count(&calls, "refuse persistentvolumeclaims"), count(&calls, "event OperationFailed")),
        (3, 3),
        "{calls:#?}"
    );
    assert_eq!(world.phase(), "Growing volume demo-1: failed");
    assert_eq!(world.condition("Ready").0, "True", "it serves as before");
    let (status, reason, message) = world.condition("Reconciled");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "OperationFailed"));
    let words = [1, 2, 3]
        .map(|n| format!("could not change PersistentVolumeClaim demo-{n}: Invalid"))
        .join("; ");
    assert_eq!((message, world.condition("Degraded").2), (words.clone(), words));
    // A lost pod, a new image, another member.
    world.lose_pod(2);
    world.settle_with_failures().await;
    assert_eq!(world.api.names("pods"), ["demo-1", "demo-2", "demo-3"]);
    world.make_ready(id(2));
    world.patch(&json!({"replicas": 4, "image": "pgraft/postgres:next"}));
    let calls = world.settle_with_failures().await;
    assert!(
        calls.contains(&"create pods demo-4".to_owned())
            && calls.contains(&"delete pods demo-3".to_owned()),
        "{calls:#?}"
    );
    // The old size again, while it still can't be changed.
    world.patch(&json!({"storage": {"size": "1Gi"}}));
    world.make_ready(id(3));
    world.settle_with_failures().await;
    assert_eq!(
        world.condition("Reconciled"),
        ("True".into(), "AsExpected".into(), "no operation has failed".into())
    );
}

/// Each object of the base refused for ever, one after the other, while a pod is lost.
#[tokio::test]
async fn an_object_that_is_refused_keeps_neither_healing_nor_the_other_objects_waiting() {
    let all = [
        "configmaps/demo-instance",
        "configmaps/demo-spec",
        "services/demo-rw",
        "services/demo-r",
        "poddisruptionbudgets/demo-quorum",
    ];
    for refused in all {
        let world = ControllerWorld::grown(3).await;
        world.api.refuse(refused);
        world.patch(&json!({"inheritedMetadata": {"labels": {"team": "data"}}}));
        world.lose_pod(3);
        world.settle_with_failures().await;
        assert_eq!(world.api.names("pods").len(), 3, "{refused}");
        for other in all.into_iter().filter(|other| *other != refused) {
            let (plural, name) = other.split_once('/').unwrap();
            assert_eq!(
                world.api.get(plural, name).unwrap()["metadata"]["labels"]["team"],
                "data",
                "{other} while {refused} is refused"
            );
        }
        let name = refused.split_once('/').unwrap().1;
        assert!(world.condition("Reconciled").2.contains(name), "{refused}");
        world.api.allow();
        world.forget_failures();
        world.settle_with_failures().await;
        assert_eq!(world.condition("Reconciled").0, "True");
    }
}

#[tokio::test]
async fn objects_of_other_people_are_left_alone_and_named() {
    let world = ControllerWorld::new(&spec(1));
    let theirs = [
        ("poddisruptionbudgets", "demo"),
        ("poddisruptionbudgets", "demo-quorum"),
        ("services", "demo-rw"),
        ("configmaps", "demo-spec"),
        ("secrets", "demo-superuser"),
        ("secrets", "unrelated"),
    ];
    let before: Vec<Value> =
        theirs.iter().map(|(plural, name)| world.put_foreign(plural, name)).collect();
    world.patch(&json!({"enableSuperuserAccess": true}));
    world.settle_with_failures().await;
    world.make_ready(id(1));
    world.group.found(id(1));
    world.settle_with_failures().await;
    let after: Vec<Value> =
        theirs.iter().map(|(plural, name)| world.api.get(plural, name).unwrap()).collect();
    assert_eq!(before, after);
    let (status, reason, message) = world.condition("Reconciled");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ForeignObject"));
    for what in [
        "PodDisruptionBudget demo-quorum",
        "Service demo-rw",
        "ConfigMap demo-spec",
        "Secret demo-superuser",
    ] {
        let words = format!(
            "{what} exists and does not belong to PgRaftCluster demo; it is left unchanged: rename or delete it, or choose another name for the cluster"
        );
        assert!(message.contains(&words), "{message}");
    }
    assert_eq!(world.condition("Available").0, "True", "the rest goes on");
    assert_eq!(world.api.names("services"), ["demo-pods", "demo-r", "demo-ro", "demo-rw"]);
    // Not by taking them away either.
    world.patch(&json!({"enableSuperuserAccess": false}));
    world.settle_with_failures().await;
    assert!(world.api.get("secrets", "demo-superuser").is_some());
    // It is renamed, and the cluster gets its own.
    world.api.remove("services", "demo-rw");
    world.forget_failures();
    world.settle_with_failures().await;
    assert_eq!(
        world.api.get("services", "demo-rw").unwrap()["metadata"]["labels"]["pgraft.io/cluster"],
        "demo"
    );
}

/// Labels can be copied; neither the label with the cluster's name nor a node id makes an object
/// ours.
#[tokio::test]
async fn copies_with_our_labels_are_not_taken_for_ours() {
    let world = ControllerWorld::grown(1).await;
    let labels = json!({"pgraft.io/cluster": "demo", "pgraft.io/node-id": "1", "app.kubernetes.io/managed-by": "pgraft-operator"});
    world.api.put("pods", json!({"metadata": {"name": "copy", "namespace": "default", "labels": labels}, "status": {"phase": "Failed"}}));
    let cluster_only = json!({"metadata": {"name": "demo-superuser", "namespace": "default", "labels": {"pgraft.io/cluster": "demo"}}});
    world.api.put("secrets", cluster_only);
    assert_eq!(world.settle().await, "");
    assert_eq!(world.api.names("pods"), ["copy", "demo-1"]);
    assert!(world.api.get("secrets", "demo-superuser").is_some(), "nobody's, and not taken away");
}

#[tokio::test]
async fn a_budget_of_an_earlier_operator_goes_when_the_new_one_is_there() {
    let world = ControllerWorld::grown(1).await;
    let mut old = world.api.get("poddisruptionbudgets", "demo-quorum").unwrap();
    old["metadata"]["name"] = json!("demo");
    old["metadata"].as_object_mut().unwrap().remove("uid");
    world.api.put("poddisruptionbudgets", old);
    let calls = world.settle().await;
    assert!(calls.starts_with("delete poddisruptionbudgets demo\n"), "{calls}");
    assert_eq!(world.api.names("poddisruptionbudgets"), ["demo-quorum"]);
}

#[tokio::test]
async fn healing_goes_on_with_the_last_spec_that_made_sense() {
    let mut world = ControllerWorld::grown(3).await;
    world.patch(&json!({"replicas": 1, "storage": {"size": "nonsense"}}));
    world.lose_pod(2);
    let calls = world.settle_with_failures().await;
    assert!(calls.contains(&"create pods demo-2".to_owned()), "{calls:#?}");
    let words = "storage.size \"nonsense\" must be a size such as 10Gi";
    assert_eq!(count(&calls, &format!("event InvalidSpec: {words}")), 1, "{calls:#?}");
    assert_eq!(world.phase(), "Invalid spec");
    assert_eq!(world.condition("Reconciled"), ("False".into(), "InvalidSpec".into(), words.into()));
    assert_eq!(world.condition("Degraded").2, format!("{words}; Pod demo-2 is not ready"));
    assert_eq!(world.condition("Ready").0, "False");
    world.make_ready(id(2));
    world.settle_with_failures().await;
    // Another operator, which has never seen a spec that made sense.
    world.restart();
    world.lose_pod(3);
    world.settle_with_failures().await;
    assert_eq!(world.api.names("pods"), ["demo-1", "demo-2", "demo-3"]);
    world.make_ready(id(3));
    world.patch(&json!({"replicas": 3, "storage": {"size": "1Gi"}}));
    world.settle_with_failures().await;
    assert_eq!(
        (world.phase().as_str(), world.condition("Reconciled").0.as_str()),
        ("Ready", "True")
    );
}

#[tokio::test]
async fn a_size_below_what_volumes_have_is_said_and_new_volumes_are_as_large() {
    let world = ControllerWorld::grown(1).await;
    let size = json!({"storage": "3Gi"});
    world.api.change(
        "persistentvolumeclaims",
        "demo-1",
        &json!({"spec": {"resources": {"requests": size}}, "status": {"capacity": size}}),
    );
    world.patch(&json!({"replicas": 2, "storage": {"size": "2Gi"}}));
    world.settle().await;
    let words = "storage.size 2Gi is less than the 3Gi of volume demo-1; volumes do not shrink, and new ones get 3Gi";
    assert_eq!(
        world.condition("Reconciled"),
        ("False".into(), "VolumesLarger".into(), words.into())
    );
    let requested = |pvc: &str| {
        world.api.get("persistentvolumeclaims", pvc).unwrap()["spec"]["resources"]["requests"]["storage"].clone()
    };
    assert_eq!(requested("demo-2"), (3_u64 << 30).to_string());
}

#[tokio::test]
async fn a_member_that_the_leader_does_not_reach_gets_no_clients_until_it_is_reached() {
    let world = ControllerWorld::grown(3).await;
    world.group.lose(id(2));
    let calls = world.settle().await;
    assert!(
        calls.starts_with(
            "merge pods demo-2 {\"metadata\":{\"labels\":{\"pgraft.io/serving\":\"false\"}}}"
        ),
        "{calls}"
    );
    assert!(
        calls.contains(
            "event RoutesChanged: Removed demo-2 from the Services because the leader does not reach it"
        ),
        "{calls}"
    );
    world.group.find(id(2));
    let calls = world.settle().await;
    assert!(calls.contains("event RoutesChanged: Added demo-2 to the Services"), "{calls}");
    assert_eq!(
        world.api.get("pods", "demo-2").unwrap()["metadata"]["labels"]["pgraft.io/serving"],
        "true"
    );
}
