//! Exact sets of devices.
//!
//! Devices behind one agent have numbers in a row and mostly speak together, so a set is a short list of runs,
//! beginning inside the struct; only one of many scattered devices is a bitmap.

use roaring::RoaringBitmap;
use smallvec::SmallVec;
use views::sketch::{put_varint, take_varint};

/// Up to so many runs are always a list, ...
const FEW_RUNS: usize = 64;
/// ... and up to so many as long as a run has [`LONG_RUN`] devices on average: a list of more is slow to
/// change.
const MANY_RUNS: usize = 2048;
/// A run is 8 bytes, a device in a bitmap about 2.
const LONG_RUN: u64 = 4;
/// Up to so many runs are saved as runs, more as a bitmap, however they are held.
const SAVED_RUNS: usize = 4096;
/// Most devices that [`DeviceSet::load`] takes, four times what a partition can have: a run of devices is a
/// few bytes when saved and must not become gigabytes of memory.
const LOADED_MAX: u64 = 1 << 24;

/// Devices `first` to `last`, both in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u32,
    last: u32,
}

impl Run {
    fn len(self) -> u64 {
        u64::from(self.last) - u64::from(self.first) + 1
    }

    /// Whether `device` is in it or right behind it, or behind that.
    fn reaches(self, device: u32) -> bool {
        self.last >= device || self.last + 1 == device
    }
}

/// A set of a partition's dense device numbers. The same set has the same saved form and is `==`, however it
/// came about.
#[derive(Debug, Clone)]
pub(crate) struct DeviceSet(Form);

#[derive(Debug, Clone)]
enum Form {
    /// Ascending, with a gap between any two.
    Runs(SmallVec<[Run; 3]>),
    /// Without run containers: they make adding slow.
    Bits(RoaringBitmap),
}

impl Default for DeviceSet {
    fn default() -> Self {
        Self(Form::Runs(SmallVec::new()))
    }
}

impl PartialEq for DeviceSet {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Form::Runs(ours), Form::Runs(theirs)) => ours == theirs,
            (Form::Bits(ours), Form::Bits(theirs)) => ours == theirs,
            _ => self.len() == other.len() && self.runs() == other.runs(),
        }
    }
}

impl DeviceSet {
    /// Adds a device.
    #[inline]
    pub(crate) fn insert(&mut self, device: u32) {
        self.insert_run(device, 1);
    }

    /// Adds the devices from `first` on, `len` in a row.
    #[inline]
    pub(crate) fn insert_run(&mut self, first: u32, len: u32) {
        let Some(last) = len.checked_sub(1).and_then(|more| first.checked_add(more)) else {
            return;
        };
        self.add(Run { first, last });
    }

    #[inline]
    fn add(&mut self, run: Run) {
        match &mut self.0 {
            Form::Runs(runs) => {
                add_run(runs, run);
                if runs.len() > FEW_RUNS {
                    self.choose();
                }
            }
            // One by one: the bitmap's own insertion of ranges leaves run containers.
            Form::Bits(bits) => (run.first..=run.last).for_each(|device| {
                bits.insert(device);
            }),
        }
    }

    /// Makes a bitmap of a list that has become too long.
    #[cold]
    fn choose(&mut self) {
        let Form::Runs(runs) = &self.0 else {
            return;
        };
        let n = runs.len();
        if n > MANY_RUNS || (n > FEW_RUNS && self.len() < LONG_RUN * n as u64) {
            // The numbers ascend, so this does not fail.
            let bits = RoaringBitmap::from_sorted_iter(devices_of(runs));
            self.0 = Form::Bits(bits.unwrap_or_else(|_| devices_of(runs).collect()));
        }
    }

    /// How many devices are in it.
    pub(crate) fn len(&self) -> u64 {
        match &self.0 {
            Form::Runs(runs) => runs.iter().map(|r| r.len()).sum(),
            Form::Bits(bits) => bits.len(),
        }
    }

    /// Whether no device is in it.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds all devices of another set.
    pub(crate) fn union_with(&mut self, other: &Self) {
        match (&mut self.0, &other.0) {
            (Form::Bits(ours), Form::Bits(theirs)) => *ours |= theirs,
            (Form::Runs(ours), Form::Bits(theirs)) => {
                let mut bits = theirs.clone();
                bits.extend(devices_of(ours));
                self.0 = Form::Bits(bits);
            }
            (Form::Runs(ours), Form::Runs(theirs)) if theirs.len() * 8 > ours.len() => {
                *ours = merged(ours, theirs);
                self.choose();
            }
            (_, Form::Runs(theirs)) => {
                for run in theirs {
                    self.add(*run);
                }
            }
        }
    }

