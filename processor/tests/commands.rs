//! Commands in the core: when they are sent and given up, whose word counts, and that a restart changes nothing.

mod support;

use event::command::{METRIC, Report, State};
use event::order::Origin;
use event::{
    AgentId, CommandControl, DeviceId, EventTime, Incarnation, MetricName, Order, Plain,
    PlainSample, Record, RolloutOrder, Status, Value,
};
use processor::core::{Effects, Partition};
use support::{Bench, S, T0, batch_record, sample, temperature};
use views::CommandQuery;

const MINUTE: i64 = 60 * S;
const HOUR: i64 = 60 * MINUTE;

fn order(id: &str, device: &str) -> Order {
    Order {
        id: id.to_owned(),
        device: DeviceId::new(device).unwrap(),
        name: "fan".to_owned(),
        args: [("on".to_owned(), "1".to_owned())].into(),
        ttl: 5 * MINUTE,
        by: "ann".to_owned(),
        why: "hot".to_owned(),
        origin: Origin::ByHand,
        alert: None,
        dry_run: false,
        force: false,
    }
}

/// One partition with a gateway "gw" and its device "d", at a time that goes on.
struct World {
    bench: Bench,
    now: i64,
    tx: u64,
    seq: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            bench: Bench::new(&[]),
            now: T0 + S,
            tx: 0,
            seq: 0,
        };
        world.batch(&[]);
        world.fx();
        world
    }

    fn take(&mut self, record: Record) {
        self.bench.at(self.now, &[record.encode()]);
    }

    fn order(&mut self, order: Order) {
        self.take(Record::Command(order));
    }

    fn fx(&mut self) -> Effects {
        std::mem::take(&mut self.bench.fx)
    }

    /// Ids sent since the last look.
    fn sent(&mut self) -> Vec<String> {
        let sends = self.fx().sends;
        sends.into_iter().map(|s| s.command.id).collect()
    }

    /// A batch of the gateway: a temperature and these reports, which are of the present time.
    fn batch(&mut self, reports: &[Report]) {
        let record = self.batch_of(reports, self.now);
        self.bench.at(self.now, &[record]);
    }

    fn batch_of(&mut self, reports: &[Report], time: i64) -> Vec<u8> {
        let mut samples = vec![temperature("d", time, 20.0)];
        for report in reports {
            let text = Value::Text(report.to_text().into());
            samples.push(sample("d", METRIC, time, text));
        }
        self.tx += 1;
        let record = batch_record("gw", self.tx, self.seq + 1, &samples, time);
        self.seq += samples.len() as u64;
        record
    }

    fn status(&mut self, online: bool) {
        let status = Status {
            online,
            incarnation: support::INC.to_string(),
            version: "1".to_owned(),
            backlog: 0,
        };
        let agent = AgentId::new("gw").unwrap();
        self.take(Record::Status(event::StatusRecord { agent, status }));
    }

    /// Time goes on, a tick each second.
    fn wait(&mut self, time: i64) {
        let end = self.now + time;
        while self.now < end {
            self.now += S;
            self.bench.tick(self.now);
        }
    }

    /// The same with an agent that says something now and then.
    fn wait_in_contact(&mut self, time: i64) {
        let end = self.now + time;
        while self.now < end {
            self.wait(10 * S);
            self.batch(&[]);
        }
    }

    fn command(&self, id: &str) -> views::Command {
        self.bench.p.find_command(id).unwrap()
    }

    fn state(&self, id: &str) -> &'static str {
        self.command(id).state
    }

    /// What was saved goes on as if nothing had happened.
    fn restart(&mut self) {
        self.wait(S);
        let hash = self.bench.p.state_hash();
        self.bench.p = Partition::restore(&self.bench.p.snapshot()).unwrap();
        assert_eq!(self.bench.p.state_hash(), hash);
    }
}

fn report(id: &str, state: State) -> Report {
    Report {
        id: id.to_owned(),
        name: "fan".to_owned(),
        state,
        exit_code: (state == State::Failed).then_some(3),
        duration_ms: Some(41),
        output: Some("out".to_owned()),
        reason: None,
    }
}

