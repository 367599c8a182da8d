//! A client that writes to whichever node takes it, and knows of each row what it was told:
//! acknowledged, refused, or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

/// A statement without an answer for so long is given up; its row may be there or not.
const TIMEOUT: Duration = Duration::from_secs(5);

/// After a refusal.
const REFUSED: Duration = Duration::from_millis(20);

/// An acknowledgement.
#[derive(Debug, Clone, Copy)]
pub struct Ack {
    pub row: i64,
    /// Which of the servers gave it.
    pub by: usize,
    /// Whose timeline it wrote on: each is one primary term's.
    pub timeline: u32,
    pub sent: Instant,
    pub heard: Instant,
}

/// What the client knows.
#[derive(Default)]
pub struct KnownRow {
    /// Rows whose commit was acknowledged: by ReadyForQuery, not by a command tag before it.
    pub acked: BTreeSet<i64>,
    pub acks: Vec<Ack>,
    /// Rows that were refused by an error: they are not there. Of all others nothing is known.
    pub refused: BTreeSet<i64>,
    /// The longest time between two acknowledgements.
    pub gap: Duration,
}

impl KnownRow {
    fn heard(&mut self, ack: Ack) {
        self.gap =
            self.gap.max(self.acks.last().map_or(Duration::ZERO, |last| ack.heard - last.heard));
        self.acked.insert(ack.row);
        self.acks.push(ack);
    }

    /// Two primaries at once, by what they have acknowledged: two servers on one timeline, or a row
    /// that was sent to one when the next one had acknowledged others already.
    pub fn usurper(&self) -> Option<(Ack, Ack)> {
        let mut terms: BTreeMap<u32, (usize, Ack)> = BTreeMap::new();
        for ack in &self.acks {
            let (by, first) = *terms.entry(ack.timeline).or_insert((ack.by, *ack));
            if by != ack.by {
                return Some((first, *ack));
            }
            let next =
                terms.range(ack.timeline + 1..).find(|(_, (_, first))| first.heard < ack.sent);
            if let Some((_, (_, first))) = next {
                return Some((*first, *ack));
            }
        }
        None
    }
}

/// The client, and what it knows by now.
pub struct Ledger {
    pub known: Arc<Mutex<KnownRow>>,
    tasks: JoinSet<()>,
}

impl Ledger {
    /// Writes to the table `ledger` until it is dropped: to every server at once, so that one that
    /// does not answer holds nobody up. Whoever is not the primary refuses.
    pub fn start(servers: Vec<(String, u16)>) -> Self {
        Self::start_at(1, servers)
    }

    /// The same for one of several clients, each with rows of its own.
    pub fn start_at(first: i64, servers: Vec<(String, u16)>) -> Self {
        let known = Arc::<Mutex<KnownRow>>::default();
        let mut tasks = JoinSet::new();
        let step = servers.len();
        for (by, (first, server)) in (first..).zip(servers).enumerate() {
            tasks.spawn(write(by, server, (first..).step_by(step), Arc::clone(&known)));
        }
        Self { known, tasks }
    }

    pub fn acked(&self) -> usize {
        self.known.lock().unwrap().acked.len()
    }

    /// Forgets the longest time so far.
    pub fn new_gap(&self) -> Duration {
        std::mem::take(&mut self.known.lock().unwrap().gap)
    }

    /// No row is on its way when this returns.
    pub async fn stop(self) -> BTreeSet<i64> {
        self.told().await.acked
    }

    /// The same, and all that it was told.
    pub async fn told(mut self) -> KnownRow {
        self.tasks.shutdown().await;
        std::mem::take(&mut *self.known.lock().unwrap())
    }
}

async fn write(
    by: usize,
    server: (String, u16),
    rows: impl Iterator<Item = i64>,
    known: Arc<Mutex<KnownRow>>,
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
                known.lock().unwrap().heard(Ack { row, by, timeline, sent, heard: Instant::now() });
            }
            refused => {
                // A session that ends can have ended behind its commit.
                if refused.is_some_and(|r| {
                    r.is_err_and(|e| e.as_db_error().is_some_and(|e| e.severity() == "ERROR"))
                }) {
                    known.lock().unwrap().refused.insert(row);
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
