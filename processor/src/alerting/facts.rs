//! What alerting knows of one alert.

use std::borrow::Cow;
use std::collections::BTreeMap;

use notify::Entry;
use serde::{Deserialize, Serialize};
use views::model::Alert;

use views::matcher::Labels;

/// Names with texts, in order of the names.
pub(crate) type Pairs = Vec<(Box<str>, Box<str>)>;

/// How bad it is; the greater, the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Severity {
    Info,
    Warning,
    Error,
    Critical,
}

impl Severity {
    pub(crate) fn of(name: &str) -> Self {
        match name {
            "info" => Self::Info,
            "error" => Self::Error,
            "critical" => Self::Critical,
            _ => Self::Warning,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}

/// One alert as its newest notice told it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) id: Box<str>,
    pub(crate) rule: Box<str>,
    /// Kind of the rule.
    pub(crate) kind: Box<str>,
    pub(crate) severity: Severity,
    pub(crate) device: Box<str>,
    /// The device's agent; empty for a plain device.
    pub(crate) agent: Box<str>,
    pub(crate) metric: Box<str>,
    /// Attributes of the device.
    pub(crate) group: Pairs,
    /// Labels of the rule.
    pub(crate) labels: Pairs,
    pub(crate) value: Option<f64>,
    pub(crate) threshold: Option<f64>,
    /// Event times.
    pub(crate) began: i64,
    pub(crate) resolved: Option<i64>,
    /// What the rule says for people.
    pub(crate) description: Option<Box<str>>,
    pub(crate) runbook: Option<Box<str>>,
    /// Ingest time.
    pub(crate) reported: i64,
    pub(crate) summary: Box<str>,
}

pub(crate) fn pairs(map: &BTreeMap<String, String>) -> Pairs {
    map.iter()
        .map(|(k, v)| (k.as_str().into(), v.as_str().into()))
        .collect()
}

fn find<'a>(pairs: &'a Pairs, name: &str) -> Option<&'a str> {
    pairs.iter().find(|p| *p.0 == *name).map(|p| &*p.1)
}

impl Facts {
    pub(crate) fn new(alert: &Alert, agent: Option<&str>) -> Self {
        let finite = |value: f64| Some(value).filter(|v| v.is_finite());
        // An agent that is offline is itself what the alert is on.
        let own = (alert.kind == "offline").then_some(alert.device.as_str());
        Self {
            id: alert.id.as_str().into(),
            rule: alert.rule.as_str().into(),
            kind: alert.kind.into(),
            severity: Severity::of(alert.severity),
            device: alert.device.as_str().into(),
            agent: agent.or(own).unwrap_or_default().into(),
            metric: alert.metric.as_str().into(),
            group: pairs(&alert.group),
            labels: pairs(&alert.labels),
            description: alert.description.as_deref().map(Into::into),
            runbook: alert.runbook.as_deref().map(Into::into),
            value: finite(alert.value),
            threshold: finite(alert.threshold),
            began: alert.began.0,
            resolved: alert.resolved.map(|t| t.0),
            reported: alert.reported.0,
            summary: alert.summary.as_str().into(),
        }
    }

    /// What a later notice of the same alert says, which does not know the agent.
    pub(crate) fn told_by(&self, later: Self) -> Self {
        Self {
            agent: self.agent.clone(),
            ..later
        }
    }

    /// The text of an attribute of the device.
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        find(&self.group, name).filter(|text| !text.is_empty())
    }

    /// All labels, each name once.
    pub(crate) fn all_labels(&self) -> BTreeMap<Box<str>, Box<str>> {
        let own = [
            ("alertname", &self.rule),
            ("kind", &self.kind),
            ("device", &self.device),
            ("agent", &self.agent),
            ("metric", &self.metric),
        ];
        // What comes later goes over what comes before.
        let given = self.group.iter().chain(&self.labels).cloned();
        let own = own
            .into_iter()
            .map(|(name, text)| (name.into(), text.clone()));
        let severity = ("severity".into(), self.severity.as_str().into());
        given
            .chain(own)
            .chain([severity])
            .filter(|(_, text)| !text.is_empty())
            .collect()
    }

    /// Whether it is on a group of devices, not on one of them.
    pub(crate) fn is_of_group(&self) -> bool {
        self.device.is_empty()
    }

    /// The subject of its episodes: the same for all of one rule on one device, or in one group.
    pub(crate) fn subject(&self) -> u64 {
        let mut text = format!("{}\0{}", self.rule, self.device);
        if self.is_of_group() {
            for (name, value) in &self.group {
                text.push_str(&format!("\0{name}\0{value}"));
            }
        }
        xxhash_rust::xxh3::xxh3_64(text.as_bytes())
    }

    pub(crate) fn entry(&self) -> Entry {
        let group = self.group.iter();
        Entry {
            id: self.id.to_string(),
            rule: self.rule.to_string(),
            severity: self.severity.as_str().to_owned(),
            state: if self.resolved.is_some() {
                "resolved"
            } else {
                "firing"
            }
            .to_owned(),
            device: self.device.to_string(),
            metric: self.metric.to_string(),
            group: group.map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            value: self.value,
            threshold: self.threshold,
            began: self.began,
            reported: self.reported,
            resolved: self.resolved,
            summary: self.summary.to_string(),
        }
    }
}

impl Labels for Facts {
    fn label(&self, name: &str) -> Cow<'_, str> {
        let text = match name {
            "alertname" | "rule" => &self.rule,
            "kind" => &self.kind,
            "severity" => self.severity.as_str(),
            "device" => &self.device,
            "agent" => &self.agent,
            "metric" => &self.metric,
            name => find(&self.labels, name)
                .or_else(|| find(&self.group, name))
                .unwrap_or_default(),
        };
        Cow::Borrowed(text)
    }
}
