//! A client in its own pod that writes through the Service `-rw`, and records the outcome of each
//! row.

use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, LogParams, PostParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::cluster::{KindCluster, NAME, TIMEOUT};
use crate::ensure;
use crate::failure::E2eFailure;
use crate::wait::{Polled, until};

const POD: &str = "writer";
const ONE_EACH: &str = include_str!("scripts/write_one_each.sh");
const KEPT: &str = include_str!("scripts/write_kept.sh");
const NEW: &str = include_str!("scripts/write_new.sh");

/// How the client connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// A new connection for each row.
    OneEach,
    /// This many connections, kept until they break, like a connection pool.
    Kept(u8),
    /// This many writers, each with a new connection for each row, with the URI of the key `uri`
    /// and no time limit except the driver's.
    New(u8),
}

/// The client.
pub struct LoadWriter {
    pods: Api<Pod>,
    label: &'static str,
    received: Arc<Mutex<Vec<WrittenRow>>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for LoadWriter {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A row that the client tried to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenRow {
    /// Its number.
    pub number: i64,
    /// The outcome of the insert.
    pub outcome: WriteOutcome,
    /// The time of the outcome, in milliseconds since the Unix epoch.
    pub at: i64,
}

/// The outcome of an insert, as the client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WriteOutcome {
    /// The row exists.
    Acknowledged,
    /// The row does not exist.
    Refused,
    /// The client got no answer. The row may exist.
    Unknown,
}

impl WrittenRow {
    /// Parses a line of the scripts' output.
    fn of(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let outcome = match words.next()? {
            "ack" => WriteOutcome::Acknowledged,
            "no" => WriteOutcome::Refused,
            "unknown" => WriteOutcome::Unknown,
            _ => return None,
        };
        Some(Self { number: words.next()?.parse().ok()?, outcome, at: words.next()?.parse().ok()? })
    }
}

/// The rows of a client that has stopped.
pub struct WrittenRows {
    label: &'static str,
    /// All rows, in the order of their outcomes.
    pub rows: Vec<WrittenRow>,
}

impl LoadWriter {
    /// Starts a client that writes rows with this label, on a host other than these.
    ///
    /// # Errors
    /// An error of the API server.
    pub async fn begin(
        cluster: &KindCluster,
        label: &'static str,
        connections: Connections,
        away_from: &[String],
    ) -> Result<Self, E2eFailure> {
        let apart = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": away_from}]}]);
        let (script, number, key) = match connections {
            Connections::OneEach => (ONE_EACH, 1, "multi-host-uri"),
            Connections::Kept(number) => (KEPT, number, "multi-host-uri"),
            Connections::New(number) => (NEW, number, "uri"),
        };
        let uri = json!({"name": "URI", "valueFrom": {"secretKeyRef": {"name": format!("{NAME}-app"), "key": key}}});
        let pod = json!({
            "metadata": {"name": POD},
            "spec": {
                // With 0, the pod would be gone before its process has ended.
                "terminationGracePeriodSeconds": 1, "enableServiceLinks": false,
                // The control plane's host may be used too.
                "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": apart}}},
                "securityContext": {"runAsNonRoot": true, "runAsUser": 999, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{"name": POD, "image": cluster.image().await?, "command": ["bash", "-c", script],
                    "env": [uri, {"name": "LABEL", "value": label}, {"name": "CONNECTIONS", "value": number.to_string()}],
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
            },
        });
        let pods = cluster.pod_api();
        pods.create(
            &PostParams::default(),
            &serde_json::from_value(pod).map_err(kube::Error::SerdeError)?,
        )
        .await?;
        let received = Arc::default();
        let reader = tokio::spawn(read_output(pods.clone(), Arc::clone(&received)));
        let writer = Self { pods, label, received, reader };
        writer.more(10).await?;
        Ok(writer)
    }

    /// The rows so far, without the latest moments.
    pub fn lately(&self) -> Vec<WrittenRow> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops the client, and returns its rows.
    ///
    /// # Errors
    /// An error of the API server.
    pub async fn stop(self) -> Result<WrittenRows, E2eFailure> {
        let log = self.pods.logs(POD, &LogParams::default()).await?;
        self.pods.delete(POD, &DeleteParams::default()).await?;
        until("the writer is gone", TIMEOUT, || async {
            Ok(if self.pods.get_opt(POD).await?.is_none() {
                Polled::Ready(())
            } else {
                Polled::Pending("it still exists".into())
            })
        })
        .await?;
        Ok(WrittenRows {
            label: self.label,
            rows: log.lines().filter_map(WrittenRow::of).collect(),
        })
    }

