//! The thread that owns the agent's core: stores what the inbox holds, feeds the link, and ends in
//! order.
//!
//! One thread, because a commit blocks (on an SD card for a long time) and because one owner needs
//! no locks. It sleeps until there is something to do: an idle agent uses no CPU.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use event::{EventTime, Incarnation};
use tokio::sync::mpsc;

use crate::buffer::{BufferError, OpenError, Placed, reserve};
use crate::clock::{Now, SetBy};
use crate::core::{AckError, Core, Outgoing};
use crate::health::{Gone, Health};
use crate::inbox::{Inbox, News, Pending};
use crate::room::Room;

/// What the link is to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ToLink {
    /// Publish on the batch topic.
    Batch(Vec<u8>),
    /// Publish on the status topic, retained.
    Status(String),
    /// Close the connection, for this reason, and make a new one.
    Reconnect(&'static str),
    /// Publish the last status, disconnect and end.
    Goodbye(String),
}

/// Messages that may wait for the link: more than can be in flight, so that it never blocks us.
pub(crate) const TO_LINK_MAX: usize = 32;

/// When something keeps it from sending, look again after this time.
const BLOCKED_WAIT: Duration = Duration::from_millis(20);

/// After so many answers of the cloud that say no time, events are sent with a clock that is not set.
const TIMELESS_ANSWERS_MAX: u32 = 3;
/// While events wait for the clock to be set, look again after this time.
const CLOCK_WAIT: Duration = Duration::from_secs(2);

/// At the end, with nothing left but readings without a time, somebody may tell it for so long.
const LAST_CLOCK_WAIT: Duration = Duration::from_secs(30);

/// On a full disk, look for room again after this time.
pub(crate) const FULL_WAIT: Duration = Duration::from_secs(5);
/// A full disk is not reported again before this time.
const FULL_LOG_EVERY: Duration = Duration::from_secs(600);

/// Opens the buffer again after the disk was full, as a new life.
pub(crate) type Reopen = Box<dyn FnMut(EventTime) -> Result<Core, OpenError> + Send>;

pub(crate) struct Keeper {
    pub inbox: Arc<Inbox>,
    pub health: Health,
    pub link: mpsc::Sender<ToLink>,
    /// What acks have changed is on disk after at most this time.
    pub flush_interval: Duration,
    /// Where the buffer lies.
    pub dir: PathBuf,
    pub reopen: Reopen,
    /// The disk's free space.
    pub room: Room,
    /// On a full disk, look for room again after this time.
    pub full_wait: Duration,
    /// Nothing is taken from the sources, because the disk is full.
    pub full: Option<Full>,
    /// When a full disk was last reported.
    pub told_full: Option<Duration>,
    /// What could not be stored.
    pub failed: Option<Failed>,
    /// The offset of the clock by which the session measures, microseconds.
    pub clock_offset_us: i64,
}

/// What could not be stored.
#[derive(Debug)]
pub(crate) struct Failed {
    pending: Pending,
    /// The number that its last event was to have.
    last: u64,
    /// The number that its last reading without a time was to have.
    last_untimed: u64,
}

/// The disk is full.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Full {
    /// Bytes held when that was found.
    pub held: u64,
    /// When to look again.
    pub look_at: Duration,
}

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// Everything is to be sent first, however long it takes; only readings without a time are left for a
    /// later start when nobody tells it.
    Finishing,
    /// The monotonic time by which to end.
    Stopping(Duration),
}

impl Keeper {
    /// Works until the end. When this returns `Ok`, everything accepted is on disk and the buffer is
    /// closed in order; the number is of readings that have no time yet.
    ///
    /// A full disk is no end: sources wait, what is held is sent and deleted, and when there is room
    /// it goes on.
    pub(crate) fn run(mut self, mut core: Core) -> Result<u64, BufferError> {
        let mut phase = Phase::Running;
        let mut last_try = false;
        let (result, offline) = loop {
            let result = self.work(&mut core, &mut phase);
            let offline = core.status(false).to_json();
            match result {
                Ok(()) => break (Ok(core), offline),
                Err(error) if error.is_disk_full() && !last_try => {
                    last_try = matches!(phase, Phase::Stopping(_));
                    let (life, held) = (core.buffer().incarnation(), core.buffer().held().bytes);
                    drop(core);
                    self.pause(held);
                    match self.open_again(life, &mut phase) {
                        Some(again) => core = again,
                        None => break (Err(error), offline),
                    }
                }
                Err(error) => break (Err(error), offline),
            }
        };
        self.inbox.close();
        let _ = self.link.blocking_send(ToLink::Goodbye(offline));
        let core = result?;
        let (now, unplaced) = (self.known_until(&core), core.buffer().unplaced());
        core.close(now)?;
        Ok(unplaced)
    }

