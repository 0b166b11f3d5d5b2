//! Where samples and news arrive: the one lock under which events are stamped and the low watermark
//! is read.
//!
//! Sources push samples; those without a time of their own are stamped here. The keeper's thread
//! takes them out in groups and stores them. Because both happen under this lock, the agent's
//! promise ("no event before this time will still come") covers samples that are on their way to
//! the disk, too.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use event::{DeviceId, EventTime, MetricName, Sample, Value, value};
use tokio::sync::{Semaphore, oneshot, watch};

use crate::buffer::{CommandChanges, Cursor};
use crate::clock::{Clock, Now};
use crate::core::Stamp;

/// How samples are grouped into commits, and how many may wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A waiting sample is on disk after at most this time.
    pub commit_interval: Duration,
    /// So many waiting samples are committed at once.
    pub commit_events: usize,
    /// So many waiting bytes (before compression) are committed at once.
    pub commit_bytes: usize,
    /// Most samples that wait, a text counted one more for each 64 bytes of it; a source that has more must
    /// wait itself.
    pub events_max: usize,
    /// A source that can read its input again waits while the buffer holds more than this, bytes.
    pub replay_backlog_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            commit_interval: Duration::from_secs(2),
            commit_events: 4096,
            commit_bytes: 256 << 10,
            events_max: 16_384,
            replay_backlog_max: 128 << 20,
        }
    }
}

/// One value as a source reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The device it is about.
    pub device: DeviceId,
    /// What was measured.
    pub metric: MetricName,
    /// When; none = now, stamped under the inbox's lock (with the time since boot, as long as the clock
    /// is not set).
    pub time: Option<EventTime>,
    /// The value.
    pub value: Value,
}

/// What a source promises about times still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Not known yet: the agent sends nothing before it is.
    Starting,
    /// Its samples are stamped when they are pushed, or carry the present time.
    Live,
    /// Its samples carry times of their own, at most this far behind the present.
    Behind(Duration),
    /// It replays: the next sample has this time.
    At(EventTime),
    /// It has no more samples.
    Ended,
}

/// A source as the inbox knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceId(u32);

/// A push's place in the order of storing: with the newest ticket that is on disk
/// ([`Inbox::on_disk`]), all earlier ones are. The default is that of a push that had nothing to store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ticket(u64);

/// The agent stops; nothing more is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent is stopping")]
pub struct Closed;

/// News for the keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    Connected,
    Disconnected,
    Ack(Vec<u8>),
    /// Somebody wants to know whether the keeper works.
    Alive,
    /// All sources have ended: send what is held and stop then.
    Finish,
    /// Stop now; what can be sent within this time may be sent.
    Stop(Duration),
}

/// Bytes of a text that take as much room as a reading.
const TEXT_UNIT: usize = 64;
/// What a sample without a text is counted as, bytes: about what it takes before compression.
const SAMPLE_BYTES: usize = 40;

/// Samples that wait for the next commit.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub samples: Vec<Sample>,
    /// Stamped while the clock was not set: their times are microseconds since boot.
    pub untimed: Vec<Sample>,
    pub cursors: BTreeMap<String, Vec<u8>>,
    /// What is noted of commands, and who waits until it is on disk.
    pub commands: CommandChanges,
    tell_stored: Vec<oneshot::Sender<()>>,
    /// Some come from a source that cannot read them again.
    pub volatile: bool,
    /// To be committed without waiting.
    pub urgent: bool,
    bytes: usize,
    since: Option<Duration>,
    earliest: Option<EventTime>,
    /// The same of those that cannot be read again.
    earliest_volatile: Option<EventTime>,
    permits: usize,
    /// Of the newest push in it.
    newest: Ticket,
}

impl Pending {
    pub fn cursors(&self) -> Vec<Cursor> {
        self.cursors
            .clone()
            .into_iter()
            .map(|(source, position)| Cursor { source, position })
            .collect()
    }

