//! The device's clocks: wall time, time since boot, and how far the wall time is to be trusted.
//!
//! The one place of the agent that reads a clock. Everything behind it takes time as an argument.
//!
//! **Wall time is time since boot plus an offset** (`CLOCK_BOOTTIME`, which counts suspend, so that a
//! suspend changes nothing). Until the offset is known in this boot, the clock is *not set*: readings
//! without a time of their own get their time since boot and are held (rule A6).
//!
//! # When the clock is set, in order of precedence
//! 1. **The system's clock, when something reliable has set it**: the configuration says `ntp`, `gnss` or
//!    `rtc`, or, with `auto`, systemd-timesyncd has synchronised in this boot, or chronyd or ntpd says that it has
//!    ([`daemons`]). Whatever else told the time before, this counts from then on. A time before 2020 is none.
//! 2. **The system's clock from a battery-backed one** (`auto`): with 2020 or later, and not more than
//!    5 minutes before the newest time on disk, because a battery that is empty gives any time.
//! 3. **What an earlier process of this boot knew**, from the buffer.
//! 4. **The cloud's clock**, from an answer that took at most [`CLOUD_WAY_MAX`] both ways. Each further
//!    answer corrects the drift of time since boot.
//! 5. Else it is not set: `none` in the configuration, or a machine that nobody has told the time. A system
//!    clock that merely looks right is not believed: machines without a battery-backed clock start where
//!    they were switched off, hours or days behind.
//!
//! Once set, it stays so until the process ends. The kernel's own flag (`adjtimex`) is not read: that takes unsafe
//! code, and a right that services are commonly denied. Where a time daemon does not answer on loopback (`cmdport 0`
//! of chronyd, `restrict` of ntpd) say `clock = "ntp"`, or leave it to the cloud.
//!
//! # While it is set
//! The offset follows the system's clock at each reading. A difference of more than 50 ms plus a tenth of the
//! time since the reading before (at most 1 s) is a *step*: counted, logged and shown. Set back by at
//! most 1 s, the agent's time stands still until it has caught up, so that stamps do not go back and the low
//! watermark holds. Set back by more, it follows: the next transmission says an earlier watermark.

mod daemons;
mod mapping;
mod system;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use event::{ClockQuality, ClockState, EventTime};
use serde::{Deserialize, Serialize};

use mapping::{Change, Mapping, Reading, Trust};
use system::Machine;

pub use mapping::SetBy;
pub(crate) use system::System;

/// How the quality of the wall clock is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// Look: synchronised by systemd-timesyncd, chronyd or ntpd = `ntp`, a battery-backed clock = `rtc`, else `none`.
    #[default]
    Auto,
    /// Nobody sets it: the time is the cloud's.
    None,
    /// From a battery-backed clock.
    Rtc,
    /// Synchronised over the network.
    Ntp,
    /// From satellites.
    Gnss,
}

/// An answer of the cloud that took longer than this both ways does not set the clock.
pub const CLOUD_WAY_MAX: Duration = Duration::from_secs(10);

/// How often the system is asked whether its clock was set.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The two clocks are read again if reading them took longer than this, microseconds.
const APART_MAX_US: i64 = 1000;

/// The clocks of this machine. Clones share what is known of the time.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    quality: Quality,
    system: Arc<dyn System>,
    started: Duration,
    boot_id: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    mapping: Mapping,
    /// What the system last said, and when it was asked.
    found: Found,
    looked_at: Duration,
    /// How often the cloud answered without telling a usable time.
    timeless: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    synchronised: bool,
    rtc: bool,
}

/// The present moment as a stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Now {
    /// The clock is set.
    Wall(EventTime),
    /// It is not: microseconds since boot.
    Boot(u64),
}

/// What is known of the clock, for people and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Its quality.
    pub state: ClockState,
    /// Who has told the time.
    pub set_by: SetBy,
    /// Steps while it was set.
    pub steps: u64,
    /// The last of them, microseconds; negative = set back.
    pub last_step_us: Option<i64>,
}

