//! What the agent knows of itself: for its own metrics and for `tidewatch-agent status`.
//!
//! The keeper writes, everybody reads. Nothing here decides anything.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use event::{EventTime, Held, Incarnation};
use serde::{Deserialize, Serialize};

use crate::clock::{self, SetBy};
use crate::rules::Counts;

const DAY_US: i64 = 86_400_000_000;

/// What the keeper last said.
#[derive(Debug, Clone, Default)]
struct State {
    incarnation: Option<Incarnation>,
    held: Option<Held>,
    gone: Gone,
    /// Of buffers that were closed and opened again in this process.
    gone_before: Gone,
    refused: u64,
    connected_at: Option<Duration>,
    connections: u64,
    last_ack_at: Option<Duration>,
    clock_offset_us: Option<i64>,
    unplaced: u64,
    uncertain: u64,
    uncertain_s: Option<f64>,
    disk_full: bool,
    /// Bytes available on the buffer's disk.
    disk_free: Option<u64>,
    /// Most bytes that the buffer may hold at present.
    buffer_bytes_max: Option<u64>,
    /// That is less than it is configured to, because too little is free.
    disk_short: bool,
    rules: Counts,
    /// The keeper has done a round since somebody looked.
    alive: bool,
    /// The UTC day that is counted, and the bytes that had been written when it began.
    day: Option<(i64, u64)>,
}

/// Events that are no longer held, and were not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Gone {
    /// Nothing is left of them.
    pub dropped: u64,
    /// Their count, minimum and maximum are.
    pub summed_up: u64,
}

/// Shared by the keeper, the source of the agent's own metrics, and the status socket.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<State>>);

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn buffer_is(
        &self,
        incarnation: Incarnation,
        held: Held,
        gone: Gone,
        clock_offset_us: Option<i64>,
    ) {
        let mut state = self.state();
        if state.incarnation != Some(incarnation) {
            state.incarnation = Some(incarnation);
            state.gone_before.dropped += state.gone.dropped;
            state.gone_before.summed_up += state.gone.summed_up;
        }
        state.held = Some(held);
        state.gone = gone;
        state.clock_offset_us = clock_offset_us;
    }

    /// So many readings have no time yet; readings of a boot that never knew the time got theirs, which may
    /// be off by so many seconds.
    pub(crate) fn unplaced(&self, events: u64, uncertain_s: Option<f64>) {
        let mut state = self.state();
        state.unplaced = events;
        if uncertain_s.is_some() {
            state.uncertain += 1;
            state.uncertain_s = uncertain_s;
        }
    }

    pub(crate) fn connected(&self, now: Duration) {
        let mut state = self.state();
        state.connected_at = Some(now);
        state.connections += 1;
    }

    pub(crate) fn disconnected(&self) {
        self.state().connected_at = None;
    }

    pub(crate) fn acked(&self, now: Duration, refused: u64) {
        let mut state = self.state();
        state.last_ack_at = Some(now);
        state.refused = state.refused.saturating_add(refused);
    }

    pub(crate) fn disk_is_full(&self, full: bool) {
        self.state().disk_full = full;
    }

    /// What is free on the disk, what the buffer may hold, and whether that is less than configured.
    pub(crate) fn room_is(&self, free: Option<u64>, bytes_max: u64, short: bool) {
        let mut state = self.state();
        state.disk_free = free;
        state.buffer_bytes_max = Some(bytes_max);
        state.disk_short = short;
    }

    pub(crate) fn rules_are(&self, counts: Counts) {
        self.state().rules = counts;
    }

    /// The keeper's thread works.
    pub(crate) fn alive(&self) {
        self.state().alive = true;
    }

    /// Whether it has said so since the last call.
    pub(crate) fn take_alive(&self) -> bool {
        std::mem::take(&mut self.state().alive)
    }

    /// All of it, at the monotonic time `now` and the agent's time `wall`.
    pub fn snapshot(
        &self,
        now: Duration,
        wall: EventTime,
        clock: clock::Report,
        process: Process,
        endurance: Option<u64>,
    ) -> Snapshot {
        let mut state = self.state();
        let seconds_since = |at: Duration| now.saturating_sub(at).as_secs();
        let written = process.written_bytes.map(|written| {
            let today = wall.as_micros().div_euclid(DAY_US);
            match state.day {
                Some((day, _)) if day == today => {}
                // The first day begins with this process.
                None => state.day = Some((today, 0)),
                Some(_) => state.day = Some((today, written)),
            }
            written.saturating_sub(state.day.map_or(0, |(_, before)| before))
        });
        let oldest = state.held.and_then(|held| held.oldest);
        Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: state.incarnation.map(|i| i.to_string()),
            uptime_seconds: now.as_secs(),
            connected_seconds: state.connected_at.map(seconds_since),
            reconnects: state.connections.saturating_sub(1),
            last_ack_seconds: state.last_ack_at.map(seconds_since),
            backlog_events: state.held.map_or(0, |held| held.events),
            backlog_bytes: state.held.map_or(0, |held| held.bytes),
            backlog_oldest_seconds: oldest.map(|oldest| {
                let age = wall.as_micros().saturating_sub(oldest.as_micros());
                age.max(0) as u64 / 1_000_000
            }),
            dropped_events: state.gone_before.dropped + state.gone.dropped,
            summed_up_events: state.gone_before.summed_up + state.gone.summed_up,
            refused_events: state.refused,
            disk_full: state.disk_full,
            disk_free_bytes: state.disk_free,
            disk_short: state.disk_short,
            buffer_bytes_max: state.buffer_bytes_max,
            disk_written_bytes: process.written_bytes,
            disk_written_bytes_today: written,
            card_life_days: endurance
                .zip(process.written_bytes)
                .and_then(|(endurance, written)| card_life(endurance, written, now)),
            memory_bytes: process.memory_bytes,
            cpu_seconds: process.cpu_seconds,
            clock_quality: format!("{:?}", clock.state.quality).to_lowercase(),
            clock_set_by: match clock.set_by {
                SetBy::Nobody => None,
                by => Some(format!("{by:?}").to_lowercase()),
            },
            clock_steps: clock.steps,
            clock_last_step_ms: clock.last_step_us.map(|us| us as f64 / 1000.0),
            unplaced_events: state.unplaced,
            uncertain_boots: state.uncertain,
            uncertain_seconds: state.uncertain_s,
            clock_offset_ms: state.clock_offset_us.map(|us| us as f64 / 1000.0),
            rules: state.rules.rules,
            rules_firing: state.rules.firing,
            rules_stale_readings: state.rules.stale,
            rules_unwatched_readings: state.rules.unwatched,
        }
    }
}

