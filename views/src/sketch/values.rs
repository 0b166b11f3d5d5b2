//! How many different texts there were: exact for few, HyperLogLog for many.
//!
//! HyperLogLog: Flajolet, Fusy, Gandouet, Meunier 2007. Estimator: Ertl, "New cardinality estimation algorithms
//! for HyperLogLog sketches" (arXiv 1702.01284), algorithm 6: it needs no tables, no switch between ranges,
//! and only operations that IEEE 754 fixes.
//!
//! Why not Apache `datasketches` (tried: 0.6.0): its estimate follows the order of updates, and so do its bytes
//! and `==` (an accumulator of that order, and coupons in the order in which they came). The estimate that
//! does not uses `ln`, whose last bit differs between machines; what it reads back it trusts, cached sums
//! included; and its registers cannot be read to do better.

use xxhash_rust::xxh3::xxh3_64;

/// Registers are 2^11; the top bits of the hash choose one.
const INDEX_BITS: u32 = 11;
const REGISTERS: usize = 1 << INDEX_BITS;
/// Largest value of a register: all other bits of the hash are zero.
const RANK_MAX: u8 = (64 - INDEX_BITS + 1) as u8;
/// Up to so many different texts are held as hashes and counted exactly.
const FEW_MAX: usize = 64;
/// Four registers of 6 bits in three bytes.
const PACKED: usize = REGISTERS / 4 * 3;
/// First byte of the saved form.
const VERSION: u8 = 1;

/// A summary of texts that knows how many different ones there were.
///
/// - Up to 64 it is exact (but for two texts with the same 64-bit hash). Beyond it the standard error is
///   [`Values::RELATIVE_ERROR`] of the count.
/// - Adding and merging commute: the same set of texts gives the same sketch and bytes. The hash is xxh3
///   with 64 bits and seed 0, and part of the saved form.
/// - Memory: 8 bytes per text up to 64, then 2 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values(Form);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    /// Hashes, ascending.
    Few(Vec<u64>),
    /// By the hash's top bits: one more than the most zeros that followed them.
    Many(Box<[u8; REGISTERS]>),
}

impl Default for Values {
    fn default() -> Self {
        Self(Form::Few(Vec::new()))
    }
}

fn note(registers: &mut [u8; REGISTERS], hash: u64) {
    let rank = (hash << INDEX_BITS | 1 << (INDEX_BITS - 1)).leading_zeros() as u8 + 1;
    let register = &mut registers[(hash >> (64 - INDEX_BITS)) as usize];
    *register = rank.max(*register);
}

impl Values {
    /// Standard error as a share of the count, beyond 64: 1.04 / √2048. Two of three estimates are nearer,
    /// 997 of 1,000 within three times it.
    pub const RELATIVE_ERROR: f64 = 0.023;

    /// Takes a text.
    #[inline]
    pub fn add(&mut self, text: &str) {
        self.add_hash(xxh3_64(text.as_bytes()));
    }

    fn add_hash(&mut self, hash: u64) {
        match &mut self.0 {
            Form::Many(registers) => note(registers, hash),
            Form::Few(few) => {
                let Err(at) = few.binary_search(&hash) else {
                    return;
                };
                if few.len() < FEW_MAX {
                    few.insert(at, hash);
                    return;
                }
                let mut registers = Box::new([0; REGISTERS]);
                few.iter().for_each(|h| note(&mut registers, *h));
                note(&mut registers, hash);
                self.0 = Form::Many(registers);
            }
        }
    }

    /// Takes all texts of another sketch.
    pub fn merge(&mut self, other: &Self) {
        match (&mut self.0, &other.0) {
            (_, Form::Few(theirs)) => theirs.iter().for_each(|h| self.add_hash(*h)),
            (Form::Few(few), Form::Many(theirs)) => {
                let mut registers = theirs.clone();
                few.iter().for_each(|h| note(&mut registers, *h));
                self.0 = Form::Many(registers);
            }
            (Form::Many(ours), Form::Many(theirs)) => {
                for (a, b) in ours.iter_mut().zip(theirs.iter()) {
                    *a = (*a).max(*b);
                }
            }
        }
    }

