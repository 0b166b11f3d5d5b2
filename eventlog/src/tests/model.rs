//! Random use against vectors in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::disk::Disk;
use super::{PARTITIONS, open, record};
use crate::{Checkpoint, Error, Log, Offset, PartitionId};

#[derive(Debug, Clone)]
enum Step {
    Append {
        p: u16,
        sizes: Vec<usize>,
    },
    /// Fractions of the partition's length, in 1/16.
    Read {
        p: u16,
        from: u64,
        max_bytes: usize,
    },
    Trim {
        p: u16,
        before: u64,
    },
    Commit {
        p: u16,
        offset: u64,
        stale: bool,
        rows: Vec<(u8, Option<u8>)>,
        outbox: Vec<u8>,
        snapshot: usize,
        forget: Vec<(u8, u8)>,
    },
    /// Rows of the outbox that are put or go.
    Apply {
        rows: Vec<(u8, Option<u8>)>,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let p = 0..PARTITIONS;
    let size = prop_oneof![Just(0usize), 1usize..50, 1000usize..5000, Just(70_000)];
    prop_oneof![
        6 => (p.clone(), prop::collection::vec(size, 1..6)).prop_map(|(p, sizes)| Step::Append { p, sizes }),
        4 => (p.clone(), 0..=17u64, 0..10_000usize)
            .prop_map(|(p, from, max_bytes)| Step::Read { p, from, max_bytes }),
        2 => (p.clone(), 0..=16u64).prop_map(|(p, before)| Step::Trim { p, before }),
        3 => (
            p,
            8..=17u64,
            prop::bool::weighted(0.2),
            prop::collection::vec((0..20u8, prop::option::of(any::<u8>())), 0..6),
            prop::collection::vec(0..10u8, 0..3),
            prop_oneof![0usize..100, Just(1_100_000)],
            prop::collection::vec((0..20u8, 0..20u8), 0..3),
        )
            .prop_map(|(p, offset, stale, rows, outbox, snapshot, forget)| {
                Step::Commit { p, offset, stale, rows, outbox, snapshot, forget }
            }),
        1 => prop::collection::vec((0..10u8, prop::option::of(any::<u8>())), 0..4)
            .prop_map(|rows| Step::Apply { rows }),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Debug, Default)]
struct Partition {
    records: Vec<Bytes>,
    /// First offsets of the appends: where blocks may begin.
    starts: Vec<u64>,
    first: u64,
    checkpoint: Option<(u64, Vec<u8>)>,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Partition {
    fn at(&self, sixteenths: u64) -> u64 {
        self.records.len() as u64 * sixteenths / 16
    }
}

#[derive(Debug, Default)]
struct Model {
    partitions: BTreeMap<u16, Partition>,
    outbox: BTreeMap<Vec<u8>, Vec<u8>>,
    number: u64,
}

impl Model {
    fn apply(&mut self, log: &Log, step: &Step) {
        let outbox = &mut self.outbox;
        match step {
            Step::Append { p, sizes } => {
                let model = self.partitions.entry(*p).or_default();
                let number = &mut self.number;
                let records: Vec<Bytes> = sizes
                    .iter()
                    .map(|size| {
                        *number += 1;
                        if *size == 0 {
                            Bytes::new()
                        } else {
                            record(*number, *size)
                        }
                    })
                    .collect();
                let appended = log
                    .append_blocking(PartitionId(*p), records.clone())
                    .unwrap();
                assert_eq!(appended.first.0, model.records.len() as u64);
                assert_eq!(appended.count as usize, sizes.len());
                model.starts.push(appended.first.0);
                model.records.extend(records);
            }
            Step::Read { p, from, max_bytes } => {
                let model = self.partitions.entry(*p).or_default();
                check_read(log, model, PartitionId(*p), model.at(*from), *max_bytes);
            }
            Step::Trim { p, before } => {
                let model = self.partitions.entry(*p).or_default();
                let before = model.at(*before);
                let checkpoint = model.checkpoint.as_ref().map_or(0, |(offset, _)| *offset);
                let result = log.trim(PartitionId(*p), Offset(before));
                if before > checkpoint {
                    assert!(
                        matches!(result, Err(Error::TrimBeyondCheckpoint { .. })),
                        "{result:?}"
                    );
                } else {
                    result.unwrap();
                    let first = log.first(PartitionId(*p)).0;
                    // At least to the last append before it (a large one is several blocks), never beyond.
                    let ends = model
                        .starts
                        .iter()
                        .copied()
                        .chain([model.records.len() as u64]);
                    let least = ends.filter(|end| *end <= before).max().unwrap_or(0);
                    assert!(first >= least.max(model.first) && first <= before.max(model.first));
                    model.first = first;
                }
            }
            Step::Commit {
                p,
                offset,
                stale,
                rows,
                outbox: out,
                snapshot,
                forget,
            } => {
                let model = self.partitions.entry(*p).or_default();
                let offset = model.at(*offset);
                let found = model.checkpoint.as_ref().map(|(offset, _)| *offset);
                let expected = if *stale {
                    Some(found.map_or(0, |found| found + 1))
                } else {
                    found
                };
                let key = |key: u8| format!("{key:0>3}").repeat(usize::from(key)).into_bytes();
                let checkpoint = Checkpoint {
                    offset: Offset(offset),
                    snapshot: vec![offset as u8; *snapshot],
                    rows: rows
                        .iter()
                        .map(|(k, value)| (key(*k), value.map(|v| vec![v; 40])))
                        .collect(),
                    outbox: out.iter().map(|k| (key(*k), vec![*p as u8])).collect(),
                };
                let forget: Vec<_> = forget.iter().map(|(a, b)| (key(*a), key(*b))).collect();
                let result = log.commit_and_forget(
                    PartitionId(*p),
                    expected.map(Offset),
                    checkpoint.clone(),
                    forget.clone(),
                );
                let end = model.records.len() as u64;
                if expected != found {
                    assert!(matches!(result, Err(Error::Fenced { .. })), "{result:?}");
                } else if offset > end || offset < found.unwrap_or(0) {
                    assert!(
                        matches!(result, Err(Error::CheckpointOutOfRange { .. })),
                        "{result:?}"
                    );
                } else {
                    let forgotten = result.unwrap();
                    model.checkpoint = Some((offset, checkpoint.snapshot));
                    for (key, value) in checkpoint.rows {
                        match value {
                            Some(value) => drop(model.rows.insert(key, value)),
                            None => drop(model.rows.remove(&key)),
                        }
                    }
                    let before = model.rows.len();
                    model
                        .rows
                        .retain(|key, _| !forget.iter().any(|(from, to)| from <= key && key < to));
                    assert_eq!(forgotten, (before - model.rows.len()) as u64);
                    for (key, value) in checkpoint.outbox {
                        outbox.entry(key).or_insert(value);
                    }
                }
            }
            Step::Apply { rows } => {
                let key = |key: u8| format!("{key:0>3}").repeat(usize::from(key)).into_bytes();
                let rows: Vec<_> = rows
                    .iter()
                    .map(|(k, v)| (key(*k), v.map(|v| vec![v])))
                    .collect();
                log.outbox_apply(&rows).unwrap();
                for (key, value) in rows {
                    match value {
                        Some(value) => outbox.insert(key, value),
                        None => outbox.remove(&key),
                    };
                }
            }
            Step::Reopen => {}
        }
    }

