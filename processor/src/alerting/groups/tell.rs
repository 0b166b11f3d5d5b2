//! What becomes of the episodes of groups: alerts.

use rules::{Direction, Kind, Rule};
use serde::{Deserialize, Serialize};
use views::model::{Alert, Evidence, Time};

use super::ring::Told;
use super::{Found, Place, Watched};
use crate::alerting::Alerting;
use crate::alerting::facts::{Facts, Severity, pairs};
use crate::alerting::page::Group;

/// Ended alerts that survive a restart, newest first.
const OVER_KEPT: usize = 200;

/// One alert as people see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shown {
    pub(crate) facts: Facts,
    notified: bool,
    reason: Option<Box<str>>,
    evidence: Vec<(i64, f64)>,
}

impl Shown {
    pub(crate) fn model(&self) -> Alert {
        let facts = &self.facts;
        let map = |pairs: &crate::alerting::facts::Pairs| {
            let texts = pairs.iter();
            texts.map(|(k, v)| (k.to_string(), v.to_string())).collect()
        };
        let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
        let kind = rules::KINDS.iter().find(|k| ***k == *facts.kind);
        let evidence = self.evidence.iter();
        Alert {
            id: facts.id.to_string(),
            rule: facts.rule.to_string(),
            kind: kind.copied().unwrap_or("window"),
            severity: facts.severity.as_str(),
            state: match facts.resolved {
                Some(_) => "resolved",
                None => "firing",
            },
            device: String::new(),
            metric: String::new(),
            group: map(&facts.group),
            labels: map(&facts.labels),
            runbook: text(&facts.runbook),
            description: text(&facts.description),
            value: facts.value.unwrap_or_default(),
            threshold: facts.threshold.unwrap_or_default(),
            began: Time(facts.began),
            reported: Time(facts.reported),
            resolved: facts.resolved.map(Time),
            notified: self.notified,
            reason: text(&self.reason),
            evidence: evidence
                .map(|(time, value)| Evidence {
                    time: Time(*time),
                    value: *value,
                })
                .collect(),
            summary: facts.summary.to_string(),
        }
    }
}

