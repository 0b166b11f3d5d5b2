//! A program whose standard output is read: run again and again, or kept running.
//!
//! It is started directly, never by a shell, in a process group of its own. Whatever it does, it
//! cannot hold the agent: its lines have a length, a run has a time and a size, and what it writes
//! faster than the agent stores makes it wait.

mod complaints;
mod program;

use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::BufReader;
use tokio::process::ChildStdout;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::complaints::Limit;
use self::program::Program;
use super::decode::{Decoder, Decoding};
use super::lines::read_line;
use super::{Counts, Feed};
use crate::inbox::Closed;
use crate::uplink::backoff::{Jitter, exponential};

/// Longest line, bytes, as of standard input.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Most output of one run of a program that is run again and again, bytes. One that writes more
/// does not end by itself.
const RUN_BYTES_MAX: usize = 1 << 20;
/// A program that has closed its output ends within this time, or is killed.
const END_MAX: Duration = Duration::from_secs(5);
/// Its last words on standard error are waited for so long: another process may hold it open.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// A program that ran so long is well: the next wait is the shortest again.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// How the program is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Again and again; each run prints what there is and ends.
    Interval {
        /// Time between two starts.
        interval: Duration,
        /// A run that takes longer is killed.
        timeout: Duration,
    },
    /// It runs on and prints when there is something; where it ends it is started again.
    Stream {
        /// Shortest wait before that.
        restart_min: Duration,
        /// Longest wait.
        restart_max: Duration,
    },
}

/// Which program, and what it prints.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Environment variables besides the agent's.
    pub env: BTreeMap<String, String>,
    /// How it is run.
    pub mode: Mode,
    /// The format of its lines.
    pub decoding: Decoding,
    /// How far times in the lines may lie behind the present: the agent promises no more.
    pub lag: Duration,
}

/// How a run ended.
enum End {
    /// The agent stops.
    Stop,
    Exited(ExitStatus),
    /// It did what it may not, could not be started or not be read.
    Failed(String),
}

/// Runs the program until the agent stops; it has ended then. Returns what was done.
pub async fn run(settings: Settings, feed: Feed, stop: CancellationToken) -> Counts {
    feed.stand_at(settings.decoding.position(settings.lag));
    let mut source = Exec {
        command: settings.command,
        env: settings.env,
        decoder: Decoder::new(settings.decoding),
        feed,
        stop,
        limit: Arc::default(),
        line: 0,
    };
    match settings.mode {
        Mode::Interval { interval, timeout } => source.again_and_again(interval, timeout).await,
        Mode::Stream {
            restart_min,
            restart_max,
        } => source.keep_running(restart_min, restart_max).await,
    }
    source.feed.counts()
}

struct Exec {
    command: Vec<String>,
    env: BTreeMap<String, String>,
    decoder: Decoder,
    feed: Feed,
    stop: CancellationToken,
    limit: Arc<Mutex<Limit>>,
    /// Of the present run.
    line: u64,
}

impl Exec {
    async fn again_and_again(&mut self, every: Duration, at_most: Duration) {
        let mut ticks = interval(every.max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match self.run_once(Some(at_most)).await {
                End::Stop => return,
                End::Exited(status) if status.success() => {}
                End::Exited(status) => self.refuse(&format!("the program failed: {status}")),
                End::Failed(reason) => self.refuse(&reason),
            }
        }
    }

    async fn keep_running(&mut self, min: Duration, max: Duration) {
        let mut jitter = Jitter::new(rand::random());
        let mut attempts = 0;
        loop {
            let started = Instant::now();
            let reason = match self.run_once(None).await {
                End::Stop => return,
                End::Exited(status) => format!("the program has ended: {status}"),
                End::Failed(reason) => reason,
            };
            if started.elapsed() >= WELL_AFTER {
                attempts = 0;
            }
            let wait = jitter.around(exponential(min, max, attempts));
            attempts = attempts.saturating_add(1);
            self.refuse(&format!("{reason}; it is started again in {wait:.1?}"));
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }

    fn refuse(&mut self, reason: &str) {
        self.feed.refuse(self.line, reason);
    }

    async fn run_once(&mut self, at_most: Option<Duration>) -> End {
        self.line = 0;
        let (mut program, stdout, stderr) = match Program::start(&self.command, &self.env) {
            Ok(started) => started,
            Err(error) => {
                let program = self.command.first().map_or("", String::as_str);
                return End::Failed(format!(
                    "cannot start {program:?}: {error}; `command` is the program's path and its \
                     arguments"
                ));
            }
        };
        let mut complaints = JoinSet::new();
        complaints.spawn(complaints::log(
            stderr,
            self.feed.name().to_owned(),
            self.limit.clone(),
        ));
        let stop = self.stop.clone();
        let too_long = async {
            match at_most {
                Some(at_most) => sleep(at_most).await,
                None => std::future::pending().await,
            }
        };
        let end = tokio::select! {
            () = stop.cancelled() => End::Stop,
            () = too_long => End::Failed(format!(
                "the program did not end within {:?} and was killed; see `timeout_ms`",
                at_most.unwrap_or_default()
            )),
            end = self.read(&mut program, stdout, at_most.is_some()) => end,
        };
        match end {
            End::Stop => program.stop().await,
            End::Failed(_) => program.kill().await,
            End::Exited(_) => {}
        }
        let _ = timeout(LAST_WORDS, complaints.join_next()).await;
        end
    }

    async fn take(&mut self, line: Result<Vec<u8>, String>) -> Result<(), Closed> {
        let bytes = match line {
            Ok(bytes) => bytes,
            Err(reason) => {
                self.feed.count_row();
                self.refuse(&reason);
                return Ok(());
            }
        };
        let decoded = self.decoder.read(&bytes);
        for _ in 0..decoded.lines {
            self.feed.count_row();
        }
        for (_, reason) in &decoded.refused {
            self.refuse(reason);
        }
        self.feed
            .push(self.line, decoded.readings, None, None)
            .await
    }

    /// Reads the output to its end, and waits for the program's.
    async fn read(&mut self, program: &mut Program, stdout: ChildStdout, bounded: bool) -> End {
        let mut stdout = BufReader::new(stdout);
        let mut bytes = 0;
        loop {
            let line = match read_line(&mut stdout, LINE_BYTES_MAX).await {
                Ok(None) => break,
                Ok(Some(line)) => line,
                Err(error) => return End::Failed(format!("read the program's output: {error}")),
            };
            self.line += 1;
            bytes += line.as_ref().map_or(LINE_BYTES_MAX, Vec::len) + 1;
            if bounded && bytes > RUN_BYTES_MAX {
                return End::Failed(format!(
                    "more than {RUN_BYTES_MAX} bytes of output in one run: the program was killed; \
                     one that does not end by itself needs mode = \"stream\""
                ));
            }
            if self.take(line).await.is_err() {
                return End::Stop;
            }
        }
        match timeout(END_MAX, program.end()).await {
            Ok(Ok(status)) => End::Exited(status),
            Ok(Err(error)) => End::Failed(format!("wait for the program: {error}")),
            Err(_) => End::Failed(format!(
                "the program has closed its output but did not end within {END_MAX:?}: killed"
            )),
        }
    }
}

#[cfg(test)]
mod tests;
