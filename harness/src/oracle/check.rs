//! Comparing what the processor says with the truth.

use views::RowState;

use super::ledger::TIME_MIN;
use super::windows::Extreme;
use super::{Fate, Oracle};
use crate::cloud::{Open, Outcome, Row};
use crate::scenario::{DAY, GroupBy, HOUR, MINUTE, PLANS, SECOND};

impl Oracle {
    /// Takes what a step gave: rows grow, windows settle, pages are real.
    ///
    /// **Errors**: what is wrong.
    pub fn take_outcome(
        &mut self,
        ingest: i64,
        outcome: &Outcome,
        agent: &dyn Fn(&str) -> Option<u16>,
    ) -> Result<(), String> {
        for (plan, group, index) in &outcome.groups {
            self.groups.insert((*plan, *group), index.clone());
        }
        for name in &outcome.incidents {
            let of = agent(name).ok_or("an incident of nobody")?;
            let truth = &mut self.agents[of as usize];
            if truth.suspect.is_none() {
                return Err(format!(
                    "an incident of agent {name}, to whose disk nothing happened"
                ));
            }
            truth.incidents += 1;
        }
        self.held.extend(outcome.held.iter().map(|h| h.0));
        for row in &outcome.rows {
            let key = (row.plan, row.group, row.start);
            let before = self.rows.insert(key, row.clone());
            let old = before.as_ref();
            // The same again is not taken by anybody; something else must be newer.
            if old.is_some_and(|b| b.revision >= row.revision && b != row) {
                return Err(format!(
                    "a row without a greater revision: {row:?} after {before:?}"
                ));
            }
            if let Some(wrong) = self.wrong(row) {
                return Err(format!("given out: {wrong}"));
            }
            self.check_life(row, old, ingest)?;
            let was_open = old.is_none_or(|b| b.state == RowState::Open);
            if was_open && row.state == RowState::Settled {
                self.settled(key, row.settled)?;
            }
        }
        for page in &outcome.pages {
            let device = *self
                .numbers
                .get(&page.device)
                .ok_or("a page for no device")?;
            let agent = &self.agents[self.devices[device as usize].agent as usize];
            let trusted = agent.suspect.is_none() && !agent.clockless;
            self.episodes.page(page, device, trusted)?;
        }
        for ended in &outcome.ended {
            self.episodes.take_ended(ended);
        }
        Ok(())
    }

    /// A window settles when it is complete and over for 5 s, or over for 15 min; from then on what comes is
    /// late.
    fn check_life(&mut self, row: &Row, old: Option<&Row>, ingest: i64) -> Result<(), String> {
        if row.state == RowState::Open {
            return Ok(());
        }
        if let Some(old) = old.filter(|b| b.state != RowState::Open) {
            let settled_with = old.count - old.late;
            if row.late + settled_with != row.count {
                return Err(format!("it settled with {settled_with} events: {row:?}"));
            }
            return Ok(());
        }
        // What settles has no late events yet; what was over before anything of it came has only such.
        let late = if old.is_some() { 0 } else { row.count };
        if row.late != late && row.late != 0 {
            return Err(format!("late events when it settles: {row:?}"));
        }
        let is_enough = row
            .settled
            .is_some_and(|(done, all)| done * 1000 >= all * 995);
        let end = row.start + PLANS[row.plan].window;
        let wait = if is_enough { 5 * SECOND } else { 15 * MINUTE };
        if ingest < end + wait {
            return Err(format!("settled at {ingest}, which is too early: {row:?}"));
        }
        Ok(())
    }

    /// A window that settles as complete holds every event that any of its devices has accepted.
    fn settled(
        &self,
        (plan, group, start): (usize, u32, i64),
        settled: Option<(u64, u64)>,
    ) -> Result<(), String> {
        if settled.is_none_or(|(done, expected)| done < expected) {
            return Ok(());
        }
        let end = start + PLANS[plan].window;
        let index = self.groups.get(&(plan, group));
        if index.is_some_and(|i| i.counts(start, end)[2] > 0) {
            return Ok(());
        }
        for (number, agent) in self.agents.iter().enumerate() {
            for &(_, id) in agent.pending.range((start, 0)..(end, 0)) {
                let made = &self.made[id as usize];
                let device = &self.devices[made.device as usize];
                let fits = PLANS[plan].metric.is_none_or(|m| m == made.metric as usize)
                    && PLANS[plan].group(made.metric as usize, device.site.1 as usize) == group;
                let is_known = device.metrics.get(made.metric as usize).is_some_and(|m| *m);
                if fits && is_known && device.first < end {
                    return Err(format!(
                        "{} {group} settled as complete at {start} without {made:?} of agent {number}",
                        PLANS[plan].name
                    ));
                }
            }
        }
        Ok(())
    }

