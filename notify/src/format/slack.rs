//! Slack: an incoming webhook, or the API with a bot's token.
//!
//! A webhook posts a message for each of ours. With a token the first answer's channel and `ts` are the page's
//! handle, and later messages change what stands there. The API answers 200 also to what it refuses.

use serde_json::{Value, json};

use super::judge::said;
use super::text::{cut, details, severity, status};
use super::{Answer, Attempt, Handle, Method, Outcome, Request, Verdict, bearer, join};
use crate::{Kind, Message, Target};

/// Most characters of a title, of a text, of a field; far below the 13,000 that a message has room for.
const TITLE_MAX: usize = 1024;
const TEXT_MAX: usize = 3000;
const FIELD_MAX: usize = 256;

/// Errors of the API that pass by themselves.
const PASSING: [&str; 9] = [
    "ratelimited",
    "rate_limited",
    "message_limit_exceeded",
    "internal_error",
    "fatal_error",
    "service_unavailable",
    "request_timeout",
    "team_added_to_org",
    "accesslimited",
];
/// Errors of an update that say that there is nothing to update any more.
const STALE: [&str; 5] = [
    "message_not_found",
    "cant_update_message",
    "edit_window_closed",
    "channel_not_found",
    "is_inactive",
];

pub(super) fn render(target: &Target, message: &Message, attempt: &Attempt<'_>) -> Request {
    let mut body = json!({
        "text": format!("[{}] {}", status(message), escape(&cut(&message.rule, FIELD_MAX))),
        "attachments": [attachment(message)],
    });
    if let Some(channel) = &target.channel {
        body["channel"] = json!(channel);
    }
    let url = target.url.expose();
    let url = if target.secret.is_none() {
        url.to_owned()
    } else {
        // For people and programs that look for doubles: the API has no idempotency keys.
        body["metadata"] = json!({
            "event_type": "tidewatch_page",
            "event_payload": {"id": message.id, "dedup_key": message.dedup_key},
        });
        match attempt.handle.and_then(|h| h.split_once(' ')) {
            Some((channel, ts)) => {
                body["channel"] = json!(channel);
                body["ts"] = json!(ts);
                join(url, "chat.update")
            }
            None => join(url, "chat.postMessage"),
        }
    };
    Request {
        method: Method::Post,
        url,
        headers: bearer(target),
        body: body.to_string(),
    }
}

fn attachment(message: &Message) -> Value {
    let color = match (message.kind, severity(message)) {
        (Kind::Cleared, _) => "good",
        (Kind::Test, _) | (_, "info") => "#439FE0",
        (_, "warning") => "warning",
        _ => "danger",
    };
    let mut text = details(message);
    if let Some(runbook) = &message.runbook {
        let link = format!("<{}|Runbook>", escape(runbook));
        // The link stays whole: the list is cut, not it.
        let room = TEXT_MAX.saturating_sub(link.chars().count() + 1);
        text = format!("{}\n{link}", cut(&escape(&text), room));
        text = text.trim_start().to_owned();
    } else {
        text = cut(&escape(&text), TEXT_MAX);
    }
    let summary = escape(&message.summary);
    let mut attachment = json!({
        "color": color,
        "title": cut(&summary, TITLE_MAX),
        "text": text,
        "fallback": cut(&format!("[{}] {summary}", status(message)), TITLE_MAX),
        "callback_id": message.dedup_key,
        "fields": fields(message),
        "footer": "Tidewatch",
        "ts": message.began.div_euclid(1_000_000),
        "mrkdwn_in": ["text"],
    });
    if let Some(url) = &message.url {
        attachment["title_link"] = json!(url);
    }
    attachment
}

fn fields(message: &Message) -> Vec<Value> {
    let label = |name: &str| message.labels.get(name).cloned();
    let counts = (message.total > 1).then(|| format!("{} of {}", message.firing, message.total));
    let fields = [
        ("Severity", Some(severity(message).to_owned())),
        ("Site", label("site")),
        ("Device", label("device")),
        ("Metric", label("metric")),
        ("Firing", counts),
    ];
    let field = |(title, value): (&str, Option<String>)| {
        let value = value.filter(|v| !v.is_empty())?;
        Some(json!({"title": title, "value": cut(&escape(&value), FIELD_MAX), "short": true}))
    };
    fields.into_iter().filter_map(field).collect()
}

