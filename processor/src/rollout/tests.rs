//! Limits, one by one, and that nothing is sent beyond them in any story.

use proptest::prelude::*;

use super::*;

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;

fn free() -> Limits {
    Limits {
        per_hour: 0,
        cooldown: 0,
        canary: 0,
        at_once: 0,
        failures_max: 0,
        failures_for: i64::MAX,
        dry_run: false,
    }
}

struct Bench {
    all: Rollouts,
    limits: Limits,
    form: u64,
    ttl: i64,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        Self {
            all: Rollouts::default(),
            limits,
            form: 1,
            ttl: HOUR,
        }
    }

    fn ask(&mut self, id: &str, device: &str, now: i64) -> Decision {
        let ask = Ask {
            id,
            device,
            form: self.form,
            expires: now.saturating_add(self.ttl),
        };
        self.all.ask("k", &self.limits, &ask, now)
    }

    /// Asks for the commands c0, c1, … to devices of the same numbers.
    fn ask_many(&mut self, n: usize, now: i64) -> Vec<Decision> {
        (0..n)
            .map(|i| self.ask(&format!("c{i}"), &format!("d{i}"), now))
            .collect()
    }

    fn end(&mut self, id: &str, outcome: Outcome, now: i64) -> Vec<(String, Decision)> {
        short(self.all.outcome("k", id, outcome, now))
    }

    fn one(&self) -> &Rollout {
        self.all.get("k").unwrap()
    }
}

fn short(released: Vec<Released>) -> Vec<(String, Decision)> {
    released.into_iter().map(|r| (r.id, r.decision)).collect()
}

fn sent(ids: &[&str]) -> Vec<(String, Decision)> {
    ids.iter().map(|id| ((*id).to_owned(), Send)).collect()
}

use Decision::{
    CoolingDown, DryRun, Expired, OverBudget, Send, Stopped, WaitingForCanary, WaitingForTurn,
};

#[test]
fn the_rest_waits_for_the_canary_and_goes_when_all_of_it_has_succeeded() {
    let mut b = Bench::new(Limits {
        canary: 2,
        ..free()
    });
    let expected = [Send, Send, WaitingForCanary, WaitingForCanary];
    assert_eq!(b.ask_many(4, 0), expected);
    assert_eq!(b.ask_many(4, 1), expected, "asked again, the same answers");
    assert_eq!(b.end("c1", Outcome::Succeeded, 2), []);
    assert_eq!(b.one().phase(), Phase::Canary);
    assert_eq!(b.end("c1", Outcome::Succeeded, 3), [], "counted once");
    assert_eq!(b.end("c0", Outcome::Succeeded, 4), sent(&["c2", "c3"]));
    assert_eq!(b.one().phase(), Phase::Rolling);
    assert_eq!(b.ask("c9", "d9", 5), Send);
}

#[test]
fn a_failed_canary_stops_everything_until_a_reset_begins_with_a_canary_again() {
    let mut b = Bench::new(Limits {
        canary: 1,
        ..free()
    });
    assert_eq!(b.ask_many(3, 0), [Send, WaitingForCanary, WaitingForCanary]);
    assert_eq!(b.end("c0", Outcome::Failed, 1), []);
    assert_eq!(b.one().phase(), Phase::Stopped);
    assert!(b.one().because().unwrap().contains("d0"));
    assert_eq!(b.ask("c7", "d7", 2), Stopped);
    assert_eq!(short(b.all.tick(3)), []);
    assert_eq!(short(b.all.reset("k", 4)), sent(&["c1"]));
    assert_eq!(b.end("c1", Outcome::Succeeded, 5), sent(&["c2"]));
    assert_eq!(b.one().ended(), (1, 1));
}

