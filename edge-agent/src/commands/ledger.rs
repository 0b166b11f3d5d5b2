//! What is known of commands: a row per id, budgets, and the decision whether one may start.
//!
//! Pure: it is told the time, and returns what is to be written.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use event::command::{Report, State};
use event::{DeviceId, EventTime};
use serde::{Deserialize, Serialize};

use super::allow::{self, Allowed};
use crate::buffer::{CommandChanges, Marks, SavedCommands};

/// Rows kept beyond the time in which their id could be delivered again.
pub(super) const ROWS_KEPT: usize = 1000;
/// Most rows at all: then commands are refused until some have expired. About 2 MB.
pub(super) const ROWS_MAX: usize = 2000;
/// A row is kept for so long at most, but never less than until its command expires.
const KEPT_FOR_US: i64 = 30 * DAY_US;
/// A command may not live longer than this: its id must be remembered until it expires.
pub(super) const LIFE_MAX_US: i64 = 30 * DAY_US;
const DAY_US: i64 = 86_400_000_000;
const HOUR_US: i64 = 3_600_000_000;
const HOUR: Duration = Duration::from_secs(3600);

/// What became of a command. The row of its id in the buffer, as postcard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    pub device: String,
    pub name: String,
    pub state: State,
    /// Whether its program was started: it counts in the budget.
    pub started: bool,
    /// When it was taken, by the agent's clock.
    pub at: EventTime,
    /// When it expires; none if it was given on the device and can come only once.
    pub expires_at: Option<EventTime>,
    /// The newest report.
    pub report: String,
}

/// A command that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    pub id: String,
    pub device: DeviceId,
    pub name: String,
    pub args: BTreeMap<String, String>,
    /// When it was given and until when it may start; none if it was given on the device.
    pub life: Option<(EventTime, EventTime)>,
    /// Why it was given, if that is known here.
    pub reason: Option<String>,
    /// The monotonic time by which it must have started, if it was given on the device.
    pub start_by: Option<Duration>,
}

/// What is to become of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Start this entry of the allow-list with these arguments.
    Start(usize, Vec<String>),
    /// Never start it, for this reason.
    Refused(String),
    /// Its time has passed.
    Expired(String),
    /// It cannot be told yet whether its time has passed.
    NeedsTime,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    rows: BTreeMap<String, Row>,
    marks: Marks,
    /// By name: the monotonic times at which starts no longer count, ascending.
    starts: BTreeMap<String, VecDeque<Duration>>,
}

impl Ledger {
    /// What earlier lives have left. A row that cannot be read stays known as a failure: its id must
    /// not run again.
    pub fn load(saved: SavedCommands, now: Option<EventTime>, mono: Duration) -> Self {
        let mut ledger = Self {
            marks: saved.marks,
            ..Self::default()
        };
        for (id, bytes) in saved.rows {
            let row = postcard::from_bytes(&bytes).unwrap_or_else(|error| {
                tracing::warn!(id, %error, "the row of a command cannot be read");
                Row {
                    device: String::new(),
                    name: String::new(),
                    state: State::Failed,
                    started: false,
                    at: now.unwrap_or_default(),
                    // Unknown: not before the longest life is over.
                    expires_at: now.map(|n| EventTime(n.0.saturating_add(LIFE_MAX_US))),
                    report: String::new(),
                }
            });
            if row.started {
                // A clock that was set does not set budgets free.
                let age = now.map_or(0, |n| n.0.saturating_sub(row.at.0).saturating_abs());
                let left = HOUR_US.saturating_sub(age).max(0) as u64;
                if left > 0 {
                    let frees = mono + Duration::from_micros(left);
                    ledger
                        .starts
                        .entry(row.name.clone())
                        .or_default()
                        .push_back(frees);
                }
            }
            ledger.rows.insert(id, row);
        }
        for starts in ledger.starts.values_mut() {
            starts.make_contiguous().sort();
        }
        ledger
    }

    pub fn get(&self, id: &str) -> Option<&Row> {
        self.rows.get(id)
    }

    /// Commands whose start was noted and whose end was not: the agent stopped in between.
    pub fn unfinished(&self) -> Vec<(String, Row)> {
        let unfinished = self.rows.iter().filter(|(_, r)| !r.state.is_final());
        unfinished.map(|(id, r)| (id.clone(), r.clone())).collect()
    }

    /// Whether no further id can be remembered.
    pub fn is_full(&self) -> bool {
        self.rows.len() >= ROWS_MAX
    }

