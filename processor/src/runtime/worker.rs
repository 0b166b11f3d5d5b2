//! One partition's thread.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use event::command::State as CommandState;
use eventlog::{Log, Offset, PartitionId};
use views::Views;
use views::model::{FileReport, PartitionReport};
use views::store::RING;

use super::lookup::Lookup;
use super::past::Past;
use super::saver::{Done, Failure, Job, Saver};
use super::stage::Stage;
use super::{Clock, Settings};
use crate::core::{Changed, Effects, Partition, SendCommand};

/// Between two looks at the stop flag and the checkpoint timer.
const NAP: Duration = Duration::from_millis(200);
/// A checkpoint takes at most this share of the time: one in so many parts.
const CHECKPOINT_SHARE: u32 = 20;
/// The last checkpoints wait at most so long for each other.
const LAST_WAIT: Duration = Duration::from_secs(5);
/// Waits after a failed checkpoint (full disk) before the next try.
const CHECKPOINT_RETRY: Duration = Duration::from_secs(5);
/// Tries of what fails, once the server stops.
const LAST_TRIES: u32 = 3;

/// Rows that wait for the next checkpoint; with more it does not wait for its time.
const COLD_MAX: usize = 200_000;
/// Windows that are not wholly in memory and are read together at once, ...
const COLD_READ_AT_ONCE: usize = 256;
/// ... and that may wait for it. Beyond it the oldest are dropped from the views' memory; a query reads them.
const COLD_WAITING_MAX: usize = 20_000;

/// Records in one append.
const APPENDED_AT_ONCE: usize = 500;

/// A place in the log that may be trimmed to once it is old enough.
struct Mark {
    offset: Offset,
    ingest: i64,
    bytes: u64,
}

pub(super) struct Worker {
    number: u16,
    log: Log,
    views: Arc<Views>,
    stage: Stage,
    clock: Clock,
    state: Arc<RwLock<Partition>>,
    past: Arc<Past>,
    saver: Saver,
    /// The checkpoint under way.
    saving: Option<Receiver<Done>>,
    /// Changed windows that are not wholly in memory.
    cold: BTreeSet<Changed>,
    settings: Settings,
    saved: Option<Offset>,
    saved_ingest: Option<i64>,
    saved_hash: Option<u64>,
    next_checkpoint: Instant,
    saving_since: Instant,
    /// Offset of the checkpoint under way.
    saving_offset: Option<Offset>,
    /// Notices of the present state were not saved: it must not be either.
    abandoned: bool,
    marks: VecDeque<Mark>,
    bytes: u64,
    last_report: Option<Instant>,
}

impl Worker {
    pub(super) fn open(
        number: u16,
        settings: &Settings,
        log: &Log,
        views: &Arc<Views>,
        stage: &Stage,
        saver: &Saver,
        clock: &Clock,
    ) -> anyhow::Result<Self> {
        let partition = PartitionId(number);
        let stored = log.latest(partition)?;
        let saved = stored.as_ref().map(|s| s.offset);
        let state = match stored {
            Some(stored) => {
                let state = Partition::restore(&stored.snapshot)?;
                anyhow::ensure!(
                    state.offset() == stored.offset.0,
                    "the snapshot is of offset {}, its checkpoint says {}; restore the data folder from a backup, or delete it to begin anew",
                    state.offset(),
                    stored.offset
                );
                state
            }
            None => {
                let first = log.first(partition);
                anyhow::ensure!(
                    first == Offset(0),
                    "there is no checkpoint, but the log begins at offset {first}: the state file is missing; restore it from a backup, or delete the data folder to begin anew"
                );
                Partition::new(number)
            }
        };
        let now = Instant::now();
        let turns = u32::from(log.partitions());
        let turn = settings.checkpoint_every * (u32::from(number) + 1) / turns;
        let saved_ingest = saved.map(|_| state.now());
        if let Some(ingest) = saved_ingest {
            stage.note_saved(number, ingest);
        }
        // Marks of an earlier life are not kept: what was old enough then is found again.
        let mut marks = VecDeque::new();
        if let (Some(offset), Some(ingest)) = (saved, saved_ingest) {
            let horizon = horizon(clock, settings);
            if let Some(old) = newest_before(log, partition, offset, horizon)? {
                marks.push_back(Mark {
                    offset: old,
                    ingest: i64::MIN,
                    bytes: 0,
                });
            }
            marks.push_back(Mark {
                offset,
                ingest,
                bytes: 0,
            });
        }
        let declared = state.declarations();
        stage.set_rules(&declared.rules);
        super::show(views, number, &declared);
        let state = Arc::new(RwLock::new(state));
        views.add_device_source(Arc::new(Lookup(state.clone())));
        let past = Arc::new(Past::new(log, partition, &state));
        views.add_history_source(number, past.clone());
        Ok(Self {
            number,
            log: log.clone(),
            views: views.clone(),
            stage: stage.clone(),
            clock: clock.clone(),
            state,
            past,
            saver: saver.clone(),
            saving: None,
            cold: BTreeSet::new(),
            settings: settings.clone(),
            saved,
            saved_ingest,
            saved_hash: None,
            next_checkpoint: now + turn,
            saving_since: now,
            saving_offset: None,
            abandoned: false,
            marks,
            bytes: 0,
            last_report: None,
        })
    }

