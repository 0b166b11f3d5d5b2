//! Readings without a time: stored, placed, dropped, over crashes and boots.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use event::{
    AgentId, DeviceId, EventTime, GapReason, MetricName, Sample, SeqRange, TimeRange, Value,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::overflow::Policy;
use super::*;

const SECOND: i64 = 1_000_000;
/// 2026-01-01T00:00:00Z.
const T: i64 = 1_767_225_600_000_000;

fn at(seconds: i64) -> EventTime {
    EventTime(T + seconds * SECOND)
}

fn sample(us: i64, n: i64) -> Sample {
    Sample {
        device: DeviceId::new("d").unwrap(),
        metric: MetricName::new("m").unwrap(),
        time: EventTime(us),
        value: Value::Number(n as f64),
    }
}

/// Taken at these seconds since boot; the value says when.
fn readings(seconds: std::ops::Range<i64>) -> Vec<Sample> {
    seconds.map(|s| sample(s * SECOND, s)).collect()
}

/// Opened with a clock that is not set.
fn opened(dir: &Path, settings: &Settings, rand: u64) -> Buffer {
    let agent = AgentId::new("gw").unwrap();
    let opened = open(dir, &agent, settings, rand, EventTime(0)).unwrap();
    assert_eq!(opened.set_aside, None);
    opened.buffer
}

/// As the keeper does while the clock is not set.
fn hold(buffer: &mut Buffer, boot: &str, samples: &[Sample]) {
    buffer.hold(boot, samples, true).unwrap();
    let until = buffer.committed_at();
    buffer.append(&[], &[], true, until).unwrap();
}

/// The clock is set: the boot began at `begin`.
fn place_all(buffer: &mut Buffer, boot: &str, begin: i64, now: EventTime) -> Vec<Placed> {
    buffer.note_offset(boot, begin);
    std::iter::from_fn(|| buffer.place(boot, now).unwrap()).collect()
}

/// All that has a number, in the order of storing.
fn held(buffer: &mut Buffer) -> Vec<(SeqRange, Vec<Sample>)> {
    let mut taken = Vec::new();
    let mut found = Vec::new();
    while let Some(range) = buffer.next_before(buffer.end(), &taken, 100_000) {
        let Some((range, samples)) = buffer.take(range).unwrap() else {
            continue;
        };
        taken.push(range);
        found.push((range, samples));
    }
    found
}

fn samples(buffer: &mut Buffer) -> Vec<Sample> {
    held(buffer).into_iter().flat_map(|(_, s)| s).collect()
}

fn moved(samples: Vec<Sample>, begin: i64) -> Vec<Sample> {
    let moved = |s: Sample| Sample {
        time: EventTime(s.time.0 + begin),
        ..s
    };
    samples.into_iter().map(moved).collect()
}

#[test]
fn what_is_held_survives_with_its_cursor_and_gets_its_time_in_the_same_boot() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::default();
    let mut buffer = opened(dir.path(), &settings, 1);
    buffer.append(&[sample(T, -1)], &[], true, at(0)).unwrap();
    buffer.close(at(0)).unwrap();

    let mut buffer = opened(dir.path(), &settings, 2);
    assert_eq!(
        buffer.committed_at(),
        at(0),
        "opening takes nothing from what is known"
    );
    hold(&mut buffer, "a", &readings(5..8));
    let cursor = Cursor {
        source: "f".to_owned(),
        position: vec![9],
    };
    buffer.hold("a", &readings(8..10), true).unwrap();
    // Not accepted before the commit.
    drop(buffer);
    let mut buffer = opened(dir.path(), &settings, 3);
    assert_eq!((buffer.unplaced(), buffer.cursor("f").unwrap()), (3, None));
    buffer.hold("a", &readings(8..10), true).unwrap();
    buffer
        .append(&[], std::slice::from_ref(&cursor), true, at(0))
        .unwrap();
    drop(buffer);
    let mut buffer = opened(dir.path(), &settings, 4);
    assert_eq!(buffer.cursor("f").unwrap(), Some(vec![9]));
    assert_eq!((buffer.unplaced(), buffer.held().events), (5, 6));
    assert_eq!(
        buffer.unplaced_floor(),
        Some(at(0)),
        "the newest time that was known"
    );
    assert_eq!(
        samples(&mut buffer).len(),
        1,
        "nothing without a time is sent"
    );
    assert!(buffer.place("a", at(100)).unwrap().is_none());

    // It turns out that it had booted at 60.
    let placed = place_all(&mut buffer, "a", at(60).0, at(100));
    assert_eq!(
        placed,
        [Placed {
            events: 5,
            uncertain_s: None
        }]
    );
    let mut expected = vec![sample(T, -1)];
    expected.extend(moved(readings(5..10), at(60).0));
    assert_eq!(samples(&mut buffer), expected);
    assert_eq!((buffer.unplaced(), buffer.unplaced_floor()), (0, None));
    assert_eq!(buffer.held().oldest, Some(at(0)));
    // On disk, once; a later process of this boot knows when it began.
    drop(buffer);
    let mut buffer = opened(dir.path(), &settings, 5);
    assert_eq!(samples(&mut buffer), expected);
    assert_eq!(buffer.offset_of("a"), Some(at(60).0));
    assert_eq!(buffer.offset_of("b"), None);
    assert!(!buffer.has_to_place());
}

