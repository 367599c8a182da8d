//! Invalid membership changes are refused with the documented SQLSTATE, message and hint, and
//! change nothing.

use serde_json::json;

use crate::cluster::KindCluster;
use crate::ensure;
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;

const ADD_ON_FOLLOWER: &str =
    "Cannot add node - this node is not the leader. Node addition must be performed on the leader.";
const REMOVE_ON_FOLLOWER: &str = "Cannot remove node - this node is not the leader. Node removal must be performed on the leader.";

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    cluster.create(3, &json!({})).await?;
    let rows = cluster.same_rows(&[1, 2, 3]).await?;
    let leader = cluster.leader(1).await?;

    for follower in (1..=3).filter(|node| *node != leader) {
        let at = rows
            .iter()
            .find(|row| row.id == leader)
            .map(|row| format!("{}:{}", row.address, row.port))
            .unwrap_or_default();
        let hint = format!("The leader is node {leader} ({at}).");
        let session = cluster.superuser(follower).await?;
        for (statement, words) in [
            ("select pgraft_add_node(4, '192.168.1.14', 7004)", ADD_ON_FOLLOWER),
            ("select pgraft_remove_node(2)", REMOVE_ON_FOLLOWER),
        ] {
            let said = refused(&session.run(statement).await, statement)?;
            let expected = ("PGR01".to_owned(), words.to_owned(), hint.clone());
            ensure!(
                said == expected,
                "on node {follower}, {statement} failed with {said:?} instead of {expected:?}"
            );
        }
    }

    let session = cluster.superuser(leader).await?;
    let cases = [
        (
            "select pgraft_add_node(0, '198.18.127.1', 7001)",
            "22023",
            "invalid node id 0: it must be between 1 and 2147483647",
        ),
        (
            "select pgraft_add_node(4, '', 7001)",
            "22023",
            "invalid address \"\": it must not be empty",
        ),
        (
            "select pgraft_add_node(4, 'no.such.name.invalid', 7001)",
            "22023",
            "could not resolve address \"no.such.name.invalid\"",
        ),
        (
            "select pgraft_add_node(4, '198.18.127.1', 65536)",
            "22023",
            "invalid port 65536: it must be between 1 and 65535",
        ),
        (
            "select pgraft_add_node(2, '198.18.127.1', 7001)",
            "42710",
            "node 2 is already a member with address ",
        ),
        ("select pgraft_remove_node(9)", "42704", "node 9 is not a member of this cluster"),
        ("select pgraft_remove_node(1)", "55006", "node 1 is the primary and cannot be removed"),
        ("select pgraft_init()", "55000", "this node is already a member of cluster "),
    ];
    for (statement, code, words) in cases {
        let (said_code, said, hint) = refused(&session.run(statement).await, statement)?;
        ensure!(
            said_code == code && said.starts_with(words),
            "{statement} failed with {said_code} {said:?} instead of {code} {words:?}"
        );
        ensure!(!hint.is_empty(), "the error of {statement} has no hint");
    }

    // The functions exist in the database postgres only, where the application may not call them.
    let statement = "select pgraft_remove_node(3)";
    for (database, expected) in [("app", "42883"), ("postgres", "42501")] {
        let app = cluster.app_in(leader, database).await?;
        let (code, ..) = refused(&app.run(statement).await, statement)?;
        ensure!(
            code == expected,
            "the application got {code} instead of {expected} in the database {database}"
        );
    }

    let after = cluster.same_rows(&[1, 2, 3]).await?;
    ensure!(after == rows, "something changed: {rows:?} became {after:?}");
    cluster.same_everywhere(&[1, 2, 3]).await?;
    Ok(Vec::new())
}

fn refused(
    result: &Result<(), E2eFailure>,
    statement: &str,
) -> Result<(String, String, String), E2eFailure> {
    match result {
        Ok(()) => Err(E2eFailure::Wrong(format!("{statement} was not refused"))),
        Err(failure) => {
            failure.refusal().ok_or_else(|| E2eFailure::Wrong(format!("{statement}: {failure}")))
        }
    }
}
