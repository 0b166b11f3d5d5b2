//! The agent without its threads, clocks and connections: buffer and session joined.
//!
//! [`keeper`](crate::keeper) drives it on a device. A simulation drives it with an in-memory buffer
//! ([`open_backend`](crate::buffer::open_backend)) and a time of its own.

use std::time::Duration;

use event::{
    Ack, AgentId, BatchHeader, ClockState, DecodeError, EncodeError, EventTime, Sample, SeqRange,
    Status, batch,
};

use crate::buffer::{Announcement, Buffer, BufferError, CommandChanges, Cursor, Placed};
use crate::uplink::session::{self, Session, Step};

/// Lineage entries and gaps told in one transmission.
const TELL_MAX: usize = 64;

/// What a transmission says of this moment. Taken together, under the lock that stamps events.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// The agent's present time.
    pub wall: EventTime,
    /// No event that is not in the buffer yet has or will get a time before this: the present time,
    /// or earlier if samples wait to be stored or a source replays the past.
    pub floor: EventTime,
    /// Microseconds since boot.
    pub boottime_us: u64,
    /// Quality of the clock.
    pub clock: ClockState,
}

/// What is to leave the agent.
#[derive(Debug, Clone, PartialEq)]
pub enum Outgoing {
    /// Publish on the batch topic.
    Batch {
        /// The encoded batch.
        payload: Vec<u8>,
        /// How many events are inside (0 = heartbeat).
        events: u32,
    },
    /// The peer never answers: close the connection and make a new one.
    Reconnect,
}

/// An agent: its buffer and its sending side.
#[derive(Debug)]
pub struct Core {
    agent: AgentId,
    buffer: Buffer,
    session: Session,
    batch_bytes_max: usize,
    /// Whether the agent's time is known; until then no stretch of possible loss ends.
    time_known: bool,
    /// What the cloud last said of the time; see [`Self::take_clock`].
    clock: Option<(i64, i64)>,
}

impl Core {
    /// Joins an open buffer with a new session. `seed` feeds the jitter of its waits;
    /// `batch_bytes_max` bounds an encoded batch.
    pub fn new(
        agent: AgentId,
        buffer: Buffer,
        settings: session::Settings,
        batch_bytes_max: usize,
        seed: u64,
    ) -> Self {
        let session = Session::new(settings, seed);
        let batch_bytes_max = batch_bytes_max.min(batch::BYTES_MAX);
        Self {
            agent,
            buffer,
            session,
            batch_bytes_max,
            time_known: true,
            clock: None,
        }
    }

    /// The buffer.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// The sending side.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Stores samples; see [`Buffer::append`].
    ///
    /// **Errors**: as there.
    pub fn append(
        &mut self,
        samples: &[Sample],
        cursors: &[Cursor],
        volatile: bool,
        until: EventTime,
    ) -> Result<Option<SeqRange>, BufferError> {
        self.buffer.sending(self.session.sending());
        self.buffer.append(samples, cursors, volatile, until)
    }

    /// Stores readings that have no wall time yet with the next [`Self::append`]; see [`Buffer::hold`].
    ///
    /// **Errors**: as there.
    pub fn hold(
        &mut self,
        boot_id: &str,
        samples: &[Sample],
        volatile: bool,
    ) -> Result<(), BufferError> {
        self.buffer.hold(boot_id, samples, volatile)
    }

    /// Notes this boot's offset, and gives readings that have none their wall times, some at a time; see
    /// [`Buffer::place`].
    ///
    /// **Errors**: as there.
    pub fn place(
        &mut self,
        boot_id: &str,
        offset_us: i64,
        until: EventTime,
    ) -> Result<Option<Placed>, BufferError> {
        self.buffer.note_offset(boot_id, offset_us);
        // Placing makes room, too.
        self.buffer.sending(self.session.sending());
        let placed = self.buffer.place(boot_id, until)?;
        if placed.is_some() {
            // What was placed is of the past: it waits its turn under the cloud's budget.
            self.session.backlog_ends(self.buffer.end());
        }
        Ok(placed)
    }

