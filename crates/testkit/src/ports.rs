//! Ports for nodes.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};

/// Four ports that nobody listens on, below the range from which outgoing connections take theirs.
/// No two nodes of this process get the same: nobody listens on one yet when the next is looked
/// for.
pub fn free_ports() -> [u16; 4] {
    static TAKEN: AtomicU64 = AtomicU64::new(0);
    let free = || loop {
        // 7 and 12,000 have no divisor in common: each port comes once in a round.
        let candidate =
            u64::from(std::process::id()) * 7919 + TAKEN.fetch_add(1, Ordering::Relaxed) * 7;
        let port = 20_000 + u16::try_from(candidate % 12_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    };
    std::array::from_fn(|_| free())
}
