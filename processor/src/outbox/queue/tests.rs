use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use notify::format::{Handle, Outcome, Verdict};
use notify::{Format, Kind, Message, Target};
use proptest::prelude::*;

use super::*;

const MINUTE: i64 = 60 * SECOND;
const T0: i64 = 1_700_000_000 * SECOND;

/// (time since the begin in seconds, target, message, verdict)
type Sent = (i64, String, String, Verdict);

/// A queue with a disk, a clock and receivers.
struct World {
    targets: Vec<Arc<Target>>,
    queue: Queue,
    disk: BTreeMap<Vec<u8>, Vec<u8>>,
    now: i64,
    sent: Vec<Sent>,
    reminded: Vec<(i64, Vec<String>)>,
}

fn outcome(verdict: Verdict) -> Outcome {
    Outcome {
        verdict,
        status: Some(match verdict {
            Verdict::Delivered => 200,
            Verdict::Retry => 500,
            Verdict::Refused => 400,
            Verdict::Gone => 410,
        }),
        words: String::new(),
        error: (verdict != Verdict::Delivered).then(|| "it said no".to_owned()),
        retry_after: None,
        handle: Handle::Keep,
    }
}

fn target(name: &str, fallback: Option<&str>) -> Target {
    let mut target = Target::new(name, Format::Webhook, "https://x.example/", None);
    target.fallback = fallback.map(str::to_owned);
    target
}

fn message(page: &str, kind: Kind, n: u32) -> Message {
    Message {
        id: format!("{page}:{}{n}", kind.as_str()),
        kind,
        dedup_key: page.to_owned(),
        at: T0,
        ..Message::default()
    }
}

impl World {
    fn new(targets: Vec<Target>) -> Self {
        let targets: Vec<Arc<Target>> = targets.into_iter().map(Arc::new).collect();
        let (queue, foreign) = Queue::open(&targets, &[], T0).unwrap();
        assert_eq!(foreign, []);
        Self {
            targets,
            queue,
            disk: BTreeMap::new(),
            now: T0,
            sent: Vec::new(),
            reminded: Vec::new(),
        }
    }

    fn save(&mut self) {
        let dirty = self.queue.take_dirty().unwrap();
        for (key, value) in dirty.changes {
            match value {
                Some(value) => self.disk.insert(key, value),
                None => self.disk.remove(&key),
            };
        }
    }

    fn install(&mut self, rows: Vec<Row>) {
        self.save();
        for row in &rows {
            self.disk.insert(key(row.seq), row.encode().unwrap());
        }
        self.queue.install(rows, self.now);
    }

    fn put(&mut self, target: &str, messages: &[Message]) {
        let outgoing = messages.iter().map(|message| Outgoing {
            target: target.to_owned(),
            message: message.clone(),
        });
        let rows = self.queue.prepare(outgoing.collect(), self.now);
        self.install(rows);
    }

    /// One look at the queue: what was sent is answered and the answers are noted.
    fn look(&mut self, answer: &mut dyn FnMut(&str, &Message) -> Outcome) -> (usize, i64) {
        let (jobs, wake) = self.queue.take(self.now);
        let count = jobs.len();
        for job in jobs {
            let since = (self.now - T0) / SECOND;
            match job {
                Job::Tell {
                    seq,
                    target,
                    message,
                    ..
                } => {
                    let outcome = answer(&target, &message);
                    self.sent
                        .push((since, target, message.id.clone(), outcome.verdict));
                    self.queue.finish(seq, &outcome, self.now);
                }
                Job::Repeat { target, pages } => {
                    let kinds = pages.iter().map(|p| p.message.id.clone());
                    self.reminded.push((since, kinds.collect()));
                    let outcome = answer(&target, &pages[0].message);
                    self.queue
                        .finish_repeat(&target, &pages, &outcome, self.now);
                }
            }
        }
        (count, wake)
    }

    /// Lets time pass.
    fn run(&mut self, time: i64, mut answer: impl FnMut(&str, &Message) -> Outcome) {
        let until = self.now + time;
        loop {
            let (count, wake) = self.look(&mut answer);
            self.save();
            if count == 0 {
                if self.now >= until {
                    return;
                }
                assert!(
                    wake > self.now,
                    "the queue wants to be looked at without end"
                );
                self.now = wake.min(until);
            }
        }
    }

