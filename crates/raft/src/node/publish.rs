//! Composes the status on every change and hands it on: to the extension's shared memory, to the
//! control socket, to `instance.json`.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use pgraft_core::NodeStatus;
use pgraft_core::instance_file::{FILE_NAME, FORMAT, InstanceFile, InstanceMember};

use super::NodeShared;
use super::compose::{compose, raft_facts};
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
            r = metrics.changed() => r.is_ok(),
            r = applied.changed() => r.is_ok(),
            r = probes.changed() => r.is_ok(),
            _ = tick.tick() => true,
        };
        if !open {
            return;
        }
    }
}

impl NodeShared {
    /// What this member knows right now.
    pub(super) fn compose(&self, own_wal: Option<pgraft_core::status::WalProgress>) -> NodeStatus {
        let facts = self.raft_facts();
        let applied = self.applied.borrow().clone();
        let probes = self.probes.borrow().facts();
        let mut status = compose(
            self.settings.node_id,
            self.local.identity().cluster_id(),
            &facts,
            &applied,
            &probes,
            own_wal,
        );
        let state = &applied.cluster;
        status.failover = self.failover.as_ref().map(|f| {
            f.status(state.primary_term.as_ref(), state.last_failover.clone(), &state.electorate())
        });
        status
    }

    /// Raft's side of it.
    pub(super) fn raft_facts(&self) -> super::compose::RaftFacts {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        raft_facts(
            &self.raft.metrics().borrow_watched(),
            self.contact.age().map(ms),
            ms(self.settings.election_timeout),
        )
    }
}

/// Keeps `instance.json` as the applied state says. A disk that refuses it is reported and tried
/// again with the next change: the file is a convenience for the next start, and no promise hangs
/// on it.
pub async fn write_instance_file(shared: Arc<NodeShared>) {
    let path = shared.settings.data_dir.join(FILE_NAME);
    let mut applied = shared.applied.clone();
    let mut written: Option<InstanceFile> = None;
    loop {
        let wanted = shared.instance_file();
        if wanted.is_some() && wanted != written {
            let (path, file) = (path.clone(), wanted.clone());
            match files::replace_json_elsewhere(path, file).await {
                Ok(()) => written = wanted,
                Err(error) => tracing::warn!("can't write {FILE_NAME}: {error}"),
            }
        }
        let rewind_changed = async {
            match &shared.failover {
                Some(failover) => failover.rewind_changed().await,
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

impl NodeShared {
    fn instance_file(&self) -> Option<InstanceFile> {
        let applied = self.applied.borrow();
        let state = &applied.cluster;
        Some(InstanceFile {
            format: FORMAT,
            cluster_id: state.cluster?,
            node_id: self.settings.node_id,
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
            failover: self.failover.is_some(),
            rewind: self.failover.as_ref().and_then(|f| f.rewind()),
        })
    }
}
