//! The agents of a partition: which seqs came, how far each is complete, what it lost (PROTOCOL.md P1-P6).
//!
//! One flat record of 96 bytes and the name is an ordinary agent; what only some have (a past, losses, other
//! lives, holes, a backlog) is beside it. The ordinary batch of an ordinary agent touches the record only.

mod agent;
mod clock;
mod hot;
mod identity;
mod losses;
mod rare;
mod save;
mod seen;
mod tombstones;

#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use event::{BatchHeader, ClockState, EventTime, Held, Incarnation};
use smallvec::SmallVec;

use self::agent::{Agent, Said};
pub(crate) use self::hot::Hot;
pub(crate) use self::identity::Conflict;
pub(crate) use self::rare::Rare;
use super::names::{Names, grow};

/// Most agents of a partition, plain devices that are their own agents included.
pub(crate) const AGENTS_MAX: usize = 4_000_000;

/// What a plain device's name begins with in the dictionary, so that an agent of the same name is another
/// one. No id has a space.
const PLAIN_MARK: char = ' ';

/// Whether an event of an incarnation counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fresh {
    /// These seqs are new; all others of the batch are duplicates.
    Ranges(SmallVec<[(u64, u64); 2]>),
    /// Beyond the end of a closed incarnation: identity is ambiguous.
    Fork {
        /// The end.
        last: u64,
        /// Seqs to be set aside; all others came before and are duplicates.
        fresh: SmallVec<[(u64, u64); 2]>,
        /// Whether it is remembered that they came. If not, they must never be counted.
        known: bool,
    },
    /// More incarnations or holes than an honest agent can have.
    NoRoom,
}

/// All agents of a partition, numbered from 0 in the order in which they appeared. None is forgotten.
#[derive(Debug, Clone, Default)]
pub(crate) struct Agents {
    names: Names,
    hot: Vec<Hot>,
    rare: BTreeMap<u32, Rare>,
    /// Ranges of seqs over all lives.
    ranges: usize,
}

fn ranges(hot: &Hot, rare: Option<&Rare>) -> usize {
    let more = rare.and_then(|r| r.more.as_ref());
    let others = more.map_or(0, |m| m.lives.iter().map(|l| l.seen.len()).sum());
    usize::from(hot.inline() && hot.seen_last > 0) + others
}