    /// The process dies and starts again with what is on the disk.
    fn restart(&mut self) {
        let rows: Vec<OutboxRow> = self.disk.clone().into_iter().collect();
        self.queue = Queue::open(&self.targets, &rows, self.now).unwrap().0;
    }

    fn accepted(&self, target: &str) -> Vec<&str> {
        let accepted = self.sent.iter();
        let accepted = accepted.filter(|s| s.1 == target && s.3 == Verdict::Delivered);
        accepted.map(|s| s.2.as_str()).collect()
    }

    fn tries(&self, target: &str) -> usize {
        self.sent.iter().filter(|s| s.1 == target).count()
    }

    /// Public id → state.
    fn states(&self) -> BTreeMap<String, &'static str> {
        let rows = self.queue.rows();
        rows.map(|r| (r.public_id(), r.state.as_str())).collect()
    }

    fn state(&self, id: &str) -> &'static str {
        self.states().get(id).copied().unwrap_or("none")
    }
}

fn yes(_: &str, _: &Message) -> Outcome {
    outcome(Verdict::Delivered)
}

fn no(_: &str, _: &Message) -> Outcome {
    outcome(Verdict::Retry)
}

#[test]
fn what_is_said_of_a_page_waits_for_its_begin() {
    let mut w = World::new(vec![target("a", None)]);
    let page = |kind| message("p", kind, 1);
    w.put(
        "a",
        &[
            page(Kind::Raised),
            page(Kind::Acknowledged),
            page(Kind::Cleared),
        ],
    );
    w.put("a", &[message("q", Kind::Raised, 1)]);
    let mut left = 4;
    w.run(MINUTE, |_, message| {
        left -= i32::from(message.dedup_key == "p");
        outcome(match message.dedup_key == "p" && left > 0 {
            true => Verdict::Retry,
            false => Verdict::Delivered,
        })
    });
    // Another page does not wait for it.
    assert_eq!(
        w.accepted("a"),
        ["q:raised1", "p:raised1", "p:acknowledged1", "p:cleared1"]
    );
    // Nothing is remembered of pages that are over.
    assert_eq!(w.queue.lanes.len(), 1);
    assert_eq!(w.disk.keys().filter(|k| k[0] == lane::PREFIX).count(), 1);
    // Nor is a known message taken again.
    w.put("a", &[page(Kind::Raised)]);
    w.run(MINUTE, yes);
    assert_eq!(w.tries("a"), 7);
}

#[test]
fn a_begin_that_is_refused_takes_the_rest_of_its_page_with_it() {
    let mut w = World::new(vec![target("a", None)]);
    w.put(
        "a",
        &[
            message("p", Kind::Raised, 1),
            message("p", Kind::Updated, 1),
        ],
    );
    w.run(SECOND, |_, _| outcome(Verdict::Refused));
    w.put(
        "a",
        &[
            message("p", Kind::Updated, 2),
            message("p", Kind::Cleared, 1),
        ],
    );
    w.run(MINUTE, yes);
    assert_eq!(w.tries("a"), 1);
    assert_eq!(w.state("a:p:raised1"), "failed");
    for id in ["a:p:updated1", "a:p:updated2", "a:p:cleared1"] {
        assert_eq!(w.state(id), "dropped", "{id}");
    }
    assert!(w.queue.lanes.is_empty());
    // The end of a page that was never sent here says nothing to anybody.
    w.put("a", &[message("q", Kind::Cleared, 1)]);
    w.run(MINUTE, yes);
    assert_eq!((w.state("a:q:cleared1"), w.tries("a")), ("dropped", 1));
    assert!(w.queue.lanes.is_empty());
    // But a page is better told late than never.
    w.put(
        "a",
        &[
            message("r", Kind::Updated, 1),
            message("r", Kind::Cleared, 1),
        ],
    );
    w.run(MINUTE, yes);
    assert_eq!(w.accepted("a"), ["r:updated1", "r:cleared1"]);
}