    /// The disk is full: sources are to wait.
    pub(crate) fn pause(&mut self, held: u64) {
        let now = self.now();
        if self.told_full.is_none_or(|at| now >= at + FULL_LOG_EVERY) {
            self.told_full = Some(now);
            tracing::error!(
                "the disk is full: no readings are taken until there is room; what is held is kept \
                 and sent. Free space on the disk of {}, or lower buffer.bytes_max",
                self.dir.display()
            );
        }
        self.full = Some(Full {
            held,
            look_at: now + self.full_wait,
        });
        self.health.disk_is_full(true);
    }

    /// Readings are taken again once the reserve can be made: with as much to spare, or, when half of
    /// what was held is deleted, without, because then the buffer's file has room inside.
    fn look_for_room(&mut self, core: &Core, now: Duration) {
        let Some(full) = self.full.filter(|f| now >= f.look_at) else {
            return;
        };
        if reserve::make(&self.dir, true).is_ok() {
            self.full = None;
            self.told_full = None;
            self.health.disk_is_full(false);
            tracing::info!("the disk has room again: readings are taken");
        } else if core.buffer().held().bytes <= full.held / 2
            && reserve::make(&self.dir, false).is_ok()
        {
            self.full = None;
            self.health.disk_is_full(false);
            tracing::info!("half of the buffer is sent: readings are taken while there is room");
        } else {
            let look_at = now + self.full_wait;
            self.full = Some(Full { look_at, ..full });
        }
    }

    /// A failed write leaves the buffer unusable. It is opened again as a new life, with the room of
    /// the reserve; what could not be stored is stored then, unless it was after all. None if the
    /// agent is to stop, or the buffer fails in another way.
    fn open_again(&mut self, life: Incarnation, phase: &mut Phase) -> Option<Core> {
        let mut core = loop {
            reserve::release(&self.dir);
            let error = match (self.reopen)(self.inbox.clock().known()) {
                Ok(core) => break core,
                Err(error) => error,
            };
            if !error.is_disk_full() {
                tracing::error!(error = &error as &dyn std::error::Error, "open the buffer");
                return None;
            }
            let until = self.now() + self.full_wait;
            while self.now() < until {
                for news in self.inbox.wait_for_news(until) {
                    match news {
                        News::Stop(_) => return None,
                        News::Finish => *phase = Phase::Finishing,
                        News::Alive => self.health.alive(),
                        // The connection is made anew, and everything is sent again.
                        News::Connected | News::Disconnected | News::Ack(_) => {}
                    }
                }
            }
        };
        if let Some(failed) = self.failed.take() {
            let buffer = core.buffer();
            // Both kinds are stored in one transaction.
            let stored = if failed.pending.samples.is_empty() {
                let next = buffer.next_unplaced(self.inbox.clock().boot_id());
                !failed.pending.untimed.is_empty() && next > failed.last_untimed
            } else {
                buffer.last_seq_of(life).is_some_and(|n| n >= failed.last)
            };
            if stored {
                self.inbox.stored(failed.pending);
            } else {
                self.inbox.put_back(failed.pending);
            }
        }
        if *phase != Phase::Running {
            core.finish();
        }
        let _ = self
            .link
            .blocking_send(ToLink::Reconnect("the buffer was opened again"));
        Some(core)
    }

