//! What a run is told to do.

use std::path::PathBuf;
use std::time::Duration;

use event::{AgentId, DeviceId, EventTime};

use crate::Scenario;
use crate::clock::wall_clock;
use crate::duration::micros;

/// Most agents of one run: each is a connection and a task.
pub const AGENTS_MAX: u32 = 20_000;
/// Most devices of one run.
pub const DEVICES_MAX: u32 = 20_000_000;
/// Most events per second that can be asked for.
pub const RATE_MAX: f64 = 100_000_000.0;
/// Most events in one batch.
pub const BATCH_EVENTS_MAX: usize = 10_000;

/// Settings of a run. [`Settings::new`] has the defaults; [`Settings::check`] says what does not fit.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where the MQTT server listens.
    pub connect: Server,
    /// How many devices.
    pub devices: u32,
    /// How many agents. Device `i` of `n` sits behind agent `i × agents / n`.
    pub agents: u32,
    /// Events per second of real time, over all devices.
    pub rate: f64,
    /// How long events are made, in real time; none = until shutdown.
    pub duration: Option<Duration>,
    /// Decides every value, and who is hit by a fault. Incarnations are drawn from the system and
    /// differ in every run, as the protocol asks.
    pub seed: u64,
    /// What goes wrong, and when.
    pub scenario: Scenario,
    /// Where the truth is written after the end; none = it is not kept at all.
    pub truth: Option<PathBuf>,
    /// Where the agents' identities are kept from run to run; none = each run has agents that the cloud
    /// must take for strangers with known names ([`crate::memory`] says why).
    pub state: Option<PathBuf>,
    /// Window lengths of the truth. Whole seconds.
    pub truth_windows: Vec<Duration>,
    /// Start of the simulated wall clock; none = now.
    pub start: Option<EventTime>,
    /// How much faster than real time the wall clock runs. Above 1 only with a start in the past.
    pub time_scale: f64,
    /// What device ids begin with.
    pub device_prefix: String,
    /// What agent ids begin with.
    pub agent_prefix: String,
    /// How many sites the agents are spread over.
    pub sites: u32,
    /// Events of a full batch.
    pub batch_events: usize,
    /// How long an event waits for company at most, while its agent is connected.
    pub linger: Duration,
    /// A heartbeat goes out when nothing else was sent for so long.
    pub heartbeat: Duration,
    /// How long a range waits for its ack the first time; doubled at each resend up to eight times
    /// this, with a jitter of a quarter.
    pub ack_timeout: Duration,
    /// First and longest wait before a reconnect.
    pub reconnect: (Duration, Duration),
    /// A run in which no agent was ever connected ends with an error after this long. Once one was, a
    /// server that is away is no error.
    pub connect_timeout: Duration,
    /// Events that all agents together may hold un-acked. An agent whose share is full makes no more
    /// until acks come (its events then come late, none is lost, and its low watermark waits).
    pub buffer_events: u64,
    /// How long to wait after the last event until everything is acked.
    pub drain: Duration,
    /// How long to stay after that so that the last window can end and be reported complete.
    pub settle: Duration,
    /// Password for the server; the user name of each connection is its agent's id.
    pub password: Option<String>,
}

/// The address of an MQTT server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "mqtt://[{}]:{}", self.host, self.port),
            false => write!(f, "mqtt://{}:{}", self.host, self.port),
        }
    }
}

impl std::str::FromStr for Server {
    type Err = String;

