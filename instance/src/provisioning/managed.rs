//! Maintains the roles and the application's database: reads, decides (`roles.rs`), writes the
//! differences.

use jiff::Timestamp;
use postgres_protocol::password::scram_sha_256;
use std::collections::BTreeMap;
use tokio_postgres::Client;

use super::ProvisioningError;
use super::record::{self, ProvisioningRecord, ProvisioningRecords, RecordKind};
use super::roles::{self, AppliedRole, ExistingRole, ManagedRole, RoleDecision};
use super::statements;
use crate::secrets::Secrets;
use crate::settings::Settings;

/// Whether a digest matches a password. Cached, because a comparison takes milliseconds.
pub type Digests = BTreeMap<(String, String), bool>;

/// How far the clocks of two hosts may differ, in microseconds.
const MAX_CLOCK_SKEW: i64 = 60_000_000;

/// Maintains all roles and the database. A failure does not affect the others.
pub async fn maintain(
    settings: &Settings,
    client: &Client,
    secrets: &Secrets,
    digests: &mut Digests,
) -> Result<(), ProvisioningError> {
    let boot = &settings.config.bootstrap;
    let records = ProvisioningRecords::read(client).await?;
    let roles = roles::all(&boot.owner, secrets);
    let seen = read(client, &roles).await?;
    let mut result = Ok(());
    let mut known = Digests::new();
    let now = Timestamp::now().as_microsecond();
    for role in &roles {
        let record = records.get(RecordKind::Role, &role.name);
        let applied = record.map(|r| AppliedRole {
            verifier: r.verifier.clone(),
            is_current: is_current(role, r, now, digests, &mut known),
        });
        let decision = roles::decide(role, seen.get(&role.name), applied.as_ref());
        result = result.and(apply(client, role, record, decision, now).await);
    }
    *digests = known;
    if records.get(RecordKind::Database, &boot.database).is_none() {
        result = result.and(database(client, &boot.database, &boot.owner).await);
    }
    result
}

async fn read(
    client: &Client,
    roles: &[ManagedRole],
) -> Result<BTreeMap<String, ExistingRole>, ProvisioningError> {
    let names: Vec<&str> = roles.iter().map(|role| role.name.as_str()).collect();
    let mut seen = BTreeMap::new();
    for row in client.query(roles::QUERY, &[&names]).await? {
        seen.insert(
            row.try_get(0)?,
            ExistingRole { attributes: row.try_get(1)?, password: row.try_get(2)? },
        );
    }
    Ok(seen)
}

/// Whether the applied password is the one that the role should have. A new primary whose Secret is
/// older than the applied password has not received the new one yet, and does not restore the old
/// one. `now` is in microseconds since 1970, as are the times of the changes.
fn is_current(
    role: &ManagedRole,
    record: &ProvisioningRecord,
    now: i64,
    before: &Digests,
    known: &mut Digests,
) -> bool {
    // A record from the future was made while a clock was wrong, and says nothing about the order.
    let comparable = record.changed <= now.saturating_add(MAX_CLOCK_SKEW);
    if comparable && role.changed.min(now) < record.changed.min(now) {
        return true;
    }
    match (&record.digest, &role.password) {
        (None, None) => true,
        (Some(digest), Some(password)) => {
            let both = (digest.clone(), password.clone());
            let same = before
                .get(&both)
                .copied()
                .unwrap_or_else(|| record::is_digest_of(digest, password));
            known.insert(both, same);
            same
        }
        (None, Some(_)) | (Some(_), None) => false,
    }
}

async fn apply(
    client: &Client,
    role: &ManagedRole,
    record: Option<&ProvisioningRecord>,
    decision: RoleDecision,
    now: i64,
) -> Result<(), ProvisioningError> {
    let name = &role.name;
    let (create, attributes, why) = match decision {
        RoleDecision::Nothing => return Ok(()),
        RoleDecision::Missing => {
            // Logged once for each password.
            tracing::warn!(
                role = name,
                "the role does not exist any more and is not created again, although its Secret has a new password"
            );
            client
                .batch_execute(&record::keep(RecordKind::Role, name, &from_secret(role, now)))
                .await?;
            return Ok(());
        }
        RoleDecision::Change { create, attributes, why } => (create, attributes, why),
    };
    // A change by SQL is reverted to what was applied.
    let record =
        record.filter(|_| why.is_revert()).cloned().unwrap_or_else(|| from_secret(role, now));
    // One simple query is one transaction.
    let mut statement = String::new();
    if create {
        statement += &statements::create_role(name);
    }
    if attributes {
        statement += &statements::alter_role(name, role.attributes);
    }
    statement += &statements::set_password(name, record.verifier.as_deref());
    statement += &record::keep(RecordKind::Role, name, &record);
    client.batch_execute(&statement).await?;
    if why.is_revert() {
        tracing::warn!(role = name, %why, "reverted a change of a role that pgraft connects as");
    } else {
        tracing::info!(role = name, %why, "set the password of a role");
    }
    Ok(())
}

