//! Who belongs to a group, and how complete each of its windows is.
//!
//! A member counts as done up to its agent's progress, as known from its own begin. Agents advance by
//! buckets of the group's pane; sums from the newest bucket down give all windows. Membership is kept for
//! agents as a whole: a *profile* says how many devices an agent has in which groups, and agents that are
//! alike share one.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use views::CompletenessIndex;
use views::completeness::{Counts, DORMANT_AFTER, IndexBuilder, Loss};

use super::agents::Agents;
use super::registry::{NONE, micros_of};

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;
/// Former members remembered per group; beyond it the oldest are taken for never having been there.
const PAST_MAX: usize = 1024;

/// How many devices are in which bucket, ascending. There is one entry for each pane in which some agent still
/// is, in each group: they are kept narrow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Steps(Vec<(u32, u32)>);

/// The number of a stretch of time since 1970, in units of at least a second: whatever lies before (a progress
/// that is not known) is in the first one, and 2106 is the end.
fn bucket_of(t: i64, unit: i64) -> u32 {
    t.div_euclid(unit).clamp(0, i64::from(u32::MAX)) as u32
}

impl Steps {
    fn add(&mut self, bucket: u32, n: u32) {
        // Nearly always one of the newest.
        let at = match self.0.last() {
            Some(last) if last.0 < bucket => self.0.len(),
            _ => self.0.partition_point(|s| s.0 < bucket),
        };
        match self.0.get_mut(at) {
            Some(step) if step.0 == bucket => step.1 += n,
            _ => {
                if self.0.len() == self.0.capacity() {
                    // Not twice as much: there are three lists for each group.
                    self.0.reserve_exact((self.0.len() / 4).max(2));
                }
                self.0.insert(at, (bucket, n));
            }
        }
    }

    fn take(&mut self, bucket: u32, n: u32) {
        let at = self.0.partition_point(|s| s.0 < bucket);
        let Some(step) = self.0.get_mut(at).filter(|s| s.0 == bucket) else {
            debug_assert!(false, "no such bucket");
            return;
        };
        debug_assert!(step.1 >= n, "more taken than there are");
        step.1 = step.1.saturating_sub(n);
        if step.1 == 0 {
            self.0.remove(at);
        }
    }

    /// Takes from a bucket, or from the nearest older one, where it was joined to that.
    fn take_joined(&mut self, bucket: u32, n: u32) {
        let at = self.0.partition_point(|s| s.0 <= bucket);
        if let Some(step) = at.checked_sub(1).and_then(|at| self.0.get(at)) {
            let bucket = step.0;
            self.take(bucket, n);
        }
    }

    /// Sum of the buckets from `bucket` on.
    fn from(&self, bucket: u32) -> u64 {
        let newer = self.0.iter().rev().take_while(|s| s.0 >= bucket);
        newer.map(|s| u64::from(s.1)).sum()
    }
}

/// A device that belonged here once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Past {
    pub(crate) device: u32,
    pub(crate) agent: u32,
    /// From when to when, microseconds.
    pub(crate) join: i64,
    pub(crate) leave: i64,
}

/// The members of one group.
#[derive(Debug, Clone, Default)]
pub(crate) struct Members {
    /// Pane length, microseconds: windows begin and end on it.
    hop: i64,
    devices: u64,
    /// By the pane in which they became known.
    first: Steps,
    /// By the pane to which they are done, or in which they became known if that is later.
    done: Steps,
    /// By the hour of their agent's last contact.
    heard: Steps,
    /// Agents that have lost something, and how many devices each has here.
    lossy: BTreeMap<u32, u64>,
    pub(crate) past: Vec<Past>,
    pub(crate) index: Arc<CompletenessIndex>,
}

impl Members {
    pub(crate) fn new(hop: i64) -> Self {
        Self {
            hop,
            ..Self::default()
        }
    }

    fn bucket(&self, t: i64) -> u32 {
        bucket_of(t, self.hop)
    }

    fn join(&mut self, join: i64, view: &View) {
        self.devices += 1;
        self.first.add(self.bucket(join), 1);
        self.done.add(self.bucket(view.progress.max(join)), 1);
        self.heard.add(view.hour, 1);
    }

