//! The extension in the database `postgres`, and what pgraft's own roles may do there. Each grant
//! names the role: what PUBLIC may do is for others to decide.

use pgraft_core::instance_config::{OPERATOR_ROLE, REPLICATION_ROLE};
use tokio_postgres::Client;

use super::ProvisioningError;
use super::statements;

/// What the operator reads of Postgres, and how standbys checkpoint the primary before a rewind.
const MEMBERSHIPS: [(&str, &str); 2] =
    [("pg_monitor", OPERATOR_ROLE), ("pg_checkpoint", REPLICATION_ROLE)];

/// What `pg_rewind` and the search for lost WAL read of the primary's files.
const BUILT_IN: [&str; 5] = [
    "pg_ls_dir(text)",
    "pg_ls_dir(text, boolean, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
    "pg_stat_file(text, boolean)",
];

/// What the operator calls.
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

/// Memberships that are missing. (`unnest` takes two arrays under its bare name only; `search_path`
/// is `pg_catalog`.)
const MISSING_MEMBERSHIPS: &str = "SELECT w.granted, w.member FROM unnest($1::text[], $2::text[]) AS w (granted, member)
   WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_auth_members AS m
                       JOIN pg_catalog.pg_roles AS g ON g.oid = m.roleid JOIN pg_catalog.pg_roles AS r ON r.oid = m.member
                      WHERE g.rolname = w.granted AND r.rolname = w.member)";

/// Roles that may not connect to this database by a grant of their own.
const MISSING_CONNECT: &str = "SELECT r.rolname::text FROM pg_catalog.pg_roles AS r
   WHERE r.rolname = ANY ($1::text[]::name[])
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_database AS d, pg_catalog.aclexplode(d.datacl) AS a
                      WHERE d.datname = pg_catalog.current_database() AND a.grantee = r.oid AND a.privilege_type = 'CONNECT')";

/// The extension's schema, and whether the operator may use it by a grant of its own.
const SCHEMA: &str = "SELECT n.nspname::text,
         EXISTS (SELECT FROM pg_catalog.aclexplode(n.nspacl) AS a JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
                  WHERE r.rolname = $1::text::name AND a.privilege_type = 'USAGE')
    FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'pgraft'";

/// Functions that a role may not call by a grant of its own, as `GRANT` wants them: of the
/// extension by their names, of Postgres by all of it.
const MISSING_FUNCTIONS: &str = "SELECT p.oid::regprocedure::text FROM pg_catalog.pg_proc AS p
   WHERE (p.oid = ANY ($2::text[]::regprocedure[])
          OR (p.proname = ANY ($3::text[]::name[])
              AND EXISTS (SELECT FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid
                           WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
                             AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND e.extname = 'pgraft')))
     AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(p.proacl) AS a JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
                      WHERE r.rolname = $1::text::name AND a.privilege_type = 'EXECUTE')";

/// Whether the database takes fewer sessions than the server.
const LIMITED: &str = "SELECT FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database() AND datconnlimit <> -1";

/// A row when the server's files are of a newer version than the database's objects.
const EXTENSION_IS_OLD: &str = "SELECT FROM pg_catalog.pg_available_extensions \
     WHERE name = 'pgraft' AND installed_version IS NOT NULL AND installed_version <> default_version";

/// Makes the extension where it is missing, and updates it where it is old. In this database alone:
/// in another one it is its owner's.
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

/// Grants what is missing.
pub async fn all(client: &Client, extension: bool) -> Result<(), ProvisioningError> {
    let missing = missing(client, extension).await?;
    for statement in &missing {
        client.batch_execute(statement).await?;
        tracing::info!(statement, "granted what was missing");
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
