//! What the interface promises when nothing fails.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::{Appended, Block, Checkpoint, Clock, Error, Log, Offset, PartitionId, Settings};

const P0: PartitionId = PartitionId(0);
const P1: PartitionId = PartitionId(1);
const LONG: Duration = Duration::from_secs(600);

fn settings() -> Settings {
    Settings {
        partitions: 4,
        cache_bytes: 4 << 20,
        ..Settings::default()
    }
}

fn fixed(time: i64) -> Clock {
    Arc::new(move || time)
}

fn open(dir: &Path) -> Log {
    Log::open(dir, settings(), fixed(100)).unwrap()
}

fn text(records: &[&'static str]) -> Vec<Bytes> {
    records
        .iter()
        .map(|record| Bytes::from_static(record.as_bytes()))
        .collect()
}

fn append(log: &Log, partition: PartitionId, records: &[&'static str]) -> Appended {
    log.append_blocking(partition, text(records)).unwrap()
}

fn read(log: &Log, partition: PartitionId, from: u64) -> Vec<(u64, i64, Vec<String>)> {
    let as_text = |record: &Bytes| String::from_utf8(record.to_vec()).unwrap();
    let plain = |block: Block| {
        (
            block.first.0,
            block.ingest_time,
            block.records.iter().map(as_text).collect(),
        )
    };
    log.read(partition, Offset(from), usize::MAX)
        .unwrap()
        .into_iter()
        .map(plain)
        .collect()
}

#[test]
fn a_reader_ahead_of_the_announcement_can_save_what_it_has_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, P1, &["a"]);
    let announced = log.inner().tails.get(P1).unwrap();
    append(&log, P1, &["b"]);
    // The moment between the write and its announcement.
    log.inner().tails.set(P1, announced);
    assert_eq!(log.end(P1), Offset(1));
    assert_eq!(read(&log, P1, 1).len(), 1);
    let at = |offset| Checkpoint {
        offset: Offset(offset),
        ..Checkpoint::default()
    };
    log.commit(P1, None, at(2)).unwrap();
    let beyond = log.commit(P1, Some(Offset(2)), at(3)).unwrap_err();
    assert!(
        matches!(beyond, Error::CheckpointOutOfRange { .. }),
        "{beyond}"
    );
}

#[test]
fn records_read_back_by_offset_also_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    assert_eq!(
        append(&log, P0, &["a", "b"]),
        Appended {
            first: Offset(0),
            count: 2,
            ingest_time: 100
        }
    );
    assert_eq!(append(&log, P1, &["x"]).first, Offset(0));
    assert_eq!(append(&log, P0, &["c"]).first, Offset(2));
    let check = |log: &Log| {
        assert_eq!(
            read(log, P0, 0),
            [
                (0, 100, vec!["a".into(), "b".into()]),
                (2, 100, vec!["c".into()])
            ]
        );
        assert_eq!(
            read(log, P0, 1),
            [(1, 100, vec!["b".into()]), (2, 100, vec!["c".into()])]
        );
        assert_eq!(read(log, P1, 0), [(0, 100, vec!["x".into()])]);
        assert_eq!(read(log, P0, 3), []);
        assert_eq!(
            (log.first(P0), log.end(P0), log.end(P1)),
            (Offset(0), Offset(3), Offset(1))
        );
        assert_eq!(log.read(P0, Offset(0), 1).unwrap().len(), 1);
        assert!(matches!(
            log.read(P0, Offset(4), 1),
            Err(Error::BeyondEnd {
                from: Offset(4),
                end: Offset(3),
                ..
            })
        ));
    };
    check(&log);
    drop(log);
    check(&open(dir.path()));
}

#[tokio::test]
async fn tasks_append_and_learn_their_offsets() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let pending: Vec<_> = (0..20)
        .map(|_| log.try_append(P0, text(&["r", "s"])).unwrap())
        .collect();
    for (index, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.await.unwrap().first, Offset(2 * index as u64));
    }
    assert_eq!(
        log.append(P0, text(&["t"])).await.unwrap().first,
        Offset(40)
    );
}

