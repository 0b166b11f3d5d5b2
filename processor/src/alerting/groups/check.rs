//! Whether rules on groups fit what else is declared.

use event::aggregate::METRIC_ATTRIBUTE;
use event::{AggregateSpec, Function};
use rules::{Field, Kind, Rule, RuleError};

use super::RING;

/// Longest `for` of a rule on windows, in starts of windows: what is older than the ring is forgotten.
const HOPS_MAX: i64 = RING as i64 - 16;

/// The function that an aggregate must have; none of what every window has.
fn function(field: Field) -> Option<Function> {
    Some(match field {
        Field::Count => Function::Count,
        Field::Sum => Function::Sum,
        Field::Mean => Function::Mean,
        Field::Min => Function::Min,
        Field::Max => Function::Max,
        Field::DistinctDevices => Function::DistinctDevices,
        Field::DistinctValues => Function::DistinctValues,
        Field::P50 => Function::P50,
        Field::P90 => Function::P90,
        Field::P95 => Function::P95,
        Field::P99 => Function::P99,
        Field::Completeness | Field::Outstanding | Field::Expected | Field::Lossy => return None,
    })
}

/// The aggregate that knows the devices of the groups: of all metrics, if there is one.
pub(crate) fn counting<'a>(
    group_by: &[String],
    aggregates: &'a [AggregateSpec],
) -> Option<&'a AggregateSpec> {
    let fits = |a: &&AggregateSpec| {
        a.group_by.len() == group_by.len() && group_by.iter().all(|by| a.group_by.contains(by))
    };
    let fitting = || aggregates.iter().filter(fits);
    let of_all = fitting().find(|a| a.metric == event::aggregate::ALL_METRICS);
    of_all.or_else(|| fitting().next())
}

/// Whether a rule can be run beside the declared rules and aggregates. Rules of other kinds always can.
///
/// **Errors**: the field that names something that is not there or does not fit, and what would.
pub fn check(rule: &Rule, rules: &[Rule], aggregates: &[AggregateSpec]) -> Result<(), RuleError> {
    let wrong = |field: &str, message: String| {
        Err(RuleError {
            rule: rule.name.clone(),
            field: field.to_owned(),
            message,
        })
    };
    match rule.kind {
        Kind::Window(window) => {
            let Some(spec) = aggregates.iter().find(|a| a.name == rule.aggregate) else {
                let names: Vec<&str> = aggregates.iter().map(|a| a.name.as_str()).collect();
                let (name, names) = (&rule.aggregate, names.join(", "));
                let message = format!("no aggregate {name:?} is declared; there are {names}");
                return wrong("aggregate", message);
            };
            if function(window.field).is_some_and(|f| !spec.functions.contains(&f)) {
                let field = window.field.as_str();
                let message = format!(
                    "aggregate {:?} has no {field:?}; add it to its functions",
                    spec.name
                );
                return wrong("field", message);
            }
            if window.threshold.hold > HOPS_MAX.saturating_mul(spec.hop) {
                let message = format!(
                    "must be at most {HOPS_MAX} windows of {:?}; use an aggregate with longer ones",
                    spec.name
                );
                return wrong("for", message);
            }
            if let Some(key) = rule.only_on.keys().find(|k| !spec.group_by.contains(k)) {
                let by = spec.group_by.join(", ");
                let message = format!("aggregate {:?} is grouped by [{by}]", spec.name);
                return wrong(&format!("match.{key}"), message);
            }
            Ok(())
        }
        Kind::Share(_) => {
            if rule.group_by.iter().any(|by| by == METRIC_ATTRIBUTE) {
                let message = "\"metric\" is not an attribute of devices; leave it out";
                return wrong("group_by", message.to_owned());
            }
            let Some(of) = rules.iter().find(|r| r.name == rule.of) else {
                let message = format!("no rule {:?} is declared; declare it first", rule.of);
                return wrong("of", message);
            };
            if of.kind.is_of_groups() || matches!(of.kind, Kind::Offline(_)) {
                let message = format!(
                    "rule {:?} is of the kind {:?}; name one that watches devices",
                    of.name,
                    of.kind.name()
                );
                return wrong("of", message);
            }
            if counting(&rule.group_by, aggregates).is_none() {
                let by = rule.group_by.join(", ");
                let message = format!(
                    "no aggregate is grouped by [{by}]; declare one, it knows how many devices a group has"
                );
                return wrong("group_by", message);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
