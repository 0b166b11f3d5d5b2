//! All rules of the device and the state of every series. Pure: it is told the time.
//!
//! Limits and rates go by the event time of readings; silence goes by the monotonic clock, which no
//! step of the wall clock moves.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ::rules::{Episode, Kind, State, Transition};
use event::alert::{self, EdgeAlert};
use event::{DeviceId, EventTime};

use super::row::{self, Row};
use super::{EdgeRule, Run, SERIES_MAX, number};
use crate::commands::Local;
use crate::inbox::Reading;
use crate::sources::fnv1a;

/// A series may fire so often in a minute. One that flaps faster would wear the disk out.
const FIRES_PER_MINUTE: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);
/// Where there is no room, series without an episode that were not heard for this time are forgotten.
const IDLE: Duration = Duration::from_secs(3600);
/// A wall clock that moves by so much more than the monotonic one was set, microseconds.
const STEP: i64 = 5_000_000;
/// An episode of an earlier life may have begun so much before its `since`, microseconds.
const MOVED_MAX: i64 = 1000;
/// So many things of one sort are logged one by one, then each thousandth.
const LOGGED_ONE_BY_ONE: u64 = 10;

/// What is to be done because of a transition.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Act {
    /// To be reported, and of which device.
    pub alert: Option<(DeviceId, EdgeAlert)>,
    /// The row of the episode (none = remove it), to be stored with the report.
    pub row: Option<(String, Option<Vec<u8>>)>,
    /// To be given after that.
    pub command: Option<Local>,
}

/// What people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    /// Rules.
    pub rules: u64,
    /// Episodes that fire.
    pub firing: u64,
    /// Readings that were not evaluated because their time is too far from the clock.
    pub stale: u64,
    /// Readings of series for which there is no room.
    pub unwatched: u64,
}

#[derive(Debug)]
struct Series {
    state: State,
    /// Newest event time; of a series that is awaited, the time since when.
    newest: i64,
    heard: Duration,
    /// Begin of the newest episode, event time; `i64::MIN` = there was none.
    since: i64,
    /// The same as the rule found it: of an episode that began when the one before did, `since` is later.
    began: i64,
    /// Fires in the minute that began then.
    fires: (Duration, u32),
    /// The episode was resumed, and it is not certain that its command was given.
    give_again: bool,
}

#[derive(Debug)]
pub(super) struct Engine {
    rules: Vec<EdgeRule>,
    by_metric: HashMap<String, Arc<[usize]>>,
    /// By rule.
    series: Vec<HashMap<DeviceId, Series>>,
    acts: VecDeque<Act>,
    counts: Counts,
    flapping: u64,
    /// Wall clock minus monotonic clock at the last look, microseconds.
    offset: i64,
    /// When idle series were last looked for.
    looked: Option<Duration>,
}

