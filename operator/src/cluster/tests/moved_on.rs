//! Somebody else was quicker: it is tried again, without harm and without noise.

use super::*;

/// Passes on, through conflicts, until it settles; the errors on the way.
async fn through(world: &ControllerWorld) -> (String, Vec<&'static str>) {
    let mut errors = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..60 {
        match world.pass().await {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.retry(), Duration::from_millis(250), "{error}");
                errors.push(error.reason().as_str());
                continue;
            }
        }
        let new = world.api.take_calls();
        if new.is_empty() && world.context.memories.next_attempt("uid-of-demo").is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        } else if new.is_empty() {
            return (calls.join("\n"), errors);
        }
        calls.extend(new);
    }
    panic!("it does not settle: {calls:?}")
}

#[tokio::test]
async fn a_conflict_on_apply_is_tried_again_and_told_nobody() {
    let world = ControllerWorld::new(&spec(1));
    let undisturbed = world.settle().await;
    let world = ControllerWorld::new(&spec(1));
    world.api.conflict("services", 2);
    let (calls, errors) = through(&world).await;
    assert_eq!(errors, ["Conflict"], "the other objects do not wait for it");
    assert!(!calls.contains("OperationFailed") && !calls.contains("failed"), "{calls}");
    assert_eq!(calls.lines().last(), undisturbed.lines().last());
    assert_eq!(world.api.names("services"), ["demo-pods", "demo-r", "demo-ro", "demo-rw"]);
}

#[tokio::test]
async fn a_conflict_on_the_status_is_tried_again() {
    let world = ControllerWorld::grown(1).await;
    world.api.conflict("status", 1);
    world.scale(2);
    let (_, errors) = through(&world).await;
    assert_eq!(errors, ["Conflict"]);
    assert_eq!(world.phase(), "Waiting for pod demo-2");
    assert_eq!(world.api.names("pods"), ["demo-1", "demo-2"], "and nothing is made twice");
}

/// Scaled up and back while the operator is at it.
#[tokio::test]
async fn a_wish_that_changes_in_the_middle() {
    let world = ControllerWorld::grown(1).await;
    world.scale(3);
    for _ in 0..2 {
        world.pass().await.unwrap(); // the PodDisruptionBudget, the volume
    }
    assert_eq!(world.api.names("persistentvolumeclaims"), ["demo-1", "demo-2"]);
    world.scale(1);
    let calls = world.settle().await;
    assert!(calls.contains("delete persistentvolumeclaims demo-2"), "{calls}");
    assert_eq!((world.phase().as_str(), world.group.take_changes()), ("Ready", vec![]));
}

#[tokio::test]
async fn a_conflict_that_does_not_end_is_shown() {
    let world = ControllerWorld::new(&spec(1));
    world.api.conflict("services", 1000);
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.condition("Reconciled").0 != "False" {
        assert!(Instant::now() < deadline);
        let _ = world.pass().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (_, reason, message) = world.condition("Degraded");
    assert_eq!(reason, "OperationFailed");
    assert!(message.contains("could not create Service demo-rw: Conflict"), "{message}");
    assert_eq!(world.api.names("pods"), ["demo-1"], "nothing else waits for it");
}

#[tokio::test]
async fn a_name_that_is_taken_is_shown() {
    let world = ControllerWorld::new(&spec(1));
    world.api.put(
        "persistentvolumeclaims",
        json!({"metadata": {"name": "demo-1", "namespace": "default"}}),
    );
    let mut reasons = Vec::new();
    for _ in 0..6 {
        reasons.extend(world.pass().await.err().map(|error| error.reason().as_str()));
    }
    assert_eq!(reasons.last(), Some(&"ForeignObject"));
    assert_eq!(world.phase(), "Creating volume demo-1: failed");
}
