use event::{DeviceId, MetricName, RefusalReason, RefusedRange, Value};
use redb::backends::InMemoryBackend;

use super::*;
use crate::buffer::{self, open_backend};

const START: i64 = 1_700_000_000;

fn samples(seconds: std::ops::Range<i64>) -> Vec<Sample> {
    let sample = |second| Sample {
        device: DeviceId::new("d").unwrap(),
        metric: MetricName::new("m").unwrap(),
        time: EventTime::from_secs(START + second),
        value: Value::Number(second as f64),
    };
    seconds.map(sample).collect()
}

#[test]
fn after_an_outage_live_data_passes_the_backlog_and_the_watermark_stays_behind() {
    let agent = AgentId::new("gw").unwrap();
    let at = |second| EventTime::from_secs(START + second);
    let settings = buffer::Settings::default();
    let backend = InMemoryBackend::new();
    let buffer = open_backend(backend, &agent, &settings, 1, at(0)).unwrap();
    let mut core = Core::new(agent, buffer, session::Settings::default(), 1 << 20, 1);
    core.append(&samples(0..3500), &[], true, at(3500)).unwrap();
    core.connected();

    let stamp = |second| Stamp {
        wall: at(second),
        floor: at(second),
        boottime_us: 0,
        clock: ClockState::default(),
    };
    let mut now = Duration::from_secs(1);
    let mut headers = Vec::new();
    // One new event a round, and each transmission answered in the next.
    for second in 3500..3520 {
        let mut round = Vec::new();
        while let Some(step) = core.poll(now, &stamp(second)).unwrap() {
            let Outgoing::Batch { payload, .. } = step else {
                panic!("{step:?}");
            };
            round.push(batch::peek(&payload).unwrap().0);
        }
        now += Duration::from_millis(100);
        for header in &round {
            let mut ack = Ack {
                incarnation: header.incarnation,
                tx_no: header.tx_no,
                ..Ack::default()
            };
            ack.ranges.extend((header.count > 0).then(|| SeqRange {
                incarnation: header.e_inc,
                first: header.first_seq,
                last: header.first_seq + u64::from(header.count) - 1,
            }));
            core.ack_received(now, at(second), &ack.encode()).unwrap();
        }
        headers.push(round);
        let next = samples(second..second + 1);
        core.append(&next, &[], true, at(second + 1)).unwrap();
    }
    let ranges = |round: &[BatchHeader]| -> Vec<(u64, u32)> {
        round.iter().map(|h| (h.first_seq, h.count)).collect()
    };
    // The chunk that held the end of the backlog grows with what is live: it is cut between them.
    assert_eq!(ranges(&headers[0]), [(1, 1000)]);
    assert_eq!(ranges(&headers[1]), [(3501, 1), (1001, 1000)]);
    assert_eq!(ranges(&headers[2]), [(3502, 1), (2001, 1000)]);
    assert_eq!(ranges(&headers[3]), [(3503, 1), (3001, 500)]);
    assert_eq!(ranges(&headers[4]), [(3504, 1)]);
    // Beside what is live stands the oldest event that is still held, in flight or not.
    assert_eq!(headers[0][0].low_watermark, at(1000));
    assert_eq!(headers[1][0].low_watermark, at(1000));
    assert_eq!(headers[1][1].low_watermark, at(2000));
    assert_eq!(headers[3][0].low_watermark, at(3000));
    assert_eq!(headers[3][1].low_watermark, at(3502));
    assert_eq!(headers[4][0].low_watermark, at(3504));
}

#[test]
fn readings_without_a_time_hold_the_watermark_until_they_are_placed() {
    let agent = AgentId::new("gw").unwrap();
    let at = |second| EventTime::from_secs(START + second);
    let settings = buffer::Settings::default();
    let opened = open_backend(InMemoryBackend::new(), &agent, &settings, 1, at(0));
    let settings = session::Settings::default();
    let mut core = Core::new(agent, opened.unwrap(), settings, 1 << 20, 1);
    core.append(&[], &[], false, at(7)).unwrap();
    let mut reading = samples(0..1);
    reading[0].time = EventTime(3_000_000);
    core.hold("a", &reading, true).unwrap();
    core.append(&[], &[], true, at(7)).unwrap();
    let said = |core: &mut Core, seconds: u64| {
        core.connected();
        let stamp = Stamp {
            wall: at(500),
            floor: at(500),
            boottime_us: 0,
            clock: ClockState::default(),
        };
        match core.poll(Duration::from_secs(seconds), &stamp).unwrap() {
            Some(Outgoing::Batch { payload, .. }) => batch::peek(&payload).unwrap().0,
            other => panic!("{other:?}"),
        }
    };
    let header = said(&mut core, 1);
    assert_eq!((header.count, header.low_watermark), (0, at(7)));
    assert_eq!(header.held.events, 1);
    // The boot began at 100.
    let begin = at(100).as_micros();
    assert_eq!(core.place("a", begin, at(500)).unwrap().unwrap().events, 1);
    let header = said(&mut core, 2);
    assert_eq!((header.count, header.low_watermark), (1, at(500)));
    assert_eq!(header.held.oldest, Some(at(103)));
}

