//! Which series are faults: they are the last to go when the buffer has no room.
//!
//! A source with `priority = "fault"` makes each series that it delivers known here; the agent's own
//! reports are always faults. A sample is looked at when it is stored, and its chunk remembers it, so
//! what is held stays a fault over restarts.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use event::{DeviceId, MetricName, Sample, command};

/// Most series that can be made known. Beyond it their samples are stored as any others.
pub const SERIES_MAX: usize = 65_536;

/// Metrics of what the agent reports of its own doing: what became of commands, and its alerts.
const OWN: [&str; 2] = [command::METRIC, "tidewatch.alert"];

/// The series that are faults, shared by the sources (which add) and the buffer (which looks).
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    series: HashMap<DeviceId, HashSet<MetricName>>,
    count: usize,
}

impl Known {
    fn has(&self, device: &DeviceId, metric: &MetricName) -> bool {
        OWN.contains(&metric.as_str())
            || self.series.get(device).is_some_and(|m| m.contains(metric))
    }
}

impl Faults {
    /// Makes a series known. Returns whether it is a fault from now on: not if there are
    /// [`SERIES_MAX`] already.
    pub fn add(&self, device: &DeviceId, metric: &MetricName) -> bool {
        let mut known = self.lock();
        if known.has(device, metric) {
            return true;
        }
        if known.count >= SERIES_MAX {
            return false;
        }
        known.count += 1;
        let metrics = known.series.entry(device.clone()).or_default();
        metrics.insert(metric.clone())
    }

    /// The faults among `samples` and the others, both in their order; none if there is no fault.
    pub(super) fn split<'a>(
        &self,
        samples: &'a [Sample],
    ) -> Option<(Vec<&'a Sample>, Vec<&'a Sample>)> {
        let known = self.lock();
        let is_fault = |s: &&Sample| known.has(&s.device, &s.metric);
        samples
            .iter()
            .any(|s| is_fault(&s))
            .then(|| samples.iter().partition(is_fault))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use event::{EventTime, Value};

    fn sample(device: &str, metric: &str) -> Sample {
        Sample {
            device: DeviceId::new(device).unwrap(),
            metric: MetricName::new(metric).unwrap(),
            time: EventTime(0),
            value: Value::Bool(true),
        }
    }

    #[test]
    fn what_was_made_known_and_the_agents_own_reports_are_faults() {
        let faults = Faults::default();
        let alarm = sample("a", "alarm");
        let all = [
            sample("a", "t"),
            alarm.clone(),
            sample("b", "alarm"),
            sample("b", command::METRIC),
            sample("b", "tidewatch.alert"),
        ];
        assert_eq!(faults.split(&all[..3]), None);
        assert!(faults.add(&alarm.device, &alarm.metric));
        let split = faults.split(&all);
        let expected = (vec![&all[1], &all[3], &all[4]], vec![&all[0], &all[2]]);
        assert_eq!(split, Some(expected));
    }

    #[test]
    fn there_is_an_end_to_what_can_be_made_known() {
        let faults = Faults::default();
        let metric = MetricName::new("m").unwrap();
        let device = |i: usize| DeviceId::new(&format!("d{i}")).unwrap();
        for i in 0..SERIES_MAX {
            assert!(faults.add(&device(i), &metric));
        }
        assert!(!faults.add(&device(SERIES_MAX), &metric));
        // One that is known already stays so.
        assert!(faults.add(&device(5), &metric));
        assert_eq!(faults.split(&[sample("d65536", "m")]), None);
    }
}
