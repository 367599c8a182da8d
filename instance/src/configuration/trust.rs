//! Decides whether a server is started with the last valid configuration or with the last proven one,
//! which a server has run with. Pure.
//!
//! The check does not find every reason why a server cannot start, such as missing memory or a
//! socket's group. If a server fails to start with an unproven configuration, it is started with the
//! last proven one. If that fails as well, the configuration is not the cause.

use serde::{Deserialize, Serialize};

use super::floors::settings_of;
use super::settle::Candidate;
use super::user::UserConfig;

/// The last valid and the last proven configuration; saved on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KnownConfigurations {
    /// The last one that passed the check.
    pub good: Option<UserConfig>,
    /// The last one that a server has run with.
    pub proven: Option<Proven>,
}

/// A configuration that a server has run with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Proven {
    /// The user's part.
    pub user: UserConfig,
    /// The text of `postgresql.auto.conf`.
    pub auto: String,
}

/// A configuration that a server did not start with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// The configuration.
    pub tried: Candidate,
    /// The server's last error.
    pub message: String,
    /// Whether the settings of `ALTER SYSTEM` are suspected, too.
    pub auto: bool,
}

/// The result of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartResult {
    /// The server ran for at least [`SETTLED_RUN`](crate::supervisor::SETTLED_RUN).
    Held,
    /// It ended earlier, with this error.
    Failed(String),
}

impl Suspect {
    /// Whether this configuration is the suspected one. The settings of `ALTER SYSTEM` may differ.
    pub fn is(&self, accepted: &Candidate) -> bool {
        self.tried.user.parameters == accepted.user.parameters
    }
}

/// The configuration to start with. The user's part falls back first, then the settings of `ALTER
/// SYSTEM`.
pub fn chosen(accepted: &Candidate, proven: &Candidate, suspect: Option<&Suspect>) -> Candidate {
    match suspect.filter(|suspect| suspect.is(accepted)) {
        None => accepted.clone(),
        Some(Suspect { auto, .. }) => Candidate {
            // pg_hba lines passed the check and do not prevent a start. Falling back could admit
            // clients that have been excluded since.
            user: UserConfig { hba: accepted.user.hba.clone(), ..proven.user.clone() },
            auto: if *auto { proven.auto.clone() } else { accepted.auto.clone() },
        },
    }
}

/// What a running server proves by a reload of `loaded`. Settings that wait for a restart keep the
/// value that it was started with.
pub fn proven_after_reload(
    started: &Candidate,
    loaded: &Candidate,
    waiting: &[String],
) -> Candidate {
    let waits = |name: &String| waiting.contains(name);
    let UserConfig { mut parameters, hba } = loaded.user.clone();
    parameters.retain(|name, _| !waits(name));
    let kept = started.user.parameters.iter().filter(|(name, _)| waits(name));
    parameters.extend(kept.map(|(name, value)| (name.clone(), value.clone())));
    let sets = |auto: &str| settings_of(auto).keys().any(waits);
    let auto = if sets(&loaded.auto) || sets(&started.auto) { &started.auto } else { &loaded.auto };
    Candidate { user: UserConfig { parameters, hba }, auto: auto.clone() }
}

