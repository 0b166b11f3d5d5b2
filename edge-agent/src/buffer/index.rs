//! What is held, in memory: one small entry per chunk, so that the uplink can choose what to send
//! and the low watermark can be read without touching the file.
//!
//! About 70 bytes per chunk of up to 1,000 events.

use std::collections::{BTreeMap, BTreeSet};

use event::{EventTime, Incarnation, SeqRange};

/// Where a chunk is: the incarnation of its events and the number of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChunkKey {
    pub inc: Incarnation,
    pub first: u64,
}

/// A place in the order of storing: before the event with this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Incarnation of the event.
    pub incarnation: Incarnation,
    /// Its number.
    pub seq: u64,
}

/// What the events of a chunk are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As they were taken in.
    Raw,
    /// What is left of raw ones that the buffer had no room for ([`super::overflow`]).
    Summary,
    /// Faults: they go last.
    Fault,
    /// Raw ones with faults among them: the chunk says which.
    Mixed,
}

impl Kind {
    /// Its number in the file.
    pub fn code(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Summary => 1,
            Self::Fault => 2,
            Self::Mixed => 3,
        }
    }

    /// Whether there are events in it as they were taken in that are no faults.
    pub fn has_raw(self) -> bool {
        matches!(self, Self::Raw | Self::Mixed)
    }

    /// The one with this number in the file, if there is one.
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Raw, Self::Summary, Self::Fault, Self::Mixed]
            .into_iter()
            .find(|kind| kind.code() == code)
    }
}

/// What is known of a chunk without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkMeta {
    pub count: u32,
    pub bytes: u32,
    pub min_time: EventTime,
    pub max_time: EventTime,
    /// When the last event of it was stored, in seconds since 1970 by the agent's clock; 0 = under a
    /// clock that was not to be trusted.
    pub stored: u32,
    pub kind: Kind,
}

impl ChunkKey {
    pub fn last(&self, meta: &ChunkMeta) -> u64 {
        self.first + u64::from(meta.count) - 1
    }
}

/// All chunks that are held.
#[derive(Debug, Default)]
pub(crate) struct Index {
    lives: BTreeMap<Incarnation, BTreeMap<u64, ChunkMeta>>,
    /// How many chunks have which earliest time.
    times: BTreeMap<EventTime, u32>,
    /// Those that are not raw, of which there are few.
    summaries: BTreeSet<ChunkKey>,
    faults: BTreeSet<ChunkKey>,
    /// No raw or mixed chunk lies before this: finding the oldest need not begin at the beginning. None = there
    /// is none at all.
    raw_from: Option<ChunkKey>,
    events: u64,
    bytes: u64,
    summary_bytes: u64,
}

impl Index {
    /// Adds a chunk. One with the same key is replaced.
    pub fn insert(&mut self, key: ChunkKey, meta: ChunkMeta) {
        self.remove(key);
        self.lives
            .entry(key.inc)
            .or_default()
            .insert(key.first, meta);
        *self.times.entry(meta.min_time).or_default() += 1;
        self.events += u64::from(meta.count);
        self.bytes += u64::from(meta.bytes);
        match meta.kind {
            Kind::Raw | Kind::Mixed => {
                self.raw_from = Some(self.raw_from.map_or(key, |from| from.min(key)))
            }
            Kind::Fault => drop(self.faults.insert(key)),
            Kind::Summary => {
                self.summaries.insert(key);
                self.summary_bytes += u64::from(meta.bytes);
            }
        }
    }

