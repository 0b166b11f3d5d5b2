//! Disks that were rolled back, cloned or wiped (P4).
//!
//! Two copies of one disk draw the same number with different random bits, or one draws a number whose owner
//! the other has never heard of; a disk that went back to an earlier day states another end of a life than
//! the one that is known. Each such pair of incarnations is told once. What a vanished life may have held is
//! declared lost and holds nobody back. While two copies go on talking, all of that time is one stretch of
//! loss: nobody can say which of them is the device. Their events differ in incarnation or seq and all count.

use event::{Gap, Incarnation, Lineage};
use smallvec::SmallVec;

use super::agent::{Agent, Said};
use super::losses;
use super::rare::{LIVES_MAX, TOLD_MAX};

/// A copy that said nothing for so long while the other one talked, microseconds of ingest time, holds
/// nobody back any more: ten heartbeats.
pub(super) const TWIN_SILENT: i64 = 600 * 1_000_000;

/// What happened to the identity of an agent, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conflict(pub(crate) String);

const WHY: &str = "the agent's disk was rolled back, cloned or wiped";

impl Said<'_> {
    /// Until when the sender was alive, on our clock.
    fn sent(&self) -> i64 {
        let sent = self.time(self.header.sent_at).min(self.ingest);
        sent.max(self.watermark())
    }
}

