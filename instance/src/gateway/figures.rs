//! What the gateway has done, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Counters of one gateway.
#[derive(Default)]
pub struct Figures {
    open: AtomicU64,
    held: AtomicU64,
    total: AtomicU64,
    cut: AtomicU64,
    refused: AtomicU64,
    came_last: Mutex<Option<Instant>>,
}

/// What they read at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// Clients that are passed on now.
    pub open: u64,
    /// Clients that wait for a primary now.
    pub held: u64,
    /// Clients that came.
    pub total: u64,
    /// Clients that were cut off because the primary was another one.
    pub cut: u64,
    /// Clients that were sent away with an error.
    pub refused: u64,
}

/// Counts for as long as it lives.
pub struct Counted<'a>(&'a AtomicU64);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn counted(figure: &AtomicU64) -> Counted<'_> {
    figure.fetch_add(1, Ordering::Relaxed);
    Counted(figure)
}

impl Figures {
    /// A client came.
    pub fn came(&self) {
        self.total.fetch_add(1, Ordering::Relaxed);
        *self.came_last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// When the latest client came.
    pub fn came_last(&self) -> Option<Instant> {
        *self.came_last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client is passed on.
    pub fn passes(&self) -> Counted<'_> {
        counted(&self.open)
    }

    /// A client waits.
    pub fn holds(&self) -> Counted<'_> {
        counted(&self.held)
    }

    /// A client was cut off.
    pub fn cuts(&self) {
        self.cut.fetch_add(1, Ordering::Relaxed);
    }

    /// A client was sent away.
    pub fn refuses(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// All of them.
    pub fn read(&self) -> Reading {
        let Self { open, held, total, cut, refused, came_last: _ } = self;
        let [open, held, total, cut, refused] =
            [open, held, total, cut, refused].map(|figure| figure.load(Ordering::Relaxed));
        Reading { open, held, total, cut, refused }
    }
}
