//! One page: what people get for a group of alerts.

use std::collections::{BTreeMap, VecDeque};

use notify::{ENTRIES_MAX, Kind, Message};
use serde::{Deserialize, Serialize};
use views::model::Time;
use views::oncall::{Acknowledged, AlertPage};

use super::facts::{Facts, Pairs, Severity};
use super::settings::{Pace, Step};
use views::matcher::Labels;

/// Alerts listed from the beginning of a page; the newest ones have the other places.
const FIRST_MAX: usize = ENTRIES_MAX / 2;

/// Somebody looks after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ack {
    pub(crate) by: Box<str>,
    pub(crate) at: i64,
    pub(crate) comment: Box<str>,
}

impl Ack {
    pub(crate) fn model(&self) -> Acknowledged {
        Acknowledged {
            by: self.by.to_string(),
            at: Time(self.at),
            comment: self.comment.to_string(),
        }
    }
}

/// What puts the alerts of a page together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Group {
    /// Texts of attributes.
    Attributes(Pairs),
    /// A device that has none of them.
    Device(Box<str>),
    /// More groups than people can look at one by one.
    Storm,
}

impl Group {
    pub(crate) fn of(facts: &Facts, by: &[String]) -> Self {
        let pairs: Pairs = by
            .iter()
            .filter_map(|name| Some((name.as_str().into(), facts.attribute(name)?.into())))
            .collect();
        match pairs.is_empty() && !by.is_empty() {
            // A group of devices is a place of its own, whatever it is called by.
            true if facts.is_of_group() => Self::Attributes(facts.group.clone()),
            true => Self::Device(facts.device.clone()),
            false => Self::Attributes(pairs),
        }
    }

    /// In the manner of the group keys of others: `{site="plant-1"}`.
    fn text(&self) -> String {
        match self {
            Self::Attributes(pairs) => {
                let texts: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
                format!("{{{}}}", texts.join(","))
            }
            Self::Device(device) => format!("{{device={device:?}}}"),
            Self::Storm => "storm".to_owned(),
        }
    }

    /// Where it is, for a sentence.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Attributes(pairs) if pairs.is_empty() => "the whole fleet".to_owned(),
            Self::Attributes(pairs) => {
                let texts: Vec<String> = pairs.iter().map(|(k, v)| format!("{k} {v}")).collect();
                texts.join(", ")
            }
            Self::Device(device) => device.to_string(),
            Self::Storm => "many places at once".to_owned(),
        }
    }

    fn source(&self) -> String {
        match self {
            Self::Attributes(pairs) if !pairs.is_empty() => {
                let texts: Vec<&str> = pairs.iter().map(|p| &*p.1).collect();
                texts.join("/")
            }
            Self::Device(device) => device.to_string(),
            Self::Attributes(_) | Self::Storm => "fleet".to_owned(),
        }
    }
}

/// By which an open page is found: route, rule, group.
pub(crate) type PageKey = (Box<str>, Box<str>, Group);

/// What a page has to say next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// Others are told, because nobody acknowledged.
    Escalate,
    /// Something changed.
    Update,
    /// Nothing changed, and nobody acknowledged.
    Remind,
}

/// One page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) id: u64,
    /// Dedup key.
    pub(crate) key: Box<str>,
    pub(crate) route: Box<str>,
    pub(crate) rule: Box<str>,
    pub(crate) group: Group,
    /// Worst so far.
    pub(crate) severity: Severity,
    /// What all its alerts have in common.
    pub(crate) labels: Pairs,
    description: Option<Box<str>>,
    runbook: Option<Box<str>>,
    /// When it was opened and closed.
    pub(crate) opened: i64,
    pub(crate) closed: Option<i64>,
    /// Event times: of the first begin and the last end.
    began: i64,
    resolved: Option<i64>,
    pub(crate) firing: u32,
    /// Of the firing ones, those of which nobody is told at present.
    pub(crate) muted: u32,
    pub(crate) total: u32,
    first: Vec<Facts>,
    newest: VecDeque<Facts>,
    /// Who has been told.
    pub(crate) to: Vec<String>,
    pub(crate) messages: u32,
    /// When the newest message to all was decided.
    last: i64,
    /// Whether a change was told.
    updated: bool,
    /// Since when there are more alerts than were told, and since when something else changed.
    grew: Option<i64>,
    changed: Option<i64>,
    /// What cannot wait, and why.
    urgent: Option<Box<str>>,
    pub(crate) ack: Option<Ack>,
    pub(crate) escalated: u32,
    /// Since when nobody has acknowledged.
    clock: i64,
}

