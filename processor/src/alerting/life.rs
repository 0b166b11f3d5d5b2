//! The life of an alert: it begins, is muted or not, is in pages, ends.

use notify::Kind;
use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::flap::Flap;
use super::page::{Ack, Due, Group, Page, PageKey};
use super::settings::{Pace, Step};
use super::timers::Timer;
use super::{Alerting, DEFAULT_ROUTE, STORM_TIME};

/// Why nobody is told of an alert.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mutes {
    /// Ids of silences.
    pub(crate) silences: Vec<Box<str>>,
    /// Names of weekly windows.
    pub(crate) windows: Vec<Box<str>>,
    /// Id of an alert.
    pub(crate) inhibited_by: Option<Box<str>>,
    /// Whether one of the silences is a maintenance.
    maintained: bool,
}

impl Mutes {
    pub(crate) fn any(&self) -> bool {
        !self.silences.is_empty() || !self.windows.is_empty() || self.inhibited_by.is_some()
    }

    /// Whether somebody works there: then nothing is commanded either.
    pub(crate) fn is_maintenance(&self) -> bool {
        self.maintained || !self.windows.is_empty()
    }
}

/// What is known of an alert while it is open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Open {
    pub(crate) facts: Facts,
    pub(crate) mutes: Mutes,
}

/// One alert of which a notice came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Episode {
    pub(crate) partition: u16,
    /// Ingest times: of its newest notice, and of its first.
    pub(crate) at: i64,
    pub(crate) raised: i64,
    /// Number of the newest revision of its begin that was told.
    pub(crate) revised: u32,
    /// See [`Facts::subject`].
    pub(crate) subject: u64,
    /// By number.
    pub(crate) pages: Vec<u64>,
    /// Who looked after it while it was in no page.
    pub(crate) ack: Option<Ack>,
    /// Whether its subject flaps: then that is what is in the pages, not the episode.
    pub(crate) held: bool,
    /// None once it is over.
    pub(crate) open: Option<Box<Open>>,
}

/// What a page counts for in the number of pages that make a storm; none if it does not.
pub(crate) fn storm_key(place: &PageKey) -> Option<(Box<str>, Box<str>, bool)> {
    let (route, rule, group) = place;
    let is_device = match group {
        Group::Device(_) => true,
        Group::Attributes(pairs) if !pairs.is_empty() => false,
        Group::Attributes(_) | Group::Storm => return None,
    };
    Some((route.clone(), rule.clone(), is_device))
}

impl Alerting {
    /// An alert begins.
    pub(super) fn raise(&mut self, partition: u16, facts: Facts, at: i64) {
        if self.episodes.contains_key(&facts.id) {
            return;
        }
        let (id, subject) = (facts.id.clone(), facts.subject());
        let many = self.flaps.note(subject, at);
        let mutes = self.mutes(&facts);
        let muted = mutes.any();
        self.command(partition, &facts, mutes.is_maintenance());
        let explained = self.inhibition.add(&facts);
        let flaps = self.flaps.get(subject).is_some();
        let mut pages = Vec::new();
        if flaps {
            pages = self.flap_again(subject, &facts, muted);
        } else if !muted {
            pages = self.join(&facts, None);
        }
        if many && !flaps {
            self.begin_flapping(subject, &facts, &pages, muted);
        }
        let episode = Episode {
            partition,
            at,
            raised: at,
            revised: 0,
            subject,
            pages,
            ack: None,
            held: flaps || many,
            open: Some(Box::new(Open { facts, mutes })),
        };
        self.episodes.insert(id.clone(), episode);
        self.touched.episodes.insert(id);
        explained.iter().for_each(|id| self.recheck(id));
    }

    fn begin_flapping(&mut self, subject: u64, facts: &Facts, pages: &[u64], muted: bool) {
        let flap = &self.settings.flap;
        let minutes = |time: i64| time / 60_000_000;
        let note = format!(
            "flapping: more than {} times in {} min; nothing more is said until it is quiet for {} min or fires for {} min",
            flap.episodes,
            minutes(flap.within),
            minutes(flap.quiet),
            minutes(flap.steady),
        );
        self.flaps.insert(
            subject,
            Flap {
                pages: pages.to_vec(),
                muted: false,
                last: facts.clone(),
                firing: true,
                since: self.now,
                over: None,
            },
        );
        // What is muted is in no page yet.
        debug_assert!(!muted || pages.is_empty());
        for id in pages {
            self.hurry(*id, &note);
        }
        self.touched.flaps.insert(subject);
        self.reschedule_flap(subject);
    }

