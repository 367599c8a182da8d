//! A pod is lost, a volume is lost, the leader is another one.

use super::*;

#[tokio::test]
async fn a_lost_pod_is_made_again_on_its_volume() {
    let world = ControllerWorld::grown(3).await;
    world.api.remove("pods", "demo-2");
    world.group.lose(id(2));
    insta::assert_snapshot!(world.settle().await);
    assert_eq!(world.group.take_changes(), [], "it stays a member");
}

/// The volume is gone, and the pod with it: what comes back is another member, and the old one
/// leaves first.
#[tokio::test]
async fn a_member_that_lost_its_disk_comes_back_under_a_new_id() {
    let world = ControllerWorld::grown(3).await;
    world.api.remove("pods", "demo-2");
    world.api.remove("persistentvolumeclaims", "demo-2");
    world.group.lose(id(2));
    insta::assert_snapshot!("lost_disk_1_the_old_id_leaves", world.settle().await);
    assert_eq!(world.group.take_changes(), [MembershipRequest::Remove(id(2))]);
    world.group.retire(id(2));
    insta::assert_snapshot!("lost_disk_2_a_new_pod", world.settle().await);
    world.make_ready(id(4));
    world.settle().await;
    assert_eq!(world.group.take_changes(), [MembershipRequest::Add(id(4))]);
    world.group.set(id(4), Role::Voter);
    world.settle().await;
    assert_eq!(world.phase(), "Ready");
    assert_eq!(world.api.names("pods"), ["demo-1", "demo-3", "demo-4"]);
}

/// `kubectl delete pvc` alone: Kubernetes keeps the volume until its pod is gone. The pod is not
/// deleted while its node is a member.
#[tokio::test]
async fn a_volume_that_is_to_go_takes_its_member_along() {
    let world = ControllerWorld::grown(3).await;
    world.api.change(
        "persistentvolumeclaims",
        "demo-2",
        &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    );
    let calls = world.settle().await;
    assert!(!calls.contains("delete pods"), "{calls}");
    assert_eq!(world.group.take_changes(), [MembershipRequest::Remove(id(2))]);
    world.group.retire(id(2));
    let calls = world.settle().await;
    let position =
        |call: &str| calls.find(call).unwrap_or_else(|| panic!("{call} is not in {calls}"));
    assert!(
        position("delete pods demo-2") < position("create persistentvolumeclaims demo-4"),
        "{calls}"
    );
    world.api.remove("persistentvolumeclaims", "demo-2");
    world.settle().await;
    assert_eq!(world.api.names("pods"), ["demo-1", "demo-3", "demo-4"]);
}

#[tokio::test]
async fn the_leader_has_moved() {
    let world = ControllerWorld::grown(3).await;
    world.group.lead(id(3));
    assert_eq!(
        world.settle().await,
        "event LeaderChanged: demo-3 is the leader, in place of demo-1\nstatus \"Ready\""
    );
    world.scale(2);
    world.settle().await;
    // The fake group refuses whoever is asked and does not lead.
    assert_eq!(
        world.group.take_changes(),
        [MembershipRequest::Remove(id(3))],
        "the leader may remove itself"
    );
}
