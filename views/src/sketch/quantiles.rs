//! Quantiles of numbers: DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch
//! with relative-error guarantees", VLDB 2019).
//!
//! Buckets grow with the value, so that a value found in one is right to a fixed share of itself. The paper
//! finds the bucket by a logarithm; here it is the double's exponent and the top 6 bits of its mantissa (64
//! equal buckets between a power of two and the next): a shift, and the same on every machine.

use super::{put_signed, put_varint, take_signed, take_varint};

/// Bits of a double below a bucket's number.
const SHIFT: u32 = 52 - 6;
/// Buckets between a power of two and the next.
const OCTAVE: i32 = 64;
/// Bucket numbers of magnitudes: below it zero and subnormals, from `BUCKET_END` on infinity and NaN.
const BUCKET_START: i32 = OCTAVE;
const BUCKET_END: i32 = 0x7ff * OCTAVE;
/// Buckets of a chunk: an eighth of an octave, and one cache line of counts.
const CHUNK: usize = 8;
/// Chunks held at most; then the lowest are folded. 2,048 buckets are 32 octaves.
const CHUNKS_MAX: usize = 256;
/// First byte of the saved form.
const VERSION: u8 = 1;

/// A summary of numbers that answers quantiles within [`Quantiles::RELATIVE_ERROR`].
///
/// - Counts are exact. Adding and merging commute: the same numbers give the same sketch and bytes.
/// - Magnitudes below 2⁻¹⁰²² count as zero. Infinities and NaN are ignored.
/// - At most 2,048 buckets in 256 chunks of eight: enough for values of one sign that differ by a factor of
///   2³² (of both signs, 2¹⁶ each). Beyond it the lowest chunks are folded into the lowest bucket that is
///   kept: the highest 256 chunks ever touched stay exact, so what is lost does not depend on order.
///   [`Self::folded`] counts what was.
/// - Memory: about 66 bytes per eighth of an octave in use, 17 KB at most.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quantiles {
    zero: u64,
    /// Values in the lowest bucket that belong below the lowest chunk.
    folded: u64,
    /// Chunk numbers, ascending; negative ones hold negative values.
    heads: Vec<i16>,
    counts: Vec<[u64; CHUNK]>,
}

/// The middle of a bucket, in the sense that both ends are equally far from it relative to themselves.
fn middle(key: i32) -> f64 {
    let bucket = if key < 0 { !key } else { key };
    let lower = f64::from_bits((bucket as u64) << SHIFT);
    let i = f64::from(bucket % OCTAVE);
    // 2·lower·upper / (lower + upper), without upper: the topmost one would be infinite.
    let magnitude = lower * ((2.0 * i + 130.0) / (2.0 * i + 129.0));
    if key < 0 { -magnitude } else { magnitude }
}

fn sum(counts: &[u64; CHUNK]) -> u64 {
    counts.iter().fold(0, |a, b| a.saturating_add(*b))
}

impl Quantiles {
    /// A quantile differs from the exact one by at most this share of the exact one: 1/129, in the widest
    /// buckets (those just above a power of two).
    pub const RELATIVE_ERROR: f64 = 1.0 / 129.0;

    /// Takes a number.
    #[inline]
    pub fn add(&mut self, value: f64) {
        let bits = value.to_bits();
        let bucket = ((bits & (u64::MAX >> 1)) >> SHIFT) as i32;
        if !(BUCKET_START..BUCKET_END).contains(&bucket) {
            if bucket < BUCKET_START {
                self.add_zero();
            }
            return;
        }
        // All ones for a negative number: keys then ascend with the values.
        let key = bucket ^ (bits as i64 >> 63) as i32;
        let (head, slot) = ((key >> 3) as i16, (key & 7) as usize);
        match self.heads.binary_search(&head) {
            Ok(at) => self.counts[at][slot] = self.counts[at][slot].saturating_add(1),
            Err(at) => self.add_chunk(at, head, slot),
        }
    }

    #[cold]
    fn add_zero(&mut self) {
        self.zero = self.zero.saturating_add(1);
        self.fold_zero();
    }

    #[cold]
    fn add_chunk(&mut self, at: usize, head: i16, slot: usize) {
        if at == 0 && self.heads.len() == CHUNKS_MAX {
            self.counts[0][0] = self.counts[0][0].saturating_add(1);
            self.folded = self.folded.saturating_add(1);
            return;
        }
        let lowest = self.heads.first().copied();
        self.heads.insert(at, head);
        let mut counts = [0; CHUNK];
        counts[slot] = 1;
        self.counts.insert(at, counts);
        let folded = self.folded;
        self.fold([(lowest, folded), (None, 0)]);
    }

    /// Keeps the highest [`CHUNKS_MAX`] chunks. `before`: the lowest chunk of each sketch that went in, and
    /// how many of its values were folded into it.
    fn fold(&mut self, before: [(Option<i16>, u64); 2]) {
        let excess = self.heads.len().saturating_sub(CHUNKS_MAX);
        self.heads.drain(..excess);
        let below = self.counts.drain(..excess);
        let below = below.fold(0, |a: u64, c| a.saturating_add(sum(&c)));
        if let Some(lowest) = self.counts.first_mut() {
            lowest[0] = lowest[0].saturating_add(below);
        }
        // Where the lowest chunk of one is below the new one, its folded values are among `below`. It cannot
        // be above: a sketch that has folded is full, so the new lowest is at least its own.
        self.folded = before
            .iter()
            .filter(|b| b.0.is_some() && b.0 == self.heads.first().copied())
            .fold(below, |a, b| a.saturating_add(b.1));
        self.fold_zero();
    }

