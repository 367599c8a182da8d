//! What strangers' bytes and damaged files go through. Each of these takes any bytes at all and
//! panics where something does not hold.
//!
//! Called by the targets of `fuzz/` (`just fuzz`) with the feature `fuzz`, and by the tests here
//! with bytes from a fixed seed. Nothing of it is in what ships.

#![allow(clippy::expect_used, clippy::missing_panics_doc, reason = "a panic is the answer")]

mod disk;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;

use futures::FutureExt;
use pgraft_core::control::{self, LogRow, Request, Response};
use pgraft_core::primary_view::{PrimaryUpdate, PrimaryView};
use pgraft_core::{Address, ClusterId, ClusterState, Command, InstanceId, NodeId, Refusal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::identity::Identity;
use crate::store::SnapshotFile;
use crate::transport::{
    Hello, MAX_FRAME, MAX_HELLO, PROTOCOL_VERSION, Rpc, RpcReply, Welcome, admit, read_json,
    write_json,
};
use crate::types::{AppliedEntry, LogCommand, TypeConfig, Vote, core_membership};

/// One thing that bytes go through.
pub struct Target {
    /// As `just fuzz` names it.
    pub name: &'static str,
    /// Panics where something does not hold.
    pub run: fn(&[u8]),
    /// Bytes that are as they should be, to begin with.
    pub examples: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 7] = [
    Target { name: "frames", run: frames, examples: frame_examples },
    Target { name: "handshake", run: handshake, examples: handshake_examples },
    Target { name: "log", run: disk::damaged, examples: disk::damages },
    Target { name: "records", run: disk::forged, examples: disk::forgeries },
    Target { name: "control", run: control, examples: control_examples },
    Target { name: "snapshot", run: snapshot, examples: snapshot_examples },
    Target { name: "identity", run: identity, examples: identity_examples },
];

/// Runs the target of that name.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("one of the names");
    (target.run)(bytes);
}

/// Requests and replies between members, one after the other as on a connection.
fn frames(bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(rpc) = next::<Rpc>(&mut rest, MAX_FRAME) {
        again(&rpc, MAX_FRAME);
        if let Rpc::Append(request) = &rpc {
            let commands = request.entries.iter().filter_map(|entry| match &entry.payload {
                openraft::EntryPayload::Normal(command) => Some(&command.0),
                _ => None,
            });
            applied(&mut ClusterState::default(), commands);
        }
        if let Rpc::Snapshot { data, .. } = &rpc {
            state(data);
        }
    }
    let mut rest = bytes;
    while let Some(reply) = next::<RpcReply>(&mut rest, MAX_FRAME) {
        again(&reply, MAX_FRAME);
    }
}

/// A hello, and whether it may be answered as it is: by a newcomer, by a member, by a member that
/// knows the dialler.
fn handshake(bytes: &[u8]) {
    if let Some(welcome) = next::<Welcome>(&mut &*bytes, MAX_FRAME) {
        again(&welcome, MAX_FRAME);
    }
    let Some(hello) = next::<Hello>(&mut &*bytes, MAX_HELLO) else { return };
    again(&hello, MAX_FRAME);
    let (member, state) = (member(), group());
    for (me, state) in [
        (newcomer(), &ClusterState::default()),
        (member.clone(), &ClusterState::default()),
        (member, &state),
    ] {
        let known = state.members.get(&hello.from).and_then(|m| m.info.as_ref());
        let right = hello.version == PROTOCOL_VERSION
            && hello.to == me.node_id
            && me.cluster_id().is_none_or(|ours| ours == hello.cluster)
            && hello.to_instance.is_none_or(|instance| instance == me.instance)
            && !state.retired.contains(&hello.from)
            && known.is_none_or(|told| told.instance == hello.from_instance);
        assert_eq!(admit(&me, state, &hello).is_ok(), right, "{hello:?} to {me:?}");
    }
}

/// What comes over the control socket, on both of its ends.
fn control(bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(request) = next::<Request>(&mut rest, control::MAX_FRAME) {
        again(&request, control::MAX_FRAME);
    }
    let mut rest = bytes;
    while let Some(response) = next::<Response>(&mut rest, control::MAX_FRAME) {
        again(&response, control::MAX_FRAME);
    }
}

/// A snapshot as it lies on disk; and, since nobody hits the checksum by chance, the same with a
/// right one.
fn snapshot(bytes: &[u8]) {
    let read = |bytes: &[u8]| SnapshotFile::parse(bytes);
    if let Ok(file) = read(bytes) {
        let written = serde_json::to_vec_pretty(&file).expect("what was read can be written");
        assert_eq!(read(&written).ok().map(|f| f.crc), Some(file.crc));
    }
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else { return };
    let (meta, cluster) = (
        serde_json::from_value(value["meta"].clone()),
        serde_json::from_value(value["cluster"].clone()),
    );
    if let (Ok(meta), Ok(cluster)) = (meta, cluster) {
        let file = SnapshotFile::new(meta, cluster).expect("it can be written");
        let written = serde_json::to_vec_pretty(&file).expect("it can be written");
        assert!(
            read(&written).is_ok_and(|same| same.cluster == file.cluster),
            "written and not read: {}",
            String::from_utf8_lossy(&written)
        );
        core_membership(&file.meta.last_membership);
        state(&serde_json::to_vec(&file.cluster).expect("it can be written"));
    }
}

