//! Classifies functions for the fence. `extension/tests/catalog` compares this with `pg_proc` and the
//! system views of a real server.
//!
//! Statements that a function runs are checked on their own. What remains are functions in C:
//!
//! - Functions of Postgres that are not volatile compute something, or show catalogs and statistics.
//!   Volatile ones count as reads unless they are listed, so a function of a new version of Postgres
//!   is refused until it has been classified.
//! - Volatile functions of extensions and users count as reads.

use super::Act;

/// Functions that take a transaction id, write WAL without a commit, or change values that a later
/// primary would assign again.
const WRITE: [&str; 27] = [
    "brin_desummarize_range",
    "brin_summarize_new_values",
    "brin_summarize_range",
    "gin_clean_pending_list",
    "lo_creat",
    "lo_create",
    "lo_from_bytea",
    "lo_import",
    "lo_put",
    "lo_truncate",
    "lo_truncate64",
    "lo_unlink",
    "lowrite",
    "nextval",
    "pg_create_logical_replication_slot",
    "pg_current_xact_id",
    "pg_import_system_collations",
    "pg_logical_emit_message",
    "pg_nextoid",
    "pg_notify",
    "pg_replication_origin_advance",
    "pg_replication_origin_create",
    "pg_replication_origin_drop",
    "pg_replication_origin_session_setup",
    "pg_replication_origin_xact_setup",
    "setval",
    "txid_current",
];

/// Volatile functions that neither show nor change the contents of databases: they concern the
/// server's state, settings, physical slots and sizes, and the files that `pg_rewind` reads.
const SERVE: [&str; 54] = [
    "amvalidate",
    "clock_timestamp",
    "current_query",
    "gen_random_uuid",
    "pg_available_wal_summaries",
    "pg_blocking_pids",
    "pg_cancel_backend",
    "pg_collation_actual_version",
    "pg_config",
    "pg_create_physical_replication_slot",
    "pg_database_collation_actual_version",
    "pg_database_size",
    "pg_drop_replication_slot",
    "pg_get_aios",
    "pg_get_backend_memory_contexts",
    "pg_get_shmem_allocations",
    "pg_get_shmem_allocations_numa",
    "pg_get_wait_events",
    "pg_get_wal_replay_pause_state",
    "pg_get_wal_resource_managers",
    "pg_get_wal_summarizer_state",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_indexes_size",
    "pg_isolation_test_session_is_blocked",
    "pg_jit_available",
    "pg_lock_status",
    "pg_log_backend_memory_contexts",
    "pg_notification_queue_usage",
    "pg_numa_available",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_prepared_xact",
    "pg_relation_size",
    "pg_reload_conf",
    "pg_rotate_logfile",
    "pg_safe_snapshot_blocking_pids",
    "pg_sequence_last_value",
    "pg_show_all_file_settings",
    "pg_show_replication_origin_status",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_terminate_backend",
    "pg_total_relation_size",
    "random",
    "random_normal",
    "set_config",
    "setseed",
    "timeofday",
    "uuidv4",
    "uuidv7",
];
const SERVE_BEGINNINGS: [&str; 7] =
    ["pg_control_", "pg_current_", "pg_is_", "pg_last_", "pg_ls_", "pg_read_", "pg_stat_"];
/// Functions with such a prefix that show what was committed.
const READ_FUNCTIONS: [&str; 1] = ["pg_last_committed_xact"];

/// Classifies a call of a function.
pub fn act_of_function(name: &str, is_volatile: bool, is_postgres_own: bool) -> Act {
    if name.starts_with("pgraft_") {
        return Act::Serve;
    }
    if is_postgres_own && WRITE.contains(&name) {
        return Act::Write;
    }
    let listed = SERVE.contains(&name)
        || (SERVE_BEGINNINGS.iter().any(|b| name.starts_with(b))
            && !READ_FUNCTIONS.contains(&name));
    if !is_volatile || (is_postgres_own && listed) { Act::Serve } else { Act::Read }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classifies_functions() {
        for served in [
            "pg_is_in_recovery",
            "pg_read_binary_file",
            "set_config",
            "pg_stat_get_activity",
            "pg_database_size",
        ] {
            assert_eq!(
                (act_of_function(served, true, true), act_of_function(served, true, false)),
                (Act::Serve, Act::Read),
                "{served}"
            );
        }
        assert_eq!(act_of_function("pgraft_status", true, false), Act::Serve);
        for read in [
            "lo_get",
            "loread",
            "pg_try_advisory_lock",
            "pg_logical_slot_get_changes",
            "pg_xact_status",
            "pg_last_committed_xact",
        ] {
            assert_eq!(act_of_function(read, true, true), Act::Read, "{read}");
        }
        // Postgres calls the first two stable.
        for (write, is_volatile) in [
            ("txid_current", false),
            ("pg_current_xact_id", false),
            ("nextval", true),
            ("pg_notify", true),
        ] {
            assert_eq!(act_of_function(write, is_volatile, true), Act::Write, "{write}");
        }
        // Functions of users may have any name.
        assert_eq!(
            (act_of_function("nextval", true, false), act_of_function("nextval", false, false)),
            (Act::Read, Act::Serve)
        );
        assert_eq!(
            (act_of_function("my_function", true, false), act_of_function("lower", false, true)),
            (Act::Read, Act::Serve)
        );
    }

    #[test]
    fn no_name_is_listed_twice() {
        let all: std::collections::BTreeSet<&str> =
            WRITE.into_iter().chain(SERVE).chain(READ_FUNCTIONS).collect();
        assert_eq!(all.len(), WRITE.len() + SERVE.len() + READ_FUNCTIONS.len());
    }
}
