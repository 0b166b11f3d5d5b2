//! Where an agent's data lives: a slot for ever, a partition by range.

use xxhash_rust::xxh3::xxh3_64;

/// Number of slots. Fixed for ever: the slot of an agent never changes.
pub const SLOTS: u16 = 4096;

/// The slot of an agent (or of a plain device, which is its own agent): XXH3-64 of the id's bytes,
/// mod 4096.
pub fn of(agent: &str) -> u16 {
    (xxh3_64(agent.as_bytes()) % u64::from(SLOTS)) as u16
}

/// The partition that owns a slot when there are `partitions` of them (1..=4096): each owns a
/// contiguous range of slots, and the ranges differ by at most one.
pub fn partition(slot: u16, partitions: u16) -> u16 {
    (u32::from(slot) * u32::from(partitions) / u32::from(SLOTS)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_never_change() {
        // Written down once; a change here would move every agent's data.
        assert_eq!(of("gw-1"), 2487);
        assert_eq!(of("OSL-11"), 1659);
    }

    #[test]
    fn partitions_are_contiguous_and_cover_everything() {
        for partitions in [1u16, 3, 8, 64, 4096] {
            let all: Vec<u16> = (0..SLOTS).map(|s| partition(s, partitions)).collect();
            assert!(all.is_sorted());
            assert_eq!(all[0], 0);
            assert_eq!(*all.last().unwrap(), partitions - 1);
        }
    }
}
