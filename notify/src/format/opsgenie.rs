//! Opsgenie, and Jira Service Management, which has kept its API.
//!
//! A page is one alert there; its alias is our dedup key. Creating an alert whose alias is open only counts it
//! again, so an update changes its message and description.

use serde_json::json;

use super::text::{cut, details, severity, status};
use super::{Method, Request, join};
use crate::{Kind, Message, Target};

/// Most characters of a message, a description, a source or entity, a tag, and of all details.
const MESSAGE_MAX: usize = 130;
const DESCRIPTION_MAX: usize = 15_000;
const SOURCE_MAX: usize = 100;
const ENTITY_MAX: usize = 512;
const TAG_MAX: usize = 50;
const DETAILS_MAX: usize = 8_000;

pub(super) fn render(target: &Target, message: &Message) -> Vec<Request> {
    let request = |method, path: &str, body: serde_json::Value| {
        let key = target.secret.as_ref().map_or("", |s| s.expose());
        Request {
            method,
            url: join(target.url.expose(), "v2/alerts") + path,
            headers: vec![("authorization", format!("GenieKey {key}"))],
            body: body.to_string(),
        }
    };
    let alias = &message.dedup_key;
    let of_alias = |action: &str| format!("/{}/{action}?identifierType=alias", encode(alias));
    let headline = cut(&message.summary, MESSAGE_MAX);
    match message.kind {
        Kind::Raised | Kind::Test => {
            let create = json!({
                "alias": alias,
                "message": headline,
                "description": description(message),
                "details": texts(message),
                "source": "Tidewatch",
                "entity": cut(&message.source, ENTITY_MAX),
                "tags": [cut(&message.rule, TAG_MAX), severity(message)],
                "priority": priority(message),
            });
            vec![request(Method::Post, "", create)]
        }
        Kind::Updated => vec![
            request(
                Method::Put,
                &of_alias("message"),
                json!({"message": headline}),
            ),
            request(
                Method::Put,
                &of_alias("description"),
                json!({"description": description(message)}),
            ),
        ],
        Kind::Acknowledged | Kind::Cleared => {
            let action = match message.kind {
                Kind::Acknowledged => "acknowledge",
                _ => "close",
            };
            let note = json!({"source": cut("Tidewatch", SOURCE_MAX), "note": message.summary});
            vec![request(Method::Post, &of_alias(action), note)]
        }
    }
}

fn description(message: &Message) -> String {
    let mut text = format!("[{}] {}", status(message), message.summary);
    let details = details(message);
    let links = [("Runbook", &message.runbook), ("Alert", &message.url)];
    if !details.is_empty() {
        text = format!("{text}\n\n{details}");
    }
    for (name, url) in links {
        if let Some(url) = url {
            text = format!("{text}\n{name}: {url}");
        }
    }
    cut(&text, DESCRIPTION_MAX)
}

/// Labels as texts, as many as fit.
fn texts(message: &Message) -> serde_json::Value {
    let mut room = DETAILS_MAX;
    let mut texts = serde_json::Map::new();
    let counts = [
        ("firing".to_owned(), message.firing.to_string()),
        ("total".to_owned(), message.total.to_string()),
    ];
    let links = [("url", &message.url), ("runbook", &message.runbook)];
    let links = links
        .into_iter()
        .filter_map(|(k, v)| Some((k.to_owned(), v.clone()?)));
    let labels = message.labels.iter().map(|(k, v)| (k.clone(), v.clone()));
    for (key, value) in counts.into_iter().chain(links).chain(labels) {
        let Some(left) = room.checked_sub(key.chars().count() + value.chars().count()) else {
            break;
        };
        room = left;
        texts.insert(key, value.into());
    }
    texts.into()
}

fn priority(message: &Message) -> &'static str {
    match (message.kind, severity(message)) {
        (Kind::Test, _) => "P5",
        (_, "critical") => "P1",
        (_, "error") => "P2",
        (_, "warning") => "P3",
        _ => "P5",
    }
}

/// A piece of a path.
fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, Secret};

    #[test]
    fn the_base_may_end_as_it_likes_and_aliases_are_encoded() {
        for base in [
            "https://o.example",
            "https://o.example/",
            "https://o.example/v2/alerts",
            "https://o.example/v2/alerts/",
        ] {
            let target = Target::new("og", Format::Opsgenie, base, Some(Secret::new("key")));
            let message = Message {
                kind: Kind::Cleared,
                dedup_key: "a/b c".to_owned(),
                ..Message::default()
            };
            let requests = render(&target, &message);
            assert_eq!(
                requests[0].url,
                "https://o.example/v2/alerts/a%2Fb%20c/close?identifierType=alias"
            );
        }
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let target = Target::new("og", Format::Opsgenie, "", Some(Secret::new("key")));
        let message = Message {
            summary: "s".repeat(20_000),
            labels: [
                ("a".to_owned(), "v".repeat(7_000)),
                ("b".to_owned(), "v".repeat(7_000)),
            ]
            .into(),
            ..Message::default()
        };
        let body: serde_json::Value =
            serde_json::from_str(&render(&target, &message)[0].body).unwrap();
        let length = |field: &str| body[field].as_str().unwrap().chars().count();
        assert_eq!((length("message"), length("description")), (130, 15_000));
        assert!(body["details"]["a"].is_string() && body["details"]["b"].is_null());
    }
}
