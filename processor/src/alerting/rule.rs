//! What alerting needs to know of rules beside their alerts: what a device is told to do.

use rules::{Rule, RuleCommand};

/// Name and command of a rule; none if the text is no rule, or the rule commands nothing.
pub(crate) fn command(json: &str) -> Option<(String, RuleCommand)> {
    let rule = Rule::parse(json).ok()?;
    Some((rule.name, rule.command?))
}
