//! Closed incarnations (P3): what of them came already, for ever.

use event::Incarnation;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

/// Closed incarnations remembered in full.
pub(super) const TOMBSTONES_MAX: usize = 64;
/// Older ones of which only a fingerprint and the end are kept: a device that restarts every day reaches the
/// limit above in two months, and a copy that the network kept longer must not count again.
const FADED_MAX: usize = 1024;

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

/// Fingerprint and end (`u32::MAX` = that or more) of closed incarnations, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Faded(Vec<(u32, u32)>);

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
    faded: Option<Box<Faded>>,
}

impl Tombstones {
    pub(super) fn is_empty(&self) -> bool {
        self.recent.is_empty() && self.faded.is_none()
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
        let faded = self.faded.as_ref()?;
        let print = fingerprint(incarnation);
        let (_, last) = faded.0.iter().find(|f| f.0 == print)?;
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
            let faded = self.faded.get_or_insert_default();
            if faded.0.len() >= FADED_MAX {
                faded.0.remove(0);
            }
            let last = u32::try_from(oldest.last).unwrap_or(u32::MAX);
            faded.0.push((fingerprint(oldest.incarnation()), last));
        }
        self.recent.reserve_exact(1);
        self.recent.push(Tombstone {
            rand: incarnation.rand,
            last,
            no: incarnation.no,
            stated,
        });
    }

    /// Whether it is within its limits.
    pub(super) fn sound(&self) -> bool {
        let faded = self.faded.as_ref().map_or(0, |f| f.0.len());
        self.recent.len() <= TOMBSTONES_MAX && faded <= FADED_MAX
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
}
