//! Power cuts at every sync: nothing acknowledged is lost, the log opens every time, and a checkpoint is
//! there as a whole, old or new.

use std::collections::BTreeMap;

use super::disk::Disk;
use super::{PARTITIONS, record, try_open};
use crate::{Checkpoint, Error, KeyRange, Log, Offset, PartitionId};

/// What has been acknowledged, and what may be there besides.
#[derive(Debug, Default, Clone)]
struct Expected {
    /// Numbers of the records by partition; all are acknowledged.
    records: BTreeMap<u16, Vec<u64>>,
    /// Records that got an error, to follow them in any case in this order; whole or not.
    unknown: Vec<(u16, Vec<u64>)>,
    first_least: BTreeMap<u16, u64>,
    first_most: BTreeMap<u16, u64>,
    checkpoints: BTreeMap<u16, u64>,
    unknown_checkpoint: Option<(u16, u64)>,
}

/// The keys that the checkpoint at `offset` forgets: those of all checkpoints before it.
fn forgets(offset: u64) -> Vec<KeyRange> {
    vec![(passing(0, 0), passing(offset, 0))]
}

fn passing(offset: u64, row: u64) -> Vec<u8> {
    format!("{offset:08} {row:03}").into_bytes()
}

/// A checkpoint all of whose parts follow from its offset, so that a mixed one shows.
fn checkpoint(p: u16, offset: u64) -> Checkpoint {
    let row = |name: &str| {
        (
            name.as_bytes().to_vec(),
            Some(offset.to_le_bytes().to_vec()),
        )
    };
    let old = offset
        .checked_sub(1)
        .map(|old| (format!("only {old}").into_bytes(), None));
    Checkpoint {
        offset: Offset(offset),
        snapshot: vec![offset as u8; 30_000 * (1 + offset as usize % 3)],
        rows: [row("a"), row("b"), row(&format!("only {offset}"))]
            .into_iter()
            .chain(old)
            .chain((0..60).map(|row| (passing(offset, row), Some(vec![offset as u8; 200]))))
            .collect(),
        outbox: vec![(format!("{p}/{offset}").into_bytes(), vec![1])],
    }
}

struct Run<'a> {
    log: &'a Log,
    expected: &'a mut Expected,
    next_number: u64,
}

