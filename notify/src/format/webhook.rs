//! The generic signed webhook, after the Standard Webhooks conventions.
//!
//! `POST` of `{"type", "timestamp", "data"}` with `webhook-id` (the same on every retry), `webhook-timestamp` (of
//! this attempt) and `webhook-signature` (for each secret `v1,` + base64 of HMAC-SHA256 over
//! `<id>.<timestamp>.<body>`). `data` has the fields of the first alert, `page` and `alerts`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;

use super::{Attempt, Method, Request};
use crate::message::rfc3339;
use crate::{Entry, Kind, Message, Target};

/// The keys of a secret: words of `whsec_` and base64 of 24 to 64 bytes. None if one is something else.
pub(crate) fn keys(secret: &str) -> Option<Vec<Vec<u8>>> {
    let key = |word: &str| {
        let text = word.strip_prefix("whsec_").unwrap_or(word);
        let key = STANDARD.decode(text).ok();
        key.filter(|k| (24..=64).contains(&k.len()))
    };
    secret.split_whitespace().map(key).collect()
}

pub(super) fn render(target: &Target, message: &Message, attempt: &Attempt<'_>) -> Request {
    let body = body(message);
    let seconds = attempt.at.div_euclid(1_000_000);
    let mut headers = vec![
        ("webhook-id", message.id.clone()),
        ("webhook-timestamp", seconds.to_string()),
    ];
    let secret = target.secret.as_ref().map(|s| s.expose());
    // What does not decode was refused by the check of the target.
    let keys = secret.and_then(keys).unwrap_or_default();
    if !keys.is_empty() {
        let signatures = keys
            .iter()
            .map(|key| signature(key, &message.id, seconds, &body));
        let signatures: Vec<String> = signatures.collect();
        headers.push(("webhook-signature", signatures.join(" ")));
    }
    Request {
        method: Method::Post,
        url: target.url.expose().to_owned(),
        headers,
        body,
    }
}

fn body(message: &Message) -> String {
    let (kind, time) = match message.kind {
        Kind::Raised => ("alert.raised", message.began),
        Kind::Updated => ("alert.updated", message.at),
        Kind::Acknowledged => ("alert.acknowledged", message.at),
        Kind::Cleared => ("alert.cleared", message.resolved.unwrap_or(message.at)),
        Kind::Test => ("notifier.test", message.at),
    };
    let mut data = match message.alerts.first() {
        Some(first) => entry(first),
        // A page without a list, as a test is.
        None => {
            let mut data = Map::new();
            data.insert("id".to_owned(), json!(message.id));
            data.insert("rule".to_owned(), json!(message.rule));
            data.insert("severity".to_owned(), json!(message.severity));
            data.insert("began".to_owned(), json!(rfc3339(message.began)));
            data.insert("resolved".to_owned(), json!(message.resolved.map(rfc3339)));
            data
        }
    };
    data.insert("notified".to_owned(), json!(true));
    // Of the page, which for a page of one alert is that of the alert.
    data.insert("summary".to_owned(), json!(message.summary));
    let links = [
        ("description", &message.description),
        ("url", &message.url),
        ("runbook", &message.runbook),
    ];
    for (name, text) in links {
        if let Some(text) = text {
            data.insert(name.to_owned(), json!(text));
        }
    }
    data.insert(
        "page".to_owned(),
        json!({
            "key": message.dedup_key,
            "labels": message.labels,
            "firing": message.firing,
            "total": message.total,
        }),
    );
    let alerts: Vec<Value> = message.alerts.iter().map(|a| entry(a).into()).collect();
    data.insert("alerts".to_owned(), alerts.into());
    json!({"type": kind, "timestamp": rfc3339(time), "data": data}).to_string()
}

fn entry(alert: &Entry) -> Map<String, Value> {
    let fields = [
        ("id", json!(alert.id)),
        ("rule", json!(alert.rule)),
        ("severity", json!(alert.severity)),
        ("state", json!(alert.state)),
        ("device", json!(alert.device)),
        ("metric", json!(alert.metric)),
        ("group", json!(alert.group)),
        ("value", json!(alert.value)),
        ("threshold", json!(alert.threshold)),
        ("began", json!(rfc3339(alert.began))),
        ("reported", json!(rfc3339(alert.reported))),
        ("resolved", json!(alert.resolved.map(rfc3339))),
        ("summary", json!(alert.summary)),
    ];
    fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

/// `v1,<base64>` of the signed bytes.
fn signature(key: &[u8], id: &str, timestamp: i64, body: &str) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return String::new();
    };
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, Secret};

    const SECRET: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn signature_is_the_one_of_the_reference_vector() {
        let keys = keys(SECRET).unwrap();
        assert_eq!(
            signature(
                &keys[0],
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1614265330,
                r#"{"test": 2432232314}"#
            ),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn while_secrets_are_rotated_each_signs() {
        let other = format!("whsec_{}", STANDARD.encode([7; 24]));
        let secret = Secret::new(format!("whsec_{SECRET} {other}"));
        let target = Target::new("ops", Format::Webhook, "https://x.example/", Some(secret));
        let message = Message::test("ops", 1);
        let attempt = Attempt {
            at: 1_614_265_330_999_999,
            handle: None,
        };
        let request = render(&target, &message, &attempt);
        let header = |name: &str| {
            let found = request.headers.iter().find(|h| h.0 == name);
            found.map(|h| h.1.clone()).unwrap_or_default()
        };
        assert_eq!(header("webhook-timestamp"), "1614265330");
        let signatures = header("webhook-signature");
        let (first, second) = signatures.split_once(' ').unwrap();
        let signed = |secret: &str| {
            let keys = keys(secret).unwrap();
            signature(&keys[0], &message.id, 1_614_265_330, &request.body)
        };
        assert_eq!((first, second), (&*signed(SECRET), &*signed(&other)));
        assert_ne!(first, second);
    }
}
