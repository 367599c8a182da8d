//! A client in a pod of its own that writes through the Service `-rw`, and knows of each row what it was told.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, LogParams, PostParams};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::cluster::{Cluster, NAME, PATIENCE};
use crate::ensure;
use crate::failure::Failure;
use crate::wait::{Look, until};

const POD: &str = "writer";
const SCRIPT: &str = include_str!("scripts/write.sh");

/// The client.
pub struct Writer {
    pods: Api<Pod>,
    story: &'static str,
}

/// What it was told: of which rows, and when.
pub struct Acks {
    story: &'static str,
    rows: Vec<(i64, i64)>,
}

impl Writer {
    /// Begins to write rows of this story, on a host that is none of these.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn begin(cluster: &Cluster, story: &'static str, away_from: &[String]) -> Result<Self, Failure> {
        let apart = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": away_from}]}]);
        let uri = json!({"name": "URI", "valueFrom": {"secretKeyRef": {"name": format!("{NAME}-app"), "key": "multi-host-uri"}}});
        let pod = json!({
            "metadata": {"name": POD},
            "spec": {
                // None at all, and the pod would be gone before its process is.
                "terminationGracePeriodSeconds": 1, "enableServiceLinks": false,
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": apart}}},
                "securityContext": {"runAsNonRoot": true, "runAsUser": 999, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{"name": POD, "image": cluster.image().await?, "command": ["bash", "-c", SCRIPT],
                    "env": [uri, {"name": "STORY", "value": story}],
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
            },
        });
        cluster.pod_api().create(&PostParams::default(), &serde_json::from_value(pod).map_err(kube::Error::SerdeError)?).await?;
        let writer = Self { pods: cluster.pod_api(), story };
        writer.more(10).await?;
        Ok(writer)
    }

    /// What it was told by now.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn acks(&self) -> Result<Acks, Failure> {
        let log = self.pods.logs(POD, &LogParams::default()).await?;
        let ack = |line: &str| {
            let (row, time) = line.strip_prefix("ack ")?.split_once(' ')?;
            Some((row.parse().ok()?, time.parse().ok()?))
        };
        Ok(Acks { story: self.story, rows: log.lines().filter_map(ack).collect() })
    }

    /// Ends, and says what it was told.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn stop(self) -> Result<Acks, Failure> {
        let acks = self.acks().await?;
        self.pods.delete(POD, &DeleteParams::default()).await?;
        until("the writer is gone", PATIENCE, || async {
            Ok(if self.pods.get_opt(POD).await?.is_none() { Look::Yes(()) } else { Look::NotYet("it is there".into()) })
        })
        .await?;
        Ok(acks)
    }

    /// Waits for so many more acknowledged rows.
    ///
    /// # Errors
    /// [`Failure::Deadline`] with what it said last.
    pub async fn more(&self, rows: usize) -> Result<(), Failure> {
        let before = self.acks().await.map_or(0, |acks| acks.rows.len());
        until("acknowledged rows through -rw", PATIENCE, || async {
            let acks = self.acks().await?.rows.len();
            let last = LogParams { tail_lines: Some(1), ..LogParams::default() };
            Ok(if acks >= before + rows { Look::Yes(()) } else { Look::NotYet(self.pods.logs(POD, &last).await?) })
        })
        .await
    }
}

impl Acks {
    /// The longest time between two acknowledgements, of which the second came after this moment and the first before the other.
    pub fn gap(&self, after: i64, before: i64) -> Duration {
        let pairs = self.rows.windows(2).filter(|two| two[1].1 > after && two[0].1 < before);
        Duration::from_millis(pairs.map(|two| two[1].1 - two[0].1).max().and_then(|ms| u64::try_from(ms).ok()).unwrap_or_default())
    }

    /// Whether every acknowledged row is on this node.
    ///
    /// # Errors
    /// [`Failure::Wrong`] with those that are not.
    pub async fn are_on(&self, cluster: &Cluster, node: i32) -> Result<(), Failure> {
        let query = "select split_part(entry, ' ', 2)::bigint from ledger where split_part(entry, ' ', 1) = $1::text";
        let rows = cluster.app(node).await?.rows(query, &[&self.story]).await?;
        let there: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        let lost: Vec<i64> = self.rows.iter().map(|(row, _)| *row).filter(|row| !there.contains(row)).collect();
        ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        Ok(())
    }
}
