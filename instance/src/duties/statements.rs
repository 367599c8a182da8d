//! The SQL of `duties.rs`. Pure.

use pgraft_core::instance_config::{OPERATOR_ROLE, REPLICATION_ROLE};
use postgres_protocol::escape::{escape_identifier, escape_literal};
use postgres_protocol::password::scram_sha_256;

use crate::secrets::Secrets;

/// Never logs what it does to passwords, never hangs on a lock.
pub const SESSION: &str = "SET log_statement = none; SET log_min_duration_statement = -1; SET log_min_error_statement = panic; \
     SET lock_timeout = '10s'; SET client_min_messages = warning";

/// Never waits for a standby: where the founder stays the primary this must work while none is there.
pub const ALONE: &str = "SET synchronous_commit = local";

/// What the operator reads.
pub const MONITOR: &str = "GRANT pg_monitor TO pgraft_operator";

/// What `pg_rewind` reads of the primary's files, and where `CHECKPOINT` is needed before it. In the database `postgres`, where it connects.
pub const REWIND: &str = "GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), pg_read_binary_file(text), \
     pg_read_binary_file(text, bigint, bigint, boolean), pg_ls_dir(text) TO pgraft_replication; GRANT pg_checkpoint TO pgraft_replication";

/// What the operator does. In the database `postgres`, where it connects.
pub const GRANTS: &str = "GRANT EXECUTE ON FUNCTION pgraft_init(), pgraft_add_node(integer, text, integer), pgraft_remove_node(integer), pgraft_switchover(integer) \
     TO pgraft_operator";

/// In each database that has it.
pub const CREATE_EXTENSION: &str = "CREATE EXTENSION IF NOT EXISTS pgraft";

/// A row when the server's files are of a newer version than the database's objects.
pub const EXTENSION_IS_OLD: &str =
    "SELECT FROM pg_available_extensions WHERE name = 'pgraft' AND installed_version IS NOT NULL AND installed_version <> default_version";

/// To the version of the files.
pub const UPDATE_EXTENSION: &str = "ALTER EXTENSION pgraft UPDATE";

/// A role as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub name: String,
    attributes: &'static str,
    /// Its SCRAM verifier: the server never sees the password, and neither does a log.
    verifier: Option<String>,
}

impl Role {
    fn new(name: &str, attributes: &'static str, password: Option<&str>) -> Self {
        Self { name: name.to_owned(), attributes, verifier: password.map(|p| scram_sha_256(p.as_bytes())) }
    }

    /// When it isn't there.
    pub fn create(&self) -> String {
        format!("CREATE ROLE {}", escape_identifier(&self.name))
    }

    /// Makes it what it should be. No password means that nobody logs in by one.
    pub fn alter(&self) -> String {
        let password = self.verifier.as_deref().map_or_else(|| "NULL".to_owned(), escape_literal);
        format!("ALTER ROLE {} {} PASSWORD {password}", escape_identifier(&self.name), self.attributes)
    }
}

/// All roles that pgraft sees to.
pub fn roles(owner: &str, secrets: &Secrets) -> [Role; 4] {
    let Secrets { replication, operator, owner: owner_password, superuser } = secrets;
    [
        Role::new(REPLICATION_ROLE, "LOGIN REPLICATION", replication.as_deref()),
        Role::new(OPERATOR_ROLE, "LOGIN", operator.as_deref()),
        Role::new(owner, "LOGIN", owner_password.as_deref()),
        Role::new("postgres", "LOGIN SUPERUSER", superuser.as_deref()),
    ]
}

/// The application's database.
pub fn create_database(name: &str, owner: &str) -> String {
    format!("CREATE DATABASE {} OWNER {}", escape_identifier(name), escape_identifier(owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_become_verifiers_and_names_are_quoted() {
        let secrets = Secrets { owner: Some("it's".into()), ..Secrets::default() };
        let [replication, operator, owner, superuser] = roles("My \"App\"", &secrets);
        assert_eq!(replication.alter(), "ALTER ROLE \"pgraft_replication\" LOGIN REPLICATION PASSWORD NULL");
        assert_eq!(operator.create(), "CREATE ROLE \"pgraft_operator\"");
        assert!(owner.alter().starts_with("ALTER ROLE \"My \"\"App\"\"\" LOGIN PASSWORD 'SCRAM-SHA-256$4096:"), "{}", owner.alter());
        assert_eq!(superuser.alter(), "ALTER ROLE \"postgres\" LOGIN SUPERUSER PASSWORD NULL");
        assert_eq!(create_database("a\"b", "o"), "CREATE DATABASE \"a\"\"b\" OWNER \"o\"");
    }
}
