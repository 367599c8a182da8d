//! A client that writes to whichever node takes it, and knows of each row what it was told: acknowledged, refused, or nothing.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

/// A statement without an answer for so long is given up; its row may be there or not.
const PATIENCE: Duration = Duration::from_secs(5);

/// After a refusal.
const REFUSED: Duration = Duration::from_millis(20);

/// What the client knows.
#[derive(Default)]
pub struct Known {
    /// Rows whose commit was acknowledged: by ReadyForQuery, not by a command tag before it.
    pub acked: BTreeSet<i64>,
    /// The longest time between two acknowledgements.
    pub gap: Duration,
    last: Option<Instant>,
}

impl Known {
    fn heard(&mut self, row: i64) {
        self.acked.insert(row);
        let now = Instant::now();
        self.gap = self.gap.max(self.last.map_or(Duration::ZERO, |last| now - last));
        self.last = Some(now);
    }
}

/// The client, and what it knows by now.
pub struct Ledger {
    pub known: Arc<Mutex<Known>>,
    tasks: JoinSet<()>,
}

impl Ledger {
    /// Writes to the table `ledger` until it is dropped: to every server at once, so that one that does not answer holds nobody up. Whoever is
    /// not the primary refuses.
    pub fn start(servers: Vec<(String, u16)>) -> Self {
        Self::start_at(1, servers)
    }

    /// The same for one of several clients, each with rows of its own.
    pub fn start_at(first: i64, servers: Vec<(String, u16)>) -> Self {
        let known = Arc::<Mutex<Known>>::default();
        let mut tasks = JoinSet::new();
        let step = servers.len();
        for (first, server) in (first..).zip(servers) {
            tasks.spawn(write(server, (first..).step_by(step), Arc::clone(&known)));
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
    pub async fn stop(mut self) -> BTreeSet<i64> {
        self.tasks.shutdown().await;
        self.known.lock().unwrap().acked.clone()
    }
}

async fn write(server: (String, u16), rows: impl Iterator<Item = i64>, known: Arc<Mutex<Known>>) {
    let mut client = None;
    for row in rows {
        let insert = async {
            let open = match client.take() {
                Some(open) => open,
                None => connect(&server).await?,
            };
            let done = open.execute("INSERT INTO ledger VALUES ($1)", &[&row]).await;
            Some((done.is_ok(), open))
        };
        let done = timeout(PATIENCE, insert).await.ok().flatten();
        let acknowledged = done.as_ref().is_some_and(|(acknowledged, _)| *acknowledged);
        client = done.map(|(_, open)| open).filter(|open| !open.is_closed());
        if acknowledged {
            known.lock().unwrap().heard(row);
        } else {
            tokio::time::sleep(REFUSED).await;
        }
    }
}

async fn connect((host, port): &(String, u16)) -> Option<Client> {
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(*port).user("app").password("owner-1").dbname("app").connect_timeout(Duration::from_secs(2));
    let (client, connection) = config.connect(NoTls).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}