#[test]
fn a_command_goes_out_at_once_and_its_device_tells_the_rest() {
    let mut w = World::new();
    w.order(order("c", "d"));
    let fx = w.fx();
    let [send] = &fx.sends[..] else {
        panic!("{:?}", fx.sends)
    };
    assert_eq!(send.agent, "gw");
    assert_eq!(send.command.issued_at, EventTime(w.now));
    assert_eq!(send.command.expires_at, EventTime(w.now + 5 * MINUTE));
    assert_eq!(send.command.args["on"], "1");
    assert_eq!(fx.commands.last().unwrap().state, "sent");
    w.order(Order {
        name: "other".to_owned(),
        ..order("c", "d")
    });
    assert_eq!(w.command("c").name, "fan", "an id is of one command");
    w.batch(&[report("c", State::Running)]);
    assert_eq!(w.state("c"), "running");
    w.wait(S);
    w.batch(&[report("c", State::Failed)]);
    let c = w.command("c");
    assert_eq!((c.state, c.certain, c.exit_code), ("failed", true, Some(3)));
    assert_eq!((c.sends, c.duration_ms), (1, Some(41)));
    assert_eq!((c.by.as_str(), c.why.as_str()), ("ann", "hot"));
    assert_eq!(c.output.as_deref(), Some("out"));
    let outcomes = w.fx().outcomes;
    assert_eq!(outcomes.len(), 1);
    assert_eq!(outcomes[0].state, Some(State::Failed));
    w.wait_in_contact(HOUR);
    assert!(w.sent().is_empty());
}

#[test]
fn an_offline_agent_gets_its_commands_in_order_when_it_is_back() {
    let mut w = World::new();
    w.status(false);
    for id in ["b", "a", "c"] {
        w.order(order(id, "d"));
    }
    w.wait(MINUTE);
    assert!(w.sent().is_empty());
    assert_eq!(w.state("a"), "queued");
    w.restart();
    w.status(true);
    assert_eq!(w.sent(), ["b", "a", "c"]);
    // It connects again: what it has not answered may have been lost with the connection.
    w.wait(2 * S);
    w.batch(&[report("a", State::Running)]);
    w.status(true);
    assert_eq!(w.sent(), ["b", "c"]);
}

#[test]
fn an_agent_that_was_silent_gets_them_with_its_first_batch() {
    let mut w = World::new();
    w.wait(3 * MINUTE);
    w.order(order("c", "d"));
    assert!(w.sent().is_empty());
    w.wait(S);
    w.batch(&[]);
    assert_eq!(w.sent(), ["c"]);
}

#[test]
fn without_an_answer_it_is_sent_again_ever_more_rarely() {
    let mut w = World::new();
    w.order(Order {
        ttl: HOUR,
        ..order("c", "d")
    });
    w.fx();
    let begin = w.now;
    let mut at = Vec::new();
    while w.now < begin + HOUR {
        w.wait(10 * S);
        w.batch(&[]);
        at.extend(w.sent().iter().map(|_| (w.now - begin) / S));
    }
    assert_eq!(at, [30, 90, 210, 450, 930, 1890, 2850]);
    assert_eq!(w.command("c").sends, 8);
}

#[test]
fn what_is_not_sent_in_time_expires_and_what_is_not_answered_is_supposed_to_have() {
    let mut w = World::new();
    w.status(false);
    w.order(order("queued", "d"));
    w.wait(5 * MINUTE + S);
    let c = w.command("queued");
    assert_eq!((c.state, c.certain, c.sends), ("expired", true, 0));

    w.status(true);
    w.order(order("sent", "d"));
    w.wait(6 * MINUTE - S);
    assert_eq!(w.state("sent"), "sent");
    w.wait(2 * S);
    let c = w.command("sent");
    assert_eq!((c.state, c.certain), ("expired", false));
    // The device has run it all the same: its word counts.
    w.fx();
    w.batch(&[report("sent", State::Running)]);
    assert_eq!(
        (w.state("sent"), w.command("sent").certain),
        ("failed", false)
    );
    w.batch(&[report("sent", State::Succeeded)]);
    assert_eq!(
        (w.state("sent"), w.command("sent").certain),
        ("succeeded", true)
    );
    let told: Vec<_> = w.fx().outcomes.into_iter().map(|o| o.state).collect();
    assert_eq!(told, [Some(State::Failed), Some(State::Succeeded)]);
    // What was never sent cannot have run, whoever says so.
    w.batch(&[report("queued", State::Succeeded)]);
    assert_eq!(w.state("queued"), "expired");
}

