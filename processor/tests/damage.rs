//! A server whose store is damaged stops and says why, instead of trying for ever.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use event::{AggregateSpec, Declaration, Record};
use eventlog::{Checkpoint, Log, PartitionId};
use processor::runtime::{Clock, Processor, Settings, declare};
use support::{S, T0, batch_record, temperature};
use tokio_util::sync::CancellationToken;
use views::Views;

const P: PartitionId = PartitionId(0);

fn append(log: &Log, record: Vec<u8>) {
    log.append_blocking(P, vec![Bytes::from(record)]).unwrap();
}

fn start(log: &Log, clock: &Clock, every: Duration) -> (Processor, CancellationToken) {
    let settings = Settings {
        checkpoint_every: every,
        ..Settings::default()
    };
    let failed = CancellationToken::new();
    let views = Views::new(1, "test", 0);
    let processor = Processor::start(&settings, log, &views, clock, &failed).unwrap();
    (processor, failed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_row_that_does_not_decode_stops_the_server_with_its_key_and_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let time = Arc::new(AtomicI64::new(T0));
    let clock: Clock = {
        let time = time.clone();
        Arc::new(move || time.load(Ordering::Relaxed))
    };
    let settings = eventlog::Settings {
        partitions: 1,
        ..eventlog::Settings::default()
    };
    let log = Log::open(dir.path(), settings, clock.clone()).unwrap();
    let declaration = Declaration {
        aggregates: AggregateSpec::defaults(),
        rules: Vec::new(),
    };
    declare(&log, &declaration).unwrap();
    let at = |seconds: i64| time.store(T0 + seconds * S, Ordering::Relaxed);
    let event =
        |tx: u64, mark: i64| batch_record("gw", tx, tx, &[temperature("d", T0 + S, 1.0)], mark);
    at(2);
    append(&log, event(1, T0 + 2 * S));
    // Long enough for the pane to leave memory.
    for minute in 1..60 {
        at(minute * 60);
        append(&log, Record::Tick.encode());
    }
    let (processor, failed) = start(&log, &clock, Duration::from_secs(3600));
    processor.stop().unwrap();
    assert!(!failed.is_cancelled());

    let mut rows = Vec::new();
    log.rows_range(P, &[0], &[3], 1000, |key, _| {
        rows.push((key.to_vec(), Some(b"not a row".to_vec())))
    })
    .unwrap();
    assert!(!rows.is_empty());
    let key = format!("{:02x?}", rows[0].0);
    let stored = log.latest(P).unwrap().unwrap();
    let damaged = Checkpoint {
        offset: stored.offset,
        snapshot: stored.snapshot,
        rows,
        outbox: Vec::new(),
    };
    log.commit(P, Some(stored.offset), damaged).unwrap();

    // A late event of that pane: its row is merged with at the next checkpoint.
    let (processor, failed) = start(&log, &clock, Duration::from_millis(10));
    at(3700);
    append(&log, event(2, T0 + 3700 * S));
    tokio::time::timeout(Duration::from_secs(20), failed.cancelled())
        .await
        .expect("the server goes on as if nothing were wrong");
    let Err(error) = processor.stop() else {
        panic!("nothing is said of it");
    };
    let text = format!("{error:#}");
    for part in [
        "partition 0",
        key.as_str(),
        "restore the data folder from a backup",
    ] {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
    assert_eq!(log.latest_offset(P).unwrap(), Some(stored.offset));
    log.close();
}
