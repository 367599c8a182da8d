//! The `PgRaftCluster` of a scenario, in its own namespace.

use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolumeClaim, Pod, Secret};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use pgraft_api::cluster::{ClusterMemberStatus, PgRaftCluster, Role};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::command::run;
use crate::ensure;
use crate::failure::E2eFailure;
use crate::sql::{SqlLogin, SqlSession};
use crate::wait::{Polled, until, until_true};

/// The time limit of anything that involves new pods.
pub const TIMEOUT: Duration = Duration::from_mins(3);

/// The name of every scenario's cluster. Each has its own namespace.
pub const NAME: &str = "demo";

/// One row of `pgraft_get_nodes()`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeRow {
    /// Node id.
    pub id: i32,
    /// The address of its Raft member.
    pub address: String,
    /// The port of its Raft member.
    pub port: i32,
}

/// The cluster of one scenario.
#[derive(Clone)]
pub struct KindCluster {
    client: Client,
    /// Its namespace.
    pub namespace: String,
}

impl KindCluster {
    /// Creates the namespace.
    ///
    /// # Errors
    /// [`E2eFailure::Kube`].
    pub async fn in_new_namespace(client: &Client, namespace: &str) -> Result<Self, E2eFailure> {
        let restricted = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let object =
            serde_json::from_value(json!({"metadata": {"name": namespace, "labels": restricted}}))
                .map_err(kube::Error::SerdeError)?;
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await?;
        Ok(Self { client: client.clone(), namespace: namespace.to_owned() })
    }

    /// Deletes the namespace with everything in it. Does not wait until it is gone.
    ///
    /// # Errors
    /// [`E2eFailure::Kube`].
    pub async fn remove(&self) -> Result<(), E2eFailure> {
        Api::<Namespace>::all(self.client.clone())
            .delete(&self.namespace, &DeleteParams::background())
            .await?;
        Ok(())
    }

