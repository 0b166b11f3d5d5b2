//! What is known of one agent: which seqs came, how far it is complete, what it lost.
//!
//! Invariants (PROTOCOL.md P1-P4, P6): an event counts iff its seq is outside the interval set of its
//! incarnation; watermark and clock are taken only from a newer transmission; progress is the minimum
//! over the live incarnations and never beyond the ingest time; nothing here expires by time.

use std::sync::Arc;

use event::{BatchHeader, ClockState, Gap, Held, Incarnation, Lineage};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::intervals::IntervalSet;

/// Closed incarnations remembered per agent (P3).
const TOMBSTONES_MAX: usize = 64;
/// Incarnations that are not closed, per agent. Beyond it the oldest one that nobody speaks for is closed as
/// it is; if there is none, a new one is refused.
const LIVES_MAX: usize = 64;
/// Separate ranges of seqs held per incarnation. An agent that numbers without holes and has at most eight
/// batches under way needs a few.
const RANGES_MAX: usize = 4096;
/// Separate stretches of loss remembered per agent; beyond it neighbours are joined.
const LOSSES_MAX: usize = 64;

/// One incarnation that may still send or be sent for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Life {
    pub(crate) incarnation: Incarnation,
    /// Newest transmission seen.
    tx_no: u64,
    /// From that transmission; none if this incarnation never sent for itself.
    watermark: Option<i64>,
    pub(crate) seen: IntervalSet,
    lost: IntervalSet,
    /// A successor that knows nothing of it has appeared: it holds nobody back any more.
    abandoned: bool,
    /// A successor said that nothing of it is held any more, and that this was its last seq.
    end: Option<u64>,
}

/// What happened to the identity of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conflict(pub(crate) String);

/// Whether an event of an incarnation counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fresh {
    /// These seqs are new; all others of the batch are duplicates.
    Ranges(SmallVec<[(u64, u64); 2]>),
    /// Beyond the end of a closed incarnation: identity is ambiguous. Seqs up to the end are duplicates.
    Fork { last: u64 },
    /// More incarnations or holes than an honest agent can have.
    NoRoom,
}

/// One agent, or a plain device that is its own agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Agent {
    pub(crate) name: Arc<str>,
    pub(crate) plain: bool,
    lives: SmallVec<[Life; 1]>,
    tombstones: Vec<(Incarnation, u64)>,
    /// Event time up to which it is known to be complete; `i64::MIN` = unknown.
    pub(crate) progress: i64,
    /// Ingest time of the last message.
    pub(crate) last_contact: i64,
    /// Ingest time without our own outages at the last message; for silence.
    pub(crate) contact_uptime: i64,
    pub(crate) held: Held,
    pub(crate) clock: Option<ClockState>,
    pub(crate) online: Option<bool>,
    /// Dense numbers of its devices.
    pub(crate) devices: Vec<u32>,
    /// Disjoint stretches of event time in which it lost events, ascending, microseconds.
    pub(crate) losses: Vec<(i64, i64)>,
}

impl Agent {
    pub(crate) fn new(name: Arc<str>, plain: bool) -> Self {
        Self {
            name,
            plain,
            lives: SmallVec::new(),
            tombstones: Vec::new(),
            progress: i64::MIN,
            last_contact: 0,
            contact_uptime: 0,
            held: Held::default(),
            clock: None,
            online: None,
            devices: Vec::new(),
            losses: Vec::new(),
        }
    }

    /// The position of an incarnation, which is added if there is room.
    fn life(&mut self, incarnation: Incarnation) -> Option<usize> {
        if let Some(i) = self.lives.iter().position(|l| l.incarnation == incarnation) {
            return Some(i);
        }
        if self.lives.len() >= LIVES_MAX {
            let oldest = (0..self.lives.len())
                .filter(|&i| self.lives[i].abandoned)
                .min_by_key(|&i| self.lives[i].incarnation)?;
            // Up to here all have come; what may come beyond is set aside, not taken for a duplicate.
            let end = self.lives[oldest].seen.prefix();
            self.bury(oldest, end);
        }
        self.lives.push(Life {
            incarnation,
            tx_no: 0,
            watermark: None,
            seen: IntervalSet::default(),
            lost: IntervalSet::default(),
            abandoned: false,
            end: None,
        });
        Some(self.lives.len() - 1)
    }

    fn bury(&mut self, life: usize, end: u64) {
        let life = self.lives.remove(life);
        self.tombstones.push((life.incarnation, end));
        if self.tombstones.len() > TOMBSTONES_MAX {
            self.tombstones.remove(0);
        }
    }

    /// P3: closes an incarnation of which nothing is held and nothing is missing.
    fn close_if_done(&mut self, life: usize) {
        let l = &self.lives[life];
        if let Some(end) = l.end
            && l.seen.covers_with(&l.lost, end)
        {
            self.bury(life, end);
        }
    }

