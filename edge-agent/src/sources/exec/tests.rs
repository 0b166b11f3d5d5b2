use std::collections::BTreeMap;
use std::path::Path;

use event::{DeviceId, MetricName};
use rustix::process::{Pid, test_kill_process};

use super::*;
use crate::clock::{Clock, Quality};
use crate::inbox::{self, Inbox};
use crate::sources::decode::every_metric;

const SECOND: Duration = Duration::from_secs(1);

fn value() -> Decoding {
    Decoding::Value {
        device: DeviceId::new("d").unwrap(),
        metric: MetricName::new("m").unwrap(),
    }
}

fn shell(script: &str, mode: Mode, decoding: Decoding) -> Settings {
    Settings {
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: BTreeMap::new(),
        mode,
        decoding,
        lag: Duration::ZERO,
    }
}

fn every(ms: u64, timeout: Duration) -> Mode {
    Mode::Interval {
        interval: Duration::from_millis(ms),
        timeout,
    }
}

fn stream(min_ms: u64) -> Mode {
    Mode::Stream {
        restart_min: Duration::from_millis(min_ms),
        restart_max: Duration::from_millis(min_ms * 4),
    }
}

struct Running {
    inbox: Arc<Inbox>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Counts>,
}

fn start(settings: Settings) -> Running {
    start_with(inbox::Settings::default(), settings)
}

fn start_with(limits: inbox::Settings, settings: Settings) -> Running {
    let inbox = Inbox::new(limits, Clock::new(Quality::Ntp));
    let feed = Feed::new(inbox.clone(), "x".to_owned(), &BTreeMap::new()).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(run(settings, feed, stop.clone()));
    Running { inbox, stop, task }
}

impl Running {
    fn taken(&self) -> Vec<String> {
        let Some(pending) = self.inbox.wait(Some(Duration::ZERO), true).1 else {
            return Vec::new();
        };
        let show = |s: &event::Sample| format!("{} {} {:?}", s.device, s.metric, s.value);
        let taken = pending.samples.iter().map(show).collect();
        self.inbox.stored(pending);
        taken
    }

