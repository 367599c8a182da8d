//! A script that root runs on a host: what happens to hosts and networks has to be done there. It
//! is alone with it (nobody can reach it where the host stands still, or the API server), so it
//! undoes by itself what it did, however it ends.

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Api;
use kube::api::{LogParams, PostParams};
use serde_json::json;
use std::time::Duration;

use crate::cluster::KindCluster;
use crate::failure::E2eFailure;
use crate::wait::{Look, until};

/// Takes privileged pods; a scenario's own namespace does not.
const NAMESPACE: &str = "kube-system";

/// For [`HostJob::begin`]: all processes of a pod and the host's kubelet stand still. Says `paused`
/// and when.
pub const PAUSE: &str = include_str!("scripts/pause.sh");

/// A script under way.
pub struct HostJob {
    pods: Api<Pod>,
    name: String,
}

impl HostJob {
    /// Has it begun on that host, with the image of the cluster's members.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn begin(
        cluster: &KindCluster,
        host: &str,
        what: &str,
        script: &str,
        env: &[(&str, String)],
    ) -> Result<Self, E2eFailure> {
        let name = format!("{}-{what}", cluster.namespace);
        let pod = pod_of_root(cluster, &name, host, script, env).await?;
        let pods = pods_of_root(cluster);
        pods.create(&PostParams::default(), &pod).await?;
        Ok(Self { pods, name })
    }

    /// What it has said, when it has come to its end.
    ///
    /// # Errors
    /// [`Failure::Wrong`] with its words when it failed, [`Failure::Deadline`].
    pub async fn ended(&self, limit: Duration) -> Result<String, E2eFailure> {
        let phase = until(&format!("{} has ended", self.name), limit, || async {
            let phase =
                self.pods.get(&self.name).await?.status.and_then(|s| s.phase).unwrap_or_default();
            Ok(if ["Succeeded", "Failed"].contains(&phase.as_str()) {
                Look::Yes(phase)
            } else {
                Look::NotYet(phase)
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

    /// What it has said so far.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn said(&self) -> Result<String, E2eFailure> {
        Ok(self.pods.logs(&self.name, &LogParams::default()).await?)
    }
}

/// Where such scripts run.
pub fn pods_of_root(cluster: &KindCluster) -> Api<Pod> {
    Api::namespaced(cluster.resources().into_client(), NAMESPACE)
}

/// A pod that runs a script as root on that host, with the image of the cluster's members. It
/// belongs to the scenario's namespace and goes with it, and after a while by itself: a run that
/// was killed leaves nothing behind either.
///
/// # Errors
/// What the API server says.
pub async fn pod_of_root(
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
            "containers": [{"name": "errand", "image": cluster.image().await?, "command": ["bash", "-c", script], "env": env,
                "securityContext": {"privileged": true, "runAsUser": 0}}],
        },
    });
    Ok(serde_json::from_value(pod).map_err(kube::Error::SerdeError)?)
}

/// When a script said this: milliseconds since the Unix epoch, by the clock that all hosts of a
/// kind cluster share.
///
/// # Errors
/// [`Failure::Wrong`] when it did not.
pub fn time_of(said: &str, word: &str) -> Result<i64, E2eFailure> {
    let time = said.lines().find_map(|line| line.strip_prefix(word)?.trim().parse().ok());
    time.ok_or_else(|| E2eFailure::Wrong(format!("nobody said when it was {word}: {said}")))
}