#[test]
fn the_watermark_stays_at_the_offset_that_was_noted_while_chunks_are_placed() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        chunk_events_max: 400,
        ..Settings::default()
    };
    let mut buffer = opened(dir.path(), &settings, 1);
    hold(&mut buffer, "a", &readings(0..3000));
    assert_eq!(
        buffer.unplaced_floor(),
        Some(EventTime(0)),
        "nothing is known"
    );
    buffer.note_offset("a", T);
    assert_eq!(buffer.unplaced_floor(), Some(at(0)));
    assert_eq!(buffer.place("a", at(5000)).unwrap().unwrap().events, 1200);
    assert_eq!(buffer.unplaced_floor(), Some(at(1200)));
    // The clock is stepped in the middle, and the power goes.
    buffer.note_offset("a", T - 3600 * SECOND);
    drop(buffer);
    let mut buffer = opened(dir.path(), &settings, 2);
    buffer.note_offset("a", T - 3600 * SECOND);
    let steps = std::iter::from_fn(|| buffer.place("a", at(5000)).unwrap());
    assert_eq!(steps.map(|p| p.events).collect::<Vec<_>>(), [1200, 600]);
    assert_eq!(samples(&mut buffer), moved(readings(0..3000), T));
    // With nothing left to place, the new one is noted.
    buffer.note_offset("a", T - 3600 * SECOND);
    assert_eq!(buffer.offset_of("a"), Some(T - 3600 * SECOND));
}

#[test]
fn boots_that_never_knew_the_time_follow_what_was_known_and_say_how_uncertain_they_are() {
    // The newest time on disk, and the two boots' expected beginnings and uncertainties, seconds.
    let day = 86_400.;
    let cases = [
        // As early as it may be: at 0 and, after 100 s of the first, at 100.
        (Some(at(0)), [(0, day - 150.), (100, day - 150.)]),
        // The bounds contradict each other: as late as it may be.
        (
            Some(at(2 * 86_400)),
            [(86_250, day + 150.), (86_350, day + 50.)],
        ),
        // Nothing is known: as late as it may be.
        (None, [(86_250, f64::NAN), (86_350, f64::NAN)]),
    ];
    for (known, boots) in cases {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::default();
        let mut buffer = opened(dir.path(), &settings, 1);
        if let Some(known) = known {
            buffer.append(&[], &[], false, known).unwrap();
        }
        hold(&mut buffer, "a", &readings(5..101));
        drop(buffer);
        let mut buffer = opened(dir.path(), &settings, 2);
        hold(&mut buffer, "b", &readings(10..51));
        drop(buffer);
        // The third boot begins at a day and knows it.
        let mut buffer = opened(dir.path(), &settings, 3);
        hold(&mut buffer, "c", &readings(1..2));
        let placed = place_all(&mut buffer, "c", at(86_400).0, at(86_402));
        assert_eq!(placed.len(), 3);
        let found = samples(&mut buffer);
        let (marks, found): (Vec<Sample>, Vec<Sample>) = found
            .into_iter()
            .partition(|s| s.metric.as_str() == UNCERTAIN);
        let mut expected = moved(readings(5..101), at(boots[0].0).0);
        expected.extend(moved(readings(10..51), at(boots[1].0).0));
        expected.extend(moved(readings(1..2), at(86_400).0));
        assert_eq!(found, expected, "{known:?}");
        for (i, (first, begin)) in [(5, boots[0]), (10, boots[1])].into_iter().enumerate() {
            let mark = &marks[i];
            assert_eq!(mark.device.as_str(), "gw");
            assert_eq!(mark.time, at(begin.0 + first), "{known:?}");
            let seconds = mark.value.as_number().unwrap();
            assert_eq!(placed[i].uncertain_s, Some(seconds));
            if begin.1.is_nan() {
                // It was after 2019, that is all.
                assert_eq!(seconds, (at(begin.0).0 / SECOND - 1_577_836_800) as f64);
            } else {
                assert!((seconds - begin.1).abs() < 1e-6, "{known:?} {seconds}");
            }
        }
        assert_eq!(marks.len(), 2);
    }
}

