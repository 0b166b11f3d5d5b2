//! Processes that end with the test, a server to start, kill and start again, and waiting by looking.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpSocket;

use super::http;

/// A test that waits longer than this hangs. Generous: debug binaries on two busy cores.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// DESIGN §6: a stop takes at most this long.
const STOP_MAX: Duration = Duration::from_secs(10);
/// Lines of a program's log that a failed test shows.
const SHOWN_LINES: usize = 40;

/// Looks again and again until there is something, and says what was missing if nothing ever comes.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    wait_at_most(what, PATIENCE, &mut look)
}

/// [`wait_for`] with its own limit.
#[track_caller]
pub fn wait_at_most<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            began.elapsed() < limit,
            "waited {limit:?} in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// Looks until the answer is right; fails with the newest difference.
#[track_caller]
pub fn settle(what: &str, mut difference: impl FnMut() -> Result<(), String>) {
    let began = Instant::now();
    loop {
        match difference() {
            Ok(()) => return,
            Err(text) => assert!(began.elapsed() < PATIENCE, "{what}: {text}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The seed of a random test: printed, and taken from `TIDEWATCH_TEST_SEED` to repeat a run.
pub fn seed() -> u64 {
    let seed = match std::env::var("TIDEWATCH_TEST_SEED") {
        Ok(text) => text.parse().expect("TIDEWATCH_TEST_SEED is a number"),
        Err(_) => rand::rng().random_range(0..1_000_000),
    };
    eprintln!("seed: TIDEWATCH_TEST_SEED={seed}");
    seed
}

/// Says something that people should read even if the test passes.
pub fn say(text: &str) {
    // Not `eprintln!`, which is kept back unless a test fails.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Says why a test does nothing here.
pub fn skipped(why: &str) {
    say(&format!("SKIPPED: {why}"));
}

/// Whether a program of that name is on the path.
pub fn is_installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|dir| dir.join(program).is_file())
}

/// A command without this machine's own settings of the product.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEWATCH_") {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// The server binary with arguments.
pub fn tidewatch(arguments: &[&str]) -> Command {
    let mut command = command(env!("CARGO_BIN_EXE_tidewatch"));
    command.args(arguments);
    command
}

/// What a program that ends by itself said.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs a program to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Said {
    let output = command.output().expect("the program starts");
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A process that is killed when the test ends, and whose log a failed test shows.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; stderr is added to `log`. Stdout is left as the command has it.
    #[track_caller]
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let file: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .expect("the log opens");
        let child = command
            .stderr(file)
            .spawn()
            .unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        }
    }

    /// `kill -9`, and waits until it is gone.
    #[track_caller]
    pub fn kill9(&mut self) {
        // An error means that it has ended already, which the caller is told by `wait`.
        let _ = self.child.kill();
        self.child.wait().expect("a killed process ends");
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the process takes a signal");
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the process can be looked at")
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let name = self.name.clone();
        wait_at_most(&format!("the end of {name}"), limit, || self.ended())
    }

    /// Stdout, if the command was given a pipe.
    pub fn stdout(&mut self) -> impl std::io::Read + Send + 'static {
        self.child.stdout.take().expect("stdout is a pipe")
    }

    /// Everything that it logged so far, in this life and in the ones before.
    pub fn logged(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.logged();
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
            eprintln!("--- the log of {} ends with", self.name);
            shown.iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// A free port that stays ours while its owner comes and goes. A bound socket that does not listen
/// keeps the kernel from giving the port to anybody else, and lets a server that reuses addresses in.
struct Reserved {
    _socket: TcpSocket,
    address: SocketAddr,
}

impl Reserved {
    fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("addresses are reused");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(any).expect("a free port");
        let address = socket.local_addr().expect("an address");
        Self {
            _socket: socket,
            address,
        }
    }
}

/// What a server is to be started with.
#[derive(Default)]
pub struct System {
    config: String,
}