    fn leave(&mut self, join: i64, view: &View) {
        self.devices -= 1;
        self.first.take_joined(self.bucket(join), 1);
        self.done.take(self.bucket(view.progress.max(join)), 1);
        self.heard.take(view.hour, 1);
    }

    /// `n` devices are done to another pane.
    fn shift(&mut self, (from, to): (u32, u32), n: u32) -> bool {
        if from != to {
            self.done.add(to, n);
            self.done.take(from, n);
        }
        from != to
    }

    /// The counts of the window `[start, end)` that decide whether it settles; lossy ones are among the
    /// complete.
    pub(crate) fn counts(&self, start: i64, end: i64, agents: &Agents) -> Counts {
        let bucket = self.bucket(end);
        let later = self.first.from(bucket);
        let mut known = self.devices - later;
        let mut complete = self.done.from(bucket).saturating_sub(later);
        let heard = self.heard.from(hour_of(start - DORMANT_AFTER));
        let dormant = (self.devices - heard).min(known - complete.min(known));
        for p in &self.past {
            if p.join < end && p.leave > start {
                known += 1;
                let progress = agents.hot(p.agent).progress;
                complete += u64::from(progress >= end || progress >= p.leave);
            }
        }
        let expected = known - dormant;
        Counts {
            expected,
            complete,
            lossy: 0,
            outstanding: expected.saturating_sub(complete),
            dormant,
        }
    }

    /// Brings the index for the views up to date; true if it changed.
    pub(crate) fn publish(&mut self, window: i64, agents: &Agents) -> bool {
        let mut b = IndexBuilder::default();
        for &(bucket, n) in &self.first.0 {
            b.add_first(i64::from(bucket) * self.hop, u64::from(n));
        }
        for &(bucket, n) in &self.done.0 {
            b.add_done(i64::from(bucket) * self.hop, u64::from(n));
        }
        for &(hour, n) in &self.heard.0 {
            b.add_heard(i64::from(hour) * HOUR, u64::from(n));
        }
        for (&agent, &devices) in &self.lossy {
            let progress = agents.hot(agent).progress;
            for &(from, to) in agents.losses(agent) {
                b.add_loss(Loss {
                    agent,
                    from,
                    to,
                    // Beyond the last window that it touches nothing changes any more.
                    progress: progress.min(to.saturating_add(2 * window)),
                    devices,
                });
            }
        }
        for p in &self.past {
            let progress = agents.hot(p.agent).progress;
            let progress = if progress >= p.leave {
                i64::MAX
            } else {
                progress
            };
            b.add_past(p.join, p.leave, progress);
        }
        let index = b.build();
        let changed = index != *self.index;
        if changed {
            self.index = Arc::new(index);
        }
        changed
    }

    /// Remembers who was here.
    pub(crate) fn add_past(&mut self, past: Past) {
        if self.past.len() >= PAST_MAX {
            self.past.remove(0);
        }
        self.past.push(past);
    }

    /// Drops former members of before `horizon`.
    pub(crate) fn forget_past(&mut self, horizon: i64) {
        self.past.retain(|p| p.leave > horizon);
    }

    /// Joins buckets of becoming known that lie before `horizon` to whole `unit`s: no window needs them apart.
    pub(crate) fn coarsen(&mut self, horizon: i64, unit: i64) {
        let bucket = self.bucket(horizon);
        let old = self.first.0.partition_point(|s| s.0 < bucket);
        if old < 64 {
            return;
        }
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for &(b, n) in &self.first.0[..old] {
            // The first pane of its unit: known to all windows that end after it.
            let start = (i64::from(b) * self.hop).div_euclid(unit) * unit;
            let b = self.bucket(start);
            match merged.last_mut() {
                Some(last) if last.0 == b => last.1 += n,
                _ => merged.push((b, n)),
            }
        }
        if merged.len() < old {
            merged.extend_from_slice(&self.first.0[old..]);
            self.first.0 = merged;
        }
    }
}

/// What the groups know of an agent: as it was at the last flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) progress: i64,
    /// Of the last contact, hours since 1970.
    pub(crate) hour: u32,
    profile: u32,
}

