//! The configuration that Postgres runs with: nothing is installed that Postgres cannot start with.
//!
//! ```text
//!  instance.yaml ▸ screen (pure) ▸ trial: Postgres judges ▸ settle (pure): what of it can be installed ▸ trust (pure): has a server run with it?
//!                                                                                                          ▼
//!                                     pgraft's own part + the user's, last good part ▸ prepare::write_files
//! ```
//!
//! `user` holds the user's part, `faults` reads Postgres' words, `floors` knows what a standby
//! needs at least. Called by the driver and its jobs; read by `observe` and `http`.

pub mod faults;
pub mod floors;
pub mod settle;
pub mod trial;
pub mod trust;
pub mod user;

use pgraft_core::configuration::{ConfigurationStatus, Problem, ServerFailure};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
use trial::Trial;
use trust::{KnownConfigurations, Proven, StartResult, Suspect};
use user::UserConfig;

/// Between two looks at whether a raised setting is still needed.
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

#[derive(Debug, Default)]
struct ConfigurationState {
    known: Option<KnownConfigurations>,
    judged: Option<Judged>,
    suspect: Option<Suspect>,
    /// Why the configuration file cannot be used.
    unreadable: Option<String>,
    floors: Floors,
    /// The wanted values for which these are to be read again, since they are lower than what the
    /// server runs with.
    lower: Option<Floors>,
    /// The wanted values for which they were.
    lower_read: Option<Floors>,
    /// What the server that runs was started with.
    started: Option<Candidate>,
    /// Whether it was started as a standby.
    standby: bool,
    pending: Vec<String>,
    /// What it runs with of the settings that have floors.
    runs_with: Floors,
    /// Where the primary's value of one of these keeps a lower one from being used.
    held: Vec<Problem>,
    failure: Option<ServerFailure>,
    said: Vec<Problem>,
}

#[derive(Debug)]
struct Judged {
    wanted: Candidate,
    accepted: Candidate,
    problems: Vec<Problem>,
    /// Postgres could be asked.
    complete: bool,
}

/// The settings with this as the user's part.
pub fn with(settings: &Settings, user: &UserConfig) -> Settings {
    let mut next = settings.clone();
    next.config.postgresql.parameters.clone_from(&user.parameters);
    next.config.postgresql.pg_hba.clone_from(&user.hba);
    next
}