impl Agents {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.hot.len()
    }

    /// The number of an agent of ours that is there.
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.names.find(name)
    }

    /// The number of an agent, or of a plain device as its own agent, which is added if there is room.
    pub(crate) fn number(&mut self, name: &str, plain: bool) -> Option<u32> {
        let marked;
        let key = if plain {
            marked = format!("{PLAIN_MARK}{name}");
            &marked
        } else {
            name
        };
        if let Some(number) = self.names.find(key) {
            return Some(number);
        }
        if self.hot.len() >= AGENTS_MAX {
            return None;
        }
        let number = self.names.insert(key)?;
        grow(&mut self.hot, 1);
        self.hot.push(Hot::new(plain));
        Some(number)
    }

    /// Its id.
    pub(crate) fn name(&self, n: u32) -> &str {
        let name = self.names.get(n);
        name.strip_prefix(PLAIN_MARK).unwrap_or(name)
    }

    /// Its record.
    #[inline]
    pub(crate) fn hot(&self, n: u32) -> &Hot {
        &self.hot[n as usize]
    }

    /// Its record, to change what is not of the protocol.
    #[inline]
    pub(crate) fn hot_mut(&mut self, n: u32) -> &mut Hot {
        &mut self.hot[n as usize]
    }

    /// What an ordinary agent does not have.
    pub(crate) fn rare(&self, n: u32) -> Option<&Rare> {
        if self.hot(n).has_rare() {
            self.rare.get(&n)
        } else {
            None
        }
    }

    fn with<T>(&mut self, n: u32, change: impl FnOnce(&mut Agent) -> T) -> T {
        let hot = &mut self.hot[n as usize];
        let place = if hot.has_rare() {
            self.rare.get_mut(&n)
        } else {
            None
        };
        self.ranges -= ranges(hot, place.as_deref());
        let rare = place.map(std::mem::take).unwrap_or_default();
        let mut agent = Agent::unpack(hot, rare);
        let out = change(&mut agent);
        let rare = agent.pack();
        self.ranges += ranges(hot, Some(&rare));
        if rare.is_empty() {
            self.rare.remove(&n);
        } else {
            self.rare.insert(n, rare);
        }
        out
    }

    /// Takes the seqs `first..=last` of an incarnation and says which are new (P1). They count from 1.
    pub(crate) fn take_range(
        &mut self,
        n: u32,
        e_inc: Incarnation,
        first: u64,
        last: u64,
    ) -> Fresh {
        if first == 0 || first > last || last == u64::MAX {
            // No decoder lets such a range pass.
            return Fresh::Ranges(SmallVec::new());
        }
        let hot = &mut self.hot[n as usize];
        if !hot.inline() && !hot.has_rare() {
            hot.begin(e_inc);
        }
        if hot.life() == Some(e_inc) {
            let (a, b) = (hot.seen_first, hot.seen_last);
            if b == 0 {
                (hot.seen_first, hot.seen_last) = (first, last);
                self.ranges += 1;
                return Fresh::Ranges(SmallVec::from_slice(&[(first, last)]));
            }
            // Overlaps or touches the one range that is there.
            if first <= b + 1 && a <= last + 1 {
                let mut fresh = SmallVec::new();
                if first < a {
                    fresh.push((first, a - 1));
                }
                if last > b {
                    fresh.push((b + 1, last));
                }
                (hot.seen_first, hot.seen_last) = (a.min(first), b.max(last));
                return Fresh::Ranges(fresh);
            }
        }
        self.with(n, |agent| agent.take_range(e_inc, first, last))
    }

    /// Takes that events of a batch were set aside as a fork: from the watermark, or from the earliest of them
    /// if that is earlier, to the ingest time the agent is lossy (P4). Without a time, as of a body that does
    /// not decode, the watermark is all that is known.
    pub(crate) fn take_fork(
        &mut self,
        n: u32,
        header: &BatchHeader,
        earliest: Option<EventTime>,
        ingest: i64,
    ) {
        let said = Said {
            header,
            ingest,
            shift: self.correction(n, header, ingest),
        };
        self.with(n, |agent| agent.take_fork(&said, earliest));
    }

    /// Takes what a header says of the agent itself (P2-P5), after its events were taken.
    ///
    /// `ingest` is the block's ingest time, which bounds the watermark: a fast clock advances nothing.
    pub(crate) fn take_header(
        &mut self,
        n: u32,
        header: &BatchHeader,
        ingest: i64,
    ) -> Option<Conflict> {
        let said = Said {
            header,
            ingest,
            shift: self.correction(n, header, ingest),
        };
        let hot = &mut self.hot[n as usize];
        let plain_words = header.lineage.is_empty()
            && header.gaps.is_empty()
            && header.unclean.is_none()
            && header.quiet_until.is_none()
            && header.held.events <= u64::from(header.count);
        let ordinary = hot.life() == Some(header.incarnation)
            && !hot.has_more()
            // The first word of a life is compared with its past.
            && (hot.tx_no > 0 || !hot.has_rare());
        if plain_words
            && ordinary
            && let Some(offset) = agent::narrow(clock::offset(header, ingest))
        {
            if header.tx_no > hot.tx_no {
                hot.tx_no = header.tx_no;
                hot.watermark = said.watermark();
                hot.set_clock(header.clock);
                hot.offset = offset;
                hot.set_clock_off(clock::is_off(i64::from(offset)));
                if hot.online().is_some() {
                    hot.set_online(true);
                }
            }
            // Not only then: another life may have been closed by the events of this batch.
            if hot.watermark != i64::MIN {
                hot.progress = hot.watermark;
            }
            return None;
        }
        self.with(n, |agent| agent.take_header(&said))
    }

    /// Notes that a message came, at ingest time `now`; `uptime` is that without our own outages.
    pub(crate) fn contact(&mut self, n: u32, now: i64, uptime: i64) {
        let hot = self.hot_mut(n);
        hot.last_contact = now;
        hot.contact_uptime = uptime;
    }

    /// What a status says.
    pub(crate) fn set_online(&mut self, n: u32, online: bool) {
        self.hot_mut(n).set_online(online);
    }

    /// Whether a status of this incarnation is the agent's present one: a late last will of an earlier life
    /// says nothing about the life that is connected.
    pub(crate) fn is_present(&self, n: u32, incarnation: Incarnation) -> bool {
        let newer = |life: &Incarnation| life.no > incarnation.no;
        let rare = self.rare(n);
        let lives = rare
            .and_then(|r| r.more.as_ref())
            .map_or(&[][..], |m| &m.lives);
        !self.hot(n).life().as_ref().is_some_and(newer)
            && rare.is_none_or(|r| r.tombstones.end(incarnation).is_none())
            && lives.iter().all(|l| l.abandoned || !newer(&l.incarnation))
    }

    /// Disjoint stretches of event time in which it lost events, both ends included, ascending, microseconds.
    pub(crate) fn losses(&self, n: u32) -> &[(i64, i64)] {
        self.rare(n).map_or(&[], |r| r.losses.as_slice())
    }

    /// What it still held outside its newest batch.
    pub(crate) fn held(&self, n: u32) -> Held {
        let more = self.rare(n).and_then(|r| r.more.as_ref());
        more.map(|m| m.held).unwrap_or_default()
    }

    /// Its clock at the newest transmission; none before the first.
    pub(crate) fn clock(&self, n: u32) -> Option<ClockState> {
        self.hot(n).clock()
    }

    /// Its clock minus ours at the newest transmission, microseconds: the time that the transmission needed
    /// is in it, as a negative part. None before the first.
    pub(crate) fn offset(&self, n: u32) -> Option<i64> {
        self.clock(n)?;
        let more = self.rare(n).and_then(|r| r.more.as_ref());
        let wide = more.and_then(|m| m.offset);
        Some(wide.unwrap_or(i64::from(self.hot(n).offset)))
    }

    /// What must be added to the raw event times and the watermark of this batch, microseconds (P5): nothing,
    /// unless the clock was never set in this boot and is off by more than a minute.
    ///
    /// The offset is that of the newest transmission: this one, or one that overtook it. **Limit**: it is
    /// told from the time of arrival, so a batch that waited in a broker for more than a minute makes a
    /// clock look slow by that wait, and events that an earlier boot stamped are moved by the offset of this
    /// boot. Clocks of any other quality are only flagged.
    pub(crate) fn correction(&self, n: u32, header: &BatchHeader, ingest: i64) -> i64 {
        if self.is_newest(n, header) {
            return clock::shift(header.clock.quality, clock::offset(header, ingest));
        }
        match (self.clock(n), self.offset(n)) {
            (Some(clock), Some(offset)) => clock::shift(clock.quality, offset),
            _ => 0,
        }
    }

    fn is_newest(&self, n: u32, header: &BatchHeader) -> bool {
        let hot = self.hot(n);
        if hot.life() == Some(header.incarnation) {
            return header.tx_no > hot.tx_no;
        }
        let more = self.rare(n).and_then(|r| r.more.as_ref());
        let life = more.and_then(|m| {
            let mut lives = m.lives.iter();
            lives.find(|l| l.incarnation == header.incarnation)
        });
        life.is_none_or(|l| header.tx_no > l.tx_no) && self.is_present(n, header.incarnation)
    }

    /// Ranges of seqs held over all lives of all agents, for the machine room.
    pub(crate) fn seq_ranges(&self) -> usize {
        self.ranges
    }

    /// Memory, bytes, without the heap of rare records.
    pub(crate) fn memory(&self) -> usize {
        let rare = self.rare.len() * (size_of::<Rare>() + size_of::<u32>());
        self.names.memory() + self.hot.capacity() * size_of::<Hot>() + rare
    }
}
