//! The agents as bytes: names, records, the rare parts.

use std::collections::BTreeMap;

use super::super::flat;
use super::super::names::Names;
use super::{AGENTS_MAX, Agents, Hot, PLAIN_MARK, Rare, ranges};

impl Agents {
    /// Appends all agents. The same agents give the same bytes.
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        self.names.save(out);
        flat::put_rows(out, self.hot.iter().copied().map(Hot::to_bytes));
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
        let rows = flat::take_rows(bytes)?;
        if rows.len() != names.len() || rows.len() > AGENTS_MAX {
            return None;
        }
        let hot = rows.iter().map(Hot::from_bytes).collect::<Option<_>>()?;
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
