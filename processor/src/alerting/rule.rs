//! What alerting needs to know of a rule beside its alerts.

use std::collections::BTreeMap;

use rules::{Rule, RuleCommand};

/// Labels, texts for people, and what a device is told to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RuleFacts {
    pub(crate) kind: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) description: Option<String>,
    pub(crate) runbook: Option<String>,
    pub(crate) command: Option<RuleCommand>,
}

impl RuleFacts {
    /// By the rule's name; none if the text is no rule.
    pub(crate) fn read(json: &str) -> Option<(String, Self)> {
        let rule = Rule::parse(json).ok()?;
        let fields: serde_json::Value = serde_json::from_str(json).ok()?;
        let kind = fields["kind"].as_str().unwrap_or("threshold");
        let facts = Self {
            kind: kind.to_owned(),
            labels: rule.labels,
            description: rule.description,
            runbook: rule.runbook,
            command: rule.command,
        };
        Some((rule.name, facts))
    }
}
