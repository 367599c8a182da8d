//! The configuration that Postgres runs with. Nothing is installed that Postgres cannot start with.
//!
//! ```text
//!  instance.yaml ▸ screen (pure) ▸ trial: Postgres checks it ▸ settle (pure): what can be installed ▸ trust (pure): has a server run with it?
//!                                                                                                       ▼
//!                                  pgraft's own settings + the valid part of the user's ▸ prepare::write_files
//! ```
//!
//! `user` holds the user's part, `faults` parses Postgres' messages, `floors` has the minimum values
//! of a standby, `reload` records what a reload proved. Called by the driver and its jobs; read by
//! `observe` and `http`.

pub mod faults;
pub mod floors;
mod reload;
pub mod settle;
mod state;
pub mod trial;
pub mod trust;
pub mod user;

use parking_lot::{Mutex, MutexGuard};
use pgraft_core::configuration::{ConfigurationStatus, Problem, ServerFailure};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

use crate::files;
use crate::postgres::config;
use crate::postgres::log::LastWords;
use crate::reaper::{Ending, Reaper};
use crate::settings::Settings;
use crate::supervisor::{SETTLED_RUN, StartMode, SupervisorEvent};
use floors::Floors;
use settle::{Candidate, settle};
use state::{ConfigurationState, Judged};
use trial::Trial;
use trust::{KnownConfigurations, Proven, StartResult};
use user::UserConfig;

/// How often it is checked whether a raised setting is still needed.
const FLOORS_INTERVAL: Duration = Duration::from_secs(5);

/// The configuration of one node. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    shared: Arc<SharedConfiguration>,
}

#[derive(Debug, Default)]
struct SharedConfiguration {
    /// One trial at a time.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<ConfigurationState>,
}

/// The settings with this as the user's part.
pub fn with(settings: &Settings, user: &UserConfig) -> Settings {
    let mut next = settings.clone();
    next.config.postgresql.parameters.clone_from(&user.parameters);
    next.config.postgresql.pg_hba.clone_from(&user.hba);
    next
}

impl Configuration {
    /// Has Postgres check the present configuration, unless it has checked the same one before. The
    /// data directory must be complete.
    pub async fn judge(&self, settings: &Settings, reaper: &Reaper) {
        let _turn = self.shared.turn.lock().await;
        let known = self.known(settings);
        let (screened, refused) = user::screen(&settings.config.postgresql, known.good.as_ref());
        let auto = read_auto(settings);
        let wanted =
            Candidate { user: screened, auto: config::scrubbed_auto_conf(&auto).unwrap_or(auto) };
        let same = |judged: &Judged| {
            judged.wanted.user == wanted.user
                && [&judged.wanted.auto, &judged.accepted.auto].contains(&&wanted.auto)
        };
        if self.lock().judged.as_ref().is_some_and(|judged| judged.complete && same(judged)) {
            return;
        }
        let mut trial = Trial::new(settings, reaper);
        let settled = settle(&mut trial, &wanted, known.good.as_ref()).await;
        if let Some(error) = trial.error.take() {
            self.not_judged(wanted, known.good, refused, &error);
            return;
        }
        for message in &settled.foreign {
            tracing::warn!(
                message,
                "Postgres rejects the configuration, and no configured setting is the cause"
            );
        }
        if settled.candidate.auto != wanted.auto
            && let Err(error) =
                files::write_atomically(&auto_file(settings), settled.candidate.auto.as_bytes())
        {
            tracing::error!(%error, "could not correct postgresql.auto.conf");
        }
        let good = Some(settled.candidate.user.clone());
        if known.good != good {
            self.remember(settings, KnownConfigurations { good, ..known });
        }
        let problems = [refused, settled.problems].concat();
        self.lock().judged =
            Some(Judged { wanted, accepted: settled.candidate, problems, complete: true });
        self.log_problems();
    }

    /// Postgres could not check the configuration: the last valid one is used if there is one, and
    /// the check is repeated.
    fn not_judged(
        &self,
        wanted: Candidate,
        good: Option<UserConfig>,
        refused: Vec<Problem>,
        error: &trial::TrialError,
    ) {
        let used = if good.is_some() {
            "the last valid configuration is used"
        } else {
            "it is used unchecked"
        };
        let problem = user::of_parameter(
            "postgresql",
            None,
            format!("the configuration could not be checked ({error}); {used}"),
        );
        let accepted = Candidate {
            user: good.unwrap_or_else(|| wanted.user.clone()),
            auto: wanted.auto.clone(),
        };
        let problems = refused.into_iter().chain([problem]).collect();
        self.lock().judged = Some(Judged { wanted, accepted, problems, complete: false });
        self.log_problems();
    }

    /// Reads the minimum values of a standby from the control file.
    pub async fn read_floors(&self, settings: &Settings, reaper: &Reaper) {
        match floors::read(settings, reaper).await {
            Ok(floors) => self.lock().floors = floors,
            Err(error) => tracing::warn!(%error, "could not read the control file"),
        }
    }

