//! Text values and attribute values, each held once however many series have it.

use std::sync::Arc;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::flat;

/// Counted texts with dense numbers. A number is given out again once nobody has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Texts {
    slots: Vec<(Arc<str>, u32)>,
    /// Numbers to give out again, the newest first.
    free: Vec<u32>,
    table: HashTable<u32>,
}

impl Texts {
    /// The text of a number that is held.
    pub(crate) fn get(&self, number: u32) -> &Arc<str> {
        &self.slots[number as usize].0
    }

    /// The number of a text if anybody holds it.
    pub(crate) fn find(&self, text: &str) -> Option<u32> {
        let hash = xxh3_64(text.as_bytes());
        self.table
            .find(hash, |n| *self.slots[*n as usize].0 == *text)
            .copied()
    }

    /// The number of a text, held once more.
    pub(crate) fn hold(&mut self, text: &str) -> u32 {
        if let Some(number) = self.find(text) {
            self.slots[number as usize].1 += 1;
            return number;
        }
        let slot = (Arc::from(text), 1);
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = slot;
                number
            }
            None => {
                self.slots.push(slot);
                self.slots.len() as u32 - 1
            }
        };
        let slots = &self.slots;
        self.table
            .insert_unique(xxh3_64(text.as_bytes()), number, |n| {
                xxh3_64(slots[*n as usize].0.as_bytes())
            });
        number
    }

    /// Holds a number once more.
    pub(crate) fn hold_again(&mut self, number: u32) {
        self.slots[number as usize].1 += 1;
    }

    /// Lets go of a number once.
    pub(crate) fn release(&mut self, number: u32) {
        let (text, holders) = &mut self.slots[number as usize];
        *holders -= 1;
        if *holders > 0 {
            return;
        }
        let text = std::mem::replace(text, Arc::from(""));
        let hash = xxh3_64(text.as_bytes());
        if let Ok(entry) = self.table.find_entry(hash, |n| *n == number) {
            entry.remove();
        }
        self.free.push(number);
    }

    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        flat::put_len(out, self.slots.len());
        for (text, holders) in &self.slots {
            flat::put_u32(out, *holders);
            flat::put_bytes(out, text.as_bytes());
        }
        flat::put_u32s(out, &self.free);
    }

    /// Reads [`Self::save`]; none if the bytes are not of that form or contradict each other.
    pub(crate) fn load(bytes: &mut &[u8]) -> Option<Self> {
        let len = usize::try_from(flat::take_u64(bytes)?).ok()?;
        // Each takes twelve bytes at least: checked before anything is reserved.
        if len > bytes.len() / 12 {
            return None;
        }
        let mut texts = Self::default();
        let mut held = 0;
        for number in 0..len {
            let holders = flat::take_u32(bytes)?;
            let text = std::str::from_utf8(flat::take_bytes(bytes)?).ok()?;
            if holders > 0 {
                held += 1;
                if texts.find(text).is_some() {
                    return None;
                }
            }
            texts.slots.push((Arc::from(text), holders));
            if holders > 0 {
                let slots = &texts.slots;
                texts
                    .table
                    .insert_unique(xxh3_64(text.as_bytes()), number as u32, |n| {
                        xxh3_64(slots[*n as usize].0.as_bytes())
                    });
            }
        }
        texts.free = flat::take_u32s(bytes)?;
        // What nobody holds is free, once.
        let mut free = texts.free.clone();
        free.sort_unstable();
        free.dedup();
        let fits = |n: &u32| texts.slots.get(*n as usize).is_some_and(|slot| slot.1 == 0);
        (free.len() == texts.free.len() && held + free.len() == len && free.iter().all(fits))
            .then_some(texts)
    }

    /// Whether each number is held as often as `holders` says.
    pub(crate) fn are_held(&self, holders: &[u32]) -> bool {
        self.slots
            .iter()
            .map(|slot| slot.1)
            .eq(holders.iter().copied())
    }

    /// How many numbers there are, free ones included.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_lives_as_long_as_somebody_holds_it() {
        let mut t = Texts::default();
        let (a, b) = (t.hold("a"), t.hold("b"));
        assert_eq!(t.hold("a"), a);
        t.release(a);
        assert_eq!(t.find("a"), Some(a));
        t.release(a);
        assert_eq!(t.find("a"), None);
        assert_eq!(t.hold("c"), a, "given out again");
        let mut bytes = Vec::new();
        t.save(&mut bytes);
        let back = Texts::load(&mut bytes.as_slice()).unwrap();
        assert_eq!((back.find("c"), back.find("b")), (Some(a), Some(b)));
    }
}