impl Agent<'_> {
    /// Takes a newer transmission of the life at `i`.
    pub(super) fn take_word(&mut self, i: usize, said: &Said) -> Option<Conflict> {
        let first = self.more.lives[i].tx_no == 0;
        let conflict = first.then(|| self.strange(i, said)).flatten();
        if conflict.is_some() {
            let own = said.header.incarnation;
            self.declare_lossy(said, said.sent(), |l| l != own && !said.knows(l));
        }
        let life = &mut self.more.lives[i];
        life.tx_no = said.header.tx_no;
        life.watermark = said.watermark();
        let Some(conflicts) = &self.more.conflicts else {
            return None;
        };
        // What was on its way when the conflict was noticed says nothing of who is alive after it.
        if conflict.is_none() && said.sent() < conflicts.since {
            return None;
        }
        life.abandoned = false;
        life.heard = said.ingest;
        // Who was given up by this very word does not take the speaker with it.
        if let Some(teller) = life.teller
            && self.is_given_up(teller)
        {
            self.more.lives[i].teller = None;
        }
        conflict.or_else(|| self.rivals(i, said))
    }

    /// The same number drawn twice, or a life that its successor has never heard of. Told now.
    fn strange(&mut self, i: usize, said: &Said) -> Option<Conflict> {
        let new = said.header.incarnation;
        let lives = &self.more.lives;
        let known = lives.iter().map(|l| l.incarnation);
        let buried = self.rare.tombstones.recent();
        let twin = known
            .chain(buried.iter().map(|t| t.incarnation()))
            .find(|old| old.no == new.no && *old != new);
        if let Some(old) = twin {
            return self.tell(old, new, || {
                format!(
                    "incarnation number {} was drawn twice ({old} and {new}): {WHY}",
                    new.no
                )
            });
        }
        // An agent tells at most that many ancestors at once: the rest may come later.
        if said.header.lineage.len() >= LIVES_MAX {
            return None;
        }
        let later = lives
            .iter()
            .rfind(|l| l.incarnation.no > new.no && l.counts());
        if let Some(later) = later {
            // Late, not strange, if a successor told of it. (With no room left, that was not remembered.)
            if lives[i].last.is_some() || lives.len() >= LIVES_MAX {
                return None;
            }
            let later = later.incarnation;
            return self.tell(new, later, || {
                format!("incarnation {new} is new, but {later} does not know it: {WHY}")
            });
        }
        let strangers: SmallVec<[Incarnation; 2]> = lives
            .iter()
            .filter(|l| l.counts() && l.incarnation != new && !said.knows(l.incarnation))
            .map(|l| l.incarnation)
            .collect();
        let mut conflict = None;
        for old in strangers {
            let told = self.tell(old, new, || {
                format!("incarnation {new} does not know {old}, which was not finished: {WHY}")
            });
            conflict = conflict.or(told);
        }
        conflict
    }

    /// Two copies that both talk: one of them does so now.
    fn rivals(&mut self, i: usize, said: &Said) -> Option<Conflict> {
        let own = &self.more.lives[i];
        // A life that has a successor is past, whatever of it is still under way.
        if own.past() {
            return None;
        }
        let own = own.incarnation;
        let mut from = self.more.conflicts.as_ref().map_or(i64::MAX, |c| c.from);
        let mut both: SmallVec<[Incarnation; 2]> = SmallVec::new();
        let mut lossy = false;
        for life in &mut self.more.lives {
            if life.incarnation == own || life.past() || !life.counts() {
                continue;
            }
            lossy = true;
            if said.ingest.saturating_sub(life.heard) >= TWIN_SILENT {
                life.abandoned = true;
                from = from.min(life.watermark);
            } else {
                both.push(life.incarnation);
            }
        }
        if lossy {
            losses::add(&mut self.rare.losses, from, said.sent().max(from));
        }
        let mut conflict = None;
        for other in both {
            let told = self.tell(own, other, || {
                format!("incarnations {other} and {own} talk in turns: {WHY}")
            });
            conflict = conflict.or(told);
        }
        conflict
    }

    /// A successor states an end of the life at `i` that cannot be.
    pub(super) fn contradict(&mut self, i: usize, last: u64, said: &Said) -> Option<Conflict> {
        let life = &self.more.lives[i];
        let (old, known) = (life.incarnation, life.highest());
        let stated = life.last;
        let by = said.header.incarnation;
        let conflict = self.tell(old, by, || match stated {
            Some(before) if before != last => format!(
                "incarnation {by} says that {old} ended at {last}, but its end is {before}: {WHY}"
            ),
            _ => {
                format!("incarnation {by} says that {old} ended at {last}, but {known} came: {WHY}")
            }
        });
        if conflict.is_some() {
            self.forsake(i, said, said.sent());
        }
        conflict
    }

    /// What came goes beyond an end that was stated before.
    pub(super) fn contradicted(&mut self, said: &Said) -> Option<Conflict> {
        let lives = &self.more.lives;
        let i = lives
            .iter()
            .position(|l| l.last.is_some_and(|last| l.highest() > last))?;
        let (old, known) = (lives[i].incarnation, lives[i].highest());
        let newest = lives.last().map_or(old, |l| l.incarnation);
        let conflict = self.tell(old, newest, || {
            format!("event {known} of incarnation {old} came, which is beyond its end: {WHY}")
        });
        // The word that brought it may be as old as the event.
        self.forsake(i, said, said.ingest);
        conflict
    }

    /// A life whose end is in doubt: it stays open, for its events count, but is not waited for.
    fn forsake(&mut self, i: usize, said: &Said, to: i64) {
        let life = &mut self.more.lives[i];
        (life.last, life.done, life.teller) = (None, false, None);
        let old = life.incarnation;
        self.declare_lossy(said, to, |l| l == old);
    }

    /// A successor speaks of a closed life.
    pub(super) fn exhumed(&mut self, entry: &Lineage, said: &Said) -> Option<Conflict> {
        let buried = self.rare.tombstones.recent();
        let tomb = buried
            .iter()
            .find(|t| t.incarnation() == entry.incarnation)?;
        let (old, end) = (entry.incarnation, tomb.last);
        if !tomb.stated || end == entry.last_seq {
            return None;
        }
        let (by, last) = (said.header.incarnation, entry.last_seq);
        let conflict = self.tell(old, by, || {
            format!("incarnation {by} says that {old} ended at {last}, but its end is {end}: {WHY}")
        })?;
        self.declare_lossy(said, said.sent(), |_| false);
        Some(conflict)
    }

    /// Of a closed life that ended at `end`, more was numbered and lost: as telling as an event from there.
    pub(super) fn gap_beyond(&mut self, gap: &Gap, end: u64, said: &Said) -> Option<Conflict> {
        if gap.to <= end {
            return None;
        }
        self.take_fork(said, Some(gap.time.from));
        let (old, last) = (gap.incarnation, gap.to);
        self.tell(old, said.header.incarnation, || {
            format!(
                "event {last} of incarnation {old} was lost, which is beyond its end {end}: {WHY}"
            )
        })
    }

    /// The agent is lossy from here: some lives are not waited for any more, and what they may have held is
    /// lost, up to the time `to`. Without any such, it is what came after all that is known.
    fn declare_lossy(&mut self, said: &Said, to: i64, gone: impl Fn(Incarnation) -> bool) {
        let mut from = None;
        for life in &mut self.more.lives {
            if gone(life.incarnation) && !life.abandoned {
                if life.counts() {
                    from = from.into_iter().chain(Some(life.watermark)).min();
                }
                life.abandoned = true;
            }
        }
        let known = (self.hot.progress != i64::MIN).then_some(self.hot.progress);
        let from = from.or(known).unwrap_or(said.watermark());
        losses::add(&mut self.rare.losses, from, to.max(from));
        let conflicts = self.more.conflicts.get_or_insert_default();
        (conflicts.from, conflicts.since) = (from, to);
        self.hot.set_irregular();
    }

    /// `teller` says that the life at `i` was before it in its buffer.
    pub(super) fn speak_for(&mut self, i: usize, teller: Incarnation) {
        let given_up = self.is_given_up(teller);
        // A closed life has a successor that knows more.
        let closed = self.rare.tombstones.end(teller).is_some();
        let life = &mut self.more.lives[i];
        if !given_up && !closed {
            life.teller = Some(teller);
        } else if given_up && life.tx_no == 0 && life.last.is_none() {
            // Heard of from nobody else: it goes where its teller went. Its first word may be under way and
            // would else be waited for by a watermark that no later word ever moves.
            life.abandoned = true;
        }
    }

    /// Who was last spoken for by a life that is given up by now is given up with it: the two had one buffer,
    /// and the loss that was declared for the one covers both.
    pub(super) fn follow_tellers(&mut self) {
        let next = |a: &Self| {
            let mut lives = a.more.lives.iter();
            lives.position(|l| l.teller.is_some_and(|t| a.is_given_up(t)))
        };
        while let Some(i) = next(self) {
            let life = &mut self.more.lives[i];
            (life.teller, life.abandoned) = (None, true);
        }
    }

    fn is_given_up(&self, incarnation: Incarnation) -> bool {
        let mut lives = self.more.lives.iter();
        lives.any(|l| l.incarnation == incarnation && l.abandoned)
    }

    /// The conflict of a pair, once.
    fn tell(
        &mut self,
        a: Incarnation,
        b: Incarnation,
        text: impl FnOnce() -> String,
    ) -> Option<Conflict> {
        let pair = (a.min(b), a.max(b));
        let told = &mut self.more.conflicts.get_or_insert_default().told;
        if told.contains(&pair) {
            return None;
        }
        if told.len() >= TOLD_MAX {
            told.remove(0);
        }
        told.push(pair);
        Some(Conflict(text()))
    }
}