    /// Completeness never lies: no agent is said to have come beyond an event that it holds. `progress`
    /// gives what the processor says of a device's agent.
    ///
    /// **Errors**: the event.
    pub fn check_progress(&self, progress: impl Fn(&str) -> Option<i64>) -> Result<(), String> {
        for agent in &self.agents {
            // Of a life the newest transmission counts, be it the last to arrive or not (P2); of several lives
            // the one that is furthest behind (P3).
            let device = &self.devices[agent.device as usize].name;
            if agent.suspect.is_none()
                && let Some((life, &(tx_no, promise))) = agent.newest.last_key_value()
                && let Some(progress) = progress(device)
                && (progress > promise || progress < promise && agent.newest.len() == 1)
            {
                return Err(format!(
                    "the agent of {device} has come to {progress}, but transmission {tx_no} of {life} says {promise}"
                ));
            }
        }
        for (number, agent) in self.agents.iter().enumerate() {
            let Some(&(time, id)) = agent.pending.first() else {
                continue;
            };
            let made = &self.made[id as usize];
            let device = &self.devices[made.device as usize].name;
            if let Some(progress) = progress(device)
                && progress > time
            {
                return Err(format!(
                    "agent {number} is said to be complete up to {progress}, but holds {made:?}"
                ));
            }
        }
        Ok(())
    }

    /// Everything at the end, when all is drained and all have come to `past`.
    ///
    /// **Errors**: the first thing that is wrong.
    pub fn check_end(
        &mut self,
        all: &Outcome,
        open: &[Open],
        too_old: &[(i64, String, u64)],
        past: i64,
        progress: impl Fn(&str) -> Option<i64>,
    ) -> Result<(), String> {
        self.check_windows(all)?;
        let mut expected: Vec<(i64, String, u64)> = self
            .too_old
            .iter()
            .map(|((day, d), n)| (*day, self.devices[*d as usize].name.clone(), *n))
            .collect();
        expected.sort();
        if too_old != expected {
            return Err(format!("too old: {too_old:?}, must be {expected:?}"));
        }
        self.check_losses()?;
        for (number, agent) in self.agents.iter().enumerate() {
            let device = &self.devices[agent.device as usize].name;
            let progress = progress(device);
            if progress.is_none_or(|p| p < past) {
                return Err(format!(
                    "agent {number} is drained and said to have come to {progress:?} only, not to {past}; its disk: {:?}",
                    agent.suspicions
                ));
            }
        }
        self.check_completeness(past)?;
        for (at, agent) in self.agents.iter().enumerate() {
            if agent.suspect.is_some() || agent.clockless {
                let of = |d: u16| self.devices[d as usize].agent == at as u16;
                self.episodes.distrust(of);
            }
        }
        let name = |d: u16| self.devices[d as usize].name.clone();
        let (exact, inexact) = self.episodes.check(open, name)?;
        *self
            .excused
            .entry("series with exact episodes")
            .or_default() += exact as u64;
        *self
            .excused
            .entry("series with episodes at best effort")
            .or_default() += inexact as u64;
        Ok(())
    }

    fn is_kept(&self, tier: u8, plan: usize, start: i64) -> bool {
        let horizons = self.horizons.get(&plan);
        horizons.is_none_or(|h| start >= h[tier as usize])
    }

    /// What is wrong with what a window, hour or day holds; none if it is the truth.
    fn wrong(&self, row: &Row) -> Option<String> {
        let extreme = |got: (f64, &Option<(i64, std::sync::Arc<str>)>), must: Extreme| {
            must.is_none_or(|(value, time, device)| {
                let origin = (time, self.devices[device as usize].name.as_str());
                got.0.to_bits() == value.to_bits()
                    && got.1.as_ref().is_some_and(|o| (o.0, &*o.1) == origin)
            })
        };
        let name = PLANS[row.plan].name;
        let key = (row.tier, row.plan, row.group, row.start);
        let Some(w) = self.windows.0.get(&key) else {
            return (row.count > 0).then(|| format!("{name}: a window of nothing: {row:?}"));
        };
        let same = row.count == w.count
            && row.numeric == w.numeric
            && row.sum == w.sum
            && row.distinct == w.distinct()
            && extreme((row.min, &row.origins[0]), w.min)
            && extreme((row.max, &row.origins[1]), w.max);
        (!same).then(|| format!("{name}: {row:?} must be {w:?} ({} devices)", w.distinct()))
    }

    fn check_windows(&self, all: &Outcome) -> Result<(), String> {
        for row in &all.rows {
            let name = PLANS[row.plan].name;
            if let Some(wrong) = self.wrong(row) {
                return Err(wrong);
            }
            if row.tier > 0 {
                continue;
            }
            let late = match row.state {
                RowState::Open => return Err(format!("{name}: still open: {row:?}")),
                RowState::Settled => row.late == 0,
                RowState::Revised => row.late > 0 && row.late <= row.count,
            };
            if !late {
                return Err(format!("{name}: late events do not fit its state: {row:?}"));
            }
            let shown = self.rows.get(&(row.plan, row.group, row.start));
            if shown != Some(row) {
                return Err(format!("{name}: shown {shown:?}, held {row:?}"));
            }
        }
        let kept = self
            .windows
            .0
            .keys()
            .filter(|k| self.is_kept(k.0, k.1, k.3));
        let (got, must) = (all.rows.len(), kept.count());
        if got != must {
            return Err(format!("{got} windows, must be {must}"));
        }
        Ok(())
    }

