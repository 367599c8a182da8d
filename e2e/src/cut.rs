//! Cuts the network between pods, in the FORWARD chain of their hosts.
//!
//! ```text
//!  NetworkCut::between ──▶ on each host a privileged pod: adds the rules, waits, removes them on SIGTERM
//!  NetworkCut::heal ─────▶ deletes these pods and waits until they are gone
//! ```
//!
//! The pods are removed with the scenario's namespace, and the rules with them. Only connections
//! between the named pods are cut: the API server, the operator and the kubelets still reach them.

use k8s_openapi::api::core::v1::{ExecAction, Pod, Probe};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use std::collections::BTreeSet;

use crate::cluster::{KindCluster, TIMEOUT, is_ready};
use crate::failure::E2eFailure;
use crate::host_job::{privileged_pod, privileged_pods};
use crate::wait::{Polled, until, until_true};

/// The script of these pods. `PAIRS` has lines of two addresses. iptables is the host's.
const SCRIPT: &str = r#"
host() { nsenter --target 1 --mount --net -- iptables --wait "$@"; }
undo() { host -D FORWARD -j pgraft-cut; host -F pgraft-cut; host -X pgraft-cut; }
trap 'undo; exit 0' TERM
undo 2>/dev/null # rules of an earlier pod that was killed
set -e
host -N pgraft-cut
while read -r one other; do
  host -A pgraft-cut -s "$one" -d "$other" -j DROP
  host -A pgraft-cut -s "$other" -d "$one" -j DROP
done <<PAIRS
$PAIRS
PAIRS
host -I FORWARD -j pgraft-cut
touch /tmp/cut
sleep infinity & wait
"#;

/// A cut in force.
pub struct NetworkCut {
    pods: Api<Pod>,
    names: Vec<String>,
}

impl NetworkCut {
    /// Drops all packets between two groups of nodes, in both directions. Returns when the rules
    /// are in force.
    ///
    /// # Errors
    /// If a pod has no address, or a host has no iptables.
    pub async fn between(
        cluster: &KindCluster,
        some: &[i32],
        others: &[i32],
    ) -> Result<Self, E2eFailure> {
        let (hosts, pairs) = plan(cluster, some, others).await?;
        let mut cut = Self { pods: privileged_pods(cluster), names: Vec::new() };
        for host in hosts {
            let name = format!("{}-{host}", cluster.namespace);
            let mut pod =
                privileged_pod(cluster, &name, &host, SCRIPT, &[("PAIRS", pairs.clone())]).await?;
            add_readiness_probe(&mut pod);
            cut.pods.create(&PostParams::default(), &pod).await?;
            cut.names.push(name);
        }
        for name in &cut.names {
            until_true(&format!("{name} is ready"), TIMEOUT, || async {
                Ok(is_ready(&cut.pods.get(name).await?))
            })
            .await?;
        }
        Ok(cut)
    }

    /// Removes the rules. Returns when they are gone.
    ///
    /// # Errors
    /// [`E2eFailure::Deadline`].
    pub async fn heal(self) -> Result<(), E2eFailure> {
        for name in &self.names {
            self.pods.delete(name, &DeleteParams::default()).await?;
        }
        for name in &self.names {
            until(&format!("{name} is gone"), TIMEOUT, || async {
                let there = self.pods.get_opt(name).await?;
                Ok(there.map_or(Polled::Ready(()), |pod| {
                    Polled::Pending(format!("{:?}", pod.status.and_then(|s| s.phase)))
                }))
            })
            .await?;
        }
        Ok(())
    }
}

/// The hosts of these nodes, and the pairs of addresses.
async fn plan(
    cluster: &KindCluster,
    some: &[i32],
    others: &[i32],
) -> Result<(BTreeSet<String>, String), E2eFailure> {
    let pods = cluster.pods().await?;
    let find = |node: &i32| {
        let pod = pods.get(node)?;
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        Some((spec.node_name.clone()?, status.pod_ip.clone()?))
    };
    let found = |node| {
        find(node)
            .ok_or_else(|| E2eFailure::Wrong(format!("node {node} has no pod with an address")))
    };
    let (mut hosts, mut pairs) = (BTreeSet::new(), Vec::new());
    for one in some {
        for other in others {
            let ((host, address), (its_host, its_address)) = (found(one)?, found(other)?);
            hosts.extend([host, its_host]);
            pairs.push(format!("{address} {its_address}"));
        }
    }
    Ok((hosts, pairs.join("\n")))
}

/// The pod is ready when the rules are in force.
fn add_readiness_probe(pod: &mut Pod) {
    let command = Some(vec!["test".to_owned(), "-e".to_owned(), "/tmp/cut".to_owned()]);
    let probe =
        Probe { exec: Some(ExecAction { command }), period_seconds: Some(1), ..Probe::default() };
    for container in pod.spec.iter_mut().flat_map(|spec| &mut spec.containers) {
        container.readiness_probe = Some(probe.clone());
    }
}