#[test]
fn a_boot_whose_offset_was_noted_is_not_uncertain() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::default();
    let mut buffer = opened(dir.path(), &settings, 1);
    buffer.append(&[], &[], false, at(0)).unwrap();
    hold(&mut buffer, "a", &readings(0..3));
    buffer.note_offset("a", at(60).0);
    buffer.flush(at(63)).unwrap();
    drop(buffer);
    let mut buffer = opened(dir.path(), &settings, 2);
    let placed = place_all(&mut buffer, "b", at(500).0, at(501));
    assert_eq!(
        placed,
        [Placed {
            events: 3,
            uncertain_s: None
        }]
    );
    assert_eq!(samples(&mut buffer), moved(readings(0..3), at(60).0));
}

#[test]
fn a_boot_whose_id_comes_again_does_not_place_what_came_between() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::default();
    let mut buffer = opened(dir.path(), &settings, 1);
    buffer.append(&[], &[], false, at(0)).unwrap();
    hold(&mut buffer, "a", &readings(0..3));
    hold(&mut buffer, "b", &readings(10..13));
    // Boots are told apart by their ids alone: this is taken for the first.
    hold(&mut buffer, "a", &readings(3..5));
    let placed = place_all(&mut buffer, "a", at(60).0, at(100));
    assert_eq!(placed.iter().map(|p| p.events).sum::<u64>(), 5);
    assert_eq!(samples(&mut buffer), moved(readings(0..5), at(60).0));
    assert_eq!(buffer.unplaced(), 3, "the other waits for the next boot");
    drop(buffer);
    let mut buffer = opened(dir.path(), &settings, 2);
    let placed = place_all(&mut buffer, "c", at(500).0, at(501));
    assert_eq!(placed.len(), 1);
    assert!(placed[0].events == 3 && placed[0].uncertain_s.is_some());
    assert_eq!((buffer.unplaced(), buffer.held().events), (0, 9));
}

