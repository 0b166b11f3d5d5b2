//! A dictionary of names with dense numbers: one arena of text, one table of numbers.
//!
//! A map of owned strings costs three times its text. Here a name is its bytes in the arena, the place where
//! they end, and five bytes in the table; the hash is computed again when the table grows.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use xxhash_rust::xxh3::xxh3_64;

/// Arena bytes at most: ends are held in 32 bits.
const BYTES_MAX: usize = u32::MAX as usize;

/// Names numbered from 0 in the order of their insertion. Nothing is forgotten.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    text: Vec<u8>,
    ends: Vec<u32>,
    table: HashTable<u32>,
}

fn slice<'a>(text: &'a [u8], ends: &[u32], number: u32) -> &'a [u8] {
    let n = number as usize;
    let start = n.checked_sub(1).map_or(0, |p| ends[p] as usize);
    &text[start..ends[n] as usize]
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
        let hash = xxh3_64(name.as_bytes());
        let same = |n: &u32| slice(&self.text, &self.ends, *n) == name.as_bytes();
        self.table.find(hash, same).copied()
    }

    /// Adds a name that is not there yet; none if the arena is full.
    pub(crate) fn insert(&mut self, name: &str) -> Option<u32> {
        if self.text.len() + name.len() > BYTES_MAX || self.ends.len() >= u32::MAX as usize - 2 {
            return None;
        }
        let number = self.ends.len() as u32;
        grow(&mut self.text, name.len());
        self.text.extend_from_slice(name.as_bytes());
        grow(&mut self.ends, 1);
        self.ends.push(self.text.len() as u32);
        let (text, ends) = (&self.text, &self.ends);
        self.table
            .insert_unique(xxh3_64(name.as_bytes()), number, |&n| {
                xxh3_64(slice(text, ends, n))
            });
        Some(number)
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
        let mut names = Self {
            text,
            ends,
            table: HashTable::new(),
        };
        let (text, ends) = (&names.text, &names.ends);
        let mut table = HashTable::with_capacity(ends.len());
        for number in 0..ends.len() as u32 {
            let name = slice(text, ends, number);
            std::str::from_utf8(name).ok()?;
            let same = |n: &u32| slice(text, ends, *n) == name;
            match table.entry(xxh3_64(name), same, |&n| xxh3_64(slice(text, ends, n))) {
                Entry::Vacant(place) => place.insert(number),
                Entry::Occupied(_) => return None,
            };
        }
        names.table = table;
        Some(names)
    }

    /// Memory, bytes.
    pub(crate) fn memory(&self) -> usize {
        self.text.capacity() + self.ends.capacity() * 4 + self.table.allocation_size()
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
        for cut in 0..50 {
            assert!(Names::load(&mut &bytes[..cut]).is_none());
        }
        let mut twice = bytes.clone();
        let at = twice.len() - "dev-4999".len();
        twice[at..].copy_from_slice(b"dev-4998");
        assert!(Names::load(&mut twice.as_slice()).is_none(), "twice");
    }
}