#[test]
fn one_that_never_tells_its_end_has_failed_with_an_unknown_outcome() {
    let mut w = World::new();
    w.order(order("c", "d"));
    w.wait(MINUTE);
    w.batch(&[report("c", State::Running)]);
    w.wait_in_contact(HOUR);
    assert_eq!(w.state("c"), "running");
    assert!(w.command("c").sends > 2, "it is asked after");
    w.wait(5 * MINUTE);
    let c = w.command("c");
    assert_eq!((c.state, c.certain), ("failed", false));
    assert!(c.reason.unwrap().contains("unknown"));
}

#[test]
fn the_last_word_counts_in_whatever_order_words_come() {
    let words = [
        (10, State::Running),
        (20, State::Failed),
        (30, State::Succeeded),
    ];
    for turns in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let mut w = World::new();
        w.order(order("c", "d"));
        let begin = w.now;
        w.wait(MINUTE);
        for turn in turns {
            let (after, state) = words[turn];
            let record = w.batch_of(&[report("c", state)], begin + after * S);
            w.bench.at(w.now, &[record]);
        }
        assert_eq!(w.state("c"), "succeeded", "{turns:?}");
        // The same word again, as a device that is asked again gives it.
        w.fx();
        w.batch(&[report("c", State::Succeeded)]);
        assert!(w.fx().outcomes.is_empty());
    }
}

#[test]
fn only_the_agent_that_got_it_may_speak_of_it() {
    let mut w = World::new();
    w.order(order("c", "d"));
    let text = report("c", State::Succeeded).to_text();
    let lie = sample("other", METRIC, w.now, Value::Text(text.clone().into()));
    let record = batch_record("liar", 1, 1, &[lie], w.now);
    w.bench.at(w.now, &[record]);
    assert_eq!(w.state("c"), "sent");
    let plain = Plain {
        device: DeviceId::new("gw").unwrap(),
        samples: vec![PlainSample {
            metric: MetricName::new(METRIC).unwrap(),
            time: None,
            value: Value::Text(text.into()),
        }],
    };
    w.take(Record::Plain(plain));
    assert_eq!(w.state("c"), "sent");
    // Of what was not given here nothing is kept, and what is no report changes nothing.
    let odd = ["{}", "", "{\"id\":\"c\"}", "[1]"].map(|t| Value::Text(t.into()));
    let odd: Vec<_> = odd
        .into_iter()
        .map(|v| sample("d", METRIC, w.now, v))
        .collect();
    let record = batch_record("gw", 9, 900, &odd, w.now);
    w.bench.at(w.now, &[record]);
    w.seq = 1000;
    w.tx = 10;
    w.batch(&[report("local-1", State::Succeeded)]);
    assert_eq!(w.bench.p.find_command("local-1"), None);
    assert_eq!(w.state("c"), "sent");
}

#[test]
fn who_cannot_get_commands_is_refused_with_the_reason() {
    let mut w = World::new();
    w.take(Record::Plain(Plain {
        device: DeviceId::new("p").unwrap(),
        samples: vec![PlainSample {
            metric: MetricName::new("t").unwrap(),
            time: None,
            value: Value::Number(1.0),
        }],
    }));
    w.order(order("to-plain", "p"));
    w.order(order("to-nobody", "x"));
    w.take(Record::Decommission(DeviceId::new("d").unwrap()));
    w.order(order("to-gone", "d"));
    for (id, why) in [
        ("to-plain", "plain device"),
        ("to-nobody", "no such device"),
        ("to-gone", "decommissioned"),
    ] {
        let c = w.command(id);
        assert_eq!((c.state, c.certain), ("refused", true));
        assert!(c.reason.unwrap().contains(why), "{id}");
    }
    let fx = w.fx();
    assert!(fx.sends.is_empty());
    assert_eq!(fx.outcomes.len(), 3);
}