    fn state(&self) -> RwLockWriteGuard<'_, Partition> {
        // Only this thread writes; if it had panicked it would not be here.
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn run(mut self, stop: &AtomicBool, caught_up: impl FnOnce()) -> anyhow::Result<()> {
        let partition = PartitionId(self.number);
        let end = self.log.end(partition);
        // What was refused is in no state, only in the log: the newest of it is kept for the views.
        let mut seen = Effects::default();
        while self.offset() < end && !stop.load(Ordering::Acquire) {
            self.read(|worker, mut fx| {
                // Views are filled from the state when it is whole; notices cannot be had later.
                worker.save_notices(&mut fx, stop);
                worker.save_appends(&mut fx, stop);
                seen.quarantine.append(&mut fx.quarantine);
                seen.incidents.append(&mut fx.incidents);
                seen.quarantine
                    .drain(..seen.quarantine.len().saturating_sub(RING));
                seen.incidents
                    .drain(..seen.incidents.len().saturating_sub(RING));
            })?;
            self.checkpoint_if_due(stop)?;
        }
        self.state().publish(&mut seen);
        self.publish(seen, stop);
        let unanswered = self
            .state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .unanswered();
        self.send(&unanswered);
        caught_up();
        loop {
            if self.offset() == self.log.end(partition) {
                if stop.load(Ordering::Acquire) {
                    break;
                }
                let offset = self.offset();
                // `wait` returns when the end is beyond the offset.
                self.log.wait(partition, offset, NAP);
            }
            self.read(|worker, fx| worker.publish(fx, stop))?;
            self.checkpoint_if_due(stop)?;
            self.report();
        }
        self.last_checkpoint(stop)
    }

    fn offset(&self) -> Offset {
        Offset(
            self.state
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .offset(),
        )
    }

    /// Steps through what the log has next; `take` gets the effects of each block.
    fn read(&mut self, mut take: impl FnMut(&mut Self, Effects)) -> anyhow::Result<()> {
        let from = self.offset();
        let blocks = self
            .log
            .read(PartitionId(self.number), from, self.settings.read_bytes)
            .with_context(|| format!("failed to read partition {} at {from}", self.number))?;
        for block in blocks {
            self.bytes += block.bytes() as u64;
            // One block at a time, so that lookups wait no longer than that and effects stay small.
            let mut fx = Effects::default();
            self.state()
                .step(block.first.0, block.ingest_time, &block.records, &mut fx);
            for error in fx.refused_rules.drain(..) {
                tracing::error!(
                    partition = self.number,
                    "a rule of the log is not run: {error}"
                );
            }
            take(self, fx);
        }
        Ok(())
    }

