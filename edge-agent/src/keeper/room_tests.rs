//! The disk becomes short of room while the keeper works, and the buffer then stays as large as it is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use event::{AgentId, DeviceId, MetricName, Value};
use redb::backends::InMemoryBackend;

use super::tests::keeper;
use super::*;
use crate::buffer::{Settings, open_backend};
use crate::clock::{Clock, Quality};
use crate::health::{Process, Snapshot};
use crate::inbox::{self, Position, Reading};
use crate::uplink::session;

const GROUP: u64 = 4000;

/// Readings that neither compress nor can be summed up: one a minute of a series.
fn group(n: u64) -> Vec<Reading> {
    (n * GROUP..(n + 1) * GROUP)
        .map(|i| Reading {
            device: DeviceId::new("d").unwrap(),
            metric: MetricName::new("m").unwrap(),
            time: Some(EventTime::from_secs(1_600_000_000 + i as i64 * 60)),
            value: Value::Number((i as f64).sqrt()),
        })
        .collect()
}

#[test]
fn while_the_disk_is_short_of_room_the_buffer_does_not_grow() {
    let dir = tempfile::tempdir().unwrap();
    let agent = AgentId::new("gw").unwrap();
    let clock = Clock::new(Quality::Ntp);
    let settings = Settings::default();
    let buffer = open_backend(InMemoryBackend::new(), &agent, &settings, 1, clock.wall()).unwrap();
    let core = Core::new(agent, buffer, session::Settings::default(), 1 << 20, 1);
    let inbox = Inbox::new(inbox::Settings::default(), clock);
    let health = Health::default();
    let free = Arc::new(AtomicU64::new(1000));
    let is_free = free.clone();
    let look = Box::new(move || Ok(is_free.load(Ordering::Relaxed)));
    let (link, _to_link) = mpsc::channel(TO_LINK_MAX);
    let keeper = Keeper {
        health: health.clone(),
        flush_interval: Duration::from_millis(1),
        room: Room::new(dir.path(), 1000, Duration::ZERO, look),
        ..keeper(&inbox, link, dir.path())
    };
    let kept = std::thread::spawn(move || keeper.run(core));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let source = inbox.register(Position::Live);
    let mut groups = 0;
    // Stores a group more and waits until it is counted.
    let mut store = || -> Snapshot {
        let push = inbox.push(source, group(groups), None, None, true);
        runtime.block_on(push).unwrap();
        groups += 1;
        let began = Instant::now();
        loop {
            let clock = inbox.clock();
            let (wall, report) = (clock.wall(), clock.report());
            let s = health.snapshot(clock.monotonic(), wall, report, Process::default(), None);
            if s.backlog_events + s.dropped_events == groups * GROUP {
                return s;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{s:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    // More than the buffer may always hold.
    let mut before = store();
    while before.backlog_bytes < 1_200_000 {
        before = store();
    }
    assert_eq!((before.dropped_events, before.disk_short), (0, false));
    assert_eq!(before.buffer_bytes_max, Some(settings.bytes_max));
    free.store(999, Ordering::Relaxed);
    for _ in 0..5 {
        let short = store();
        assert!(short.disk_short && short.disk_free_bytes == Some(999));
        assert_eq!(short.buffer_bytes_max, Some(before.backlog_bytes));
        assert!(short.backlog_bytes <= before.backlog_bytes);
        assert!(short.dropped_events > 0);
    }
    // There is room again.
    free.store(2000, Ordering::Relaxed);
    let dropped = store().dropped_events;
    let mut after = store();
    while after.backlog_bytes <= before.backlog_bytes {
        after = store();
    }
    assert_eq!((after.dropped_events, after.disk_short), (dropped, false));
    inbox.tell(News::Stop(Duration::ZERO));
    kept.join().unwrap().unwrap();
}