/// A core with an empty buffer, connected.
fn connected(buffer: &buffer::Settings, session: session::Settings) -> Core {
    let agent = AgentId::new("gw").unwrap();
    let now = EventTime::from_secs(START);
    let opened = open_backend(InMemoryBackend::new(), &agent, buffer, 1, now);
    let mut core = Core::new(agent, opened.unwrap(), session, 1 << 20, 1);
    core.connected();
    core
}

/// Sends all that may be sent now; returns the ranges of events.
fn pump(core: &mut Core, second: i64) -> Vec<SeqRange> {
    let wall = EventTime::from_secs(START + second);
    let stamp = Stamp {
        wall,
        floor: wall,
        boottime_us: 0,
        clock: ClockState::default(),
    };
    let mut sent = Vec::new();
    while let Some(step) = core.poll(Duration::from_secs(1), &stamp).unwrap() {
        let Outgoing::Batch { payload, .. } = step else {
            panic!("{step:?}");
        };
        let header = batch::peek(&payload).unwrap().0;
        sent.extend((header.count > 0).then(|| SeqRange {
            incarnation: header.e_inc,
            first: header.first_seq,
            last: header.first_seq + u64::from(header.count) - 1,
        }));
    }
    sent
}

fn numbers(ranges: &[SeqRange]) -> Vec<(u64, u64)> {
    ranges.iter().map(|r| (r.first, r.last)).collect()
}

#[test]
fn what_was_placed_is_backlog_and_does_not_keep_back_what_is_live() {
    let mut core = connected(&buffer::Settings::default(), session::Settings::default());
    let mut readings = samples(0..2500);
    for (reading, us) in readings.iter_mut().zip(0..) {
        reading.time = EventTime(us);
    }
    core.hold("a", &readings, true).unwrap();
    let at = EventTime::from_secs(START);
    core.append(&[], &[], true, at).unwrap();
    // The clock is set while the connection stands.
    while core.place("a", START * 1_000_000, at).unwrap().is_some() {}
    // Of the backlog one range is on its way at a time; what comes now does not wait for it.
    assert_eq!(numbers(&pump(&mut core, 1)), [(1, 1000)]);
    core.append(&samples(1..2), &[], true, at).unwrap();
    assert_eq!(numbers(&pump(&mut core, 2)), [(2501, 2501)]);
}

#[test]
fn what_is_in_flight_is_neither_summed_up_nor_replaced() {
    let buffer = buffer::Settings {
        bytes_max: 4000,
        chunk_events_max: 50,
        ..buffer::Settings::default()
    };
    let session = session::Settings {
        batch_events_max: 50,
        ..session::Settings::default()
    };
    let mut core = connected(&buffer, session);
    let mut second = 0;
    let mut append = |core: &mut Core| {
        let mut group = samples(second..second + 50);
        for sample in &mut group {
            // Something that does not compress to nothing.
            let n = sample.time.as_micros() / 1_000_000 * 7919 % 1009;
            sample.value = Value::Number(n as f64 / 8.0);
        }
        second += 50;
        let now = EventTime::from_secs(START + second);
        core.append(&group, &[], true, now).unwrap();
    };
    for _ in 0..4 {
        append(&mut core);
    }
    let sent = pump(&mut core, 200);
    assert_eq!(numbers(&sent), [(1, 50), (51, 100), (101, 150), (151, 200)]);
    while core.buffer().summed_up() == 0 {
        append(&mut core);
    }
    // The oldest are older than what was summed up, and all there.
    let gaps = core.buffer().announcement(9).gaps;
    assert_eq!((gaps.len(), gaps[0].from), (1, 201), "{gaps:?}");
    let ack = Ack {
        incarnation: core.buffer().incarnation(),
        ranges: sent,
        ..Ack::default()
    };
    let now = EventTime::from_secs(START + 500);
    let answer = core.ack_received(Duration::from_secs(2), now, &ack.encode());
    assert_eq!(answer.unwrap().0, 200);
}