#[test]
fn a_canary_that_was_taken_back_gives_its_place_to_the_next() {
    let mut b = Bench::new(Limits {
        canary: 1,
        ..free()
    });
    b.ask_many(2, 0);
    assert_eq!(b.end("c0", Outcome::Cancelled, 1), sent(&["c1"]));
    assert_eq!(b.one().phase(), Phase::Canary);
    assert_eq!(b.ask("c2", "d2", 2), WaitingForCanary);
    assert_eq!(b.end("c2", Outcome::Cancelled, 3), [], "it only waited");
    assert_eq!(b.one().waiting(), 0);
}

#[test]
fn another_command_under_the_same_key_is_proven_anew() {
    let mut b = Bench::new(Limits {
        canary: 1,
        ..free()
    });
    b.ask("c0", "d0", 0);
    b.end("c0", Outcome::Succeeded, 1);
    assert_eq!([b.ask("c1", "d1", 2), b.ask("c2", "d2", 2)], [Send, Send]);
    b.form = 2;
    assert_eq!(b.ask("c3", "d3", 3), Send);
    assert_eq!(b.ask("c4", "d4", 3), WaitingForCanary);
    // What is still out of the old form proves nothing about the new one.
    assert_eq!(b.end("c1", Outcome::Succeeded, 4), []);
    assert_eq!(b.end("c3", Outcome::Succeeded, 5), sent(&["c4"]));
}

#[test]
fn at_most_so_many_are_out_and_nobody_overtakes() {
    let mut b = Bench::new(Limits {
        at_once: 2,
        ..free()
    });
    assert_eq!(
        b.ask_many(4, 0),
        [Send, Send, WaitingForTurn, WaitingForTurn]
    );
    assert_eq!(b.end("c1", Outcome::Succeeded, 1), sent(&["c2"]));
    assert_eq!(b.ask("c5", "d5", 1), WaitingForTurn);
    assert_eq!(b.end("c0", Outcome::Succeeded, 1), sent(&["c3"]));
    assert_eq!(b.end("c2", Outcome::Succeeded, 1), sent(&["c5"]));
    assert_eq!((b.one().out(), b.one().waiting()), (2, 0));
}

#[test]
fn more_failures_than_allowed_stop_the_rest_and_old_ones_are_forgotten() {
    let mut b = Bench::new(Limits {
        failures_max: 1,
        failures_for: HOUR,
        ..free()
    });
    b.ask_many(4, 0);
    b.end("c0", Outcome::Failed, 0);
    assert_eq!(b.one().phase(), Phase::Rolling);
    b.end("c1", Outcome::Failed, HOUR);
    assert_eq!(b.one().phase(), Phase::Rolling, "the first is forgotten");
    b.end("c2", Outcome::Failed, HOUR + 1);
    assert_eq!(b.one().phase(), Phase::Stopped);
    assert_eq!(b.ask("c8", "d8", 2 * HOUR), Stopped);
}

#[test]
fn a_budget_is_of_any_hour() {
    let mut b = Bench::new(Limits {
        per_hour: 2,
        ..free()
    });
    assert_eq!(b.ask("a", "a", 0), Send);
    assert_eq!(b.ask("b", "b", 10 * MINUTE), Send);
    assert_eq!(b.ask("c", "c", HOUR - 1), OverBudget);
    assert_eq!(b.ask("c", "c", HOUR), Send);
    assert_eq!(b.ask("d", "d", HOUR + 10 * MINUTE - 1), OverBudget);
    assert_eq!(b.ask("d", "d", HOUR + 10 * MINUTE), Send);
}

#[test]
fn a_device_cools_down_and_is_asked_nothing_twice() {
    let mut b = Bench::new(Limits {
        cooldown: MINUTE,
        ..free()
    });
    assert_eq!(b.ask("a1", "a", 0), Send);
    assert_eq!(b.ask("b1", "b", 0), Send, "another device");
    b.end("a1", Outcome::Succeeded, 1);
    assert_eq!(b.ask("a2", "a", MINUTE - 1), CoolingDown);
    assert_eq!(b.ask("a2", "a", MINUTE), Send);
    // It is still out, however long ago it was sent.
    assert_eq!(b.ask("b2", "b", HOUR), CoolingDown);
    b.end("b1", Outcome::Failed, HOUR);
    b.all.reset("k", HOUR);
    assert_eq!(b.ask("b2", "b", HOUR), Send);
}

