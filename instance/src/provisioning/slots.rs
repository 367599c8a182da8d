//! The replication slots of the other members. Where the members choose the primary every server
//! has one for everybody else, so that whoever is promoted has them at once; elsewhere a standby
//! makes its own, and here only those of removed members are seen to.

use pgraft_core::NodeId;
use pgraft_core::instance_config::replication_name;
use pgraft_core::instance_file::InstanceFile;
use tokio_postgres::Client;

use super::ProvisioningError;
use crate::postgres::config;
use crate::postgres::wal_space::WalDisk;
use crate::settings::Settings;
use crate::upstream;

const QUERY: &str = "SELECT slot_name::text, active, restart_lsn IS NOT NULL, \
     coalesce(CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_lsn() - restart_lsn END, 0)::bigint \
     FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical'";
const CREATE: &str = "SELECT pg_catalog.pg_create_physical_replication_slot($1)";
const DROP: &str = "SELECT pg_catalog.pg_drop_replication_slot($1)";

/// Those of a primary that is a standby now: in the way of the present primary's, which are to be
/// copied here. (Postgres 17)
const DROP_FORMER: &str = "SELECT slot_name::text, pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
     WHERE slot_type = 'logical' AND failover AND NOT synced AND NOT active";

/// What the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotsRole {
    /// It sends WAL.
    Primary,
    /// It sends none, and whatever a slot holds on to is held for nobody.
    Standby,
}

/// A physical slot.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    name: String,
    /// Somebody streams by it.
    active: bool,
    /// It keeps WAL: it was used, or reserved.
    holds: bool,
    /// On a primary: how many bytes of WAL there are from where it begins.
    kept: i64,
}

/// Less than this is not worth a clone of a member that comes back.
const WORTH: i64 = 256 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
enum SlotStep {
    Drop(String),
    Create(String),
}

/// Makes the slots what they should be. Nothing is written to the WAL by it, so that it works on a
/// standby and on a fenced primary.
pub async fn tend(
    settings: &Settings,
    client: &Client,
    role: SlotsRole,
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
            holds: row.try_get(2)?,
            kept: row.try_get(3)?,
        });
    }
    let short = WalDisk::of(&settings.paths.data).is_some_and(WalDisk::is_short);
    for slot in
        slots.iter_mut().filter(|slot| short && role == SlotsRole::Primary && gives_way(slot))
    {
        client.execute(DROP, &[&slot.name]).await?;
        client.batch_execute("CHECKPOINT").await?;
        tracing::warn!(
            slot = slot.name,
            bytes = slot.kept,
            "the disk is nearly full: no more WAL is kept for a member that is away"
        );
        slot.name.clear();
    }
    slots.retain(|slot| !slot.name.is_empty());
    for step in steps(&file, settings.failover, role, &slots) {
        match step {
            SlotStep::Drop(slot) => {
                client.execute(DROP, &[&slot]).await?;
                tracing::info!(slot, "dropped a replication slot that nobody uses here");
            }
            SlotStep::Create(slot) => drop(client.execute(CREATE, &[&slot]).await?),
        }
    }
    if role == SlotsRole::Standby && config::keeps_logical_slots(settings) {
        for row in client.query(DROP_FORMER, &[]).await? {
            let slot: String = row.try_get(0)?;
            tracing::info!(
                slot,
                "dropped a logical replication slot of this server's own primary term"
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
                    && (node == file.node_id || (role == SlotsRole::Standby && slot.holds))))
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

/// Whether this slot keeps much WAL for a member that is not there.
fn gives_way(slot: &Slot) -> bool {
    owner(&slot.name).is_some() && !slot.active && slot.kept > WORTH
}

/// Whose slot it is; None for those of others than pgraft.
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
        Slot { name: name.into(), active, holds, kept: 0 }
    }

    fn words(failover: bool, role: SlotsRole, slots: &[Slot]) -> Vec<String> {
        let word = |step| match step {
            SlotStep::Drop(name) => format!("drop {name}"),
            SlotStep::Create(name) => format!("create {name}"),
        };
        steps(&file(), failover, role, slots).into_iter().map(word).collect()
    }

    #[test]
    fn everybody_has_one_for_everybody_else() {
        for role in [SlotsRole::Primary, SlotsRole::Standby] {
            assert_eq!(words(true, role, &[]), ["create pgraft_2", "create pgraft_3"]);
            assert_eq!(
                words(true, role, &[slot("pgraft_2", false, false), slot("pgraft_3", true, true)]),
                [""; 0]
            );
        }
    }

    #[test]
    fn a_standby_holds_no_wal_for_anybody() {
        let slots = [
            slot("pgraft_2", false, true),
            slot("pgraft_3", true, true),
            slot("pgraft_9", false, true),
            slot("mine", false, true),
        ];
        assert_eq!(
            words(true, SlotsRole::Standby, &slots),
            ["drop pgraft_2", "drop pgraft_9", "create pgraft_2"]
        );
        assert_eq!(words(true, SlotsRole::Primary, &slots), [""; 0], "node 9 may be about to join");
    }

    #[test]
    fn on_a_full_disk_those_of_members_that_are_away_go() {
        let much = |slot: Slot| Slot { kept: WORTH + 1, ..slot };
        assert!(gives_way(&much(slot("pgraft_2", false, true))));
        assert!(!gives_way(&much(slot("pgraft_2", true, true))), "it streams");
        assert!(!gives_way(&much(slot("mine", false, true))), "somebody else's");
        assert!(!gives_way(&slot("pgraft_2", false, true)), "little is won");
    }

    #[test]
    fn what_a_removed_member_and_this_one_left_goes() {
        let slots = ["pgraft_1", "pgraft_7", "pgraft_2", "pgraft_3", "pgraft_07", "pgraft_x"]
            .map(|name| slot(name, false, false));
        for role in [SlotsRole::Primary, SlotsRole::Standby] {
            assert_eq!(words(true, role, &slots), ["drop pgraft_1", "drop pgraft_7"]);
        }
        assert_eq!(words(false, SlotsRole::Primary, &slots), ["drop pgraft_7"]);
        assert_eq!(
            words(false, SlotsRole::Primary, &[slot("pgraft_7", true, true)]),
            [""; 0],
            "it still streams"
        );
    }
}
