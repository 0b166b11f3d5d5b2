//! One rule at a time.

use event::{AgentId, ClockQuality, EventTime, Gap, GapReason, Lineage, TimeRange};

use super::identity::TWIN_SILENT;
use super::rare::{LIVES_MAX, TOLD_MAX};
use super::*;

pub(super) fn inc(no: u32) -> Incarnation {
    Incarnation {
        no,
        rand: u64::from(no) * 7,
    }
}

pub(super) fn header(incarnation: Incarnation, tx_no: u64, watermark: i64) -> BatchHeader {
    BatchHeader {
        agent: AgentId::new("a").unwrap(),
        incarnation,
        tx_no,
        sent_at: EventTime(watermark),
        boottime_us: 0,
        clock: ClockState::default(),
        e_inc: incarnation,
        first_seq: 0,
        count: 0,
        low_watermark: EventTime(watermark),
        quiet_until: None,
        held: Held::default(),
        lineage: Vec::new(),
        unclean: None,
        gaps: Vec::new(),
    }
}

pub(super) fn lineage(incarnation: Incarnation, last_seq: u64, held: bool) -> Lineage {
    Lineage {
        incarnation,
        last_seq,
        held,
    }
}

fn gap(incarnation: Incarnation, from: u64, to: u64, time: (i64, i64)) -> Gap {
    Gap {
        incarnation,
        from,
        to,
        time: TimeRange {
            from: EventTime(time.0),
            to: EventTime(time.1),
        },
        reason: GapReason::Overflow,
    }
}

fn fork(last: u64, fresh: &[(u64, u64)]) -> Fresh {
    Fresh::Fork {
        last,
        fresh: SmallVec::from_slice(fresh),
        known: true,
    }
}

pub(super) fn saved(agents: &Agents) -> Vec<u8> {
    let mut bytes = Vec::new();
    agents.save(&mut bytes);
    bytes
}

/// A table with one agent; after each step it is saved and read back.
struct One(Agents);

impl One {
    fn new() -> Self {
        let mut agents = Agents::default();
        agents.number("a", false).unwrap();
        Self(agents)
    }

    fn check(&mut self) {
        let bytes = saved(&self.0);
        let mut rest = bytes.as_slice();
        let back = Agents::load(&mut rest).unwrap();
        assert!(rest.is_empty());
        assert_eq!(back.hot, self.0.hot);
        assert_eq!(back.rare, self.0.rare);
        assert_eq!(back.ranges, self.0.ranges);
        self.0 = back;
    }

    fn take(&mut self, incarnation: Incarnation, first: u64, last: u64) -> Fresh {
        let fresh = self.0.take_range(0, incarnation, first, last);
        self.check();
        fresh
    }

    fn fresh(&mut self, incarnation: Incarnation, first: u64, last: u64) -> u64 {
        match self.take(incarnation, first, last) {
            Fresh::Ranges(r) => r.iter().map(|(a, b)| b - a + 1).sum(),
            other => panic!("{other:?}"),
        }
    }

    fn hear(&mut self, header: &BatchHeader, ingest: i64) -> Option<Conflict> {
        let conflict = self.0.take_header(0, header, ingest);
        self.check();
        conflict
    }

    fn progress(&self) -> i64 {
        self.0.hot(0).progress
    }

    fn lives(&self) -> usize {
        let more = self.0.rare(0).and_then(|r| r.more.as_ref());
        usize::from(self.0.hot(0).inline()) + more.map_or(0, |m| m.lives.len())
    }

    fn ordinary(&self) -> bool {
        self.0.hot(0).inline() && !self.0.hot(0).has_more()
    }
}

#[test]
fn an_agent_and_a_plain_device_of_one_name_are_two() {
    let mut agents = Agents::default();
    assert_eq!(agents.number("x", false), Some(0));
    assert_eq!(agents.number("x", true), Some(1));
    assert_eq!(agents.number("y", true), Some(2));
    assert_eq!(agents.number("x", false), Some(0));
    assert_eq!((agents.name(0), agents.name(1)), ("x", "x"));
    assert!(!agents.hot(0).plain() && agents.hot(1).plain());
    let mut back = Agents::load(&mut saved(&agents).as_slice()).unwrap();
    assert_eq!((back.number("x", true), back.len()), (Some(1), 3));
}