/// An agent in more groups has a profile of its own, which is changed in place: nobody else is like it, and a
/// copy for each of its devices would be quadratic.
const SHARED_MAX: usize = 64;

/// Groups and how many devices of the agent are in each, ascending.
#[derive(Debug, Clone)]
enum Places {
    Shared(Box<[(u32, u32)]>),
    Own(BTreeMap<u32, u32>),
}

impl Default for Places {
    fn default() -> Self {
        Self::Shared(Box::from([]))
    }
}

#[derive(Debug, Clone, Default)]
struct Profile {
    places: Places,
    agents: u32,
}

/// Which agent has how many devices in which groups.
#[derive(Debug, Clone, Default)]
pub(crate) struct Profiles {
    list: Vec<Profile>,
    free: Vec<u32>,
    index: FxHashMap<Box<[(u32, u32)]>, u32>,
    views: Vec<View>,
}

impl Profiles {
    /// What the groups know of an agent.
    pub(crate) fn view(&self, agent: u32) -> View {
        self.views.get(agent as usize).copied().unwrap_or(View {
            progress: i64::MIN,
            hour: 0,
            profile: NONE,
        })
    }

    /// Goes through (group, devices) of an agent, ascending.
    #[inline]
    fn each_group(&self, agent: u32, mut take: impl FnMut(u32, u32)) {
        let profile = self.list.get(self.view(agent).profile as usize);
        match profile.map(|p| &p.places) {
            Some(Places::Shared(shared)) => shared.iter().for_each(|&(group, n)| take(group, n)),
            Some(Places::Own(own)) => own.iter().for_each(|(&group, &n)| take(group, n)),
            None => {}
        }
    }

    /// Something of an agent's groups, to have them fetched.
    pub(crate) fn hint(&self, agent: u32) -> u32 {
        let profile = self.list.get(self.view(agent).profile as usize);
        match profile.map(|p| &p.places) {
            Some(Places::Shared(shared)) => shared.first().map_or(0, |g| g.0),
            _ => 0,
        }
    }

    /// How many devices of an agent are in which group, to be changed; [`Self::set`] must follow.
    fn take(&mut self, agent: u32) -> BTreeMap<u32, u32> {
        let number = self.view(agent).profile as usize;
        match self.list.get_mut(number).map(|p| &mut p.places) {
            Some(Places::Own(own)) => std::mem::take(own),
            Some(Places::Shared(shared)) => shared.iter().copied().collect(),
            None => BTreeMap::new(),
        }
    }

    fn view_mut(&mut self, agent: u32, agents: &Agents) -> &mut View {
        while self.views.len() <= agent as usize {
            let hot = agents.hot(self.views.len() as u32);
            self.views.push(View {
                progress: hot.progress,
                hour: hour_of(hot.last_contact),
                profile: NONE,
            });
        }
        &mut self.views[agent as usize]
    }

    fn set(&mut self, agent: u32, groups: BTreeMap<u32, u32>) {
        let old = self.views[agent as usize].profile;
        if old != NONE {
            let profile = &mut self.list[old as usize];
            if let Places::Own(own) = &mut profile.places
                && groups.len() > SHARED_MAX
            {
                *own = groups;
                return;
            }
            profile.agents -= 1;
            if profile.agents == 0 {
                if let Places::Shared(shared) = std::mem::take(&mut profile.places) {
                    self.index.remove(&shared);
                }
                self.free.push(old);
            }
        }
        self.views[agent as usize].profile = if groups.is_empty() {
            NONE
        } else if groups.len() > SHARED_MAX {
            self.add(Places::Own(groups))
        } else {
            let groups: Box<[(u32, u32)]> = groups.into_iter().collect();
            match self.index.get(&groups) {
                Some(&same) => {
                    self.list[same as usize].agents += 1;
                    same
                }
                None => {
                    let number = self.add(Places::Shared(groups.clone()));
                    self.index.insert(groups, number);
                    number
                }
            }
        };
    }

    fn add(&mut self, places: Places) -> u32 {
        let profile = Profile { places, agents: 1 };
        match self.free.pop() {
            Some(number) => {
                self.list[number as usize] = profile;
                number
            }
            None => {
                self.list.push(profile);
                self.list.len() as u32 - 1
            }
        }
    }

