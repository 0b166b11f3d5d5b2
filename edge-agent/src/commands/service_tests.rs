use super::service::*;
use super::tests::allowed;
use super::*;
use crate::buffer::{self, Buffer, SavedCommands};
use crate::clock::{Clock, Quality};
use crate::inbox::{self, Inbox};
use event::command::{METRIC, Report, State};
use event::{AgentId, Command, DeviceId, EventTime};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A device with a disk, without a connection.
struct Device {
    inbox: Arc<Inbox>,
    /// Reports in the order in which they reached the disk.
    reports: Arc<Mutex<Vec<Report>>>,
    /// While true, nothing reaches the disk.
    disk_full: Arc<AtomicBool>,
    commands: Commands,
    service: Service,
    keeper: Option<std::thread::JoinHandle<()>>,
}

fn agent() -> AgentId {
    AgentId::new("gw").unwrap()
}

impl Device {
    fn start(dir: &Path, list: Vec<Allowed>, quality: Quality) -> Self {
        let clock = Clock::new(quality);
        let settings = buffer::Settings::default();
        let buffer = buffer::open(dir, &agent(), &settings, 7, clock.wall()).unwrap();
        let mut buffer: Buffer = buffer.buffer;
        let saved: SavedCommands = buffer.commands().unwrap();
        let inbox = Inbox::new(inbox::Settings::default(), clock);
        let (commands, service) = start(list, &agent(), 7, saved, inbox.clone()).unwrap();
        let reports = Arc::new(Mutex::new(Vec::new()));
        let disk_full = Arc::new(AtomicBool::new(false));
        let keeper = {
            let (inbox, reports, full) = (inbox.clone(), reports.clone(), disk_full.clone());
            std::thread::spawn(move || {
                loop {
                    if full.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(5));
                        continue;
                    }
                    let until = inbox.clock().monotonic() + Duration::from_millis(50);
                    let (news, pending) = inbox.wait(Some(until), false);
                    if let Some(mut pending) = pending {
                        // What the clock is takes no part here.
                        pending.place(inbox.clock().guess_us());
                        buffer.note_commands(&pending.commands);
                        let now = inbox.clock().wall();
                        buffer
                            .append(&pending.samples, &[], pending.volatile, now)
                            .unwrap();
                        assert!(!pending.volatile, "a stop loses nothing of a command");
                        for sample in &pending.samples {
                            assert_eq!(sample.metric.as_str(), METRIC);
                            let event::Value::Text(text) = &sample.value else {
                                panic!("{sample:?}");
                            };
                            reports.lock().unwrap().push(Report::parse(text).unwrap());
                        }
                        inbox.stored(pending);
                    }
                    if !news.is_empty() {
                        return;
                    }
                }
            })
        };
        Self {
            inbox,
            reports,
            disk_full,
            commands,
            service,
            keeper: Some(keeper),
        }
    }

    fn states(&self, id: &str) -> Vec<State> {
        let reports = self.reports.lock().unwrap();
        let of_id = reports.iter().filter(|r| r.id == id);
        of_id.map(|r| r.state).collect()
    }

    fn last(&self, id: &str) -> Option<Report> {
        let reports = self.reports.lock().unwrap();
        reports.iter().rfind(|r| r.id == id).cloned()
    }

    async fn wait_for(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..3000 {
            if condition(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!(
            "{what} has not happened: {:?}",
            self.reports.lock().unwrap()
        );
    }

    fn give(&self, id: &str, name: &str) {
        let now = self.inbox.clock().wall();
        self.commands.deliver(&command(id, name, now, 60).encode());
    }

    async fn stop(mut self) -> Vec<Report> {
        self.service.stop();
        self.service.ended().await.unwrap();
        self.disk_full.store(false, Ordering::SeqCst);
        self.inbox.tell(inbox::News::Finish);
        let keeper = self.keeper.take().unwrap();
        keeper.join().unwrap();
        let reports = self.reports.lock().unwrap();
        reports.clone()
    }
}

fn command(id: &str, name: &str, now: EventTime, life_s: i64) -> Command {
    Command {
        id: id.to_owned(),
        device: DeviceId::new("gw").unwrap(),
        name: name.to_owned(),
        args: BTreeMap::new(),
        issued_at: now,
        expires_at: EventTime(now.0 + life_s * 1_000_000),
    }
}

fn sleeper(name: &str, seconds: &str) -> Allowed {
    allowed(name, "/bin/sleep", &[seconds])
}

#[tokio::test]
async fn a_local_command_runs_by_the_same_rules_and_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let mut echo = allowed("echo", "/bin/echo", &["on", "{what}"]);
    echo.max_per_hour = 1;
    let device = Device::start(dir.path(), vec![echo], Quality::None);
    let args = |what: &str| BTreeMap::from([("what".to_owned(), what.to_owned())]);
    let bad = device
        .commands
        .run_local("echo", args("a b"), "rule hot")
        .await
        .unwrap();
    assert_eq!(bad.state, State::Refused);
    assert!(bad.reason.unwrap().ends_with("(given because: rule hot)"));
    let good = device
        .commands
        .run_local("echo", args("fire"), "rule hot")
        .await
        .unwrap();
    assert_eq!((good.state, good.exit_code), (State::Succeeded, Some(0)));
    assert_eq!(good.output.as_deref(), Some("on fire"));
    let over = device
        .commands
        .run_local("echo", args("fire"), "rule hot")
        .await
        .unwrap();
    assert!(over.reason.unwrap().contains("budget"));
    let ids = [&bad.id, &good.id, &over.id];
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids.iter().all(|id| id.starts_with("local-")));
    let reports = device.stop().await;
    let states: Vec<State> = reports.iter().map(|r| r.state).collect();
    assert_eq!(
        states,
        [
            State::Refused,
            State::Running,
            State::Succeeded,
            State::Refused
        ]
    );
    assert_eq!(reports[1].reason.as_deref(), Some("rule hot"));
    // The next life knows them, and has no budget left.
    let mut echo = allowed("echo", "/bin/echo", &["on", "{what}"]);
    echo.max_per_hour = 1;
    let device = Device::start(dir.path(), vec![echo], Quality::Ntp);
    let over = device
        .commands
        .run_local("echo", args("fire"), "")
        .await
        .unwrap();
    assert!(over.reason.unwrap().contains("budget"));
    device.stop().await;
}