    /// What alerting makes of a block must be durable before a checkpoint says that it was made: on a full disk
    /// the partition waits here, and ingest acknowledges nothing meanwhile either.
    fn save_notices(&mut self, fx: &mut Effects, stop: &AtomicBool) {
        let agent_of = |device: &str| {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            state.agent_of(device).map(str::to_owned)
        };
        while let Err(error) = self.stage.take(self.number, fx, agent_of) {
            tracing::error!(
                partition = self.number,
                "failed to save what alerting decided, trying again in {CHECKPOINT_RETRY:?}: {error:#}"
            );
            let since = Instant::now();
            while since.elapsed() < CHECKPOINT_RETRY {
                if stop.load(Ordering::Acquire) {
                    // No checkpoint is saved after this, so the next start makes them again.
                    self.abandoned = true;
                    return;
                }
                std::thread::sleep(NAP);
            }
        }
        fx.notices.clear();
        fx.operations.clear();
        fx.controls.clear();
    }

    /// Records for other partitions must be durable before a checkpoint says that they were made, too.
    fn save_appends(&mut self, fx: &mut Effects, stop: &AtomicBool) {
        let mut by_partition: BTreeMap<u16, Vec<Bytes>> = BTreeMap::new();
        for (partition, record) in fx.appends.drain(..) {
            let records = by_partition.entry(partition).or_default();
            records.push(record.encode().into());
        }
        for (partition, records) in by_partition {
            for some in records.chunks(APPENDED_AT_ONCE) {
                self.append(PartitionId(partition), some, stop);
            }
        }
    }

    fn append(&mut self, to: PartitionId, records: &[Bytes], stop: &AtomicBool) {
        while let Err(error) = self.log.append_blocking(to, records.to_vec()) {
            let passing = matches!(
                error,
                eventlog::Error::Full { .. } | eventlog::Error::Io { .. }
            );
            tracing::error!(
                partition = self.number,
                to = to.0,
                "failed to append what commands need{}: {error}",
                if passing { ", trying again" } else { "" }
            );
            if !passing {
                return;
            }
            let since = Instant::now();
            while since.elapsed() < CHECKPOINT_RETRY {
                if stop.load(Ordering::Acquire) {
                    // No checkpoint is saved after this, so the next start makes them again.
                    self.abandoned = true;
                    return;
                }
                std::thread::sleep(NAP);
            }
        }
    }

    /// Hands commands to the connections of their agents.
    fn send(&self, sends: &[SendCommand]) {
        for send in sends {
            let handed_over = self.settings.downlink.as_ref().is_some_and(|d| (d.0)(send));
            let result = match handed_over {
                true => "handed_over",
                false => "not_connected",
            };
            metrics::counter!("tidewatch_command_sends_total", "result" => result).increment(1);
            tracing::debug!(
                id = send.command.id,
                agent = send.agent,
                result,
                "a command was sent"
            );
        }
    }

    /// Hands effects on. Notices are durable before anything shows.
    fn publish(&mut self, mut fx: Effects, stop: &AtomicBool) {
        let n = self.number;
        self.save_notices(&mut fx, stop);
        self.save_appends(&mut fx, stop);
        // The log has what they come from.
        self.send(&fx.sends);
        for outcome in &fx.outcomes {
            let state = match outcome.state {
                Some(CommandState::Succeeded) => "succeeded",
                Some(CommandState::Failed) => "failed",
                Some(CommandState::Expired) => "expired",
                Some(CommandState::Refused) => "refused",
                Some(CommandState::Running) | None => "cancelled",
            };
            metrics::counter!("tidewatch_commands_ended_total", "state" => state).increment(1);
        }
        for command in fx.commands {
            self.views.push_command(command);
        }
        if let Some(declared) = fx.declared.take() {
            super::show(&self.views, n, &declared);
        }
        for (aggregate, group, index) in fx.indexes {
            self.views.put_index(n, aggregate, &group, index);
        }
        self.views.put_rows(n, fx.rows);
        self.cold.extend(fx.cold);
        self.read_cold();
        for (aggregate, start) in fx.evicted {
            self.views.evict_rows(n, aggregate, start);
        }
        for alert in fx.alerts {
            self.views.put_alert(n, alert);
        }
        for item in fx.quarantine {
            self.views.push_quarantine(n, item);
        }
        for incident in fx.incidents {
            self.views.push_incident(n, incident);
        }
        if let Some(s) = fx.summary {
            self.views.put_summary(n, s.now, s.totals, s.status, s.lag);
            let reasons = s
                .reasons
                .into_iter()
                .map(|(reason, n)| (reason.as_str(), n))
                .collect();
            self.views.put_troubles(n, reasons, s.incidents);
        }
    }

