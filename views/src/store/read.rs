//! The read side: parts merged into what the API answers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;

use super::{SECOND, Views, read};
use crate::model::{
    AlertCounts, Device, HeldBackBy, Incident, Ledger, Notification, Overview, Point,
    QuarantineItem, System, Time, TooOldItem, Totals,
};
use crate::part::{DeviceQuery, DeviceSource, LagReport, Page, TooOld};

/// Reading: for the dashboard.
impl Views {
    /// Whether the processor has caught up after the start.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// The fleet at a glance.
    pub fn overview(&self) -> Overview {
        let mut o = Overview {
            now: None,
            devices: Default::default(),
            agents: Default::default(),
            events_per_second: 0.0,
            totals: Totals::default(),
            alerts: AlertCounts::default(),
            complete_to: None,
            held_back_by: None,
            completeness: self.newest_completeness(),
            incidents: 0,
            default_aggregate: read(&self.declared)
                .aggregates
                .first()
                .map(|a| a.1.name.clone()),
        };
        for severity in ["critical", "error", "warning", "info"] {
            o.alerts.firing.insert(severity.to_owned(), 0);
        }
        for part in &self.parts {
            let part = read(part);
            o.now = o.now.max(part.now.map(Time));
            o.totals.add(&part.totals);
            let (d, s) = (&mut o.devices, part.status.devices);
            d.expected += s.expected;
            d.online += s.online;
            d.buffering += s.buffering;
            d.silent += s.silent;
            let (a, s) = (&mut o.agents, part.status.agents);
            a.known += s.known;
            a.online += s.online;
            a.buffering += s.buffering;
            o.incidents += part.incident_total;
            o.events_per_second += rate(&part.counted);
            if let Some(LagReport(lag)) = &part.lag {
                let further: fn(&HeldBackBy) -> (Time, &str) = |h| (h.progress, &h.agent);
                if o.held_back_by
                    .as_ref()
                    .is_none_or(|h| further(lag) < further(h))
                {
                    o.held_back_by = Some(lag.clone());
                }
            }
            let on_call = read(&self.on_call);
            for alert in part.alerts.values().filter(|a| a.state == "firing") {
                *o.alerts
                    .firing
                    .entry(alert.severity.to_owned())
                    .or_default() += 1;
                let unheard = on_call.acknowledged(&alert.id).is_none();
                o.alerts.unacknowledged += u64::from(unheard);
            }
        }
        o.complete_to = o.held_back_by.as_ref().map(|h| h.progress);
        o
    }

    /// The devices that match, ascending by id.
    pub fn devices(&self, query: &DeviceQuery) -> Page<Device> {
        self.merge_pages(query.limit, |_, s| Some(s.devices(query)), |d| d.id.clone())
    }

    pub(super) fn merge_pages<T>(
        &self,
        limit: usize,
        ask: impl Fn(usize, &dyn DeviceSource) -> Option<Page<T>>,
        id: impl Fn(&T) -> String,
    ) -> Page<T> {
        let mut all = Page {
            items: Vec::new(),
            total: 0,
        };
        for (partition, source) in read(&self.sources).iter().enumerate() {
            let Some(page) = ask(partition, source.as_ref()) else {
                continue;
            };
            all.total += page.total;
            all.items.extend(page.items);
        }
        all.items.sort_by_cached_key(id);
        all.items.truncate(limit);
        all
    }

    /// One device.
    pub fn device(&self, id: &str) -> Option<Device> {
        read(&self.sources).iter().find_map(|s| s.device(id))
    }

    /// The partitions that know a device: more than one if it has moved behind another agent.
    pub fn partitions_of(&self, device: &str) -> Vec<u16> {
        let sources = read(&self.sources);
        let known = (0..).zip(sources.iter());
        known
            .filter(|(_, s)| s.device(device).is_some())
            .map(|(number, _)| number)
            .collect()
    }

