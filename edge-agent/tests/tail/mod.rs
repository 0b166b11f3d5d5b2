//! The program follows a log that is rotated while it is killed.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::Signal;

use crate::Agent;
use crate::cloud::{Cloud, Faults, Stored};

const LINES: u32 = 6000;

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn shift(path: &Path) {
    let generation = |n: u32| path.with_file_name(format!("app.log.{n}"));
    for n in (1..30).rev().filter(|n| generation(*n).exists()) {
        fs::rename(generation(n), generation(n + 1)).unwrap();
    }
}

/// How often each line was counted.
fn counted(stored: &Stored) -> BTreeMap<u32, u32> {
    let mut counts = BTreeMap::new();
    for sample in stored.events.values() {
        if let Some(n) = sample.value.as_number() {
            *counts.entry(n as u32).or_default() += 1;
        }
    }
    counts
}

/// Writes lines, rotates, kills; then every line must have been counted once.
fn rotated_and_killed(copy: bool, regex: bool) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("app.log");
    let seed: u64 = rand::random_range(0..1000);
    let mut rng = StdRng::seed_from_u64(seed);
    let bad = Faults {
        lose_batch: 10,
        lose_ack: 15,
        cut: 3,
        ..Faults::default()
    };
    let cloud = Cloud::start(bad, seed);
    let mut config = format!(
        "[[source]]\nkind = \"tail\"\nname = \"t\"\npath = {log:?}\nfrom = \"begin\"\n\
         interval_ms = 10\ntime_format = \"s\"\n"
    );
    if regex {
        config.push_str(
            "format = \"regex\"\npattern = '^(?<time>\\d+) (?<device>\\S+) said (?<n>\\d+)$'\n",
        );
    }
    let line = |n: u32| {
        let time = 1_700_000_000 + n;
        match regex {
            true => format!("{time} dev-{} said {n}\nanother line\n", n % 3),
            false => format!("{{\"device\":\"dev-{}\",\"ts\":{time},\"n\":{n}}}\n", n % 3),
        }
    };
    let mut agent = Agent::start(dir.path(), &cloud, &config, Stdio::null());
    // The first start takes only the file at the path: it must be known before that is rotated.
    append(&log, &line(0));
    cloud.wait_for("the first line", |s| counted(s).len() == 1);
    // A writer that keeps its file open, as daemons do.
    let mut old: Option<fs::File> = None;
    for n in 1..LINES {
        if n % 1500 == 1499 {
            shift(&log);
            if copy {
                fs::copy(&log, dir.path().join("app.log.1")).unwrap();
                OpenOptions::new()
                    .write(true)
                    .open(&log)
                    .unwrap()
                    .set_len(0)
                    .unwrap();
            } else {
                old = Some(OpenOptions::new().append(true).open(&log).unwrap());
                fs::rename(&log, dir.path().join("app.log.1")).unwrap();
                append(&log, "");
            }
        }
        match &mut old {
            // It has not noticed for a few lines.
            Some(file) if n % 1500 < 5 || n % 1500 == 1499 => {
                file.write_all(line(n).as_bytes()).unwrap();
            }
            _ => append(&log, &line(n)),
        }
        if n % 100 == 0 {
            std::thread::sleep(Duration::from_millis(rng.random_range(1..40)));
        }
        if n % 600 == 300 {
            agent.kill();
            agent = Agent::start(dir.path(), &cloud, &config, Stdio::null());
        }
    }
    let began = Instant::now();
    while counted(&cloud.stored()).len() < LINES as usize {
        std::thread::sleep(Duration::from_millis(20));
        if began.elapsed() > Duration::from_secs(60) {
            let got = counted(&cloud.stored());
            let missing: Vec<u32> = (0..LINES).filter(|n| !got.contains_key(n)).collect();
            let (first, last) = (missing.first(), missing.last());
            let text = fs::read_to_string(dir.path().join("log")).unwrap();
            let n = missing.len();
            panic!("seed {seed}: {n} lines are missing, {first:?} to {last:?}; {text}");
        }
    }
    // What would come twice would come now.
    agent.signal(Signal::INT);
    assert!(agent.wait(Duration::from_secs(15)).success());
    let mut agent = Agent::start(dir.path(), &cloud, &config, Stdio::null());
    append(&log, &line(LINES));
    cloud.wait_for("one more", |s| counted(s).len() > LINES as usize);
    agent.signal(Signal::INT);
    assert!(agent.wait(Duration::from_secs(15)).success());
    let stored = cloud.stored();
    let twice: Vec<_> = counted(&stored)
        .into_iter()
        .filter(|(_, n)| *n != 1)
        .take(5)
        .collect();
    assert_eq!(twice, [], "seed {seed}");
    assert!(
        stored.gaps.is_empty() && stored.unclean.is_empty(),
        "it can be read again"
    );
    let text = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(!text.contains("missed"), "{text}");
}

#[test]
fn a_log_that_is_renamed_while_the_agent_is_killed_is_counted_once() {
    rotated_and_killed(false, false);
}

#[test]
fn a_log_that_is_copied_and_cut_while_the_agent_is_killed_is_counted_once() {
    rotated_and_killed(true, true);
}

#[test]
fn what_is_missed_is_said_and_only_new_lines_are_taken_first() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("app.log");
    append(&log, "{\"n\":1}\n{\"n\":2}\n");
    let cloud = Cloud::start(Faults::default(), 7);
    let config = format!(
        "[[source]]\nkind = \"tail\"\nname = \"t\"\npath = {log:?}\ninterval_ms = 10\n\
         device = \"d\"\n"
    );
    let agent = Agent::start(dir.path(), &cloud, &config, Stdio::null());
    // It has begun behind these lines once it says that it is live.
    cloud.wait_for("a heartbeat", |s| !s.headers.is_empty());
    append(&log, "{\"n\":3}\n");
    cloud.wait_for("the new line", |s| counted(s).len() == 1);
    agent.kill();
    append(&log, "{\"n\":4}\n");
    fs::remove_file(&log).unwrap();
    append(&log, "{\"n\":5}\n");
    let agent = Agent::start(dir.path(), &cloud, &config, Stdio::null());
    cloud.wait_for("the newest line", |s| counted(s).contains_key(&5));
    agent.kill();
    let numbers: Vec<u32> = counted(&cloud.stored()).into_keys().collect();
    assert_eq!(numbers, [3, 5]);
    let text = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(text.contains("after its byte 24 is missed"), "{text}");
}
