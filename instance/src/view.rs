//! What the driver shows to everybody else in this process: the settings in force and the phase.

use std::sync::Arc;

use crate::configuration::Configuration;
use crate::settings::Settings;
use crate::supervisor::Phase;

/// A snapshot; a new one is published whenever something of it, or a file that matters, changed.
#[derive(Debug, Clone)]
pub struct View {
    /// In force.
    pub settings: Arc<Settings>,
    /// What the supervisor is at.
    pub phase: Phase,
    /// What Postgres says of the configuration.
    pub configuration: Configuration,
}
