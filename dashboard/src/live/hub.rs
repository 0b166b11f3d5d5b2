//! Where frames come in and viewers join.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio_stream::Stream;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::frame::{Frame, reset};

/// Frames kept for viewers that come back.
pub const RING_FRAMES: usize = 256;
/// Size of the frames kept, bytes; the newest is kept whatever its size.
pub const RING_BYTES: usize = 32 * 1024 * 1024;
/// Frames a viewer may be behind before it is told to load everything again.
const BEHIND_MAX: usize = 64;
/// What a viewer should wait before it comes back, milliseconds.
const RETRY_MS: u32 = 1000;

/// Takes frames and hands them to all viewers.
#[derive(Debug)]
pub struct Hub {
    ring: Mutex<Ring>,
    sender: broadcast::Sender<Bytes>,
    viewers: Arc<AtomicUsize>,
    viewers_max: usize,
}

#[derive(Debug)]
struct Ring {
    frames: VecDeque<Frame>,
    bytes: usize,
    last: u64,
    overview: Option<Frame>,
}

impl Hub {
    /// An empty hub whose first frame gets the number `before + 1`.
    pub fn new(before: u64, viewers_max: usize) -> Self {
        Self {
            ring: Mutex::new(Ring {
                frames: VecDeque::new(),
                bytes: 0,
                last: before,
                overview: None,
            }),
            sender: broadcast::Sender::new(BEHIND_MAX),
            viewers: Arc::default(),
            viewers_max,
        }
    }

    /// The number of the newest frame.
    pub fn last(&self) -> u64 {
        self.ring().last
    }

    /// Viewers now.
    pub fn viewers(&self) -> usize {
        self.viewers.load(Ordering::Relaxed)
    }

    /// Sends a frame to all viewers and keeps it. `overview`: a viewer that comes first gets it.
    pub fn publish(&self, frame: Frame, overview: bool) {
        let mut ring = self.ring();
        ring.last = frame.id;
        ring.bytes += frame.len();
        if overview {
            ring.overview = Some(frame.clone());
        }
        // Within the lock: a viewer that joins meanwhile gets it either from the ring or from here.
        let _ = self.sender.send(frame.whole());
        ring.frames.push_back(frame);
        while ring.frames.len() > RING_FRAMES || (ring.bytes > RING_BYTES && ring.frames.len() > 1)
        {
            if let Some(old) = ring.frames.pop_front() {
                ring.bytes -= old.len();
            }
        }
    }

    /// Sends a comment to all viewers: a sign of life.
    pub fn heartbeat(&self) {
        let _ = self.sender.send(Bytes::from_static(b": still here\n\n"));
    }

    /// Adds a viewer that has seen the event `last_seen` of a former connection; none if there is no
    /// seat left. Its stream ends when `stop` is cancelled.
    pub fn join(&self, last_seen: Option<&str>, stop: CancellationToken) -> Option<Viewer> {
        let seat = Seat::take(&self.viewers, self.viewers_max)?;
        let ring = self.ring();
        let frames = BroadcastStream::new(self.sender.subscribe());
        let mut first = VecDeque::from([Bytes::from(format!("retry: {RETRY_MS}\n\n"))]);
        match last_seen.map(|id| ring.behind(id)) {
            Some(Some(missed)) => first.extend(missed),
            unknown => {
                if unknown.is_some() {
                    first.push_back(reset(Some(ring.last), "too_old"));
                }
                if let Some(overview) = &ring.overview {
                    first.extend(overview.numbered(ring.last));
                }
            }
        }
        drop(ring);
        Some(Viewer {
            first,
            frames,
            stop: Box::pin(stop.cancelled_owned()),
            _seat: seat,
        })
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    /// The frames behind number `id`; none if some of them are gone, or it is not a number of ours.
    fn behind(&self, id: &str) -> Option<impl Iterator<Item = Bytes> + '_> {
        let id: u64 = id.parse().ok()?;
        let first = self.frames.front().map_or(self.last + 1, |f| f.id);
        if id > self.last || id + 1 < first {
            return None;
        }
        let skip = usize::try_from(id + 1 - first).ok()?;
        Some(self.frames.iter().skip(skip).map(Frame::whole))
    }
}

/// The stream of one viewer: the bytes of its response.
pub struct Viewer {
    first: VecDeque<Bytes>,
    frames: BroadcastStream<Bytes>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    _seat: Seat,
}

impl Stream for Viewer {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.stop.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        if let Some(bytes) = this.first.pop_front() {
            return Poll::Ready(Some(Ok(bytes)));
        }
        Pin::new(&mut this.frames).poll_next(cx).map(|next| {
            next.map(|frame| {
                Ok(frame.unwrap_or_else(|BroadcastStreamRecvError::Lagged(_)| {
                    // Without a number: the next frame brings one.
                    reset(None, "lagged")
                }))
            })
        })
    }
}

