//! What alerting gives to the world.

use std::collections::BTreeSet;

use notify::{Kind, Message};
use views::model::{Alert, Time};
use views::oncall::{Mark, OnCallChange, Silence};

use super::groups::Place;
use super::life::Episode;
use super::page::Ack;
use super::settings::Window;
use super::{Alerting, rows};
use crate::outbox::Outgoing;

/// Everything since the last call of [`Alerting::take`]. Rows and messages belong in one transaction; what is for
/// the views comes after it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// Key and value of changed rows; none = it is no more.
    pub rows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// In the order in which they were decided.
    pub outgoing: Vec<Outgoing>,
    /// For the views.
    pub shown: OnCallChange,
}

impl Output {
    /// Whether there is nothing to save and nothing to show.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what was decided after it.
    pub fn append(&mut self, mut later: Self) {
        self.rows.append(&mut later.rows);
        self.outgoing.append(&mut later.outgoing);
        self.shown.append(later.shown);
    }
}

/// What changed since the last output.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub(crate) base: bool,
    pub(crate) episodes: BTreeSet<Box<str>>,
    pub(crate) pages: BTreeSet<u64>,
    pub(crate) flaps: BTreeSet<u64>,
    pub(crate) silences: BTreeSet<Box<str>>,
    /// Commands by id, and rules by name.
    pub(crate) commands: BTreeSet<Box<str>>,
    pub(crate) rules: BTreeSet<Box<str>>,
    /// Rules in groups, their alerts by id, and alerts that are none any more.
    pub(crate) groups: BTreeSet<Place>,
    pub(crate) shown: BTreeSet<Box<str>>,
    pub(crate) dropped: Vec<Alert>,
    /// Silences began or ended by themselves.
    pub(crate) all_silences: bool,
}

impl Alerting {
    /// Puts one message of a page into words and gives it to all that hear of the page.
    pub(super) fn say(&mut self, id: u64, kind: Kind, note: Option<&str>) {
        if kind != Kind::Raised && self.fresh.contains(&id) {
            self.say_raised(id);
        }
        let url = self.settings.public_url.as_deref();
        let Some(page) = self.pages.get_mut(&id) else {
            return;
        };
        let message = page.say(kind, note, url, self.now);
        let to = page.to.clone();
        self.give(&to, message);
        self.touched.pages.insert(id);
        self.reschedule(id);
    }

    /// The first message of a page. It waits for the end of the call, so that it tells of all alerts of the call.
    pub(super) fn say_raised(&mut self, id: u64) {
        if self.fresh.remove(&id) {
            self.say(id, Kind::Raised, None);
        }
    }

    pub(super) fn give(&mut self, to: &[String], message: Message) {
        let outgoing = to.iter().map(|target| Outgoing {
            target: target.clone(),
            message: message.clone(),
        });
        self.outgoing.extend(outgoing);
    }

    /// What has come of the inputs since the last call.
    pub fn take(&mut self) -> Output {
        while let Some(&id) = self.fresh.first() {
            self.say_raised(id);
        }
        let touched = std::mem::take(&mut self.touched);
        let mut out = Output {
            outgoing: std::mem::take(&mut self.outgoing),
            ..Output::default()
        };
        for id in touched.episodes {
            let episode = self.episodes.get(&id);
            out.rows.push(rows::episode(&id, episode));
            out.shown
                .marks
                .push((id.to_string(), episode.map(|e| self.mark(e))));
        }
        for id in touched.pages {
            let page = self.pages.get(&id);
            out.rows.push(rows::page(id, page));
            out.shown
                .pages
                .push((id, page.map(super::page::Page::model)));
        }
        for subject in touched.flaps {
            out.rows
                .push(rows::flap(subject, self.flaps.stored(subject)));
        }
        if !touched.silences.is_empty() || touched.all_silences {
            out.shown.silences = Some(self.all_silences());
        }
        for id in touched.silences {
            out.rows.push(rows::silence(&id, self.silences.get(&id)));
        }
        for id in touched.commands {
            out.rows.push(rows::asked(&id, self.commands.asked(&id)));
            out.shown
                .commands
                .push((id.to_string(), self.commands.model(&id)));
        }
        for rule in touched.rules {
            out.rows.push(rows::rule(&rule, self.commands.rule(&rule)));
        }
        for place in touched.groups {
            let watched = self.groups.watched.get(&place);
            out.rows
                .push(rows::watched(&place, watched.filter(|w| w.saved)));
        }
        for id in touched.shown {
            let shown = self.groups.shown.get(&id);
            out.rows.push(rows::shown(&id, shown));
            out.shown.alerts.extend(shown.map(|s| s.model()));
        }
        out.shown.alerts.extend(touched.dropped);
        if touched.base {
            out.rows.push(rows::base(self));
        }
        out
    }

    /// Everything for the views, as it is now: for the start.
    pub fn show(&self) -> OnCallChange {
        let marks = self.episodes.iter();
        let pages = self.pages.iter();
        OnCallChange {
            marks: marks
                .map(|(id, e)| (id.to_string(), Some(self.mark(e))))
                .collect(),
            pages: pages.map(|(id, p)| (*id, Some(p.model()))).collect(),
            silences: Some(self.all_silences()),
            commands: self.commands.models().collect(),
            alerts: self.groups.shown.values().map(|s| s.model()).collect(),
        }
    }

    fn all_silences(&self) -> Vec<Silence> {
        let mut all = self.silences.models(self.now);
        all.extend(
            self.settings
                .maintenance
                .iter()
                .filter_map(|w| self.window(w)),
        );
        all
    }

    fn window(&self, window: &Window) -> Option<Silence> {
        let (begin, end) = window.around(self.now.max(0))?;
        Some(Silence {
            id: format!("window:{}", window.name),
            kind: "maintenance",
            state: if begin <= self.now {
                "active"
            } else {
                "pending"
            },
            matchers: window.shown.clone(),
            starts_at: Time(begin),
            ends_at: Time(end),
            by: "configuration".to_owned(),
            comment: format!("weekly window {:?}", window.name),
            updated: Time(begin),
            weekly: true,
        })
    }

    fn mark(&self, episode: &Episode) -> Mark {
        let mut mark = Mark {
            page: episode
                .pages
                .first()
                .and_then(|id| self.pages.get(id))
                .map(|p| p.key.to_string()),
            acknowledged: episode.ack.as_ref().map(Ack::model),
            flapping: episode.held,
            ..Mark::default()
        };
        if let Some(open) = &episode.open {
            let texts = |list: &[Box<str>]| list.iter().map(|t| t.to_string()).collect();
            mark.silenced_by = texts(&open.mutes.silences);
            mark.maintenance = texts(&open.mutes.windows);
            mark.inhibited_by = open.mutes.inhibited_by.as_deref().map(str::to_owned);
        }
        mark
    }
}