    /// Whether the agent's time is known (it is at first), and whether events are to wait as long as it is
    /// not; see [`Session::let_events_wait`].
    pub fn time_is_known(&mut self, known: bool, events_wait: bool) {
        self.time_known = known;
        self.session.let_events_wait(events_wait);
    }

    /// The agent's wall clock was set or stepped; see [`Session::clock_moved`].
    pub fn clock_moved(&mut self, by_us: i64) {
        self.session.clock_moved(by_us);
    }

    /// What the last answer of the cloud says of the time, once: by how much its clock is ahead, and how long
    /// the answer took both ways, microseconds.
    pub fn take_clock(&mut self) -> Option<(i64, i64)> {
        self.clock.take()
    }

    /// Changes rows of commands with the next [`Self::append`]; see [`Buffer::note_commands`].
    pub fn note_commands(&mut self, changes: &CommandChanges) {
        self.buffer.note_commands(changes);
    }

    /// Takes the present time; see [`Buffer::set_clock`].
    pub fn set_clock(&mut self, monotonic: Duration, boottime: Duration, wall: Option<EventTime>) {
        self.buffer.set_clock(monotonic, boottime, wall);
    }

    /// Drops what is too old; see [`Buffer::expire`].
    ///
    /// **Errors**: as there.
    pub fn expire(&mut self, monotonic: Duration) -> Result<u64, BufferError> {
        self.buffer.expire(monotonic)
    }

    /// Lowers the buffer's limit; see [`Buffer::limit`].
    pub fn limit_buffer(&mut self, bytes: Option<u64>) {
        self.buffer.limit(bytes);
    }

    /// Commits what acks have changed; see [`Buffer::flush`].
    ///
    /// **Errors**: as there.
    pub fn flush(&mut self, until: EventTime) -> Result<(), BufferError> {
        self.buffer.flush(until)
    }

    /// The connection stands.
    pub fn connected(&mut self) {
        self.session.connected(self.buffer.end());
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.session.disconnected();
    }

    /// No more events will come; see [`Session::finish`].
    pub fn finish(&mut self) {
        self.session.finish();
    }

    /// When [`Self::poll`] may have something to do, if nothing else happens.
    pub fn next_wake(&self) -> Option<Duration> {
        self.session.next_wake(self.has_to_tell())
    }

    /// What the retained status says.
    pub fn status(&self, online: bool) -> Status {
        Status {
            online,
            incarnation: self.buffer.incarnation().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backlog: self.buffer.held().events,
        }
    }

    /// A message came on the ack topic. Returns how many events it freed, and the ack.
    ///
    /// **Errors**: bytes that are no ack (ignored), or the buffer failed.
    pub fn ack_received(
        &mut self,
        now: Duration,
        wall: EventTime,
        payload: &[u8],
    ) -> Result<(u64, Ack), AckError> {
        let mut ack = Ack::decode(payload)?;
        // A range that ends before it begins names nothing.
        ack.ranges.retain(|r| r.first <= r.last);
        ack.refused.retain(|r| r.range.first <= r.range.last);
        if ack.incarnation != self.buffer.incarnation() {
            // It answers a transmission of an earlier life: what it names is durable all the same, but its
            // number says nothing about a transmission of this life.
            ack.tx_no = 0;
        }
        let answer = self.session.ack(now, wall, &ack);
        self.clock = answer.clock;
        let freed = self.buffer.ack(&answer.acked)?;
        if let Some(told) = &answer.told {
            self.buffer.told(told);
        }
        Ok((freed, ack))
    }

