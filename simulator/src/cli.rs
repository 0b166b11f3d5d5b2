//! The command-line forms of `tidewatch simulate` and `tidewatch verify`, for the root binary to embed.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use event::EventTime;

use crate::clock::wall_clock;
use crate::duration;
use crate::settings::Server;
use crate::verify::{Comparison, verify};
use crate::{Scenario, Settings};

/// Run a virtual fleet against an MQTT server, with faults and ground truth.
///
/// Exit code 0 = every event was acked.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The MQTT server, as mqtt://HOST:PORT
    #[arg(long, value_name = "URL")]
    pub connect: Server,
    /// How many devices
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub devices: u32,
    /// How many agents (gateways) they are behind; each is one connection
    #[arg(long, value_name = "M", default_value_t = 10)]
    pub agents: u32,
    /// Events per second over all devices, in real time
    #[arg(long, value_name = "EVENTS_PER_S", default_value_t = 1000.0)]
    pub rate: f64,
    /// How long to make events, such as 60s or 5m; without it, until Ctrl-C
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub duration: Option<Duration>,
    /// Decides every value and who is hit by faults
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// calm, rough, demo, or a TOML file (see simulator/scenario.sample.toml)
    #[arg(long, value_name = "NAME|FILE", default_value = "calm")]
    pub scenario: String,
    /// Write the exact expected windows to this file at the end (JSON lines)
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
    /// Keep the agents' identities in this file, so that the next run goes on as the same agents
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Window length of the truth; may be given several times
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    pub truth_window: Vec<Duration>,
    /// Simulated start of event time: RFC 3339, or -8h for that long ago; needs --duration
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub start: Option<String>,
    /// How many times faster than real time event time runs; needs --start in the past
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub time_scale: f64,
    /// What device ids begin with
    #[arg(long, value_name = "TEXT", default_value = "dev-")]
    pub device_prefix: String,
    /// What agent ids begin with
    #[arg(long, value_name = "TEXT", default_value = "gw-")]
    pub agent_prefix: String,
    /// How many sites (attribute `site`) the agents are spread over
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub sites: u32,
    /// Events of a full batch
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub batch_events: usize,
    /// How long an event waits for company at most
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration::parse)]
    pub linger: Duration,
    /// Heartbeat of an agent that has nothing to send
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration::parse)]
    pub heartbeat: Duration,
    /// First wait for an ack before a batch is sent again
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration::parse)]
    pub ack_timeout: Duration,
    /// Longest wait between two attempts to connect
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration::parse)]
    pub reconnect_max: Duration,
    /// End with an error if no agent was ever connected for so long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    pub connect_timeout: Duration,
    /// Events that all agents together hold un-acked at most (24 bytes each)
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    pub buffer_events: u64,
    /// How long to wait at the end until everything is acked
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = duration::parse)]
    pub drain: Duration,
    /// How long to stay after that so that the last window ends complete
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = duration::parse)]
    pub settle: Duration,
    /// Password for the server (the user name is each agent's id)
    #[arg(
        long,
        value_name = "TEXT",
        env = "TIDEWATCH_SIMULATE_PASSWORD",
        hide_env_values = true
    )]
    pub password: Option<String>,
}

impl Args {
    /// The settings that these flags mean.
    ///
    /// **Errors**: a scenario that cannot be read, a start that is no time, settings that do not fit.
    pub fn settings(self) -> anyhow::Result<Settings> {
        let start = self.start.as_deref().map(parse_start).transpose()?;
        let defaults = Settings::new(self.connect, self.devices, self.agents, self.rate);
        let settings = Settings {
            duration: self.duration,
            seed: self.seed,
            scenario: Scenario::load(&self.scenario)?,
            truth: self.truth,
            state: self.state,
            truth_windows: self.truth_window,
            start,
            time_scale: self.time_scale,
            device_prefix: self.device_prefix,
            agent_prefix: self.agent_prefix,
            sites: self.sites,
            batch_events: self.batch_events,
            linger: self.linger,
            heartbeat: self.heartbeat,
            ack_timeout: self.ack_timeout,
            reconnect: (
                defaults.reconnect.0.min(self.reconnect_max),
                self.reconnect_max,
            ),
            connect_timeout: self.connect_timeout,
            buffer_events: self.buffer_events,
            drain: self.drain,
            settle: self.settle,
            password: self.password,
            ..defaults
        };
        settings.check()?;
        Ok(settings)
    }
}

