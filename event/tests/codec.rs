//! Every value reads back, and bytes from strangers never panic.

// One test says how large a batch came out.
#![allow(clippy::print_stdout)]

use event::batch::{self, BYTES_MAX};
use event::{
    Ack, AgentId, BatchHeader, ClockQuality, ClockState, Columns, Command, DecodeError, DeviceId,
    EventTime, Gap, GapReason, Held, Incarnation, Lineage, MetricName, RecordRef, Sample, Status,
    TimeRange, Value,
};
use proptest::prelude::*;

fn header(count: u32) -> BatchHeader {
    BatchHeader {
        agent: AgentId::new("gw-1").unwrap(),
        incarnation: Incarnation {
            no: 3,
            rand: 0xdead_beef,
        },
        tx_no: 17,
        sent_at: EventTime(1_700_000_000_123_456),
        boottime_us: 99,
        clock: ClockState {
            quality: ClockQuality::Ntp,
            error_ms: 12,
        },
        e_inc: Incarnation { no: 2, rand: 7 },
        first_seq: 41,
        count,
        low_watermark: EventTime(1_700_000_000_000_000),
        quiet_until: None,
        held: Held {
            events: 5,
            bytes: 100,
            oldest: Some(EventTime(1)),
        },
        lineage: vec![Lineage {
            incarnation: Incarnation { no: 1, rand: 1 },
            last_seq: 9,
            held: true,
        }],
        unclean: Some(TimeRange {
            from: EventTime(1),
            to: EventTime(2),
        }),
        gaps: vec![Gap {
            incarnation: Incarnation { no: 1, rand: 1 },
            from: 1,
            to: 2,
            time: TimeRange {
                from: EventTime(-5),
                to: EventTime(5),
            },
            reason: GapReason::Overflow,
        }],
    }
}

fn decode(bytes: &[u8]) -> Result<(BatchHeader, Vec<Sample>), DecodeError> {
    let (header, body) = batch::peek(bytes)?;
    let mut columns = Columns::default();
    body.decode_into(&mut columns)?;
    let samples = (0..columns.len())
        .map(|i| columns.sample(i).unwrap())
        .collect();
    Ok((header, samples))
}

/// Equal to the bit, so that -0.0 is not 0.0.
fn same(a: &[Sample], b: &[Sample]) -> bool {
    let bits = |v: &Value| match v {
        Value::Number(n) => Some(n.to_bits()),
        _ => None,
    };
    a == b
        && a.iter()
            .zip(b)
            .all(|(a, b)| bits(&a.value) == bits(&b.value))
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        (-1_000_000i64..1_000_000, 0u32..11)
            .prop_map(|(n, d)| Value::Number(n as f64 / 10f64.powi(d as i32))),
        any::<f64>()
            .prop_filter("finite", |n| n.is_finite())
            .prop_map(Value::Number),
        prop_oneof![
            Just(0.0),
            Just(-0.0),
            Just(f64::MIN_POSITIVE),
            Just(5e-324),
            Just(f64::MAX),
            Just(9_007_199_254_740_993.0),
            Just(-9_007_199_254_740_991.0)
        ]
        .prop_map(Value::Number),
        any::<bool>().prop_map(Value::Bool),
        "\\PC{0,20}".prop_map(|s| Value::Text(s.into())),
    ]
}

fn sample() -> impl Strategy<Value = Sample> {
    let time = prop_oneof![
        any::<i64>(),
        1_600_000_000i64..1_700_000_000,
        (1_600_000_000i64..1_700_000_000).prop_map(|s| s * 1_000_000),
        (1_600_000_000i64..1_700_000_000).prop_map(|s| s * 1_000),
    ];
    (0..6u8, 0..5u8, time, value()).prop_map(|(d, m, t, value)| Sample {
        device: DeviceId::new(&format!("dev-{d}")).unwrap(),
        metric: MetricName::new(&format!("m{m}")).unwrap(),
        time: EventTime(t),
        value,
    })
}

