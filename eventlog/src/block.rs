//! What one append group stores per partition, and its bytes (drawn in `FORMAT.md`).
//!
//! The encoder writes straight into the page that redb has reserved: a payload is copied once on its way
//! to the disk, and once on its way back, into one allocation that all records of the block share.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{Offset, PartitionId};

/// Records that entered one partition together, as they are read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Offset of the first record in `records`.
    pub first: Offset,
    /// When the block entered the log: microseconds UTC by the log's clock, never less than in the block before.
    pub ingest_time: i64,
    /// The records, in offset order. They share one allocation: keeping one keeps the block.
    pub records: Vec<Bytes>,
}

impl Block {
    /// Offset after the last record.
    pub fn end(&self) -> Offset {
        Offset(self.first.0 + self.records.len() as u64)
    }

    /// The block in `bytes`, as it would be read under the key (`partition`, `first`): the door of the
    /// fuzz targets. Readers of the log go through [`crate::Log`].
    ///
    /// **Errors**: what does not fit.
    #[doc(hidden)]
    pub fn decode(bytes: &[u8], partition: PartitionId, first: Offset) -> Result<Self, String> {
        let stored = verify(bytes, partition, first)?;
        Ok(Self {
            first,
            ingest_time: stored.ingest_time,
            records: stored.records(0)?,
        })
    }

    /// Payload bytes of the records.
    pub fn bytes(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }
}

pub(crate) const VERSION: u8 = 1;
const HEADER: usize = 1 + 8 + 4;
const CHECKSUM: usize = 8;

/// The key's offset and partition take part in the checksum, so a block found under another key is refused.
fn seed(partition: PartitionId, first: Offset) -> u64 {
    first.0 ^ (u64::from(partition.0) << 48)
}

/// Bytes that `encode` will need.
pub(crate) fn encoded_len(records: &[&Bytes]) -> usize {
    HEADER
        + CHECKSUM
        + records
            .iter()
            .map(|record| record_len(record))
            .sum::<usize>()
}

/// Bytes of one record in a block, with its length.
pub(crate) fn record_len(record: &Bytes) -> usize {
    varint_len(record.len()) + record.len()
}

/// Writes a block into `out`, whose length is `encoded_len`.
pub(crate) fn encode(
    out: &mut [u8],
    partition: PartitionId,
    first: Offset,
    ingest_time: i64,
    records: &[&Bytes],
) {
    let mut at = HEADER;
    for record in records {
        at += put_varint(&mut out[at..], record.len());
    }
    for record in records {
        out[at..at + record.len()].copy_from_slice(record);
        at += record.len();
    }
    out[0] = VERSION;
    out[1..9].copy_from_slice(&ingest_time.to_le_bytes());
    // The queue holds fewer records than fit into a u32.
    out[9..HEADER].copy_from_slice(&(records.len() as u32).to_le_bytes());
    let checksum = xxh3_64_with_seed(&out[..at], seed(partition, first));
    out[at..].copy_from_slice(&checksum.to_le_bytes());
}

/// A block whose checksum has been verified, still in the page it was read from.
pub(crate) struct Stored<'a> {
    pub(crate) ingest_time: i64,
    pub(crate) count: u32,
    /// Lengths, then payloads.
    body: &'a [u8],
}

/// Verifies the bytes of a block. The error says what does not fit.
pub(crate) fn verify(
    bytes: &[u8],
    partition: PartitionId,
    first: Offset,
) -> Result<Stored<'_>, String> {
    if bytes.len() < HEADER + CHECKSUM {
        return Err(format!("a block of {} bytes is too short", bytes.len()));
    }
    let (content, checksum) = bytes.split_at(bytes.len() - CHECKSUM);
    if xxh3_64_with_seed(content, seed(partition, first)).to_le_bytes() != checksum {
        return Err("the checksum of the block does not match".to_owned());
    }
    if content[0] != VERSION {
        return Err(format!(
            "the block has version {}, this program knows {VERSION}",
            content[0]
        ));
    }
    Ok(Stored {
        ingest_time: i64::from_le_bytes(array(&content[1..9])),
        count: u32::from_le_bytes(array(&content[9..HEADER])),
        body: &content[HEADER..],
    })
}

impl Stored<'_> {
    /// The records after the first `skip` ones, in one allocation.
    pub(crate) fn records(&self, skip: u32) -> Result<Vec<Bytes>, String> {
        let mut lengths = Vec::with_capacity(
            self.count.saturating_sub(skip).min(self.body.len() as u32) as usize,
        );
        let mut rest = self.body;
        let mut skipped = 0usize;
        for index in 0..self.count {
            let length = take_varint(&mut rest).ok_or("the lengths of the block are cut off")?;
            if index < skip {
                skipped = skipped.saturating_add(length);
            } else {
                lengths.push(length);
            }
        }
        let wanted = lengths
            .iter()
            .fold(skipped, |sum, length| sum.saturating_add(*length));
        if wanted != rest.len() {
            return Err(format!(
                "the records of the block have {} bytes, their lengths say {wanted}",
                rest.len()
            ));
        }
        let payload = Bytes::copy_from_slice(&rest[skipped..]);
        let mut at = 0;
        Ok(lengths
            .into_iter()
            .map(|length| {
                let record = payload.slice(at..at + length);
                at += length;
                record
            })
            .collect())
    }
}

