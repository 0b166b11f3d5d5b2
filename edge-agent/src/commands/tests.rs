use super::allow::*;
use super::ledger::*;
use crate::buffer::SavedCommands;
use event::command::{Report, State};
use event::{DeviceId, EventTime};
use std::collections::BTreeMap;
use std::time::Duration;

const NOW: i64 = 1_700_000_000;
const MONO: Duration = Duration::from_secs(10);

pub(crate) fn allowed(name: &str, program: &str, args: &[&str]) -> Allowed {
    let args: Vec<Template> = args.iter().map(|a| Template::new(a).unwrap()).collect();
    let text = |max_length| Limit::Text {
        max_length,
        characters: Characters::new(Characters::DEFAULT).unwrap(),
    };
    let limits = args
        .iter()
        .flat_map(Template::names)
        .map(|n| (n.to_owned(), text(64)))
        .collect();
    Allowed {
        name: name.to_owned(),
        program: program.into(),
        args,
        limits,
        devices: Vec::new(),
        timeout: Duration::from_secs(30),
        stop_grace: Duration::from_secs(5),
        user: None,
        dir: "/".into(),
        env: BTreeMap::new(),
        output_bytes_max: 4096,
        max_per_hour: 60,
        dry_run: false,
    }
}

fn args(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    owned.collect()
}

fn secs(s: i64) -> Option<EventTime> {
    Some(EventTime::from_secs(s))
}

fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

/// Issued a minute ago, expires in a minute.
fn order(id: &str, name: &str, pairs: &[(&str, &str)]) -> Order {
    Order {
        id: id.to_owned(),
        device: device("gw"),
        name: name.to_owned(),
        args: args(pairs),
        life: secs(NOW - 60).zip(secs(NOW + 60)),
        reason: None,
        start_by: None,
    }
}

fn list() -> Vec<Allowed> {
    let mut restart = allowed(
        "restart",
        "/bin/true",
        &["restart", "{service}", "--note={note}"],
    );
    let services = ["nginx", "app", "-x"].map(str::to_owned).to_vec();
    restart
        .limits
        .insert("service".to_owned(), Limit::OneOf(services));
    restart.devices = vec![device("pump-1")];
    restart.max_per_hour = 3;
    vec![allowed("reboot", "/bin/false", &[]), restart]
}

fn decide(order: &Order, now: Option<EventTime>) -> Verdict {
    Ledger::default().decide(order, &list(), "gw", now, MONO)
}

