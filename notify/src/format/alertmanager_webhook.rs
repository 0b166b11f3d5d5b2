//! What an Alertmanager would send to a webhook, version 4: for receivers that know Alertmanager.

use serde_json::{Value, json};

use super::labels::{Labels, common, fingerprint, group_key, of_alert, of_group, of_page};
use super::{Method, Request, bearer};
use crate::message::rfc3339;
use crate::{Kind, Message, Target};

/// The end of an alert that has none.
const NO_END: &str = "0001-01-01T00:00:00Z";

pub(super) fn render(target: &Target, message: &Message) -> Request {
    let cleared = message.kind == Kind::Cleared;
    let mut all_labels: Vec<Labels> = Vec::new();
    let mut all_annotations: Vec<Labels> = Vec::new();
    let mut alerts: Vec<Value> = Vec::new();
    let generator = message.url.clone().unwrap_or_default();
    let mut push = |labels: Labels, annotations: Labels, began: i64, ended: Option<i64>| {
        let status = if ended.is_some() {
            "resolved"
        } else {
            "firing"
        };
        alerts.push(json!({
            "status": status,
            "labels": labels,
            "annotations": annotations,
            "startsAt": rfc3339(began),
            "endsAt": ended.map_or_else(|| NO_END.to_owned(), rfc3339),
            "generatorURL": generator,
            "fingerprint": fingerprint(&labels),
        }));
        all_labels.push(labels);
        all_annotations.push(annotations);
    };
    for alert in &message.alerts {
        // Nothing is left firing on a page that has ended.
        let page_end = cleared.then(|| message.resolved.unwrap_or(message.at));
        let ended = alert.resolved.or(page_end);
        let annotations = annotations(message, &alert.summary);
        push(of_alert(message, alert), annotations, alert.began, ended);
    }
    if message.alerts.is_empty() {
        let ended = cleared.then(|| message.resolved.unwrap_or(message.at));
        let annotations = annotations(message, &message.summary);
        push(of_page(message), annotations, message.began, ended);
    }
    let reason = match message.kind {
        Kind::Raised => "first notification",
        Kind::Updated => "new alerts added",
        Kind::Cleared => "all alerts resolved",
        Kind::Acknowledged | Kind::Test => "none",
    };
    let group = of_group(message);
    let body = json!({
        "version": "4",
        "groupKey": group_key(&group),
        "truncatedAlerts": if message.alerts.is_empty() { 0 } else { message.unlisted() },
        "status": if cleared { "resolved" } else { "firing" },
        "receiver": target.name,
        "notification_reason": reason,
        "groupLabels": group,
        "commonLabels": common(&all_labels),
        "commonAnnotations": common(&all_annotations),
        "routeLabels": {},
        "externalURL": origin(&generator),
        "alerts": alerts,
    });
    Request {
        method: Method::Post,
        url: target.url.expose().to_owned(),
        headers: bearer(target),
        body: body.to_string(),
    }
}

pub(super) fn annotations(message: &Message, summary: &str) -> Labels {
    let mut annotations = Labels::new();
    let texts = [
        ("description", message.description.as_deref()),
        ("runbook_url", message.runbook.as_deref()),
        ("summary", Some(summary)),
    ];
    for (name, text) in texts {
        if let Some(text) = text.filter(|t| !t.is_empty()) {
            annotations.insert(name.to_owned(), text.to_owned());
        }
    }
    annotations
}

/// Scheme and host of a link.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |i| i + 3);
    let end = url[host..].find(['/', '?', '#']);
    end.map_or(url, |end| &url[..host + end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_of_a_link_is_what_comes_before_its_path() {
        assert_eq!(
            origin("https://t.example:8/alerts/a?b"),
            "https://t.example:8"
        );
        assert_eq!(origin("https://t.example"), "https://t.example");
        assert_eq!(origin(""), "");
    }
}
