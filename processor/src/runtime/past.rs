//! What has left memory, read from the state store and put together with what is still on its way there.

use std::sync::{Arc, PoisonError, RwLock};

use eventlog::{Error, Log, Offset, PartitionId};
use views::{HistoryQuery, HistorySource, RowPart, Tier, TooOld};

use crate::core::{Changed, Partition, StoredRow};

/// Rows read from the store at once; a stretch of time that has more is cut.
const ROWS_AT_ONCE_MAX: usize = 20_000;
/// Rows read at most for a single start: panes of a window times groups.
const ROWS_MAX: usize = 10_000_000;
/// Stretches looked through for one query: of a doubling length through what is empty.
const STRETCHES_MAX: usize = 4096;
/// No event is older: 2020-01-01.
const TIME_MIN: i64 = 1_577_836_800_000_000;
/// Reads that a checkpoint came between are done again, so often.
const TRIES_MAX: usize = 16;

/// The past of one partition.
pub(super) struct Past {
    log: Log,
    partition: PartitionId,
    state: Arc<RwLock<Partition>>,
}

impl Past {
    pub(super) fn new(log: &Log, partition: PartitionId, state: &Arc<RwLock<Partition>>) -> Self {
        Self {
            log: log.clone(),
            partition,
            state: state.clone(),
        }
    }

