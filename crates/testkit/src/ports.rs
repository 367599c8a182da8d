//! Free ports.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};

const FIRST: u16 = 10_000;
/// Up to the ephemeral range, from which outgoing connections take their ports.
const COUNT: u64 = 22_000;

/// A port of 127.0.0.1 on which nothing listens. No port is returned twice to one process, and
/// processes that run at the same time begin at different ports.
///
/// # Panics
///
/// If every port is taken.
pub fn free_port() -> u16 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    for _ in 0..COUNT {
        // 7 and COUNT have no common divisor, so that each port comes up once.
        let n = u64::from(std::process::id()) * 7919 + NEXT.fetch_add(1, Ordering::Relaxed) * 7;
        let port = FIRST + u16::try_from(n % COUNT).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {FIRST} is free")
}
