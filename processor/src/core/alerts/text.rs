//! Episodes as people read them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rules::Rule;
use views::model::{Alert, Evidence, Time};
use xxhash_rust::xxh3::xxh3_64;

use super::super::partition::Partition;
use super::book::{Active, Ended};
use super::{Alerts, Place};

/// The name of an episode: the same in every replay, and different for every episode.
pub(super) fn identity(
    (rule, metric): (&str, &str),
    subject: &str,
    began: i64,
    ordinal: u32,
) -> u64 {
    let mut identity = format!("{rule}\0{subject}\0{metric}\0{began}");
    if ordinal > 0 {
        identity.push_str(&format!("\0{ordinal}"));
    }
    xxh3_64(identity.as_bytes())
}

/// The kind of alerts that agents found by rules of their own.
const EDGE_KIND: &str = "edge";

/// What an alert says of its rule.
pub(super) struct Facts<'a> {
    pub(super) rule: &'a str,
    pub(super) severity: &'static str,
    pub(super) kind: &'static str,
    /// As of [`rules::Kind::describe`].
    pub(super) condition: Cow<'a, str>,
    pub(super) limit: f64,
    pub(super) metric: &'a str,
    /// As it is now; none if it is gone, or an agent's own.
    pub(super) now: Option<&'a Rule>,
}

impl Alerts {
    /// What is known of a rule.
    pub(super) fn facts(&self, rule: u32) -> Facts<'_> {
        if let Some(edge) = self.edge.rule(rule) {
            return Facts {
                rule: &edge.name,
                severity: edge.severity.as_str(),
                kind: EDGE_KIND,
                condition: "is in fault by a rule of its agent".into(),
                limit: 0.0,
                metric: &edge.metric,
                now: None,
            };
        }
        let rule = &self.rules[rule as usize].rule;
        Facts {
            rule: &rule.name,
            severity: rule.severity.as_str(),
            kind: rule.kind.name(),
            condition: rule.kind.describe().into(),
            limit: rule.kind.limit(),
            metric: &rule.metric,
            now: Some(rule),
        }
    }

    /// Device or agent of a place.
    pub(super) fn subject_name<'p>(&self, place: Place, p: &'p Partition) -> &'p str {
        match self.is_of_agents(place.0) {
            true => p.agents.name(place.1),
            false => p.registry.ids.get(place.1),
        }
    }

    /// The alert of an episode that is under way.
    pub(crate) fn alert_of(&self, place: Place, active: &Active, p: &Partition) -> Alert {
        let facts = self.facts(place.0);
        let subject = (place.1, self.is_of_agents(place.0));
        build(&facts, subject, active, None, p)
    }

    /// The alert of an ended episode.
    pub(crate) fn alert_of_ended(&self, ended: &Ended, p: &Partition) -> Alert {
        let severities = ["info", "warning", "error", "critical"];
        let known = |all: &[&'static str], name: &str| all.iter().copied().find(|n| *n == name);
        let facts = Facts {
            rule: &ended.rule,
            severity: known(&severities, &ended.severity).unwrap_or("warning"),
            kind: known(&rules::KINDS, &ended.kind).unwrap_or(EDGE_KIND),
            condition: ended.condition.as_str().into(),
            limit: ended.limit,
            metric: &ended.metric,
            now: self
                .rules
                .iter()
                .map(|w| &w.rule)
                .find(|r| r.name == ended.rule),
        };
        let subject = (ended.subject, ended.of_agent);
        let end = (ended.ended, ended.why.as_deref());
        build(&facts, subject, &ended.active, Some(end), p)
    }
}

fn build(
    facts: &Facts<'_>,
    (subject, of_agent): (u32, bool),
    active: &Active,
    ended: Option<(i64, Option<&str>)>,
    p: &Partition,
) -> Alert {
    let (device, group) = match of_agent {
        true => p.about_agent(subject),
        false => p.about(subject),
    };
    let open = &active.open;
    let state = match (ended, open.episode.firing) {
        (Some(_), _) => "resolved",
        (None, true) => "firing",
        (None, false) => "pending",
    };
    let what = match of_agent {
        true => format!("agent {device}"),
        false => format!("{} of {device}", facts.metric),
    };
    let began = open.episode.began;
    let mut summary = format!(
        "{what} {} (rule {}); began {}, reported {}",
        facts.condition,
        facts.rule,
        Time(began),
        Time(active.reported)
    );
    let value = match (facts.kind, ended) {
        _ if of_agent || open.evidence.is_empty() => String::new(),
        ("silence", None) => format!("; the last value was {}", open.value),
        (_, None) => format!("; now {}", open.value),
        (_, Some(_)) => format!(" with {}", open.value),
    };
    if let Some((at, why)) = ended {
        summary.push_str(&format!("; over since {}", Time(at)));
        match why {
            Some(why) => summary.push_str(&format!(": {why}")),
            None => summary.push_str(&value),
        }
    } else {
        summary.push_str(&value);
    }
    if let Some(reason) = &open.reason {
        summary.push_str(&format!("; {reason}"));
    }
    let evidence = open.evidence.iter();
    Alert {
        id: format!("{:016x}", active.id),
        rule: facts.rule.to_owned(),
        kind: facts.kind,
        severity: facts.severity,
        state,
        device,
        metric: facts.metric.to_owned(),
        group,
        labels: facts.now.map_or_else(BTreeMap::new, |r| r.labels.clone()),
        runbook: facts.now.and_then(|r| r.runbook.clone()),
        description: facts.now.and_then(|r| r.description.clone()),
        value: open.value,
        threshold: facts.limit,
        began: Time(began),
        reported: Time(active.reported),
        resolved: ended.map(|e| Time(e.0)),
        notified: active.notified,
        reason: ended
            .and_then(|e| e.1.map(str::to_owned))
            .or_else(|| open.reason.clone()),
        evidence: evidence
            .map(|&(time, value)| Evidence {
                time: Time(time),
                value,
            })
            .collect(),
        summary,
    }
}