    /// The custom resources of the namespace.
    pub fn resources(&self) -> Api<PgRaftCluster> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The Secrets of the namespace.
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The pods of the namespace.
    pub fn pod_api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A minimal manifest with additional fields of the spec.
    pub fn manifest(replicas: i32, more: &Value) -> Value {
        let mut spec = json!({"replicas": replicas, "storage": {"size": "1Gi"}, "enableSuperuserAccess": true});
        if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
            spec.extend(more.clone());
        }
        json!({"apiVersion": "pgraft.io/v1alpha1", "kind": "PgRaftCluster", "metadata": {"name": NAME}, "spec": spec})
    }

    /// Creates the cluster and waits until it is settled.
    ///
    /// # Errors
    /// An error of the API server, or [`E2eFailure::Deadline`].
    pub async fn create(&self, replicas: i32, more: &Value) -> Result<(), E2eFailure> {
        let resource = serde_json::from_value(Self::manifest(replicas, more))
            .map_err(kube::Error::SerdeError)?;
        self.resources().create(&PostParams::default(), &resource).await?;
        self.settled(replicas).await
    }

    /// `kubectl scale`.
    ///
    /// # Errors
    /// [`E2eFailure::Command`].
    pub async fn scale(&self, replicas: i32) -> Result<(), E2eFailure> {
        run(
            "kubectl",
            &[
                "scale",
                &format!("pgr/{NAME}"),
                &format!("--replicas={replicas}"),
                "--namespace",
                &self.namespace,
            ],
        )
        .await
        .map(drop)
    }

    /// Waits until the status and the pods show this many voters, all of them ready.
    ///
    /// # Errors
    /// [`E2eFailure::Deadline`].
    pub async fn settled(&self, replicas: i32) -> Result<(), E2eFailure> {
        let what = format!("{} has {replicas} voters that are ready", self.namespace);
        until(&what, TIMEOUT, || async {
            let resource = self.resources().get(NAME).await?;
            let generation = resource.metadata.generation;
            let Some(status) = resource.status else {
                return Ok(Polled::Pending("no status".into()));
            };
            let voters = status.members.iter().filter(|m| m.role == Role::Voter).count();
            let ready = status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
            let pods = self.pods().await?.len();
            let wanted = usize::try_from(replicas).unwrap_or_default();
            let done = status.observed_generation == generation
                && ready
                && status.ready_replicas == replicas
                && voters == wanted
                && pods == wanted;
            let seen = format!(
                "{}: {} members, {voters} voters, {} ready, {pods} pods",
                status.phase,
                status.members.len(),
                status.ready_replicas
            );
            Ok(if done && status.members.len() == wanted {
                Polled::Ready(())
            } else {
                Polled::Pending(seen)
            })
        })
        .await
    }

    /// The pods by node id, including terminating ones.
    ///
    /// # Errors
    /// [`E2eFailure::Kube`].
    pub async fn pods(&self) -> Result<BTreeMap<i32, Pod>, E2eFailure> {
        let ours = ListParams::default().labels(&format!("pgraft.io/cluster={NAME}"));
        let pods = self.pod_api().list(&ours).await?.items;
        Ok(pods
            .into_iter()
            .filter_map(|pod| Some((node_id(pod.metadata.name.as_deref()?)?, pod)))
            .collect())
    }

    /// The node ids that have a volume.
    ///
    /// # Errors
    /// [`E2eFailure::Kube`].
    pub async fn volumes(&self) -> Result<BTreeSet<i32>, E2eFailure> {
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &self.namespace)
            .list(&ListParams::default())
            .await?;
        Ok(claims
            .items
            .iter()
            .filter_map(|claim| node_id(claim.metadata.name.as_deref()?))
            .collect())
    }

    /// The members in the status.
    ///
    /// # Errors
    /// [`E2eFailure::Kube`].
    pub async fn members(&self) -> Result<Vec<ClusterMemberStatus>, E2eFailure> {
        Ok(self.resources().get(NAME).await?.status.map(|s| s.members).unwrap_or_default())
    }

    /// Deletes a pod with a grace period of one second.
    ///
    /// # Errors
    /// [`E2eFailure::Kube`].
    pub async fn delete_pod(&self, node: i32) -> Result<(), E2eFailure> {
        self.pod_api()
            .delete(
                &pod_name(node),
                &DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::default() },
            )
            .await?;
        Ok(())
    }

    /// Makes a host unschedulable, or schedulable again.
    ///
    /// # Errors
    /// [`E2eFailure::Kube`].
    pub async fn cordon(&self, host: &str, cordoned: bool) -> Result<(), E2eFailure> {
        let hosts = Api::<Node>::all(self.client.clone());
        if cordoned {
            hosts.cordon(host).await?
        } else {
            hosts.uncordon(host).await?
        };
        Ok(())
    }

    /// A connection as superuser to the database `postgres`.
    ///
    /// # Errors
    /// If the pod, its Postgres or the Secret is missing.
    pub async fn superuser(&self, node: i32) -> Result<SqlSession, E2eFailure> {
        self.connect(node, "superuser", Some("postgres")).await
    }

    /// A connection as the application to its database.
    ///
    /// # Errors
    /// As [`Self::superuser`].
    pub async fn app(&self, node: i32) -> Result<SqlSession, E2eFailure> {
        self.connect(node, "app", None).await
    }

    /// A connection as the application to another database.
    ///
    /// # Errors
    /// As [`Self::superuser`].
    pub async fn app_in(&self, node: i32, database: &str) -> Result<SqlSession, E2eFailure> {
        self.connect(node, "app", Some(database)).await
    }

    async fn connect(
        &self,
        node: i32,
        secret: &str,
        database: Option<&str>,
    ) -> Result<SqlSession, E2eFailure> {
        let name = format!("{NAME}-{secret}");
        let data = Api::<Secret>::namespaced(self.client.clone(), &self.namespace)
            .get(&name)
            .await?
            .data
            .unwrap_or_default();
        let field = |key: &str| match data.get(key) {
            Some(bytes) => Ok(String::from_utf8_lossy(&bytes.0).into_owned()),
            None => Err(E2eFailure::Wrong(format!("Secret {name} has no {key}"))),
        };
        let database = database.map_or_else(|| field("dbname"), |name| Ok(name.to_owned()))?;
        let login = SqlLogin { user: field("username")?, password: field("password")?, database };
        SqlSession::open(&self.pod_api(), &pod_name(node), &login).await
    }

    /// The rows of `pgraft_get_nodes()` on one node.
    ///
    /// # Errors
    /// As [`Self::superuser`].
    pub async fn rows(&self, node: i32) -> Result<Vec<NodeRow>, E2eFailure> {
        let rows = self
            .superuser(node)
            .await?
            .rows("select node_id, address, port from pgraft_get_nodes()", &[])
            .await?;
        Ok(rows
            .iter()
            .map(|row| NodeRow { id: row.get(0), address: row.get(1), port: row.get(2) })
            .collect())
    }

    /// Waits until these nodes show the same rows, with exactly these ids, and returns the rows.
    ///
    /// # Errors
    /// [`E2eFailure::Deadline`] with the rows of each node.
    pub async fn same_rows(&self, ids: &[i32]) -> Result<Vec<NodeRow>, E2eFailure> {
        self.same_rows_on(ids, ids).await
    }

    /// As [`Self::same_rows`], on some nodes only.
    ///
    /// # Errors
    /// As [`Self::same_rows`].
    pub async fn same_rows_on(
        &self,
        asked: &[i32],
        ids: &[i32],
    ) -> Result<Vec<NodeRow>, E2eFailure> {
        let what = format!("pgraft_get_nodes() shows {ids:?} on {asked:?} of {}", self.namespace);
        until(&what, Duration::from_mins(1), || async {
            let mut seen = BTreeMap::new();
            for &id in asked {
                seen.insert(id, self.rows(id).await?);
            }
            let first = seen.values().next().cloned().unwrap_or_default();
            let agreed = seen.values().all(|rows| *rows == first)
                && first.iter().map(|row| row.id).eq(ids.iter().copied());
            Ok(if agreed { Polled::Ready(first) } else { Polled::Pending(format!("{seen:?}")) })
        })
        .await
    }

    /// Checks that all nodes, the status and the pods' addresses agree.
    ///
    /// # Errors
    /// [`E2eFailure::Wrong`] if they differ.
    pub async fn same_everywhere(&self, ids: &[i32]) -> Result<(), E2eFailure> {
        let rows = self.same_rows(ids).await?;
        let members = self.members().await?;
        let in_status: Vec<NodeRow> = members
            .into_iter()
            .map(|m| NodeRow {
                id: i32::try_from(m.id).unwrap_or_default(),
                address: m.address,
                port: m.port,
            })
            .collect();
        ensure!(in_status == rows, "the status shows {in_status:?}, the pods show {rows:?}");
        for row in &rows {
            let address = format!("{}.{NAME}-pods.{}.svc", pod_name(row.id), self.namespace);
            ensure!(
                row.address == address && row.port == 7001,
                "node {} must have the address {address}:7001, not {}:{}",
                row.id,
                row.address,
                row.port
            );
        }
        Ok(())
    }

    /// The Raft leader that a node reports.
    ///
    /// # Errors
    /// [`E2eFailure::Deadline`] if it reports none.
    pub async fn leader(&self, asked: i32) -> Result<i32, E2eFailure> {
        until(
            &format!("node {asked} of {} has a leader", self.namespace),
            Duration::from_mins(1),
            || async {
                let leader: Option<i64> =
                    self.superuser(asked).await?.value("select pgraft_get_leader()", &[]).await?;
                Ok(match leader.and_then(|id| i32::try_from(id).ok()) {
                    Some(id) => Polled::Ready(id),
                    None => Polled::Pending("NULL".into()),
                })
            },
        )
        .await
    }

    /// The image of the members.
    ///
    /// # Errors
    /// [`E2eFailure::Wrong`] if there is no pod.
    pub async fn image(&self) -> Result<String, E2eFailure> {
        let pods = self.pods().await?;
        let image =
            pods.values().find_map(|pod| pod.spec.as_ref()?.containers.first()?.image.clone());
        image.ok_or_else(|| E2eFailure::Wrong("there is no pod".into()))
    }

    /// The host of the API server.
    ///
    /// # Errors
    /// [`E2eFailure::Wrong`] if no host has the label.
    pub async fn control_plane(&self) -> Result<String, E2eFailure> {
        let those = ListParams::default().labels("node-role.kubernetes.io/control-plane");
        let hosts = Api::<Node>::all(self.client.clone()).list(&those).await?.items;
        let name = hosts.into_iter().find_map(|host| host.metadata.name);
        name.ok_or_else(|| {
            E2eFailure::Wrong("no host has the label node-role.kubernetes.io/control-plane".into())
        })
    }

    /// Waits until the pod is ready.
    ///
    /// # Errors
    /// [`E2eFailure::Deadline`].
    pub async fn pod_ready(&self, node: i32) -> Result<(), E2eFailure> {
        until_true(
            &format!("the pod {1} of {0} is ready", self.namespace, pod_name(node)),
            TIMEOUT,
            || async { Ok(is_ready(&self.pod_api().get(&pod_name(node)).await?)) },
        )
        .await
    }
}

/// The pod name of a node.
pub fn pod_name(node: i32) -> String {
    format!("{NAME}-{node}")
}

/// Whether the pod's condition Ready is True.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    pod.metadata.deletion_timestamp.is_none()
        && conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn node_id(name: &str) -> Option<i32> {
    name.strip_prefix(NAME)?.strip_prefix('-')?.parse().ok()
}