/// Before this time a projection would be of the start, not of the work.
const CARD_LIFE_AFTER: Duration = Duration::from_secs(600);

/// Days until `endurance` bytes are written, if it goes on as it did; none until that can be told.
fn card_life(endurance: u64, written: u64, since_start: Duration) -> Option<f64> {
    if since_start < CARD_LIFE_AFTER || written == 0 {
        return None;
    }
    let per_day = written as f64 / since_start.as_secs_f64() * 86_400.0;
    Some(endurance as f64 / per_day)
}

/// The agent at one moment. Times in seconds, sizes in bytes; what is not known is left out.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version of the program.
    pub version: String,
    /// This life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// Since the process started.
    pub uptime_seconds: u64,
    /// How long the connection stands; none = not connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected_seconds: Option<u64>,
    /// Connections made after the first.
    pub reconnects: u64,
    /// Since the cloud last acknowledged anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ack_seconds: Option<u64>,
    /// Events in the buffer that no ack has named.
    pub backlog_events: u64,
    /// Their size on disk.
    pub backlog_bytes: u64,
    /// Age of the oldest, by event time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog_oldest_seconds: Option<u64>,
    /// Events declared lost since the start: the buffer was full or damaged, or they were too old.
    pub dropped_events: u64,
    /// Events since the start of which only count, minimum and maximum by the minute are kept, because the
    /// buffer was full.
    #[serde(default)]
    pub summed_up_events: u64,
    /// Events that the cloud refused since the start, repeats included; they are kept.
    pub refused_events: u64,
    /// Whether readings wait because the disk is full.
    pub disk_full: bool,
    /// Bytes available on the buffer's disk, when something was last stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_free_bytes: Option<u64>,
    /// Whether the buffer may not grow because that is less than `buffer.disk_free_min`.
    #[serde(default)]
    pub disk_short: bool,
    /// What the buffer may hold at present, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffer_bytes_max: Option<u64>,
    /// What this process caused to be written to disks since its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_written_bytes: Option<u64>,
    /// The same since midnight UTC, or since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_written_bytes_today: Option<u64>,
    /// Days until the card's endurance is used up by this agent alone, if it goes on like this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card_life_days: Option<f64>,
    /// Resident memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Processor time used since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// none, rtc, ntp or gnss.
    pub clock_quality: String,
    /// Who has told the time: system, rtc or cloud; none = nobody yet, the clock is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_set_by: Option<String>,
    /// Steps of the clock since the start.
    #[serde(default)]
    pub clock_steps: u64,
    /// The last of them; negative = set back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_last_step_ms: Option<f64>,
    /// Readings that were taken while the clock was not set and have no time yet; in the backlog, too.
    #[serde(default)]
    pub unplaced_events: u64,
    /// Boots that ended with a clock that was never set, whose readings got uncertain times since the start.
    #[serde(default)]
    pub uncertain_boots: u64,
    /// By how much those of the last may be off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncertain_seconds: Option<f64>,
    /// The cloud's clock minus ours, from acknowledgements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_offset_ms: Option<f64>,
    /// Rules that run on the device.
    #[serde(default)]
    pub rules: u64,
    /// Their episodes that fire.
    #[serde(default)]
    pub rules_firing: u64,
    /// Readings that they did not evaluate, since the start: their time was too far from the clock.
    #[serde(default)]
    pub rules_stale_readings: u64,
    /// Readings of series for which rules had no room, since the start.
    #[serde(default)]
    pub rules_unwatched_readings: u64,
}

