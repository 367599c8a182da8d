//! How clients' sessions go on: the gate is asked as the extension's hooks ask it
//! (`pgraft_core::fence::decide`), a commit waits as Postgres has it wait.

use pgraft_core::failover::SyncConfig;
use pgraft_core::fence::{Act, FenceFacts, FenceVerdict, Who, decide};
use pgraft_raft::sim::Rules;
use rand::RngExt;

use super::run::SimServerMode;
use super::server::SimPostgres;
use super::session::{Backend, Stage};
use crate::clock::Time;
use crate::note::{Ask, ClientAnswer, Note};

impl SimPostgres {
    /// Every session goes on as far as it can.
    pub fn serve(&mut self, now: Time, rules: Rules, ids: &mut u64, notes: &mut Vec<Note>) {
        let Some(run) = &mut self.run else { return };
        for mut backend in std::mem::take(&mut run.backends) {
            let stays = backend.next > now || self.advance(&mut backend, now, rules, ids, notes);
            if let Some(run) = self.run.as_mut().filter(|_| stays) {
                run.backends.push(backend);
            }
        }
    }

    /// One stage further; whether the session stays.
    fn advance(
        &mut self,
        backend: &mut Backend,
        now: Time,
        rules: Rules,
        ids: &mut u64,
        notes: &mut Vec<Note>,
    ) -> bool {
        let request = backend.request;
        let mut answer = |answer| {
            notes.push(Note::Answers { request, answer });
            false
        };
        let Some(mode) = self.run.as_ref().map(|r| r.mode) else { return false };
        if mode != SimServerMode::Primary {
            return match backend.ask {
                Ask::Write(_) => answer(ClientAnswer::Refused),
                Ask::Read => answer(ClientAnswer::Nothing),
            };
        }
        let may = |server: &Self, act| !rules.fence || server.verdict(act, now) == FenceVerdict::Go;
        let (stage, wait) = match (backend.stage, backend.ask) {
            (Stage::Begins, Ask::Read) if may(self, Act::Read) => (Stage::Reads, self.delay(3, 80)),
            (Stage::Begins, Ask::Write(_)) if may(self, Act::Write) => {
                (Stage::Commits, self.delay(20, 400))
            }
            // The last moment at which the gate is asked; what comes after it may take any time.
            (Stage::Commits, _) if may(self, Act::Commit) => (Stage::Inserts, self.hesitates()),
            (Stage::Begins | Stage::Commits, _) => return answer(ClientAnswer::Refused),
            (Stage::Inserts, Ask::Write(row)) => {
                (Stage::Flushes(self.write(ids, Some(row))), self.delay(8, 60))
            }
            (Stage::Flushes(_), _) if self.disk_stands => (backend.stage, wait_for_standbys()),
            (Stage::Flushes(end), Ask::Write(row)) => {
                self.disk.flushed = self.disk.flushed.max(end);
                let waits = self.run.as_ref().is_some_and(|r| r.checkpointer.config().is_some());
                if !waits {
                    self.confirm(row, end, None, notes);
                    notes.push(Note::Answers { request, answer: ClientAnswer::Done });
                    return false;
                }
                (Stage::Waits(end), wait_for_standbys())
            }
            (Stage::Reads, _) => {
                let rows = self.run.as_ref().map(|r| r.visible.clone()).unwrap_or_default();
                return answer(ClientAnswer::Rows(rows));
            }
            (stage, _) => (stage, wait_for_standbys()),
        };
        backend.stage = stage;
        backend.next = now + wait;
        true
    }

    /// Between the gate and the record: a backend that the kernel does not run.
    fn hesitates(&mut self) -> Time {
        if self.rng.random_range(0..8) == 0 { self.between(50, 1500) } else { self.between(0, 5) }
    }

    fn verdict(&self, act: Act, now: Time) -> FenceVerdict {
        let facts = FenceFacts {
            who: Who::Client,
            act,
            in_recovery: false,
            bootstrapping: false,
            open: self.is_open(now),
            fence_reads: true,
            strict: false,
            waits: true,
        };
        decide(&facts)
    }

    /// The standbys have confirmed all up to there: whoever waits for no more goes on. Nobody asks
    /// the gate again.
    pub fn release(&mut self, upto: usize, config: &SyncConfig, notes: &mut Vec<Note>) {
        let Some(run) = &mut self.run else { return };
        run.observed.confirmed = run.observed.confirmed.max(upto);
        let (released, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut run.backends)
            .into_iter()
            .partition(|b| matches!(b.stage, Stage::Waits(end) if end <= upto));
        run.backends = waiting;
        for backend in released {
            if let (Ask::Write(row), Stage::Waits(end)) = (backend.ask, backend.stage) {
                self.confirm(row, end, Some(config.clone()), notes);
                notes.push(Note::Answers { request: backend.request, answer: ClientAnswer::Done });
            }
        }
    }

    /// From here on the row shows, and its client is told.
    fn confirm(&mut self, row: u32, end: usize, config: Option<SyncConfig>, notes: &mut Vec<Note>) {
        let Some(run) = &mut self.run else { return };
        run.visible.insert(row);
        let Some(record) = end.checked_sub(1).and_then(|n| self.disk.wal.get(n)) else { return };
        notes.push(Note::Confirms {
            node: self.number,
            timeline: run.timeline,
            row,
            record: record.id,
            config,
        });
    }
}

/// Until it is released: nothing happens by itself.
const fn wait_for_standbys() -> Time {
    Time::from_millis(20)
}