impl Clock {
    /// The clocks, as of now.
    pub fn new(quality: Quality) -> Self {
        Self::with(quality, Arc::new(Machine::new()))
    }

    /// The clocks of `system`.
    pub(crate) fn with(quality: Quality, system: Arc<dyn System>) -> Self {
        let found = look(quality, &*system);
        let first = read(&*system, Trust::None);
        let clock = Self(Arc::new(Inner {
            started: system.monotonic(),
            boot_id: system.boot_id(),
            quality,
            state: Mutex::new(State {
                mapping: Mapping::new(first),
                found,
                looked_at: system.monotonic(),
                timeless: 0,
            }),
            system,
        }));
        drop(clock.read());
        clock
    }

    /// The present time: the best guess while the clock is not set. Set back by a second or less, it stands
    /// still.
    pub fn wall(&self) -> EventTime {
        let (mut state, boot) = self.read();
        EventTime::from_micros(state.mapping.tell(boot))
    }

    /// The present moment as a stamp.
    pub fn now(&self) -> Now {
        let (mut state, boot) = self.read();
        if state.mapping.is_set() {
            Now::Wall(EventTime::from_micros(state.mapping.tell(boot)))
        } else {
            Now::Boot(u64::try_from(boot).unwrap_or(0))
        }
    }

    /// The present time for the disk: zero while the clock is not set.
    pub fn known(&self) -> EventTime {
        match self.now() {
            Now::Wall(time) => time,
            Now::Boot(_) => EventTime(0),
        }
    }

    /// Wall time minus time since boot, microseconds; none while the clock is not set.
    pub fn offset_us(&self) -> Option<i64> {
        let (state, _) = self.read();
        state.mapping.is_set().then(|| state.mapping.offset())
    }

    /// The same, and the guess while it is not set.
    pub(crate) fn guess_us(&self) -> i64 {
        self.read().0.mapping.offset()
    }

    /// The newest time that was on disk at the start (0 = none): what is stamped while the clock is not set
    /// gets no time before it.
    pub(crate) fn on_disk(&self) -> EventTime {
        EventTime::from_micros(self.lock().mapping.on_disk.unwrap_or(0))
    }

    /// What the disk says: the newest time that is known there, and the offset of this boot if an earlier
    /// process has noted it.
    pub(crate) fn know_disk(&self, newest: EventTime, offset_us: Option<i64>) {
        self.lock().mapping.know_disk(newest.as_micros());
        // A battery-backed clock can be judged now.
        let (mut state, _) = self.read();
        let change = offset_us.and_then(|offset| state.mapping.know_offset(offset));
        drop(state);
        log(change);
    }

    /// The cloud has answered: its clock is so far ahead of [`Self::wall`], microseconds, by an answer that
    /// took `way_us` both ways; none if it did not say.
    pub(crate) fn heard_cloud(&self, told: Option<(i64, i64)>) {
        let (mut state, _) = self.read();
        let change =
            told.and_then(|(behind, way)| state.mapping.hear_cloud(behind, way, CLOUD_WAY_MAX));
        if !state.mapping.is_set() {
            state.timeless = state.timeless.saturating_add(1);
        }
        drop(state);
        log(change);
    }

    /// How often the cloud has answered without telling a usable time while the clock was not set.
    pub(crate) fn timeless_answers(&self) -> u32 {
        self.lock().timeless
    }

    /// Time since this process started, never stepped, without suspend. For waits, not for stamps.
    pub fn monotonic(&self) -> Duration {
        self.0.system.monotonic().saturating_sub(self.0.started)
    }

    /// Microseconds since the device booted, suspend included.
    pub fn boottime_us(&self) -> u64 {
        self.0.system.boottime_us()
    }

    /// A text that is another one for each boot, of at most 64 bytes.
    pub fn boot_id(&self) -> &str {
        &self.0.boot_id
    }

