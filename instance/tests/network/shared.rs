//! A cluster that several tests use one after the other.

use pgraft_testkit::cluster::{cluster_of, complete, nothing_is_lost, primary};
use pgraft_testkit::ledger::Ledger;
use pgraft_testkit::network::TestNetwork;
use pgraft_testkit::{Nodes, bin_directory, until};
use std::sync::{Arc, Weak};
use tokio::sync::{Mutex, OnceCell};

/// The nodes stop before their network goes away.
struct SharedCluster {
    nodes: Nodes,
    network: TestNetwork,
}

/// The cluster of a size, while at least one test uses it or waits for it.
type ClusterSlot = Arc<OnceCell<Option<SharedCluster>>>;

static SLOTS: std::sync::Mutex<[Weak<OnceCell<Option<SharedCluster>>>; 2]> =
    std::sync::Mutex::new([Weak::new(), Weak::new()]);

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Runs a test on a cluster of `size` nodes, with a client that writes. At the end, the cluster
/// must be complete again and nothing may be lost. After a failure the next test gets a new
/// cluster.
pub async fn run(size: usize, test: impl AsyncFnOnce(&TestNetwork, &Nodes, &Ledger)) {
    let waiting = slot(size);
    let _turn = ONE_AT_A_TIME.lock().await;
    let slot = slot(size); // a new one after a failure
    drop(waiting);
    let Some(cluster) = slot.get_or_init(async || create(size).await).await else { return };
    let failure = ForgetOnFailure(size);
    let nodes = &cluster.nodes;
    complete(nodes).await;
    empty_table(nodes).await;
    let ledger = Ledger::start(nodes.servers());
    test(&cluster.network, nodes, &ledger).await;
    complete(nodes).await;
    nothing_is_lost(nodes, ledger).await;
    std::mem::forget(failure);
}

fn slot(size: usize) -> ClusterSlot {
    let slots = &mut *SLOTS.lock().unwrap();
    let slot = &mut slots[index(size)];
    slot.upgrade().unwrap_or_else(|| {
        let new = ClusterSlot::default();
        *slot = Arc::downgrade(&new);
        new
    })
}

const fn index(size: usize) -> usize {
    if size == 3 { 0 } else { 1 }
}

/// Makes the next test create its own cluster, unless it is forgotten first.
struct ForgetOnFailure(usize);

impl Drop for ForgetOnFailure {
    fn drop(&mut self) {
        SLOTS.lock().unwrap()[index(self.0)] = Weak::new();
    }
}

async fn create(size: usize) -> Option<SharedCluster> {
    let bin = bin_directory()?;
    let network = TestNetwork::new(size)?;
    let nodes = cluster_of(Nodes::inside(&bin, &network)).await;
    Some(SharedCluster { nodes, network })
}

async fn empty_table(nodes: &Nodes) {
    until("an empty table", async || {
        let node = &nodes.nodes[primary(nodes).await];
        let client = node.connect("app", "owner-1", "app").await.ok()?;
        client.batch_execute("TRUNCATE ledger").await.ok()
    })
    .await;
}
