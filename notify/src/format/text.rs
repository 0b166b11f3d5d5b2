//! Wording that the formats share.

use std::fmt::Write as _;

use crate::{Kind, Message};

/// At most `max` characters; a longer text ends with `…`.
pub(super) fn cut(text: &str, max: usize) -> String {
    if text.chars().nth(max).is_none() {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(max.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// What is the case with the page, such as `FIRING:3`.
pub(super) fn status(message: &Message) -> String {
    match message.kind {
        Kind::Raised | Kind::Updated => format!("FIRING:{}", message.firing.max(1)),
        Kind::Acknowledged => "ACKNOWLEDGED".to_owned(),
        Kind::Cleared => "RESOLVED".to_owned(),
        Kind::Test => "TEST".to_owned(),
    }
}

/// The alerts, a line each, and how many there are besides; empty for a page whose summary says it all.
pub(super) fn details(message: &Message) -> String {
    let mut text = message.description.clone().unwrap_or_default();
    if message.alerts.len() < 2 {
        return text;
    }
    if !text.is_empty() {
        text.push('\n');
    }
    for alert in &message.alerts {
        let ended = if alert.resolved.is_some() {
            " (ended)"
        } else {
            ""
        };
        // To a String this cannot fail.
        let _ = writeln!(text, "• {}: {}{ended}", alert.device, alert.summary);
    }
    match message.unlisted() {
        0 => {}
        1 => text.push_str("and one more"),
        more => {
            let _ = write!(text, "and {more} more");
        }
    }
    text.trim_end().to_owned()
}

/// One of the four severities that all formats know; a page of an unknown one is not to be missed.
pub(super) fn severity(message: &Message) -> &str {
    match message.severity.as_str() {
        known @ ("info" | "warning" | "error" | "critical") => known,
        _ => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Entry;

    #[test]
    fn texts_are_cut_by_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
        assert_eq!(cut("", 0), "");
    }

    #[test]
    fn details_list_alerts_and_count_the_rest() {
        let entry = |device: &str, resolved| Entry {
            device: device.to_owned(),
            summary: "too hot".to_owned(),
            resolved,
            ..Entry::default()
        };
        let mut message = Message {
            alerts: vec![entry("a", None)],
            total: 1,
            ..Message::default()
        };
        assert_eq!(details(&message), "");
        message.alerts.push(entry("b", Some(1)));
        message.total = 2;
        assert_eq!(details(&message), "• a: too hot\n• b: too hot (ended)");
        message.total = 9;
        message.description = Some("Check the pump.".to_owned());
        let expected = "Check the pump.\n• a: too hot\n• b: too hot (ended)\nand 7 more";
        assert_eq!(details(&message), expected);
    }
}
