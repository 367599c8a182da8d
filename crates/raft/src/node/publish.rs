//! Composes the status on every change and hands it on: to the extension's shared memory, to the
//! control socket, to `instance.json`.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use pgraft_core::NodeStatus;
use pgraft_core::instance_file::{FILE_NAME, FORMAT, InstanceFile, InstanceMember};

use super::NodeShared;
use crate::files;
use crate::transport::WalSource;

/// Ages (last contact, lag) are shown no older than this.
const TICK: Duration = Duration::from_millis(500);

/// Publishes for as long as it is polled.
pub async fn run(
    shared: Arc<NodeShared>,
    wal: WalSource,
    publish: Box<dyn Fn(&NodeStatus) + Send + Sync>,
) {
    // Not all of Raft's metrics, which change with every tick of its clock: who leads, and what is
    // applied.
    let mut metrics = shared.raft.server_metrics();
    let mut applied = shared.applied.clone();
    let mut probes = shared.probes.subscribe();
    let mut tick = tokio::time::interval(TICK);
    loop {
        let status = shared.compose(wal());
        publish(&status);
        shared.status.send_if_modified(|old| {
            let changed = **old != status;
            *old = Arc::new(status);
            changed
        });
        let open = tokio::select! {
            biased; // in no random order: a simulation repeats itself
            r = WatchReceiver::changed(&mut metrics) => r.is_ok(),
            r = applied.changed() => r.is_ok(),
            r = probes.changed() => r.is_ok(),
            _ = tick.tick() => true,
        };
        if !open {
            return;
        }
    }
}

/// Keeps `instance.json` up to date. If it cannot be written, that is logged and tried again at the
/// next change: the file is a convenience for the next start, and no promise depends on it.
pub async fn write_instance_file(shared: Arc<NodeShared>) {
    let path = shared.settings.data_dir.join(FILE_NAME);
    let mut applied = shared.applied.clone();
    let mut written: Option<InstanceFile> = None;
    let mut rewind = shared.failover.as_ref().map(|failover| failover.progress.rewind());
    loop {
        if let Some(rewind) = &mut rewind {
            rewind.borrow_and_update();
        }
        let wanted = instance_file(&shared);
        if wanted.is_some() && wanted != written {
            let (path, file) = (path.clone(), wanted.clone());
            match files::replace_json_elsewhere(path, file).await {
                Ok(()) => written = wanted,
                Err(error) => tracing::warn!("could not write {FILE_NAME}: {error}"),
            }
        }
        let rewind_changed = async {
            match &mut rewind {
                Some(rewind) => drop(rewind.changed().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased; // in no random order: a simulation repeats itself
            changed = applied.changed() => if changed.is_err() { return },
            () = rewind_changed => {}
        }
    }
}

fn instance_file(node: &NodeShared) -> Option<InstanceFile> {
    let applied = node.applied.borrow();
    let state = &applied.cluster;
    Some(InstanceFile {
        format: FORMAT,
        cluster_id: state.cluster?,
        node_id: node.settings.node_id,
        epoch: state.epoch(),
        primary: state.primary(),
        members: state
            .members
            .iter()
            .map(|(&node_id, m)| InstanceMember {
                node_id,
                postgres: m.info.as_ref().map(|t| t.postgres.clone()),
            })
            .collect(),
        retired: state.retired.iter().copied().collect(),
        failover: node.failover.is_some(),
        rewind: node.failover.as_ref().and_then(|f| *f.progress.rewind().borrow()),
    })
}