    fn work(&mut self, core: &mut Core, phase: &mut Phase) -> Result<(), BufferError> {
        let mut dirty_since: Option<Duration> = None;
        let mut blocked = false;
        let mut in_vain_since: Option<Duration> = None;
        loop {
            let until = self.next_wake(core, *phase, dirty_since, blocked);
            let (news, pending) = match self.full {
                // Without a connection there may be nothing else to wake up for.
                Some(full) => {
                    let until = until.map_or(full.look_at, |u| u.min(full.look_at));
                    (self.inbox.wait_for_news(until), None)
                }
                None => self.inbox.wait(until, *phase != Phase::Running),
            };
            for item in news {
                *phase = self.take_news(core, item, *phase)?;
            }
            let now = self.now();
            self.mind_the_clock(core);
            self.expire(core, now)?;
            if let Some(pending) = pending {
                self.store(core, pending)?;
            } else if self.flush_due(core, now, dirty_since, *phase) {
                let until = self.stored_until(core);
                core.flush(until)?;
            }
            // On a full disk the room is for deleting. With nothing else to send it is tried when room is
            // looked for.
            let only_untimed = core.buffer().held().events == core.buffer().unplaced();
            let may_place = self
                .full
                .is_none_or(|full| now >= full.look_at && only_untimed);
            let placed = if may_place { self.place(core)? } else { None };
            self.look_for_room(core, now);
            dirty_since = core.buffer().is_dirty().then(|| dirty_since.unwrap_or(now));
            let (buffer, offset) = (core.buffer(), core.session().clock_offset_us());
            let held = buffer.held();
            self.inbox.set_backlog(held.bytes);
            let gone = Gone {
                dropped: buffer.dropped(),
                summed_up: buffer.summed_up(),
            };
            self.health
                .buffer_is(buffer.incarnation(), held, gone, offset);
            self.health
                .unplaced(buffer.unplaced(), placed.and_then(|p| p.uncertain_s));
            blocked = self.pump(core, now)? || placed.is_some();
            let in_vain = self.waits_in_vain(core);
            in_vain_since = in_vain.then(|| in_vain_since.unwrap_or(now));
            let given_up = in_vain_since.is_some_and(|since| now >= since + LAST_CLOCK_WAIT);
            let ended = match *phase {
                Phase::Running => false,
                // What waits for room is to be sent, too.
                Phase::Finishing => (is_finished(core) || given_up) && self.full.is_none(),
                Phase::Stopping(by) => {
                    is_finished(core) || !core.session().is_connected() || now >= by
                }
            };
            if ended {
                return self.store_the_last(core);
            }
        }
    }

    /// What the clock has become since the last round, and what that means for what is sent.
    fn mind_the_clock(&mut self, core: &mut Core) {
        let clock = self.inbox.clock();
        let offset_us = clock.guess_us();
        if offset_us != self.clock_offset_us {
            core.clock_moved(offset_us.saturating_sub(self.clock_offset_us));
            self.clock_offset_us = offset_us;
        }
        let is_set = clock.offset_us().is_some();
        // A cloud that never tells the time must not keep us from sending.
        let wait = !is_set && clock.timeless_answers() < TIMELESS_ANSWERS_MAX;
        core.time_is_known(is_set, wait);
    }

    /// Whether nothing is left but readings without a time, and the cloud has answered often enough without
    /// telling it.
    fn waits_in_vain(&self, core: &Core) -> bool {
        let (buffer, clock) = (core.buffer(), self.inbox.clock());
        let held = buffer.held().events;
        held > 0
            && held == buffer.unplaced()
            && clock.offset_us().is_none()
            && clock.timeless_answers() >= TIMELESS_ANSWERS_MAX
    }

    /// Gives some of the readings that have no wall time theirs, once the clock is set. None if there was
    /// nothing to do.
    fn place(&mut self, core: &mut Core) -> Result<Option<Placed>, BufferError> {
        let clock = self.inbox.clock();
        let Some(offset_us) = clock.offset_us() else {
            return Ok(None);
        };
        let (buffer, boot_id) = (core.buffer(), clock.boot_id());
        // What was noted once is kept right; what the cloud told is noted for a later process of this boot.
        let note = buffer.offset_of(boot_id).is_some() || clock.report().set_by == SetBy::Cloud;
        if !note && !buffer.has_to_place() {
            return Ok(None);
        }
        let until = self.stored_until(core);
        let placed = core.place(boot_id, offset_us, until)?;
        if let Some(uncertain_s) = placed.and_then(|p| p.uncertain_s) {
            tracing::warn!(
                "readings of a boot in which the clock was never set get times that may be off by \
                 {uncertain_s:.0} s"
            );
        }
        if placed.is_some() && !core.buffer().has_to_place() {
            tracing::info!("all readings taken before the clock was set have their times now");
        }
        Ok(placed)
    }

