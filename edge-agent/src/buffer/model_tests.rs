//! The buffer against a model in memory: random appends, acks, partial acks, overflows, reopenings.

use std::collections::{BTreeMap, BTreeSet};

use event::{AgentId, DeviceId, EventTime, Incarnation, MetricName, Sample, SeqRange, Value};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

struct Model {
    /// Everything accepted: number to event.
    accepted: BTreeMap<(Incarnation, u64), Sample>,
    acked: BTreeSet<(Incarnation, u64)>,
    cursor: Option<Vec<u8>>,
}

impl Model {
    fn held<'a>(
        &'a self,
        buffer: &'a Buffer,
    ) -> impl Iterator<Item = (&'a (Incarnation, u64), &'a Sample)> {
        let lost = lost(buffer);
        self.accepted
            .iter()
            .filter(move |(k, _)| !self.acked.contains(k) && !lost.contains(k))
    }
}

/// Every number in a declared gap.
fn lost(buffer: &Buffer) -> BTreeSet<(Incarnation, u64)> {
    let gaps = buffer.announcement(usize::MAX).gaps;
    gaps.iter()
        .flat_map(|g| (g.from..=g.to).map(|n| (g.incarnation, n)))
        .collect()
}

fn sample(rng: &mut StdRng, n: u64) -> Sample {
    Sample {
        device: DeviceId::new(&format!("d{}", rng.random_range(0..4))).unwrap(),
        metric: MetricName::new(["t", "h", "door"][rng.random_range(0..3)]).unwrap(),
        time: EventTime::from_secs(1_700_000_000 + n as i64 + rng.random_range(-50..50)),
        value: match rng.random_range(0..10) {
            0 => Value::Bool(rng.random()),
            1 => Value::Text(format!("text {}", rng.random_range(0..5)).as_str().into()),
            2 => Value::Number(rng.random()),
            _ => Value::Number(f64::from(rng.random_range(0..400)) / 10.0),
        },
    }
}

fn check(buffer: &mut Buffer, model: &Model, seed: u64) {
    let held: Vec<((Incarnation, u64), Sample)> =
        model.held(buffer).map(|(k, s)| (*k, s.clone())).collect();
    // Everything held, read run by run, is exactly what the model holds.
    let mut taken: Vec<SeqRange> = Vec::new();
    let mut read = Vec::new();
    while let Some(range) = buffer.next_before(buffer.end(), &taken, 70) {
        let (got, samples) = buffer.take(range).unwrap().unwrap_or_else(|| {
            panic!("seed {seed}: {range:?} is offered but not held");
        });
        assert_eq!(got, range, "seed {seed}");
        read.extend(
            (got.first..=got.last)
                .map(|n| (got.incarnation, n))
                .zip(samples),
        );
        taken.push(got);
    }
    assert_eq!(read, held, "seed {seed}");
    let summary = buffer.held();
    assert_eq!(summary.events, held.len() as u64, "seed {seed}");
    let oldest = held.iter().map(|(_, s)| s.time).min();
    assert_eq!(summary.oldest, oldest, "seed {seed}");
    // The low watermark without each of some ranges.
    for range in taken.iter().take(3) {
        let rest = held
            .iter()
            .filter(|((inc, n), _)| {
                *inc != range.incarnation || *n < range.first || *n > range.last
            })
            .map(|(_, s)| s.time)
            .min();
        assert_eq!(buffer.earliest(Some(*range)).unwrap(), rest, "seed {seed}");
    }
    assert_eq!(buffer.cursor("f").unwrap(), model.cursor, "seed {seed}");
    // Lineage tells the truth about what is held, once the file has followed.
    if !buffer.is_dirty() {
        for entry in buffer.announcement(usize::MAX).lineage {
            let held = held.iter().any(|((inc, _), _)| *inc == entry.incarnation);
            assert_eq!(entry.held, held, "seed {seed}");
            let last = model
                .accepted
                .range(..=(entry.incarnation, u64::MAX))
                .next_back();
            let last = last.filter(|((inc, _), _)| *inc == entry.incarnation);
            assert_eq!(
                entry.last_seq,
                last.map_or(0, |((_, n), _)| *n),
                "seed {seed}"
            );
        }
    }
}

fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let agent = AgentId::new("gw").unwrap();
    let settings = Settings {
        bytes_max: if rng.random_bool(0.5) { 1 << 30 } else { 3000 },
        // What is summed up has a test of its own (`overflow`).
        overflow: Overflow::DropOldest,
        chunk_events_max: rng.random_range(1..40),
        chunk_bytes: rng.random_range(50..500),
        ..Settings::default()
    };
    let now = |n: u64| EventTime::from_secs(1_700_000_000 + n as i64);
    let reopen = |rand: u64, n: u64| open(dir.path(), &agent, &settings, rand, now(n)).unwrap();
    let mut buffer = reopen(1, 0).buffer;
    let mut model = Model {
        accepted: BTreeMap::new(),
        acked: BTreeSet::new(),
        cursor: None,
    };
    let mut told_gaps: BTreeSet<(Incarnation, u64)> = BTreeSet::new();
    for step in 0..150u64 {
        match rng.random_range(0..10) {
            0..=4 => {
                let samples: Vec<Sample> = (0..rng.random_range(0..60))
                    .map(|i| sample(&mut rng, step * 60 + i))
                    .collect();
                let cursors: Vec<Cursor> = rng
                    .random_bool(0.3)
                    .then(|| Cursor {
                        source: "f".to_owned(),
                        position: vec![step as u8],
                    })
                    .into_iter()
                    .collect();
                let expected = buffer.next_seq();
                let range = buffer.append(&samples, &cursors, true, now(step)).unwrap();
                assert_eq!(
                    range.map(|r| r.first),
                    (!samples.is_empty()).then_some(expected)
                );
                for (n, s) in (expected..).zip(samples) {
                    model.accepted.insert((buffer.incarnation(), n), s);
                }
                if let Some(c) = cursors.into_iter().next() {
                    model.cursor = Some(c.position);
                }
            }
            5..=7 => {
                // Acks of anything: whole runs, pieces, the past, the unknown.
                let inc = match model.accepted.keys().nth(rng.random_range(0..200)) {
                    Some((inc, _)) => *inc,
                    None => Incarnation { no: 9, rand: 9 },
                };
                let first = rng.random_range(1..200u64);
                let range = SeqRange {
                    incarnation: inc,
                    first,
                    last: first + rng.random_range(0..80),
                };
                let lost = lost(&buffer);
                let mut expected = 0;
                for n in range.first..=range.last {
                    let key = (inc, n);
                    let known = model.accepted.contains_key(&key);
                    if known && !lost.contains(&key) && !told_gaps.contains(&key) {
                        expected += u64::from(model.acked.insert(key));
                    }
                }
                assert_eq!(buffer.ack(&[range]).unwrap(), expected, "seed {seed}");
            }
            8 => {
                // The cloud has heard everything: gaps and ended lives are forgotten.
                buffer.flush(now(step)).unwrap();
                let said = buffer.announcement(usize::MAX);
                for n in lost(&buffer) {
                    told_gaps.insert(n);
                    model.acked.insert(n);
                }
                buffer.told(&said);
                assert!(buffer.announcement(usize::MAX).is_empty(), "seed {seed}");
            }
            _ => {
                // An end in order, or none. What acks changed may be forgotten with the process: the
                // events are held again then, and sent again.
                let orderly = rng.random_bool(0.5);
                if orderly {
                    buffer.close(now(step)).unwrap();
                } else {
                    buffer.flush(now(step)).unwrap();
                    drop(buffer);
                }
                buffer = reopen(step + 2, step).buffer;
            }
        }
        if step % 5 == 0 {
            check(&mut buffer, &model, seed);
        }
    }
    check(&mut buffer, &model, seed);
}

#[test]
fn the_buffer_does_what_the_model_does() {
    for seed in 0..16 {
        run(seed);
    }
}

#[test]
fn acks_that_were_not_committed_only_bring_events_back() {
    let dir = tempfile::tempdir().unwrap();
    let agent = AgentId::new("gw").unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    let now = EventTime::from_secs(1_700_000_000);
    let mut buffer = open(dir.path(), &agent, &Settings::default(), 1, now)
        .unwrap()
        .buffer;
    let samples: Vec<Sample> = (0..100).map(|i| sample(&mut rng, i)).collect();
    let range = buffer.append(&samples, &[], true, now).unwrap().unwrap();
    assert_eq!(buffer.ack(&[range]).unwrap(), 100);
    assert!(buffer.is_dirty() && buffer.held().events == 0);
    drop(buffer);
    let mut buffer = open(dir.path(), &agent, &Settings::default(), 2, now)
        .unwrap()
        .buffer;
    assert_eq!(buffer.take(range).unwrap(), Some((range, samples)));
    // This time to the end; the ended life is told as no longer held only when it is on disk.
    buffer.ack(&[range]).unwrap();
    assert!(buffer.announcement(9).lineage[0].held);
    buffer.flush(now).unwrap();
    assert!(!buffer.announcement(9).lineage[0].held);
}

#[test]
fn overflow_drops_the_oldest_and_says_so_in_one_growing_gap() {
    let dir = tempfile::tempdir().unwrap();
    let agent = AgentId::new("gw").unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    let now = EventTime::from_secs(1_700_000_000);
    let settings = Settings {
        bytes_max: 4000,
        chunk_events_max: 20,
        ..Settings::default()
    };
    let mut buffer = open(dir.path(), &agent, &settings, 1, now).unwrap().buffer;
    for i in 0..50 {
        let samples: Vec<Sample> = (0..20).map(|j| sample(&mut rng, i * 20 + j)).collect();
        buffer.append(&samples, &[], true, now).unwrap();
        assert!(buffer.held().bytes <= 4000);
    }
    let said = buffer.announcement(9);
    assert_eq!(said.gaps.len(), 1);
    let gap = said.gaps[0];
    assert_eq!(gap.from, 1);
    assert_eq!(gap.to, buffer.dropped());
    assert_eq!(buffer.held().events + buffer.dropped(), 1000);
    assert_eq!(
        buffer.next_before(buffer.end(), &[], 1).unwrap().first,
        gap.to + 1
    );
    // Told while it grew: only the rest remains.
    let samples: Vec<Sample> = (0..200).map(|j| sample(&mut rng, 5000 + j)).collect();
    buffer.append(&samples, &[], true, now).unwrap();
    buffer.told(&said);
    let rest = buffer.announcement(9).gaps[0];
    assert_eq!((rest.from, rest.to), (gap.to + 1, buffer.dropped()));
}
