//! Batches as agents send them. The checksum is set right, so that what lies behind it is reached.
#![no_main]

use event::{Columns, Sample, batch};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = batch::peek(data);
    let mut content = data.to_vec();
    let sum = xxhash_rust::xxh3::xxh3_64(&content);
    content.extend_from_slice(&sum.to_le_bytes());
    let Ok((header, body)) = batch::peek(&content) else {
        return;
    };
    let mut columns = Columns::default();
    if body.decode_into(&mut columns).is_err() {
        assert_eq!(columns.len(), 0);
        return;
    }
    let samples = |columns: &Columns| -> Vec<Sample> {
        let all = (0..columns.len()).map(|i| columns.sample(i).expect("a checked name"));
        all.collect()
    };
    let read = samples(&columns);
    assert_eq!(read.len(), header.count as usize);
    // What decodes reads the same when it is sent again, unless that would be over a limit.
    if let Ok(again) = batch::encode(&header, &read) {
        let (_, body) = batch::peek(&again).expect("our own header");
        body.decode_into(&mut columns).expect("our own columns");
        assert_eq!(samples(&columns), read);
    }
});