    /// Zeros lie below every positive chunk: once something was folded up to there, so are they.
    fn fold_zero(&mut self) {
        if self.folded > 0 && self.zero > 0 && self.heads.first().is_some_and(|h| *h >= 0) {
            self.counts[0][0] = self.counts[0][0].saturating_add(self.zero);
            self.folded = self.folded.saturating_add(self.zero);
            self.zero = 0;
        }
    }

    /// Takes all numbers of another sketch.
    pub fn merge(&mut self, other: &Self) {
        let lowest = |q: &Self| (q.heads.first().copied(), q.folded);
        let before = [lowest(self), lowest(other)];
        self.zero = self.zero.saturating_add(other.zero);
        let mut from = 0;
        for (head, theirs) in other.heads.iter().zip(&other.counts) {
            match self.heads[from..].binary_search(head) {
                Ok(at) => {
                    from += at;
                    for (a, b) in self.counts[from].iter_mut().zip(theirs) {
                        *a = a.saturating_add(*b);
                    }
                }
                Err(at) => {
                    from += at;
                    self.heads.insert(from, *head);
                    self.counts.insert(from, *theirs);
                }
            }
        }
        self.fold(before);
    }

    /// How many numbers went in.
    pub fn count(&self) -> u64 {
        let chunks = self.counts.iter().map(sum);
        chunks.fold(self.zero, u64::saturating_add)
    }

    /// How many of the smallest numbers are known only to be below the rest, because the range was too wide.
    /// Quantiles among them are too high.
    pub fn folded(&self) -> u64 {
        self.folded
    }

    /// The number at place ⌊q·(count − 1)⌋ of the sorted numbers, counted from 0, within
    /// [`Self::RELATIVE_ERROR`]; `q` from 0 to 1. None if there are no numbers. It may lie outside the
    /// smallest and largest number by that error: who knows those clamps.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let last = self.count().checked_sub(1)?;
        let mut rank = ((q.clamp(0.0, 1.0) * last as f64).floor() as u64).min(last);
        let negative = self.heads.partition_point(|h| *h < 0);
        for (at, counts) in self.counts.iter().enumerate() {
            if at == negative {
                if rank < self.zero {
                    return Some(0.0);
                }
                rank -= self.zero;
            }
            for (slot, count) in counts.iter().enumerate() {
                if rank < *count {
                    let key = i32::from(self.heads[at]) * CHUNK as i32 + slot as i32;
                    return Some(middle(key));
                }
                rank -= count;
            }
        }
        // Only zeros are left: there is no positive number.
        Some(0.0)
    }

    /// Memory of the contents beyond the struct itself, bytes. It follows from the contents; lists that are
    /// growing reserve up to as much again.
    pub fn bytes(&self) -> usize {
        self.heads.len() * (size_of::<i16>() + size_of::<[u64; CHUNK]>())
    }

    /// The saved form: version, zeros, folded, number of chunks, then of each chunk the distance to the one
    /// before, a bit per bucket in use, their counts; numbers as varints.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_varint(&mut out, self.zero);
        put_varint(&mut out, self.folded);
        put_varint(&mut out, self.heads.len() as u64);
        let mut last = None;
        for (head, counts) in self.heads.iter().zip(&self.counts) {
            let head = i64::from(*head);
            match last {
                None => put_signed(&mut out, head),
                Some(last) => put_varint(&mut out, (head - last) as u64),
            }
            last = Some(head);
            let used = |(i, c): (usize, &u64)| u8::from(*c != 0) << i;
            out.push(counts.iter().enumerate().map(used).sum());
            for count in counts.iter().filter(|c| **c != 0) {
                put_varint(&mut out, *count);
            }
        }
        out
    }

    /// Reads [`Self::to_bytes`]; none if the bytes are not exactly of that form.
    pub fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let b = &mut bytes;
        if b.split_off_first()? != &VERSION {
            return None;
        }
        let mut read = Self {
            zero: take_varint(b)?,
            folded: take_varint(b)?,
            ..Self::default()
        };
        let len = usize::try_from(take_varint(b)?).ok()?;
        if len > CHUNKS_MAX {
            return None;
        }
        let chunk = CHUNK as i64;
        let magnitudes = i64::from(BUCKET_START) / chunk..i64::from(BUCKET_END) / chunk;
        for i in 0..len {
            let head = match read.heads.last() {
                None => take_signed(b)?,
                Some(last) => {
                    let distance = i64::try_from(take_varint(b)?).ok()?;
                    i64::from(*last).checked_add(distance)?
                }
            };
            if !magnitudes.contains(&if head < 0 { !head } else { head })
                || (i > 0 && head <= i64::from(read.heads[i - 1]))
            {
                return None;
            }
            let used = *b.split_off_first()?;
            let mut counts = [0; CHUNK];
            for (slot, count) in counts.iter_mut().enumerate() {
                if used >> slot & 1 == 1 {
                    *count = take_varint(b).filter(|c| *c != 0)?;
                }
            }
            if used == 0 {
                return None;
            }
            read.heads.push(head as i16);
            read.counts.push(counts);
        }
        let folded_ok = read.folded == 0
            || (len == CHUNKS_MAX
                && read.folded <= read.counts[0][0]
                && (read.zero == 0 || read.heads[0] < 0));
        (bytes.is_empty() && folded_ok).then_some(read)
    }
}

#[cfg(test)]
#[path = "quantiles_tests.rs"]
mod tests;
