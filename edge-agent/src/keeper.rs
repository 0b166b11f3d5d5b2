//! The thread that owns the agent's core: stores what the inbox holds, feeds the link, and ends in
//! order.
//!
//! One thread, because a commit blocks (on an SD card for a long time) and because one owner needs
//! no locks. It sleeps until there is something to do: an idle agent uses no CPU.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::buffer::BufferError;
use crate::core::{AckError, Core, Outgoing};
use crate::inbox::{Inbox, News};

/// What the link is to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ToLink {
    /// Publish on the batch topic.
    Batch(Vec<u8>),
    /// Publish on the status topic, retained.
    Status(String),
    /// Close the connection and make a new one.
    Reconnect,
    /// Publish the last status, disconnect and end.
    Goodbye(String),
}

/// Messages that may wait for the link: more than can be in flight, so that it never blocks us.
pub(crate) const TO_LINK_MAX: usize = 32;

/// When something keeps it from sending, look again after this time.
const BLOCKED_WAIT: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Keeper {
    pub core: Core,
    pub inbox: Arc<Inbox>,
    pub link: mpsc::Sender<ToLink>,
    /// What acks have changed is on disk after at most this time.
    pub flush_interval: Duration,
}

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// Everything is to be sent first, however long it takes.
    Finishing,
    /// The monotonic time by which to end.
    Stopping(Duration),
}

impl Keeper {
    /// Works until the end. When this returns `Ok`, everything accepted is on disk and the buffer is
    /// closed in order.
    pub(crate) fn run(mut self) -> Result<(), BufferError> {
        let result = self.work();
        self.inbox.close();
        let offline = self.core.status(false).to_json();
        let _ = self.link.blocking_send(ToLink::Goodbye(offline));
        result?;
        self.core.close(self.inbox.clock().wall())
    }

    fn work(&mut self) -> Result<(), BufferError> {
        let mut phase = Phase::Running;
        let mut dirty_since: Option<Duration> = None;
        let mut blocked = false;
        loop {
            let until = self.next_wake(phase, dirty_since, blocked);
            let (news, pending) = self.inbox.wait(until, phase != Phase::Running);
            for item in news {
                phase = self.take_news(item, phase)?;
            }
            let now = self.now();
            let wall = self.inbox.clock().wall();
            if let Some(mut pending) = pending {
                let cursors = pending.cursors();
                self.core
                    .append(&pending.samples, &cursors, pending.volatile, wall)?;
                self.inbox.stored(&pending);
            } else if self.flush_due(now, dirty_since, phase) {
                self.core.flush(wall)?;
            }
            dirty_since = self
                .core
                .buffer()
                .is_dirty()
                .then(|| dirty_since.unwrap_or(now));
            self.inbox.set_backlog(self.core.buffer().held().bytes);
            blocked = self.pump(now)?;
            let ended = match phase {
                Phase::Running => false,
                Phase::Finishing => self.is_finished(),
                Phase::Stopping(by) => {
                    self.is_finished() || !self.core.session().is_connected() || now >= by
                }
            };
            if ended {
                return self.store_the_last();
            }
        }
    }

    /// Takes nothing more, and stores what came in during the last steps.
    fn store_the_last(&mut self) -> Result<(), BufferError> {
        self.inbox.close();
        if let (_, Some(mut pending)) = self.inbox.wait(Some(Duration::ZERO), true) {
            let (cursors, wall) = (pending.cursors(), self.inbox.clock().wall());
            self.core
                .append(&pending.samples, &cursors, pending.volatile, wall)?;
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.core.session().is_finished() && self.core.buffer().held().events == 0
    }

    fn take_news(&mut self, news: News, phase: Phase) -> Result<Phase, BufferError> {
        match news {
            News::Connected => {
                self.core.connected();
                let status = self.core.status(true).to_json();
                let _ = self.link.try_send(ToLink::Status(status));
            }
            News::Disconnected => self.core.disconnected(),
            News::Ack(payload) => {
                let (now, wall) = (self.now(), self.inbox.clock().wall());
                match self.core.ack_received(now, wall, &payload) {
                    Ok((freed, ack)) => {
                        tracing::debug!(freed, tx_no = ack.tx_no, "acknowledged");
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
            News::Finish => {
                self.core.finish();
                if phase == Phase::Running {
                    return Ok(Phase::Finishing);
                }
            }
            News::Stop(grace) => {
                self.inbox.close();
                self.core.finish();
                if !matches!(phase, Phase::Stopping(_)) {
                    return Ok(Phase::Stopping(self.now() + grace));
                }
            }
        }
        Ok(phase)
    }

    /// Sends what is to be sent. Returns whether something keeps it from sending: no room at the link,
    /// or a source that does not know yet where it stands.
    fn pump(&mut self, now: Duration) -> Result<bool, BufferError> {
        while self.core.session().is_connected() {
            if self.link.capacity() <= 1 {
                return Ok(true);
            }
            let Some(stamp) = self.inbox.stamp() else {
                return Ok(true);
            };
            let message = match self.core.poll(now, &stamp)? {
                None => return Ok(false),
                Some(Outgoing::Batch { payload, .. }) => ToLink::Batch(payload),
                Some(Outgoing::Reconnect) => {
                    self.core.disconnected();
                    ToLink::Reconnect
                }
            };
            // Lost only if the link has ended; the protocol sends again what gets lost here.
            let _ = self.link.try_send(message);
        }
        Ok(false)
    }

    fn next_wake(
        &self,
        phase: Phase,
        dirty_since: Option<Duration>,
        blocked: bool,
    ) -> Option<Duration> {
        let session = if blocked {
            Some(self.now() + BLOCKED_WAIT)
        } else {
            self.core.next_wake()
        };
        let flush = dirty_since.map(|since| since + self.flush_interval);
        let end = match phase {
            Phase::Stopping(by) => Some(by),
            Phase::Running | Phase::Finishing => None,
        };
        [session, flush, end].into_iter().flatten().min()
    }

    fn flush_due(&self, now: Duration, dirty_since: Option<Duration>, phase: Phase) -> bool {
        let buffer = self.core.buffer();
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