    /// The devices, ascending.
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        let runs = self.runs();
        runs.into_iter().flat_map(|r| r.first..=r.last)
    }

    fn runs(&self) -> SmallVec<[Run; 3]> {
        let bits = match &self.0 {
            Form::Runs(runs) => return runs.clone(),
            Form::Bits(bits) => bits,
        };
        let mut runs: SmallVec<[Run; 3]> = SmallVec::new();
        for device in bits {
            match runs.last_mut() {
                Some(run) if run.reaches(device) => run.last = device,
                _ => runs.push(Run {
                    first: device,
                    last: device,
                }),
            }
        }
        runs
    }

    /// Memory of the devices beyond the struct itself, bytes.
    pub(crate) fn bytes(&self) -> usize {
        match &self.0 {
            Form::Runs(runs) if runs.spilled() => runs.capacity() * size_of::<Run>(),
            Form::Runs(_) => 0,
            Form::Bits(bits) => {
                // A bitset is 8 KiB, a device in an array two bytes, a container's own record 40.
                let parts = bits.statistics();
                parts.n_bitset_containers as usize * 8192
                    + parts.n_values_array_containers as usize * 2
                    + parts.n_containers as usize * 40
            }
        }
    }

    /// Appends the set: how many runs it has, then of each its distance from the one before and its length less
    /// one. More than 4,096 runs are a bitmap in the standard Roaring format (with run containers where they are
    /// shorter) behind the number of devices and the size. All numbers are varints.
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        let collected;
        let runs = match &self.0 {
            Form::Runs(runs) => runs,
            Form::Bits(_) => {
                collected = self.runs();
                &collected
            }
        };
        put_varint(out, runs.len() as u64);
        if runs.len() <= SAVED_RUNS {
            let mut next = 0;
            for run in runs {
                put_varint(out, u64::from(run.first) - next);
                put_varint(out, run.len() - 1);
                next = u64::from(run.last) + 1;
            }
            return;
        }
        let mut bits: RoaringBitmap = match &self.0 {
            Form::Runs(runs) => devices_of(runs).collect(),
            Form::Bits(bits) => bits.clone(),
        };
        bits.optimize();
        put_varint(out, bits.len());
        put_varint(out, bits.serialized_size() as u64);
        // Writing to memory does not fail.
        let _ = bits.serialize_into(&mut *out);
    }

    /// Takes what [`Self::save`] wrote; none if the bytes are not of that form, or are of more than 2^24 devices.
    pub(crate) fn load(bytes: &mut &[u8]) -> Option<Self> {
        let n = take_varint(bytes)?;
        if n > SAVED_RUNS as u64 {
            let len = take_varint(bytes)?;
            let size = usize::try_from(take_varint(bytes)?).ok()?;
            let mut packed = bytes.split_off(..size)?;
            let mut bits = RoaringBitmap::deserialize_from(&mut packed).ok()?;
            if !packed.is_empty() || bits.len() != len || len > LOADED_MAX {
                return None;
            }
            bits.remove_run_compression();
            let set = Self(Form::Bits(bits));
            return (set.runs().len() as u64 == n).then_some(set);
        }
        let mut runs: SmallVec<[Run; 3]> = SmallVec::new();
        let (mut next, mut len) = (0u64, 0u64);
        for _ in 0..n {
            let gap = take_varint(bytes)?;
            if gap == 0 && !runs.is_empty() {
                return None;
            }
            let first = next.checked_add(gap)?;
            let more = take_varint(bytes)?;
            let last = u32::try_from(first.checked_add(more)?).ok()?;
            len += more + 1;
            if len > LOADED_MAX {
                return None;
            }
            runs.push(Run {
                first: first as u32,
                last,
            });
            next = u64::from(last) + 1;
        }
        let mut set = Self(Form::Runs(runs));
        set.choose();
        Some(set)
    }
}

/// Puts a run among the others, with those that it meets as one.
#[inline]
fn add_run(runs: &mut SmallVec<[Run; 3]>, run: Run) {
    // Devices often come in the order of their numbers, or again and again.
    if let Some(end) = runs.last_mut()
        && run.first >= end.first
        && end.reaches(run.first)
    {
        end.last = end.last.max(run.last);
        return;
    }
    let from = match runs.last() {
        Some(end) if !end.reaches(run.first) => runs.len(),
        _ => runs.partition_point(|r| !r.reaches(run.first)),
    };
    let to = from + runs[from..].partition_point(|r| r.first <= run.last.saturating_add(1));
    if from == to {
        if runs.len() == runs.capacity() {
            // Not twice as much: there are hundreds of thousands of sets.
            runs.reserve_exact((runs.len() / 4).max(4));
        }
        runs.insert(from, run);
        return;
    }
    runs[from] = Run {
        first: runs[from].first.min(run.first),
        last: runs[to - 1].last.max(run.last),
    };
    if to - from > 1 {
        runs.drain(from + 1..to);
    }
}

/// Two lists as one, in one pass.
fn merged(a: &[Run], b: &[Run]) -> SmallVec<[Run; 3]> {
    let mut all: SmallVec<[Run; 3]> = SmallVec::with_capacity(a.len().max(b.len()));
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let next = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) if x.first <= y.first => a.next(),
            (_, Some(_)) => b.next(),
            (_, None) => a.next(),
        };
        let Some(&run) = next else {
            if all.capacity() > all.len() + all.len() / 4 + 4 {
                all.shrink_to_fit();
            }
            return all;
        };
        match all.last_mut() {
            Some(end) if end.reaches(run.first) => end.last = end.last.max(run.last),
            _ => all.push(run),
        }
    }
}

