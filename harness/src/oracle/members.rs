//! Who is expected in which window.

use super::{Device, Oracle};
use crate::scenario::{METRICS, PLANS};

/// A device that belonged to a group for a while.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retired {
    /// Position in [`PLANS`].
    pub plan: usize,
    group: u32,
    /// From when to when.
    known: i64,
    leave: i64,
}

/// Whether a device belongs to a group of an aggregate, as it is now.
fn belongs(device: &Device, plan: usize, group: u32) -> bool {
    let plan = &PLANS[plan];
    (0..METRICS).any(|m| {
        device.metrics[m]
            && plan.metric.is_none_or(|only| only == m)
            && plan.group(m, device.site.1 as usize) == group
    })
}

impl Oracle {
    /// How many devices are expected in a window: those known before its end that were not taken out of
    /// service before its start. (Nobody is silent for so long here that it would be dormant.)
    pub(super) fn expected(&self, plan: usize, group: u32, start: i64, end: i64) -> u64 {
        let present = self
            .devices
            .iter()
            .filter(|d| d.known < end && belongs(d, plan, group));
        let past = self
            .retired
            .iter()
            .filter(|r| (r.plan, r.group) == (plan, group) && r.known < end && r.leave > start);
        (present.count() + past.count()) as u64
    }

    /// Whether everything that a device has measured has come and counts: then it can be taken out of service
    /// and nothing brings it back.
    pub fn is_settled(&self, device: &str) -> bool {
        let Some(&number) = self.numbers.get(device) else {
            return false;
        };
        let mut of = self.made.iter().filter(|m| m.device == number).peekable();
        of.peek().is_some()
            && of.all(|m| matches!(m.fate, super::Fate::Counted | super::Fate::TooOld))
    }

    /// A device is out of service from `now` on.
    pub(super) fn retire(&mut self, name: &str, now: i64) {
        let Some(&number) = self.numbers.get(name) else {
            return;
        };
        let device = &self.devices[number as usize];
        for &plan in &self.declared.plans {
            let mut groups: Vec<u32> = (0..METRICS)
                .filter(|m| PLANS[plan].metric.is_none_or(|only| only == *m))
                .map(|m| PLANS[plan].group(m, device.site.1 as usize))
                .filter(|group| belongs(device, plan, *group))
                .collect();
            groups.sort_unstable();
            groups.dedup();
            self.retired.extend(groups.into_iter().map(|group| Retired {
                plan,
                group,
                known: device.known,
                leave: now,
            }));
        }
        let device = &mut self.devices[number as usize];
        device.metrics = [false; METRICS];
        device.site = (i64::MIN, 0);
        self.episodes.drop_device(number);
    }
}
