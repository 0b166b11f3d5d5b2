//! Once per second of ingest time: completeness, settling, and what changed.

use views::completeness::DORMANT_AFTER;
use views::model::{HeldBackBy, Time};
use views::store::{SETTLE_AFTER, SETTLE_DEADLINE};
use views::{LagReport, RowPart, RowState, SettledCounts, StatusCounts};

use super::effects::{Effects, Summary};
use super::partition::{Partition, WINDOWS_MAX};
use super::snapshot::row_key;

/// A window settles at the latest this long after its end.
pub(crate) const DEADLINE: i64 = SETTLE_DEADLINE;
const SECOND: i64 = 1_000_000;
/// No window is forgotten before its deadline has passed for this long.
const FORGET_AFTER: i64 = 3600 * SECOND;
/// An agent not heard from for this long (our own outages not counted) is silent.
const SILENT_AFTER: i64 = 120 * SECOND;

/// What is known of an agent right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Online,
    Buffering,
    Silent,
}

impl Standing {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Buffering => "buffering",
            Self::Silent => "silent",
        }
    }
}

impl Partition {
    pub(crate) fn flush(&mut self, fx: &mut Effects) {
        let second = self.now.div_euclid(SECOND);
        self.at_rest = second > self.flushed;
        if !self.at_rest {
            return;
        }
        self.flushed = second;
        if std::mem::take(&mut self.dirty) {
            for group in &mut self.groups {
                let Some(aggregate) = group.aggregate else {
                    continue;
                };
                if group.build_index(&self.agents) {
                    fx.indexes
                        .push((aggregate, group.values.clone(), group.index.clone()));
                }
            }
        }
        let mut alerts = std::mem::take(&mut self.alerts);
        alerts.page_waiting(self.now, |s| self.progress_of(s), |s| self.about(s), fx);
        alerts.take_changed(|s| self.about(s), fx);
        self.alerts = alerts;
        self.settle();
        self.forget(fx);
        for cell in std::mem::take(&mut self.changed) {
            if std::mem::take(&mut self.windows[cell as usize].changed) {
                fx.rows.extend(self.row(cell));
            }
        }
        fx.summary = Some(self.summary());
    }

    /// Windows that are complete enough, or past their deadline, settle.
    fn settle(&mut self) {
        let due = self.now.saturating_sub(SETTLE_AFTER);
        let mut settled = Vec::new();
        for &(end, group, start) in self.open.iter().take_while(|o| o.0 <= due) {
            let counts = self.groups[group as usize].index.counts(start, end);
            if counts.is_enough() || self.now >= end + DEADLINE {
                settled.push((end, group, start, counts));
            }
        }
        for (end, group, start, counts) in settled {
            self.open.remove(&(end, group, start));
            let Some(&cell) = self.window_index.get(&(group, start)) else {
                continue;
            };
            let window = &mut self.windows[cell as usize];
            window.state = RowState::Settled;
            window.settled = Some(SettledCounts {
                done: counts.complete + counts.lossy,
                expected: counts.expected,
            });
            // Not less than before: a settling without a new record of its own must be newer than the row.
            window.revision = self.offset.max(window.revision + 1);
            if !std::mem::replace(&mut window.changed, true) {
                self.changed.push(cell);
            }
            if !std::mem::replace(&mut window.unsaved, true) {
                self.unsaved.push(cell);
            }
        }
    }

    /// Forgets the oldest windows of an aggregate that has too many.
    fn forget(&mut self, fx: &mut Effects) {
        for a in 0..self.aggregates.len() {
            let mut horizon = None;
            let young = self.now.saturating_sub(DEADLINE + FORGET_AFTER);
            while self.aggregates[a].windows > WINDOWS_MAX {
                let a = a as u32;
                let oldest = self
                    .by_start
                    .range((a, i64::MIN, 0)..(a + 1, i64::MIN, 0))
                    .next();
                let Some((&key, _)) = oldest else { break };
                if key.1 + self.aggregates[a as usize].spec.window > young {
                    break;
                }
                // All groups of the same start go together.
                horizon = Some(key.1 + self.aggregates[a as usize].spec.window);
                self.drop_window(key);
            }
            if let Some(horizon) = horizon {
                let a = a as u32;
                let rest: Vec<_> = self
                    .by_start
                    .range((a, i64::MIN, 0)..(a, horizon, 0))
                    .map(|(key, _)| *key)
                    .collect();
                for key in rest {
                    self.drop_window(key);
                }
                self.aggregates[a as usize].forgotten = horizon;
                fx.evicted.push((a, horizon));
            }
        }
    }

