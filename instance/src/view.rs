//! What the driver publishes within this process: the settings in force and the supervisor's state.

use pgraft_core::liveness::Unresponsive;
use std::sync::Arc;
use std::time::Instant;

use crate::configuration::Configuration;
use crate::freshness::FreshnessVerdict;
use crate::settings::Settings;
use crate::supervisor::{FailureReason, SupervisorPhase};

/// A snapshot. A new one is published whenever it or a watched file changes.
#[derive(Debug, Clone)]
pub struct MemberView {
    /// The settings in force.
    pub settings: Arc<Settings>,
    /// The supervisor's phase.
    pub phase: SupervisorPhase,
    /// Why the supervisor can do nothing to help this node.
    pub reason: Option<FailureReason>,
    /// Whether the running standby is fresh enough for reads.
    pub verdict: FreshnessVerdict,
    /// What may be wrong with the running server.
    pub concern: Option<Unresponsive>,
    /// The checked configuration.
    pub configuration: Configuration,
    /// Why this process last killed the server.
    pub killed_for: Option<Unresponsive>,
    /// When it killed the server.
    pub killed_at: Option<Instant>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The view of a node whose server does not run.
    pub(crate) fn example() -> MemberView {
        MemberView {
            settings: Arc::new(crate::settings::tests::example()),
            phase: SupervisorPhase::Clearing,
            reason: None,
            verdict: FreshnessVerdict::default(),
            concern: None,
            killed_for: None,
            killed_at: None,
            configuration: Configuration::default(),
        }
    }
}
