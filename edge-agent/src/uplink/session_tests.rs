use super::session::*;
use crate::buffer::{Announcement, Position};
use event::{
    Ack, EventTime, Gap, GapReason, Incarnation, RefusalReason, RefusedRange, SeqRange, TimeRange,
};
use std::collections::BTreeSet;
use std::time::Duration;

const INC: Incarnation = Incarnation { no: 1, rand: 7 };

fn range(first: u64, last: u64) -> SeqRange {
    SeqRange {
        incarnation: INC,
        first,
        last,
    }
}

fn before(seq: u64) -> Position {
    Position {
        incarnation: INC,
        seq,
    }
}

/// Held numbers of one incarnation, kept simply.
#[derive(Default)]
struct Numbers(BTreeSet<u64>);

impl Numbers {
    fn next(&self, excluding: &[SeqRange], events_max: u64) -> Option<SeqRange> {
        let free = |n: &u64| !excluding.iter().any(|r| r.first <= *n && *n <= r.last);
        let first = *self.0.iter().find(|n| free(n))?;
        let mut last = first;
        while last - first + 1 < events_max && self.0.contains(&(last + 1)) && free(&(last + 1)) {
            last += 1;
        }
        Some(range(first, last))
    }
}

impl Backlog for Numbers {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn next_before(
        &self,
        end: Position,
        excluding: &[SeqRange],
        events_max: u64,
    ) -> Option<SeqRange> {
        let live = range(end.seq, u64::MAX);
        self.next(&[excluding, &[live]].concat(), events_max)
    }

    fn next_since(
        &self,
        start: Position,
        excluding: &[SeqRange],
        events_max: u64,
    ) -> Option<SeqRange> {
        let old = range(0, start.seq - 1);
        self.next(&[excluding, &[old]].concat(), events_max)
    }
}

struct World {
    session: Session,
    held: Numbers,
    now: Duration,
    to_tell: bool,
}

impl World {
    fn new(settings: Settings) -> Self {
        let mut session = Session::new(settings, 1);
        session.connected(before(1));
        let now = Duration::from_secs(100);
        Self {
            session,
            held: Numbers::default(),
            now,
            to_tell: false,
        }
    }

    /// With events that were stored since the connection was made.
    fn holding(settings: Settings, n: u64) -> Self {
        let mut world = Self::new(settings);
        world.held.0.extend(1..=n);
        world
    }

    /// With events that were stored before the connection was made.
    fn after_an_outage(settings: Settings, n: u64) -> Self {
        let mut world = Self::holding(settings, n);
        world.connect();
        world
    }

    fn connect(&mut self) {
        let seq = self.held.0.last().map_or(1, |n| n + 1);
        self.session.connected(before(seq));
    }

    /// Does all that is to be done; returns what was sent as (tx_no, range).
    fn pump(&mut self) -> Vec<(u64, Option<SeqRange>)> {
        self.pump_saying(&Announcement::default())
    }

    fn pump_saying(&mut self, said: &Announcement) -> Vec<(u64, Option<SeqRange>)> {
        let mut out = Vec::new();
        while let Some(step) = self.session.poll(self.now, &self.held, self.to_tell) {
            assert!(out.len() < 100, "it never ends: {out:?}");
            let (tx_no, range) = match step {
                Step::Batch { tx_no, range } if range_held(&self.held, range) => {
                    (tx_no, Some(range))
                }
                Step::Batch { range, .. } => {
                    self.session.gone(range);
                    continue;
                }
                Step::Heartbeat { tx_no } => (tx_no, None),
                Step::Reconnect => {
                    out.push((0, None));
                    break;
                }
            };
            let at = EventTime::from_secs(self.now.as_secs() as i64);
            self.session.sent(self.now, at, tx_no, range, said.clone());
            out.push((tx_no, range));
        }
        out
    }

    fn ack(&mut self, ack: &Ack) -> Answer {
        let at = EventTime::from_secs(self.now.as_secs() as i64);
        let answer = self.session.ack(self.now, at, ack);
        for r in &answer.acked {
            self.held.0.retain(|n| *n < r.first || *n > r.last);
        }
        answer
    }

    fn pass(&mut self, d: Duration) {
        self.now += d;
    }
}

fn range_held(held: &Numbers, r: SeqRange) -> bool {
    (r.first..=r.last).all(|n| held.0.contains(&n))
}

fn acking(tx_no: u64, ranges: &[SeqRange]) -> Ack {
    Ack {
        tx_no,
        ranges: ranges.to_vec(),
        ..Ack::default()
    }
}

