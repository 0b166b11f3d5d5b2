//! The connection to servers that are wrong, hostile, or away: the agent keeps everything, waits longer
//! each time, costs no CPU, says why, and when the server works again delivers each event once.

mod broker;
mod cloud;
mod program;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use broker::{Authority, Broker, Options};
use cloud::{Cloud, Faults, Manners};
use rumqttc::mqttbytes::v4::ConnectReturnCode;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// CPU time that an agent may use in [`WATCHED`] while its server is away. A loop without a wait would
/// use all of it.
const CPU_MAX: Duration = Duration::from_millis(200);
const WATCHED: Duration = Duration::from_secs(2);

/// An agent that reads standard input and is killed when the test ends.
struct Agent {
    child: Child,
    stdin: Option<ChildStdin>,
    log: PathBuf,
    next: u32,
}

impl Agent {
    /// `top` and `tables` are parts of its configuration.
    fn start(dir: &Path, server: &str, top: &str, tables: &str) -> Self {
        Self::write(dir, server, top, tables);
        let log = dir.join("log");
        let mut child = Self::command(dir)
            .stdin(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        Self {
            child,
            stdin,
            log,
            next: 0,
        }
    }

    fn write(dir: &Path, server: &str, top: &str, tables: &str) {
        let data = dir.join("data");
        let text = format!(
            "agent = \"gw-1\"\nserver = {server:?}\ndata_dir = {data:?}\nexit_when_done = true\n{top}\n\
             [buffer]\ncommit_interval_ms = 20\n\
             [uplink]\nack_timeout_ms = 300\nack_timeout_max_ms = 1000\nheartbeat_ms = 1000\n\
             refused_retry_ms = 200\nrefused_retry_max_ms = 1000\nsilence_max_ms = 1000\n\
             reconnect_min_ms = 200\nreconnect_max_ms = 2000\nconnect_timeout_ms = 500\n\
             {tables}\n[[source]]\nkind = \"stdin\"\ndevice = \"gw-1\"\n"
        );
        std::fs::write(dir.join("agent.toml"), text).unwrap();
    }

    fn command(dir: &Path) -> Command {
        let mut command = program::agent();
        command.arg("--config").arg(dir.join("agent.toml"));
        command
    }

    /// Measures so many values, each another.
    fn measure(&mut self, count: u32) {
        let stdin = self.stdin.as_mut().unwrap();
        for _ in 0..count {
            writeln!(stdin, "{{\"v\":{}}}", self.next).unwrap();
            self.next += 1;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    #[track_caller]
    fn wait_for_log(&self, what: &str) {
        let began = Instant::now();
        while !self.log().contains(what) {
            assert!(began.elapsed() < PATIENCE, "no {what:?} in: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// CPU time used so far.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // After the name in brackets: user and system time are the 12th and 13th; 100 ticks a second.
        let (_, rest) = stat.rsplit_once(')').unwrap();
        let ticks = rest.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.map(|t| t.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    #[track_caller]
    fn must_be_idle(&self) {
        let before = self.cpu();
        std::thread::sleep(WATCHED);
        let used = self.cpu() - before;
        assert!(
            used <= CPU_MAX,
            "{used:?} of CPU in {WATCHED:?}: {}",
            self.log()
        );
    }

    /// The waits that it has announced, by the number of the try.
    fn waits(&self) -> Vec<(u32, f64)> {
        let log = self.log();
        let announced = log.lines().filter_map(|line| {
            let (before, after) = line.split_once(". try in ")?;
            let number = before.rsplit_once("; ")?.1.parse().ok()?;
            Some((number, after.split_once(" s,")?.0.parse().ok()?))
        });
        announced.collect()
    }

    /// Everything is measured; ends when everything is delivered.
    fn finish(&mut self) -> ExitStatus {
        drop(self.stdin.take());
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "it does not end: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it in order and looks whether the cloud has each value once.
    #[track_caller]
    fn must_deliver(&mut self, cloud: &Cloud) {
        assert!(self.finish().success(), "{}", self.log());
        let stored = cloud.stored();
        let values = stored.events.values().filter_map(|s| s.value.as_number());
        let mut values: Vec<u32> = values.map(|v| v as u32).collect();
        values.sort_unstable();
        assert!(values.iter().copied().eq(0..self.next), "{values:?}");
        assert!(stored.gaps.is_empty() && stored.broken_promises.is_empty());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// With a server that does not work: the reason is in the log, the waits grow, the agent idles and lives,
/// and after `repair` everything arrives once.
#[track_caller]
fn endure(mut agent: Agent, cloud: &Cloud, reason: &str, repair: impl FnOnce()) {
    agent.measure(100);
    agent.wait_for_log(reason);
    agent.wait_for_log("; 3. try in ");
    let waits: Vec<f64> = (1..=3)
        .map(|n| {
            let all = agent.waits();
            all.iter().rfind(|(number, _)| *number == n).unwrap().1
        })
        .collect();
    assert!(waits[0] < waits[1] && waits[1] < waits[2], "{waits:?}");
    agent.must_be_idle();
    agent.measure(20);
    assert!(agent.child.try_wait().unwrap().is_none(), "{}", agent.log());
    repair();
    agent.must_deliver(cloud);
}

#[test]
fn hostile_servers_are_endured() {
    let kinds = [
        (
            Manners::Silent,
            "the server accepts the connection and does not answer MQTT",
        ),
        (
            Manners::Refuses(ConnectReturnCode::NotAuthorized),
            "the server refuses user \"gw-1\" or its password (no password is set)",
        ),
        (
            Manners::Refuses(ConnectReturnCode::ServiceUnavailable),
            "the server is not available",
        ),
        (Manners::Deaf, "the server takes batches and never answers"),
        (
            Manners::CutsWelcome,
            "the server closes the connection in the middle of a packet",
        ),
        // It works a little each time, and still the waits grow.
        (Manners::CutsAfterAck, "; 3. try in "),
        (
            Manners::CutsAck,
            "the server closes the connection in the middle of a packet",
        ),
        (
            Manners::Http,
            "the server closes the connection in the middle of a packet; is it an MQTT server?",
        ),
    ];
    std::thread::scope(|scope| {
        for (manners, reason) in kinds {
            scope.spawn(move || {
                let dir = tempfile::tempdir().unwrap();
                let cloud = Cloud::start(Faults::default(), 1);
                cloud.set_manners(manners);
                let server = format!("mqtt://{}", cloud.address);
                let agent = Agent::start(dir.path(), &server, "", "");
                endure(agent, &cloud, reason, || cloud.set_manners(Manners::Good));
            });
        }
    });
}

#[test]
fn a_server_that_sends_pubacks_but_no_acks_is_endured() {
    let dir = tempfile::tempdir().unwrap();
    let mute = Faults {
        mute: true,
        ..Faults::default()
    };
    let cloud = Cloud::start(mute, 1);
    let agent = Agent::start(dir.path(), &format!("mqtt://{}", cloud.address), "", "");
    endure(
        agent,
        &cloud,
        "the server takes batches and never answers",
        || {
            assert!(cloud.stored().events.is_empty());
            cloud.set_faults(Faults::default());
        },
    );
}

#[test]
fn a_server_that_is_away_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(Faults::default(), 1);
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let agent = Agent::start(dir.path(), &format!("mqtt://{address}"), "", "");
    endure(agent, &cloud, "connect: Connection refused", || {
        // What comes to the old address goes to the cloud from now on.
        let listener = std::net::TcpListener::bind(address).unwrap();
        let to = cloud.address;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let cloud = std::net::TcpStream::connect(to).unwrap();
                let pairs = [(&stream, &cloud), (&cloud, &stream)];
                for (from, to) in pairs.map(|(a, b)| (a.try_clone(), b.try_clone())) {
                    let (mut from, mut to) = (from.unwrap(), to.unwrap());
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
    });
}

#[test]
fn refused_events_are_kept_and_tried_again_over_the_same_connection() {
    let dir = tempfile::tempdir().unwrap();
    let refuse = Faults {
        refuse: 100,
        ..Faults::default()
    };
    let cloud = Cloud::start(refuse, 1);
    let mut agent = Agent::start(dir.path(), &format!("mqtt://{}", cloud.address), "", "");
    agent.measure(100);
    agent.wait_for_log("the cloud refused events; they are kept and tried again");
    agent.must_be_idle();
    assert!(cloud.stored().events.is_empty());
    assert_eq!(cloud.stored().connections, 1);
    agent.measure(20);
    cloud.set_faults(Faults::default());
    agent.must_deliver(&cloud);
}

/// Certificates in a folder: the authority's, `ca`; by it `server` (127.0.0.1), `named`
/// (broker.example), `expired`, `client`, `old-client`; by another `foreign`.
fn certificates(dir: &Path) {
    let (ca, other) = (Authority::new("ours"), Authority::new("theirs"));
    ca.write(&dir.join("ca.pem"));
    ca.sign(dir, "server", "127.0.0.1", 2090);
    ca.sign(dir, "named", "broker.example", 2090);
    ca.sign(dir, "expired", "127.0.0.1", 2022);
    ca.sign(dir, "client", "gw-1", 2090);
    ca.sign(dir, "old-client", "gw-1", 2022);
    other.sign(dir, "foreign", "gw-1", 2090);
}

fn serving(certificate: &'static str) -> Options {
    Options {
        certificate: Some(certificate),
        ..Options::default()
    }
}

fn with_client_certificate() -> Options {
    Options {
        client_certificate: true,
        ..serving("server")
    }
}

const USER: Option<(&str, &str)> = Some(("gw-1", "s3cret-word"));

/// `[tls]` with files of `dir`.
fn tls(dir: &Path, ca: &str, client: Option<&str>) -> String {
    let mut text = format!("[tls]\nca = {:?}\n", dir.join(ca));
    if let Some(name) = client {
        let (cert, key) = (format!("{name}.pem"), format!("{name}.key"));
        text += &format!("cert = {:?}\nkey = {:?}\n", dir.join(cert), dir.join(key));
    }
    text
}

#[test]
fn tls_works_with_a_ca_a_client_certificate_a_password_and_another_name() {
    if !broker::is_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    certificates(dir);
    std::fs::write(dir.join("password"), "s3cret-word\n").unwrap();
    let all = Options {
        user: USER,
        ..with_client_certificate()
    };
    let file = format!("password_file = {:?}", dir.join("password"));
    let named = tls(dir, "ca.pem", None) + "server_name = \"broker.example\"\n";
    for (name, options, top, tables) in [
        ("ca", serving("server"), "", tls(dir, "ca.pem", None)),
        (
            "client",
            with_client_certificate(),
            "",
            tls(dir, "ca.pem", Some("client")),
        ),
        ("all", all, &*file, tls(dir, "ca.pem", Some("client"))),
        ("name", serving("named"), "", named),
    ] {
        let home = dir.join(name);
        std::fs::create_dir(&home).unwrap();
        let broker = Broker::start(dir, options);
        let cloud = Cloud::behind(broker.inner);
        let server = format!("mqtts://127.0.0.1:{}", broker.port);
        let mut agent = Agent::start(&home, &server, top, &tables);
        agent.measure(50);
        agent.must_deliver(&cloud);
        assert!(agent.log().contains("connected"), "{name}");
        assert!(
            !agent.log().contains("no connection"),
            "{name}: {}",
            agent.log()
        );
    }
}

/// The broker works with `good` only; until then it has `bad`, and the agent `tables`.
fn endure_broker(
    top: &str,
    tables: impl Fn(&Path) -> String,
    bad: Options,
    good: Options,
    reason: &str,
) {
    if !broker::is_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let mut broker = Broker::start(dir.path(), bad);
    let cloud = Cloud::behind(broker.inner);
    let server = format!("mqtts://127.0.0.1:{}", broker.port);
    let agent = Agent::start(dir.path(), &server, top, &tables(dir.path()));
    endure(agent, &cloud, reason, || {
        assert!(cloud.stored().events.is_empty());
        broker.restart(good);
    });
}

#[test]
fn an_expired_certificate_is_named_and_its_renewal_is_taken() {
    let reason = "the certificate of 127.0.0.1 has expired on 2022-12-31; renew it on the server";
    let tables = |dir: &Path| tls(dir, "ca.pem", None);
    endure_broker("", tables, serving("expired"), serving("server"), reason);
}

#[test]
fn a_wrong_name_is_named() {
    let reason =
        "the server's certificate is not for 127.0.0.1, but for DnsName(\"broker.example\")";
    let tables = |dir: &Path| tls(dir, "ca.pem", None);
    endure_broker("", tables, serving("named"), serving("server"), reason);
}

#[test]
fn a_server_that_wants_a_client_certificate_is_told_apart() {
    let reason =
        "the server wants a client certificate, and none is sent: set tls.cert and tls.key";
    let tables = |dir: &Path| tls(dir, "ca.pem", None);
    endure_broker(
        "",
        tables,
        with_client_certificate(),
        serving("server"),
        reason,
    );
}

#[test]
fn a_client_certificate_that_the_server_does_not_trust_is_named() {
    let reason = "the server does not know the CA of our client certificate (that of tls.cert = ";
    let tables = |dir: &Path| tls(dir, "ca.pem", Some("foreign"));
    endure_broker(
        "",
        tables,
        with_client_certificate(),
        serving("server"),
        reason,
    );
}

#[test]
fn an_expired_client_certificate_is_named() {
    let reason = "the server says that our client certificate has expired (that of tls.cert = ";
    let tables = |dir: &Path| tls(dir, "ca.pem", Some("old-client"));
    endure_broker(
        "",
        tables,
        with_client_certificate(),
        serving("server"),
        reason,
    );
}

#[test]
fn a_port_without_tls_is_told_apart() {
    let reason = "closes the connection in the TLS handshake; is this the port for TLS (8883)?";
    let tables = |dir: &Path| tls(dir, "ca.pem", None);
    endure_broker("", tables, Options::default(), serving("server"), reason);
}

#[test]
fn a_wrong_ca_is_named_and_the_right_one_is_taken_without_a_restart() {
    if !broker::is_here() {
        return;
    }
    let reason = "the certificate of 127.0.0.1 is not signed by the CA in tls.ca = ";
    for (name, reason) in [
        ("theirs", format!("{reason}\"")),
        // A CA that was made anew.
        ("ours", "though by one of the same name".to_owned()),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        certificates(dir);
        let broker = Broker::start(dir, serving("server"));
        let cloud = Cloud::behind(broker.inner);
        Authority::new(name).write(&dir.join("mine.pem"));
        let server = format!("mqtts://127.0.0.1:{}", broker.port);
        let agent = Agent::start(dir, &server, "", &tls(dir, "mine.pem", None));
        endure(agent, &cloud, &reason, || {
            std::fs::copy(dir.join("ca.pem"), dir.join("mine.pem")).unwrap();
        });
    }
}

#[test]
fn a_revoked_user_keeps_everything_and_a_new_password_is_taken_without_a_restart() {
    if !broker::is_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    certificates(dir);
    let knowing = |user| Options {
        user: Some(user),
        ..serving("server")
    };
    let mut broker = Broker::start(dir, knowing(("gw-1", "s3cret-word")));
    let cloud = Cloud::behind(broker.inner);
    std::fs::write(dir.join("password"), "s3cret-word").unwrap();
    let top = format!("password_file = {:?}", dir.join("password"));
    let server = format!("mqtts://127.0.0.1:{}", broker.port);
    let mut agent = Agent::start(dir, &server, &top, &tls(dir, "ca.pem", None));
    agent.measure(10);
    cloud.wait_for("the first values", |s| s.events.len() == 10);
    // Revoked; then let in with another password.
    broker.restart(knowing(("somebody", "else")));
    agent.wait_for_log("the server refuses user \"gw-1\" or its password (see password_file)");
    let log = agent.log.clone();
    endure(agent, &cloud, "; 3. try in ", || {
        broker.restart(knowing(("gw-1", "new-word")));
        std::fs::write(dir.join("password"), "new-word\n").unwrap();
    });
    let log = std::fs::read_to_string(log).unwrap();
    assert!(
        !log.contains("s3cret-word") && !log.contains("new-word"),
        "{log}"
    );
}

#[test]
fn check_looks_at_certificates_keys_and_the_password() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    certificates(dir);
    std::fs::write(dir.join("empty"), "").unwrap();
    std::fs::write(dir.join("word"), "s3cret-word").unwrap();
    let check = |top: &str, tables: &str| {
        Agent::write(dir, "mqtts://localhost", top, tables);
        let out = Agent::command(dir).arg("check").output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let files = |ca: &str, cert: &str, key: &str| {
        let [ca, cert, key] = [ca, cert, key].map(|name| dir.join(name));
        format!("[tls]\nca = {ca:?}\ncert = {cert:?}\nkey = {key:?}\n")
    };
    let good = files("ca.pem", "client.pem", "client.key");
    let word = format!("password_file = {:?}", dir.join("word"));
    let (code, text) = check(&word, &good);
    assert!(code == Some(0) && !text.contains("s3cret"), "{text}");
    for (tables, expected) in [
        (files("none", "client.pem", "client.key"), "tls.ca = "),
        (
            files("none", "client.pem", "client.key"),
            "cannot be read: No such file",
        ),
        (
            files("empty", "client.pem", "client.key"),
            "holds no certificate",
        ),
        (
            files("ca.pem", "client.key", "client.key"),
            "holds no certificate",
        ),
        (
            files("ca.pem", "client.pem", "client.pem"),
            "holds no private key",
        ),
        (
            files("ca.pem", "client.pem", "server.key"),
            "is not the key of tls.cert = ",
        ),
    ] {
        let (code, text) = check("", &tables);
        assert!(
            code == Some(2) && text.contains(expected),
            "{expected}: {text}"
        );
    }
    let (code, text) = check(&format!("password_file = {:?}", dir.join("empty")), &good);
    assert!(code == Some(2) && text.contains("is empty"), "{text}");
}

#[test]
fn keys_of_all_formats_are_read() {
    let openssl = |args: &str, dir: &Path| {
        let mut command = Command::new("openssl");
        let command = command.args(args.split(' ')).current_dir(dir);
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    if !openssl("version", dir) {
        eprintln!("skipped: openssl is not here");
        return;
    }
    Authority::new("ours").write(&dir.join("ca.pem"));
    for (make, convert, begins) in [
        (
            "genrsa -out k 2048",
            "rsa -in k -traditional -out key",
            "-----BEGIN RSA PRIVATE KEY",
        ),
        (
            "genrsa -out k 2048",
            "pkcs8 -topk8 -nocrypt -in k -out key",
            "-----BEGIN PRIVATE KEY",
        ),
        (
            "ecparam -name prime256v1 -genkey -noout -out k",
            "ec -in k -out key",
            "-----BEGIN EC PRIVATE KEY",
        ),
        (
            "genpkey -algorithm ed25519 -out k",
            "pkey -in k -out key",
            "-----BEGIN PRIVATE KEY",
        ),
        // Nobody can type its password.
        (
            "genrsa -out k 2048",
            "pkcs8 -topk8 -passout pass:abcd -in k -out key",
            "-----BEGIN ENCRYPTED",
        ),
    ] {
        assert!(openssl(make, dir) && openssl(convert, dir), "{convert}");
        let request = "req -x509 -new -key k -subj /CN=gw-1 -days 100 -out cert";
        assert!(openssl(request, dir));
        let key = std::fs::read_to_string(dir.join("key")).unwrap();
        assert!(key.starts_with(begins), "{key}");
        let [ca, cert, key] = ["ca.pem", "cert", "key"].map(|n| dir.join(n));
        let tables = format!("[tls]\nca = {ca:?}\ncert = {cert:?}\nkey = {key:?}\n");
        Agent::write(dir, "mqtts://localhost", "", &tables);
        let out = Agent::command(dir).arg("check").output().unwrap();
        let text = String::from_utf8(out.stderr).unwrap();
        if begins.contains("ENCRYPTED") {
            assert!(
                out.status.code() == Some(2) && text.contains("is encrypted"),
                "{text}"
            );
        } else {
            assert!(out.status.success(), "{begins}: {text}");
        }
    }
}
