//! Columns of plain numbers as little-endian bytes: a snapshot of millions of records is copied, not encoded.
//!
//! A column is its length (u64) and its elements. Readers check the length against what is there before they
//! reserve anything.

/// Elements that are put together before they are appended.
const BLOCK: usize = 128;

/// A number of fixed size.
pub(crate) trait Number: Copy {
    /// Bytes of one.
    const SIZE: usize;
    /// Appends it.
    fn put(self, out: &mut [u8]);
    /// Reads it; `bytes` has exactly [`Self::SIZE`].
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! number {
    ($t:ty) => {
        impl Number for $t {
            const SIZE: usize = size_of::<$t>();
            #[inline(always)]
            fn put(self, out: &mut [u8]) {
                out.copy_from_slice(&self.to_le_bytes());
            }
            #[inline(always)]
            fn get(bytes: &[u8]) -> Self {
                let mut b = [0; size_of::<$t>()];
                b.copy_from_slice(bytes);
                <$t>::from_le_bytes(b)
            }
        }
    };
}
number!(u8);
number!(u32);
number!(u64);
number!(i64);

/// The number in exactly as many bytes as it has.
pub(crate) fn number<T: Number>(bytes: &[u8]) -> T {
    T::get(bytes)
}

pub(crate) fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&(len as u64).to_le_bytes());
}

/// Appends a column that `numbers` gives; `len` is its length.
pub(crate) fn put_all<T: Number>(out: &mut Vec<u8>, len: usize, numbers: impl Iterator<Item = T>) {
    put_len(out, len);
    out.reserve(len * T::SIZE);
    // By blocks that stay near: to zero all of it first would write it twice.
    let mut block = [0u8; BLOCK * 8];
    let mut numbers = numbers.take(len);
    loop {
        let mut filled = 0;
        for (place, n) in block.chunks_exact_mut(T::SIZE).zip(&mut numbers) {
            n.put(place);
            filled += T::SIZE;
        }
        out.extend_from_slice(&block[..filled]);
        if filled < block.len() {
            return;
        }
    }
}

/// Appends records of `N` bytes each.
pub(crate) fn put_rows<const N: usize>(
    out: &mut Vec<u8>,
    mut rows: impl ExactSizeIterator<Item = [u8; N]>,
) {
    put_len(out, rows.len());
    out.reserve(rows.len() * N);
    let mut block = [[0; N]; BLOCK];
    while rows.len() > 0 {
        let mut filled = 0;
        for (place, row) in block.iter_mut().zip(&mut rows) {
            *place = row;
            filled += 1;
        }
        out.extend_from_slice(block[..filled].as_flattened());
    }
}

pub(crate) fn put_u32s(out: &mut Vec<u8>, numbers: &[u32]) {
    put_all(out, numbers.len(), numbers.iter().copied());
}

pub(crate) fn put_i64s(out: &mut Vec<u8>, numbers: &[i64]) {
    put_all(out, numbers.len(), numbers.iter().copied());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

pub(crate) fn put_u64(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(&n.to_le_bytes());
}

pub(crate) fn put_i64(out: &mut Vec<u8>, n: i64) {
    out.extend_from_slice(&n.to_le_bytes());
}

pub(crate) fn put_u32(out: &mut Vec<u8>, n: u32) {
    out.extend_from_slice(&n.to_le_bytes());
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(head)
}

pub(crate) fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes, 8).map(u64::get)
}

pub(crate) fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    take(bytes, 8).map(i64::get)
}

pub(crate) fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    take(bytes, 4).map(u32::get)
}

fn take_all<T: Number>(bytes: &mut &[u8]) -> Option<Vec<T>> {
    let len = usize::try_from(take_u64(bytes)?).ok()?;
    let column = take(bytes, len.checked_mul(T::SIZE)?)?;
    Some(column.chunks_exact(T::SIZE).map(T::get).collect())
}

pub(crate) fn take_u32s(bytes: &mut &[u8]) -> Option<Vec<u32>> {
    take_all(bytes)
}

pub(crate) fn take_i64s(bytes: &mut &[u8]) -> Option<Vec<i64>> {
    take_all(bytes)
}

/// Reads [`put_rows`].
pub(crate) fn take_rows<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [[u8; N]]> {
    let len = usize::try_from(take_u64(bytes)?).ok()?;
    let rows = take(bytes, len.checked_mul(N)?)?;
    Some(rows.as_chunks::<N>().0)
}

pub(crate) fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_u64(bytes)?).ok()?;
    take(bytes, len)
}
