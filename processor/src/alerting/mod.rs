//! From alerts to what people get: pages, silences, inhibition, flapping, routes, escalation.
//!
//! A pure state machine over all partitions: notices of the core, records of operators and time go in; messages
//! for notifiers, rows to be saved and marks for the views come out ([`Output`]). It is told the time and makes
//! nothing up: the same inputs in the same order give the same messages under the same ids. Whoever runs it
//! commits the rows and the messages of an output in one transaction before anything of it is shown. Inputs that
//! come again after a restart are known by their ids (notices) or their places (operators' records).
//!
//! - `life`: an alert begins, changes, ends; what mutes it; which pages it is in.
//! - `page`: what one page says, and when.
//! - `groups`: rules on windows and shares, which need the results of all partitions.
//! - `commands`: what devices are told to do because of an alert.
//! - `flap`, `inhibit`, `silence`, `settings`: the parts that decide.
//! - `rows`: what is saved, and reading it back.

mod commands;
mod facts;
mod flap;
mod groups;
mod inhibit;
mod life;
mod output;
mod page;
mod rows;
mod rule;
mod settings;
mod silence;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use event::{Operation, operate};

use crate::core::{Notice, NoticeKind, Operated};
use crate::outbox::Outgoing;
use ::rules::RuleCommand;
use commands::Commands;
use facts::Facts;
use flap::Flaps;
use groups::Groups;
use inhibit::Inhibition;
use life::Episode;
use page::{Ack, Page, PageKey};
use silence::Silences;
use timers::{Timer, Timers};

pub(crate) use groups::counting;
pub use groups::{GroupTexts, Judged, RING, check as check_rule};
pub use output::Output;
pub use settings::{
    FlapSettings, GROUP_BY_MAX, Inhibit, Pace, Route, STEPS_MAX, Settings, Step, TABLES_MAX, Window,
};
pub use silence::SILENCES_MAX;
pub use views::matcher::{Matchers, parse as parse_matcher};

/// Name of the route of alerts that no route matches.
pub const DEFAULT_ROUTE: &str = "default";
/// Ended episodes that are remembered at least, newest first, so that their pages and acknowledgements show.
const OVER_KEPT: usize = 8000;
/// Closed pages that are remembered, newest first.
const PAGES_KEPT: usize = 1000;
/// Ended episodes forgotten at once.
const FORGET_AT_ONCE: usize = 2000;
/// The partition that alerts on groups count for.
const GROUPS_PARTITION: u16 = 0;
/// Pages of one rule that are opened within this time count for a storm, microseconds.
const STORM_TIME: i64 = 60_000_000;

/// See the module.
pub struct Alerting {
    settings: Settings,
    /// The greatest time it was told.
    now: i64,
    /// Place of the newest operator's record that was applied.
    applied: Option<u64>,
    /// The same of those that steer commands.
    steered: Option<u64>,
    next_page: u64,
    /// By name of the rule.
    rule_commands: BTreeMap<String, RuleCommand>,
    /// By alert id: open ones, and ended ones that a replay could tell again or that are still shown.
    episodes: BTreeMap<Box<str>, Episode>,
    /// Ended ones by (ingest time of the end, id).
    over: BTreeSet<(i64, Box<str>)>,
    pages: BTreeMap<u64, Page>,
    open_pages: BTreeMap<PageKey, u64>,
    /// Closed ones by (time, id).
    closed: BTreeSet<(i64, u64)>,
    /// When the newest pages of a (route, rule) were opened: for devices without and for groups with attributes.
    opened: BTreeMap<(Box<str>, Box<str>, bool), VecDeque<i64>>,
    silences: Silences,
    inhibition: Inhibition,
    flaps: Flaps,
    commands: Commands,
    groups: Groups,
    timers: Timers,
    /// Pages whose first message is still to be put together.
    fresh: BTreeSet<u64>,
    touched: output::Touched,
    outgoing: Vec<Outgoing>,
}

