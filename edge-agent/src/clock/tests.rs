//! Clocks that a test sets, and what the agent's makes of them.

use super::*;

/// 2026-01-01T00:00:00Z.
pub(crate) const T: i64 = 1_767_225_600_000_000;
pub(crate) const SECOND: i64 = 1_000_000;

/// A machine of a test. Clones are the same machine.
#[derive(Debug, Clone)]
pub(crate) struct Fake(Arc<Mutex<Times>>);

#[derive(Debug)]
struct Times {
    wall: i64,
    boot: i64,
    monotonic: i64,
    synchronised: bool,
    rtc: bool,
    boot_id: String,
}

impl Fake {
    /// A machine that has just booted, with the system clock at `wall` microseconds.
    pub(crate) fn booted(boot_id: &str, wall: i64) -> Self {
        Self(Arc::new(Mutex::new(Times {
            wall,
            boot: 0,
            monotonic: 0,
            synchronised: false,
            rtc: false,
            boot_id: boot_id.to_owned(),
        })))
    }

    fn with<R>(&self, f: impl FnOnce(&mut Times) -> R) -> R {
        f(&mut self.0.lock().unwrap())
    }

    pub(crate) fn pass(&self, us: i64) {
        self.with(|t| {
            t.wall += us;
            t.boot += us;
            t.monotonic += us;
        });
    }

    /// It sleeps: what counts suspend goes on, `Instant` does not.
    pub(crate) fn suspend(&self, us: i64) {
        self.with(|t| {
            t.wall += us;
            t.boot += us;
        });
    }

    /// Somebody sets the system's clock.
    pub(crate) fn set(&self, wall: i64) {
        self.with(|t| t.wall = wall);
    }

    /// The network sets the system's clock.
    pub(crate) fn synchronise(&self, wall: i64) {
        self.with(|t| {
            t.wall = wall;
            t.synchronised = true;
        });
    }

    fn rtc(self) -> Self {
        self.with(|t| t.rtc = true);
        self
    }

    pub(crate) fn clock(&self, quality: Quality) -> Clock {
        Clock::with(quality, Arc::new(self.clone()))
    }
}

impl System for Fake {
    fn wall_us(&self) -> i64 {
        self.with(|t| t.wall)
    }

    fn boottime_us(&self) -> u64 {
        self.with(|t| t.boot as u64)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.with(|t| t.monotonic as u64))
    }

    fn is_synchronised(&self) -> bool {
        self.with(|t| t.synchronised)
    }

    fn has_rtc(&self) -> bool {
        self.with(|t| t.rtc)
    }

    fn boot_id(&self) -> String {
        self.with(|t| t.boot_id.clone())
    }
}

fn quality(clock: &Clock) -> ClockQuality {
    clock.state().quality
}

#[test]
fn clocks_agree_with_the_system() {
    let clock = Clock::new(Quality::Gnss);
    assert!(clock.wall() > EventTime::from_secs(1_700_000_000));
    let before = clock.boottime_us();
    assert!(before > 0 && clock.boottime_us() >= before);
    assert_eq!(quality(&clock), ClockQuality::Gnss);
    assert!(!clock.boot_id().is_empty());
    assert_eq!(clock.boot_id(), Clock::new(Quality::None).boot_id());
}

#[test]
fn a_clock_at_1970_is_not_set_until_the_network_sets_it() {
    let machine = Fake::booted("a", 0);
    let clock = machine.clock(Quality::Auto);
    machine.pass(5 * SECOND);
    assert_eq!(clock.now(), Now::Boot(5_000_000));
    assert_eq!((clock.known(), clock.offset_us()), (EventTime(0), None));
    assert_eq!(quality(&clock), ClockQuality::None);
    machine.synchronise(T);
    // It is asked once a second.
    machine.pass(SECOND);
    assert_eq!(clock.now(), Now::Wall(EventTime(T + SECOND)));
    assert_eq!(clock.offset_us(), Some(T - 5 * SECOND));
    assert_eq!(quality(&clock), ClockQuality::Ntp);
    let report = clock.report();
    assert_eq!((report.set_by, report.steps), (SetBy::System, 0));
    // Nobody says so, and it looks right: where it was switched off, perhaps.
    let machine = Fake::booted("b", T);
    assert_eq!(machine.clock(Quality::Auto).now(), Now::Boot(0));
    assert_eq!(machine.clock(Quality::None).now(), Now::Boot(0));
    // The operator says so, but it is before 2020.
    let machine = Fake::booted("c", 0);
    let clock = machine.clock(Quality::Ntp);
    assert_eq!(clock.now(), Now::Boot(0));
    machine.set(T);
    assert_eq!(clock.now(), Now::Wall(EventTime(T)));
}

