//! What the gateway counts, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

/// Counters of one gateway.
#[derive(Default)]
pub struct GatewayCounters {
    open: AtomicU64,
    held: AtomicU64,
    total: AtomicU64,
    cut: AtomicU64,
    refused: AtomicU64,
    last_client_at: Mutex<Option<Instant>>,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GatewayReading {
    /// Clients that are forwarded now.
    pub open: u64,
    /// Clients that are held now.
    pub held: u64,
    /// Clients that have sent a request.
    pub total: u64,
    /// Clients that were disconnected because the primary changed.
    pub cut: u64,
    /// Clients that were rejected with an error.
    pub refused: u64,
}

/// Counts one client until it is dropped.
pub struct Counted<'a>(&'a AtomicU64);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn counted(counter: &AtomicU64) -> Counted<'_> {
    counter.fetch_add(1, Ordering::Relaxed);
    Counted(counter)
}

impl GatewayCounters {
    /// Counts a client's first request.
    pub fn count_client(&self) {
        self.total.fetch_add(1, Ordering::Relaxed);
        *self.last_client_at.lock() = Some(Instant::now());
    }

    /// When the latest client sent its first request.
    pub fn last_client_at(&self) -> Option<Instant> {
        *self.last_client_at.lock()
    }

    /// Counts a forwarded client until the result is dropped.
    pub fn count_open(&self) -> Counted<'_> {
        counted(&self.open)
    }

    /// Counts a held client until the result is dropped.
    pub fn count_held(&self) -> Counted<'_> {
        counted(&self.held)
    }

    /// Counts a client that is disconnected because the primary changed.
    pub fn count_cut(&self) {
        self.cut.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a rejected client.
    pub fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// All counters.
    pub fn read(&self) -> GatewayReading {
        let Self { open, held, total, cut, refused, last_client_at: _ } = self;
        let [open, held, total, cut, refused] =
            [open, held, total, cut, refused].map(|counter| counter.load(Ordering::Relaxed));
        GatewayReading { open, held, total, cut, refused }
    }
}