impl Configuration {
    /// Has Postgres judge what is configured now, unless it has judged the same before. The data
    /// directory must be whole.
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
                "Postgres objects to the configuration for a reason that no configured setting causes"
            );
        }
        if settled.candidate.auto != wanted.auto
            && let Err(error) =
                files::write_atomically(&auto_file(settings), settled.candidate.auto.as_bytes())
        {
            tracing::error!(%error, "postgresql.auto.conf could not be corrected");
        }
        let good = Some(settled.candidate.user.clone());
        if known.good != good {
            self.remember(settings, KnownConfigurations { good, ..known });
        }
        let problems = [refused, settled.problems].concat();
        self.lock().judged =
            Some(Judged { wanted, accepted: settled.candidate, problems, complete: true });
        self.say();
    }

    /// Postgres could not be asked: the last good configuration is used, where there is one, and it
    /// is asked again.
    fn not_judged(
        &self,
        wanted: Candidate,
        good: Option<UserConfig>,
        refused: Vec<Problem>,
        error: &trial::TrialError,
    ) {
        let used = if good.is_some() {
            "the last good configuration is used"
        } else {
            "it is used as it is"
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
        self.say();
    }

    /// What a standby needs at least, by the control file as it is now.
    pub async fn read_floors(&self, settings: &Settings, reaper: &Reaper) {
        match floors::read(settings, reaper).await {
            Ok(floors) => self.lock().floors = floors,
            Err(error) => tracing::warn!(%error, "the control file could not be read"),
        }
    }

    /// The settings with what Postgres accepts of the user's part.
    pub fn in_force(&self, settings: &Settings) -> Settings {
        match self.choice(settings) {
            Some(chosen) => with(settings, &chosen.user),
            None => with(settings, &self.screened(settings)),
        }
    }

    /// The same for a start: `postgresql.auto.conf` belongs to it, and what the control file
    /// demands.
    pub fn for_start(&self, settings: &Settings, mode: StartMode) -> (Settings, Floors) {
        let chosen = self.choice(settings).unwrap_or_else(|| Candidate {
            user: self.screened(settings),
            auto: read_auto(settings),
        });
        let next = with(settings, &chosen.user);
        let mut state = self.lock();
        if state.judged.as_ref().is_some_and(|judged| judged.accepted.auto != chosen.auto)
            && let Err(error) =
                files::write_atomically(&auto_file(settings), chosen.auto.as_bytes())
        {
            tracing::error!(%error, "postgresql.auto.conf could not be put back");
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
        state.standby = mode == StartMode::Standby;
        state.pending.clear();
        drop(state);
        for (name, floor) in &needed {
            tracing::warn!(
                name,
                floor,
                "the configured value is lower than the primary's when it wrote the WAL here: the primary's is used"
            );
        }
        (next, needed)
    }

    fn screened(&self, settings: &Settings) -> UserConfig {
        user::screen(&settings.config.postgresql, self.known(settings).good.as_ref()).0
    }

    /// Whether what is configured was judged already.
    pub fn is_judged(&self, settings: &Settings) -> bool {
        let screened = self.screened(settings);
        self.lock().judged.as_ref().is_some_and(|judged| judged.wanted.user == screened)
    }

    /// Follows one run of the server: one that holds proves its configuration, one that ends at
    /// once makes it suspect.
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

    /// Watches one run of the server: whether the WAL that it replays needs higher settings, and
    /// whether it still needs those that it has.
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
                    // Postgres could not be asked: once more.
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
                tracing::warn!("the primary's settings are higher than this standby's, so that replay cannot go on: the server is started again with them");
                let _ = events.send(SupervisorEvent::SettingsTooLow);
            }
            () = lowered => {}
        }
    }

    fn held(&self, settings: &Settings) {
        let mut known = self.known(settings);
        let mut state = self.lock();
        state.failure = None;
        let Some(started) = state.started.clone() else { return };
        let proven = proven(&known);
        state.suspect = trust::after(&started, &proven, state.suspect.take(), &StartResult::Held);
        drop(state);
        if known.proven.is_none() || proven != started {
            known.proven = Some(Proven { user: started.user, auto: started.auto });
            self.remember(settings, known);
        }
        self.say();
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
        self.say();
    }

    fn note_failure(&self, ending: Ending, words: Option<String>) {
        let (true, Some(message)) = (is_failure(ending), words) else { return };
        let mut state = self.lock();
        let count = state.failure.as_ref().map_or(0, |f| f.count).saturating_add(1);
        state.failure = Some(ServerFailure { count, message });
    }

    /// Takes what the running server says waits for a restart. What is on its command line it
    /// cannot know.
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
        // Of these the server knows only what the file says, and not what it would start with.
        let wanted = wanted_of(&in_force, &auto);
        let demanded = if state.standby { state.floors.clone() } else { Floors::new() };
        let next = floors::effective(&demanded, &wanted);
        pending.retain(|name| !next.contains_key(name.as_str()));
        // Lower ones wait until it is known what the WAL needs by now: else a restart would be for
        // nothing.
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
                format!("{floor} is used, since the WAL of this server was written with it"),
            )
        });
        state.held = held.collect();
        pending.sort();
        pending.dedup();
        state.pending = pending;
    }

    /// Whether the configuration file as a whole can be used; why not, where it cannot.
    pub fn file_is_unreadable(&self, why: Option<String>) {
        self.lock().unreadable = why;
        self.say();
    }

    /// What is known now.
    pub fn report(&self) -> ConfigurationStatus {
        let state = self.lock();
        let problems = state.problems();
        ConfigurationStatus {
            valid: problems.is_empty(),
            problems,
            held: state.held.clone(),
            pending_restart: state.pending.clone(),
            failure: state.failure.clone().filter(|failure| failure.count > 1),
        }
    }

    /// Says what is new, once.
    fn say(&self) {
        let mut state = self.lock();
        let problems = state.problems();
        if problems == state.said {
            return;
        }
        for problem in problems.iter().filter(|problem| !state.said.contains(problem)) {
            tracing::error!(
                setting = problem.setting,
                line = problem.line,
                value = problem.value,
                "configuration: {problem}"
            );
        }
        if problems.is_empty() {
            tracing::info!("configuration: everything that is configured is in force");
        }
        state.said = problems;
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
            tracing::warn!(%error, "the last good configuration could not be kept");
        }
        self.lock().known = Some(known);
    }

    fn lock(&self) -> MutexGuard<'_, ConfigurationState> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConfigurationState {
    fn problems(&self) -> Vec<Problem> {
        let unreadable = self.unreadable.as_ref();
        let unreadable = unreadable.map(|why| {
            user::of_parameter(
                "configuration file",
                None,
                format!("{why}; the last good one is used"),
            )
        });
        let mut problems: Vec<Problem> = unreadable.into_iter().collect();
        let Some(judged) = &self.judged else { return problems };
        problems.extend(judged.problems.iter().cloned());
        if let Some(suspect) = self.suspect.as_ref().filter(|suspect| suspect.is(&judged.accepted))
        {
            let message = format!(
                "Postgres did not start with this configuration: {}; the last one that it ran with is used",
                suspect.message
            );
            problems.push(user::of_parameter("postgresql", None, message));
        }
        problems
    }
}

/// What the files set.
fn wanted_of(settings: &Settings, auto: &str) -> std::collections::BTreeMap<String, String> {
    let mut wanted = floors::settings_of(&config::postgresql_conf(settings, None).text);
    wanted.extend(floors::settings_of(auto));
    wanted
}

fn proven(known: &KnownConfigurations) -> Candidate {
    let Proven { user, auto } = known.proven.clone().unwrap_or_default();
    Candidate { user, auto }
}

/// Not by a signal from outside, and not because it was told to.
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
