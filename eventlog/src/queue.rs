//! Appends on their way to the appender: a bounded queue, and the ticket that a caller waits on.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Condvar, Mutex, PoisonError, mpsc};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use crate::store::lock;
use crate::{Error, Offset, PartitionId, Settings};

/// Where an append went. Its records have the offsets `first`, `first + 1`, … in the order they were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub first: Offset,
    /// Number of records.
    pub count: u32,
    /// Ingest time of the records, microseconds UTC.
    pub ingest_time: i64,
}

/// An append that has been queued. Resolves when the records are durable, or have failed.
///
/// Dropping it does not take the append back.
#[derive(Debug)]
#[must_use = "the append is durable only when this has resolved"]
pub struct Pending(oneshot::Receiver<Result<Appended, Error>>);

impl Pending {
    pub(crate) fn channel() -> (Reply, Pending) {
        let (sender, receiver) = oneshot::channel();
        (Reply::Task(sender), Pending(receiver))
    }
}

impl Future for Pending {
    type Output = Result<Appended, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // The sender goes without an answer only when the appender has ended.
        Pin::new(&mut self.0)
            .poll(context)
            .map(|answer| answer.unwrap_or(Err(Error::Closed)))
    }
}

/// One append as it waits.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) partition: PartitionId,
    pub(crate) records: Vec<Bytes>,
    pub(crate) bytes: usize,
    pub(crate) reply: Reply,
}

/// How the caller waits: a task or a thread.
#[derive(Debug)]
pub(crate) enum Reply {
    Task(oneshot::Sender<Result<Appended, Error>>),
    Thread(mpsc::SyncSender<Result<Appended, Error>>),
}

impl Reply {
    pub(crate) fn send(self, answer: Result<Appended, Error>) {
        // A caller that no longer waits has dropped its end; the append stands all the same.
        match self {
            Reply::Task(sender) => drop(sender.send(answer)),
            Reply::Thread(sender) => drop(sender.send(answer)),
        }
    }
}

/// A trim as it waits. Trims do not count against the queue: each caller waits for its own.
#[derive(Debug)]
pub(crate) struct Trim {
    pub(crate) partition: PartitionId,
    pub(crate) before: Offset,
    pub(crate) reply: mpsc::SyncSender<Result<(), Error>>,
}

/// What the appender takes at once.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) requests: Vec<Request>,
    pub(crate) trims: Vec<Trim>,
}

#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    freed: Condvar,
    freed_tasks: Notify,
    records_max: usize,
    bytes_max: usize,
    record_bytes_max: usize,
    group_bytes_max: usize,
    linger: Duration,
}

#[derive(Debug, Default)]
struct State {
    requests: VecDeque<Request>,
    trims: Vec<Trim>,
    records: usize,
    bytes: usize,
    closed: bool,
}

/// Below this a group is worth waiting for, when there is load.
const GROUP_BYTES_SMALL: usize = 64 << 10;
/// A group of more requests than this says that there is load.
const GROUP_REQUESTS_BUSY: usize = 8;

/// Why a request was not taken; gives it back where it may be tried again.
pub(crate) enum Refusal {
    Full {
        request: Request,
        records: usize,
        bytes: usize,
    },
    Never(Error),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full { records, bytes, .. } => Error::QueueFull { records, bytes },
            Refusal::Never(error) => error,
        }
    }
}

impl Queue {
    pub(crate) fn new(settings: &Settings) -> Queue {
        Queue {
            state: Mutex::default(),
            arrived: Condvar::new(),
            freed: Condvar::new(),
            freed_tasks: Notify::new(),
            records_max: settings.queue_records_max,
            bytes_max: settings.queue_bytes_max,
            record_bytes_max: settings.record_bytes_max,
            group_bytes_max: settings.group_bytes_max,
            linger: settings.group_linger,
        }
    }