    /// Adds readings; those without a time get `now`. `volatile`: their source cannot read them again.
    fn add(&mut self, readings: Vec<Reading>, now: Now, volatile: bool) {
        let earlier =
            |old: Option<EventTime>, time| Some(old.map_or(time, |e: EventTime| e.min(time)));
        for reading in readings {
            let Reading {
                device,
                metric,
                time,
                value,
            } = reading;
            self.volatile |= volatile;
            self.bytes += SAMPLE_BYTES
                + match &value {
                    Value::Text(text) => text.len(),
                    Value::Number(_) | Value::Bool(_) => 0,
                };
            let (time, to) = match (time, now) {
                (Some(time), _) | (None, Now::Wall(time)) => {
                    if volatile {
                        self.earliest_volatile = earlier(self.earliest_volatile, time);
                    }
                    self.earliest = earlier(self.earliest, time);
                    (time, &mut self.samples)
                }
                (None, Now::Boot(us)) => {
                    let us = i64::try_from(us).unwrap_or(i64::MAX);
                    (EventTime::from_micros(us), &mut self.untimed)
                }
            };
            to.push(Sample {
                device,
                metric,
                time,
                value,
            });
        }
    }

    /// The clock is set now: wall time is time since boot plus `offset_us`.
    pub fn place(&mut self, offset_us: i64) {
        for sample in self.untimed.drain(..) {
            let time = sample.time.as_micros().saturating_add(offset_us);
            let time = EventTime::from_micros(time);
            self.earliest = Some(self.earliest.map_or(time, |e| e.min(time)));
            if self.volatile {
                // Perhaps this one can be read again; nothing is lost by taking it for one that cannot.
                let earliest = self.earliest_volatile;
                self.earliest_volatile = Some(earliest.map_or(time, |e| e.min(time)));
            }
            self.samples.push(Sample { time, ..sample });
        }
    }