/// `identity.json`.
fn identity(bytes: &[u8]) {
    if let Ok(found) = Identity::parse(bytes) {
        let written = serde_json::to_vec_pretty(&found).expect("what was read can be written");
        assert_eq!(Identity::parse(&written).ok(), Some(found));
    }
}

/// A state that came from elsewhere: nothing that is asked of it panics, and a refusal changes
/// nothing.
fn state(json: &[u8]) {
    let Ok(mut state) = serde_json::from_slice::<ClusterState>(json) else { return };
    let ids: BTreeSet<NodeId> =
        state.members.keys().chain(&state.retired).copied().chain([one(), two()]).collect();
    state.next_node_id();
    state.change_under_way();
    let commands: Vec<Command> = ids.iter().flat_map(|id| commands(*id)).collect();
    applied(&mut state, &commands);
}

fn applied<'a>(state: &mut ClusterState, commands: impl IntoIterator<Item = &'a Command>) {
    for command in commands {
        let before = state.clone();
        if state.apply(command).is_err() {
            assert_eq!(*state, before, "refused, and changed: {command:?}");
        }
    }
}

/// The next value; None where there is none, or not a whole one, or nonsense: the connection ends
/// there.
fn next<T: DeserializeOwned>(rest: &mut &[u8], max: usize) -> Option<T> {
    read_json::<_, T>(rest, max)
        .now_or_never()
        .expect("bytes in memory are there at once")
        .ok()
        .flatten()
}

/// What was read is written and read as the same.
fn again<T: Serialize + DeserializeOwned + Sync>(value: &T, max: usize) {
    let text = serde_json::to_vec(value).expect("what was read can be written");
    let (mut frame, mut shown) = (Vec::new(), Ok(()));
    if text.len() <= max {
        shown = write_json(&mut frame, value, max).now_or_never().expect("memory takes it at once");
    }
    shown.expect("it fits");
    if let Some(same) = next::<T>(&mut &frame[..], max) {
        assert_eq!(serde_json::to_vec(&same).ok(), Some(text));
    } else {
        assert!(frame.is_empty(), "written and not read: {}", String::from_utf8_lossy(&frame));
    }
}

fn one() -> NodeId {
    NodeId::new(1).expect("an id")
}

fn two() -> NodeId {
    NodeId::new(2).expect("an id")
}

const fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn at() -> Address {
    Address::new("a-host", 7001).expect("an address")
}

/// The identity of node 2 before it belongs to the group.
fn newcomer() -> Identity {
    Identity::parse(&identity_examples()[0]).expect("the example")
}

fn member() -> Identity {
    Identity::parse(&identity_examples()[1]).expect("the example")
}

/// What every kind of command looks like.
fn commands(node: NodeId) -> Vec<Command> {
    let instance = InstanceId(id(1));
    vec![
        Command::Init { cluster: ClusterId(id(7)), node, address: at() },
        Command::Register { node, instance, postgres: at(), zone: "a".into() },
        Command::Join { node, address: Address::new("other", 7002).expect("an address") },
        Command::SetAddress { node, address: Address::new("::1", 7003).expect("an address") },
        Command::Remove { node },
        Command::JoinExpired { node },
    ]
}

/// A group of node 1, which has told about itself, and node 2, which joins; node 3 was removed.
fn group() -> ClusterState {
    let mut state = ClusterState::default();
    let two =
        Command::Join { node: two(), address: Address::new("other", 7002).expect("an address") };
    applied(&mut state, commands(one()).iter().take(2).chain([&two]));
    state.retired.insert(NodeId::new(3).expect("an id"));
    state
}

fn framed<T: Serialize + Sync>(values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in values {
        write_json(&mut bytes, value, MAX_FRAME)
            .now_or_never()
            .expect("memory takes it at once")
            .expect("it fits");
    }
    bytes
}

