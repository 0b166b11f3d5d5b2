//! Durable appends of 2.5 KB records (one gateway batch of about 1,000 events each), by group size.
//!
//! The data folder is made under `TIDEWATCH_BENCH_DIR`, or the system's temporary folder: put it on the disk
//! that is to be measured.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use eventlog::{Clock, Log, PartitionId, Settings};

const RECORD_BYTES: usize = 2500;
const PARTITIONS: u16 = 4;

fn clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    })
}

fn open() -> (tempfile::TempDir, Log) {
    let dir = match std::env::var_os("TIDEWATCH_BENCH_DIR") {
        Some(base) => tempfile::tempdir_in(base),
        None => tempfile::tempdir(),
    }
    .expect("a temporary folder can be made");
    let settings = Settings {
        partitions: PARTITIONS,
        ..Settings::default()
    };
    let log = Log::open(dir.path(), settings, clock()).expect("the log opens");
    (dir, log)
}

/// Bytes that do not compress or repeat, as compressed batches do not.
fn record() -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..RECORD_BYTES)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn append(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime can be made");
    let record = record();
    let mut group = c.benchmark_group("append_durable");
    group.sample_size(20);
    for records in [1usize, 26, 100, 400, 1600] {
        let (_dir, log) = open();
        group.throughput(Throughput::Bytes((records * RECORD_BYTES) as u64));
        group.bench_function(BenchmarkId::from_parameter(records), |b| {
            b.iter(|| {
                let pending: Vec<_> = (0..records)
                    .map(|i| {
                        let partition = PartitionId(i as u16 % PARTITIONS);
                        log.try_append(partition, vec![record.clone()])
                            .expect("the queue has room")
                    })
                    .collect();
                runtime.block_on(async {
                    for pending in pending {
                        black_box(pending.await.expect("the append is durable"));
                    }
                });
            });
        });
    }
    group.finish();
}

fn read(c: &mut Criterion) {
    let (_dir, log) = open();
    let p = PartitionId(0);
    let records = 4000;
    for _ in 0..records / 100 {
        log.append_blocking(p, vec![record(); 100])
            .expect("the append is durable");
    }
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Bytes((records * RECORD_BYTES) as u64));
    group.bench_function("follow", |b| {
        b.iter(|| {
            let mut from = log.first(p);
            while from < log.end(p) {
                let blocks = log.read(p, from, 1 << 20).expect("the log reads");
                from = blocks.last().map_or(log.end(p), eventlog::Block::end);
                black_box(&blocks);
            }
        });
    });
    group.finish();
}

criterion_group!(benches, append, read);
criterion_main!(benches);
