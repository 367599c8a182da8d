//! Records a configuration as proven after a reload that took effect. A later start that fails then
//! falls back to the values that the server ran with last, and not to those of its last start.

use jiff::Timestamp;
use pgraft_core::session::Session;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

use super::settle::Candidate;
use super::trust::{Proven, proven_after_reload};
use super::{Configuration, with};
use crate::settings::Settings;
use crate::sql::{self, LocalSqlError};

/// How long the server may take to load the files.
const TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// When the server loaded its configuration, in seconds since 1970; the settings that wait for a
/// restart; the settings that it could not apply.
const QUERY: &str = "SELECT pg_catalog.date_part('epoch', pg_catalog.pg_conf_load_time()), \
     ARRAY (SELECT name::pg_catalog.text FROM pg_catalog.pg_settings WHERE pending_restart), \
     ARRAY (SELECT DISTINCT coalesce(name, '') FROM pg_catalog.pg_file_settings WHERE error IS NOT NULL)";

/// A reload that was requested.
#[derive(Debug)]
pub struct Reload {
    candidate: Candidate,
    since: Timestamp,
}

/// What the server reports after loading its files.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LoadedFiles {
    pending: Vec<String>,
    rejected: Vec<String>,
}

impl Configuration {
    /// The settings to write, and the reload to confirm once the server was signalled.
    pub fn begin_reload(&self, settings: &Settings) -> (Settings, Reload) {
        let candidate = self.choice_or_screened(settings);
        (with(settings, &candidate.user), Reload { candidate, since: Timestamp::now() })
    }

    /// Waits until the server has loaded the files, and records what it runs with. Gives up after
    /// [`TIMEOUT`]: the next reload or start records it.
    pub async fn confirm_reload(&self, settings: &Settings, reload: Reload) {
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            if self.is_settled()
                && let Ok(Ok(Some(loaded))) =
                    timeout_at(deadline, loaded_since(settings, reload.since)).await
            {
                self.reloaded(settings, &reload.candidate, loaded);
                return;
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    fn reloaded(&self, settings: &Settings, candidate: &Candidate, loaded: LoadedFiles) {
        let LoadedFiles { pending, rejected } = loaded;
        self.saw_pending(settings, pending);
        let mut known = self.known(settings);
        let state = self.lock();
        let Some(started) = &state.started else { return };
        let mut waiting = state.pending.clone();
        waiting.extend(state.held.iter().map(|held| held.setting.clone()));
        // A setting that waits for a restart is reported as rejected, too.
        if rejected.iter().any(|name| !waiting.contains(name)) {
            return;
        }
        let Candidate { user, auto } = proven_after_reload(started, candidate, &waiting);
        drop(state);
        let proven = Some(Proven { user, auto });
        if known.proven != proven {
            known.proven = proven;
            self.remember(settings, known);
        }
    }
}

/// None if the server has not loaded its files since then.
async fn loaded_since(
    settings: &Settings,
    since: Timestamp,
) -> Result<Option<LoadedFiles>, LocalSqlError> {
    let client = sql::local(settings, Session::Probe, TIMEOUT).await?;
    let row = client.query_one(QUERY, &[]).await?;
    let loaded: f64 = row.try_get(0)?;
    if loaded < since.as_duration().as_secs_f64() {
        return Ok(None);
    }
    Ok(Some(LoadedFiles { pending: row.try_get(1)?, rejected: row.try_get(2)? }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::user::UserConfig;
    use crate::paths::Paths;

    fn candidate(parameters: &[(&str, &str)]) -> Candidate {
        let parameters =
            parameters.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Candidate { user: UserConfig { parameters, hba: vec![] }, auto: String::new() }
    }

    #[test]
    fn a_reload_that_took_effect_is_proven() {
        let dir = tempfile::tempdir().unwrap();
        let base = crate::settings::tests::example();
        let paths = Paths { work: dir.path().into(), ..base.paths.clone() };
        let settings = Settings { paths, ..base };
        let configuration = Configuration::default();
        let proven = || {
            let read = std::fs::read(settings.paths.configuration()).unwrap();
            let known: super::super::KnownConfigurations = serde_json::from_slice(&read).unwrap();
            known.proven.unwrap().user
        };
        let started = candidate(&[("work_mem", "4MB"), ("shared_buffers", "16MB")]);
        configuration.lock().started = Some(started.clone());
        configuration.held(&settings);
        assert_eq!(proven(), started.user);

        let changed = candidate(&[("work_mem", "7MB"), ("shared_buffers", "1TB")]);
        let loaded = |rejected: &[&str]| LoadedFiles {
            pending: vec!["shared_buffers".into()],
            rejected: rejected.iter().map(|name| (*name).to_owned()).collect(),
        };
        configuration.reloaded(&settings, &changed, loaded(&["work_mem"]));
        assert_eq!(proven(), started.user, "the server did not load it");
        configuration.reloaded(&settings, &changed, loaded(&["shared_buffers"]));
        let wanted = candidate(&[("work_mem", "7MB"), ("shared_buffers", "16MB")]);
        assert_eq!(proven(), wanted.user, "without the value that waits for a restart");
    }
}
