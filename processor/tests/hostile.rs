//! Snapshots that are damaged or made of noise: refused, or a state that can be gone on from. Never a panic.

mod support;

use event::{
    AggregateSpec, BatchHeader, DeviceId, Function, Lineage, MetricName, Plain, PlainSample,
    Record, RecordRef, Value, batch,
};
use processor::core::{Effects, Partition, RestoreError};
use proptest::prelude::*;
use proptest::sample::Index;
use support::{Bench, INC, S, T0, batch_record, sample, temperature};

/// A state with something of everything that a snapshot can hold.
fn rich() -> Vec<u8> {
    let mut all: Vec<AggregateSpec> = AggregateSpec::defaults();
    all.push(AggregateSpec {
        name: "hop".to_owned(),
        window: 60 * S,
        hop: 20 * S,
        group_by: vec!["site".to_owned()],
        functions: Function::ALL.iter().copied().collect(),
        ..all[0].clone()
    });
    let rule = r#"{"name":"hot","metric":"temperature","raise":30,"clear":25}"#;
    let mut b = Bench::with(all, &[rule]);
    let mut now = T0;
    let mut seqs = [1u64; 3];
    for i in 0..40u64 {
        now += 3 * S;
        let g = (i % 3) as usize;
        let mut samples = Vec::new();
        for d in 0..5 {
            let id = format!("{g}-{d}");
            let t = now - (i as i64 * d) % 70 * S;
            samples.push(temperature(&id, t, (i * 7 % 40) as f64));
            let state = Value::Text(format!("v{}", i % 4).into());
            samples.push(sample(&id, "state", t, state));
            if i % 5 == d as u64 {
                let site = Value::Text(format!("s{}", i % 3).into());
                samples.push(sample(&id, "@site", t, site));
            }
        }
        // A device that moves between gateways, and a clock that was never set.
        samples.push(sample("wanders", "door", now, Value::Bool(i % 2 == 0)));
        if i % 9 == 0 {
            samples.push(temperature("lost", 5, 1.0));
        }
        let gateway = format!("gw-{g}");
        let batch = batch_record(&gateway, i + 1, seqs[g], &samples, now);
        seqs[g] += samples.len() as u64 + i % 2;
        b.at(now, &[batch]);
        if i == 20 {
            b.restart();
            let gone = DeviceId::new("1-2").unwrap();
            b.at(now + S, &[Record::Decommission(gone).encode()]);
        }
    }
    // A life that ended, and what came from beyond its end.
    let closed = closed_life(&mut b, now + S);
    b.at(now + 3 * S, &[closed]);
    let plain = Plain {
        device: DeviceId::new("plain").unwrap(),
        samples: vec![PlainSample {
            metric: MetricName::new("power").unwrap(),
            time: None,
            value: Value::Number(1.0),
        }],
    };
    b.at(now + 4 * S, &[Record::Plain(plain).encode()]);
    assert!(b.p.at_rest());
    assert!(b.p.totals().quarantined > 3);
    b.save()
}

fn closed_life(b: &mut Bench, now: i64) -> Vec<u8> {
    let beyond = batch_record("old", 2, 3, &[temperature("o", now, 1.0)], now);
    b.at(
        now,
        &[batch_record(
            "old",
            1,
            1,
            &[temperature("o", now, 1.0)],
            now,
        )],
    );
    let word = batch_record("old", 1, 1, &[], now);
    let Ok(RecordRef::Batch(raw)) = RecordRef::decode(&word) else {
        unreachable!("it is a batch");
    };
    let (header, _) = batch::peek(raw).unwrap();
    let next = event::Incarnation { no: 2, rand: 5 };
    let header = BatchHeader {
        incarnation: next,
        e_inc: next,
        lineage: vec![Lineage {
            incarnation: INC,
            last_seq: 1,
            held: false,
        }],
        ..header
    };
    let record = Record::Batch(batch::encode(&header, &[]).unwrap()).encode();
    b.at(now + S, &[record]);
    beyond
}