    pub fn remove(&mut self, key: ChunkKey) -> Option<ChunkMeta> {
        let life = self.lives.get_mut(&key.inc)?;
        let meta = life.remove(&key.first)?;
        if life.is_empty() {
            self.lives.remove(&key.inc);
        }
        if let Some(n) = self.times.get_mut(&meta.min_time) {
            *n -= 1;
            if *n == 0 {
                self.times.remove(&meta.min_time);
            }
        }
        self.events -= u64::from(meta.count);
        self.bytes -= u64::from(meta.bytes);
        match meta.kind {
            Kind::Raw | Kind::Mixed => {}
            Kind::Fault => drop(self.faults.remove(&key)),
            Kind::Summary => {
                self.summaries.remove(&key);
                self.summary_bytes -= u64::from(meta.bytes);
            }
        }
        Some(meta)
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn holds_any(&self, inc: Incarnation) -> bool {
        self.lives.contains_key(&inc)
    }

    /// Bytes of all summaries.
    pub fn summary_bytes(&self) -> u64 {
        self.summary_bytes
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> usize {
        self.lives.values().map(BTreeMap::len).sum()
    }

    /// The chunk of this kind that was stored first; raw and mixed ones are one kind here.
    pub fn oldest_of(&mut self, kind: Kind) -> Option<(ChunkKey, ChunkMeta)> {
        let key = match kind {
            Kind::Summary => *self.summaries.first()?,
            Kind::Fault => *self.faults.first()?,
            Kind::Raw | Kind::Mixed => {
                let oldest = self.raw_since(self.raw_from?).next();
                self.raw_from = oldest.map(|(key, _)| key);
                return oldest;
            }
        };
        let meta = self.lives.get(&key.inc)?.get(&key.first)?;
        Some((key, *meta))
    }

    /// The raw and mixed chunks from this place on, in the order of storing.
    pub fn raw_since(&self, from: ChunkKey) -> impl Iterator<Item = (ChunkKey, ChunkMeta)> {
        self.lives
            .range(from.inc..)
            .flat_map(move |(&inc, life)| {
                let first = if inc == from.inc { from.first } else { 0 };
                let chunk = move |(&first, &meta)| (ChunkKey { inc, first }, meta);
                life.range(first..).map(chunk)
            })
            .filter(|(_, meta)| meta.kind.has_raw())
    }

    /// All chunks, in the order of storing.
    #[cfg(test)]
    pub fn all(&self) -> impl Iterator<Item = (ChunkKey, ChunkMeta)> {
        let chunk = |inc| move |(&first, &meta)| (ChunkKey { inc, first }, meta);
        self.lives
            .iter()
            .flat_map(move |(&inc, life)| life.iter().map(chunk(inc)))
    }

    /// Whether a chunk begins there.
    #[cfg(test)]
    pub fn has(&self, key: ChunkKey) -> bool {
        let life = self.lives.get(&key.inc);
        life.is_some_and(|life| life.contains_key(&key.first))
    }

    /// The last chunk of an incarnation.
    #[cfg(test)]
    pub fn newest(&self, inc: Incarnation) -> Option<(ChunkKey, ChunkMeta)> {
        let (&first, &meta) = self.lives.get(&inc)?.last_key_value()?;
        Some((ChunkKey { inc, first }, meta))
    }

    /// The chunks that share a number with `range`, in order.
    pub fn overlapping(&self, range: SeqRange) -> impl Iterator<Item = (ChunkKey, ChunkMeta)> {
        let inc = range.incarnation;
        self.lives.get(&inc).into_iter().flat_map(move |life| {
            // Chunks do not overlap each other, so at most one that begins earlier reaches in.
            let from = life
                .range(..=range.first)
                .next_back()
                .filter(|(first, meta)| **first + u64::from(meta.count) > range.first)
                .map_or(range.first, |(first, _)| *first);
            // An empty or inverted range has no chunks (BTreeMap::range would panic on it).
            let to = if range.last < from {
                None
            } else {
                Some(range.last)
            };
            to.into_iter()
                .flat_map(move |to| life.range(from..=to))
                .map(move |(&first, &meta)| (ChunkKey { inc, first }, meta))
        })
    }

    /// The earliest time of any chunk, leaving out `chunks`.
    pub fn min_time_without(&self, chunks: &[(ChunkKey, ChunkMeta)]) -> Option<EventTime> {
        self.times
            .iter()
            .find(|(time, n)| {
                let left_out = chunks.iter().filter(|(_, m)| m.min_time == **time).count();
                **n as usize > left_out
            })
            .map(|(time, _)| *time)
    }

    /// The next run of held events to send, oldest first, of what was stored before `end` (all of the
    /// other incarnations, and the numbers below it of its own): at most `events_max` consecutive
    /// numbers of one incarnation, none of them in `excluding`.
    pub fn next_before(
        &self,
        end: Position,
        excluding: &[SeqRange],
        events_max: u64,
    ) -> Option<SeqRange> {
        self.lives.iter().find_map(|(&inc, life)| {
            let end = if inc == end.incarnation {
                end.seq
            } else {
                u64::MAX
            };
            let chunks = life.range(..end).map(|(&first, m)| {
                let last = first + u64::from(m.count) - 1;
                (first, last.min(end - 1))
            });
            first_run(inc, chunks, excluding, events_max)
        })
    }

    /// The same of what was stored from `start` on.
    pub fn next_since(
        &self,
        start: Position,
        excluding: &[SeqRange],
        events_max: u64,
    ) -> Option<SeqRange> {
        let inc = start.incarnation;
        let all = SeqRange {
            incarnation: inc,
            first: start.seq,
            last: u64::MAX,
        };
        let chunks = self
            .overlapping(all)
            .map(|(key, meta)| (key.first.max(start.seq), key.last(&meta)));
        first_run(inc, chunks, excluding, events_max)
    }
}

/// The first run in `chunks` (first and last numbers, in order) that is not in `excluding`.
fn first_run(
    incarnation: Incarnation,
    mut chunks: impl Iterator<Item = (u64, u64)>,
    excluding: &[SeqRange],
    events_max: u64,
) -> Option<SeqRange> {
    let taken: Vec<&SeqRange> = excluding
        .iter()
        .filter(|r| r.incarnation == incarnation)
        .collect();
    let free_from = |mut seq: u64| {
        while let Some(r) = taken.iter().find(|r| r.first <= seq && seq <= r.last) {
            seq = r.last.checked_add(1)?;
        }
        Some(seq)
    };
    let (start, mut end) = chunks.by_ref().find_map(|(first, last)| {
        free_from(first)
            .filter(|&seq| seq <= last)
            .map(|seq| (seq, last))
    })?;
    let most = start.saturating_add(events_max.max(1) - 1);
    for (first, last) in chunks {
        if first != end + 1 || end >= most {
            break;
        }
        end = last;
    }
    let before_next = taken.iter().map(|r| r.first).filter(|&f| f > start).min();
    Some(SeqRange {
        incarnation,
        first: start,
        last: end.min(most).min(before_next.map_or(u64::MAX, |f| f - 1)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Incarnation = Incarnation { no: 1, rand: 5 };
    const B: Incarnation = Incarnation { no: 2, rand: 1 };

    fn meta(count: u32, min: i64) -> ChunkMeta {
        ChunkMeta {
            count,
            bytes: 10,
            min_time: EventTime(min),
            max_time: EventTime(min + 9),
            stored: 0,
            kind: Kind::Raw,
        }
    }

    fn range(incarnation: Incarnation, first: u64, last: u64) -> SeqRange {
        SeqRange {
            incarnation,
            first,
            last,
        }
    }

    fn index() -> Index {
        let mut index = Index::default();
        index.insert(ChunkKey { inc: A, first: 5 }, meta(5, 100)); // 5..=9
        index.insert(ChunkKey { inc: A, first: 10 }, meta(10, 50)); // 10..=19
        index.insert(ChunkKey { inc: A, first: 30 }, meta(1, 50)); // 30
        index.insert(ChunkKey { inc: B, first: 1 }, meta(3, 300)); // 1..=3
        index
    }

    #[track_caller]
    fn check(excluding: &[SeqRange], max: u64, expected: Option<SeqRange>) {
        let end = at(B, 4);
        assert_eq!(index().next_before(end, excluding, max), expected);
    }

    fn at(incarnation: Incarnation, seq: u64) -> Position {
        Position { incarnation, seq }
    }

    #[test]
    fn next_runs_over_chunks_and_stops_at_holes_limits_and_what_is_in_flight() {
        check(&[], 100, Some(range(A, 5, 19)));
        check(&[], 8, Some(range(A, 5, 12)));
        check(&[range(A, 5, 12)], 100, Some(range(A, 13, 19)));
        check(&[range(A, 8, 12)], 100, Some(range(A, 5, 7)));
        check(
            &[range(A, 1, 6), range(A, 7, 19)],
            100,
            Some(range(A, 30, 30)),
        );
        check(&[range(A, 1, 40)], 100, Some(range(B, 1, 3)));
        check(&[range(A, 1, 40), range(B, 1, 3)], 100, None);
        check(
            &[range(A, 12, u64::MAX), range(A, 5, 11)],
            2,
            Some(range(B, 1, 2)),
        );
    }

    #[test]
    fn next_before_and_next_since_share_everything_between_them() {
        let index = index();
        for (place, before, since) in [
            // In the middle of a chunk; what follows in other incarnations is before it, too.
            (
                at(A, 15),
                [(A, 5, 14), (B, 1, 3)].as_slice(),
                [(A, 15, 19), (A, 30, 30)].as_slice(),
            ),
            (at(A, 5), &[(B, 1, 3)], &[(A, 5, 19), (A, 30, 30)]),
            (at(A, 25), &[(A, 5, 19), (B, 1, 3)], &[(A, 30, 30)]),
            (at(B, 1), &[(A, 5, 19), (A, 30, 30)], &[(B, 1, 3)]),
            (at(B, 4), &[(A, 5, 19), (A, 30, 30), (B, 1, 3)], &[]),
            // A life that holds nothing yet.
            (
                at(Incarnation { no: 3, rand: 0 }, 1),
                &[(A, 5, 19), (A, 30, 30), (B, 1, 3)],
                &[],
            ),
        ] {
            let all = |next: &dyn Fn(&[SeqRange]) -> Option<SeqRange>| {
                let mut found: Vec<SeqRange> = Vec::new();
                while let Some(run) = next(&found) {
                    found.push(run);
                }
                found
            };
            let ranges = |list: &[(Incarnation, u64, u64)]| -> Vec<SeqRange> {
                list.iter().map(|&(i, f, l)| range(i, f, l)).collect()
            };
            let got = all(&|taken| index.next_before(place, taken, 1000));
            assert_eq!(got, ranges(before), "before {place:?}");
            let got = all(&|taken| index.next_since(place, taken, 1000));
            assert_eq!(got, ranges(since), "since {place:?}");
        }
    }

    #[test]
    fn min_time_leaves_out_what_is_named_only() {
        let mut index = index();
        let chunk_at = |index: &Index, first| {
            let key = ChunkKey { inc: A, first };
            index
                .overlapping(range(A, first, first))
                .find(|(k, _)| *k == key)
                .unwrap()
        };
        assert_eq!(index.min_time_without(&[]), Some(EventTime(50)));
        let ten = chunk_at(&index, 10);
        let thirty = chunk_at(&index, 30);
        assert_eq!(index.min_time_without(&[ten]), Some(EventTime(50)));
        assert_eq!(index.min_time_without(&[ten, thirty]), Some(EventTime(100)));
        index.remove(ten.0);
        index.remove(thirty.0);
        assert_eq!(index.min_time_without(&[]), Some(EventTime(100)));
        assert_eq!((index.events(), index.bytes()), (8, 20));
    }

    #[test]
    fn overlapping_finds_a_chunk_that_begins_earlier() {
        let index = index();
        let firsts = |r| {
            index
                .overlapping(r)
                .map(|(k, _)| k.first)
                .collect::<Vec<_>>()
        };
        assert_eq!(firsts(range(A, 9, 10)), [5, 10]);
        assert_eq!(firsts(range(A, 20, 29)), [0u64; 0]);
        assert_eq!(firsts(range(A, 1, u64::MAX)), [5, 10, 30]);
        assert_eq!(firsts(range(A, 12, 3)), [10u64; 0]);
        assert_eq!(index.newest(A).unwrap().0.first, 30);
    }

    #[test]
    fn the_oldest_of_each_kind_is_found_whatever_comes_and_goes() {
        let mut index = index();
        let of_kind = |kind, count| ChunkMeta {
            kind,
            ..meta(count, 100)
        };
        let key = |inc, first| ChunkKey { inc, first };
        index.insert(key(A, 40), of_kind(Kind::Summary, 2));
        index.insert(key(A, 2), of_kind(Kind::Fault, 1));
        index.insert(key(B, 4), of_kind(Kind::Summary, 2));
        let found = |index: &mut Index| {
            [Kind::Raw, Kind::Summary, Kind::Fault]
                .map(|kind| index.oldest_of(kind).map(|(k, _)| (k.inc.no, k.first)))
        };
        let expected = [Some((1, 5)), Some((1, 40)), Some((1, 2))];
        assert_eq!(found(&mut index), expected);
        assert_eq!((index.summary_bytes(), index.chunks()), (20, 7));
        for first in [5, 10, 30, 40, 2] {
            index.remove(key(A, first));
        }
        assert_eq!(found(&mut index), [Some((2, 1)), Some((2, 4)), None]);
        // An earlier one comes after the search has gone on: a part of a chunk that was acked.
        index.insert(key(A, 7), meta(2, 100));
        assert_eq!(found(&mut index)[0], Some((1, 7)));
        index.remove(key(A, 7));
        index.remove(key(B, 1));
        assert_eq!(found(&mut index)[0], None);
        index.insert(key(A, 50), meta(2, 100));
        assert_eq!(found(&mut index)[0], Some((1, 50)));
        assert_eq!(index.summary_bytes(), 10);
    }
}
