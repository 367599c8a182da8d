//! The primary is another one: because somebody asks for it, because its member is to leave or its
//! pod to be made again, or by the members' own decision.

use super::*;
use crate::cluster::fixtures::{changed, first_primary_term};
use crate::cluster::step::MembershipRequest::{Remove, SwitchOver};
use pgraft_core::failover::TermEndReason;

impl ControllerWorld {
    /// Members that choose their primary; the first one is it.
    async fn with_failover(replicas: u32) -> Self {
        let world = Self::new(
            &json!({"replicas": replicas, "storage": {"size": "1Gi"}, "failover": {"enabled": true}}),
        );
        world.group.primary_term(id(1), first_primary_term());
        world.grow(replicas).await;
        world
    }

    fn ask_for(&self, target: &Value) {
        self.api.change("pgraftclusters", "demo", &json!({"spec": {"switchover": target}}));
    }

    fn status(&self) -> Value {
        self.api.get("pgraftclusters", "demo").unwrap()["status"].clone()
    }

    fn switchover_done(&self) -> (String, String) {
        let status = self.status();
        let condition = status["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["type"] == "SwitchoverDone")
            .unwrap()
            .clone();
        (
            condition["status"].as_str().unwrap().to_owned(),
            condition["message"].as_str().unwrap().to_owned(),
        )
    }
}

#[tokio::test]
async fn a_switchover_is_one_call_and_told_once() {
    let world = ControllerWorld::with_failover(3).await;
    world.ask_for(&json!({"target": "demo-3"}));
    insta::assert_snapshot!("switchover", world.settle().await);
    assert_eq!(world.group.take_changes(), [SwitchOver(id(3))]);
    assert_eq!(world.switchover_done(), ("True".into(), "demo-3 became the primary".into()));
    let last = json!({
        "from": "demo-1", "to": "demo-3", "reason": "Switchover", "at": "2026-01-02T02:46:40Z", "durationMs": 812, "epoch": 2,
    });
    assert_eq!(world.status()["lastFailover"], last);
    // A later failover is no reason to ask again, nor is another operator.
    let mut world = world;
    world.group.primary_term(id(2), changed(3, 3, 2, TermEndReason::LeaseExpired));
    insta::assert_snapshot!("failover_after_it", world.settle().await);
    world.restart();
    assert!(!world.settle().await.contains("event FailedOver"));
    assert_eq!((world.group.take_changes(), world.phase().as_str()), (vec![], "Ready"));
    // Taken back and asked for anew it is another request.
    world.ask_for(&Value::Null);
    world.settle().await;
    assert_eq!(world.status()["switchover"], Value::Null);
    world.ask_for(&json!({"target": "demo-3"}));
    world.settle().await;
    assert_eq!(world.group.take_changes(), [SwitchOver(id(3))]);
}

#[tokio::test]
async fn a_switchover_that_is_refused_is_shown_and_not_asked_for_again_and_again() {
    let world = ControllerWorld::with_failover(3).await;
    world.group.refuse("PGR08", "node 3 did not respond in time");
    world.ask_for(&json!({"target": "demo-3"}));
    world.pass().await.unwrap();
    // However slow this machine is: it is not asked again soon.
    world
        .context
        .memories
        .of("uid-of-demo", |memory| memory.switchover_attempt.as_mut().unwrap().refusals = 20);
    insta::assert_snapshot!("switchover_refused", world.settle().await);
    let words = "demo-3 is not the primary: node 3 did not respond in time";
    assert_eq!(world.switchover_done(), ("False".into(), words.into()));
    assert_eq!(world.phase(), "Ready", "the cluster is as well as it was");
    assert_eq!(world.settle().await, "");
    world.group.accept();
    world.ask_for(&json!({"target": "demo-9"}));
    let words = "demo-9 is not the primary: node 9 is not a member of this cluster";
    let calls = world.settle().await;
    assert_eq!(world.switchover_done(), ("False".into(), words.into()));
    assert!(calls.contains(&format!("event ChangeRefused: {words}")), "{calls}");
    assert_eq!(world.group.take_changes(), [], "nobody was asked");
}

#[tokio::test]
async fn a_primary_that_is_scaled_away_is_another_one_first() {
    let world = ControllerWorld::with_failover(3).await;
    world.group.primary_term(id(3), changed(2, 1, 3, TermEndReason::Released));
    world.settle().await;
    world.group.take_changes();
    world.scale(2);
    insta::assert_snapshot!("scaled_away_1_switchover_then_remove", world.settle().await);
    assert_eq!(world.group.take_changes(), [SwitchOver(id(2)), Remove(id(3))]);
    world.group.retire(id(3));
    insta::assert_snapshot!("scaled_away_2_pod_and_volume", world.settle().await);
    assert_eq!((world.group.take_changes(), world.phase().as_str()), (vec![], "Ready"));
}

#[tokio::test]
async fn a_restart_moves_the_primary_before_its_pod_goes() {
    let world = ControllerWorld::with_failover(3).await;
    world.api.change("pgraftclusters", "demo", &json!({"spec": {"image": "pgraft/postgres:next"}}));
    let mut calls = Vec::new();
    for node in [3, 2, 1] {
        calls.push(world.settle().await);
        world.make_ready(id(node));
    }
    calls.push(world.settle().await);
    let calls = calls.join("\n");
    let steps: Vec<&str> = calls
        .lines()
        .filter(|l| l.starts_with("delete pods") || l.starts_with("event SwitchedOver"))
        .collect();
    let switched = "event SwitchedOver: demo-2 is the primary in place of demo-1, after 812 ms, in epoch 2: demo-1 handed over";
    assert_eq!(steps, ["delete pods demo-3", "delete pods demo-2", switched, "delete pods demo-1"]);
    assert_eq!(
        (world.group.take_changes(), world.phase().as_str()),
        (vec![SwitchOver(id(2))], "Ready")
    );
}

#[tokio::test]
async fn a_failover_is_told_with_what_was_missed_before_it() {
    let world = ControllerWorld::with_failover(3).await;
    world.group.primary_term(id(2), changed(4, 3, 2, TermEndReason::LeaseExpired));
    let calls = world.settle().await;
    let told: Vec<&str> = calls.lines().filter(|l| l.starts_with("event FailedOver")).collect();
    let words = "event FailedOver: demo-2 is the primary in place of demo-3, after 812 ms, in epoch 4: a majority of the voters no longer received heartbeats from demo-3; \
                 2 more changes since the last pass of the operator";
    assert_eq!(told, [words]);
    // Who lags behind tells of an earlier one.
    world.group.primary_term(id(2), changed(3, 1, 3, TermEndReason::LeaseExpired));
    assert_eq!(world.settle().await, "");
    assert_eq!(world.status()["lastFailover"]["epoch"], 4);
}

/// How it looks while the members are at it.
#[tokio::test]
async fn a_successor_is_looked_for() {
    let world = ControllerWorld::with_failover(3).await;
    let recruiting = pgraft_core::failover::Phase::Recruiting;
    let failover = observe::group::FailoverSeen {
        phase: recruiting,
        epoch: 2,
        waits_for: vec![id(2)],
        last: None,
    };
    world.group.primary_term(id(1), failover);
    world.settle().await;
    assert_eq!(world.phase(), "Waiting for a primary");
    let conditions = world.status()["conditions"].clone();
    let of = |type_: &str| {
        conditions.as_array().unwrap().iter().find(|c| c["type"] == type_).unwrap().clone()
    };
    assert_eq!(
        (&of("Available")["status"], &of("Available")["reason"]),
        (&json!("False"), &json!("NoPrimary"))
    );
    assert_eq!(
        (&of("Degraded")["status"], &of("Degraded")["reason"]),
        (&json!("True"), &json!("NoPrimary"))
    );
    assert!(of("Degraded")["message"].as_str().unwrap().contains("demo-2"));
}

/// A pod that runs and is not reached by the others: it is the members' word that counts, for as
/// long as it was wanted.
#[tokio::test]
async fn who_is_away_for_too_long_is_replaced() {
    let world = ControllerWorld::with_failover(3).await;
    world.api.change(
        "pgraftclusters",
        "demo",
        &json!({"spec": {"failover": {"replaceAfter": "10m"}}}),
    );
    world.group.lose(id(2));
    world.settle().await;
    assert_eq!(
        (world.group.take_changes(), world.phase().as_str()),
        (vec![], "Node 2 is unreachable")
    );
    // It has been so for long.
    let uid = "uid-of-demo";
    world
        .context
        .memories
        .of(uid, |memory| memory.absences.backdate(id(2), jiff::SignedDuration::from_mins(10)));
    insta::assert_snapshot!("replaced_1_the_old_id_leaves", world.settle().await);
    assert_eq!(world.group.take_changes(), [Remove(id(2))]);
    world.group.retire(id(2));
    insta::assert_snapshot!("replaced_2_a_new_pod", world.settle().await);
    world.make_ready(id(4));
    world.settle().await;
    world.group.set(id(4), Role::Voter);
    world.settle().await;
    assert_eq!(
        (world.phase().as_str(), world.api.names("pods")),
        ("Ready", vec!["demo-1".into(), "demo-3".into(), "demo-4".into()])
    );
}

/// WAL moves with every write, and the status does not.
#[tokio::test]
async fn wal_that_moves_writes_no_status() {
    let world = ControllerWorld::with_failover(3).await;
    let before = world.status()["members"][1].clone();
    assert_eq!(
        (&before["timeline"], &before["flushLsn"], &before["lagBytes"]),
        (&json!(1), &json!("0/3000148"), &json!(0))
    );
    world.group.write(5000);
    assert_eq!(world.settle().await, "");
    world.group.primary_term(id(2), changed(2, 1, 2, TermEndReason::Released));
    world.settle().await;
    assert_eq!(world.status()["members"][1]["flushLsn"], json!("0/30014D0"));
}
