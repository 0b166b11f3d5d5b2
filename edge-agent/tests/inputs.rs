//! The program with sources that others push into or that it starts: what comes in over real sockets
//! and from real programs is what the cloud sees.

// Shared with the tests of the program as a whole, which use more of it.
mod cloud;
mod program;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cloud::{Cloud, Faults, Stored};
use event::Value;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

const LONG: Duration = Duration::from_secs(60);

/// An agent that is killed when the test ends.
struct Agent {
    child: Child,
    dir: PathBuf,
}

impl Agent {
    fn start(dir: &Path, cloud: &Cloud, sources: &str) -> Self {
        let path = dir.join("agent.toml");
        let (server, data) = (format!("mqtt://{}", cloud.address), dir.join("data"));
        let config = format!(
            "agent = \"gw-1\"\nserver = {server:?}\ndata_dir = {data:?}\nlog = \"info\"\n\
             clock = \"ntp\"\n\
             [buffer]\ncommit_interval_ms = 20\n\
             [uplink]\nack_timeout_ms = 150\nack_timeout_max_ms = 500\nheartbeat_ms = 1000\n\
             reconnect_min_ms = 20\nreconnect_max_ms = 100\n{sources}"
        );
        std::fs::write(&path, config).unwrap();
        let child = program::agent()
            .arg("--config")
            .arg(path)
            .env("TIDEWATCH_AGENT_PASSWORD", "secret")
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(dir.join("log")).unwrap())
            .spawn()
            .unwrap();
        let dir = dir.to_owned();
        Self { child, dir }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap()
    }

    /// Where a source listens, as the log says.
    fn address(&self, source: &str, scheme: &str) -> SocketAddr {
        let began = Instant::now();
        loop {
            let log = self.log();
            let line = log
                .lines()
                .find(|l| l.contains("listening") && l.contains(&format!("source=\"{source}\"")));
            if let Some(line) = line {
                let after = line.split_once(&format!("address={scheme}://")).unwrap().1;
                return after.split_whitespace().next().unwrap().parse().unwrap();
            }
            assert!(began.elapsed() < LONG, "it does not listen: {log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn stop(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}: {}", self.log());
                return;
            }
            assert!(began.elapsed() < LONG, "the agent does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `device metric` to values with their times in microseconds, in the order of the events.
fn seen(stored: &Stored) -> BTreeMap<String, Vec<(Value, i64)>> {
    let mut seen: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for s in stored.events.values() {
        let key = format!("{} {}", s.device, s.metric);
        let value = (s.value.clone(), s.time.as_micros());
        seen.entry(key).or_default().push(value);
    }
    seen
}

fn now_micros() -> i64 {
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_micros()).unwrap()
}

#[test]
fn line_protocol_and_statsd_arrive_with_devices_metrics_values_and_times() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults {
        lose_ack: 20,
        ..Faults::default()
    };
    let cloud = Cloud::start(faults, 1);
    let mut agent = Agent::start(
        dir.path(),
        &cloud,
        "[[source]]\nkind = 'socket'\nname = 'udp'\nlisten = 'udp://127.0.0.1:0'\nformat = 'line'\n\
         tags = ['site']\n\
         [[source]]\nkind = 'socket'\nname = 'tcp'\nlisten = 'tcp://127.0.0.1:0'\nformat = 'line'\n\
         precision = 's'\nmetric_names = 'field'\ndevice = 'gw-1'\n\
         [[source]]\nkind = 'socket'\nname = 'statsd'\nlisten = 'udp://127.0.0.1:0'\n\
         format = 'statsd'\ninterval_ms = 3600000\ndevice = 'app'\n",
    );
    let udp = agent.address("udp", "udp");
    let tcp = agent.address("tcp", "tcp");
    let statsd = agent.address("statsd", "udp");
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let began = now_micros();
    client
        .send_to(
            b"weather,device=d1,site=p\\ 1,ignored=x temp=21.5,n=-3i,ok=t,door=\"a \\\"b\\\"\" 1700000000123456789\n\
              weather,device=d1,site=p\\ 1 temp=22 1700000001000000000\n\
              bad line\n\
              weather,host=h2 value=1e400,rain=0.5",
            udp,
        )
        .unwrap();
    let mut stream = TcpStream::connect(tcp).unwrap();
    stream
        .write_all(b"m,x=y level=7i 1700000002\nm lev")
        .unwrap();
    stream.write_all(b"el=8u 1700000003\n").unwrap();
    client
        .send_to(b"hits:1|c\nhits:2|c|@0.1\nlevel:7|g\nlevel:+3|g", statsd)
        .unwrap();
    client
        .send_to(
            b"took:10|ms\ntook:30|ms|#device:d1\nusers:a|s\nusers:b|s\nx:1|y",
            statsd,
        )
        .unwrap();
    cloud.wait_for("the lines", |s| seen(s).len() >= 7);
    // The counts of StatsD are still being gathered: a stop hands them on.
    std::thread::sleep(Duration::from_millis(300));
    assert!(!seen(&cloud.stored()).contains_key("app hits"));
    agent.stop();
    let ended = now_micros();
    let seen = seen(&cloud.stored());
    let t = 1_700_000_000_000_000;
    let text = |s: &str| Value::Text(s.into());
    let fixed = [
        ("d1 @site", vec![(text("p 1"), t + 123_456)]),
        (
            "d1 weather.temp",
            vec![
                (Value::Number(21.5), t + 123_456),
                (Value::Number(22.0), t + 1_000_000),
            ],
        ),
        ("d1 weather.n", vec![(Value::Number(-3.0), t + 123_456)]),
        ("d1 weather.ok", vec![(Value::Bool(true), t + 123_456)]),
        ("d1 weather.door", vec![(text("a \"b\""), t + 123_456)]),
        (
            "gw-1 level",
            vec![
                (Value::Number(7.0), t + 2_000_000),
                (Value::Number(8.0), t + 3_000_000),
            ],
        ),
    ];
    let stamped = [
        ("h2 weather.rain", 0.5),
        ("app hits", 21.0),
        ("app level", 10.0),
        ("app took.count", 1.0),
        ("app took.min", 10.0),
        ("app took.max", 10.0),
        ("app took.mean", 10.0),
        ("d1 took.count", 1.0),
        ("d1 took.min", 30.0),
        ("d1 took.max", 30.0),
        ("d1 took.mean", 30.0),
        ("app users.distinct", 2.0),
    ];
    for (key, values) in &fixed {
        assert_eq!(seen.get(*key), Some(values), "{key}");
    }
    for (key, n) in stamped {
        let [(value, time)] = &seen[key][..] else {
            panic!("{key}: {:?}", seen[key]);
        };
        assert_eq!(*value, Value::Number(n), "{key}");
        assert!(began <= *time && *time <= ended, "{key}");
    }
    assert_eq!(seen.len(), fixed.len() + stamped.len(), "{seen:?}");
    let log = agent.log();
    for reason in [
        "the field \"line\" has no value",
        "value: \"1e400\" is not a finite number",
        "unknown type \"y\"",
    ] {
        assert!(
            log.contains(&reason.replace('"', "\\\"")),
            "{reason}: {log}"
        );
    }
}

