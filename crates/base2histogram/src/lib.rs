//! Counts of `u64` values in buckets whose width grows with the value: what openraft records its
//! batch sizes with. Pure.
//!
//! The crate of this name on crates.io makes tables for sixteen resolutions when it is first used:
//! 26 MB in every Postgres server, of which openraft reads 4 KB. Here a bucket is computed where it
//! is needed. It has what openraft 0.10 asks for without its feature `runtime-stats` and nothing
//! else; `[patch.crates-io]` in the workspace's Cargo.toml puts it in its place. It goes when
//! upstream makes its tables when they are needed, or openraft leaves it: the build then warns that
//! the patch is not used.
//!
//! ```text
//!  0 1 2 3 | 4 5 6 7 | 8 10 12 14 | 16 20 24 28 | 32 …     where buckets begin: four for each power of two
//! ```

use std::fmt;
use std::marker::PhantomData;

/// Buckets for each power of two; as many hold the values below it, one each.
const PER_POWER: usize = 4;
/// Its power of two.
const BITS: usize = 2;
/// The last bucket ends with `u64::MAX`.
const BUCKETS: usize = (64 - BITS + 1) * PER_POWER;

/// How many values fell into each bucket.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Box<[u64; BUCKETS]>,
    data: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self { counts: Box::new([0; BUCKETS]), data: PhantomData }
    }

    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value that came so many times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        if let Some(bucket) = self.counts.get_mut(bucket_of(value)) {
            *bucket = bucket.saturating_add(count);
        }
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The beginning of the bucket that holds the value of that rank among all, in thousandths of
    /// the whole; 0 when nothing was counted.
    fn per_mille(&self, per_mille: u64) -> u64 {
        let rank = (u128::from(self.total()) * u128::from(per_mille)).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank {
                return beginning_of(bucket);
            }
        }
        0
    }

    /// The percentiles that openraft shows.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.per_mille(1),
            p1: self.per_mille(10),
            p5: self.per_mille(50),
            p10: self.per_mille(100),
            p50: self.per_mille(500),
            p90: self.per_mille(900),
            p99: self.per_mille(990),
            p99_9: self.per_mille(999),
        }
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Histogram<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.percentile_stats())
    }
}

/// Values below [`PER_POWER`] have a bucket each; of the others the highest bit and the [`BITS`]
/// bits behind it tell.
#[allow(clippy::cast_possible_truncation, reason = "what is cast is below 8")]
const fn bucket_of(value: u64) -> usize {
    if value < PER_POWER as u64 {
        return value as usize;
    }
    let power = value.ilog2() as usize;
    (power - BITS) * PER_POWER + (value >> (power - BITS)) as usize
}

/// The smallest value of a bucket.
const fn beginning_of(bucket: usize) -> u64 {
    if bucket < PER_POWER {
        return bucket as u64;
    }
    ((PER_POWER + bucket % PER_POWER) as u64) << (bucket / PER_POWER - 1)
}

/// Common percentiles of a [`Histogram`], each as the beginning of its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    /// Values counted.
    pub samples: u64,
    /// 0.1 %.
    pub p0_1: u64,
    /// 1 %.
    pub p1: u64,
    /// 5 %.
    pub p5: u64,
    /// 10 %.
    pub p10: u64,
    /// The median.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p0_1, p1, p5, p10, p50, p90, p99, p99_9 } = self;
        write!(
            f,
            "{samples} samples, p0.1 {p0_1}, p1 {p1}, p5 {p5}, p10 {p10}, p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p99_9}"
        )
    }
}

/// Where openraft collects histograms that it draws with its feature `runtime-stats` only; nothing
/// is drawn here.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart;

impl AsciiChart {
    /// An empty one.
    pub const fn new() -> Self {
        Self
    }

    /// One more.
    #[must_use]
    pub fn add<T>(self, _name: &str, _histogram: Histogram<T>) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_touch_and_the_last_one_takes_the_largest_value() {
        let beginnings: Vec<u64> = (0..=16).map(beginning_of).collect();
        assert_eq!(beginnings, [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32]);
        for bucket in 1..BUCKETS {
            assert_eq!(bucket_of(beginning_of(bucket)), bucket);
            assert_eq!(bucket_of(beginning_of(bucket) - 1), bucket - 1);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn nothing_counted() {
        let stats = Histogram::<()>::new().percentile_stats();
        assert_eq!(
            stats.to_string(),
            "0 samples, p0.1 0, p1 0, p5 0, p10 0, p50 0, p90 0, p99 0, p99.9 0"
        );
    }

    proptest! {
        /// As a plain sort has it: the value of that rank lies in the bucket that is named.
        #[test]
        fn percentiles_agree_with_a_sort(mut values in prop::collection::vec(prop_oneof![0..64u64, any::<u64>(), 0..1_000_000u64], 1..300)) {
            let mut histogram = Histogram::<()>::new();
            for value in &values {
                histogram.record(*value);
            }
            values.sort_unstable();
            prop_assert_eq!(histogram.total(), values.len() as u64);
            let PercentileStats { samples, p0_1, p1, p5, p10, p50, p90, p99, p99_9 } = histogram.percentile_stats();
            prop_assert_eq!(samples, values.len() as u64);
            for (per_mille, found) in [(1, p0_1), (10, p1), (50, p5), (100, p10), (500, p50), (900, p90), (990, p99), (999, p99_9)] {
                let sorted = values[(values.len() * per_mille).div_ceil(1000).max(1) - 1];
                prop_assert_eq!(found, beginning_of(bucket_of(sorted)), "{} per mille", per_mille);
            }
        }
    }
}