fn frame_examples() -> Vec<Vec<u8>> {
    use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
    let vote = Vote::new_committed(3, 1);
    let log_id = |index| openraft::testing::log_id::<TypeConfig>(3, 1, index);
    let membership = openraft::Membership::new_with_defaults(vec![BTreeSet::from([1, 2])], [3]);
    let payloads = commands(one())
        .into_iter()
        .map(|command| openraft::EntryPayload::Normal(LogCommand(command)));
    let payloads = [openraft::EntryPayload::Blank, openraft::EntryPayload::Membership(membership)]
        .into_iter()
        .chain(payloads);
    let entries = (5..)
        .zip(payloads)
        .map(|(index, payload)| crate::types::Entry { log_id: log_id(index), payload })
        .collect();
    let meta = crate::types::SnapshotMeta { last_log_id: Some(log_id(9)), ..Default::default() };
    let data = serde_json::to_vec(&group()).expect("it can be written");
    let told = commands(one()).remove(1);
    let refused = Refusal::JoinInProgress(two());
    vec![
        framed(&[Rpc::Append(AppendEntriesRequest {
            vote,
            prev_log_id: Some(log_id(4)),
            entries,
            leader_commit: Some(log_id(4)),
        })]),
        framed(&[
            Rpc::Vote(VoteRequest::new(vote, Some(log_id(4)))),
            Rpc::PreVote(VoteRequest::new(vote, None)),
            Rpc::Probe,
        ]),
        framed(&[Rpc::Snapshot { vote, meta, data }]),
        framed(&[Rpc::Propose(told)]),
        framed(&[
            RpcReply::Append(AppendEntriesResponse::Success),
            RpcReply::Append(AppendEntriesResponse::HigherVote(vote)),
            RpcReply::Vote(VoteResponse::new(vote, Some(log_id(4)), true)),
            RpcReply::Proposed(AppliedEntry::Command(Err(refused))),
            RpcReply::Probe { wal: None, replayed: None },
            RpcReply::Failed("no".into()),
        ]),
    ]
}

fn handshake_examples() -> Vec<Vec<u8>> {
    let hello = Hello {
        version: PROTOCOL_VERSION,
        cluster: ClusterId(id(7)),
        from: one(),
        to: two(),
        to_instance: Some(InstanceId(id(2))),
        from_instance: InstanceId(id(1)),
    };
    let other = Hello { to_instance: None, from: NodeId::new(3).expect("an id"), ..hello.clone() };
    vec![
        framed(&[hello]),
        framed(&[other]),
        framed(&[Welcome::Accepted]),
        framed(&[Welcome::Refused { why: "no".into() }]),
    ]
}

fn control_examples() -> Vec<Vec<u8>> {
    let address = "a-host".to_owned();
    let requests = vec![
        Request::Init,
        Request::AddNode { node_id: 4, address: address.clone(), port: 7001 },
        Request::RemoveNode { node_id: 4 },
        Request::SetAddress { node_id: -1, address, port: 70000 },
        Request::Status,
        Request::WatchPrimary { heard: Some(primary_update()) },
        Request::Log { limit: 100 },
    ];
    let status = crate::node::compose::unknown(one());
    let row = LogRow {
        index: 1,
        term: 2,
        kind: "join".into(),
        data: "{}".into(),
        committed: true,
        applied_at: Some(-1),
    };
    let responses = vec![
        Response::Done { notice: Some("so".into()) },
        Response::Status(Box::new(status)),
        Response::WatchPrimary(primary_update()),
        Response::Log { entries: vec![row] },
        Response::from(Refusal::IsPrimary(one())),
    ];
    vec![framed(&requests), framed(&responses)]
}

fn primary_update() -> PrimaryUpdate {
    let postgres = Some(Address::new("a-host", 5432).expect("an address"));
    let primary_view = PrimaryView {
        cluster_id: ClusterId(id(9)),
        applied_index: 9,
        epoch: 3,
        primary: one(),
        postgres,
        settled: true,
    };
    PrimaryUpdate { primary_view: Some(primary_view), gate: Some(true) }
}

fn snapshot_examples() -> Vec<Vec<u8>> {
    let last_log_id = Some(openraft::testing::log_id::<TypeConfig>(3, 1, 9));
    let membership = openraft::Membership::new_with_defaults(vec![BTreeSet::from([1, 2])], [3]);
    let last_membership = crate::types::Membership::new(last_log_id, membership);
    let meta = crate::types::SnapshotMeta { last_log_id, last_membership };
    let file = SnapshotFile::new(meta, group()).expect("it can be written");
    let empty = SnapshotFile::new(crate::types::SnapshotMeta::default(), ClusterState::default())
        .expect("it can be written");
    [file, empty]
        .iter()
        .map(|file| serde_json::to_vec_pretty(file).expect("it can be written"))
        .collect()
}

fn identity_examples() -> Vec<Vec<u8>> {
    let of = |cluster: &str| {
        format!("{{\"format\":1,\"node_id\":2,\"instance\":\"{}\",\"cluster\":{cluster}}}", id(2))
            .into_bytes()
    };
    vec![of("null"), of(&format!("{{\"id\":\"{}\",\"bootstrapped_here\":false}}", id(7)))]
}

/// Whether this is a "no" in the words of damage, which leaves everything as it was.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::Unsupported | io::ErrorKind::UnexpectedEof
    )
}

/// Shown in a panic.
fn shown<T: Debug>(value: &T) -> String {
    format!("{value:?}").chars().take(400).collect()
}
