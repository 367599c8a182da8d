//! The replication slots of the other members. With failover every server has one for each other
//! member, so that a new primary has them at once. Without failover each standby creates its own
//! slot, and only the slots of removed members are dropped here.

mod activity;

use pgraft_core::NodeId;
use pgraft_core::instance_config::replication_name;
use pgraft_core::instance_file::InstanceFile;
use std::time::Duration;
use tokio_postgres::Client;

pub use activity::SlotActivity;

use super::ProvisioningError;
use crate::postgres::config;
use crate::postgres::wal_space::WalDisk;
use crate::settings::Settings;
use crate::upstream;

const QUERY: &str = "SELECT slot_name::text, active, (restart_lsn - '0/0')::bigint, \
     coalesce(CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_lsn() - restart_lsn END, 0)::bigint \
     FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical'";
const CREATE: &str = "SELECT pg_catalog.pg_create_physical_replication_slot($1)";
const DROP: &str = "SELECT pg_catalog.pg_drop_replication_slot($1)";

/// Drops the failover slots of a former primary: they keep the current primary's slots from being
/// synchronized. (Postgres 17)
const DROP_FORMER: &str = "SELECT slot_name::text, pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
     WHERE slot_type = 'logical' AND failover AND NOT synced AND NOT active";

/// The role of the local server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotsRole {
    /// It sends WAL.
    Primary,
    /// It sends no WAL, so a slot that keeps WAL serves no member.
    Standby,
}

/// A physical slot.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    name: String,
    /// A walsender uses it.
    active: bool,
    /// Where the WAL that it keeps begins; None if it was never used or reserved.
    restart_lsn: Option<i64>,
    /// On a primary: the bytes of WAL since `restart_lsn`.
    kept: i64,
}

/// The minimum size of the WAL, in bytes, that a slot on a nearly full disk is dropped for. Less
/// does not justify that the member has to be cloned.
const MIN_FREED: i64 = 256 << 20;

/// How long a member's slot survives on a nearly full disk after its last activity.
const MAX_ABSENCE: Duration = Duration::from_mins(5);

#[derive(Debug, Clone, PartialEq, Eq)]
enum SlotStep {
    Drop(String),
    Create(String),
}

/// Creates and drops slots. This writes no WAL, so it works on a standby and on a fenced primary.
/// `now` is a monotonic time.
pub async fn maintain(
    settings: &Settings,
    client: &Client,
    role: SlotsRole,
    activity: &mut SlotActivity,
    now: Duration,
) -> Result<(), ProvisioningError> {
    let Some(file) = upstream::instance_file(&settings.paths, settings.node)? else {
        return Ok(());
    };
    if role == SlotsRole::Standby && !settings.failover {
        return Ok(());
    }
    let mut slots = vec![];
    for row in client.query(QUERY, &[]).await? {
        slots.push(Slot {
            name: row.try_get(0)?,
            active: row.try_get(1)?,
            restart_lsn: row.try_get(2)?,
            kept: row.try_get(3)?,
        });
    }
    activity.observe(now, slots.iter().map(|s| (s.name.as_str(), s.active, s.restart_lsn)));
    let short = role == SlotsRole::Primary
        && WalDisk::of(&settings.paths.data).is_some_and(WalDisk::is_short);
    for slot in slots
        .iter_mut()
        .filter(|slot| short && is_expendable(&file, slot, activity.absence(&slot.name, now)))
    {
        client.execute(DROP, &[&slot.name]).await?;
        client.batch_execute("CHECKPOINT").await?;
        tracing::warn!(
            slot = slot.name,
            bytes = slot.kept,
            "the disk is nearly full; dropped the replication slot of an absent member, which must be cloned when it returns"
        );
        slot.name.clear();
    }
    slots.retain(|slot| !slot.name.is_empty());
    for step in steps(&file, settings.failover, role, &slots) {
        match step {
            SlotStep::Drop(slot) => {
                client.execute(DROP, &[&slot]).await?;
                tracing::info!(slot, "dropped an unused replication slot");
            }
            SlotStep::Create(slot) => drop(client.execute(CREATE, &[&slot]).await?),
        }
    }
    if role == SlotsRole::Standby && config::keeps_logical_slots(settings) {
        for row in client.query(DROP_FORMER, &[]).await? {
            let slot: String = row.try_get(0)?;
            tracing::info!(
                slot,
                "dropped a logical replication slot from this server's time as the primary"
            );
        }
    }
    Ok(())
}

