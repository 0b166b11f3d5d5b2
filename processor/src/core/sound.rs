//! Whether a state that was read from bytes is one that the code can go on from.
//!
//! A snapshot has a checksum in its store, so this is for what a checksum does not see: a fault of the program
//! that wrote it, or hands. What is looked up without a check must exist, what is counted is counted again, and
//! times and counts are such that sums of them have room. So a damaged state is refused when it is read and does
//! not give a wrong answer or a panic later.

use super::alerts::HISTORY_MAX;
use super::group::{EMPTY, Group, SEALED};
use super::pane::Wants;
use super::partition::Partition;
use super::registry::{NONE, TIME_MIN};
use super::windows::{Cell, DAY};

const SECOND: i64 = 1_000_000;
/// No time is further from 1970, microseconds: 73,000 years.
const TIME_MAX: i64 = 1 << 61;
/// An event time may be this far ahead of ingest time (P5).
const AHEAD_MAX: i64 = 300 * SECOND;
/// No pane in memory is older than this, microseconds: two years, longer than any server was ever off.
const RING_MAX: i64 = 2 * 366 * DAY;
/// No count is greater, ...
const COUNT_MAX: u64 = 1 << 62;
/// ... and none of a single pane; a window may have 86,400 of them.
const PANE_COUNT_MAX: u64 = 1 << 44;

/// Whether `t` is a time, or none (`i64::MIN`).
fn is_time(t: i64) -> bool {
    t == i64::MIN || t.unsigned_abs() <= TIME_MAX as u64
}

impl Partition {
    /// Whether a state that was read can be gone on from. Classes are not placed and members not built yet.
    pub(super) fn is_sound(&self) -> bool {
        self.times_are_sound()
            && self.counts_are_sound()
            && self.alerts_are_sound()
            && self.devices_are_sound()
            && self.groups.iter().all(|g| self.group_is_sound(g))
            && self.cells.iter().all(|c| self.cell_is_sound(c))
            && self.scan.fits(self.agents.len() as u32)
    }

    fn times_are_sound(&self) -> bool {
        let keep = [
            self.retention.panes,
            self.retention.hours,
            self.retention.days,
            self.outage,
        ];
        let begun = self.now != i64::MIN;
        let aggregates = || self.aggregates.iter().flatten();
        is_time(self.now)
            && keep.iter().all(|n| (0..=TIME_MAX).contains(n))
            // A state is saved after a flush, which brings these to the present.
            && self.flushed == if begun { self.now.div_euclid(SECOND) } else { i64::MIN }
            && (begun || aggregates().next().is_none())
            && (self.newest == i64::MIN || (TIME_MIN..=self.latest()).contains(&self.newest))
            && aggregates().all(|a| {
                a.frontier == self.frontier(a.spec.hop, a.spec.window)
                    && a.horizons.iter().all(|h| is_time(*h) && *h <= self.newest)
            })
    }

    /// Whether what alerts name exists, and their times are times.
    fn alerts_are_sound(&self) -> bool {
        let (agents, devices) = (self.agents.len() as u32, self.registry.len() as u32);
        let exists = |subject: u32, of_agent: bool| match of_agent {
            true => subject < agents,
            false => subject < devices,
        };
        let alerts = &self.alerts;
        let tracks = alerts.tracks.iter().all(|((rule, subject), track)| {
            let known = track.shown.iter().chain(track.told.iter().map(|t| &t.0));
            exists(*subject, alerts.is_of_agents(*rule))
                && known.into_iter().all(|a| a.is_sound(TIME_MAX))
        });
        let mut buffers = alerts.buffers.by.keys();
        tracks
            && buffers.all(|(agent, device, metric)| {
                let known = || self.registry.find_series(*device, *metric).is_some();
                *agent < agents && *device < devices && known()
            })
            && alerts.buffers.is_sound(TIME_MAX, self.offset)
            && alerts.timers.iter().all(|t| t.2 < devices)
            && alerts.history.len() <= HISTORY_MAX
            && alerts.history.iter().all(|e| {
                exists(e.subject, e.of_agent) && e.active.is_sound(TIME_MAX) && is_time(e.ended)
            })
    }

    /// The latest event time that can have been counted (P5).
    fn latest(&self) -> i64 {
        self.now.saturating_add(AHEAD_MAX)
    }

