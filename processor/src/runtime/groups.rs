//! Looks at the views for rules on groups: which groups there are, and what their windows are like now.

use std::collections::{BTreeMap, BTreeSet};

use rules::{Field, Kind, Rule, When, Window};
use serde_json::Value;
use views::model::Row;
use views::store::Look;
use views::{Counts, Group, Views};

use crate::alerting::{Alerting, GroupTexts, Judged, RING, check_rule, counting};

/// Groups of a rule that are looked at, in the order of their texts: the others are left alone.
const GROUPS_MAX: usize = 5_000;
/// Groups looked at in one look, over all rules; with more they take turns.
const GROUPS_AT_ONCE: usize = 500;
/// Looks into the past for one rule in one look.
const LOOKUPS_MAX: usize = 100;
/// An open window counts so long after its end: what its devices have is on its way.
const OPEN_AFTER: i64 = views::store::SETTLE_AFTER;

/// What one look found. To be applied in the order of the fields.
#[derive(Default)]
pub(super) struct Findings {
    rules: Option<Vec<Rule>>,
    groups: Vec<(String, BTreeSet<GroupTexts>)>,
    windows: Vec<(String, GroupTexts, Vec<Judged>)>,
    shares: Vec<(String, Vec<(GroupTexts, u64)>)>,
}

impl Findings {
    pub(super) fn apply(&self, alerting: &mut Alerting, now: i64) {
        if let Some(rules) = &self.rules {
            alerting.set_group_rules(rules, now);
        }
        for (rule, groups) in &self.groups {
            alerting.set_groups(rule, groups, now);
        }
        for (rule, group, judged) in &self.windows {
            alerting.judge(rule, group, judged, now);
        }
        for (rule, groups) in &self.shares {
            alerting.share(rule, groups, now);
        }
    }
}

/// Start of a window → the revision with which it was last judged.
type Seen = BTreeMap<i64, u64>;

/// What is remembered from look to look.
#[derive(Default)]
pub(super) struct Watcher {
    declared: Option<Vec<Value>>,
    rules: Vec<Rule>,
    /// By rule and group: windows that need not be put together again as long as they are as they were.
    seen: BTreeMap<(String, Group), Seen>,
    /// Where the next look goes on.
    turn: usize,
    /// What was said of rules that cannot be run.
    said: BTreeSet<String>,
}

fn texts(names: &[String], group: &Group) -> GroupTexts {
    let texts = group.iter().map(|v| v.to_string());
    names.iter().cloned().zip(texts).collect()
}

fn matches(rule: &Rule, texts: &GroupTexts) -> bool {
    let has = |(name, text): (&String, &String)| texts.get(name) == Some(text);
    rule.only_on.iter().all(has)
}

/// The number that a rule compares, of what the devices alone say.
fn of_devices(field: Field, counts: &Counts) -> Option<f64> {
    Some(match field {
        Field::Completeness => return counts.completeness(),
        Field::Outstanding => counts.outstanding as f64,
        Field::Lossy => counts.lossy as f64,
        _ => counts.expected as f64,
    })
}

/// The same of what happened in the window; none if it has none.
fn of_row(field: Field, row: &Row) -> Option<f64> {
    match field {
        Field::Count => Some(row.count as f64),
        Field::Sum => row.sum,
        Field::Mean => row.mean,
        Field::Min => row.min,
        Field::Max => row.max,
        Field::DistinctDevices => row.distinct_devices.map(|n| n as f64),
        Field::DistinctValues => row.distinct_values.map(|n| n as f64),
        Field::P50 => row.p50,
        Field::P90 => row.p90,
        Field::P95 => row.p95,
        Field::P99 => row.p99,
        Field::Completeness => row.completeness,
        Field::Outstanding => Some(row.outstanding as f64),
        Field::Expected => Some(row.expected as f64),
        Field::Lossy => Some(row.lossy as f64),
    }
}