    /// A flapping subject fires again. The pages that it is in.
    fn flap_again(&mut self, subject: u64, facts: &Facts, muted: bool) -> Vec<u64> {
        let now = self.now;
        let Some(flap) = self.flaps.get_mut(subject) else {
            return Vec::new();
        };
        let old = std::mem::replace(&mut flap.last, facts.clone());
        flap.firing = true;
        flap.since = now;
        let pages = flap.pages.clone();
        self.touched.flaps.insert(subject);
        self.reschedule_flap(subject);
        for id in &pages {
            if let Some(page) = self.pages.get_mut(id) {
                page.replace(&old.id, facts);
                self.touched.pages.insert(*id);
            }
        }
        self.mute_flap(subject, muted);
        self.flaps
            .get(subject)
            .map_or_else(Vec::new, |f| f.pages.clone())
    }

    /// The newest episode of a flapping subject is muted or not: what its pages count follows.
    fn mute_flap(&mut self, subject: u64, muted: bool) {
        let Some(flap) = self.flaps.get(subject) else {
            return;
        };
        if flap.pages.is_empty() {
            if !muted {
                let last = flap.last.clone();
                let pages = self.join(&last, None);
                if let Some(flap) = self.flaps.get_mut(subject) {
                    flap.pages = pages;
                }
            }
        } else if flap.muted != muted {
            let pages = flap.pages.clone();
            self.mute_pages(&pages, muted);
            if let Some(flap) = self.flaps.get_mut(subject) {
                flap.muted = muted;
            }
        }
        self.touched.flaps.insert(subject);
    }

    /// The begin of an alert is known better: the revision of that number.
    pub(super) fn revise(&mut self, facts: Facts, number: u32, at: i64) {
        let Some(episode) = self.episodes.get_mut(&facts.id) else {
            return;
        };
        let Some(open) = episode.open.as_mut().filter(|_| number > episode.revised) else {
            return;
        };
        episode.revised = number;
        episode.at = at;
        let before = open.facts.clone();
        open.facts = open.facts.told_by(facts);
        let facts = open.facts.clone();
        // It explains others by what it says now, no longer by what it said.
        let mut explained = self.inhibition.remove(&before);
        explained.extend(self.inhibition.add(&facts));
        self.touched.episodes.insert(facts.id.clone());
        for id in episode.pages.clone() {
            if let Some(page) = self.pages.get_mut(&id) {
                page.note_begin(&facts, self.now);
                self.touched.pages.insert(id);
                self.reschedule(id);
            }
        }
        explained.iter().for_each(|id| self.recheck(id));
    }

    /// An alert is over.
    pub(super) fn clear(&mut self, facts: Facts, at: i64) {
        let Some(episode) = self.episodes.get_mut(&facts.id) else {
            return;
        };
        let Some(open) = episode.open.take() else {
            return;
        };
        episode.at = at;
        let (id, subject, held) = (facts.id.clone(), episode.subject, episode.held);
        let pages = episode.pages.clone();
        let facts = open.facts.told_by(facts);
        self.over.insert((at, id.clone()));
        self.touched.episodes.insert(id.clone());
        let explained = self.inhibition.remove(&open.facts);
        if !held {
            for page in pages {
                self.leave(page, &facts, open.mutes.any());
            }
        } else if let Some(flap) = self.flaps.get_mut(subject).filter(|f| f.last.id == id) {
            flap.last = facts.clone();
            flap.firing = false;
            flap.since = self.now;
            self.touched.flaps.insert(subject);
            self.reschedule_flap(subject);
            for id in pages {
                if let Some(page) = self.pages.get_mut(&id) {
                    page.revise(&facts);
                    self.touched.pages.insert(id);
                }
            }
        }
        explained.iter().for_each(|id| self.recheck(id));
    }

    /// One alert less in a page.
    fn leave(&mut self, id: u64, facts: &Facts, was_muted: bool) {
        let Some(page) = self.pages.get_mut(&id) else {
            return;
        };
        self.touched.pages.insert(id);
        if page.leave(facts, was_muted, self.now) {
            self.open_pages.remove(&page.place());
            self.closed.insert((self.now, id));
            self.say(id, Kind::Cleared, None);
        } else {
            self.reschedule(id);
        }
    }

