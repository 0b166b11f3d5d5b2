//! What alerting says, beside the alerts of the partitions, and both joined.

use std::collections::{BTreeMap, HashMap};

use super::{Part, RING, Views, read, write};
use crate::model::{Alert, Notification};
use crate::oncall::{
    Acknowledged, AlertPage, AlertQuery, CommandDecision, Mark, MarkedAlert, OnCallChange, Silence,
};
use crate::part::Page;

/// Changed pages that wait for the live stream.
const PAGES_WAITING_MAX: usize = RING;

/// The partition among whose alerts those on groups are kept.
const OF_GROUPS: u16 = 0;

#[derive(Default)]
pub(super) struct OnCall {
    marks: HashMap<String, Mark>,
    pages: BTreeMap<u64, AlertPage>,
    /// Number of a page by its key.
    keys: HashMap<String, u64>,
    silences: Vec<Silence>,
    commands: BTreeMap<String, CommandDecision>,
}

impl OnCall {
    fn page(&self, key: &str) -> Option<&AlertPage> {
        self.pages.get(self.keys.get(key)?)
    }

    /// Who looks after an alert: itself, or the page that it is in.
    pub(super) fn acknowledged(&self, alert: &str) -> Option<&Acknowledged> {
        let mark = self.marks.get(alert)?;
        let page = || self.page(mark.page.as_deref()?)?.acknowledged.as_ref();
        mark.acknowledged.as_ref().or_else(page)
    }

    pub(super) fn marked(&self, alert: &Alert) -> MarkedAlert {
        let mut mark = self.marks.get(&alert.id).cloned().unwrap_or_default();
        mark.acknowledged = self.acknowledged(&alert.id).cloned();
        MarkedAlert {
            alert: alert.clone(),
            mark,
        }
    }

    fn fits(&self, alert: &Alert, query: &AlertQuery) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|w| w == found);
        let mark = || self.marks.get(&alert.id);
        is(&query.state, alert.state)
            && is(&query.severity, alert.severity)
            && is(&query.rule, &alert.rule)
            && is(&query.device, &alert.device)
            && query
                .attributes
                .iter()
                .all(|(name, text)| alert.group.get(name) == Some(text))
            && query
                .acknowledged
                .is_none_or(|wanted| wanted == self.acknowledged(&alert.id).is_some())
            && query
                .silenced
                .is_none_or(|wanted| wanted == mark().is_some_and(Mark::is_muted))
            && query
                .page
                .as_ref()
                .is_none_or(|key| mark().is_some_and(|m| m.page.as_ref() == Some(key)))
    }
}

fn cut<T>(items: Vec<T>, after: Option<&str>, limit: usize, id: impl Fn(&T) -> &str) -> Page<T> {
    let total = items.len() as u64;
    let found = after.and_then(|after| items.iter().position(|i| id(i) == after));
    let skip = found.map_or(0, |at| at + 1);
    let items = items.into_iter().skip(skip).take(limit).collect();
    Page { items, total }
}

impl Views {
    /// Takes what changed of alerting.
    pub fn put_on_call(&self, change: OnCallChange) {
        let mut pending_alerts = Vec::with_capacity(change.marks.len());
        let mut pending_pages = Vec::new();
        {
            let mut all = write(&self.on_call);
            for (id, mark) in change.marks {
                match mark {
                    Some(mark) => {
                        pending_alerts.push(id.clone());
                        all.marks.insert(id, mark);
                    }
                    None => {
                        all.marks.remove(&id);
                    }
                }
            }
            for (number, page) in change.pages {
                match page {
                    Some(page) => {
                        pending_pages.push(page.key.clone());
                        all.keys.insert(page.key.clone(), number);
                        all.pages.insert(number, page);
                    }
                    None => {
                        if let Some(old) = all.pages.remove(&number) {
                            all.keys.remove(&old.key);
                        }
                    }
                }
            }
            if let Some(silences) = change.silences {
                all.silences = silences;
            }
            for (id, decision) in change.commands {
                match decision {
                    Some(decision) => all.commands.insert(id, decision),
                    None => all.commands.remove(&id),
                };
            }
        }
        for alert in change.alerts {
            self.put_alert(OF_GROUPS, alert);
        }
        let mut pending = self.pending();
        pending.alerts.extend(pending_alerts);
        for key in pending_pages {
            if pending.pages.len() < PAGES_WAITING_MAX {
                pending.pages.insert(key);
            }
        }
        pending.overview = true;
    }