    fn tombstone(&self, incarnation: Incarnation) -> Option<u64> {
        self.tombstones
            .iter()
            .find(|t| t.0 == incarnation)
            .map(|t| t.1)
    }

    /// Takes the seqs `first..=last` of an incarnation and says which are new (P1).
    pub(crate) fn take_range(&mut self, incarnation: Incarnation, first: u64, last: u64) -> Fresh {
        if let Some(end) = self.tombstone(incarnation) {
            return if last <= end {
                Fresh::Ranges(SmallVec::new())
            } else {
                Fresh::Fork { last: end }
            };
        }
        let Some(i) = self.life(incarnation) else {
            return Fresh::NoRoom;
        };
        let life = &mut self.lives[i];
        let fresh = life.seen.missing(first, last);
        if !fresh.is_empty() {
            if life.seen.len() >= RANGES_MAX && !life.seen.touches(first, last) {
                return Fresh::NoRoom;
            }
            life.seen.insert(first, last);
            self.close_if_done(i);
        }
        Fresh::Ranges(fresh)
    }

    /// Takes what a header says of the agent itself, after its events were taken.
    ///
    /// `ingest` is the block's ingest time, which bounds the watermark: a fast clock advances nothing.
    pub(crate) fn take_header(&mut self, header: &BatchHeader, ingest: i64) -> Option<Conflict> {
        let closed = self.tombstone(header.incarnation).is_some();
        let conflict = if closed { None } else { self.conflict(header) };
        // A late transmission of a closed incarnation must not bring it back: its watermark and clock are
        // of the past. What it declares as lost is lost all the same.
        if !closed && let Some(i) = self.life(header.incarnation) {
            let life = &mut self.lives[i];
            if header.tx_no > life.tx_no {
                life.tx_no = header.tx_no;
                life.watermark = Some(header.low_watermark.as_micros().min(ingest));
                life.abandoned = false;
                self.held = header.held;
                self.clock = Some(header.clock);
                // It could not have sent this without being connected.
                if self.online.is_some() {
                    self.online = Some(true);
                }
            }
        }
        if conflict.is_some() {
            self.abandon_others(header, ingest);
        }
        for gap in &header.gaps {
            self.take_gap(gap);
        }
        if let Some(range) = header.unclean {
            self.add_loss(range.from.as_micros(), range.to.as_micros());
        }
        for entry in header
            .lineage
            .iter()
            .filter(|e| e.incarnation != header.incarnation)
        {
            self.take_lineage(entry);
        }
        let watermarks = self
            .lives
            .iter()
            .filter(|l| !l.abandoned)
            .filter_map(|l| l.watermark);
        if let Some(progress) = watermarks.min() {
            self.progress = progress;
        }
        conflict
    }

    /// P4: the same number drawn twice, or a life that its successor has never heard of.
    fn conflict(&self, header: &BatchHeader) -> Option<Conflict> {
        let new = header.incarnation;
        if self
            .lives
            .iter()
            .any(|l| l.incarnation == new && l.tx_no > 0)
            || self.tombstone(new).is_some()
        {
            return None;
        }
        let known = self
            .lives
            .iter()
            .map(|l| l.incarnation)
            .chain(self.tombstones.iter().map(|t| t.0));
        for old in known.filter(|old| *old != new) {
            if old.no == new.no {
                return Some(Conflict(format!(
                    "incarnation number {} was drawn twice ({old} and {new}): the agent's disk was rolled back, cloned or wiped",
                    new.no
                )));
            }
        }
        // One with a lower number that is seen only now is late, not strange: its successor is known.
        if self.lives.iter().any(|l| l.incarnation.no > new.no) {
            return None;
        }
        let stranger = self.lives.iter().find(|l| {
            !l.abandoned
                && l.watermark.is_some()
                && l.incarnation != new
                && !header
                    .lineage
                    .iter()
                    .any(|e| e.incarnation == l.incarnation)
        })?;
        Some(Conflict(format!(
            "incarnation {new} does not know {}, which was not finished: the agent's disk was rolled back, cloned or wiped",
            stranger.incarnation
        )))
    }

    /// The lives that the new one cannot speak for stop holding the agent back; what they may have
    /// held is declared lost up to now.
    fn abandon_others(&mut self, header: &BatchHeader, ingest: i64) {
        let mut from = None;
        for life in &mut self.lives {
            let known = header
                .lineage
                .iter()
                .any(|e| e.incarnation == life.incarnation);
            if life.incarnation != header.incarnation && !known && !life.abandoned {
                life.abandoned = true;
                from = from.into_iter().chain(life.watermark).min();
            }
        }
        if let Some(from) = from {
            self.add_loss(from, header.sent_at.as_micros().min(ingest).max(from));
        }
    }