proptest! {
    #[test]
    fn every_batch_reads_back(samples in prop::collection::vec(sample(), 0..200)) {
        let header = header(samples.len() as u32);
        let bytes = batch::encode(&header, &samples).unwrap();
        let (h, s) = decode(&bytes).unwrap();
        prop_assert_eq!(h, header);
        prop_assert!(same(&s, &samples), "{:?}\n{:?}", s, samples);
    }

    #[test]
    fn a_series_of_one_kind_reads_back(
        values in prop::collection::vec(any::<f64>().prop_filter("finite", |n| n.is_finite()), 1..50),
        digits in 0i32..12,
    ) {
        let power = 10f64.powi(digits);
        let samples: Vec<Sample> = values
            .iter()
            .map(|v| (v % 1e6 * power).round() / power)
            .enumerate()
            .map(|(i, v)| Sample {
                device: DeviceId::new("d").unwrap(),
                metric: MetricName::new("m").unwrap(),
                time: EventTime(i as i64),
                value: Value::Number(v),
            })
            .collect();
        let bytes = batch::encode(&header(samples.len() as u32), &samples).unwrap();
        prop_assert!(same(&decode(&bytes).unwrap().1, &samples));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
        let _ = Ack::decode(&bytes);
        let _ = Command::decode(&bytes);
        let _ = RecordRef::decode(&bytes);
        let _ = Status::parse(&bytes);
    }

    /// With a right checksum the inner decoders see the garbage too.
    #[test]
    fn damaged_batches_with_a_right_checksum_never_panic(
        samples in prop::collection::vec(sample(), 1..40),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        do_cut in any::<bool>(),
    ) {
        let good = batch::encode(&header(samples.len() as u32), &samples).unwrap();
        let mut content = good[..good.len() - 8].to_vec();
        for (at, byte) in damage {
            let at = at.index(content.len());
            content[at] = byte;
        }
        if do_cut {
            content.truncate(cut.index(content.len()));
        }
        let sum = xxhash_rust::xxh3::xxh3_64(&content);
        content.extend_from_slice(&sum.to_le_bytes());
        if let Ok((header, samples)) = decode(&content) {
            prop_assert_eq!(header.count as usize, samples.len());
        }
    }

    #[test]
    fn any_damage_without_a_new_checksum_is_found(
        at in any::<prop::sample::Index>(), flip in 1u8..=255,
    ) {
        let mut bytes = batch::encode(&header(0), &[]).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(decode(&bytes).is_err());
    }
}

#[test]
fn a_small_message_cannot_ask_for_much_memory() {
    // 8 MiB of columns said, a few bytes given.
    let mut content = vec![batch::VERSION];
    content = postcard::to_extend(&header(60_000), content).unwrap();
    content.extend_from_slice(&[0x80, 0x80, 0x80, 0x04]); // varint 8 MiB
    content.extend_from_slice(&[0; 20]);
    let sum = xxhash_rust::xxh3::xxh3_64(&content);
    content.extend_from_slice(&sum.to_le_bytes());
    let error = batch::peek(&content).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("length of the uncompressed columns"),
        "{error}"
    );
}

#[test]
fn limits_and_versions_are_refused_with_a_reason() {
    let bytes = batch::encode(&header(0), &[]).unwrap();
    assert_eq!(batch::peek(&[]).unwrap_err(), DecodeError::Empty);
    let mut other = bytes.clone();
    other[0] = 9;
    assert_eq!(
        batch::peek(&other).unwrap_err(),
        DecodeError::UnknownVersion { found: 9 }
    );
    let big = vec![1; BYTES_MAX + 1];
    assert_eq!(
        batch::peek(&big).unwrap_err().reason().as_str(),
        "too_large"
    );
    let mut bad = bytes;
    let last = bad.len() - 1;
    bad[last] ^= 1;
    assert_eq!(batch::peek(&bad).unwrap_err().reason().as_str(), "checksum");
    assert!(batch::encode(&header(1), &[]).is_err());
}

/// 1,000 events of 10 devices with 8 temperature-like metrics each (one or two decimals, a slow wave and
/// sensor noise of about two tenths), sampled together once a second.
pub fn gateway_samples(events: usize) -> Vec<Sample> {
    let mut noise = 0x2545_f491_4f6c_dd1du64;
    let mut random = move || {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        (noise >> 40) as f64 / (1u64 << 24) as f64 - 0.5
    };
    (0..events)
        .map(|i| {
            let (tick, series) = (i / 80, i % 80);
            let (device, metric) = (series / 8, series % 8);
            let wave = 20.0 + series as f64 * 0.7 + (tick as f64 / 50.0).sin();
            let power = if metric % 2 == 0 { 10.0 } else { 100.0 };
            Sample {
                device: DeviceId::new(&format!("sensor-{device:04}")).unwrap(),
                metric: MetricName::new(&format!("temperature_{metric}")).unwrap(),
                time: EventTime(1_700_000_000_000_000 + tick as i64 * 1_000_000),
                value: Value::Number(((wave + random() * 0.4) * power).round() / power),
            }
        })
        .collect()
}

/// The same with all the digits that a double has: what a computation yields, not a sensor.
fn full_precision_samples(events: usize) -> Vec<Sample> {
    let mut samples = gateway_samples(events);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for sample in &mut samples {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if let Value::Number(x) = &mut sample.value {
            *x *= 1.0 + (state >> 11) as f64 / (1u64 << 53) as f64 / 100.0;
        }
    }
    samples
}

#[test]
fn a_thousand_numbers_of_full_precision_take_at_most_nine_bytes_each() {
    let samples = full_precision_samples(1000);
    let bytes = batch::encode(&header(1000), &samples).unwrap();
    assert!(bytes.len() <= 9000, "{} bytes", bytes.len());
    // Nothing was rounded away.
    let (_, read) = decode(&bytes).unwrap();
    assert_eq!(read, samples);
    println!("{} bytes for 1,000 events of full precision", bytes.len());
}

#[test]
fn a_thousand_temperatures_take_at_most_three_bytes_each() {
    let samples = gateway_samples(1000);
    let bytes = batch::encode(&header(1000), &samples).unwrap();
    assert!(bytes.len() <= 3000, "{} bytes", bytes.len());
    println!("{} bytes for 1,000 events", bytes.len());
}