/// One of the viewers that there may be.
#[derive(Debug)]
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let one_more = |n| (n < max).then_some(n + 1);
        taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        Some(Self(taken.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    const BEFORE: u64 = 1000;

    fn hub(frames: u64) -> Hub {
        let hub = Hub::new(BEFORE, 2);
        for _ in 0..frames {
            publish(&hub);
        }
        hub
    }

    fn publish(hub: &Hub) -> u64 {
        let id = hub.last() + 1;
        hub.publish(Frame::new(id, "windows", &id).unwrap(), false);
        id
    }

    /// The ids and events that a viewer gets until the stream would wait.
    async fn drain(viewer: &mut Viewer) -> Vec<String> {
        let mut text = String::new();
        loop {
            let next = std::future::poll_fn(|cx| match Pin::new(&mut *viewer).poll_next(cx) {
                Poll::Pending => Poll::Ready(None),
                Poll::Ready(item) => Poll::Ready(item),
            });
            match next.await {
                Some(bytes) => text.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap()),
                None => break,
            }
        }
        let is_shown =
            |l: &&str| !l.starts_with("data") && !l.starts_with("retry") && !l.is_empty();
        text.lines().filter(is_shown).map(str::to_owned).collect()
    }

    async fn joined(hub: &Hub, last_seen: Option<&str>) -> Vec<String> {
        let mut viewer = hub.join(last_seen, CancellationToken::new()).unwrap();
        drain(&mut viewer).await
    }

    #[tokio::test]
    async fn a_viewer_that_comes_back_gets_what_it_missed_and_then_what_comes() {
        let hub = hub(3);
        let mut viewer = hub.join(Some("1001"), CancellationToken::new()).unwrap();
        publish(&hub);
        let windows = |id: u64| [format!("id: {id}"), "event: windows".to_owned()];
        let expected = [windows(1002), windows(1003), windows(1004)].concat();
        assert_eq!(drain(&mut viewer).await, expected);
        publish(&hub);
        assert_eq!(drain(&mut viewer).await, windows(1005));
        assert!(joined(&hub, Some("1005")).await.is_empty());
    }

    #[tokio::test]
    async fn a_number_that_is_gone_of_another_life_or_none_resets() {
        let hub = hub(RING_FRAMES as u64 + 1);
        let last = hub.last().to_string();
        let reset = vec![format!("id: {last}"), "event: reset".to_owned()];
        for strange in [
            "1000",
            "999",
            "0",
            "1258",
            "18446744073709551615",
            "x",
            "-1",
        ] {
            assert_eq!(joined(&hub, Some(strange)).await, reset, "{strange}");
        }
        // The oldest that is kept is the one behind 1001.
        assert_eq!(joined(&hub, Some("1001")).await.len(), 2 * RING_FRAMES);
        let fresh = Hub::new(5000, 2);
        assert_eq!(joined(&fresh, Some(&last)).await[1], "event: reset");
        assert!(joined(&fresh, Some("5000")).await.is_empty());
    }

    #[tokio::test]
    async fn a_new_viewer_gets_the_overview_under_the_newest_number() {
        let hub = hub(0);
        hub.publish(Frame::new(1001, "overview", &1).unwrap(), true);
        publish(&hub);
        assert_eq!(joined(&hub, None).await, ["id: 1002", "event: overview"]);
    }

    #[tokio::test]
    async fn a_viewer_that_is_too_slow_is_told_and_goes_on() {
        let hub = hub(1);
        let mut viewer = hub.join(None, CancellationToken::new()).unwrap();
        for _ in 0..=BEHIND_MAX {
            publish(&hub);
        }
        let got = drain(&mut viewer).await;
        assert_eq!(got[0], "event: reset");
        assert_eq!(got.last().unwrap(), "event: windows");
        assert_eq!(got[got.len() - 2], format!("id: {}", hub.last()));
    }

    #[tokio::test]
    async fn seats_are_limited_and_given_back() {
        let hub = hub(0);
        let stop = CancellationToken::new();
        let a = hub.join(None, stop.clone()).unwrap();
        let mut b = hub.join(None, stop.clone()).unwrap();
        assert!(hub.join(None, stop.clone()).is_none());
        assert_eq!(hub.viewers(), 2);
        drop(a);
        assert!(hub.join(None, stop.clone()).is_some());
        stop.cancel();
        assert!(b.next().await.is_none(), "a stop ends the stream");
    }

    #[test]
    fn the_ring_is_bounded_in_bytes_too() {
        let hub = hub(0);
        let big = "x".repeat(RING_BYTES / 4);
        for i in 1..=9 {
            hub.publish(Frame::new(BEFORE + i, "windows", &big).unwrap(), false);
        }
        let ring = hub.ring();
        assert_eq!(ring.frames.len(), 3);
        assert!(ring.bytes <= RING_BYTES);
    }
}
