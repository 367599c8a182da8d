//! Simulated Postgres servers for all pods: one listener on the loopback device, which identifies
//! the pod by the address of the connection. It implements the parts of the protocol (version 3,
//! extended queries, binary results) and the three statements that the operator uses.

use pgraft_core::NodeId;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::failure::BenchFailure;

const BOOL: i32 = 16;
const INT8: i32 = 20;
const INT4: i32 = 23;
const TEXT: i32 = 25;

/// The simulated servers.
pub struct Members {
    world: Mutex<BenchWorld>,
    /// Whether the lag of followers changes with every query.
    busy: bool,
    asked: AtomicU64,
    sessions: AtomicUsize,
}

#[derive(Default)]
struct BenchWorld {
    /// The pods, by address.
    pods: HashMap<IpAddr, (String, u32)>,
    /// The members of each cluster with their addresses, by namespace and name. The first one is
    /// the leader and the primary.
    groups: HashMap<String, BTreeMap<u32, String>>,
}

/// A value of a row.
enum Cell {
    Text(String),
    Int8(i64),
    Int4(i32),
    Bool(bool),
    Null,
}

/// The result of a statement.
struct MemberAnswer {
    parameters: &'static [i32],
    columns: &'static [(&'static str, i32)],
    rows: Vec<Vec<Cell>>,
}

