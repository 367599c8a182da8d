//! What must never be.

use super::{ModelViolation, ModelWorld, index};
use pgraft_core::failover::Phase;

impl ModelWorld {
    /// Looks for what must never be.
    pub(super) fn look(&mut self) {
        let open: Vec<usize> = (0..self.nodes.len()).filter(|n| self.is_open(*n)).collect();
        for n in &open {
            let shown = self.nodes[*n]
                .wal
                .iter()
                .filter_map(|r| r.write)
                .fold(0, |all, write| all | 1u16 << write);
            // A write of this run shows only when its client was told; all older ones at once.
            let run = self.nodes[*n].run();
            let hidden = self.nodes[*n]
                .wal
                .iter()
                .skip(run.map_or(0, |r| r.began as usize))
                .filter_map(|r| r.write);
            let hidden = hidden.fold(0, |all, write| all | 1u16 << write) & !self.acknowledged;
            self.shown |= shown & !hidden;
        }
        if open.len() > 1 {
            self.violation = Some(ModelViolation::TwoOpenGates);
        }
        // Who is appointed has all that clients of earlier primary terms were told, and all that
        // they will be told.
        let primary_term = &self.last().primary_term;
        if primary_term.phase == Phase::Steady {
            let info = (0..12u8).filter(|w| {
                self.acknowledged >> w & 1 == 1 && self.made_in[*w as usize] < primary_term.epoch
            });
            if info.into_iter().any(|write| !self.nodes[index(primary_term.primary)].has(write)) {
                self.violation = Some(ModelViolation::AcknowledgedWriteMissing);
            }
        }
        for node in &self.nodes {
            let Some(run) = node.run() else { continue };
            if !run.open || run.epoch != self.opened {
                continue;
            }
            let lacks = |set: u16| (0..12u8).any(|write| set >> write & 1 == 1 && !node.has(write));
            if lacks(self.acknowledged) {
                self.violation = Some(ModelViolation::AcknowledgedWriteMissing);
            } else if lacks(self.shown) {
                self.violation = Some(ModelViolation::ShownAndTakenBack);
            }
        }
    }

    /// States that nobody can fall back to.
    pub(super) fn forget(&mut self) {
        let kept = self.nodes.iter().map(|n| n.applied).min().unwrap_or(0).saturating_sub(2);
        self.history.drain(..kept as usize);
        for node in &mut self.nodes {
            node.applied -= kept;
        }
    }
}
