//! The application's data: written on the primary, compared on every node.

use crate::cluster::{KindCluster, TIMEOUT};
use crate::failure::E2eFailure;
use crate::wait::{Polled, until};

const TABLE: &str = "create table if not exists ledger (id bigint generated always as identity primary key, entry text not null)";
const DIGEST: &str = "select count(*) || ' rows, ' || coalesce(md5(string_agg(id || entry, ',' order by id)), '') from ledger";

/// Inserts rows as the application. The node must be the primary.
///
/// # Errors
/// [`E2eFailure::Sql`].
pub async fn write(cluster: &KindCluster, primary: i32, rows: i32) -> Result<(), E2eFailure> {
    let session = cluster.app(primary).await?;
    session.run(TABLE).await?;
    session
        .rows(
            "insert into ledger (entry) select 'entry ' || n from generate_series(1, $1::int) n",
            &[&rows],
        )
        .await
        .map(drop)
}

/// Waits until all of these nodes have the same rows as the primary.
///
/// # Errors
/// [`E2eFailure::Deadline`] with the digests of both.
pub async fn same_on(cluster: &KindCluster, primary: i32, nodes: &[i32]) -> Result<(), E2eFailure> {
    for &node in nodes {
        until(
            &format!("node {node} of {} has the rows of node {primary}", cluster.namespace),
            TIMEOUT,
            || async move {
                let written: String = cluster.app(primary).await?.value(DIGEST, &[]).await?;
                let found: String = cluster.app(node).await?.value(DIGEST, &[]).await?;
                Ok(if found == written {
                    Polled::Ready(())
                } else {
                    Polled::Pending(format!("{found}; the primary has {written}"))
                })
            },
        )
        .await?;
    }
    Ok(())
}
