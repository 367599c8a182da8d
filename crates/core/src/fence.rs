//! What a statement may do on a server whose failover pgraft decides. Called by the extension's
//! hooks, in every backend, before it happens.
//!
//! The gate is open while this server holds the primary's lease. Closed, nothing is confirmed to a
//! client and nothing that could be out of date is shown to one. What carries no promise
//! (maintenance, a superuser who looks after the server) goes on.

mod functions;

pub use functions::act_of_function;

/// Who runs the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A client.
    Client,
    /// A superuser over the Unix socket: somebody who looks after this very server.
    Local,
    /// Vacuum and its like, which promise nobody anything.
    Maintenance,
    /// Another background process, as a subscription's.
    Background,
}

/// What is about to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A statement that shows nothing of the databases' contents.
    Serve,
    /// A statement that reads.
    Read,
    /// A statement that writes.
    Write,
    /// The commit, or the preparation, of a transaction that wrote; the end of a prepared one.
    Commit,
}

/// What decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct FenceFacts {
    /// Who runs it.
    pub who: Who,
    /// What it does.
    pub act: Act,
    /// Whether this server is a standby: it promises nothing, and Postgres itself keeps it from
    /// writing.
    pub in_recovery: bool,
    /// Whether this server is in no cluster yet.
    pub bootstrapping: bool,
    /// Whether the lease stands.
    pub open: bool,
    /// `pgraft.fence_reads`
    pub fence_reads: bool,
    /// `pgraft.durability = strict`
    pub strict: bool,
    /// Whether the commit waits until a standby has it on disk (`synchronous_commit` is at least
    /// `on`).
    pub waits: bool,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceVerdict {
    /// It may.
    Go,
    /// No lease, no writes.
    NoWrites,
    /// No lease, no reads.
    NoReads,
    /// A commit that a failover could lose, under `pgraft.durability = strict`.
    NotDurable,
}

/// Whether it may.
pub fn decide(facts: &FenceFacts) -> FenceVerdict {
    let FenceFacts { who, act, in_recovery, bootstrapping, open, fence_reads, strict, waits } =
        *facts;
    // Before there is a cluster its bootstrap node makes the extension and calls pgraft_init().
    if in_recovery || who == Who::Maintenance || (bootstrapping && who == Who::Local) {
        return FenceVerdict::Go;
    }
    match act {
        Act::Read if !open && fence_reads && who == Who::Client => FenceVerdict::NoReads,
        // Told at once to people; a background process hears it when it commits.
        Act::Write if !open && who != Who::Background => FenceVerdict::NoWrites,
        Act::Commit if !open => FenceVerdict::NoWrites,
        Act::Commit if strict && !waits => FenceVerdict::NotDurable,
        Act::Serve | Act::Read | Act::Write | Act::Commit => FenceVerdict::Go,
    }
}

/// Settings that the members decide: the words of `ALTER SYSTEM` would outlast their decision.
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
    fn nobody_commits_behind_a_closed_gate() {
        for facts in all().filter(|f| f.act == Act::Commit && !f.open && !f.in_recovery) {
            let promises_nothing =
                facts.who == Who::Maintenance || (facts.bootstrapping && facts.who == Who::Local);
            assert_eq!(decide(&facts) == FenceVerdict::Go, promises_nothing, "{facts:?}");
        }
    }

    #[test]
    fn no_client_reads_behind_a_closed_gate_unless_the_setting_says_so() {
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
    fn whose_settings() {
        assert!(
            is_ours("Primary_ConnInfo")
                && is_ours("pgraft.failover")
                && is_ours("pgraft.sync_change")
        );
        assert!(!is_ours("pgraft.durability") && !is_ours("work_mem"));
    }

    #[test]
    fn strict_is_about_commits_alone() {
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
