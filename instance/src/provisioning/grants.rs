//! Maintains the extension in the database `postgres` and the privileges of pgraft's roles there.
//! Privileges are granted to each role, so they do not depend on those of PUBLIC.

use pgraft_core::instance_config::{OPERATOR_ROLE, REPLICATION_ROLE};
use tokio_postgres::Client;

use super::ProvisioningError;
use super::statements;

/// Memberships: the operator reads statistics, standbys checkpoint the primary before a rewind.
const MEMBERSHIPS: [(&str, &str); 2] =
    [("pg_monitor", OPERATOR_ROLE), ("pg_checkpoint", REPLICATION_ROLE)];

/// Functions that `pg_rewind` and the check for missing WAL call on the primary.
const BUILT_IN: [&str; 5] = [
    "pg_ls_dir(text)",
    "pg_ls_dir(text, boolean, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
    "pg_stat_file(text, boolean)",
];

/// Functions that the operator calls.
const OPERATORS: [&str; 8] = [
    "pgraft_init",
    "pgraft_add_node",
    "pgraft_remove_node",
    "pgraft_switchover",
    "pgraft_get_leader",
    "pgraft_status",
    "pgraft_failover",
    "pgraft_get_members",
];

/// Missing memberships. (`unnest` takes two arrays under its bare name only; `search_path`
/// is `pg_catalog`.)
const MISSING_MEMBERSHIPS: &str = "SELECT w.granted, w.member FROM unnest($1::text[], $2::text[]) AS w (granted, member)
   WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_auth_members AS m
                       JOIN pg_catalog.pg_roles AS g ON g.oid = m.roleid JOIN pg_catalog.pg_roles AS r ON r.oid = m.member
                      WHERE g.rolname = w.granted AND r.rolname = w.member)";

/// Roles without their own CONNECT privilege on this database.
const MISSING_CONNECT: &str = "SELECT r.rolname::text FROM pg_catalog.pg_roles AS r
   WHERE r.rolname = ANY ($1::text[]::name[])
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_database AS d, pg_catalog.aclexplode(d.datacl) AS a
                      WHERE d.datname = pg_catalog.current_database() AND a.grantee = r.oid AND a.privilege_type = 'CONNECT')";

/// The extension's schema, and whether the operator has its own USAGE privilege on it.
const SCHEMA: &str = "SELECT n.nspname::text,
         EXISTS (SELECT FROM pg_catalog.aclexplode(n.nspacl) AS a JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
                  WHERE r.rolname = $1::text::name AND a.privilege_type = 'USAGE')
    FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'pgraft'";

/// Functions without the role's own EXECUTE privilege, as `GRANT` takes them: functions of the
/// extension by name, those of Postgres by signature.
const MISSING_FUNCTIONS: &str = "SELECT p.oid::regprocedure::text FROM pg_catalog.pg_proc AS p
   WHERE (p.oid = ANY ($2::text[]::regprocedure[])
          OR (p.proname = ANY ($3::text[]::name[])
              AND EXISTS (SELECT FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid
                           WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
                             AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND e.extname = 'pgraft')))
     AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(p.proacl) AS a JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
                      WHERE r.rolname = $1::text::name AND a.privilege_type = 'EXECUTE')";

/// Whether the database has a connection limit.
const LIMITED: &str = "SELECT FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database() AND datconnlimit <> -1";

/// A row when the server's files are of a newer version than the database's objects.
const EXTENSION_IS_OLD: &str = "SELECT FROM pg_catalog.pg_available_extensions \
     WHERE name = 'pgraft' AND installed_version IS NOT NULL AND installed_version <> default_version";

/// Creates or updates the extension in this database. In other databases that is up to their owners.
pub async fn extension(client: &Client) -> Result<(), ProvisioningError> {
    if client.query_opt(SCHEMA, &[&OPERATOR_ROLE]).await?.is_none() {
        client.batch_execute(statements::CREATE_EXTENSION).await?;
        tracing::info!("created the extension pgraft in the database postgres");
    } else if client.query_opt(EXTENSION_IS_OLD, &[]).await?.is_some() {
        client.batch_execute(statements::UPDATE_EXTENSION).await?;
        tracing::info!("updated the extension pgraft in the database postgres");
    }
    Ok(())
}

/// Grants missing privileges.
pub async fn all(client: &Client, extension: bool) -> Result<(), ProvisioningError> {
    let missing = missing(client, extension).await?;
    for statement in &missing {
        client.batch_execute(statement).await?;
        tracing::info!(statement, "granted a missing privilege");
    }
    Ok(())
}

async fn missing(client: &Client, extension: bool) -> Result<Vec<String>, ProvisioningError> {
    let mut grants = vec![];
    if client.query_opt(LIMITED, &[]).await?.is_some() {
        grants.push(statements::UNLIMITED.to_owned());
    }
    let (granted, members): (Vec<&str>, Vec<&str>) = MEMBERSHIPS.into_iter().unzip();
    for row in client.query(MISSING_MEMBERSHIPS, &[&granted, &members]).await? {
        grants.push(statements::grant_membership(row.try_get(0)?, row.try_get(1)?));
    }
    for row in client.query(MISSING_CONNECT, &[&vec![OPERATOR_ROLE, REPLICATION_ROLE]]).await? {
        grants.push(statements::grant_connect(row.try_get(0)?));
    }
    let built_in: Vec<String> = BUILT_IN.iter().map(|f| format!("pg_catalog.{f}")).collect();
    functions(client, REPLICATION_ROLE, &built_in, &[], &mut grants).await?;
    if extension {
        if let Some(row) = client.query_opt(SCHEMA, &[&OPERATOR_ROLE]).await?
            && !row.try_get::<_, bool>(1)?
        {
            grants.push(statements::grant_usage(row.try_get(0)?, OPERATOR_ROLE));
        }
        functions(client, OPERATOR_ROLE, &[], &OPERATORS, &mut grants).await?;
    }
    Ok(grants)
}

async fn functions(
    client: &Client,
    role: &str,
    built_in: &[String],
    own: &[&str],
    grants: &mut Vec<String>,
) -> Result<(), ProvisioningError> {
    for row in client.query(MISSING_FUNCTIONS, &[&role, &built_in, &own]).await? {
        grants.push(statements::grant_execute(row.try_get(0)?, role));
    }
    Ok(())
}
