//! Blocks of the log, with a checksum that is right.
#![no_main]

use eventlog::{Block, Offset, PartitionId};
use libfuzzer_sys::fuzz_target;
use xxhash_rust::xxh3::xxh3_64_with_seed;

fuzz_target!(|data: &[u8]| {
    let (partition, first) = (PartitionId(7), Offset(1000));
    let _ = Block::decode(data, partition, first);
    let mut bytes = data.to_vec();
    // The seed of eventlog/FORMAT.md.
    let seed = first.0 ^ (u64::from(partition.0) << 48);
    bytes.extend_from_slice(&xxh3_64_with_seed(data, seed).to_le_bytes());
    if let Ok(block) = Block::decode(&bytes, partition, first) {
        // Each record took at least one byte for its length.
        assert!(block.records.len() + block.bytes() <= data.len());
    }
});