fn parse_start(text: &str) -> anyhow::Result<EventTime> {
    if let Some(ago) = text.strip_prefix('-') {
        let ago = duration::parse(ago)
            .map_err(anyhow::Error::msg)
            .context("reading --start")?;
        return Ok(EventTime(wall_clock().0 - ago.as_micros() as i64));
    }
    EventTime::parse_rfc3339(text).with_context(|| {
        format!("--start {text:?} is neither RFC 3339 (2026-01-02T03:04:05Z) nor like -8h")
    })
}

/// Compare a server's windows with the truth of a simulated run.
///
/// Exit code 0 = all equal.
#[derive(Debug, Clone, clap::Args)]
pub struct VerifyArgs {
    /// The truth file that `tidewatch simulate --truth` wrote
    #[arg(long, value_name = "FILE")]
    pub truth: PathBuf,
    /// The server's HTTP address
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// Compare only this aggregate; may be given several times
    #[arg(long, value_name = "NAME")]
    pub aggregate: Vec<String>,
    /// How long to ask again while the server differs
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    pub wait: Duration,
}

impl VerifyArgs {
    /// Compares; the caller prints the result and exits 0 only if [`Comparison::is_equal`].
    ///
    /// **Errors**: as [`verify`].
    pub async fn run(&self) -> anyhow::Result<Comparison> {
        verify(&self.truth, &self.url, &self.aggregate, self.wait).await
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;

    fn parse(line: &str) -> anyhow::Result<Settings> {
        let command = Args::augment_args(Command::new("simulate").no_binary_name(true));
        let matches = command.try_get_matches_from(line.split(' '))?;
        Args::from_arg_matches(&matches)?.settings()
    }

    #[test]
    fn the_documented_form_is_read() {
        let s = parse(
            "--connect mqtt://127.0.0.1:1883 --devices 50 --agents 5 --rate 200.5 --duration 60s \
             --seed 7 --scenario rough --truth out.jsonl --truth-window 10s --truth-window 1m",
        )
        .unwrap();
        assert_eq!((s.devices, s.agents, s.rate, s.seed), (50, 5, 200.5, 7));
        assert_eq!(s.duration, Some(Duration::from_secs(60)));
        assert_eq!(s.scenario, Scenario::rough());
        assert_eq!(
            s.truth_windows,
            [Duration::from_secs(10), Duration::from_secs(60)]
        );
    }

    #[test]
    fn defaults_are_those_of_the_settings() {
        let server: Server = "mqtt://h:1".parse().unwrap();
        let s = parse("--connect mqtt://h:1").unwrap();
        assert_eq!(s, Settings::new(server, 1000, 10, 1000.0));
    }

    #[test]
    fn a_start_in_the_past_is_read() {
        let s = parse("--connect mqtt://h:1 --start -9h --time-scale 480 --duration 60s").unwrap();
        let ago = wall_clock().0 - s.start.unwrap().0;
        assert!((ago - 9 * 3600 * 1_000_000).abs() < 60_000_000, "{ago}");
    }

    #[test]
    fn mistakes_are_errors() {
        for bad in [
            "--devices 5",
            "--connect 127.0.0.1:1883",
            "--connect mqtt://h:1 --duration 60",
            "--connect mqtt://h:1 --scenario nowhere.toml",
            "--connect mqtt://h:1 --start yesterday --duration 5s",
            "--connect mqtt://h:1 --time-scale 2",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
