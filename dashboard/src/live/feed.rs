//! The task that asks the views what changed and writes the frames.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use views::model::{Overview, Row};
use views::oncall::{AlertPage, MarkedAlert};
use views::{Command, Views};

use super::frame::Frame;
use super::hub::Hub;

/// How often the views are asked.
const POLL: Duration = Duration::from_millis(500);
/// How often a comment is sent.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Most items of one frame.
const ITEMS_MAX: usize = 500;
/// At most one overview in this time. A little below a second, for ticks are not exact.
const OVERVIEW_MIN: Duration = Duration::from_millis(900);
/// At least one overview in this time: a page that got none for 3 s calls itself stale.
const OVERVIEW_MAX: Duration = Duration::from_millis(1900);

/// Feeds the hub until `stop` is cancelled. To be run once per views: changes are handed out once.
pub async fn run(views: Arc<Views>, hub: Arc<Hub>, stop: CancellationToken) {
    let start = Instant::now();
    let feed = Arc::new(Mutex::new(Feed::new(views, hub.clone())));
    let mut poll = interval(POLL);
    let mut heartbeat = interval(HEARTBEAT);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = heartbeat.tick() => hub.heartbeat(),
            _ = poll.tick() => {
                let feed = feed.clone();
                // Merging rows and writing JSON takes milliseconds: not on a thread of the sockets.
                let step = tokio::task::spawn_blocking(move || {
                    let mut feed = feed.lock().unwrap_or_else(PoisonError::into_inner);
                    feed.step(start.elapsed())
                });
                match step.await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::error!(%error, "failed to write a live frame"),
                    Err(error) => tracing::error!(%error, "failed to feed the live stream"),
                }
            }
        }
    }
}

struct Feed {
    views: Arc<Views>,
    hub: Arc<Hub>,
    /// The overview may have changed since the last one was sent.
    changed: bool,
    /// The last overview that was sent, and when.
    sent: Option<(Frame, Duration)>,
}

#[derive(Serialize)]
struct Windows<'a> {
    items: &'a [Row],
    dropped: u64,
}

#[derive(Serialize)]
struct Commands<'a> {
    items: &'a [Command],
    dropped: u64,
}

#[derive(Serialize)]
struct Alerts<'a> {
    items: &'a [MarkedAlert],
}

#[derive(Serialize)]
struct Pages<'a> {
    items: &'a [AlertPage],
}

impl Feed {
    fn new(views: Arc<Views>, hub: Arc<Hub>) -> Self {
        Self {
            views,
            hub,
            changed: true,
            sent: None,
        }
    }

    /// Sends what changed. `now` is the time since some fixed moment.
    fn step(&mut self, now: Duration) -> serde_json::Result<()> {
        let changes = self.views.take_changes();
        self.changed |= changes.overview || !changes.alerts.is_empty();
        // Alerts first: of all that may be late they matter most.
        for items in changes.alerts.chunks(ITEMS_MAX) {
            self.send("alerts", &Alerts { items })?;
        }
        for items in changes.pages.chunks(ITEMS_MAX) {
            self.send("pages", &Pages { items })?;
        }
        if !changes.commands.is_empty() {
            let items = &changes.commands;
            let dropped = changes.commands_dropped;
            self.send("commands", &Commands { items, dropped })?;
        }
        if !changes.windows.is_empty() || changes.dropped > 0 {
            let items = &changes.windows[..changes.windows.len().min(ITEMS_MAX)];
            let dropped = changes.dropped + (changes.windows.len() - items.len()) as u64;
            self.send("windows", &Windows { items, dropped })?;
        }
        let age = self.sent.as_ref().map(|(_, at)| now.saturating_sub(*at));
        let due = age.is_none_or(|age| age >= OVERVIEW_MAX);
        if due || (self.changed && age.is_none_or(|age| age >= OVERVIEW_MIN)) {
            self.changed = false;
            let overview: Overview = self.views.overview();
            let frame = Frame::new(self.hub.last() + 1, "overview", &overview)?;
            let same = self
                .sent
                .as_ref()
                .is_some_and(|(old, _)| old.says_the_same(&frame));
            if due || !same {
                self.hub.publish(frame.clone(), true);
                self.sent = Some((frame, now));
            }
        }
        Ok(())
    }

    fn send(&self, event: &str, data: &impl Serialize) -> serde_json::Result<()> {
        // Nobody else publishes, so the number is still the next one when the frame is written.
        let frame = Frame::new(self.hub.last() + 1, event, data)?;
        self.hub.publish(frame, false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use views::StatusCounts;
    use views::model::Totals;

    use super::*;

    fn summary(views: &Views, counted: u64) {
        let totals = Totals {
            accepted: counted,
            counted,
            ..Totals::default()
        };
        views.put_summary(
            0,
            1_700_000_000_000_000,
            totals,
            StatusCounts::default(),
            None,
        );
    }

    #[test]
    fn an_overview_comes_at_most_once_a_second_and_at_least_every_two() {
        let views = Views::new(1, "1", 0);
        let hub = Arc::new(Hub::new(0, 1));
        let mut feed = Feed::new(views.clone(), hub.clone());
        let mut sent = Vec::new();
        for half_second in 0..=16 {
            // Changes come all the time at first, then none.
            if half_second < 6 {
                summary(&views, half_second);
            }
            let before = hub.last();
            feed.step(POLL * u32::try_from(half_second).unwrap())
                .unwrap();
            if hub.last() > before {
                sent.push(half_second);
            }
        }
        assert_eq!(sent, [0, 2, 4, 6, 10, 14]);
    }
}
