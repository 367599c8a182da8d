//! Long-running commands of the supervisor. The result of each is an event. Decides nothing.

use jiff::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::configuration::Configuration;
use crate::facts;
use crate::logging::Sink;
use crate::postgres::{clone, initdb, leftovers, replacement, rewind};
use crate::reaper::Reaper;
use crate::settings::Settings;
use crate::standin::StandInMember;
use crate::supervisor::{DataDirectory, SupervisorEvent};

/// How often a missing primary is logged: once in this many attempts.
const LOG_EVERY: u32 = 15;

/// The context of a job.
#[derive(Clone)]
pub struct Jobs {
    /// The settings in force.
    pub settings: Arc<Settings>,
    /// Starts processes.
    pub reaper: Reaper,
    /// Takes their output.
    pub sink: Sink,
    /// How often no primary was known.
    pub unanswered: Arc<AtomicU32>,
    /// The checked configuration.
    pub configuration: Configuration,
    /// The Raft member while there is no server.
    pub standin: StandInMember,
}

impl Jobs {
    /// Stops the processes of an earlier server.
    pub async fn clear(self) -> SupervisorEvent {
        let Settings { paths, stop_timeout, config, .. } = &*self.settings;
        match leftovers::clear(paths, config.postgresql.port, *stop_timeout).await {
            Ok(()) => SupervisorEvent::Cleared,
            Err(error) => failed(&error, SupervisorEvent::ClearFailed),
        }
    }

    /// Reads the disk. If there is a server to start, checks its configuration and leaves the Raft
    /// directory to its worker.
    pub async fn inspect(self) -> SupervisorEvent {
        match facts::inspect(&self.settings).await {
            Ok(facts) => {
                if matches!(facts.data, DataDirectory::Whole { .. }) {
                    self.configuration.judge(&self.settings, &self.reaper).await;
                    self.configuration.read_floors(&self.settings, &self.reaper).await;
                    self.standin.end().await;
                }
                SupervisorEvent::Inspected(facts)
            }
            Err(error) => failed(&error, SupervisorEvent::InspectFailed),
        }
    }

    /// Creates PGDATA.
    pub async fn init_db(self) -> SupervisorEvent {
        tracing::info!("creating a new data directory");
        match initdb::make(&self.settings, &self.reaper, &self.sink).await {
            Ok(()) => SupervisorEvent::Initialized,
            Err(error) => failed(&error, SupervisorEvent::InitFailed),
        }
    }

    /// Clones the primary.
    pub async fn clone_primary(self) -> SupervisorEvent {
        match clone::make(&self.settings, &self.reaper, &self.sink, &self.standin).await {
            Ok(()) => {
                tracing::info!("the clone is complete");
                SupervisorEvent::Cloned
            }
            Err(error) if error.is_early() => {
                if self.unanswered.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOG_EVERY) {
                    tracing::warn!(%error, "waiting for a primary to clone");
                }
                SupervisorEvent::NoPrimary
            }
            Err(error) => failed(&error, SupervisorEvent::CloneFailed),
        }
    }

    /// Clones the primary because the server keeps failing to start on its present data.
    pub async fn replace(self) -> SupervisorEvent {
        let settings = Arc::clone(&self.settings);
        tracing::warn!(
            "Postgres keeps failing to start on this data directory; cloning the primary"
        );
        let event = self.clone_primary().await;
        if event == SupervisorEvent::Cloned
            && let Err(error) = replacement::record(&settings.paths, Timestamp::now())
        {
            tracing::warn!(%error, "could not record the replacement; the next one is not delayed");
        }
        event
    }

    /// Rewinds PGDATA to the primary's history.
    pub async fn rewind(self) -> SupervisorEvent {
        match rewind::make(&self.settings, &self.reaper, &self.sink, &self.standin).await {
            Ok(()) => {
                tracing::info!("rewound the data directory to the primary's history");
                SupervisorEvent::Rewound
            }
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "could not rewind the data directory; trying again");
                SupervisorEvent::RewindPutOff
            }
            Err(error) => {
                tracing::warn!(%error, "could not rewind the data directory; cloning the primary");
                SupervisorEvent::RewindFailed
            }
        }
    }
}

fn failed(error: &dyn std::error::Error, event: SupervisorEvent) -> SupervisorEvent {
    tracing::error!(%error, "{}", what_failed(event));
    event
}

const fn what_failed(event: SupervisorEvent) -> &'static str {
    match event {
        SupervisorEvent::ClearFailed => "could not stop the processes of an earlier server",
        SupervisorEvent::InspectFailed => "could not read the state on disk",
        SupervisorEvent::InitFailed => "could not create a data directory",
        _ => "could not clone the primary",
    }
}
