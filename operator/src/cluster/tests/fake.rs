//! An API server and a Raft group made of memory. Just enough of both; what is written is recorded,
//! in words.

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use k8s_openapi::ByteString;
use kube::Client;
use kube::client::Body;
use pgraft_core::failover::TermEndReason;
use pgraft_core::status::WalPosition;
use pgraft_core::{Address, NodeId, NodeState, Role};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use crate::cluster::certificates::secrets::identity::LoginIdentity;
use crate::cluster::fixtures::{changed, cluster_id, member};
use crate::cluster::members::sql::{MemberSqlError, RaftGroup, SqlTarget};
use crate::cluster::observe::group::FailoverSeen;
use crate::cluster::observe::group::{MemberSeen, PodAnswer};
use crate::cluster::step::MembershipRequest;

#[derive(Clone, Default)]
pub struct FakeApi(Arc<Mutex<FakeStore>>);

#[derive(Default)]
struct FakeStore {
    /// By plural and name.
    objects: BTreeMap<(String, String), Value>,
    calls: Vec<String>,
    reads: usize,
    clock: u64,
    refused: BTreeSet<String>,
    /// Writes to this kind that are still to be answered with a conflict.
    conflicts: BTreeMap<String, usize>,
}

/// `/…/namespaces/default/<plural>[/<name>[/<sub>]]`.
struct FakeLocation {
    plural: String,
    name: Option<String>,
    status: bool,
}

impl FakeApi {
    pub fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.serve(request).await) }
        });
        Client::new(service, "default")
    }

    pub fn put(&self, plural: &str, mut object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let mut store = self.0.lock().unwrap();
        store.stamp(&mut object);
        store.objects.insert((plural.into(), name), object);
    }

    pub fn get(&self, plural: &str, name: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(&(plural.into(), name.into())).cloned()
    }

    pub fn remove(&self, plural: &str, name: &str) {
        self.0.lock().unwrap().objects.remove(&(plural.into(), name.into()));
    }

    pub fn names(&self, plural: &str) -> Vec<String> {
        self.0
            .lock()
            .unwrap()
            .objects
            .keys()
            .filter(|(p, _)| p == plural)
            .map(|(_, name)| name.clone())
            .collect()
    }

    /// Somebody else changes an object.
    pub fn change(&self, plural: &str, name: &str, patch: &Value) {
        let mut store = self.0.lock().unwrap();
        let mut object = store.objects[&(plural.to_owned(), name.to_owned())].clone();
        merge(&mut object, patch);
        store.stamp(&mut object);
        store.objects.insert((plural.into(), name.into()), object);
    }

    /// From now on nothing of this kind may be made; `configmaps/demo-instance`: may be written.
    pub fn refuse(&self, what: &str) {
        self.0.lock().unwrap().refused.insert(what.into());
    }

    /// From now on everything may be made again.
    pub fn allow(&self) {
        self.0.lock().unwrap().refused.clear();
    }

    /// The next writes of this kind find that somebody else was quicker. `status` is a kind of its
    /// own.
    pub fn conflict(&self, plural: &str, times: usize) {
        self.0.lock().unwrap().conflicts.insert(plural.into(), times);
    }

    /// Questions since this was asked last.
    pub fn take_reads(&self) -> usize {
        std::mem::take(&mut self.0.lock().unwrap().reads)
    }

    /// All objects of a kind, as a watch brings them.
    pub fn all<K: serde::de::DeserializeOwned>(&self, plural: &str) -> Vec<K> {
        let store = self.0.lock().unwrap();
        let all = store.objects.iter().filter(|((p, _), _)| p == plural);
        all.map(|(_, object)| serde_json::from_value(object.clone()).unwrap()).collect()
    }

    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().calls)
    }

    async fn serve(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let content_type = head
            .headers
            .get("content-type")
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let body: Value =
            if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        let selector = head
            .uri
            .query()
            .and_then(|q| q.split('&').find_map(|p| p.strip_prefix("labelSelector=")))
            .map(|s| s.replace("%2F", "/").replace("%3D", "="));
        let mut store = self.0.lock().unwrap();
        let (code, answer) = store.answer(
            &head.method,
            &place(head.uri.path()),
            &content_type,
            body,
            selector.as_deref(),
        );
        Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).unwrap()
    }
}

