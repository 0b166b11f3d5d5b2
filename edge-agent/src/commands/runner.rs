//! Runs one program: in a process group of its own, for a limited time, keeping the end of what it
//! writes.
//!
//! A program that ends by itself may leave others behind (a service that it started); they are not
//! waited for, and their output is not read any more. One that does not end is ended with its whole
//! group.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Where programs look for others, unless `env` says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// From SIGTERM to SIGKILL.
pub(super) const KILL_AFTER: Duration = Duration::from_secs(2);
/// How often to look whether the group has ended.
const GROUP_POLL: Duration = Duration::from_millis(20);
/// After SIGKILL a program that hangs in the kernel is waited for so long.
const REAP_MAX: Duration = Duration::from_secs(2);
/// What a program wrote before it ended is in the pipe; a child of it may hold the pipe open.
const DRAIN_MAX: Duration = Duration::from_millis(200);
/// Bytes read at once.
const READ_BYTES: usize = 8 << 10;

/// How to run a program.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub path: PathBuf,
    pub env: BTreeMap<String, String>,
    pub dir: PathBuf,
    /// User and group to switch to.
    pub identity: Option<(u32, u32)>,
    pub timeout: Duration,
    pub stop_grace: Duration,
    pub output_bytes_max: usize,
}

/// When the agent stops.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop {
    /// Nothing more is started; what runs has its grace.
    pub soon: CancellationToken,
    /// What runs is ended.
    pub now: CancellationToken,
}

/// How a program ended.
#[derive(Debug)]
pub(super) enum End {
    /// By itself, or by a signal of somebody else.
    Exited(ExitStatus),
    /// It was ended because its time was over.
    TimedOut,
    /// It was ended because the agent stops.
    Stopped,
    /// It was not started.
    NotStarted(io::Error),
    /// The system does not say how.
    Unknown(io::Error),
}

/// What came of a run.
#[derive(Debug)]
pub(super) struct Outcome {
    pub end: End,
    pub duration: Duration,
    /// The end of what it wrote to both outputs.
    pub output: String,
}

/// Runs a program to its end. When this returns, the program is gone (if the kernel lets it go).
/// Dropping the future ends the program and its group.
pub(super) async fn run(program: &Program, args: &[String], stop: &Stop) -> Outcome {
    let began = Instant::now();
    let mut tail = Tail::new(program.output_bytes_max);
    let end = match spawn(program, args) {
        Ok((child, pipe)) => {
            let mut running = Running::new(child, pipe, &mut tail);
            running.run_to_end(program, stop).await
        }
        Err(error) => End::NotStarted(error),
    };
    Outcome {
        end,
        duration: began.elapsed(),
        output: tail.text(),
    }
}

fn spawn(program: &Program, args: &[String]) -> io::Result<(Child, pipe::Receiver)> {
    // One pipe for both outputs keeps their order.
    let (reader, writer) = io::pipe()?;
    let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let mut command = Command::new(&program.path);
    command
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .envs(&program.env)
        .current_dir(&program.dir)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .kill_on_drop(true);
    if let Some((uid, gid)) = program.identity {
        // The standard library drops supplementary groups with it.
        command.gid(gid).uid(uid);
    }
    // The command holds our ends of the pipe; they close with it.
    command.spawn().map(|child| (child, reader))
}

struct Running<'a> {
    child: Child,
    group: Group,
    pipe: Option<pipe::Receiver>,
    tail: &'a mut Tail,
    buffer: Vec<u8>,
}

impl<'a> Running<'a> {
    fn new(child: Child, pipe: pipe::Receiver, tail: &'a mut Tail) -> Self {
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Self {
            child,
            group: Group(pid),
            pipe: Some(pipe),
            tail,
            buffer: vec![0; READ_BYTES],
        }
    }

    async fn run_to_end(&mut self, program: &Program, stop: &Stop) -> End {
        let too_long = async {
            tokio::select! {
                () = sleep(program.timeout) => End::TimedOut,
                () = grace_over(stop, program.stop_grace) => End::Stopped,
            }
        };
        match self.wait(too_long).await {
            Ok(Ok(status)) => {
                self.group.leave();
                let _ = timeout(DRAIN_MAX, self.read_all()).await;
                End::Exited(status)
            }
            Ok(Err(error)) => {
                self.end().await;
                End::Unknown(error)
            }
            Err(why) => {
                self.end().await;
                why
            }
        }
    }

    /// Reads until the program has ended, or `until` is over.
    async fn wait<T>(
        &mut self,
        until: impl Future<Output = T>,
    ) -> Result<io::Result<ExitStatus>, T> {
        tokio::pin!(until);
        loop {
            tokio::select! {
                status = self.child.wait() => return Ok(status),
                over = &mut until => return Err(over),
                () = read(&mut self.pipe, &mut self.buffer, self.tail), if self.pipe.is_some() => {}
            }
        }
    }

    async fn read_all(&mut self) {
        while self.pipe.is_some() {
            read(&mut self.pipe, &mut self.buffer, self.tail).await;
        }
    }

    /// Asks the whole group to end, and ends it if it does not.
    async fn end(&mut self) {
        let until = Instant::now() + KILL_AFTER;
        self.group.signal(Signal::TERM);
        let ended = self.wait(tokio::time::sleep_until(until)).await.is_ok();
        // The others have as long to end as the program itself.
        while self.group.exists() && Instant::now() < until {
            let _ = timeout(GROUP_POLL, self.read_all()).await;
            sleep(GROUP_POLL).await;
        }
        self.group.signal(Signal::KILL);
        if !ended && self.wait(sleep(REAP_MAX)).await.is_err() {
            tracing::error!("a program does not end even with SIGKILL");
        }
        self.group.leave();
        let _ = timeout(DRAIN_MAX, self.read_all()).await;
    }
}

async fn grace_over(stop: &Stop, grace: Duration) {
    let soon = async {
        stop.soon.cancelled().await;
        sleep(grace).await;
    };
    tokio::select! {
        () = soon => {}
        () = stop.now.cancelled() => {}
    }
}

async fn read(pipe: &mut Option<pipe::Receiver>, buffer: &mut [u8], tail: &mut Tail) {
    let Some(open) = pipe else { return };
    match open.read(buffer).await {
        Ok(n) if n > 0 => tail.push(buffer.get(..n).unwrap_or_default()),
        Ok(_) | Err(_) => *pipe = None,
    }
}

/// The process group of a program; it is ended when this is dropped before [`Self::leave`].
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // It fails if there is nobody left, which is what we want.
            let _ = kill_process_group(group, signal);
        }
    }

    fn exists(&self) -> bool {
        self.0.is_some_and(|g| test_kill_process_group(g).is_ok())
    }

    fn leave(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// The end of a stream of bytes.
#[derive(Debug)]
struct Tail {
    bytes: VecDeque<u8>,
    max: usize,
    cut: bool,
}

impl Tail {
    fn new(max: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            max,
            cut: false,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let over = self.bytes.len().saturating_sub(self.max);
        if over > 0 {
            self.bytes.drain(..over);
            self.cut = true;
        }
    }

    fn text(mut self) -> String {
        if self.cut {
            // It may begin in the middle of a character.
            while self.bytes.front().is_some_and(|b| b & 0xc0 == 0x80) {
                self.bytes.pop_front();
            }
        }
        let text = String::from_utf8_lossy(self.bytes.make_contiguous()).into_owned();
        let text = text.trim_end();
        if self.cut {
            format!("\u{2026}{text}")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;
