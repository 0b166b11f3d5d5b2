//! From what the core notices to what people are told.

use eventlog::OutboxChange;
use notify::{Entry, Kind, Message, dedup_key};

use crate::core::{Notice, NoticeKind};
use crate::outbox::{Outbox, Outgoing};

/// Tells every target of every notice: each alert is a page of its own. When this returns it is durable.
///
/// **Errors**: the state file cannot be written; the call may be repeated.
pub(super) fn commit(outbox: &Outbox, notices: &[Notice]) -> anyhow::Result<()> {
    let mut outgoing = Vec::new();
    for notice in notices {
        let message = message(notice);
        for target in outbox.targets() {
            outgoing.push(Outgoing {
                target: target.name.clone(),
                message: message.clone(),
            });
        }
    }
    let nothing: Vec<OutboxChange> = Vec::new();
    outbox.commit(nothing, outgoing)
}

fn message(notice: &Notice) -> Message {
    let alert = &notice.alert;
    let (kind, firing) = match notice.kind {
        NoticeKind::Raised => (Kind::Raised, 1),
        NoticeKind::Cleared => (Kind::Cleared, 0),
    };
    let mut labels = alert.group.clone();
    for (key, value) in [
        ("alertname", alert.rule.as_str()),
        ("severity", alert.severity),
        ("device", &alert.device),
        ("metric", &alert.metric),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    let site = alert.group.get("site");
    let entry = Entry {
        id: alert.id.clone(),
        rule: alert.rule.clone(),
        severity: alert.severity.to_owned(),
        state: alert.state.to_owned(),
        device: alert.device.clone(),
        metric: alert.metric.clone(),
        group: alert.group.clone(),
        value: Some(alert.value),
        threshold: Some(alert.threshold),
        began: alert.began.0,
        reported: alert.reported.0,
        resolved: alert.resolved.map(|t| t.0),
        summary: alert.summary.clone(),
    };
    Message {
        id: notice.id.clone(),
        kind,
        dedup_key: dedup_key("", &alert.id),
        rule: alert.rule.clone(),
        severity: alert.severity.to_owned(),
        summary: alert.summary.clone(),
        source: site.unwrap_or(&alert.device).clone(),
        labels,
        began: alert.began.0,
        resolved: alert.resolved.map(|t| t.0),
        at: notice.at,
        firing,
        total: 1,
        alerts: vec![entry],
        ..Message::default()
    }
}
