//! The application's data: written on the primary, looked for on every pod.

use crate::cluster::{KindCluster, TIMEOUT};
use crate::failure::E2eFailure;
use crate::wait::{Look, until};

const TABLE: &str = "create table if not exists ledger (id bigint generated always as identity primary key, entry text not null)";
const DIGEST: &str = "select count(*) || ' rows, ' || coalesce(md5(string_agg(id || entry, ',' order by id)), '') from ledger";

/// Adds rows, as the application, on this node, which must be the primary.
///
/// # Errors
/// [`Failure::Sql`].
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

/// Waits until every one of these nodes has just what the primary has.
///
/// # Errors
/// [`Failure::Deadline`] with what was there instead.
pub async fn same_on(cluster: &KindCluster, primary: i32, nodes: &[i32]) -> Result<(), E2eFailure> {
    for &node in nodes {
        until(
            &format!("{}: node {node} has what node {primary} has", cluster.namespace),
            TIMEOUT,
            || async move {
                let written: String = cluster.app(primary).await?.value(DIGEST, &[]).await?;
                let found: String = cluster.app(node).await?.value(DIGEST, &[]).await?;
                Ok(if found == written {
                    Look::Yes(())
                } else {
                    Look::NotYet(format!("{found}; and there {written}"))
                })
            },
        )
        .await?;
    }
    Ok(())
}