    /// What a commit says of what is on disk; while the clock is not set, nothing new.
    fn stored_until(&self, core: &Core) -> EventTime {
        let until = self.inbox.stored_until();
        until.unwrap_or_else(|| core.buffer().committed_at())
    }

    /// The present time, for the last commit.
    fn known_until(&self, core: &Core) -> EventTime {
        match self.inbox.clock().now() {
            Now::Wall(now) => now,
            Now::Boot(_) => core.buffer().committed_at(),
        }
    }

    /// Drops what is too old, if it is time to.
    fn expire(&mut self, core: &mut Core, now: Duration) -> Result<(), BufferError> {
        if core.buffer().next_expiry().is_some_and(|at| now >= at) {
            self.tell_time(core, now);
            let dropped = core.expire(now)?;
            if dropped > 0 {
                // Before the next watermark leaves them out.
                let until = self.stored_until(core);
                core.flush(until)?;
                tracing::warn!(
                    dropped,
                    "events were held for longer than buffer.age_max_s: they are dropped and declared lost"
                );
            }
        }
        Ok(())
    }

    fn tell_time(&self, core: &mut Core, now: Duration) {
        let clock = self.inbox.clock();
        let wall = match clock.now() {
            Now::Wall(wall) => Some(wall),
            Now::Boot(_) => None,
        };
        let boottime = Duration::from_micros(clock.boottime_us());
        core.set_clock(now, boottime, wall);
    }

    fn store(&mut self, core: &mut Core, mut pending: Pending) -> Result<(), BufferError> {
        let now = self.now();
        self.tell_time(core, now);
        if let Some(found) = self.room.check(now, core.buffer().held().bytes) {
            core.limit_buffer(found.limit);
            self.health
                .room_is(found.free, core.buffer().bytes_max(), found.limit.is_some());
        }
        let clock = self.inbox.clock();
        if let Some(offset_us) = clock.offset_us() {
            pending.place(offset_us);
        }
        let (cursors, until) = (pending.cursors(), self.stored_until(core));
        let last = core.buffer().next_seq() - 1 + pending.samples.len() as u64;
        let next_untimed = core.buffer().next_unplaced(clock.boot_id());
        let last_untimed = next_untimed - 1 + pending.untimed.len() as u64;
        core.note_commands(&pending.commands);
        let result = core
            .hold(clock.boot_id(), &pending.untimed, pending.volatile)
            .and_then(|()| core.append(&pending.samples, &cursors, pending.volatile, until));
        match result {
            Ok(_) => {
                self.inbox.stored(pending);
                Ok(())
            }
            Err(error) => {
                self.failed = Some(Failed {
                    pending,
                    last,
                    last_untimed,
                });
                Err(error)
            }
        }
    }

    /// Takes nothing more, and stores what came in during the last steps.
    fn store_the_last(&mut self, core: &mut Core) -> Result<(), BufferError> {
        self.inbox.close();
        match self.inbox.wait(Some(Duration::ZERO), true) {
            (_, Some(pending)) => self.store(core, pending),
            _ => Ok(()),
        }
    }

