//! A member's directory: compaction and snapshots, and what becomes of a member whose files are
//! damaged, lost or somebody else's. (What a disk does to the log itself is tried byte by byte in
//! `src/store/faults.rs`.)

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test, which may end anywhere"
)]

mod harness;
mod logged;

use std::path::{Path, PathBuf};

use harness::{TestCluster, nodes};
use logged::{keep_logs, until_logged};
use pgraft_core::control::Request;
use pgraft_raft::StartError;

/// Three voters whose log was compacted several times while the third was down, and the third's
/// last index before.
async fn compacted() -> (TestCluster, u64) {
    let mut c = TestCluster::new();
    c.snapshot_every = 20;
    let mut c = c.grown(3).await;
    c.wait(2, "all that there is", |s| {
        s.voters == 3 && s.members.iter().all(|m| m.postgres.is_some())
    })
    .await;
    let had = c.log(2).await.last().unwrap().index;
    c.stop(2).await;
    let home = c.members[2].settings.advertise.port();
    // Each is one entry, and one more for Raft's own membership.
    for port in (1..60u16).chain([home]) {
        let moved =
            Request::SetAddress { node_id: 3, address: "127.0.0.1".into(), port: i64::from(port) };
        c.changed(moved).await;
    }
    // Either of them may send the third what it has missed.
    for n in [0, 1] {
        c.until_compacted(n, had + 1).await;
    }
    (c, had)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_down_past_a_compaction_catches_up_by_snapshot() {
    let (mut c, had) = compacted().await;
    c.run(2).await.unwrap();
    let (rows, applied) = (nodes(&c.status(0).await), c.status(0).await.applied_index);
    c.wait(2, "what it missed", |s| {
        nodes(s) == rows && s.applied_index >= applied && s.leader.is_some()
    })
    .await;
    let snapshot = dir(&c, 2).join("snapshot.json");
    assert!(
        std::fs::read_to_string(&snapshot).is_ok_and(|text| text.contains("\"crc\"")),
        "it has a snapshot"
    );
    c.add_and_remove_a_node(4).await;
    c.wait(2, "the next change", |s| s.next_node_id == 5).await;
    // And not the entries between.
    c.until_compacted(2, had).await;

    // From that snapshot it starts again; and so do all at once.
    c.stop(2).await;
    c.run(2).await.unwrap();
    c.wait(2, "the same", |s| nodes(s) == rows && s.next_node_id == 5 && s.leader.is_some()).await;
    for n in 0..3 {
        c.crash(n).await;
    }
    for n in 0..3 {
        c.run(n).await.unwrap();
    }
    for n in 0..3 {
        c.wait(n, "the same", |s| nodes(s) == rows && s.next_node_id == 5 && s.leader.is_some())
            .await;
    }
    c.add_and_remove_a_node(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_damaged_or_gone_stops_its_member() {
    let (mut c, _) = compacted().await;
    c.stop(1).await;
    let path = dir(&c, 1).join("snapshot.json");
    let whole = std::fs::read(&path).unwrap();
    // A flipped bit that leaves JSON behind is found by the checksum: digits, letters, brackets;
    // only the blanks between are nobody's.
    for at in
        (0..whole.len()).step_by(whole.len() / 60).filter(|at| !whole[*at].is_ascii_whitespace())
    {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        damaged(&mut c, 1, &format!("byte {at}, {:?}", char::from(whole[at]))).await;
    }
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    damaged(&mut c, 1, "cut").await;
    std::fs::remove_file(&path).unwrap();
    let error = damaged(&mut c, 1, "gone").await;
    assert!(error.contains("the log begins behind the end of the snapshot"), "{error}");

    // Another version's is refused by its number, however it looks.
    for format in [0, 2] {
        std::fs::write(&path, format!("{{\"format\":{format},\"anything\":[]}}")).unwrap();
        let error = refused(&mut c, 1).await;
        let words = format!(
            "snapshot.json has format {format}, and this version reads format 1. Nothing was changed"
        );
        assert!(error.contains(&words), "{error}");
    }
    std::fs::write(&path, &whole).unwrap();
    c.run(1).await.unwrap();
    c.wait(1, "a leader", |s| s.leader.is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_that_is_damaged_lost_or_anothers_stops_its_member() {
    let mut c = TestCluster::of(2).await;
    c.stop(1).await;
    let path = dir(&c, 1).join("identity.json");
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    damaged(&mut c, 1, "cut").await;
    std::fs::remove_file(&path).unwrap();
    let error = damaged(&mut c, 1, "gone").await;
    assert!(error.contains("there is a log and no identity.json"), "{error}");
    assert!(!path.exists(), "no new identity is made for an old log");
    for format in [0, 2] {
        std::fs::write(&path, whole.replace("\"format\": 1", &format!("\"format\": {format}")))
            .unwrap();
        let error = refused(&mut c, 1).await;
        assert!(
            error.contains(&format!(
                "identity.json has format {format}, and this version reads format 1"
            )),
            "{error}"
        );
    }
    // A directory copied from another node, and then with a name of its own.
    copy(&dir(&c, 1), &c.dir.path().join("copy"));
    std::fs::write(c.dir.path().join("copy/identity.json"), &whole).unwrap();
    let error = c.start_in(9, c.dir.path().join("copy")).await.unwrap_err();
    assert!(error.to_string().contains("belongs to node 2, but pgraft.node_id is 9"), "{error}");
    let instance = serde_json::from_str::<serde_json::Value>(&whole).unwrap()["instance"]
        .as_str()
        .unwrap()
        .to_owned();
    let renamed = whole
        .replace(&instance, "018f0000-0000-7000-8000-000000000001")
        .replace("\"node_id\": 2", "\"node_id\": 9");
    std::fs::write(c.dir.path().join("copy/identity.json"), renamed).unwrap();
    let error = c.start_in(9, c.dir.path().join("copy")).await.unwrap_err();
    assert!(error.to_string().contains("the log belongs to another directory"), "{error}");
    std::fs::write(&path, &whole).unwrap();
    c.run(1).await.unwrap();
    c.wait(1, "a leader", |s| s.leader.is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_its_files_stops_its_member() {
    let mut c = TestCluster::of(2).await;
    c.stop(1).await;
    let log = dir(&c, 1).join("log");
    let chunk = std::fs::read_dir(&log)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "wal"))
        .unwrap();
    let whole = std::fs::read(&chunk).unwrap();
    std::fs::remove_file(&chunk).unwrap();
    let error = damaged(&mut c, 1, "gone").await;
    assert!(error.contains("the log is gone, and with it this node's vote"), "{error}");
    // In the middle: votes and entries stand behind it.
    let mut bytes = whole.clone();
    bytes[whole.len() / 2] ^= 4;
    std::fs::write(&chunk, bytes).unwrap();
    let error = damaged(&mut c, 1, "a flipped bit").await;
    assert!(error.contains("is damaged, and whole ones follow it"), "{error}");
    std::fs::write(&chunk, &whole).unwrap();
    c.run(1).await.unwrap();
    c.wait(1, "a leader", |s| s.leader.is_some()).await;
}

/// It does not start, says so in the words of the docs, and changes nothing.
async fn damaged(c: &mut TestCluster, n: usize, what: &str) -> String {
    let before = contents(&dir(c, n));
    let error = c.run(n).await.expect_err(what);
    let text = error.to_string();
    assert!(!error.is_temporary(), "{what}: {text}");
    let way_out = "Nothing was changed. This node can't come back under its old id: remove it on the leader with pgraft_remove_node, and add a \
                   new node with an empty directory and a new id";
    assert!(text.contains(way_out), "{what}: {text}");
    assert!(before == contents(&dir(c, n)), "{what}: the disk is not as before");
    text
}

/// It does not start, since another version wrote the file.
async fn refused(c: &mut TestCluster, n: usize) -> String {
    let error = c.run(n).await.unwrap_err();
    assert!(!error.is_temporary() && !matches!(error, StartError::Damaged { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("start the version of pgraft that wrote it"), "{text}");
    text
}

fn dir(c: &TestCluster, n: usize) -> PathBuf {
    c.members[n].settings.data_dir.clone()
}

fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else if path.is_file() && !path.ends_with("LOCK") {
            all.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    all.sort();
    all
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else if path.is_file() {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// Put back from a backup, under its own id: it has forgotten votes, and entries that others count
/// on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_an_earlier_time_is_found_out() {
    keep_logs();
    let mut c = TestCluster::steady(3).await;
    c.stop(2).await;
    let backup = c.dir.path().join("backup");
    copy(&dir(&c, 2), &backup);
    c.run(2).await.unwrap();
    for id in 4..7 {
        c.add_and_remove_a_node(id).await;
    }
    let all = c.status(0).await.applied_index;
    c.wait(2, "all that there is", |s| s.applied_index >= all).await;
    // The leader has heard that it has them.
    c.wait(0, "its word", |s| {
        s.members.iter().any(|m| m.node_id.get() == 3 && m.match_index >= Some(all))
    })
    .await;
    c.stop(2).await;
    std::fs::remove_dir_all(dir(&c, 2)).unwrap();
    copy(&backup, &dir(&c, 2));
    c.run(2).await.unwrap();
    until_logged(&[
        "node 3 at ",
        "has lost entry ",
        "its pgraft.data_dir is of an earlier time, and it can't come back under its old id",
    ])
    .await;
    // The others go on, and without it.
    c.add_and_remove_a_node(7).await;
    assert!(c.status(2).await.applied_index < all);
    c.stop(2).await;
    c.changed(Request::RemoveNode { node_id: 3 }).await; // the way out
    c.wait(0, "two members", |s| nodes(s).len() == 2 && s.voters == 2).await;
}