    /// Recent points of a series, oldest first; none if the device or metric is not known.
    pub fn recent(&self, id: &str, metric: &str) -> Option<Vec<Point>> {
        read(&self.sources)
            .iter()
            .find_map(|s| s.recent(id, metric))
    }

    /// The rules as declared.
    pub fn rules(&self) -> Vec<serde_json::Value> {
        read(&self.declared).rules.clone()
    }

    /// One rule by its name.
    pub fn rule(&self, name: &str) -> Option<serde_json::Value> {
        let declared = read(&self.declared);
        declared.rules.iter().find(|r| r["name"] == name).cloned()
    }

    /// Notifications, newest first.
    pub fn notifications(&self, limit: usize) -> Vec<Notification> {
        read(&self.notifications)
            .iter()
            .rev()
            .take(limit)
            .cloned()
            .collect()
    }

    /// What was refused or quarantined: totals by reason, and the newest entries, newest first.
    pub fn quarantine(&self, limit: usize) -> (BTreeMap<&'static str, u64>, Vec<QuarantineItem>) {
        let mut totals: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut items: Vec<QuarantineItem> = Vec::new();
        for part in &self.parts {
            let part = read(part);
            for (&reason, n) in &part.quarantine_totals {
                *totals.entry(reason).or_default() += n;
            }
            items.extend(part.quarantine.iter().rev().take(limit).cloned());
        }
        items.sort_by_key(|i| std::cmp::Reverse(i.time));
        items.truncate(limit);
        (totals, items)
    }

    /// The bytes of a quarantined record, if it can still be released. May read from disk.
    pub fn quarantined(&self, partition: u16, id: u64) -> Option<Vec<u8>> {
        self.history(usize::from(partition))?.quarantined(id)
    }

    /// Where every event went.
    pub fn ledger(&self) -> Ledger {
        let mut t = Totals::default();
        for part in &self.parts {
            t.add(&read(part).totals);
        }
        let sum = t.counted + t.duplicate + t.quarantined + t.too_old;
        Ledger {
            accepted: t.accepted,
            counted: t.counted,
            duplicate: t.duplicate,
            quarantined: t.quarantined,
            too_old: t.too_old,
            adds_up: sum == t.accepted,
            refused: t.refused,
            broken_promises: t.broken_promises,
        }
    }

    /// What came too late for every retention tier, ascending by (day, device); behind `after`, at most
    /// `limit`. May read from disk.
    pub fn too_old(&self, after: Option<&(i64, String)>, limit: usize) -> Vec<TooOldItem> {
        let mut all: BTreeMap<(i64, String), u64> = BTreeMap::new();
        for partition in 0..self.parts.len() {
            let Some(source) = self.history(partition) else {
                continue;
            };
            for TooOld {
                day,
                device,
                events,
            } in source.too_old(after, limit)
            {
                *all.entry((day, device)).or_default() += events;
            }
        }
        let item = |((day, device), events)| TooOldItem {
            day: Time(day),
            device,
            events,
        };
        all.into_iter().take(limit).map(item).collect()
    }

    /// The machine room.
    pub fn system(&self) -> System {
        let mut incidents: Vec<Incident> = Vec::new();
        let mut partitions = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let part = read(part);
            incidents.extend(part.incidents.iter().cloned());
            partitions.push(part.report.clone());
        }
        incidents.sort_by_key(|i| std::cmp::Reverse(i.time));
        incidents.truncate(100);
        let (log, state) = *read(&self.files);
        System {
            version: self.version.clone(),
            started: Some(Time(self.started)),
            ready: self.ready(),
            partitions,
            log,
            state,
            incidents,
        }
    }
}

fn rate(counted: &VecDeque<(i64, u64)>) -> f64 {
    match (counted.front(), counted.back()) {
        (Some(a), Some(b)) if b.0 > a.0 => {
            b.1.saturating_sub(a.1) as f64 * SECOND as f64 / (b.0 - a.0) as f64
        }
        _ => 0.0,
    }
}