#[test]
fn of_updates_that_wait_only_the_newest_is_sent() {
    let mut w = World::new(vec![target("a", None)]);
    w.put("a", &[message("p", Kind::Raised, 1)]);
    w.run(SECOND, no);
    for n in 1..=5 {
        w.put("a", &[message("p", Kind::Updated, n)]);
    }
    w.put("a", &[message("p", Kind::Cleared, 1)]);
    w.run(MINUTE, yes);
    assert_eq!(w.accepted("a"), ["p:raised1", "p:updated5", "p:cleared1"]);
    let dropped = w.states().values().filter(|s| **s == "dropped").count();
    assert_eq!(dropped, 4);
    let reason = w
        .queue
        .rows()
        .find_map(|r| r.error.clone().filter(|_| r.state == State::Dropped));
    assert_eq!(reason.unwrap(), "superseded by p:updated2");
}

#[test]
fn after_ten_minutes_the_fallback_is_told_and_the_rest_is_patience() {
    let mut w = World::new(vec![target("a", Some("b")), target("b", Some("a"))]);
    w.put("a", &[message("p", Kind::Raised, 1)]);
    let only_b = |target: &str, _: &Message| match target {
        "b" => outcome(Verdict::Delivered),
        _ => outcome(Verdict::Retry),
    };
    w.run(599 * SECOND, only_b);
    let fast = w.tries("a");
    assert!((20..=28).contains(&fast), "{fast}");
    assert_eq!(w.tries("b"), 0);
    w.run(2 * SECOND, only_b);
    assert_eq!(w.accepted("b"), ["p:raised1"]);
    // What comes later goes both ways, once.
    w.put("a", &[message("p", Kind::Cleared, 1)]);
    w.restart();
    w.run(3600 * SECOND, only_b);
    assert_eq!(w.accepted("b"), ["p:raised1", "p:cleared1"]);
    let slow = w.tries("a") - fast;
    assert!((10..=14).contains(&slow), "{slow}");
    // It has not forgotten the first one.
    w.run(3600 * SECOND, yes);
    assert_eq!(w.accepted("a"), ["p:raised1", "p:cleared1"]);
    assert_eq!(w.tries("b"), 2);
}

#[test]
fn a_fallback_that_fails_too_passes_nothing_back() {
    let mut w = World::new(vec![target("a", Some("b")), target("b", Some("a"))]);
    w.put("a", &[message("p", Kind::Raised, 1)]);
    w.run(25 * 3600 * SECOND, no);
    assert_eq!(
        w.states(),
        BTreeMap::from([
            ("a:p:raised1".to_owned(), "failed"),
            ("b:p:raised1".to_owned(), "failed")
        ])
    );
    let tries = w.tries("a");
    w.run(25 * 3600 * SECOND, yes);
    assert_eq!((w.tries("a"), w.accepted("b").len()), (tries, 0));
}

#[test]
fn what_is_refused_goes_to_the_fallback_at_once() {
    let mut w = World::new(vec![target("a", Some("b")), target("b", None)]);
    w.put(
        "a",
        &[
            message("p", Kind::Raised, 1),
            message("p", Kind::Cleared, 1),
        ],
    );
    w.run(SECOND, |target, _| match target {
        "b" => outcome(Verdict::Delivered),
        _ => outcome(Verdict::Refused),
    });
    assert_eq!(w.accepted("b"), ["p:raised1", "p:cleared1"]);
    assert_eq!(
        (w.state("a:p:raised1"), w.state("a:p:cleared1")),
        ("failed", "dropped")
    );
    assert!(
        w.queue
            .rows()
            .filter(|r| r.target == "b")
            .all(|r| r.by_fallback)
    );
}

