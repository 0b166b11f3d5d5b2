//! Once per second of ingest time: completeness, settling, and what changed.

use serde::{Deserialize, Serialize};
use views::completeness::DORMANT_AFTER;
use views::model::{HeldBackBy, Time};
use views::{LagReport, StatusCounts};

use super::effects::{Effects, Summary};
use super::members::hour_of;
use super::partition::Partition;
use super::warm::AHEAD;
use super::windows::{DAY, HOUR};

const SECOND: i64 = 1_000_000;
/// An agent not heard from for this long (our own outages not counted) is silent.
const SILENT_AFTER: i64 = 120 * SECOND;
/// Groups whose completeness is published per flush; the others wait their turn.
const PUBLISHED_MAX: usize = 256;
/// Agents whose standing is looked at per flush at least; of more, a tenth.
const SCANNED_MIN: usize = 20_000;

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

/// Counts of agents by standing, a stretch of them at each flush: a million agents are not looked at in one
/// second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scan {
    next: u32,
    /// Of the round under way.
    counts: [u64; 8],
    furthest: Option<u32>,
    /// Of the last whole round.
    done: [u64; 8],
    done_furthest: Option<u32>,
}

impl Scan {
    /// Whether all agents that it names exist.
    pub(crate) fn fits(&self, agents: u32) -> bool {
        let fits = |a: Option<u32>| a.is_none_or(|a| a < agents);
        self.next <= agents && fits(self.furthest) && fits(self.done_furthest)
    }
}

impl Partition {
    pub(crate) fn flush(&mut self, fx: &mut Effects) {
        let second = self.now.div_euclid(SECOND);
        self.at_rest = second > self.flushed;
        if !self.at_rest {
            return;
        }
        let hour_before = hour_of(self.flushed.saturating_mul(SECOND));
        self.flushed = second;
        self.update_members();
        self.tend_alerts(fx);
        self.advance(fx);
        self.settle();
        self.emit(fx);
        self.seal();
        self.tend_commands(fx);
        self.publish_members(fx);
        if hour_of(self.now) != hour_before {
            self.tidy();
        }
        self.scan(fx);
        fx.summary = Some(self.summary());
    }

    /// The groups learn how far agents are that were heard from.
    fn update_members(&mut self) {
        let mut changed = Vec::new();
        let moved = std::mem::take(&mut self.moved);
        for (i, &agent) in moved.iter().enumerate() {
            if i % AHEAD == 0 {
                self.warm_members(&moved[i..moved.len().min(i + AHEAD)]);
            }
            self.is_moved[agent as usize] = false;
            let (agents, registry, groups) = (&self.agents, &self.registry, &self.groups);
            // Built only if some device became known after its agent's progress.
            let hot = agents.hot(agent);
            let view = self.profiles.view(agent);
            let newest = super::registry::micros_of(hot.newest_join);
            let singly = view.progress != hot.progress && newest > view.progress.min(hot.progress);
            let devices: Vec<(u32, u32)> = if singly {
                self.devices_of(agent)
                    .into_iter()
                    .flat_map(|device| {
                        let class = registry.devices[device as usize].class;
                        let first = registry.devices[device as usize].first;
                        let placed = registry.placed_since(device);
                        let aggregates = &self.aggregates;
                        registry.classes[class as usize]
                            .groups
                            .iter()
                            .map(move |&group| {
                                let slot = groups[group as usize].slot;
                                let by_attribute = aggregates[slot as usize]
                                    .as_ref()
                                    .is_some_and(|a| a.by_attribute());
                                (group, if by_attribute { placed } else { first })
                            })
                    })
                    .collect()
            } else {
                Vec::new()
            };
            self.profiles.update(
                agent,
                &self.agents,
                &mut self.groups,
                || devices,
                |group| changed.push(group),
            );
        }
        self.profiles.know_all(&self.agents);
        self.queue(changed);
    }

    /// Frontiers and horizons go on.
    fn advance(&mut self, fx: &mut Effects) {
        for slot in 0..self.aggregates.len() {
            let Some(aggregate) = &self.aggregates[slot] else {
                continue;
            };
            let frontier = self.frontier(aggregate.spec.hop, aggregate.spec.window);
            let (newest, keep) = (self.newest, self.retention);
            if let Some(aggregate) = &mut self.aggregates[slot] {
                aggregate.frontier = aggregate.frontier.max(frontier);
                let before = aggregate.horizons[0];
                if newest > i64::MIN {
                    aggregate.advance(newest, &keep);
                }
                if aggregate.horizons[0] != before {
                    fx.evicted.push((slot as u32, aggregate.horizons[0]));
                }
            }
        }
    }

    fn publish_members(&mut self, fx: &mut Effects) {
        for _ in 0..PUBLISHED_MAX.min(self.unpublished.len()) {
            let Some(number) = self.unpublished.pop_front() else {
                break;
            };
            let group = &mut self.groups[number as usize];
            group.queued = false;
            let slot = group.slot as usize;
            let Some(aggregate) = self.aggregates.get(slot).and_then(Option::as_ref) else {
                continue;
            };
            if group.members.publish(aggregate.spec.window, &self.agents) {
                let index = group.members.index.clone();
                fx.indexes.push((group.slot, group.values.clone(), index));
            }
        }
    }