    /// Decides on an order whose id is not known. `now` is none if no clock can be trusted.
    pub fn decide(
        &mut self,
        order: &Order,
        list: &[Allowed],
        agent: &str,
        now: Option<EventTime>,
        mono: Duration,
    ) -> Verdict {
        if let Some((issued_at, expires_at)) = order.life {
            if let Some(late) = expired(expires_at, now) {
                return Verdict::Expired(late);
            }
            if let Some(unknown) = self.may_have_run(issued_at, expires_at, now) {
                return Verdict::Refused(unknown);
            }
        }
        let (index, argv) = match allow::argv(list, agent, &order.device, &order.name, &order.args)
        {
            Ok(found) => found,
            Err(reason) => return Verdict::Refused(reason),
        };
        if let Some((_, expires_at)) = order.life {
            let Some(now) = now else {
                return Verdict::NeedsTime;
            };
            if expires_at.0.saturating_sub(now.0) > LIFE_MAX_US {
                return Verdict::Refused(format!(
                    "it expires only at {expires_at}; a command may live for 30 days"
                ));
            }
        }
        let max = list.get(index).map_or(0, |a| a.max_per_hour);
        let starts = self.starts.entry(order.name.clone()).or_default();
        while starts.front().is_some_and(|frees| *frees <= mono) {
            starts.pop_front();
        }
        if starts.len() >= max as usize {
            return Verdict::Refused(format!(
                "its budget is used up: {:?} was started {} times within an hour (max_per_hour)",
                order.name,
                starts.len()
            ));
        }
        Verdict::Start(index, argv)
    }

    /// Takes one start out of the budget of `name`.
    pub fn use_budget(&mut self, name: &str, mono: Duration) {
        let starts = self.starts.entry(name.to_owned()).or_default();
        starts.push_back(mono + HOUR);
    }

    /// Why an unknown id may have run before, if it may.
    fn may_have_run(
        &self,
        issued_at: EventTime,
        expires_at: EventTime,
        now: Option<EventTime>,
    ) -> Option<String> {
        let Marks {
            forgotten_until,
            lost_at,
        } = self.marks;
        if forgotten_until.is_some_and(|until| expires_at <= until) {
            return Some(
                "it may have run already: ids that expired as late were forgotten (was the clock \
                 set?); give the command again with a later expires_at"
                    .to_owned(),
            );
        }
        // A mark in the future was made by a clock that was wrong.
        let lost = lost_at.filter(|lost| now.is_some_and(|now| *lost <= now));
        lost.filter(|lost| issued_at < *lost).map(|lost| {
            format!(
                "it may have run already: what was known of commands was lost with the buffer at \
                 {lost}; give the command again"
            )
        })
    }

    /// Notes what has become of an order. Returns what is to be written, rows that are forgotten for
    /// it included.
    pub fn note(
        &mut self,
        order: &Order,
        report: &Report,
        started: bool,
        now: Option<EventTime>,
        at: EventTime,
    ) -> CommandChanges {
        let at = self.rows.get(&order.id).map_or(at, |before| before.at);
        let row = Row {
            device: order.device.as_str().to_owned(),
            name: order.name.chars().take(64).collect(),
            state: report.state,
            started,
            at,
            expires_at: order.life.map(|(_, expires_at)| expires_at),
            report: report.to_text(),
        };
        self.put(order.id.clone(), row, now)
    }

    /// Puts a row in its place. Returns what is to be written.
    pub fn put(&mut self, id: String, row: Row, now: Option<EventTime>) -> CommandChanges {
        let mut changes = CommandChanges::default();
        // It holds only texts, numbers and options: it can always be written.
        let bytes = postcard::to_stdvec(&row).unwrap_or_default();
        self.rows.insert(id.clone(), row);
        self.forget(&id, now, &mut changes);
        changes.rows.insert(id, Some(bytes));
        changes
    }

    fn forget(&mut self, but: &str, now: Option<EventTime>, changes: &mut CommandChanges) {
        let age = |row: &Row| now.map_or(0, |n| n.0.saturating_sub(row.at.0));
        let removable = |id: &str, row: &Row| {
            let expired = match (row.expires_at, now) {
                (None, _) => true,
                (Some(at), Some(now)) => at < now,
                (Some(_), None) => false,
            };
            let in_budget = row.started && age(row).saturating_abs() < HOUR_US;
            id != but && row.state.is_final() && expired && !in_budget
        };
        let mut candidates: Vec<(EventTime, String)> = self
            .rows
            .iter()
            .filter(|(id, row)| removable(id, row))
            .filter(|(_, row)| self.rows.len() > ROWS_KEPT || age(row) > KEPT_FOR_US)
            .map(|(id, row)| (row.at, id.clone()))
            .collect();
        candidates.sort();
        for (_, id) in candidates {
            let Some(row) = self.rows.get(&id) else {
                continue;
            };
            if self.rows.len() <= ROWS_KEPT && age(row) <= KEPT_FOR_US {
                break;
            }
            changes.forgotten_until = changes.forgotten_until.max(row.expires_at);
            self.rows.remove(&id);
            changes.rows.insert(id, None);
        }
        self.marks.forgotten_until = self.marks.forgotten_until.max(changes.forgotten_until);
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.rows.len()
    }
}

/// Why a command with this end must not start any more, if so.
pub(super) fn expired(expires_at: EventTime, now: Option<EventTime>) -> Option<String> {
    let now = now.filter(|now| *now >= expires_at)?;
    Some(format!("it expired at {expires_at}; it is {now}"))
}