#[test]
fn programs_are_read_and_end_with_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(Faults::default(), 2);
    let pids = dir.path().join("pids");
    let stream = format!(
        "echo $$ >>{0}; sleep 1000 & echo $! >>{0}; echo trouble >&2; \
         echo 'm,device=d1 t=1,u=\"'${{TIDEWATCH_AGENT_PASSWORD:-none}}$WHAT'\" 1700000000000000000'; wait",
        pids.display()
    );
    let mut agent = Agent::start(
        dir.path(),
        &cloud,
        &format!(
            "[[source]]\nkind = 'exec'\nname = 'n'\ncommand = ['/bin/echo', '21.5']\n\
             format = 'value'\nmetric = 'temp'\ninterval_ms = 50\n\
             [[source]]\nkind = 'exec'\nname = 's'\ncommand = ['/bin/sh', '-c', {stream:?}]\n\
             mode = 'stream'\nformat = 'line'\nenv = {{ WHAT = '!' }}\n"
        ),
    );
    cloud.wait_for("both", |s| {
        let seen = seen(s);
        seen.get("gw-1 temp").is_some_and(|v| v.len() >= 3) && seen.contains_key("d1 m.t")
    });
    agent.stop();
    let seen = seen(&cloud.stored());
    assert!(
        seen["gw-1 temp"]
            .iter()
            .all(|(v, _)| *v == Value::Number(21.5))
    );
    // What configures the agent is no business of the program's.
    let text = (Value::Text("none!".into()), 1_700_000_000_000_000);
    assert_eq!(seen["d1 m.u"], [text]);
    let log = agent.log();
    assert!(
        log.contains("the program says") && log.contains("trouble"),
        "{log}"
    );
    let pids: Vec<Pid> = std::fs::read_to_string(pids)
        .unwrap()
        .lines()
        .map(|line| Pid::from_raw(line.parse().unwrap()).unwrap())
        .collect();
    assert_eq!(pids.len(), 2);
    for pid in pids {
        // Gone, or dead and not yet reaped by the system.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        let dead = stat.map_or(true, |s| s.contains(") Z "));
        assert!(
            dead || test_kill_process(pid).is_err(),
            "{pid:?} still runs"
        );
    }
}

