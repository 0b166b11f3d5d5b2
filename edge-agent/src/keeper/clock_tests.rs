//! The keeper with clocks that are wrong, and a cloud that keeps to the protocol.

use std::sync::Mutex;

use event::{
    Ack, AgentId, BatchHeader, Columns, DeviceId, GapReason, MetricName, RefusalReason,
    RefusedRange, Sample, SeqRange, Value, batch,
};
use tokio::runtime::Runtime;

use super::tests::keeper;
use super::*;
use crate::buffer::{self, Buffer, UNCERTAIN};
use crate::clock::tests::{Fake, SECOND, T};
use crate::clock::{Clock, Quality};
use crate::inbox::{self, Position, Reading, SourceId};
use crate::uplink::session;

/// What the cloud has heard.
#[derive(Debug, Default)]
struct Heard {
    headers: Vec<BatchHeader>,
    samples: Vec<Sample>,
    /// A promise that did not hold: (watermark, time).
    broken: Vec<(EventTime, EventTime)>,
}

/// An agent's process without sources and network.
struct Process {
    inbox: Arc<Inbox>,
    source: SourceId,
    kept: Option<std::thread::JoinHandle<Result<u64, BufferError>>>,
    cloud: Option<std::thread::JoinHandle<()>>,
    heard: Arc<Mutex<Heard>>,
    /// By how much the cloud's clock is ahead of what the agent said; none = it does not tell the time.
    tells: Arc<Mutex<Option<EventTime>>>,
    health: Health,
    runtime: Runtime,
}

fn agent() -> AgentId {
    AgentId::new("gw").unwrap()
}

impl Process {
    fn start(dir: &std::path::Path, clock: Clock, connected: bool) -> Self {
        Self::start_with(dir, clock, connected, buffer::Settings::default(), |_| {})
    }

    /// With a keeper that is changed by `prepare` before it runs.
    fn start_with(
        dir: &std::path::Path,
        clock: Clock,
        connected: bool,
        settings: buffer::Settings,
        prepare: impl FnOnce(&mut Keeper),
    ) -> Self {
        let opened = buffer::open(dir, &agent(), &settings, rand::random(), clock.known()).unwrap();
        let buffer: Buffer = opened.buffer;
        clock.know_disk(buffer.committed_at(), buffer.offset_of(clock.boot_id()));
        let settings = session::Settings {
            heartbeat: Duration::from_secs(1),
            ack_timeout: Duration::from_secs(1),
            ..session::Settings::default()
        };
        let core = Core::new(agent(), buffer, settings, 1 << 20, 1);
        let inbox = Inbox::new(
            inbox::Settings {
                commit_interval: Duration::ZERO,
                ..inbox::Settings::default()
            },
            clock,
        );
        let (link, mut to_link) = mpsc::channel(TO_LINK_MAX);
        let health = Health::default();
        let mut keeper = Keeper {
            health: health.clone(),
            ..keeper(&inbox, link, dir)
        };
        prepare(&mut keeper);
        let kept = std::thread::spawn(move || keeper.run(core));
        let heard = Arc::new(Mutex::new(Heard::default()));
        let tells = Arc::new(Mutex::new(None));
        let cloud = {
            let (inbox, heard, tells) = (inbox.clone(), heard.clone(), tells.clone());
            std::thread::spawn(move || {
                while let Some(message) = to_link.blocking_recv() {
                    if let ToLink::Batch(payload) = message {
                        let ack = heard.lock().unwrap().take(&payload, *tells.lock().unwrap());
                        inbox.tell(News::Ack(ack.encode()));
                    }
                }
            })
        };
        let process = Self {
            source: inbox.register(Position::Live),
            kept: Some(kept),
            cloud: Some(cloud),
            heard,
            tells,
            health,
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap(),
            inbox,
        };
        if connected {
            process.inbox.tell(News::Connected);
        }
        process
    }