    /// Once an hour: what no kept window can tell apart is held as one.
    fn tidy(&mut self) {
        for group in &mut self.groups {
            let Some(Some(aggregate)) = self.aggregates.get(group.slot as usize) else {
                continue;
            };
            let [panes, hours, days] = aggregate.horizons;
            let tiers = aggregate.tiers();
            group.members.forget_past(days.min(hours).min(panes));
            if tiers[1] && panes > i64::MIN {
                group.members.coarsen(panes, HOUR);
            }
            if tiers[2] && hours > i64::MIN {
                group.members.coarsen(hours, DAY);
            }
        }
    }

    pub(crate) fn standing(&self, agent: u32) -> Standing {
        let hot = self.agents.hot(agent);
        if self.agents.hot(agent).online() == Some(false) {
            // It said good-bye, or its last will did: it buffers.
            return Standing::Buffering;
        }
        let uptime = self.now.saturating_sub(self.outage);
        if uptime.saturating_sub(hot.contact_uptime) > SILENT_AFTER {
            Standing::Silent
        } else if hot.progress < self.now.saturating_sub(SILENT_AFTER) && !hot.plain() {
            Standing::Buffering
        } else {
            Standing::Online
        }
    }

    fn scan(&mut self, fx: &mut Effects) {
        let all = self.agents.len();
        let stretch = (all / 10).max(SCANNED_MIN);
        let dormant = self.now.saturating_sub(DORMANT_AFTER);
        let offline = self.alerts.offline_after().unwrap_or(i64::MAX);
        let uptime = self.now.saturating_sub(self.outage);
        let mut quiet = Vec::new();
        let mut scan = std::mem::take(&mut self.scan);
        let to = (scan.next as usize + stretch).min(all) as u32;
        for number in scan.next..to {
            let hot = self.agents.hot(number);
            let devices = u64::from(hot.devices);
            let away = uptime.saturating_sub(hot.contact_uptime);
            if away > offline && devices > 0 && !hot.plain() {
                quiet.push((number, away));
            }
            let at = match self.standing(number) {
                Standing::Online => 0,
                Standing::Buffering => 1,
                Standing::Silent => 2,
            };
            scan.counts[at] += 1;
            scan.counts[3 + at] += devices;
            if hot.last_contact >= dormant && devices > 0 {
                scan.counts[6] += devices;
                // Names only where they decide: a look at each would cost more than all the rest.
                let behind = |f: u32| {
                    let progress = self.agents.hot(f).progress;
                    hot.progress < progress
                        || (hot.progress == progress
                            && self.agents.name(number) < self.agents.name(f))
                };
                if scan.furthest.is_none_or(behind) {
                    scan.furthest = Some(number);
                }
            }
        }
        scan.next = to;
        if to as usize == all {
            scan.done = std::mem::take(&mut scan.counts);
            scan.done_furthest = scan.furthest.take();
            scan.next = 0;
        }
        self.scan = scan;
        if !quiet.is_empty() {
            let mut alerts = std::mem::take(&mut self.alerts);
            alerts.look_at_agents(&quiet, self, fx);
            self.alerts = alerts;
        }
    }

    pub(crate) fn summary(&self) -> Summary {
        let mut status = StatusCounts::default();
        let n = &self.scan.done;
        status.agents.known = self.agents.len() as u64;
        (status.agents.online, status.agents.buffering) = (n[0], n[1]);
        status.devices.online = n[3];
        status.devices.buffering = n[4];
        status.devices.silent = n[5];
        status.devices.expected = n[6];
        let lag = self.scan.done_furthest.map(|number| {
            let hot = self.agents.hot(number);
            LagReport(HeldBackBy {
                agent: self.agents.name(number).to_owned(),
                devices: u64::from(hot.devices),
                progress: Time(hot.progress.min(self.now)),
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

    /// Everything that is in memory, as effects: for views that begin empty. What is cold they look up.
    pub fn publish(&self, fx: &mut Effects) {
        fx.declared = Some(self.declarations());
        for group in &self.groups {
            if self.aggregate(group.slot).is_some() {
                let index = group.members.index.clone();
                fx.indexes.push((group.slot, group.values.clone(), index));
            }
        }
        for cell in &self.cells {
            let group = &self.groups[cell.group as usize];
            // Freed cells are not in their group's ring any more.
            let lives = group.ring.get(cell.pane);
            if self
                .cells
                .get(lives as usize)
                .is_some_and(|c| std::ptr::eq(c, cell))
            {
                match self.window_row(cell.group, cell.pane) {
                    Some(row) => fx.rows.push(row),
                    None => fx.cold.push(super::effects::Changed {
                        group: cell.group,
                        pane: cell.pane,
                    }),
                }
            }
        }
        for (slot, aggregate) in self.aggregates.iter().enumerate() {
            if let Some(a) = aggregate
                && a.horizons[0] > i64::MIN
            {
                fx.evicted.push((slot as u32, a.horizons[0]));
            }
        }
        fx.alerts.extend(self.alerts.all(self));
        if self.now > i64::MIN {
            fx.summary = Some(self.summary());
        }
    }
}
