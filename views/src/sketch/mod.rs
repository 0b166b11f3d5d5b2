//! Sketches: small summaries of many values whose merge does not depend on order.
//!
//! The same values give the same bytes, however they were ordered, split and merged: a partition that
//! replays its log, and two machines, agree bit for bit. So nothing here uses a logarithm or another
//! function whose last bit is up to the machine's library; only +, −, ×, ÷ and √ of doubles, which
//! IEEE 754 fixes.

mod quantiles;
mod values;

pub use quantiles::Quantiles;
pub use values::Values;

/// Appends `n` in 7-bit groups, lowest first; 1 to 10 bytes.
pub fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Takes what [`put_varint`] wrote; none if it is cut, over 64 bits or longer than it must be (a number has
/// one form, or equal contents could have different bytes).
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0;
    for i in 0..10 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        if i == 9 && byte > 1 {
            return None;
        }
        n |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return (i == 0 || byte != 0).then_some(n);
        }
    }
    None
}

/// Signed numbers as varints: 0, −1, 1, −2, … become 0, 1, 2, 3, …
pub fn put_signed(out: &mut Vec<u8>, n: i64) {
    put_varint(out, ((n << 1) ^ (n >> 63)) as u64);
}

/// Takes what [`put_signed`] wrote; none as in [`take_varint`].
pub fn take_signed(bytes: &mut &[u8]) -> Option<i64> {
    let n = take_varint(bytes)?;
    Some((n >> 1) as i64 ^ -((n & 1) as i64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_read_back_and_have_one_form(n in any::<u64>(), shift in 0u32..64, garbage in prop::collection::vec(any::<u8>(), 0..12)) {
            let n = n >> shift;
            let mut bytes = Vec::new();
            put_varint(&mut bytes, n);
            put_signed(&mut bytes, n as i64);
            let mut left = bytes.as_slice();
            prop_assert_eq!(take_varint(&mut left), Some(n));
            prop_assert_eq!(take_signed(&mut left), Some(n as i64));
            prop_assert!(left.is_empty());

            let mut left = garbage.as_slice();
            if let Some(n) = take_varint(&mut left) {
                let mut again = Vec::new();
                put_varint(&mut again, n);
                prop_assert_eq!(again.as_slice(), &garbage[..garbage.len() - left.len()]);
            }
        }
    }
}
