//! Damaged, truncated, missing and exchanged files: refused with a remedy, never a panic, never wrong data.

use std::collections::BTreeMap;

use super::disk::Disk;
use super::{open, record, try_open};
use redb::ReadableTable;

use crate::outbox::OUTBOX;
use crate::rows::ROWS;
use crate::store::Storage;
use crate::tail::{BLOCKS, PARTITIONS};
use crate::{Checkpoint, Error, Log, Offset, PartitionId};

const P: PartitionId = PartitionId(1);
const RECORDS: u64 = 30;

/// A log with blocks of several sizes, a checkpoint with rows, and an outbox row.
fn filled() -> Disk {
    let disk = Disk::default();
    let log = open(&disk);
    for number in 0..RECORDS {
        log.append_blocking(P, vec![record(number, 100 + 900 * number as usize)])
            .unwrap();
    }
    commit(&log, None, 5);
    disk
}

fn commit(log: &Log, expected: Option<Offset>, offset: u64) {
    let checkpoint = Checkpoint {
        offset: Offset(offset),
        snapshot: (0..60_000u32).map(|i| (i / 5) as u8).collect(),
        rows: (0..200u8)
            .map(|key| (vec![key], Some(vec![key; 90])))
            .collect(),
        outbox: vec![(b"key".to_vec(), b"value".to_vec())],
    };
    log.commit(P, expected, checkpoint).unwrap();
}

/// Everything that can be read is right; whether all of it could be read.
fn read_all(log: &Log) -> Result<(), Error> {
    let mut from = log.first(P);
    while from < log.end(P) {
        for block in log.read(P, from, 1)? {
            assert_eq!(block.first, from);
            for bytes in &block.records {
                assert_eq!(*bytes, record(from.0, 100 + 900 * from.0 as usize));
                from.0 += 1;
            }
        }
    }
    assert_eq!(from, Offset(RECORDS));
    let stored = log.latest(P)?;
    let snapshot: Vec<u8> = (0..60_000u32).map(|i| (i / 5) as u8).collect();
    assert!(stored.is_some_and(|stored| stored.snapshot == snapshot));
    let mut rows = BTreeMap::new();
    log.rows(P, |key, value| {
        drop(rows.insert(key.to_vec(), value.to_vec()))
    })?;
    assert!(rows == (0..200u8).map(|key| (vec![key], vec![key; 90])).collect());
    assert_eq!(log.outbox_all()?, [(b"key".to_vec(), b"value".to_vec())]);
    Ok(())
}