fn steps(file: &InstanceFile, failover: bool, role: SlotsRole, slots: &[Slot]) -> Vec<SlotStep> {
    let others: Vec<String> = file
        .members
        .iter()
        .map(|m| m.node_id)
        .filter(|id| *id != file.node_id)
        .map(replication_name)
        .collect();
    let goes = |slot: &Slot| {
        let Some(node) = owner(&slot.name) else { return false };
        let retired = file.retired.contains(&node);
        !slot.active
            && (retired
                || (failover
                    && (node == file.node_id
                        || (role == SlotsRole::Standby && slot.restart_lsn.is_some()))))
    };
    let dropped: Vec<String> =
        slots.iter().filter(|slot| goes(slot)).map(|slot| slot.name.clone()).collect();
    let stays =
        |name: &String| slots.iter().any(|slot| slot.name == *name) && !dropped.contains(name);
    let created: Vec<String> = others.into_iter().filter(|name| failover && !stays(name)).collect();
    dropped
        .into_iter()
        .map(SlotStep::Drop)
        .chain(created.into_iter().map(SlotStep::Create))
        .collect()
}

/// Whether a nearly full disk justifies dropping this slot: it keeps much WAL, and its owner is
/// not a member or has been absent for long.
fn is_expendable(file: &InstanceFile, slot: &Slot, absence: Duration) -> bool {
    let Some(node) = owner(&slot.name) else { return false };
    let is_member = file.members.iter().any(|member| member.node_id == node);
    !slot.active && slot.kept > MIN_FREED && (!is_member || absence >= MAX_ABSENCE)
}

/// The node that a slot belongs to; None for slots that pgraft did not create.
fn owner(name: &str) -> Option<NodeId> {
    let id = NodeId::new(name.strip_prefix("pgraft_")?.parse().ok()?).ok()?;
    (replication_name(id) == name).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Node 1 of the members 1, 2, 3; 7 was one.
    fn file() -> InstanceFile {
        let members: Vec<_> = (1..=3).map(|n| json!({"node_id": n, "postgres": null})).collect();
        serde_json::from_value(json!({
            "format": 1, "cluster_id": "67e55044-10b1-426f-9247-bb680e5fe0c8", "node_id": 1, "epoch": 1, "primary": 1, "members": members, "retired": [7],
        }))
        .unwrap()
    }

    fn slot(name: &str, active: bool, holds: bool) -> Slot {
        Slot { name: name.into(), active, restart_lsn: holds.then_some(1), kept: 0 }
    }

    fn planned(failover: bool, role: SlotsRole, slots: &[Slot]) -> Vec<String> {
        let text = |step| match step {
            SlotStep::Drop(name) => format!("drop {name}"),
            SlotStep::Create(name) => format!("create {name}"),
        };
        steps(&file(), failover, role, slots).into_iter().map(text).collect()
    }

    #[test]
    fn every_server_has_a_slot_for_each_other_member() {
        for role in [SlotsRole::Primary, SlotsRole::Standby] {
            assert_eq!(planned(true, role, &[]), ["create pgraft_2", "create pgraft_3"]);
            assert_eq!(
                planned(
                    true,
                    role,
                    &[slot("pgraft_2", false, false), slot("pgraft_3", true, true)]
                ),
                [""; 0]
            );
        }
    }

    #[test]
    fn a_standby_keeps_no_wal_for_other_members() {
        let slots = [
            slot("pgraft_2", false, true),
            slot("pgraft_3", true, true),
            slot("pgraft_9", false, true),
            slot("mine", false, true),
        ];
        assert_eq!(
            planned(true, SlotsRole::Standby, &slots),
            ["drop pgraft_2", "drop pgraft_9", "create pgraft_2"]
        );
        assert_eq!(
            planned(true, SlotsRole::Primary, &slots),
            [""; 0],
            "node 9 may be about to join"
        );
    }

    #[test]
    fn a_nearly_full_disk_costs_only_slots_of_absent_members() {
        let expendable =
            |slot: &Slot, seconds| is_expendable(&file(), slot, Duration::from_secs(seconds));
        let much = |slot: Slot| Slot { kept: MIN_FREED + 1, ..slot };
        let away = much(slot("pgraft_2", false, true));
        assert!(expendable(&away, 300));
        assert!(!expendable(&away, 299), "node 2 is a member and was active recently");
        assert!(expendable(&much(slot("pgraft_9", false, true)), 0), "node 9 is not a member");
        assert!(!expendable(&much(slot("pgraft_2", true, true)), 300), "it is in use");
        assert!(!expendable(&much(slot("mine", false, true)), 300), "not a slot of pgraft");
        assert!(!expendable(&slot("pgraft_2", false, true), 300), "it keeps little WAL");
    }

    #[test]
    fn slots_of_removed_members_and_of_this_one_are_dropped() {
        let slots = ["pgraft_1", "pgraft_7", "pgraft_2", "pgraft_3", "pgraft_07", "pgraft_x"]
            .map(|name| slot(name, false, false));
        for role in [SlotsRole::Primary, SlotsRole::Standby] {
            assert_eq!(planned(true, role, &slots), ["drop pgraft_1", "drop pgraft_7"]);
        }
        assert_eq!(planned(false, SlotsRole::Primary, &slots), ["drop pgraft_7"]);
        assert_eq!(
            planned(false, SlotsRole::Primary, &[slot("pgraft_7", true, true)]),
            [""; 0],
            "it still streams"
        );
    }
}