    fn check(&self, log: &Log) {
        for (p, model) in &self.partitions {
            let id = PartitionId(*p);
            assert_eq!(
                (log.first(id).0, log.end(id).0),
                (model.first, model.records.len() as u64)
            );
            check_read(log, model, id, model.first, usize::MAX);
            let stored = log
                .latest(id)
                .unwrap()
                .map(|stored| (stored.offset.0, stored.snapshot));
            assert!(stored == model.checkpoint);
            let mut rows = Vec::new();
            log.rows(id, |key, value| rows.push((key.to_vec(), value.to_vec())))
                .unwrap();
            assert_eq!(rows, model.rows.clone().into_iter().collect::<Vec<_>>());
            let mut keys: Vec<_> = model.rows.keys().rev().cloned().collect();
            let mut values: Vec<_> = model.rows.values().rev().cloned().map(Some).collect();
            keys.push(b"absent".to_vec());
            values.push(None);
            assert_eq!(log.rows_get(id, &keys).unwrap(), values);
            check_ranges(log, model, id);
        }
        assert_eq!(
            log.outbox_all().unwrap(),
            self.outbox.clone().into_iter().collect::<Vec<_>>()
        );
    }
}

/// Pages of three rows between every other pair of keys.
fn check_ranges(log: &Log, model: &Partition, p: PartitionId) {
    let mut bounds: Vec<_> = model.rows.keys().step_by(2).cloned().collect();
    bounds.extend([Vec::new(), vec![0xff]]);
    for (from, to) in bounds
        .iter()
        .flat_map(|a| bounds.iter().map(move |b| (a, b)))
    {
        let mut found = Vec::new();
        let mut next = from.clone();
        loop {
            let before = found.len();
            let more = log
                .rows_range(p, &next, to, 3, |key, value| {
                    found.push((key.to_vec(), value.to_vec()));
                })
                .unwrap();
            assert!(found.len() - before <= 3 && (!more || found.len() == before + 3));
            if !more {
                break;
            }
            next.clone_from(&found[found.len() - 1].0);
            next.push(0);
        }
        let within = model
            .rows
            .iter()
            .filter(|(key, _)| *key >= from && *key < to);
        let expected: Vec<_> = within.map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(found, expected);
    }
}

fn check_read(log: &Log, model: &Partition, p: PartitionId, from: u64, max_bytes: usize) {
    let result = log.read(p, Offset(from), max_bytes);
    let end = model.records.len() as u64;
    if from < model.first {
        assert!(matches!(result, Err(Error::Trimmed { .. })), "{result:?}");
    } else if from > end {
        assert!(matches!(result, Err(Error::BeyondEnd { .. })), "{result:?}");
    } else {
        let blocks = result.unwrap();
        let mut next = from;
        let mut bytes = 0;
        for block in &blocks {
            assert!(
                next == from || bytes < max_bytes,
                "it read on after max_bytes"
            );
            assert_eq!(block.first.0, next);
            assert_eq!(
                block.records,
                model.records[next as usize..block.end().0 as usize]
            );
            bytes += block.bytes();
            next = block.end().0;
        }
        assert!(
            next == end || (bytes >= max_bytes && next > from),
            "it stopped early"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn random_use_matches_vectors_in_memory(steps in prop::collection::vec(step(), 1..60)) {
        let disk = Disk::default();
        let mut log = open(&disk);
        let mut model = Model::default();
        for step in &steps {
            if matches!(step, Step::Reopen) {
                drop(log);
                log = open(&disk);
                model.check(&log);
            }
            model.apply(&log, step);
        }
        model.check(&log);
    }
}
