//! Who is followed, and who is believed.

use super::*;
use crate::status::PostgresStatus;
use pgraft_core::configuration::ConfigurationStatus;
use pgraft_core::instance_file::InstanceMember;
use pgraft_core::{Address, ClusterId};

fn id(n: i64) -> NodeId {
    NodeId::new(n).unwrap()
}

fn at(n: i64) -> Upstream {
    Upstream { node_id: id(n), host: format!("db-{n}"), port: 5432 }
}

fn file(primary: Option<i64>, told: bool) -> InstanceFile {
    let member = |n| InstanceMember {
        node_id: id(n),
        postgres: told.then(|| Address::new(&format!("db-{n}"), 5432).unwrap()),
    };
    InstanceFile {
        format: FORMAT,
        cluster_id: ClusterId(
            serde_json::from_str("\"67e55044-10b1-426f-9247-bb680e5fe0c8\"").unwrap(),
        ),
        node_id: id(2),
        epoch: 1,
        primary: primary.map(id),
        members: vec![member(1), member(2), member(3)],
        retired: vec![],
        failover: false,
        rewind: None,
    }
}

fn status(node: i64, role: ServerRole, primary: Option<i64>) -> Status {
    Status {
        node_id: id(node),
        role,
        ready: true,
        postgres: PostgresStatus::default(),
        raft: None,
        primary: primary.map(at),
        configuration: ConfigurationStatus::default(),
    }
}

#[test]
fn follows_the_primary_of_the_cluster() {
    assert_eq!(follow(id(2), Some(&file(Some(1), true)), Some(at(3))), Some(at(1)));
    assert_eq!(
        follow(id(2), Some(&file(Some(2), true)), Some(at(1))),
        None,
        "the primary follows nobody"
    );
    assert_eq!(
        follow(id(2), Some(&file(Some(1), false)), Some(at(1))),
        Some(at(1)),
        "it has not told its address yet"
    );
    assert_eq!(
        follow(id(2), Some(&file(Some(1), false)), Some(at(3))),
        None,
        "an address of somebody else"
    );
    assert_eq!(follow(id(2), Some(&file(None, true)), Some(at(1))), Some(at(1)));
    assert_eq!(follow(id(2), None, Some(at(1))), Some(at(1)));
    assert_eq!(follow(id(2), None, Some(at(2))), None);
}

#[test]
fn a_primary_that_reports_itself_takes_precedence() {
    let answers = [
        status(3, ServerRole::Standby, Some(4)),
        status(1, ServerRole::Primary, Some(1)),
        status(4, ServerRole::Starting, None),
    ];
    assert_eq!(named_by_peers(id(2), &answers), Some(at(1)));
    assert_eq!(named_by_peers(id(2), &answers[..1]), Some(at(4)));
    assert_eq!(named_by_peers(id(4), &answers[..1]), None, "a node does not clone itself");
    assert_eq!(named_by_peers(id(2), &[]), None);
}

fn in_epoch(epoch: u64, status: Status) -> Status {
    let raft = serde_json::from_value(serde_json::json!({
        "node_id": status.node_id, "cluster_id": null, "state": "follower", "term": 1, "leader": null, "epoch": epoch, "primary": null,
        "commit_index": 0, "applied_index": 0, "voters": 3, "quorum": 2, "next_node_id": 4, "members": [],
    }));
    Status { raft: Some(raft.unwrap()), ..status }
}

#[test]
fn former_primaries_are_not_cloned() {
    let file = InstanceFile { failover: true, epoch: 3, ..file(Some(1), true) };
    let deposed = in_epoch(2, status(4, ServerRole::Primary, Some(4)));
    let present = in_epoch(3, status(1, ServerRole::Primary, Some(1)));
    let next = in_epoch(4, status(3, ServerRole::Standby, Some(5)));
    let all = [deposed.clone(), present, next, status(6, ServerRole::Primary, Some(6))];
    assert_eq!(sources(id(2), Some(&file), None, &all), [at(5), at(1)]);
    assert_eq!(sources(id(2), Some(&file), None, &all[..1]), [at(1)]);
    assert_eq!(sources(id(1), Some(&file), None, &[]), [], "never itself");
    assert_eq!(
        sources(id(2), None, Some(at(1)), &all[..1]),
        [at(4), at(1)],
        "who is in no cluster has confirmed nothing"
    );
}

#[test]
fn a_bootstrap_node_detects_an_existing_cluster() {
    assert!(!cluster_among(
        id(1),
        &[status(1, ServerRole::Primary, Some(1)), status(2, ServerRole::Starting, None)]
    ));
    assert!(cluster_among(id(1), &[status(2, ServerRole::Standby, Some(1))]));
}

#[test]
fn rejects_a_damaged_or_foreign_instance_file() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths {
        raft: dir.path().into(),
        work: dir.path().into(),
        ..crate::settings::tests::example().paths
    };
    let read = || instance_file(&paths, id(2)).map_err(|e| e.to_string());
    let write = |text: &[u8]| std::fs::write(paths.instance_file(), text).unwrap();
    assert_eq!(read(), Ok(None));
    write(&serde_json::to_vec(&file(Some(1), true)).unwrap());
    assert_eq!(read(), Ok(Some(file(Some(1), true))));
    write(
        &serde_json::to_vec(&InstanceFile { rewind: Some(id(1)), ..file(Some(1), true) }).unwrap(),
    );
    forget_rewind(&paths, id(2)).unwrap();
    assert_eq!(read(), Ok(Some(file(Some(1), true))));
    write(b"{\"form");
    assert!(read().unwrap_err().starts_with("could not parse instance.json"));
    write(b"{\"format\": 2, \"new\": true}");
    assert!(read().unwrap_err().contains("format 2"));
    write(&serde_json::to_vec(&InstanceFile { node_id: id(3), ..file(Some(1), true) }).unwrap());
    assert!(read().unwrap_err().contains("belongs to node 3"));
    assert_eq!(last(&paths).unwrap(), None);
    remember(&paths, &at(3)).unwrap();
    assert_eq!(last(&paths).unwrap(), Some(at(3)));
}