#[test]
fn a_battery_counts_if_its_time_is_not_before_what_is_on_disk() {
    for (on_disk, is_set) in [
        (0, true),
        (T - 3600 * SECOND, true),
        (T + 200 * SECOND, true),
        (T + 400 * SECOND, false),
    ] {
        let clock = Fake::booted("a", T).rtc().clock(Quality::Auto);
        assert_eq!(clock.now(), Now::Boot(0), "the disk was not looked at yet");
        clock.know_disk(EventTime(on_disk), None);
        assert_eq!(clock.offset_us().is_some(), is_set, "{on_disk}");
        if is_set {
            assert_eq!(quality(&clock), ClockQuality::Rtc);
        } else {
            // The best guess is not before what has been.
            assert_eq!(clock.wall(), EventTime(on_disk));
        }
    }
    let clock = Fake::booted("a", SECOND).rtc().clock(Quality::Auto);
    clock.know_disk(EventTime(0), None);
    assert_eq!(clock.offset_us(), None, "an empty battery");
    // It counts more than what was noted.
    let clock = Fake::booted("a", T).rtc().clock(Quality::Auto);
    clock.know_disk(EventTime(0), Some(T - SECOND));
    assert_eq!(clock.report().set_by, SetBy::Rtc);
    assert_eq!(clock.wall(), EventTime(T));
}

#[test]
fn the_cloud_sets_it_if_nothing_better_does_and_corrects_its_drift() {
    let machine = Fake::booted("a", 0);
    let clock = machine.clock(Quality::Auto);
    machine.pass(10 * SECOND);
    let ahead = T - 10 * SECOND;
    clock.heard_cloud(None);
    clock.heard_cloud(Some((ahead, 11 * SECOND)));
    clock.heard_cloud(Some((SECOND, 0)));
    assert_eq!(clock.offset_us(), None, "no time, too slow, before 2020");
    assert_eq!(clock.timeless_answers(), 3);
    clock.heard_cloud(Some((ahead, 200_000)));
    assert_eq!(clock.now(), Now::Wall(EventTime(T)));
    assert_eq!(quality(&clock), ClockQuality::None);
    assert_eq!(clock.state().error_ms, 101);
    // It is within what that answer could say.
    clock.heard_cloud(Some((90_000, 200_000)));
    assert_eq!(clock.wall(), EventTime(T));
    // What is beyond that is drift.
    clock.heard_cloud(Some((50_000, 2_000)));
    assert_eq!(clock.wall(), EventTime(T + 50_000 - 1_001));
    // The system's own clock goes on from 1970 and is not believed; then the network sets it.
    machine.pass(5 * SECOND);
    assert_eq!(clock.report().steps, 0);
    machine.synchronise(T + 60 * SECOND);
    machine.pass(SECOND);
    assert_eq!(clock.wall(), EventTime(T + 61 * SECOND));
    clock.heard_cloud(Some((-3600 * SECOND, 10)));
    assert_eq!(clock.wall(), EventTime(T + 61 * SECOND));
    let report = clock.report();
    assert_eq!((report.set_by, report.steps), (SetBy::System, 1));
}

#[test]
fn what_an_earlier_process_of_this_boot_knew_counts() {
    let machine = Fake::booted("a", 0);
    machine.pass(10 * SECOND);
    let clock = machine.clock(Quality::Auto);
    clock.know_disk(EventTime(T + 9 * SECOND), Some(T));
    assert_eq!(clock.now(), Now::Wall(EventTime(T + 10 * SECOND)));
    assert_eq!(
        clock.state(),
        ClockState {
            quality: ClockQuality::None,
            error_ms: u32::MAX
        }
    );
}

#[test]
fn a_suspend_changes_nothing_but_the_time() {
    let machine = Fake::booted("a", T);
    let clock = machine.clock(Quality::Ntp);
    machine.pass(10 * SECOND);
    let (before, mono) = (clock.wall(), clock.monotonic());
    machine.suspend(3600 * SECOND);
    assert_eq!(clock.wall().0 - before.0, 3600 * SECOND);
    assert_eq!(clock.monotonic(), mono);
    assert_eq!(clock.report().steps, 0);
    // The same with a clock that the cloud has set.
    let machine = Fake::booted("b", 0);
    let clock = machine.clock(Quality::None);
    clock.heard_cloud(Some((T, 10)));
    machine.suspend(3600 * SECOND);
    assert_eq!(clock.wall(), EventTime(T + 3600 * SECOND));
}

#[test]
fn a_step_is_followed_and_counted_and_slewing_is_not() {
    let machine = Fake::booted("a", T);
    let clock = machine.clock(Quality::Ntp);
    // Slewing: 1 ms a second for a while.
    for n in 1..100 {
        machine.pass(SECOND);
        machine.set(T + n * (SECOND + 1000));
        assert_eq!(clock.wall(), EventTime(T + n * (SECOND + 1000)));
    }
    assert_eq!(clock.report().steps, 0);
    for (n, hours) in [(1, 1), (2, -1), (3, -1)] {
        let before = clock.wall().0;
        machine.set(before + hours * 3600 * SECOND);
        assert_eq!(clock.wall().0, before + hours * 3600 * SECOND);
        let report = clock.report();
        assert_eq!(report.steps, n);
        assert_eq!(report.last_step_us, Some(hours * 3600 * SECOND));
    }
}

#[test]
fn set_back_a_little_it_stands_still_until_time_has_caught_up() {
    let machine = Fake::booted("a", T);
    let clock = machine.clock(Quality::Ntp);
    machine.pass(SECOND);
    let before = clock.wall();
    machine.set(T + SECOND / 2);
    assert_eq!(clock.now(), Now::Wall(before));
    assert_eq!(clock.report().steps, 1);
    machine.pass(400_000);
    assert_eq!(clock.wall(), before);
    machine.pass(200_000);
    assert_eq!(clock.wall().0, before.0 + 100_000);
}