    /// A reading, and that it is on disk. With a time if it has one of its own.
    fn read(&self, n: i64, time: Option<EventTime>) {
        let reading = Reading {
            device: DeviceId::new("d").unwrap(),
            metric: MetricName::new("m").unwrap(),
            time,
            value: Value::Number(n as f64),
        };
        let push = self.inbox.push_live(self.source, vec![reading], None, true);
        let ticket = self.runtime.block_on(push).unwrap();
        let mut on_disk = self.inbox.on_disk();
        let stored = on_disk.wait_for(|newest| *newest >= ticket);
        self.runtime.block_on(stored).map(drop).unwrap();
    }

    /// Waits until the cloud has heard what `enough` wants; the keeper is woken, because the clock of
    /// the test stands still.
    fn wait_for(&self, what: &str, enough: impl Fn(&Heard) -> bool) {
        for _ in 0..3000 {
            if enough(&self.heard.lock().unwrap()) {
                return;
            }
            self.inbox.tell(News::Alive);
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{what}: {:?}", self.heard.lock().unwrap());
    }

    /// Waits for its own end, while time passes. Returns what it ended with.
    fn ended(mut self, machine: &Fake) -> u64 {
        let kept = self.kept.take().unwrap();
        for _ in 0..3000 {
            if kept.is_finished() {
                break;
            }
            machine.pass(SECOND / 10);
            self.inbox.tell(News::Alive);
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(kept.is_finished(), "it does not end: {:?}", self.heard);
        let unplaced = kept.join().unwrap().unwrap();
        self.cloud.take().unwrap().join().unwrap();
        unplaced
    }

    /// Ends it in order; what a kill leaves is proved with the buffer, and with the program.
    fn stop(mut self) {
        self.inbox.tell(News::Stop(Duration::ZERO));
        if let Some(kept) = self.kept.take() {
            kept.join().unwrap().unwrap();
        }
        if let Some(cloud) = self.cloud.take() {
            cloud.join().unwrap();
        }
    }

    fn samples(&self) -> Vec<Sample> {
        self.heard.lock().unwrap().samples.clone()
    }
}

impl Heard {
    fn take(&mut self, payload: &[u8], time: Option<EventTime>) -> Ack {
        let (header, body) = batch::peek(payload).unwrap();
        let mut columns = Columns::default();
        body.decode_into(&mut columns).unwrap();
        let promised = self.headers.last().map(|h| h.low_watermark);
        for i in 0..columns.len() {
            let sample = columns.sample(i).unwrap();
            if let Some(promised) = promised.filter(|p| sample.time < *p) {
                self.broken.push((promised, sample.time));
            }
            self.samples.push(sample);
        }
        let mut ack = Ack {
            incarnation: header.incarnation,
            tx_no: header.tx_no,
            cloud_received_at: time.unwrap_or_default(),
            cloud_sent_at: time.unwrap_or_default(),
            ..Ack::default()
        };
        ack.ranges.extend((header.count > 0).then(|| SeqRange {
            incarnation: header.e_inc,
            first: header.first_seq,
            last: header.first_seq + u64::from(header.count) - 1,
        }));
        self.headers.push(header);
        ack
    }
}

/// Value and time of each.
fn values(samples: &[Sample]) -> Vec<(i64, EventTime)> {
    let mut values: Vec<_> = samples
        .iter()
        .filter(|s| s.metric.as_str() == "m")
        .map(|s| (s.value.as_number().unwrap() as i64, s.time))
        .collect();
    values.sort_unstable();
    values
}

#[test]
fn a_clock_at_1970_holds_its_readings_until_the_network_sets_it() {
    let dir = tempfile::tempdir().unwrap();
    // A life before, with a clock that was right.
    let machine = Fake::booted("before", T - 3600 * SECOND);
    let process = Process::start(dir.path(), machine.clock(Quality::Ntp), false);
    process.read(-1, None);
    process.stop();

    let machine = Fake::booted("a", 0);
    let process = Process::start(dir.path(), machine.clock(Quality::Auto), true);
    for n in 1..=5 {
        machine.pass(10 * SECOND);
        process.read(n, None);
    }
    // One that brings its own time is not held.
    process.read(100, Some(EventTime(T - 10)));
    process.wait_for("heartbeats", |h| h.headers.len() > 2);
    // In the middle the process ends and another begins.
    let heard = process.heard.clone();
    process.stop();
    let process = Process::start(dir.path(), machine.clock(Quality::Auto), true);
    machine.pass(10 * SECOND);
    process.read(6, None);
    machine.pass(2 * SECOND);
    process.wait_for("a heartbeat with it", |h| {
        h.headers.iter().any(|h| h.held.events >= 6)
    });
    let mut before = heard.lock().unwrap().headers.clone();
    before.extend(process.heard.lock().unwrap().headers.clone());
    for header in &before {
        assert!(
            header.low_watermark <= EventTime(T - 3600 * SECOND),
            "{header:?}"
        );
        assert_eq!(header.clock.quality, event::ClockQuality::None);
        assert!(
            header.sent_at >= EventTime(T - 3600 * SECOND),
            "the best guess"
        );
    }
    // It booted at T: now is 62 s later.
    machine.synchronise(T + 62 * SECOND);
    machine.pass(SECOND);
    process.wait_for("what was held", |h| {
        values(&h.samples).iter().any(|v| v.0 == 6)
    });
    process.read(7, None);
    process.wait_for("the last", |h| values(&h.samples).iter().any(|v| v.0 == 7));
    let mut all = heard.lock().unwrap().samples.clone();
    all.extend(process.samples());
    let mut expected = vec![(-1, EventTime(T - 3600 * SECOND))];
    expected.extend((1..=6).map(|n| (n, EventTime(T + n * 10 * SECOND))));
    expected.push((7, EventTime(T + 63 * SECOND)));
    expected.push((100, EventTime(T - 10)));
    let mut found = values(&all);
    found.dedup();
    assert_eq!(found, expected);
    let all = process.heard.lock().unwrap();
    assert_eq!(all.broken, []);
    assert!(all.headers.last().unwrap().low_watermark >= EventTime(T + 63 * SECOND));
    drop(all);
    process.stop();
}

#[test]
fn a_machine_that_nothing_sets_takes_the_time_of_the_cloud_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Fake::booted("a", 0);
    machine.pass(100 * SECOND);
    let process = Process::start(dir.path(), machine.clock(Quality::Auto), true);
    process.read(1, None);
    machine.pass(10 * SECOND);
    process.read(2, None);
    *process.tells.lock().unwrap() = Some(EventTime(T));
    // The next heartbeat.
    machine.pass(2 * SECOND);
    process.wait_for("both", |h| values(&h.samples).len() == 2);
    let found = values(&process.samples());
    // Half of the round trip, if the answer was to the heartbeat before the two seconds.
    let off = found[0].1.0 - (T - 12 * SECOND);
    assert!((0..=SECOND).contains(&off), "{found:?}");
    let expected = [
        (1, EventTime(T - 12 * SECOND + off)),
        (2, EventTime(T - 2 * SECOND + off)),
    ];
    assert_eq!(found, expected);
    assert_eq!(process.heard.lock().unwrap().broken, []);
    process.stop();
    // Without a network the next process of this boot knows the time, too.
    machine.pass(10 * SECOND);
    let clock = machine.clock(Quality::Auto);
    let process = Process::start(dir.path(), clock.clone(), false);
    assert_eq!(clock.wall(), EventTime(T + 10 * SECOND + off));
    process.read(3, None);
    process.inbox.tell(News::Connected);
    process.wait_for("the third", |h| values(&h.samples).len() == 1);
    assert_eq!(
        values(&process.samples()),
        [(3, EventTime(T + 10 * SECOND + off))]
    );
    process.stop();
}

#[test]
fn a_cloud_that_tells_no_time_does_not_keep_timed_events_back_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Fake::booted("a", 0);
    let process = Process::start(dir.path(), machine.clock(Quality::Auto), true);
    process.read(1, None);
    process.read(2, Some(EventTime(T)));
    for _ in 0..TIMELESS_ANSWERS_MAX {
        let count = process.heard.lock().unwrap().headers.len();
        machine.pass(2 * SECOND);
        process.wait_for("a heartbeat", |h| h.headers.len() > count);
    }
    process.wait_for("the second", |h| !h.samples.is_empty());
    assert_eq!(values(&process.samples()), [(2, EventTime(T))]);
    process.stop();
}