    /// Waits for this many additional acknowledged rows.
    ///
    /// # Errors
    /// [`E2eFailure::Deadline`] with the last line of its output.
    pub async fn more(&self, rows: usize) -> Result<(), E2eFailure> {
        let acknowledged =
            || self.lately().iter().filter(|row| row.outcome == WriteOutcome::Acknowledged).count();
        let before = acknowledged();
        until("rows are acknowledged through -rw", TIMEOUT, || async {
            if acknowledged() >= before + rows {
                return Ok(Polled::Ready(()));
            }
            let last = LogParams { tail_lines: Some(1), ..LogParams::default() };
            Ok(Polled::Pending(self.pods.logs(POD, &last).await?))
        })
        .await
    }
}

/// Reads the output of the pod. Starts over if the API server was away.
async fn read_output(pods: Api<Pod>, received: Arc<Mutex<Vec<WrittenRow>>>) {
    loop {
        let follow = LogParams { follow: true, ..LogParams::default() };
        if let Ok(stream) = pods.log_stream(POD, &follow).await {
            let (mut lines, mut known) = (Box::pin(stream).lines(), 0);
            while let Ok(Some(line)) = lines.try_next().await {
                let Some(row) = WrittenRow::of(&line) else { continue };
                let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
                if known == received.len() {
                    received.push(row);
                }
                known += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

impl WrittenRows {
    /// The longest time between two acknowledgements, the first of them before `before` and the
    /// second after `after`.
    pub fn gap(&self, after: i64, before: i64) -> Duration {
        gap(self.rows.iter(), after, before)
    }

    /// The number of rows by outcome.
    pub fn counts(&self) -> String {
        let count = |outcome| self.rows.iter().filter(|row| row.outcome == outcome).count();
        let [acknowledged, refused, unknown] =
            [WriteOutcome::Acknowledged, WriteOutcome::Refused, WriteOutcome::Unknown].map(count);
        format!("{acknowledged} acknowledged, {refused} refused, {unknown} unknown")
    }

    /// Checks that a node has every acknowledged row once, and no refused row.
    ///
    /// # Errors
    /// [`E2eFailure::Wrong`] with the rows for which that is not true.
    pub async fn are_on(&self, cluster: &KindCluster, node: i32) -> Result<(), E2eFailure> {
        let there = self.there(cluster, node).await?;
        let lost = self.lost(&there);
        ensure!(lost.is_empty(), "acknowledged but lost: {lost:?}");
        let made: Vec<i64> =
            self.of(WriteOutcome::Refused).filter(|row| there.contains_key(row)).collect();
        ensure!(made.is_empty(), "refused but present: {made:?}");
        let twice: Vec<_> = there.iter().filter(|(_, times)| **times > 1).collect();
        ensure!(twice.is_empty(), "present more than once: {twice:?}");
        Ok(())
    }

    /// The number of acknowledged rows that a node does not have.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn lost_on(&self, cluster: &KindCluster, node: i32) -> Result<usize, E2eFailure> {
        Ok(self.lost(&self.there(cluster, node).await?).len())
    }

    fn lost(&self, there: &BTreeMap<i64, usize>) -> Vec<i64> {
        self.of(WriteOutcome::Acknowledged).filter(|row| !there.contains_key(row)).collect()
    }

    fn of(&self, outcome: WriteOutcome) -> impl Iterator<Item = i64> {
        self.rows.iter().filter(move |row| row.outcome == outcome).map(|row| row.number)
    }

    /// How often a node has each row with this label.
    async fn there(
        &self,
        cluster: &KindCluster,
        node: i32,
    ) -> Result<BTreeMap<i64, usize>, E2eFailure> {
        let query = "select split_part(entry, ' ', 2)::bigint from ledger where split_part(entry, ' ', 1) = $1::text";
        let mut there = BTreeMap::new();
        for row in cluster.app(node).await?.rows(query, &[&self.label]).await? {
            *there.entry(row.get(0)).or_default() += 1;
        }
        Ok(there)
    }
}

/// The longest time between two acknowledgements of these rows, the first of them before `before`
/// and the second after `after`.
pub fn gap<'a>(rows: impl Iterator<Item = &'a WrittenRow>, after: i64, before: i64) -> Duration {
    let times: Vec<i64> =
        rows.filter(|row| row.outcome == WriteOutcome::Acknowledged).map(|row| row.at).collect();
    let pairs = times.windows(2).filter(|two| two[1] > after && two[0] < before);
    Duration::from_millis(
        pairs
            .map(|two| two[1] - two[0])
            .max()
            .and_then(|ms| u64::try_from(ms).ok())
            .unwrap_or_default(),
    )
}