/// The record of a Secret that is applied now. A file from the future, which a corrected clock
/// leaves behind, must not keep later files from being applied.
fn from_secret(role: &ManagedRole, now: i64) -> ProvisioningRecord {
    let password = role.password.as_deref();
    ProvisioningRecord {
        digest: password.and_then(record::digest_of),
        verifier: password.map(|p| scram_sha_256(p.as_bytes())),
        changed: role.changed.min(now),
    }
}

/// Creates the database once. A later rename, drop or change of its owner is left alone.
async fn database(client: &Client, name: &str, owner: &str) -> Result<(), ProvisioningError> {
    if client
        .query_opt("SELECT FROM pg_catalog.pg_database WHERE datname = $1::text::name", &[&name])
        .await?
        .is_none()
    {
        client.batch_execute(&statements::create_database(name, owner)).await?;
        tracing::info!(database = name, owner, "created the database");
    }
    client
        .batch_execute(&record::keep(
            RecordKind::Database,
            name,
            &ProvisioningRecord { digest: None, verifier: None, changed: 0 },
        ))
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::Changed;

    const NOW: i64 = 1_000_000_000;

    fn role(password: Option<&str>, owner: i64) -> ManagedRole {
        let changed = Changed { owner, ..Changed::default() };
        let secrets = Secrets { owner: password.map(str::to_owned), changed, ..Secrets::default() };
        let [.., role] = roles::all("app", &secrets);
        role
    }

    #[test]
    fn a_clock_that_jumped_does_not_block_later_passwords() {
        let current = |role: &ManagedRole, record: &ProvisioningRecord, now| {
            is_current(role, record, now, &Digests::new(), &mut Digests::new())
        };
        let year = 31_536_000_000_000;
        // The file was written while the clock was a year ahead, and applied after it was corrected.
        let corrected = from_secret(&role(Some("old"), NOW + year), NOW);
        assert_eq!(corrected.changed, NOW);
        assert!(!current(&role(Some("new"), NOW + 20), &corrected, NOW + 30));
        // Applied before the clock was corrected, too.
        let ahead = from_secret(&role(Some("old"), NOW + year), NOW + year);
        assert_eq!(ahead.changed, NOW + year);
        assert!(!current(&role(Some("new"), NOW + 20), &ahead, NOW + 30));
        // A file from the future counts as one of the present.
        let record = from_secret(&role(Some("new"), NOW), NOW);
        assert!(!current(&role(Some("newer"), NOW + year), &record, NOW + 30));
        assert!(current(&role(Some("old"), NOW - 5), &record, NOW + 30));
        // The clock of the other host is a little ahead.
        let skewed = from_secret(&role(Some("new"), NOW + 1000), NOW + 1000);
        assert!(current(&role(Some("old"), NOW - 5), &skewed, NOW));
    }

    #[test]
    fn a_member_with_an_older_secret_does_not_restore_it() {
        let record = from_secret(&role(Some("new"), 10), NOW);
        let current = |password, changed| {
            is_current(&role(password, changed), &record, NOW, &Digests::new(), &mut Digests::new())
        };
        assert!(current(Some("new"), 10) && current(Some("new"), 20) && current(Some("new"), 5));
        assert!(current(Some("old"), 5) && current(None, 5), "older than what was applied");
        assert!(!current(Some("newer"), 20) && !current(Some("newer"), 10) && !current(None, 20));
        let none = from_secret(&role(None, 10), NOW);
        assert!(none == ProvisioningRecord { digest: None, verifier: None, changed: 10 });
        assert!(is_current(&role(None, 20), &none, NOW, &Digests::new(), &mut Digests::new()));
        assert!(!is_current(
            &role(Some("first"), 20),
            &none,
            NOW,
            &Digests::new(),
            &mut Digests::new()
        ));
    }

    #[test]
    fn a_digest_is_computed_once() {
        let secrets = Secrets { owner: Some("a".into()), ..Secrets::default() };
        let [.., role] = roles::all("app", &secrets);
        let record = from_secret(&role, NOW);
        let mut known = Digests::new();
        assert!(is_current(&role, &record, NOW, &Digests::new(), &mut known));
        let both = (record.digest.clone().unwrap(), "a".to_owned());
        assert_eq!(known.get(&both), Some(&true));
        let cached = Digests::from([(both, false)]);
        assert!(!is_current(&role, &record, NOW, &cached, &mut known), "the cached result is used");
    }
}