#[test]
fn a_boot_that_never_knew_the_time_is_placed_and_marked_in_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Fake::booted("before", T);
    let process = Process::start(dir.path(), machine.clock(Quality::Ntp), false);
    process.read(0, None);
    process.stop();
    let machine = Fake::booted("a", 0);
    let process = Process::start(dir.path(), machine.clock(Quality::Auto), true);
    machine.pass(10 * SECOND);
    process.read(1, None);
    process.stop();
    // It boots a day later.
    let machine = Fake::booted("b", T + 86_400 * SECOND);
    let process = Process::start(dir.path(), machine.clock(Quality::Ntp), true);
    process.wait_for("the old one", |h| values(&h.samples).len() == 2);
    let samples = process.samples();
    let expected = [(0, EventTime(T)), (1, EventTime(T + 10 * SECOND))];
    assert_eq!(values(&samples), expected);
    let mark = samples.iter().find(|s| s.metric.as_str() == UNCERTAIN);
    let mark = mark.unwrap();
    assert_eq!(mark.device.as_str(), "gw");
    assert_eq!(
        (mark.time, mark.value.as_number()),
        (expected[1].1, Some(86_390.))
    );
    let clock = process.inbox.clock();
    let (now, wall, report) = (clock.monotonic(), clock.wall(), clock.report());
    let process_now = crate::health::Process::default();
    let snapshot = process
        .health
        .snapshot(now, wall, report, process_now, None);
    assert_eq!(snapshot.uncertain_seconds, Some(86_390.));
    process.stop();
}

