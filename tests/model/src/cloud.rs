//! The processor's rules (P1 to P4, P6) over the records of one agent.

use crate::rules::{Rules, Weakness};
use crate::world::{Cloud, Event, Incarnation, Life, Message, Set, stretch};

/// Seqs `1..=last`.
fn up_to(last: u8) -> Set {
    stretch(0, last)
}

fn bit(seq: u8) -> Set {
    1 << (seq - 1)
}

fn believes(rules: Rules) -> bool {
    rules.lack(Weakness::NoIncidents) || rules.lack(Weakness::ContradictionBelieved)
}

impl Cloud {
    /// Takes a record: the transmission that was sent as number `order` of all, appended at `clock`.
    pub fn take(&mut self, message: &Message, order: u8, clock: u8, rules: Rules) {
        for event in &message.events {
            self.take_event(*event, message, clock, rules);
        }
        let sent = (order, message.sent_at);
        self.take_header(message, sent, clock, rules);
        let carried = message.events.first().map(|e| e.incarnation);
        if let Some(carried) = carried.filter(|c| *c != message.incarnation) {
            self.speak_for(carried, message.incarnation);
        }
        for gap in &message.gaps {
            self.take_gap(*gap, rules);
        }
        for &(incarnation, last, held) in &message.lineage {
            let entry = (incarnation, last, held);
            self.take_lineage(entry, message.incarnation, sent, rules);
        }
        if !self.heard.contains(&message.incarnation) {
            self.heard.push(message.incarnation);
            self.heard.sort();
        }
        self.lives.sort();
        self.tombstones.sort();
        let live = self
            .lives
            .iter()
            .filter(|l| l.tx_no > 0 && l.abandoned.is_none())
            .map(|l| l.watermark);
        let progress = if rules.lack(Weakness::ProgressIsMaximum) {
            live.max()
        } else {
            live.min()
        };
        self.progress = progress.or(self.progress);
        self.ahead |= self.progress.is_some_and(|p| p > clock);
    }

    fn find(&mut self, incarnation: Incarnation) -> Option<&mut Life> {
        self.lives.iter_mut().find(|l| l.incarnation == incarnation)
    }

    fn tombstone(&self, incarnation: Incarnation) -> Option<u8> {
        let found = self.tombstones.iter().find(|t| t.0 == incarnation);
        found.map(|t| t.1)
    }

    /// The life, added if it is new.
    fn life(&mut self, incarnation: Incarnation) -> usize {
        let found = self.lives.iter().position(|l| l.incarnation == incarnation);
        found.unwrap_or_else(|| {
            self.lives.push(Life {
                incarnation,
                tx_no: 0,
                heard: (0, 0),
                watermark: 0,
                seen: 0,
                lost: 0,
                listed: false,
                abandoned: None,
                end: None,
                finished: false,
            });
            self.lives.len() - 1
        })
    }

    /// P1, and P3 for closed lives.
    fn take_event(&mut self, event: Event, message: &Message, clock: u8, rules: Rules) {
        self.logged |= event.bit();
        if let Some(end) = self.tombstone(event.incarnation) {
            if event.seq > end {
                self.quarantined |= event.bit();
                self.incident |= !rules.lack(Weakness::NoIncidents);
                // The forked life may have held more: whatever its agent had when it sent this, and
                // later. Up to when is unknown, so up to now.
                if !rules.lack(Weakness::ForkNotLossy) && !rules.lack(Weakness::NoIncidents) {
                    self.losses |= stretch(message.watermark.min(event.time), clock);
                }
            }
            return;
        }
        let i = self.life(event.incarnation);
        let life = &mut self.lives[i];
        let fresh = if rules.lack(Weakness::HighWaterDedup) {
            life.seen < bit(event.seq)
        } else {
            life.seen & bit(event.seq) == 0
        };
        if fresh {
            life.seen |= bit(event.seq);
            self.twice |= self.counted & event.bit();
            self.counted |= event.bit();
            self.check(i, rules);
        }
    }

    /// P2 and P4.
    fn take_header(&mut self, message: &Message, sent: (u8, u8), clock: u8, rules: Rules) {
        if self.tombstone(message.incarnation).is_some() {
            return; // Of the past: its watermark must not bring the life back.
        }
        let i = self.life(message.incarnation);
        let life = &mut self.lives[i];
        let first = life.tx_no == 0;
        if message.tx_no > life.tx_no {
            life.tx_no = message.tx_no;
            life.heard = sent;
            // A message that was under way when the life was given up does not bring it back.
            if rules.lack(Weakness::LateMessageRevives) || life.abandoned < Some(sent.0) {
                life.abandoned = None;
            }
        } else if !rules.lack(Weakness::WatermarkFromOlderTx) {
            return;
        }
        life.watermark = if rules.lack(Weakness::NoClamp) {
            message.watermark
        } else {
            message.watermark.min(clock)
        };
        if first && !rules.lack(Weakness::NoIncidents) {
            self.conflicts(i, message, rules);
        }
    }