impl Watcher {
    /// Looks at everything that may have changed. May read from disk.
    pub(super) fn look(&mut self, views: &Views) -> Findings {
        let mut findings = Findings::default();
        let declared = views.rules();
        if self.declared.as_ref() != Some(&declared) {
            let rules = declared.iter().filter_map(|r| Rule::from_value(r).ok());
            self.rules = rules.collect();
            findings.rules = Some(self.rules.clone());
            self.declared = Some(declared);
            self.seen.clear();
        }
        let Some(now) = views.now() else {
            return findings;
        };
        if !self.rules.iter().any(|r| r.kind.is_of_groups()) {
            return findings;
        }
        let specs = views.specs();
        let mut work: Vec<(usize, Group)> = Vec::new();
        for (at, rule) in self.rules.iter().enumerate() {
            let wrong = check_rule(rule, &self.rules, &specs).err();
            if let Some(error) = &wrong
                && self.said.insert(error.to_string())
            {
                tracing::error!("a rule is not run: {error}");
            }
            let aggregate = match rule.kind {
                Kind::Window(_) => specs.iter().find(|s| s.name == rule.aggregate),
                Kind::Share(_) => counting(&rule.group_by, &specs),
                _ => continue,
            };
            let aggregate = aggregate.filter(|_| wrong.is_none());
            let look = aggregate.and_then(|a| views.look(&a.name, 0));
            let groups = look.as_ref().map(|l| l.groups()).unwrap_or_default();
            let names = look.as_ref().map(|l| l.spec().group_by.clone());
            let names = names.unwrap_or_default();
            let mut mine: Vec<(GroupTexts, Group)> = groups
                .into_iter()
                .map(|g| (texts(&names, &g), g))
                .filter(|(texts, _)| matches(rule, texts))
                .collect();
            if mine.len() > GROUPS_MAX && self.said.insert(rule.name.clone()) {
                tracing::warn!(
                    rule = rule.name,
                    "has {} groups; only the first {GROUPS_MAX} are looked at",
                    mine.len()
                );
            }
            mine.truncate(GROUPS_MAX);
            let known = mine.iter().map(|g| g.0.clone()).collect();
            findings.groups.push((rule.name.clone(), known));
            match (rule.kind, look) {
                (Kind::Share(_), Some(look)) => {
                    let (window, hop) = (look.spec().window, look.spec().hop);
                    let newest = (now - window).div_euclid(hop) * hop;
                    let counted = mine.into_iter().map(|(texts, group)| {
                        let (counts, _) = look.standing(&group, newest);
                        (texts, counts.expected)
                    });
                    findings.shares.push((rule.name.clone(), counted.collect()));
                }
                _ => work.extend(mine.into_iter().map(|(_, group)| (at, group))),
            }
        }
        self.windows(views, now, work, &mut findings);
        findings
    }

    /// Judges the windows of some groups; the next look goes on behind them.
    fn windows(
        &mut self,
        views: &Views,
        now: i64,
        mut work: Vec<(usize, Group)>,
        findings: &mut Findings,
    ) {
        if work.len() > GROUPS_AT_ONCE {
            let from = self.turn % work.len();
            work.rotate_left(from);
            work.truncate(GROUPS_AT_ONCE);
            self.turn = from + GROUPS_AT_ONCE;
        }
        // Of one rule together, so that each aggregate is looked up once.
        work.sort_by_key(|w| w.0);
        for some in work.chunk_by(|a, b| a.0 == b.0) {
            let Some(rule) = some.first().and_then(|w| self.rules.get(w.0)) else {
                continue;
            };
            let (Kind::Window(window), Some(mut look)) =
                (rule.kind, views.look(&rule.aggregate, LOOKUPS_MAX))
            else {
                continue;
            };
            for (_, group) in some {
                let key = (rule.name.clone(), group.clone());
                let seen = self.seen.entry(key).or_default();
                let judged = judge(&window, &mut look, group, now, seen);
                if !judged.is_empty() {
                    let texts = texts(&look.spec().group_by, group);
                    findings.windows.push((rule.name.clone(), texts, judged));
                }
            }
        }
    }
}

/// The newest windows of a group, as far as they count and may have changed.
fn judge(
    window: &Window,
    look: &mut Look<'_>,
    group: &Group,
    now: i64,
    seen: &mut Seen,
) -> Vec<Judged> {
    let (length, hop) = (look.spec().window, look.spec().hop);
    let delay = match window.when {
        When::Open => OPEN_AFTER,
        When::Settled => 0,
    };
    let newest = (now - delay - length).div_euclid(hop) * hop;
    let oldest = newest - (RING as i64 - 1) * hop;
    *seen = seen.split_off(&oldest);
    let mut judged = Vec::new();
    for start in (0..RING as i64).map(|n| oldest + n * hop) {
        let mut add = |revision: u64, value: Option<f64>| {
            judged.push(Judged {
                start,
                end: start + length,
                revision,
                value,
            });
        };
        let (counts, open) = look.standing(group, start);
        if open && window.when == When::Settled {
            continue;
        }
        if window.field.is_of_devices() {
            add(
                0,
                of_devices(window.field, &counts).filter(|_| counts.expected > 0),
            );
            continue;
        }
        let known = look.known(group, start);
        if seen.get(&start) == Some(&known.revision) || (!known.whole && known.revision == 0) {
            continue;
        }
        let Some(row) = look.whole(group, start) else {
            continue;
        };
        if counts.expected == 0 && row.count == 0 {
            add(row.revision, None);
            continue;
        }
        seen.insert(start, known.revision);
        if let Some(value) = of_row(window.field, &row) {
            add(row.revision, Some(value));
        }
    }
    judged
}
