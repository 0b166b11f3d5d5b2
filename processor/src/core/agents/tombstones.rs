//! Closed incarnations (P3): what of them came already, for ever.

use event::Incarnation;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::super::intervals::IntervalSet;
use super::rare::RANGES_MAX;
use super::seen;

/// Closed incarnations remembered in full.
pub(super) const TOMBSTONES_MAX: usize = 64;
/// Older ones of which only a fingerprint and the end are kept: a device that restarts every day reaches the
/// limit above in two months, and a copy that the network kept longer must not count again.
const FADED_MAX: usize = 1024;
/// Closed incarnations of which something came from beyond the end. There are none without a rolled back or
/// cloned disk.
const BEYOND_MAX: usize = 64;

/// One closed incarnation: all seqs to `last` have come or are declared lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tombstone {
    rand: u64,
    pub(super) last: u64,
    no: u32,
    /// A successor said that `last` is the end; else it was closed for want of room.
    pub(super) stated: bool,
}

impl Tombstone {
    pub(super) fn incarnation(&self) -> Incarnation {
        Incarnation {
            no: self.no,
            rand: self.rand,
        }
    }
}

/// What came of a closed incarnation from beyond its end: each seq is set aside, or was counted, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Beyond {
    incarnation: Incarnation,
    #[serde(with = "super::seen")]
    seqs: IntervalSet,
}

/// What few agents have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Further {
    /// Fingerprint and end (`u32::MAX` = that or more) of closed incarnations, oldest first.
    faded: Vec<(u32, u32)>,
    /// Ascending by incarnation. Nothing is ever taken out: what is not known to have come would count again
    /// with its release.
    beyond: Vec<Beyond>,
}

fn fingerprint(incarnation: Incarnation) -> u32 {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&incarnation.no.to_le_bytes());
    bytes[4..].copy_from_slice(&incarnation.rand.to_le_bytes());
    xxh3_64(&bytes) as u32
}

/// The closed incarnations of an agent, oldest first. One costs nothing outside this record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tombstones {
    recent: SmallVec<[Tombstone; 1]>,
    further: Option<Box<Further>>,
}

impl Tombstones {
    pub(super) fn is_empty(&self) -> bool {
        self.recent.is_empty() && self.further.is_none()
    }

    /// Those that are remembered in full.
    pub(super) fn recent(&self) -> &[Tombstone] {
        &self.recent
    }

    /// The last seq of a closed incarnation.
    pub(super) fn end(&self, incarnation: Incarnation) -> Option<u64> {
        if let Some(t) = self.recent.iter().find(|t| t.incarnation() == incarnation) {
            return Some(t.last);
        }
        let further = self.further.as_ref()?;
        let print = fingerprint(incarnation);
        let (_, last) = further.faded.iter().find(|f| f.0 == print)?;
        Some(if *last == u32::MAX {
            u64::MAX
        } else {
            u64::from(*last)
        })
    }

    /// Closes one.
    pub(super) fn bury(&mut self, incarnation: Incarnation, last: u64, stated: bool) {
        if self.recent.len() >= TOMBSTONES_MAX {
            let oldest = self.recent.remove(0);
            let faded = &mut self.further.get_or_insert_default().faded;
            if faded.len() >= FADED_MAX {
                faded.remove(0);
            }
            let last = u32::try_from(oldest.last).unwrap_or(u32::MAX);
            faded.push((fingerprint(oldest.incarnation()), last));
        }
        self.recent.reserve_exact(1);
        self.recent.push(Tombstone {
            rand: incarnation.rand,
            last,
            no: incarnation.no,
            stated,
        });
    }