    /// What is known of the wall clock's quality; `none` while it is not set or the cloud has set it.
    pub fn state(&self) -> ClockState {
        self.report().state
    }

    /// All of it.
    pub fn report(&self) -> Report {
        let (state, _) = self.read();
        let mapping = &state.mapping;
        let none = |error_ms| (ClockQuality::None, error_ms);
        let (quality, error_ms) = match (mapping.by, self.0.quality) {
            (SetBy::Nobody, _) => none(u32::MAX),
            (SetBy::Cloud, _) => {
                none(u32::try_from(mapping.error_us / 1000 + 1).unwrap_or(u32::MAX))
            }
            (SetBy::Rtc, _) | (SetBy::System, Quality::Rtc) => (ClockQuality::Rtc, u32::MAX),
            (SetBy::System, Quality::Gnss) => (ClockQuality::Gnss, 1),
            (SetBy::System, _) => (ClockQuality::Ntp, 100),
        };
        Report {
            state: ClockState { quality, error_ms },
            set_by: mapping.by,
            steps: mapping.steps,
            last_step_us: mapping.last_step,
        }
    }

    /// Reads both clocks into the mapping. Returns the time since boot of that moment.
    fn read(&self) -> (MutexGuard<'_, State>, i64) {
        let inner = &*self.0;
        let mut state = self.lock();
        let now = inner.system.monotonic();
        // Once the system's clock is believed for good, it is not asked any more.
        if state.mapping.by != SetBy::System && now.saturating_sub(state.looked_at) >= LOOK_EVERY {
            state.looked_at = now;
            state.found = look(inner.quality, &*inner.system);
        }
        let trust = match inner.quality {
            Quality::None => Trust::None,
            Quality::Rtc | Quality::Ntp | Quality::Gnss => Trust::Full,
            Quality::Auto if state.found.synchronised => Trust::Full,
            Quality::Auto if state.found.rtc => Trust::Rtc,
            Quality::Auto => Trust::None,
        };
        let reading = read(&*inner.system, trust);
        log(state.mapping.read(reading));
        (state, reading.boot)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn look(quality: Quality, system: &dyn System) -> Found {
    let auto = quality == Quality::Auto;
    Found {
        synchronised: auto && system.is_synchronised(),
        rtc: auto && system.has_rtc(),
    }
}

/// Both clocks at about one moment.
fn read(system: &dyn System, trust: Trust) -> Reading {
    let boottime = || i64::try_from(system.boottime_us()).unwrap_or(i64::MAX);
    let mut best: Option<Reading> = None;
    // The process may be stopped between the two; a longer stop must not pass for a step.
    for _ in 0..3 {
        let before = boottime();
        let wall = system.wall_us();
        let boot = boottime();
        let apart = boot.saturating_sub(before);
        if best.is_none_or(|b| apart < b.apart) {
            best = Some(Reading {
                wall,
                boot,
                apart,
                trust,
            });
        }
        if apart <= APART_MAX_US {
            break;
        }
    }
    best.unwrap_or(Reading {
        wall: system.wall_us(),
        boot: boottime(),
        apart: i64::MAX,
        trust,
    })
}

fn log(change: Option<Change>) {
    let seconds = |us: i64| us as f64 / 1e6;
    match change {
        None => {}
        Some(Change::Set { by, shift_us }) => {
            let by = match by {
                SetBy::Nobody => "nobody",
                SetBy::Cloud => "the cloud",
                SetBy::Rtc => "the battery-backed clock",
                SetBy::System => "the system's clock",
            };
            tracing::info!(
                "the time is known from {by}; it differs by {:.3} s from what was assumed",
                seconds(shift_us)
            );
        }
        Some(Change::Stepped { by_us }) => {
            tracing::warn!("the clock was stepped by {:+.3} s", seconds(by_us));
        }
    }
}
