//! One `PgRaftCluster` in a namespace of its own: what a scenario does to it and asks of it.

use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolumeClaim, Pod, Secret};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use pgraft_operator::api::{ClusterMemberStatus, PgRaftCluster};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::command::run;
use crate::ensure;
use crate::failure::E2eFailure;
use crate::sql::{SqlLogin, SqlSession};
use crate::wait::{Look, until, until_true};

/// How long anything that involves new pods may take; a busy machine of two cores needs part of it.
pub const TIMEOUT: Duration = Duration::from_mins(3);

/// The name of every scenario's cluster: namespaces keep them apart.
pub const NAME: &str = "demo";

/// One row of `pgraft_get_nodes()`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeRow {
    /// Node id.
    pub id: i32,
    /// Where its Raft member listens.
    pub address: String,
    /// The port of that.
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
    /// Makes the namespace.
    ///
    /// # Errors
    /// [`Failure::Kube`].
    pub async fn in_new_namespace(client: &Client, namespace: &str) -> Result<Self, E2eFailure> {
        let restricted = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let object =
            serde_json::from_value(json!({"metadata": {"name": namespace, "labels": restricted}}))
                .map_err(kube::Error::SerdeError)?;
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await?;
        Ok(Self { client: client.clone(), namespace: namespace.to_owned() })
    }

    /// Removes the namespace and all that is in it. Does not wait for the end of it.
    ///
    /// # Errors
    /// [`Failure::Kube`].
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

    /// The smallest sensible spec, and what a scenario wants besides.
    pub fn manifest(replicas: i32, more: &Value) -> Value {
        let mut spec = json!({"replicas": replicas, "storage": {"size": "1Gi"}, "enableSuperuserAccess": true});
        if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
            spec.extend(more.clone());
        }
        json!({"apiVersion": "pgraft.io/v1alpha1", "kind": "PgRaftCluster", "metadata": {"name": NAME}, "spec": spec})
    }

    /// Makes the cluster and waits until it is as wanted.
    ///
    /// # Errors
    /// What the API server says, or [`Failure::Deadline`].
    pub async fn create(&self, replicas: i32, more: &Value) -> Result<(), E2eFailure> {
        let resource = serde_json::from_value(Self::manifest(replicas, more))
            .map_err(kube::Error::SerdeError)?;
        self.resources().create(&PostParams::default(), &resource).await?;
        self.settled(replicas).await
    }

    /// `kubectl scale`.
    ///
    /// # Errors
    /// [`Failure::Command`].
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

    /// Waits until the status says that all of it is done, and the pods are as many.
    ///
    /// # Errors
    /// [`Failure::Deadline`].
    pub async fn settled(&self, replicas: i32) -> Result<(), E2eFailure> {
        let what = format!("{}: {replicas} voters, all ready", self.namespace);
        until(&what, TIMEOUT, || async {
            let resource = self.resources().get(NAME).await?;
            let generation = resource.metadata.generation;
            let Some(status) = resource.status else { return Ok(Look::NotYet("no status".into())) };
            let voters = status.members.iter().filter(|m| m.role == "voter").count();
            let ready = status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
            let pods = self.pods().await?.len();
            let wanted = usize::try_from(replicas).unwrap_or_default();
            let done = status.observed_generation == generation
                && ready
                && status.ready_replicas == replicas
                && voters == wanted
                && pods == wanted;
            let words = format!(
                "{}: {} members, {voters} voters, {} ready, {pods} pods",
                status.phase,
                status.members.len(),
                status.ready_replicas
            );
            Ok(if done && status.members.len() == wanted {
                Look::Yes(())
            } else {
                Look::NotYet(words)
            })
        })
        .await
    }

    /// The pods by node id, those on their way out too.
    ///
    /// # Errors
    /// [`Failure::Kube`].
    pub async fn pods(&self) -> Result<BTreeMap<i32, Pod>, E2eFailure> {
        let ours = ListParams::default().labels(&format!("pgraft.io/cluster={NAME}"));
        let pods = self.pod_api().list(&ours).await?.items;
        Ok(pods
            .into_iter()
            .filter_map(|pod| Some((node_id(pod.metadata.name.as_deref()?)?, pod)))
            .collect())
    }

    /// Node ids that have a volume.
    ///
    /// # Errors
    /// [`Failure::Kube`].
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

    /// The members, as the status has them.
    ///
    /// # Errors
    /// [`Failure::Kube`].
    pub async fn members(&self) -> Result<Vec<ClusterMemberStatus>, E2eFailure> {
        Ok(self.resources().get(NAME).await?.status.map(|s| s.members).unwrap_or_default())
    }

    /// Deletes a pod, as a drained or lost host does, with a second to go.
    ///
    /// # Errors
    /// [`Failure::Kube`].
    pub async fn delete_pod(&self, node: i32) -> Result<(), E2eFailure> {
        self.pod_api()
            .delete(
                &pod_name(node),
                &DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::default() },
            )
            .await?;
        Ok(())
    }

    /// Whether this host takes new pods.
    ///
    /// # Errors
    /// [`Failure::Kube`].
    pub async fn cordon(&self, host: &str, cordoned: bool) -> Result<(), E2eFailure> {
        let hosts = Api::<Node>::all(self.client.clone());
        if cordoned {
            hosts.cordon(host).await?
        } else {
            hosts.uncordon(host).await?
        };
        Ok(())
    }

    /// A connection as the superuser, to database `postgres`.
    ///
    /// # Errors
    /// When the pod, its Postgres or the Secret is not there.
    pub async fn superuser(&self, node: i32) -> Result<SqlSession, E2eFailure> {
        self.connect(node, "superuser", Some("postgres")).await
    }

    /// A connection as the application, to its database.
    ///
    /// # Errors
    /// As [`Self::superuser`].
    pub async fn app(&self, node: i32) -> Result<SqlSession, E2eFailure> {
        self.connect(node, "app", None).await
    }

    /// A session as the application's role in another database.
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

    /// `pgraft_get_nodes()` of one pod.
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

    /// Waits until these nodes all show the same rows, of exactly these ids, and returns them.
    ///
    /// # Errors
    /// [`Failure::Deadline`] with what each showed.
    pub async fn same_rows(&self, ids: &[i32]) -> Result<Vec<NodeRow>, E2eFailure> {
        self.same_rows_on(ids, ids).await
    }

    /// As [`Self::same_rows`], where not every member has a pod that answers.
    ///
    /// # Errors
    /// As [`Self::same_rows`].
    pub async fn same_rows_on(
        &self,
        asked: &[i32],
        ids: &[i32],
    ) -> Result<Vec<NodeRow>, E2eFailure> {
        let what = format!("{}: pgraft_get_nodes() shows {ids:?} on {asked:?}", self.namespace);
        until(&what, Duration::from_mins(1), || async {
            let mut seen = BTreeMap::new();
            for &id in asked {
                seen.insert(id, self.rows(id).await?);
            }
            let first = seen.values().next().cloned().unwrap_or_default();
            let agreed = seen.values().all(|rows| *rows == first)
                && first.iter().map(|row| row.id).eq(ids.iter().copied());
            Ok(if agreed { Look::Yes(first) } else { Look::NotYet(format!("{seen:?}")) })
        })
        .await
    }

    /// The rows everywhere, the status, and the addresses that the pods have.
    ///
    /// # Errors
    /// [`Failure::Wrong`] when they differ.
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
                "node {} should be at {address}:7001, and is at {}:{}",
                row.id,
                row.address,
                row.port
            );
        }
        Ok(())
    }

    /// The Raft leader, by the word of this node.
    ///
    /// # Errors
    /// [`Failure::Deadline`] when it knows of none.
    pub async fn leader(&self, asked: i32) -> Result<i32, E2eFailure> {
        until(
            &format!("{}: node {asked} knows a leader", self.namespace),
            Duration::from_mins(1),
            || async {
                let leader: Option<i64> =
                    self.superuser(asked).await?.value("select pgraft_get_leader()", &[]).await?;
                Ok(match leader.and_then(|id| i32::try_from(id).ok()) {
                    Some(id) => Look::Yes(id),
                    None => Look::NotYet("NULL".into()),
                })
            },
        )
        .await
    }

    /// The image of the members, which every host has that runs one.
    ///
    /// # Errors
    /// [`Failure::Wrong`] when there is no pod.
    pub async fn image(&self) -> Result<String, E2eFailure> {
        let pods = self.pods().await?;
        let image =
            pods.values().find_map(|pod| pod.spec.as_ref()?.containers.first()?.image.clone());
        image.ok_or_else(|| E2eFailure::Wrong("there is no pod".into()))
    }

    /// The host that the API server runs on.
    ///
    /// # Errors
    /// [`Failure::Wrong`] when none says so.
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
    /// [`Failure::Deadline`].
    pub async fn pod_ready(&self, node: i32) -> Result<(), E2eFailure> {
        until_true(
            &format!("{}: pod {} is ready", self.namespace, pod_name(node)),
            TIMEOUT,
            || async { Ok(is_ready(&self.pod_api().get(&pod_name(node)).await?)) },
        )
        .await
    }
}

/// The pod of a node.
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
