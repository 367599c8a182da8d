//! A client in a pod of its own that writes through the Service `-rw`, and knows of each row what
//! it was told.

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
use crate::wait::{Look, until};

const POD: &str = "writer";
const ONE_EACH: &str = include_str!("scripts/write.sh");
const KEPT: &str = include_str!("scripts/write_on.sh");
const NEW: &str = include_str!("scripts/write_anew.sh");

/// How it connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// One for each row.
    OneEach,
    /// So many that are kept until they break, as a pool of them is.
    Kept(u8),
    /// So many writers, each with a new connection for each row, by the key `uri` and with no time
    /// limit but the driver's own.
    New(u8),
}

/// The client.
pub struct LoadWriter {
    pods: Api<Pod>,
    story: &'static str,
    heard: Arc<Mutex<Vec<WrittenRow>>>,
    listens: tokio::task::JoinHandle<()>,
}

impl Drop for LoadWriter {
    fn drop(&mut self) {
        self.listens.abort();
    }
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenRow {
    /// Which.
    pub number: i64,
    /// What became of it.
    pub fate: WriteFate,
    /// When that was told, in milliseconds since the Unix epoch.
    pub at: i64,
}

/// What a client was told of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WriteFate {
    /// It is there.
    Acknowledged,
    /// It is not.
    Refused,
    /// Nothing.
    Unknown,
}

impl WrittenRow {
    /// A line of the scripts.
    fn of(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let fate = match words.next()? {
            "ack" => WriteFate::Acknowledged,
            "no" => WriteFate::Refused,
            "unknown" => WriteFate::Unknown,
            _ => return None,
        };
        Some(Self { number: words.next()?.parse().ok()?, fate, at: words.next()?.parse().ok()? })
    }
}

/// What it was told.
pub struct Acknowledged {
    story: &'static str,
    /// All rows, in the order of their fates.
    pub rows: Vec<WrittenRow>,
}

impl LoadWriter {
    /// Begins to write rows of this story, on a host that is none of these.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn begin(
        cluster: &KindCluster,
        story: &'static str,
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
                // None at all, and the pod would be gone before its process is.
                "terminationGracePeriodSeconds": 1, "enableServiceLinks": false,
                // The control plane's host is as good as any other.
                "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": apart}}},
                "securityContext": {"runAsNonRoot": true, "runAsUser": 999, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{"name": POD, "image": cluster.image().await?, "command": ["bash", "-c", script],
                    "env": [uri, {"name": "STORY", "value": story}, {"name": "CONNECTIONS", "value": number.to_string()}],
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
            },
        });
        let pods = cluster.pod_api();
        pods.create(
            &PostParams::default(),
            &serde_json::from_value(pod).map_err(kube::Error::SerdeError)?,
        )
        .await?;
        let heard = Arc::default();
        let listens = tokio::spawn(listen(pods.clone(), Arc::clone(&heard)));
        let writer = Self { pods, story, heard, listens };
        writer.more(10).await?;
        Ok(writer)
    }

    /// What it was told, as far as that has come here: some moments ago.
    pub fn lately(&self) -> Vec<WrittenRow> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends, and says what it was told.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn stop(self) -> Result<Acknowledged, E2eFailure> {
        let log = self.pods.logs(POD, &LogParams::default()).await?;
        self.pods.delete(POD, &DeleteParams::default()).await?;
        until("the writer is gone", TIMEOUT, || async {
            Ok(if self.pods.get_opt(POD).await?.is_none() {
                Look::Yes(())
            } else {
                Look::NotYet("it is there".into())
            })
        })
        .await?;
        Ok(Acknowledged {
            story: self.story,
            rows: log.lines().filter_map(WrittenRow::of).collect(),
        })
    }

    /// Waits for so many more acknowledged rows.
    ///
    /// # Errors
    /// [`Failure::Deadline`] with what it said last.
    pub async fn more(&self, rows: usize) -> Result<(), E2eFailure> {
        let acknowledged =
            || self.lately().iter().filter(|row| row.fate == WriteFate::Acknowledged).count();
        let before = acknowledged();
        until("acknowledged rows through -rw", TIMEOUT, || async {
            if acknowledged() >= before + rows {
                return Ok(Look::Yes(()));
            }
            let last = LogParams { tail_lines: Some(1), ..LogParams::default() };
            Ok(Look::NotYet(self.pods.logs(POD, &last).await?))
        })
        .await
    }
}

