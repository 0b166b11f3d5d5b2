//! Rows by key and by range, and forgetting them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::disk::Disk;
use super::{open, record};
use crate::{Checkpoint, Error, Log, Offset, PartitionId};

const P: PartitionId = PartitionId(1);
const OTHER: PartitionId = PartitionId(2);

/// Key of a row: byte order is the order of the numbers.
fn key(number: u32) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn value(number: u32) -> Vec<u8> {
    vec![number as u8; 1 + number as usize % 700]
}

fn checkpoint(rows: impl Iterator<Item = u32>) -> Checkpoint {
    Checkpoint {
        offset: Offset(1),
        rows: rows
            .map(|number| (key(number), Some(value(number))))
            .collect(),
        ..Checkpoint::default()
    }
}

/// Both partitions hold the even numbers to 2,000.
fn filled(disk: &Disk) -> Log {
    let log = open(disk);
    for p in [P, OTHER] {
        log.append_blocking(p, vec![record(1, 10)]).unwrap();
        log.commit(p, None, checkpoint((0..=2000).step_by(2)))
            .unwrap();
    }
    log
}

fn forget(log: &Log, ranges: &[(u32, u32)]) -> u64 {
    let ranges = ranges
        .iter()
        .map(|(from, to)| (key(*from), key(*to)))
        .collect();
    log.commit_and_forget(P, Some(Offset(1)), checkpoint([].into_iter()), ranges)
        .unwrap()
}

fn numbers(log: &Log, p: PartitionId, from: &[u8], to: &[u8], limit: usize) -> (Vec<u32>, bool) {
    let mut found = Vec::new();
    let more = log
        .rows_range(p, from, to, limit, |key, bytes| {
            let number = u32::from_be_bytes(key.try_into().unwrap());
            assert_eq!(bytes, value(number));
            found.push(number);
        })
        .unwrap();
    (found, more)
}

#[test]
fn a_range_is_read_in_key_order_up_to_its_end_or_limit() {
    let log = filled(&Disk::default());
    let range = |from, to, limit| numbers(&log, P, &key(from), &key(to), limit);
    assert_eq!(range(4, 10, 9), (vec![4, 6, 8], false));
    assert_eq!(range(3, 11, 9), (vec![4, 6, 8, 10], false));
    assert_eq!(range(4, 10, 3), (vec![4, 6, 8], false));
    assert_eq!(range(4, 10, 2), (vec![4, 6], true));
    assert_eq!(range(4, 10, 0), (vec![], true));
    for (from, to) in [(5, 6), (2001, 9000), (10, 10), (10, 4)] {
        assert_eq!(range(from, to, 9), (vec![], false));
    }
    assert_eq!(numbers(&log, P, &[], &[], 9), (vec![], false));
    // From the first to the last row, and not into the next partition.
    let (all, more) = numbers(&log, P, &[], &[0xff; 9], usize::MAX);
    assert_eq!((all, more), ((0..=2000).step_by(2).collect(), false));
    // Go on at the last key with a zero byte after it.
    let mut from = key(6);
    from.push(0);
    assert_eq!(numbers(&log, P, &from, &key(12), 9), (vec![8, 10], false));
}

#[test]
fn a_panic_of_the_caller_is_passed_on() {
    let log = filled(&Disk::default());
    let result = catch_unwind(AssertUnwindSafe(|| {
        log.rows_range(P, &key(0), &key(9), 9, |_, _| panic!("the caller's own"))
    }));
    let panic = result.unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"the caller's own"));
    assert_eq!(log.row(P, &key(4)).unwrap(), Some(value(4)));
}

