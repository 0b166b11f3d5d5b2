//! `tidewatch-agent` as a process.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

use super::harness::{PATIENCE, Process, Server, command, run};

/// The agent's binary, beside the server's. It belongs to another package, so cargo does not see to it
/// that it is there, or newer than its sources: this does, once.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let server = Path::new(env!("CARGO_BIN_EXE_tidewatch"));
        let folder = server.parent().expect("a folder of binaries");
        let agent = folder.join("tidewatch-agent");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let built = agent.metadata().and_then(|m| m.modified()).ok();
        let sources = ["edge-agent/src", "event/src"];
        let newest = sources
            .iter()
            .filter_map(|dir| newest(&root.join(dir)))
            .max();
        if built.is_some() && built >= newest {
            return agent;
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = command(cargo);
        build.current_dir(root).args(["build", "-p", "edge-agent"]);
        if folder.ends_with("release") {
            build.arg("--release");
        }
        if let Some(target) = folder.parent() {
            build.env("CARGO_TARGET_DIR", target);
        }
        let said = run(&mut build);
        assert_eq!(
            said.code,
            Some(0),
            "the agent does not build:\n{}",
            said.err
        );
        assert!(agent.is_file(), "no {} after the build", agent.display());
        agent
    })
}

/// When the newest file below a folder was changed.
fn newest(dir: &Path) -> Option<SystemTime> {
    let entries = std::fs::read_dir(dir).ok()?;
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            match entry.file_type().ok()?.is_dir() {
                true => newest(&entry.path()),
                false => entry.metadata().ok()?.modified().ok(),
            }
        })
        .max()
}

/// Retries and commits that suit a test's patience.
const FAST: &str = "[buffer]\ncommit_interval_ms = 50\n\
    [uplink]\nack_timeout_ms = 1000\nack_timeout_max_ms = 4000\nheartbeat_ms = 1000\n\
    refused_retry_ms = 200\nrefused_retry_max_ms = 1000\n\
    reconnect_min_ms = 50\nreconnect_max_ms = 500\n";

/// An agent with its folder; it may be dead.
pub struct EdgeAgent {
    id: String,
    dir: PathBuf,
    process: Option<Process>,
}

impl EdgeAgent {
    /// An agent that is not started yet. `tables` is its configuration: attributes and sources.
    #[track_caller]
    pub fn new(server: &Server, id: &str, tables: &str) -> Self {
        let dir = server.dir().join(id);
        std::fs::create_dir_all(&dir).expect("a folder for the agent");
        let agent = Self {
            id: id.to_owned(),
            dir,
            process: None,
        };
        agent.configure(server, tables);
        agent
    }

    /// An agent that is not started yet and runs until it is killed, with a report of its own every 200 ms and
    /// one command `job {arg}`, whose program is a shell script in its folder.
    #[track_caller]
    pub fn with_job(server: &Server, id: &str, script: &str) -> Self {
        let dir = server.dir().join(id);
        std::fs::create_dir_all(&dir).expect("a folder for the agent");
        let program = dir.join("job");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a program");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&program, mode).expect("a program that may be run");
        let agent = Self {
            id: id.to_owned(),
            dir,
            process: None,
        };
        let tables = format!(
            "[[source]]\nkind = \"agent\"\ninterval_ms = 200\n\
             [[command]]\nname = \"job\"\nprogram = {program:?}\nargs = [\"{{arg}}\"]\n\
             max_length = {{ arg = 64 }}\ndir = {:?}\n",
            agent.dir
        );
        // A clock that it may trust: without, commands wait for the cloud's time and may change places.
        agent.write_config(server, "clock = \"ntp\"\n", &tables);
        agent
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes its configuration, for the next start.
    #[track_caller]
    pub fn configure(&self, server: &Server, tables: &str) {
        self.write_config(server, "exit_when_done = true\n", tables);
    }

    #[track_caller]
    fn write_config(&self, server: &Server, more: &str, tables: &str) {
        let (id, address, data) = (&self.id, server.mqtt(), self.dir.join("data"));
        let text = format!(
            "agent = {id:?}\nserver = \"mqtt://{address}\"\ndata_dir = {data:?}\nlog = \"info\"\n\
             {more}{FAST}{tables}"
        );
        std::fs::write(self.dir.join("agent.toml"), text).expect("a config file");
    }

    #[track_caller]
    pub fn start(&mut self) {
        let mut command = command(binary());
        command.arg("--config").arg(self.dir.join("agent.toml"));
        let log = self.dir.join("log");
        self.process = Some(Process::start(&self.id, &mut command, &log));
    }

    /// `kill -9`. True if it had ended by itself before, which it does only when it is done.
    #[track_caller]
    pub fn kill9(&mut self) -> bool {
        let mut process = self.process.take().expect("the agent runs");
        let ended = process.ended();
        process.kill9();
        if let Some(status) = ended {
            assert!(status.success(), "{} ended with {status}", self.id);
        }
        ended.is_some()
    }

    /// Waits until all sources have ended and everything is acknowledged.
    #[track_caller]
    pub fn wait_done(&mut self) {
        let process = self.process.as_mut().expect("the agent runs");
        let status = process.wait(PATIENCE);
        assert!(status.success(), "{} ended with {status}", self.id);
        self.process = None;
    }
}