#[test]
fn a_lower_range_that_comes_late_is_not_a_duplicate() {
    let mut a = One::new();
    assert_eq!(a.fresh(inc(1), 101, 200), 100);
    assert_eq!(a.fresh(inc(1), 1, 100), 100);
    assert_eq!(a.fresh(inc(1), 50, 150), 0);
    assert_eq!(a.0.seq_ranges(), 1);
    assert!(a.ordinary() && a.0.rare.is_empty());
}

#[test]
fn a_hole_is_kept_beside_and_gone_when_it_is_filled() {
    let mut a = One::new();
    assert_eq!(a.fresh(inc(1), 1, 10), 10);
    assert_eq!(a.fresh(inc(1), 21, 30), 10);
    assert_eq!((a.0.seq_ranges(), a.ordinary()), (2, false));
    assert_eq!(
        a.take(inc(1), 5, 25),
        Fresh::Ranges(SmallVec::from_slice(&[(11, 20)]))
    );
    assert_eq!((a.0.seq_ranges(), a.ordinary()), (1, true));
    assert!(a.0.rare.is_empty());
}

#[test]
fn only_a_newer_transmission_moves_the_watermark_and_never_past_ingest_time() {
    let mut a = One::new();
    a.hear(&header(inc(1), 2, 500), 1000);
    assert_eq!(a.progress(), 500);
    a.hear(&header(inc(1), 1, 900), 1000);
    assert_eq!(a.progress(), 500);
    a.hear(&header(inc(1), 3, 5000), 1000);
    assert_eq!(a.progress(), 1000);
    a.hear(&header(inc(1), 4, 700), 1000);
    assert_eq!(a.progress(), 700);
}

#[test]
fn a_restart_holds_progress_until_the_old_life_is_accounted_for() {
    let mut a = One::new();
    a.fresh(inc(1), 1, 10);
    a.hear(&header(inc(1), 1, 100), 1000);
    let mut h = header(inc(2), 1, 100);
    h.lineage = vec![lineage(inc(1), 15, true)];
    assert_eq!(a.hear(&h, 1000), None);
    // The successor claims that nothing is held, but 11..=15 never came: not closed.
    let mut h = header(inc(2), 2, 900);
    h.lineage = vec![lineage(inc(1), 15, false)];
    a.hear(&h, 1000);
    assert_eq!(a.progress(), 100);
    a.fresh(inc(1), 11, 15);
    h.tx_no = 3;
    a.hear(&h, 1000);
    assert_eq!(a.progress(), 900);
    assert!(a.ordinary());
    // Closed: a late resend is a duplicate, anything beyond is a fork.
    assert_eq!(a.fresh(inc(1), 1, 15), 0);
    assert_eq!(a.take(inc(1), 14, 16), fork(15, &[(16, 16)]));
    // Set aside once, whatever is sent again and in which cuts.
    assert_eq!(a.take(inc(1), 14, 16), fork(15, &[]));
    assert_eq!(a.take(inc(1), 16, 20), fork(15, &[(17, 20)]));
    assert_eq!(a.take(inc(1), 16, 20), fork(15, &[]));
}

#[test]
fn declared_gaps_count_as_accounted_for_and_as_lost() {
    let mut a = One::new();
    a.fresh(inc(1), 1, 10);
    let mut h = header(inc(2), 1, 900);
    h.lineage = vec![lineage(inc(1), 15, false)];
    h.gaps = vec![gap(inc(1), 11, 15, (40, 60))];
    a.hear(&h, 1000);
    assert_eq!(a.progress(), 900);
    assert_eq!(a.0.losses(0), [(40, 60)]);
}

#[test]
fn a_number_drawn_twice_is_a_conflict_and_the_lost_stretch_is_declared() {
    let mut a = One::new();
    a.hear(&header(inc(1), 1, 100), 1000);
    let twin = Incarnation { no: 1, rand: 99 };
    assert!(a.hear(&header(twin, 1, 700), 1000).is_some());
    assert!(a.hear(&header(twin, 2, 800), 1000).is_none(), "told once");
    assert_eq!(a.progress(), 800);
    assert_eq!(a.0.losses(0), [(100, 700)]);
    assert!(a.0.hot(0).irregular());
    // The other one had something under way: no sign that it is alive.
    a.hear(&header(inc(1), 2, 300), 1000);
    assert_eq!(a.progress(), 800);
    assert_eq!(a.0.losses(0), [(100, 700)]);
    // It is alive after all: both count again.
    let mut h = header(inc(1), 3, 300);
    h.sent_at = EventTime(950);
    a.hear(&h, 1000);
    assert_eq!(a.progress(), 300);
    assert_eq!(a.0.losses(0), [(100, 950)]);
}