fn is_about(error: &Error, name: &str) {
    match error {
        Error::Corrupt { path, .. } => assert!(path.ends_with(name), "{error}"),
        Error::LogShorterThanCheckpoint { .. } | Error::LogTrimmedPastCheckpoint { .. } => {}
        Error::Format { .. } | Error::PartitionsChanged { .. } => {}
        // redb reads lengths from its pages; a wild one is an I/O error.
        Error::Io { path, .. } => assert!(path.ends_with(name), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_intact_log_reads_back() {
    read_all(&open(&filled())).unwrap();
}

/// Damages a file in one place after another; each time: an error that names the file, or right data.
fn damage(name: &str, step: usize, damage: impl Fn(&mut [u8])) -> (usize, usize) {
    let original = filled();
    let bytes = original.bytes(name);
    let (mut noticed, mut right) = (0, 0);
    for at in (0..bytes.len()).step_by(step) {
        let disk = original.copy();
        let mut damaged = bytes.clone();
        let end = damaged.len().min(at + 64);
        damage(&mut damaged[at..end]);
        if damaged == bytes {
            continue;
        }
        disk.set_bytes(name, &damaged);
        match try_open(&disk).and_then(|log| read_all(&log)) {
            Ok(()) => right += 1,
            Err(error) => {
                is_about(&error, name);
                noticed += 1;
            }
        }
    }
    (noticed, right)
}

#[test]
fn damaged_blocks_are_noticed() {
    let (noticed, _) = damage("log.redb", 5300, |bytes| bytes[bytes.len() / 2] ^= 0x20);
    assert!(noticed > 25, "{noticed}");
    let (noticed, _) = damage("log.redb", 13_100, |bytes| bytes.fill(0));
    assert!(noticed > 10, "{noticed}");
}

#[test]
fn damaged_state_is_noticed() {
    let (noticed, _) = damage("state.redb", 2300, |bytes| bytes[bytes.len() / 2] ^= 0x20);
    assert!(noticed > 10, "{noticed}");
    let (noticed, _) = damage("state.redb", 5700, |bytes| bytes.fill(0xff));
    assert!(noticed > 5, "{noticed}");
}

#[test]
fn a_damaged_block_is_named_and_its_neighbours_can_be_read() {
    let disk = filled();
    let mut bytes = disk.bytes("log.redb");
    // Record 20 is found by its filling, which no other has.
    let needle = &record(20, 18_100)[8..];
    let at = bytes
        .windows(needle.len())
        .position(|window| window == needle)
        .unwrap();
    bytes[at + 5] ^= 1;
    disk.set_bytes("log.redb", &bytes);
    let log = open(&disk);
    let error = log.read(P, Offset(20), 1).unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Corrupt {
                partition: Some(P),
                offset: Some(Offset(20)),
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("log.redb, partition 1, offset 20"),
        "{error}"
    );
    assert_eq!(log.read(P, Offset(19), 1).unwrap()[0].records.len(), 1);
    assert_eq!(log.read(P, Offset(21), 1).unwrap()[0].records.len(), 1);
}

#[test]
fn a_damaged_snapshot_is_named() {
    let disk = filled();
    let mut bytes = disk.bytes("state.redb");
    let needle: Vec<u8> = (1000..1100u32).map(|i| (i / 5) as u8).collect();
    for at in 0..bytes.len() - needle.len() {
        if bytes[at..at + needle.len()] == needle {
            bytes[at + 50] ^= 1;
        }
    }
    disk.set_bytes("state.redb", &bytes);
    let error = open(&disk).latest(P).unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Corrupt {
                partition: Some(P),
                offset: Some(Offset(5)),
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("state.redb, partition 1, offset 5: the checksum of the snapshot")
    );
}

#[test]
fn truncated_files_are_refused() {
    let original = filled();
    for name in ["log.redb", "state.redb"] {
        let bytes = original.bytes(name);
        for length in [1, 100, 512, 4096, 10_000, bytes.len() / 2, bytes.len() - 1] {
            let disk = original.copy();
            disk.set_bytes(name, &bytes[..length]);
            match try_open(&disk).and_then(|log| read_all(&log)) {
                Err(error) => is_about(&error, name),
                Ok(()) => panic!("{name} cut to {length} bytes was accepted"),
            }
        }
    }
}

#[test]
fn an_emptied_or_missing_log_is_not_taken_for_a_new_one() {
    let disk = Disk::default();
    let log = open(&disk);
    // No checkpoint yet that would miss the records.
    log.append_blocking(P, vec![record(1, 10)]).unwrap();
    drop(log);
    let refused = |disk: &Disk| {
        let error = try_open(disk).unwrap_err();
        assert!(
            matches!(&error, Error::Corrupt { path, .. } if path.ends_with("log.redb")),
            "{error}"
        );
    };
    let copy = disk.copy();
    copy.set_bytes("log.redb", &[]);
    refused(&copy);
    disk.remove("log.redb");
    refused(&disk);
}

#[test]
fn an_older_log_is_refused() {
    let disk = filled();
    let older = disk.bytes("log.redb");
    let log = open(&disk);
    log.append_blocking(P, vec![record(RECORDS, 10)]).unwrap();
    commit(&log, Some(Offset(5)), RECORDS + 1);
    drop(log);
    disk.set_bytes("log.redb", &older);
    let error = try_open(&disk).unwrap_err();
    assert!(
        matches!(
            error,
            Error::LogShorterThanCheckpoint {
                checkpoint: Offset(31),
                end: Offset(30),
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn an_older_state_is_refused_once_the_log_was_trimmed() {
    let disk = filled();
    let older = disk.bytes("state.redb");
    let log = open(&disk);
    commit(&log, Some(Offset(5)), 20);
    drop(log);
    // Not trimmed: recovery replays more.
    let newer = disk.bytes("state.redb");
    disk.set_bytes("state.redb", &older);
    assert_eq!(open(&disk).latest_offset(P).unwrap(), Some(Offset(5)));
    disk.remove("state.redb");
    assert_eq!(open(&disk).latest_offset(P).unwrap(), None);
    disk.set_bytes("state.redb", &newer);
    open(&disk).trim(P, Offset(20)).unwrap();
    for lost in [true, false] {
        disk.set_bytes("state.redb", &older);
        if lost {
            disk.remove("state.redb");
        }
        let error = try_open(&disk).unwrap_err();
        assert!(
            matches!(
                error,
                Error::LogTrimmedPastCheckpoint {
                    first: Offset(20),
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("log.redb"),
        "this is a text file, and not a short one".repeat(500),
    )
    .unwrap();
    let error = Log::open(dir.path(), super::settings(), super::fixed(0)).unwrap_err();
    assert!(
        matches!(&error, Error::Corrupt { path, .. } if path.ends_with("log.redb")),
        "{error}"
    );
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Log::open(&file.join("data"), super::settings(), super::fixed(0)).unwrap_err();
    assert!(
        matches!(&error, Error::Io { path, .. } if path.ends_with("data")),
        "{error}"
    );
}

/// Changes a database behind the log's back, through redb: whole pages, right checksums, wrong content.
fn tamper(disk: &Disk, name: &str, change: impl FnOnce(&redb::WriteTransaction)) {
    let path = std::path::Path::new("data").join(name);
    let database = disk.open(&path, &redb::Builder::new()).unwrap();
    let mut txn = database.begin_write().unwrap();
    txn.set_quick_repair(true);
    change(&txn);
    txn.commit().unwrap();
}

fn refused(result: Result<(), Error>, text: &str) {
    let error = result.unwrap_err();
    assert!(
        matches!(error, Error::Corrupt { .. }) && error.to_string().contains(text),
        "{error}"
    );
}

#[test]
fn missing_blocks_are_noticed() {
    let original = filled();
    let without = |offset: u64| {
        let disk = original.copy();
        tamper(&disk, "log.redb", |txn| {
            assert!(
                txn.open_table(BLOCKS)
                    .unwrap()
                    .remove((P.0, offset))
                    .unwrap()
                    .is_some()
            );
        });
        disk
    };
    let log = open(&without(7));
    refused(
        log.read(P, Offset(6), usize::MAX).map(drop),
        "partition 1, offset 7: the next block begins at offset 8",
    );
    refused(
        log.read(P, Offset(7), 1).map(drop),
        "the records after it are missing",
    );
    log.read(P, Offset(8), usize::MAX).unwrap();
    for end in [0, RECORDS - 1] {
        refused(
            try_open(&without(end)).map(drop),
            "the partition's row says 0 to 30",
        );
    }
    let disk = original.copy();
    tamper(&disk, "log.redb", |txn| {
        drop(txn.open_table(PARTITIONS).unwrap().remove(P.0).unwrap())
    });
    refused(try_open(&disk).map(drop), "counts 0 blocks, there are some");
}

#[test]
fn missing_and_foreign_rows_are_noticed() {
    let original = filled();
    let read = |disk: &Disk| open(disk).rows(P, |_, _| ());
    let disk = original.copy();
    tamper(&disk, "state.redb", |txn| {
        assert!(
            txn.open_table(ROWS)
                .unwrap()
                .remove((P.0, &[9][..]))
                .unwrap()
                .is_some()
        );
    });
    refused(read(&disk), "there are 199 rows, the checkpoint has 200");
    // Not missed by who reads a part; but what is there is right.
    assert_eq!(open(&disk).rows_get(P, &[[8], [9]]).unwrap()[1], None);
    let mut keys = Vec::new();
    open(&disk)
        .rows_range(P, &[8], &[11], 9, |key, _| keys.push(key[0]))
        .unwrap();
    assert_eq!(keys, [8, 10]);
    // The row of another partition under the same key.
    let disk = original.copy();
    tamper(&disk, "state.redb", |txn| {
        let mut rows = txn.open_table(ROWS).unwrap();
        let row = rows.get((P.0, &[9][..])).unwrap().unwrap().value().to_vec();
        rows.insert((0, &[9][..]), &row[..]).unwrap();
    });
    read(&disk).unwrap();
    refused(
        open(&disk).row(PartitionId(0), &[9]).map(drop),
        "the checksum of the row",
    );
    refused(
        open(&disk).rows_get(PartitionId(0), &[[8], [9]]).map(drop),
        "the checksum of the row",
    );
    refused(
        open(&disk)
            .rows_range(PartitionId(0), &[0], &[10], 9, |_, _| ())
            .map(drop),
        "the checksum of the row",
    );
    let disk = original.copy();
    tamper(&disk, "state.redb", |txn| {
        drop(txn.open_table(OUTBOX).unwrap().remove(&b"key"[..]).unwrap())
    });
    refused(
        open(&disk).outbox_all().map(drop),
        "the outbox has 0 rows, there should be 1",
    );
}