#[test]
fn a_full_buffer_drops_what_has_a_time_first_and_declares_the_rest_once_placed() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        bytes_max: 4000,
        overflow: Policy::DropOldest,
        chunk_events_max: 20,
        ..Settings::default()
    };
    let mut buffer = opened(dir.path(), &settings, 1);
    let timed: Vec<Sample> = (0..40).map(|n| sample(at(n).0, n)).collect();
    buffer.append(&timed, &[], false, at(40)).unwrap();
    drop(buffer);
    let mut buffer = opened(dir.path(), &settings, 2);
    let mut n = 0;
    while buffer.dropped() == 0 {
        hold(&mut buffer, "a", &readings(n..n + 20));
        n += 20;
    }
    let gaps = buffer.announcement(10).gaps;
    assert_eq!(
        (gaps.len(), gaps[0].from, gaps[0].to),
        (1, 1, 20),
        "{gaps:?}"
    );
    while buffer.dropped() < 100 {
        hold(&mut buffer, "a", &readings(n..n + 20));
        n += 20;
    }
    assert_eq!(buffer.dropped(), 100, "40 with a time, 60 without");
    assert!(buffer.held().bytes <= 4000);
    assert_eq!(buffer.announcement(10).gaps[0].to, 40);
    // Its numbers are given and its time is known when it is placed, over a crash.
    drop(buffer);
    let mut buffer = opened(dir.path(), &settings, 3);
    assert_eq!(buffer.unplaced() as i64, n - 60);
    place_all(&mut buffer, "a", at(100).0, at(1000));
    // With their numbers they take a little more room, so some more of them go.
    let gap = *buffer.announcement(10).gaps.last().unwrap();
    assert_eq!((gap.from, gap.reason), (1, GapReason::Overflow));
    let lost = gap.to as i64;
    assert!((60..200).contains(&lost), "{gap:?}");
    assert_eq!(buffer.dropped() as i64, lost - 60);
    let (from, to) = (at(100), at(100 + lost - 1));
    assert_eq!(gap.time, TimeRange { from, to });
    let found = samples(&mut buffer);
    assert_eq!(found, moved(readings(lost..n), at(100).0));
    assert_eq!(buffer.end().seq as i64, n + 1);
}

#[test]
fn faults_without_a_time_go_last_whoever_remembers_that_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let alarm = |second: i64| Sample {
        metric: MetricName::new("alarm").unwrap(),
        ..sample(second * SECOND, second)
    };
    let mut settings = Settings {
        bytes_max: 6000,
        overflow: Policy::DropOldest,
        ..Settings::default()
    };
    settings
        .faults
        .add(&alarm(0).device, &MetricName::new("alarm").unwrap());
    let mut buffer = opened(dir.path(), &settings, 1);
    for n in 0..20 {
        let mut group = readings(n * 10..n * 10 + 9);
        group.insert(3, alarm(n * 10 + 9));
        hold(&mut buffer, "a", &group);
    }
    let rows = |buffer: &Buffer| buffer.unplaced.rows().count();
    assert_eq!(rows(&buffer), 1, "a commit does not begin a chunk for each");
    drop(buffer);
    // In the next life no source has told yet that they are faults.
    settings.faults = Faults::default();
    settings.chunk_events_max = 20;
    let mut buffer = opened(dir.path(), &settings, 2);
    let mut n = 200;
    while buffer.dropped() < 400 {
        hold(&mut buffer, "a", &readings(n..n + 20));
        n += 20;
        assert!(buffer.held().bytes <= 6000);
    }
    // And over another start, when they get their times.
    drop(buffer);
    let mut buffer = opened(dir.path(), &settings, 3);
    place_all(&mut buffer, "a", T, at(n));
    let alarms = |buffer: &mut Buffer| -> Vec<i64> {
        let all = samples(buffer).into_iter();
        let alarms = all.filter(|s| s.metric.as_str() == "alarm");
        alarms.map(|s| (s.time.0 - T) / SECOND).collect()
    };
    let expected: Vec<i64> = (0..20).map(|n| n * 10 + 9).collect();
    assert_eq!(alarms(&mut buffer), expected);
    // Faults they stay.
    for second in n..n + 2000 {
        buffer
            .append(&[sample(at(second).0, second)], &[], true, at(second))
            .unwrap();
    }
    assert_eq!(alarms(&mut buffer), expected);
    // With nothing else they make room, too, at the end.
    let mut buffer = opened(tempfile::tempdir().unwrap().path(), &settings, 1);
    settings
        .faults
        .add(&alarm(0).device, &MetricName::new("alarm").unwrap());
    for n in 0..100 {
        let group: Vec<Sample> = (n * 20..n * 20 + 20).map(alarm).collect();
        hold(&mut buffer, "a", &group);
        assert!(buffer.held().bytes <= 6000);
    }
    assert!(buffer.dropped() > 0 && buffer.held().bytes > 3000);
}

