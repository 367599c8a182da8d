//! A client that writes to every node, and records for each row whether it was acknowledged,
//! refused, or neither.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

/// The limit of a statement. Its row may exist or not afterwards.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The pause after a refusal.
const REFUSED: Duration = Duration::from_millis(20);

/// An acknowledgement.
#[derive(Debug, Clone, Copy)]
pub struct Ack {
    pub row: i64,
    /// The index of the server.
    pub by: usize,
    /// The timeline of the insert. Each belongs to one primary term.
    pub timeline: u32,
    pub sent: Instant,
    pub received: Instant,
}

/// The results of all rows so far.
#[derive(Default)]
pub struct LedgerRecord {
    /// Rows whose commit was acknowledged, by ReadyForQuery and not only by a command tag.
    pub acked: BTreeSet<i64>,
    pub acks: Vec<Ack>,
    /// Rows that were refused by an error, and so must not exist. All other rows may exist or not.
    pub refused: BTreeSet<i64>,
    /// The longest time between two acknowledgements.
    pub gap: Duration,
}

impl LedgerRecord {
    fn acknowledge(&mut self, ack: Ack) {
        self.gap = self
            .gap
            .max(self.acks.last().map_or(Duration::ZERO, |last| ack.received - last.received));
        self.acked.insert(ack.row);
        self.acks.push(ack);
    }

    /// Two acknowledgements that prove two primaries at once: of two servers on one timeline, or of
    /// a row that was sent to a server after the next primary had acknowledged another one.
    pub fn overlapping_primaries(&self) -> Option<(Ack, Ack)> {
        let mut terms: BTreeMap<u32, (usize, Ack)> = BTreeMap::new();
        for ack in &self.acks {
            let (by, first) = *terms.entry(ack.timeline).or_insert((ack.by, *ack));
            if by != ack.by {
                return Some((first, *ack));
            }
            let next =
                terms.range(ack.timeline + 1..).find(|(_, (_, first))| first.received < ack.sent);
            if let Some((_, (_, first))) = next {
                return Some((*first, *ack));
            }
        }
        None
    }
}

/// The client.
pub struct Ledger {
    record: Arc<Mutex<LedgerRecord>>,
    tasks: JoinSet<()>,
}

impl Ledger {
    /// Writes to the table `ledger` until it is stopped or dropped: to every server at once, so
    /// that a server that does not answer delays no other. Servers that are not the primary refuse.
    pub fn start(servers: Vec<(String, u16)>) -> Self {
        Self::start_at(1, servers)
    }

    /// As [`Self::start`], beginning with another row, for one of several clients.
    pub fn start_at(first: i64, servers: Vec<(String, u16)>) -> Self {
        let record = Arc::<Mutex<LedgerRecord>>::default();
        let mut tasks = JoinSet::new();
        let step = servers.len();
        for (by, (first, server)) in (first..).zip(servers).enumerate() {
            tasks.spawn(write(by, server, (first..).step_by(step), Arc::clone(&record)));
        }
        Self { record, tasks }
    }

    /// The number of acknowledged rows.
    pub fn acked(&self) -> usize {
        self.record.lock().unwrap().acked.len()
    }

    /// The longest time between two acknowledgements since the last call.
    pub fn new_gap(&self) -> Duration {
        std::mem::take(&mut self.record.lock().unwrap().gap)
    }

    /// When the insert of the latest acknowledged row began.
    pub fn last_sent(&self) -> Option<Instant> {
        self.record.lock().unwrap().acks.last().map(|ack| ack.sent)
    }

    /// Stops the client. No insert is in progress when this returns.
    pub async fn stop(mut self) -> LedgerRecord {
        self.tasks.shutdown().await;
        std::mem::take(&mut *self.record.lock().unwrap())
    }
}

async fn write(
    by: usize,
    server: (String, u16),
    rows: impl Iterator<Item = i64>,
    record: Arc<Mutex<LedgerRecord>>,
) {
    let mut client = None;
    for row in rows {
        let sent = Instant::now();
        let insert = async {
            let open = match client.take() {
                Some(open) => open,
                None => connect(&server).await?,
            };
            let done = open.query("INSERT INTO ledger VALUES ($1) RETURNING pg_walfile_name(pg_current_wal_insert_lsn())", &[&row]).await;
            Some((done, open))
        };
        let (done, open) = timeout(TIMEOUT, insert).await.ok().flatten().unzip();
        client = open.filter(|open| !open.is_closed());
        match done {
            Some(Ok(rows)) => {
                let timeline = u32::from_str_radix(&rows[0].get::<_, String>(0)[..8], 16).unwrap();
                record.lock().unwrap().acknowledge(Ack {
                    row,
                    by,
                    timeline,
                    sent,
                    received: Instant::now(),
                });
            }
            refused => {
                // With FATAL, the session may have ended after the commit.
                if refused.is_some_and(|r| {
                    r.is_err_and(|e| e.as_db_error().is_some_and(|e| e.severity() == "ERROR"))
                }) {
                    record.lock().unwrap().refused.insert(row);
                }
                tokio::time::sleep(REFUSED).await;
            }
        }
    }
}

async fn connect((host, port): &(String, u16)) -> Option<Client> {
    let mut config = tokio_postgres::Config::new();
    config
        .host(host)
        .port(*port)
        .user("app")
        .password("owner-1")
        .dbname("app")
        .connect_timeout(Duration::from_secs(2));
    let (client, connection) = config.connect(NoTls).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}
