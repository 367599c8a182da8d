//! The passwords, one file each in `secretsDirectory`. A file that is missing or empty means: no
//! password.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::files::{self, FileError};

/// The passwords as they stand in the directory now. `Debug` doesn't show them.
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
    /// When each was put there.
    pub changed: Changed,
}

/// When the files were changed on this host, in microseconds since 1970; of one that is missing,
/// when a file was made or removed beside it. A member whose files are older than what was applied
/// has not been given the new ones yet.
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
            // Whoever made the file with an editor didn't mean the line break at its end.
            let text = text.strip_suffix('\n').unwrap_or(&text);
            let text = text.strip_suffix('\r').unwrap_or(text);
            Ok((!text.is_empty()).then(|| text.to_owned()))
        };
        let replication = read("replication-password")?;
        if replication.as_ref().is_some_and(|p| p.contains(['\n', '\r', '\0'])) {
            let source = io::Error::new(
                io::ErrorKind::InvalidData,
                "a password in a passfile can't contain a line break or a zero byte",
            );
            return Err(FileError::at("use", &directory.join("replication-password"))(source));
        }
        let changed = |name: &str| {
            // By the inode: whatever copies a file can set the time of its content.
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
    /// A second line would be another entry of the passfile, for a server of the writer's choice.
    #[test]
    fn what_a_passfile_cannot_hold_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["a\nb", "a\n*:*:*:*:b\n", "a\rb\n", "a\0b"] {
            fs::write(dir.path().join("replication-password"), bad).unwrap();
            let error = Secrets::read(dir.path()).unwrap_err().to_string();
            assert!(error.ends_with("replication-password: a password in a passfile can't contain a line break or a zero byte"), "{error}");
            assert!(!error.contains(bad));
        }
        // Other passwords are never written to a file.
        fs::remove_file(dir.path().join("replication-password")).unwrap();
        fs::write(dir.path().join("owner-password"), "a\nb").unwrap();
        assert_eq!(Secrets::read(dir.path()).unwrap().owner.as_deref(), Some("a\nb"));
    }
}
