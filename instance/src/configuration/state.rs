//! What is known about the configuration of one node.

use pgraft_core::configuration::{ConfigurationStatus, Problem, ServerFailure};

use super::floors::Floors;
use super::settle::Candidate;
use super::trust::{KnownConfigurations, Suspect};
use super::user;

#[derive(Debug, Default)]
pub(super) struct ConfigurationState {
    pub(super) known: Option<KnownConfigurations>,
    pub(super) judged: Option<Judged>,
    pub(super) suspect: Option<Suspect>,
    /// Why the configuration file cannot be used.
    pub(super) unreadable: Option<String>,
    pub(super) floors: Floors,
    /// Configured values that are lower than what the server runs with, for which the floors must
    /// be read again.
    pub(super) lower: Option<Floors>,
    /// The configured values for which the floors were read again.
    pub(super) lower_read: Option<Floors>,
    /// What the running server was started with.
    pub(super) started: Option<Candidate>,
    /// Whether that server has run for long enough to prove its configuration.
    pub(super) settled: bool,
    /// Whether it was started as a standby.
    pub(super) standby: bool,
    pub(super) pending: Vec<String>,
    /// What it runs with of the settings that have floors.
    pub(super) runs_with: Floors,
    /// Settings whose lower value the primary's value keeps from being used.
    pub(super) held: Vec<Problem>,
    pub(super) failure: Option<ServerFailure>,
    pub(super) logged: Vec<Problem>,
}

#[derive(Debug)]
pub(super) struct Judged {
    pub(super) wanted: Candidate,
    pub(super) accepted: Candidate,
    pub(super) problems: Vec<Problem>,
    /// Postgres could check it.
    pub(super) complete: bool,
}

impl ConfigurationState {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let unreadable = self.unreadable.as_ref().map(|why| {
            let message = format!("{why}; the last valid configuration is used");
            user::of_parameter("configuration file", None, message)
        });
        let mut problems: Vec<Problem> = unreadable.into_iter().collect();
        let Some(judged) = &self.judged else { return problems };
        problems.extend(judged.problems.iter().cloned());
        if let Some(suspect) = self.suspect.as_ref().filter(|suspect| suspect.is(&judged.accepted))
        {
            let message = format!(
                "Postgres did not start with this configuration: {}; the last configuration that it ran with is used",
                suspect.message
            );
            problems.push(user::of_parameter("postgresql", None, message));
        }
        problems
    }

    pub(super) fn report(&self) -> ConfigurationStatus {
        let problems = self.problems();
        ConfigurationStatus {
            valid: problems.is_empty(),
            problems,
            held: self.held.clone(),
            pending_restart: self.pending.clone(),
            failure: self.failure.clone().filter(|failure| failure.count > 1),
        }
    }

    /// Logs each new problem once.
    pub(super) fn log_problems(&mut self) {
        let problems = self.problems();
        if problems == self.logged {
            return;
        }
        for problem in problems.iter().filter(|problem| !self.logged.contains(problem)) {
            tracing::error!(
                setting = problem.setting,
                line = problem.line,
                value = problem.value,
                "configuration: {problem}"
            );
        }
        if problems.is_empty() {
            tracing::info!("configuration: all settings are in force");
        }
        self.logged = problems;
    }
}
