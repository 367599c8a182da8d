//! What needs a person is logged once, not with every connection that fails for the same reason.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The same words about the same peer are said again after this.
const AGAIN_AFTER: Duration = Duration::from_hours(1);
/// Peers that are remembered. Who comes from more addresses than that is not heard.
const MAX_REMEMBERED: usize = 256;

/// The last words about each peer.
#[derive(Default)]
pub struct LogDedup(Mutex<HashMap<String, (String, Instant)>>);

impl LogDedup {
    /// Logs the words, unless they are the last that were said about this peer.
    pub fn say(&self, peer: &str, words: &str) {
        if self.is_news(peer, words) {
            tracing::warn!("{words}");
        } else {
            tracing::debug!("{words}");
        }
    }

    /// All is well with this peer: the next trouble is news.
    pub fn forget(&self, peer: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(peer);
    }

    fn is_news(&self, peer: &str, words: &str) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.get(peer).is_some_and(|(said, at)| said == words && at.elapsed() < AGAIN_AFTER) {
            return false;
        }
        if !last.contains_key(peer) && last.len() >= MAX_REMEMBERED {
            last.retain(|_, (_, at)| at.elapsed() < AGAIN_AFTER);
            if last.len() >= MAX_REMEMBERED {
                return false;
            }
        }
        last.insert(peer.to_owned(), (words.to_owned(), Instant::now()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_words_are_said_once_an_hour() {
        let all = LogDedup::default();
        assert!(all.is_news("a", "x"));
        assert!(!all.is_news("a", "x"));
        assert!(all.is_news("b", "x") && all.is_news("a", "y") && all.is_news("a", "x"));
        all.forget("a");
        assert!(all.is_news("a", "x"));
        for n in 0..1000 {
            all.is_news(&n.to_string(), "x");
        }
        assert_eq!(all.0.lock().unwrap().len(), MAX_REMEMBERED);
        tokio::time::advance(AGAIN_AFTER).await;
        assert!(all.is_news("a", "x") && all.is_news("new", "x"));
    }
}