#[derive(Debug, Clone)]
enum Damage {
    Set(Index, u8),
    Flip(Index, u8),
    /// A whole number, eight bytes.
    Number(Index, u64),
    Cut(Index),
    Drop(Index, u8),
    Copy(Index, Index, u8),
}

fn damage() -> impl Strategy<Value = Damage> {
    let number = prop_oneof![
        0u64..5,
        any::<u64>(),
        Just(u64::MAX),
        Just(i64::MAX as u64),
        Just(i64::MIN as u64),
        Just(u64::from(u32::MAX)),
    ];
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, b)| Damage::Set(at, b)),
        4 => (any::<Index>(), 0u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        4 => (any::<Index>(), number).prop_map(|(at, n)| Damage::Number(at, n)),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => (any::<Index>(), 1u8..16).prop_map(|(at, n)| Damage::Drop(at, n)),
        1 => (any::<Index>(), any::<Index>(), 1u8..32).prop_map(|(a, b, n)| Damage::Copy(a, b, n)),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    if bytes.is_empty() {
        return;
    }
    let len = bytes.len();
    match damage {
        Damage::Set(at, b) => bytes[at.index(len)] = *b,
        Damage::Flip(at, bit) => bytes[at.index(len)] ^= 1 << bit,
        Damage::Number(at, n) => {
            let at = at.index(len);
            let end = (at + 8).min(len);
            bytes[at..end].copy_from_slice(&n.to_le_bytes()[..end - at]);
        }
        Damage::Cut(at) => bytes.truncate(at.index(len)),
        Damage::Drop(at, n) => {
            let at = at.index(len);
            bytes.drain(at..(at + usize::from(*n)).min(len));
        }
        Damage::Copy(from, to, n) => {
            let from = from.index(len);
            let piece = bytes[from..(from + usize::from(*n)).min(len)].to_vec();
            let at = to.index(len);
            bytes.splice(at..at, piece);
        }
    }
}

/// If it is taken, it can be gone on from.
fn go_on(bytes: &[u8]) {
    let mut p = match Partition::restore(bytes) {
        Ok(p) => p,
        Err(error) => {
            let what = matches!(
                error,
                RestoreError::Damaged { .. } | RestoreError::Version { .. }
            );
            assert!(what && !error.to_string().is_empty());
            return;
        }
    };
    let again = p.snapshot();
    let back = Partition::restore(&again).expect("what was written is read");
    assert_eq!(back.snapshot(), again);
    let mut fx = Effects::default();
    p.publish(&mut fx);
    let now = p.now().max(T0) + 2 * S;
    for i in 0..3 {
        let now = now + i * 400 * S;
        let samples = [
            temperature("0-0", now, 99.0),
            temperature("1-1", T0 + S, 1.0),
            sample("0-1", "state", now, Value::Text("new".into())),
            sample("0-2", "@site", now, Value::Text("new".into())),
            temperature("wanders", now, 1.0),
        ];
        let first = 10_000 + 5 * i as u64;
        let batch = batch_record("gw-0", 1000 + i as u64, first, &samples, now);
        let gone = Record::Decommission(DeviceId::new("0-3").unwrap()).encode();
        p.step(p.offset(), now, &[batch, gone], &mut fx);
    }
    let _ = (p.state_hash(), p.sizes(), p.memory());
}

#[test]
fn a_whole_snapshot_is_taken_and_every_cut_of_it_refused() {
    let bytes = rich();
    go_on(&bytes);
    assert!(Partition::restore(&bytes).is_ok());
    for cut in 0..bytes.len() {
        assert!(Partition::restore(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 8_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_damaged_snapshot_is_refused_or_can_be_gone_on_from(
        damages in prop::collection::vec(damage(), 1..4)
    ) {
        thread_local!(static WHOLE: Vec<u8> = rich());
        let mut bytes = WHOLE.with(Clone::clone);
        for damage in &damages {
            apply(&mut bytes, damage);
        }
        go_on(&bytes);
    }

    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let version = rich_version();
        let mut bytes = vec![version];
        bytes.extend(noise);
        go_on(&bytes);
    }
}

/// The version that is written.
fn rich_version() -> u8 {
    Partition::new(0).snapshot()[0]
}