    async fn readings(&self, n: usize) -> Vec<String> {
        let mut got = Vec::new();
        for _ in 0..3000 {
            got.extend(self.taken());
            if got.len() >= n {
                return got;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("{got:?} and no more");
    }

    /// Asks it to end, and looks how long that takes.
    async fn stop(self) -> Counts {
        let began = Instant::now();
        self.stop.cancel();
        let counts = self.task.await.unwrap();
        assert!(began.elapsed() < 5 * SECOND, "{:?}", began.elapsed());
        counts
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} has not happened");
}

/// The numbers of processes that a script has written into a file.
fn pids(path: &Path) -> Vec<Pid> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let numbers = text.lines().filter_map(|line| line.trim().parse().ok());
    numbers.filter_map(Pid::from_raw).collect()
}

/// Gone, zombies included: nobody has that number. A child of a killed child is reaped by the
/// system's first process, which may take a moment, or not be done at all in a container.
fn is_gone(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let dead = |s: &str| {
        s.rsplit(')')
            .next()
            .is_some_and(|r| r.trim_start().starts_with('Z'))
    };
    test_kill_process(pid).is_err() || stat.map_or(true, |s| dead(&s))
}

#[tokio::test]
async fn a_program_is_run_again_and_again_and_reads_its_environment() {
    let mut settings = shell(
        "echo $A; echo; echo none; exit $B",
        every(20, 10 * SECOND),
        value(),
    );
    settings.env = BTreeMap::from([
        ("A".to_owned(), "21.5".to_owned()),
        ("B".to_owned(), "0".to_owned()),
    ]);
    let source = start(settings);
    let got = source.readings(3).await;
    assert!(got.iter().all(|r| r == "d m Number(21.5)"), "{got:?}");
    let counts = source.stop().await;
    assert!(counts.rows >= 5 && counts.bad >= 2, "{counts:?}");
}

#[tokio::test]
async fn a_failing_or_missing_program_is_counted_and_tried_again() {
    let source = start(shell("echo 1; exit 3", every(20, 10 * SECOND), value()));
    source.readings(2).await;
    assert!(source.stop().await.bad >= 1);
    for mode in [every(20, SECOND), stream(10)] {
        let mut settings = shell("", mode, value());
        settings.command = vec!["/nowhere/program".to_owned()];
        let source = start(settings);
        sleep(Duration::from_millis(300)).await;
        let counts = source.stop().await;
        assert!(counts.bad >= 2 && counts.rows == 0, "{counts:?}");
    }
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_all_it_has_started() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pids");
    // It and its child do not listen to a polite request, and hold the output open.
    let script = format!(
        "trap '' TERM; echo $$ >>{0}; (trap '' TERM; sleep 1000 & echo $! >>{0}; wait) & echo 7; wait",
        file.display()
    );
    let source = start(shell(
        &script,
        every(20, Duration::from_millis(500)),
        value(),
    ));
    assert_eq!(source.readings(2).await[1], "d m Number(7.0)");
    let first = pids(&file);
    assert!(first.len() >= 2, "{first:?}");
    for pid in &first[..2] {
        until("the end of a process", || is_gone(*pid)).await;
    }
    // A stop ends the present run, too.
    let counts = source.stop().await;
    assert!(counts.bad >= 1, "{counts:?}");
    for pid in pids(&file) {
        until("the end of a process", || is_gone(pid)).await;
    }
}

#[tokio::test]
async fn a_program_that_floods_a_run_is_killed() {
    // Lines of a kilobyte, and no end: a run gives as many as fit into its limit.
    let script = "yes \"$(printf '%1000s' 1)\"";
    let source = start(shell(script, every(10, 600 * SECOND), value()));
    let of_one_run = RUN_BYTES_MAX / 1001;
    source.readings(3 * of_one_run).await;
    let counts = source.stop().await;
    assert!(counts.bad >= 2, "{counts:?}");
}

#[tokio::test]
async fn a_stream_that_floods_waits_for_the_agent() {
    let small = inbox::Settings {
        events_max: 100,
        ..inbox::Settings::default()
    };
    let source = start_with(small, shell("yes 1", stream(10), value()));
    // Nobody takes anything: it stands.
    until("a reading", || source.inbox.has_waiting()).await;
    sleep(Duration::from_millis(500)).await;
    source.inbox.close();
    let counts = source.stop().await;
    assert!(counts.readings <= 101, "{counts:?}");
}

#[tokio::test]
async fn a_stream_that_dies_is_started_again_and_ended_at_the_stop() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pids");
    let script = format!(
        "echo $$ >>{0}; echo 1; test $(wc -l <{0}) -gt 2 || {{ sleep 1000 >&- 2>&- & echo $! >>{0}.left; exit 4; }}; \
         echo 2; exec sleep 1000",
        file.display()
    );
    let source = start(shell(&script, stream(10), value()));
    let got = source.readings(4).await;
    assert_eq!(got[3], "d m Number(2.0)");
    // What the first runs have left behind has ended with them.
    let left = pids(&file.with_extension("left"));
    assert_eq!(left.len(), 2);
    for pid in left {
        until("the end of a process", || is_gone(pid)).await;
    }
    let counts = source.stop().await;
    assert_eq!((counts.rows, counts.bad), (4, 2));
    let all = pids(&file);
    assert_eq!(all.len(), 3);
    assert!(
        all.into_iter().all(|pid| test_kill_process(pid).is_err()),
        "a zombie is left"
    );
}

#[tokio::test]
async fn a_source_that_is_dropped_leaves_no_process() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pids");
    let script = format!(
        "echo $$ >>{0}; sleep 1000 & echo $! >>{0}; wait",
        file.display()
    );
    let source = start(shell(&script, stream(10), value()));
    until("two processes", || pids(&file).len() == 2).await;
    source.task.abort();
    for pid in pids(&file) {
        until("the end of a process", || is_gone(pid)).await;
    }
}

#[tokio::test]
async fn json_and_long_lines_and_a_loud_standard_error() {
    let script = "i=0; while [ $i -lt 2000 ]; do echo complaint $i >&2; i=$((i+1)); done; \
                  echo '{\"device\":\"a\",\"t\":1}'; head -c 2000000 /dev/zero; echo; \
                  echo '{\"device\":\"b\",\"t\":2}'; sleep 1000";
    let source = start(shell(script, stream(10), Decoding::Json(every_metric())));
    let got = source.readings(2).await;
    assert_eq!(got, ["a t Number(1.0)", "b t Number(2.0)"]);
    let counts = source.stop().await;
    assert_eq!((counts.rows, counts.bad), (3, 1));
}
