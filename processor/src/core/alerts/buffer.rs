//! Values that are ahead of their agent's progress: others may still come before them.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::run::Point;

/// Most values held of a series, ...
pub(crate) const SERIES_MAX: usize = 1024;
/// ... and of a partition. Beyond it the oldest of the series counts as if all before it had come.
pub(crate) const TOTAL_MAX: usize = 262_144;

/// (agent, device, metric): all of an agent are beside each other.
pub(crate) type Key = (u32, u32, u32);

/// A value that waits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) point: Point,
    /// Orders values of the same time: incarnation, then seq.
    pub(crate) rank: u64,
    /// Offset of the record that it came with: rules that were declared later do not see it.
    pub(crate) offset: u64,
}

/// The values of a series that wait, ascending by (time, rank).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Buffer {
    /// The newest value that counts as final.
    pub(crate) stepped: Option<Point>,
    pub(crate) values: VecDeque<Held>,
}

impl Buffer {
    /// Puts a value in its place.
    pub(crate) fn insert(&mut self, held: Held) {
        let key = (held.point.time, held.rank);
        let at = match self.values.back() {
            Some(last) if (last.point.time, last.rank) <= key => self.values.len(),
            None => 0,
            Some(_) => self
                .values
                .partition_point(|h| (h.point.time, h.rank) <= key),
        };
        self.values.insert(at, held);
    }

    /// How many of the first values are final at `progress`: everything before it has come.
    pub(crate) fn due(&self, progress: i64) -> usize {
        self.values.partition_point(|h| h.point.time < progress)
    }
}

/// All that wait in a partition.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Buffers {
    pub(crate) by: BTreeMap<Key, Buffer>,
    /// Values in all of them.
    pub(crate) len: usize,
}

impl Buffers {
    pub(crate) fn restore(by: BTreeMap<Key, Buffer>) -> Self {
        let len = by.values().map(|b| b.values.len()).sum();
        Self { by, len }
    }

    /// The series of an agent of which values wait.
    pub(crate) fn of_agent(&self, agent: u32) -> Vec<Key> {
        let range = (agent, 0, 0)..=(agent, u32::MAX, u32::MAX);
        self.by.range(range).map(|(key, _)| *key).collect()
    }

    /// Nothing waits of the device any more.
    pub(crate) fn drop_device(&mut self, device: u32) {
        self.by.retain(|key, _| key.1 != device);
        self.len = self.by.values().map(|b| b.values.len()).sum();
    }

    /// The device is behind another agent: what waits does so for that one.
    pub(crate) fn move_device(&mut self, device: u32, from: u32, to: u32) {
        let range = (from, device, 0)..=(from, device, u32::MAX);
        let keys: Vec<Key> = self.by.range(range).map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(buffer) = self.by.remove(&key) {
                self.by.insert((to, device, key.2), buffer);
            }
        }
    }

    /// Whether they are as they can have become.
    pub(crate) fn is_sound(&self, bound: i64, offset: u64) -> bool {
        let key = |h: &Held| (h.point.time, h.rank);
        let fits = |p: &Point| p.time.unsigned_abs() <= bound.unsigned_abs();
        self.len <= TOTAL_MAX
            && self.by.values().all(|b| {
                b.values.len() <= SERIES_MAX
                    && b.stepped.as_ref().is_none_or(fits)
                    && b.values
                        .iter()
                        .all(|h| fits(&h.point) && h.offset <= offset)
                    && b.values
                        .iter()
                        .zip(b.values.iter().skip(1))
                        .all(|(a, b)| key(a) <= key(b))
            })
    }
}