#[test]
fn steps_of_an_hour_and_a_suspend_are_followed_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Fake::booted("a", T);
    let process = Process::start(dir.path(), machine.clock(Quality::Ntp), true);
    let watermark = |process: &Process| {
        let heard = process.heard.lock().unwrap();
        heard.headers.last().map(|h| h.low_watermark)
    };
    let mut expected = Vec::new();
    let hour = 3600 * SECOND;
    let mut wall = T;
    for (n, jump) in [(1, 0), (2, hour), (3, -hour), (4, -hour), (5, 0)] {
        wall += jump;
        machine.set(wall);
        process.read(n, None);
        expected.push((n, EventTime(wall)));
        process.wait_for("it", |h| values(&h.samples).len() == expected.len());
        assert!(
            watermark(&process) <= Some(EventTime(wall)),
            "the cloud is told"
        );
    }
    assert_eq!(process.inbox.clock().report().steps, 3);
    let mono = process.inbox.clock().monotonic();
    machine.suspend(8 * hour);
    process.read(6, None);
    expected.push((6, EventTime(wall + 8 * hour)));
    process.wait_for("the last", |h| values(&h.samples).len() == 6);
    assert_eq!(values(&process.samples()), expected);
    assert_eq!(
        process.inbox.clock().monotonic(),
        mono,
        "waits go on as they were"
    );
    let heard = process.heard.lock().unwrap();
    assert!(heard.headers.iter().all(|h| h.unclean.is_none()));
    drop(heard);
    process.stop();
}

#[test]
fn what_has_expired_is_on_disk_as_lost_before_the_cloud_hears_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Fake::booted("a", T);
    let settings = buffer::Settings {
        age_max: Some(8000),
        ..buffer::Settings::default()
    };
    // Nothing is committed because of time.
    let process = Process::start_with(
        dir.path(),
        machine.clock(Quality::Ntp),
        true,
        settings,
        |keeper| keeper.flush_interval = Duration::from_secs(1_000_000),
    );
    // The first word is noted by a commit of its own.
    process.wait_for("the first word", |h| !h.headers.is_empty());
    process.inbox.tell(News::Disconnected);
    process.read(1, None);
    machine.pass(9000 * SECOND);
    process.inbox.tell(News::Connected);
    process.wait_for("the loss", |h| h.headers.iter().any(|h| !h.gaps.is_empty()));
    let heard = process.heard.lock().unwrap();
    let told = heard.headers.iter().find(|h| !h.gaps.is_empty()).unwrap();
    assert_eq!((told.held.events, heard.samples.len()), (0, 0));
    assert!(told.low_watermark > EventTime(T), "it leaves it out");
    drop(heard);
    // What a kill would leave now.
    let copy = tempfile::tempdir().unwrap();
    let file = buffer::FILE_NAME;
    std::fs::copy(dir.path().join(file), copy.path().join(file)).unwrap();
    let settings = buffer::Settings::default();
    let opened = buffer::open(copy.path(), &agent(), &settings, 2, EventTime(T));
    let left = opened.unwrap().buffer;
    assert_eq!(left.held().events, 0, "it would come back");
    let gaps = left.announcement(9).gaps;
    assert_eq!((gaps.len(), gaps[0].reason), (1, GapReason::Expired));
    process.stop();
}