#[test]
fn a_fallback_that_is_told_anyway_is_told_once() {
    let mut w = World::new(vec![target("a", Some("b")), target("b", None)]);
    let both = |w: &mut World, kind| {
        let outgoing = ["a", "b"].map(|name| Outgoing {
            target: name.to_owned(),
            message: message("p", kind, 1),
        });
        let rows = w.queue.prepare(outgoing.to_vec(), w.now);
        w.install(rows);
    };
    both(&mut w, Kind::Raised);
    w.run(20 * MINUTE, |target, _| match target {
        "b" => outcome(Verdict::Delivered),
        _ => outcome(Verdict::Retry),
    });
    both(&mut w, Kind::Cleared);
    w.run(20 * MINUTE, yes);
    for name in ["a", "b"] {
        assert_eq!(w.accepted(name), ["p:raised1", "p:cleared1"]);
    }
    assert_eq!(w.queue.rows.len(), 4);
    // Also if it is handed over while the other way is being saved.
    w.put("a", &[message("q", Kind::Raised, 1)]);
    let late = Outgoing {
        target: "b".to_owned(),
        message: message("q", Kind::Raised, 1),
    };
    let rows = w.queue.prepare(vec![late], w.now);
    w.run(SECOND, |target, _| match target {
        "b" => outcome(Verdict::Delivered),
        _ => outcome(Verdict::Refused),
    });
    w.install(rows);
    w.run(MINUTE, yes);
    assert_eq!(w.accepted("b"), ["p:raised1", "p:cleared1", "q:raised1"]);
    let saved = w.disk.keys().filter(|k| k[0] == row::PREFIX).count();
    assert_eq!(saved, w.queue.rows.len());
}

#[test]
fn who_is_gone_is_left_alone_until_somebody_asks() {
    let mut w = World::new(vec![target("a", Some("b")), target("b", None)]);
    w.put("a", &[message("p", Kind::Raised, 1)]);
    w.run(SECOND, |target, _| match target {
        "b" => outcome(Verdict::Delivered),
        _ => outcome(Verdict::Gone),
    });
    w.put("a", &[message("q", Kind::Raised, 1)]);
    w.run(MINUTE, yes);
    assert_eq!(
        (w.tries("a"), w.accepted("b")),
        (1, vec!["p:raised1", "q:raised1"])
    );
    assert_eq!(w.state("a:q:raised1"), "queued");
    // By hand, and then all that waits.
    let row = w.queue.resend("a:p:raised1", w.now).unwrap();
    assert_eq!(row.public_id(), "a:p:raised1~1");
    w.install(vec![row]);
    w.run(MINUTE, yes);
    assert_eq!(w.accepted("a"), ["q:raised1", "p:raised1"]);
}

#[test]
fn a_start_asks_again_who_was_gone() {
    let mut w = World::new(vec![target("a", None)]);
    w.put("a", &[message("p", Kind::Raised, 1)]);
    w.run(SECOND, |_, _| outcome(Verdict::Gone));
    w.put("a", &[message("q", Kind::Raised, 1)]);
    w.run(MINUTE, yes);
    assert_eq!(w.tries("a"), 1);
    w.restart();
    w.run(MINUTE, yes);
    assert_eq!(w.accepted("a"), ["q:raised1"]);
}

#[test]
fn a_pause_that_is_asked_for_is_kept_by_all_messages() {
    let mut w = World::new(vec![target("a", None), target("b", None)]);
    let mut first = true;
    w.put("a", &[message("p", Kind::Raised, 1)]);
    w.run(SECOND, |_, _| {
        assert!(std::mem::take(&mut first));
        Outcome {
            status: Some(429),
            retry_after: Some(90 * SECOND),
            ..outcome(Verdict::Retry)
        }
    });
    w.put("a", &[message("q", Kind::Raised, 1)]);
    w.put("b", &[message("q", Kind::Raised, 1)]);
    w.run(5 * MINUTE, yes);
    let times: Vec<i64> = w.sent.iter().filter(|s| s.1 == "a").map(|s| s.0).collect();
    assert_eq!(times[0], 0);
    assert!(
        times[1..].iter().all(|t| (90..=110).contains(t)),
        "{times:?}"
    );
    assert_eq!(w.accepted("a").len(), 2);
    assert_eq!(w.sent.iter().find(|s| s.1 == "b").unwrap().0, 1);
}

#[test]
fn no_minute_has_more_attempts_than_the_target_may_be_given() {
    let mut slow = target("a", None);
    slow.rate_per_minute = 5;
    let mut w = World::new(vec![slow]);
    for n in 0..22 {
        w.put("a", &[message(&format!("p{n}"), Kind::Raised, 1)]);
    }
    w.run(10 * MINUTE, yes);
    assert_eq!(w.accepted("a").len(), 22);
    let times: Vec<i64> = w.sent.iter().map(|s| s.0).collect();
    assert!(times.windows(6).all(|w| w[5] - w[0] >= 60), "{times:?}");
    assert_eq!(times.last(), Some(&240));
}

