//! A dictionary of names with dense numbers: one arena of text, one table of numbers.
//!
//! A map of owned strings costs three times its text. Here a name is its bytes in the arena, the place where
//! they end, and a little more than five bytes in the table; the hash is computed again when the table grows.
//!
//! The table is open addressing with linear probing. It grows by a sixth, not to the next power of two: of
//! millions of names that would be up to nine bytes each.

use xxhash_rust::xxh3::xxh3_64;

/// Arena bytes at most: ends are held in 32 bits.
const BYTES_MAX: usize = u32::MAX as usize;
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
    ends: Vec<u32>,
    /// At most five sixths are taken, so a search always ends at a vacant one.
    slots: Vec<u32>,
}

fn slice<'a>(text: &'a [u8], ends: &[u32], number: u32) -> &'a [u8] {
    let n = number as usize;
    let start = n.checked_sub(1).map_or(0, |p| ends[p] as usize);
    &text[start..ends[n] as usize]
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
        list.reserve_exact(more.max(list.len() / 24).max(64));
    }
}

impl Names {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
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
        self.ends[number as usize]
    }

    /// The bytes of that name.
    #[inline]
    pub(crate) fn bytes(&self, number: u32) -> &[u8] {
        slice(&self.text, &self.ends, number)
    }

    /// Whether `number` exists and has this name: a guess costs no look into the table.
    #[inline]
    pub(crate) fn is(&self, number: u32, name: &str) -> bool {
        (number as usize) < self.ends.len() && self.bytes(number) == name.as_bytes()
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

    /// Adds a name that is not there yet; none if there is no room.
    pub(crate) fn insert(&mut self, name: &str) -> Option<u32> {
        if self.text.len() + name.len() > BYTES_MAX || self.ends.len() >= NAMES_MAX {
            return None;
        }
        let number = self.ends.len() as u32;
        grow(&mut self.text, name.len());
        self.text.extend_from_slice(name.as_bytes());
        grow(&mut self.ends, 1);
        self.ends.push(self.text.len() as u32);
        if self.ends.len() > self.slots.len() / 6 * 5 {
            self.slots = self.slots_for(self.slots.len() + self.slots.len() / 6);
        } else {
            let hash = xxh3_64(name.as_bytes());
            take_vacant(&mut self.slots, hash, number);
        }
        Some(number)
    }

    /// A table of `len` slots, or of a few more, with all names in it.
    fn slots_for(&self, len: usize) -> Vec<u32> {
        let len = len.max(self.ends.len() / 5 * 6 + 6).max(SLOTS_MIN);
        let mut slots = vec![VACANT; len];
        for number in 0..self.ends.len() as u32 {
            take_vacant(&mut slots, xxh3_64(self.bytes(number)), number);
        }
        slots
    }

    /// Adds the names as flat columns.
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        super::flat::put_u32s(out, &self.ends);
        super::flat::put_bytes(out, &self.text);
    }

    /// Reads [`Self::save`]; none if the bytes are not of that form, or a name is there twice.
    pub(crate) fn load(bytes: &mut &[u8]) -> Option<Self> {
        let ends = super::flat::take_u32s(bytes)?;
        let text = super::flat::take_bytes(bytes)?.to_vec();
        let sorted = ends.windows(2).all(|w| w[0] <= w[1]);
        if !sorted || ends.last().map_or(0, |e| *e as usize) != text.len() {
            return None;
        }
        if ends.len() > NAMES_MAX {
            return None;
        }
        let mut names = Self {
            text,
            ends,
            slots: Vec::new(),
        };
        names.slots = vec![VACANT; names.ends.len() / 10 * 13 + SLOTS_MIN];
        for number in 0..names.ends.len() as u32 {
            let name = names.bytes(number);
            std::str::from_utf8(name).ok()?;
            let hash = xxh3_64(name);
            match names.search(hash, name) {
                Ok(_) => return None,
                Err(at) => names.slots[at] = tag_of(hash) | number,
            }
        }
        Some(names)
    }

    /// Memory, bytes.
    pub(crate) fn memory(&self) -> usize {
        self.text.capacity() + (self.ends.capacity() + self.slots.capacity()) * 4
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
    }
}