#[test]
fn while_two_copies_talk_all_is_one_stretch_of_loss_and_the_silent_one_is_not_waited_for() {
    let minute = 60_000_000;
    let mut a = One::new();
    let twin = Incarnation { no: 1, rand: 99 };
    a.hear(&header(inc(1), 1, minute), minute);
    assert!(a.hear(&header(twin, 1, 2 * minute), 2 * minute).is_some());
    for m in 3..20 {
        let who = if m % 2 == 0 { twin } else { inc(1) };
        assert_eq!(a.hear(&header(who, m as u64, m * minute), m * minute), None);
        assert_eq!(a.0.losses(0), [(minute, m * minute)]);
        assert_eq!(a.progress(), (m - 1) * minute, "both hold");
    }
    assert_eq!(a.fresh(twin, 1, 5) + a.fresh(inc(1), 1, 5), 10, "all count");
    // One falls silent: it holds back for ten minutes, then no more.
    let gone = 18 * minute;
    for m in 20..40 {
        assert_eq!(
            a.hear(&header(inc(1), m as u64, m * minute), m * minute),
            None
        );
        let waited = m * minute - gone < TWIN_SILENT;
        assert_eq!(a.progress(), if waited { gone } else { m * minute });
        assert_eq!(a.0.losses(0), [(minute, m.min(28) * minute)]);
    }
    // Back again: told already, and lossy again.
    assert_eq!(a.hear(&header(twin, 40, 40 * minute), 40 * minute), None);
    assert_eq!(a.0.losses(0), [(minute, 40 * minute)]);
}

#[test]
fn a_copy_that_goes_on_beside_the_successor_of_the_other_is_told() {
    let minute = 60_000_000;
    let mut a = One::new();
    let twin = Incarnation { no: 1, rand: 99 };
    a.hear(&header(inc(1), 1, minute), minute);
    assert!(a.hear(&header(twin, 1, 2 * minute), 2 * minute).is_some());
    let mut h = header(inc(2), 1, 3 * minute);
    h.lineage = vec![lineage(inc(1), 0, false)];
    assert!(a.hear(&h, 3 * minute).is_some(), "does not know the twin");
    assert_eq!(a.hear(&header(twin, 2, 4 * minute), 4 * minute), None);
    assert_eq!(a.progress(), 3 * minute);
    assert_eq!(a.lives(), 2);
    // The twin starts again, too.
    let next = Incarnation { no: 2, rand: 1 };
    let mut h = header(next, 1, 5 * minute);
    h.lineage = vec![lineage(twin, 0, false)];
    assert!(a.hear(&h, 5 * minute).is_some(), "same number");
}

/// Two disks of one agent: one is in life 3, which came after 2 and says so; the other is in life 9.
fn two_disks() -> (Incarnation, Incarnation, Incarnation, BatchHeader) {
    let mut h = header(inc(3), 2, 320);
    h.sent_at = EventTime(330);
    h.lineage = vec![lineage(inc(2), 5, true)];
    (inc(2), inc(3), inc(9), h)
}

#[test]
fn who_is_told_of_only_by_a_life_that_was_given_up_is_not_waited_for() {
    let minute = 60_000_000;
    let (lost, dead, winner, lineage_of_dead) = two_disks();
    let mut a = One::new();
    a.hear(&header(dead, 1, 300), 1000);
    assert!(a.hear(&header(winner, 1, 900), 1000).is_some());
    assert_eq!(a.progress(), 900);
    // Late: what the dead one said of its past, then the first word of that past itself.
    a.hear(&lineage_of_dead, 1000);
    a.hear(&header(lost, 1, 200), 1000);
    assert_eq!(a.progress(), 900);
    for m in 1..30 {
        a.hear(&header(winner, 1 + m as u64, m * minute), m * minute);
        assert_eq!(a.progress(), m * minute);
    }
}