    pub(crate) fn drop_window(&mut self, key: (u32, i64, u32)) {
        let (a, start, group) = key;
        let Some(cell) = self.by_start.remove(&key) else {
            return;
        };
        self.window_index.remove(&(group, start));
        let end = start + self.aggregates[a as usize].spec.window;
        self.open.remove(&(end, group, start));
        self.aggregates[a as usize].windows -= 1;
        let window = &mut self.windows[cell as usize];
        window.changed = false;
        window.unsaved = false;
        window.devices.clear();
        self.free.push(cell);
        self.deleted.push(row_key(group, start));
    }

    pub(crate) fn row(&self, cell: u32) -> Option<RowPart> {
        let w = &self.windows[cell as usize];
        let group = &self.groups[w.group as usize];
        let aggregate = group.aggregate?;
        Some(RowPart {
            tier: views::Tier::Window,
            aggregate,
            group: group.values.clone(),
            start: w.start,
            end: w.start + self.aggregates[aggregate as usize].spec.window,
            revision: w.revision,
            state: w.state,
            count: w.count,
            numeric: w.numeric,
            sum: w.sum,
            min: w.min,
            max: w.max,
            min_at: None,
            max_at: None,
            distinct: w.devices.len(),
            values: None,
            quantiles: None,
            late_events: w.late_events,
            settled: w.settled,
        })
    }

    pub(crate) fn standing(&self, agent: u32) -> Standing {
        let agent = &self.agents[agent as usize];
        if agent.online == Some(false) {
            // It said good-bye, or its last will did: it buffers.
            return Standing::Buffering;
        }
        let silence = self
            .now
            .saturating_sub(self.outage)
            .saturating_sub(agent.contact_uptime);
        if silence > SILENT_AFTER {
            Standing::Silent
        } else if agent.progress < self.now.saturating_sub(SILENT_AFTER) && !agent.plain {
            Standing::Buffering
        } else {
            Standing::Online
        }
    }

    pub(crate) fn summary(&self) -> Summary {
        let mut status = StatusCounts::default();
        let mut furthest: Option<u32> = None;
        let dormant = self.now.saturating_sub(DORMANT_AFTER);
        for number in 0..self.agents.len() as u32 {
            let agent = &self.agents[number as usize];
            let devices = agent.devices.len() as u64;
            status.agents.known += 1;
            match self.standing(number) {
                Standing::Online => {
                    status.agents.online += 1;
                    status.devices.online += devices;
                }
                Standing::Buffering => {
                    status.agents.buffering += 1;
                    status.devices.buffering += devices;
                }
                Standing::Silent => status.devices.silent += devices,
            }
            if agent.last_contact >= dormant && devices > 0 {
                status.devices.expected += devices;
                let behind = |f: u32| {
                    let f = &self.agents[f as usize];
                    (agent.progress, &agent.name) < (f.progress, &f.name)
                };
                if furthest.is_none_or(behind) {
                    furthest = Some(number);
                }
            }
        }
        let lag = furthest.map(|number| {
            let agent = &self.agents[number as usize];
            LagReport(HeldBackBy {
                agent: agent.name.to_string(),
                devices: agent.devices.len() as u64,
                progress: Time(agent.progress),
            })
        });
        Summary {
            now: self.now,
            totals: self.totals,
            status,
            lag,
            incidents: self.incidents,
            reasons: self.reasons.clone(),
        }
    }

    /// Everything there is, as effects: for views that begin empty.
    pub fn publish(&self, fx: &mut Effects) {
        fx.declared = Some(self.declaration.clone());
        for group in &self.groups {
            if let Some(aggregate) = group.aggregate {
                fx.indexes
                    .push((aggregate, group.values.clone(), group.index.clone()));
            }
        }
        fx.rows
            .extend(self.by_start.values().filter_map(|&cell| self.row(cell)));
        for (&place, active) in &self.alerts.active {
            let (device, attributes) = self.about(place.1);
            let about = super::alerts::About {
                device: &device,
                attributes,
            };
            fx.alerts
                .push(self.alerts.alert(place, active, None, &about));
        }
        for ended in &self.alerts.history {
            let (device, attributes) = self.about(ended.series);
            fx.alerts.push(ended.alert(&super::alerts::About {
                device: &device,
                attributes,
            }));
        }
        if self.now > i64::MIN {
            fx.summary = Some(self.summary());
        }
    }
}
