//! The real outbox on a real disk against receivers that do everything wrong: nothing is lost, nothing is
//! doubled beyond its key, and the order of a page is kept, for every format and over restarts.

#[path = "../../notify/tests/it/receiver.rs"]
mod receiver;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use eventlog::Log;
use notify::{Entry, Format, Kind, Message, Secret, Target};
use processor::outbox::{Outbox, Outgoing};
use processor::runtime::Clock;
use tokio_util::sync::CancellationToken;
use views::Views;

use receiver::{Got, Receiver, Reply};

const PATIENCE: Duration = Duration::from_secs(60);
const PAGES: usize = 7;

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_micros() as i64
}

fn clock() -> Clock {
    Arc::new(now)
}

fn message(page: usize, kind: Kind) -> Message {
    let labels = [("alertname", "hot"), ("severity", "error")];
    let mut labels: BTreeMap<String, String> =
        labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    labels.insert("device".to_owned(), format!("d{page}"));
    Message {
        id: format!("page-{page}:{}", kind.as_str()),
        kind,
        dedup_key: format!("page-{page}"),
        rule: "hot".to_owned(),
        severity: "error".to_owned(),
        summary: format!("d{page} is hot"),
        labels,
        began: 1_700_000_000_000_000,
        resolved: (kind == Kind::Cleared).then_some(1_700_000_001_000_000),
        at: now(),
        firing: 1,
        total: 1,
        alerts: vec![Entry {
            device: format!("d{page}"),
            ..Entry::default()
        }],
        ..Message::default()
    }
}

