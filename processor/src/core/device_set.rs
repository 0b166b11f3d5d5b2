//! Exact sets of devices.
//!
//! Most panes are of small groups, and a bitmap of six devices costs ten times the devices. So few are a
//! sorted list, beginning inside the struct, and only many are a bitmap.

use roaring::RoaringBitmap;
use smallvec::SmallVec;
use views::sketch::{put_varint, take_varint};

/// Devices in a list; one more makes it a bitmap.
const FEW_MAX: usize = 32;
/// Most devices that [`DeviceSet::load`] takes, four times what a partition can have: a run of devices is a
/// few bytes when saved and must not become gigabytes of memory.
const LOADED_MAX: u64 = 1 << 24;

/// A set of a partition's dense device numbers. The same set has the same form, bytes and `==`, however it
/// came about.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DeviceSet(Form);

#[derive(Debug, Clone, PartialEq)]
enum Form {
    /// Ascending, at most [`FEW_MAX`].
    Few(SmallVec<[u32; 6]>),
    /// More than [`FEW_MAX`]; without run containers, so that it is equal part by part.
    Many(RoaringBitmap),
}

impl Default for DeviceSet {
    fn default() -> Self {
        Self(Form::Few(SmallVec::new()))
    }
}

impl DeviceSet {
    /// Adds a device; whether it is new.
    #[inline]
    pub(crate) fn insert(&mut self, device: u32) -> bool {
        let few = match &mut self.0 {
            Form::Many(many) => return many.insert(device),
            Form::Few(few) => few,
        };
        // Devices often come in the order of their numbers, or again and again.
        let at = match few.last() {
            Some(last) if *last == device => return false,
            Some(last) if *last > device => match few.binary_search(&device) {
                Ok(_) => return false,
                Err(at) => at,
            },
            _ => few.len(),
        };
        if few.len() < FEW_MAX {
            few.insert(at, device);
        } else {
            let mut many: RoaringBitmap = few.iter().copied().collect();
            many.insert(device);
            self.0 = Form::Many(many);
        }
        true
    }

    /// Adds the devices from `first` on, `len` in a row.
    #[inline]
    pub(crate) fn insert_run(&mut self, first: u32, len: u32) {
        let Some(last) = len.checked_sub(1).and_then(|more| first.checked_add(more)) else {
            return;
        };
        // One by one: the bitmap's own insertion of ranges leaves run containers, another form of the same set.
        for device in first..=last {
            self.insert(device);
        }
    }

    /// How many devices are in it.
    pub(crate) fn len(&self) -> u64 {
        match &self.0 {
            Form::Few(few) => few.len() as u64,
            Form::Many(many) => many.len(),
        }
    }

    /// Whether no device is in it.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        matches!(&self.0, Form::Few(few) if few.is_empty())
    }

    /// Adds all devices of another set.
    pub(crate) fn union_with(&mut self, other: &Self) {
        match (&mut self.0, &other.0) {
            (Form::Many(ours), Form::Many(theirs)) => *ours |= theirs,
            (Form::Few(few), Form::Many(theirs)) => {
                let mut many = theirs.clone();
                many.extend(few.iter().copied());
                self.0 = Form::Many(many);
            }
            (_, Form::Few(theirs)) => {
                for device in theirs {
                    self.insert(*device);
                }
            }
        }
    }

    /// The devices, ascending.
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        let (few, many) = match &self.0 {
            Form::Few(few) => (few.as_slice(), None),
            Form::Many(many) => (&[][..], Some(many)),
        };
        few.iter().copied().chain(many.into_iter().flatten())
    }

    /// Memory of the devices beyond the struct itself, bytes. It follows from the set, so decisions may rest on
    /// it; lists that are growing reserve up to as much again.
    pub(crate) fn bytes(&self) -> usize {
        match &self.0 {
            Form::Few(few) if few.len() > few.inline_size() => few.len() * size_of::<u32>(),
            Form::Few(_) => 0,
            Form::Many(many) => {
                // A bitset is 8 KiB, a device in an array two bytes, a container's own record 40.
                let parts = many.statistics();
                parts.n_bitset_containers as usize * 8192
                    + parts.n_values_array_containers as usize * 2
                    + parts.n_containers as usize * 40
            }
        }
    }

    /// Appends the set: its length, then up to 32 devices as distances, more as a bitmap in the standard Roaring
    /// format (with runs, where they are shorter) behind its size; numbers as varints.
    /// Runs are packed (small) or not (quick).
    pub(crate) fn save_as(&self, out: &mut Vec<u8>, small: bool) {
        put_varint(out, self.len());
        match &self.0 {
            Form::Few(few) => {
                let mut next = 0;
                for device in few.iter().map(|d| u64::from(*d)) {
                    put_varint(out, device - next);
                    next = device + 1;
                }
            }
            Form::Many(many) => {
                // A copy, because runs are good on disk only: they make adding slow.
                let packed = small.then(|| {
                    let mut packed = many.clone();
                    packed.optimize();
                    packed
                });
                let many = packed.as_ref().unwrap_or(many);
                put_varint(out, many.serialized_size() as u64);
                // Writing to memory does not fail.
                let _ = many.serialize_into(&mut *out);
            }
        }
    }

    /// Takes what [`Self::save_as`] wrote; none if the bytes are not of that form, or are of more than 2^24 devices.
    pub(crate) fn load(bytes: &mut &[u8]) -> Option<Self> {
        let len = take_varint(bytes)?;
        if len <= FEW_MAX as u64 {
            let mut few = SmallVec::new();
            let mut next = 0u64;
            for _ in 0..len {
                let device = next.checked_add(take_varint(bytes)?)?;
                few.push(u32::try_from(device).ok()?);
                next = device + 1;
            }
            return Some(Self(Form::Few(few)));
        }
        let size = usize::try_from(take_varint(bytes)?).ok()?;
        let mut packed = bytes.split_off(..size)?;
        let mut many = RoaringBitmap::deserialize_from(&mut packed).ok()?;
        if !packed.is_empty() || many.len() != len || len > LOADED_MAX {
            return None;
        }
        many.remove_run_compression();
        Some(Self(Form::Many(many)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn of(devices: impl IntoIterator<Item = u32>) -> DeviceSet {
        let mut set = DeviceSet::default();
        devices.into_iter().for_each(|d| {
            set.insert(d);
        });
        set
    }

    fn saved(set: &DeviceSet) -> Vec<u8> {
        let mut out = Vec::new();
        set.save_as(&mut out, true);
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
                (first..first + len).for_each(|d| {
                    slow.insert(d);
                });
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
            let new = devices.iter().filter(|d| set.insert(**d)).count();
            prop_assert_eq!(new, model.len());
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
    fn six_devices_cost_no_heap_and_a_run_few_bytes_on_disk() {
        assert!(size_of::<DeviceSet>() <= 40);
        assert_eq!(of(0..6).bytes(), 0);
        assert!(of(0..7).bytes() > 0);
        let all = of(0..100_000);
        assert!((16_000..20_000).contains(&all.bytes()), "{}", all.bytes());
        assert!(saved(&all).len() < 40);
    }
}