    /// Records and bytes waiting.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.records, state.bytes)
    }

    /// Checks an append against the limits that no waiting changes.
    pub(crate) fn request(
        &self,
        partition: PartitionId,
        records: Vec<Bytes>,
        reply: Reply,
    ) -> Result<Request, Error> {
        if records.is_empty() {
            return Err(Error::NothingToAppend { partition });
        }
        if let Some(record) = records
            .iter()
            .find(|record| record.len() > self.record_bytes_max)
        {
            return Err(Error::RecordTooLarge {
                partition,
                bytes: record.len(),
                max: self.record_bytes_max,
            });
        }
        let bytes = records.iter().map(Bytes::len).sum();
        if records.len() > self.records_max || bytes > self.bytes_max {
            return Err(Error::AppendTooLarge {
                partition,
                records: records.len(),
                bytes,
                records_max: self.records_max,
                bytes_max: self.bytes_max,
            });
        }
        Ok(Request {
            partition,
            records,
            bytes,
            reply,
        })
    }

    /// Queues a request if there is room.
    pub(crate) fn try_push(&self, request: Request) -> Result<(), Refusal> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(Refusal::Never(Error::Closed));
        }
        if !self.has_room(&state, &request) {
            return Err(Refusal::Full {
                request,
                records: state.records,
                bytes: state.bytes,
            });
        }
        self.take_in(&mut state, request);
        Ok(())
    }

    /// Queues a request; a task waits until there is room.
    pub(crate) async fn push(&self, mut request: Request) -> Result<(), Error> {
        loop {
            // Listening begins before looking: room made in between rings.
            let freed = self.freed_tasks.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match self.try_push(request) {
                Ok(()) => return Ok(()),
                Err(Refusal::Never(error)) => return Err(error),
                Err(Refusal::Full {
                    request: refused, ..
                }) => request = refused,
            }
            freed.await;
        }
    }

    /// Queues a request; the thread waits until there is room.
    pub(crate) fn push_blocking(&self, request: Request) -> Result<(), Error> {
        let mut state = self
            .freed
            .wait_while(lock(&self.state), |state| {
                !state.closed && !self.has_room(state, &request)
            })
            .unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(Error::Closed);
        }
        self.take_in(&mut state, request);
        Ok(())
    }

    fn has_room(&self, state: &State, request: &Request) -> bool {
        state.records + request.records.len() <= self.records_max
            && state.bytes + request.bytes <= self.bytes_max
    }

    fn take_in(&self, state: &mut State, request: Request) {
        state.records += request.records.len();
        state.bytes += request.bytes;
        state.requests.push_back(request);
        self.arrived.notify_one();
    }

    /// Queues a trim.
    pub(crate) fn push_trim(&self, trim: Trim) -> Result<(), Error> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(Error::Closed);
        }
        state.trims.push(trim);
        self.arrived.notify_one();
        Ok(())
    }

    /// Takes nothing new any more; what is queued is still written.
    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.arrived.notify_all();
        self.freed.notify_all();
        self.freed_tasks.notify_waiters();
    }

    /// The next group. `None`: closed and drained. With `busy`, a small group lingers for more.
    /// Also says whether this group shows load.
    pub(crate) fn next(&self, busy: bool) -> Option<(Group, bool)> {
        let idle = |state: &mut State| {
            state.requests.is_empty() && state.trims.is_empty() && !state.closed
        };
        let mut state = self
            .arrived
            .wait_while(lock(&self.state), idle)
            .unwrap_or_else(PoisonError::into_inner);
        let small = self.group_bytes_max.min(GROUP_BYTES_SMALL);
        if busy && !state.requests.is_empty() {
            (state, _) = self
                .arrived
                .wait_timeout_while(state, self.linger, |state| {
                    state.bytes < small && !state.closed
                })
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.requests.is_empty() && state.trims.is_empty() {
            return None;
        }
        let mut requests = Vec::new();
        let mut bytes = 0;
        while let Some(request) = state.requests.front() {
            // Not exceeded for the last one either: 1 MiB and a little more would take a page of 2 MiB.
            if !requests.is_empty() && bytes + request.bytes > self.group_bytes_max {
                break;
            }
            let Some(request) = state.requests.pop_front() else {
                break;
            };
            bytes += request.bytes;
            state.records -= request.records.len();
            state.bytes -= request.bytes;
            requests.push(request);
        }
        let busy = !state.requests.is_empty() || requests.len() > GROUP_REQUESTS_BUSY;
        let trims = std::mem::take(&mut state.trims);
        drop(state);
        self.freed.notify_all();
        self.freed_tasks.notify_waiters();
        Some((Group { requests, trims }, busy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(records: usize, bytes: usize, group: usize) -> Queue {
        Queue::new(&Settings {
            queue_records_max: records,
            queue_bytes_max: bytes,
            record_bytes_max: bytes,
            group_bytes_max: group,
            ..Settings::default()
        })
    }

    fn push(queue: &Queue, sizes: &[usize]) -> Result<Pending, Error> {
        let (sender, receiver) = oneshot::channel();
        let records = sizes
            .iter()
            .map(|size| Bytes::from(vec![1; *size]))
            .collect();
        let request = queue.request(PartitionId(0), records, Reply::Task(sender))?;
        match queue.try_push(request) {
            Ok(()) => Ok(Pending(receiver)),
            Err(refusal) => Err(refusal.into()),
        }
    }

    #[test]
    fn records_and_bytes_are_bounded() {
        let queue = queue(3, 100, 1000);
        let _a = push(&queue, &[40, 40]).unwrap();
        assert!(matches!(
            push(&queue, &[21]),
            Err(Error::QueueFull {
                records: 2,
                bytes: 80
            })
        ));
        let _b = push(&queue, &[1]).unwrap();
        assert!(matches!(
            push(&queue, &[1]),
            Err(Error::QueueFull {
                records: 3,
                bytes: 81
            })
        ));
        assert!(matches!(
            push(&queue, &[101]),
            Err(Error::RecordTooLarge { bytes: 101, .. })
        ));
        assert!(matches!(
            push(&queue, &[60, 60]),
            Err(Error::AppendTooLarge { bytes: 120, .. })
        ));
        assert!(matches!(
            push(&queue, &[]),
            Err(Error::NothingToAppend { .. })
        ));
        let (group, _) = queue.next(false).unwrap();
        assert_eq!(group.requests.len(), 2);
        assert_eq!(queue.waiting(), (0, 0));
        let _c = push(&queue, &[100]).unwrap();
    }

    #[test]
    fn a_group_ends_before_its_limit_and_a_rest_means_load() {
        let queue = queue(100, 1000, 100);
        let _tickets: Vec<_> = [60, 40, 1, 200, 5]
            .map(|size| push(&queue, &[size]).unwrap())
            .into();
        let take = || {
            queue
                .next(false)
                .map(|(group, busy)| (group.requests.len(), busy))
        };
        assert_eq!(take(), Some((2, true)));
        assert_eq!(take(), Some((1, true)));
        assert_eq!(take(), Some((1, true)));
        assert_eq!(take(), Some((1, false)));
    }

    #[test]
    fn a_busy_queue_stops_lingering_when_the_group_is_large_enough() {
        // The linger of an hour would hang the test if size or closing did not end it.
        let mut queue = queue(100, 1 << 20, 1 << 20);
        queue.linger = Duration::from_secs(3600);
        let _a = push(&queue, &[GROUP_BYTES_SMALL - 1]).unwrap();
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| queue.next(true).unwrap().0.requests.len());
            let _b = push(&queue, &[1]).unwrap();
            assert_eq!(taken.join().unwrap(), 2);
            let _c = push(&queue, &[1]).unwrap();
            let taken = scope.spawn(|| queue.next(true).unwrap().0.requests.len());
            queue.close();
            assert_eq!(taken.join().unwrap(), 1);
        });
        assert!(queue.next(true).is_none());
    }

    #[test]
    fn a_waiting_thread_goes_on_when_there_is_room_or_the_queue_closes() {
        let queue = queue(1, 100, 100);
        let _a = push(&queue, &[1]).unwrap();
        let request = || {
            let (sender, _) = oneshot::channel();
            queue
                .request(
                    PartitionId(0),
                    vec![Bytes::from_static(b"x")],
                    Reply::Task(sender),
                )
                .unwrap()
        };
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.push_blocking(request()));
            assert_eq!(queue.next(false).unwrap().0.requests.len(), 1);
            waiting.join().unwrap().unwrap();
            let waiting = scope.spawn(|| queue.push_blocking(request()));
            queue.close();
            assert!(matches!(waiting.join().unwrap(), Err(Error::Closed)));
        });
    }
}