#[test]
fn what_is_in_flight_is_not_summed_up_when_readings_are_placed_either() {
    let readings = |from: i64| {
        let mut group = samples(from..from + 400);
        for sample in &mut group {
            let n = sample.time.as_micros() / 1_000_000 * 7919 % 1009;
            sample.value = Value::Number(n as f64 / 8.0);
        }
        group
    };
    let now = EventTime::from_secs(START + 1000);
    // Holds 400 events with a time and 400 without. Returns the bytes that it takes.
    let fill = |bytes_max: u64| {
        let buffer = buffer::Settings {
            bytes_max,
            chunk_events_max: 50,
            ..buffer::Settings::default()
        };
        let session = session::Settings {
            batch_events_max: 50,
            ..session::Settings::default()
        };
        let mut core = connected(&buffer, session);
        let mut without = readings(0);
        for (reading, us) in without.iter_mut().zip(0..) {
            reading.time = EventTime(us);
        }
        core.hold("a", &without, true).unwrap();
        core.append(&readings(400), &[], true, now).unwrap();
        core
    };
    // Just enough room: with their numbers, which placing gives them, they take a little more.
    let enough = fill(1 << 20).buffer().held().bytes;
    let mut core = fill(enough);
    assert_eq!(core.buffer().summed_up(), 0);
    let sent = pump(&mut core, 1000);
    assert_eq!((sent.len(), sent[0].first, sent[7].last), (8, 1, 400));
    while core.place("a", START * 1_000_000, now).unwrap().is_some() {}
    let ack = Ack {
        incarnation: core.buffer().incarnation(),
        ranges: sent,
        ..Ack::default()
    };
    assert!(core.buffer().summed_up() + core.buffer().dropped() > 0);
    let answer = core.ack_received(Duration::from_secs(2), now, &ack.encode());
    assert_eq!(answer.unwrap().0, 400);
}

#[test]
fn whatever_ranges_an_ack_names_only_what_is_held_is_freed_or_waits() {
    let session = session::Settings {
        batch_events_max: 100,
        ..session::Settings::default()
    };
    let at = EventTime::from_secs(START);
    let numbers = [0, 1, 2, 99, 100, 101, 150, 151, 300, u64::MAX - 1, u64::MAX];
    for reason in [RefusalReason::TooLarge, RefusalReason::RateLimited] {
        for (first, last) in numbers
            .iter()
            .flat_map(|a| numbers.iter().map(|b| (*a, *b)))
        {
            let mut core = connected(&buffer::Settings::default(), session.clone());
            core.append(&samples(0..300), &[], true, at).unwrap();
            assert_eq!(pump(&mut core, 1).len(), 3);
            let range = SeqRange {
                incarnation: core.buffer().incarnation(),
                first,
                last,
            };
            let refused = RefusedRange {
                range,
                reason,
                message: String::new(),
            };
            let ack = Ack {
                incarnation: range.incarnation,
                tx_no: 1,
                refused: vec![refused.clone(), refused],
                cloud_received_at: EventTime(i64::MIN),
                cloud_sent_at: EventTime(i64::MAX),
                ..Ack::default()
            };
            let now = Duration::from_secs(2);
            core.ack_received(now, at, &ack.encode()).unwrap();
            assert_eq!(core.buffer().held().events, 300, "{first} {last}");
            // What it named of them is kept back, and what comes in now is not.
            core.append(&samples(300..310), &[], true, at).unwrap();
            let sent = pump(&mut core, 3);
            assert!(
                sent.iter().any(|r| r.last == 310),
                "{first} {last} {sent:?}"
            );
            // The same as durable.
            let ack = Ack {
                incarnation: range.incarnation,
                ranges: vec![range, range],
                ..Ack::default()
            };
            let freed = core.ack_received(now, at, &ack.encode()).unwrap().0;
            let expected = (1..=310).filter(|n| (first..=last).contains(n)).count();
            assert_eq!(freed, expected as u64, "{first} {last}");
            assert_eq!(core.buffer().held().events, 310 - freed);
        }
    }
}