#[test]
fn a_dry_run_says_what_would_be_done_within_the_limits() {
    let mut b = Bench::new(Limits {
        dry_run: true,
        per_hour: 2,
        cooldown: MINUTE,
        canary: 1,
        ..free()
    });
    assert_eq!(b.ask("a", "a", 0), DryRun);
    assert_eq!(b.ask("b", "a", 1), CoolingDown);
    assert_eq!(b.ask("b", "b", 1), DryRun);
    assert_eq!(b.ask("c", "c", 2), OverBudget);
    assert_eq!((b.one().out(), b.one().waiting()), (0, 0));
}

#[test]
fn the_stop_switch_holds_everything_and_what_waited_goes_on_or_expires() {
    let mut b = Bench::new(Limits {
        canary: 1,
        ..free()
    });
    b.ttl = MINUTE;
    b.ask_many(2, 0);
    b.ttl = HOUR;
    assert_eq!(b.ask("c5", "d5", 0), WaitingForCanary);
    assert_eq!(short(b.all.set_stopped(true, 1)), []);
    assert_eq!(b.end("c0", Outcome::Succeeded, 2), []);
    assert_eq!(b.ask("c9", "d9", 3), Stopped);
    assert_eq!(b.all.next_expiry(), Some(MINUTE));
    assert_eq!(short(b.all.tick(MINUTE)), [("c1".to_owned(), Expired)]);
    assert_eq!(short(b.all.set_stopped(false, MINUTE + 1)), sent(&["c5"]));
}

#[test]
fn what_is_released_is_held_to_the_budget_too() {
    let mut b = Bench::new(Limits {
        canary: 1,
        per_hour: 2,
        ..free()
    });
    b.ask_many(3, 0);
    let released = b.end("c0", Outcome::Succeeded, 1);
    let expected = [("c1".to_owned(), Send), ("c2".to_owned(), OverBudget)];
    assert_eq!(released, expected);
}

#[test]
fn everything_is_bounded() {
    let mut all = Rollouts::default();
    let limits = Limits {
        cooldown: HOUR,
        ..free()
    };
    let ask = |id| Ask {
        id,
        device: id,
        form: 0,
        expires: i64::MAX,
    };
    for key in 0..KEYS_MAX {
        all.ask(&key.to_string(), &limits, &ask("a"), 0);
    }
    assert_eq!(all.ask("one more", &limits, &ask("a"), 1), Decision::NoRoom);
    all.outcome("7", "a", Outcome::Succeeded, 1);
    assert_eq!(all.ask("one more", &limits, &ask("a"), HOUR), Send);
    assert_eq!(all.iter().count(), KEYS_MAX);

    let mut b = Bench::new(Limits {
        canary: 1,
        ..free()
    });
    let answers = b.ask_many(WAITING_MAX + 2, 0);
    assert_eq!(answers[WAITING_MAX], WaitingForCanary);
    assert_eq!(answers[WAITING_MAX + 1], Decision::NoRoom);

    let mut b = Bench::new(limits);
    for i in 0..COOLING_MAX + 5 {
        let id = i.to_string();
        b.ask(&id, &id, i as i64);
        b.end(&id, Outcome::Succeeded, i as i64);
    }
    assert_eq!(b.ask("x", "0", COOLING_MAX as i64), Send, "forgotten");
    assert_eq!(b.ask("y", "9", COOLING_MAX as i64), CoolingDown);
}

