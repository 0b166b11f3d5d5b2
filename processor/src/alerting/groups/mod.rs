//! Rules on groups of devices: on windows (kind `window`) and on shares (kind `share`).
//!
//! They need the results of all partitions, so it is not the partitions that step them. Whoever runs alerting
//! says from time to time what the rules are, which groups there are, and what their windows look like; alerts
//! follow and go the way of all others, into pages.
//!
//! - `ring`: the windows that are remembered and the episodes that follow from them.
//! - `tell`: what becomes of episodes: alerts that are raised, revised, cleared, recorded, taken back.
//! - `check`: whether a rule fits what else is declared.

mod check;
mod ring;
mod tell;

use std::collections::{BTreeMap, BTreeSet};

use rules::{Kind, Rule};

use super::Alerting;
use super::facts::{Pairs, pairs};
use ring::{Found, Watched};
use tell::Shown;

pub use check::check;
pub(crate) use check::counting;
pub(crate) use ring::Watched as WatchedRow;
pub use ring::{Judged, RING};
pub(crate) use tell::Shown as ShownRow;

/// A rule in a group.
pub(crate) type Place = (Box<str>, Pairs);

/// Texts of a group's attributes, by name.
pub type GroupTexts = BTreeMap<String, String>;

/// See the module.
#[derive(Default)]
pub(crate) struct Groups {
    /// By name, with a hash of the text.
    rules: BTreeMap<Box<str>, (u64, Rule)>,
    pub(crate) watched: BTreeMap<Place, Watched>,
    /// Alerts by id: all open ones, of ended ones the newest.
    pub(crate) shown: BTreeMap<Box<str>, Shown>,
    /// Ended ones by the time at which they were learned.
    over: BTreeSet<(i64, Box<str>)>,
}

impl Groups {
    pub(crate) fn restore_watched(&mut self, mut watched: Watched) {
        watched.saved = true;
        let place = (watched.name.clone(), watched.group.clone());
        self.watched.insert(place, watched);
    }

    pub(crate) fn restore_shown(&mut self, id: Box<str>, shown: Shown) {
        if shown.facts.resolved.is_some() {
            self.over.insert((shown.facts.reported, id.clone()));
        }
        self.shown.insert(id, shown);
    }
}

fn hash(rule: &Rule) -> u64 {
    xxhash_rust::xxh3::xxh3_64(rule.to_json().as_bytes())
}

impl Alerting {
    /// Says what rules on groups there are; others are left aside. What belongs to one that is gone, or is not
    /// what it was, ends.
    pub fn set_group_rules(&mut self, rules: &[Rule], now: i64) {
        self.at(now);
        let rules = rules.iter().filter(|r| r.kind.is_of_groups());
        self.groups.rules = rules
            .map(|r| (r.name.as_str().into(), (hash(r), r.clone())))
            .collect();
        let known = &self.groups.rules;
        let gone = self.groups.watched.iter().filter(|((name, _), watched)| {
            let rule = known.get(name);
            rule.is_none_or(|(hash, _)| *hash != watched.rule)
        });
        let gone: Vec<Place> = gone.map(|(place, _)| place.clone()).collect();
        for place in gone {
            self.end_watch(&place, "the rule was removed or changed");
        }
    }

    /// Says which groups a rule has. What belongs to others ends.
    pub fn set_groups(&mut self, rule: &str, groups: &BTreeSet<GroupTexts>, now: i64) {
        self.at(now);
        let from = (Box::from(rule), Pairs::new());
        let mut gone = Vec::new();
        for place in self.groups.watched.range(from..).map(|w| w.0) {
            if *place.0 != *rule {
                break;
            }
            let texts = place.1.iter();
            let texts: GroupTexts = texts.map(|(k, v)| (k.to_string(), v.to_string())).collect();
            if !groups.contains(&texts) {
                gone.push(place.clone());
            }
        }
        for place in gone {
            self.end_watch(&place, "the group is not known any more");
        }
    }

    /// Takes windows of a group as they are now: at most [`RING`] at once, in any order. What was taken before
    /// changes nothing.
    pub fn judge(&mut self, rule: &str, group: &GroupTexts, judged: &[Judged], now: i64) {
        self.at(now);
        let Some((hash, declared)) = self.groups.rules.get(rule) else {
            return;
        };
        let Kind::Window(window) = declared.kind else {
            return;
        };
        let place = (Box::from(rule), pairs(group));
        let (hash, declared) = (*hash, declared.clone());
        let watched = self.groups.watched.entry(place.clone());
        let watched = watched.or_insert_with(|| Watched::new(rule, place.1.clone(), hash));
        if let Some(found) = watched.take(&window.threshold, judged) {
            self.tell(&place, &declared, &found, None);
        }
    }

    /// Takes how many devices the groups of a rule have, and looks on how many of them the rule fires that this
    /// one is about.
    pub fn share(&mut self, rule: &str, groups: &[(GroupTexts, u64)], now: i64) {
        self.at(now);
        let Some((hash, declared)) = self.groups.rules.get(rule) else {
            return;
        };
        let Kind::Share(share) = declared.kind else {
            return;
        };
        let (hash, declared) = (*hash, declared.clone());
        let firing = self.firing_by_group(&declared);
        for (group, expected) in groups {
            let place = (Box::from(rule), pairs(group));
            let began = firing.get(&place.1).map_or(&[][..], |b| b);
            let enough = *expected >= u64::from(share.at_least);
            let value = enough.then(|| (began.len() as f64 / *expected as f64).min(1.0));
            let beyond = value.is_some_and(|v| share.threshold.is_beyond(v));
            if !beyond && !self.groups.watched.contains_key(&place) {
                continue;
            }
            // It is beyond the limit since one more than the limit allows had begun.
            let allowed = (share.threshold.raise * *expected as f64) as usize;
            let since = began.get(allowed).or(began.last());
            let since = since.map_or(self.now, |t| (*t).min(self.now));
            let now = self.now;
            let watched = self.groups.watched.entry(place.clone());
            let watched = watched.or_insert_with(|| Watched::new(rule, place.1.clone(), hash));
            let found = watched.take_share(&share.threshold, value, since, now);
            let counts = (began.len() as u64, *expected);
            self.tell(&place, &declared, &found, Some(counts));
        }
    }

    /// When the alerts of the rule that a share is about began, ascending, one for each device, by group.
    fn firing_by_group(&self, rule: &Rule) -> BTreeMap<Pairs, Vec<i64>> {
        let mut names = rule.group_by.clone();
        names.sort_unstable();
        let mut devices: BTreeMap<Pairs, BTreeMap<&str, i64>> = BTreeMap::new();
        let open = self.episodes.values().filter_map(|e| e.open.as_deref());
        for facts in open.map(|o| &o.facts).filter(|f| *f.rule == *rule.of) {
            let text = |name: &String| facts.attribute(name).unwrap_or_default();
            let group: Pairs = names
                .iter()
                .map(|n| (n.as_str().into(), text(n).into()))
                .collect();
            let began = devices.entry(group).or_default();
            let began = began.entry(&facts.device).or_insert(facts.began);
            *began = (*began).min(facts.began);
        }
        let sorted = |devices: BTreeMap<&str, i64>| {
            let mut began: Vec<i64> = devices.into_values().collect();
            began.sort_unstable();
            began
        };
        devices.into_iter().map(|(g, d)| (g, sorted(d))).collect()
    }
}
