//! What happens to the databases, as it is told: to the story, and to the invariants.

use std::collections::BTreeSet;

use pgraft_core::failover::SyncConfig;

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// A row of its own.
    Write(u32),
    /// All rows.
    Read,
}

/// What it hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAnswer {
    /// The row is committed.
    Done,
    /// All rows, by a primary.
    Rows(BTreeSet<u32>),
    /// It is not done, and never will be.
    Refused,
    /// A standby's word, which promises nothing.
    Nothing,
}

/// What has happened to the databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The postmaster starts the worker.
    WorkerBegins {
        /// Where.
        machine: u32,
    },
    /// The worker ends with its server.
    WorkerEnds {
        /// Where.
        machine: u32,
    },
    /// The member goes on in the instance manager, unless it does already: no server can run.
    StandsIn {
        /// Where.
        machine: u32,
    },
    /// The worker has its server end.
    Stops {
        /// Whose.
        node: u32,
    },
    /// The instance manager kills the server.
    Kills {
        /// Whose.
        node: u32,
        /// Why.
        why: String,
    },
    /// A promotion has taken its number.
    Promotes {
        /// Whose.
        node: u32,
        /// The number.
        timeline: u32,
    },
    /// A promotion is complete.
    Promoted {
        /// Whose.
        node: u32,
        /// The number.
        timeline: u32,
        /// The end of the WAL then.
        upto: usize,
    },
    /// `synchronous_standby_names` are written.
    NamesChange {
        /// Where.
        node: u32,
    },
    /// The gate opens.
    GateOpens {
        /// Whose.
        node: u32,
        /// On this timeline.
        timeline: u32,
        /// The last record that was there when the server became a primary.
        began: u64,
        /// Whom commits wait for, when it opens for the first time and the worker has said so.
        config: Option<SyncConfig>,
        /// What a read shows.
        rows: BTreeSet<u32>,
    },
    /// These gates are open, and were not before.
    Open(Vec<u32>),
    /// A commit is confirmed: it shows from now on.
    Confirms {
        /// By this primary.
        node: u32,
        /// On this timeline.
        timeline: u32,
        /// The row.
        row: u32,
        /// Its record.
        record: u64,
        /// By these names; None where none are set.
        config: Option<SyncConfig>,
    },
    /// A standby may stream.
    Streams {
        /// From this server.
        node: u32,
        /// The standby.
        standby: u32,
        /// Where it has another record than that server, if it has.
        diverged: Option<usize>,
    },
    /// A standby may not stream.
    Refuses {
        /// From this server.
        node: u32,
        /// The standby.
        standby: u32,
        /// In Postgres' words.
        why: &'static str,
    },
    /// A rewind begins.
    Rewinds {
        /// Whose.
        node: u32,
        /// To whose history.
        from: u32,
    },
    /// A rewind or a clone is done.
    Copied {
        /// Whose.
        node: u32,
        /// From.
        from: u32,
        /// What it changed.
        how: String,
    },
    /// A client asks.
    Asks {
        /// The number of the request.
        request: u64,
        /// What.
        ask: Ask,
        /// Whom.
        node: u32,
    },
    /// A session answers; the client hears it a little later.
    Answers {
        /// The number of the request.
        request: u64,
        /// What it says.
        answer: ClientAnswer,
    },
    /// A client hears what has become of it; None where it does not.
    Hears {
        /// The number of the request.
        request: u64,
        /// What it had asked.
        ask: Ask,
        /// What it hears.
        answer: Option<ClientAnswer>,
    },
}