impl Members {
    /// Listens on port 5432 of every loopback address.
    pub fn listen(busy: bool) -> Result<Arc<Self>, BenchFailure> {
        let listening = || {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind_device(Some(b"lo"))?;
            socket.bind((Ipv4Addr::UNSPECIFIED, 5432).into())?;
            socket.listen(4096)
        };
        let listener = listening().map_err(BenchFailure::io(
            "listening on port 5432 of every loopback address, which must be free",
        ))?;
        let members = Arc::new(Self {
            world: Mutex::default(),
            busy,
            asked: AtomicU64::new(0),
            sessions: AtomicUsize::new(0),
        });
        let serving = members.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let members = serving.clone();
                tokio::spawn(async move {
                    members.sessions.fetch_add(1, Ordering::Relaxed);
                    let _ = members.session(stream).await;
                    members.sessions.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Ok(members)
    }

    /// Adds a pod: assigns an address, and creates the cluster if it is the bootstrap node.
    pub fn start(&self, namespace: &str, pod: &Value) -> IpAddr {
        let label = |name: &str| pod["metadata"]["labels"][name].as_str().unwrap_or_default();
        let node: u32 = label("pgraft.io/node-id").parse().unwrap_or_default();
        let cluster = format!("{namespace}/{}", label("pgraft.io/cluster"));
        let bootstrap = pod["spec"]["containers"][0]["args"]
            .as_array()
            .is_some_and(|args| args.iter().any(|arg| arg == "--bootstrap"));
        let mut world = self.lock();
        if bootstrap {
            let host = format!(
                "{}.{}-pods.{namespace}.svc",
                pod["metadata"]["name"].as_str().unwrap_or_default(),
                label("pgraft.io/cluster")
            );
            world.groups.entry(cluster.clone()).or_default().insert(node, host);
        }
        let n = u32::try_from(world.pods.len()).unwrap_or_default() + 1;
        let ip = IpAddr::V4(Ipv4Addr::from_bits(u32::from_be_bytes([127, 77, 0, 0]) + n));
        world.pods.insert(ip, (cluster, node));
        ip
    }

    /// Removes all pods.
    pub fn clear(&self) {
        *self.lock() = BenchWorld::default();
    }

    /// The observations since the last call. Each consists of two statements.
    pub fn take_observations(&self) -> u64 {
        self.asked.swap(0, Ordering::Relaxed) / 2
    }

    /// The number of open sessions.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, BenchWorld> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn session(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let ip = stream.local_addr()?.ip();
        loop {
            let length = stream.read_i32().await?;
            let mut startup = vec![0; usize::try_from(length - 4).unwrap_or_default()];
            stream.read_exact(&mut startup).await?;
            match startup.get(..4) {
                Some([4, 210, 22, 47]) => stream.write_all(b"N").await?, // SSLRequest
                _ => break,
            }
        }
        let mut out = Vec::new();
        message(&mut out, b'R', &0_i32.to_be_bytes());
        message(&mut out, b'S', b"server_version\x0017.6\0");
        message(&mut out, b'Z', b"I");
        stream.write_all(&out).await?;

        let (mut statements, mut bound) =
            (HashMap::<String, String>::new(), (String::new(), Vec::new()));
        loop {
            let kind = stream.read_u8().await?;
            let length = usize::try_from(stream.read_i32().await? - 4).unwrap_or_default();
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await?;
            let mut out = Vec::new();
            match kind {
                b'P' => {
                    let (name, rest) = word(&body);
                    statements.insert(name, word(rest).0);
                    message(&mut out, b'1', b"");
                }
                b'D' => {
                    let name = word(&body[1..]).0;
                    describe(
                        &mut out,
                        &self.answer(ip, statements.get(&name).map_or("", String::as_str), None),
                    );
                }
                b'B' => {
                    let (_, rest) = word(&body);
                    let (name, rest) = word(rest);
                    bound = (
                        statements.get(&name).cloned().unwrap_or_default(),
                        parameters(rest).unwrap_or_default(),
                    );
                    message(&mut out, b'2', b"");
                }
                b'E' => {
                    self.asked.fetch_add(1, Ordering::Relaxed);
                    let answer = self.answer(ip, &bound.0, Some(&bound.1));
                    answer.rows.iter().for_each(|row| data(&mut out, row));
                    message(&mut out, b'C', format!("SELECT {}\0", answer.rows.len()).as_bytes());
                }
                b'C' => message(&mut out, b'3', b""),
                b'S' => message(&mut out, b'Z', b"I"),
                b'X' => return Ok(()),
                _ => {}
            }
            stream.write_all(&out).await?;
        }
    }

    /// The result of a statement. A statement without parameters yet changes nothing.
    fn answer(&self, ip: IpAddr, statement: &str, parameters: Option<&[Vec<u8>]>) -> MemberAnswer {
        let mut world = self.lock();
        let Some((cluster, node)) = world.pods.get(&ip).cloned() else {
            return MemberAnswer { parameters: &[], columns: &[], rows: Vec::new() };
        };
        let group = world.groups.entry(cluster).or_default();
        if statement.contains("pgraft_add_node") {
            if let Some([id, address, _]) = parameters {
                let id = id.as_slice().try_into().map(u32::from_be_bytes).unwrap_or_default();
                group.insert(id, String::from_utf8_lossy(address).into_owned());
            }
            return MemberAnswer {
                parameters: &[INT4, TEXT, INT4],
                columns: &[("pgraft_add_node", BOOL)],
                rows: vec![vec![Cell::Bool(true)]],
            };
        }
        let leader = group.keys().next().copied();
        if statement.contains("pgraft_members") {
            // Different values for every query, and advancing WAL.
            let looks = if self.busy { self.asked.load(Ordering::Relaxed) } else { 0 };
            let (lag, wal) = (
                1_i64 << (20 + looks % 16),
                0x0300_0000 + i64::try_from(looks).unwrap_or_default(),
            );
            let lag = if self.busy { lag } else { 0 };
            let leads = leader == Some(node);
            let row = |(id, host): (&u32, &String)| {
                let seen = |cell: Cell| if leads { cell } else { Cell::Null };
                let lag = if leader == Some(*id) { 0 } else { lag };
                let words = [
                    Cell::Int4(id.cast_signed()),
                    Cell::Text(host.clone()),
                    Cell::Int4(7001),
                    Cell::Text("voter".into()),
                ];
                // The time since the last contact, which changes with every query.
                let contact =
                    i64::try_from(self.asked.load(Ordering::Relaxed) % 500).unwrap_or_default();
                let numbers = [
                    Cell::Bool(true),
                    Cell::Int8(contact),
                    Cell::Int8(lag),
                    Cell::Int4(1),
                    Cell::Int8(wal),
                ];
                words.into_iter().chain(numbers.map(seen)).collect()
            };
            let columns = &[
                ("node_id", INT4),
                ("address", TEXT),
                ("port", INT4),
                ("role", TEXT),
                ("reachable", BOOL),
                ("last_contact", INT8),
                ("lag_bytes", INT8),
                ("timeline", INT4),
                ("flush_lsn", INT8),
            ];
            return MemberAnswer {
                parameters: &[],
                columns,
                rows: group.iter().map(row).collect(),
            };
        }
        let state = match leader {
            _ if !group.contains_key(&node) => "uninitialized",
            Some(leader) if leader == node => "leader",
            _ => "follower",
        };
        let leader = leader.filter(|_| group.contains_key(&node));
        let next = group
            .keys()
            .next_back()
            .map_or(i64::from(NodeId::default().get()), |id| i64::from(*id) + 1);
        let row = vec![
            leader
                .map_or(Cell::Null, |_| Cell::Text("00000000-0000-4000-8000-000000000001".into())),
            Cell::Text(state.into()),
            Cell::Int8(1),
            leader.map_or(Cell::Null, |id| Cell::Int8(i64::from(id))),
            leader.map_or(Cell::Null, |id| Cell::Int4(id.cast_signed())),
            Cell::Int8(9),
            Cell::Int4(i32::try_from(next).unwrap_or(i32::MAX)),
            Cell::Null, // the bootstrap node stays the primary
        ];
        let columns = &[
            ("cluster_id", TEXT),
            ("state", TEXT),
            ("term", INT8),
            ("leader", INT8),
            ("primary_node", INT4),
            ("applied_index", INT8),
            ("next_node_id", INT4),
            ("phase", TEXT),
        ];
        MemberAnswer { parameters: &[], columns, rows: vec![row] }
    }
}

fn message(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    out.push(kind);
    out.extend(i32::try_from(body.len() + 4).unwrap_or_default().to_be_bytes());
    out.extend(body);
}

fn describe(out: &mut Vec<u8>, answer: &MemberAnswer) {
    let count = |n: usize| i16::try_from(n).unwrap_or_default().to_be_bytes();
    let types: Vec<u8> = answer.parameters.iter().flat_map(|oid| oid.to_be_bytes()).collect();
    message(out, b't', &[&count(answer.parameters.len())[..], &types].concat());
    let mut fields = count(answer.columns.len()).to_vec();
    for (name, oid) in answer.columns {
        fields.extend(name.as_bytes());
        fields.extend([0; 7]); // end of the name, no table, no attribute
        fields.extend(oid.to_be_bytes());
        fields.extend((-1_i16).to_be_bytes());
        fields.extend((-1_i32).to_be_bytes());
        fields.extend([0; 2]);
    }
    message(out, b'T', &fields);
}

fn data(out: &mut Vec<u8>, row: &[Cell]) {
    let mut body = i16::try_from(row.len()).unwrap_or_default().to_be_bytes().to_vec();
    for cell in row {
        let bytes = match cell {
            Cell::Text(text) => text.clone().into_bytes(),
            Cell::Int8(n) => n.to_be_bytes().to_vec(),
            Cell::Int4(n) => n.to_be_bytes().to_vec(),
            Cell::Bool(yes) => vec![u8::from(*yes)],
            Cell::Null => {
                body.extend((-1_i32).to_be_bytes());
                continue;
            }
        };
        body.extend(i32::try_from(bytes.len()).unwrap_or_default().to_be_bytes());
        body.extend(bytes);
    }
    message(out, b'D', &body);
}

/// Splits at the first zero byte.
fn word(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    (String::from_utf8_lossy(&bytes[..end]).into_owned(), bytes.get(end + 1..).unwrap_or_default())
}

/// The values of a Bind message, after the names.
fn parameters(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let short =
        |at: usize| Some(usize::from(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?)));
    let mut at = 2 + 2 * short(0)?;
    let count = short(at)?;
    at += 2;
    let mut values = Vec::new();
    for _ in 0..count {
        let length = usize::try_from(i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
            .unwrap_or_default();
        values.push(bytes.get(at + 4..at + 4 + length)?.to_vec());
        at += 4 + length;
    }
    Some(values)
}
