//! The clients that the gateway works for: those that it forwards, and those that it holds or
//! connects. Their number is bounded by `gateway.maxConnections`, which may change at any time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// Open files of this process that are not for forwarded clients, without the silent connections.
const OTHER_FILES: usize = 256;

/// Counts the clients.
#[derive(Default)]
pub struct ClientSlots {
    taken: AtomicUsize,
    /// The last `maxConnections`, and how many of them the open-file limit allows.
    limit: Mutex<Option<(usize, usize)>>,
}

/// One client's slot. Dropping it frees the slot.
pub struct ClientSlot(Arc<ClientSlots>);

impl ClientSlots {
    /// Takes a slot, unless `limit` slots are taken.
    pub fn take(self: &Arc<Self>, limit: usize) -> Option<ClientSlot> {
        let one_more = |taken: usize| (taken < limit).then_some(taken + 1);
        self.taken
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more)
            .ok()
            .map(|_| ClientSlot(Arc::clone(self)))
    }

    /// How many slots there are: `max_connections`, or fewer if the system allows too few open
    /// files. A new value raises this process's limit first. `silent` is the number of connections
    /// that need a file besides.
    pub fn limit(&self, max_connections: usize, silent: usize) -> usize {
        let mut limit = self.limit.lock();
        if let Some((_, allowed)) = limit.filter(|(of, _)| *of == max_connections) {
            return allowed;
        }
        let allowed = allow_files(max_connections, OTHER_FILES + silent).unwrap_or_else(|error| {
            tracing::warn!(%error, "could not raise the limit on open files for gateway.maxConnections");
            max_connections
        });
        if allowed < max_connections {
            tracing::warn!(
                max_connections,
                allowed,
                "the limit on open files is too low for gateway.maxConnections: the gateway serves fewer clients"
            );
        }
        *limit = Some((max_connections, allowed));
        allowed
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Raises the soft limit on open files for this many clients, two files each, and `others`. Returns
/// how many clients the hard limit allows.
fn allow_files(clients: usize, others: usize) -> io::Result<usize> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let others = u64::try_from(others).unwrap_or(u64::MAX / 4);
    let wanted =
        u64::try_from(clients).unwrap_or(u64::MAX / 4).saturating_mul(2).saturating_add(others);
    let allowed = if soft < wanted { wanted.min(hard) } else { soft };
    if allowed > soft {
        setrlimit(Resource::RLIMIT_NOFILE, allowed, hard)?;
    }
    Ok(clients.min(usize::try_from(allowed.saturating_sub(others) / 2).unwrap_or(usize::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_again_when_its_client_has_left() {
        let slots = Arc::new(ClientSlots::default());
        let (first, second) = (slots.take(2), slots.take(2));
        assert!(first.is_some() && second.is_some() && slots.take(2).is_none());
        assert!(slots.take(3).is_some(), "a higher limit counts at once");
        drop(first);
        assert!(slots.take(1).is_none(), "a lower limit counts at once");
        assert!(slots.take(2).is_some());
    }
}
