//! The agents as bytes: names, a column for each field of the record, the rare parts.

use std::collections::BTreeMap;

use super::super::flat;
use super::super::names::Names;
use super::{AGENTS_MAX, Agents, Hot, PLAIN_MARK, Rare, ranges};

/// Reads the columns in their order into the records that are there already.
macro_rules! columns {
    ($hot:ident, $bytes:ident, $($take:ident $field:ident),+ $(,)?) => {
        $(
            let column = flat::$take($bytes)?;
            if column.len() != $hot.len() {
                return None;
            }
            for (hot, value) in $hot.iter_mut().zip(column) {
                hot.$field = value;
            }
        )+
    };
}

impl Agents {
    /// Appends all agents. The same agents give the same bytes.
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        self.names.save(out);
        let n = self.hot.len();
        let hot = || self.hot.iter();
        flat::put_all(out, n, hot().map(|h| u32::from(h.flags)));
        flat::put_all(out, n, hot().map(|h| h.progress));
        flat::put_all(out, n, hot().map(|h| h.last_contact));
        flat::put_all(out, n, hot().map(|h| h.contact_uptime));
        flat::put_all(out, n, hot().map(|h| h.inc_rand));
        flat::put_all(out, n, hot().map(|h| h.tx_no));
        flat::put_all(out, n, hot().map(|h| h.watermark));
        flat::put_all(out, n, hot().map(|h| h.seen_first));
        flat::put_all(out, n, hot().map(|h| h.seen_last));
        flat::put_all(out, n, hot().map(|h| h.inc_no));
        flat::put_all(out, n, hot().map(|h| h.clock_error));
        flat::put_all(out, n, hot().map(|h| h.offset as u32));
        flat::put_all(out, n, hot().map(|h| h.profile));
        flat::put_all(out, n, hot().map(|h| h.devices));
        flat::put_all(out, n, hot().map(|h| h.first_device));
        flat::put_all(out, n, hot().map(|h| h.newest_join));
        flat::put_u64(out, self.rare.len() as u64);
        for (number, rare) in &self.rare {
            flat::put_u32(out, *number);
            // Writing these types into memory has no way to fail.
            let bytes = postcard::to_allocvec(rare).unwrap_or_default();
            flat::put_bytes(out, &bytes);
        }
    }

    /// Reads [`Self::save`]; none if the bytes are not of that form or contradict each other.
    pub(crate) fn load(bytes: &mut &[u8]) -> Option<Self> {
        let names = Names::load(bytes)?;
        let flags = flat::take_u32s(bytes)?;
        if flags.len() != names.len() || flags.len() > AGENTS_MAX {
            return None;
        }
        let mut hot = Vec::with_capacity(flags.len());
        for flags in flags {
            let mut record = Hot::new(false);
            record.flags = u16::try_from(flags).ok()?;
            hot.push(record);
        }
        columns!(
            hot, bytes,
            take_i64s progress, take_i64s last_contact, take_i64s contact_uptime,
            take_u64s inc_rand, take_u64s tx_no, take_i64s watermark,
            take_u64s seen_first, take_u64s seen_last, take_u32s inc_no, take_u32s clock_error,
        );
        let offsets = flat::take_u32s(bytes)?;
        if offsets.len() != hot.len() {
            return None;
        }
        for (hot, offset) in hot.iter_mut().zip(offsets) {
            hot.offset = offset as i32;
        }
        columns!(
            hot, bytes,
            take_u32s profile, take_u32s devices, take_u32s first_device, take_u32s newest_join,
        );
        let rare = load_rare(bytes)?;
        let mut agents = Self {
            names,
            hot,
            rare,
            ranges: 0,
        };
        agents.ranges = agents.check()?;
        Some(agents)
    }

    /// The number of ranges, if records, names and rare parts agree.
    fn check(&self) -> Option<usize> {
        let mut sum = 0usize;
        let mut marked = 0usize;
        for (number, hot) in (0u32..).zip(&self.hot) {
            let rare = self.rare(number);
            let more = rare.and_then(|r| r.more.as_ref());
            let older = |m: &super::rare::More| match (hot.life(), m.lives.last()) {
                (Some(inline), Some(last)) => last.incarnation < inline,
                _ => true,
            };
            let agree = hot.has_rare() == rare.is_some()
                && hot.has_more() == more.is_some()
                && more.is_none_or(|m| older(m))
                && hot.plain() == self.names.get(number).starts_with(PLAIN_MARK);
            if !agree || !hot.sound() {
                return None;
            }
            marked += usize::from(hot.has_rare());
            sum = sum.checked_add(ranges(hot, rare))?;
        }
        (marked == self.rare.len()).then_some(sum)
    }
}

fn load_rare(bytes: &mut &[u8]) -> Option<BTreeMap<u32, Rare>> {
    let mut list: Vec<(u32, Rare)> = Vec::new();
    for _ in 0..flat::take_u64(bytes)? {
        let number = flat::take_u32(bytes)?;
        let rare: Rare = postcard::from_bytes(flat::take_bytes(bytes)?).ok()?;
        let ascending = list.last().is_none_or(|l| l.0 < number);
        if !ascending || rare.is_empty() || !rare.sound() {
            return None;
        }
        list.push((number, rare));
    }
    Some(list.into_iter().collect())
}