#[test]
fn who_was_spoken_for_by_a_life_that_falls_silent_goes_with_it() {
    let minute = 60_000_000;
    let (lost, _, winner, mut lineage_of_dead) = two_disks();
    let mut a = One::new();
    a.hear(&header(winner, 1, 300), 1000);
    // The first word of the dead one is late, and for a while nobody can tell that it is dead.
    lineage_of_dead.sent_at = EventTime(310);
    let mut other = header(lost, 1, 200);
    other.sent_at = EventTime(250);
    a.hear(&lineage_of_dead, 1000);
    a.hear(&other, 1000);
    assert_eq!(a.progress(), 200);
    for m in 1..30 {
        a.hear(&header(winner, 1 + m as u64, m * minute), m * minute);
    }
    assert_eq!(a.progress(), 29 * minute);
    assert_eq!(a.fresh(lost, 1, 5), 5, "and still counts if it comes");
}

#[test]
fn who_is_told_of_by_a_life_that_its_own_word_gives_up_is_not_given_up() {
    let (old, next, twin) = (inc(1), inc(2), Incarnation { no: 1, rand: 99 });
    let mut a = One::new();
    a.hear(&header(twin, 1, 500), 1000);
    let mut h = header(next, 2, 100);
    h.sent_at = EventTime(330);
    h.lineage = vec![lineage(old, 3, true)];
    assert!(a.hear(&h, 1000).is_some());
    assert!(a.hear(&header(old, 1, 200), 1000).is_some(), "a twin");
    assert_eq!(a.progress(), 200);
    // Nobody is left who knows them: what they held is lost up to here.
    let mut h = header(inc(3), 1, 900);
    h.lineage = vec![lineage(twin, 0, false)];
    assert!(a.hear(&h, 1000).is_some());
    assert_eq!(a.progress(), 900);
    assert_eq!(a.0.losses(0), [(100, 900)]);
}

#[test]
fn a_declared_gap_beyond_the_end_of_a_closed_life_is_a_fork() {
    let mut a = One::new();
    a.fresh(inc(1), 1, 3);
    let mut h = header(inc(2), 1, 500);
    h.lineage = vec![lineage(inc(1), 3, false)];
    assert_eq!(a.hear(&h, 1000), None);
    let mut late = header(inc(1), 2, 450);
    late.gaps = vec![gap(inc(1), 2, 3, (20, 30))];
    assert_eq!(a.hear(&late, 1000), None);
    late.gaps = vec![gap(inc(1), 4, 5, (440, 460))];
    assert!(a.hear(&late, 1000).is_some());
    assert_eq!(a.hear(&late, 1000), None, "told once");
    assert_eq!(a.0.losses(0), [(20, 30), (440, 999)]);
}

#[test]
fn events_set_aside_as_a_fork_are_a_loss_up_to_now() {
    let mut a = One::new();
    a.fresh(inc(1), 1, 3);
    a.hear(&header(inc(1), 1, 100), 1000);
    let mut h = header(inc(2), 1, 500);
    h.lineage = vec![lineage(inc(1), 3, false)];
    assert_eq!(a.hear(&h, 1000), None);
    assert!(a.0.losses(0).is_empty());
    assert_eq!(a.take(inc(1), 4, 6), fork(3, &[(4, 6)]));
    let word = header(inc(1), 2, 700);
    a.0.take_fork(0, &word, None, 1000);
    a.check();
    assert_eq!(a.0.losses(0), [(700, 999)]);
    assert!(a.0.hot(0).irregular());
    a.0.take_fork(0, &word, Some(EventTime(600)), 1100);
    a.check();
    assert_eq!(a.0.losses(0), [(600, 1099)]);
}

#[test]
fn a_disk_of_an_earlier_day_states_an_end_that_cannot_be() {
    // More came than the successor knows of.
    let mut a = One::new();
    a.fresh(inc(1), 1, 100);
    a.hear(&header(inc(1), 1, 300), 1000);
    let mut h = header(inc(2), 1, 900);
    h.lineage = vec![lineage(inc(1), 50, true)];
    let conflict = a.hear(&h, 1000).unwrap();
    assert!(
        conflict.0.contains("ended at 50, but 100 came"),
        "{}",
        conflict.0
    );
    h.tx_no = 2;
    assert_eq!(a.hear(&h, 1000), None, "told once");
    assert_eq!(a.progress(), 900, "not waited for");
    assert_eq!(a.0.losses(0), [(300, 900)]);
    // Nothing is discarded.
    assert_eq!(a.fresh(inc(1), 90, 110), 10);

    // What was under way comes after the lineage.
    let mut a = One::new();
    a.fresh(inc(1), 1, 20);
    a.hear(&header(inc(1), 1, 300), 1000);
    h.tx_no = 1;
    assert_eq!(a.hear(&h, 1000), None);
    assert_eq!(a.fresh(inc(1), 51, 60), 10);
    let mut late = header(inc(1), 2, 400);
    assert!(a.hear(&late, 1000).is_some());
    late.tx_no = 3;
    assert_eq!(a.hear(&late, 1000), None);
    a.hear(&header(inc(2), 2, 950), 1000);
    assert_eq!(a.progress(), 950);
    assert_eq!(a.0.losses(0), [(400, 1000)]);

    // The life was closed with another end.
    let mut a = One::new();
    a.fresh(inc(1), 1, 100);
    let mut h = header(inc(2), 1, 500);
    h.lineage = vec![lineage(inc(1), 100, false)];
    assert_eq!(a.hear(&h, 1000), None);
    let mut h = header(inc(3), 1, 900);
    h.lineage = vec![lineage(inc(1), 50, false), lineage(inc(2), 0, false)];
    assert!(a.hear(&h, 1000).is_some());
    h.tx_no = 2;
    assert_eq!(a.hear(&h, 1000), None);
    assert_eq!(a.0.losses(0), [(500, 900)]);
}

