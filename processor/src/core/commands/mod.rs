//! Commands of a partition's devices: which wait, which were sent, what became of them.
//!
//! A command is a record of the log; what its device says of it are events of the metric
//! [`event::command::METRIC`]. So its state is a pure function of the log, as everything here. **Exactly one
//! execution is the device's promise** (it decides on an id once and remembers it); here a command is sent
//! again until its device has answered.
//!
//! - *queued → sent*: at once if the agent is in contact, else when it is again. At most [`IN_FLIGHT_MAX`] of an
//!   agent are unanswered at a time, and none is sent while the stop switch is on, but forced ones. Once sent, a
//!   command stays with that agent, whatever becomes of the device: another agent would run it a second time.
//! - *sent again*: when the agent connects or is back after silence, and after 30 s, 1 min, 2 min … 16 min
//!   without an answer. A running one is asked after in the same way, because its last word can get lost.
//! - *Final states of a device* ([`Entry::certain`]) stay. What the server only supposes is replaced by the
//!   device's word: a command that was sent and not answered 60 s after it expired counts as `expired`, one that
//!   runs without another word an hour after it expired (or began, if that is later) as `failed`.

mod by_hand;
mod dispatch;
mod show;

use std::collections::{BTreeMap, BTreeSet};

use event::Order;
use event::command::{METRIC, Report, State as Said};
use event::order::Origin;
use serde::{Deserialize, Serialize};

use self::by_hand::ByHand;
use super::effects::{CommandOutcome, Effects};
use super::names::Names;
use super::partition::Partition;
use super::registry::NONE;
use crate::rollout::Rollouts;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;
/// Commands of a partition that have not ended; beyond it a command is refused.
const OPEN_MAX: usize = 10_000;
/// The same for one agent.
const AGENT_OPEN_MAX: usize = 1_000;
/// Unanswered commands of an agent: it runs four at a time and lets sixteen wait.
const IN_FLIGHT_MAX: usize = 16;
/// Ended commands remembered, and for how long (longer than any command may live).
const HISTORY_MAX: usize = 10_000;
const HISTORY_FOR: i64 = 30 * 24 * HOUR;
/// A command that was sent has so long after its end of life to be answered.
const ANSWER_WAIT: i64 = 60 * SECOND;

/// How far a command has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum State {
    Queued,
    Sent,
    Running,
    Succeeded,
    Failed,
    Expired,
    Refused,
    Cancelled,
    DryRun,
}

impl State {
    fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::Sent | Self::Running)
    }

    fn of(said: Said) -> Self {
        match said {
            Said::Running => Self::Running,
            Said::Succeeded => Self::Succeeded,
            Said::Failed => Self::Failed,
            Said::Expired => Self::Expired,
            Said::Refused => Self::Refused,
        }
    }

    /// As a device would say it; none if it was taken back. What was only recorded went as it should.
    fn said(self) -> Option<Said> {
        match self {
            Self::Queued | Self::Sent | Self::Running => Some(Said::Running),
            Self::Succeeded | Self::DryRun => Some(Said::Succeeded),
            Self::Failed => Some(Said::Failed),
            Self::Expired => Some(Said::Expired),
            Self::Refused => Some(Said::Refused),
            Self::Cancelled => None,
        }
    }
}

/// One command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    order: Order,
    /// Where its record stands: the order in which an agent gets its commands.
    offset: u64,
    /// Numbers; [`NONE`] if the device is not known here.
    device: u32,
    agent: u32,
    state: State,
    /// Whether the state is known, or only supposed.
    certain: bool,
    issued: i64,
    /// First and newest time it was sent, and how often.
    first_sent: i64,
    sent: i64,
    sends: u32,
    started: Option<i64>,
    ended: Option<i64>,
    /// Event time of the newest report taken; `i64::MIN` = none.
    reported: i64,
    exit_code: Option<i32>,
    duration_ms: Option<u64>,
    output: Option<String>,
    reason: Option<String>,
}

impl Entry {
    fn expires(&self) -> i64 {
        self.issued.saturating_add(self.order.ttl)
    }
}

/// The stop switch, while it is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stop {
    by: String,
    why: String,
    since: i64,
}