impl Engine {
    /// Nothing is known. Silence of devices that a rule names is counted from now on.
    pub fn new(rules: Vec<EdgeRule>, wall: EventTime, mono: Duration) -> Self {
        let mut by_metric: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, rule) in rules.iter().enumerate() {
            by_metric
                .entry(rule.rule.metric.clone())
                .or_default()
                .push(i);
        }
        let series = rules.iter().map(|rule| {
            let awaited = match rule.rule.kind {
                Kind::Silence(_) => rule.devices.as_slice(),
                _ => &[],
            };
            let series = |device: &DeviceId| {
                let state = rule.rule.kind.state(Some(micros(mono)));
                (device.clone(), Series::new(state, wall.0, mono))
            };
            awaited.iter().map(series).collect()
        });
        Self {
            series: series.collect(),
            by_metric: by_metric.into_iter().map(|(m, r)| (m, r.into())).collect(),
            acts: VecDeque::new(),
            counts: Counts {
                rules: rules.len() as u64,
                ..Counts::default()
            },
            rules,
            flapping: 0,
            offset: wall.0.saturating_sub(micros(mono)),
            looked: None,
        }
    }

    /// Goes on with the episodes that an earlier life has left. Those whose rule is gone end.
    pub fn resume(&mut self, rows: Vec<(String, Vec<u8>)>, wall: EventTime, mono: Duration) {
        for (key, bytes) in rows {
            let read = row::parse_key(&key).zip(Row::decode(&bytes));
            let Some(((name, device), row)) = read else {
                tracing::warn!(key, "the row of an episode cannot be read; it is forgotten");
                self.acts.push_back(Act {
                    alert: None,
                    row: Some((key, None)),
                    command: None,
                });
                continue;
            };
            let same = |rule: &EdgeRule| {
                rule.rule.name == name
                    && rule.rule.metric == row.metric
                    && rule.rule.kind.name() == row.kind
                    && rule.watches(&device)
            };
            let Some(index) = self.rules.iter().position(same) else {
                let alert = EdgeAlert {
                    rule: name.to_owned(),
                    state: alert::State::Resolved,
                    metric: row.metric,
                    value: None,
                    severity: row.severity,
                    since: row.since,
                    at: wall.0,
                    command: None,
                    reason: Some("the agent has no such rule any more".to_owned()),
                };
                self.acts.push_back(Act {
                    alert: Some((device, alert)),
                    row: Some((key, None)),
                    command: None,
                });
                continue;
            };
            let rule = &self.rules[index];
            let state = rule.rule.kind.resume(Episode {
                began: row.since,
                firing: true,
            });
            let age = wall.0.saturating_sub(row.at).saturating_abs();
            let series = Series {
                since: row.since,
                began: row.since.saturating_sub(MOVED_MAX),
                give_again: rule.run.is_some() && age <= micros(rule.stale_after),
                ..Series::new(state, i64::MIN, mono)
            };
            self.counts.firing += 1;
            self.series[index].insert(device, series);
        }
    }

    /// Takes a reading of a watched metric as it comes. `is_set` is whether the clock is; one that is not is
    /// behind, so what seems to be ahead of it may be of now. Returns whether there is something to do.
    pub fn take(
        &mut self,
        reading: &Reading,
        (wall, is_set): (EventTime, bool),
        mono: Duration,
    ) -> bool {
        self.look_at_clock(wall, mono);
        let acts = self.acts.len();
        let Some(indexes) = self.by_metric.get(reading.metric.as_str()).cloned() else {
            return false;
        };
        let time = reading.time.unwrap_or(wall);
        let mut wake = false;
        for index in indexes.iter().copied() {
            let rule = &self.rules[index];
            if !rule.watches(&reading.device) {
                continue;
            }
            let age = wall.0.saturating_sub(time.0);
            let limit = micros(rule.stale_after);
            if age > limit || (is_set && age < -limit) {
                self.counts.stale += 1;
                if is_logged(self.counts.stale) {
                    // For the status.
                    wake = true;
                    tracing::warn!(
                        rule = rule.rule.name, device = %reading.device, time = %time,
                        so_far = self.counts.stale,
                        "a reading is not evaluated: its time is further from this device's clock than \
                         stale_after of the rule"
                    );
                }
                continue;
            }
            wake |= self.make_series(index, &reading.device, mono);
            self.step(index, reading, time.0, mono);
        }
        wake || self.acts.len() > acts
    }

    /// Makes sure that there is a series, if there is room. Returns whether the service is to look: for a new
    /// silence, or for the status.
    fn make_series(&mut self, index: usize, device: &DeviceId, mono: Duration) -> bool {
        if self.series[index].contains_key(device) {
            return false;
        }
        let count = |series: &[HashMap<DeviceId, Series>]| series.iter().map(HashMap::len).sum();
        let mut total: usize = count(&self.series);
        if total >= SERIES_MAX && self.looked.is_none_or(|at| mono >= at + MINUTE) {
            self.looked = Some(mono);
            self.forget_idle(mono);
            total = count(&self.series);
        }
        let rule = &self.rules[index].rule;
        if total >= SERIES_MAX {
            self.counts.unwatched += 1;
            if is_logged(self.counts.unwatched) {
                tracing::error!(
                    rule = rule.name, %device, so_far = self.counts.unwatched,
                    "rules watch {SERIES_MAX} series already; this one is not watched. Name the `devices` \
                     that the rules are for"
                );
            }
            return is_logged(self.counts.unwatched);
        }
        let series = Series::new(rule.kind.state(None), i64::MIN, mono);
        self.series[index].insert(device.clone(), series);
        matches!(rule.kind, Kind::Silence(_))
    }

    /// What was idle for long and remembers nothing that counts.
    fn forget_idle(&mut self, mono: Duration) {
        for (rule, series) in self.rules.iter().zip(&mut self.series) {
            if !matches!(rule.rule.kind, Kind::Silence(_)) {
                series.retain(|_, s| s.state.episode().is_some() || mono < s.heard + IDLE);
            }
        }
    }

    fn step(&mut self, index: usize, reading: &Reading, time: i64, mono: Duration) {
        let kind = self.rules[index].rule.kind;
        let Some(series) = self.series[index].get_mut(&reading.device) else {
            return;
        };
        let is_silence = matches!(kind, Kind::Silence(_));
        if !is_silence && time < series.newest {
            // As in the cloud: it says nothing of now.
            return;
        }
        series.newest = if is_silence {
            // Of the last one heard, even if the clock was set back.
            time
        } else {
            series.newest.max(time)
        };
        series.heard = mono;
        let value = reading.value.as_number();
        let steps_at = if is_silence { micros(mono) } else { time };
        let transition = kind.step(&mut series.state, steps_at, value);
        match transition {
            Transition::Fired => {
                let since = series.state.episode().map_or(time, |e| e.began);
                self.fire(index, &reading.device, value, (since, time), mono);
            }
            Transition::Resolved => self.end(index, &reading.device, value, time),
            Transition::None | Transition::Pending | Transition::Dropped => {
                let again = std::mem::take(&mut series.give_again);
                if again && series.state.episode().is_some() {
                    let since = series.since;
                    let command = self.command(index, &reading.device, value, since, mono);
                    self.acts.push_back(Act {
                        alert: None,
                        row: None,
                        command,
                    });
                }
            }
        }
    }

    /// Time passes. Returns whether there is something to do.
    pub fn pass(&mut self, wall: EventTime, mono: Duration) -> bool {
        self.look_at_clock(wall, mono);
        let now = micros(mono);
        let acts = self.acts.len();
        for index in 0..self.rules.len() {
            let kind = self.rules[index].rule.kind;
            if !matches!(kind, Kind::Silence(_)) {
                continue;
            }
            let mut again = Vec::new();
            let fires = |(device, series): (&DeviceId, &mut Series)| {
                if std::mem::take(&mut series.give_again) {
                    again.push((device.clone(), series.since));
                }
                let fired = kind.pass(&mut series.state, now) == Transition::Fired;
                fired.then(|| (device.clone(), series.newest))
            };
            let mut silent: Vec<_> = self.series[index].iter_mut().filter_map(fires).collect();
            silent.sort();
            for (device, since) in silent {
                self.fire(index, &device, None, (since, wall.0), mono);
            }
            // The command of an episode of an earlier life, if it did not start there: the ledger knows.
            again.sort();
            for (device, since) in again {
                let command = self.command(index, &device, None, since, mono);
                self.acts.push_back(Act {
                    alert: None,
                    row: None,
                    command,
                });
            }
        }
        self.acts.len() > acts
    }

    /// Nobody could be heard until now, because the agent itself had no room: silence is counted from here.
    pub fn excuse(&mut self, mono: Duration) {
        for (rule, series) in self.rules.iter().zip(&mut self.series) {
            let kind = rule.rule.kind;
            if matches!(kind, Kind::Silence(_)) {
                let quiet = series.values_mut().filter(|s| s.state.episode().is_none());
                quiet.for_each(|s| s.state = kind.state(Some(micros(mono))));
            }
        }
    }

    /// The monotonic time at which [`Self::pass`] may have something to tell.
    pub fn due(&self) -> Option<Duration> {
        let all = self.rules.iter().zip(&self.series);
        let due = all.flat_map(|(rule, series)| {
            let kind = rule.rule.kind;
            series.values().filter_map(move |s| kind.due(&s.state))
        });
        let due = due.min()?;
        Some(Duration::from_micros(u64::try_from(due).unwrap_or(0)))
    }

    /// Takes out what is to be done, at most so much.
    pub fn drain(&mut self, max: usize) -> Vec<Act> {
        let n = self.acts.len().min(max);
        self.acts.drain(..n).collect()
    }

    /// How much is to be done.
    pub fn waiting(&self) -> usize {
        self.acts.len()
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn fire(
        &mut self,
        index: usize,
        device: &DeviceId,
        value: Option<f64>,
        (since, at): (i64, i64),
        mono: Duration,
    ) {
        let rule = &self.rules[index];
        let Some(series) = self.series[index].get_mut(device) else {
            return;
        };
        let (began, n) = &mut series.fires;
        if mono >= *began + MINUTE {
            (*began, *n) = (mono, 0);
        }
        if *n >= FIRES_PER_MINUTE {
            // As if it had not begun: it fires when the minute is over, if the condition still holds.
            series.state = rule.rule.kind.state(Some(micros(mono)));
            self.flapping += 1;
            if is_logged(self.flapping) {
                tracing::warn!(
                    rule = rule.rule.name, %device, so_far = self.flapping,
                    "a rule fires more than {FIRES_PER_MINUTE} times a minute on a device; it waits. Set \
                     `clear` further from `raise`, or a longer `for`"
                );
            }
            return;
        }
        *n += 1;
        // Times may be coarse. An episode is known by its begin, also to the ledger of commands, so one that begins
        // when the one before did begins a microsecond after it. (Read again after a crash, the same readings
        // give the same.)
        let same = (series.began..=series.since).contains(&since);
        series.began = if same { series.began } else { since };
        let since = if same {
            series.since.saturating_add(1)
        } else {
            since
        };
        let at = at.max(since);
        series.since = since;
        series.give_again = false;
        self.counts.firing += 1;
        let command = self.command(index, device, value, since, mono);
        let rule = &self.rules[index].rule;
        let state = self.series[index].get(device).map(|s| &s.state);
        let reason = state
            .zip(value)
            .and_then(|(state, value)| rule.kind.reason(state, value));
        let row = Row {
            metric: rule.metric.clone(),
            kind: rule.kind.name().to_owned(),
            severity: rule.severity.as_str().to_owned(),
            since,
            at,
        };
        let alert = EdgeAlert {
            rule: rule.name.clone(),
            state: alert::State::Firing,
            metric: rule.metric.clone(),
            value,
            severity: row.severity.clone(),
            since,
            at,
            command: command.as_ref().and_then(|c| c.id.clone()),
            reason,
        };
        self.acts.push_back(Act {
            alert: Some((device.clone(), alert)),
            row: Some((row::key(&rule.name, device), Some(row.encode()))),
            command,
        });
    }

    fn end(&mut self, index: usize, device: &DeviceId, value: Option<f64>, at: i64) {
        let rule = &self.rules[index].rule;
        let since = match self.series[index].get_mut(device) {
            Some(series) => {
                series.give_again = false;
                series.since
            }
            None => at,
        };
        let at = at.max(since);
        self.counts.firing = self.counts.firing.saturating_sub(1);
        let alert = EdgeAlert {
            rule: rule.name.clone(),
            state: alert::State::Resolved,
            metric: rule.metric.clone(),
            value,
            severity: rule.severity.as_str().to_owned(),
            since,
            at,
            command: None,
            reason: None,
        };
        self.acts.push_back(Act {
            alert: Some((device.clone(), alert)),
            row: Some((row::key(&rule.name, device), None)),
            command: None,
        });
    }

    /// The command of an episode. Its id is always the same for the same episode, so that the ledger of
    /// commands knows it again.
    fn command(
        &self,
        index: usize,
        device: &DeviceId,
        value: Option<f64>,
        since: i64,
        mono: Duration,
    ) -> Option<Local> {
        let EdgeRule {
            rule,
            run,
            stale_after,
            ..
        } = &self.rules[index];
        let run = run.as_ref()?;
        let (name, metric) = (&rule.name, &rule.metric);
        let id = fnv1a(format!("{name}\0{device}\0{metric}\0{since}").as_bytes());
        let values = values(rule, device.as_str(), value);
        // A value that is missing was found at the start; the command is refused without it.
        let args = run.args.iter();
        let args = args.filter_map(|(k, t)| Some((k.clone(), t.fill(&values).ok()?)));
        let what = match value {
            Some(value) => format!("is {}", number(value)),
            None => "is silent".to_owned(),
        };
        Some(Local {
            id: Some(format!("rule-{id:016x}")),
            device: run.device(device),
            name: run.command.clone(),
            args: args.collect(),
            reason: format!(
                "rule {name}: {metric} of {device} {what}, since {}",
                EventTime(since)
            ),
            start_by: Some(mono + *stale_after),
        })
    }

    /// Times of before a clock was set are not compared with those of after.
    fn look_at_clock(&mut self, wall: EventTime, mono: Duration) {
        let offset = wall.0.saturating_sub(micros(mono));
        let moved = offset.saturating_sub(self.offset).saturating_abs();
        self.offset = offset;
        if moved <= STEP {
            return;
        }
        tracing::info!("the clock was set: rules that were about to fire begin again");
        for (rule, series) in self.rules.iter().zip(&mut self.series) {
            let kind = rule.rule.kind;
            if matches!(kind, Kind::Silence(_)) {
                continue;
            }
            for series in series.values_mut() {
                kind.clock_set(&mut series.state);
                series.newest = i64::MIN;
            }
        }
    }
}

impl Series {
    fn new(state: State, newest: i64, mono: Duration) -> Self {
        Self {
            state,
            newest,
            heard: mono,
            since: i64::MIN,
            began: i64::MIN,
            fires: (mono, 0),
            give_again: false,
        }
    }
}

impl EdgeRule {
    fn watches(&self, device: &DeviceId) -> bool {
        self.devices.is_empty() || self.devices.binary_search(device).is_ok()
    }
}

impl Run {
    /// The device that the command is for; none = the agent.
    fn device(&self, device: &DeviceId) -> Option<DeviceId> {
        self.devices.contains(device).then(|| device.clone())
    }
}

/// What argument templates are filled with.
pub(crate) fn values(
    rule: &::rules::Rule,
    device: &str,
    value: Option<f64>,
) -> BTreeMap<String, String> {
    [
        ("device", device.to_owned()),
        ("metric", rule.metric.clone()),
        // Silence has none.
        ("value", value.map_or("none".to_owned(), number)),
        ("rule", rule.name.clone()),
        ("severity", rule.severity.as_str().to_owned()),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into()
}

fn is_logged(n: u64) -> bool {
    n <= LOGGED_ONE_BY_ONE || n.is_multiple_of(1000)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