    /// The newest ingest time that was processed, microseconds; none before the first.
    pub fn now(&self) -> Option<i64> {
        self.parts.iter().filter_map(|part| read(part).now).max()
    }

    /// The alerts that match, newest first (by the time at which they were learned).
    pub fn alerts(
        &self,
        query: &AlertQuery,
        after: Option<&str>,
        limit: usize,
    ) -> Page<MarkedAlert> {
        let mut places = Vec::new();
        for (at, part) in self.parts.iter().enumerate() {
            let part = read(part);
            let all = read(&self.on_call);
            let fits = part.alerts.values().filter(|a| all.fits(a, query));
            places.extend(fits.map(|a| (a.reported, a.id.clone(), at)));
        }
        places.sort_by(|a, b| b.cmp(a));
        let page = cut(places, after, limit, |p| &p.1);
        let items = page.items.into_iter().filter_map(|(_, id, at)| {
            let part = read(&self.parts[at]);
            Some(read(&self.on_call).marked(part.alerts.get(&id)?))
        });
        Page {
            items: items.collect(),
            total: page.total,
        }
    }

    /// One alert.
    pub fn alert(&self, id: &str) -> Option<MarkedAlert> {
        self.parts.iter().find_map(|part| {
            let part = read(part);
            Some(read(&self.on_call).marked(part.alerts.get(id)?))
        })
    }

    /// How many alerts there are, by state and severity.
    pub fn alert_counts(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        let mut counts = BTreeMap::new();
        let mut count = |part: &Part| {
            for alert in part.alerts.values() {
                *counts.entry((alert.state, alert.severity)).or_default() += 1;
            }
        };
        self.parts.iter().for_each(|part| count(&read(part)));
        counts
    }

    /// Pages, newest first; only open or only closed ones, if `open` says so.
    pub fn alert_pages(
        &self,
        open: Option<bool>,
        after: Option<&str>,
        limit: usize,
    ) -> Page<AlertPage> {
        let all = read(&self.on_call);
        let fits = |p: &&AlertPage| open.is_none_or(|open| open == p.closed.is_none());
        let pages: Vec<&AlertPage> = all.pages.values().rev().filter(fits).collect();
        let page = cut(pages, after, limit, |p| &p.key);
        Page {
            items: page.items.into_iter().cloned().collect(),
            total: page.total,
        }
    }

    /// One page.
    pub fn alert_page(&self, key: &str) -> Option<AlertPage> {
        read(&self.on_call).page(key).cloned()
    }

    /// All silences and maintenance windows, newest first.
    pub fn silences(&self) -> Vec<Silence> {
        let mut all = read(&self.on_call).silences.clone();
        all.sort_by(|a, b| (b.updated, &b.id).cmp(&(a.updated, &a.id)));
        all
    }

    /// One silence.
    pub fn silence(&self, id: &str) -> Option<Silence> {
        let all = read(&self.on_call);
        all.silences.iter().find(|s| s.id == id).cloned()
    }

    /// Decisions about commands of rules, newest first; only those of one alert, if one is given.
    pub fn command_decisions(
        &self,
        alert: Option<&str>,
        after: Option<&str>,
        limit: usize,
    ) -> Page<CommandDecision> {
        let all = read(&self.on_call);
        let fits = |d: &&CommandDecision| alert.is_none_or(|alert| alert == d.alert);
        let mut found: Vec<&CommandDecision> = all.commands.values().filter(fits).collect();
        found.sort_by(|a, b| (b.at, &b.id).cmp(&(a.at, &a.id)));
        let page = cut(found, after, limit, |d| &d.id);
        Page {
            items: page.items.into_iter().cloned().collect(),
            total: page.total,
        }
    }

    /// What was sent about a page, newest first.
    pub fn notifications_of(&self, page: &str, limit: usize) -> Vec<Notification> {
        let all = read(&self.notifications);
        let of = all.iter().rev().filter(|n| n.page == page);
        of.take(limit).cloned().collect()
    }
}
