//! What makes a server useless although its worker lives, and how its instance manager sees that:
//! as `instance/src/liveness.rs` does, by the same decision (`pgraft_core::liveness`).

use pgraft_core::liveness::{Commits, LivenessJudge, LivenessVerdict, ProcessState, Tick};

use super::run::SimServerMode;
use super::server::SimPostgres;
use super::session::Stage;

/// Looks in a row, 200 ms each.
const BOUND: u32 = 15;

/// Which processes of a run are stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a process of its own")]
pub struct StuckProcesses {
    /// Nobody connects, no process is started, and no signal is passed on.
    pub postmaster: bool,
    /// Names are not read by it: changes of whom commits wait for do not settle.
    pub checkpointer: bool,
    /// Asynchronous commits are not flushed, and there are none.
    pub walwriter: bool,
    /// Nothing is sent and nothing heard, and their slots are in use.
    pub senders: bool,
}

/// What an instance manager has seen of a run.
#[derive(Debug, Clone, Copy)]
pub struct LivenessObservation {
    judge: LivenessJudge,
    /// The end of the WAL that commits were released up to, by now and at the last look.
    pub confirmed: usize,
    confirmed_before: usize,
    waited: bool,
    flushed_before: usize,
}

impl Default for LivenessObservation {
    fn default() -> Self {
        Self {
            judge: LivenessJudge::new(BOUND),
            confirmed: 0,
            confirmed_before: 0,
            waited: false,
            flushed_before: 0,
        }
    }
}

impl SimPostgres {
    /// One look of the instance manager; why the server must be killed, if it must.
    pub fn unresponsive(&mut self) -> Option<String> {
        let (stands, written, flushed) = (self.disk_stands, self.disk.wal.len(), self.disk.flushed);
        let run = self.run.as_mut().filter(|r| r.orphans_until.is_none())?;
        let waits = run.backends.iter().any(|b| matches!(b.stage, Stage::Waits(_)));
        let LivenessObservation { judge, confirmed, confirmed_before, waited, flushed_before } =
            &mut run.observed;
        let commits = if waits && *waited && confirmed == confirmed_before {
            Commits::Wait { sender_stopped: run.stuck.senders }
        } else {
            Commits::Advance
        };
        let stopped = [
            (run.stuck.postmaster, ProcessState::Postmaster),
            (run.stuck.checkpointer, ProcessState::Checkpointer),
            (run.stuck.walwriter, ProcessState::WalWriter),
        ];
        let tick = Tick {
            on_time: true,
            primary: run.mode == SimServerMode::Primary,
            answered: !run.stuck.postmaster,
            starved: false,
            stopped: stopped.into_iter().find(|(is, _)| *is).map(|(_, process)| process),
            flushes: Some(!stands || written == flushed || flushed != *flushed_before),
            commits: Some(commits),
            // The model kills without asking the group: that is never less safe.
            successor: true,
        };
        (*confirmed_before, *waited, *flushed_before) = (*confirmed, waits, flushed);
        match judge.observe(tick) {
            LivenessVerdict::Release(fault) => Some(fault.to_string()),
            LivenessVerdict::Serve | LivenessVerdict::Suspect(_) | LivenessVerdict::Retain(_) => {
                None
            }
        }
    }
}
