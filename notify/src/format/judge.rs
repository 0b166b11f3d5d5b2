//! What an answer means.

use chrono::NaiveDateTime;

use super::text::cut;
use super::{Attempt, alertmanager_api, slack};
use crate::target::shown_url;
use crate::{Format, Message, Target};

/// Longest pause that a receiver can ask for: an hour, microseconds.
pub const RETRY_AFTER_MAX: i64 = 3_600_000_000;
/// Characters of a receiver's own words that are kept.
const WORDS_MAX: usize = 200;
/// Bytes of a body in which they are looked for.
const BODY_BYTES_READ: usize = 4096;

/// What a receiver answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The header `Retry-After`.
    pub retry_after: Option<&'a str>,
    /// The header `Location`.
    pub location: Option<&'a str>,
    /// The body, or the beginning of a long one.
    pub body: &'a [u8],
}

/// What is to be done about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it was accepted.
    Delivered,
    /// Try again.
    Retry,
    /// Give it up: the receiver will never take it.
    Refused,
    /// Give it up, and send nothing more: the receiver is gone (410).
    Gone,
}

/// What becomes of the handle of a page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Handle {
    /// It stays.
    #[default]
    Keep,
    /// The next message of the page is to be rendered with this.
    Set(String),
    /// It is no longer valid.
    Forget,
}

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What to do.
    pub verdict: Verdict,
    /// The last HTTP status; none if there was no answer.
    pub status: Option<u16>,
    /// The first words of the answer, without secrets; empty if there were none.
    pub words: String,
    /// Why it was not accepted, for people, without secrets.
    pub error: Option<String>,
    /// Pause that the receiver asked for, microseconds, at most [`RETRY_AFTER_MAX`].
    pub retry_after: Option<i64>,
    /// For the next message of the page.
    pub handle: Handle,
}

impl Outcome {
    /// An attempt without an answer.
    pub fn failed(verdict: Verdict, error: String) -> Self {
        Self {
            verdict,
            status: None,
            words: String::new(),
            error: Some(error),
            retry_after: None,
            handle: Handle::Keep,
        }
    }
}

/// Says what an answer to a request of [`super::render`] means.
pub fn judge(
    target: &Target,
    message: &Message,
    attempt: &Attempt<'_>,
    answer: &Answer<'_>,
) -> Outcome {
    let status = answer.status;
    let verdict = match status {
        200..=299 => Verdict::Delivered,
        410 => Verdict::Gone,
        // Too slow, too early, too many: the same request may pass later.
        408 | 425 | 429 => Verdict::Retry,
        400..=499 => Verdict::Refused,
        _ => Verdict::Retry,
    };
    let outcome = Outcome {
        verdict,
        status: Some(status),
        words: words(target, answer.body),
        error: None,
        retry_after: answer.retry_after.and_then(|text| pause(text, attempt.at)),
        handle: Handle::Keep,
    };
    let error = match (verdict, answer.location) {
        (Verdict::Delivered, _) if target.format == Format::Slack && target.secret.is_some() => {
            return slack::judge(attempt.handle, answer, outcome);
        }
        (Verdict::Delivered, _) if target.format == Format::Alertmanager => {
            let handle = match attempt.handle {
                Some(_) => Handle::Keep,
                None => Handle::Set(alertmanager_api::handle(message)),
            };
            return Outcome { handle, ..outcome };
        }
        (Verdict::Delivered, _) => return outcome,
        (_, Some(location)) if (300..400).contains(&status) => format!(
            "the receiver answered {status} and points to {}; redirects are not followed, set url to where they lead",
            shown_url(location)
        ),
        (_, None) if (300..400).contains(&status) => {
            format!("the receiver answered {status}; redirects are not followed")
        }
        _ => said(status, &outcome.words),
    };
    Outcome {
        error: Some(error),
        ..outcome
    }
}

/// Status and first words of an answer that is no success.
pub(super) fn said(status: u16, words: &str) -> String {
    match words {
        "" => format!("the receiver answered {status}"),
        words => format!("the receiver answered {status}: {words}"),
    }
}

/// The first words of a body, on one line. Receivers like to repeat what they were sent: without secrets.
fn words(target: &Target, body: &[u8]) -> String {
    // What is cut off in the middle of a secret is far behind what is kept.
    let text = String::from_utf8_lossy(&body[..body.len().min(BODY_BYTES_READ)]);
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    cut(&target.scrub(&words.join(" ")), WORDS_MAX)
}

