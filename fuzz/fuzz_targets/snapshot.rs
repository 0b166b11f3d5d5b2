//! Snapshots of the processor's state.
#![no_main]

use libfuzzer_sys::fuzz_target;
use processor::core::Partition;

fuzz_target!(|data: &[u8]| {
    let _ = Partition::restore(data);
});