/// At most four digits behind the point.
fn number(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// One sentence.
fn sentence(rule: &Rule, facts: &Facts, counts: Option<(u64, u64)>) -> String {
    let place = Group::Attributes(facts.group.clone()).place();
    let what = match (&rule.kind, counts) {
        (Kind::Window(w), _) => format!("{} of {}, {place},", w.field.as_str(), rule.aggregate),
        (_, Some((firing, expected))) => {
            format!(
                "{} on {firing} of {expected} devices, {place}: a share that",
                rule.of
            )
        }
        _ => format!("{} on a share of the devices, {place}, that", rule.of),
    };
    let (name, value) = (&rule.name, number(facts.value.unwrap_or_default()));
    let began = Time(facts.began);
    let Some(resolved) = facts.resolved else {
        let (wrong, reported) = (rule.kind.describe(), Time(facts.reported));
        let wrong = match rule.kind {
            Kind::Window(w) => side(w.threshold.direction, w.threshold.raise),
            _ => wrong,
        };
        return format!("{name}: {what} {wrong}: {value}; began {began}, reported {reported}");
    };
    let over = Time(resolved);
    format!("{name}: {what} is back from {value}; began {began}, over since {over}")
}

fn side(direction: Direction, raise: f64) -> String {
    match direction {
        Direction::Above => format!("went above {raise}"),
        Direction::Below => format!("went below {raise}"),
    }
}

impl Alerting {
    /// Brings the alerts of a rule in a group to the episodes that there are.
    pub(super) fn tell(
        &mut self,
        place: &Place,
        rule: &Rule,
        found: &[Found],
        counts: Option<(u64, u64)>,
    ) {
        let Some(mut watched) = self.groups.watched.remove(place) else {
            return;
        };
        let mut told = std::mem::take(&mut watched.told);
        let mut new: Vec<&Found> = Vec::new();
        let mut known: Vec<(Told, &Found)> = Vec::new();
        // Those that begin where they did, then those that moved.
        type Same = fn(&Told, &Found) -> bool;
        let same: [Same; 2] = [|t, f| t.began == f.began, Told::overlaps];
        let mut open: Vec<&Found> = found.iter().collect();
        for same in same {
            for found in std::mem::take(&mut open) {
                match told.iter().position(|t| t.can_be(found) && same(t, found)) {
                    Some(at) => known.push((told.swap_remove(at), found)),
                    None => open.push(found),
                }
            }
        }
        new.append(&mut open);
        for gone in told {
            self.take_back(&gone, "what came late put it right");
        }
        for (told, found) in known {
            let told = self.update(rule, &watched, told, found, counts);
            watched.told.push(told);
        }
        for found in new {
            let told = self.begin(rule, &watched, found, counts);
            watched.told.push(told);
        }
        watched.told.sort_by_key(|t| t.began);
        watched.forget_final(matches!(rule.kind, Kind::Share(_)));
        let keep = watched.is_worth_saving();
        if keep || watched.saved {
            watched.saved = keep;
            self.touched.groups.insert(place.clone());
        }
        // The windows of a quiet group are remembered; of a share there is nothing to be.
        if keep || matches!(rule.kind, Kind::Window(_)) {
            self.groups.watched.insert(place.clone(), watched);
        }
    }

    /// A name that no alert has: of the rule, the group and the begin, and a number if there was one before.
    fn new_id(&self, rule: &Rule, watched: &Watched, began: i64) -> Box<str> {
        let mut text = format!("{}\0group", rule.name);
        for (name, value) in &watched.group {
            text.push_str(&format!("\0{}:{name}\0{}:{value}", name.len(), value.len()));
        }
        let id = |number: u32| {
            let text = format!("{text}\0{began}\0{number}");
            format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes())).into_boxed_str()
        };
        let is_new =
            |id: &str| !self.episodes.contains_key(id) && !self.groups.shown.contains_key(id);
        let mut number = 0;
        loop {
            let id = id(number);
            if is_new(&id) {
                return id;
            }
            number += 1;
        }
    }

    fn begin(
        &mut self,
        rule: &Rule,
        watched: &Watched,
        found: &Found,
        counts: Option<(u64, u64)>,
    ) -> Told {
        let id = self.new_id(rule, watched, found.began);
        let mut facts = Facts {
            id: id.clone(),
            rule: rule.name.as_str().into(),
            kind: rule.kind.name().into(),
            severity: Severity::of(rule.severity.as_str()),
            device: Box::default(),
            agent: Box::default(),
            metric: Box::default(),
            group: watched.group.clone(),
            labels: pairs(&rule.labels),
            value: value(watched, found, counts),
            threshold: Some(rule.kind.limit()),
            began: found.began,
            resolved: found.resolved,
            description: rule.description.as_deref().map(Into::into),
            runbook: rule.runbook.as_deref().map(Into::into),
            reported: self.now,
            summary: Box::default(),
        };
        facts.summary = sentence(rule, &facts, counts).into();
        let raised = found.resolved.is_none();
        if raised {
            self.raise(super::super::GROUPS_PARTITION, facts.clone(), self.now);
        }
        let shown = Shown {
            facts,
            notified: raised,
            reason: None,
            evidence: watched.evidence(found),
        };
        self.show_group(shown);
        Told {
            id,
            began: found.began,
            resolved: found.resolved,
            raised,
            revised: 0,
        }
    }

    /// An episode is known better, goes on, or is over.
    fn update(
        &mut self,
        rule: &Rule,
        watched: &Watched,
        mut told: Told,
        found: &Found,
        counts: Option<(u64, u64)>,
    ) -> Told {
        // Of ended ones the oldest are forgotten.
        let Some(old) = self.groups.shown.get(&told.id).cloned() else {
            return told;
        };
        let mut shown = old.clone();
        let facts = &mut shown.facts;
        (facts.began, facts.resolved) = (found.began, found.resolved);
        facts.value = value(watched, found, counts).or(facts.value);
        facts.summary = sentence(rule, facts, counts).into();
        shown.evidence = watched.evidence(found);
        shown.notified |= found.resolved.is_none();
        if shown == old {
            return told;
        }
        let facts = shown.facts.clone();
        match (told.raised, told.resolved, found.resolved) {
            (true, None, Some(_)) => self.clear(facts, self.now),
            (true, None, None) if told.began != found.began => {
                told.revised += 1;
                self.revise(facts, told.revised, self.now);
            }
            // Nobody was told that it began, and it goes on.
            (false, _, None) => {
                self.raise(super::super::GROUPS_PARTITION, facts, self.now);
                told.raised = true;
            }
            _ => {}
        }
        (told.began, told.resolved) = (found.began, found.resolved);
        self.show_group(shown);
        told
    }

    /// There is no such episode. What people were told ends, what was only recorded is no more.
    fn take_back(&mut self, told: &Told, why: &str) {
        let Some(mut shown) = self.groups.shown.get(&told.id).cloned() else {
            return;
        };
        if !told.raised {
            self.groups.forget(&shown.facts.id, shown.facts.reported);
            self.touched.shown.insert(told.id.clone());
            self.touched.dropped.push(Alert {
                state: "dropped",
                ..shown.model()
            });
            return;
        }
        shown.reason = Some(why.into());
        if told.resolved.is_none() {
            let resolved = self.now.max(shown.facts.began);
            shown.facts.resolved = Some(resolved);
            let name = &shown.facts.rule;
            let place = Group::Attributes(shown.facts.group.clone()).place();
            let (began, over) = (Time(shown.facts.began), Time(resolved));
            shown.facts.summary =
                format!("{name}, {place}: {why}; began {began}, over since {over}").into();
            self.clear(shown.facts.clone(), self.now);
        }
        self.show_group(shown);
    }

    /// Ends everything of a rule in a group.
    pub(super) fn end_watch(&mut self, place: &Place, why: &str) {
        let Some(watched) = self.groups.watched.remove(place) else {
            return;
        };
        for told in watched.told.iter().filter(|t| t.resolved.is_none()) {
            self.take_back(told, why);
        }
        if watched.saved {
            self.touched.groups.insert(place.clone());
        }
    }

    fn show_group(&mut self, shown: Shown) {
        let (id, reported) = (shown.facts.id.clone(), shown.facts.reported);
        let over = shown.facts.resolved.is_some();
        self.groups.shown.insert(id.clone(), shown);
        self.touched.shown.insert(id.clone());
        match over {
            true => self.groups.over.insert((reported, id)),
            false => self.groups.over.remove(&(reported, id)),
        };
        while self.groups.over.len() > OVER_KEPT
            && let Some((_, old)) = self.groups.over.pop_first()
        {
            self.groups.shown.remove(&old);
            self.touched.shown.insert(old);
        }
    }
}

impl super::Groups {
    fn forget(&mut self, id: &str, reported: i64) {
        self.shown.remove(id);
        self.over.remove(&(reported, id.into()));
    }
}

fn value(watched: &Watched, found: &Found, counts: Option<(u64, u64)>) -> Option<f64> {
    match counts {
        Some((_, 0)) => None,
        Some((firing, expected)) => Some((firing as f64 / expected as f64).min(1.0)),
        None => watched.value(found),
    }
}
