//! A dictionary of names with dense numbers: one arena of text, one table of numbers.
//!
//! A map of owned strings costs three times its text. Here a name is its bytes in the arena, its length (of
//! sixteen names the place of the first), and a little more than five bytes in the table; the hash is computed
//! again when the table grows.
//!
//! The table is open addressing with linear probing. It grows by a sixth, not to the next power of two: of
//! millions of names that would be up to nine bytes each.

use xxhash_rust::xxh3::xxh3_64;

/// Arena bytes at most: places are held in 32 bits.
const BYTES_MAX: usize = u32::MAX as usize;
/// A length is held in 8 bits: ids are at most 128 bytes, and one more where a mark is put before them.
const _: () = assert!(event::id::ID_BYTES_MAX < u8::MAX as usize);
/// Names whose first one has a place of its own; of the others it is the sum of the lengths before.
const STRIDE: usize = 16;
/// A slot holds a number in so many bits, and above it as much of the hash as there is room for, so that hardly
/// ever a wrong name is looked at.
const NUMBER_BITS: u32 = 22;
const NUMBER: u32 = (1 << NUMBER_BITS) - 1;
/// Most names. The last number is left out because with a hash of ones it would be [`VACANT`].
const NAMES_MAX: usize = NUMBER as usize;
const _: () = assert!(super::registry::DEVICES_MAX <= NAMES_MAX);
/// A slot without a number.
const VACANT: u32 = u32::MAX;
/// Slots at least.
const SLOTS_MIN: usize = 16;

/// Names numbered from 0 in the order of their insertion. Nothing is forgotten.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    text: Vec<u8>,
    /// By name: its length in bytes.
    lengths: Vec<u8>,
    /// By [`STRIDE`] names: where the first one begins.
    places: Vec<u32>,
    /// At most five sixths are taken, so a search always ends at a vacant one.
    slots: Vec<u32>,
}

/// The part of the hash that is in a slot.
#[inline]
fn tag_of(hash: u64) -> u32 {
    (hash as u32) << NUMBER_BITS
}

/// Where the search begins: the hash as a fraction of the table (Lemire, "Fast random integer generation in an
/// interval", 2019).
#[inline]
fn place_of(hash: u64, slots: usize) -> usize {
    ((u128::from(hash) * slots as u128) >> 64) as usize
}

/// Puts a number that is not there into the first vacant slot from its place on.
fn take_vacant(slots: &mut [u32], hash: u64, number: u32) {
    let from = place_of(hash, slots.len());
    let (before, after) = slots.split_at_mut(from);
    let vacant = after.iter_mut().chain(before).find(|s| **s == VACANT);
    if let Some(slot) = vacant {
        *slot = tag_of(hash) | number;
    }
}

/// Makes room for one more without doubling: a table of millions must not reserve as much again.
pub(crate) fn grow<T>(list: &mut Vec<T>, more: usize) {
    if list.capacity() - list.len() < more {
        list.reserve_exact(more.max(list.len() / 64).max(64));
    }
}