/// Follows what the pod says; from its beginning again where the API server was away.
async fn listen(pods: Api<Pod>, heard: Arc<Mutex<Vec<WrittenRow>>>) {
    loop {
        let follow = LogParams { follow: true, ..LogParams::default() };
        if let Ok(stream) = pods.log_stream(POD, &follow).await {
            let (mut lines, mut known) = (Box::pin(stream).lines(), 0);
            while let Ok(Some(line)) = lines.try_next().await {
                let Some(row) = WrittenRow::of(&line) else { continue };
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                if known == heard.len() {
                    heard.push(row);
                }
                known += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await; // before it is asked again
    }
}

impl Acknowledged {
    /// The longest time between two acknowledgements, of which the second came after this moment
    /// and the first before the other.
    pub fn gap(&self, after: i64, before: i64) -> Duration {
        gap(self.rows.iter(), after, before)
    }

    /// How often it was told what.
    pub fn counts(&self) -> String {
        let count = |fate| self.rows.iter().filter(|row| row.fate == fate).count();
        let [acknowledged, refused, unknown] =
            [WriteFate::Acknowledged, WriteFate::Refused, WriteFate::Unknown].map(count);
        format!("{acknowledged} acknowledged, {refused} refused, {unknown} unknown")
    }

    /// Whether every acknowledged row is on this node, once, and no refused one.
    ///
    /// # Errors
    /// [`Failure::Wrong`] with those of which that is not so.
    pub async fn are_on(&self, cluster: &KindCluster, node: i32) -> Result<(), E2eFailure> {
        let there = self.there(cluster, node).await?;
        let lost = self.lost(&there);
        ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let made: Vec<i64> =
            self.of(WriteFate::Refused).filter(|row| there.contains_key(row)).collect();
        ensure!(made.is_empty(), "refused, and there: {made:?}");
        let twice: Vec<_> = there.iter().filter(|(_, times)| **times > 1).collect();
        ensure!(twice.is_empty(), "more than once there: {twice:?}");
        Ok(())
    }

    /// How many acknowledged rows are not on this node.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn lost_on(&self, cluster: &KindCluster, node: i32) -> Result<usize, E2eFailure> {
        Ok(self.lost(&self.there(cluster, node).await?).len())
    }

    fn lost(&self, there: &BTreeMap<i64, usize>) -> Vec<i64> {
        self.of(WriteFate::Acknowledged).filter(|row| !there.contains_key(row)).collect()
    }

    fn of(&self, fate: WriteFate) -> impl Iterator<Item = i64> {
        self.rows.iter().filter(move |row| row.fate == fate).map(|row| row.number)
    }

    /// How often each row of the story is on this node.
    async fn there(
        &self,
        cluster: &KindCluster,
        node: i32,
    ) -> Result<BTreeMap<i64, usize>, E2eFailure> {
        let query = "select split_part(entry, ' ', 2)::bigint from ledger where split_part(entry, ' ', 1) = $1::text";
        let mut there = BTreeMap::new();
        for row in cluster.app(node).await?.rows(query, &[&self.story]).await? {
            *there.entry(row.get(0)).or_default() += 1;
        }
        Ok(there)
    }
}

/// The longest time between two acknowledgements of these rows, of which the second came after this
/// moment and the first before the other.
pub fn gap<'a>(rows: impl Iterator<Item = &'a WrittenRow>, after: i64, before: i64) -> Duration {
    let times: Vec<i64> =
        rows.filter(|row| row.fate == WriteFate::Acknowledged).map(|row| row.at).collect();
    let pairs = times.windows(2).filter(|two| two[1] > after && two[0] < before);
    Duration::from_millis(
        pairs
            .map(|two| two[1] - two[0])
            .max()
            .and_then(|ms| u64::try_from(ms).ok())
            .unwrap_or_default(),
    )
}