#[test]
fn a_wiped_disk_begins_with_a_number_that_a_later_life_does_not_know() {
    let mut a = One::new();
    a.fresh(inc(9), 1, 10);
    a.hear(&header(inc(9), 1, 300), 1000);
    assert!(a.hear(&header(inc(1), 1, 900), 1000).is_some());
    assert_eq!(a.progress(), 900, "the vanished one is not waited for");
    assert_eq!(a.0.losses(0), [(300, 900)]);
    assert_eq!(a.fresh(inc(1), 1, 3), 3);
}

#[test]
fn a_late_transmission_of_a_closed_life_brings_nothing_back() {
    let mut a = One::new();
    a.fresh(inc(1), 1, 1);
    let old = header(inc(1), 1, 100);
    a.hear(&old, 1000);
    let mut h = header(inc(2), 1, 500);
    h.lineage = vec![lineage(inc(1), 1, false)];
    a.hear(&h, 1000);
    assert_eq!(a.hear(&old, 1000), None);
    a.hear(&header(inc(2), 2, 900), 1000);
    assert_eq!(a.progress(), 900);
    assert!(!a.0.is_present(0, inc(1)) && a.0.is_present(0, inc(2)));
}

#[test]
fn lineage_that_came_before_the_events_closes_when_they_come() {
    let mut a = One::new();
    let mut h = header(inc(2), 1, 500);
    h.lineage = vec![lineage(inc(1), 3, false)];
    assert_eq!(a.hear(&h, 1000), None);
    // The first word of the old life comes after its successor's: late, not strange.
    assert_eq!(a.hear(&header(inc(1), 1, 100), 1000), None);
    assert_eq!(a.progress(), 100);
    a.fresh(inc(1), 1, 3);
    a.hear(&header(inc(2), 2, 900), 1000);
    assert_eq!(a.progress(), 900);
    assert!(a.0.losses(0).is_empty());
}

#[test]
fn lives_holes_and_pairs_stay_bounded() {
    let mut a = One::new();
    for no in 1..500 {
        // Each life is a stranger to the next, as on a disk that is wiped at every boot.
        a.fresh(inc(no), 1, 5);
        a.hear(&header(inc(no), 1, i64::from(no)), 1000);
    }
    assert!(a.lives() <= LIVES_MAX);
    let more = a.0.rare(0).and_then(|r| r.more.as_ref()).unwrap();
    assert_eq!(more.conflicts.as_ref().unwrap().told.len(), TOLD_MAX);
    assert_eq!(a.fresh(inc(499), 1, 5), 0);
    assert_eq!(a.fresh(inc(400), 1, 5), 0, "buried with what it had");
    assert_eq!(a.fresh(inc(2), 1, 5), 0, "faded, and still known");
    let mut a = a.0;
    for i in 0..10_000 {
        let _ = a.take_range(0, inc(499), 10 + i * 2, 10 + i * 2);
    }
    assert_eq!(a.take_range(0, inc(499), 90_000, 90_000), Fresh::NoRoom);
    assert_eq!(
        a.take_range(0, inc(499), 6, 9),
        Fresh::Ranges(SmallVec::from_slice(&[(6, 9)])),
        "what joins a range still comes in"
    );
}