/// One life of the process.
struct Life {
    outbox: Outbox,
    views: Arc<Views>,
    log: Log,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Life {
    fn begin(dir: &std::path::Path, targets: &[Target]) -> Self {
        let settings = eventlog::Settings {
            partitions: 1,
            ..eventlog::Settings::default()
        };
        let log = Log::open(dir, settings, clock()).unwrap();
        let views = Views::new(1, "test", now());
        let outbox = Outbox::open(&log, &views, targets.to_vec(), &clock()).unwrap();
        let stop = CancellationToken::new();
        let task = outbox.deliver(stop.clone()).unwrap();
        Self {
            outbox,
            views,
            log,
            stop,
            task,
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        drop(self.outbox);
        tokio::task::spawn_blocking(move || self.log.close())
            .await
            .unwrap();
    }

    async fn tell(&self, messages: Vec<Message>) {
        let outbox = self.outbox.clone();
        let commit = move || {
            let mut outgoing = Vec::new();
            for message in messages {
                for target in outbox.targets() {
                    outgoing.push(Outgoing {
                        target: target.name.clone(),
                        message: message.clone(),
                    });
                }
            }
            outbox.commit(Vec::new(), outgoing).unwrap();
        };
        tokio::task::spawn_blocking(commit).await.unwrap();
    }

    /// Waits until all rows of the delivery log are in a state.
    async fn settle(&self, rows: usize, state: &str) {
        let began = Instant::now();
        loop {
            let log = self.views.notifications(1000);
            let done = log.iter().filter(|n| n.state == state).count();
            if done == rows {
                return;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{done} of {rows} are {state}: {log:#?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn target(format: Format, receiver: &Receiver) -> Target {
    let secret = match format {
        Format::Webhook => Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        Format::Pagerduty | Format::Opsgenie => Some("0123456789abcdef0123456789abcdef"),
        _ => None,
    };
    let name = format.as_str();
    let mut target = Target::new(name, format, &receiver.url("/in"), secret.map(Secret::new));
    target.allow_private = true;
    target.timeout = Duration::from_millis(500);
    target.rate_per_minute = 600;
    target
}

/// Page and what is said of it, as a receiver of that format would understand it.
fn understood(format: Format, got: &Got) -> (String, String) {
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    let body = &got.body;
    let ended =
        |end: &serde_json::Value| if end.is_null() { "firing" } else { "resolved" }.to_owned();
    let of_device = |labels: &serde_json::Value| text(&labels["device"]).replace('d', "page-");
    match format {
        Format::Webhook => (text(&body["data"]["page"]["key"]), text(&body["type"])),
        Format::Pagerduty => (text(&body["dedup_key"]), text(&body["event_action"])),
        Format::AlertmanagerWebhook => (
            of_device(&body["alerts"][0]["labels"]),
            text(&body["status"]),
        ),
        Format::Alertmanager => (of_device(&body[0]["labels"]), ended(&body[0]["endsAt"])),
        Format::Slack => (
            text(&body["attachments"][0]["callback_id"]),
            text(&body["text"]),
        ),
        Format::Opsgenie => match text(&body["alias"]) {
            alias if alias.is_empty() => {
                let mut path = got
                    .line
                    .trim_start_matches("POST ")
                    .trim_start_matches("PUT ")
                    .split('/');
                let page = path
                    .find(|p| p.starts_with("page-"))
                    .unwrap_or_default()
                    .to_owned();
                let action = path.next().unwrap_or_default();
                (
                    page,
                    action.split('?').next().unwrap_or_default().to_owned(),
                )
            }
            alias => (alias, "create".to_owned()),
        },
    }
}

fn story(format: Format) -> &'static [&'static str] {
    match format {
        Format::Webhook => &[
            "alert.raised",
            "alert.updated",
            "alert.acknowledged",
            "alert.cleared",
        ],
        Format::Pagerduty => &["trigger", "trigger", "acknowledge", "resolve"],
        Format::AlertmanagerWebhook | Format::Alertmanager => &["firing", "firing", "resolved"],
        Format::Slack => &[
            "[FIRING:1] hot",
            "[FIRING:1] hot",
            "[ACKNOWLEDGED] hot",
            "[RESOLVED] hot",
        ],
        Format::Opsgenie => &["create", "message", "description", "acknowledge", "close"],
    }
}

/// Every failure there is, once, over the requests in their order.
fn failures() -> Vec<Reply> {
    let redirect = "location: http://elsewhere.example/\r\n";
    vec![
        Reply::status(500),
        Reply::With(429, "retry-after: 1\r\n", String::new()),
        Reply::Hang,
        Reply::CloseMidBody,
        Reply::With(302, redirect, String::new()),
        Reply::Close,
        Reply::With(503, "", "<html>".to_owned()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_survives_every_failure_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let receivers: Vec<(Format, Receiver)> = Format::ALL
        .into_iter()
        .map(|f| (f, Receiver::start()))
        .collect();
    let targets: Vec<Target> = receivers.iter().map(|(f, r)| target(*f, r)).collect();
    let pages = |kind: Kind| {
        (0..PAGES)
            .map(|page| message(page, kind))
            .collect::<Vec<_>>()
    };
    let without_ack = 2;
    let mut rows = 0;
    let kinds = [
        Kind::Raised,
        Kind::Updated,
        Kind::Acknowledged,
        Kind::Cleared,
    ];
    for (turn, kind) in kinds.into_iter().enumerate() {
        // A new life for each kind; the one before is told again, as a replay would.
        let life = Life::begin(dir.path(), &targets);
        for (_, receiver) in &receivers {
            receiver.script(failures());
        }
        if turn > 0 {
            life.tell(pages(kinds[turn - 1])).await;
        }
        life.tell(pages(kind)).await;
        let takers = match kind {
            Kind::Acknowledged => targets.len() - without_ack,
            _ => targets.len(),
        };
        rows += PAGES * takers;
        life.settle(rows, "delivered").await;
        life.end().await;
    }
    for (format, receiver) in &receivers {
        let mut stories: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut refused = 0;
        let mut ids: BTreeMap<(String, String), String> = BTreeMap::new();
        for got in receiver.got() {
            // Reminders of several pages, or of one at a start, say nothing new.
            if *format == Format::Alertmanager && got.body.as_array().is_some_and(|a| a.len() > 1) {
                continue;
            }
            let (page, what) = understood(*format, &got);
            if *format == Format::Webhook {
                let id = got.header("webhook-id").to_owned();
                let before = ids
                    .entry((page.clone(), what.clone()))
                    .or_insert_with(|| id.clone());
                assert_eq!(*before, id, "another id for the same message");
            }
            match got.accepted {
                true => stories.entry(page).or_default().push(what),
                false => refused += 1,
            }
        }
        assert!(
            refused >= failures().len(),
            "{format:?} was refused {refused} times only"
        );
        assert_eq!(stories.len(), PAGES, "{format:?}");
        for (page, mut told) in stories {
            if *format == Format::Alertmanager {
                // Said again and again, but never back from the end to the begin.
                told.dedup();
                assert_eq!(told, ["firing", "resolved"], "{page}");
                continue;
            }
            if *format == Format::Opsgenie {
                // An update is two requests; when the second fails, the first comes again.
                told.dedup();
                let mut whole: Vec<String> = Vec::new();
                for what in told {
                    if !whole.contains(&what) {
                        whole.push(what);
                    }
                }
                told = whole;
            }
            assert_eq!(told, story(*format), "{format:?} of {page}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn state_and_messages_are_saved_together() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let targets = [target(Format::Webhook, &receiver)];
    let life = Life::begin(dir.path(), &targets);
    let outbox = life.outbox.clone();
    let row = |key: &[u8], value: &[u8]| (key.to_vec(), Some(value.to_vec()));
    let commit = move || {
        let outgoing = Outgoing {
            target: "webhook".to_owned(),
            message: message(0, Kind::Raised),
        };
        outbox
            .commit(vec![row(b"a", b"1"), row(b"b", b"2")], vec![outgoing])
            .unwrap();
        // Nobody of that name: said in the log, and no error for the others.
        let lost = Outgoing {
            target: "nobody".to_owned(),
            message: message(1, Kind::Raised),
        };
        outbox
            .commit(vec![(b"a".to_vec(), None)], vec![lost])
            .unwrap();
        assert_eq!(outbox.state().unwrap(), [(b"b".to_vec(), b"2".to_vec())]);
    };
    tokio::task::spawn_blocking(commit).await.unwrap();
    life.settle(1, "delivered").await;
    life.end().await;
    let life = Life::begin(dir.path(), &targets);
    assert_eq!(
        life.outbox.state().unwrap(),
        [(b"b".to_vec(), b"2".to_vec())]
    );
    assert_eq!(life.views.notifications(10).len(), 1);
    life.end().await;
    assert_eq!(receiver.got().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_a_receiver_that_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let mut slow = target(Format::Webhook, &receiver);
    slow.timeout = Duration::from_secs(30);
    receiver.script([Reply::Hang]);
    let life = Life::begin(dir.path(), &[slow.clone()]);
    life.tell(vec![message(0, Kind::Raised)]).await;
    let began = Instant::now();
    while receiver.got().is_empty() {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let began = Instant::now();
    life.end().await;
    assert!(began.elapsed() < Duration::from_secs(8));
    // What hung is told again.
    let life = Life::begin(dir.path(), &[slow]);
    life.settle(1, "delivered").await;
    life.end().await;
    let got = receiver.got();
    assert_eq!(got.len(), 2);
    assert_eq!(got[0].header("webhook-id"), got[1].header("webhook-id"));
}
