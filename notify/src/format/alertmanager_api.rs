//! The API of an Alertmanager, version 2, with us as its client: it groups, silences and pages.
//!
//! A page is one alert there. Its labels are its identity, so those of the first message that was accepted are
//! the page's handle and stay, whatever later messages have in common. An Alertmanager lets go of what it is not
//! told again (after `resolve_timeout`, 5 minutes), hence [`super::repeat`].

use serde_json::{Value, json};

use super::labels::{Labels, of_page};
use super::text::details;
use super::{Method, Request, alertmanager_webhook, bearer, join};
use crate::message::rfc3339;
use crate::{Kind, Message, Target};

/// A test ends by itself after a minute, microseconds.
const TEST: i64 = 60_000_000;

pub(super) fn render(target: &Target, pages: &[(&Message, Option<&str>)]) -> Request {
    let alerts = pages
        .iter()
        .map(|(message, handle)| alert(message, *handle));
    Request {
        method: Method::Post,
        url: join(target.url.expose(), "api/v2/alerts"),
        headers: bearer(target),
        body: Value::Array(alerts.collect()).to_string(),
    }
}

/// The handle of a page: its labels as JSON.
pub(super) fn handle(message: &Message) -> String {
    json!(of_page(message)).to_string()
}

fn alert(message: &Message, handle: Option<&str>) -> Value {
    let kept: Option<Labels> = handle.and_then(|text| serde_json::from_str(text).ok());
    let mut annotations = alertmanager_webhook::annotations(message, &message.summary);
    let details = details(message);
    if !details.is_empty() {
        annotations.insert("description".to_owned(), details);
    }
    annotations.insert("firing".to_owned(), message.firing.to_string());
    annotations.insert("total".to_owned(), message.total.to_string());
    let mut alert = json!({
        "labels": kept.unwrap_or_else(|| of_page(message)),
        "annotations": annotations,
        "startsAt": rfc3339(message.began),
    });
    let end = match message.kind {
        Kind::Cleared => Some(message.resolved.unwrap_or(message.at)),
        Kind::Test => Some(message.at.saturating_add(TEST)),
        // Without an end it is the Alertmanager that says how long it believes us.
        Kind::Raised | Kind::Updated | Kind::Acknowledged => None,
    };
    if let Some(end) = end {
        // An end before the begin is refused; it can be only by clocks that are set.
        alert["endsAt"] = json!(rfc3339(end.max(message.began)));
    }
    if let Some(url) = &message.url {
        alert["generatorURL"] = json!(url);
    }
    alert
}