#[test]
fn the_backlog_is_what_is_held_outside_the_batch() {
    let mut a = One::new();
    let mut h = header(inc(1), 1, 700);
    h.first_seq = 1;
    h.count = 10;
    h.held = Held {
        events: 10,
        bytes: 400,
        oldest: Some(EventTime(600)),
    };
    a.hear(&h, 1000);
    assert_eq!(a.0.held(0), Held::default());
    assert!(a.ordinary() && a.0.rare.is_empty());
    h.tx_no = 2;
    h.held.events = 40;
    a.hear(&h, 1000);
    let rest = Held {
        events: 30,
        bytes: 300,
        oldest: Some(EventTime(700)),
    };
    assert_eq!(a.0.held(0), rest);
    a.hear(&header(inc(1), 3, 900), 1000);
    assert_eq!(a.0.held(0), Held::default());
    assert!(a.0.rare.is_empty());
}

#[test]
fn a_sleeping_agent_is_complete_for_as_long_as_it_promised() {
    let day = 86_400_000_000;
    let mut a = One::new();
    let mut h = header(inc(1), 1, 900);
    h.quiet_until = Some(EventTime(2 * day));
    a.hear(&h, 1000);
    assert_eq!(a.progress(), 2 * day);
    h.tx_no = 2;
    h.quiet_until = Some(EventTime(30 * day));
    a.hear(&h, 1000);
    assert_eq!(a.progress(), 1000 + 7 * day, "believed for a week");
    h.tx_no = 3;
    h.held.events = 1;
    a.hear(&h, 1000);
    assert_eq!(a.progress(), 900, "it holds something");
    h.tx_no = 4;
    h.held.events = 0;
    a.hear(&h, 1000);
    assert_eq!(a.progress(), 1000 + 7 * day);
    a.hear(&header(inc(1), 5, 950), 1000);
    assert_eq!(a.progress(), 950, "awake again");
    assert!(a.0.rare.is_empty());
}

#[test]
fn a_clock_that_was_never_set_is_corrected_and_others_are_flagged() {
    let now = 1_700_000_000_000_000;
    let mut a = One::new();
    // 1970: sent 50 s after the epoch, holding an event of 20 s before.
    let mut h = header(inc(1), 1, 30_000_000);
    h.sent_at = EventTime(50_000_000);
    let shift = now - 50_000_000;
    assert_eq!(a.0.correction(0, &h, now), shift);
    h.unclean = Some(TimeRange {
        from: EventTime(0),
        to: EventTime(1),
    });
    a.hear(&h, now);
    assert_eq!(a.progress(), now - 20_000_000);
    assert_eq!(a.0.losses(0), [(shift, shift + 1)]);
    assert!(a.0.hot(0).clock_off());
    assert_eq!(a.0.offset(0), Some(-shift));
    // Overtaken by that one, it waited for an hour: the newest offset holds.
    let mut old = h.clone();
    old.tx_no = 0;
    assert_eq!(a.0.correction(0, &old, now + 3_600_000_000), shift);
    // The same with a clock that is said to be set: believed, and flagged.
    h.tx_no = 2;
    h.clock.quality = ClockQuality::Ntp;
    assert_eq!(a.0.correction(0, &h, now), 0);
    h.unclean = None;
    a.hear(&h, now);
    assert_eq!((a.progress(), a.0.hot(0).clock_off()), (30_000_000, true));
    // Within a minute nothing is done.
    let mut h = header(inc(1), 3, now - 60_000_000);
    h.clock.error_ms = 12;
    assert_eq!(a.0.correction(0, &h, now), 0);
    a.hear(&h, now);
    assert!(!a.0.hot(0).clock_off());
    assert_eq!(a.0.offset(0), Some(-60_000_000));
    assert_eq!(a.0.clock(0), Some(h.clock));
}

#[test]
fn a_word_of_an_earlier_life_says_nothing_of_the_present() {
    let mut a = One::new();
    let mut old = header(inc(1), 1, 100);
    a.hear(&old, 1000);
    a.0.set_online(0, false);
    let mut h = header(inc(2), 1, 900);
    h.lineage = vec![lineage(inc(1), 3, true)];
    a.hear(&h, 1000);
    assert_eq!(a.0.hot(0).online(), Some(true));
    old.tx_no = 2;
    old.held.events = 77;
    old.clock.quality = ClockQuality::Gnss;
    a.hear(&old, 1000);
    assert_eq!(a.0.held(0), Held::default());
    assert_eq!(a.0.clock(0), Some(h.clock));
}