impl Page {
    /// A page with its first alert. Nothing is said yet.
    pub(crate) fn open(
        id: u64,
        (route, rule, group): PageKey,
        facts: &Facts,
        to: Vec<String>,
        now: i64,
    ) -> Self {
        let key = notify::dedup_key(&format!("{route}/{rule}:{}/", group.text()), &facts.id);
        let mut page = Self {
            id,
            key: key.into(),
            route,
            rule,
            group,
            severity: facts.severity,
            labels: facts.all_labels().into_iter().collect(),
            description: facts.description.clone(),
            runbook: facts.runbook.clone(),
            opened: now,
            closed: None,
            began: facts.began,
            resolved: None,
            firing: 0,
            muted: 0,
            total: 0,
            first: Vec::new(),
            newest: VecDeque::new(),
            to,
            messages: 0,
            last: now,
            updated: false,
            grew: None,
            changed: None,
            urgent: None,
            ack: None,
            escalated: 0,
            clock: now,
        };
        page.add(facts);
        page
    }

    pub(crate) fn place(&self) -> PageKey {
        (self.route.clone(), self.rule.clone(), self.group.clone())
    }

    fn add(&mut self, facts: &Facts) {
        self.firing = self.firing.saturating_add(1);
        self.total = self.total.saturating_add(1);
        self.began = self.began.min(facts.began);
        self.list(facts);
    }

    fn list(&mut self, facts: &Facts) {
        if self.first.len() < FIRST_MAX {
            self.first.push(facts.clone());
            return;
        }
        if self.newest.len() == ENTRIES_MAX - FIRST_MAX {
            self.newest.pop_front();
        }
        self.newest.push_back(facts.clone());
    }

    /// One alert more.
    pub(crate) fn join(&mut self, facts: &Facts, now: i64) {
        self.add(facts);
        // The severity is the worst of all, whatever they have in common.
        self.labels
            .retain(|(name, text)| **name == *"severity" || *facts.label(name) == **text);
        self.grew.get_or_insert(now);
        self.changed.get_or_insert(now);
        if facts.severity > self.severity {
            self.severity = facts.severity;
            self.set_label("severity", facts.severity.as_str());
            let why = format!("more severe: {}", facts.severity.as_str());
            if self.ack.take().is_some() {
                self.clock = now;
                self.escalated = 0;
            }
            self.urgent = Some(why.into());
        }
    }

    fn set_label(&mut self, name: &str, text: &str) {
        match self.labels.binary_search_by(|l| (*l.0).cmp(name)) {
            Ok(at) => self.labels[at].1 = text.into(),
            Err(at) => self.labels.insert(at, (name.into(), text.into())),
        }
    }

    fn listed(&mut self, id: &str) -> Option<&mut Facts> {
        let mut listed = self.first.iter_mut().chain(&mut self.newest);
        listed.find(|f| *f.id == *id)
    }

    /// An alert is over, or known better. Whether it fires does not change what is counted here.
    pub(crate) fn revise(&mut self, facts: &Facts) {
        if let Some(listed) = self.listed(&facts.id) {
            *listed = facts.clone();
        }
    }

    /// Another episode stands for one that is listed.
    pub(crate) fn replace(&mut self, old: &str, facts: &Facts) {
        if let Some(listed) = self.listed(old) {
            *listed = facts.clone();
        }
    }

    /// The begin of one of its alerts moved.
    pub(crate) fn note_begin(&mut self, facts: &Facts, now: i64) {
        self.began = match self.total {
            1 => facts.began,
            _ => self.began.min(facts.began),
        };
        self.changed.get_or_insert(now);
        self.revise(facts);
    }

    /// One alert less. Whether it was the last.
    pub(crate) fn leave(&mut self, facts: &Facts, was_muted: bool, now: i64) -> bool {
        self.firing = self.firing.saturating_sub(1);
        self.muted = self.muted.saturating_sub(u32::from(was_muted));
        self.resolved = self.resolved.max(facts.resolved);
        self.revise(facts);
        self.changed.get_or_insert(now);
        if self.firing == 0 {
            self.closed = Some(now);
        }
        self.firing == 0
    }

    /// Alerts that people are to hear of.
    fn active(&self) -> u32 {
        self.firing.saturating_sub(self.muted)
    }

    /// One of its alerts is muted, or is not any more.
    pub(crate) fn mute(&mut self, muted: bool, now: i64) {
        if muted {
            self.muted = self.muted.saturating_add(1);
            return;
        }
        if self.active() == 0 {
            // Nobody was told for a while: they hear at once that it goes on, and get their time anew.
            self.urgent = Some("no longer silenced".into());
            self.clock = now;
        }
        self.muted = self.muted.saturating_sub(1);
    }

    /// Something that people are to know at once.
    pub(crate) fn hurry(&mut self, why: &str) {
        self.urgent = Some(why.into());
    }

    /// Somebody looks after it. Whether that is new.
    pub(crate) fn acknowledge(&mut self, ack: Ack) -> bool {
        let same = |old: &Ack| old.by == ack.by && old.comment == ack.comment;
        if self.closed.is_some() || self.ack.as_ref().is_some_and(same) {
            return false;
        }
        self.ack = Some(ack);
        true
    }