#[test]
fn a_device_that_is_decommissioned_gets_no_more_commands() {
    let mut w = World::new();
    w.status(false);
    w.order(order("c", "d"));
    w.take(Record::Decommission(DeviceId::new("d").unwrap()));
    w.wait(S);
    assert_eq!(w.state("c"), "refused");
}

#[test]
fn a_device_that_moves_takes_along_only_what_was_not_sent() {
    let mut w = World::new();
    w.order(order("sent", "d"));
    w.status(false);
    w.order(order("queued", "d"));
    w.fx();
    let moved = batch_record("gw-2", 1, 1, &[temperature("d", w.now, 1.0)], w.now);
    w.bench.at(w.now, &[moved]);
    w.wait(S);
    let sends = w.fx().sends;
    let to: Vec<_> = sends
        .iter()
        .map(|s| (s.agent.as_str(), s.command.id.as_str()))
        .collect();
    assert_eq!(to, [("gw-2", "queued")]);
    w.status(true);
    assert_eq!(w.sent(), ["sent"], "to the agent that may have run it");
}

#[test]
fn what_was_not_sent_can_be_taken_back_and_what_was_cannot() {
    let mut w = World::new();
    w.order(order("sent", "d"));
    w.status(false);
    w.order(order("queued", "d"));
    for id in ["sent", "queued", "nothing"] {
        w.take(Record::CommandControl(CommandControl::Cancel {
            id: id.to_owned(),
            by: "bob".to_owned(),
        }));
    }
    assert_eq!((w.state("sent"), w.state("queued")), ("sent", "cancelled"));
    assert_eq!(w.command("queued").reason.unwrap(), "taken back by bob");
    w.fx();
    w.status(true);
    w.wait(S);
    assert!(!w.sent().contains(&"queued".to_owned()));
}

#[test]
fn the_stop_switch_holds_back_everything_but_what_is_forced() {
    let mut w = World::new();
    let stop = |on| {
        Record::CommandControl(CommandControl::Stop {
            on,
            by: "ann".to_owned(),
            why: "storm".to_owned(),
        })
    };
    w.order(order("before", "d"));
    w.fx();
    w.take(stop(true));
    assert_eq!(w.fx().controls.len(), 1);
    w.order(order("c", "d"));
    w.order(Order {
        force: true,
        ..order("forced", "d")
    });
    w.wait_in_contact(MINUTE);
    let sent = w.sent();
    assert!(sent.iter().all(|id| id == "forced"), "{sent:?}");
    let shown = w.bench.p.command_stop();
    assert!(shown.on && shown.by.as_deref() == Some("ann"));
    w.restart();
    assert!(w.bench.p.command_stop().on);
    w.take(stop(false));
    assert!(w.sent().contains(&"c".to_owned()));
    assert!(!w.bench.p.command_stop().on);
}

#[test]
fn a_dry_run_is_recorded_and_not_sent() {
    let mut w = World::new();
    w.order(Order {
        dry_run: true,
        ..order("c", "d")
    });
    assert_eq!(w.state("c"), "dry_run");
    let fx = w.fx();
    assert!(fx.sends.is_empty());
    assert_eq!(fx.outcomes[0].state, Some(State::Succeeded));
}

#[test]
fn an_agent_is_given_no_more_than_it_takes() {
    let mut w = World::new();
    for i in 0..1005 {
        w.order(order(&format!("c{i:04}"), "d"));
    }
    let sent = w.sent();
    assert_eq!(sent.len(), 16);
    assert_eq!(w.state("c1000"), "refused");
    w.batch(&[report("c0003", State::Succeeded)]);
    assert_eq!(w.sent(), ["c0016"]);
    w.restart();
    w.batch(&[report("c0000", State::Succeeded)]);
    assert_eq!(w.sent(), ["c0017"]);
}

#[test]
fn ended_commands_are_remembered_for_long_but_not_for_ever() {
    let mut w = World::new();
    for i in 0..10_050 {
        w.order(order(&format!("c{i:05}"), "nobody"));
        if i % 500 == 0 {
            w.wait(S);
        }
    }
    let all = |w: &World| {
        let query = CommandQuery {
            limit: 2,
            ..CommandQuery::default()
        };
        w.bench.p.list_commands(&query)
    };
    let page = all(&w);
    assert_eq!(page.total, 10_000);
    assert_eq!(page.items[0].id, "c10049");
    let after = (page.items[1].issued.0, page.items[1].id.clone());
    let query = CommandQuery {
        state: Some("refused".to_owned()),
        after: Some(after),
        limit: 1,
        ..CommandQuery::default()
    };
    assert_eq!(w.bench.p.list_commands(&query).items[0].id, "c10047");
    w.now += 30 * 24 * HOUR;
    w.wait(2 * S);
    assert_eq!(all(&w).total, 0);
}