#[test]
fn a_damaged_chunk_is_declared_with_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        chunk_events_max: 10,
        ..Settings::default()
    };
    let mut buffer = opened(dir.path(), &settings, 1);
    hold(&mut buffer, "a", &readings(0..30));
    drop(buffer);
    let db = redb::Database::create(dir.path().join(FILE_NAME)).unwrap();
    let tx = db.begin_write().unwrap();
    let table = redb::TableDefinition::<(u64, u64), &[u8]>::new("unplaced");
    tx.open_table(table)
        .unwrap()
        .insert((1, 11), b"nothing".as_slice())
        .unwrap();
    tx.commit().unwrap();
    drop(db);
    let mut buffer = opened(dir.path(), &settings, 2);
    place_all(&mut buffer, "a", T, at(100));
    let gap = buffer.announcement(10).gaps[0];
    assert_eq!(
        (gap.from, gap.to, gap.reason),
        (11, 20, GapReason::Corruption)
    );
    assert_eq!(
        gap.time,
        TimeRange {
            from: at(10),
            to: at(19)
        }
    );
    let mut expected = readings(0..10);
    expected.extend(readings(20..30));
    assert_eq!(samples(&mut buffer), moved(expected, T));
}

#[test]
fn an_unclean_stop_without_a_clock_is_told_once_the_time_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::default();
    let mut buffer = opened(dir.path(), &settings, 1);
    buffer.append(&[], &[], false, at(0)).unwrap();
    hold(&mut buffer, "a", &readings(0..3));
    drop(buffer);
    // Twice, and the clock is still not set.
    drop(opened(dir.path(), &settings, 2));
    let mut buffer = opened(dir.path(), &settings, 3);
    assert_eq!(buffer.announcement(1).unclean, None, "its end is not known");
    buffer.know_time(at(500));
    let (from, to) = (at(0), at(500));
    assert_eq!(buffer.announcement(1).unclean, Some(TimeRange { from, to }));
    // The first life of a device: nothing is known of its begin.
    let dir = tempfile::tempdir().unwrap();
    let mut buffer = opened(dir.path(), &settings, 1);
    hold(&mut buffer, "a", &readings(0..3));
    drop(buffer);
    let mut buffer = opened(dir.path(), &settings, 2);
    assert_eq!(buffer.announcement(1).unclean, None);
    buffer.know_time(at(500));
    let (from, to) = (EventTime(0), at(500));
    assert_eq!(buffer.announcement(1).unclean, Some(TimeRange { from, to }));
}

#[test]
fn whatever_happens_each_reading_is_there_once() {
    for seed in 0..6 {
        let mut rng = StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            chunk_events_max: rng.random_range(5..200),
            chunk_bytes: rng.random_range(200..4000),
            ..Settings::default()
        };
        let mut buffer = opened(dir.path(), &settings, 1);
        let (mut n, mut boot, mut acked) = (0, 1, Vec::new());
        let mut uptime = 0;
        for step in 0..60 {
            match rng.random_range(0..6) {
                0 => {
                    drop(buffer);
                    buffer = opened(dir.path(), &settings, 2 + step);
                }
                1 => (boot, uptime) = (boot + 1, 0),
                2 => {
                    let name = format!("boot {boot}");
                    buffer.note_offset(&name, at(boot * 1_000_000).0);
                    buffer.place(&name, at(boot * 1_000_000 + uptime)).unwrap();
                    if let Some((range, found)) = held(&mut buffer).first().cloned() {
                        acked.extend(found);
                        buffer.ack(&[range]).unwrap();
                        buffer.flush(at(0)).unwrap();
                    }
                }
                _ => {
                    let count = rng.random_range(1..150);
                    let group: Vec<Sample> = (n..n + count)
                        .map(|n| sample((uptime + n) * SECOND, n))
                        .collect();
                    (n, uptime) = (n + count, uptime + 1);
                    hold(&mut buffer, &format!("boot {boot}"), &group);
                }
            }
        }
        place_all(
            &mut buffer,
            "the last",
            at(1_000_000_000).0,
            at(1_000_000_001),
        );
        acked.extend(samples(&mut buffer));
        let mut found: Vec<i64> = acked
            .iter()
            .filter(|s| s.metric.as_str() != UNCERTAIN)
            .filter_map(|s| s.value.as_number().map(|n| n as i64))
            .collect();
        found.sort_unstable();
        assert_eq!(found, (0..n).collect::<Vec<_>>(), "seed {seed}");
        assert!(acked.iter().all(|s| s.time >= at(0)), "seed {seed}");
        assert!(buffer.announcement(1).gaps.is_empty());
        assert_eq!(buffer.unplaced(), 0);
    }
}