    /// What mutes an alert now.
    fn mutes(&self, facts: &Facts) -> Mutes {
        let mut mutes = Mutes::default();
        for silence in self.silences.on(facts, self.now) {
            mutes.silences.push(silence.id.clone());
            mutes.maintained |= silence.kind == event::SilenceKind::Maintenance;
        }
        for window in &self.settings.maintenance {
            if window.is_active(self.now) && window.matchers.hold(facts) {
                mutes.windows.push(window.name.as_str().into());
            }
        }
        mutes.inhibited_by = self.inhibition.inhibitor(facts).map(Into::into);
        mutes
    }

    /// Looks again at what mutes an open alert.
    fn recheck(&mut self, id: &str) {
        let Some(open) = self.episodes.get(id).and_then(|e| e.open.as_deref()) else {
            return;
        };
        let mutes = self.mutes(&open.facts);
        if mutes == open.mutes {
            return;
        }
        let (was, is) = (open.mutes.any(), mutes.any());
        let Some(episode) = self.episodes.get_mut(id) else {
            return;
        };
        if let Some(open) = &mut episode.open {
            open.mutes = mutes;
        }
        self.touched.episodes.insert(id.into());
        if episode.held {
            let subject = episode.subject;
            if self.flaps.get(subject).is_some_and(|f| *f.last.id == *id) {
                self.mute_flap(subject, is);
                let pages = self.flaps.get(subject).map(|f| f.pages.clone());
                if let Some(episode) = self.episodes.get_mut(id) {
                    episode.pages = pages.unwrap_or_default();
                }
            }
        } else if !episode.pages.is_empty() {
            let pages = episode.pages.clone();
            if was != is {
                self.mute_pages(&pages, is);
            }
        } else if !is {
            let ack = episode.ack.take();
            let Some(facts) = episode.open.as_ref().map(|o| o.facts.clone()) else {
                return;
            };
            let pages = self.join(&facts, ack);
            if let Some(episode) = self.episodes.get_mut(id) {
                episode.pages = pages;
            }
        }
    }

    fn mute_pages(&mut self, pages: &[u64], muted: bool) {
        for id in pages {
            if let Some(page) = self.pages.get_mut(id) {
                page.mute(muted, self.now);
                self.touched.pages.insert(*id);
                self.reschedule(*id);
            }
        }
    }

    /// Looks again at what mutes each open alert, and says when that is to be done next.
    pub(super) fn recheck_all(&mut self) {
        let open: Vec<Box<str>> = self
            .episodes
            .iter()
            .filter(|(_, e)| e.open.is_some())
            .map(|(id, _)| id.clone())
            .collect();
        open.iter().for_each(|id| self.recheck(id));
        let windows = self.settings.maintenance.iter();
        let windows = windows.filter_map(|w| w.next_change(self.now));
        let next = windows.chain(self.silences.next_change(self.now)).min();
        self.timers.set(Timer::Mutes, next);
    }

    /// Puts an alert into its pages. Who looks after it already, looks after those that it opens.
    fn join(&mut self, facts: &Facts, ack: Option<Ack>) -> Vec<u64> {
        let mut routes = Vec::new();
        for (at, route) in self.settings.routes.iter().enumerate() {
            if route.matchers.hold(facts) {
                routes.push(Some(at));
                if !route.goes_on {
                    break;
                }
            }
        }
        if routes.is_empty() {
            routes.push(None);
        }
        let joined = routes.into_iter().map(|at| {
            let route = at.and_then(|at| self.settings.routes.get(at));
            let (name, pace, to) = match route {
                Some(route) => (&*route.name, &route.pace, &route.to),
                None => (DEFAULT_ROUTE, &self.settings.pace, &self.settings.notifiers),
            };
            let group = Group::of(facts, &pace.group_by);
            let place = (name.into(), facts.rule.clone(), group);
            let to = to.clone();
            self.join_page(place, facts, to, ack.clone())
        });
        joined.collect()
    }

    fn join_page(
        &mut self,
        mut place: PageKey,
        facts: &Facts,
        to: Vec<String>,
        ack: Option<Ack>,
    ) -> u64 {
        if !self.open_pages.contains_key(&place) && self.is_storm(&place) {
            place.2 = Group::Storm;
        }
        if let Some(&id) = self.open_pages.get(&place) {
            if let Some(page) = self.pages.get_mut(&id) {
                page.join(facts, self.now);
            }
            self.touched.pages.insert(id);
            self.reschedule(id);
            return id;
        }
        let id = self.next_page;
        self.next_page += 1;
        let mut page = Page::open(id, place.clone(), facts, to, self.now);
        page.ack = ack;
        self.pages.insert(id, page);
        self.open_pages.insert(place, id);
        self.fresh.insert(id);
        self.touched.pages.insert(id);
        self.touched.base = true;
        id
    }