impl Alerting {
    /// Without any alerts.
    pub fn new(settings: Settings) -> Self {
        let mut timers = Timers::default();
        // What the configuration says of the present time is found at the first tick.
        timers.set(Timer::Mutes, Some(i64::MIN));
        let inhibition = Inhibition::new(settings.inhibit.clone());
        let flaps = Flaps::new(settings.flap.clone());
        Self {
            settings,
            now: i64::MIN,
            applied: None,
            steered: None,
            next_page: 1,
            rule_commands: BTreeMap::new(),
            episodes: BTreeMap::new(),
            over: BTreeSet::new(),
            pages: BTreeMap::new(),
            open_pages: BTreeMap::new(),
            closed: BTreeSet::new(),
            opened: BTreeMap::new(),
            silences: Silences::default(),
            inhibition,
            flaps,
            commands: Commands::default(),
            groups: Groups::default(),
            timers,
            fresh: BTreeSet::new(),
            touched: output::Touched::default(),
            outgoing: Vec::new(),
        }
    }

    /// What the rules are, as JSON texts: alerting needs to know what they have devices do.
    pub fn set_rules(&mut self, rules: &[String]) {
        self.rule_commands = rules.iter().filter_map(|r| rule::command(r)).collect();
    }

    /// The time is now at least `now`.
    fn at(&mut self, now: i64) {
        self.now = self.now.max(now);
    }

    /// Takes a notice of a partition at `now`; `agent` is the agent of its device, if it has one. A notice that
    /// was taken before changes nothing.
    pub fn notice(&mut self, partition: u16, notice: &Notice, agent: Option<&str>, now: i64) {
        self.at(now);
        let facts = Facts::new(&notice.alert, agent);
        match notice.kind {
            NoticeKind::Raised => self.raise(partition, facts, notice.at),
            NoticeKind::Revised => {
                let number = notice.id.rsplit(':').next();
                let number = number.and_then(|n| n.parse().ok());
                self.revise(facts, number.unwrap_or_default(), notice.at);
            }
            NoticeKind::Cleared => self.clear(facts, notice.at),
        }
    }

    /// A device of a partition is no longer expected since `at`: its alerts there are over.
    pub fn decommissioned(&mut self, partition: u16, device: &str, at: i64, now: i64) {
        self.at(now);
        let open = self.episodes.values().filter_map(|episode| {
            let facts = &episode.open.as_ref()?.facts;
            let is_of = episode.partition == partition && *facts.device == *device;
            (is_of && facts.reported <= at).then(|| facts.clone())
        });
        for facts in open.collect::<Vec<_>>() {
            let summary = format!("{}; the device was decommissioned", facts.summary);
            let over = Facts {
                resolved: Some(at.max(facts.began)),
                summary: summary.into(),
                ..facts
            };
            self.clear(over, at);
        }
    }

    /// Takes an operator's record at `now`, if it is newer than the newest that was taken.
    ///
    /// **Errors**: why it is skipped, for the server's log. It counts as taken.
    pub fn operate(&mut self, operated: &Operated, now: i64) -> Result<(), String> {
        self.at(now);
        if self.applied.is_some_and(|a| operated.offset <= a) {
            return Ok(());
        }
        self.applied = Some(operated.offset);
        self.touched.base = true;
        match Operation::parse(&operated.json)? {
            Operation::Ack { alert, by, comment } => {
                let ack = Ack {
                    by: by.into(),
                    at: operated.at,
                    comment: comment.into(),
                };
                self.acknowledge(&alert, ack)
            }
            Operation::Unack { alert, by } => self.unacknowledge(&alert, &by),
            Operation::Silence { id, spec } => {
                for gone in self.silences.forget(operated.at) {
                    self.touched.silences.insert(gone);
                }
                let new = operate::silence_id(operated.offset);
                let id = self.silences.set(id.as_deref(), new, spec, operated.at)?;
                self.touched.silences.insert(id);
                self.recheck_all();
                Ok(())
            }
            Operation::Expire { id, .. } => {
                if self.silences.expire(&id, operated.at) {
                    self.touched.silences.insert(id.into());
                    self.recheck_all();
                }
                Ok(())
            }
        }
    }

