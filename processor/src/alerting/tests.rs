//! Scenarios on the whole state machine, and random stories over restarts and replays.

use std::collections::BTreeMap;

use event::operate::silence_id;
use event::{CommandControl, Matcher, Operation, SilenceKind, SilenceSpec};
use notify::Kind;
use views::model::{Alert, Time};
use views::oncall::{AlertPage, Mark};

use super::*;
use crate::core::CommandOutcome;

mod group_tests;
mod life_tests;
mod mute_tests;
mod story_tests;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
/// A Sunday, 00:00 UTC.
const T0: i64 = 1_795_910_400 * SECOND;

/// Alerting with a store that its rows go to, and everything it ever gave.
struct Bench {
    alerting: Alerting,
    settings: Settings,
    rules: Vec<String>,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    sent: Vec<Outgoing>,
    marks: BTreeMap<String, Mark>,
    pages: BTreeMap<u64, AlertPage>,
    /// On groups.
    alerts: BTreeMap<String, Alert>,
    orders: Vec<(u16, event::Order)>,
    now: i64,
    operations: u64,
}

fn settings() -> Settings {
    Settings {
        notifiers: vec!["ops".to_owned()],
        ..Settings::default()
    }
}

fn matcher(text: &str) -> Matcher {
    parse_matcher(text).unwrap()
}

fn matchers(texts: &[&str]) -> Matchers {
    let all: Vec<Matcher> = texts.iter().map(|t| matcher(t)).collect();
    Matchers::new(&all).unwrap()
}

/// An alert of a rule on a device of a site; `began` and `reported` are the same.
fn alert(rule: &str, device: &str, site: &str, began: i64) -> Alert {
    let site = (!site.is_empty()).then(|| ("site".to_owned(), site.to_owned()));
    Alert {
        id: format!("{rule}-{device}-{}", (began - T0) / SECOND),
        rule: rule.to_owned(),
        severity: "critical",
        state: "firing",
        device: device.to_owned(),
        metric: "temperature".to_owned(),
        group: site.into_iter().collect(),
        value: 90.0,
        threshold: 80.0,
        began: Time(began),
        reported: Time(began),
        resolved: None,
        notified: true,
        summary: format!("{device} is hot"),
        ..Alert::default()
    }
}

fn raised(alert: &Alert, at: i64) -> Notice {
    Notice {
        id: format!("{}:raised", alert.id),
        kind: NoticeKind::Raised,
        at,
        alert: alert.clone(),
    }
}

fn cleared(alert: &Alert, at: i64) -> Notice {
    Notice {
        id: format!("{}:cleared", alert.id),
        kind: NoticeKind::Cleared,
        at,
        alert: Alert {
            state: "resolved",
            resolved: Some(Time(at)),
            summary: format!("{} is cool again", alert.device),
            ..alert.clone()
        },
    }
}

impl Bench {
    fn new() -> Self {
        Self::with(settings())
    }

    fn with(settings: Settings) -> Self {
        let mut alerting = Alerting::new(settings.clone());
        alerting.tick(T0);
        Self {
            alerting,
            settings,
            rules: Vec::new(),
            rows: BTreeMap::new(),
            sent: Vec::new(),
            marks: BTreeMap::new(),
            pages: BTreeMap::new(),
            alerts: BTreeMap::new(),
            orders: Vec::new(),
            now: T0,
            operations: 0,
        }
    }

    fn rule(&mut self, json: &str) {
        self.rules.push(json.to_owned());
        self.alerting.set_rules(&self.rules);
    }

    /// One transaction.
    fn commit(&mut self) {
        let out = self.alerting.take();
        for (key, value) in out.rows {
            match value {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
        self.sent.extend(out.outgoing);
        for (id, mark) in out.shown.marks {
            match mark {
                Some(mark) => self.marks.insert(id, mark),
                None => self.marks.remove(&id),
            };
        }
        for alert in out.shown.alerts {
            match alert.state {
                "dropped" => self.alerts.remove(&alert.id),
                _ => self.alerts.insert(alert.id.clone(), alert),
            };
        }
        for (id, page) in out.shown.pages {
            match page {
                Some(page) => self.pages.insert(id, page),
                None => self.pages.remove(&id),
            };
        }
    }

    fn notices(&mut self, partition: u16, notices: &[Notice]) {
        for notice in notices {
            self.alerting.notice(partition, notice, None, self.now);
        }
        self.commit();
    }

    fn raise(&mut self, alert: &Alert) {
        self.notices(0, &[raised(alert, self.now)]);
    }

    fn clear(&mut self, alert: &Alert) {
        self.notices(0, &[cleared(alert, self.now)]);
    }

    /// The same rule on the same device, from now on.
    fn raise_now(&mut self, rule: &str, device: &str, site: &str) -> Alert {
        let alert = alert(rule, device, site, self.now);
        self.raise(&alert);
        alert
    }

    /// Time goes on; every timer fires at its time.
    fn wait(&mut self, time: i64) {
        let end = self.now + time;
        while let Some(due) = self.alerting.next_due().filter(|t| *t <= end) {
            self.now = self.now.max(due);
            self.alerting.tick(self.now);
            self.commit();
        }
        self.now = end;
        self.alerting.tick(end);
        self.commit();
    }

    fn operate(&mut self, operation: &Operation) -> Result<u64, String> {
        let offset = self.operations;
        self.operations += 1;
        let operated = Operated {
            offset,
            at: self.now,
            json: operation.to_json(),
        };
        let result = self.alerting.operate(&operated, self.now);
        self.commit();
        result.map(|()| offset)
    }

    fn ack(&mut self, alert: &Alert, by: &str) {
        let operation = Operation::Ack {
            alert: alert.id.clone(),
            by: by.to_owned(),
            comment: String::new(),
        };
        self.operate(&operation).unwrap();
    }

    /// A silence from now on; its id.
    fn silence(&mut self, text: &str, time: i64) -> String {
        let spec = SilenceSpec {
            kind: SilenceKind::Silence,
            matchers: vec![matcher(text)],
            starts: self.now,
            ends: self.now + time,
            by: "ann".to_owned(),
            comment: "known".to_owned(),
        };
        let operation = Operation::Silence { id: None, spec };
        silence_id(self.operate(&operation).unwrap())
    }

    /// What was sent since the last call: `target kind summary`.
    fn news(&mut self) -> Vec<String> {
        let shown = |o: Outgoing| {
            let m = o.message;
            format!("{} {} {}", o.target, m.kind.as_str(), m.summary)
        };
        std::mem::take(&mut self.sent)
            .into_iter()
            .map(shown)
            .collect()
    }

    /// Kinds of what was sent since the last call.
    fn kinds(&mut self) -> Vec<&'static str> {
        let kind = |o: Outgoing| o.message.kind.as_str();
        std::mem::take(&mut self.sent)
            .into_iter()
            .map(kind)
            .collect()
    }

    /// Ends the process and goes on from what was saved.
    fn restart(&mut self) {
        let rows = self.rows.iter().map(|(k, v)| (k.as_slice(), v.as_slice()));
        self.alerting = Alerting::restore(self.settings.clone(), rows).unwrap();
        self.alerting.set_rules(&self.rules);
        let shown = self.alerting.show();
        let marks = shown.marks.into_iter().map(|(id, m)| (id, m.unwrap()));
        assert_eq!(marks.collect::<BTreeMap<_, _>>(), self.marks);
        let pages = shown.pages.into_iter().map(|(id, p)| (id, p.unwrap()));
        assert_eq!(pages.collect::<BTreeMap<_, _>>(), self.pages);
    }
}
