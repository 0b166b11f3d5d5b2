//! Whether a command may go out now: canary, budget, cool-down, dry run, stop.
//!
//! Automatic commands of a rule and a rollout by hand are held to the same limits, so that one wrong rule or
//! one wrong command cannot do to a whole fleet what it did to the first device. Pure: it is told the time, has
//! ordered maps only, and its whole state can be written and read (serde).
//!
//! A **key** is what is held to limits together: the name of a rule, or the id of a rollout. The caller asks
//! for each command ([`Rollouts::ask`]) and tells what became of it ([`Rollouts::outcome`]); what waited and
//! may go out now, or never will, comes back as [`Released`].
//!
//! - **Canary**: the first [`Limits::canary`] commands go out; all others wait until that many have succeeded.
//!   One that fails stops the key until somebody calls [`Rollouts::reset`].
//! - **After it** at most [`Limits::at_once`] are out at a time, and more than [`Limits::failures_max`] failures
//!   within [`Limits::failures_for`] stop the key.
//! - **Budget and cool-down** are for what acts by itself: beyond [`Limits::per_hour`] a command is not sent, nor
//!   one to a device that got one less than [`Limits::cooldown`] ago or has one waiting or out.
//! - **Stop switch**: while it is on, what is asked for is not sent and does not wait.

mod one;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use one::{Phase, Rollout};

/// Keys remembered. Of more, those for which nothing is under way are forgotten, with their cool-downs.
pub const KEYS_MAX: usize = 1_000;
/// Commands of one key that may wait.
pub const WAITING_MAX: usize = 10_000;
/// Devices of one key whose cool-down is remembered; of more, those that end first are forgotten.
pub const COOLING_MAX: usize = 10_000;
/// Largest [`Limits::per_hour`].
pub const PER_HOUR_MAX: u32 = 10_000;

/// What the commands of a key are held to. Times are microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Commands within any hour, 1 to [`PER_HOUR_MAX`]; 0 = no limit.
    pub per_hour: u32,
    /// A device gets at most one command in this time; 0 = no limit.
    pub cooldown: i64,
    /// So many must succeed before all others; 0 = none.
    pub canary: u32,
    /// So many may be under way at a time after that; 0 = no limit.
    pub at_once: u32,
    /// So many may fail after the canary without stopping the rest.
    pub failures_max: u32,
    /// How long a failure is counted; `i64::MAX` = for ever.
    pub failures_for: i64,
    /// Say what would be done, and do nothing. Budget and cool-down count as if it were done.
    pub dry_run: bool,
}

/// One command that somebody wants to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask<'a> {
    /// Its id: asked again, it gets the same answer as long as it waits or is out.
    pub id: &'a str,
    /// The device.
    pub device: &'a str,
    /// A hash of what is sent. Another one than before begins the canary anew: it is another command.
    pub form: u64,
    /// While it waits, it is given up at this time; `i64::MAX` = never.
    pub expires: i64,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Send it now.
    Send,
    /// It would have been sent.
    DryRun,
    /// Not sent: the hour's budget is used up.
    OverBudget,
    /// Not sent: the device got one a short while ago, or has one under way.
    CoolingDown,
    /// It waits for the canary.
    WaitingForCanary,
    /// It waits until fewer are under way.
    WaitingForTurn,
    /// Not sent: the stop switch is on, or a failure has stopped this key.
    Stopped,
    /// It waited too long.
    Expired,
    /// Not sent: too many wait.
    NoRoom,
}

impl Decision {
    /// The name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Send => "sent",
            Self::DryRun => "dry_run",
            Self::OverBudget => "over_budget",
            Self::CoolingDown => "cooling_down",
            Self::WaitingForCanary => "waiting_for_canary",
            Self::WaitingForTurn => "waiting_for_turn",
            Self::Stopped => "stopped",
            Self::Expired => "expired",
            Self::NoRoom => "no_room",
        }
    }

    /// Whether another answer will follow as [`Released`].
    pub const fn is_waiting(self) -> bool {
        matches!(self, Self::WaitingForCanary | Self::WaitingForTurn)
    }
}

/// What became of a command that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It did what it should.
    Succeeded,
    /// It failed, was refused, or expired.
    Failed,
    /// It was taken back before it was sent: neither success nor failure.
    Cancelled,
}

