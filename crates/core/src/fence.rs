//! Whether a statement may run on a server with `pgraft.failover`. The extension's hooks ask before
//! every statement and commit, in every backend.
//!
//! The gate is open while this server holds the primary's lease. While it is closed, no write is
//! confirmed to a client and no data is shown that may be out of date. Maintenance and local
//! superusers are exempt where nothing is promised to a client.

mod functions;

pub use functions::act_of_function;

/// Who runs the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A client.
    Client,
    /// A superuser connected through the Unix socket, for maintenance of this server.
    Local,
    /// Autovacuum.
    Maintenance,
    /// Another background process, such as a logical replication worker.
    Background,
}

/// What a statement does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It does not access the contents of databases.
    Serve,
    /// It reads.
    Read,
    /// It writes.
    Write,
    /// It commits or prepares a transaction that has written, or ends a prepared one.
    Commit,
}

/// The facts of the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct FenceFacts {
    /// Who runs the statement.
    pub who: Who,
    /// What the statement does.
    pub act: Act,
    /// Whether this server is a standby, which Postgres itself keeps from writing.
    pub in_recovery: bool,
    /// Whether this server is not in a cluster yet.
    pub bootstrapping: bool,
    /// Whether the gate is open.
    pub open: bool,
    /// `pgraft.fence_reads`
    pub fence_reads: bool,
    /// `pgraft.durability = strict`
    pub strict: bool,
    /// Whether the commit waits until a standby has flushed it (`synchronous_commit` is at least
    /// `on`).
    pub waits: bool,
}

/// The decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceVerdict {
    /// The statement may run.
    Go,
    /// Writes are refused without the lease.
    NoWrites,
    /// Reads are refused without the lease.
    NoReads,
    /// A commit that a failover could lose, under `pgraft.durability = strict`.
    NotDurable,
}

/// Decides whether the statement may run.
pub fn decide(facts: &FenceFacts) -> FenceVerdict {
    let FenceFacts { who, act, in_recovery, bootstrapping, open, fence_reads, strict, waits } =
        *facts;
    // Before the cluster exists, CREATE EXTENSION and pgraft_init() must work.
    if in_recovery || who == Who::Maintenance || (bootstrapping && who == Who::Local) {
        return FenceVerdict::Go;
    }
    match act {
        Act::Read if !open && fence_reads && who == Who::Client => FenceVerdict::NoReads,
        // Background processes are refused at the commit only.
        Act::Write if !open && who != Who::Background => FenceVerdict::NoWrites,
        Act::Commit if !open => FenceVerdict::NoWrites,
        Act::Commit if strict && !waits => FenceVerdict::NotDurable,
        Act::Serve | Act::Read | Act::Write | Act::Commit => FenceVerdict::Go,
    }
}

/// Whether the members decide a setting, so that `ALTER SYSTEM` must not change it.
pub fn is_ours(setting: &str) -> bool {
    const OURS: [&str; 4] = [
        "synchronous_standby_names",
        "primary_conninfo",
        "primary_slot_name",
        "recovery_target_timeline",
    ];
    const YOURS: [&str; 2] = ["pgraft.durability", "pgraft.fence_reads"];
    let setting = setting.to_ascii_lowercase();
    OURS.contains(&setting.as_str())
        || (setting.starts_with("pgraft.") && !YOURS.contains(&setting.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: [Who; 4] = [Who::Client, Who::Local, Who::Maintenance, Who::Background];
    const ACTS: [Act; 4] = [Act::Serve, Act::Read, Act::Write, Act::Commit];
    const BOTH: [bool; 2] = [false, true];

    /// Every combination of the facts.
    fn all() -> impl Iterator<Item = FenceFacts> {
        let flags = (0_u32..64).map(|bits| move |n: u32| bits >> n & 1 == 1);
        flags.flat_map(|flag| {
            WHO.into_iter().flat_map(move |who| {
                ACTS.into_iter().map(move |act| FenceFacts {
                    who,
                    act,
                    in_recovery: flag(0),
                    bootstrapping: flag(1),
                    open: flag(2),
                    fence_reads: flag(3),
                    strict: flag(4),
                    waits: flag(5),
                })
            })
        })
    }

    #[test]
    fn the_table() {
        use FenceVerdict::{Go, NoReads, NoWrites};
        let table = [
            // act, closed: [client, local, maintenance, background]
            (Act::Serve, [Go, Go, Go, Go]),
            (Act::Read, [NoReads, Go, Go, Go]),
            (Act::Write, [NoWrites, NoWrites, Go, Go]),
            (Act::Commit, [NoWrites, NoWrites, Go, NoWrites]),
        ];
        for (act, verdicts) in table {
            for (who, wanted) in WHO.into_iter().zip(verdicts) {
                let facts = FenceFacts {
                    who,
                    act,
                    in_recovery: false,
                    bootstrapping: false,
                    open: false,
                    fence_reads: true,
                    strict: false,
                    waits: true,
                };
                assert_eq!(decide(&facts), wanted, "{facts:?}");
                assert_eq!(decide(&FenceFacts { open: true, ..facts }), Go);
                assert_eq!(decide(&FenceFacts { in_recovery: true, ..facts }), Go);
            }
        }
    }

    #[test]
    fn no_commit_passes_a_closed_gate() {
        for facts in all().filter(|f| f.act == Act::Commit && !f.open && !f.in_recovery) {
            let promises_nothing =
                facts.who == Who::Maintenance || (facts.bootstrapping && facts.who == Who::Local);
            assert_eq!(decide(&facts) == FenceVerdict::Go, promises_nothing, "{facts:?}");
        }
    }

    #[test]
    fn no_client_reads_through_a_closed_gate_unless_fence_reads_is_off() {
        for facts in all().filter(|f| f.act == Act::Read && f.who == Who::Client && !f.in_recovery)
        {
            assert_eq!(
                decide(&facts) == FenceVerdict::NoReads,
                !facts.open && facts.fence_reads,
                "{facts:?}"
            );
        }
    }

    #[test]
    fn settings_of_the_members_and_of_the_user() {
        assert!(
            is_ours("Primary_ConnInfo")
                && is_ours("pgraft.failover")
                && is_ours("pgraft.sync_change")
        );
        assert!(!is_ours("pgraft.durability") && !is_ours("work_mem"));
    }

    #[test]
    fn strict_affects_commits_only() {
        for facts in all().filter(|f| f.open) {
            for in_recovery in BOTH {
                let facts = FenceFacts { in_recovery, ..facts };
                let weak = facts.strict && !facts.waits && facts.act == Act::Commit && !in_recovery;
                let exempt = facts.who == Who::Maintenance
                    || (facts.bootstrapping && facts.who == Who::Local);
                assert_eq!(
                    decide(&facts) == FenceVerdict::NotDurable,
                    weak && !exempt,
                    "{facts:?}"
                );
            }
        }
    }
}
