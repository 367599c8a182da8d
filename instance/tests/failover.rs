//! Three nodes, each with its instance manager, that choose their primary themselves: what is
//! killed comes back by itself, and every row that was acknowledged is on all of them, on one
//! timeline.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    dead_code,
    reason = "this is a test through and through"
)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_testkit::cluster::{
    cluster_of, epoch, more_rows, nothing_is_lost, of_three, primary, primary_after, whole,
};
use pgraft_testkit::disk::SmallDisk;
use pgraft_testkit::ledger::Ledger;
use pgraft_testkit::{Nodes, TestNode, bin_directory, child_of, until};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Kills the primary's postmaster, and waits until somebody takes writes again and all three are
/// whole.
async fn kill_the_primary(nodes: &Nodes, ledger: &Ledger) {
    let old = primary(nodes).await;
    let before = epoch(nodes, old);
    more_rows(ledger, 10).await;
    ledger.new_gap();
    kill(Pid::from_raw(nodes.nodes[old].postmaster().unwrap()), Signal::SIGKILL).unwrap();
    let new = until("another primary term", async || {
        let new = primary(nodes).await;
        (epoch(nodes, new) > before).then_some(new)
    })
    .await;
    more_rows(ledger, 10).await;
    println!(
        "node {} was killed, node {} took over: no acknowledgement for {:?}",
        old + 1,
        new + 1,
        ledger.new_gap()
    );
    for (n, node) in nodes.nodes.iter().enumerate() {
        if n != primary(nodes).await {
            node.streaming().await;
        }
    }
}