/// All commands of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Commands {
    entries: BTreeMap<String, Entry>,
    stop: Option<Stop>,
    /// Rollouts by their ids; in partition 0 only.
    by_hand: BTreeMap<String, ByHand>,
    rollouts: Rollouts,
    /// By agent: (offset, id) of those that have not ended.
    #[serde(skip)]
    open: BTreeMap<u32, BTreeSet<(u64, String)>>,
    #[serde(skip)]
    open_count: usize,
    /// Ended ones by (ingest time of the end, id).
    #[serde(skip)]
    ended: BTreeSet<(i64, String)>,
    /// Changed in this step.
    #[serde(skip)]
    changed: BTreeSet<String>,
    /// The number of the metric of reports, once it is known.
    #[serde(skip, default = "none")]
    metric: u32,
}

fn none() -> u32 {
    NONE
}

impl Default for Commands {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            stop: None,
            by_hand: BTreeMap::new(),
            rollouts: Rollouts::default(),
            open: BTreeMap::new(),
            open_count: 0,
            ended: BTreeSet::new(),
            changed: BTreeSet::new(),
            metric: NONE,
        }
    }
}

impl Commands {
    /// Finds the metric of reports among the names; cheap once it is found, and as long as there are no
    /// commands.
    #[inline]
    pub(crate) fn resolve(&mut self, metrics: &Names) {
        if self.metric == NONE && !self.entries.is_empty() {
            self.metric = metrics.find(METRIC).unwrap_or(NONE);
        }
    }

    /// Whether values of a metric are reports of commands.
    #[inline]
    pub(crate) fn is_report(&self, metric: u32) -> bool {
        metric == self.metric
    }

    /// Whether an agent has commands that have not ended.
    #[inline]
    pub(crate) fn awaits(&self, agent: u32) -> bool {
        !self.open.is_empty() && self.open.contains_key(&agent)
    }

    /// Builds again what is not saved. False if the saved part contradicts itself.
    pub(crate) fn rebuild(&mut self, devices: u32, agents: u32, offset: u64) -> bool {
        let all: Vec<(String, State)> = self
            .entries
            .iter()
            .map(|(id, e)| (id.clone(), e.state))
            .collect();
        for (id, state) in all {
            let Some(e) = self.entries.get(&id) else {
                return false;
            };
            let known = (e.device < devices && e.agent < agents) || !state.is_open();
            let fits = |n: u32, len: u32| n < len || n == NONE;
            let sound = known
                && fits(e.device, devices)
                && fits(e.agent, agents)
                && e.offset < offset
                && e.order.id == id
                && e.order.check().is_ok()
                && e.ended.is_some() != state.is_open();
            if !sound {
                return false;
            }
            if state.is_open() {
                let of = self.open.entry(e.agent).or_default();
                of.insert((e.offset, id));
                self.open_count += 1;
            } else {
                self.ended.insert((e.ended.unwrap_or(i64::MIN), id));
            }
        }
        self.by_hand.values().all(|r| r.order.check().is_ok())
    }

    fn close(&mut self, id: &str) {
        let Some(e) = self.entries.get(id) else {
            return;
        };
        let (agent, place, ended) = (e.agent, (e.offset, id.to_owned()), e.ended);
        if let Some(of) = self.open.get_mut(&agent)
            && of.remove(&place)
        {
            self.open_count -= 1;
            if of.is_empty() {
                self.open.remove(&agent);
            }
        }
        self.ended
            .insert((ended.unwrap_or(i64::MIN), id.to_owned()));
    }

    /// Forgets the oldest ended ones beyond what is remembered.
    fn forget(&mut self, now: i64) {
        let horizon = now.saturating_sub(HISTORY_FOR);
        while let Some(first) = self.ended.first()
            && (self.ended.len() > HISTORY_MAX || first.0 < horizon)
        {
            if let Some((_, id)) = self.ended.pop_first() {
                self.entries.remove(&id);
            }
        }
    }
}

