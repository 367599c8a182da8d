//! What the SQL functions do, without Postgres: several members in one process, over real sockets
//! and real files.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test, which may end anywhere"
)]

mod harness;

use harness::{TestCluster, nodes, refusal};
use pgraft_core::control::{Request, Response};
use pgraft_core::{NodeState, Role};
use pgraft_raft::StartError;
use pgraft_testkit::free_port;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_add_on_the_leader_and_every_member_has_the_row() {
    let mut c = TestCluster::steady(3).await;
    let four = c.start(4).await;
    assert_eq!(c.status(four).await.state, NodeState::Uninitialized);

    let (sqlstate, message, hint) = refusal(c.add(1, four).await);
    assert_eq!(
        message,
        "Cannot add node - this node is not the leader. Node addition must be performed on the leader."
    );
    let leader_port = c.members[0].settings.advertise.port();
    assert_eq!(
        (sqlstate.as_str(), hint),
        ("PGR01", format!("The leader is node 1 (127.0.0.1:{leader_port})."))
    );

    assert_eq!(c.add(0, four).await, Response::Done { notice: None });
    let rows = nodes(&c.status(0).await);
    assert_eq!(rows.len(), 4, "it is on the leader when the call returns");
    for n in 0..4 {
        c.wait(n, "the same rows", |s| nodes(s) == rows).await;
        c.wait(n, "four voters", |s| s.voters == 4 && s.quorum == 3).await;
    }
    let told = c
        .wait(0, "what node 4 tells", |s| {
            s.members[3].postgres.is_some() && s.members[3].reachable == Some(true)
        })
        .await;
    assert_eq!(told.members[3].lag_bytes, Some(0));

    // The same call again, and every way to get it wrong.
    assert!(
        matches!(c.add(0, four).await, Response::Done { notice: Some(n) } if n.contains("already a member"))
    );
    let port = c.members[four].settings.advertise.port();
    assert_eq!(refusal(c.add_as(0, 4, 1).await).0, "42710");
    assert_eq!(refusal(c.add_as(0, 5, port).await).0, "42710");
    assert_eq!(refusal(c.add_as(0, 0, port).await).0, "22023");
    assert_eq!(
        refusal(
            c.ask(
                0,
                Request::AddNode { node_id: 5, address: "no.such.host.invalid".into(), port: 1 }
            )
            .await
        )
        .0,
        "22023"
    );
    assert_eq!(refusal(c.ask(0, Request::Init).await).0, "55000");
    let joins =
        c.log(2).await.iter().filter(|r| r.kind == "join" && r.data.contains("\"node\":4")).count();
    assert_eq!(joins, 1, "one join entry, however often it was asked for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_change_at_a_time_and_a_newcomer_that_never_comes_can_be_taken_out() {
    let mut c = TestCluster::steady(2).await;
    let nobody = free_port();
    assert_eq!(c.add_as(0, 3, nobody).await, Response::Done { notice: None });
    let four = c.start(4).await;
    let (sqlstate, message, _) = refusal(c.add(0, four).await);
    assert_eq!(
        (sqlstate.as_str(), message.as_str()),
        ("PGR03", "a membership change is in progress: node 3 is joining")
    );
    assert_eq!(c.status(0).await.members[2].role, Role::Learner);
    assert_eq!(c.ask(0, Request::RemoveNode { node_id: 3 }).await, Response::Done { notice: None });
    assert_eq!(refusal(c.add_as(0, 3, nobody).await).0, "PGR02");
    assert_eq!(c.add(0, four).await, Response::Done { notice: None });
    c.wait(four, "its vote", |s| s.voters == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seeds_recovery_story() {
    let mut c = TestCluster::steady(3).await;
    c.stop(2).await;
    for id in [4, 5] {
        let newcomer = c.start(id).await;
        assert_eq!(c.add(0, newcomer).await, Response::Done { notice: None });
        c.wait(0, "the vote", |s| s.voters == usize::try_from(id).unwrap()).await;
    }
    c.run(2).await.unwrap();
    let rows = nodes(&c.status(0).await);
    assert_eq!(rows.len(), 5);
    c.wait(2, "the rows that it missed", |s| nodes(s) == rows && s.voters == 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_survive_a_restart_and_the_death_of_their_leader() {
    let mut c = TestCluster::of(3).await;
    let rows = nodes(&c.status(0).await);
    c.stop(0).await;
    let four = c.start(4).await;
    assert_ne!(c.changed(c.joining(four)).await, 0, "a new leader");
    c.run(0).await.unwrap();
    c.wait(0, "what it missed", |s| s.members.len() == 4 && s.leader.is_some()).await;

    for n in 0..4 {
        c.stop(n).await;
    }
    // Alone it knows what it knew, and decides nothing.
    c.run(1).await.unwrap();
    let alone = c.wait(1, "its own rows", |s| s.members.len() == 4).await;
    assert_eq!(nodes(&alone)[..3], rows[..]);
    assert_eq!(alone.leader, None);
    let (sqlstate, _, hint) = refusal(c.add_as(1, 9, free_port()).await);
    assert_eq!(
        (sqlstate.as_str(), hint.as_str()),
        (
            "PGR01",
            "There is no leader at the moment. Try again when pgraft_get_leader() returns one."
        )
    );
    for n in [0, 2, 3] {
        c.run(n).await.unwrap();
    }
    for n in 0..4 {
        c.wait(n, "a leader", |s| s.leader.is_some() && s.members.len() == 4).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_members_down_to_the_bootstrap_node() {
    let mut c = TestCluster::steady(3).await;
    assert_eq!(
        refusal(c.ask(0, Request::RemoveNode { node_id: 1 }).await).1,
        "node 1 is the primary and cannot be removed"
    );
    assert_eq!(refusal(c.ask(0, Request::RemoveNode { node_id: 7 }).await).0, "42704");
    assert_eq!(refusal(c.ask(1, Request::RemoveNode { node_id: 3 }).await).0, "PGR01");
    c.stop(2).await;
    c.wait(0, "its silence", |s| s.members[2].reachable == Some(false)).await;
    let (sqlstate, message, _) = refusal(c.ask(0, Request::RemoveNode { node_id: 2 }).await);
    assert_eq!(
        (sqlstate.as_str(), message.as_str()),
        ("55006", "removing node 2 would leave only 1 of 2 voters reachable, but 2 are required")
    );
    // The dead one may go.
    assert_eq!(c.ask(0, Request::RemoveNode { node_id: 3 }).await, Response::Done { notice: None });
    assert!(matches!(
        c.ask(0, Request::RemoveNode { node_id: 3 }).await,
        Response::Done { notice: Some(_) }
    ));
    assert_eq!(c.ask(0, Request::RemoveNode { node_id: 2 }).await, Response::Done { notice: None });
    let last = c.wait(0, "one voter", |s| s.voters == 1 && s.leader.is_some()).await;
    assert_eq!((last.members.len(), last.next_node_id), (1, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_takes_itself_out() {
    let mut c = TestCluster::of(3).await;
    // The primary can't be removed: another node has to lead.
    c.lead_comes_to(1).await;
    c.wait_leading("everybody's answer", |s| s.members.iter().all(|m| m.reachable == Some(true)))
        .await;
    c.changed(Request::RemoveNode { node_id: 2 }).await;
    for n in [0, 2] {
        c.wait(n, "its absence", |s| {
            s.voters == 2 && s.leader.is_some_and(|l| l.get() != 2) && s.members.len() == 2
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_called_by_a_leader_bootstraps_nothing() {
    let mut c = TestCluster::steady(1).await;
    let two = c.start(2).await;
    assert_eq!(c.add(0, two).await, Response::Done { notice: None });
    c.wait(two, "its cluster", |s| s.cluster_id.is_some()).await;
    assert_eq!(refusal(c.ask(two, Request::Init).await).0, "55000");
    // A log that is gone has taken the vote along: neither of them starts again.
    for n in [0, two] {
        c.stop(n).await;
        std::fs::remove_dir_all(c.members[n].settings.data_dir.join("log")).unwrap();
        let error = c.run(n).await.unwrap_err();
        assert!(matches!(error, StartError::Damaged { .. }) && !error.is_temporary(), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_added_can_be_taken_out_at_any_moment() {
    let c = TestCluster::steady(2).await;
    for id in 3..23 {
        assert_eq!(c.add_as(0, id, free_port()).await, Response::Done { notice: None });
        assert!(matches!(
            c.ask(0, Request::RemoveNode { node_id: id }).await,
            Response::Done { .. }
        ));
    }
    assert_eq!(c.status(0).await.members.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_copies_are_refused() {
    let mut c = TestCluster::steady(2).await;
    let other = TestCluster::of(1).await;
    // A node of another cluster is added: it never gets in.
    let foreign = other.members[0].settings.advertise.port();
    let answer = c.add_as(0, 3, foreign).await;
    assert_eq!(answer, Response::Done { notice: None });
    assert_eq!(nodes(&other.status(0).await).len(), 1, "the other cluster is untouched");
    assert_eq!(c.status(0).await.members[2].role, Role::Learner);
    assert_eq!(c.ask(0, Request::RemoveNode { node_id: 3 }).await, Response::Done { notice: None });

    // A node that lost its directory is not let back in under its old id.
    c.wait(0, "what node 2 tells", |s| s.members[1].postgres.is_some()).await;
    c.stop(1).await;
    let dir = c.members[1].settings.data_dir.clone();
    std::fs::rename(&dir, dir.with_extension("lost")).unwrap();
    c.run(1).await.unwrap();
    // Longer than any pause between a stop and a start: it has been dialled, and has refused.
    c.wait(0, "node 2 out of reach", |s| s.members[1].last_contact_ms.is_some_and(|ms| ms > 2500))
        .await;
    assert_eq!(c.status(1).await.state, NodeState::Uninitialized);

    // A directory of another node is refused.
    let error = c.start_in(9, dir.with_extension("lost")).await.unwrap_err();
    assert!(error.to_string().contains("belongs to node 2"), "{error}");
}
