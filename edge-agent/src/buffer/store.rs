//! The open buffer: append, take, acknowledge.

use std::collections::{BTreeMap, VecDeque};

use event::{
    AgentId, Columns, EventTime, Gap, GapReason, Held, Incarnation, Lineage, Sample, SeqRange,
    TimeRange,
};
use redb::{Database, ReadableDatabase};

use super::chunk::Chunk;
use super::faults::Faults;
use super::growing::{Growing, meta_of};
use super::index::{ChunkKey, ChunkMeta, Index, Kind, Position};
use super::tables::{Ancestor, CHUNKS, CURSORS, Changes, Row, State};
use super::unplaced::Unplaced;
use super::{BufferError, age, chunk, overflow};

/// Limits of the buffer.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Most bytes of events held (encoded). Beyond it room is made as `overflow` says.
    pub bytes_max: u64,
    /// How room is made.
    pub overflow: overflow::Policy,
    /// Events that were stored longer ago than this are dropped as a declared gap, seconds; none = they
    /// are kept. See [`Buffer::expire`].
    pub age_max: Option<u32>,
    /// What goes last when room is made.
    pub faults: Faults,
    /// Memory for pages of the file, bytes.
    pub cache_bytes: usize,
    /// Most events of one chunk (row). 1 to 65,536.
    pub chunk_events_max: u32,
    /// A last chunk of at least this size is not grown any further, bytes. Small keeps what a commit
    /// rewrites small; large keeps rows few.
    pub chunk_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bytes_max: 256 << 20,
            overflow: overflow::Policy::default(),
            age_max: None,
            faults: Faults::default(),
            cache_bytes: 512 << 10,
            chunk_events_max: 1000,
            chunk_bytes: 8 << 10,
        }
    }
}

/// Most rows changed by acks that wait in memory for the next commit.
const OVERLAY_ROWS_MAX: usize = 1024;
/// Decoded chunks kept between reads of neighbouring ranges.
const DECODED_MAX: usize = 2;

/// How far a source has read, stored in the same transaction as its samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The source's name, unique in the agent.
    pub source: String,
    /// Its own bytes.
    pub position: Vec<u8>,
}

/// What must be told to the cloud until a transmission that says it is answered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Announcement {
    /// Earlier incarnations.
    pub lineage: Vec<Lineage>,
    /// Declared losses.
    pub gaps: Vec<Gap>,
    /// A stretch of time in which an unclean stop may have lost samples.
    pub unclean: Option<TimeRange>,
}

impl Announcement {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.lineage.is_empty() && self.gaps.is_empty() && self.unclean.is_none()
    }
}

/// The last chunk of the present incarnation while it still grows.
#[derive(Debug)]
struct Tail {
    first: u64,
    /// When it was begun, as [`ChunkMeta::stored`].
    begun: u32,
    growing: Growing,
}

/// The durable buffer of one agent. One owner at a time calls it; it knows no clock and no threads.
#[derive(Debug)]
pub struct Buffer {
    pub(super) db: Database,
    pub(super) agent: AgentId,
    pub(super) settings: Settings,
    pub(super) state: State,
    pub(super) index: Index,
    pub(super) lineage: BTreeMap<Incarnation, Ancestor>,
    pub(super) gaps: BTreeMap<ChunkKey, Gap>,
    pub(super) unplaced: Unplaced,
    pub(super) room: overflow::State,
    pub(super) age: age::State,
    tail: Option<Tail>,
    /// What is not committed yet; reads look here first.
    changes: Changes,
    decoded: VecDeque<(ChunkKey, Chunk)>,
    columns: Columns,
    poisoned: bool,
    pub(super) dropped: u64,
}

impl Buffer {
    pub(super) fn assemble(
        db: Database,
        agent: AgentId,
        settings: Settings,
        state: State,
        index: Index,
        lineage: BTreeMap<Incarnation, Ancestor>,
        gaps: BTreeMap<ChunkKey, Gap>,
    ) -> Self {
        Self {
            db,
            agent,
            settings,
            state,
            index,
            lineage,
            gaps,
            unplaced: Unplaced::default(),
            room: overflow::State::default(),
            age: age::State::default(),
            tail: None,
            changes: Changes::default(),
            decoded: VecDeque::new(),
            columns: Columns::default(),
            poisoned: false,
            dropped: 0,
        }
    }