#[test]
fn rows_are_looked_up_in_the_order_that_is_asked_for() {
    let log = filled(&Disk::default());
    let keys = [8, 3, 2000, 8, 2001, 0].map(key);
    let expected = [
        Some(value(8)),
        None,
        Some(value(2000)),
        Some(value(8)),
        None,
        Some(value(0)),
    ];
    assert_eq!(log.rows_get(P, &keys).unwrap(), expected);
    assert_eq!(log.rows_get::<Vec<u8>>(P, &[]).unwrap(), []);
    assert_eq!(log.rows_get(PartitionId(0), &keys[..1]).unwrap(), [None]);
}

#[test]
fn ranges_are_forgotten_and_the_rest_stays_whole() {
    let disk = Disk::default();
    let log = filled(&disk);
    assert_eq!(forget(&log, &[]), 0);
    // Overlapping, empty and turned ranges; bounds that are rows and such that are not.
    let ranges = [
        (10, 20),
        (15, 31),
        (100, 100),
        (90, 80),
        (1990, 5000),
        (3, 4),
    ];
    assert_eq!(forget(&log, &ranges), 11 + 6);
    let left: Vec<u32> = (0..=2000)
        .step_by(2)
        .filter(|n| !(10..31).contains(n) && *n < 1990)
        .collect();
    let check = |log: &Log| {
        assert_eq!(numbers(log, P, &[], &[0xff; 9], usize::MAX).0, left);
        // Counts them against the checkpoint.
        log.rows(P, |_, _| ()).unwrap();
        let (others, _) = numbers(log, OTHER, &[], &[0xff; 9], usize::MAX);
        assert_eq!(others.len(), 1001);
        log.rows(OTHER, |_, _| ()).unwrap();
    };
    check(&log);
    drop(log);
    let log = open(&disk);
    check(&log);
    assert_eq!(forget(&log, &[(0, u32::MAX)]), left.len() as u64);
    log.rows(P, |_, _| panic!("none is left")).unwrap();
}

#[test]
fn a_row_of_the_same_checkpoint_is_forgotten_too() {
    let log = filled(&Disk::default());
    let checkpoint = Checkpoint {
        rows: vec![
            (key(1), Some(value(1))),
            (key(4), None),
            (key(2), Some(b"new".to_vec())),
            (key(7), Some(value(7))),
        ],
        ..checkpoint([].into_iter())
    };
    let forgotten = log
        .commit_and_forget(P, Some(Offset(1)), checkpoint, vec![(key(0), key(5))])
        .unwrap();
    // 0, 1 and 2; 4 was deleted before.
    assert_eq!(forgotten, 3);
    let (left, _) = numbers(&log, P, &[], &key(10), 99);
    assert_eq!(left, [6, 7, 8]);
    log.rows(P, |_, _| ()).unwrap();
}

#[test]
fn who_is_fenced_forgets_nothing() {
    let log = filled(&Disk::default());
    let all = vec![(Vec::new(), vec![0xff; 9])];
    let refused = log.commit_and_forget(P, None, Checkpoint::default(), all);
    assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
    assert_eq!(numbers(&log, P, &[], &[0xff; 9], usize::MAX).0.len(), 1001);
}

#[test]
fn commits_again_and_again_use_the_same_room() {
    let disk = Disk::default();
    let log = filled(&disk);
    let mut most = 0;
    for round in 1..=30u32 {
        let rows = (0..500).map(|i| 10_000 + round * 500 + i);
        let checkpoint = Checkpoint {
            snapshot: vec![round as u8; 1_500_000],
            ..checkpoint(rows)
        };
        let old = vec![(key(10_000), key(10_000 + round * 500))];
        log.commit_and_forget(P, Some(Offset(1)), checkpoint, old)
            .unwrap();
        let bytes = log.sizes().unwrap().state_file_bytes;
        if round <= 8 {
            most = bytes;
        }
        assert!(
            bytes <= most,
            "{bytes} bytes in round {round}, {most} before"
        );
    }
    let stored = log.latest(P).unwrap().unwrap();
    assert!(stored.snapshot == vec![30; 1_500_000]);
    log.rows(P, |_, _| ()).unwrap();
}
