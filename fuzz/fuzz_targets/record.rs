//! Records as they are read from the log.
#![no_main]

use event::RecordRef;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(RecordRef::Other(record)) = RecordRef::decode(data) {
        let again = record.encode();
        // Nothing is in it that was not in the bytes; the old declaration (tag 7) gets its hops.
        assert!(again.len() <= data.len() || data[0] == 7);
        assert_eq!(RecordRef::decode(&again), Ok(RecordRef::Other(record)));
    }
});