#[derive(Debug, Clone)]
enum Step {
    Ask(u8, u8),
    End(u8, u8),
    Switch(bool),
    Reset,
    Wait(i64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..60, 0u8..12).prop_map(|(id, device)| Step::Ask(id, device)),
        6 => (0u8..60, 0u8..3).prop_map(|(id, how)| Step::End(id, how)),
        1 => any::<bool>().prop_map(Step::Switch),
        1 => Just(Step::Reset),
        3 => (0i64..20 * MINUTE).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    /// In any story: no budget, cool-down or number of canaries is exceeded, no id is sent twice while it is
    /// known, and a state that was written and read goes on as the same.
    #[test]
    fn no_story_goes_beyond_the_limits(
        steps in prop::collection::vec(step(), 1..200),
        (per_hour, canary, at_once, failures_max) in (0u32..4, 0u32..3, 0u32..4, 0u32..2),
        cooldown in prop_oneof![Just(0), Just(10 * MINUTE)],
    ) {
        let limits = Limits { per_hour, cooldown, canary, at_once, failures_max, ..free() };
        let mut b = Bench::new(limits);
        let mut now = 0;
        let mut sends: Vec<(i64, String)> = Vec::new();
        let mut out: BTreeMap<String, String> = BTreeMap::new();
        let mut device_of: BTreeMap<String, String> = BTreeMap::new();
        let (mut proven, mut failed_canary) = (0u32, false);
        for step in steps {
            let mut released = Vec::new();
            match step {
                Step::Ask(id, device) => {
                    let id = format!("c{id}");
                    if !out.contains_key(&id) && !b.one_waits(&id) {
                        device_of.insert(id.clone(), format!("d{device}"));
                    }
                    let device = device_of[&id].clone();
                    let was_out = out.contains_key(&id);
                    let decision = b.ask(&id, &device, now);
                    if was_out {
                        prop_assert_eq!(decision, Send);
                    } else {
                        released.push((id, decision));
                    }
                }
                Step::End(id, how) => {
                    let id = format!("c{id}");
                    let outcome = [Outcome::Succeeded, Outcome::Failed, Outcome::Cancelled][how as usize];
                    if out.remove(&id).is_some() && b.one().phase() == Phase::Canary {
                        proven += u32::from(outcome == Outcome::Succeeded);
                        failed_canary |= outcome == Outcome::Failed;
                    }
                    released = b.end(&id, outcome, now);
                }
                Step::Switch(on) => released = short(b.all.set_stopped(on, now)),
                Step::Reset => {
                    (proven, failed_canary) = (0, false);
                    released = short(b.all.reset("k", now));
                }
                Step::Wait(time) => {
                    now += time;
                    released = short(b.all.tick(now));
                }
                Step::Restart => {
                    let bytes = postcard::to_allocvec(&b.all).unwrap();
                    let read: Rollouts = postcard::from_bytes(&bytes).unwrap();
                    prop_assert_eq!(&read, &b.all);
                    b.all = read;
                }
            }
            for (id, decision) in released {
                if decision != Send {
                    continue;
                }
                prop_assert!(!b.all.is_stopped());
                let device = device_of[&id].clone();
                if cooldown > 0 {
                    let recent = sends.iter().any(|(t, d)| *d == device && t + cooldown > now);
                    prop_assert!(!recent, "{} cools down", device);
                    prop_assert!(out.values().all(|d| *d != device));
                }
                prop_assert!(out.insert(id, device.clone()).is_none());
                sends.push((now, device));
                let hour = sends.iter().filter(|(t, _)| t + HOUR > now).count();
                prop_assert!(per_hour == 0 || hour <= per_hour as usize);
                let proving = canary > proven;
                prop_assert!(!(failed_canary && proving && canary > 0 && b.one().phase() == Phase::Stopped));
            }
        }
        let one = b.all.get("k");
        prop_assert_eq!(one.map_or(0, Rollout::out), out.len());
    }
}

impl Bench {
    fn one_waits(&self, id: &str) -> bool {
        let Some(one) = self.all.get("k") else {
            return false;
        };
        one.waits(id)
    }
}