/// A command that waited, and what it has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// Its key.
    pub key: String,
    /// Its id.
    pub id: String,
    /// The device.
    pub device: String,
    /// [`Decision::Send`], [`Decision::OverBudget`] or [`Decision::Expired`].
    pub decision: Decision,
}

/// All keys, and the stop switch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollouts {
    stopped: bool,
    keys: BTreeMap<String, Rollout>,
}

impl Rollouts {
    /// Whether the stop switch is on.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Turns the stop switch. Turned off, what still waits goes on.
    pub fn set_stopped(&mut self, on: bool, now: i64) -> Vec<Released> {
        self.stopped = on;
        self.release_all(now)
    }

    /// Asks whether a command may be sent at `now`. `Send` counts it as sent.
    pub fn ask(&mut self, key: &str, limits: &Limits, ask: &Ask<'_>, now: i64) -> Decision {
        if !self.keys.contains_key(key) {
            if self.keys.len() >= KEYS_MAX {
                self.forget_idle(now);
            }
            if self.keys.len() >= KEYS_MAX {
                return Decision::NoRoom;
            }
        }
        let stopped = self.stopped;
        let one = self.keys.entry(key.to_owned()).or_default();
        one.ask(limits, ask, stopped, now)
    }

    /// Takes what became of a command. One that is not out is not counted (twice), and one that waited is
    /// taken out of the row.
    pub fn outcome(&mut self, key: &str, id: &str, outcome: Outcome, now: i64) -> Vec<Released> {
        let Some(one) = self.keys.get_mut(key) else {
            return Vec::new();
        };
        one.outcome(id, outcome, now);
        release(key, one, self.stopped, now)
    }

    /// Stops a key as a failure does; one that was never asked about is stopped from its first command on,
    /// if there is room for it. `because` is for people.
    pub fn stop(&mut self, key: &str, because: &str) {
        if self.keys.contains_key(key) || self.keys.len() < KEYS_MAX {
            let one = self.keys.entry(key.to_owned()).or_default();
            one.stop(because.to_owned());
        }
    }

    /// Begins a key anew, with its canary: what waits goes on.
    pub fn reset(&mut self, key: &str, now: i64) -> Vec<Released> {
        let Some(one) = self.keys.get_mut(key) else {
            return Vec::new();
        };
        one.reset();
        release(key, one, self.stopped, now)
    }

    /// Looks at the time: what waited too long is given up. To be called now and then.
    pub fn tick(&mut self, now: i64) -> Vec<Released> {
        let mut out = Vec::new();
        for (key, one) in &mut self.keys {
            if one.next_expiry().is_some_and(|t| t <= now) {
                out.extend(one.expire(now).map(|w| w.released(key, Decision::Expired)));
                out.append(&mut release(key, one, self.stopped, now));
            }
        }
        out
    }

    /// When [`Self::tick`] has something to do next; none if nothing can expire.
    pub fn next_expiry(&self) -> Option<i64> {
        self.keys.values().filter_map(Rollout::next_expiry).min()
    }

    /// One key.
    pub fn get(&self, key: &str) -> Option<&Rollout> {
        self.keys.get(key)
    }

    /// All keys, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Rollout)> {
        self.keys.iter().map(|(key, one)| (key.as_str(), one))
    }

    /// Puts back a key as it was stored.
    pub fn insert(&mut self, key: String, one: Rollout) {
        self.keys.insert(key, one);
    }

    /// Forgets a key; what waits there is never sent.
    pub fn remove(&mut self, key: &str) -> Option<Rollout> {
        self.keys.remove(key)
    }

    fn release_all(&mut self, now: i64) -> Vec<Released> {
        let stopped = self.stopped;
        let keys = self.keys.iter_mut();
        keys.flat_map(|(key, one)| release(key, one, stopped, now))
            .collect()
    }

    /// Makes room: keys that hold nothing which could still matter.
    fn forget_idle(&mut self, now: i64) {
        self.keys.retain(|_, one| !one.is_idle(now));
    }
}

fn release(key: &str, one: &mut Rollout, stopped: bool, now: i64) -> Vec<Released> {
    let mut out = Vec::new();
    while let Some((waiting, decision)) = one.release_next(stopped, now) {
        out.push(waiting.released(key, decision));
    }
    out
}