    /// What came first, then what came later.
    fn and_then(mut self, later: Self) -> Self {
        self.samples.extend(later.samples);
        self.untimed.extend(later.untimed);
        self.cursors.extend(later.cursors);
        self.commands.extend(later.commands);
        self.tell_stored.extend(later.tell_stored);
        Self {
            samples: self.samples,
            untimed: self.untimed,
            cursors: self.cursors,
            commands: self.commands,
            tell_stored: self.tell_stored,
            volatile: self.volatile || later.volatile,
            urgent: self.urgent || later.urgent,
            bytes: self.bytes + later.bytes,
            since: [self.since, later.since].into_iter().flatten().min(),
            earliest: [self.earliest, later.earliest].into_iter().flatten().min(),
            earliest_volatile: [self.earliest_volatile, later.earliest_volatile]
                .into_iter()
                .flatten()
                .min(),
            permits: self.permits + later.permits,
            newest: self.newest.max(later.newest),
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0 && self.cursors.is_empty() && self.commands.is_empty()
    }

    fn len(&self) -> usize {
        self.samples.len() + self.untimed.len()
    }
}

#[derive(Debug, Default)]
struct State {
    pending: Pending,
    news: VecDeque<News>,
    positions: Vec<Position>,
    pushes: u64,
    closed: bool,
}

/// Shared by the sources, the link and the keeper.
#[derive(Debug)]
pub struct Inbox {
    settings: Settings,
    clock: Clock,
    state: Mutex<State>,
    wake: Condvar,
    room: Semaphore,
    /// Bytes held in the buffer.
    backlog: watch::Sender<u64>,
    /// What the cloud's clock said last, and the monotonic time when we heard it.
    cloud_time: watch::Sender<Option<(EventTime, Duration)>>,
    on_disk: watch::Sender<Ticket>,
}

impl Inbox {
    /// An empty inbox.
    pub fn new(settings: Settings, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            room: Semaphore::new(settings.events_max.max(1)),
            settings,
            clock,
            state: Mutex::default(),
            wake: Condvar::new(),
            backlog: watch::Sender::new(0),
            cloud_time: watch::Sender::new(None),
            on_disk: watch::Sender::default(),
        })
    }

    /// The agent's clocks.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Makes a source known, before it runs.
    pub fn register(&self, position: Position) -> SourceId {
        let mut state = self.lock();
        state.positions.push(position);
        SourceId((state.positions.len() - 1) as u32)
    }

    /// Changes what a source promises.
    pub fn set_position(&self, source: SourceId, position: Position) {
        if let Some(p) = self.lock().positions.get_mut(source.0 as usize) {
            *p = position;
        }
        self.wake.notify_one();
    }

    /// Takes readings in, stamped if they have no time, to be stored together with `cursor` in one
    /// transaction. `position` is what the source promises from then on. Waits while too many wait,
    /// and, with a cursor, while the buffer's backlog is large.
    ///
    /// Readings must have passed [`check`].
    ///
    /// **Errors**: the agent stops; nothing was taken.
    pub async fn push(
        &self,
        source: SourceId,
        readings: Vec<Reading>,
        cursor: Option<Cursor>,
        position: Option<Position>,
        urgent: bool,
    ) -> Result<(), Closed> {
        if cursor.is_some() {
            let limit = self.settings.replay_backlog_max;
            let mut backlog = self.backlog.subscribe();
            backlog
                .wait_for(|bytes| *bytes <= limit)
                .await
                .map_err(|_| Closed)?;
        }
        let volatile = cursor.is_none();
        self.accept(source, readings, cursor, position, urgent, volatile)
            .await
            .map(drop)
    }

    /// Takes readings of a source that hears of their storing ([`Self::on_disk`]). Its cursor is kept
    /// with them, too, but is no promise that they can be read again, and it does not wait for the
    /// backlog: what is not taken now may be gone.
    ///
    /// **Errors**: as [`Self::push`].
    pub async fn push_live(
        &self,
        source: SourceId,
        readings: Vec<Reading>,
        cursor: Option<Cursor>,
        urgent: bool,
    ) -> Result<Ticket, Closed> {
        self.accept(source, readings, cursor, None, urgent, true)
            .await
    }

    /// The newest ticket on disk, and word of each further one.
    pub fn on_disk(&self) -> watch::Receiver<Ticket> {
        self.on_disk.subscribe()
    }

    /// What readings take of the room for those that wait: one each, and long texts one more for each
    /// [`TEXT_UNIT`], so that the limit bounds memory, too.
    fn permits(&self, readings: &[Reading]) -> usize {
        let permits = readings.iter().map(|r| match &r.value {
            Value::Text(text) => 1 + text.len() / TEXT_UNIT,
            Value::Number(_) | Value::Bool(_) => 1,
        });
        permits.sum::<usize>().min(self.settings.events_max.max(1))
    }

    async fn accept(
        &self,
        source: SourceId,
        readings: Vec<Reading>,
        cursor: Option<Cursor>,
        position: Option<Position>,
        urgent: bool,
        volatile: bool,
    ) -> Result<Ticket, Closed> {
        let permits = self.permits(&readings);
        let permit = self
            .room
            .acquire_many(permits as u32)
            .await
            .map_err(|_| Closed)?;
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        permit.forget();
        let now = self.clock.now();
        state.pushes += 1;
        let ticket = Ticket(state.pushes);
        let pending = &mut state.pending;
        pending.newest = ticket;
        pending.permits += permits;
        pending.since.get_or_insert_with(|| self.clock.monotonic());
        pending.urgent |= urgent;
        pending.add(readings, now, volatile);
        if let Some(Cursor { source, position }) = cursor {
            pending.cursors.insert(source, position);
        }
        if let Some(position) = position
            && let Some(p) = state.positions.get_mut(source.0 as usize)
        {
            *p = position;
        }
        drop(state);
        self.wake.notify_one();
        Ok(ticket)
    }

    /// Takes readings of a command's state in, to be stored together with what is noted of it in one
    /// transaction, at once, or, if it is not `urgent`, with what comes next ([`Self::hurry`]). What is
    /// returned is told when that is on disk; it ends without a word if the agent ends before.
    ///
    /// A stop loses nothing of it that the next start does not find out: it is not volatile.
    ///
    /// **Errors**: the agent stops; nothing was taken.
    pub(crate) async fn push_command(
        &self,
        readings: Vec<Reading>,
        changes: CommandChanges,
        urgent: bool,
    ) -> Result<oneshot::Receiver<()>, Closed> {
        let permits = self.permits(&readings);
        let permit = self
            .room
            .acquire_many(permits as u32)
            .await
            .map_err(|_| Closed)?;
        let (tell, stored) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        permit.forget();
        let now = self.clock.now();
        let pending = &mut state.pending;
        pending.permits += permits;
        pending.since.get_or_insert_with(|| self.clock.monotonic());
        pending.urgent |= urgent;
        pending.add(readings, now, false);
        pending.commands.extend(changes);
        pending.tell_stored.push(tell);
        drop(state);
        self.wake.notify_one();
        Ok(stored)
    }

    /// What waits is to be stored at once.
    pub(crate) fn hurry(&self) {
        let mut state = self.lock();
        if !state.pending.is_empty() {
            state.pending.urgent = true;
            drop(state);
            self.wake.notify_one();
        }
    }

    /// The cloud's clock said this in a message that has just come.
    pub(crate) fn heard_cloud_time(&self, time: EventTime) {
        if time > EventTime(0) {
            self.cloud_time
                .send_replace(Some((time, self.clock.monotonic())));
        }
    }

    /// The cloud's present time, as far as its newest message and the time since tell: never ahead of it.
    /// None if it has said nothing yet in this life.
    pub(crate) fn cloud_time(&self) -> Option<EventTime> {
        let (said, at) = (*self.cloud_time.borrow())?;
        let since = self.clock.monotonic().saturating_sub(at).as_micros();
        let since = i64::try_from(since).unwrap_or(i64::MAX);
        Some(EventTime(said.as_micros().saturating_add(since)))
    }

    /// Waits until the cloud has said what time it is.
    pub(crate) async fn cloud_time_known(&self) {
        let mut heard = self.cloud_time.subscribe();
        // It cannot end while we exist.
        let _ = heard.wait_for(Option::is_some).await;
    }

    pub(crate) fn tell(&self, news: News) {
        self.lock().news.push_back(news);
        self.wake.notify_one();
    }

    /// Nothing more is taken; waiting sources are told so.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.room.close();
        self.wake.notify_one();
    }

    pub(crate) fn set_backlog(&self, bytes: u64) {
        self.backlog
            .send_if_modified(|b| std::mem::replace(b, bytes) != bytes);
    }

    /// Whether sources are far from having to wait: less than half of the room is taken.
    pub(crate) fn has_room(&self) -> bool {
        self.room.available_permits() > self.settings.events_max / 2
    }

    #[cfg(test)]
    pub(crate) fn has_waiting(&self) -> bool {
        self.room.available_permits() < self.settings.events_max
    }

    /// The present time, or earlier: what waits here and cannot be read again has no time before it. A
    /// commit now leaves nothing older behind that a power cut could take. None while the clock is not set.
    pub(crate) fn stored_until(&self) -> Option<EventTime> {
        // Before what waits is looked at: if the clock is set between the two, too little is said, not too much.
        let now = self.clock.now();
        let state = self.lock_placed();
        let Now::Wall(wall) = now else {
            return None;
        };
        let waiting = state.pending.earliest_volatile;
        Some(waiting.map_or(wall, |earliest| earliest.min(wall)))
    }

    /// `pending` could not be stored: it waits again, before all that has come since.
    pub(crate) fn put_back(&self, pending: Pending) {
        let mut state = self.lock();
        let later = std::mem::take(&mut state.pending);
        state.pending = pending.and_then(later);
    }

    /// Waits until there is news or the monotonic time `until`; samples stay where they are.
    pub(crate) fn wait_for_news(&self, until: Duration) -> Vec<News> {
        let mut state = self.lock();
        loop {
            let now = self.clock.monotonic();
            if !state.news.is_empty() || now >= until {
                return state.news.drain(..).collect();
            }
            let wait = (until - now).max(Duration::from_micros(100));
            state = self
                .wake
                .wait_timeout(state, wait)
                .unwrap_or_else(|e| e.into_inner())
                .0;
        }
    }

    /// Waits until there is news, a commit is due, or the monotonic time `until`. With `all`, samples
    /// count as due whatever their number.
    pub(crate) fn wait(&self, until: Option<Duration>, all: bool) -> (Vec<News>, Option<Pending>) {
        let mut state = self.lock();
        loop {
            let now = self.clock.monotonic();
            let due = self.due(&state.pending, now, all);
            if due || !state.news.is_empty() || until.is_some_and(|t| now >= t) {
                let pending = due.then(|| std::mem::take(&mut state.pending));
                return (state.news.drain(..).collect(), pending);
            }
            let commit = state
                .pending
                .since
                .map(|s| s + self.settings.commit_interval);
            let next = [commit, until].into_iter().flatten().min();
            state = match next {
                Some(at) => {
                    let wait = at.saturating_sub(now).max(Duration::from_micros(100));
                    self.wake
                        .wait_timeout(state, wait)
                        .unwrap_or_else(|e| e.into_inner())
                        .0
                }
                None => self.wake.wait(state).unwrap_or_else(|e| e.into_inner()),
            };
        }
    }

    /// `pending` is on disk: its room is free again.
    pub(crate) fn stored(&self, pending: Pending) {
        self.room.add_permits(pending.permits);
        for waiting in pending.tell_stored {
            let _ = waiting.send(());
        }
        self.on_disk.send_if_modified(|newest| {
            let later = pending.newest > *newest;
            *newest = pending.newest.max(*newest);
            later
        });
    }

    /// This moment, for a transmission. None while a source does not know yet where it stands.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        let clock = self.clock.state();
        // As in `stored_until`.
        let now = self.clock.now();
        let state = self.lock_placed();
        let (wall, present) = match now {
            Now::Wall(wall) => (wall, wall),
            // What is stamped now may turn out to be as early as what is on disk.
            Now::Boot(_) => (self.clock.wall(), self.clock.on_disk()),
        };
        let mut floor = present;
        for position in &state.positions {
            floor = floor.min(match position {
                Position::Starting => return None,
                Position::Live | Position::Ended => present,
                Position::Behind(lag) => {
                    let lag = i64::try_from(lag.as_micros()).unwrap_or(i64::MAX);
                    EventTime::from_micros(present.as_micros().saturating_sub(lag))
                }
                Position::At(time) => *time,
            });
        }
        if let Some(earliest) = state.pending.earliest {
            floor = floor.min(earliest);
        }
        Some(Stamp {
            wall,
            floor,
            boottime_us: self.clock.boottime_us(),
            clock,
        })
    }

    fn due(&self, pending: &Pending, now: Duration, all: bool) -> bool {
        !pending.is_empty()
            && (all
                || pending.urgent
                || pending.len() >= self.settings.commit_events
                || pending.bytes >= self.settings.commit_bytes
                || pending
                    .since
                    .is_some_and(|s| now >= s + self.settings.commit_interval))
    }

    /// What waits without a time gets it as soon as the clock is set, before any word of the watermark.
    fn lock_placed(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if !state.pending.untimed.is_empty()
            && let Some(offset_us) = self.clock.offset_us()
        {
            state.pending.place(offset_us);
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Whether a value can be an event: finite numbers, texts of at most 1,024 bytes.
///
/// **Errors**: what is wrong, as a text for people.
pub fn check(value: &Value) -> Result<(), String> {
    match value {
        Value::Number(n) if !n.is_finite() => Err(format!("{n} is not a finite number")),
        Value::Text(text) if text.len() > value::TEXT_BYTES_MAX => Err(format!(
            "text of {} bytes, more than {}",
            text.len(),
            value::TEXT_BYTES_MAX
        )),
        Value::Number(_) | Value::Bool(_) | Value::Text(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Quality;

    fn inbox(settings: Settings) -> Arc<Inbox> {
        Inbox::new(settings, Clock::new(Quality::Ntp))
    }

    fn reading(time: Option<i64>) -> Reading {
        Reading {
            device: DeviceId::new("d").unwrap(),
            metric: MetricName::new("m").unwrap(),
            time: time.map(EventTime::from_secs),
            value: Value::Bool(true),
        }
    }

    #[tokio::test]
    async fn the_floor_covers_waiting_samples_and_replaying_sources() {
        let inbox = inbox(Settings::default());
        let live = inbox.register(Position::Live);
        let replay = inbox.register(Position::Starting);
        assert!(
            inbox.stamp().is_none(),
            "a source that starts promises nothing"
        );
        inbox.set_position(replay, Position::At(EventTime::from_secs(100)));
        assert_eq!(inbox.stamp().unwrap().floor, EventTime::from_secs(100));
        let next = Some(Position::At(EventTime::from_secs(200)));
        inbox
            .push(replay, vec![reading(Some(100))], None, next, false)
            .await
            .unwrap();
        // The source is at 200, but its sample of 100 is not on disk yet.
        assert_eq!(inbox.stamp().unwrap().floor, EventTime::from_secs(100));
        assert_eq!(inbox.stored_until(), Some(EventTime::from_secs(100)));
        let (_, pending) = inbox.wait(None, true);
        assert_eq!(pending.unwrap().samples.len(), 1);
        assert!(inbox.stored_until() > Some(EventTime::from_secs(1_000_000_000)));
        assert_eq!(inbox.stamp().unwrap().floor, EventTime::from_secs(200));
        inbox.set_position(replay, Position::Ended);
        let stamp = inbox.stamp().unwrap();
        assert_eq!(stamp.floor, stamp.wall);
        inbox.set_position(live, Position::Behind(Duration::from_secs(5)));
        let stamp = inbox.stamp().unwrap();
        assert_eq!(stamp.floor.as_micros(), stamp.wall.as_micros() - 5_000_000);
    }

    #[tokio::test]
    async fn samples_without_a_time_are_stamped_and_commits_are_grouped() {
        let settings = Settings {
            commit_interval: Duration::from_secs(3600),
            commit_events: 3,
            ..Settings::default()
        };
        let inbox = inbox(settings);
        let source = inbox.register(Position::Live);
        let soon = || Some(inbox.clock.monotonic());
        let before = inbox.clock.wall();
        inbox
            .push(source, vec![reading(None); 2], None, None, false)
            .await
            .unwrap();
        assert!(inbox.wait(soon(), false).1.is_none(), "two of three");
        inbox
            .push(source, vec![reading(None)], None, None, false)
            .await
            .unwrap();
        let pending = inbox.wait(None, false).1.unwrap();
        assert_eq!(pending.samples.len(), 3);
        assert!(pending.volatile && pending.samples.iter().all(|s| s.time >= before));
        inbox
            .push(source, vec![reading(None)], None, None, true)
            .await
            .unwrap();
        assert!(inbox.wait(None, false).1.is_some(), "urgent goes at once");
    }

    #[tokio::test]
    async fn news_of_a_command_may_wait_until_there_is_a_hurry() {
        let inbox = inbox(Settings {
            commit_interval: Duration::from_secs(3600),
            ..Settings::default()
        });
        let now = || inbox.wait(Some(inbox.clock.monotonic()), false).1;
        // Nothing waits: the hurry is forgotten.
        inbox.hurry();
        let push = |urgent| {
            let changes = CommandChanges::default();
            inbox.push_command(vec![reading(None)], changes, urgent)
        };
        let mut stored = push(false).await.unwrap();
        assert!(now().is_none());
        inbox.hurry();
        inbox.stored(now().unwrap());
        stored.try_recv().unwrap();
        push(false).await.unwrap();
        push(true).await.unwrap();
        assert_eq!(now().unwrap().samples.len(), 2);
    }

    #[tokio::test]
    async fn a_full_inbox_makes_sources_wait_and_a_closed_one_refuses() {
        let long = Reading {
            value: Value::Text("x".repeat(3 * TEXT_UNIT).as_str().into()),
            ..reading(None)
        };
        // More than fit at all: taken whole, because a group belongs to one transaction. A long text takes as
        // much room.
        for group in [vec![reading(None); 6], vec![long]] {
            let inbox = inbox(Settings {
                events_max: 4,
                ..Settings::default()
            });
            let source = inbox.register(Position::Live);
            let push = async |inbox: &Inbox, group| {
                let push = inbox.push(source, group, None, None, false);
                push.await
            };
            push(&inbox, group).await.unwrap();
            let mut waiting = Box::pin(push(&inbox, vec![reading(None)]));
            tokio::select! {
                biased;
                _ = &mut waiting => panic!("there is no room"),
                () = tokio::task::yield_now() => {}
            }
            let pending = inbox.wait(None, true).1.unwrap();
            inbox.stored(pending);
            waiting.await.unwrap();
            inbox.close();
            assert_eq!(push(&inbox, vec![reading(None)]).await, Err(Closed));
        }
    }

    #[tokio::test]
    async fn a_ticket_is_on_disk_when_its_group_is_stored_and_not_before() {
        let inbox = inbox(Settings {
            replay_backlog_max: 100,
            ..Settings::default()
        });
        let source = inbox.register(Position::Live);
        // A live source is not held up by the backlog, even with a cursor.
        inbox.set_backlog(101);
        let cursor = || {
            Some(Cursor {
                source: "m".to_owned(),
                position: vec![1],
            })
        };
        let push = async |cursor| {
            let push = inbox.push_live(source, vec![reading(None)], cursor, false);
            push.await.unwrap()
        };
        let (first, second) = (push(None).await, push(cursor()).await);
        let group = inbox.wait(None, true).1.unwrap();
        assert!(group.volatile && group.cursors().len() == 1);
        let third = push(None).await;
        assert!(*inbox.on_disk().borrow() < first);
        // The first try fails; what came since is stored together with it.
        inbox.put_back(group);
        let group = inbox.wait(None, true).1.unwrap();
        assert!(*inbox.on_disk().borrow() < first);
        let mut told = inbox.on_disk();
        inbox.stored(group);
        assert!(told.has_changed().unwrap());
        assert_eq!(*told.borrow_and_update(), third);
        assert!(first < second && second < third && Ticket::default() < first);
    }

    #[tokio::test]
    async fn a_replay_waits_while_the_backlog_is_large() {
        let inbox = inbox(Settings {
            replay_backlog_max: 100,
            ..Settings::default()
        });
        let source = inbox.register(Position::Live);
        inbox.set_backlog(101);
        let cursor = Cursor {
            source: "f".to_owned(),
            position: vec![1],
        };
        let pushing = inbox.clone();
        let waiting = tokio::spawn(async move {
            pushing
                .push(source, vec![reading(Some(1))], Some(cursor), None, false)
                .await
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        inbox.set_backlog(100);
        waiting.await.unwrap().unwrap();
        let pending = inbox.wait(None, true).1.unwrap();
        assert!(!pending.volatile);
        assert_eq!(pending.cursors().len(), 1);
    }
}
