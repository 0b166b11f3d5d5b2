//! The bad network between an agent and the cloud: repeats batches, holds them back behind later
//! ones, and swallows acks. (What it never does is damage bytes: MQTT runs over TCP.)

use bytes::Bytes;

use crate::rng::Rng;
use crate::scenario::Faults;

/// Longest time that a batch is held back, microseconds.
pub const HELD_BACK_US: u64 = 1_000_000;
/// Most batches held back at once.
pub const HELD_BACK_MAX: usize = 4;

/// What the network did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Batches delivered twice.
    pub duplicates: u64,
    /// Batches held back.
    pub reordered: u64,
    /// Acks swallowed.
    pub acks_lost: u64,
}

/// One agent's way to the cloud and back.
#[derive(Debug)]
pub struct Network {
    duplicate: f64,
    reorder: f64,
    lost_ack: f64,
    rng: Rng,
    held_back: Vec<HeldBack>,
    /// What happened so far.
    pub counters: Counters,
}

#[derive(Debug)]
struct HeldBack {
    bytes: Bytes,
    behind: u32,
    until: u64,
}

impl Network {
    /// A network with these faults.
    pub fn new(faults: &Faults, rng: Rng) -> Self {
        Self {
            duplicate: faults.duplicate,
            reorder: faults.reorder,
            lost_ack: faults.lost_ack,
            rng,
            held_back: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// A batch is sent: `deliver` gets what goes over the wire now, in order.
    pub fn send(&mut self, bytes: Bytes, now: u64, mut deliver: impl FnMut(Bytes)) {
        if self.held_back.len() < HELD_BACK_MAX && self.rng.chance(self.reorder) {
            let behind = 1 + self.rng.below(3) as u32;
            self.held_back.push(HeldBack {
                bytes,
                behind,
                until: now + HELD_BACK_US,
            });
            self.counters.reordered += 1;
            return;
        }
        if self.rng.chance(self.duplicate) {
            self.counters.duplicates += 1;
            deliver(bytes.clone());
        }
        deliver(bytes);
        for held in &mut self.held_back {
            held.behind = held.behind.saturating_sub(1);
        }
        self.release(now, deliver);
    }

    /// Delivers what has been held back long enough.
    pub fn release(&mut self, now: u64, mut deliver: impl FnMut(Bytes)) {
        let mut i = 0;
        while i < self.held_back.len() {
            if self.held_back[i].behind == 0 || self.held_back[i].until <= now {
                deliver(self.held_back.remove(i).bytes);
            } else {
                i += 1;
            }
        }
    }

    /// When something held back must go at the latest.
    pub fn next_release(&self) -> Option<u64> {
        self.held_back.iter().map(|h| h.until).min()
    }

    /// Whether an ack that arrives gets through.
    pub fn passes_ack(&mut self) -> bool {
        let lost = self.rng.chance(self.lost_ack);
        self.counters.acks_lost += u64::from(lost);
        !lost
    }

    /// The connection is gone, and what was held back with it.
    pub fn disconnected(&mut self) {
        self.held_back.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(faults: &Faults, n: u8) -> Vec<u8> {
        let mut network = Network::new(faults, Rng::new(4, 4));
        let mut out = Vec::new();
        for i in 0..n {
            network.send(Bytes::from(vec![i]), u64::from(i), |b| out.push(b[0]));
        }
        network.release(u64::MAX, |b| out.push(b[0]));
        out
    }

    #[test]
    fn a_calm_network_changes_nothing() {
        assert_eq!(
            through(&Faults::default(), 100),
            (0..100).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_bad_network_repeats_and_reorders_and_loses_nothing() {
        let faults = Faults {
            duplicate: 0.2,
            reorder: 0.2,
            ..Faults::default()
        };
        let out = through(&faults, 200);
        assert!(out.len() > 200 && !out.is_sorted());
        let all: std::collections::BTreeSet<u8> = out.into_iter().collect();
        assert_eq!(all.len(), 200);
    }

    #[test]
    fn held_back_batches_go_in_time() {
        let faults = Faults {
            reorder: 0.95,
            ..Faults::default()
        };
        let mut network = Network::new(&faults, Rng::new(1, 1));
        while network.next_release().is_none() {
            network.send(Bytes::from_static(b"x"), 5, drop);
        }
        let due = network.next_release().unwrap();
        assert_eq!(due, 5 + HELD_BACK_US);
        let mut n = 0;
        network.release(due, |_| n += 1);
        assert!(n > 0 && network.next_release().is_none());
    }
}