#[tokio::test]
async fn a_task_waits_while_the_queue_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        queue_records_max: 1,
        ..settings()
    };
    let log = Log::open(dir.path(), settings, fixed(0)).unwrap();
    let appends: Vec<_> = (0..30)
        .map(|_| {
            let log = log.clone();
            tokio::spawn(async move { log.append(P0, text(&["r"])).await.unwrap().first })
        })
        .collect();
    let mut offsets = Vec::new();
    for append in appends {
        offsets.push(append.await.unwrap());
    }
    offsets.sort();
    assert_eq!(offsets, (0..30).map(Offset).collect::<Vec<_>>());
}

#[test]
fn ingest_time_never_goes_back_even_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let time = Arc::new(AtomicI64::new(500));
    let clock = |time: &Arc<AtomicI64>| -> Clock {
        let time = time.clone();
        Arc::new(move || time.load(Ordering::SeqCst))
    };
    let log = Log::open(dir.path(), settings(), clock(&time)).unwrap();
    assert_eq!(log.last_ingest_time(P0), None);
    assert_eq!(append(&log, P0, &["a"]).ingest_time, 500);
    time.store(400, Ordering::SeqCst);
    assert_eq!(append(&log, P0, &["b"]).ingest_time, 500);
    // Per partition: another one has its own past.
    assert_eq!(append(&log, P1, &["b"]).ingest_time, 400);
    drop(log);
    time.store(300, Ordering::SeqCst);
    let log = Log::open(dir.path(), settings(), clock(&time)).unwrap();
    assert_eq!(append(&log, P0, &["c"]).ingest_time, 500);
    time.store(600, Ordering::SeqCst);
    assert_eq!(append(&log, P0, &["d"]).ingest_time, 600);
    // Also when all blocks are gone.
    log.commit(
        P0,
        None,
        Checkpoint {
            offset: Offset(4),
            ..Checkpoint::default()
        },
    )
    .unwrap();
    log.trim(P0, Offset(4)).unwrap();
    drop(log);
    time.store(100, Ordering::SeqCst);
    let log = Log::open(dir.path(), settings(), clock(&time)).unwrap();
    assert_eq!(
        (log.first(P0), log.end(P0), log.last_ingest_time(P0)),
        (Offset(4), Offset(4), Some(600))
    );
    assert_eq!(
        append(&log, P0, &["e"]),
        Appended {
            first: Offset(4),
            count: 1,
            ingest_time: 600
        }
    );
}

#[test]
fn wait_wakes_up_on_an_append_on_close_and_on_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    assert_eq!(log.wait(P0, Offset(0), Duration::ZERO), Offset(0));
    std::thread::scope(|scope| {
        let follower = scope.spawn(|| log.wait(P0, Offset(1), LONG));
        append(&log, P0, &["a"]);
        append(&log, P1, &["a", "b"]);
        append(&log, P0, &["b"]);
        assert_eq!(follower.join().unwrap(), Offset(2));
        let follower = scope.spawn(|| log.wait(P0, Offset(2), LONG));
        log.close();
        assert_eq!(follower.join().unwrap(), Offset(2));
    });
}

#[test]
fn close_writes_what_is_queued_and_refuses_more() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let pending: Vec<_> = (0..50)
        .map(|_| log.try_append(P0, text(&["r"])).unwrap())
        .collect();
    log.close();
    assert_eq!(log.end(P0), Offset(50));
    drop(pending);
    assert!(matches!(
        log.append_blocking(P0, text(&["s"])),
        Err(Error::Closed)
    ));
    assert!(matches!(log.trim(P0, Offset(0)), Err(Error::Closed)));
    // Readers finish their work: what is there can be read, and the last checkpoint be saved.
    assert_eq!(read(&log, P0, 49).len(), 1);
    log.commit(
        P0,
        None,
        Checkpoint {
            offset: Offset(50),
            ..Checkpoint::default()
        },
    )
    .unwrap();
    log.close();
}

#[test]
fn a_second_opener_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let error = Log::open(dir.path(), settings(), fixed(0)).unwrap_err();
    assert!(
        matches!(&error, Error::InUse { path } if path.ends_with("lock")),
        "{error}"
    );
    assert!(error.to_string().contains("stop that process"));
    drop(log);
    open(dir.path());
}

#[test]
fn another_number_of_partitions_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let wanted = Settings {
        partitions: 8,
        ..settings()
    };
    let error = Log::open(dir.path(), wanted, fixed(0)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::PartitionsChanged {
                stored: 4,
                wanted: 8,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("set partitions = 4"));
}

