//! The spec has other pods now: each is deleted and made again, and nothing else is.

use super::*;

#[tokio::test]
async fn a_new_image_restarts_one_pod_after_the_other() {
    let world = ControllerWorld::grown(3).await;
    world.group.lead(id(3));
    world.settle().await;
    let volumes = world.api.names("persistentvolumeclaims");
    world.api.change("pgraftclusters", "demo", &json!({"spec": {"image": "pgraft/postgres:next"}}));
    insta::assert_snapshot!("restart_1_a_follower", world.settle().await);
    // As long as it is not back nobody else goes.
    assert_eq!(world.settle().await, "");
    world.make_ready(id(2));
    insta::assert_snapshot!("restart_2_the_leader", world.settle().await);
    world.make_ready(id(3));
    insta::assert_snapshot!("restart_3_the_primary", world.settle().await);
    world.make_ready(id(1));
    insta::assert_snapshot!("restart_4_done", world.settle().await);
    for pod in world.api.names("pods") {
        assert_eq!(
            world.api.get("pods", &pod).unwrap()["spec"]["containers"][0]["image"],
            "pgraft/postgres:next"
        );
    }
    assert_eq!(world.api.names("persistentvolumeclaims"), volumes);
    assert_eq!(world.group.take_changes(), [], "nobody joins or leaves");
}

#[tokio::test]
async fn a_restart_that_was_asked_for() {
    let world = ControllerWorld::grown(1).await;
    let restart =
        json!({"metadata": {"annotations": {"pgraft.io/restarted-at": "2026-01-02T03:04:05Z"}}});
    world.api.change("pgraftclusters", "demo", &restart);
    let calls = world.settle().await;
    assert!(calls.starts_with("delete pods demo-1\nevent RestartingPod"), "{calls}");
    assert!(calls.contains("create pods demo-1"), "{calls}");
    world.make_ready(id(1));
    world.settle().await;
    assert_eq!((world.phase().as_str(), world.settle().await.as_str()), ("Ready", ""));
}

/// The operator dies after every pass, and the next one knows nothing.
#[tokio::test]
async fn operators_that_die_restart_no_pod_twice() {
    let mut world = ControllerWorld::grown(3).await;
    world.api.change("pgraftclusters", "demo", &json!({"spec": {"image": "pgraft/postgres:next"}}));
    let mut calls = Vec::new();
    for _ in 0..60 {
        world.restart();
        world.pass().await.unwrap();
        world.pass().await.unwrap();
        calls.extend(world.api.take_calls());
        for node in 1..=3 {
            if world.api.get("pods", &format!("demo-{node}")).is_some() {
                world.make_ready(id(node));
            }
        }
    }
    let deleted: Vec<&String> = calls.iter().filter(|call| call.starts_with("delete")).collect();
    assert_eq!(deleted, ["delete pods demo-3", "delete pods demo-2", "delete pods demo-1"]);
    assert_eq!(world.phase(), "Ready");
}
