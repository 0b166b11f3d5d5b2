//! Checkpoints as a large fleet makes them: a snapshot of 175 MB and 30,000 rows of 300 B for each partition, in
//! turns, over 20 rounds; then reading them back, and reading and forgetting rows among three millions. Prints
//! figures of each step; not a statistic.
//!
//! `TIDEWATCH_BENCH_DIR` is the folder to measure in (else the system's temporary one), `PARTITIONS`, `ROUNDS`,
//! `SNAPSHOT_MB`, `ROWS` and `KEPT_ROWS` change the size.

#![allow(clippy::print_stdout)]

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use eventlog::{Checkpoint, Log, Offset, PartitionId, Settings};

const ROW_BYTES: usize = 300;
/// Panes that a commit writes, and how many of them the commit before it has written already.
const PANES: u64 = 5;
const PANES_AGAIN: u64 = 2;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// Bytes that do not compress or repeat.
fn noise(seed: u64, out: &mut [u8]) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in out.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
}

/// A field of a file of `/proc/self`, 0 where there is none.
fn proc(file: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(Path::new("/proc/self").join(file)).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default();
    let ticks = |index| -> u64 {
        fields
            .split_whitespace()
            .nth(index)
            .and_then(|ticks| ticks.parse().ok())
            .unwrap_or(0)
    };
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

fn folder_mb(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("the folder can be read");
    entries
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .map(|metadata| metadata.len())
        .sum::<u64>()
        >> 20
}

fn key(pane: u64, group: u64) -> Vec<u8> {
    let mut key = vec![0, 0, 0, 0, 7];
    key.extend_from_slice(&pane.to_be_bytes());
    key.extend_from_slice(&(group as u32).to_be_bytes());
    key
}

fn panes(round: u64) -> Range<u64> {
    let from = round * (PANES - PANES_AGAIN);
    from..from + PANES
}

struct Measured {
    time: Instant,
    cpu: Duration,
    written: u64,
}

impl Measured {
    fn begin() -> Measured {
        Measured {
            time: Instant::now(),
            cpu: cpu(),
            written: proc("io", "write_bytes:"),
        }
    }

    fn end(&self, what: &str) {
        println!(
            "{what}: {:.2} s, {:.2} s CPU, {} MB written, peak memory {} MB",
            self.time.elapsed().as_secs_f64(),
            (cpu() - self.cpu).as_secs_f64(),
            (proc("io", "write_bytes:") - self.written) / 1_000_000,
            proc("status", "VmHWM:") / 1000,
        );
    }
}

fn values(pane: u64, groups: Range<u64>) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> {
    groups.map(move |group| {
        let mut value = vec![0; ROW_BYTES];
        noise(pane << 32 | group, &mut value);
        (key(pane, group), Some(value))
    })
}

fn open(dir: &Path, partitions: u16) -> Log {
    let settings = Settings {
        partitions,
        ..Settings::default()
    };
    Log::open(dir, settings, Arc::new(|| 0)).expect("the log opens")
}

fn folder() -> tempfile::TempDir {
    match std::env::var_os("TIDEWATCH_BENCH_DIR") {
        Some(base) => tempfile::tempdir_in(base),
        None => tempfile::tempdir(),
    }
    .expect("a temporary folder can be made")
}

fn snapshots() {
    let (partitions, rounds) = (number("PARTITIONS", 1) as u16, number("ROUNDS", 20));
    let bytes = number("SNAPSHOT_MB", 175) as usize * 1_000_000;
    let groups = number("ROWS", 30_000) / PANES;
    let dir = folder();
    let log = open(dir.path(), partitions);
    for round in 0..rounds {
        for p in (0..partitions).map(PartitionId) {
            log.append_blocking(p, vec![Bytes::from_static(b"record")])
                .expect("the append is durable");
            let mut snapshot = vec![0; bytes];
            noise(round, &mut snapshot);
            let checkpoint = Checkpoint {
                offset: Offset(round + 1),
                snapshot,
                rows: panes(round)
                    .flat_map(|pane| values(pane, 0..groups))
                    .collect(),
                ..Checkpoint::default()
            };
            let measured = Measured::begin();
            let expected = (round > 0).then_some(Offset(round));
            log.commit(p, expected, checkpoint)
                .expect("the checkpoint is durable");
            let folder = folder_mb(dir.path());
            measured.end(&format!(
                "commit {round} of partition {p}, folder {folder} MiB"
            ));
        }
    }
    drop(log);
    let measured = Measured::begin();
    let log = open(dir.path(), partitions);
    measured.end("open");
    for p in (0..partitions).map(PartitionId) {
        let measured = Measured::begin();
        let stored = log.latest(p).expect("the checkpoint reads");
        measured.end(&format!("latest of partition {p}"));
        drop(stored);
    }
}

fn rows() {
    const P: PartitionId = PartitionId(0);
    const GROUPS: u64 = 6000;
    let panes = number("KEPT_ROWS", 3_000_000) / GROUPS;
    let looked_up = number("ROWS", 30_000) / GROUPS;
    let dir = folder();
    let log = open(dir.path(), 1);
    log.append_blocking(P, vec![Bytes::from_static(b"record")])
        .expect("the append is durable");
    let mut saved = None;
    let mut save = |rows, forget| {
        let checkpoint = Checkpoint {
            offset: Offset(1),
            rows,
            ..Checkpoint::default()
        };
        let forgotten = log
            .commit_and_forget(P, saved, checkpoint, forget)
            .expect("the checkpoint is durable");
        saved = Some(Offset(1));
        forgotten
    };
    for pane in 0..panes {
        save(values(pane, 0..GROUPS).collect(), Vec::new());
    }
    println!(
        "{} rows, folder {} MiB",
        panes * GROUPS,
        folder_mb(dir.path())
    );

    let newest = panes.saturating_sub(looked_up)..panes;
    let mut keys: Vec<_> = newest
        .clone()
        .flat_map(|pane| (0..GROUPS).map(move |group| key(pane, group)))
        .collect();
    let get = |keys: &[Vec<u8>], what: &str| {
        let measured = Measured::begin();
        let found = log.rows_get(P, keys).expect("the rows read");
        measured.end(&format!(
            "rows_get of {} rows {what}",
            found.iter().flatten().count()
        ));
    };
    get(&keys, "in key order, cold cache");
    get(&keys, "in key order");
    keys.sort_by_key(|key| key.iter().rev().copied().collect::<Vec<_>>());
    get(&keys, "out of order");
    let mut spread: Vec<_> = (0..keys.len() as u64)
        .map(|i| key(i * 7919 % panes, i % GROUPS))
        .collect();
    spread.sort();
    get(&spread, "spread over all, in key order");

    let measured = Measured::begin();
    let mut seen = 0u64;
    log.rows_range(P, &key(0, 0), &key(panes, 0), 1_000_000, |_, _| seen += 1)
        .expect("the rows read");
    measured.end(&format!("rows_range of {seen} rows"));
    let measured = Measured::begin();
    let rows = newest.flat_map(|pane| values(pane, 0..GROUPS)).collect();
    save(rows, Vec::new());
    measured.end("commit of the newest rows again");
    let mut from = 0;
    for part in [looked_up, panes / 3, panes / 2] {
        let to = (from + part).min(panes);
        let measured = Measured::begin();
        let forgotten = save(Vec::new(), vec![(key(from, 0), key(to, 0))]);
        measured.end(&format!("forgetting {forgotten} rows"));
        from = to;
    }
    println!("folder {} MiB", folder_mb(dir.path()));
}

fn main() {
    snapshots();
    rows();
}