    /// Whether no text went in.
    pub fn is_empty(&self) -> bool {
        matches!(&self.0, Form::Few(few) if few.is_empty())
    }

    /// How many different texts went in.
    pub fn estimate(&self) -> u64 {
        match &self.0 {
            Form::Few(few) => few.len() as u64,
            // More than few they are in any case.
            Form::Many(registers) => (ertl(registers).round() as u64).max(FEW_MAX as u64 + 1),
        }
    }

    /// Memory of the contents beyond the struct itself, bytes. It follows from the contents; a list that is
    /// growing reserves up to as much again.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Form::Few(few) => few.len() * 8,
            Form::Many(_) => REGISTERS,
        }
    }

    /// The saved form: version, number of hashes and the hashes ascending (u64, little-endian); or version,
    /// 255, and 2,048 registers of 6 bits, lowest bits first.
    pub fn to_bytes(&self) -> Vec<u8> {
        match &self.0 {
            Form::Few(few) => {
                let mut out = Vec::with_capacity(2 + few.len() * 8);
                out.extend([VERSION, few.len() as u8]);
                few.iter().for_each(|h| out.extend(h.to_le_bytes()));
                out
            }
            Form::Many(registers) => {
                let mut out = Vec::with_capacity(2 + PACKED);
                out.extend([VERSION, u8::MAX]);
                for four in registers.as_chunks::<4>().0 {
                    let [a, b, c, d] = four.map(u32::from);
                    let packed = a | b << 6 | c << 12 | d << 18;
                    out.extend(&packed.to_le_bytes()[..3]);
                }
                out
            }
        }
    }

    /// Reads [`Self::to_bytes`]; none if the bytes are not exactly of that form.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let ([VERSION, len], rest) = bytes.split_first_chunk::<2>()? else {
            return None;
        };
        if *len == u8::MAX && rest.len() == PACKED {
            let mut registers = Box::new([0; REGISTERS]);
            let places = registers.as_chunks_mut::<4>().0;
            for (four, three) in places.iter_mut().zip(rest.as_chunks::<3>().0) {
                let [a, b, c] = three.map(u32::from);
                let packed = a | b << 8 | c << 16;
                *four = [0, 6, 12, 18].map(|shift| (packed >> shift & 63) as u8);
            }
            // All zero is the empty set, which has the other form.
            let possible = registers.iter().all(|r| *r <= RANK_MAX);
            let some = registers.iter().any(|r| *r != 0);
            return (possible && some).then_some(Self(Form::Many(registers)));
        }
        let (hashes, end) = rest.as_chunks::<8>();
        let few: Vec<u64> = hashes.iter().map(|h| u64::from_le_bytes(*h)).collect();
        let sorted = few.windows(2).all(|w| w[0] < w[1]);
        let whole = few.len() == usize::from(*len) && few.len() <= FEW_MAX && end.is_empty();
        (whole && sorted).then_some(Self(Form::Few(few)))
    }
}

/// Ertl's improved raw estimate of the number of different hashes.
fn ertl(registers: &[u8; REGISTERS]) -> f64 {
    let m = REGISTERS as f64;
    let mut with = [0u32; RANK_MAX as usize + 1];
    for r in registers {
        with[usize::from(*r)] += 1;
    }
    let full = f64::from(with[usize::from(RANK_MAX)]);
    let mut z = m * tau(1.0 - full / m);
    for count in with[1..usize::from(RANK_MAX)].iter().rev() {
        z = 0.5 * (z + f64::from(*count));
    }
    z += m * sigma(f64::from(with[0]) / m);
    // The limit of the correction for many registers: 1 / (2 ln 2), written out.
    0.721_347_520_444_481_7 * m * m / z
}

/// x + Σ x^(2^k) · 2^(k−1) over k from 1: what registers that are still zero contribute.
fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

/// ⅓ (1 − x − Σ (1 − x^(2^−k))² · 2^−k over k from 1): what registers that are full contribute.
fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
