//! JSON of plain devices.
#![no_main]

use event::{DeviceId, Record, RecordRef};
use ingest::admission::plain::admit;
use ingest::settings::AdmissionSettings;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let device = DeviceId::new("d").expect("a valid id");
    let limits = AdmissionSettings::default();
    if let Ok(message) = admit(&device, data, &limits) {
        let fields: usize = message.refused.iter().map(|r| r.count as usize).sum();
        assert!(message.plain.samples.len() + fields <= 2 * limits.plain_fields_max);
        assert!(!message.plain.samples.is_empty());
        // What is admitted can be read from the log.
        let record = Record::Plain(message.plain);
        assert_eq!(
            RecordRef::decode(&record.encode()),
            Ok(RecordRef::Other(record))
        );
    }
});