    /// Completes changed windows that are not wholly in memory with what the store has.
    fn read_cold(&mut self) {
        let mut some = Vec::new();
        while some.len() < COLD_READ_AT_ONCE
            && let Some(newest) = self.cold.pop_last()
        {
            some.push(newest);
        }
        if !some.is_empty() {
            match self.past.windows(&some) {
                Ok(rows) => self.views.put_rows(self.number, rows),
                Err(error) => tracing::error!(
                    partition = self.number,
                    "failed to read windows of the past, they show as before: {error}"
                ),
            }
        }
        while self.cold.len() > COLD_WAITING_MAX
            && let Some(oldest) = self.cold.pop_first()
        {
            let place = self.state().window_place(&oldest);
            if let Some((slot, start)) = place {
                self.views.drop_rows(self.number, slot, start + 1);
            }
        }
    }

    fn checkpoint_if_due(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        self.end_checkpoint(false, stop)?;
        if self.saving.is_some() || self.abandoned {
            return Ok(());
        }
        let (at_rest, cold) = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            (state.at_rest(), state.sizes().cold)
        };
        let due = Instant::now() >= self.next_checkpoint || cold > COLD_MAX;
        if at_rest && due {
            self.begin_checkpoint();
        }
        Ok(())
    }

    /// Copies the state, if no other partition is at it, and has it written.
    fn begin_checkpoint(&mut self) {
        let offset = self.offset();
        if self.saved == Some(offset) {
            self.next_checkpoint = Instant::now() + self.settings.checkpoint_every;
            return;
        }
        let Some(mut turn) = self.saver.turn() else {
            return;
        };
        let began = Instant::now();
        let Some(saving) = self.state().begin_checkpoint(turn.take_buffer()) else {
            return;
        };
        metrics::histogram!("tidewatch_checkpoint_pause_seconds")
            .record(began.elapsed().as_secs_f64());
        self.saving_offset = Some(Offset(saving.offset));
        let (done, result) = channel();
        let job = Job {
            partition: PartitionId(self.number),
            expected: self.saved,
            saving,
            state: self.state.clone(),
            turn,
            done,
        };
        // If the thread is gone, the other end of the channel is too.
        self.saver.save(job);
        self.saving = Some(result);
        self.saving_since = began;
    }

    /// Takes the result of the checkpoint under way, if it is there or is waited for.
    ///
    /// **Errors**: what would go wrong again with every further try; the server must stop.
    fn end_checkpoint(&mut self, wait: bool, stop: &AtomicBool) -> anyhow::Result<()> {
        let Some(result) = &self.saving else {
            return Ok(());
        };
        let done = if wait {
            result.recv().map_err(|_| TryRecvError::Disconnected)
        } else {
            result.try_recv()
        };
        let done = match done {
            Ok(done) => done,
            Err(TryRecvError::Empty) => return Ok(()),
            Err(TryRecvError::Disconnected) => anyhow::bail!(
                "partition {}: the thread that writes checkpoints is gone; see the log above and start again, the log is replayed",
                self.number
            ),
        };
        self.saving = None;
        if let Err(Failure::Lasting(error)) = done.result {
            return Err(error);
        }
        let saved = self.take_done(&done, stop);
        // What could not be saved comes again with the next one, or its windows would be lost to it.
        self.state().finish_checkpoint(saved);
        let took = self.saving_since.elapsed() * CHECKPOINT_SHARE;
        self.next_checkpoint = Instant::now() + self.settings.checkpoint_every.max(took);
        let result = match done.result {
            Ok(()) => self.trim(),
            Err(Failure::Passing(error) | Failure::Lasting(error)) => Err(error),
        };
        if let Err(error) = result {
            tracing::error!(
                partition = self.number,
                "failed to save a checkpoint, trying again in {CHECKPOINT_RETRY:?}: {error:#}"
            );
            self.next_checkpoint = Instant::now() + CHECKPOINT_RETRY;
        }
        Ok(())
    }

    /// Notes a checkpoint; whether it is there.
    fn take_done(&mut self, done: &Done, stop: &AtomicBool) -> bool {
        let partition = PartitionId(self.number);
        if done.result.is_err() {
            // After a full disk or an I/O error it may be there or not. Until that is known nothing may be
            // saved: what is there would be merged again.
            let log = self.log.clone();
            let Some(latest) = insist(partition, stop, || log.latest_offset(partition)) else {
                self.abandoned = true;
                return false;
            };
            let saved = latest.is_some() && latest == self.saving_offset && latest != self.saved;
            self.saved = latest;
            if !saved {
                return false;
            }
        }
        self.saved = self.saving_offset;
        let offset = self.saving_offset.unwrap_or(done.offset);
        self.saved_ingest = Some(done.ingest);
        self.stage.note_saved(self.number, done.ingest);
        self.saved_hash = Some(done.hash);
        self.marks.push_back(Mark {
            offset,
            ingest: done.ingest,
            bytes: self.bytes,
        });
        true
    }

    fn last_checkpoint(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        self.end_checkpoint(true, stop)?;
        // If the newest step was in the second of the one before, the state cannot be saved now; the log
        // has it.
        if !self.state().at_rest() || self.abandoned {
            return Ok(());
        }
        let since = Instant::now();
        while self.saving.is_none() && self.saved != Some(self.offset()) {
            self.begin_checkpoint();
            if self.saving.is_none() {
                if since.elapsed() > LAST_WAIT {
                    tracing::warn!(
                        partition = self.number,
                        "no time for a last checkpoint; the next start replays the log"
                    );
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        self.end_checkpoint(true, stop)
    }

    /// Trims the log to the newest mark that is old enough, or that has too many bytes behind it.
    fn trim(&mut self) -> anyhow::Result<()> {
        let horizon = horizon(&self.clock, &self.settings);
        let most = self.settings.log_keep_bytes / u64::from(self.log.partitions());
        let old = |m: &Mark| m.ingest < horizon || self.bytes.saturating_sub(m.bytes) > most;
        let due = self.marks.iter().take_while(|m| old(m)).count();
        if let Some(mark) = due.checked_sub(1).and_then(|i| self.marks.get(i)) {
            self.log.trim(PartitionId(self.number), mark.offset)?;
            self.marks.drain(..due);
        }
        Ok(())
    }

    fn report(&mut self) {
        if self
            .last_report
            .is_some_and(|t| t.elapsed() < Duration::from_secs(1))
        {
            return;
        }
        let first_time = self.last_report.is_none();
        self.last_report = Some(Instant::now());
        let partition = PartitionId(self.number);
        let (offset, now, sizes) = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            (state.offset(), state.now(), state.sizes())
        };
        let end = self.log.end(partition).0;
        let newest = self.log.last_ingest_time(partition).unwrap_or(now);
        let seconds = |micros: i64| micros.max(0) as f64 / 1e6;
        let lag = end.saturating_sub(offset);
        self.views.put_report(PartitionReport {
            partition: self.number,
            first_offset: self.log.first(partition).0,
            end_offset: end,
            processed_offset: offset,
            lag_records: lag,
            lag_seconds: if lag > 0 {
                seconds(newest.saturating_sub(now))
            } else {
                0.0
            },
            checkpoint_offset: self.saved.map(|o| o.0),
            checkpoint_age_seconds: self.saved_ingest.map(|t| seconds(now.saturating_sub(t))),
            agents: sizes.agents as u64,
            devices: sizes.devices as u64,
            windows: sizes.windows as u64,
            state_hash: self.saved_hash.map(|h| format!("{h:016x}")),
        });
        // One thread looks at the files, now and then.
        if self.number == 0
            && (first_time || offset % 8 == 0)
            && let Ok(sizes) = self.log.sizes()
        {
            self.views.put_files(
                FileReport {
                    bytes: sizes.log_file_bytes,
                },
                FileReport {
                    bytes: sizes.state_file_bytes,
                },
            );
        }
    }
}

/// Asks for the newest checkpoint until there is an answer. Once the server stops, a few times more; then none.
fn insist<T>(
    partition: PartitionId,
    stop: &AtomicBool,
    mut ask: impl FnMut() -> Result<T, eventlog::Error>,
) -> Option<T> {
    let mut last_tries = 0;
    loop {
        let error = match ask() {
            Ok(answer) => return Some(answer),
            Err(error) => error,
        };
        if stop.load(Ordering::Acquire) {
            last_tries += 1;
            if last_tries >= LAST_TRIES {
                tracing::error!(
                    partition = partition.0,
                    "failed to read which checkpoint is there, stopping without a last one: {error}. Nothing is lost: the next start goes on from the one that is there and replays the log"
                );
                return None;
            }
            std::thread::sleep(NAP);
            continue;
        }
        tracing::error!(
            partition = partition.0,
            "failed to read which checkpoint is there, trying again in {CHECKPOINT_RETRY:?}: {error}"
        );
        let since = Instant::now();
        while since.elapsed() < CHECKPOINT_RETRY && !stop.load(Ordering::Acquire) {
            std::thread::sleep(NAP);
        }
    }
}

/// Records that entered before this may go.
fn horizon(clock: &Clock, settings: &Settings) -> i64 {
    let keep = i64::try_from(settings.log_keep.as_micros()).unwrap_or(i64::MAX);
    clock().saturating_sub(keep)
}

/// The newest place in the log, not behind `end`, before which every record entered before `horizon`; none
/// if there is nothing to trim. A binary search: ingest time does not decrease within a partition.
fn newest_before(
    log: &Log,
    partition: PartitionId,
    end: Offset,
    horizon: i64,
) -> anyhow::Result<Option<Offset>> {
    let first = log.first(partition).0;
    let (mut low, mut high) = (first, end.0);
    while low < high {
        let middle = low + (high - low) / 2;
        let block = log.read(partition, Offset(middle), 1)?;
        let old = block.first().is_some_and(|b| b.ingest_time < horizon);
        if old {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok((low > first).then_some(Offset(low)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use super::*;

    #[test]
    fn a_stop_waits_for_an_answer_of_a_failing_disk_a_few_times_only() {
        let stop = AtomicBool::new(false);
        let mut asked = 0;
        let began = Instant::now();
        // The stop comes while it waits for the next try.
        let answer = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(100));
                stop.store(true, Ordering::Release);
            });
            insist(PartitionId(0), &stop, || -> Result<(), _> {
                asked += 1;
                Err(eventlog::Error::Closed)
            })
        });
        assert_eq!((answer, asked), (None, 1 + LAST_TRIES));
        assert!(began.elapsed() < CHECKPOINT_RETRY);
        // One that recovers meanwhile is believed.
        let mut answers = vec![Ok(7), Err(eventlog::Error::Closed)];
        let answer = insist(PartitionId(0), &stop, || answers.pop().unwrap());
        assert_eq!(answer, Some(7));
    }

    #[test]
    fn what_may_be_trimmed_is_found_by_ingest_time() {
        let dir = tempfile::tempdir().unwrap();
        let time = Arc::new(AtomicI64::new(0));
        let clock: Clock = {
            let time = time.clone();
            Arc::new(move || time.load(Ordering::Relaxed))
        };
        let settings = eventlog::Settings {
            partitions: 1,
            ..eventlog::Settings::default()
        };
        let log = Log::open(dir.path(), settings, clock).unwrap();
        let p = PartitionId(0);
        for t in 1..=10 {
            time.store(t * 100, Ordering::Relaxed);
            // Three records a block: offsets 3t-3 .. 3t.
            log.append_blocking(p, vec![Bytes::from_static(b"x"); 3])
                .unwrap();
        }
        let found = |end, horizon| newest_before(&log, p, Offset(end), horizon).unwrap();
        assert_eq!(found(30, 100), None);
        assert_eq!(found(30, 101), Some(Offset(3)));
        assert_eq!(found(30, 550), Some(Offset(15)));
        assert_eq!(
            found(7, 550),
            Some(Offset(7)),
            "never behind the checkpoint"
        );
        assert_eq!(found(30, 5000), Some(Offset(30)));
        log.close();
    }
}
