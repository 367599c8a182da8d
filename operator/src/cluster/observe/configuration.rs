//! Asks the instance managers of all pods about their configuration. Pods that are not ready are
//! asked, too: only their instance managers know why a server cannot start. An answer is a few
//! hundred bytes from memory, requested every two seconds at most.

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use pgraft_core::NodeId;
use pgraft_core::configuration::ConfigurationStatus;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::cluster::context::Context;
use crate::cluster::members::http;
use crate::cluster::observe::observed::PodSeen;
use pgraft_api::names::HTTP_PORT;

/// How old an answer may be.
const MAX_AGE: SignedDuration = SignedDuration::from_secs(2);

/// What was answered, and when.
#[derive(Debug, Default)]
pub struct ConfigurationAnswers {
    at: Option<Timestamp>,
    by_node: BTreeMap<NodeId, ConfigurationStatus>,
}

/// What each of these pods says.
pub async fn ask_all(
    ctx: &Context,
    uid: &str,
    pods: &BTreeMap<NodeId, PodSeen>,
    now: Timestamp,
) -> BTreeMap<NodeId, ConfigurationStatus> {
    let known = ctx.memories.of(uid, |memory| {
        let ConfigurationAnswers { at, by_node } = &memory.configurations;
        at.is_some_and(|at| now.duration_since(at) < MAX_AGE).then(|| by_node.clone())
    });
    if let Some(known) = known {
        return known;
    }
    let addressed = pods
        .iter()
        .filter(|(_, pod)| !pod.terminating)
        .filter_map(|(node, pod)| Some((*node, pod.ip?)));
    let asked =
        addressed.map(|(node, ip)| async move { Some((node, ctx.raft.configuration(ip).await?)) });
    let by_node: BTreeMap<NodeId, ConfigurationStatus> =
        join_all(asked).await.into_iter().flatten().collect();
    ctx.memories.of(uid, |memory| {
        memory.configurations = ConfigurationAnswers { at: Some(now), by_node: by_node.clone() }
    });
    by_node
}

/// One `GET /configuration`. Returns `None` if there is no answer, or one of an older version that
/// does not know the path.
pub async fn ask(ip: IpAddr) -> Option<ConfigurationStatus> {
    http::get(SocketAddr::new(ip, HTTP_PORT), "/configuration").await
}