    /// Whether one page more is too many at once; if not, it is counted.
    fn is_storm(&mut self, place: &PageKey) -> bool {
        let Some(key) = storm_key(place) else {
            return false;
        };
        let most = match key.2 {
            true => self.settings.storm_devices,
            false => self.settings.storm_groups,
        };
        let times = self.opened.entry(key).or_default();
        let from = self.now.saturating_sub(STORM_TIME);
        while times.front().is_some_and(|t| *t <= from) {
            times.pop_front();
        }
        let many = times.len() >= most;
        if !many {
            times.push_back(self.now);
        }
        many
    }

    fn hurry(&mut self, id: u64, why: &str) {
        if let Some(page) = self.pages.get_mut(&id) {
            page.hurry(why);
            self.touched.pages.insert(id);
            self.reschedule(id);
        }
    }

    /// How often a page is said, and who else hears of it.
    fn plan(&self, route: &str) -> (&Pace, &[Step]) {
        match self.settings.routes.iter().find(|r| r.name == route) {
            Some(route) => (&route.pace, &route.escalate),
            None => (&self.settings.pace, &[]),
        }
    }

    pub(super) fn reschedule(&mut self, id: u64) {
        let due = self.pages.get(&id).and_then(|page| {
            let (pace, steps) = self.plan(&page.route);
            page.due(pace, steps)
        });
        self.timers.set(Timer::Page(id), due.map(|d| d.0));
    }

    /// Says what a page has to say now.
    pub(super) fn page_due(&mut self, id: u64) {
        let Some(page) = self.pages.get(&id) else {
            return;
        };
        let (pace, steps) = self.plan(&page.route);
        match page.due(pace, steps).filter(|d| d.0 <= self.now) {
            None => self.reschedule(id),
            Some((_, Due::Update)) => self.say(id, Kind::Updated, None),
            Some((_, Due::Remind)) => {
                self.say(id, Kind::Updated, Some("still firing, not acknowledged"));
            }
            Some((_, Due::Escalate)) => {
                let step = steps.get(page.escalated as usize).cloned();
                self.escalate(id, step);
            }
        }
    }

    fn escalate(&mut self, id: u64, step: Option<Step>) {
        self.say_raised(id);
        let url = self.settings.public_url.as_deref();
        let (Some(page), Some(step)) = (self.pages.get_mut(&id), step) else {
            return;
        };
        page.escalated += 1;
        let note = format!("not acknowledged for {} min", step.after / 60_000_000);
        let (known, new): (Vec<String>, Vec<String>) =
            step.to.into_iter().partition(|t| page.to.contains(t));
        page.to.extend(new.iter().cloned());
        let mut messages = Vec::new();
        for (to, kind) in [(new, Kind::Raised), (known, Kind::Updated)] {
            if !to.is_empty() {
                messages.push((to, page.message(kind, Some(&note), url, self.now)));
            }
        }
        for (to, message) in messages {
            self.give(&to, message);
        }
        self.touched.pages.insert(id);
        self.reschedule(id);
    }

    pub(super) fn reschedule_flap(&mut self, subject: u64) {
        let flap = self.flaps.get(subject);
        let end = flap.and_then(|f| self.flaps.end_of(f));
        self.timers.set(Timer::Flap(subject), end);
    }

    /// A subject may have stopped flapping.
    pub(super) fn flap_due(&mut self, subject: u64) {
        let Some(flap) = self.flaps.get(subject) else {
            return;
        };
        if self.flaps.end_of(flap).is_none_or(|end| end > self.now) {
            return self.reschedule_flap(subject);
        }
        let Some(flap) = self.flaps.get_mut(subject) else {
            return;
        };
        flap.over = Some(self.now);
        let flap = flap.clone();
        self.touched.flaps.insert(subject);
        if !flap.firing {
            for id in &flap.pages {
                self.leave(*id, &flap.last, flap.muted);
            }
            return;
        }
        // Its open episode counts for itself again.
        if let Some(episode) = self.episodes.get_mut(&flap.last.id) {
            episode.held = false;
            self.touched.episodes.insert(flap.last.id.clone());
        }
        for id in &flap.pages {
            self.hurry(*id, "no longer flapping: it stays");
        }
    }
}