impl System {
    /// A server with the defaults, on free ports, in a temporary folder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Its configuration file.
    pub fn config(mut self, toml: &str) -> Self {
        self.config = toml.to_owned();
        self
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    pub fn start(self) -> Server {
        let server = self.start_unready();
        server.wait_ready();
        server
    }

    /// Starts it and waits only until it can be reached.
    #[track_caller]
    pub fn start_unready(self) -> Server {
        let dir = tempfile::Builder::new()
            .prefix("tidewatch-test-")
            .tempdir()
            .expect("a temporary folder");
        std::fs::write(dir.path().join("tidewatch.toml"), &self.config).expect("a config file");
        let mqtt = Reserved::new();
        let (process, http) = launch(dir.path(), &mqtt);
        Server {
            process: Some(process),
            http,
            mqtt,
            dir,
        }
    }
}

#[track_caller]
fn spawn(dir: &Path, mqtt: &Reserved) -> Process {
    let mut command = tidewatch(&["up", "--listen", "127.0.0.1:0"]);
    command
        .arg("--config")
        .arg(dir.join("tidewatch.toml"))
        .arg("--data")
        .arg(dir.join("data"))
        .arg("--mqtt")
        .arg(mqtt.address.to_string())
        .stdout(Stdio::piped());
    Process::start("tidewatch up", &mut command, &dir.join("server.log"))
}

#[track_caller]
fn launch(dir: &Path, mqtt: &Reserved) -> (Process, SocketAddr) {
    let mut process = spawn(dir, mqtt);
    let (http, at) = ready_line(&mut process);
    assert_eq!(at, mqtt.address, "MQTT listens where it was told to");
    (process, http)
}

/// Reads `ready http=… mqtt=…` from a program's stdout.
#[track_caller]
pub fn ready_line(process: &mut Process) -> (SocketAddr, SocketAddr) {
    let (tell, told) = mpsc::channel();
    let stdout = process.stdout();
    // Reads to the end, so that the program never writes into a full or closed pipe.
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = tell.send(line);
        }
    });
    let line = told
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|_| panic!("{} does not say that it is ready", process.name));
    let address = |key: &str| {
        let word = line.split(' ').find_map(|word| word.strip_prefix(key));
        word.and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("no {key} in {line:?}"))
    };
    assert!(line.starts_with("ready "), "{line:?}");
    (address("http="), address("mqtt="))
}

/// A server that runs, or is dead for the moment.
pub struct Server {
    process: Option<Process>,
    http: SocketAddr,
    mqtt: Reserved,
    // Dropped last: the process must not lose its folder under its feet.
    dir: TempDir,
}

impl Server {
    /// Where MQTT listens, over all lives.
    pub fn mqtt(&self) -> SocketAddr {
        self.mqtt.address
    }

    /// Where page and API listen in this life.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Folder of this test: `data` is the server's, anything else is free to use.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the server runs")
    }

    /// GETs JSON that must be there.
    #[track_caller]
    pub fn http(&self, path: &str) -> Value {
        let reply = http::get(self.http, path).unwrap_or_else(|e| panic!("GET {path}: {e}"));
        assert_eq!(reply.status, 200, "GET {path}: {}", reply.text());
        reply.json()
    }

    /// GETs a page as text.
    #[track_caller]
    pub fn text(&self, path: &str) -> String {
        let reply = http::get(self.http, path).unwrap_or_else(|e| panic!("GET {path}: {e}"));
        assert_eq!(reply.status, 200, "GET {path}: {}", reply.text());
        reply.text()
    }

    /// A number of `/api/v1/overview`'s totals.
    #[track_caller]
    pub fn total(&self, name: &str) -> u64 {
        self.http("/api/v1/overview")["totals"][name]
            .as_u64()
            .unwrap_or_else(|| panic!("no total {name:?}"))
    }

    /// Waits until `/readyz` says so.
    #[track_caller]
    pub fn wait_ready(&self) {
        wait_for("/readyz to be 200", || {
            let reply = http::get(self.http, "/readyz").ok()?;
            (reply.status == 200).then_some(())
        });
    }

    /// `kill -9`. Fails if it had ended by itself before.
    #[track_caller]
    pub fn kill9(&mut self) {
        let mut process = self.process.take().expect("the server runs");
        if let Some(status) = process.ended() {
            panic!("the server ended by itself with {status}");
        }
        process.kill9();
    }

    /// Starts a dead server and kills it after a moment, wherever it has come to by then.
    #[track_caller]
    pub fn start_and_kill9(&mut self, after: Duration) {
        assert!(self.process.is_none(), "the server runs already");
        let mut process = spawn(self.dir.path(), &self.mqtt);
        std::thread::sleep(after);
        if let Some(status) = process.ended() {
            panic!("the server ended by itself with {status}");
        }
        process.kill9();
    }

    /// Starts a dead server again on the same folder, and waits until it can be reached.
    #[track_caller]
    pub fn restart_unready(&mut self) {
        assert!(self.process.is_none(), "the server runs already");
        let (process, http) = launch(self.dir.path(), &self.mqtt);
        self.process = Some(process);
        self.http = http;
    }

    /// Starts a dead server again on the same folder, and waits until it is ready.
    #[track_caller]
    pub fn restart(&mut self) {
        self.restart_unready();
        self.wait_ready();
    }

    /// SIGTERM; must end with 0 in time.
    #[track_caller]
    pub fn stop(&mut self) {
        self.stop_by(Signal::TERM);
    }

    /// A signal; must end with 0 in time.
    #[track_caller]
    pub fn stop_by(&mut self, signal: Signal) {
        let process = self.process();
        process.signal(signal);
        let status = process.wait(STOP_MAX);
        assert!(
            status.success(),
            "stopped by {signal:?} it ended with {status}"
        );
        self.process = None;
    }
}
