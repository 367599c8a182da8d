//! Clients that have not yet said what they want: there is room for some of them, and the one that
//! has been silent the longest makes room for the next. A client speaks within milliseconds, so
//! what is dropped here is a scanner, a probe, or somebody with bad intentions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// All of them.
pub struct Lobby {
    most: usize,
    waiting: Mutex<WaitingClient>,
}

#[derive(Default)]
struct WaitingClient {
    next: u64,
    /// The lowest number came first. Dropping what is here tells its owner.
    places: BTreeMap<u64, oneshot::Sender<()>>,
}

/// One client's place, given back when it is dropped.
pub struct LobbyPlace {
    lobby: Arc<Lobby>,
    number: u64,
    lost: oneshot::Receiver<()>,
}

impl Lobby {
    /// For so many.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, waiting: Mutex::default() })
    }

    /// One more.
    pub fn enter(self: &Arc<Self>) -> LobbyPlace {
        let (kept, lost) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let number = waiting.next;
        waiting.next += 1;
        waiting.places.insert(number, kept);
        while waiting.places.len() > self.most {
            waiting.places.pop_first();
        }
        LobbyPlace { lobby: Arc::clone(self), number, lost }
    }
}

impl LobbyPlace {
    /// Returns when somebody else needs it.
    pub async fn lost(&mut self) {
        let _ = (&mut self.lost).await; // an error is the news: nothing is ever sent
    }
}

impl Drop for LobbyPlace {
    fn drop(&mut self) {
        self.lobby
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .places
            .remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot::error::TryRecvError;

    fn keeps(place: &mut LobbyPlace) -> bool {
        place.lost.try_recv() == Err(TryRecvError::Empty)
    }

    #[tokio::test]
    async fn the_oldest_makes_disk_space() {
        let lobby = Lobby::new(2);
        let mut first = lobby.enter();
        let mut second = lobby.enter();
        assert!(keeps(&mut first) && keeps(&mut second));
        let mut third = lobby.enter();
        first.lost().await;
        assert!(keeps(&mut second) && keeps(&mut third));
        drop(second);
        let mut fourth = lobby.enter();
        assert!(keeps(&mut third) && keeps(&mut fourth), "one had gone by itself");
        drop(first);
        let mut fifth = lobby.enter();
        assert!(
            !keeps(&mut third) && keeps(&mut fourth) && keeps(&mut fifth),
            "a lost place is given back once"
        );
    }
}