    /// What is to be sent at `now`; call again until it returns none.
    ///
    /// **Errors**: the buffer failed.
    pub fn poll(&mut self, now: Duration, stamp: &Stamp) -> Result<Option<Outgoing>, BufferError> {
        loop {
            let to_tell = self.has_to_tell();
            let Some(step) = self.session.poll(now, &self.buffer, to_tell) else {
                return Ok(None);
            };
            match step {
                Step::Reconnect => return Ok(Some(Outgoing::Reconnect)),
                Step::Heartbeat { tx_no } => {
                    let payload = self.transmit(now, stamp, tx_no, None)?;
                    return Ok(Some(Outgoing::Batch { payload, events: 0 }));
                }
                Step::Batch { tx_no, range } => {
                    let Some((range, samples)) = self.buffer.take(range)? else {
                        self.session.gone(range);
                        continue;
                    };
                    let events = samples.len() as u32;
                    let payload = self.transmit(now, stamp, tx_no, Some((range, samples)))?;
                    return Ok(Some(Outgoing::Batch { payload, events }));
                }
            }
        }
    }

    /// Closes the buffer in order; see [`Buffer::close`].
    ///
    /// **Errors**: as there.
    pub fn close(self, now: EventTime) -> Result<(), BufferError> {
        self.buffer.close(now)
    }

    fn has_to_tell(&self) -> bool {
        !self.buffer.announcement(1).is_empty()
    }

    fn transmit(
        &mut self,
        now: Duration,
        stamp: &Stamp,
        tx_no: u64,
        events: Option<(SeqRange, Vec<Sample>)>,
    ) -> Result<Vec<u8>, BufferError> {
        self.buffer.note_spoke()?;
        if self.time_known {
            self.buffer.know_time(stamp.wall);
        }
        let said = self.buffer.announcement(TELL_MAX);
        let (mut range, mut samples) = match events {
            Some((range, samples)) => (Some(range), samples),
            None => (None, Vec::new()),
        };
        let payload = loop {
            let header = self.header(stamp, tx_no, range, &said)?;
            match batch::encode(&header, &samples) {
                Ok(payload) if payload.len() <= self.batch_bytes_max || samples.len() <= 1 => {
                    break payload;
                }
                Ok(_) | Err(EncodeError::TooLarge { .. }) if samples.len() > 1 => {
                    // Any cut of a range will do: the rest goes with the next batch.
                    samples.truncate(samples.len() / 2);
                    range = range.map(|r| SeqRange {
                        last: r.first + samples.len() as u64 - 1,
                        ..r
                    });
                }
                Ok(payload) => break payload,
                Err(e) => return Err(e.into()),
            }
        };
        self.session.sent(now, stamp.wall, tx_no, range, said);
        Ok(payload)
    }

    fn header(
        &mut self,
        stamp: &Stamp,
        tx_no: u64,
        range: Option<SeqRange>,
        said: &Announcement,
    ) -> Result<BatchHeader, BufferError> {
        let incarnation = self.buffer.incarnation();
        let earliest = [self.buffer.earliest(range)?, self.buffer.unplaced_floor()];
        let earliest = earliest.into_iter().flatten().min();
        Ok(BatchHeader {
            agent: self.agent.clone(),
            incarnation,
            tx_no,
            sent_at: stamp.wall,
            boottime_us: stamp.boottime_us,
            clock: stamp.clock,
            e_inc: range.map_or(incarnation, |r| r.incarnation),
            first_seq: range.map_or(self.buffer.next_seq(), |r| r.first),
            count: range.map_or(0, |r| (r.last - r.first + 1) as u32),
            low_watermark: earliest.map_or(stamp.floor, |e| e.min(stamp.floor)),
            quiet_until: None,
            held: self.buffer.held(),
            lineage: said.lineage.clone(),
            unclean: said.unclean,
            gaps: said.gaps.clone(),
        })
    }
}

#[cfg(test)]
mod tests;

/// Why an ack changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum AckError {
    /// The bytes are no ack. Log and go on.
    #[error("read an ack")]
    Decode(#[from] DecodeError),
    /// The buffer failed. Open it again.
    #[error(transparent)]
    Buffer(#[from] BufferError),
}
