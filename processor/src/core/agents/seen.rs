//! Looking into sets of seqs, and how they are saved.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::super::intervals::IntervalSet;

/// The ranges of a set, ascending: what lies between its complement.
pub(super) fn ranges(set: &IntervalSet) -> Vec<(u64, u64)> {
    let mut out = Vec::with_capacity(set.len());
    let mut from = 1;
    for (a, b) in set.missing(1, u64::MAX - 1) {
        if a > from {
            out.push((from, a - 1));
        }
        from = b + 1;
    }
    if from < u64::MAX {
        out.push((from, u64::MAX - 1));
    }
    out
}

/// The set as one range; (0, 0) if it is empty, none if it has holes.
pub(super) fn single(set: &IntervalSet) -> Option<(u64, u64)> {
    match set.len() {
        0 => Some((0, 0)),
        1 => ranges(set).first().copied(),
        _ => None,
    }
}

/// The greatest number of the set; 0 if it is empty.
pub(super) fn highest(set: &IntervalSet) -> u64 {
    match (set.len(), set.missing(1, u64::MAX - 1).last()) {
        (0, _) => 0,
        (_, Some(&(a, b))) if b == u64::MAX - 1 => a - 1,
        _ => u64::MAX - 1,
    }
}

/// A set as its ranges; reading checks what the set relies on.
pub(super) fn serialize<S: Serializer>(set: &IntervalSet, to: S) -> Result<S::Ok, S::Error> {
    ranges(set).serialize(to)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<IntervalSet, D::Error> {
    let mut set = IntervalSet::default();
    let mut end = None;
    for (first, last) in Vec::<(u64, u64)>::deserialize(from)? {
        let apart = end.is_none_or(|end: u64| first.saturating_sub(end) > 1);
        if first == 0 || first > last || last == u64::MAX || !apart {
            return Err(D::Error::custom("ranges that are not ascending and apart"));
        }
        set.insert(first, last);
        end = Some(last);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_seen_through_its_complement() {
        let mut set = IntervalSet::default();
        assert_eq!((single(&set), highest(&set)), (Some((0, 0)), 0));
        assert!(ranges(&set).is_empty());
        set.insert(3, 9);
        assert_eq!((single(&set), highest(&set)), (Some((3, 9)), 9));
        set.insert(1, 1);
        set.insert(u64::MAX - 1, u64::MAX - 1);
        assert_eq!((single(&set), highest(&set)), (None, u64::MAX - 1));
        assert_eq!(ranges(&set), [(1, 1), (3, 9), (u64::MAX - 1, u64::MAX - 1)]);
    }
}