/// A disk that fails after some operations. What was written since the last sync survives or does not.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Bytes>>);

#[derive(Debug, Default)]
struct Bytes {
    seen: Vec<u8>,
    synced: Vec<u8>,
    left: u32,
}

impl Disk {
    fn new(image: Vec<u8>, left: u32) -> Self {
        let (seen, synced) = (image.clone(), image);
        Self(Arc::new(Mutex::new(Bytes { seen, synced, left })))
    }

    fn change(&self, change: impl FnOnce(&mut Bytes)) -> io::Result<()> {
        let mut bytes = self.0.lock().unwrap();
        let left = bytes.left.checked_sub(1);
        bytes.left = left.ok_or_else(|| io::Error::other("the process was killed"))?;
        change(&mut bytes);
        Ok(())
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        out.copy_from_slice(&self.0.lock().unwrap().seen[offset as usize..][..out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|b| b.seen.resize(len as usize, 0))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|b| b.synced.clone_from(&b.seen))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(|b| b.seen[offset as usize..][..data.len()].copy_from_slice(data))
    }
}

/// Holds three groups with a cursor each, and places them. Returns how many groups were accepted.
fn story(disk: &Disk) -> usize {
    let settings = Settings {
        chunk_events_max: 20,
        ..Settings::default()
    };
    let agent = AgentId::new("gw").unwrap();
    let Ok(mut buffer) = open_backend(disk.clone(), &agent, &settings, 1, EventTime(0)) else {
        return 0;
    };
    for n in 0..3 {
        let cursor = Cursor {
            source: "f".to_owned(),
            position: vec![n as u8],
        };
        buffer
            .hold("a", &readings(n * 200..(n + 1) * 200), true)
            .unwrap();
        if buffer.append(&[], &[cursor], true, EventTime(0)).is_err() {
            return n as usize;
        }
    }
    buffer.note_offset("a", T);
    while matches!(buffer.place("a", at(600)), Ok(Some(_))) {}
    3
}

#[test]
fn killed_at_any_write_nothing_accepted_is_lost_or_there_twice() {
    // A buffer that exists: what is cut before it does is set aside, which takes a folder.
    let first = Disk::new(Vec::new(), 100_000);
    let agent = AgentId::new("gw").unwrap();
    let begin = open_backend(first.clone(), &agent, &Settings::default(), 1, EventTime(0));
    drop(begin.unwrap());
    let begin = first.0.lock().unwrap().synced.clone();
    let whole = Disk::new(begin.clone(), 100_000);
    assert_eq!(story(&whole), 3);
    let writes = 100_000 - whole.0.lock().unwrap().left;
    for cut in 0..writes {
        for keep in [false, true] {
            let disk = Disk::new(begin.clone(), cut);
            let accepted = story(&disk);
            let bytes = disk.0.lock().unwrap();
            let image = if keep { &bytes.seen } else { &bytes.synced };
            let disk = Disk::new(image.clone(), 100_000);
            drop(bytes);
            let settings = Settings::default();
            let opened = open_backend(disk, &agent, &settings, 2, EventTime(0));
            let mut buffer = opened.unwrap();
            place_all(&mut buffer, "a", T, at(600));
            let stored = buffer
                .cursor("f")
                .unwrap()
                .map_or(0, |p| i64::from(p[0]) + 1);
            assert!(
                stored as usize >= accepted,
                "cut {cut}: {stored} {accepted}"
            );
            assert_eq!(
                samples(&mut buffer),
                moved(readings(0..stored * 200), T),
                "cut {cut}, {keep}"
            );
        }
    }
}