    fn with<T>(&self, ask: impl FnOnce(&Partition) -> T) -> T {
        ask(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads from the store as of one checkpoint, whose offset it gives.
    fn as_of<T>(&self, read: impl Fn() -> Result<T, Error>) -> Result<(T, Option<Offset>), Error> {
        let mut tries = 0;
        loop {
            let before = self.log.latest_offset(self.partition)?;
            let rows = read()?;
            let after = self.log.latest_offset(self.partition)?;
            tries += 1;
            if before == after || tries == TRIES_MAX {
                return Ok((rows, after));
            }
        }
    }

    /// The rows of windows that are not wholly in memory.
    pub(super) fn windows(&self, changed: &[Changed]) -> Result<Vec<RowPart>, Error> {
        let keys: Vec<Vec<Vec<u8>>> = self.with(|p| {
            let keys = changed.iter().map(|c| p.window_keys(c.group, c.pane));
            keys.collect()
        });
        let flat: Vec<&Vec<u8>> = keys.iter().flatten().collect();
        let (values, saved) = self.as_of(|| self.log.rows_get(self.partition, &flat))?;
        let mut values = values.into_iter();
        let mut rows = Vec::with_capacity(changed.len());
        for (changed, keys) in changed.iter().zip(&keys) {
            let stored: Vec<Option<Vec<u8>>> = values.by_ref().take(keys.len()).collect();
            let saved = saved.map(|o| o.0);
            rows.extend(self.with(|p| p.window_with(changed.group, changed.pane, &stored, saved)));
        }
        Ok(rows)
    }

    /// All rows that start in `[from, to)`; none if the stretch has too many.
    fn stretch(
        &self,
        query: &HistoryQuery,
        from: i64,
        to: i64,
        most: usize,
    ) -> Result<Option<Vec<RowPart>>, Error> {
        let range = self.with(|p| p.history_range(query, from, to));
        let Some((first, last)) = range else {
            return Ok(Some(Vec::new()));
        };
        let ((stored, more), saved) = self.as_of(|| {
            let mut rows: Vec<StoredRow> = Vec::new();
            let more = self
                .log
                .rows_range(self.partition, &first, &last, most, |key, value| {
                    rows.push((key.to_vec(), value.to_vec()))
                })?;
            Ok((rows, more))
        })?;
        if more {
            return Ok(None);
        }
        let rows = self.with(|p| p.history(query, (from, to), &stored, saved.map(|o| o.0)));
        // A checkpoint that ended meanwhile has taken away what was on its way: look again.
        if self.log.latest_offset(self.partition)? != saved {
            return self.stretch(query, from, to, most);
        }
        Ok(Some(rows))
    }

    fn list(&self, query: &HistoryQuery) -> Result<Vec<RowPart>, Error> {
        let unit = match query.tier {
            Tier::Window => 10_000_000,
            Tier::Hour => 3_600_000_000,
            Tier::Day => 86_400_000_000,
        };
        let end = self.with(Partition::history_end);
        // A window or a day may start before the first event that it holds.
        let from = query.from.max(TIME_MIN - 2 * 86_400_000_000);
        let from = query.after.as_ref().map_or(from, |a| from.max(a.0));
        let to = query.to.min(end);
        let (mut low, mut high) = (from, to);
        let mut length = 64 * unit;
        let mut most = ROWS_AT_ONCE_MAX;
        let mut out: Vec<RowPart> = Vec::new();
        for _ in 0..STRETCHES_MAX {
            if low >= high || out.len() >= query.limit {
                break;
            }
            let (a, b) = if query.newest {
                (high.saturating_sub(length).max(low), high)
            } else {
                (low, low.saturating_add(length).min(high))
            };
            let Some(rows) = self.stretch(query, a, b, most)? else {
                // Too many: unless it is a single start, which must be taken as it is.
                if length <= 1_000_000 && most < ROWS_MAX {
                    most *= 8;
                } else if length <= 1_000_000 {
                    tracing::warn!(
                        partition = self.partition.0,
                        "more than {ROWS_MAX} rows of one window of the past are not listed"
                    );
                    (low, high) = if query.newest { (low, a) } else { (b, high) };
                } else {
                    length = (length / 4).max(1_000_000);
                }
                continue;
            };
            if rows.len() * 8 < query.limit {
                length = length.saturating_mul(2);
            }
            if query.newest {
                out.splice(0..0, rows);
                high = a;
            } else {
                out.extend(rows);
                low = b;
            }
        }
        if query.newest {
            out.drain(..out.len().saturating_sub(query.limit));
        } else {
            out.truncate(query.limit);
        }
        Ok(out)
    }

    /// Reads no more rows than the page has entries.
    fn too_old_page(
        &self,
        after: Option<&(i64, String)>,
        limit: usize,
    ) -> Result<Vec<TooOld>, Error> {
        let (from, to) = self.with(|p| p.too_old_range(after));
        let mut tries = 0;
        let page = loop {
            let (stored, saved) = self.as_of(|| {
                let mut rows: Vec<StoredRow> = Vec::new();
                self.log
                    .rows_range(self.partition, &from, &to, limit, |key, value| {
                        rows.push((key.to_vec(), value.to_vec()));
                    })?;
                Ok(rows)
            })?;
            let page = self.with(|p| p.too_old(after, limit, &stored, saved.map(|o| o.0)));
            tries += 1;
            // A checkpoint that ended meanwhile has taken away what was on its way: look again.
            if self.log.latest_offset(self.partition)? == saved || tries == TRIES_MAX {
                break page;
            }
        };
        let entry = |(day, device, events)| TooOld {
            day,
            device,
            events,
        };
        Ok(page.into_iter().map(entry).collect())
    }

    fn failed(&self, error: &Error) {
        tracing::error!(
            partition = self.partition.0,
            "failed to read the past from the state store: {error}"
        );
    }
}

impl HistorySource for Past {
    fn rows(&self, query: &HistoryQuery) -> Vec<RowPart> {
        self.list(query).unwrap_or_else(|error| {
            self.failed(&error);
            Vec::new()
        })
    }

    fn too_old(&self, after: Option<&(i64, String)>, limit: usize) -> Vec<TooOld> {
        self.too_old_page(after, limit).unwrap_or_else(|error| {
            self.failed(&error);
            Vec::new()
        })
    }

    fn quarantined(&self, id: u64) -> Option<Vec<u8>> {
        if !self.with(|p| p.is_held(id)) {
            return None;
        }
        if let Some(record) = self.with(|p| p.held_record(id)) {
            return Some(record);
        }
        let row = self.log.row(self.partition, &Partition::held_key(id));
        row.unwrap_or_else(|error| {
            self.failed(&error);
            None
        })
    }
}
