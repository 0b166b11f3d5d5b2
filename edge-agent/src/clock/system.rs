//! The clocks of the machine, behind a trait, so that a test can set them, step them and suspend them.

use std::fmt::Debug;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use super::daemons::Daemons;

/// systemd-timesyncd touches this file at every synchronisation of this boot.
const TIMESYNC: &str = "/run/systemd/timesync/synchronized";
const RTC: &str = "/sys/class/rtc/rtc0";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Longest text taken for a boot's id, bytes.
const BOOT_ID_MAX: usize = 64;

/// What a machine says of time.
pub(crate) trait System: Debug + Send + Sync {
    /// The system's wall clock, microseconds since 1970, right or not.
    fn wall_us(&self) -> i64;
    /// Microseconds since the device booted, suspend included.
    fn boottime_us(&self) -> u64;
    /// Time since some moment, without suspend, never stepped.
    fn monotonic(&self) -> Duration;
    /// Whether the system's clock was synchronised over the network in this boot.
    fn is_synchronised(&self) -> bool;
    /// Whether there is a clock that goes on while the machine is off.
    fn has_rtc(&self) -> bool;
    /// A text that is another one for each boot.
    fn boot_id(&self) -> String;
}

/// The machine that we run on.
#[derive(Debug)]
pub(super) struct Machine {
    started: Instant,
    daemons: Daemons,
}

impl Machine {
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            daemons: Daemons::new(),
        }
    }
}

impl System for Machine {
    fn wall_us(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
        }
    }

    fn boottime_us(&self) -> u64 {
        let t = clock_gettime(ClockId::Boottime);
        let (secs, nanos) = (u64::try_from(t.tv_sec), u64::try_from(t.tv_nsec));
        secs.unwrap_or(0) * 1_000_000 + nanos.unwrap_or(0) / 1000
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    fn is_synchronised(&self) -> bool {
        Path::new(TIMESYNC).exists() || self.daemons.say_synchronised()
    }

    fn has_rtc(&self) -> bool {
        Path::new(RTC).exists()
    }

    fn boot_id(&self) -> String {
        let id = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
        let id = id.trim();
        if id.is_empty() || id.len() > BOOT_ID_MAX {
            // Then every process is a boot of its own: times are less certain, never wrong.
            return format!("process-{:016x}", rand::random::<u64>());
        }
        id.to_owned()
    }
}