/// `Retry-After`: seconds, or one of the three forms of an HTTP date.
fn pause(text: &str, now: i64) -> Option<i64> {
    const FORMS: [&str; 3] = [
        "%a, %d %b %Y %H:%M:%S GMT",
        "%A, %d-%b-%y %H:%M:%S GMT",
        "%a %b %e %H:%M:%S %Y",
    ];
    let text = text.trim();
    let micros = if text.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than fit are for ever, which is an hour here.
        text.parse::<i64>()
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000)
    } else {
        let time = FORMS
            .iter()
            .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())?;
        time.and_utc().timestamp_micros().saturating_sub(now)
    };
    (!text.is_empty()).then(|| micros.clamp(0, RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Secret;

    const NOW: i64 = 1_700_000_000_000_000;

    fn target() -> Target {
        let secret = Secret::new("0123456789abcdef0123456789abcdef");
        Target::new("pd", Format::Pagerduty, "", Some(secret))
    }

    fn judged(answer: &Answer<'_>) -> Outcome {
        let attempt = Attempt {
            at: NOW,
            handle: None,
        };
        judge(&target(), &Message::default(), &attempt, answer)
    }

    fn answer(status: u16) -> Answer<'static> {
        Answer {
            status,
            retry_after: None,
            location: None,
            body: b"",
        }
    }

    #[test]
    fn statuses_say_whether_to_try_again() {
        use Verdict::{Delivered, Gone, Refused, Retry};
        for (status, expected) in [
            (200, Delivered),
            (202, Delivered),
            (204, Delivered),
            (301, Retry),
            (307, Retry),
            (400, Refused),
            (401, Refused),
            (404, Refused),
            (408, Retry),
            (410, Gone),
            (413, Refused),
            (425, Retry),
            (429, Retry),
            (500, Retry),
            (502, Retry),
            (503, Retry),
            (504, Retry),
            (101, Retry),
            (999, Retry),
        ] {
            let outcome = judged(&answer(status));
            assert_eq!(outcome.verdict, expected, "{status}");
            assert_eq!(outcome.error.is_none(), expected == Delivered, "{status}");
        }
    }

    #[test]
    fn a_pause_is_seconds_or_a_date_and_an_hour_at_most() {
        let cases = [
            ("0", Some(0)),
            ("7", Some(7_000_000)),
            (" 7 ", Some(7_000_000)),
            ("99999", Some(RETRY_AFTER_MAX)),
            ("99999999999999999999999", Some(RETRY_AFTER_MAX)),
            ("Tue, 14 Nov 2023 22:13:50 GMT", Some(30_000_000)),
            ("Tuesday, 14-Nov-23 22:13:50 GMT", Some(30_000_000)),
            ("Tue Nov 14 22:13:50 2023", Some(30_000_000)),
            ("Tue, 14 Nov 2023 22:00:00 GMT", Some(0)),
            ("Sat, 14 Nov 2093 22:00:00 GMT", Some(RETRY_AFTER_MAX)),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(pause(text, NOW), expected, "{text:?}");
            let given = Answer {
                retry_after: Some(text),
                ..answer(429)
            };
            assert_eq!(judged(&given).retry_after, expected);
        }
    }

    #[test]
    fn errors_tell_what_was_said_without_secrets() {
        let error = |answer: &Answer<'_>| judged(answer).error.unwrap();
        let echo = Answer {
            body: b"{\"errors\":\n [\"bad 0123456789abcdef0123456789abcdef\"]}\x07",
            ..answer(400)
        };
        assert_eq!(
            error(&echo),
            "the receiver answered 400: {\"errors\": [\"bad …\"]}"
        );
        let long = vec![b'x'; 70_000];
        let long = Answer {
            body: &long,
            ..answer(500)
        };
        assert!(error(&long).chars().count() < 240);
        let moved = Answer {
            location: Some("https://other.example/hook?token=hunter2"),
            ..answer(308)
        };
        let moved = error(&moved);
        assert!(
            moved.contains("308 and points to https://other.example/…"),
            "{moved}"
        );
        assert!(!moved.contains("hunter2"), "{moved}");
    }
}
