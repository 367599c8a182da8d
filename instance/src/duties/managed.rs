//! Sees to the roles and the application's database: reads, decides (`roles.rs`), writes what differs.

use postgres_protocol::password::scram_sha_256;
use std::collections::BTreeMap;
use tokio_postgres::Client;

use super::DutiesError;
use super::record::{self, Kind, Record, Records};
use super::roles::{self, Applied, Decision, Role, Seen};
use super::statements;
use crate::secrets::Secrets;
use crate::settings::Settings;

/// Whether a digest is a password's, by both: to find out takes milliseconds.
pub type Digests = BTreeMap<(String, String), bool>;

/// One look at all of them. One that fails keeps nobody else from getting what it needs.
pub async fn tend(settings: &Settings, client: &Client, secrets: &Secrets, digests: &mut Digests) -> Result<(), DutiesError> {
    let boot = &settings.config.bootstrap;
    let records = Records::read(client).await?;
    let roles = roles::all(&boot.owner, secrets);
    let seen = read(client, &roles).await?;
    let mut result = Ok(());
    let mut known = Digests::new();
    for role in &roles {
        let record = records.get(Kind::Role, &role.name);
        let applied = record.map(|r| Applied { verifier: r.verifier.clone(), is_current: is_current(role, r, digests, &mut known) });
        result = result.and(apply(client, role, roles::decide(role, seen.get(&role.name), applied.as_ref())).await);
    }
    *digests = known;
    if records.get(Kind::Database, &boot.database).is_none() {
        result = result.and(database(client, &boot.database, &boot.owner).await);
    }
    result
}

async fn read(client: &Client, roles: &[Role]) -> Result<BTreeMap<String, Seen>, DutiesError> {
    let names: Vec<&str> = roles.iter().map(|role| role.name.as_str()).collect();
    let mut seen = BTreeMap::new();
    for row in client.query(roles::READ, &[&names]).await? {
        seen.insert(row.try_get(0)?, Seen { attributes: row.try_get(1)?, password: row.try_get(2)? });
    }
    Ok(seen)
}

/// Whether the password that was applied is the one that the role should have.
fn is_current(role: &Role, record: &Record, before: &Digests, known: &mut Digests) -> bool {
    match (&record.digest, &role.password) {
        (None, None) => true,
        (Some(digest), Some(password)) => {
            let both = (digest.clone(), password.clone());
            let same = before.get(&both).copied().unwrap_or_else(|| record::is_digest_of(digest, password));
            known.insert(both, same);
            same
        }
        (None, Some(_)) | (Some(_), None) => false,
    }
}

async fn apply(client: &Client, role: &Role, decision: Decision) -> Result<(), DutiesError> {
    let Role { name, attributes: wanted, password, .. } = role;
    let (create, attributes, why) = match decision {
        Decision::Nothing => return Ok(()),
        Decision::Missing => {
            tracing::warn!(role = name, "its Secret has another password, and the role does not exist any more: it is not made again");
            // Said once for each password.
            (false, false, None)
        }
        Decision::Change { create, attributes, why } => (create, attributes, Some(why)),
    };
    let verifier = password.as_deref().map(|p| scram_sha_256(p.as_bytes()));
    // One simple query is one transaction.
    let mut statement = String::new();
    if create {
        statement += &statements::create_role(name);
    }
    if attributes {
        statement += &statements::alter_role(name, wanted);
    }
    if why.is_some() {
        statement += &statements::set_password(name, verifier.as_deref());
    }
    statement += &record::keep(Kind::Role, name, &Record { digest: password.as_deref().and_then(record::digest_of), verifier });
    client.batch_execute(&statement).await?;
    match why {
        Some(why) if why.puts_back() => tracing::warn!(role = name, %why, "a role that pgraft connects as was put back"),
        Some(why) => tracing::info!(role = name, %why, "applied the role's password"),
        None => {}
    }
    Ok(())
}

/// Made once. Whether it is renamed, dropped or given to somebody else is for its owner to decide from then on.
async fn database(client: &Client, name: &str, owner: &str) -> Result<(), DutiesError> {
    if client.query_opt("SELECT FROM pg_catalog.pg_database WHERE datname = $1::text::name", &[&name]).await?.is_none() {
        client.batch_execute(&statements::create_database(name, owner)).await?;
        tracing::info!(database = name, owner, "created the database");
    }
    client.batch_execute(&record::keep(Kind::Database, name, &Record { digest: None, verifier: None })).await?;
    Ok(())
}