#[test]
fn an_alertmanager_is_reminded_until_five_minutes_after_the_end() {
    let am = Target::new("am", Format::Alertmanager, "https://x.example/", None);
    let mut w = World::new(vec![am]);
    w.put(
        "am",
        &[message("p", Kind::Raised, 1), message("q", Kind::Raised, 1)],
    );
    // It has no words for that.
    w.put("am", &[message("p", Kind::Acknowledged, 1)]);
    let with_handle = |_: &str, _: &Message| Outcome {
        handle: Handle::Set("labels".to_owned()),
        ..outcome(Verdict::Delivered)
    };
    w.run(150 * SECOND, with_handle);
    assert_eq!(w.accepted("am"), ["p:raised1", "q:raised1"]);
    // Both in one request.
    let both = vec!["p:raised1".to_owned(), "q:raised1".to_owned()];
    assert_eq!(w.reminded, [(60, both.clone()), (120, both)]);
    // A start says it again at once: it may have been away for long.
    w.now += 20 * MINUTE;
    w.restart();
    w.reminded.clear();
    w.put(
        "am",
        &[
            message("p", Kind::Updated, 1),
            message("q", Kind::Cleared, 1),
        ],
    );
    w.run(10 * MINUTE, with_handle);
    let ids: BTreeSet<&String> = w.reminded.iter().flat_map(|r| &r.1).collect();
    assert_eq!(
        ids.into_iter().collect::<Vec<_>>(),
        ["p:updated1", "q:cleared1"]
    );
    let ended = w
        .reminded
        .iter()
        .filter(|r| r.1.contains(&"q:cleared1".to_owned()))
        .count();
    assert_eq!(ended, 5);
    w.put("am", &[message("p", Kind::Cleared, 1)]);
    w.run(10 * MINUTE, with_handle);
    w.reminded.clear();
    w.run(10 * MINUTE, with_handle);
    assert_eq!(w.reminded, []);
    assert!(w.queue.lanes.is_empty());
    assert!(w.disk.keys().all(|k| k[0] == row::PREFIX));
}

#[test]
fn a_handle_is_there_for_the_next_message_also_after_a_start() {
    let mut w = World::new(vec![target("a", None)]);
    w.put("a", &[message("p", Kind::Raised, 1)]);
    w.run(SECOND, |_, _| Outcome {
        handle: Handle::Set("C1 1.5".to_owned()),
        ..outcome(Verdict::Delivered)
    });
    w.restart();
    w.put("a", &[message("p", Kind::Cleared, 1)]);
    let (jobs, _) = w.queue.take(w.now);
    let Job::Tell { seq, handle, .. } = &jobs[0] else {
        panic!("{jobs:?}");
    };
    assert_eq!(handle.as_deref(), Some("C1 1.5"));
    let forget = Outcome {
        handle: Handle::Forget,
        ..outcome(Verdict::Retry)
    };
    w.queue.finish(*seq, &forget, w.now);
    let (jobs, _) = w.queue.take(w.now + MINUTE);
    assert!(matches!(&jobs[0], Job::Tell { handle: None, .. }));
}

#[test]
fn finished_messages_can_be_sent_again_by_hand() {
    let mut w = World::new(vec![target("a", None)]);
    let again = |w: &mut World, id: &str| w.queue.resend(id, w.now).map(|r| r.public_id());
    assert_eq!(again(&mut w, "a:p:raised1"), Err(ResendError::NotFound));
    w.put("a", &[message("p", Kind::Raised, 1)]);
    assert_eq!(again(&mut w, "a:p:raised1"), Err(ResendError::Waiting));
    w.run(SECOND, |_, _| outcome(Verdict::Refused));
    assert_eq!(w.state("a:p:raised1"), "failed");
    // The receiver works again: the page opens, and what comes later arrives.
    let row = w.queue.resend("a:p:raised1", w.now).unwrap();
    w.install(vec![row]);
    w.run(SECOND, yes);
    assert_eq!(w.state("a:p:raised1~1"), "delivered");
    w.put("a", &[message("p", Kind::Cleared, 1)]);
    w.run(SECOND, yes);
    assert_eq!(w.accepted("a"), ["p:raised1", "p:cleared1"]);
    // Nobody would end it.
    assert_eq!(again(&mut w, "a:p:raised1"), Err(ResendError::Ended));
    assert_eq!(again(&mut w, "a:p:cleared1").unwrap(), "a:p:cleared1~1");
    w.targets.clear();
    w.restart();
    assert_eq!(again(&mut w, "a:p:cleared1"), Err(ResendError::NoTarget));
}