    /// P4: the same number drawn twice, or lives that do not know each other. Of two such lives the one
    /// that was heard of earlier (by when it was *sent*) is given up until it speaks again, and what it
    /// may have held is declared lost.
    fn conflicts(&mut self, new: usize, message: &Message, rules: Rules) {
        let (incarnation, listed) = (self.lives[new].incarnation, self.lives[new].listed);
        let drawn_twice = |other: Incarnation| other != incarnation && other.no == incarnation.no;
        self.incident |= self.tombstones.iter().any(|t| drawn_twice(t.0));
        let lower = rules.lack(Weakness::LowerNumberIsLate)
            && self.lives.iter().any(|l| l.incarnation.no > incarnation.no);
        let knows = |other: Incarnation| message.lineage.iter().any(|e| e.0 == other);
        for other in 0..self.lives.len() {
            let rival = &self.lives[other];
            if other == new || rival.tx_no == 0 {
                continue;
            }
            let strange = !listed && !lower && !knows(rival.incarnation);
            if !strange && !drawn_twice(rival.incarnation) {
                continue;
            }
            self.incident = true;
            let old_wins =
                rival.heard > self.lives[new].heard && !rules.lack(Weakness::LateMessageRevives);
            let (loser, winner) = if old_wins { (new, other) } else { (other, new) };
            let by = self.lives[winner].heard;
            self.abandon(loser, by);
            // Lives that only the loser spoke for go with it; perhaps they were never heard themselves.
            for i in (0..self.lives.len()).filter(|i| loser == other && *i != new) {
                let l = &self.lives[i];
                if !knows(l.incarnation) && l.heard < by {
                    self.abandon(i, by);
                }
            }
        }
    }

    fn abandon(&mut self, loser: usize, by: (u8, u8)) {
        let life = &mut self.lives[loser];
        if life.tx_no > 0 {
            self.losses |= stretch(life.watermark, by.1);
        }
        life.abandoned = life.abandoned.max(Some(by.0));
    }

    fn take_gap(&mut self, gap: Event, rules: Rules) {
        self.losses |= gap.bit();
        self.declared |= gap.bit();
        if self.tombstone(gap.incarnation).is_none() {
            let i = self.life(gap.incarnation);
            self.lives[i].lost |= bit(gap.seq);
            self.check(i, rules);
        }
    }

    /// `teller` knows the life. If the teller was given up, and the life was never heard of otherwise, it
    /// is given up too.
    fn speak_for(&mut self, incarnation: Incarnation, teller: Incarnation) {
        if self.tombstone(incarnation).is_some() {
            return;
        }
        let given_up = self.find(teller).and_then(|t| t.abandoned);
        let i = self.life(incarnation);
        let life = &mut self.lives[i];
        if life.tx_no == 0 && !life.listed {
            life.abandoned = given_up;
        }
        life.listed = true;
    }

    /// P3, from the life `teller`.
    fn take_lineage(
        &mut self,
        (incarnation, last, held): (Incarnation, u8, bool),
        teller: Incarnation,
        sent: (u8, u8),
        rules: Rules,
    ) {
        if let Some(end) = self.tombstone(incarnation) {
            self.incident |= end != last && !rules.lack(Weakness::NoIncidents);
            return;
        }
        self.speak_for(incarnation, teller);
        let i = self.life(incarnation);
        let life = &mut self.lives[i];
        let known = life.end.map(|e| e.0);
        if known == Some(last) {
            life.finished |= !held;
        } else if known < Some(last) {
            life.end = Some((last, sent));
            life.finished = !held;
        }
        // Two disks tell different ends of it: neither may speak for the other's part.
        if known.is_some_and(|k| k != last) && !believes(rules) {
            self.incident = true;
            if self.lives[i].heard.0 < sent.0 {
                self.abandon(i, sent);
            }
        }
        self.check(i, rules);
    }

    /// P3 and P4 for a life whose end was told: closes it when all is accounted for, and sees that more
    /// came of it than the teller knows.
    fn check(&mut self, life: usize, rules: Rules) {
        let l = &self.lives[life];
        let Some((last, by)) = l.end else {
            return;
        };
        let (accounted, heard) = (l.seen | l.lost, l.heard);
        let closed = l.finished && accounted == up_to(last);
        if closed || rules.lack(Weakness::ClosedWithHoles) {
            let life = self.lives.remove(life);
            if !rules.lack(Weakness::DedupDroppedAtClose) {
                self.tombstones.push((life.incarnation, last));
            }
            return;
        }
        if accounted & !up_to(last) != 0 && !believes(rules) {
            self.incident = true;
            if heard.0 < by.0 {
                self.abandon(life, by);
            }
        }
    }
}
