//! Rules that a simulation can take out, to see that its invariants notice. They are of no use to
//! anybody else.

use pgraft_core::{ClusterState, Command, Member, Outcome, Refusal, Role};

/// What is in force. All of it, unless a positive control says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a rule of its own")]
pub struct Rules {
    /// A write is acknowledged only when it is on disk.
    pub fsync: bool,
    /// An id that was removed is never used again.
    pub retired_ids: bool,
    /// One change of the membership at a time, and one voter in it.
    pub one_change: bool,
    /// A primary opens its gate when its standbys have confirmed what it has.
    pub barrier: bool,
    /// A promotion takes the timeline that the group gave it.
    pub timelines: bool,
    /// The simulated Postgres waits for as many standbys as the group says, and not for none.
    pub sync_waits: bool,
    /// The simulated backends ask the gate.
    pub fence: bool,
    /// A simulated walreceiver takes and confirms nothing behind a closed intake, and a recruit
    /// reports when it is gone.
    pub intake: bool,
    /// A standby compares its WAL with the primary's history before it follows, and a simulated
    /// walreceiver the primary's timeline.
    pub compares: bool,
    /// A simulated instance manager kills a server that does not do what its clients need.
    pub liveness: bool,
    /// Two-phase state files that are newer than the checkpoint are removed before recovery begins.
    pub two_phase_files: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            fsync: true,
            retired_ids: true,
            one_change: true,
            barrier: true,
            timelines: true,
            sync_waits: true,
            fence: true,
            intake: true,
            compares: true,
            liveness: true,
            two_phase_files: true,
        }
    }
}

impl Rules {
    /// [`ClusterState::apply`] by these rules.
    pub(crate) fn apply(
        self,
        state: &mut ClusterState,
        command: &Command,
    ) -> Result<Outcome, Refusal> {
        let Command::Join { node, address } = command else { return state.apply(command) };
        if !self.retired_ids {
            state.retired.remove(node);
        }
        match state.apply(command) {
            Err(Refusal::JoinInProgress(_) | Refusal::RemovalInProgress(_))
                if !self.one_change && !state.members.contains_key(node) =>
            {
                let newcomer = Member { address: address.clone(), role: Role::Learner, info: None };
                state.members.insert(*node, newcomer);
                Ok(Outcome::Changed)
            }
            outcome => outcome,
        }
    }
}