#[test]
fn messages_for_a_notifier_that_is_no_more_wait_a_day() {
    let mut w = World::new(vec![target("a", None)]);
    w.put("a", &[message("p", Kind::Raised, 1)]);
    let targets = std::mem::take(&mut w.targets);
    w.restart();
    w.run(23 * 3600 * SECOND, yes);
    assert_eq!(w.state("a:p:raised1"), "queued");
    // It was a mistake.
    w.targets = targets;
    w.restart();
    w.run(SECOND, yes);
    assert_eq!(w.state("a:p:raised1"), "delivered");
    w.put("a", &[message("q", Kind::Raised, 1)]);
    w.targets.clear();
    w.restart();
    w.run(25 * 3600 * SECOND, yes);
    assert_eq!(w.state("a:q:raised1"), "failed");
}

#[test]
fn only_old_finished_rows_are_forgotten_and_none_that_a_replay_could_make() {
    let mut w = World::new(vec![target("a", None)]);
    for n in 0..FINISHED_MAX as u32 + 50 {
        w.put("a", &[message(&format!("p{n}"), Kind::Raised, 1)]);
        w.put("a", &[message(&format!("p{n}"), Kind::Cleared, 1)]);
        w.run(MINUTE, yes);
    }
    assert_eq!(w.queue.rows.len(), 2 * FINISHED_MAX + 100);
    w.queue.forget_old(T0);
    assert_eq!(w.queue.rows.len(), 2 * FINISHED_MAX + 100);
    w.queue.forget_old(T0 + 1);
    w.save();
    assert_eq!(
        (w.queue.rows.len(), w.disk.len()),
        (FINISHED_MAX, FINISHED_MAX)
    );
    assert_eq!(w.queue.ids.len(), FINISHED_MAX);
    w.restart();
    assert_eq!(w.queue.rows.len(), FINISHED_MAX);
}

#[test]
fn rows_of_another_version_are_named_and_damaged_ones_refused() {
    let rows = |key: &[u8]| vec![(key.to_vec(), b"{}".to_vec())];
    let open = |key: &[u8]| Queue::open(&[], &rows(key), T0).map(|opened| opened.1);
    assert_eq!(
        open(b"ops\0a:raised").unwrap(),
        [(b"ops\0a:raised".to_vec(), None)]
    );
    assert_eq!(open(&[super::super::STATE_PREFIX, 1]).unwrap(), []);
    for damaged in [&[row::PREFIX, 0][..], &[lane::PREFIX, b'a']] {
        let error = open(damaged).unwrap_err().to_string();
        assert!(error.contains("does not decode"), "{error}");
    }
}

/// What happens in a random story.
#[derive(Debug, Clone)]
enum Step {
    Say {
        page: u8,
        kind: Kind,
    },
    Look {
        verdicts: Vec<Verdict>,
    },
    Pass {
        seconds: i64,
    },
    /// The process dies after what came of attempts was saved, or before.
    Crash {
        saved: bool,
    },
    Save,
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        Just(Kind::Raised),
        Just(Kind::Updated),
        Just(Kind::Acknowledged),
        Just(Kind::Cleared)
    ];
    let verdict = prop_oneof![
        4 => Just(Verdict::Delivered),
        4 => Just(Verdict::Retry),
        1 => Just(Verdict::Refused),
    ];
    prop_oneof![
        4 => (0..3u8, kind).prop_map(|(page, kind)| Step::Say { page, kind }),
        6 => prop::collection::vec(verdict, 6).prop_map(|verdicts| Step::Look { verdicts }),
        3 => (1..400i64).prop_map(|seconds| Step::Pass { seconds }),
        1 => any::<bool>().prop_map(|saved| Step::Crash { saved }),
        2 => Just(Step::Save),
    ]
}

/// A page as alerting tells of it: a begin, then what it likes, then an end, then another page.
#[derive(Default)]
struct Teller {
    number: [u32; 3],
    open: [bool; 3],
    said: u32,
}