    fn take_news(
        &mut self,
        core: &mut Core,
        news: News,
        phase: Phase,
    ) -> Result<Phase, BufferError> {
        match news {
            News::Connected => {
                self.health.connected(self.now());
                core.connected();
                let status = core.status(true).to_json();
                let _ = self.link.try_send(ToLink::Status(status));
            }
            News::Disconnected => {
                self.health.disconnected();
                core.disconnected();
            }
            News::Ack(payload) => {
                self.mind_the_clock(core);
                let (now, wall) = (self.now(), self.inbox.clock().wall());
                match core.ack_received(now, wall, &payload) {
                    Ok((freed, ack)) => {
                        let said = ack.cloud_received_at.min(ack.cloud_sent_at) > EventTime(0);
                        match core.take_clock() {
                            None if said => {}
                            told => self.inbox.clock().heard_cloud(told),
                        }
                        self.inbox.heard_cloud_time(ack.cloud_sent_at);
                        tracing::debug!(freed, tx_no = ack.tx_no, "acknowledged");
                        // What the ranges name may be anything.
                        let refused = ack.refused.iter().map(|r| r.range);
                        let refused = refused.fold(0_u64, |sum, r| {
                            let count = r.last.saturating_sub(r.first).saturating_add(1);
                            sum.saturating_add(count)
                        });
                        self.health.acked(now, refused);
                        for refused in &ack.refused {
                            tracing::warn!(
                                reason = %refused.reason, message = %refused.message,
                                first = refused.range.first, last = refused.range.last,
                                "the cloud refused events; they are kept and tried again"
                            );
                        }
                    }
                    Err(AckError::Decode(error)) => {
                        tracing::warn!(%error, "ignoring a message on the ack topic");
                    }
                    Err(AckError::Buffer(error)) => return Err(error),
                }
            }
            News::Alive => self.health.alive(),
            News::Finish => {
                core.finish();
                if phase == Phase::Running {
                    return Ok(Phase::Finishing);
                }
            }
            News::Stop(grace) => {
                self.inbox.close();
                core.finish();
                if !matches!(phase, Phase::Stopping(_)) {
                    return Ok(Phase::Stopping(self.now() + grace));
                }
            }
        }
        Ok(phase)
    }

    /// Sends what is to be sent. Returns whether something keeps it from sending: no room at the link,
    /// or a source that does not know yet where it stands.
    fn pump(&mut self, core: &mut Core, now: Duration) -> Result<bool, BufferError> {
        while core.session().is_connected() {
            if self.link.capacity() <= 1 {
                return Ok(true);
            }
            let Some(stamp) = self.inbox.stamp() else {
                return Ok(true);
            };
            let message = match core.poll(now, &stamp)? {
                None => return Ok(false),
                Some(Outgoing::Batch { payload, .. }) => ToLink::Batch(payload),
                Some(Outgoing::Reconnect) => {
                    core.disconnected();
                    ToLink::Reconnect("the server takes batches and never answers")
                }
            };
            // Lost only if the link has ended; the protocol sends again what gets lost here.
            let _ = self.link.try_send(message);
        }
        Ok(false)
    }

    fn next_wake(
        &self,
        core: &Core,
        phase: Phase,
        dirty_since: Option<Duration>,
        blocked: bool,
    ) -> Option<Duration> {
        let session = if blocked {
            Some(self.now() + BLOCKED_WAIT)
        } else {
            core.next_wake()
        };
        let flush = dirty_since.map(|since| since + self.flush_interval);
        let expiry = core.buffer().next_expiry();
        let end = match phase {
            Phase::Stopping(by) => Some(by),
            Phase::Running | Phase::Finishing => None,
        };
        let waits = core.buffer().held().events > 0 && self.inbox.clock().offset_us().is_none();
        let clock = waits.then(|| self.now() + CLOCK_WAIT);
        let all = [session, flush, expiry, end, clock];
        all.into_iter().flatten().min()
    }

    fn flush_due(
        &self,
        core: &Core,
        now: Duration,
        dirty_since: Option<Duration>,
        phase: Phase,
    ) -> bool {
        let buffer = core.buffer();
        // The last word says that earlier lives are empty, which is said only once it is on disk.
        let last_word = phase != Phase::Running && buffer.held().events == 0 && buffer.is_dirty();
        last_word
            || buffer.wants_flush()
            || dirty_since.is_some_and(|since| now >= since + self.flush_interval)
    }

    fn now(&self) -> Duration {
        self.inbox.clock().monotonic()
    }
}

fn is_finished(core: &Core) -> bool {
    core.session().is_finished() && core.buffer().held().events == 0
}

#[cfg(test)]
mod clock_tests;
#[cfg(test)]
mod room_tests;
#[cfg(test)]
mod tests;
