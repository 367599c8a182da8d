//! Percentiles of durations, as a printed row.

use std::time::Duration;

/// Sorted durations of one measurement.
#[derive(Debug, Clone)]
pub struct BenchSample(Vec<Duration>);

impl BenchSample {
    /// From durations in any order.
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// The nearest-rank percentile: the smallest value that at least `percent` of all do not
    /// exceed. Zero if there are no values.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    /// `name   200   min 0.98 ms   p50 1.23 ms   p99 …   max …`
    pub fn row(&self, name: &str) -> String {
        let ms = |percent| format!("{:8.3}", self.percentile(percent).as_secs_f64() * 1e3);
        format!(
            "{name:<72} n {:>5}   min {} ms   p50 {} ms   p99 {} ms   max {} ms",
            self.0.len(),
            ms(0),
            ms(50),
            ms(99),
            ms(100)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let ms = Duration::from_millis;
        let hundred = BenchSample::new((1..=100).rev().map(ms).collect());
        assert_eq!([50, 99, 100].map(|p| hundred.percentile(p)), [ms(50), ms(99), ms(100)]);
        let three = BenchSample::new(vec![ms(7), ms(3), ms(5)]);
        assert_eq!([1, 50, 99].map(|p| three.percentile(p)), [ms(3), ms(5), ms(7)]);
        assert_eq!(BenchSample::new(Vec::new()).percentile(99), Duration::ZERO);
    }
}