#[track_caller]
fn refused(order: &Order, expected: &str) {
    match decide(order, secs(NOW)) {
        Verdict::Refused(reason) => assert!(reason.contains(expected), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_list_allows_becomes_arguments_one_for_one() {
    let good = order(
        "1",
        "restart",
        &[("service", "app"), ("note", "a/b.c:d@e-f_1")],
    );
    let argv = ["restart", "app", "--note=a/b.c:d@e-f_1"].map(str::to_owned);
    assert_eq!(decide(&good, secs(NOW)), Verdict::Start(1, argv.to_vec()));
    // A listed value may begin with a dash: the operator has written it.
    let dash = order("1", "restart", &[("service", "-x"), ("note", "n")]);
    assert!(matches!(decide(&dash, secs(NOW)), Verdict::Start(1, _)));
    let mut other = good;
    other.device = device("pump-1");
    assert!(matches!(decide(&other, secs(NOW)), Verdict::Start(1, _)));
}

#[test]
fn what_it_does_not_allow_is_refused_with_the_reason() {
    refused(
        &order("1", "restrat", &[]),
        "no command \"restrat\" is allowed on this device; did you mean \"restart\"?",
    );
    let with =
        |service: &str, note: &str| order("1", "restart", &[("service", service), ("note", note)]);
    refused(
        &with("sshd", "n"),
        "argument \"service\": \"sshd\" is not an allowed value",
    );
    refused(
        &order("1", "restart", &[("service", "app")]),
        "the argument \"note\" is missing",
    );
    refused(
        &order("1", "reboot", &[("now", "1")]),
        "\"reboot\" takes no argument \"now\"",
    );
    // The device is not the sender's to say.
    refused(
        &order("1", "reboot", &[("device", "x")]),
        "takes no argument \"device\"",
    );
    refused(&with("app", ""), "argument \"note\": it is empty");
    refused(&with("app", "--force"), "begins with \"-\"");
    refused(&with("app", &"x".repeat(65)), "65 characters, more than 64");
    for bad in [
        "a b",
        "$(id)",
        "`id`",
        "a;b",
        "a|b",
        "a&b",
        "a>b",
        "a\nb",
        "a\0b",
        "*",
        "'",
        "\"",
        "{service}",
        "ü",
        "~",
        "\\",
    ] {
        refused(&with("app", bad), "is not allowed");
    }
    let mut foreign = with("app", "n");
    foreign.device = device("pump-2");
    refused(&foreign, "is not allowed for the device pump-2");
    let mut foreign = order("1", "reboot", &[]);
    foreign.device = device("pump-1");
    refused(&foreign, "is not allowed for the device pump-1");
}

#[test]
fn values_are_never_read_as_templates() {
    let mut entry = allowed("x", "/bin/true", &["{a}{b}", "{{a}}"]);
    let any = Limit::OneOf(vec!["{b}".to_owned(), "1".to_owned()]);
    entry.limits = BTreeMap::from([("a".to_owned(), any.clone()), ("b".to_owned(), any)]);
    let found = argv(
        &[entry],
        "gw",
        &device("gw"),
        "x",
        &args(&[("a", "{b}"), ("b", "1")]),
    );
    assert_eq!(found, Ok((0, vec!["{b}1".to_owned(), "{a}".to_owned()])));
}

#[test]
fn sets_of_characters_are_read_with_ranges() {
    let contains = |set: &str, text: &str| {
        let limit = Limit::Text {
            max_length: 9,
            characters: Characters::new(set).unwrap(),
        };
        let mut entry = allowed("x", "/bin/true", &["{a}"]);
        entry.limits = BTreeMap::from([("a".to_owned(), limit)]);
        argv(&[entry], "gw", &device("gw"), "x", &args(&[("a", text)])).is_ok()
    };
    assert!(contains("a-c", "abc") && !contains("a-c", "d") && !contains("a-c", "a-c"));
    assert!(contains("a-", "a-a") && contains("-a", "a-") && !contains("-a", "-a"));
    assert!(contains(" -~", "a b$") && !contains(" -~", "ü") && contains("ä-ü", "ü"));
    for bad in ["", "b-a", "\n", "a-\u{7f}"] {
        assert!(Characters::new(bad).is_err(), "{bad:?}");
    }
    // A range over control characters does not let them in.
    assert!(!contains(" -\u{a1}", "\u{7f}"));
}

#[test]
fn a_command_is_never_started_after_its_time() {
    let good = order("1", "reboot", &[]);
    let table = [
        (NOW, "start"),
        (NOW + 59, "start"),
        (NOW + 60, "expired"),
        (NOW + 61, "expired"),
        // Issued in the future: a clock that lags behind is no reason.
        (NOW - 3600, "start"),
        (NOW - 31 * 86_400, "30 days"),
    ];
    for (now, expected) in table {
        let got = match decide(&good, secs(now)) {
            Verdict::Start(..) => "start".to_owned(),
            Verdict::Expired(reason) => reason,
            Verdict::Refused(reason) => reason,
            Verdict::NeedsTime => "time".to_owned(),
        };
        assert!(got.contains(expected), "{now}: {got}");
    }
    assert_eq!(decide(&good, None), Verdict::NeedsTime);
    // What is refused anyway needs no time, and what was given here has none.
    assert!(matches!(
        decide(&order("1", "x", &[]), None),
        Verdict::Refused(_)
    ));
    let local = Order { life: None, ..good };
    assert!(matches!(decide(&local, None), Verdict::Start(..)));
}

fn report(order: &Order, state: State) -> Report {
    Report {
        id: order.id.clone(),
        name: order.name.clone(),
        state,
        exit_code: None,
        duration_ms: None,
        output: None,
        reason: None,
    }
}

/// The rows as the buffer would keep them.
#[derive(Default, Clone)]
struct Disk(SavedCommands);

impl Disk {
    fn note(&mut self, ledger: &mut Ledger, order: &Order, state: State, now: i64) {
        let started = matches!(state, State::Running | State::Succeeded);
        let at = EventTime::from_secs(now);
        let changes = ledger.note(order, &report(order, state), started, Some(at), at);
        for (id, row) in changes.rows {
            self.0.rows.retain(|(known, _)| *known != id);
            self.0.rows.extend(row.map(|bytes| (id, bytes)));
        }
        let until = &mut self.0.marks.forgotten_until;
        *until = (*until).max(changes.forgotten_until);
    }
}

#[test]
fn budgets_hold_over_restarts_and_settings_of_the_clock() {
    let (mut ledger, mut disk) = (Ledger::default(), Disk::default());
    let pairs = [("service", "app"), ("note", "n")];
    for n in 0..3 {
        let order = order(&n.to_string(), "restart", &pairs);
        let verdict = ledger.decide(&order, &list(), "gw", secs(NOW), MONO);
        assert!(matches!(verdict, Verdict::Start(..)), "{n}: {verdict:?}");
        ledger.use_budget("restart", MONO);
        disk.note(&mut ledger, &order, State::Succeeded, NOW);
    }
    let fourth = order("4", "restart", &pairs);
    let allows = |ledger: &mut Ledger, now: i64, mono: u64| {
        let fourth = Order {
            life: secs(now).zip(secs(now + 60)),
            ..fourth.clone()
        };
        let mono = Duration::from_secs(mono);
        match ledger.decide(&fourth, &list(), "gw", secs(now), mono) {
            Verdict::Start(..) => true,
            Verdict::Refused(reason) => {
                assert!(reason.contains("budget"), "{reason}");
                false
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(!allows(&mut ledger, NOW, 10));
    // Setting the clock frees nothing; an hour does.
    assert!(!allows(&mut ledger, NOW + 86_400, 3609));
    assert!(allows(&mut ledger, NOW, 3610));
    // Another name has its own.
    let other = order("5", "reboot", &[]);
    let verdict = ledger.decide(&other, &list(), "gw", secs(NOW), MONO);
    assert!(matches!(verdict, Verdict::Start(..)));
    // Half an hour later, after a restart: the other half is left.
    let load = |now| Ledger::load(disk.0.clone(), secs(now), Duration::ZERO);
    assert!(!allows(&mut load(NOW + 1800), NOW + 1800, 1799));
    assert!(allows(&mut load(NOW + 1800), NOW + 1800, 1800));
    assert!(!allows(&mut load(NOW - 1800), NOW - 1800, 1799));
    assert!(allows(&mut load(NOW + 3600), NOW + 3600, 0));
}

#[test]
fn ids_are_known_until_they_expire_however_many_there_are() {
    let (mut ledger, mut disk) = (Ledger::default(), Disk::default());
    for n in 0..ROWS_MAX {
        assert!(!ledger.is_full(), "{n}");
        let order = order(&n.to_string(), "reboot", &[]);
        disk.note(&mut ledger, &order, State::Refused, NOW);
    }
    assert!(ledger.is_full());
    assert_eq!(disk.0.marks.forgotten_until, None);
    // All have expired; the oldest go, but nothing that expires as late as they can come back.
    let late = Order {
        life: secs(NOW + 70).zip(secs(NOW + 500)),
        ..order("late", "reboot", &[])
    };
    disk.note(&mut ledger, &late, State::Refused, NOW + 100);
    assert_eq!((ledger.len(), disk.0.rows.len()), (ROWS_KEPT, ROWS_KEPT));
    assert_eq!(disk.0.marks.forgotten_until, secs(NOW + 60));
    let mut again = Ledger::load(disk.0.clone(), secs(NOW), MONO);
    // The clock is set back: a forgotten id is delivered again.
    let forgotten = order("0", "reboot", &[]);
    assert!(again.get("0").is_none() && again.get("late").is_some());
    match again.decide(&forgotten, &list(), "gw", secs(NOW), MONO) {
        Verdict::Refused(reason) => assert!(reason.contains("may have run already"), "{reason}"),
        other => panic!("{other:?}"),
    }
    // A month later old rows go even if there is room, those of the present hour excepted.
    let month = NOW + 31 * 86_400;
    let new = Order {
        life: secs(month).zip(secs(month + 1)),
        ..order("new", "reboot", &[])
    };
    disk.note(&mut again, &new, State::Refused, month);
    assert_eq!(again.len(), 1);
}

#[test]
fn what_runs_or_counts_in_a_budget_is_not_forgotten() {
    let (mut ledger, mut disk) = (Ledger::default(), Disk::default());
    disk.note(
        &mut ledger,
        &order("runs", "reboot", &[]),
        State::Running,
        NOW,
    );
    disk.note(
        &mut ledger,
        &order("ran", "reboot", &[]),
        State::Succeeded,
        NOW,
    );
    for n in 0..ROWS_KEPT {
        let order = order(&n.to_string(), "reboot", &[]);
        disk.note(&mut ledger, &order, State::Expired, NOW + 100);
    }
    assert!(ledger.get("runs").is_some() && ledger.get("ran").is_some());
    assert!(ledger.get("0").is_none(), "the table is too kind");
    let unfinished = Ledger::load(disk.0, secs(NOW), MONO).unfinished();
    assert_eq!(unfinished.len(), 1);
    assert_eq!(unfinished[0].0, "runs");
}

#[test]
fn rows_that_are_lost_or_damaged_let_nothing_run_twice() {
    let saved = SavedCommands {
        rows: vec![("bad".to_owned(), vec![0xff; 3])],
        marks: crate::buffer::Marks {
            forgotten_until: None,
            lost_at: secs(NOW - 30),
        },
    };
    let mut ledger = Ledger::load(saved, secs(NOW), MONO);
    assert_eq!(ledger.get("bad").unwrap().state, State::Failed);
    // Issued before the loss.
    let before = order("1", "reboot", &[]);
    match ledger.decide(&before, &list(), "gw", secs(NOW), MONO) {
        Verdict::Refused(reason) => assert!(reason.contains("lost with the buffer"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let after = Order {
        life: secs(NOW - 20).zip(secs(NOW + 60)),
        ..before
    };
    let verdict = ledger.decide(&after, &list(), "gw", secs(NOW), MONO);
    assert!(matches!(verdict, Verdict::Start(..)));
}

#[test]
fn programs_directories_and_users_are_looked_for_at_the_start() {
    let check = |change: &dyn Fn(&mut Allowed)| {
        let mut entry = allowed("x", "/bin/true", &[]);
        change(&mut entry);
        super::check(&[entry]).map_err(|e| e.to_string())
    };
    assert_eq!(check(&|_| {}), Ok(()));
    let error = check(&|a| a.program = "/nowhere/at/all".into()).unwrap_err();
    assert!(
        error.contains("command \"x\": program /nowhere/at/all: No such file"),
        "{error}"
    );
    assert!(
        check(&|a| a.program = "/bin".into())
            .unwrap_err()
            .contains("it is not a file")
    );
    assert!(
        check(&|a| a.program = "/etc/passwd".into())
            .unwrap_err()
            .contains("not executable")
    );
    assert!(
        check(&|a| a.dir = "/nowhere".into())
            .unwrap_err()
            .contains("not a directory")
    );
    let user = check(&|a| a.user = Some("no-such-user".to_owned())).unwrap_err();
    let root = rustix::process::geteuid().is_root();
    let expected = if root {
        "no such user"
    } else {
        "only root can"
    };
    assert!(user.contains(expected), "{user}");
}
