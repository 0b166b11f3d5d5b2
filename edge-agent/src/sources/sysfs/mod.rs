//! Sensors that Linux shows in sysfs: thermal zones, hwmon chips and IIO devices.
//!
//! A thread reads, because some sensors take their time (a 1-wire thermometer most of a second) and
//! some hang: that must not hold up the connection. Sensors are looked for again from time to time, so
//! that one plugged in later is found.

mod names;
mod scan;
mod unit;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use event::{DeviceId, MetricName, Value};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{Counts, Feed, Mapping};
use crate::inbox::{Position, Reading};
use scan::Sensor;

/// Most sensors of a machine: a device cannot have more metrics in the cloud.
const SENSORS_MAX: usize = 1024;
/// Sensors are looked for again after this time.
const RESCAN: Duration = Duration::from_secs(60);
/// Different things told in one life: bounds the memory of what has been told.
const TOLD_MAX: usize = 4096;

/// A part of sysfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `class/thermal/thermal_zone*`.
    Thermal,
    /// `class/hwmon/hwmon*`.
    Hwmon,
    /// `bus/iio/devices/iio:device*`.
    Iio,
}

/// What to report and how often.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where sysfs is mounted.
    pub root: PathBuf,
    /// The device to report as.
    pub device: DeviceId,
    /// Time between two rounds.
    pub interval: Duration,
    /// Which sensors to look for.
    pub kinds: BTreeSet<Kind>,
    /// Which to take, and how to call them; by the names that they get here.
    pub mapping: Mapping,
}

/// What a round has brought.
#[derive(Debug, Default)]
struct Round {
    readings: Vec<Reading>,
    /// What a person should know, each once.
    told: Vec<String>,
}

/// Reports until the agent stops. Returns what was done.
pub async fn run(settings: Settings, mut feed: Feed, stop: CancellationToken) -> Counts {
    feed.stand_at(Position::Live);
    let mut ticks = interval(settings.interval.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (ask, mut asked) = mpsc::channel::<()>(1);
    let (give, mut given) = mpsc::channel(1);
    let mut sensors = Sensors::new(settings);
    let thread = std::thread::Builder::new().name("sysfs".to_owned());
    let started = thread.spawn(move || {
        while asked.blocking_recv().is_some() {
            if give.blocking_send(sensors.round(Instant::now())).is_err() {
                return;
            }
        }
    });
    let thread = match started {
        Ok(thread) => thread,
        Err(error) => {
            feed.refuse(0, &format!("cannot start the reading thread: {error}"));
            return feed.counts();
        }
    };
    let mut number = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return feed.counts(),
            _ = ticks.tick() => {}
        }
        let _ = ask.try_send(());
        let round = tokio::select! {
            () = stop.cancelled() => return feed.counts(),
            round = given.recv() => round,
        };
        let Some(round) = round else {
            // It ends before us only by a panic.
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
            return feed.counts();
        };
        number += 1;
        feed.count_row();
        for text in round.told {
            tracing::warn!(source = feed.name(), "{text}");
        }
        if feed.push(number, round.readings, None, None).await.is_err() {
            return feed.counts();
        }
    }
}

/// The sensors of this machine as they are known now.
struct Sensors {
    settings: Settings,
    known: Vec<(Sensor, MetricName)>,
    scanned: Option<Instant>,
    ambiguous: BTreeSet<String>,
    told: BTreeSet<String>,
}

impl Sensors {
    fn new(settings: Settings) -> Self {
        Self {
            settings,
            known: Vec::new(),
            scanned: None,
            ambiguous: BTreeSet::new(),
            told: BTreeSet::new(),
        }
    }

    /// Reads every sensor once, after looking for them if that is due.
    fn round(&mut self, now: Instant) -> Round {
        let mut round = Round::default();
        if self.scanned.is_none_or(|at| now >= at + RESCAN) {
            self.scanned = Some(now);
            self.scan(&mut round);
        }
        for (sensor, metric) in &self.known {
            match sensor.read() {
                Ok(None) => {}
                Ok(Some(value)) => round.readings.push(Reading {
                    device: self.settings.device.clone(),
                    metric: metric.clone(),
                    time: None,
                    value: Value::Number(value),
                }),
                Err(reason) => {
                    // Once for each sensor, whatever goes wrong with it next time.
                    let key = sensor.input.display().to_string();
                    tell(
                        &mut self.told,
                        &mut round,
                        key,
                        format!("{metric} cannot be read and is left out until it can: {reason}"),
                    );
                }
            }
        }
        round
    }

    fn scan(&mut self, round: &mut Round) {
        let found = scan::scan(&self.settings.root, &self.settings.kinds);
        let root = self.settings.root.display();
        if found.too_many {
            let text =
                format!("there are more sensors than {SENSORS_MAX}; the others are left out");
            tell(&mut self.told, round, "too many".to_owned(), text);
        }
        if found.sensors.is_empty() {
            let text = format!(
                "no sensor is found in {root}; they are looked for every {} s",
                RESCAN.as_secs()
            );
            tell(&mut self.told, round, "none".to_owned(), text);
        }
        let names = names::assign(&found.sensors, &mut self.ambiguous);
        let mut taken = BTreeSet::new();
        self.known.clear();
        for (sensor, name) in found.sensors.into_iter().zip(names) {
            let Some(metric) = self.settings.mapping.metric(&name) else {
                continue;
            };
            if !taken.insert(metric.clone()) {
                let text =
                    format!("{name} would become {metric}, which is taken; rename or skip it");
                tell(&mut self.told, round, name, text);
                continue;
            }
            self.known.push((sensor, metric));
        }
    }
}

fn tell(told: &mut BTreeSet<String>, round: &mut Round, key: String, text: String) {
    if told.len() < TOLD_MAX && told.insert(key) {
        round.told.push(text);
    }
}

#[cfg(test)]
mod tests;
