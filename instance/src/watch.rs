//! Notices by itself that the configuration, a secret, a certificate, `instance.json` or
//! `upstream.json` changed, by what they read: a ConfigMap's files are symlinks that are swapped,
//! and their times say little.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

use crate::settings::Settings;
use crate::supervisor::SupervisorEvent;

/// What is told by `instance.json` may have to be done at once.
const POLL: Duration = Duration::from_millis(200);

/// What the files read now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint(BTreeMap<PathBuf, Vec<u8>>);

impl Fingerprint {
    /// A file that can't be read is as good as none.
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
        // A wrong line in this one, written by hand, would keep Postgres from reading any of its
        // files.
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

/// Polls until nobody listens any more. `seen` is from before the files were first read, so that no
/// change falls between.
pub async fn watch(
    config: PathBuf,
    settings: Settings,
    mut seen: Fingerprint,
    events: mpsc::UnboundedSender<SupervisorEvent>,
) {
    loop {
        tokio::time::sleep(POLL).await;
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