#[test]
fn a_partition_that_does_not_exist_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let p = PartitionId(4);
    let refused = |error: Error| {
        assert!(
            matches!(error, Error::NoSuchPartition { partitions: 4, .. }),
            "{error}"
        )
    };
    refused(log.append_blocking(p, text(&["a"])).unwrap_err());
    refused(log.read(p, Offset(0), 1).unwrap_err());
    refused(log.latest(p).unwrap_err());
    refused(log.trim(p, Offset(0)).unwrap_err());
    refused(log.commit(p, None, Checkpoint::default()).unwrap_err());
    refused(log.rows(p, |_, _| ()).unwrap_err());
    refused(log.rows_range(p, &[0], &[1], 1, |_, _| ()).unwrap_err());
    refused(log.rows_get(p, &[[0]]).unwrap_err());
    assert_eq!(
        (log.end(p), log.wait(p, Offset(0), LONG)),
        (Offset(0), Offset(0))
    );
}

fn checkpoint(offset: u64, snapshot: &[u8]) -> Checkpoint {
    Checkpoint {
        offset: Offset(offset),
        snapshot: snapshot.to_vec(),
        ..Checkpoint::default()
    }
}

#[test]
fn a_checkpoint_is_stored_with_its_rows_and_outbox() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, P0, &["a", "b", "c"]);
    assert_eq!(log.latest(P0).unwrap(), None);
    let row = |key: &str, value: Option<&str>| {
        (
            key.as_bytes().to_vec(),
            value.map(|v| v.as_bytes().to_vec()),
        )
    };
    let out = |key: &str, value: &str| (key.as_bytes().to_vec(), value.as_bytes().to_vec());
    log.commit(
        P0,
        None,
        Checkpoint {
            rows: vec![
                row("k2", Some("2")),
                row("k1", Some("1")),
                row("", Some("")),
                row("gone", None),
            ],
            outbox: vec![out("o", "first")],
            ..checkpoint(2, b"state")
        },
    )
    .unwrap();
    let second = Checkpoint {
        rows: vec![row("k1", None), row("k3", Some("3"))],
        outbox: vec![out("o", "second"), out("p", "new")],
        ..checkpoint(3, b"later state")
    };
    log.commit(P0, Some(Offset(2)), second).unwrap();
    drop(log);
    let log = open(dir.path());
    let latest = log.latest(P0).unwrap().unwrap();
    assert_eq!(
        (latest.offset, &latest.snapshot[..]),
        (Offset(3), &b"later state"[..])
    );
    let mut rows = Vec::new();
    log.rows(P0, |key, value| rows.push((key.to_vec(), value.to_vec())))
        .unwrap();
    assert_eq!(rows, [out("", ""), out("k2", "2"), out("k3", "3")]);
    assert_eq!(log.row(P0, b"k3").unwrap(), Some(b"3".to_vec()));
    assert_eq!(log.row(P0, b"k1").unwrap(), None);
    log.rows(P1, |_, _| panic!("partition 1 has no rows"))
        .unwrap();
    assert_eq!(
        log.outbox_all().unwrap(),
        [out("o", "first"), out("p", "new")]
    );
}

#[test]
fn a_snapshot_of_many_chunks_reads_back_and_a_smaller_one_replaces_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, P0, &["a"]);
    let chunk = crate::checkpoint::CHUNK;
    let mut before = None;
    for length in [0, 1, chunk, chunk + 1, 3 * chunk, 3 * chunk - 1, 10, 0] {
        let snapshot: Vec<u8> = (0..length).map(|i| (i / 7) as u8).collect();
        log.commit(P0, before, checkpoint(1, &snapshot)).unwrap();
        assert!(
            log.latest(P0).unwrap().unwrap().snapshot == snapshot,
            "length {length}"
        );
        before = Some(Offset(1));
    }
}

#[test]
fn a_former_owner_is_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, P0, &["a", "b", "c"]);
    log.commit(P0, None, checkpoint(1, b"one")).unwrap();
    let fenced = |expected: Option<u64>| {
        let expected = expected.map(Offset);
        let stale = Checkpoint {
            rows: vec![(b"stale".to_vec(), Some(vec![1]))],
            outbox: vec![(b"stale".to_vec(), vec![1])],
            ..checkpoint(3, b"stale")
        };
        let error = log.commit(P0, expected, stale).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Fenced {
                    found: Some(Offset(1)),
                    ..
                }
            ),
            "{error}"
        );
    };
    fenced(None);
    fenced(Some(0));
    fenced(Some(3));
    // Nothing of a refused commit remains.
    assert_eq!(log.latest(P0).unwrap().unwrap().snapshot, b"one");
    assert_eq!(
        (log.row(P0, b"stale").unwrap(), log.outbox_all().unwrap()),
        (None, vec![])
    );
    log.commit(P0, Some(Offset(1)), checkpoint(3, b"three"))
        .unwrap();
}

