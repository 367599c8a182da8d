//! A client's session on a server.

use crate::clock::Time;
use crate::note::Ask;

/// How far one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The statement begins.
    Begins,
    /// The transaction is to commit.
    Commits,
    /// It may, and its record is not written yet.
    Inserts,
    /// Its record ends there, and is not on disk.
    Flushes(usize),
    /// ... and is, and the standbys are waited for.
    Waits(usize),
    /// It may read.
    Reads,
}

/// One session with one statement.
#[derive(Debug, Clone)]
pub struct Backend {
    /// The request that it works on.
    pub request: u64,
    /// What is asked.
    pub ask: Ask,
    /// How far it is.
    pub stage: Stage,
    /// When it goes on.
    pub next: Time,
}

impl Backend {
    /// Begins then.
    pub const fn new(request: u64, ask: Ask, next: Time) -> Self {
        Self { request, ask, stage: Stage::Begins, next }
    }
}
