//! Which kinds of rules the processor runs: `threshold` only yet. The agent on the device runs all.

use rules::{KINDS, Rule, RuleError, ThresholdRule};

/// Whether the processor runs rules of this kind, as it is declared; `rule` is the rule's name.
///
/// **Errors**: it does not; the message says which kinds it runs, and who runs the others.
pub fn check_kind(rule: &str, kind: &str) -> Result<(), RuleError> {
    if kind == KINDS[0] {
        return Ok(());
    }
    let short = |text: &str| text.chars().take(64).collect::<String>();
    let others = KINDS[1..].join(" and ");
    Err(RuleError {
        rule: short(rule),
        field: "kind".to_owned(),
        message: format!(
            "{:?}: the server runs rules of the kind \"threshold\" only; {others} are run by the agent: \
             declare them in its configuration on the device, as [[rule]]",
            short(kind)
        ),
    })
}

/// Reads a rule of a record.
pub(super) fn read(json: &str) -> Result<ThresholdRule, RuleError> {
    let rule = Rule::parse(json)?;
    check_kind(&rule.name, rule.kind.name())?;
    rule.threshold().ok_or_else(|| RuleError {
        field: "kind".to_owned(),
        message: "is not run by this server".to_owned(),
        rule: rule.name,
    })
}
