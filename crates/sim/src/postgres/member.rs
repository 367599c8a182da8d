//! The member's end of its Postgres: the trait as the worker's threads have it. Orders are left
//! here, the last look is read here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgraft_core::failover::lease::BootTime;
use pgraft_raft::{PostgresControl, ServerDirective, ServerRepair, ServerState};

use super::disk::SimData;
use crate::clock::{self, Time};

/// What the worker's threads and its main thread have in common.
pub struct Desk {
    seen: Mutex<Option<ServerState>>,
    direct: Mutex<Option<ServerDirective>>,
    /// In the server's shared memory: until when the gate is open, by this machine's clock; 0 is
    /// closed.
    gate: Arc<AtomicU64>,
    /// What the clock said when the simulation began.
    booted: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A machine's boot-time clock; no two machines' are alike.
pub fn boot_time(now: Time, booted: u64) -> u64 {
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX).saturating_add(booted)
}

impl Desk {
    /// Of a worker that has just begun.
    pub fn new(gate: Arc<AtomicU64>, booted: u64) -> Self {
        Self { seen: Mutex::default(), direct: Mutex::default(), gate, booted }
    }

    /// The last order.
    pub fn ordered(&self) -> Option<ServerDirective> {
        lock(&self.direct).clone()
    }

    /// Leaves a look; whether it is news.
    pub fn saw(&self, observed: Option<ServerState>) -> bool {
        let mut seen = lock(&self.seen);
        let news = *seen != observed;
        *seen = observed;
        news
    }
}

impl PostgresControl for Desk {
    fn now(&self) -> BootTime {
        BootTime(boot_time(clock::here().unwrap_or_default(), self.booted))
    }

    fn observed(&self) -> Option<ServerState> {
        lock(&self.seen).clone()
    }

    fn direct(&self, direct: ServerDirective, _hurry: bool) {
        *lock(&self.direct) = Some(direct);
    }

    fn gate(&self, until: Option<BootTime>) {
        self.gate.store(until.map_or(0, |BootTime(ms)| ms), Ordering::SeqCst);
    }
}

/// What the member has in place of a server that can't run: as `instance/src/stand.rs` does.
pub struct StandIn {
    diverged_in: Option<u64>,
    booted: u64,
}

impl StandIn {
    /// Over that data directory.
    pub fn new(data: SimData, booted: u64) -> Self {
        let diverged_in = if let SimData::Broken(epoch) = data { Some(epoch) } else { None };
        Self { diverged_in, booted }
    }
}

impl PostgresControl for StandIn {
    fn now(&self) -> BootTime {
        BootTime(boot_time(clock::here().unwrap_or_default(), self.booted))
    }

    fn observed(&self) -> Option<ServerState> {
        None
    }

    fn repair(&self) -> Option<ServerRepair> {
        Some(ServerRepair { diverged_in: self.diverged_in })
    }

    fn direct(&self, _order: ServerDirective, _hurry: bool) {}

    fn gate(&self, _until: Option<BootTime>) {}
}
