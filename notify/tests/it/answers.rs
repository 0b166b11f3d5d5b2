//! What each kind of answer comes to, for every format.

use std::time::{Duration, Instant};

use notify::format::{Attempt, Outcome, Verdict};
use notify::{ANSWER_BYTES_MAX, Client, Format, Kind, Message, Secret, Target};

use super::receiver::{Receiver, Reply};

const AT: i64 = 1_700_000_000_000_000;

/// One that is told in one request.
fn message() -> Message {
    Message {
        kind: Kind::Raised,
        ..Message::test("ops", AT)
    }
}

fn client(receiver: &Receiver, format: Format) -> Client {
    let secret = match format {
        Format::Webhook => Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        Format::Pagerduty | Format::Opsgenie => Some("0123456789abcdef0123456789abcdef"),
        _ => None,
    };
    let mut target = Target::new(
        "ops",
        format,
        &receiver.url("/secret-path"),
        secret.map(Secret::new),
    );
    target.allow_private = true;
    target.timeout = Duration::from_millis(400);
    Client::new(target).unwrap()
}

async fn send(client: &Client) -> Outcome {
    let attempt = Attempt {
        at: AT,
        handle: None,
    };
    client.send(&message(), &attempt).await
}

#[tokio::test]
async fn every_format_knows_success_and_each_failure() {
    for format in Format::ALL {
        let receiver = Receiver::start();
        let client = client(&receiver, format);
        for (reply, verdict, words) in [
            (Reply::status(200), Verdict::Delivered, ""),
            (Reply::status(202), Verdict::Delivered, ""),
            (
                Reply::With(500, "", "out of order".to_owned()),
                Verdict::Retry,
                "500: out of order",
            ),
            (
                Reply::With(429, "retry-after: 7\r\n", String::new()),
                Verdict::Retry,
                "429",
            ),
            (Reply::status(400), Verdict::Refused, "400"),
            (Reply::status(410), Verdict::Gone, "410"),
            (Reply::Hang, Verdict::Retry, "timeout 400ms"),
            (Reply::CloseMidBody, Verdict::Retry, ""),
            (Reply::Close, Verdict::Retry, ""),
            (
                Reply::With(
                    307,
                    "location: http://elsewhere.example/t0ken\r\n",
                    String::new(),
                ),
                Verdict::Retry,
                "points to http://elsewhere.example/…; redirects are not followed",
            ),
        ] {
            let outcome = send(&client).await;
            // The script is for the attempt after: this one was accepted.
            assert_eq!(
                outcome.verdict,
                Verdict::Delivered,
                "{format:?}: {outcome:?}"
            );
            receiver.script([reply.clone()]);
            let outcome = send(&client).await;
            assert_eq!(
                outcome.verdict, verdict,
                "{format:?} {reply:?}: {outcome:?}"
            );
            let error = outcome.error.unwrap_or_default();
            assert!(error.contains(words), "{format:?} {reply:?}: {error}");
            assert_eq!(
                error.is_empty(),
                verdict == Verdict::Delivered,
                "{format:?} {reply:?}"
            );
            assert!(
                !error.contains("secret-path") && !error.contains("t0ken"),
                "{error}"
            );
            let asked = matches!(reply, Reply::With(429, ..)).then_some(7_000_000);
            assert_eq!(outcome.retry_after, asked, "{format:?} {reply:?}");
        }
    }
}

#[tokio::test]
async fn one_connection_carries_one_message_after_another() {
    let receiver = Receiver::start();
    let client = client(&receiver, Format::Webhook);
    for _ in 0..20 {
        assert_eq!(send(&client).await.verdict, Verdict::Delivered);
    }
    let got = receiver.got();
    assert!(got.iter().all(|g| g.connection == 0), "{got:?}");
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let receiver = Receiver::start();
    let client = client(&receiver, Format::Webhook);
    let long = "x".repeat(50 * ANSWER_BYTES_MAX);
    receiver.script([
        Reply::With(200, "", long.clone()),
        Reply::With(500, "", long),
    ]);
    let began = Instant::now();
    assert_eq!(send(&client).await.verdict, Verdict::Delivered);
    let outcome = send(&client).await;
    assert_eq!(outcome.verdict, Verdict::Retry);
    assert!(outcome.error.unwrap().len() < 400);
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn nobody_listens() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/t0ken-in-the-path", free.local_addr().unwrap());
    drop(free);
    let mut target = Target::new("ops", Format::Webhook, &url, None);
    target.allow_private = true;
    let outcome = send(&Client::new(target).unwrap()).await;
    assert_eq!((outcome.verdict, outcome.status), (Verdict::Retry, None));
    let error = outcome.error.unwrap();
    assert!(
        error.to_lowercase().contains("refused") && !error.contains("t0ken"),
        "{error}"
    );
}