#[tokio::test]
async fn a_local_command_with_an_id_runs_once_and_not_late() {
    let dir = tempfile::tempdir().unwrap();
    let list = || vec![allowed("echo", "/bin/echo", &[]), sleeper("nap", "0.3")];
    let local = |id: &str, name: &str, start_by| Local {
        id: Some(id.to_owned()),
        device: None,
        name: name.to_owned(),
        args: BTreeMap::new(),
        reason: "rule hot".to_owned(),
        start_by,
    };
    let device = Device::start(dir.path(), list(), Quality::None);
    for _ in 0..20 {
        let once = local("once", "echo", Some(Duration::from_secs(600)));
        device.commands.give_local(once).await.unwrap();
    }
    // The second waits for the first, longer than it may.
    for (id, within) in [("first", None), ("second", Some(Duration::from_millis(1)))] {
        let nap = local(id, "nap", within);
        device.commands.give_local(nap).await.unwrap();
    }
    device
        .wait_for("the ends", |d| {
            ["once", "second"]
                .iter()
                .all(|id| d.last(id).is_some_and(|r| r.state.is_final()))
        })
        .await;
    assert_eq!(device.states("once"), [State::Running, State::Succeeded]);
    assert_eq!(device.states("second"), [State::Expired]);
    let late = device.last("second").unwrap().reason.unwrap();
    assert!(late.contains("waited too long"), "{late}");
    device.stop().await;
    // The next life knows it.
    let device = Device::start(dir.path(), list(), Quality::None);
    let once = local("once", "echo", None);
    device.commands.give_local(once).await.unwrap();
    let args = BTreeMap::new();
    device.commands.run_local("echo", args, "").await.unwrap();
    assert_eq!(device.states("once"), []);
    device.stop().await;
}

#[tokio::test]
async fn one_at_a_time_per_name_and_four_at_once_and_few_wait() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["a", "b", "c", "d", "e"];
    let list = names.map(|n| sleeper(n, "1000")).to_vec();
    let device = Device::start(dir.path(), list, Quality::Ntp);
    let running = |d: &Device| {
        let reports = d.reports.lock().unwrap();
        reports.iter().filter(|r| r.state == State::Running).count()
    };
    for (n, name) in [(1, "a"), (2, "a"), (3, "b"), (4, "c"), (5, "d"), (6, "e")] {
        device.give(&n.to_string(), name);
    }
    device
        .wait_for("four at once", |d| running(d) == RUNNING_MAX)
        .await;
    for n in 0..QUEUE_MAX {
        device.give(&format!("more-{n}"), "a");
    }
    // Two and the rest wait; the last two have no room.
    for n in [QUEUE_MAX - 2, QUEUE_MAX - 1] {
        let id = format!("more-{n}");
        device
            .wait_for("the refusal", |d| d.states(&id) == [State::Refused])
            .await;
    }
    assert_eq!(running(&device), RUNNING_MAX);
    assert!(device.states("2").is_empty() && device.states("6").is_empty());
    device.service.stop_now();
    let reports = device.stop().await;
    // What ran was ended and says so; what waited is not known, and can be given again.
    for id in ["1", "3", "4", "5"] {
        let last = reports.iter().rfind(|r| r.id == id).unwrap();
        assert_eq!(last.state, State::Failed);
        assert!(
            last.reason.as_deref().unwrap().contains("told to stop"),
            "{last:?}"
        );
    }
    assert!(!reports.iter().any(|r| r.id == "2" || r.id == "6"));
}

