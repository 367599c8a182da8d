//! What the driver shows to everybody else in this process: the settings in force and the phase.

use pgraft_core::liveness::Unresponsive;
use std::sync::Arc;
use std::time::Instant;

use crate::configuration::Configuration;
use crate::freshness::FreshnessVerdict;
use crate::settings::Settings;
use crate::supervisor::{FailureReason, SupervisorPhase};

/// A snapshot; a new one is published whenever something of it, or a file that matters, changed.
#[derive(Debug, Clone)]
pub struct MemberView {
    /// In force.
    pub settings: Arc<Settings>,
    /// What the supervisor is at.
    pub phase: SupervisorPhase,
    /// Why the supervisor can do nothing to help this node.
    pub reason: Option<FailureReason>,
    /// Whether the running standby may be read from.
    pub verdict: FreshnessVerdict,
    /// What may be wrong with the running server.
    pub concern: Option<Unresponsive>,
    /// What Postgres says of the configuration.
    pub configuration: Configuration,
    /// Why this process has killed a server last.
    pub killed_for: Option<Unresponsive>,
    /// When that was.
    pub killed_at: Option<Instant>,
}
