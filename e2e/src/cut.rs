//! A cut through the network between pods, in the FORWARD chain of every host that has one of them.
//!
//! ```text
//!  Cut::between ──▶ on each host a pod of root's: makes the rules, waits, takes them away again when it is told to stop
//!  Cut::heal ─────▶ deletes those pods and waits for their end
//! ```
//!
//! The pods belong to the scenario's namespace: however the scenario ends, they go with it, and the rules with them. Nobody notices them but
//! the pods that are named: the API server, the operator and the kubelets' probes reach everyone all the while.

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use std::collections::BTreeSet;

use crate::cluster::{Cluster, PATIENCE, is_ready};
use crate::failure::Failure;
use crate::wait::{Look, until, until_true};

/// Takes privileged pods; a scenario's own namespace does not.
const NAMESPACE: &str = "kube-system";

/// What each of the pods does. `PAIRS` has lines of two addresses; the tools are the host's.
const SCRIPT: &str = r#"
host() { nsenter --target 1 --mount --net -- iptables --wait "$@"; }
undo() { host -D FORWARD -j pgraft-cut; host -F pgraft-cut; host -X pgraft-cut; }
trap 'undo; exit 0' TERM
undo 2>/dev/null # of one that was killed
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

/// A cut that is in force.
pub struct Cut {
    pods: Api<Pod>,
    names: Vec<String>,
}

impl Cut {
    /// Lets nothing through between these nodes and those, in either direction. Returns when it is so.
    ///
    /// # Errors
    /// When a node has no address, or a host no iptables.
    pub async fn between(cluster: &Cluster, some: &[i32], others: &[i32]) -> Result<Self, Failure> {
        let client = cluster.resources().into_client();
        let scope = Api::<Namespace>::all(client.clone()).get(&cluster.namespace).await?;
        let (hosts, image, pairs) = plan(cluster, some, others).await?;
        let mut cut = Self { pods: Api::namespaced(client, NAMESPACE), names: Vec::new() };
        for host in hosts {
            let name = format!("{}-{host}", cluster.namespace);
            let owner = json!({"apiVersion": "v1", "kind": "Namespace", "name": cluster.namespace, "uid": scope.metadata.uid});
            let pod = serde_json::from_value(manifest(&name, &host, &image, &pairs, &owner)).map_err(kube::Error::SerdeError)?;
            cut.pods.create(&PostParams::default(), &pod).await?;
            cut.names.push(name);
        }
        for name in &cut.names {
            until_true(&format!("{name} has cut"), PATIENCE, || async { Ok(is_ready(&cut.pods.get(name).await?)) }).await?;
        }
        Ok(cut)
    }

    /// Lets everything through again. Returns when it is so.
    ///
    /// # Errors
    /// [`Failure::Deadline`].
    pub async fn heal(self) -> Result<(), Failure> {
        for name in &self.names {
            self.pods.delete(name, &DeleteParams::default()).await?;
        }
        for name in &self.names {
            until(&format!("{name} is gone"), PATIENCE, || async {
                let there = self.pods.get_opt(name).await?;
                Ok(there.map_or(Look::Yes(()), |pod| Look::NotYet(format!("{:?}", pod.status.and_then(|s| s.phase)))))
            })
            .await?;
        }
        Ok(())
    }
}

/// The hosts to work on, an image that they have, and the pairs of addresses.
async fn plan(cluster: &Cluster, some: &[i32], others: &[i32]) -> Result<(BTreeSet<String>, String, String), Failure> {
    let pods = cluster.pods().await?;
    let find = |node: &i32| {
        let pod = pods.get(node)?;
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        Some((spec.node_name.clone()?, spec.containers.first()?.image.clone()?, status.pod_ip.clone()?))
    };
    let found = |node| find(node).ok_or_else(|| Failure::Wrong(format!("node {node} has no pod with an address")));
    let (mut hosts, mut images, mut pairs) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for one in some {
        for other in others {
            let ((host, image, address), (its_host, _, its_address)) = (found(one)?, found(other)?);
            hosts.extend([host, its_host]);
            images.insert(image);
            pairs.push(format!("{address} {its_address}"));
        }
    }
    Ok((hosts, images.into_iter().next().unwrap_or_default(), pairs.join("\n")))
}

fn manifest(name: &str, host: &str, image: &str, pairs: &str, owner: &Value) -> Value {
    json!({
        "metadata": {"name": name, "ownerReferences": [owner]},
        "spec": {
            "nodeName": host, "hostPID": true, "hostNetwork": true, "restartPolicy": "Never",
            // A run that was killed leaves no cut behind either.
            "activeDeadlineSeconds": 900,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "cut", "image": image, "command": ["bash", "-c", SCRIPT], "env": [{"name": "PAIRS", "value": pairs}],
                "securityContext": {"privileged": true, "runAsUser": 0},
                "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/cut"]}, "periodSeconds": 1},
            }],
        },
    })
}