    /// Reads `mqtt://host:port`; the port may be left out (1883).
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!("{text:?} {why}; write mqtt://HOST:PORT, as in mqtt://127.0.0.1:1883")
        };
        let rest = text
            .strip_prefix("mqtt://")
            .ok_or_else(|| wrong("has no mqtt:// in front"))?;
        let rest = rest.trim_end_matches('/');
        let (host, port) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((host, "")) => (host, "1883"),
            Some((host, port)) => (
                host,
                port.strip_prefix(':')
                    .ok_or_else(|| wrong("has no port after ]"))?,
            ),
            None => rest.rsplit_once(':').unwrap_or((rest, "1883")),
        };
        if host.is_empty() || host.contains(['/', '@', ' ']) {
            return Err(wrong("names no host"));
        }
        let port = port.parse().map_err(|_| wrong("has no valid port"))?;
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl Settings {
    /// A calm run without an end: seed 1, no truth.
    pub fn new(connect: Server, devices: u32, agents: u32, rate: f64) -> Self {
        Self {
            connect,
            devices,
            agents,
            rate,
            duration: None,
            seed: 1,
            scenario: Scenario::calm(),
            truth: None,
            state: None,
            truth_windows: vec![Duration::from_secs(10)],
            start: None,
            time_scale: 1.0,
            device_prefix: "dev-".to_owned(),
            agent_prefix: "gw-".to_owned(),
            sites: 8,
            batch_events: 1000,
            linger: Duration::from_secs(1),
            heartbeat: Duration::from_secs(60),
            ack_timeout: Duration::from_secs(5),
            reconnect: (Duration::from_millis(250), Duration::from_secs(5)),
            connect_timeout: Duration::from_secs(10),
            buffer_events: 10_000_000,
            drain: Duration::from_secs(120),
            settle: Duration::from_secs(15),
            password: None,
        }
    }

    /// The fleet of `tidewatch demo`: a few hundred devices behind a dozen gateways and something to
    /// look at every minute.
    pub fn demo(connect: Server) -> Self {
        Self {
            scenario: Scenario::demo(),
            ..Self::new(connect, 240, 12, 240.0)
        }
    }

    /// Checks that the parts fit each other.
    ///
    /// **Errors**: the setting, what is wrong with it, and the allowed range.
    pub fn check(&self) -> anyhow::Result<()> {
        let now = wall_clock();
        let range = |ok: bool, text: &str| {
            if ok {
                Ok(())
            } else {
                Err(anyhow::anyhow!("{text}"))
            }
        };
        range(
            (1..=AGENTS_MAX).contains(&self.agents),
            &format!("agents = {} must be 1 to {AGENTS_MAX}", self.agents),
        )?;
        range(
            (1..=DEVICES_MAX).contains(&self.devices),
            &format!("devices = {} must be 1 to {DEVICES_MAX}", self.devices),
        )?;
        range(
            self.agents <= self.devices,
            &format!(
                "{} agents for {} devices: every agent needs a device, so lower agents",
                self.agents, self.devices
            ),
        )?;
        range(
            self.rate > 0.0 && self.rate <= RATE_MAX,
            &format!(
                "rate = {} must be above 0 and at most {RATE_MAX}",
                self.rate
            ),
        )?;
        range(
            (1..=10_000).contains(&self.sites),
            "sites must be 1 to 10000",
        )?;
        range(
            (1..=BATCH_EVENTS_MAX).contains(&self.batch_events),
            &format!("batch-events must be 1 to {BATCH_EVENTS_MAX}"),
        )?;
        range(self.buffer_events > 0, "buffer-events must be above 0")?;
        range(
            micros(self.linger) >= 1000 && micros(self.ack_timeout) >= 10_000,
            "linger must be at least 1ms and ack-timeout at least 10ms",
        )?;
        range(
            micros(self.reconnect.0) >= 1000 && self.reconnect.0 <= self.reconnect.1,
            "the first reconnect delay must be at least 1ms and not above the longest",
        )?;
        for w in &self.truth_windows {
            range(
                w.subsec_nanos() == 0 && (1..=86_400).contains(&w.as_secs()),
                "truth-window must be whole seconds, 1s to 24h",
            )?;
        }
        AgentId::new(&format!("{}0001", self.agent_prefix))?;
        DeviceId::new(&format!("{}000001", self.device_prefix))?;
        range(
            self.time_scale > 0.0 && self.time_scale <= 100_000.0,
            "time-scale must be above 0 and at most 100000",
        )?;
        match self.start {
            None => range(
                self.time_scale == 1.0,
                "time-scale needs a --start in the past",
            ),
            Some(start) => {
                let length = self.duration.ok_or_else(|| {
                    anyhow::anyhow!(
                        "--start needs a --duration: simulated time must end before now"
                    )
                })?;
                let real = micros(length) as f64;
                let ends = start.0 as f64 + real * self.time_scale;
                range(
                    ends <= now.0 as f64 + real && start < now,
                    "simulated time would overtake real time: take an earlier --start or a smaller \
                     --time-scale (start + time-scale × duration must not pass the real end)",
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read() {
        for (text, host, port) in [
            ("mqtt://127.0.0.1:1883", "127.0.0.1", 1883),
            ("mqtt://broker", "broker", 1883),
            ("mqtt://[::1]:99/", "::1", 99),
        ] {
            assert_eq!(
                text.parse(),
                Ok(Server {
                    host: host.to_owned(),
                    port
                }),
                "{text}"
            );
        }
        for bad in [
            "127.0.0.1:1883",
            "mqtt://",
            "mqtt://h:x",
            "mqtt://a@b:1",
            "mqtt://[::1]9",
        ] {
            assert!(bad.parse::<Server>().is_err(), "{bad}");
        }
    }

    #[test]
    fn settings_that_do_not_fit_are_named() {
        let good = Settings::demo("mqtt://h:1".parse().unwrap());
        good.check().unwrap();
        let check = |change: &dyn Fn(&mut Settings), word: &str| {
            let mut s = good.clone();
            change(&mut s);
            let text = s.check().unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        };
        check(&|s| s.agents = 0, "agents");
        check(&|s| s.agents = 241, "every agent needs a device");
        check(&|s| s.rate = f64::NAN, "rate");
        check(&|s| s.time_scale = 2.0, "start");
        check(&|s| s.device_prefix = "a/b".to_owned(), "device id");
        check(&|s| s.start = Some(EventTime(0)), "duration");
        check(
            &|s| {
                s.start = Some(EventTime(wall_clock().0 - 60_000_000));
                s.duration = Some(Duration::from_secs(60));
                s.time_scale = 10.0;
            },
            "overtake",
        );
    }
}
