//! Send on change: leaving out readings that say nothing new, before they become events.
//!
//! What is left out here was never accepted: it has no number, and nobody counts it as missing.

use std::collections::HashMap;
use std::time::Duration;

use event::{DeviceId, EventTime, MetricName, Value};

use crate::inbox::Reading;

/// Series that are remembered. Beyond it all are forgotten, and each sends once more.
const SERIES_MAX: usize = 65_536;

/// When a reading is left out. With everything zero and none, nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Settings {
    /// A number is left out if it differs from the last one sent by no more than this, in its own unit; another
    /// value if it is the same. None = the same value is sent again and again.
    pub dead_band: Option<f64>,
    /// A number is left out if it is closer than this to the last one sent, in event time. A change of a boolean
    /// or a text never is: it would be lost.
    pub min_interval: Duration,
    /// A reading is sent all the same if nothing was sent for this time. Zero = never.
    pub max_interval: Duration,
}

impl Settings {
    /// Whether it leaves out anything at all.
    pub fn is_off(&self) -> bool {
        self.dead_band.is_none() && self.min_interval.is_zero()
    }
}

/// What each series sent last.
#[derive(Debug)]
pub(super) struct Filter {
    settings: Settings,
    last: HashMap<DeviceId, HashMap<MetricName, (EventTime, Value)>>,
    series: usize,
}

impl Filter {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            last: HashMap::new(),
            series: 0,
        }
    }

    /// Whether a reading is to be sent; it is then the last one of its series. Readings from before the last one
    /// are sent: they fill a gap, and nobody knows what was sent around them.
    ///
    /// `now` is asked only of readings without a time of their own, and only if anything is left out at all.
    pub fn passes(&mut self, reading: &Reading, now: impl Fn() -> EventTime) -> bool {
        let Reading {
            device,
            metric,
            value,
            ..
        } = reading;
        if self.settings.is_off() || metric.as_str().starts_with('@') {
            return true;
        }
        let time = reading.time.unwrap_or_else(now);
        let last = self.last.get_mut(device).and_then(|m| m.get_mut(metric));
        let Some(last) = last else {
            self.remember(device, metric, time, value);
            return true;
        };
        let passed = time.as_micros().saturating_sub(last.0.as_micros());
        if passed < 0 {
            return true;
        }
        let passes = self.settings.lets_pass(passed as u64, &last.1, value);
        if passes {
            *last = (time, value.clone());
        }
        passes
    }

    fn remember(&mut self, device: &DeviceId, metric: &MetricName, time: EventTime, value: &Value) {
        if self.series >= SERIES_MAX {
            self.last.clear();
            self.series = 0;
        }
        self.series += 1;
        self.last
            .entry(device.clone())
            .or_default()
            .insert(metric.clone(), (time, value.clone()));
    }
}

impl Settings {
    /// Whether `value` is sent, `passed` microseconds after `last` was.
    fn lets_pass(&self, passed: u64, last: &Value, value: &Value) -> bool {
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        if !self.max_interval.is_zero() && passed >= micros(self.max_interval) {
            return true;
        }
        match (last, value) {
            (Value::Number(last), Value::Number(n)) => {
                let moved = self.dead_band.is_none_or(|band| (n - last).abs() > band);
                moved && passed >= micros(self.min_interval)
            }
            (last, value) if last != value => true,
            // The same again.
            _ => self.dead_band.is_none() && passed >= micros(self.min_interval),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Duration = Duration::ZERO;

    fn reading(device: &str, ms: i64, value: &Value) -> Reading {
        Reading {
            device: DeviceId::new(device).unwrap(),
            metric: MetricName::new("t").unwrap(),
            time: Some(EventTime::from_millis(ms)),
            value: value.clone(),
        }
    }

    fn passes(filter: &mut Filter, reading: &Reading) -> bool {
        filter.passes(reading, || unreachable!("they all have a time"))
    }

    /// Which of the readings (milliseconds, value) are sent.
    fn check(settings: Settings, readings: &[(i64, Value)], expected: &[i64]) {
        let mut filter = Filter::new(settings);
        let sent: Vec<i64> = readings
            .iter()
            .filter(|(ms, value)| passes(&mut filter, &reading("d", *ms, value)))
            .map(|r| r.0)
            .collect();
        assert_eq!(sent, expected, "{settings:?}");
    }

    fn numbers(list: &[(i64, f64)]) -> Vec<(i64, Value)> {
        list.iter().map(|(t, n)| (*t, Value::Number(*n))).collect()
    }

    #[test]
    fn only_what_moved_out_of_the_dead_band_is_sent() {
        let settings = Settings {
            dead_band: Some(0.5),
            min_interval: NONE,
            max_interval: Duration::from_secs(10),
        };
        // Against the last one sent, not the last one read: a slow drift is seen.
        let drift = [
            (0, 20.0),
            (1, 20.3),
            (2, 20.5),
            (3, 20.6),
            (4, 20.4),
            (5, 20.0),
        ];
        check(settings, &numbers(&drift), &[0, 3, 5]);
        let quiet = [
            (0, 1.0),
            (9_999, 1.0),
            (10_000, 1.0),
            (19_000, 1.0),
            (20_000, 1.0),
        ];
        check(settings, &numbers(&quiet), &[0, 10_000, 20_000]);
        let same = Settings {
            dead_band: Some(0.0),
            ..Settings::default()
        };
        check(
            same,
            &numbers(&[(0, 1.0), (1, 1.0), (2, 1.1), (3, 1.1)]),
            &[0, 2],
        );
    }

    #[test]
    fn numbers_wait_for_the_interval_and_changes_of_state_do_not() {
        let settings = Settings {
            dead_band: None,
            min_interval: Duration::from_secs(1),
            max_interval: NONE,
        };
        check(
            settings,
            &numbers(&[(0, 1.0), (400, 2.0), (1000, 3.0), (1999, 4.0), (2000, 4.0)]),
            &[0, 1000, 2000],
        );
        let door = |open: bool| Value::Bool(open);
        check(
            settings,
            &[
                (0, door(false)),
                (10, door(true)),
                (20, door(true)),
                (30, door(false)),
            ],
            &[0, 10, 30],
        );
        let text = |s: &str| Value::Text(s.into());
        let change = Settings {
            dead_band: Some(0.0),
            ..settings
        };
        check(
            change,
            &[(0, text("on")), (5000, text("on")), (5001, text("off"))],
            &[0, 5001],
        );
    }

    #[test]
    fn the_past_is_sent_and_moves_nothing() {
        let settings = Settings {
            dead_band: Some(1.0),
            ..Settings::default()
        };
        check(
            settings,
            &numbers(&[(100, 5.0), (50, 5.0), (101, 5.0)]),
            &[100, 50],
        );
    }

    #[test]
    fn without_settings_everything_is_sent_and_memory_is_bounded() {
        check(
            Settings::default(),
            &numbers(&[(0, 1.0), (0, 1.0)]),
            &[0, 0],
        );
        let mut filter = Filter::new(Settings {
            dead_band: Some(0.0),
            ..Settings::default()
        });
        for i in 0..SERIES_MAX + 10 {
            let one = reading(&format!("d{i}"), 1, &Value::Number(1.0));
            assert!(passes(&mut filter, &one));
        }
        assert_eq!(filter.series, 10);
    }
}
