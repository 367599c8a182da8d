//! Detects changes of the configuration, secrets, certificates, `instance.json` and `upstream.json`
//! by comparing their content: a ConfigMap's files are symlinks that are swapped, so their
//! modification times are not reliable.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

use crate::settings::Settings;
use crate::supervisor::SupervisorEvent;

/// Short, because a change of `instance.json` may need an immediate reaction.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The content of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint(BTreeMap<PathBuf, Vec<u8>>);

impl Fingerprint {
    /// Reads the files. An unreadable file counts as missing.
    pub fn take(config: &Path, settings: &Settings) -> Self {
        let secrets = fs::read_dir(&settings.paths.secrets)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .map(|e| e.path());
        let tls = settings
            .config
            .tls
            .iter()
            .flat_map(|tls| tls.files().map(|(_, file)| PathBuf::from(file)));
        // An invalid line in it would prevent Postgres from loading any of its files.
        let auto = settings.paths.data.join("postgresql.auto.conf");
        let all = secrets.chain(tls).chain([
            config.to_owned(),
            settings.paths.instance_file(),
            settings.paths.upstream(),
            auto,
        ]);
        Self(all.filter_map(|path| Some((path.clone(), fs::read(path).ok()?))).collect())
    }
}

/// Polls until the receiver is closed. `seen` was taken before the files were first read, so no
/// change is missed.
pub async fn watch(
    config: PathBuf,
    settings: Settings,
    mut seen: Fingerprint,
    events: mpsc::UnboundedSender<SupervisorEvent>,
) {
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let now = Fingerprint::take(&config, &settings);
        if now != seen {
            seen = now;
            if events.send(SupervisorEvent::FilesChanged).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::Paths;
    use crate::settings::tests::example;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_swapped_symlink_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let base = example();
        let paths = Paths {
            secrets: dir.path().join("secrets"),
            raft: dir.path().into(),
            ..base.paths.clone()
        };
        let settings = Settings { paths, ..base };
        let config = dir.path().join("c.yaml");
        let take = || Fingerprint::take(&config, &settings);
        let nothing = take();
        for version in ["1", "2"] {
            fs::create_dir(dir.path().join(version)).unwrap();
            fs::write(dir.path().join(version).join("replication-password"), version).unwrap();
        }
        symlink(dir.path().join("1"), &settings.paths.secrets).unwrap();
        let first = take();
        assert_ne!(first, nothing);
        assert_eq!(first, take());
        fs::remove_file(&settings.paths.secrets).unwrap();
        symlink(dir.path().join("2"), &settings.paths.secrets).unwrap();
        assert_ne!(first, take());
        let second = take();
        fs::write(settings.paths.instance_file(), "{}").unwrap();
        assert_ne!(second, take());
    }
}
