//! A node's id, and a seed for each part of the world.

use pgraft_core::NodeId;

/// A node's id.
pub fn node(number: u32) -> NodeId {
    NodeId::new(i64::from(number)).unwrap_or_default()
}

/// A seed for one part of the world.
pub const fn mix(seed: u64, part: u64) -> u64 {
    let z = seed.wrapping_add(part.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 27)
}