    fn acknowledge(&mut self, alert: &str, ack: Ack) -> Result<(), String> {
        let episode = self.episodes.get_mut(alert);
        let Some(episode) = episode.filter(|e| e.open.is_some()) else {
            return Err(format!(
                "alert {alert} is not firing; nothing is acknowledged"
            ));
        };
        let pages = episode.pages.clone();
        if pages.is_empty() {
            episode.ack = Some(ack);
            self.touched.episodes.insert(alert.into());
            return Ok(());
        }
        for id in pages {
            let Some(page) = self.pages.get_mut(&id) else {
                continue;
            };
            if page.acknowledge(ack.clone()) {
                let who = match ack.comment.trim() {
                    "" => format!("acknowledged by {}", ack.by),
                    comment => format!("acknowledged by {} ({comment})", ack.by),
                };
                self.say(id, notify::Kind::Acknowledged, Some(&who));
            }
        }
        Ok(())
    }

    fn unacknowledge(&mut self, alert: &str, by: &str) -> Result<(), String> {
        let Some(episode) = self.episodes.get_mut(alert) else {
            return Err(format!("alert {alert} is not known; nothing is changed"));
        };
        if episode.ack.take().is_some() {
            self.touched.episodes.insert(alert.into());
        }
        for id in episode.pages.clone() {
            let page = self.pages.get_mut(&id);
            if page.is_some_and(|p| p.unacknowledge(by, self.now)) {
                self.reschedule(id);
            }
        }
        Ok(())
    }

    /// Does what is due at `now`: further messages, escalation, begin and end of silences and maintenance.
    pub fn tick(&mut self, now: i64) {
        self.at(now);
        while let Some(timer) = self.timers.pop_due(self.now) {
            match timer {
                Timer::Page(id) => self.page_due(id),
                Timer::Flap(subject) => self.flap_due(subject),
                Timer::Commands => self.commands_due(),
                Timer::Mutes => {
                    self.touched.all_silences = true;
                    self.recheck_all();
                }
            }
        }
    }

    /// When [`Self::tick`] has something to do next.
    pub fn next_due(&self) -> Option<i64> {
        self.timers.next()
    }

    /// Forgets ended episodes and closed pages beyond what is kept: none that a replay could tell again.
    /// `saved` gives the ingest time up to which a partition's state is saved. Whether there is more to forget.
    pub fn forget(&mut self, saved: impl Fn(u16) -> i64) -> bool {
        let excess = self.over.len().saturating_sub(OVER_KEPT);
        let horizon = self.now.saturating_sub(self.settings.flap.within);
        let old: Vec<(i64, Box<str>)> = self
            .over
            .iter()
            .take(excess.min(FORGET_AT_ONCE))
            .filter(|(_, id)| {
                self.episodes
                    .get(id)
                    .is_none_or(|e| e.at < saved(e.partition) && e.raised < horizon)
            })
            .cloned()
            .collect();
        let more = old.len() == FORGET_AT_ONCE;
        for (at, id) in old {
            self.episodes.remove(&id);
            self.touched.episodes.insert(id.clone());
            self.over.remove(&(at, id));
        }
        let excess = self.closed.len().saturating_sub(PAGES_KEPT);
        let is_old = |id: &u64| {
            let page = self.pages.get(id);
            page.is_none_or(|p| p.opened < self.now - STORM_TIME)
        };
        let pages: Vec<(i64, u64)> = self
            .closed
            .iter()
            .take(excess)
            .filter(|(_, id)| is_old(id))
            .copied()
            .collect();
        for (at, id) in pages {
            self.closed.remove(&(at, id));
            self.pages.remove(&id);
            self.touched.pages.insert(id);
        }
        for subject in self.flaps.forget(self.now) {
            self.touched.flaps.insert(subject);
        }
        more
    }

    /// Open alerts and open pages.
    pub fn sizes(&self) -> (usize, usize) {
        (self.episodes.len() - self.over.len(), self.open_pages.len())
    }
}