    fn take_gap(&mut self, gap: &Gap) {
        self.add_loss(gap.time.from.as_micros(), gap.time.to.as_micros());
        if self.tombstone(gap.incarnation).is_none()
            && let Some(i) = self.life(gap.incarnation)
        {
            let lost = &mut self.lives[i].lost;
            if lost.len() < RANGES_MAX || lost.touches(gap.from, gap.to) {
                lost.insert(gap.from, gap.to);
                self.close_if_done(i);
            }
        }
    }

    /// Lineage is told until it is acked and then no more: what cannot be closed yet is remembered.
    fn take_lineage(&mut self, entry: &Lineage) {
        if self.tombstone(entry.incarnation).is_some() {
            return;
        }
        if let Some(i) = self.life(entry.incarnation) {
            if !entry.held {
                self.lives[i].end = Some(entry.last_seq);
            }
            self.close_if_done(i);
        }
    }

    /// Whether a status of this incarnation is the agent's present one: a late last will of an earlier life
    /// says nothing about the life that is connected.
    pub(crate) fn is_present(&self, incarnation: Incarnation) -> bool {
        self.tombstone(incarnation).is_none()
            && self
                .lives
                .iter()
                .all(|l| l.incarnation.no <= incarnation.no || l.abandoned)
    }

    fn add_loss(&mut self, from: i64, to: i64) {
        let (from, to) = (from.min(to), from.max(to));
        let a = self.losses.partition_point(|l| l.1 < from);
        let b = self.losses.partition_point(|l| l.0 <= to);
        if a == b {
            self.losses.insert(a, (from, to));
        } else {
            self.losses[a] = (from.min(self.losses[a].0), to.max(self.losses[b - 1].1));
            self.losses.drain(a + 1..b);
        }
        if self.losses.len() > LOSSES_MAX {
            // Join the two nearest: says too much is lost rather than too little.
            let nearest = (1..self.losses.len())
                .min_by_key(|&i| self.losses[i].0.saturating_sub(self.losses[i - 1].1))
                .unwrap_or(1);
            self.losses[nearest - 1].1 = self.losses[nearest].1;
            self.losses.remove(nearest);
        }
    }