    /// The settings with the part of the user's configuration that Postgres accepts.
    pub fn in_force(&self, settings: &Settings) -> Settings {
        match self.choice(settings) {
            Some(chosen) => with(settings, &chosen.user),
            None => with(settings, &self.screened(settings)),
        }
    }

    /// The same for a start, with `postgresql.auto.conf` and the minimum values of the control file.
    pub fn for_start(&self, settings: &Settings, mode: StartMode) -> (Settings, Floors) {
        let chosen = self.choice_or_screened(settings);
        let next = with(settings, &chosen.user);
        let mut state = self.lock();
        if state.judged.as_ref().is_some_and(|judged| judged.accepted.auto != chosen.auto)
            && let Err(error) =
                files::write_atomically(&auto_file(settings), chosen.auto.as_bytes())
        {
            tracing::error!(%error, "could not restore postgresql.auto.conf");
        }
        let wanted = wanted_of(&next, &chosen.auto);
        let needed = match mode {
            StartMode::Standby => floors::needed(&state.floors, &wanted),
            StartMode::Primary => Floors::new(),
        };
        let demanded =
            if mode == StartMode::Standby { state.floors.clone() } else { Floors::new() };
        state.runs_with = floors::effective(&demanded, &wanted);
        state.started = Some(chosen);
        state.settled = false;
        state.standby = mode == StartMode::Standby;
        state.pending.clear();
        drop(state);
        for (name, floor) in &needed {
            tracing::warn!(
                name,
                floor,
                "the configured value is lower than the one the primary wrote this WAL with; the primary's value is used"
            );
        }
        (next, needed)
    }

    fn screened(&self, settings: &Settings) -> UserConfig {
        user::screen(&settings.config.postgresql, self.known(settings).good.as_ref()).0
    }

    fn choice_or_screened(&self, settings: &Settings) -> Candidate {
        self.choice(settings).unwrap_or_else(|| Candidate {
            user: self.screened(settings),
            auto: read_auto(settings),
        })
    }

    /// Whether the present configuration has been checked.
    pub fn is_judged(&self, settings: &Settings) -> bool {
        let screened = self.screened(settings);
        self.lock().judged.as_ref().is_some_and(|judged| judged.wanted.user == screened)
    }

    /// Follows one run of the server. A run of at least [`SETTLED_RUN`] proves its configuration, a
    /// shorter one makes it suspect.
    pub async fn follow(
        &self,
        settings: &Settings,
        ending: impl Future<Output = Ending>,
        words: &LastWords,
    ) -> Ending {
        let mut ending = std::pin::pin!(ending);
        if let Ok(ended) = tokio::time::timeout(SETTLED_RUN, &mut ending).await {
            self.ended(settings, ended, words.get());
            return ended;
        }
        self.held(settings);
        let ended = ending.await;
        self.note_failure(ended, words.get());
        ended
    }

    /// Watches during one run of the server whether the WAL that it replays needs higher settings,
    /// and whether it still needs those that were raised.
    pub async fn watch(
        self,
        settings: Arc<Settings>,
        reaper: Reaper,
        words: LastWords,
        events: UnboundedSender<SupervisorEvent>,
    ) {
        let lowered = async {
            loop {
                tokio::time::sleep(FLOORS_INTERVAL).await;
                let (due, lower, judged) = {
                    let state = self.lock();
                    let judged = state.judged.as_ref().is_none_or(|judged| judged.complete);
                    (
                        !state.held.is_empty() || state.lower != state.lower_read,
                        state.lower.clone(),
                        judged,
                    )
                };
                if !judged {
                    // Postgres could not check the configuration: repeat.
                    let _ = events.send(SupervisorEvent::FilesChanged);
                }
                if due {
                    self.read_floors(&settings, &reaper).await;
                    self.lock().lower_read = lower;
                }
            }
        };
        tokio::select! {
            () = words.settings_too_low() => {
                tracing::warn!("the primary's settings are higher than this standby's, so replay is paused; restarting the server with them");
                let _ = events.send(SupervisorEvent::SettingsTooLow);
            }
            () = lowered => {}
        }
    }

    fn held(&self, settings: &Settings) {
        let mut known = self.known(settings);
        let mut state = self.lock();
        state.failure = None;
        state.settled = true;
        let Some(started) = state.started.clone() else { return };
        let proven = proven(&known);
        state.suspect = trust::after(&started, &proven, state.suspect.take(), &StartResult::Held);
        drop(state);
        if known.proven.is_none() || proven != started {
            known.proven = Some(Proven { user: started.user, auto: started.auto });
            self.remember(settings, known);
        }
        self.log_problems();
    }

    fn is_settled(&self) -> bool {
        self.lock().settled
    }

    fn ended(&self, settings: &Settings, ending: Ending, words: Option<String>) {
        self.note_failure(ending, words.clone());
        let (true, Some(words)) = (is_failure(ending), words) else { return };
        let known = self.known(settings);
        let mut state = self.lock();
        let Some(started) = state.started.clone() else { return };
        state.suspect = trust::after(
            &started,
            &proven(&known),
            state.suspect.take(),
            &StartResult::Failed(words),
        );
        drop(state);
        self.log_problems();
    }

