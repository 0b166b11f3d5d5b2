//! What fires although nothing comes: silent series, and agents that are offline.
//!
//! A series is silent when everything up to a time has come and there was no value: its agent's progress is
//! further than the last value by more than `after`. So an agent that is offline and buffers makes no series
//! silent. Of a plain device it is enough that it was not heard from for so long, our own outages not counted.
//!
//! Each series that a rule of this kind watches has one timer. It is looked at when it is due, and set again to
//! when it could be silent next; while its agent is behind, every so often.

use rules::Kind;

use super::super::effects::Effects;
use super::super::partition::Partition;
use super::super::registry::NONE;
use super::{Alerts, Place, Round};

const SECOND: i64 = 1_000_000;
/// Bounds of the time between two looks at a series whose agent is behind.
const LOOK_MIN: i64 = SECOND;
const LOOK_MAX: i64 = 60 * SECOND;
/// Timers looked at in a flush; the others wait for the next one.
const LOOKS_MAX: usize = 100_000;

impl Alerts {
    /// The series has its first value.
    pub(super) fn set_timers(&mut self, device: u32, watch: u32, time: i64) {
        for (rule, kind) in &self.watch[watch as usize].rules {
            if let Kind::Silence(silence) = kind {
                let due = time.saturating_add(silence.after).saturating_add(1);
                self.timers.insert((due, *rule, device));
            }
        }
    }

    /// A new rule watches the series that there are.
    pub(super) fn begin_timers(&mut self, rule: u32, p: &Partition) {
        let watching = &self.rules[rule as usize].rule;
        if let Kind::Silence(silence) = watching.kind
            && let Some(metric) = p.registry.metrics.find(&watching.metric)
        {
            for device in 0..p.registry.len() as u32 {
                if let Some(last) = p.newest_point(device, metric) {
                    let due = last.time.saturating_add(silence.after).saturating_add(1);
                    self.timers.insert((due, rule, device));
                }
            }
        }
    }

    /// Looks at the timers that are due. Gives (device, metric) of what is silent now.
    pub(crate) fn look_at_silence(&mut self, p: &Partition, fx: &mut Effects) -> Vec<(u32, u32)> {
        let mut silent = Vec::new();
        for _ in 0..LOOKS_MAX {
            let Some(&timer) = self.timers.first().filter(|t| t.0 <= p.now) else {
                break;
            };
            self.timers.remove(&timer);
            let (_, rule, device) = timer;
            let Some(next) = self.look((rule, device), p, fx, &mut silent) else {
                continue;
            };
            self.timers.insert((next, rule, device));
        }
        silent
    }

    /// Gives when to look again; never if the series is gone.
    fn look(
        &mut self,
        place: Place,
        p: &Partition,
        fx: &mut Effects,
        silent: &mut Vec<(u32, u32)>,
    ) -> Option<i64> {
        let watching = &self.rules.get(place.0 as usize)?.rule;
        let kind = watching.kind;
        let Kind::Silence(silence) = kind else {
            return None;
        };
        let metric = p.registry.metrics.find(&watching.metric)?;
        let agent = p.registry.devices[place.1 as usize].agent;
        let last = p.newest_point(place.1, metric)?;
        if agent == NONE {
            return None;
        }
        let pause = (silence.after / 8).clamp(LOOK_MIN, LOOK_MAX);
        let due = last.time.saturating_add(silence.after).saturating_add(1);
        let next = due.max(p.now.saturating_add(pause));
        let waits = self.buffers.by.contains_key(&(agent, place.1, metric));
        let known = self.tracks.contains_key(&place);
        if waits || known || !self.applies(place.0, place.1, p) {
            return Some(next);
        }
        let hot = p.agents.hot(agent);
        let uptime = p.now.saturating_sub(p.outage);
        let gone = hot.plain() && uptime.saturating_sub(hot.contact_uptime) > silence.after;
        if hot.progress >= due || gone {
            let mut track = self.track(place, &kind, p)?;
            track.run.pass(&kind, last, hot.progress.max(due));
            let round = Round {
                closed: Vec::new(),
                finals: 0,
                open: track.run.open.clone(),
                floor: i64::MAX,
            };
            self.reconcile(place, track, round, p, fx);
            silent.push((place.1, metric));
        }
        Some(next)
    }

    /// The shortest time after which some rule finds an agent offline; none without such a rule.
    pub(crate) fn offline_after(&self) -> Option<i64> {
        let after = self.rules.iter().filter_map(|w| match w.rule.kind {
            Kind::Offline(offline) => Some(offline.after),
            _ => None,
        });
        after.min()
    }

    /// Agents that were not heard from for a while, with the time (our own outages not counted).
    pub(crate) fn look_at_agents(&mut self, quiet: &[(u32, i64)], p: &Partition, fx: &mut Effects) {
        for rule in 0..self.rules.len() as u32 {
            let Kind::Offline(offline) = self.rules[rule as usize].rule.kind else {
                continue;
            };
            for &(agent, quiet) in quiet {
                let place = (rule, agent);
                if quiet <= offline.after || self.tracks.contains_key(&place) {
                    continue;
                }
                let (_, attributes) = p.about_agent(agent);
                let only_on = &self.rules[rule as usize].rule.only_on;
                if only_on.iter().any(|(k, v)| attributes.get(k) != Some(v)) {
                    continue;
                }
                let mut track = super::Track::default();
                track.run.begin(p.agents.hot(agent).last_contact, p.now);
                let round = Round {
                    closed: Vec::new(),
                    finals: 0,
                    open: track.run.open.clone(),
                    floor: i64::MAX,
                };
                self.reconcile(place, track, round, p, fx);
            }
        }
    }

    /// The agent was heard from.
    pub(crate) fn heard(&mut self, agent: u32, p: &Partition, fx: &mut Effects) {
        for rule in 0..self.rules.len() as u32 {
            if self.is_of_agents(rule) && self.tracks.contains_key(&(rule, agent)) {
                self.end_now((rule, agent), p, fx);
            }
        }
    }

    /// Whether some rule watches agents.
    pub(crate) fn watches_agents(&self) -> bool {
        (0..self.rules.len() as u32).any(|rule| self.is_of_agents(rule))
    }
}

impl super::run::Run {
    /// An episode that no value began.
    fn begin(&mut self, began: i64, now: i64) {
        let episode = rules::Episode {
            began,
            firing: true,
        };
        self.open = Some(super::run::Open {
            episode,
            value: 0.0,
            seen: now,
            evidence: Vec::new(),
            reason: None,
        });
    }
}