/// `slice` as an array; the caller has checked the length.
pub(crate) fn array<const N: usize>(slice: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&slice[..N]);
    out
}

fn varint_len(value: usize) -> usize {
    (usize::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

fn put_varint(out: &mut [u8], mut value: usize) -> usize {
    let mut at = 0;
    while value >= 0x80 {
        out[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    out[at] = value as u8;
    at + 1
}

fn take_varint(rest: &mut &[u8]) -> Option<usize> {
    let mut value = 0usize;
    // Records are at most 64 MiB: four bytes of seven bits say more than that.
    for shift in [0, 7, 14, 21] {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const P: PartitionId = PartitionId(7);
    const FIRST: Offset = Offset(1000);

    fn encoded(records: &[Bytes]) -> Vec<u8> {
        let records: Vec<&Bytes> = records.iter().collect();
        let mut out = vec![0xee; encoded_len(&records)];
        encode(&mut out, P, FIRST, -5, &records);
        out
    }

    fn records(sizes: &[usize]) -> Vec<Bytes> {
        sizes
            .iter()
            .enumerate()
            .map(|(i, size)| Bytes::from(vec![i as u8; *size]))
            .collect()
    }

    #[test]
    fn a_block_reads_back_as_written() {
        for sizes in [
            &[1][..],
            &[0, 0, 0],
            &[127, 128, 16_383, 16_384, 70_000],
            &[0, 5, 2_100_000, 1],
        ] {
            let written = records(sizes);
            let bytes = encoded(&written);
            let block = verify(&bytes, P, FIRST).unwrap();
            assert_eq!((block.ingest_time, block.count as usize), (-5, sizes.len()));
            assert_eq!(block.records(0).unwrap(), written);
            assert_eq!(block.records(1).unwrap(), written[1..]);
            assert_eq!(
                block.records(sizes.len() as u32).unwrap(),
                written[sizes.len()..]
            );
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_format_page() {
        let bytes = encoded(&[Bytes::from_static(b"ab"), Bytes::from_static(b"c")]);
        assert_eq!(
            bytes[..18],
            *b"\x01\xfb\xff\xff\xff\xff\xff\xff\xff\x02\0\0\0\x02\x01abc"
        );
        assert_eq!(bytes.len(), 26);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = encoded(&records(&[3, 0, 200]));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(verify(&damaged, P, FIRST).is_err(), "byte {at} bit {bit}");
            }
            assert!(verify(&bytes[..at], P, FIRST).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_block_under_another_key_is_noticed() {
        let bytes = encoded(&records(&[3]));
        assert!(verify(&bytes, PartitionId(8), FIRST).is_err());
        assert!(verify(&bytes, P, Offset(1001)).is_err());
    }

    /// Gives `content` the checksum of its bytes and decodes it.
    fn decode_signed(mut content: Vec<u8>) -> Result<Block, String> {
        let checksum = xxh3_64_with_seed(&content, seed(P, FIRST));
        content.extend_from_slice(&checksum.to_le_bytes());
        Block::decode(&content, P, FIRST)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// Damage that has a right checksum reaches the lengths and payloads behind it.
        #[test]
        fn no_bytes_panic_and_a_block_never_holds_more_than_was_given(
            bytes in vec(any::<u8>(), 0..200),
            valid in any::<bool>(),
            sizes in vec(prop_oneof![0usize..4, 120usize..140, 16_380usize..16_390], 0..6),
            edits in vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
            count in prop::option::of(any::<u32>()),
            keep in any::<prop::sample::Index>(),
            cut in any::<bool>(),
        ) {
            let _ = Block::decode(&bytes, P, FIRST);
            let mut content = match valid {
                true => {
                    let mut good = encoded(&records(&sizes));
                    good.truncate(good.len() - CHECKSUM);
                    good
                }
                false => bytes,
            };
            for (at, byte) in edits {
                // Most of the edits go where the lengths are.
                let end = content.len().min(HEADER + 24);
                if end > 0 {
                    content[at.index(end)] = byte;
                }
            }
            if let (Some(count), true) = (count, content.len() >= HEADER) {
                content[9..HEADER].copy_from_slice(&count.to_le_bytes());
            }
            if cut && !content.is_empty() {
                content.truncate(keep.index(content.len()));
            }
            let given = content.len();
            if let Ok(block) = decode_signed(content) {
                // Each record took at least one byte for its length.
                prop_assert!(block.records.len() + block.bytes() + HEADER <= given);
            }
        }
    }

    #[test]
    fn records_of_a_block_share_one_allocation() {
        let bytes = encoded(&records(&[10, 20]));
        let read = verify(&bytes, P, FIRST).unwrap().records(0).unwrap();
        assert_eq!(read[0].as_ptr() as usize + 10, read[1].as_ptr() as usize);
    }
}