impl Names {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.lengths.len()
    }

    /// The name of a number that was given out.
    #[inline]
    pub(crate) fn get(&self, number: u32) -> &str {
        // Only whole names of type `str` went in.
        std::str::from_utf8(self.bytes(number)).unwrap_or_default()
    }

    /// Fetches where a name lies.
    #[inline]
    pub(crate) fn touch(&self, number: u32) -> u32 {
        u32::from(self.lengths[number as usize]) ^ self.places[number as usize / STRIDE]
    }

    /// The bytes of that name.
    #[inline]
    pub(crate) fn bytes(&self, number: u32) -> &[u8] {
        let n = number as usize;
        let before = &self.lengths[n / STRIDE * STRIDE..n];
        let from = self.places[n / STRIDE] as usize
            + before.iter().map(|l| usize::from(*l)).sum::<usize>();
        &self.text[from..from + usize::from(self.lengths[n])]
    }

    /// Whether `number` exists and has this name: a guess costs no look into the table.
    #[inline]
    pub(crate) fn is(&self, number: u32, name: &str) -> bool {
        (number as usize) < self.lengths.len() && self.bytes(number) == name.as_bytes()
    }

    /// The number of a name.
    #[inline]
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.search(xxh3_64(name.as_bytes()), name.as_bytes()).ok()
    }

    /// The number of a name, or the vacant slot where it would be.
    #[inline]
    fn search(&self, hash: u64, name: &[u8]) -> Result<u32, usize> {
        let tag = tag_of(hash);
        let mut at = place_of(hash, self.slots.len());
        while let Some(&slot) = self.slots.get(at) {
            if slot == VACANT {
                return Err(at);
            }
            if slot & !NUMBER == tag && self.bytes(slot & NUMBER) == name {
                return Ok(slot & NUMBER);
            }
            at += 1;
            if at == self.slots.len() {
                at = 0;
            }
        }
        Err(at)
    }

    /// Adds a name that is not there yet; none if there is no room, or it is longer than any id.
    pub(crate) fn insert(&mut self, name: &str) -> Option<u32> {
        let length = u8::try_from(name.len()).ok()?;
        if self.text.len() + name.len() > BYTES_MAX || self.lengths.len() >= NAMES_MAX {
            return None;
        }
        let number = self.lengths.len() as u32;
        self.push(length);
        grow(&mut self.text, name.len());
        self.text.extend_from_slice(name.as_bytes());
        if self.lengths.len() > self.slots.len() / 6 * 5 {
            self.slots = self.slots_for(self.slots.len() + self.slots.len() / 6);
        } else {
            let hash = xxh3_64(name.as_bytes());
            take_vacant(&mut self.slots, hash, number);
        }
        Some(number)
    }

    /// The next name is so long; its bytes follow.
    fn push(&mut self, length: u8) {
        if self.lengths.len().is_multiple_of(STRIDE) {
            grow(&mut self.places, 1);
            self.places.push(self.text.len() as u32);
        }
        grow(&mut self.lengths, 1);
        self.lengths.push(length);
    }

    /// A table of `len` slots, or of a few more, with all names in it.
    fn slots_for(&self, len: usize) -> Vec<u32> {
        let len = len.max(self.lengths.len() / 5 * 6 + 6).max(SLOTS_MIN);
        let mut slots = vec![VACANT; len];
        for number in 0..self.lengths.len() as u32 {
            take_vacant(&mut slots, xxh3_64(self.bytes(number)), number);
        }
        slots
    }

    /// Adds the names as flat columns.
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        super::flat::put_bytes(out, &self.lengths);
        super::flat::put_bytes(out, &self.text);
    }

    /// Reads [`Self::save`]; none if the bytes are not of that form, or a name is there twice.
    pub(crate) fn load(bytes: &mut &[u8]) -> Option<Self> {
        let lengths = super::flat::take_bytes(bytes)?;
        let text = super::flat::take_bytes(bytes)?;
        let sum: usize = lengths.iter().map(|l| usize::from(*l)).sum();
        if lengths.len() > NAMES_MAX || sum != text.len() || sum > BYTES_MAX {
            return None;
        }
        let mut names = Self {
            text: Vec::with_capacity(text.len()),
            lengths: Vec::with_capacity(lengths.len()),
            places: Vec::with_capacity(lengths.len().div_ceil(STRIDE)),
            slots: vec![VACANT; lengths.len() / 10 * 13 + SLOTS_MIN],
        };
        let mut rest = text;
        for (number, &length) in (0..).zip(lengths) {
            let name = rest.split_off(..usize::from(length))?;
            std::str::from_utf8(name).ok()?;
            let hash = xxh3_64(name);
            let Err(at) = names.search(hash, name) else {
                return None;
            };
            names.push(length);
            names.text.extend_from_slice(name);
            names.slots[at] = tag_of(hash) | number;
        }
        Some(names)
    }

    /// Memory, bytes.
    pub(crate) fn memory(&self) -> usize {
        self.text.capacity()
            + self.lengths.capacity()
            + (self.places.capacity() + self.slots.capacity()) * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_number_and_text_and_read_back() {
        let mut names = Names::default();
        for i in 0..5000 {
            assert_eq!(names.insert(&format!("dev-{i}")), Some(i));
        }
        let mut bytes = Vec::new();
        names.save(&mut bytes);
        let back = Names::load(&mut bytes.as_slice()).unwrap();
        for i in 0..5000 {
            let name = format!("dev-{i}");
            assert_eq!(back.find(&name), Some(i));
            assert_eq!(back.get(i), name);
            assert!(back.is(i, &name) && !back.is(i + 1, &name));
        }
        assert_eq!(back.find("dev-"), None);
        for n in [&names, &back] {
            let taken = n.slots.iter().filter(|s| **s != VACANT).count();
            assert_eq!(taken, 5000);
            assert!(taken * 6 <= n.slots.len() * 5, "{}", n.slots.len());
        }
        assert!(
            names.memory() < 5000 * (8 + 4 + 6) + 5000,
            "{}",
            names.memory()
        );
        for cut in 0..50 {
            assert!(Names::load(&mut &bytes[..cut]).is_none());
        }
        let mut twice = bytes.clone();
        let at = twice.len() - "dev-4999".len();
        twice[at..].copy_from_slice(b"dev-4998");
        assert!(Names::load(&mut twice.as_slice()).is_none(), "twice");
    }

    #[test]
    fn an_empty_dictionary_has_no_names() {
        assert_eq!(Names::default().find(""), None);
        let mut names = Names::default();
        assert_eq!(names.insert(""), Some(0));
        assert_eq!(names.insert("a"), Some(1));
        assert_eq!((names.find(""), names.find("a")), (Some(0), Some(1)));
        assert_eq!(names.find("b"), None);
        let longest = "x".repeat(usize::from(u8::MAX));
        assert_eq!(names.insert(&longest), Some(2));
        assert_eq!(names.find(&longest), Some(2));
        assert_eq!(names.insert(&format!("{longest}x")), None);
    }
}