/// A Python with the client, if there is one.
fn python() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/.venv/bin/python");
    let named = std::env::var_os("TIDEWATCH_PYTHON").map(PathBuf::from);
    named
        .into_iter()
        .chain([own, PathBuf::from("python3")])
        .find(|python| {
            let import = Command::new(python)
                .args(["-c", "import influxdb"])
                .output();
            import.is_ok_and(|o| o.status.success())
        })
}

const CLIENT: &str = r#"
import datetime, sys
from influxdb import InfluxDBClient
client = InfluxDBClient(use_udp=True, udp_port=int(sys.argv[1]), host="127.0.0.1")
utc = datetime.timezone.utc
client.write_points([
    {
        "measurement": "air quality",
        "tags": {"device": "py-1", "site": "hall, 2=b", "empty": ""},
        "time": datetime.datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=utc),
        "fields": {
            "co2": 412,
            "temp": 21.5,
            "tiny": 1e-7,
            "huge": 1e300,
            "ok": True,
            "bad": False,
            "note": 'say "hi", C:\\new = ü',
            "a,b=c d": 1,
            "none": None,
        },
    },
    {
        "measurement": "level",
        "tags": {"device": "py-2"},
        "time": "2023-11-14T22:13:21Z",
        "fields": {"value": -3},
    },
])
# Over UDP nothing says the unit: another socket takes seconds.
seconds = InfluxDBClient(use_udp=True, udp_port=int(sys.argv[2]), host="127.0.0.1")
seconds.write_points(
    [{"measurement": "level", "time": 1700000002, "fields": {"value": 4}}],
    time_precision="s",
    tags={"device": "py-2"},
)
client.write_points([{"measurement": "now", "tags": {"device": "py-2"}, "fields": {"value": 1.25}}])
client.close()
seconds.close()
"#;

#[test]
fn a_client_from_pypi_writes_points() {
    let Some(python) = python() else {
        eprintln!("skipped: no Python with influxdb (PyPI: influxdb; tests/run installs it)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(Faults::default(), 3);
    let mut agent = Agent::start(
        dir.path(),
        &cloud,
        "[[source]]\nkind = 'socket'\nname = 'in'\nlisten = 'udp://127.0.0.1:0'\nformat = 'line'\n\
         tags = ['site']\n\
         [[source]]\nkind = 'socket'\nname = 's'\nlisten = 'udp://127.0.0.1:0'\nformat = 'line'\n\
         precision = 's'\n",
    );
    let ports = ["in", "s"].map(|name| agent.address(name, "udp").port().to_string());
    let began = now_micros();
    let out = Command::new(python)
        .args(["-c", CLIENT])
        .args(ports)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    cloud.wait_for("the last points", |s| {
        let seen = seen(s);
        seen.contains_key("py-2 now") && seen.get("py-2 level").is_some_and(|v| v.len() == 2)
    });
    agent.stop();
    let ended = now_micros();
    let mut seen = seen(&cloud.stored());
    // Of two sockets, in whatever order.
    seen.get_mut("py-2 level")
        .unwrap()
        .sort_by_key(|(_, time)| *time);
    let (_, time) = seen.remove("py-2 now").unwrap()[0];
    assert!(began <= time && time <= ended);
    let t = 1_700_000_000_000_000;
    let one = |value| vec![(value, t + 123_456)];
    let number = |n| one(Value::Number(n));
    let expected = BTreeMap::from(
        [
            ("py-1 @site", one(Value::Text("hall, 2=b".into()))),
            ("py-1 air_quality.co2", number(412.0)),
            ("py-1 air_quality.temp", number(21.5)),
            ("py-1 air_quality.tiny", number(1e-7)),
            ("py-1 air_quality.huge", number(1e300)),
            ("py-1 air_quality.a_b_c_d", number(1.0)),
            ("py-1 air_quality.ok", one(Value::Bool(true))),
            ("py-1 air_quality.bad", one(Value::Bool(false))),
            (
                "py-1 air_quality.note",
                one(Value::Text("say \"hi\", C:\\new = ü".into())),
            ),
            (
                "py-2 level",
                vec![
                    (Value::Number(-3.0), t + 1_000_000),
                    (Value::Number(4.0), t + 2_000_000),
                ],
            ),
        ]
        .map(|(key, values)| (key.to_owned(), values)),
    );
    assert_eq!(seen, expected, "{}", agent.log());
}