fn refusing(tx_no: u64, range: SeqRange, reason: RefusalReason) -> Ack {
    let refused = vec![RefusedRange {
        range,
        reason,
        message: String::new(),
    }];
    Ack {
        tx_no,
        refused,
        ..Ack::default()
    }
}

fn small() -> Settings {
    Settings {
        batch_events_max: 10,
        in_flight_max: 2,
        ..Settings::default()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn ranges_in_flight_are_bounded_and_acks_make_room() {
    let mut w = World::holding(small(), 35);
    assert_eq!(
        w.pump(),
        [(1, Some(range(1, 10))), (2, Some(range(11, 20)))]
    );
    assert_eq!(w.pump(), []);
    // Out of order; then the rest follows.
    w.ack(&acking(2, &[range(11, 20)]));
    assert_eq!(w.pump(), [(3, Some(range(21, 30)))]);
    w.ack(&acking(1, &[range(1, 10)]));
    assert_eq!(w.pump(), [(4, Some(range(31, 35)))]);
    assert_eq!(w.session.in_flight(), 2);
    // The same ack twice changes nothing.
    w.ack(&acking(1, &[range(1, 10)]));
    assert_eq!(w.session.in_flight(), 2);
}

#[test]
fn a_lost_ack_is_answered_by_a_resend_with_a_new_number_and_growing_waits() {
    let mut w = World::holding(
        Settings {
            heartbeat: SECOND * 3600,
            ..small()
        },
        5,
    );
    assert_eq!(w.pump(), [(1, Some(range(1, 5)))]);
    for (tx_no, expected) in (2..).zip([10.0, 20.0, 40.0, 80.0, 120.0, 120.0]) {
        let before = w.now;
        // Acks of other things keep the connection from being given up.
        w.ack(&acking(0, &[]));
        w.now = w.session.next_wake(false).unwrap();
        assert_eq!(w.pump(), [(tx_no, Some(range(1, 5)))]);
        let wait = (w.now - before).as_secs_f64();
        assert!(
            (expected * 0.75..=expected * 1.25).contains(&wait),
            "{wait} s, not {expected}"
        );
    }
}

#[test]
fn a_partial_ack_leaves_the_rest_in_flight() {
    let mut w = World::holding(small(), 10);
    w.pump();
    w.ack(&acking(1, &[range(1, 4)]));
    assert_eq!(w.session.in_flight(), 1);
    w.pass(SECOND * 20);
    assert_eq!(w.pump(), [(2, Some(range(5, 10)))]);
    // A hole in the middle: the head stays in flight, the tail is found again.
    w.ack(&acking(2, &[range(7, 8)]));
    assert_eq!(w.pump(), [(3, Some(range(9, 10)))]);
}

#[test]
fn a_new_connection_sends_everything_un_acked_again() {
    let mut w = World::holding(small(), 20);
    w.pump();
    w.ack(&acking(1, &[range(1, 10)]));
    w.session.disconnected();
    assert_eq!(w.pump(), []);
    assert_eq!(w.session.next_wake(true), None);
    w.connect();
    assert_eq!(w.pump(), [(3, Some(range(11, 20)))]);
}

#[test]
fn a_quiet_agent_says_hello_and_then_beats() {
    let mut w = World::new(small());
    assert_eq!(w.pump(), [(1, None)]);
    w.ack(&acking(1, &[]));
    w.pass(SECOND * 59);
    assert_eq!(w.pump(), []);
    w.pass(SECOND);
    assert_eq!(w.pump(), [(2, None)]);
    w.ack(&acking(2, &[]));
    // Sending events counts as a beat.
    w.pass(SECOND * 50);
    w.held.0.extend(1..=3);
    assert_eq!(w.pump(), [(3, Some(range(1, 3)))]);
    w.ack(&acking(3, &[range(1, 3)]));
    w.pass(SECOND * 50);
    assert_eq!(w.pump(), []);
    // News does not wait for a whole beat.
    w.to_tell = true;
    assert_eq!(w.pump(), [(4, None)]);
}

#[test]
fn announcements_are_told_only_by_the_answer_to_their_own_transmission() {
    let gap = Gap {
        incarnation: INC,
        from: 1,
        to: 2,
        time: TimeRange {
            from: EventTime(0),
            to: EventTime(1),
        },
        reason: GapReason::Overflow,
    };
    let said = Announcement {
        gaps: vec![gap],
        ..Announcement::default()
    };
    let mut w = World::holding(small(), 20);
    w.pump_saying(&said);
    assert_eq!(w.ack(&acking(0, &[range(1, 10)])).told, None);
    assert_eq!(w.ack(&acking(99, &[])).told, None);
    // A refused transmission is not durable, and neither is what it said.
    assert_eq!(
        w.ack(&refusing(1, range(1, 10), RefusalReason::Malformed))
            .told,
        None
    );
    assert_eq!(w.ack(&acking(2, &[range(11, 20)])).told, Some(said));
    assert_eq!(w.ack(&acking(2, &[])).told, None);
}

#[test]
fn refused_ranges_are_kept_and_tried_again_slowly_while_others_flow() {
    let mut w = World::holding(small(), 30);
    w.pump();
    w.ack(&refusing(1, range(1, 10), RefusalReason::Unauthorized));
    assert_eq!(w.session.refused(), 1);
    assert_eq!(w.pump(), [(3, Some(range(21, 30)))]);
    w.ack(&acking(2, &[range(11, 20)]));
    w.ack(&acking(3, &[range(21, 30)]));
    assert!(w.held.0.contains(&1), "nothing refused is deleted");
    let mut last = Duration::ZERO;
    for _ in 0..3 {
        let began = w.now;
        let tx_no = loop {
            w.now = w.session.next_wake(false).unwrap();
            let sent = w.pump();
            w.ack(&acking(0, &[]));
            if let Some((tx_no, _)) = sent.iter().find(|(_, r)| *r == Some(range(1, 10))) {
                break *tx_no;
            }
        };
        let wait = w.now - began;
        assert!(
            wait >= SECOND * 45 && wait > last,
            "{wait:?} after {last:?}"
        );
        last = wait;
        w.ack(&refusing(tx_no, range(1, 10), RefusalReason::Unauthorized));
        assert_eq!(w.session.refused(), 1);
    }
    w.pass(SECOND * 4000);
    let sent = w.pump();
    let (tx_no, _) = *sent.iter().find(|(_, r)| r.is_some()).unwrap();
    w.ack(&acking(tx_no, &[range(1, 10)]));
    assert!(w.held.0.is_empty() && w.session.refused() == 0);
}

#[test]
fn a_range_that_is_too_large_is_cut_in_two_at_once() {
    let mut w = World::holding(small(), 10);
    w.pump();
    w.ack(&refusing(1, range(1, 10), RefusalReason::TooLarge));
    assert_eq!(w.pump(), [(2, Some(range(1, 5))), (3, Some(range(6, 10)))]);
    w.ack(&refusing(2, range(1, 5), RefusalReason::TooLarge));
    assert_eq!(w.pump(), [(4, Some(range(1, 3)))]);
}

#[test]
fn many_refusals_stop_new_ranges() {
    let settings = Settings {
        refused_max: 3,
        ..small()
    };
    let mut w = World::holding(settings, 100);
    let mut tries = 0;
    loop {
        let sent: Vec<_> = w
            .pump()
            .into_iter()
            .filter_map(|(n, r)| Some((n, r?)))
            .collect();
        if sent.is_empty() {
            break;
        }
        for (tx_no, r) in sent {
            tries += 1;
            w.ack(&refusing(tx_no, r, RefusalReason::UnknownVersion));
        }
    }
    assert!((3..=4).contains(&tries), "{tries}");
}

#[test]
fn what_was_dropped_meanwhile_is_not_tried_for_ever() {
    let mut w = World::holding(small(), 20);
    w.pump();
    w.ack(&refusing(1, range(1, 10), RefusalReason::TooLarge));
    w.held.0.clear();
    w.pass(SECOND * 30);
    let sent = w.pump();
    assert!(sent.iter().all(|(_, r)| r.is_none()), "{sent:?}");
    assert_eq!((w.session.in_flight(), w.session.refused()), (0, 0));
}

#[test]
fn a_peer_that_never_answers_costs_the_connection() {
    let mut w = World::holding(small(), 5);
    w.pump();
    w.pass(SECOND * 89);
    assert!(w.pump().iter().all(|(n, _)| *n != 0));
    w.pass(SECOND);
    assert_eq!(w.pump()[0], (0, None), "reconnect");
    // Answers of any kind count.
    let mut w = World::holding(small(), 5);
    for _ in 0..10 {
        w.pump();
        w.pass(SECOND * 60);
        w.ack(&acking(0, &[]));
    }
    assert!(w.pump().iter().all(|(n, _)| *n != 0));
}

#[test]
fn a_farewell_follows_the_last_ack_and_is_repeated_until_answered() {
    let mut w = World::holding(small(), 5);
    w.session.finish();
    assert_eq!(w.pump(), [(1, Some(range(1, 5)))]);
    w.ack(&acking(1, &[range(1, 5)]));
    assert!(!w.session.is_finished());
    assert_eq!(w.pump(), [(2, None)]);
    w.pass(SECOND * 11);
    assert_eq!(w.pump(), [(3, None)]);
    // Something came in after all.
    w.held.0.insert(6);
    assert_eq!(w.pump(), [(4, Some(range(6, 6)))]);
    w.ack(&acking(2, &[]));
    assert!(!w.session.is_finished(), "the farewell was said too early");
    w.ack(&acking(4, &[range(6, 6)]));
    assert_eq!(w.pump(), [(5, None)]);
    w.ack(&acking(5, &[]));
    assert!(w.session.is_finished());
}

/// Acks with a budget.
fn slowly(tx_no: u64, ranges: &[SeqRange], events_per_s: u32) -> Ack {
    Ack {
        backfill_budget: Some(events_per_s),
        ..acking(tx_no, ranges)
    }
}

#[test]
fn the_cloud_can_slow_the_backlog_down_and_stop_it_but_not_what_is_live() {
    let mut w = World::after_an_outage(
        Settings {
            in_flight_max: 8,
            ..small()
        },
        4000,
    );
    let sent = w.pump();
    assert_eq!(sent, [(1, Some(range(1, 10)))]);
    w.ack(&slowly(1, &[range(1, 10)], 20));
    let (mut old, mut live, mut batches) = (0, 0, 0);
    for i in 0..50 {
        w.held.0.extend(5001 + i * 7..5008 + i * 7);
        for (tx_no, r) in w.pump() {
            let Some(r) = r else { continue };
            let count = r.last - r.first + 1;
            if r.first > 4000 {
                live += count;
            } else {
                old += count;
                batches += 1;
            }
            w.ack(&slowly(tx_no, &[r], 20));
        }
        w.pass(SECOND / 10);
    }
    assert!(
        (100..=130).contains(&old),
        "{old} in 5 s at 20 a second, with 20 at once"
    );
    assert!(batches <= 26, "{batches} batches for {old} events");
    assert_eq!(live, 50 * 7, "live data has no budget");
    // Stopped: nothing to wake up for but heartbeats, and live data still goes out.
    w.ack(&slowly(0, &[], 0));
    w.pump();
    w.pass(SECOND * 50);
    assert!(w.session.next_wake(false) > Some(w.now + SECOND * 5));
    assert_eq!(w.pump(), []);
    w.held.0.insert(9000);
    assert_eq!(w.pump()[0].1, Some(range(9000, 9000)));
    // Lifted again.
    w.ack(&acking(0, &[range(9000, 9000)]));
    let [(_, Some(r))] = w.pump()[..] else {
        panic!("the backlog goes on");
    };
    assert!(r.first <= 4000 && r.last - r.first == 9, "{r:?}");
}

#[test]
fn a_backlog_is_sent_beside_live_data_which_waits_behind_one_batch_of_it_at_most() {
    for in_flight_max in [1, 2, 3, 8] {
        let settings = Settings {
            in_flight_max,
            ..small()
        };
        let mut w = World::after_an_outage(settings, 1000);
        let mut next = 2001;
        // Unanswered transmissions, in the order in which they went out.
        let mut under_way: Vec<(u64, SeqRange)> = Vec::new();
        let (mut old, mut fresh, mut rounds) = (0, 0, 0);
        while old < 1000 {
            rounds += 1;
            assert!(rounds < 1000, "the backlog does not move");
            // Sometimes a burst that fills all places in flight.
            let burst = if rounds % 10 == 0 { 200 } else { rounds % 4 };
            w.held.0.extend(next..next + burst);
            next += burst;
            under_way.extend(w.pump().into_iter().filter_map(|(n, r)| Some((n, r?))));
            let is_old = |r: &SeqRange| r.first <= 1000;
            let old_ones = under_way.iter().filter(|(_, r)| is_old(r)).count();
            assert!(old_ones <= 1, "{under_way:?}");
            // With a place free for it nothing live stays here.
            let all_sent = under_way.iter().map(|(_, r)| r.last).max() >= Some(next - 1);
            let waiting = w.held.0.contains(&(next - 1)) && next > 2001 && !all_sent;
            assert!(
                !waiting || under_way.len() == in_flight_max,
                "{in_flight_max}: {under_way:?}"
            );
            // The link is slow: one answer a round, in order.
            let (tx_no, r) = under_way.remove(0);
            if is_old(&r) {
                old += r.last - r.first + 1;
            } else {
                fresh += r.last - r.first + 1;
            }
            w.ack(&acking(tx_no, &[r]));
        }
        assert!(fresh > 0);
        // Each batch of the backlog shares the link with at most as many live batches as fit in flight.
        let most = 100 * in_flight_max as u64 + 100;
        assert!(rounds <= most, "{in_flight_max}: {rounds} rounds");
    }
}

#[test]
fn a_short_interruption_changes_no_order() {
    let mut w = World::holding(small(), 5);
    w.pump();
    w.session.disconnected();
    w.held.0.extend(6..=8);
    w.connect();
    w.held.0.insert(9);
    assert_eq!(w.pump(), [(2, Some(range(1, 8))), (3, Some(range(9, 9)))]);
}

#[test]
fn an_overdue_backlog_batch_and_refused_ones_keep_to_their_one_place() {
    let mut w = World::after_an_outage(
        Settings {
            in_flight_max: 8,
            refused_retry: SECOND,
            ..small()
        },
        40,
    );
    for first in [1, 11, 21] {
        let [(tx_no, Some(r))] = w.pump()[..] else {
            panic!("one at a time");
        };
        assert_eq!(r, range(first, first + 9));
        w.ack(&refusing(tx_no, r, RefusalReason::RateLimited));
    }
    assert_eq!(w.pump().len(), 1);
    // Three refused ones are due, and the last one is overdue: it is sent again, alone.
    w.pass(SECOND * 15);
    assert_eq!(w.pump(), [(5, Some(range(31, 40)))]);
    // A place that is taken is nothing to wake up for.
    assert!(w.session.next_wake(false) > Some(w.now));
    w.held.0.insert(41);
    assert_eq!(w.pump(), [(6, Some(range(41, 41)))]);
    w.ack(&acking(5, &[range(31, 40)]));
    assert_eq!(w.pump(), [(7, Some(range(1, 10)))]);
    assert_eq!(w.pump(), []);
}

#[test]
fn the_clock_offset_comes_from_the_shortest_way() {
    let mut s = Session::new(small(), 1);
    s.connected(before(1));
    let exchange = |s: &mut Session, tx_no, t0: i64, t1: i64, t2: i64, t3: i64| {
        s.sent(SECOND, EventTime(t0), tx_no, None, Announcement::default());
        let ack = Ack {
            tx_no,
            cloud_received_at: EventTime(t1),
            cloud_sent_at: EventTime(t2),
            ..Ack::default()
        };
        s.ack(SECOND, EventTime(t3), &ack);
        s.clock_offset_us()
    };
    // The cloud is 5 s ahead, 10 ms each way.
    let t = 1_000_000_000_000;
    let offset = exchange(&mut s, 1, t, t + 5_010_000, t + 5_020_000, t + 30_000);
    assert_eq!(offset, Some(5_000_000));
    // A slow answer changes nothing.
    let offset = exchange(&mut s, 2, t, t + 5_010_000, t + 5_020_000, t + 9_000_000);
    assert_eq!(offset, Some(5_000_000));
    // The agent's clock is set right, while an answer is on its way, too.
    s.sent(SECOND, EventTime(t), 3, None, Announcement::default());
    s.clock_moved(5_000_000);
    assert_eq!(s.clock_offset_us(), Some(0));
    let ack = Ack {
        tx_no: 3,
        cloud_received_at: EventTime(t + 5_000_005),
        cloud_sent_at: EventTime(t + 5_000_005),
        ..Ack::default()
    };
    let answer = s.ack(SECOND, EventTime(t + 5_000_010), &ack);
    assert_eq!(answer.clock, Some((0, 10)));
}

#[test]
fn events_wait_for_the_clock_and_heartbeats_ask_for_the_time() {
    let mut w = World::holding(small(), 3);
    w.session.let_events_wait(true);
    assert_eq!(w.pump(), [(1, None)]);
    assert_eq!(w.pump(), []);
    // Not after a whole heartbeat, but as soon as an answer may be lost.
    let next = w.session.next_wake(false).unwrap();
    assert_eq!(next, w.now + small().ack_timeout.min(small().heartbeat));
    w.now = next;
    assert_eq!(w.pump(), [(2, None)]);
    w.session.let_events_wait(false);
    assert!(w.pump().iter().all(|(_, range)| range.is_some()));
    assert!(w.session.in_flight() > 0);
}