impl Teller {
    fn say(&mut self, page: u8, kind: Kind) -> Option<Message> {
        let i = usize::from(page);
        match (kind, self.open[i]) {
            (Kind::Raised, false) => {
                self.open[i] = true;
                self.number[i] += 1;
            }
            (Kind::Cleared, true) => self.open[i] = false,
            (Kind::Updated | Kind::Acknowledged, true) => {}
            _ => return None,
        }
        self.said += 1;
        Some(message(
            &format!("p{page}-{}", self.number[i]),
            kind,
            self.said,
        ))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_doubled_or_out_of_order(steps in prop::collection::vec(step(), 1..80)) {
        let mut w = World::new(vec![target("a", Some("b")), target("b", None)]);
        let mut teller = Teller::default();
        let mut said: Vec<Message> = Vec::new();
        // Accepted, and on disk as such: (target, message).
        let mut settled: BTreeSet<(String, String)> = BTreeSet::new();
        for step in steps {
            match step {
                Step::Say { page, kind } => {
                    if let Some(message) = teller.say(page, kind) {
                        w.put("a", std::slice::from_ref(&message));
                        said.push(message);
                    }
                }
                Step::Look { verdicts } => {
                    let mut verdicts = verdicts.into_iter().cycle();
                    let before = w.sent.len();
                    w.look(&mut |_, _| outcome(verdicts.next().unwrap_or(Verdict::Retry)));
                    for sent in &w.sent[before..] {
                        let double = settled.contains(&(sent.1.clone(), sent.2.clone()));
                        prop_assert!(!double, "sent again after it was settled: {sent:?}");
                    }
                }
                Step::Pass { seconds } => w.now += seconds * SECOND,
                Step::Crash { saved } => {
                    if saved {
                        w.save();
                    }
                    w.restart();
                }
                Step::Save => {
                    w.save();
                    for row in w.queue.rows().filter(|r| r.state == State::Delivered) {
                        settled.insert((row.target.clone(), row.message.id.clone()));
                    }
                }
            }
        }
        // Once all receivers work, everything ends.
        w.run(26 * 3600 * SECOND, yes);
        let states = w.states();
        prop_assert!(states.values().all(|s| *s != "queued"), "{states:?}");
        // Each page was told to somebody, and who was told of its begin was told of its end.
        for raised in said.iter().filter(|m| m.kind == Kind::Raised) {
            let told = |target: &str, id: &str| {
                states.get(&format!("{target}:{id}")).is_some_and(|s| *s == "delivered")
            };
            let page = raised.dedup_key.as_str();
            let cleared = said.iter().find(|m| m.dedup_key == page && m.kind == Kind::Cleared);
            let refused = w.sent.iter().filter(|s| s.2 == raised.id && s.3 == Verdict::Refused);
            let openers = |target: &str| said.iter().any(|m| {
                m.dedup_key == page && m.kind.opens() && told(target, &m.id)
            });
            prop_assert!(openers("a") || openers("b") || refused.count() >= 2, "{page} was lost");
            if let Some(cleared) = cleared {
                let gone = w.sent.iter().any(|s| s.2 == cleared.id && s.3 == Verdict::Refused);
                for target in ["a", "b"] {
                    let told = !openers(target) || gone || told(target, &cleared.id);
                    prop_assert!(told, "{target} was not told of the end of {page}: {states:?}");
                }
            }
        }
        // At each receiver: nothing of a page before its begin, and first comes first.
        for target in ["a", "b"] {
            let mut open: BTreeSet<&str> = BTreeSet::new();
            let mut last: BTreeMap<&str, usize> = BTreeMap::new();
            for sent in w.sent.iter().filter(|s| s.1 == target && s.3 == Verdict::Delivered) {
                let at = said.iter().position(|m| m.id == sent.2).unwrap_or_default();
                let message = &said[at];
                let page = message.dedup_key.as_str();
                if message.kind.opens() {
                    open.insert(page);
                }
                prop_assert!(open.contains(page), "{} came before its begin", message.id);
                // What a crash made come again comes again in order.
                let again = w.sent.iter().filter(|s| s.1 == target && s.2 == sent.2).count() > 1;
                let before = last.insert(page, at).unwrap_or_default();
                prop_assert!(again || before <= at, "{} is out of order", message.id);
            }
        }
    }
}