#[test]
fn a_restart_anywhere_changes_nothing() {
    let story = |restart_at: usize| {
        let mut w = World::new();
        let mut log = Vec::new();
        for step in 0..40 {
            match step {
                3 => w.order(order("a", "d")),
                5 => w.status(false),
                6 => w.order(order("b", "d")),
                9 => w.status(true),
                12 => w.batch(&[report("a", State::Running)]),
                15 => w.batch(&[report("a", State::Succeeded), report("b", State::Refused)]),
                20 => w.order(order("c", "nobody")),
                _ => w.wait(7 * S),
            }
            let fx = w.fx();
            log.push((fx.sends, fx.outcomes, fx.commands));
            w.wait(S);
            if step == restart_at {
                w.restart();
            } else {
                w.wait(S);
            }
            let fx = w.fx();
            log.push((fx.sends, fx.outcomes, fx.commands));
        }
        (log, w.bench.p.state_hash())
    };
    let expected = story(99);
    for step in 0..40 {
        assert!(story(step) == expected, "restarted after step {step}");
    }
}

#[test]
fn what_a_replay_did_not_send_is_due_afterwards() {
    let mut w = World::new();
    w.order(order("c", "d"));
    w.order(order("done", "d"));
    w.batch(&[report("done", State::Succeeded)]);
    let due = |w: &World| -> Vec<String> {
        let all = w.bench.p.unanswered();
        all.into_iter().map(|s| s.command.id).collect()
    };
    assert_eq!(due(&w), ["c"]);
    w.status(false);
    assert_eq!(due(&w), [""; 0]);
}

/// A rollout in partition 0 whose devices are in this same partition: what it appends comes back as records.
struct Rollout {
    w: World,
}

impl Rollout {
    fn begin(devices: usize, canary: u32, at_once: u32, failures_max: u32) -> Self {
        let mut w = World::new();
        let samples: Vec<_> = (0..devices)
            .map(|i| temperature(&format!("d{i}"), w.now, 1.0))
            .collect();
        let record = batch_record("gw", 50, 5000, &samples, w.now);
        w.bench.at(w.now, &[record]);
        (w.tx, w.seq) = (60, 10_000);
        let targets = (0..devices).map(|i| (0, DeviceId::new(&format!("d{i}")).unwrap()));
        let order = RolloutOrder {
            id: "r".to_owned(),
            name: "fan".to_owned(),
            args: Default::default(),
            ttl: 5 * MINUTE,
            by: "ann".to_owned(),
            why: String::new(),
            targets: targets.collect(),
            canary,
            at_once,
            failures_max,
            dry_run: false,
        };
        w.take(Record::CommandControl(CommandControl::Rollout(order)));
        let mut all = Self { w };
        all.carry();
        all
    }

    /// Writes what was to be appended, each record twice, until nothing more comes. Gives the ids sent.
    fn carry(&mut self) -> Vec<String> {
        let mut sent = Vec::new();
        loop {
            let fx = self.w.fx();
            sent.extend(fx.sends.into_iter().map(|s| s.command.id));
            if fx.appends.is_empty() {
                return sent;
            }
            for (partition, record) in fx.appends {
                assert_eq!(partition, 0);
                self.w.take(record.clone());
                self.w.take(record);
            }
        }
    }

    fn say(&mut self, id: &str, state: State) -> Vec<String> {
        self.w.batch(&[report(id, state)]);
        self.carry()
    }

    fn shown(&self) -> views::Rollout {
        self.w.bench.p.list_rollouts().remove(0)
    }
}

