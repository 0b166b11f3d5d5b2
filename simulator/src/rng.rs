//! Seeded randomness that gives the same numbers for ever.
//!
//! Why our own: values must not change when a dependency does, a device may only cost a few bytes
//! (a fleet has millions), and nothing here needs secrecy.

/// SplitMix64: 8 bytes of state, one multiplication chain a number.
///
/// **Source**: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rng(u64);

impl Rng {
    /// A generator of its own for each (seed, what it is for).
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut r = Self(seed ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93));
        r.next();
        Self(r.next() ^ stream)
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// A number in `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && self.unit() < p
    }

    /// A whole number in `-n..=n`, the middle being likelier than the ends.
    pub fn around(&mut self, n: i32) -> i32 {
        let side = n.unsigned_abs() as u64 + 1;
        (self.below(side) as i64 + self.below(side) as i64 - i64::from(n)) as i32
    }
}

/// A seeded shuffle of `0..n` without a table: the rank of each number, so that "the first 10 %" is a
/// random choice that costs no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shuffle {
    n: u64,
    factor: u64,
    shift: u64,
}

impl Shuffle {
    /// The shuffle of `0..n` for a seed.
    pub fn new(seed: u64, stream: u64, n: u64) -> Self {
        let n = n.max(1);
        let mut rng = Rng::new(seed, stream);
        // Any factor without a common divisor maps 0..n onto itself; 1 is one such.
        let mut factor = 1 + rng.below(n);
        while gcd(factor, n) != 1 {
            factor = factor % n + 1;
        }
        Self {
            n,
            factor,
            shift: rng.below(n),
        }
    }

    /// The rank of `i` (`i < n`), in `0..n`.
    pub fn rank(&self, i: u64) -> u64 {
        ((u128::from(i) * u128::from(self.factor) + u128::from(self.shift)) % u128::from(self.n))
            as u64
    }
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_never_change() {
        let mut r = Rng::new(1, 2);
        let first: Vec<u64> = (0..3).map(|_| r.below(1000)).collect();
        let mut again = Rng::new(1, 2);
        assert_eq!(first, (0..3).map(|_| again.below(1000)).collect::<Vec<_>>());
        assert_ne!(Rng::new(1, 3).next(), Rng::new(1, 2).next());
    }

    #[test]
    fn ranges_hold() {
        let mut r = Rng::new(7, 7);
        for _ in 0..10_000 {
            assert!(r.below(7) < 7);
            assert!((0.0..1.0).contains(&r.unit()));
            assert!((-5..=5).contains(&r.around(5)));
        }
        assert_eq!(r.below(0), 0);
    }

    #[test]
    fn a_shuffle_is_a_permutation() {
        for n in [1u64, 2, 7, 10, 64, 1000] {
            let s = Shuffle::new(3, 4, n);
            let mut ranks: Vec<u64> = (0..n).map(|i| s.rank(i)).collect();
            ranks.sort_unstable();
            assert_eq!(ranks, (0..n).collect::<Vec<_>>());
        }
    }
}
