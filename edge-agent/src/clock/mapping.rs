//! From time since boot to wall time: a pure state machine over readings of the clocks.

use std::time::Duration;

/// 2020-01-01T00:00:00Z, microseconds. A clock that says less was never set.
pub(super) const EARLIEST_US: i64 = 1_577_836_800_000_000;

/// A clock that goes on while the machine is off may be so far behind what is on disk, microseconds.
const RTC_BEHIND_MAX_US: i64 = 300_000_000;
/// Less than this between two readings is no step, microseconds ...
const SLEW_US: i64 = 50_000;
/// ... nor is a tenth of the time between them, because that is how fast time daemons slew ...
const SLEW_PART: i64 = 10;
/// ... but from here on it is one, however long ago the reading before was.
const STEP_US: i64 = 1_000_000;
/// Set back by no more than this, the clock stands still until time has come there again.
const HOLD_US: i64 = 1_000_000;

/// Who has told what time it is in this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetBy {
    /// Nobody yet.
    #[default]
    Nobody,
    /// The cloud, by its answers, or an earlier process of this boot, by what it noted.
    Cloud,
    /// The system's clock, from a battery-backed one.
    Rtc,
    /// The system's clock, which something reliable has set.
    System,
}

/// How far the system's clock can be believed at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// Not at all.
    None,
    /// A battery-backed clock has set it: if its time is at most 5 minutes before what is on disk.
    Rtc,
    /// It was set.
    Full,
}

/// One reading of both clocks, microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub wall: i64,
    pub boot: i64,
    /// How far apart in time the two were read, at most.
    pub apart: i64,
    pub trust: Trust,
}

/// The clock was stepped, or somebody has set it for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Set { by: SetBy, shift_us: i64 },
    Stepped { by_us: i64 },
}

/// Wall time = time since boot + offset.
#[derive(Debug)]
pub(super) struct Mapping {
    offset: i64,
    pub by: SetBy,
    /// How exact the cloud's time is, microseconds.
    pub error_us: i64,
    /// Newest wall time known on disk when this boot's agent started; none = not looked yet.
    pub on_disk: Option<i64>,
    /// Time since boot of the last reading.
    read_at: i64,
    /// Latest wall time given out.
    told: i64,
    pub steps: u64,
    pub last_step: Option<i64>,
}

impl Mapping {
    pub fn new(first: Reading) -> Self {
        Self {
            offset: first.wall.saturating_sub(first.boot),
            by: SetBy::Nobody,
            error_us: i64::MAX,
            on_disk: None,
            read_at: first.boot,
            told: i64::MIN,
            steps: 0,
            last_step: None,
        }
    }

    pub fn is_set(&self) -> bool {
        self.by != SetBy::Nobody
    }

    /// Wall time minus time since boot, microseconds; a guess until it is set.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// The newest wall time on disk.
    pub fn know_disk(&mut self, newest: i64) {
        self.on_disk = Some(newest);
        if !self.is_set() {
            // The best guess is not before what has been.
            self.offset = self.offset.max(newest.saturating_sub(self.read_at));
        }
    }

    /// An earlier process of this boot has noted its offset. It counts when nothing else tells the time.
    pub fn know_offset(&mut self, offset: i64) -> Option<Change> {
        (!self.is_set()).then(|| self.set(SetBy::Cloud, offset))
    }

    /// Takes a reading of the clocks.
    pub fn read(&mut self, now: Reading) -> Option<Change> {
        let passed = now.boot.saturating_sub(self.read_at).max(0);
        self.read_at = self.read_at.max(now.boot);
        let offset = now.wall.saturating_sub(now.boot);
        let by = match now.trust {
            Trust::None => SetBy::Nobody,
            Trust::Full => SetBy::System,
            // The first that is known counts, unless something better comes.
            Trust::Rtc => SetBy::Rtc,
        };
        match (self.by, by) {
            (SetBy::System | SetBy::Rtc, _) => {
                let by_us = offset.saturating_sub(self.offset);
                if by == SetBy::System {
                    self.by = by;
                }
                self.offset = offset;
                let slew = (SLEW_US + passed / SLEW_PART).min(STEP_US);
                if by_us.unsigned_abs() > slew.saturating_add(now.apart).unsigned_abs() {
                    return Some(self.stepped(by_us));
                }
                None
            }
            (_, SetBy::System) if now.wall >= EARLIEST_US => Some(self.set(by, offset)),
            (SetBy::Nobody, SetBy::Rtc)
                if now.wall >= EARLIEST_US
                    && self
                        .on_disk
                        .is_some_and(|d| now.wall >= d.saturating_sub(RTC_BEHIND_MAX_US)) =>
            {
                Some(self.set(by, offset))
            }
            _ => None,
        }
    }

    /// The cloud's clock is `behind` ahead of ours, microseconds, by an answer that took `way` both ways.
    /// It counts when nothing else tells the time.
    pub fn hear_cloud(&mut self, behind: i64, way: i64, most: Duration) -> Option<Change> {
        let most = i64::try_from(most.as_micros()).unwrap_or(i64::MAX);
        if way < 0 || way > most {
            return None;
        }
        let error = way / 2 + 1;
        match self.by {
            SetBy::System | SetBy::Rtc => None,
            SetBy::Nobody => {
                let wall = self.offset.saturating_add(self.read_at);
                if wall.saturating_add(behind) < EARLIEST_US {
                    return None; // Its clock was never set either.
                }
                self.error_us = error;
                Some(self.set(SetBy::Cloud, self.offset.saturating_add(behind)))
            }
            SetBy::Cloud => {
                // An answer that took long says little; what it says beyond that is our clock's drift.
                let sure = behind.unsigned_abs() > error.unsigned_abs();
                self.error_us = if sure {
                    error
                } else {
                    self.error_us.min(error)
                };
                if !sure {
                    return None;
                }
                let beyond = if behind > 0 {
                    behind - error
                } else {
                    behind + error
                };
                self.offset = self.offset.saturating_add(beyond);
                (beyond.unsigned_abs() > STEP_US.unsigned_abs()).then(|| self.stepped(beyond))
            }
        }
    }

    /// The wall time of `boot`, a time since boot.
    pub fn at(&self, boot: i64) -> i64 {
        self.offset.saturating_add(boot)
    }

    /// The wall time of the present moment, `boot`: it does not go back when the clock is set back a little.
    pub fn tell(&mut self, boot: i64) -> i64 {
        let wall = self.at(boot);
        let back = self.told.saturating_sub(wall);
        if self.is_set() && back > 0 && back <= HOLD_US {
            return self.told;
        }
        if self.is_set() {
            self.told = wall;
        }
        wall
    }

    fn set(&mut self, by: SetBy, offset: i64) -> Change {
        let was_set = self.is_set();
        let shift_us = offset.saturating_sub(self.offset);
        (self.by, self.offset) = (by, offset);
        if was_set && shift_us.unsigned_abs() > STEP_US.unsigned_abs() {
            self.steps += 1;
            self.last_step = Some(shift_us);
        }
        Change::Set { by, shift_us }
    }

    fn stepped(&mut self, by_us: i64) -> Change {
        self.steps += 1;
        self.last_step = Some(by_us);
        Change::Stepped { by_us }
    }
}