fn place(path: &str) -> FakeLocation {
    let rest = path.split_once("/namespaces/default/").unwrap().1;
    let mut parts = rest.split('/').map(str::to_owned);
    FakeLocation {
        plural: parts.next().unwrap(),
        name: parts.next(),
        status: parts.next().is_some_and(|sub| sub == "status"),
    }
}

impl FakeStore {
    fn stamp(&mut self, object: &mut Value) {
        self.clock += 1;
        object["metadata"]["resourceVersion"] = json!(self.clock.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.clock));
        }
    }

    fn answer(
        &mut self,
        method: &Method,
        place: &FakeLocation,
        content_type: &str,
        body: Value,
        selector: Option<&str>,
    ) -> (u16, Value) {
        let FakeLocation { plural, name, status } = place;
        if plural == "events" {
            self.calls.push(format!(
                "event {}: {}",
                body["reason"].as_str().unwrap(),
                body["note"].as_str().unwrap()
            ));
            return (201, body);
        }
        if method == Method::GET {
            self.reads += 1;
        } else if let Some(left) = self
            .conflicts
            .get_mut(if *status { "status" } else { plural })
            .filter(|left| **left > 0)
        {
            *left -= 1;
            return failure(409, "Conflict");
        }
        if let Some(name) = name.as_ref().filter(|name| {
            method != Method::GET && self.refused.contains(&format!("{plural}/{name}"))
        }) {
            self.calls.push(format!("refuse {plural} {name}"));
            return failure(422, "Invalid");
        }
        match (method, name) {
            (&Method::GET, None) => {
                let carries = |o: &&Value| {
                    selector.is_none_or(|s| {
                        s.split_once('=').is_none_or(|(k, v)| o["metadata"]["labels"][k] == v)
                    })
                };
                let items: Vec<&Value> = self
                    .objects
                    .iter()
                    .filter(|((p, _), _)| p == plural)
                    .map(|(_, o)| o)
                    .filter(carries)
                    .collect();
                (
                    200,
                    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items}),
                )
            }
            (&Method::GET, Some(name)) => match self.objects.get(&(plural.clone(), name.clone())) {
                Some(object) => (200, object.clone()),
                None => failure(404, "NotFound"),
            },
            (&Method::POST, None) => self.create(plural, body),
            (&Method::PATCH, Some(name)) if *status => {
                self.calls.push(format!("status {}", body["status"]["phase"]));
                let mut object = self.objects[&(plural.clone(), name.clone())].clone();
                object["status"] = body["status"].clone();
                self.insert(plural, name, object)
            }
            (&Method::PATCH, Some(name)) if content_type.contains("apply") => {
                let there = self
                    .objects
                    .get(&(plural.clone(), name.clone()))
                    .map(|o| o["metadata"]["uid"].clone());
                assert_eq!(
                    Some(&body["metadata"]["uid"]),
                    there.as_ref(),
                    "only the very object that was seen"
                );
                self.calls.push(format!("apply {plural} {name}"));
                self.insert(plural, name, body)
            }
            (&Method::PATCH, Some(name)) => {
                let mut shown_body = body.clone();
                shown_body["metadata"].as_object_mut().unwrap().remove("uid");
                self.calls.push(format!("merge {plural} {name} {}", shown(&shown_body)));
                let mut object = self.objects[&(plural.clone(), name.clone())].clone();
                assert_eq!(
                    body["metadata"]["uid"], object["metadata"]["uid"],
                    "only the very object that was seen"
                );
                merge(&mut object, &body);
                self.insert(plural, name, object)
            }
            (&Method::DELETE, Some(name)) => {
                let object = self.objects.remove(&(plural.clone(), name.clone())).unwrap();
                assert_eq!(
                    body["preconditions"]["uid"], object["metadata"]["uid"],
                    "only the very object that was seen"
                );
                self.calls.push(format!("delete {plural} {name}"));
                (200, object)
            }
            other => panic!("{other:?}"),
        }
    }

    fn create(&mut self, plural: &str, mut object: Value) -> (u16, Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        if self.refused.contains(plural) {
            return failure(403, "Forbidden");
        }
        if self.refused.contains(&format!("{plural}/{name}")) {
            self.calls.push(format!("refuse {plural} {name}"));
            return failure(422, "Invalid");
        }
        self.calls.push(format!("create {plural} {name}"));
        if self.objects.contains_key(&(plural.to_owned(), name.clone())) {
            return failure(409, "AlreadyExists");
        }
        if let Some(words) = object["stringData"].as_object().cloned() {
            let bytes = |value: &Value| {
                serde_json::to_value(ByteString(value.as_str().unwrap().as_bytes().to_vec()))
                    .unwrap()
            };
            object["data"] = words.iter().map(|(k, v)| (k.clone(), bytes(v))).collect();
        }
        self.insert(plural, &name, object)
    }

    fn insert(&mut self, plural: &str, name: &str, mut object: Value) -> (u16, Value) {
        self.stamp(&mut object);
        self.objects.insert((plural.to_owned(), name.to_owned()), object.clone());
        (200, object)
    }
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    (
        code,
        json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason, "message": reason, "code": code}),
    )
}