    /// Nobody does any more. Whether somebody did.
    pub(crate) fn unacknowledge(&mut self, by: &str, now: i64) -> bool {
        if self.closed.is_some() || self.ack.take().is_none() {
            return false;
        }
        self.clock = now;
        self.escalated = 0;
        self.urgent = Some(format!("no longer acknowledged, says {by}").into());
        true
    }

    /// What is to be said next, and when.
    pub(crate) fn due(&self, pace: &Pace, steps: &[Step]) -> Option<(i64, Due)> {
        if self.closed.is_some() || self.active() == 0 {
            return None;
        }
        let update = match (self.urgent.is_some(), self.changed) {
            (true, _) => Some(self.last),
            (false, Some(_)) => {
                let end = self.opened.saturating_add(pace.group_wait);
                match self.grew {
                    Some(grew) if !self.updated && grew <= end => Some(end),
                    _ => Some(self.last.saturating_add(pace.group_interval)),
                }
            }
            (false, None) => None,
        };
        let unheard = self.ack.is_none();
        let step = steps.get(self.escalated as usize).filter(|_| unheard);
        let remind = self.last.saturating_add(pace.repeat_interval);
        [
            step.map(|s| (self.clock.saturating_add(s.after), Due::Escalate)),
            update.map(|at| (at, Due::Update)),
            unheard.then_some((remind, Due::Remind)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next message, which all are to get. It tells everything that has changed.
    pub(crate) fn say(
        &mut self,
        kind: Kind,
        note: Option<&str>,
        url: Option<&str>,
        now: i64,
    ) -> Message {
        // An end needs no reason.
        let urgent = self.urgent.take().filter(|_| kind != Kind::Cleared);
        let note = note.or(urgent.as_deref());
        self.last = now;
        self.updated |= kind == Kind::Updated;
        self.grew = None;
        self.changed = None;
        self.message(kind, note, url, now)
    }

    /// The next message, which only some get.
    pub(crate) fn message(
        &mut self,
        kind: Kind,
        note: Option<&str>,
        url: Option<&str>,
        now: i64,
    ) -> Message {
        self.messages += 1;
        let summary = match note {
            Some(note) => format!("{note}: {}", self.summary()),
            None => self.summary(),
        };
        let link = |base: &str| {
            let first = self.first.first();
            format!("{base}/alerts/{}", first.map_or("", |f| &*f.id))
        };
        Message {
            id: format!("{}-{}", &self.key[..32], self.messages),
            kind,
            dedup_key: self.key.to_string(),
            rule: self.rule.to_string(),
            severity: self.severity.as_str().to_owned(),
            summary,
            description: self.description.as_deref().map(str::to_owned),
            source: self.group.source(),
            labels: self.shown_labels(),
            began: self.began,
            resolved: self.resolved.filter(|_| self.firing == 0),
            at: now,
            url: url.map(link),
            runbook: self.runbook.as_deref().map(str::to_owned),
            firing: self.firing,
            total: self.total,
            alerts: self
                .first
                .iter()
                .chain(&self.newest)
                .map(Facts::entry)
                .collect(),
        }
    }

    fn shown_labels(&self) -> BTreeMap<String, String> {
        let pair = |(k, v): &(Box<str>, Box<str>)| (k.to_string(), v.to_string());
        self.labels.iter().map(pair).collect()
    }

    /// One sentence.
    fn summary(&self) -> String {
        let first = self.first.first();
        if let (1, Some(first)) = (self.total, first) {
            return first.summary.to_string();
        }
        let (rule, place, began) = (&self.rule, self.group.place(), Time(self.began));
        let reported = Time(first.map_or(self.opened, |f| f.reported));
        match (self.firing, self.resolved) {
            (0, Some(over)) => format!(
                "{rule}: all {} alerts of {place} have ended; began {began}, over since {}",
                self.total,
                Time(over)
            ),
            (firing, _) => format!(
                "{rule}: {firing} of {} alerts firing, {place}; began {began}, reported {reported}",
                self.total
            ),
        }
    }

    pub(crate) fn model(&self) -> AlertPage {
        let listed = self.first.iter().chain(&self.newest);
        AlertPage {
            key: self.key.to_string(),
            route: self.route.to_string(),
            rule: self.rule.to_string(),
            severity: self.severity.as_str().to_owned(),
            labels: self.shown_labels(),
            summary: self.summary(),
            state: if self.closed.is_some() {
                "resolved"
            } else {
                "firing"
            },
            opened: Time(self.opened),
            began: Time(self.began),
            closed: self.closed.map(Time),
            firing: self.firing,
            muted: self.muted,
            total: self.total,
            alerts: listed.map(|f| f.id.to_string()).collect(),
            acknowledged: self.ack.as_ref().map(Ack::model),
            escalated: self.escalated,
            notifiers: self.to.clone(),
            messages: self.messages,
        }
    }
}
