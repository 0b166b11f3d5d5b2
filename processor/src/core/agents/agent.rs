//! One agent unpacked: all its lives in one list. The way for everything that is not ordinary.
//!
//! Invariants (P1-P3, P6): an event counts iff its seq is outside the interval set of its incarnation;
//! watermark and clock are taken only from a newer transmission; progress is the minimum over the live
//! incarnations and never beyond the ingest time, but for a promise to sleep; nothing here expires by time.

use event::{BatchHeader, EventTime, Gap, Held, Incarnation, Lineage};
use smallvec::SmallVec;

use super::hot::Hot;
use super::losses;
use super::rare::{LIVES_MAX, Life, More, RANGES_MAX, Rare};
use super::{Conflict, Fresh, clock, seen};

/// A promise to sleep is believed for so long, microseconds: 7 days, after which an agent that was not heard
/// from is dormant anyway.
pub(super) const QUIET_MAX: i64 = 7 * 86_400 * 1_000_000;

/// A header and when it came.
pub(super) struct Said<'a> {
    pub(super) header: &'a BatchHeader,
    pub(super) ingest: i64,
    /// Added to every time of the header, microseconds (P5).
    pub(super) shift: i64,
}

impl Said<'_> {
    /// A time of the header on our clock.
    pub(super) fn time(&self, t: EventTime) -> i64 {
        t.as_micros().saturating_add(self.shift)
    }

    /// The watermark; a fast clock advances nothing.
    pub(super) fn watermark(&self) -> i64 {
        // `i64::MIN` means "none" in the records.
        self.time(self.header.low_watermark)
            .min(self.ingest)
            .max(i64::MIN + 1)
    }

    /// What is held outside this batch, whose events are with us now.
    pub(super) fn rest(&self) -> Held {
        let (all, here) = (self.header.held, u64::from(self.header.count));
        let events = all.events.saturating_sub(here);
        if events == 0 {
            return Held::default();
        }
        let share = u128::from(all.bytes) * u128::from(events) / u128::from(all.events.max(1));
        Held {
            events,
            bytes: share as u64,
            oldest: Some(EventTime(self.time(self.header.low_watermark))),
        }
    }

    /// Until when no event will come; `i64::MIN` without such a promise, or while something is held.
    pub(super) fn quiet(&self) -> i64 {
        match self.header.quiet_until {
            Some(until) if self.header.held.events <= u64::from(self.header.count) => {
                let limit = self.ingest.saturating_add(QUIET_MAX);
                self.time(until).min(limit)
            }
            _ => i64::MIN,
        }
    }

    pub(super) fn knows(&self, incarnation: Incarnation) -> bool {
        let lineage = &self.header.lineage;
        lineage.iter().any(|e| e.incarnation == incarnation)
    }
}

/// An agent taken out of the table. [`Agent::pack`] puts it back.
pub(super) struct Agent<'a> {
    pub(super) hot: &'a mut Hot,
    pub(super) rare: Rare,
    pub(super) more: Box<More>,
}

impl<'a> Agent<'a> {
    pub(super) fn unpack(hot: &'a mut Hot, mut rare: Rare) -> Self {
        let mut more = rare.more.take().unwrap_or_default();
        if let Some(incarnation) = hot.life() {
            let mut life = Life::new(incarnation);
            life.tx_no = hot.tx_no;
            life.watermark = hot.watermark;
            if hot.seen_last > 0 {
                life.seen.insert(hot.seen_first, hot.seen_last);
            }
            let at = more.lives.partition_point(|l| l.incarnation < incarnation);
            more.lives.insert(at, life);
            hot.end();
        }
        Self { hot, rare, more }
    }

    /// The newest life goes into the hot record if it is ordinary; what is empty goes away.
    pub(super) fn pack(self) -> Rare {
        let Self {
            hot,
            mut rare,
            mut more,
        } = self;
        if let Some(life) = more.lives.pop_if(|l| l.ordinary()) {
            hot.begin(life.incarnation);
            hot.tx_no = life.tx_no;
            hot.watermark = life.watermark;
            (hot.seen_first, hot.seen_last) = seen::single(&life.seen).unwrap_or_default();
        }
        // A list that was once long must not stay so.
        more.lives.shrink_to_fit();
        rare.more = (*more != More::default()).then_some(more);
        hot.set_rare(!rare.is_empty(), rare.more.is_some());
        rare
    }

    /// The position of an incarnation, which is added if there is room.
    pub(super) fn life(&mut self, incarnation: Incarnation) -> Option<usize> {
        let lives = &self.more.lives;
        if let Ok(i) = lives.binary_search_by_key(&incarnation, |l| l.incarnation) {
            return Some(i);
        }
        if lives.len() >= LIVES_MAX {
            self.follow_tellers();
            let lives = &self.more.lives;
            let oldest = lives.iter().position(|l| l.abandoned)?;
            let life = self.more.lives.remove(oldest);
            // What may come beyond its end is set aside, not taken for a duplicate.
            let tombstones = &mut self.rare.tombstones;
            tombstones.bury_open(life.incarnation, &life.seen);
        }
        let lives = &mut self.more.lives;
        let at = lives.partition_point(|l| l.incarnation < incarnation);
        lives.insert(at, Life::new(incarnation));
        Some(at)
    }

    /// P3: closes an incarnation of which nothing is held and nothing is missing.
    fn close_if_done(&mut self, i: usize) {
        let life = &self.more.lives[i];
        if let Some(last) = life.last
            && life.done
            && life.seen.covers_with(&life.lost, last)
        {
            let life = self.more.lives.remove(i);
            self.rare.tombstones.bury(life.incarnation, last, true);
        }
    }