    /// Ranges of seqs held over all lives, for the machine room.
    pub(crate) fn ranges(&self) -> usize {
        self.lives.iter().map(|l| l.seen.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use event::{AgentId, EventTime};

    use super::*;

    fn inc(no: u32) -> Incarnation {
        Incarnation {
            no,
            rand: u64::from(no) * 7,
        }
    }

    fn header(incarnation: Incarnation, tx_no: u64, watermark: i64) -> BatchHeader {
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

    fn fresh(agent: &mut Agent, incarnation: Incarnation, first: u64, last: u64) -> u64 {
        match agent.take_range(incarnation, first, last) {
            Fresh::Ranges(r) => r.iter().map(|(a, b)| b - a + 1).sum(),
            other => panic!("{other:?}"),
        }
    }

    fn lineage(incarnation: Incarnation, last_seq: u64, held: bool) -> Lineage {
        Lineage {
            incarnation,
            last_seq,
            held,
        }
    }

    #[test]
    fn a_lower_range_that_comes_late_is_not_a_duplicate() {
        let mut a = Agent::new("a".into(), false);
        assert_eq!(fresh(&mut a, inc(1), 101, 200), 100);
        assert_eq!(fresh(&mut a, inc(1), 1, 100), 100);
        assert_eq!(fresh(&mut a, inc(1), 50, 150), 0);
        assert_eq!(a.ranges(), 1);
    }

    #[test]
    fn only_a_newer_transmission_moves_the_watermark_and_never_past_ingest_time() {
        let mut a = Agent::new("a".into(), false);
        a.take_header(&header(inc(1), 2, 500), 1000);
        assert_eq!(a.progress, 500);
        a.take_header(&header(inc(1), 1, 900), 1000);
        assert_eq!(a.progress, 500);
        a.take_header(&header(inc(1), 3, 5000), 1000);
        assert_eq!(a.progress, 1000);
        a.take_header(&header(inc(1), 4, 700), 1000);
        assert_eq!(a.progress, 700);
    }

    #[test]
    fn a_restart_holds_progress_until_the_old_life_is_accounted_for() {
        let mut a = Agent::new("a".into(), false);
        fresh(&mut a, inc(1), 1, 10);
        a.take_header(&header(inc(1), 1, 100), 1000);
        let mut h = header(inc(2), 1, 100);
        h.lineage = vec![lineage(inc(1), 15, true)];
        assert_eq!(a.take_header(&h, 1000), None);
        // The successor claims that nothing is held, but 11..=15 never came: not closed.
        let mut h = header(inc(2), 2, 900);
        h.lineage = vec![lineage(inc(1), 15, false)];
        a.take_header(&h, 1000);
        assert_eq!(a.progress, 100);
        fresh(&mut a, inc(1), 11, 15);
        h.tx_no = 3;
        a.take_header(&h, 1000);
        assert_eq!(a.progress, 900);
        // Closed: a late resend is a duplicate, anything beyond is a fork.
        assert_eq!(fresh(&mut a, inc(1), 1, 15), 0);
        assert_eq!(a.take_range(inc(1), 14, 16), Fresh::Fork { last: 15 });
    }

    #[test]
    fn declared_gaps_count_as_accounted_for_and_as_lost() {
        let mut a = Agent::new("a".into(), false);
        fresh(&mut a, inc(1), 1, 10);
        let mut h = header(inc(2), 1, 900);
        h.lineage = vec![lineage(inc(1), 15, false)];
        h.gaps = vec![Gap {
            incarnation: inc(1),
            from: 11,
            to: 15,
            time: event::TimeRange {
                from: EventTime(40),
                to: EventTime(60),
            },
            reason: event::GapReason::Overflow,
        }];
        a.take_header(&h, 1000);
        assert_eq!(a.progress, 900);
        assert_eq!(a.losses, [(40, 60)]);
    }

    #[test]
    fn a_number_drawn_twice_is_a_conflict_and_the_lost_stretch_is_declared() {
        let mut a = Agent::new("a".into(), false);
        a.take_header(&header(inc(1), 1, 100), 1000);
        let twin = Incarnation { no: 1, rand: 99 };
        assert!(a.take_header(&header(twin, 1, 700), 1000).is_some());
        assert!(
            a.take_header(&header(twin, 2, 800), 1000).is_none(),
            "told once"
        );
        assert_eq!(a.progress, 800);
        assert_eq!(a.losses, [(100, 700)]);
        // The other twin is alive after all: both count again.
        a.take_header(&header(inc(1), 2, 300), 1000);
        assert_eq!(a.progress, 300);
    }

    #[test]
    fn a_late_transmission_of_a_closed_life_brings_nothing_back() {
        let mut a = Agent::new("a".into(), false);
        fresh(&mut a, inc(1), 1, 1);
        let old = header(inc(1), 1, 100);
        a.take_header(&old, 1000);
        let mut h = header(inc(2), 1, 500);
        h.lineage = vec![lineage(inc(1), 1, false)];
        a.take_header(&h, 1000);
        assert_eq!(a.take_header(&old, 1000), None);
        a.take_header(&header(inc(2), 2, 900), 1000);
        assert_eq!(a.progress, 900);
        assert!(!a.is_present(inc(1)) && a.is_present(inc(2)));
    }

    #[test]
    fn lineage_that_came_before_the_events_closes_when_they_come() {
        let mut a = Agent::new("a".into(), false);
        let mut h = header(inc(2), 1, 500);
        h.lineage = vec![lineage(inc(1), 3, false)];
        assert_eq!(a.take_header(&h, 1000), None);
        // The first word of the old life comes after its successor's: late, not strange.
        assert_eq!(a.take_header(&header(inc(1), 1, 100), 1000), None);
        assert_eq!(a.progress, 100);
        fresh(&mut a, inc(1), 1, 3);
        a.take_header(&header(inc(2), 2, 900), 1000);
        assert_eq!(a.progress, 900);
        assert!(a.losses.is_empty());
    }

    #[test]
    fn lives_and_holes_stay_bounded() {
        let mut a = Agent::new("a".into(), false);
        for no in 1..500 {
            // Each life is a stranger to the next, as on a disk that is wiped at every boot.
            fresh(&mut a, inc(no), 1, 5);
            a.take_header(&header(inc(no), 1, i64::from(no)), 1000);
        }
        assert!(a.lives.len() <= LIVES_MAX);
        assert_eq!(fresh(&mut a, inc(499), 1, 5), 0);
        assert_eq!(fresh(&mut a, inc(400), 1, 5), 0, "buried with what it had");
        for i in 0..10_000 {
            let _ = a.take_range(inc(499), 10 + i * 2, 10 + i * 2);
        }
        assert_eq!(a.take_range(inc(499), 90_000, 90_000), Fresh::NoRoom);
        assert_eq!(
            fresh(&mut a, inc(499), 6, 9),
            4,
            "what joins a range still comes in"
        );
    }

    #[test]
    fn losses_stay_bounded() {
        let mut a = Agent::new("a".into(), false);
        for i in 0..500 {
            a.add_loss(i * 10, i * 10 + 1);
        }
        assert_eq!(a.losses.len(), LOSSES_MAX);
        assert_eq!((a.losses[0].0, a.losses.last().unwrap().1), (0, 4991));
    }
}