    /// A device of `agent` leaves `old` and joins `new`: lists of (group, since, seconds since 2020), ascending
    /// by group. `members` gives the group, `changed` is told of every group that is not as before.
    pub(crate) fn change(
        &mut self,
        agent: u32,
        old: &[(u32, u32)],
        new: &[(u32, u32)],
        agents: &Agents,
        groups: &mut [super::group::Group],
        mut changed: impl FnMut(u32),
    ) {
        if old == new {
            return;
        }
        let view = *self.view_mut(agent, agents);
        let has_lost = !agents.losses(agent).is_empty();
        let mut counts = self.take(agent);
        for &(group, since) in old {
            groups[group as usize]
                .members
                .leave(micros_of(since), &view);
            if let Some(n) = counts.get_mut(&group) {
                *n = n.saturating_sub(1);
            }
            changed(group);
        }
        for &(group, since) in new {
            groups[group as usize].members.join(micros_of(since), &view);
            *counts.entry(group).or_default() += 1;
            changed(group);
        }
        if has_lost {
            for (group, _) in old.iter().chain(new) {
                let n = counts.get(group).copied().unwrap_or(0);
                groups[*group as usize].members.set_lossy(agent, n);
            }
        }
        for (group, _) in old {
            if counts.get(group) == Some(&0) {
                counts.remove(group);
            }
        }
        self.set(agent, counts);
    }

    /// Takes an agent as it is now. `devices` lists its devices' (group, since) where some of them became
    /// known after its progress.
    pub(crate) fn update(
        &mut self,
        agent: u32,
        agents: &Agents,
        groups: &mut [super::group::Group],
        devices: impl FnOnce() -> Vec<(u32, u32)>,
        mut changed: impl FnMut(u32),
    ) {
        let hot = agents.hot(agent);
        let (progress, hour) = (hot.progress, hour_of(hot.last_contact));
        let old = *self.view_mut(agent, agents);
        let newest = micros_of(hot.newest_join);
        if old.progress != progress {
            if newest <= old.progress.min(progress) {
                // The groups of an aggregate have one length of panes.
                let (mut hop, mut panes) = (0, (0, 0));
                self.each_group(agent, |group, n| {
                    let members = &mut groups[group as usize].members;
                    if members.hop != hop {
                        hop = members.hop;
                        panes = (members.bucket(old.progress), members.bucket(progress));
                    }
                    if members.shift(panes, n) {
                        changed(group);
                    }
                });
            } else {
                for (group, since) in devices() {
                    let join = micros_of(since);
                    let members = &mut groups[group as usize].members;
                    let panes = (
                        members.bucket(old.progress.max(join)),
                        members.bucket(progress.max(join)),
                    );
                    if members.shift(panes, 1) {
                        changed(group);
                    }
                }
            }
        }
        if old.hour != hour {
            self.each_group(agent, |group, n| {
                let members = &mut groups[group as usize].members;
                members.heard.add(hour, n);
                members.heard.take(old.hour, n);
                changed(group);
            });
        }
        if !agents.losses(agent).is_empty() {
            self.each_group(agent, |group, n| {
                groups[group as usize].members.set_lossy(agent, n);
                changed(group);
            });
        }
        let view = &mut self.views[agent as usize];
        (view.progress, view.hour) = (progress, hour);
    }

    /// Knows every agent, those without devices too, as it is now.
    pub(crate) fn know_all(&mut self, agents: &Agents) {
        if let Some(last) = agents.len().checked_sub(1) {
            self.view_mut(last as u32, agents);
        }
    }

    /// Forgets everything, for a fresh start of the groups.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Members {
    fn set_lossy(&mut self, agent: u32, devices: u32) {
        if devices > 0 {
            self.lossy.insert(agent, u64::from(devices));
        } else {
            self.lossy.remove(&agent);
        }
    }
}

/// Whole hours since 1970, as [`bucket_of`].
pub(crate) fn hour_of(t: i64) -> u32 {
    bucket_of(t, HOUR)
}