#[tokio::test]
async fn the_start_is_on_disk_before_the_program_starts() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let touch = allowed("touch", "/bin/touch", &[mark.to_str().unwrap()]);
    let device = Device::start(dir.path(), vec![touch.clone()], Quality::Ntp);
    device.disk_full.store(true, Ordering::SeqCst);
    // The keeper may be in the middle of its last wait.
    tokio::time::sleep(Duration::from_millis(200)).await;
    device.give("1", "touch");
    let now = device.inbox.clock().wall();
    device
        .commands
        .deliver(&command("2", "touch", now, 1).encode());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!mark.exists(), "it ran before its start was noted");
    device.disk_full.store(false, Ordering::SeqCst);
    device
        .wait_for("the end", |d| {
            d.states("1") == [State::Running, State::Succeeded]
        })
        .await;
    assert!(mark.exists());
    device
        .wait_for("the other", |d| d.states("2") == [State::Expired])
        .await;
    // Again, and the agent stops while the disk is full: nothing runs, and the next life says so.
    std::fs::remove_file(&mark).unwrap();
    device.disk_full.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(200)).await;
    device.give("3", "touch");
    tokio::time::sleep(Duration::from_millis(100)).await;
    device.stop().await;
    let device = Device::start(dir.path(), vec![touch], Quality::Ntp);
    device
        .wait_for("the verdict", |d| d.states("3") == [State::Failed])
        .await;
    assert!(!mark.exists());
    device.give("3", "touch");
    device.stop().await;
    assert!(!mark.exists());
}

#[tokio::test]
async fn without_a_clock_the_cloud_says_what_time_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let list = vec![allowed("true", "/bin/true", &[])];
    let device = Device::start(dir.path(), list, Quality::None);
    // By the device's own clock both are good.
    let now = device.inbox.clock().wall();
    device
        .commands
        .deliver(&command("old", "true", now, 60).encode());
    device
        .commands
        .deliver(&command("new", "true", now, 6000).encode());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(
        device.reports.lock().unwrap().is_empty(),
        "it is not known whether they expired"
    );
    device
        .inbox
        .heard_cloud_time(EventTime(now.0 + 600_000_000));
    device
        .wait_for("both", |d| {
            d.last("old").is_some() && d.last("new").is_some_and(|r| r.state.is_final())
        })
        .await;
    assert_eq!(device.states("old"), [State::Expired]);
    assert_eq!(device.states("new"), [State::Running, State::Succeeded]);
    // A clock that is behind the cloud's does not make a command live longer.
    device.stop().await;
    let list = vec![allowed("true", "/bin/true", &[])];
    let device = Device::start(dir.path(), list, Quality::Rtc);
    device
        .inbox
        .heard_cloud_time(EventTime(now.0 + 600_000_000));
    device.give("behind", "true");
    device
        .wait_for("the verdict", |d| d.states("behind") == [State::Expired])
        .await;
    device.stop().await;
}

#[tokio::test]
async fn a_dry_run_says_what_it_would_do_and_a_repeat_gets_the_result_once() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let mut touch = allowed("touch", "/bin/touch", &[mark.to_str().unwrap()]);
    touch.dry_run = true;
    let device = Device::start(dir.path(), vec![touch.clone()], Quality::Ntp);
    for _ in 0..20 {
        device.give("1", "touch");
    }
    device.commands.deliver(b"this is no command");
    device
        .commands
        .deliver(&command("bad id", "touch", EventTime(0), 1).encode());
    device.give("2", "nothing");
    device
        .wait_for("the refusal", |d| d.last("2").is_some())
        .await;
    let reports = device.stop().await;
    assert_eq!(reports.len(), 2, "{reports:?}");
    assert_eq!(reports[0].state, State::Succeeded);
    let reason = reports[0].reason.clone().unwrap();
    assert!(
        reason.starts_with("dry run, nothing was started: /bin/touch [\""),
        "{reason}"
    );
    assert!(!mark.exists());
    // The next life answers a repeat with what it knows, once.
    let device = Device::start(dir.path(), vec![touch], Quality::Ntp);
    for _ in 0..20 {
        device.give("1", "touch");
    }
    device.give("3", "nothing");
    device
        .wait_for("the refusal", |d| d.last("3").is_some())
        .await;
    let again = device.stop().await;
    assert_eq!(
        again.iter().filter(|r| r.id == "1").collect::<Vec<_>>(),
        [&reports[0]]
    );
}