#[test]
fn a_rollout_waits_for_its_canary_and_then_goes_on_by_turns() {
    let mut r = Rollout::begin(5, 1, 2, 0);
    assert_eq!(r.w.state("r:1"), "sent");
    assert_eq!(r.w.bench.p.find_command("r:2"), None);
    let shown = r.shown();
    assert_eq!(
        (shown.state, shown.waiting, shown.under_way),
        ("canary", 4, 1)
    );
    r.say("r:1", State::Running);
    r.w.restart();
    assert_eq!(r.say("r:1", State::Succeeded), ["r:2", "r:3"]);
    assert_eq!(r.say("r:3", State::Succeeded), ["r:4"]);
    assert_eq!(r.say("r:2", State::Succeeded), ["r:5"]);
    r.say("r:4", State::Succeeded);
    assert_eq!(r.shown().state, "rolling");
    r.say("r:5", State::Succeeded);
    let shown = r.shown();
    assert_eq!((shown.state, shown.succeeded, shown.failed), ("done", 5, 0));
    assert!(shown.ended.is_some());
    assert_eq!(r.w.command("r:5").rollout.as_deref(), Some("r"));
}

#[test]
fn a_canary_that_fails_is_refused_or_expires_stops_the_rollout() {
    for how in ["failed", "refused", "expired"] {
        let mut r = Rollout::begin(3, 1, 0, 5);
        match how {
            "failed" => drop(r.say("r:1", State::Failed)),
            "refused" => drop(r.say("r:1", State::Refused)),
            _ => {
                r.w.wait(7 * MINUTE);
                r.carry();
            }
        }
        let shown = r.shown();
        assert_eq!(
            (shown.state, shown.waiting, shown.failed),
            ("stopped", 2, 1),
            "{how}"
        );
        assert!(shown.reason.unwrap().contains("canary on d0"));
        r.w.restart();
        r.w.wait_in_contact(HOUR);
        assert!(r.carry().iter().all(|id| id == "r:1"), "{how}");
        assert_eq!(r.w.bench.p.find_command("r:2"), None);
        // An operator has mended what was wrong.
        let steer = CommandControl::Steer {
            rollout: Some("r".to_owned()),
            rule: None,
            go_on: true,
            by: "ann".to_owned(),
            why: String::new(),
        };
        r.w.take(Record::CommandControl(steer));
        assert_eq!(r.carry(), ["r:2"], "a canary again");
        assert_eq!(r.say("r:2", State::Succeeded), ["r:3"]);
    }
}

#[test]
fn a_rollout_is_stopped_by_too_many_failures_or_by_hand() {
    let mut r = Rollout::begin(6, 1, 1, 1);
    r.say("r:1", State::Succeeded);
    assert_eq!(r.say("r:2", State::Failed), ["r:3"]);
    assert_eq!(r.say("r:3", State::Failed), [""; 0]);
    assert_eq!(r.shown().state, "stopped");

    let mut r = Rollout::begin(6, 1, 1, 1);
    let steer = CommandControl::Steer {
        rollout: Some("r".to_owned()),
        rule: None,
        go_on: false,
        by: "ann".to_owned(),
        why: "wrong version".to_owned(),
    };
    r.w.take(Record::CommandControl(steer));
    assert_eq!(r.say("r:1", State::Succeeded), [""; 0]);
    let shown = r.shown();
    assert_eq!(shown.state, "stopped");
    assert_eq!(shown.reason.unwrap(), "stopped by ann: wrong version");
}

#[test]
fn a_late_word_of_an_earlier_life_of_the_agent_counts_too() {
    let mut w = World::new();
    w.order(order("c", "d"));
    w.wait(S);
    // The agent begins a new life and sends what the old one left.
    let text = Value::Text(report("c", State::Succeeded).to_text().into());
    let samples = [sample("d", METRIC, w.now, text)];
    let record = batch_record("gw", 99, w.seq + 1, &samples, w.now);
    let Ok(event::RecordRef::Batch(raw)) = event::RecordRef::decode(&record) else {
        panic!("no batch");
    };
    let (mut header, _) = event::batch::peek(raw).unwrap();
    header.incarnation = Incarnation { no: 2, rand: 9 };
    header.tx_no = 1;
    let raw = event::batch::encode(&header, &samples).unwrap();
    w.take(Record::Batch(raw));
    assert_eq!(w.state("c"), "succeeded");
}
