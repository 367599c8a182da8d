//! A script that runs as root on a host, for faults of hosts and networks. It cannot be reached
//! while the host or the API server is stopped, so that it must undo its changes by itself, however
//! it ends.

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Api;
use kube::api::{LogParams, PostParams};
use serde_json::json;
use std::time::Duration;

use crate::cluster::KindCluster;
use crate::failure::E2eFailure;
use crate::wait::{Polled, until};

/// A namespace that accepts privileged pods, unlike the scenario's own.
const NAMESPACE: &str = "kube-system";

/// For [`HostJob::begin`]: stops all processes of a pod and the host's kubelet for some time.
/// Prints
/// `paused` and the time.
pub const PAUSE: &str = include_str!("scripts/pause.sh");

/// A running script.
pub struct HostJob {
    pods: Api<Pod>,
    name: String,
}

impl HostJob {
    /// Starts a script on a host, with the image of the cluster's members.
    ///
    /// # Errors
    /// An error of the API server.
    pub async fn begin(
        cluster: &KindCluster,
        host: &str,
        what: &str,
        script: &str,
        env: &[(&str, String)],
    ) -> Result<Self, E2eFailure> {
        let name = format!("{}-{what}", cluster.namespace);
        let pod = privileged_pod(cluster, &name, host, script, env).await?;
        let pods = privileged_pods(cluster);
        pods.create(&PostParams::default(), &pod).await?;
        Ok(Self { pods, name })
    }

    /// Waits for its end, and returns its output.
    ///
    /// # Errors
    /// [`E2eFailure::Wrong`] with its output if it failed, [`E2eFailure::Deadline`].
    pub async fn ended(&self, limit: Duration) -> Result<String, E2eFailure> {
        let phase = until(&format!("{} has ended", self.name), limit, || async {
            let phase =
                self.pods.get(&self.name).await?.status.and_then(|s| s.phase).unwrap_or_default();
            Ok(if ["Succeeded", "Failed"].contains(&phase.as_str()) {
                Polled::Ready(phase)
            } else {
                Polled::Pending(phase)
            })
        })
        .await?;
        let said = self.said().await?;
        if phase == "Succeeded" {
            Ok(said)
        } else {
            Err(E2eFailure::Wrong(format!("{}: {}", self.name, said.trim())))
        }
    }

    /// Its output so far.
    ///
    /// # Errors
    /// An error of the API server.
    pub async fn said(&self) -> Result<String, E2eFailure> {
        Ok(self.pods.logs(&self.name, &LogParams::default()).await?)
    }
}

/// The pods of such scripts.
pub fn privileged_pods(cluster: &KindCluster) -> Api<Pod> {
    Api::namespaced(cluster.resources().into_client(), NAMESPACE)
}

/// A pod that runs a script as root on a host, with the image of the cluster's members. It is
/// removed with the scenario's namespace, and stops after a while if the run was killed.
///
/// # Errors
/// An error of the API server.
pub async fn privileged_pod(
    cluster: &KindCluster,
    name: &str,
    host: &str,
    script: &str,
    env: &[(&str, String)],
) -> Result<Pod, E2eFailure> {
    let scope =
        Api::<Namespace>::all(cluster.resources().into_client()).get(&cluster.namespace).await?;
    let env: Vec<_> =
        env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    let pod = json!({
        "metadata": {"name": name, "ownerReferences": [
            {"apiVersion": "v1", "kind": "Namespace", "name": cluster.namespace, "uid": scope.metadata.uid}]},
        "spec": {
            "nodeName": host, "hostPID": true, "hostNetwork": true, "restartPolicy": "Never", "activeDeadlineSeconds": 900,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "host-job", "image": cluster.image().await?, "command": ["bash", "-c", script], "env": env,
                "securityContext": {"privileged": true, "runAsUser": 0}}],
        },
    });
    Ok(serde_json::from_value(pod).map_err(kube::Error::SerdeError)?)
}

/// The time that a script printed after a word, in milliseconds since the Unix epoch. All hosts of
/// a kind cluster share one clock.
///
/// # Errors
/// [`E2eFailure::Wrong`] if it did not print that word.
pub fn time_of(said: &str, word: &str) -> Result<i64, E2eFailure> {
    let time = said.lines().find_map(|line| line.strip_prefix(word)?.trim().parse().ok());
    time.ok_or_else(|| E2eFailure::Wrong(format!("the output has no time for {word}: {said}")))
}
