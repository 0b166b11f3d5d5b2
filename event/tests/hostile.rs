//! Bytes from strangers: arbitrary ones, and valid ones that were changed. A decoder never panics, and
//! what it gives back is no larger than what the bytes can say. `fuzz/` drives the same decoders.

use event::batch::{self, COLUMNS_BYTES_MAX};
use event::{
    Ack, AgentId, AggregateSpec, BatchHeader, Body, ClockState, Columns, Command, Declaration,
    DeviceChange, DeviceId, EventTime, Gap, GapReason, Held, Incarnation, IngestTime, Lineage,
    MetricName, Plain, PlainSample, Record, RecordRef, RefusalReason, Refused, RefusedRange,
    Release, Retention, Sample, SeqRange, Status, StatusRecord, TimeRange, Value,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

const INCARNATION: Incarnation = Incarnation { no: 3, rand: 77 };

/// One change of a message.
#[derive(Debug, Clone)]
enum Edit {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
    Cut(Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, b)| Edit::Set(at, b)),
        // Lengths that are too large by far.
        1 => any::<Index>().prop_map(|at| Edit::Insert(at, vec![0xff; 9])),
        2 => (any::<Index>(), vec(any::<u8>(), 1..6)).prop_map(|(at, b)| Edit::Insert(at, b)),
        1 => (any::<Index>(), 1usize..6).prop_map(|(at, n)| Edit::Remove(at, n)),
        1 => (any::<Index>(), 1usize..20).prop_map(|(at, n)| Edit::Repeat(at, n)),
        1 => any::<Index>().prop_map(Edit::Cut),
    ]
}

fn changed(mut bytes: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        if bytes.is_empty() {
            break;
        }
        let len = bytes.len();
        match edit {
            Edit::Set(at, b) => bytes[at.index(len)] = *b,
            Edit::Insert(at, new) => {
                let at = at.index(len);
                bytes.splice(at..at, new.iter().copied());
            }
            Edit::Remove(at, n) => {
                let at = at.index(len);
                bytes.drain(at..len.min(at + n));
            }
            Edit::Repeat(at, n) => {
                let at = at.index(len);
                let part = bytes[at..len.min(at + n)].to_vec();
                bytes.splice(at..at, part);
            }
            Edit::Cut(at) => bytes.truncate(at.index(len)),
        }
    }
    bytes
}

fn metric(name: &str) -> MetricName {
    MetricName::new(name).unwrap()
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        (-1000i32..1000).prop_map(|n| Value::Number(f64::from(n) / 10.0)),
        any::<f64>()
            .prop_filter("finite", |n| n.is_finite())
            .prop_map(Value::Number),
        any::<bool>().prop_map(Value::Bool),
        "\\PC{0,8}".prop_map(|s| Value::Text(s.into())),
    ]
}

fn sample() -> impl Strategy<Value = Sample> {
    (0..4u8, 0..3u8, any::<i64>(), value()).prop_map(|(d, m, t, value)| Sample {
        device: DeviceId::new(&format!("d{d}")).unwrap(),
        metric: metric(&format!("m{m}")),
        time: EventTime(t),
        value,
    })
}

fn batch_bytes(samples: &[Sample]) -> Vec<u8> {
    let time = TimeRange {
        from: EventTime(-5),
        to: EventTime(5),
    };
    let header = BatchHeader {
        agent: AgentId::new("gw-1").unwrap(),
        incarnation: INCARNATION,
        tx_no: 17,
        sent_at: EventTime(1_700_000_000_123_456),
        boottime_us: 99,
        clock: ClockState::default(),
        e_inc: INCARNATION,
        first_seq: 41,
        count: samples.len() as u32,
        low_watermark: EventTime(1_700_000_000_000_000),
        quiet_until: Some(EventTime(1)),
        held: Held::default(),
        lineage: vec![Lineage {
            incarnation: INCARNATION,
            last_seq: 9,
            held: true,
        }],
        unclean: Some(time),
        gaps: vec![Gap {
            incarnation: INCARNATION,
            from: 1,
            to: 2,
            time,
            reason: GapReason::Overflow,
        }],
    };
    batch::encode(&header, samples).unwrap()
}

/// Every kind of record that is not a batch.
fn record() -> impl Strategy<Value = Record> {
    let device = || DeviceId::new("d-1").unwrap();
    let spec = || AggregateSpec::defaults().remove(1);
    let samples = vec((value(), prop::option::of(any::<i64>())), 0..5);
    let plain = samples.prop_map(move |samples| {
        let samples = samples.into_iter().map(|(value, time)| PlainSample {
            metric: metric("temperature"),
            time: time.map(EventTime),
            value,
        });
        Record::Plain(Plain {
            device: device(),
            samples: samples.collect(),
        })
    });
    let change = vec(prop::option::of("\\PC{0,9}"), 1..4).prop_map(move |texts| {
        let named = |(i, text)| (metric(&format!("@a{i}")), text);
        Record::SetDevice(DeviceChange {
            device: device(),
            attributes: texts.into_iter().enumerate().map(named).collect(),
        })
    });
    let release = (any::<u64>(), any::<i64>(), vec(any::<u8>(), 0..40))
        .prop_filter("no release in a release", |r| r.2.first() != Some(&15))
        .prop_map(|(id, shift, record)| Record::Release(Release { id, shift, record }));
    prop_oneof![
        3 => plain,
        2 => change,
        2 => release,
        1 => Just(Record::Refused(Refused {
            source: "c".to_owned(),
            agent: Some(AgentId::new("gw-1").unwrap()),
            reason: RefusalReason::TooLarge,
            message: "m".to_owned(),
            count: 1,
            bytes: 9,
        })),
        1 => Just(Record::Status(StatusRecord {
            agent: AgentId::new("gw-1").unwrap(),
            status: Status {
                online: true,
                incarnation: INCARNATION.to_string(),
                version: "0".to_owned(),
                backlog: 5,
            },
        })),
        1 => Just(Record::Tick),
        1 => any::<(i64, i64)>().prop_map(|(from, to)| Record::AvailabilityGap {
            from: IngestTime(from),
            to: IngestTime(to),
        }),
        1 => Just(Record::Declare(Declaration {
            aggregates: AggregateSpec::defaults(),
            rules: vec!["{}".to_owned()],
        })),
        1 => any::<(i64, i64)>().prop_map(move |(window, hop)| {
            Record::SetAggregate(AggregateSpec { window, hop, ..spec() })
        }),
        1 => ".{0,20}".prop_map(Record::RemoveAggregate),
        1 => ".{0,20}".prop_map(Record::SetRule),
        1 => ".{0,20}".prop_map(Record::RemoveRule),
        1 => Just(Record::Decommission(device())),
        1 => Just(Record::Retain(Retention::default())),
    ]
}

