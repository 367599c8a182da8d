//! Reads the files again when they change, or when told to. Connections that stand go on; new ones
//! use what is new. Files that are no good change nothing, and are said so once: at the second
//! look, since two files are seldom replaced in one instant.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::material::{Health, Material, Validity};
use super::trouble::span;
use super::{Guard, RaftTls};

/// How often the files are looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(3);
/// How often a certificate that is about to expire is spoken of.
const REMIND: Duration = Duration::from_hours(24);

/// What a file's directory entry says; a new content makes a new one.
type Mark = Option<(u64, u64, u64, i64, i64, i64, i64)>;

/// What was tried last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tried {
    Good([Mark; 3]),
    Bad([Mark; 3]),
    BadAndSaid([Mark; 3]),
}

/// Follows the files for as long as it is polled.
pub async fn follow(guard: Guard, told: Arc<Notify>) {
    let Guard::Tls(tls) = guard else { return std::future::pending().await };
    let mut reminder = Reminder::default();
    reminder.look(tls.current().validity);
    // What was loaded may have changed since: the first look loads it again.
    let mut tried = Tried::Good([None; 3]);
    loop {
        tried = look(&tls, tried).await;
        reminder.look(tls.current().validity);
        // Told or not, it looks.
        let _ = timeout(POLL_INTERVAL, told.notified()).await;
    }
}

async fn look(tls: &Arc<RaftTls>, tried: Tried) -> Tried {
    let marks = tls.paths().map(|path| mark(path));
    if tried == Tried::Good(marks) || tried == Tried::BadAndSaid(marks) {
        return tried;
    }
    let reader = Arc::clone(tls);
    let loaded =
        tokio::task::spawn_blocking(move || Material::load(&reader.files, reader.me)).await;
    match loaded {
        Ok(Ok(material)) => {
            let is_first = tried == Tried::Good([None; 3]);
            if !is_first {
                tracing::info!(
                    "TLS files were read again: new connections use them, {}",
                    left(material.validity, now())
                );
            }
            tls.replace(material);
            Tried::Good(marks)
        }
        Ok(Err(_)) if tried != Tried::Bad(marks) => Tried::Bad(marks),
        Ok(Err(error)) => {
            tracing::warn!("new TLS files are not used, the old ones stay in force: {error}");
            Tried::BadAndSaid(marks)
        }
        Err(_) => tried,
    }
}

fn mark(path: &Path) -> Mark {
    let m = std::fs::metadata(path).ok()?;
    Some((m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn left(validity: Validity, now: u64) -> String {
    match validity.until.checked_sub(now) {
        Some(left) => format!(
            "this node's certificate is valid for another {}",
            span(Duration::from_secs(left))
        ),
        None => format!(
            "this node's certificate expired {} ago",
            span(Duration::from_secs(now - validity.until))
        ),
    }
}

/// Speaks of a certificate that ends.
#[derive(Default)]
struct Reminder(Option<(Health, Instant)>);

impl Reminder {
    fn look(&mut self, validity: Validity) {
        let health = validity.health(now());
        if self.0.is_some_and(|(said, at)| {
            said == health && (health == Health::Good || at.elapsed() < REMIND)
        }) {
            return;
        }
        self.0 = Some((health, Instant::now()));
        let left = left(validity, now());
        match health {
            Health::Good => tracing::info!("{left}"),
            Health::Soon => tracing::warn!(
                "{left}: replace pgraft.tls_cert_file and pgraft.tls_key_file, they are read without a restart"
            ),
            Health::Expired => {
                tracing::warn!(
                    "{left}, and no member accepts it: replace pgraft.tls_cert_file and pgraft.tls_key_file, they are read without a restart"
                );
            }
        }
    }
}