impl Snapshot {
    /// The numbers by metric name, as the agent reports them of itself.
    pub fn metrics(&self) -> Vec<(&'static str, f64)> {
        let some = |name, n: Option<u64>| n.map(|n| (name, n as f64));
        let mut list = vec![
            ("agent_uptime_seconds", self.uptime_seconds as f64),
            ("agent_reconnects", self.reconnects as f64),
            ("agent_backlog_events", self.backlog_events as f64),
            ("agent_backlog_bytes", self.backlog_bytes as f64),
            (
                "agent_backlog_oldest_seconds",
                self.backlog_oldest_seconds.unwrap_or(0) as f64,
            ),
            ("agent_dropped_events", self.dropped_events as f64),
            ("agent_summed_up_events", self.summed_up_events as f64),
            ("agent_refused_events", self.refused_events as f64),
            ("agent_clock_steps", self.clock_steps as f64),
            ("agent_unplaced_events", self.unplaced_events as f64),
            ("agent_disk_short", f64::from(u8::from(self.disk_short))),
        ];
        let rounded = |n: f64, digits: f64| (n * digits).round() / digits;
        list.extend(some(
            "agent_disk_written_bytes_today",
            self.disk_written_bytes_today,
        ));
        list.extend(some("agent_disk_free_bytes", self.disk_free_bytes));
        list.extend(some("agent_buffer_bytes_max", self.buffer_bytes_max));
        list.extend(some("agent_memory_bytes", self.memory_bytes));
        list.extend(
            self.card_life_days
                .map(|n| ("agent_card_life_days", n.round())),
        );
        list.extend(
            self.cpu_seconds
                .map(|n| ("agent_cpu_seconds", rounded(n, 100.0))),
        );
        list.extend(
            self.clock_offset_ms
                .map(|n| ("agent_clock_offset_ms", rounded(n, 10.0))),
        );
        if self.rules > 0 {
            list.push(("agent_rules_firing", self.rules_firing as f64));
        }
        list
    }
}

/// What the system says of this process; what it does not say is none.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Process {
    /// Bytes that it caused to be written to disks.
    pub written_bytes: Option<u64>,
    /// Resident memory.
    pub memory_bytes: Option<u64>,
    /// User and system time.
    pub cpu_seconds: Option<f64>,
}