    fn counts_are_sound(&self) -> bool {
        let t = &self.totals;
        let counts = [
            self.offset,
            self.incidents,
            t.accepted,
            t.counted,
            t.duplicate,
            t.quarantined,
            t.too_old,
            t.refused,
            t.broken_promises,
        ];
        let mut counts = counts.iter().chain(self.reasons.values());
        counts.all(|n| *n <= COUNT_MAX) && self.held.is_sound(t.quarantined)
    }

    /// Whether agents have the devices that are theirs, each once, and those of nobody are out of service.
    fn devices_are_sound(&self) -> bool {
        let mut found = 0;
        for (number, device) in (0u32..).zip(&self.registry.devices) {
            let gone = device.agent == NONE;
            if gone != self.gone.contains(&number)
                || (!gone && device.agent as usize >= self.agents.len())
            {
                return false;
            }
            found += u64::from(!gone);
        }
        let len = self.registry.len() as u32;
        let is_of = |device: u32, agent: u32| {
            let device = self.registry.devices.get(device as usize);
            device.is_some_and(|d| d.agent == agent)
        };
        let mut listed = 0;
        for agent in 0..self.agents.len() as u32 {
            let (first, row) = self.row_of(agent);
            let devices = self.agents.hot(agent).devices;
            let further = self.further_devices.get(&agent);
            let others = further.map_or(0, |f| f.len() as u64);
            let end = first.checked_add(row).filter(|end| row == 0 || *end <= len);
            let Some(end) = end else { return false };
            let sound = u64::from(row) + others == u64::from(devices)
                && (row > 0 || devices == 0)
                && (first..end).all(|d| is_of(d, agent))
                && further.is_none_or(|f| {
                    !f.is_empty()
                        && f.iter()
                            .all(|d| !(first..end).contains(d) && is_of(*d, agent))
                });
            if !sound {
                return false;
            }
            listed += u64::from(devices);
        }
        let agents = self.agents.len() as u32;
        listed == found
            && self.gone.last().is_none_or(|d| *d < len)
            && self.further_devices.keys().all(|a| *a < agents)
    }

    fn group_is_sound(&self, group: &Group) -> bool {
        let (agents, devices) = (self.agents.len() as u32, self.registry.len() as u32);
        let mut past = group.members.past.iter();
        let ring = &group.ring;
        let fits = match self.aggregate(group.slot) {
            _ if ring.cells.is_empty() => is_time(ring.base),
            // Room is made for all panes between the first one and the next that comes.
            Some(a) => {
                let first = ring.base.checked_mul(a.spec.hop);
                let len = (ring.cells.len() as i64).checked_mul(a.spec.hop);
                first.is_some_and(|first| {
                    first >= self.now.saturating_sub(RING_MAX)
                        && len.is_some_and(|len| {
                            first.saturating_add(len) <= self.latest() + a.spec.hop
                        })
                })
            }
            None => false,
        };
        let lives = ring.cells.iter().any(|c| *c != EMPTY && *c != SEALED);
        fits && (group.active || !lives) && past.all(|p| p.agent < agents && p.device < devices)
    }

    fn cell_is_sound(&self, cell: &Cell) -> bool {
        let devices = self.registry.len() as u32;
        let life = &cell.life;
        let slot = self.groups[cell.group as usize].slot;
        let extremes = |a: &super::aggregate::Aggregate| a.wants.has(Wants::EXTREMES);
        let extremes = self.aggregate(slot).is_some_and(extremes);
        let content = cell.content.as_ref().is_none_or(|pane| {
            let fits = |e: &super::pane::Extreme| !e.is_set() || e.device < devices;
            fits(&pane.min)
                && fits(&pane.max)
                // Whoever set them is looked up.
                && (!extremes || pane.numeric == 0 || pane.min.is_set())
                && pane.count <= PANE_COUNT_MAX
                && pane.revision <= self.offset
                && pane.devices.len() <= u64::from(devices)
        });
        let settled = life.settled.is_none_or(|s| {
            let counts = [s.done, s.expected, s.count];
            counts.iter().all(|n| *n <= COUNT_MAX) && s.revision <= self.offset
        });
        content
            && settled
            && life.sealed <= PANE_COUNT_MAX
            && (0..=self.flushed).contains(&life.touched)
    }
}