fn devices_of(runs: &[Run]) -> impl Iterator<Item = u32> {
    runs.iter().flat_map(|r| r.first..=r.last)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn of(devices: impl IntoIterator<Item = u32>) -> DeviceSet {
        let mut set = DeviceSet::default();
        devices.into_iter().for_each(|d| set.insert(d));
        set
    }

    fn saved(set: &DeviceSet) -> Vec<u8> {
        let mut out = Vec::new();
        set.save(&mut out);
        out
    }

    /// Few and many, near and far, with long runs.
    fn devices() -> impl Strategy<Value = Vec<u32>> {
        let run = (0u32..150_000, 0u32..6000).prop_map(|(a, n)| (a..a + n).collect::<Vec<_>>());
        prop_oneof![
            prop::collection::vec(0u32..40, 0..60),
            prop::collection::vec(any::<u32>(), 0..80),
            prop::collection::vec(prop::sample::select(vec![0, 1, 2, u32::MAX]), 0..8),
            (
                prop::collection::vec(0u32..200_000, 0..6000),
                prop::collection::vec(run, 0..3)
            )
                .prop_map(|(a, runs)| [a, runs.concat()].concat()),
        ]
    }

    proptest! {
        #[test]
        fn a_run_is_its_devices_one_by_one(
            before in devices(),
            runs in prop::collection::vec((0u32..200_000, 0u32..300), 0..20),
        ) {
            let (mut quick, mut slow) = (of(before.iter().copied()), of(before.iter().copied()));
            for (first, len) in runs {
                quick.insert_run(first, len);
                (first..first + len).for_each(|d| slow.insert(d));
            }
            prop_assert_eq!(saved(&quick), saved(&slow));
            prop_assert_eq!(quick, slow);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn is_a_set_in_one_form(devices in devices(), at in any::<prop::sample::Index>()) {
            let model: BTreeSet<u32> = devices.iter().copied().collect();
            let mut set = DeviceSet::default();
            devices.iter().for_each(|d| set.insert(*d));
            prop_assert_eq!(set.len(), model.len() as u64);
            prop_assert_eq!(set.is_empty(), model.is_empty());
            prop_assert!(set.iter().eq(model.iter().copied()));

            let cut = at.index(devices.len() + 1);
            let (a, b) = devices.split_at(cut);
            let mut forth = of(a.iter().copied());
            forth.union_with(&of(b.iter().copied()));
            let mut back = of(b.iter().copied());
            back.union_with(&of(a.iter().copied()));
            let sorted = of(model);
            for other in [forth, back, sorted] {
                prop_assert_eq!(&other, &set);
                prop_assert_eq!(saved(&other), saved(&set));
            }

            let bytes = saved(&set);
            let followed = [bytes.as_slice(), b"end"].concat();
            let left = &mut followed.as_slice();
            prop_assert_eq!(DeviceSet::load(left), Some(set.clone()));
            prop_assert_eq!(*left, b"end");
            prop_assert_eq!(DeviceSet::load(&mut &bytes[..at.index(bytes.len())]), None);
            // One that was read is as good as the first.
            let mut read = DeviceSet::load(&mut bytes.as_slice()).unwrap();
            read.union_with(&of(devices.iter().map(|d| d ^ 1)));
            set.union_with(&of(devices.iter().map(|d| d ^ 1)));
            prop_assert_eq!(&read, &set);
            prop_assert_eq!(saved(&read), saved(&set));
        }

        #[test]
        fn arbitrary_bytes_give_none_or_a_sound_set(
            devices in devices(),
            edits in prop::collection::vec((0usize..60, any::<u8>()), 1..4),
            garbage in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut bytes = saved(&of(devices.iter().copied()));
            for (at, byte) in edits {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            for bytes in [bytes, garbage] {
                if let Some(mut set) = DeviceSet::load(&mut bytes.as_slice()) {
                    prop_assert_eq!(set.iter().count() as u64, set.len());
                    set.union_with(&of(devices.iter().copied()));
                    prop_assert_eq!(&DeviceSet::load(&mut saved(&set).as_slice()).unwrap(), &set);
                }
            }
        }
    }

    #[test]
    fn three_runs_cost_no_heap_and_a_long_run_few_bytes() {
        assert!(size_of::<DeviceSet>() <= 40);
        assert_eq!(of([1, 2, 3, 10, 11, 90_000]).bytes(), 0);
        assert!(of([1, 3, 5, 7]).bytes() > 0);
        let all = of(0..100_000);
        assert_eq!(all.bytes(), 0);
        assert!(saved(&all).len() <= 6);
        // Scattered ones: about two bytes each, in memory and saved.
        let scattered = of((0..10_000).map(|d| d * 3));
        assert!(scattered.bytes() < 25_000, "{}", scattered.bytes());
        assert!(saved(&scattered).len() < 25_000);
    }
}
