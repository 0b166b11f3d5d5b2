//! One run of a program: a process group of its own, so that what it has started ends with it.

use std::collections::BTreeMap;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::config::ENV_PREFIX;

/// A program that is asked to end has so long before it is killed.
const TERM_GRACE: Duration = Duration::from_millis(500);
/// A killed program that the system cannot end (it waits for a disk) is not waited for longer.
const KILL_WAIT: Duration = Duration::from_secs(1);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A running program. Dropped, its whole group is killed.
#[derive(Debug)]
pub(super) struct Program {
    child: Child,
    /// As long as the process has not been waited for, its number is no other's.
    group: Option<Pid>,
}

impl Program {
    /// Starts `command` (the program and its arguments; no shell) with more environment variables.
    /// What configures the agent is kept from it: there may be a password.
    ///
    /// **Errors**: it cannot be started.
    pub fn start(
        command: &[String],
        env: &BTreeMap<String, String>,
    ) -> io::Result<(Self, ChildStdout, ChildStderr)> {
        let [program, arguments @ ..] = command else {
            return Err(io::Error::other("`command` is empty"));
        };
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(ENV_PREFIX) {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(arguments)
            .envs(env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let pipes = child.stdout.take().zip(child.stderr.take());
        let (stdout, stderr) = pipes.ok_or_else(|| io::Error::other("its output has no pipe"))?;
        Ok((Self { child, group }, stdout, stderr))
    }

    /// Waits for its end. What it leaves behind in its group ends with it: a program that is started
    /// again and again would leave more each time.
    ///
    /// **Errors**: the system cannot say how it ended.
    pub async fn end(&mut self) -> io::Result<ExitStatus> {
        while !self.has_ended() {
            sleep(LOOK_EVERY).await;
        }
        self.signal(Signal::KILL);
        self.reap().await
    }

    /// Ends it at once, and all that it has started.
    pub async fn kill(mut self) {
        self.signal(Signal::KILL);
        let _ = timeout(KILL_WAIT, self.reap()).await;
    }

    /// Asks it to end, and soon kills what is left of it.
    pub async fn stop(self) {
        self.signal(Signal::TERM);
        let until = Instant::now() + TERM_GRACE;
        while !self.has_ended() && Instant::now() < until {
            sleep(LOOK_EVERY).await;
        }
        // Others of its group may not have listened.
        self.kill().await;
    }

    /// From here on the number may become another's.
    async fn reap(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.group = None;
        Ok(status)
    }

    /// Looks without waiting for the process, so that its number stays its own.
    fn has_ended(&self) -> bool {
        let Some(pid) = self.group else { return true };
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(pid), look), Ok(None))
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // Without a member left there is nothing to be done.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