/// What is suspected after a start with `used`.
pub fn after(
    used: &Candidate,
    proven: &Candidate,
    suspect: Option<Suspect>,
    start: &StartResult,
) -> Option<Suspect> {
    match start {
        StartResult::Held => suspect.filter(|suspect| suspect.tried != *used),
        StartResult::Failed(message) if used.user.parameters != proven.user.parameters => {
            Some(Suspect { tried: used.clone(), message: message.clone(), auto: false })
        }
        StartResult::Failed(message) if used.auto != proven.auto => {
            let tried = suspect.map_or_else(|| used.clone(), |suspect| suspect.tried);
            Some(Suspect { tried, message: message.clone(), auto: true })
        }
        // The proven one fails, too: the configuration is not the cause.
        StartResult::Failed(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(value: u8) -> Candidate {
        with_auto(value, 0)
    }

    fn with_auto(value: u8, auto: u8) -> Candidate {
        let parameters = [("shared_buffers".to_owned(), value.to_string())].into();
        Candidate { user: UserConfig { parameters, hba: vec![] }, auto: auto.to_string() }
    }

    #[test]
    fn a_failed_start_falls_back_once() {
        let (old, new) = (candidate(1), candidate(2));
        let failed = StartResult::Failed("could not map anonymous shared memory".into());
        assert_eq!(chosen(&new, &old, None), new);
        let suspect = after(&new, &old, None, &failed);
        assert_eq!(chosen(&new, &old, suspect.as_ref()), old);
        let held = after(&old, &old, suspect.clone(), &StartResult::Held);
        assert_eq!(chosen(&new, &old, held.as_ref()), old, "it stays in force");
        assert_eq!(
            chosen(&candidate(3), &old, held.as_ref()),
            candidate(3),
            "a changed one is tried"
        );
        assert_eq!(after(&old, &old, suspect, &failed), None, "not the configuration");
    }

    #[test]
    fn pg_hba_never_falls_back() {
        let hba = |line: &str| vec![line.to_owned()];
        let (mut old, mut new) = (candidate(1), candidate(2));
        (old.user.hba, new.user.hba) =
            (hba("host all bob 10.0.0.0/8 trust"), hba("host all bob 10.0.0.0/8 reject"));
        let suspect = after(
            &new,
            &old,
            None,
            &StartResult::Failed("could not map anonymous shared memory".into()),
        );
        let used = chosen(&new, &old, suspect.as_ref());
        assert_eq!(
            (used.user.parameters, used.user.hba),
            (old.user.parameters.clone(), new.user.hba.clone())
        );
        new.user.parameters = old.user.parameters.clone();
        assert_eq!(
            after(&new, &old, None, &StartResult::Failed("no space left on device".into())),
            None,
            "pg_hba alone keeps no server from starting"
        );
    }

    #[test]
    fn a_reload_proves_all_but_what_waits_for_a_restart() {
        let with = |work_mem: &str, shared_buffers: &str, auto: &str| {
            let parameters = [("work_mem", work_mem), ("shared_buffers", shared_buffers)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()));
            let user = UserConfig { parameters: parameters.into(), hba: vec![] };
            Candidate { user, auto: auto.to_owned() }
        };
        let (started, loaded) = (with("1MB", "16MB", ""), with("2MB", "1TB", "jit = 'off'"));
        assert_eq!(proven_after_reload(&started, &loaded, &[]), loaded);
        assert_eq!(
            proven_after_reload(&started, &loaded, &["shared_buffers".into()]),
            with("2MB", "16MB", "jit = 'off'")
        );
        assert_eq!(
            proven_after_reload(&started, &loaded, &["jit".into()]),
            with("2MB", "1TB", ""),
            "ALTER SYSTEM has set what waits"
        );
        let without = Candidate { user: UserConfig::default(), ..loaded.clone() };
        let waiting = ["shared_buffers".to_owned()];
        let proven = proven_after_reload(&without, &loaded, &waiting);
        assert_eq!(proven.user.parameters.keys().collect::<Vec<_>>(), ["work_mem"]);
    }

    proptest! {
        /// If the configured or the proven configuration works, the server runs after at most three
        /// starts. If only the user's part is at fault, the settings of `ALTER SYSTEM` are kept.
        #[test]
        fn the_server_runs_after_three_starts(
            users in prop::collection::vec(any::<bool>(), 2), autos in prop::collection::vec(any::<bool>(), 2),
            wanted in 0..2_u8, proven in 0..2_u8, auto in 0..2_u8, auto_before in 0..2_u8,
        ) {
            let works = |candidate: &Candidate| {
                let index = |text: &str| text.parse::<usize>().unwrap();
                users[index(&candidate.user.parameters["shared_buffers"])] && autos[index(&candidate.auto)]
            };
            let (accepted, proven) = (with_auto(wanted, auto), with_auto(proven, auto_before));
            prop_assume!(works(&accepted) || works(&proven));
            let (mut suspect, mut starts) = (None, 1);
            let mut used = accepted.clone();
            while !works(&used) {
                suspect = after(&used, &proven, suspect, &StartResult::Failed("no memory".into()));
                used = chosen(&accepted, &proven, suspect.as_ref());
                starts += 1;
                prop_assert!(starts <= 3);
            }
            prop_assert!(used.auto == accepted.auto || !autos[usize::from(auto)], "{used:?}");
        }
    }
}
