//! A full disk and a failing one: clear errors, nothing acknowledged is lost, and it goes on by itself.

use std::io::ErrorKind;

use super::disk::Disk;
use super::{open, record};
use crate::{Checkpoint, Error, Log, Offset, PartitionId};

const P: PartitionId = PartitionId(1);

fn everything(log: &Log) -> Vec<Vec<u8>> {
    let blocks = log.read(P, log.first(P), usize::MAX).unwrap();
    blocks
        .iter()
        .flat_map(|block| &block.records)
        .map(|record| record.to_vec())
        .collect()
}

#[test]
fn a_full_disk_refuses_appends_and_goes_on_when_there_is_room() {
    let disk = Disk::default();
    let log = open(&disk);
    disk.set_pages_max(Some(disk.pages_used() + 100));
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    for number in 0..200 {
        let record = record(number, 10_000);
        match log.append_blocking(P, vec![record.clone()]) {
            Ok(appended) => {
                assert_eq!(appended.first, Offset(acknowledged.len() as u64));
                acknowledged.push(record.to_vec());
            }
            Err(error) => {
                assert!(
                    matches!(&error, Error::Full { path, .. } if path.ends_with("log.redb")),
                    "{error}"
                );
                assert!(error.to_string().contains("free some space"));
                refused += 1;
            }
        }
    }
    assert!(
        acknowledged.len() > 3 && refused > 100,
        "{} acknowledged, {refused} refused",
        acknowledged.len()
    );
    // Reading goes on meanwhile.
    assert_eq!(everything(&log), acknowledged);
    // As does trimming, where a checkpoint fits.
    disk.set_pages_max(None);
    let appended = log.append_blocking(P, vec![record(1000, 10_000)]).unwrap();
    assert_eq!(appended.first.0, acknowledged.len() as u64);
    acknowledged.push(record(1000, 10_000).to_vec());
    assert_eq!(everything(&log), acknowledged);
    drop(log);
    assert_eq!(everything(&open(&disk)), acknowledged);
}

#[test]
fn a_full_disk_refuses_a_checkpoint_and_keeps_the_previous_one() {
    let disk = Disk::default();
    let log = open(&disk);
    log.append_blocking(P, vec![record(1, 10), record(2, 10)])
        .unwrap();
    let checkpoint = |offset, size| Checkpoint {
        offset: Offset(offset),
        snapshot: vec![offset as u8; size],
        rows: vec![(b"row".to_vec(), Some(vec![offset as u8]))],
        outbox: vec![(vec![offset as u8], vec![1])],
    };
    log.commit(P, None, checkpoint(1, 100)).unwrap();
    disk.set_pages_max(Some(disk.pages_used() + 50));
    for _ in 0..3 {
        let error = log
            .commit(P, Some(Offset(1)), checkpoint(2, 3_000_000))
            .unwrap_err();
        assert!(
            matches!(&error, Error::Full { path, .. } if path.ends_with("state.redb")),
            "{error}"
        );
        let latest = log.latest(P).unwrap().unwrap();
        assert_eq!((latest.offset, latest.snapshot.len()), (Offset(1), 100));
        assert_eq!(log.row(P, b"row").unwrap(), Some(vec![1]));
        assert_eq!(log.outbox_all().unwrap().len(), 1);
    }
    // The log is another file: appends that fit are not held up.
    log.append_blocking(P, vec![record(3, 10)]).unwrap();
    disk.set_pages_max(None);
    log.commit(P, Some(Offset(1)), checkpoint(2, 3_000_000))
        .unwrap();
    drop(log);
    assert_eq!(
        open(&disk).latest(P).unwrap().unwrap().snapshot.len(),
        3_000_000
    );
}

#[test]
fn a_failed_fsync_is_an_error_and_the_log_goes_on() {
    let disk = Disk::default();
    let log = open(&disk);
    log.append_blocking(P, vec![record(1, 10)]).unwrap();
    for _ in 0..3 {
        disk.fail_syncs(Some(("log.redb", ErrorKind::Other)));
        let error = log.append_blocking(P, vec![record(2, 10)]).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        disk.fail_syncs(None);
    }
    // Each refused record is there or not, but never in another's place.
    log.append_blocking(P, vec![record(3, 10)]).unwrap();
    let check = |log: &Log| {
        let mut numbers: Vec<u8> = everything(log).iter().map(|record| record[0]).collect();
        assert_eq!(numbers.len() as u64, log.end(P).0);
        assert_eq!((numbers.first(), numbers.last()), (Some(&1), Some(&3)));
        numbers.dedup();
        assert!(numbers == [1, 3] || numbers == [1, 2, 3], "{numbers:?}");
    };
    check(&log);
    drop(log);
    check(&open(&disk));
}

#[test]
fn a_failed_fsync_of_the_state_fails_the_commit_only() {
    let disk = Disk::default();
    let log = open(&disk);
    log.append_blocking(P, vec![record(1, 10)]).unwrap();
    disk.fail_syncs(Some(("state.redb", ErrorKind::Other)));
    let error = log
        .commit(
            P,
            None,
            Checkpoint {
                offset: Offset(1),
                ..Checkpoint::default()
            },
        )
        .unwrap_err();
    assert!(
        matches!(&error, Error::Io { path, .. } if path.ends_with("state.redb")),
        "{error}"
    );
    log.append_blocking(P, vec![record(2, 10)]).unwrap();
    disk.fail_syncs(None);
    let found = log.latest_offset(P).unwrap();
    log.commit(
        P,
        found,
        Checkpoint {
            offset: Offset(2),
            ..Checkpoint::default()
        },
    )
    .unwrap();
    assert_eq!(log.latest_offset(P).unwrap(), Some(Offset(2)));
}

/// The same on a real file system of 4 MiB. Needs the right to mount one; says so where it has not.
#[test]
#[cfg(target_os = "linux")]
fn a_full_file_system_refuses_appends_and_goes_on_when_there_is_room() {
    struct Mounted(tempfile::TempDir);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount")
                .arg(self.0.path())
                .output();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(dir.path())
        .output();
    if !mount.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this user may not mount a file system; the disk in memory covers it");
        return;
    }
    let mounted = Mounted(dir);
    let ballast = mounted.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let data = mounted.0.path().join("data");
    let open = || Log::open(&data, super::settings(), super::fixed(7)).unwrap();
    let log = open();
    let mut acknowledged = 0;
    let mut refused = 0;
    while refused < 3 {
        assert!(acknowledged < 1000, "4 MiB do not hold that");
        match log.append_blocking(P, vec![record(acknowledged, 10_000)]) {
            Ok(_) => acknowledged += 1,
            Err(error) => {
                assert!(matches!(error, Error::Full { .. }), "{error}");
                refused += 1;
            }
        }
    }
    assert!(acknowledged > 10);
    std::fs::remove_file(ballast).unwrap();
    log.append_blocking(P, vec![record(acknowledged, 10_000)])
        .unwrap();
    drop(log);
    let log = open();
    let numbers: Vec<_> = everything(&log).iter().map(|record| record[0]).collect();
    assert_eq!(
        numbers,
        (0..=acknowledged)
            .map(|number| number as u8)
            .collect::<Vec<_>>()
    );
    drop(log);
}