#[test]
fn a_checkpoint_must_lie_between_its_predecessor_and_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, P0, &["a", "b", "c"]);
    let refused = |expected: Option<u64>, offset: u64| {
        let error = log
            .commit(P0, expected.map(Offset), checkpoint(offset, b""))
            .unwrap_err();
        assert!(
            matches!(error, Error::CheckpointOutOfRange { end: Offset(3), .. }),
            "{error}"
        );
    };
    refused(None, 4);
    log.commit(P0, None, checkpoint(2, b"")).unwrap();
    refused(Some(2), 1);
    refused(Some(2), 4);
}

#[test]
fn trim_deletes_whole_blocks_behind_the_checkpoint_only() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for _ in 0..70 {
        append(&log, P0, &["a", "b"]);
    }
    append(&log, P1, &["other"]);
    let beyond = |before: u64, checkpoint: u64| {
        let error = log.trim(P0, Offset(before)).unwrap_err();
        assert!(
            matches!(error, Error::TrimBeyondCheckpoint { checkpoint: c, .. } if c == Offset(checkpoint)),
            "{error}"
        );
    };
    beyond(1, 0);
    log.commit(P0, None, checkpoint(139, b"")).unwrap();
    beyond(140, 139);
    let stored = log.sizes().unwrap().partitions[0].stored_bytes;
    log.trim(P0, Offset(3)).unwrap();
    assert_eq!(log.first(P0), Offset(2));
    log.trim(P0, Offset(1)).unwrap();
    assert_eq!(log.first(P0), Offset(2));
    assert!(matches!(
        log.read(P0, Offset(1), 1),
        Err(Error::Trimmed {
            first: Offset(2),
            ..
        })
    ));
    assert_eq!(read(&log, P0, 2).len(), 69);
    // More than one step.
    log.trim(P0, Offset(139)).unwrap();
    assert_eq!(log.first(P0), Offset(138));
    assert_eq!(read(&log, P0, 138).len(), 1);
    let size = log.sizes().unwrap().partitions[0];
    assert_eq!((size.blocks, size.stored_bytes), (1, stored / 70));
    assert_eq!(read(&log, P1, 0).len(), 1);
    drop(log);
    let log = open(dir.path());
    assert_eq!((log.first(P0), log.end(P0)), (Offset(138), Offset(140)));
}

#[test]
fn the_outbox_puts_and_deletes_in_one_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let row = |key: &str, value: &str| (key.as_bytes().to_vec(), value.as_bytes().to_vec());
    let put = |key: &str, value: &str| (key.as_bytes().to_vec(), Some(value.as_bytes().to_vec()));
    let delete = |key: &str| (key.as_bytes().to_vec(), None);
    log.outbox_apply(&[put("b", "1"), put("a", "1"), put("a", "2")])
        .unwrap();
    assert_eq!(log.outbox_all().unwrap(), [row("a", "2"), row("b", "1")]);
    // Together, in order; what is not there can go.
    log.outbox_apply(&[
        delete("a"),
        put("b", "3"),
        put("c", "4"),
        delete("c"),
        delete("d"),
    ])
    .unwrap();
    log.outbox_apply(&[]).unwrap();
    drop(log);
    assert_eq!(open(dir.path()).outbox_all().unwrap(), [row("b", "3")]);
}

#[test]
fn sizes_count_what_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, P1, &["abc", "d"]);
    let sizes = log.sizes().unwrap();
    assert!(sizes.log_file_bytes > 0 && sizes.state_file_bytes > 0);
    assert_eq!((sizes.queue_records, sizes.queue_bytes), (0, 0));
    let one = sizes.partitions[1];
    assert_eq!((one.first, one.end, one.blocks), (Offset(0), Offset(2), 1));
    // Header 13, two lengths, four bytes, checksum 8.
    assert_eq!((one.stored_bytes, one.last_ingest_time), (27, Some(100)));
    assert_eq!(sizes.partitions[0].last_ingest_time, None);
}
