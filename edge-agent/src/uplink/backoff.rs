//! Waiting longer after each failure, and never in step with others.

use std::time::Duration;

/// A small repeatable source of jitter (SplitMix64). Not for secrets.
///
/// **Source**: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Debug, Clone)]
pub struct Jitter(u64);

impl Jitter {
    /// Starts from `seed`: the same seed gives the same jitter.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A duration between 3/4 and 5/4 of `d`.
    pub fn around(&mut self, d: Duration) -> Duration {
        let share = self.next() % 1024;
        d * 3 / 4 + d.mul_f64(share as f64 / 2048.0)
    }
}

/// `min · 2^attempts`, at most `max`.
pub fn exponential(min: Duration, max: Duration, attempts: u32) -> Duration {
    min.saturating_mul(1u32 << attempts.min(20)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_the_limit_and_jitter_stays_near() {
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(300));
        let steps: Vec<u64> = (0..12)
            .map(|n| exponential(min, max, n).as_secs())
            .collect();
        assert_eq!(steps, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(exponential(min, max, u32::MAX), max);
        let mut jitter = Jitter::new(1);
        let mut seen = Vec::new();
        for _ in 0..1000 {
            let d = jitter.around(Duration::from_secs(100));
            assert!((75..=125).contains(&d.as_secs()), "{d:?}");
            seen.push(d.as_secs());
        }
        assert!(seen.iter().min() < Some(&80) && seen.iter().max() > Some(&120));
    }
}
