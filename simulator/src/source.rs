//! Makes the events behind one agent, in time order, as the clock goes on.
//!
//! Devices report in turn on a fixed grid of real time that the rate decides, so the content of a run
//! (which device measures what, at which offset from the start) is the same in every run with the same
//! settings, however late an overloaded machine makes it. Each device first tells its attributes.

use std::sync::Arc;

use event::EventTime;

use crate::device::{CYCLE, CYCLE_EVENTS, Device, Metric};
use crate::fleet::Fleet;

/// One event, small: what a buffer holds by the million. 24 bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event {
    /// When, by the device's clock.
    pub time: EventTime,
    /// The number, 0 or 1, or the index of the text ([`crate::device::Vocabulary::value`]).
    pub value: f64,
    /// Which of the agent's devices, from 0.
    pub device: u32,
    /// What was measured.
    pub metric: Metric,
}

/// The devices of one agent as a stream of events.
#[derive(Debug)]
pub struct Source {
    fleet: Arc<Fleet>,
    first_device: u32,
    site: u32,
    devices: Vec<Device>,
    told: usize,
    report: u64,
    offset: f64,
    interval: f64,
    end: u64,
}

impl Source {
    /// The devices behind agent number `agent`.
    pub fn new(fleet: Arc<Fleet>, agent: u32) -> Self {
        let range = fleet.devices_of(agent);
        let s = &fleet.settings;
        // Every device reports equally often: all of them together make `rate` events a second.
        let events_per_report = CYCLE_EVENTS as f64 / CYCLE as f64;
        let period = f64::from(s.devices) * events_per_report * 1e6 / s.rate;
        let interval = period / range.len() as f64;
        let end = s.duration.map_or(u64::MAX, crate::duration::micros);
        Self {
            first_device: range.start,
            site: fleet.site_of(agent),
            devices: range.map(|d| Device::new(s.seed, d)).collect(),
            told: 0,
            report: 0,
            offset: interval * f64::from(agent) / f64::from(s.agents),
            interval,
            end,
            fleet,
        }
    }

    /// No report that is due at or after `end` (microseconds of real time) will be made.
    pub fn end_at(&mut self, end: u64) {
        self.end = self.end.min(end);
    }

    /// When the next event is due; none = there will be no more.
    pub fn next_due(&self) -> Option<u64> {
        if self.told < self.devices.len() {
            return Some(0);
        }
        let due = self.due(self.report);
        (due < self.end).then_some(due)
    }

    /// The stamp that the next event will have; none = there will be no more. No event to come is
    /// earlier than this: it bounds the agent's low watermark.
    pub fn next_time(&self) -> Option<EventTime> {
        self.next_due().map(|due| self.fleet.wall.stamp(due))
    }

    /// When about `events` more events will be due.
    pub fn due_after(&self, events: usize) -> u64 {
        self.due(self.report + (events as u64).div_ceil(CYCLE_EVENTS / CYCLE))
    }

    /// Makes the events that are due before `real`, whole reports at a time, and stops once `limit`
    /// events have been made (it may go over by one report). Returns how many were made.
    pub fn make(&mut self, real: u64, limit: u64, mut take: impl FnMut(Event)) -> u64 {
        let mut made = 0;
        while made < limit && self.told < self.devices.len() {
            let device = self.told as u32;
            let time = self.fleet.wall.stamp(0);
            let model = Device::model(self.fleet.settings.seed, self.first_device + device);
            take(Event {
                time,
                value: f64::from(self.site),
                device,
                metric: Metric::Site,
            });
            take(Event {
                time,
                value: model as f64,
                device,
                metric: Metric::Model,
            });
            self.told += 1;
            made += 2;
        }
        while made < limit {
            let due = self.due(self.report);
            if due >= real || due >= self.end {
                break;
            }
            let n = self.devices.len() as u64;
            let (device, step) = ((self.report % n) as u32, self.report / n);
            let time = self.fleet.wall.stamp(due);
            let day = (due as f64 * self.fleet.settings.time_scale) / 86_400e6;
            let number = self.first_device + device;
            let fleet = &self.fleet;
            self.devices[device as usize].report(step, day, |metric, value| {
                let value = if fleet.faults.is_empty() {
                    value
                } else {
                    fleet.faulty(number, metric, due, value)
                };
                take(Event {
                    time,
                    value,
                    device,
                    metric,
                });
                made += 1;
            });
            self.report += 1;
        }
        made
    }

    fn due(&self, report: u64) -> u64 {
        (self.offset + report as f64 * self.interval) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Settings;
    use crate::clock::Wall;

    fn source(seed: u64, base: i64) -> Source {
        let mut s = Settings::new("mqtt://h:1".parse().unwrap(), 30, 3, 300.0);
        s.seed = seed;
        s.duration = Some(Duration::from_secs(60));
        let wall = Wall::new(EventTime(base), 1.0);
        Source::new(Arc::new(Fleet::new(s, wall).unwrap()), 1)
    }

    fn all(mut source: Source, step: u64) -> Vec<Event> {
        let mut events = Vec::new();
        let mut real = 0;
        while source.next_due().is_some() {
            real += step;
            let next = source.next_time();
            let from = events.len();
            let now = source.fleet.wall.at(real);
            source.make(real, u64::MAX, |e| events.push(e));
            assert!(
                events[from..]
                    .iter()
                    .all(|e| Some(e.time) >= next && e.time < now)
            );
        }
        events
    }

    #[test]
    fn the_rate_is_met_and_time_goes_forward() {
        let events = all(source(1, 0), 1_000_000);
        let measured = events.iter().filter(|e| !e.metric.is_attribute()).count();
        assert!((5990..=6010).contains(&measured), "{measured}");
        assert_eq!(events.len() - measured, 20);
        assert!(events.is_sorted_by_key(|e| e.time));
    }

    #[test]
    fn the_seed_decides_the_content_whatever_the_pace() {
        let a = all(source(1, 0), 1_000_000);
        assert_eq!(a, all(source(1, 0), 7_777));
        let values = |s| {
            all(s, 1000)
                .iter()
                .map(|e| e.value.to_bits())
                .collect::<Vec<_>>()
        };
        assert_eq!(values(source(1, 0)), values(source(1, 86_400_000_000)));
        assert_ne!(values(source(1, 0)), values(source(2, 0)));
    }

    #[test]
    fn a_limit_stops_between_reports_and_loses_nothing() {
        let mut s = source(1, 0);
        let mut events = Vec::new();
        while s.next_due().is_some() {
            let made = s.make(u64::MAX, 7, |e| events.push(e));
            assert!((7..7 + 6).contains(&made) || s.next_due().is_none());
        }
        assert_eq!(events, all(source(1, 0), 1_000_000));
    }

    #[test]
    fn an_earlier_end_holds() {
        let mut s = source(1, 0);
        s.end_at(1_000_000);
        let mut n = 0;
        s.make(u64::MAX, u64::MAX, |_| n += 1);
        assert!((100..150).contains(&n), "{n}");
        assert_eq!(s.next_time(), None);
    }
}