/// What is secret, and another one each time, is shown by its key.
fn shown(body: &Value) -> String {
    match body["data"].as_object() {
        Some(data) => data.keys().cloned().collect::<Vec<_>>().join(", "),
        None => body.to_string(),
    }
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

#[derive(Default)]
pub struct FakeGroup(Mutex<FakeMembers>);

#[derive(Default)]
struct FakeMembers {
    members: BTreeMap<NodeId, Role>,
    retired: BTreeSet<NodeId>,
    changes: Vec<MembershipRequest>,
    refusal: Option<(String, String)>,
    leader: Option<NodeId>,
    unreachable: BTreeSet<NodeId>,
    asked: Vec<NodeId>,
    /// Where the members choose the primary: what they say about it.
    failover: Option<(NodeId, FailoverSeen)>,
    /// Bytes of WAL since the beginning.
    written: u64,
}

impl FakeMembers {
    /// The first member leads until another one is said to.
    fn leader(&self) -> Option<NodeId> {
        self.leader.or_else(|| self.members.keys().next().copied())
    }
}

impl FakeGroup {
    pub fn found(&self, node: NodeId) {
        self.set(node, Role::Voter);
    }

    pub fn set(&self, node: NodeId, role: Role) {
        self.0.lock().unwrap().members.insert(node, role);
    }

    pub fn retire(&self, node: NodeId) {
        let mut group = self.0.lock().unwrap();
        group.members.remove(&node);
        group.retired.insert(node);
    }

    pub fn refuse(&self, code: &str, message: &str) {
        self.0.lock().unwrap().refusal = Some((code.into(), message.into()));
    }

    pub fn accept(&self) {
        self.0.lock().unwrap().refusal = None;
    }

    /// From now on this one leads.
    pub fn lead(&self, node: NodeId) {
        self.0.lock().unwrap().leader = Some(node);
    }

    /// The leader does not reach it.
    pub fn lose(&self, node: NodeId) {
        self.0.lock().unwrap().unreachable.insert(node);
    }

    /// The leader reaches it again.
    pub fn find(&self, node: NodeId) {
        self.0.lock().unwrap().unreachable.remove(&node);
    }

    /// From now on this one is the primary, and the members choose it.
    pub fn primary_term(&self, primary: NodeId, failover: FailoverSeen) {
        self.0.lock().unwrap().failover = Some((primary, failover));
    }

    /// Somebody writes so much, and the standbys have it.
    pub fn write(&self, bytes: u64) {
        self.0.lock().unwrap().written += bytes;
    }

    /// Who was asked since this was asked last.
    pub fn take_asked(&self) -> Vec<NodeId> {
        std::mem::take(&mut self.0.lock().unwrap().asked)
    }

    pub fn take_changes(&self) -> Vec<MembershipRequest> {
        std::mem::take(&mut self.0.lock().unwrap().changes)
    }
}

impl RaftGroup for FakeGroup {
    /// The first member is the primary.
    fn ask<'a>(
        &'a self,
        target: &'a SqlTarget,
        login: &'a LoginIdentity,
    ) -> BoxFuture<'a, Result<PodAnswer, MemberSqlError>> {
        assert!(
            matches!(login, LoginIdentity::Certificate(identity) if identity.connector(target.node).is_ok()),
            "{login:?}"
        );
        let mut group = self.0.lock().unwrap();
        group.asked.push(target.node);
        let leader = group.leader();
        let primary = group
            .failover
            .as_ref()
            .map(|(primary, _)| *primary)
            .or_else(|| group.members.keys().next().copied());
        let state = match group.members.get(&target.node) {
            None => NodeState::Uninitialized,
            Some(_) if leader == Some(target.node) => NodeState::Leader,
            Some(Role::Learner) => NodeState::Learner,
            Some(_) => NodeState::Follower,
        };
        let leads = state == NodeState::Leader;
        let reachable = |id: &NodeId| leads.then(|| !group.unreachable.contains(id));
        let seen = |(id, role): (&NodeId, &Role)| {
            let member = member(id.get(), *role);
            let wal = member.wal.map(|wal| WalPosition { lsn: wal.lsn + group.written, ..wal });
            MemberSeen { reachable: reachable(id), wal, ..member }
        };
        let members: Vec<MemberSeen> = group.members.iter().map(seen).collect();
        let next = group.members.keys().chain(&group.retired).max().map_or(1, |id| id.get() + 1);
        let answer = PodAnswer {
            node: target.node,
            cluster_id: (state != NodeState::Uninitialized).then(cluster_id),
            state,
            term: 1,
            leader,
            primary,
            failover: group.failover.as_ref().map(|(_, seen)| seen.clone()),
            applied_index: 1,
            next_node_id: next,
            members,
        };
        Box::pin(async { Ok(answer) })
    }

    fn change<'a>(
        &'a self,
        target: &'a SqlTarget,
        _: &'a LoginIdentity,
        change: MembershipRequest,
        address: &'a Address,
    ) -> BoxFuture<'a, Result<(), MemberSqlError>> {
        let mut group = self.0.lock().unwrap();
        let whom = if let MembershipRequest::SwitchOver(node) = change {
            Some(node)
        } else {
            group.leader()
        };
        assert_eq!(
            whom,
            Some(target.node),
            "only the leader is asked, or who is to become the primary"
        );
        if let Some((code, message)) = group.refusal.clone() {
            return Box::pin(async { Err(MemberSqlError::Refused { code, message }) });
        }
        let (MembershipRequest::Add(node)
        | MembershipRequest::Remove(node)
        | MembershipRequest::SwitchOver(node)) = change;
        assert_eq!(address.to_string(), format!("demo-{node}.demo-pods.default.svc:7001"));
        group.changes.push(change);
        match (change, &mut group.failover) {
            (MembershipRequest::Add(_), _) => drop(group.members.insert(node, Role::Learner)),
            (MembershipRequest::Remove(_), _) => drop(group.members.insert(node, Role::Leaving)),
            (MembershipRequest::SwitchOver(_), Some((primary, failover))) => {
                *failover = changed(
                    failover.epoch + 1,
                    primary.get(),
                    node.get(),
                    TermEndReason::Switchover,
                );
                *primary = node;
            }
            (MembershipRequest::SwitchOver(_), None) => panic!("the primary is fixed"),
        }
        Box::pin(async { Ok(()) })
    }
}