impl Process {
    /// As of now.
    pub fn now() -> Self {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).ok();
        let field = |text: String, name: &str| {
            let line = text
                .lines()
                .find_map(|l| l.strip_prefix(name).map(str::to_owned))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Self {
            written_bytes: read("io").and_then(|text| field(text, "write_bytes:")),
            memory_bytes: read("status")
                .and_then(|text| field(text, "VmRSS:"))
                .map(|kib| kib * 1024),
            cpu_seconds: Some(cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, written: u64, health: &Health, endurance: Option<u64>) -> Snapshot {
        let process = Process {
            written_bytes: Some(written),
            ..Process::default()
        };
        let wall = EventTime::from_secs(1_700_000_000 + seconds as i64);
        let clock = clock::Report {
            state: event::ClockState {
                quality: event::ClockQuality::Ntp,
                error_ms: 1,
            },
            set_by: SetBy::System,
            steps: 2,
            last_step_us: Some(-3_600_000_000),
        };
        health.snapshot(
            Duration::from_secs(seconds),
            wall,
            clock,
            process,
            endurance,
        )
    }

    #[test]
    fn bytes_of_today_begin_again_at_midnight() {
        let health = Health::default();
        // 1,700,000,000 is 22:13:20 UTC.
        assert_eq!(
            at(0, 500, &health, None).disk_written_bytes_today,
            Some(500)
        );
        assert_eq!(
            at(100, 700, &health, None).disk_written_bytes_today,
            Some(700)
        );
        assert_eq!(
            at(7000, 900, &health, None).disk_written_bytes_today,
            Some(0)
        );
        assert_eq!(
            at(7100, 950, &health, None).disk_written_bytes_today,
            Some(50)
        );
    }

    #[test]
    fn a_cards_life_is_what_is_left_at_this_pace() {
        let health = Health::default();
        assert_eq!(at(599, 1000, &health, Some(1 << 40)).card_life_days, None);
        let days = at(86_400, 1 << 30, &health, Some(1 << 40)).card_life_days;
        assert_eq!(days, Some(1024.0));
        assert_eq!(at(86_400, 1 << 30, &health, None).card_life_days, None);
    }

    #[test]
    fn connections_backlog_and_losses_are_told() {
        let health = Health::default();
        let inc = |no| Incarnation { no, rand: 7 };
        let held = Held {
            events: 3,
            bytes: 30,
            oldest: Some(EventTime::from_secs(1_700_000_000 - 60)),
        };
        let gone = |dropped| Gone {
            dropped,
            summed_up: 10 * dropped,
        };
        health.buffer_is(inc(1), held, gone(2), Some(-1500));
        health.room_is(Some(500), 300, true);
        health.connected(Duration::from_secs(1));
        health.acked(Duration::from_secs(3), 4);
        let s = at(10, 0, &health, None);
        assert_eq!(
            (s.connected_seconds, s.last_ack_seconds),
            (Some(9), Some(7))
        );
        assert_eq!((s.backlog_events, s.backlog_oldest_seconds), (3, Some(70)));
        assert_eq!(
            (s.dropped_events, s.refused_events, s.reconnects),
            (2, 4, 0)
        );
        assert_eq!(s.clock_offset_ms, Some(-1.5));
        assert_eq!(
            (s.clock_steps, s.clock_last_step_ms),
            (2, Some(-3_600_000.0))
        );
        assert_eq!(s.clock_set_by.as_deref(), Some("system"));
        health.unplaced(5, Some(60.0));
        health.unplaced(4, None);
        let s = at(11, 0, &health, None);
        assert_eq!((s.unplaced_events, s.uncertain_boots), (4, 1));
        assert_eq!(s.uncertain_seconds, Some(60.0));
        // The buffer is opened again: what was dropped before stays told.
        health.disconnected();
        health.buffer_is(inc(2), held, gone(1), None);
        health.connected(Duration::from_secs(20));
        let s = at(20, 0, &health, None);
        assert_eq!((s.dropped_events, s.reconnects), (3, 1));
        assert_eq!((s.summed_up_events, s.disk_short), (30, true));
        let of = |name| s.metrics().iter().find(|m| m.0 == name).map(|m| m.1);
        assert_eq!(of("agent_summed_up_events"), Some(30.0));
        assert_eq!(of("agent_disk_short"), Some(1.0));
        assert_eq!(of("agent_disk_free_bytes"), Some(500.0));
        assert_eq!(of("agent_buffer_bytes_max"), Some(300.0));
        let json = serde_json::to_string(&s).unwrap();
        assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), s);
        let names: Vec<_> = s.metrics().iter().map(|m| m.0).collect();
        assert!(
            names.contains(&"agent_dropped_events") && !names.contains(&"agent_clock_offset_ms")
        );
    }

    #[test]
    fn the_system_knows_this_process() {
        let process = Process::now();
        assert!(process.memory_bytes.unwrap() > 1 << 20);
        assert!(process.cpu_seconds.unwrap() > 0.0);
    }
}