impl Run<'_> {
    /// Several appends at once, to several partitions: one or more groups.
    fn append(&mut self, appends: &[(u16, usize, usize)]) -> Result<(), Error> {
        let mut pending = Vec::new();
        for (p, count, size) in appends {
            let numbers: Vec<u64> = (0..*count as u64).map(|i| self.next_number + i).collect();
            self.next_number += *count as u64;
            let records = numbers
                .iter()
                .map(|number| record(*number, *size))
                .collect();
            let answer = self.log.try_append(PartitionId(*p), records)?;
            pending.push((*p, numbers, answer));
        }
        let mut failed = None;
        for (p, numbers, answer) in pending {
            match block_on(answer) {
                Ok(appended) => {
                    let records = self.expected.records.entry(p).or_default();
                    assert_eq!(appended.first.0, records.len() as u64);
                    records.extend(numbers);
                }
                Err(error) => {
                    self.expected.unknown.push((p, numbers));
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn commit(&mut self, p: u16) -> Result<(), Error> {
        let offset = self.log.end(PartitionId(p)).0;
        let previous = self
            .expected
            .checkpoints
            .get(&p)
            .map(|offset| Offset(*offset));
        match self.log.commit_and_forget(
            PartitionId(p),
            previous,
            checkpoint(p, offset),
            forgets(offset),
        ) {
            Ok(_) => {
                self.expected.checkpoints.insert(p, offset);
                Ok(())
            }
            Err(error) => {
                self.expected.unknown_checkpoint = Some((p, offset));
                Err(error)
            }
        }
    }

    fn trim(&mut self, p: u16) -> Result<(), Error> {
        let before = self.expected.checkpoints.get(&p).copied().unwrap_or(0);
        self.expected.first_most.insert(p, before);
        self.log.trim(PartitionId(p), Offset(before))?;
        self.expected
            .first_least
            .insert(p, self.log.first(PartitionId(p)).0);
        Ok(())
    }

    fn work(&mut self) -> Result<(), Error> {
        self.append(&[(0, 1, 10)])?;
        self.append(&[(0, 5, 3000), (1, 1, 70_000), (0, 1, 9), (2, 3, 100)])?;
        self.commit(0)?;
        self.append(&[(0, 40, 2500)])?;
        self.commit(1)?;
        self.append(&[(1, 2, 20_000), (2, 1, 8)])?;
        self.commit(0)?;
        self.trim(0)?;
        self.append(&[(0, 1, 300_000), (1, 1, 8)])?;
        self.commit(2)?;
        self.commit(1)?;
        self.append(&[(2, 10, 1000), (1, 10, 1000)])?;
        self.trim(1)?;
        self.append(&[(0, 3, 5000)])?;
        self.commit(0)?;
        self.trim(0)?;
        self.append(&[(0, 1, 100), (1, 1, 100), (2, 1, 100)])
    }
}

fn block_on(pending: crate::Pending) -> Result<crate::Appended, Error> {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(pending)
}

fn check(log: &Log, expected: &Expected) {
    for p in 0..PARTITIONS {
        let id = PartitionId(p);
        let mut records = expected.records.get(&p).cloned().unwrap_or_default();
        let (first, end) = (log.first(id).0, log.end(id).0);
        assert!(
            first >= expected.first_least.get(&p).copied().unwrap_or(0),
            "trimmed blocks came back"
        );
        assert!(
            first <= expected.first_most.get(&p).copied().unwrap_or(0),
            "too much was trimmed"
        );
        assert!(
            end >= records.len() as u64,
            "partition {p}: acknowledged records are lost"
        );
        // Unknown appends may be there: each whole and in order.
        let mut unknown = expected.unknown.iter().filter(|(q, _)| *q == p);
        while (records.len() as u64) < end {
            let (_, more) = unknown
                .next()
                .expect("there are records that nobody appended");
            records.extend(more);
        }
        assert_eq!(records.len() as u64, end, "an append is there in part");
        let blocks = log.read(id, Offset(first), usize::MAX).unwrap();
        let found: Vec<u64> = blocks
            .iter()
            .flat_map(|block| &block.records)
            .map(|bytes| u64::from_le_bytes(bytes[..8].try_into().unwrap()))
            .collect();
        assert_eq!(found, records[first as usize..], "partition {p}");
        for (number, bytes) in found
            .iter()
            .zip(blocks.iter().flat_map(|block| &block.records))
        {
            assert_eq!(*bytes, record(*number, bytes.len()));
        }

        let latest = log.latest(id).unwrap();
        let offset = latest.as_ref().map(|stored| stored.offset.0);
        let known = expected.checkpoints.get(&p).copied();
        let unknown = expected
            .unknown_checkpoint
            .filter(|(q, _)| *q == p)
            .map(|(_, offset)| offset);
        assert!(
            offset == known || offset == unknown,
            "checkpoint {offset:?}, expected {known:?} or {unknown:?}"
        );
        let mut rows = BTreeMap::new();
        log.rows(id, |key, value| {
            drop(rows.insert(key.to_vec(), value.to_vec()))
        })
        .unwrap();
        if let (Some(offset), Some(stored)) = (offset, latest) {
            let whole = checkpoint(p, offset);
            assert_eq!(stored.snapshot, whole.snapshot);
            for (key, value) in whole.rows {
                assert_eq!(rows.get(&key), value.as_ref());
            }
            let passing = rows.keys().filter(|key| key[0].is_ascii_digit());
            assert_eq!(passing.count(), 60, "forgotten rows are there");
            assert!(log.outbox_all().unwrap().contains(&whole.outbox[0]));
        } else {
            assert!(rows.is_empty());
        }
    }
    let mut outbox: Vec<String> = expected
        .checkpoints
        .iter()
        .map(|(p, offset)| format!("{p}/{offset}"))
        .collect();
    outbox.retain(|key| {
        !log.outbox_all()
            .unwrap()
            .iter()
            .any(|(k, _)| k == key.as_bytes())
    });
    assert_eq!(
        outbox,
        Vec::<String>::new(),
        "acknowledged outbox rows are lost"
    );
}

/// Runs the work with a cut after `syncs` syncs. `false` when the work ended before.
fn run(syncs: usize, seed: u64) -> bool {
    let disk = Disk::default();
    let mut expected = Expected::default();
    disk.cut_power_after(syncs, seed);
    let cut = match try_open(&disk) {
        Ok(log) => {
            let result = Run {
                log: &log,
                expected: &mut expected,
                next_number: 0,
            }
            .work();
            assert!(result.is_ok() || disk.is_dead(), "{result:?}");
            drop(log);
            disk.is_dead()
        }
        Err(error) => {
            assert!(disk.is_dead(), "{error}");
            true
        }
    };
    // Power fails again while it recovers, at its first few syncs; then it may stay.
    for again in 0..3 {
        disk.mount();
        disk.cut_power_after(again, seed + 1);
        drop(try_open(&disk));
    }
    disk.mount();
    let log = try_open(&disk)
        .unwrap_or_else(|error| panic!("cut after {syncs} syncs, seed {seed}: {error}"));
    check(&log, &expected);
    // And it takes more.
    for p in 0..PARTITIONS {
        let end = log.end(PartitionId(p));
        assert_eq!(
            log.append_blocking(PartitionId(p), vec![record(1 << 40, 100)])
                .unwrap()
                .first,
            end
        );
    }
    cut
}

#[test]
fn power_cuts_at_every_sync_lose_nothing_acknowledged() {
    let seeds: u64 = std::env::var("EVENTLOG_POWER_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(2);
    let mut points = 0;
    for seed in 0..seeds {
        let mut syncs = 0;
        loop {
            let outcome = std::panic::catch_unwind(|| run(syncs, seed));
            match outcome {
                Ok(true) => syncs += 1,
                Ok(false) => break,
                Err(panic) => {
                    eprintln!("cut after {syncs} syncs with seed {seed}");
                    std::panic::resume_unwind(panic);
                }
            }
        }
        points += syncs;
    }
    assert!(
        points as u64 >= 40 * seeds,
        "only {points} places to cut were found"
    );
}
