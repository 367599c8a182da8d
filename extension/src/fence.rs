//! The fence: keeps a server without the primary's lease from confirming writes and from showing
//! data that may be out of date.
//!
//! ```text
//!  hooks: a statement, a commit ──▶ check ──▶ pgraft_core::fence::decide ──▶ nothing, or an error
//!                                     └── gate, settings, pg/who.rs: who runs it
//! ```

use pgraft_core::fence::{Act, FenceFacts, FenceVerdict, Who, decide};
use pgraft_core::{NodeState, Primary, Refusal};

use crate::pg::command;
use crate::pg::who::{commit_waits, synchronous_commit, who};
use crate::shmem::{self, Published, gate};
use crate::{gucs, pg};

/// Returns why this process may not do that now, if so. On the main thread.
pub fn check(act: Act) -> Option<Refusal> {
    let open = gate::is_open();
    if open && !(act == Act::Commit && gucs::strict()) {
        return None;
    }
    let who = who();
    let facts = FenceFacts {
        who,
        act,
        in_recovery: pg::server::is_standby(),
        bootstrapping: who == Who::Local
            && matches!(act, Act::Write | Act::Commit)
            && bootstrapping(),
        open,
        fence_reads: gucs::fence_reads(),
        strict: gucs::strict(),
        waits: commit_waits(),
    };
    match decide(&facts) {
        FenceVerdict::Go => None,
        FenceVerdict::NoWrites => Some(Refusal::NoWrites(primary())),
        FenceVerdict::NoReads => Some(Refusal::NoReads(primary())),
        FenceVerdict::NotDurable => Some(Refusal::NotDurable(synchronous_commit().into())),
    }
}

/// Whether this node is not in a cluster yet. Waits for a worker that is starting.
fn bootstrapping() -> bool {
    matches!(command::published(), Published::Status(status) if status.state == NodeState::Uninitialized)
}

/// The server that takes writes, as far as the worker knows.
fn primary() -> Primary {
    let Published::Status(status) = shmem::read() else { return Primary::Unknown };
    match status.primary.filter(|_| shmem::is_fresh()) {
        None => Primary::Unknown,
        Some(id) if id == status.node_id => Primary::This,
        Some(node) => {
            let at =
                status.members.iter().find(|m| m.node_id == node).and_then(|m| m.postgres.clone());
            Primary::Other { node, at }
        }
    }
}