    /// Takes the seqs `first..=last` of an incarnation and says which are new (P1).
    pub(super) fn take_range(&mut self, incarnation: Incarnation, first: u64, last: u64) -> Fresh {
        if let Some(end) = self.rare.tombstones.end(incarnation) {
            if last <= end {
                return Fresh::Ranges(SmallVec::new());
            }
            let first = first.max(end + 1);
            let tombstones = &mut self.rare.tombstones;
            let fresh = tombstones.take_beyond(incarnation, first, last);
            return Fresh::Fork {
                last: end,
                known: fresh.is_some(),
                fresh: fresh.unwrap_or_else(|| SmallVec::from_slice(&[(first, last)])),
            };
        }
        let Some(i) = self.life(incarnation) else {
            return Fresh::NoRoom;
        };
        let life = &mut self.more.lives[i];
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
    pub(super) fn take_header(&mut self, said: &Said) -> Option<Conflict> {
        let header = said.header;
        let mut conflict = None;
        // A late transmission of a closed incarnation must not bring it back: its watermark and clock are
        // of the past. What it declares as lost is lost all the same.
        let closed = self.rare.tombstones.end(header.incarnation).is_some();
        if !closed
            && let Some(i) = self.life(header.incarnation)
            && header.tx_no > self.more.lives[i].tx_no
        {
            // A word of an earlier life says nothing of the agent as it is now.
            if self.is_present(header.incarnation) {
                self.take_state(said);
            }
            conflict = self.take_word(i, said);
        }
        for gap in &header.gaps {
            conflict = self.take_gap(gap, said).or(conflict);
        }
        if let Some(range) = header.unclean {
            let (from, to) = (said.time(range.from), said.time(range.to));
            losses::add(&mut self.rare.losses, from, to);
        }
        for entry in &header.lineage {
            if entry.incarnation != header.incarnation {
                conflict = self.take_lineage(entry, said).or(conflict);
            }
        }
        conflict = self.contradicted(said).or(conflict);
        self.follow_tellers();
        self.progress();
        conflict
    }

    /// Events of a closed life came from beyond its end and were set aside, the earliest of the time `earliest`
    /// if that is known: the life was another one for a while, and may have held more than it sent. Up to when
    /// is unknown, so up to now.
    pub(super) fn take_fork(&mut self, said: &Said, earliest: Option<EventTime>) {
        let watermark = said.watermark();
        let from = earliest.map_or(watermark, |t| watermark.min(said.time(t)));
        let to = said.ingest.saturating_sub(1).max(from);
        losses::add(&mut self.rare.losses, from, to);
        self.hot.set_irregular();
    }

    /// Backlog, clock and promise of the newest transmission.
    fn take_state(&mut self, said: &Said) {
        let header = said.header;
        self.more.held = said.rest();
        self.more.quiet = said.quiet();
        self.hot.set_clock(header.clock);
        let offset = clock::offset(header, said.ingest);
        self.hot.set_clock_off(clock::is_off(offset));
        self.hot.offset = narrow(offset).unwrap_or(i32::MIN);
        self.more.offset = narrow(offset).is_none().then_some(offset);
        // It could not have sent this without being connected.
        if self.hot.online().is_some() {
            self.hot.set_online(true);
        }
    }

    fn take_gap(&mut self, gap: &Gap, said: &Said) -> Option<Conflict> {
        let (from, to) = (said.time(gap.time.from), said.time(gap.time.to));
        losses::add(&mut self.rare.losses, from, to);
        if let Some(end) = self.rare.tombstones.end(gap.incarnation) {
            return self.gap_beyond(gap, end, said);
        }
        if let Some(i) = self.life(gap.incarnation) {
            let lost = &mut self.more.lives[i].lost;
            if lost.len() < RANGES_MAX || lost.touches(gap.from, gap.to) {
                lost.insert(gap.from, gap.to);
                self.close_if_done(i);
            }
        }
        None
    }

    /// Lineage is told until it is acked and then no more: what cannot be closed yet is remembered.
    fn take_lineage(&mut self, entry: &Lineage, said: &Said) -> Option<Conflict> {
        if self.rare.tombstones.end(entry.incarnation).is_some() {
            return self.exhumed(entry, said);
        }
        let i = self.life(entry.incarnation)?;
        let life = &mut self.more.lives[i];
        let other = life.last.is_some_and(|last| last != entry.last_seq);
        if other || life.highest() > entry.last_seq {
            return self.contradict(i, entry.last_seq, said);
        }
        self.speak_for(i, said.header.incarnation);
        let life = &mut self.more.lives[i];
        life.last = Some(entry.last_seq);
        // An entry that was overtaken by a newer one does not take that back.
        life.done |= !entry.held;
        self.close_if_done(i);
        None
    }

    /// P3: the minimum over the live incarnations.
    fn progress(&mut self) {
        let quiet = match self.more.conflicts {
            // Who promises here may not be the only one.
            Some(_) => i64::MIN,
            None => self.more.quiet,
        };
        let mut lives = self.more.lives.iter().rev().filter(|l| l.counts());
        // The promise is that of the newest life.
        let newest = lives.next().map(|l| l.watermark.max(quiet));
        if let Some(progress) = newest.into_iter().chain(lives.map(|l| l.watermark)).min() {
            self.hot.progress = progress;
        }
    }

    /// Whether a status of this incarnation is the agent's present one.
    pub(super) fn is_present(&self, incarnation: Incarnation) -> bool {
        self.rare.tombstones.end(incarnation).is_none()
            && self
                .more
                .lives
                .iter()
                .all(|l| l.incarnation.no <= incarnation.no || l.abandoned)
    }
}

/// An offset that has room in a hot record.
pub(super) fn narrow(offset: i64) -> Option<i32> {
    i32::try_from(offset).ok().filter(|o| *o != i32::MIN)
}
