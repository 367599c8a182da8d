//! The passwords, each in a file in `secretsDirectory`. A missing or empty file means no password.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::files::{self, FileError};

/// The present passwords. `Debug` does not show them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// Of `pgraft_replication`.
    pub replication: Option<String>,
    /// Of `pgraft_operator`.
    pub operator: Option<String>,
    /// Of the application's owner.
    pub owner: Option<String>,
    /// Of `postgres`.
    pub superuser: Option<String>,
    /// When each was written.
    pub changed: Changed,
}

/// When the files were changed on this host, in microseconds since 1970. For a missing file, when the
/// directory was changed. A member whose files are older than the applied passwords has not received
/// the new ones yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "as those of `Secrets`")]
pub struct Changed {
    pub replication: i64,
    pub operator: i64,
    pub owner: i64,
    pub superuser: i64,
}

impl Secrets {
    /// Reads the directory.
    pub fn read(directory: &Path) -> Result<Self, FileError> {
        let read = |name: &str| -> Result<Option<String>, FileError> {
            let Some(bytes) = files::read_if_there(&directory.join(name))? else { return Ok(None) };
            let text = String::from_utf8_lossy(&bytes);
            // An editor adds a line break that is not part of the password.
            let text = text.strip_suffix('\n').unwrap_or(&text);
            let text = text.strip_suffix('\r').unwrap_or(text);
            Ok((!text.is_empty()).then(|| text.to_owned()))
        };
        let replication = read("replication-password")?;
        if replication.as_ref().is_some_and(|p| p.contains(['\n', '\r', '\0'])) {
            let source = io::Error::new(
                io::ErrorKind::InvalidData,
                "a password in a passfile cannot contain a line break or a zero byte",
            );
            return Err(FileError::at("use", &directory.join("replication-password"))(source));
        }
        let changed = |name: &str| {
            // The inode's time, because a copy may set the modification time.
            let file = fs::metadata(directory.join(name)).or_else(|_| fs::metadata(directory));
            file.map_or(0, |file| {
                file.ctime().saturating_mul(1_000_000).saturating_add(file.ctime_nsec() / 1000)
            })
        };
        let changed = Changed {
            replication: changed("replication-password"),
            operator: changed("operator-password"),
            owner: changed("owner-password"),
            superuser: changed("superuser-password"),
        };
        Ok(Self {
            replication,
            operator: read("operator-password")?,
            owner: read("owner-password")?,
            superuser: read("superuser-password")?,
            changed,
        })
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { replication, operator, owner, superuser, changed: _ } = self;
        let shown = |s: &Option<String>| if s.is_some() { "set" } else { "none" };
        write!(
            f,
            "Secrets {{ replication: {}, operator: {}, owner: {}, superuser: {} }}",
            shown(replication),
            shown(operator),
            shown(owner),
            shown(superuser)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_empty_files_are_no_password() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("replication-password"), "s3 cret\n").unwrap();
        fs::write(dir.path().join("owner-password"), "").unwrap();
        let secrets = Secrets::read(dir.path()).unwrap();
        let Changed { replication, operator, owner, superuser } = secrets.changed;
        assert!(replication > 0 && owner >= replication && operator == superuser && operator > 0);
        assert_eq!(
            secrets,
            Secrets {
                replication: Some("s3 cret".into()),
                changed: secrets.changed,
                ..Secrets::default()
            }
        );
        assert!(!format!("{secrets:?}").contains("s3"));
    }

    /// A second line would be another entry of the passfile, for any server.
    #[test]
    fn refuses_what_a_passfile_cannot_contain() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["a\nb", "a\n*:*:*:*:b\n", "a\rb\n", "a\0b"] {
            fs::write(dir.path().join("replication-password"), bad).unwrap();
            let error = Secrets::read(dir.path()).unwrap_err().to_string();
            assert!(error.ends_with("replication-password: a password in a passfile cannot contain a line break or a zero byte"), "{error}");
            assert!(!error.contains(bad));
        }
        // Other passwords are never written to a file.
        fs::remove_file(dir.path().join("replication-password")).unwrap();
        fs::write(dir.path().join("owner-password"), "a\nb").unwrap();
        assert_eq!(Secrets::read(dir.path()).unwrap().owner.as_deref(), Some("a\nb"));
    }
}
