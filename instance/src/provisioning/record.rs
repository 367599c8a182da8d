//! Records what was applied from the Secrets and the configuration, in a table in the database
//! `postgres`, so later primaries have it. It contains salted digests instead of passwords, and only
//! superusers can read it.

use ring::{digest, pbkdf2, rand};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use tokio_postgres::Client;

use super::ProvisioningError;
use super::statements;

/// As many rounds as a SCRAM verifier has: a user who can read one can read the other.
const ROUNDS: NonZeroU32 = match NonZeroU32::new(4096) {
    Some(rounds) => rounds,
    None => NonZeroU32::MIN,
};
const SALT: usize = 16;

/// Whether the schema and the table exist and are owned by superusers. Another owner's table could run
/// that owner's code.
const STATE: &str =
    "SELECT c.oid IS NOT NULL, n.nspowner = ANY (s.supers) AND (c.oid IS NULL OR (c.relowner = ANY (s.supers) AND c.relkind = 'r'))
    FROM pg_catalog.pg_namespace AS n
   CROSS JOIN (SELECT pg_catalog.array_agg(oid) FROM pg_catalog.pg_authid WHERE rolsuper) AS s (supers)
    LEFT JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'applied'
   WHERE n.nspname = 'pgraft'";
/// Without IF NOT EXISTS, so a schema that was created in the meantime is refused.
const CREATE_SCHEMA: &str = "CREATE SCHEMA pgraft";
const CREATE_TABLE: &str = "CREATE TABLE pgraft.applied (kind text, name text, digest text, verifier text, changed bigint NOT NULL, PRIMARY KEY (kind, name)); \
     COMMENT ON SCHEMA pgraft IS 'what pgraft-instance has applied; everything is applied again if it is dropped'";
const QUERY: &str = "SELECT kind, name, digest, verifier, changed FROM pgraft.applied";

/// The subject of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// A role and its password.
    Role,
    /// The application's database.
    Database,
}

impl RecordKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Role => "role",
            Self::Database => "database",
        }
    }
}

/// One record.
#[derive(Clone, PartialEq, Eq)]
pub struct ProvisioningRecord {
    /// The digest of the password.
    pub digest: Option<String>,
    /// The verifier in `pg_authid`.
    pub verifier: Option<String>,
    /// When the password was written on the host that applied it, in microseconds since 1970.
    pub changed: i64,
}

/// All records.
#[derive(Clone, Default)]
pub struct ProvisioningRecords(BTreeMap<(String, String), ProvisioningRecord>);

impl ProvisioningRecords {
    /// Reads all records. Creates the table if it does not exist.
    pub async fn read(client: &Client) -> Result<Self, ProvisioningError> {
        let before = state(client).await?;
        match before {
            Some((true, true)) => {}
            Some((_, false)) => return Err(ProvisioningError::ForeignSchema),
            Some((false, true)) => client.batch_execute(CREATE_TABLE).await?,
            None => client.batch_execute(&format!("{CREATE_SCHEMA}; {CREATE_TABLE}")).await?,
        }
        if before != Some((true, true)) && state(client).await? != Some((true, true)) {
            return Err(ProvisioningError::ForeignSchema);
        }
        let mut records = BTreeMap::new();
        for row in client.query(QUERY, &[]).await? {
            records.insert(
                (row.try_get(0)?, row.try_get(1)?),
                ProvisioningRecord {
                    digest: row.try_get(2)?,
                    verifier: row.try_get(3)?,
                    changed: row.try_get(4)?,
                },
            );
        }
        Ok(Self(records))
    }

    /// Returns a record.
    pub fn get(&self, kind: RecordKind, name: &str) -> Option<&ProvisioningRecord> {
        self.0.get(&(kind.as_str().to_owned(), name.to_owned()))
    }
}

/// Whether the table exists, and whether it is owned by superusers; None without the schema.
async fn state(client: &Client) -> Result<Option<(bool, bool)>, ProvisioningError> {
    Ok(match client.query_opt(STATE, &[]).await? {
        Some(row) => Some((row.try_get(0)?, row.try_get(1)?)),
        None => None,
    })
}

/// The statement that saves a record.
pub fn keep(kind: RecordKind, name: &str, record: &ProvisioningRecord) -> String {
    statements::keep_record(
        kind.as_str(),
        name,
        record.digest.as_deref(),
        record.verifier.as_deref(),
        record.changed,
    )
}

/// A digest of a password with its own salt. None without random bytes; the password is applied again
/// then.
pub fn digest_of(password: &str) -> Option<String> {
    let salt: [u8; SALT] = rand::generate(&rand::SystemRandom::new()).ok()?.expose();
    let mut out = [0; digest::SHA256_OUTPUT_LEN];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, &salt, password.as_bytes(), &mut out);
    Some(format!("pbkdf2-sha256${ROUNDS}${}${}", hex(&salt), hex(&out)))
}

/// Whether this is a digest of the password.
pub fn is_digest_of(digest: &str, password: &str) -> bool {
    let parts: Vec<&str> = digest.split('$').collect();
    let ["pbkdf2-sha256", rounds, salt, out] = parts[..] else { return false };
    let Ok(rounds) = rounds.parse::<NonZeroU32>() else { return false };
    let (Some(salt), Some(out)) = (bytes(salt), bytes(out)) else { return false };
    pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, password.as_bytes(), &out).is_ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |text, byte| text + &format!("{byte:02x}"))
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_matches_its_password_only() {
        for password in ["", "it's \\ $$ \n", "pässwörd"] {
            let (one, two) = (digest_of(password).unwrap(), digest_of(password).unwrap());
            assert_ne!(one, two, "each has a salt of its own");
            assert!(is_digest_of(&one, password) && is_digest_of(&two, password));
            assert!(!is_digest_of(&one, "another") && !one.contains("it's"));
        }
        for damaged in [
            "",
            "pbkdf2-sha256$0$00$00",
            "pbkdf2-sha256$4096$0g$00",
            "md5$1$00$00",
            "pbkdf2-sha256$4096$00",
        ] {
            assert!(!is_digest_of(damaged, ""), "{damaged}");
        }
    }
}