#[tokio::test]
async fn a_killed_primary_comes_back_by_itself() {
    let Some(nodes) = of_three(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    kill_the_primary(&nodes, &ledger).await;
    nothing_is_lost(&nodes, ledger).await;
    for node in &nodes.nodes {
        // One for everybody else, and none that keeps WAL for nobody.
        node.wait_for("SELECT count(*) FROM pg_replication_slots", "2").await;
        node.wait_for("SELECT count(*) FROM pg_replication_slots WHERE pg_is_in_recovery() AND restart_lsn IS NOT NULL", "0").await;
    }
}

#[tokio::test]
async fn ten_kills_in_a_row() {
    let Some(nodes) = of_three(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    for _ in 0..10 {
        kill_the_primary(&nodes, &ledger).await;
    }
    nothing_is_lost(&nodes, ledger).await;
}

/// The client goes on while this node is without its standbys for a moment: what it writes then no
/// other has, and nobody was told that it is safe.
#[tokio::test]
async fn what_nobody_else_has_is_rewound() {
    let Some(mut nodes) = of_three(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    more_rows(&ledger, 10).await;
    let old = primary(&nodes).await;
    let others: Vec<usize> = (0..3).filter(|n| *n != old).collect();
    for n in &others {
        nodes.nodes[*n].kill_manager();
        kill(Pid::from_raw(nodes.nodes[*n].postmaster().unwrap()), Signal::SIGKILL).unwrap();
    }
    // Superusers over the network are no clients that wait: it is there at once, and no other has
    // it.
    let alone = nodes.nodes[old].connect("postgres", "superuser-1", "postgres").await.unwrap();
    let wrote =
        alone.batch_execute("SET synchronous_commit = local; CREATE TABLE nobody_else_has AS SELECT generate_series(1, 1000)").await;
    nodes.nodes[old].kill_manager();
    kill(Pid::from_raw(nodes.nodes[old].postmaster().unwrap()), Signal::SIGKILL).unwrap();
    wrote.unwrap();
    for n in others {
        nodes.nodes[n].start();
    }
    let new = primary(&nodes).await;
    assert_ne!(new, old);
    more_rows(&ledger, 10).await;
    // As if it had been started before, and had got no further than to the new primary's history:
    // with it Postgres would go past the fork.
    let wal = |n: usize| nodes.nodes[n].directory.join("pgdata/pg_wal");
    let history =
        format!("{:08X}.history", nodes.nodes[new].status().unwrap().postgres.timeline.unwrap());
    std::fs::copy(wal(new).join(&history), wal(old).join(&history)).unwrap();
    nodes.nodes[old].start();
    // By pg_rewind as a rule, and by a clone where that finds its WAL no more. A receiver calls
    // itself streaming before the primary has answered, so that this says nothing before.
    let words = ["the data directory has the primary's history", "the clone is whole and in place"];
    let recovered = until("a rewind or a clone", async || {
        let log = nodes.nodes[old].log();
        words.into_iter().find(|words| log.contains(words))
    })
    .await;
    println!("node {}: {recovered}", old + 1);
    assert!(
        nodes.nodes[old]
            .log()
            .contains("removed the history of a timeline that this server has no WAL of")
    );
    nodes.nodes[old].streaming().await;
    nodes.nodes[old].wait_for("SELECT to_regclass('nobody_else_has') IS NULL", "t").await;
    nothing_is_lost(&nodes, ledger).await;
}

/// A walreceiver says how far its server has replayed before it says anything else: where that is
/// WAL of its own, stock Postgres takes it for the confirmation of what the primary has written
/// there.
#[tokio::test]
async fn wal_that_has_diverged_confirms_nothing() {
    let Some(mut nodes) = of_three(|_| ()).await else { return };
    let old = primary(&nodes).await;
    let alone = nodes.nodes[old].connect("postgres", "superuser-1", "postgres").await.unwrap();
    // A new segment, so that what follows lies within one.
    alone
        .batch_execute("CREATE TABLE t (i int); SELECT pg_switch_wal(); INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    let others: Vec<usize> = (0..3).filter(|n| *n != old).collect();
    for n in &others {
        // With its walreceiver, which would go on for a moment.
        nodes.nodes[*n].kill_all();
    }
    let wrote = alone
        .batch_execute(
            "SET synchronous_commit = local; INSERT INTO t SELECT generate_series(1, 50000)",
        )
        .await;
    nodes.nodes[old].kill_all();
    wrote.unwrap();
    for n in &others {
        nodes.nodes[*n].start();
    }
    let new = primary(&nodes).await;
    let other = others.into_iter().find(|n| *n != new).unwrap();
    nodes.nodes[other].streaming().await;
    // This one votes, and confirms nothing.
    let receiver =
        until("its receiver", async || child_of(nodes.nodes[other].postmaster()?, "walreceiver"))
            .await;
    kill(Pid::from_raw(receiver), Signal::SIGSTOP).unwrap();
    let client = nodes.nodes[new].connect("postgres", "superuser-1", "postgres").await.unwrap();
    let commit =
        tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (2)").await });
    nodes.nodes[old].start();
    commit.await.unwrap().unwrap();
    let recovered =
        ["the data directory has the primary's history", "the clone is whole and in place"];
    let log = nodes.nodes[old].log();
    let _ = kill(Pid::from_raw(receiver), Signal::SIGCONT);
    assert!(recovered.iter().any(|words| log.contains(words)), "who has confirmed that?\n{log}");
}

#[tokio::test]
async fn a_rewind_that_broke_off_ends_in_a_clone() {
    let Some(mut nodes) = of_three(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    let standby = &mut nodes.nodes[2];
    assert!(standby.terminate().await.success());
    std::fs::write(standby.directory.join("pgdata.pgraft/mending"), "").unwrap();
    let old = std::fs::metadata(standby.directory.join("pgdata")).unwrap();
    standby.start();
    standby.streaming().await;
    let new = std::fs::metadata(standby.directory.join("pgdata")).unwrap();
    assert_ne!(
        std::os::unix::fs::MetadataExt::ino(&old),
        std::os::unix::fs::MetadataExt::ino(&new),
        "it was started as it was"
    );
    let left: Vec<_> = ["new", "old", "rewind-in-progress"]
        .iter()
        .filter(|name| standby.directory.join("pgdata.pgraft").join(name).exists())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    kill_the_primary(&nodes, &ledger).await;
    nothing_is_lost(&nodes, ledger).await;
}

/// Node 3 is as if its rewind to node 2, the primary, had broken off, and node 2 is lost for good:
/// node 1 is the only one that has any data.
#[tokio::test]
async fn who_is_being_rewound_votes() {
    let Some(mut nodes) = of_three(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    more_rows(&ledger, 10).await;
    assert!(nodes.nodes[2].terminate().await.success());
    until("a switchover to node 2", async || {
        nodes.nodes[0].sql("SELECT pgraft_switchover(2)::text").await.ok()
    })
    .await;
    more_rows(&ledger, 10).await;
    let epoch = epoch(&nodes, 1);
    std::fs::write(nodes.nodes[2].directory.join("pgdata.pgraft/mending"), epoch.to_string())
        .unwrap();
    nodes.nodes[1].kill_all();
    nodes.nodes[2].start();
    until("node 3 to vote", async || {
        nodes.nodes[2]
            .log()
            .contains("this node votes while its server is being rewound or cloned")
            .then_some(())
    })
    .await;
    nodes.nodes[2].streaming().await;
    assert!(nodes.nodes[2].log().contains("has confirmed nothing since epoch"), "nobody asked it");
    more_rows(&ledger, 10).await;
    nodes.nodes[1].start();
    nothing_is_lost(&nodes, ledger).await;
}

/// The slot of a member that is away keeps no more WAL than it may: the primary takes it away, and
/// the member is cloned when it comes back.
#[tokio::test]
async fn a_standby_whose_wal_is_gone_is_cloned() {
    let Some(mut nodes) = of_three(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    assert!(nodes.nodes[2].terminate().await.success());
    let primary = &mut nodes.nodes[0];
    assert_ne!(
        primary.sql("SHOW max_slot_wal_keep_size").await.unwrap().unwrap(),
        "-1",
        "it is bounded by default"
    );
    for name in ["wal_keep_size", "max_slot_wal_keep_size"] {
        primary
            .parameters
            .insert(name.into(), if name == "wal_keep_size" { "0" } else { "1MB" }.into());
    }
    primary.write_config();
    primary.wait_for("SHOW max_slot_wal_keep_size", "1MB").await;
    let oldest = "SELECT min(name) FROM pg_ls_waldir()";
    let needed =
        primary.sql("SELECT pg_walfile_name(pg_current_wal_lsn())").await.unwrap().unwrap();
    until("old WAL to go", async || {
        let client = primary.connect("postgres", "superuser-1", "postgres").await.ok()?;
        for statement in [
            "CREATE TABLE IF NOT EXISTS waste ()",
            "DROP TABLE waste",
            "SELECT pg_switch_wal()",
            "CHECKPOINT",
        ] {
            client.batch_execute(statement).await.ok()?;
        }
        primary.sql(oldest).await.ok().flatten().filter(|now| *now > needed)
    })
    .await;
    primary
        .wait_for(
            "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'pgraft_3'",
            "lost",
        )
        .await;
    nodes.nodes[2].start();
    let gone = "the primary has no more the WAL that this server needs";
    until("a clone of node 3", async || nodes.nodes[2].log().contains(gone).then_some(())).await;
    nodes.nodes[2].streaming().await;
    nothing_is_lost(&nodes, ledger).await;
}

#[tokio::test]
async fn a_primary_whose_worker_is_silent_is_ended() {
    let Some(nodes) = of_three(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    more_rows(&ledger, 10).await;
    let old = primary(&nodes).await;
    let before = epoch(&nodes, old);
    let postmaster = nodes.nodes[old].postmaster().unwrap();
    let worker = until("the worker", async || child_of(postmaster, "pgraft")).await;
    kill(Pid::from_raw(worker), Signal::SIGSTOP).unwrap();
    until("another postmaster", async || {
        nodes.nodes[old].postmaster().filter(|pid| *pid != postmaster)
    })
    .await;
    let new = primary(&nodes).await;
    assert!(epoch(&nodes, new) > before);
    more_rows(&ledger, 10).await;
    nothing_is_lost(&nodes, ledger).await;
}

#[tokio::test]
async fn all_down_at_once_and_back() {
    let Some(mut nodes) = of_three(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    more_rows(&ledger, 10).await;
    for node in &mut nodes.nodes {
        node.kill_manager();
        kill(Pid::from_raw(node.postmaster().unwrap()), Signal::SIGKILL).unwrap();
    }
    for node in &mut nodes.nodes {
        node.start();
    }
    more_rows(&ledger, 10).await;
    nothing_is_lost(&nodes, ledger).await;
}

/// Of two standbys one can't say how far its WAL reaches: nobody is sure, and nobody becomes the
/// primary but by a person's word.
#[tokio::test]
async fn a_primary_by_force() {
    let Some(mut nodes) = of_three(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    more_rows(&ledger, 10).await;
    let old = primary(&nodes).await;
    let before = epoch(&nodes, old);
    let (silent, successor) = ((old + 1) % 3, (old + 2) % 3);
    let postmaster = nodes.nodes[silent].postmaster().unwrap();
    let receiver = until("a walreceiver", async || child_of(postmaster, "walreceiver")).await;
    kill(Pid::from_raw(receiver), Signal::SIGSTOP).unwrap();
    more_rows(&ledger, 10).await;
    nodes.nodes[old].kill_all();

    let force = |accept: &str| format!("SELECT pgraft_force_primary({}{accept})", successor + 1);
    let leader = until("a leader that waits for a report", async || {
        for n in [silent, successor] {
            let waits =
                nodes.nodes[n].sql("SELECT pgraft_is_leader() AND phase = 'recruiting' AND waits_for <> '{}' FROM pgraft_failover()");
            if waits.await.ok().flatten().as_deref() == Some("t") {
                return Some(n);
            }
        }
        None
    })
    .await;
    let refused = nodes.nodes[leader].sql(&force("")).await.unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.code().code(), "PGR08", "{refused}");
    assert!(refused.hint().unwrap().contains("accept_data_loss => true"), "{refused}");
    assert_eq!(epoch(&nodes, successor), before + 1, "it looks for one still");
    until("a primary by force", async || {
        for n in [leader, silent, successor] {
            if nodes.nodes[n].sql(&force(", accept_data_loss => true")).await.is_ok() {
                return Some(());
            }
        }
        None
    })
    .await;
    nodes.nodes[successor].wait_for("SELECT pg_is_in_recovery()", "f").await;
    kill(Pid::from_raw(receiver), Signal::SIGCONT).unwrap();
    more_rows(&ledger, 10).await;
    assert_eq!(primary(&nodes).await, successor);
    nodes.nodes[successor].wait_for("SELECT last_reason FROM pgraft_failover()", "forced").await;
    nodes.nodes[successor]
        .wait_for("SELECT count(*) > 0 FROM pgraft_log() WHERE kind = 'force'", "t")
        .await;
    nodes.nodes[old].start();
    nodes.nodes[old].streaming().await;
    // What was acknowledged the one that was forced had: the other one could confirm nothing.
    nothing_is_lost(&nodes, ledger).await;
}

/// One standby has all of the WAL and can't replay it, another one has little of it: the first
/// takes over, as soon as it has replayed.
#[tokio::test]
async fn a_long_backlog_of_replay() {
    let patient = ("max_standby_streaming_delay".to_owned(), "-1".to_owned());
    let Some(mut nodes) = of_three(|node| node.parameters.extend([patient.clone()])).await else {
        return;
    };
    let ledger = Ledger::start(nodes.servers());
    let old = primary(&nodes).await;
    let (lagging, successor) = ((old + 1) % 3, (old + 2) % 3);
    nodes.nodes[old].sql("CREATE TABLE held ()").await.unwrap();
    nodes.nodes[successor].wait_for("SELECT count(*) FROM held", "0").await;
    let holds =
        nodes.nodes[successor].connect("postgres", "superuser-1", "postgres").await.unwrap();
    holds.batch_execute("BEGIN; SELECT count(*) FROM held").await.unwrap();
    let lags = nodes.nodes[lagging].postmaster().unwrap();
    let receiver =
        Pid::from_raw(until("a walreceiver", async || child_of(lags, "walreceiver")).await);
    kill(receiver, Signal::SIGSTOP).unwrap();
    // From here on the successor alone confirms, and replays nothing.
    nodes.nodes[old].sql("DROP TABLE held").await.unwrap();
    nodes.nodes[old].sql("CREATE TABLE backlog AS SELECT n, repeat('x', 200) FROM generate_series(1, 200000) AS n").await.unwrap();
    more_rows(&ledger, 10).await;
    let before = epoch(&nodes, old);
    let backlog =
        "SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::bigint >> 20";
    let backlog = nodes.nodes[successor].sql(backlog).await.unwrap().unwrap();
    ledger.new_gap();
    nodes.nodes[old].kill_all();
    kill(receiver, Signal::SIGCONT).unwrap();

    let appointed = async || {
        let told = nodes.nodes[lagging]
            .sql("SELECT primary_node FROM pgraft_failover() WHERE phase = 'steady'")
            .await
            .ok()??;
        (told == (successor + 1).to_string()).then_some(())
    };
    until("the one with the most WAL to be appointed", appointed).await;
    let waits = Instant::now();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let meanwhile = epoch(&nodes, lagging);
    holds.batch_execute("COMMIT").await.unwrap();
    let new = primary_after(&nodes, before, &[old]).await;
    assert_eq!(new, successor, "the other one has less WAL");
    let waited = waits.elapsed();
    println!(
        "a backlog of {backlog} MB, held up for 10 s: node {} took over after {waited:?}, in primary term {}",
        new + 1,
        meanwhile - before
    );
    assert!(
        meanwhile - before <= 2,
        "while it replayed it was taken for lost {} times",
        meanwhile - before - 1
    );
    more_rows(&ledger, 10).await;
    println!("no acknowledgement for {:?}", ledger.new_gap());
    nodes.nodes[old].start();
    whole(&nodes).await;
    nodes.nodes[new].wait_for("SELECT count(*) FROM backlog", "200000").await;
    nothing_is_lost(&nodes, ledger).await;
}

/// First a standby's disk, then the primary's: data, WAL and Raft's files are all on it.
#[tokio::test]
async fn a_full_disk() {
    let Some(bin) = bin_directory() else { return };
    let mut nodes = Nodes::new(&bin, 3);
    // Little WAL is kept in stock, so that the end of the disk is soon met.
    let little = [("min_wal_size", "32MB"), ("max_wal_size", "64MB"), ("wal_keep_size", "0")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()));
    nodes.nodes.iter_mut().for_each(|node| node.parameters.extend(little.clone()));
    let disks: Option<Vec<SmallDisk>> =
        nodes.nodes.iter().map(|node| SmallDisk::under(node, 400)).collect();
    let Some(disks) = disks else { return };
    let nodes = cluster_of(nodes).await;
    let ledger = Ledger::start(nodes.servers());
    more_rows(&ledger, 10).await;

    let old = primary(&nodes).await;
    let standby = (old + 1) % 3;
    disks[standby].fill();
    let full = "No space left on device";
    until("a standby that is out of room", async || {
        fill_wal(&nodes, old).await;
        nodes.nodes[standby].log().contains(full).then_some(())
    })
    .await;
    more_rows(&ledger, 50).await;
    disks[standby].free();
    whole(&nodes).await;
    println!("node {} was out of room: no acknowledgement for {:?}", standby + 1, ledger.new_gap());

    let old = primary(&nodes).await;
    let before = epoch(&nodes, old);
    disks[old].fill();
    let new = until("another primary", async || {
        fill_wal(&nodes, old).await;
        (0..3).find(|n| *n != old && epoch(&nodes, *n) > before && is_primary(&nodes, *n))
    })
    .await;
    more_rows(&ledger, 50).await;
    let gives_up = "the disk of this primary is full: it gives its place to a standby";
    assert!([full, gives_up].iter().any(|words| nodes.nodes[old].log().contains(words)));
    println!(
        "node {} was out of room, node {} took over: no acknowledgement for {:?}",
        old + 1,
        new + 1,
        ledger.new_gap()
    );
    disks[old].free();
    whole(&nodes).await;
    nothing_is_lost(&nodes, ledger).await;
}

/// A megabyte of WAL and nothing else, where that goes.
async fn fill_wal(nodes: &Nodes, on: usize) {
    let _ = nodes.nodes[on]
        .sql("SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000))")
        .await;
}

fn is_primary(nodes: &Nodes, n: usize) -> bool {
    nodes.nodes[n]
        .status()
        .is_some_and(|s| s.role == pgraft_instance::status::ServerRole::Primary && s.ready)
}

/// Whether a standby has a slot that outlives the primary.
const COPIED: &str = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'feed' AND synced AND NOT temporary";
const CHANGES: &str = "SELECT data FROM pg_logical_slot_get_changes('feed', NULL, NULL)";

/// What a subscriber hears now, from whoever is the primary.
async fn listen(nodes: &Nodes, heard: &mut BTreeSet<i64>) {
    let Ok(client) =
        nodes.nodes[primary(nodes).await].connect("postgres", "superuser-1", "app").await
    else {
        return;
    };
    for change in client.query(CHANGES, &[]).await.unwrap_or_default() {
        let change: String = change.get(0);
        heard.extend(change.rsplit_once(':').and_then(|(_, row)| row.parse::<i64>().ok()));
    }
}

/// Until that node has the primary's slot: it takes over a position that the primary's slot comes
/// by, so that one must be used.
async fn copied(nodes: &Nodes, to: usize, heard: &mut BTreeSet<i64>) {
    let begun = Instant::now();
    while nodes.nodes[to].sql(COPIED).await.ok().flatten().is_none_or(|count| count != "1") {
        assert!(
            begun.elapsed() < Duration::from_mins(3),
            "node {} has no copy of the slot",
            to + 1
        );
        listen(nodes, heard).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("node {} has the slot after {:?}", to + 1, begun.elapsed());
}

/// A failover slot (Postgres 17 and later) is on the next primary, and leaves nothing out.
#[tokio::test]
async fn a_subscriber_goes_on_at_the_next_primary() {
    let on = |node: &mut TestNode| {
        drop(node.parameters.insert("sync_replication_slots".into(), "on".into()));
    };
    let Some(nodes) = of_three(on).await else { return };
    let (old, mut heard) = (primary(&nodes).await, BTreeSet::new());
    // A timeout that a role carries does not cut the standbys' slot workers, which are idle most of
    // the time.
    nodes.nodes[old]
        .sql("ALTER ROLE pgraft_replication SET idle_session_timeout = 100")
        .await
        .unwrap();
    let make =
        "SELECT pg_create_logical_replication_slot('feed', 'test_decoding', failover => true)";
    nodes.nodes[old]
        .connect("postgres", "superuser-1", "app")
        .await
        .unwrap()
        .execute(make, &[])
        .await
        .unwrap();
    let ledger = Ledger::start(nodes.servers());
    for standby in (0..3).filter(|n| *n != old) {
        copied(&nodes, standby, &mut heard).await;
    }
    more_rows(&ledger, 20).await;
    listen(&nodes, &mut heard).await;

    let before = epoch(&nodes, old);
    kill(Pid::from_raw(nodes.nodes[old].postmaster().unwrap()), Signal::SIGKILL).unwrap();
    let new = primary_after(&nodes, before, &[]).await;
    more_rows(&ledger, 20).await;
    let acked = ledger.stop().await;
    until("a subscriber that has heard all", async || {
        listen(&nodes, &mut heard).await;
        acked.is_subset(&heard).then_some(())
    })
    .await;
    println!(
        "{} rows acknowledged and {} heard, from node {} and then from node {}",
        acked.len(),
        heard.len(),
        old + 1,
        new + 1
    );
    // The former primary's own slot is out of the way.
    for standby in (0..3).filter(|n| *n != new) {
        copied(&nodes, standby, &mut heard).await;
    }
    // Who sends to subscribers waited for standbys from the first moment on: the names were there
    // before the promotion.
    let log = nodes.nodes[new].log();
    let at = |what: &str, word: &str| {
        log.lines()
            .position(|l| l.contains(what) && l.contains(word))
            .unwrap_or_else(|| panic!("no {word}"))
    };
    assert!(at("synchronized_standby_slots", "changed to") < at("received promote request", ""));
    // Whatever was heard is there: nothing was sent that the failover has taken back.
    let all = nodes.nodes[new].connect("postgres", "superuser-1", "app").await.unwrap();
    let rows: BTreeSet<i64> =
        all.query("SELECT row FROM ledger", &[]).await.unwrap().iter().map(|r| r.get(0)).collect();
    assert!(
        heard.is_subset(&rows),
        "heard and gone: {:?}",
        heard.difference(&rows).collect::<Vec<_>>()
    );
    for node in &nodes.nodes {
        assert!(!node.log().contains("idle-session timeout"), "node {} was cut off", node.id);
    }
}