#[test]
fn on_a_full_disk_nothing_is_placed_before_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Fake::booted("a", 0);
    let process = Process::start(dir.path(), machine.clock(Quality::Auto), false);
    process.read(1, None);
    process.read(2, Some(EventTime(T)));
    process.stop();
    machine.synchronise(T);
    let process = Process::start_with(
        dir.path(),
        machine.clock(Quality::Auto),
        true,
        buffer::Settings::default(),
        |keeper| keeper.pause(1),
    );
    process.wait_for("what has a time", |h| !h.samples.is_empty());
    // The keeper goes round, with nothing else to send.
    for _ in 0..4 {
        let count = process.heard.lock().unwrap().headers.len();
        machine.pass(SECOND);
        process.wait_for("a heartbeat", |h| h.headers.len() > count);
    }
    assert_eq!(values(&process.samples()), [(2, EventTime(T))]);
    // Now room is looked for, and there is some.
    machine.pass(SECOND);
    process.wait_for("the other", |h| values(&h.samples).len() == 2);
    assert_eq!(process.heard.lock().unwrap().broken, []);
    process.stop();
}

#[test]
fn when_all_is_done_but_nobody_tells_the_time_it_ends_and_keeps_what_has_none() {
    for is_set_late in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let machine = Fake::booted("a", 0);
        let process = Process::start(dir.path(), machine.clock(Quality::Auto), true);
        process.read(1, None);
        process.read(2, Some(EventTime(T)));
        process.inbox.tell(News::Finish);
        for _ in 0..TIMELESS_ANSWERS_MAX {
            let count = process.heard.lock().unwrap().headers.len();
            machine.pass(2 * SECOND);
            process.wait_for("a heartbeat", |h| h.headers.len() > count);
        }
        process.wait_for("the second", |h| !h.samples.is_empty());
        if is_set_late {
            machine.pass(20 * SECOND);
            machine.synchronise(T);
        }
        let heard = process.heard.clone();
        assert_eq!(process.ended(&machine), u64::from(!is_set_late));
        let found = values(&heard.lock().unwrap().samples);
        assert_eq!(found.len(), if is_set_late { 2 } else { 1 }, "{found:?}");
        // A later start goes on with it.
        let settings = buffer::Settings::default();
        let opened = buffer::open(dir.path(), &agent(), &settings, 2, EventTime(T));
        let left = opened.unwrap().buffer;
        assert_eq!(left.unplaced(), u64::from(!is_set_late));
    }
}

#[test]
fn an_answer_that_refuses_all_numbers_there_are_is_counted_and_lived_with() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Fake::booted("a", T);
    let process = Process::start(dir.path(), machine.clock(Quality::Ntp), true);
    process.read(1, None);
    process.wait_for("it", |h| values(&h.samples).len() == 1);
    let incarnation = process.heard.lock().unwrap().headers[0].incarnation;
    let refused = |first, last| RefusedRange {
        range: SeqRange {
            incarnation,
            first,
            last,
        },
        reason: RefusalReason::Malformed,
        message: String::new(),
    };
    let ack = Ack {
        incarnation,
        refused: vec![
            refused(0, u64::MAX),
            refused(u64::MAX, u64::MAX),
            refused(9, 3),
        ],
        ..Ack::default()
    };
    process.inbox.tell(News::Ack(ack.encode()));
    process.read(2, None);
    process.wait_for("the next", |h| values(&h.samples).len() == 2);
    process.stop();
}
