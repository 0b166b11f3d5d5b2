//! The device's clocks: wall time, time since boot, and how far the wall time is to be trusted.
//!
//! The one place of the agent that reads a clock. Everything behind it takes time as an argument.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use event::{ClockQuality, ClockState, EventTime};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// How the quality of the wall clock is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// Look: synchronised by systemd-timesyncd = `ntp`, a battery-backed clock = `rtc`, else `none`.
    #[default]
    Auto,
    /// Nobody sets it.
    None,
    /// From a battery-backed clock.
    Rtc,
    /// Synchronised over the network.
    Ntp,
    /// From satellites.
    Gnss,
}

/// systemd-timesyncd touches this file at every synchronisation of this boot.
const TIMESYNC: &str = "/run/systemd/timesync/synchronized";
const RTC: &str = "/sys/class/rtc/rtc0";

/// The clocks of this machine.
#[derive(Debug, Clone)]
pub struct Clock {
    quality: Quality,
    started: Instant,
}

impl Clock {
    /// The clocks, as of now.
    pub fn new(quality: Quality) -> Self {
        Self {
            quality,
            started: Instant::now(),
        }
    }

    /// The present time by the wall clock.
    pub fn wall(&self) -> EventTime {
        let micros = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
        };
        EventTime::from_micros(micros)
    }

    /// Time since this process started, never stepped. For waits, not for stamps.
    pub fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    /// Microseconds since the device booted, suspend included.
    pub fn boottime_us(&self) -> u64 {
        let t = clock_gettime(ClockId::Boottime);
        let (secs, nanos) = (u64::try_from(t.tv_sec), u64::try_from(t.tv_nsec));
        secs.unwrap_or(0) * 1_000_000 + nanos.unwrap_or(0) / 1000
    }

    /// What is known of the wall clock's quality.
    pub fn state(&self) -> ClockState {
        let (quality, error_ms) = match self.quality {
            Quality::None => (ClockQuality::None, u32::MAX),
            Quality::Rtc => (ClockQuality::Rtc, u32::MAX),
            Quality::Ntp => (ClockQuality::Ntp, 100),
            Quality::Gnss => (ClockQuality::Gnss, 1),
            Quality::Auto if Path::new(TIMESYNC).exists() => (ClockQuality::Ntp, 100),
            Quality::Auto if Path::new(RTC).exists() => (ClockQuality::Rtc, u32::MAX),
            Quality::Auto => (ClockQuality::None, u32::MAX),
        };
        ClockState { quality, error_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_agree_with_the_system() {
        let clock = Clock::new(Quality::Gnss);
        assert!(clock.wall() > EventTime::from_secs(1_700_000_000));
        let before = clock.boottime_us();
        assert!(before > 0 && clock.boottime_us() >= before);
        assert_eq!(clock.state().quality, ClockQuality::Gnss);
    }
}