    fn note_failure(&self, ending: Ending, words: Option<String>) {
        if let (true, Some(message)) = (is_failure(ending), words) {
            self.could_not_start(message);
        }
    }

    /// Counts a failure of the server for the status.
    pub fn could_not_start(&self, message: String) {
        let mut state = self.lock();
        let count = state.failure.as_ref().map_or(0, |f| f.count).saturating_add(1);
        state.failure = Some(ServerFailure { count, message });
    }

    /// Records the settings that wait for a restart, as the running server reports them. The server
    /// does not know those on its command line.
    pub fn saw_pending(&self, settings: &Settings, mut pending: Vec<String>) {
        let (in_force, auto) = (self.in_force(settings), read_auto(settings));
        let now = config::command_line(&in_force);
        let mut state = self.lock();
        let started = state.started.as_ref();
        let then = started.map_or_else(
            || now.clone(),
            |started| config::command_line(&with(settings, &started.user)),
        );
        let changed = now
            .iter()
            .filter(|set| !then.contains(set))
            .chain(then.iter().filter(|set| !now.contains(set)));
        pending
            .extend(changed.filter_map(|set| set.split_once('=')).map(|(name, _)| name.to_owned()));
        // For settings with floors the server knows the file's value, not the one it would start
        // with.
        let wanted = wanted_of(&in_force, &auto);
        let demanded = if state.standby { state.floors.clone() } else { Floors::new() };
        let next = floors::effective(&demanded, &wanted);
        pending.retain(|name| !next.contains_key(name.as_str()));
        // Lower values are reported only when the floors are known to allow them; otherwise the
        // restart would not change them.
        let configured = floors::effective(&Floors::new(), &wanted);
        let is_lower = configured
            .iter()
            .any(|(name, value)| state.runs_with.get(name).is_some_and(|runs| runs > value));
        let lower = (state.standby && is_lower).then_some(configured);
        let known = lower == state.lower_read;
        let waiting = next.iter().filter(|(name, value)| {
            state.runs_with.get(*name).is_some_and(|runs| runs < *value || (known && runs > *value))
        });
        pending.extend(waiting.map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>());
        state.lower = lower;
        let held = floors::needed(&demanded, &wanted);
        let held = held.iter().map(|(name, floor)| {
            let value = wanted.get(*name).map(String::as_str);
            user::of_parameter(
                name,
                value,
                format!("{floor} is used because the WAL of this server was written with it"),
            )
        });
        state.held = held.collect();
        pending.sort();
        pending.dedup();
        state.pending = pending;
    }

    /// Records why the configuration file cannot be used; None if it can.
    pub fn file_is_unreadable(&self, why: Option<String>) {
        self.lock().unreadable = why;
        self.log_problems();
    }

    /// The present status.
    pub fn report(&self) -> ConfigurationStatus {
        self.lock().report()
    }

    fn log_problems(&self) {
        self.lock().log_problems();
    }

    fn choice(&self, settings: &Settings) -> Option<Candidate> {
        let proven = proven(&self.known(settings));
        let state = self.lock();
        state
            .judged
            .as_ref()
            .map(|judged| trust::chosen(&judged.accepted, &proven, state.suspect.as_ref()))
    }

    fn known(&self, settings: &Settings) -> KnownConfigurations {
        if let Some(known) = self.lock().known.clone() {
            return known;
        }
        let read = files::read_if_there(&settings.paths.configuration()).ok().flatten();
        let known: KnownConfigurations =
            read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        self.lock().known = Some(known.clone());
        known
    }

    fn remember(&self, settings: &Settings, known: KnownConfigurations) {
        let text = serde_json::to_vec(&known).unwrap_or_default();
        if let Err(error) = files::write_atomically(&settings.paths.configuration(), &text) {
            tracing::warn!(%error, "could not save the last valid configuration");
        }
        self.lock().known = Some(known);
    }

    fn lock(&self) -> MutexGuard<'_, ConfigurationState> {
        self.shared.state.lock()
    }
}

/// The settings in the files.
fn wanted_of(settings: &Settings, auto: &str) -> std::collections::BTreeMap<String, String> {
    let mut wanted = floors::settings_of(&config::postgresql_conf(settings, None).text);
    wanted.extend(floors::settings_of(auto));
    wanted
}

fn proven(known: &KnownConfigurations) -> Candidate {
    let Proven { user, auto } = known.proven.clone().unwrap_or_default();
    Candidate { user, auto }
}

/// Whether the server ended by itself, and not because of a signal or a shutdown request.
const fn is_failure(ending: Ending) -> bool {
    use nix::sys::signal::Signal;
    match ending {
        Ending::Code(code) => code != 0,
        Ending::Signal(signal) => {
            matches!(signal, Signal::SIGABRT | Signal::SIGBUS | Signal::SIGSEGV)
        }
    }
}

fn auto_file(settings: &Settings) -> std::path::PathBuf {
    settings.paths.data.join("postgresql.auto.conf")
}

fn read_auto(settings: &Settings) -> String {
    let bytes = files::read_if_there(&auto_file(settings)).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