impl Partition {
    /// Takes an order.
    pub(crate) fn command(&mut self, order: Order, fx: &mut Effects) {
        if self.commands.entries.contains_key(&order.id) {
            return;
        }
        let found = self.registry.ids.find(order.device.as_str());
        let device = found.unwrap_or(NONE);
        let agent = found.map_or(NONE, |d| self.registry.devices[d as usize].agent);
        let waiting = self.commands.open.get(&agent).map_or(0, BTreeSet::len);
        let refused = if found.is_none() {
            Some("no such device is known in its partition".to_owned())
        } else if agent == NONE {
            Some("the device was decommissioned".to_owned())
        } else if self.agents.hot(agent).plain() {
            Some(PLAIN.to_owned())
        } else if waiting >= AGENT_OPEN_MAX || self.commands.open_count >= OPEN_MAX {
            Some(format!(
                "too many commands wait: {waiting} of its agent (at most {AGENT_OPEN_MAX}), {} of its \
                 partition (at most {OPEN_MAX})",
                self.commands.open_count
            ))
        } else {
            None
        };
        let id = order.id.clone();
        let state = match &refused {
            Some(_) => State::Refused,
            None if order.dry_run => State::DryRun,
            None => State::Queued,
        };
        let entry = Entry {
            order,
            offset: self.offset - 1,
            device,
            agent,
            state: State::Queued,
            certain: true,
            issued: self.now,
            first_sent: 0,
            sent: 0,
            sends: 0,
            started: None,
            ended: None,
            reported: i64::MIN,
            exit_code: None,
            duration_ms: None,
            output: None,
            reason: refused,
        };
        let place = (entry.offset, id.clone());
        self.commands.entries.insert(id.clone(), entry);
        self.commands.changed.insert(id.clone());
        if state != State::Queued {
            return self.end_command(&id, state, true, fx);
        }
        let of = self.commands.open.entry(agent).or_default();
        of.insert(place);
        self.commands.open_count += 1;
        self.dispatch(agent, false, fx);
    }

    /// Takes an order back that was not sent.
    pub(crate) fn cancel_command(&mut self, id: &str, by: &str, fx: &mut Effects) {
        let Some(entry) = self.commands.entries.get_mut(id) else {
            return;
        };
        if entry.state == State::Queued {
            entry.reason = Some(format!("taken back by {by}"));
            self.end_command(id, State::Cancelled, true, fx);
        }
    }

    /// Turns the stop switch.
    pub(crate) fn stop_commands(&mut self, on: bool, by: String, why: String, fx: &mut Effects) {
        self.commands.stop = match self.commands.stop.take() {
            Some(stop) if on => Some(stop),
            None if on => Some(Stop {
                by,
                why,
                since: self.now,
            }),
            _ => None,
        };
        if !on {
            self.dispatch_all(fx);
        }
    }

    /// A command has come to its end, or to another one than was supposed.
    fn end_command(&mut self, id: &str, state: State, certain: bool, fx: &mut Effects) {
        let now = self.now;
        let Some(entry) = self.commands.entries.get_mut(id) else {
            return;
        };
        (entry.state, entry.certain) = (state, certain);
        entry.ended.get_or_insert(now);
        let outcome = CommandOutcome {
            id: id.to_owned(),
            origin: entry.order.origin.clone(),
            state: state.said(),
        };
        self.commands.changed.insert(id.to_owned());
        self.commands.close(id);
        self.commands.forget(now);
        if let Origin::Rollout(rollout) = &outcome.origin {
            by_hand::tell(rollout, &outcome, fx);
        }
        fx.outcomes.push(outcome);
    }

    /// Takes a device's word about a command: the text of an event at `time`, from `agent`.
    pub(crate) fn command_report(&mut self, agent: u32, time: i64, text: &str, fx: &mut Effects) {
        // An agent may say of local commands, of which nothing is known here, what it likes.
        let Ok(report) = Report::parse(text) else {
            return;
        };
        let now = self.now;
        let Some(entry) = self.commands.entries.get_mut(&report.id) else {
            return;
        };
        if entry.agent != agent {
            return;
        }
        let state = State::of(report.state);
        let was_open = entry.state.is_open();
        if state == State::Running {
            match entry.state {
                State::Queued | State::Sent => {
                    entry.state = State::Running;
                    entry.started = Some(now);
                    entry.reported = time;
                    entry.reason = report.reason;
                    self.commands.changed.insert(report.id);
                }
                State::Expired | State::Failed if !entry.certain && entry.started.is_none() => {
                    entry.started = Some(now);
                    entry.reason = Some(
                        "it began, and the device has not told its end; the outcome is unknown"
                            .to_owned(),
                    );
                    self.end_command(&report.id, State::Failed, false, fx);
                }
                _ => {}
            }
            return;
        }
        // A device decides once: of two last words the later one counts, in whatever order they come.
        let known = !was_open && entry.certain;
        if known && (entry.reported == i64::MIN || time <= entry.reported) {
            return;
        }
        let same = known && entry.state == state;
        entry.reported = time;
        if same {
            return;
        }
        entry.exit_code = report.exit_code;
        entry.duration_ms = report.duration_ms;
        entry.output = report.output;
        entry.reason = report.reason;
        let id = report.id;
        self.end_command(&id, state, true, fx);
        if was_open {
            // There is room for the next.
            self.dispatch(agent, false, fx);
        }
    }
}

/// Why a plain device gets no commands.
pub(crate) const PLAIN: &str =
    "it is a plain device: it has no agent of ours that could run a command";