    /// The present incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.state.incarnation
    }

    /// What is older is on disk, as far as is known: the newest time that a commit has noted.
    pub fn committed_at(&self) -> EventTime {
        self.state.committed_at
    }

    /// The number that the next event gets.
    pub fn next_seq(&self) -> u64 {
        self.state.last_seq + 1
    }

    /// Events dropped since opening because the buffer was full or damaged, or they were too old. Each
    /// is in a gap, and in no summary.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Stores samples, numbers them, and moves the cursors, in one transaction. When this returns
    /// `Ok`, they are on disk: they survive the end of the process and of the power.
    ///
    /// `volatile` says that some of them come from a source that cannot read them again. `until` is
    /// the agent's present time, or the time of the earliest such sample that still waits in memory: what
    /// an unclean stop may lose begins there. If the buffer is over its limit, room is made and what is gone
    /// declared as a gap in the same transaction (module `overflow`); what is stored with this call stays.
    ///
    /// Faults among the samples are numbered before the others, so that they lie together.
    ///
    /// Returns the range of numbers given out, none if there were no samples.
    ///
    /// **Errors**: nothing was accepted; open the buffer again.
    pub fn append(
        &mut self,
        samples: &[Sample],
        cursors: &[Cursor],
        volatile: bool,
        until: EventTime,
    ) -> Result<Option<SeqRange>, BufferError> {
        self.check()?;
        let (first, before) = (self.next_seq(), self.index.bytes());
        let result = self.stage(samples).and_then(|()| {
            self.state.volatile |= volatile && !samples.is_empty();
            let accepted = SeqRange {
                incarnation: self.incarnation(),
                first,
                last: self.state.last_seq,
            };
            self.make_room(accepted, before)?;
            self.state.committed_at = until;
            self.commit(cursors)?;
            Ok((accepted.last >= first).then_some(accepted))
        });
        self.poison_on_error(result)
    }

    /// Forgets the events of `ranges`, which an ack has named. They are gone at once for the uplink;
    /// the file follows with the next commit (a crash before it only means that they are sent again,
    /// and counted once by their numbers). Returns how many were held.
    ///
    /// **Errors**: open the buffer again; nothing un-acked is lost.
    pub fn ack(&mut self, ranges: &[SeqRange]) -> Result<u64, BufferError> {
        self.check()?;
        let mut gone = 0;
        for range in ranges {
            let result = self.ack_one(*range);
            gone += self.poison_on_error(result)?;
        }
        Ok(gone)
    }

    /// Whether something waits for a commit ([`Self::flush`] or the next append).
    pub fn is_dirty(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Whether so much waits that it should be committed soon.
    pub fn wants_flush(&self) -> bool {
        self.changes.rows.len() >= OVERLAY_ROWS_MAX
    }

    /// Commits what waits. When this returns `Ok`, it is on disk. `until` as in [`Self::append`].
    ///
    /// **Errors**: open the buffer again.
    pub fn flush(&mut self, until: EventTime) -> Result<(), BufferError> {
        self.check()?;
        if !self.is_dirty() {
            return Ok(());
        }
        self.state.committed_at = until;
        let result = self.commit(&[]);
        self.poison_on_error(result)
    }

    /// Commits what waits and notes that the stop was orderly, so that the next start declares no
    /// loss.
    ///
    /// **Errors**: the next start will take this for an unclean stop.
    pub fn close(mut self, now: EventTime) -> Result<(), BufferError> {
        self.check()?;
        self.state.clean = true;
        self.state.committed_at = now;
        self.commit(&[])
    }

    /// Notes on disk that the cloud may hear of this incarnation from now on. Call before the first
    /// transmission. Later calls do nothing. Samples may wait in memory meanwhile, so this does not say
    /// that anything older is on disk.
    ///
    /// **Errors**: open the buffer again.
    pub fn note_spoke(&mut self) -> Result<(), BufferError> {
        if self.state.spoke {
            return Ok(());
        }
        self.check()?;
        self.state.spoke = true;
        let result = self.commit(&[]);
        self.poison_on_error(result)
    }

    /// The last number that was stored in an earlier incarnation, as far as it is remembered.
    pub(crate) fn last_seq_of(&self, incarnation: Incarnation) -> Option<u64> {
        self.lineage.get(&incarnation).map(|a| a.last_seq)
    }

    /// Where the next event will be stored.
    pub fn end(&self) -> Position {
        Position {
            incarnation: self.incarnation(),
            seq: self.next_seq(),
        }
    }

    /// The next run of held events to send, oldest first, of what was stored before `end`: at most
    /// `events_max` consecutive numbers of one incarnation, none of them in `excluding`. None if there
    /// is nothing.
    pub fn next_before(
        &self,
        end: Position,
        excluding: &[SeqRange],
        events_max: u64,
    ) -> Option<SeqRange> {
        self.index.next_before(end, excluding, events_max)
    }

    /// The same of what was stored from `start` on.
    pub fn next_since(
        &self,
        start: Position,
        excluding: &[SeqRange],
        events_max: u64,
    ) -> Option<SeqRange> {
        self.index.next_since(start, excluding, events_max)
    }

    /// Reads the longest run of held events that starts at the first held number of `range` and
    /// stays inside it. None if nothing of it is held any more.
    ///
    /// A damaged chunk is dropped and declared as a gap; the run ends before it.
    ///
    /// **Errors**: open the buffer again.
    pub fn take(
        &mut self,
        range: SeqRange,
    ) -> Result<Option<(SeqRange, Vec<Sample>)>, BufferError> {
        self.check()?;
        let chunks: Vec<_> = self.index.overlapping(range).collect();
        let mut out: Vec<Sample> = Vec::new();
        let mut start = 0;
        for (key, meta) in chunks {
            let from = key.first.max(range.first);
            let to = key.last(&meta).min(range.last);
            if !out.is_empty() && from != start + out.len() as u64 {
                break;
            }
            let result = self.chunk(key, meta);
            let Some(chunk) = self.poison_on_error(result)? else {
                if out.is_empty() {
                    continue;
                }
                break;
            };
            if out.is_empty() {
                start = from;
            }
            let samples = &chunk.samples;
            out.extend_from_slice(
                &samples[(from - key.first) as usize..=(to - key.first) as usize],
            );
            self.remember(key, chunk);
        }
        if out.is_empty() {
            return Ok(None);
        }
        let last = start + out.len() as u64 - 1;
        Ok(Some((
            SeqRange {
                incarnation: range.incarnation,
                first: start,
                last,
            },
            out,
        )))
    }

    /// The earliest event time of all that is held, of all incarnations, leaving out the numbers in
    /// `excluding` (the batch being sent). None if nothing else is held.
    ///
    /// **Errors**: open the buffer again.
    pub fn earliest(
        &mut self,
        excluding: Option<SeqRange>,
    ) -> Result<Option<EventTime>, BufferError> {
        self.check()?;
        let Some(out) = excluding else {
            return Ok(self.index.min_time_without(&[]));
        };
        let touched: Vec<_> = self.index.overlapping(out).collect();
        let mut earliest = self.index.min_time_without(&touched);
        // Chunks at the ends of the range are only partly left out.
        for (key, meta) in touched {
            if out.first <= key.first && key.last(&meta) <= out.last {
                continue;
            }
            let result = self.chunk(key, meta);
            let Some(chunk) = self.poison_on_error(result)? else {
                continue;
            };
            let samples = &chunk.samples;
            let rest = samples
                .iter()
                .zip(key.first..)
                .filter(|(_, seq)| *seq < out.first || *seq > out.last)
                .map(|(s, _)| s.time)
                .min();
            earliest = [earliest, rest].into_iter().flatten().min();
            self.remember(key, chunk);
        }
        Ok(earliest)
    }

    /// The backlog: all events that no ack has named, and the readings without a time; the oldest is of
    /// those that have one.
    pub fn held(&self) -> Held {
        Held {
            events: self.index.events() + self.unplaced.events(),
            bytes: self.index.bytes() + self.unplaced.bytes(),
            oldest: self.index.min_time_without(&[]),
        }
    }

    /// How far `source` had read at the last commit.
    ///
    /// **Errors**: open the buffer again.
    pub fn cursor(&self, source: &str) -> Result<Option<Vec<u8>>, BufferError> {
        let table = self
            .db
            .begin_read()
            .map_err(BufferError::from)?
            .open_table(CURSORS)?;
        Ok(table.get_owned(source)?.map(|v| v.value().to_vec()))
    }

    /// What must be told to the cloud with the next transmission: at most `max` entries of each
    /// kind. Of a stretch of possible loss only when its end is known ([`Self::know_time`]).
    pub fn announcement(&self, max: usize) -> Announcement {
        Announcement {
            lineage: self
                .lineage
                .iter()
                .filter(|(_, a)| !a.told)
                .take(max)
                .map(|(&incarnation, a)| Lineage {
                    incarnation,
                    last_seq: a.last_seq,
                    held: a.held,
                })
                .collect(),
            gaps: self.gaps.values().take(max).copied().collect(),
            unclean: self
                .state
                .unclean
                .filter(|_| self.state.unclean_until.is_none())
                .or(self.state.unclean_behind),
        }
    }

    /// Takes the agent's present time: a stretch of possible loss whose end was not known, because the clock was
    /// behind what is on disk, ends here once the clock is right again.
    pub fn know_time(&mut self, now: EventTime) {
        if self.state.know_time(now) {
            self.changes.state = true;
        }
    }

    /// The cloud has answered a transmission that said this: it is durable there.
    pub fn told(&mut self, said: &Announcement) {
        for entry in &said.lineage {
            let Some(ancestor) = self.lineage.get_mut(&entry.incarnation) else {
                continue;
            };
            if ancestor.held != entry.held {
                continue;
            }
            if ancestor.held {
                ancestor.told = true;
            } else {
                self.lineage.remove(&entry.incarnation);
                self.changes.lineage_gone.push(entry.incarnation);
            }
        }
        for gap in &said.gaps {
            let key = ChunkKey {
                inc: gap.incarnation,
                first: gap.from,
            };
            let Some(held) = self.gaps.get(&key).copied() else {
                continue;
            };
            self.gaps.remove(&key);
            self.changes.gaps.insert(key, None);
            // It has grown since: only the rest remains to be told.
            if held.to > gap.to {
                self.put_gap(Gap {
                    from: gap.to + 1,
                    ..held
                });
            }
        }
        let state = &mut self.state;
        for stretch in [&mut state.unclean, &mut state.unclean_behind] {
            if said.unclean.is_some() && said.unclean == *stretch {
                *stretch = None;
                self.changes.state = true;
            }
        }
    }

    /// What goes with the next commit.
    pub(super) fn changes_mut(&mut self) -> &mut Changes {
        &mut self.changes
    }

    pub(super) fn touch_state(&mut self) {
        self.changes.state = true;
    }

    pub(super) fn check(&self) -> Result<(), BufferError> {
        if self.poisoned {
            Err(BufferError::Poisoned)
        } else {
            Ok(())
        }
    }

    pub(super) fn poison_on_error<T>(
        &mut self,
        result: Result<T, BufferError>,
    ) -> Result<T, BufferError> {
        self.poisoned |= result.is_err();
        result
    }

    /// Puts samples behind the last ones, as rows that the next commit writes.
    pub(super) fn stage(&mut self, samples: &[Sample]) -> Result<(), BufferError> {
        match self.settings.faults.split(samples) {
            None => self.stage_as(false, samples.iter())?,
            Some((faults, others)) => {
                self.stage_as(true, faults.into_iter())?;
                self.stage_as(false, others.into_iter())?;
            }
        }
        self.put_tail()
    }

    /// The same with samples of which it is known which are faults.
    pub(super) fn stage_chunk(&mut self, chunk: &Chunk) -> Result<(), BufferError> {
        for run in &chunk.faults {
            self.stage_as(true, chunk.of(run).iter())?;
        }
        for run in chunk.others() {
            self.stage_as(false, chunk.of(&run).iter())?;
        }
        self.put_tail()
    }

    fn stage_as<'a>(
        &mut self,
        faults: bool,
        samples: impl Iterator<Item = &'a Sample>,
    ) -> Result<(), BufferError> {
        let begun = self.age.stored();
        for sample in samples {
            let seq = self.state.last_seq + 1;
            let full = self.tail.as_ref().is_some_and(|t| {
                self.settings.outgrown(t.begun, begun) || t.growing.is_full(&self.settings, faults)
            });
            if full {
                self.put_tail()?;
                self.tail = None;
            }
            let tail = self.tail.get_or_insert_with(|| Tail {
                first: seq,
                begun,
                growing: Growing::default(),
            });
            tail.growing.push(sample, faults);
            self.state.last_seq = seq;
        }
        Ok(())
    }

    /// Gives out numbers whose events are lost.
    pub(super) fn skip_numbers(&mut self, count: u64) -> Result<SeqRange, BufferError> {
        self.put_tail()?;
        self.end_tail();
        let first = self.next_seq();
        self.state.last_seq += count;
        let (incarnation, last) = (self.incarnation(), self.state.last_seq);
        Ok(SeqRange {
            incarnation,
            first,
            last,
        })
    }

    fn put_tail(&mut self) -> Result<(), BufferError> {
        let Some(tail) = &mut self.tail else {
            return Ok(());
        };
        let key = ChunkKey {
            inc: self.state.incarnation,
            first: tail.first,
        };
        let count = tail.growing.chunk.samples.len() as u32;
        if self
            .index
            .overlapping(range_of(key, 1))
            .any(|(k, m)| k == key && m.count == count)
        {
            return Ok(());
        }
        let stored = self.age.stored();
        let (meta, bytes) = tail
            .growing
            .encode(&self.agent, key.inc, key.first, stored)?;
        self.put(key, meta, bytes);
        Ok(())
    }

    /// The last chunk grows no further: what comes next has a number that does not follow.
    pub(super) fn end_tail(&mut self) {
        self.tail = None;
    }

    pub(super) fn put(&mut self, key: ChunkKey, meta: ChunkMeta, bytes: Vec<u8>) {
        self.decoded.retain(|(k, _)| *k != key);
        self.index.insert(key, meta);
        self.changes.rows.insert(key, Row::Put(meta, bytes));
    }

    pub(super) fn remove(&mut self, key: ChunkKey) {
        self.decoded.retain(|(k, _)| *k != key);
        self.index.remove(key);
        self.changes.rows.insert(key, Row::Remove);
        if key.inc == self.state.incarnation
            && self.tail.as_ref().is_some_and(|t| t.first == key.first)
        {
            self.tail = None;
        }
    }

    fn ack_one(&mut self, range: SeqRange) -> Result<u64, BufferError> {
        let mut gone = 0;
        let chunks: Vec<_> = self.index.overlapping(range).collect();
        for (key, meta) in chunks {
            let last = key.last(&meta);
            let from = key.first.max(range.first);
            let to = last.min(range.last);
            if from == key.first && to == last {
                gone += u64::from(meta.count);
                self.remove(key);
                continue;
            }
            // A part of a chunk is acked: the rest becomes one or two chunks of its own.
            let Some(chunk) = self.chunk(key, meta)? else {
                continue;
            };
            self.remove(key);
            gone += to - from + 1;
            let head = chunk.part(0..(from - key.first) as u32);
            let rest = chunk.part((to + 1 - key.first) as u32..meta.count);
            for (first, part) in [(key.first, head), (to + 1, rest)] {
                if part.samples.is_empty() {
                    continue;
                }
                let bytes = chunk::encode(&self.agent, key.inc, first, &part)?;
                let kind = match meta.kind {
                    Kind::Summary => Kind::Summary,
                    Kind::Raw | Kind::Fault | Kind::Mixed => part.kind(),
                };
                self.put(
                    ChunkKey {
                        inc: key.inc,
                        first,
                    },
                    meta_of(&part.samples, bytes.len(), kind, meta.stored),
                    bytes,
                );
            }
        }
        Ok(gone)
    }

    pub(super) fn declare_lost(&mut self, key: ChunkKey, meta: ChunkMeta, reason: GapReason) {
        self.dropped += u64::from(meta.count);
        self.remove(key);
        let gap = Gap {
            incarnation: key.inc,
            from: key.first,
            to: key.last(&meta),
            time: TimeRange {
                from: meta.min_time,
                to: meta.max_time,
            },
            reason,
        };
        self.put_gap(gap);
    }

    /// Adds a gap; with those right before and behind it that have the same reason it becomes one, so
    /// that a buffer that overflows for days declares few of them.
    pub(super) fn put_gap(&mut self, mut gap: Gap) {
        let key = ChunkKey {
            inc: gap.incarnation,
            first: gap.from,
        };
        let before = self.gaps.range(..key).next_back().map(|(k, g)| (*k, *g));
        if let Some((before, g)) = before
            && g.incarnation == gap.incarnation
            && g.reason == gap.reason
            && g.to + 1 == gap.from
        {
            gap.from = g.from;
            gap.time.from = gap.time.from.min(g.time.from);
            gap.time.to = gap.time.to.max(g.time.to);
            self.gaps.remove(&before);
        }
        let behind = ChunkKey {
            inc: gap.incarnation,
            first: gap.to.saturating_add(1),
        };
        if let Some(g) = self.gaps.get(&behind).copied()
            && g.reason == gap.reason
        {
            gap.to = g.to;
            gap.time.from = gap.time.from.min(g.time.from);
            gap.time.to = gap.time.to.max(g.time.to);
            self.gaps.remove(&behind);
            self.changes.gaps.insert(behind, None);
        }
        let key = ChunkKey {
            inc: gap.incarnation,
            first: gap.from,
        };
        self.gaps.insert(key, gap);
        self.changes.gaps.insert(key, Some(gap));
    }

    /// The events of a chunk; none if it is damaged, which is then declared.
    pub(super) fn chunk(
        &mut self,
        key: ChunkKey,
        meta: ChunkMeta,
    ) -> Result<Option<Chunk>, BufferError> {
        if key.inc == self.state.incarnation
            && let Some(tail) = self.tail.as_ref().filter(|t| t.first == key.first)
        {
            return Ok(Some(tail.growing.chunk.clone()));
        }
        if let Some(at) = self.decoded.iter().position(|(k, _)| *k == key)
            && let Some((_, chunk)) = self.decoded.remove(at)
        {
            return Ok(Some(chunk));
        }
        let (kind, columns) = (meta.kind, &mut self.columns);
        let decoded = match self.changes.rows.get(&key) {
            Some(Row::Put(_, bytes)) => chunk::decode(bytes, kind, columns).ok(),
            Some(Row::Remove) => None,
            None => {
                let table = self.db.begin_read()?.open_table(CHUNKS)?;
                let row = table.get_owned((key.inc.no, key.inc.rand, key.first))?;
                row.and_then(|v| chunk::decode(v.value(), kind, columns).ok())
            }
        };
        match decoded.filter(|c| c.samples.len() == meta.count as usize) {
            Some(chunk) => Ok(Some(chunk)),
            None => {
                tracing::error!(
                    incarnation = %key.inc, first = key.first, events = meta.count,
                    "a chunk of the buffer is damaged; its events are declared lost"
                );
                self.declare_lost(key, meta, GapReason::Corruption);
                Ok(None)
            }
        }
    }

    fn remember(&mut self, key: ChunkKey, chunk: Chunk) {
        let is_tail = key.inc == self.state.incarnation
            && self.tail.as_ref().is_some_and(|t| t.first == key.first);
        if !is_tail {
            self.decoded.truncate(DECODED_MAX - 1);
            self.decoded.push_front((key, chunk));
        }
    }

    /// Writes everything that waits in one durable transaction.
    pub(super) fn commit(&mut self, cursors: &[Cursor]) -> Result<(), BufferError> {
        // An ancestor whose last event goes with this commit is told as no longer held, after it.
        let emptied: Vec<Incarnation> = self
            .lineage
            .iter()
            .filter(|(inc, a)| a.held && !self.index.holds_any(**inc))
            .map(|(inc, _)| *inc)
            .collect();
        let ended: Vec<(Incarnation, u64)> = emptied
            .iter()
            .map(|inc| (*inc, self.lineage[inc].last_seq))
            .collect();
        self.changes.write(&self.db, &self.state, &ended, cursors)?;
        for inc in emptied {
            if let Some(ancestor) = self.lineage.get_mut(&inc) {
                ancestor.held = false;
                ancestor.told = false;
            }
        }
        self.changes = Changes::default();
        Ok(())
    }
}

fn range_of(key: ChunkKey, count: u64) -> SeqRange {
    SeqRange {
        incarnation: key.inc,
        first: key.first,
        last: key.first + count - 1,
    }
}