    /// What is not counted was declared lost, or was lost with a disk, and the log knows of it.
    fn check_losses(&mut self) -> Result<(), String> {
        for (number, agent) in self.agents.iter().enumerate() {
            let is_told = |t: &i64| agent.losses.iter().any(|l| l.0 <= *t && *t <= l.1);
            // Of times before 2020 nothing is counted: such a sample is missing in no window.
            let untold = agent
                .unsaved
                .iter()
                .find(|t| **t >= TIME_MIN && !is_told(t));
            if let Some(time) = untold.filter(|_| agent.suspect.is_none()) {
                return Err(format!(
                    "a sample of {time} died in the memory of agent {number}, and that stretch was never declared lost"
                ));
            }
        }
        for (&(number, life), ids) in &self.lives {
            for (seq, &id) in (1u64..).zip(ids) {
                let made = &self.made[id as usize];
                if made.fate != Fate::Pending {
                    continue;
                }
                let agent = &self.agents[number as usize];
                let what = format!("event {seq} of life {life} of agent {number}: {made:?}");
                if agent.suspect.is_none() {
                    return Err(format!("lost without a word: {what}"));
                }
                let excuse = if agent.incidents > 0 {
                    "an incident"
                } else if agent
                    .losses
                    .iter()
                    .any(|l| l.0 <= made.time && made.time <= l.1)
                {
                    "a declared stretch"
                } else if agent.set_back {
                    // The disk that was put back ends with times of a clock that was ahead: from where on something is
                    // lost cannot be known.
                    "a clock that was set back"
                } else if !agent.heard.contains(&life) {
                    "a life that nobody heard of"
                } else {
                    return Err(format!("lost with a disk, and nobody knows: {what}"));
                };
                *self.excused.entry(excuse).or_default() += 1;
            }
        }
        Ok(())
    }

    fn check_completeness(&self, past: i64) -> Result<(), String> {
        let told = |agent: &super::Agent, start: i64, end: i64| {
            agent.incidents > 0 || agent.losses.iter().any(|l| l.0 < end && l.1 >= start)
        };
        for &(tier, plan, group, start) in self.windows.0.keys() {
            let end = start + [PLANS[plan].window, HOUR, DAY][tier as usize];
            if !self.is_kept(tier, plan, start) {
                continue;
            }
            if end > past {
                continue;
            }
            let name = PLANS[plan].name;
            // What came before its site was known stays behind in a group that nobody belongs to.
            let is_left = group & 15 == 1 && PLANS[plan].by == GroupBy::Site
                || group / 16 == 1 && PLANS[plan].by == GroupBy::SiteMetric;
            let index = match self.groups.get(&(plan, group)) {
                Some(index) => index,
                None if is_left => continue,
                None => return Err(format!("{name} {group}: no completeness")),
            };
            let [expected, complete, lossy, outstanding] = index.counts(start, end);
            let what = format!(
                "{name} {group} at {start}: expected {expected}, complete {complete}, lossy {lossy}, outstanding {outstanding}"
            );
            if outstanding > 0 || expected == 0 && !is_left {
                return Err(format!("not complete at the end: {what}"));
            }
            let must = self.expected(plan, group, start, end);
            if expected != must {
                return Err(format!("{must} devices must be expected: {what}"));
            }
            if lossy > 0 && !self.agents.iter().any(|a| told(a, start, end)) {
                return Err(format!("lossy, and nobody lost anything: {what}"));
            }
        }
        for made in self.made.iter().filter(|m| m.fate == Fate::Lost) {
            let device = &self.devices[made.device as usize];
            // Nobody expects what a device was never heard to measure.
            if !device.metrics.get(made.metric as usize).is_some_and(|m| *m) {
                continue;
            }
            for &plan in &self.declared.plans {
                let p = &PLANS[plan];
                let start = made.time.div_euclid(p.hop) * p.hop;
                let site = device.site.1 as usize;
                let key = (0, plan, p.group(made.metric as usize, site), start);
                let relevant = p.metric.is_none_or(|m| m == made.metric as usize)
                    && device.first < start + p.window
                    && self.windows.0.contains_key(&key);
                let index = self.groups.get(&(key.1, key.2)).filter(|_| relevant);
                let counts = index.map(|i| i.counts(start, start + p.window));
                if let Some(counts) = counts
                    && counts[2] == 0
                {
                    return Err(format!(
                        "{} {key:?} ({counts:?}) hides the loss of {made:?} of {}, first counted at {}",
                        p.name, device.name, device.first
                    ));
                }
            }
        }
        Ok(())
    }
}