/// Decodes what may be a batch and checks what came out.
fn check_batch(bytes: &[u8]) {
    let Ok((header, body)) = batch::peek(bytes) else {
        return;
    };
    assert!(header.count as usize <= batch::EVENTS_MAX);
    assert!(header.lineage.len().max(header.gaps.len()) <= batch::LINEAGE_MAX);
    check_columns(&header, &body);
}

fn check_columns(header: &BatchHeader, body: &Body<'_>) {
    let mut columns = Columns::default();
    if body.decode_into(&mut columns).is_err() {
        assert_eq!(columns.len(), 0, "what is left of a failure");
        return;
    }
    assert_eq!(columns.len(), header.count as usize);
    assert_eq!(columns.times.len(), columns.values.len());
    let names = [&columns.devices, &columns.metrics, &columns.texts];
    let text: usize = names.iter().flat_map(|n| n.iter()).map(str::len).sum();
    assert!(text <= COLUMNS_BYTES_MAX);
    let samples: Vec<Sample> = (0..columns.len())
        .map(|i| columns.sample(i).unwrap())
        .collect();
    // What decodes is fit to be sent again, and then is the same.
    let again = batch::encode(header, &samples).unwrap();
    let (_, body) = batch::peek(&again).unwrap();
    body.decode_into(&mut columns).unwrap();
    assert!((0..columns.len()).all(|i| columns.sample(i).unwrap() == samples[i]));
}

/// Decodes what may be a record and checks what came out.
fn check_record(bytes: &[u8]) {
    let Ok(RecordRef::Other(record)) = RecordRef::decode(bytes) else {
        return;
    };
    let again = record.encode();
    // Nothing can be in it that was not in the bytes; the old declaration gets its hops.
    if bytes[0] != 7 {
        assert!(again.len() <= bytes.len(), "{record:?} from {bytes:?}");
    }
    assert_eq!(RecordRef::decode(&again), Ok(RecordRef::Other(record)));
}

fn check_messages(bytes: &[u8]) {
    if let Ok(ack) = Ack::decode(bytes) {
        assert!(ack.encode().len() <= bytes.len());
        assert_eq!(Ack::decode(&ack.encode()), Ok(ack));
    }
    if let Ok(command) = Command::decode(bytes) {
        assert_eq!(Command::decode(&command.encode()), Ok(command));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn arbitrary_bytes(mut bytes in vec(any::<u8>(), 1..300), tag in 0u8..20) {
        check_batch(&bytes);
        check_messages(&bytes);
        check_record(&bytes);
        let _ = Status::parse(&bytes);
        bytes[0] = tag;
        check_record(&bytes);
        // Version 1, so that the bodies are reached.
        bytes[0] = 1;
        check_messages(&bytes);
        let sum = xxhash_rust::xxh3::xxh3_64(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        check_batch(&bytes);
    }

    #[test]
    fn changed_batches(samples in vec(sample(), 0..20), edits in vec(edit(), 1..5)) {
        let mut content = batch_bytes(&samples);
        content.truncate(content.len() - 8);
        let mut content = changed(content, &edits);
        let sum = xxhash_rust::xxh3::xxh3_64(&content);
        content.extend_from_slice(&sum.to_le_bytes());
        check_batch(&content);
    }

    #[test]
    fn changed_records(record in record(), edits in vec(edit(), 0..4)) {
        let bytes = record.encode();
        prop_assert_eq!(RecordRef::decode(&bytes), Ok(RecordRef::Other(record)));
        check_record(&changed(bytes, &edits));
    }

    #[test]
    fn changed_acks(
        ranges in vec(any::<(u64, u64)>(), 0..5),
        message in "\\PC{0,20}",
        edits in vec(edit(), 0..4),
    ) {
        let range = |(first, last)| SeqRange { incarnation: INCARNATION, first, last };
        let ack = Ack {
            incarnation: INCARNATION,
            tx_no: 1,
            refused: vec![RefusedRange {
                range: range((1, 2)),
                reason: RefusalReason::Malformed,
                message,
            }],
            ranges: ranges.into_iter().map(range).collect(),
            ..Ack::default()
        };
        let bytes = ack.encode();
        prop_assert_eq!(Ack::decode(&bytes), Ok(ack));
        check_messages(&changed(bytes, &edits));
    }
}
