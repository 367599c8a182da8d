//! The connections that the gateway waits for: each must send its next request. Their number is
//! bounded. When there are too many, the oldest one is dropped. A real client speaks within
//! milliseconds, so what is dropped is a port scanner, a TCP probe or an attack.
//!
//! A client that the gateway itself keeps waiting is not in here (see [`super::slots`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// All silent connections.
pub struct SilentClients {
    limit: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// By age, the oldest first. Dropping a sender evicts the connection.
    entries: BTreeMap<u64, oneshot::Sender<()>>,
}

/// The entry of one connection. Dropping it removes the entry.
pub struct SilentClient {
    clients: Arc<SilentClients>,
    number: u64,
    evicted: oneshot::Receiver<()>,
}

impl SilentClients {
    /// Admits at most `limit` connections.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, waiting: Mutex::default() })
    }

    /// Adds a connection, and evicts the oldest one if there are too many.
    pub fn enter(self: &Arc<Self>) -> SilentClient {
        let (kept, evicted) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.entries.insert(number, kept);
        while waiting.entries.len() > self.limit {
            waiting.entries.pop_first();
        }
        SilentClient { clients: Arc::clone(self), number, evicted }
    }
}

impl SilentClient {
    /// Returns when the connection must make way for a newer one.
    pub async fn evicted(&mut self) {
        let _ = (&mut self.evicted).await; // nothing is ever sent: the sender is dropped
    }
}

impl Drop for SilentClient {
    fn drop(&mut self) {
        self.clients.waiting.lock().entries.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot::error::TryRecvError;

    fn stays(client: &mut SilentClient) -> bool {
        client.evicted.try_recv() == Err(TryRecvError::Empty)
    }

    #[tokio::test]
    async fn the_oldest_connection_is_evicted() {
        let clients = SilentClients::new(2);
        let mut first = clients.enter();
        let mut second = clients.enter();
        assert!(stays(&mut first) && stays(&mut second));
        let mut third = clients.enter();
        first.evicted().await;
        assert!(stays(&mut second) && stays(&mut third));
        drop(second);
        let mut fourth = clients.enter();
        assert!(stays(&mut third) && stays(&mut fourth), "one had left");
        drop(first);
        let mut fifth = clients.enter();
        assert!(
            !stays(&mut third) && stays(&mut fourth) && stays(&mut fifth),
            "an evicted connection was counted twice"
        );
    }
}
