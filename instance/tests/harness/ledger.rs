//! A client that writes to whichever node takes it, and knows of each row what it was told: acknowledged, refused, or nothing.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

/// A statement without an answer for so long is given up; its row may be there or not.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the client knows.
#[derive(Default)]
pub struct Known {
    /// Rows whose commit was acknowledged: by ReadyForQuery, not by a command tag before it.
    pub acked: BTreeSet<i64>,
    /// The longest time between two acknowledgements.
    pub gap: Duration,
    last: Option<Instant>,
}

/// The client, and what it knows by now.
pub struct Ledger {
    pub known: Arc<Mutex<Known>>,
    task: JoinHandle<()>,
}

impl Ledger {
    /// Writes to the table `ledger` until it is dropped.
    pub fn start(ports: Vec<u16>) -> Self {
        Self::start_at(1, ports)
    }

    /// The same for one of several clients, each with rows of its own.
    pub fn start_at(first: i64, ports: Vec<u16>) -> Self {
        let known = Arc::<Mutex<Known>>::default();
        Self { task: tokio::spawn(write(first, ports, Arc::clone(&known))), known }
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
        self.task.abort();
        let _ = self.task.await;
        self.known.lock().unwrap().acked.clone()
    }
}

async fn write(first: i64, ports: Vec<u16>, known: Arc<Mutex<Known>>) {
    let mut client = None;
    let mut ports = ports.iter().cycle();
    for row in first.. {
        let insert = async {
            let open = match client.take() {
                Some(open) => open,
                None => connect(*ports.next()?).await?,
            };
            open.execute("INSERT INTO ledger VALUES ($1)", &[&row]).await.ok()?;
            Some(open)
        };
        client = timeout(PATIENCE, insert).await.ok().flatten();
        if client.is_some() {
            let mut known = known.lock().unwrap();
            known.acked.insert(row);
            let now = Instant::now();
            known.gap = known.gap.max(known.last.map_or(Duration::ZERO, |last| now - last));
            known.last = Some(now);
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn connect(port: u16) -> Option<Client> {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).user("app").password("owner-1").dbname("app").connect_timeout(Duration::from_secs(2));
    let (client, connection) = config.connect(NoTls).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}
