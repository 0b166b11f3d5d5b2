//! The agent itself as a source: backlog, losses, connection, clock, what it writes to the card.

use std::time::Duration;

use event::{DeviceId, MetricName, Value};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::{Counts, Feed};
use crate::health::{Health, Process};
use crate::inbox::{Position, Reading};

/// What to report and how often.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The device to report as.
    pub device: DeviceId,
    /// Time between two rounds.
    pub interval: Duration,
    /// Bytes that the card stands to be written; none = no projection of its life.
    pub card_endurance: Option<u64>,
}

/// Reports until the agent stops. Returns what was done.
pub async fn run(
    settings: Settings,
    health: Health,
    mut feed: Feed,
    stop: CancellationToken,
) -> Counts {
    feed.stand_at(Position::Live);
    let every = settings.interval.max(Duration::from_millis(10));
    // Not at once: nothing is known yet.
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut round = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return feed.counts(),
            _ = ticks.tick() => {}
        }
        round += 1;
        feed.count_row();
        let clock = feed.inbox().clock();
        let snapshot = health.snapshot(
            clock.monotonic(),
            clock.wall(),
            clock.report(),
            Process::now(),
            settings.card_endurance,
        );
        let readings = snapshot.metrics().into_iter().filter_map(|(name, n)| {
            Some(Reading {
                device: settings.device.clone(),
                metric: MetricName::new(name).ok()?,
                time: None,
                value: Value::Number(n),
            })
        });
        let readings = readings.collect();
        if feed.push(round, readings, None, None).await.is_err() {
            return feed.counts();
        }
    }
}