/// The three characters that have a meaning in Slack's texts.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// What a 2xx of the API means: success only if its body says so.
pub(super) fn judge(handle: Option<&str>, answer: &Answer<'_>, outcome: Outcome) -> Outcome {
    let body: Value = serde_json::from_slice(answer.body).unwrap_or_default();
    if body["ok"] == true {
        // Channel and time; an update keeps the first.
        let place = (body["channel"].as_str(), body["ts"].as_str());
        let handle = match place {
            (Some(channel), Some(ts)) if is_word(channel) && is_word(ts) => {
                Handle::Set(format!("{channel} {ts}"))
            }
            _ => Handle::Keep,
        };
        return Outcome { handle, ..outcome };
    }
    let error = body["error"].as_str().unwrap_or_default();
    let stale = handle.is_some() && STALE.contains(&error);
    let verdict = match error {
        // No word of the API: something between us and it has answered.
        "" => Verdict::Retry,
        error if stale || PASSING.contains(&error) => Verdict::Retry,
        _ => Verdict::Refused,
    };
    Outcome {
        verdict,
        error: Some(said(answer.status, &outcome.words)),
        handle: if stale { Handle::Forget } else { Handle::Keep },
        ..outcome
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, Secret, format};

    fn bot() -> Target {
        let mut target = Target::new("ops", Format::Slack, "", Some(Secret::new("xoxb-hunter2")));
        target.channel = Some("#ops".to_owned());
        target
    }

    fn judged(handle: Option<&str>, body: &str) -> Outcome {
        let answer = Answer {
            status: 200,
            retry_after: None,
            location: None,
            body: body.as_bytes(),
        };
        format::judge(
            &bot(),
            &Message::default(),
            &Attempt { at: 0, handle },
            &answer,
        )
    }

    #[test]
    fn the_first_answer_says_what_to_update() {
        let outcome = judged(
            None,
            r#"{"ok":true,"channel":"C1","ts":"1503435956.000247"}"#,
        );
        assert_eq!(outcome.verdict, Verdict::Delivered);
        assert_eq!(
            outcome.handle,
            Handle::Set("C1 1503435956.000247".to_owned())
        );
        let at = |handle| Attempt { at: 0, handle };
        let message = Message::default();
        let first = render(&bot(), &message, &at(None));
        assert_eq!(first.url, "https://slack.com/api/chat.postMessage");
        let next = render(&bot(), &message, &at(Some("C1 1503435956.000247")));
        assert_eq!(next.url, "https://slack.com/api/chat.update");
        let body: Value = serde_json::from_str(&next.body).unwrap();
        assert_eq!(
            (&body["channel"], &body["ts"]),
            (&json!("C1"), &json!("1503435956.000247"))
        );
    }

    #[test]
    fn a_200_that_is_not_ok_is_a_failure() {
        let refused = judged(None, r#"{"ok":false,"error":"channel_not_found"}"#);
        assert_eq!(
            (refused.verdict, refused.status),
            (Verdict::Refused, Some(200))
        );
        assert!(refused.error.unwrap().contains("channel_not_found"));
        for passing in [r#"{"ok":false,"error":"ratelimited"}"#, "<html>", "", "[]"] {
            assert_eq!(judged(None, passing).verdict, Verdict::Retry, "{passing}");
        }
        let stale = judged(
            Some("C1 1.2"),
            r#"{"ok":false,"error":"message_not_found"}"#,
        );
        assert_eq!(
            (stale.verdict, stale.handle),
            (Verdict::Retry, Handle::Forget)
        );
    }

    #[test]
    fn texts_of_devices_are_no_markup_and_fit() {
        let message = Message {
            summary: format!("<!channel> & {}", "x".repeat(5000)),
            runbook: Some("https://r.example/?a=1&b=2".to_owned()),
            description: Some("y".repeat(9000)),
            ..Message::default()
        };
        let body: Value = serde_json::from_str(
            &render(
                &bot(),
                &message,
                &Attempt {
                    at: 0,
                    handle: None,
                },
            )
            .body,
        )
        .unwrap();
        let attachment = &body["attachments"][0];
        let title = attachment["title"].as_str().unwrap();
        assert!(title.starts_with("&lt;!channel&gt; &amp; x") && title.chars().count() == 1024);
        let text = attachment["text"].as_str().unwrap();
        assert!(text.chars().count() <= 3000);
        assert!(
            text.ends_with("\n<https://r.example/?a=1&amp;b=2|Runbook>"),
            "{text}"
        );
    }
}
