//! What takes time: each job carries out one of the supervisor's commands, and its outcome is an
//! event. Decides nothing.

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

/// After this many answers of "nobody knows a primary" the log says so again.
const SAY_AGAIN: u32 = 15;

/// What jobs need.
#[derive(Clone)]
pub struct Jobs {
    /// In force.
    pub settings: Arc<Settings>,
    /// Starts programs.
    pub reaper: Reaper,
    /// Takes their words.
    pub sink: Sink,
    /// How often nobody knew a primary.
    pub unanswered: Arc<AtomicU32>,
    /// What Postgres says of the configuration.
    pub configuration: Configuration,
    /// The member, while there is no server.
    pub standin: StandInMember,
}

impl Jobs {
    /// No process of an earlier server lives.
    pub async fn clear(self) -> SupervisorEvent {
        let Settings { paths, stop_timeout, config, .. } = &*self.settings;
        match leftovers::clear(paths, config.postgresql.port, *stop_timeout).await {
            Ok(()) => SupervisorEvent::Cleared,
            Err(error) => failed(&error, SupervisorEvent::ClearFailed),
        }
    }

    /// Reads the disk. Where there is a server to be started its configuration is checked, and the
    /// Raft directory is its worker's again.
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

    /// Makes PGDATA.
    pub async fn init_db(self) -> SupervisorEvent {
        tracing::info!("making a new data directory");
        match initdb::make(&self.settings, &self.reaper, &self.sink).await {
            Ok(()) => SupervisorEvent::Initialized,
            Err(error) => failed(&error, SupervisorEvent::InitFailed),
        }
    }

    /// Copies the primary.
    pub async fn clone_primary(self) -> SupervisorEvent {
        match clone::make(&self.settings, &self.reaper, &self.sink, &self.standin).await {
            Ok(()) => {
                tracing::info!("the clone is whole and in place");
                SupervisorEvent::Cloned
            }
            Err(error) if error.is_early() => {
                if self.unanswered.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAY_AGAIN) {
                    tracing::warn!(%error, "waiting for a primary to clone");
                }
                SupervisorEvent::NoPrimary
            }
            Err(error) => failed(&error, SupervisorEvent::CloneFailed),
        }
    }

    /// Copies the primary in place of data that a server keeps failing to start on.
    pub async fn replace(self) -> SupervisorEvent {
        let settings = Arc::clone(&self.settings);
        tracing::warn!(
            "PostgreSQL keeps failing to start on this data directory; cloning the primary"
        );
        let event = self.clone_primary().await;
        if event == SupervisorEvent::Cloned
            && let Err(error) = replacement::record(&settings.paths, Timestamp::now())
        {
            tracing::warn!(%error, "could not record the replacement; the next one is not delayed");
        }
        event
    }

    /// Makes the history of PGDATA the primary's.
    pub async fn rewind(self) -> SupervisorEvent {
        match rewind::make(&self.settings, &self.reaper, &self.sink, &self.standin).await {
            Ok(()) => {
                tracing::info!("the data directory has the primary's history");
                SupervisorEvent::Rewound
            }
            Err(error) if error.may_pass() => {
                tracing::warn!(%error, "the data directory is not rewound now");
                SupervisorEvent::RewindPutOff
            }
            Err(error) => {
                tracing::warn!(%error, "the data directory can't be rewound: it is to be replaced by a clone");
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
        SupervisorEvent::ClearFailed => "an earlier server is not gone",
        SupervisorEvent::InspectFailed => "the state on disk can't be read",
        SupervisorEvent::InitFailed => "initdb did not make a data directory",
        _ => "the primary could not be cloned",
    }
}