    /// Takes the seqs `first..=last` from beyond the end of a closed incarnation and says which of them did not
    /// come before. None if there is no room to remember them: then they must not be counted later either.
    pub(super) fn take_beyond(
        &mut self,
        incarnation: Incarnation,
        first: u64,
        last: u64,
    ) -> Option<SmallVec<[(u64, u64); 2]>> {
        let list = &mut self.further.get_or_insert_default().beyond;
        let at = match list.binary_search_by_key(&incarnation, |b| b.incarnation) {
            Ok(at) => at,
            Err(_) if list.len() >= BEYOND_MAX => return None,
            Err(at) => {
                let seqs = IntervalSet::default();
                list.insert(at, Beyond { incarnation, seqs });
                at
            }
        };
        let seqs = &mut list[at].seqs;
        let fresh = seqs.missing(first, last);
        if !fresh.is_empty() {
            if seqs.len() >= RANGES_MAX && !seqs.touches(first, last) {
                return None;
            }
            seqs.insert(first, last);
        }
        Some(fresh)
    }

    /// Closes an incarnation for want of room: up to its end all have come, and of what is beyond `seen`.
    pub(super) fn bury_open(&mut self, incarnation: Incarnation, seen: &IntervalSet) {
        let end = seen.prefix();
        self.bury(incarnation, end, false);
        for (first, last) in seen::ranges(seen) {
            if first > end {
                // Without room for it nothing of that incarnation can ever be released, so it need not be known.
                let _ = self.take_beyond(incarnation, first, last);
            }
        }
    }

    /// Whether it is within its limits.
    pub(super) fn sound(&self) -> bool {
        self.recent.len() <= TOMBSTONES_MAX
            && self.further.as_ref().is_none_or(|f| {
                let ascending = |w: &[Beyond]| w[0].incarnation < w[1].incarnation;
                f.faded.len() <= FADED_MAX
                    && f.beyond.len() <= BEYOND_MAX
                    && f.beyond.windows(2).all(ascending)
                    && f.beyond
                        .iter()
                        .all(|b| (1..=RANGES_MAX).contains(&b.seqs.len()))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inc(no: u32) -> Incarnation {
        Incarnation {
            no,
            rand: u64::from(no) << 33,
        }
    }

    #[test]
    fn old_ones_fade_and_are_still_known() {
        let mut t = Tombstones::default();
        for no in 1..=500 {
            t.bury(inc(no), u64::from(no) * 3, true);
        }
        assert_eq!(t.recent().len(), TOMBSTONES_MAX);
        for no in 1..=500 {
            assert_eq!(t.end(inc(no)), Some(u64::from(no) * 3));
        }
        assert_eq!(t.end(Incarnation { no: 1, rand: 99 }), None);
        for no in 501..5000 {
            t.bury(inc(no), u64::MAX, true);
        }
        assert!(t.sound());
        assert_eq!(t.end(inc(4000)), Some(u64::MAX));
    }

    #[test]
    fn what_came_from_beyond_the_end_is_known_or_refused() {
        let mut t = Tombstones::default();
        let mut seen = IntervalSet::default();
        for (first, last) in [(1, 3), (5, 6), (9, 9)] {
            seen.insert(first, last);
        }
        t.bury_open(inc(1), &seen);
        assert_eq!(t.end(inc(1)), Some(3));
        let fresh = t.take_beyond(inc(1), 4, 10).unwrap();
        assert_eq!(fresh.as_slice(), [(4, 4), (7, 8), (10, 10)]);
        assert!(t.take_beyond(inc(1), 4, 10).unwrap().is_empty());
        for no in (2..=BEYOND_MAX as u32).rev() {
            assert!(t.take_beyond(inc(no), 7, 7).is_some());
        }
        assert!(t.sound());
        assert_eq!(t.take_beyond(inc(0), 7, 7), None, "no room");
        assert!(t.take_beyond(inc(2), 7, 7).unwrap().is_empty());
        for i in 0..2 * RANGES_MAX as u64 {
            let _ = t.take_beyond(inc(2), 10 + 2 * i, 10 + 2 * i);
        }
        assert!(t.sound());
        assert_eq!(t.take_beyond(inc(2), u64::MAX - 9, u64::MAX - 9), None);
        assert!(t.take_beyond(inc(2), 8, 9).is_some(), "joins another");
    }
}
