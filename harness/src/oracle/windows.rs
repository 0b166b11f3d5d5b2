//! What every window, hour and day must hold.

use rustc_hash::FxHashMap;

use crate::scenario::{DAY, HOUR, PLANS, Plan};

/// One unit of a sum is 2^-48.
const UNITS: f64 = 281_474_976_710_656.0;
/// Windows, hours, days.
pub(super) const TIERS: usize = 3;
/// Retention: panes, hours, days.
const KEEP: [i64; TIERS] = [2 * DAY, 30 * DAY, 400 * DAY];

/// A smallest or largest value: which, when, and of which device.
pub(super) type Extreme = Option<(f64, i64, u16)>;

/// One window of one group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Window {
    pub count: u64,
    pub numeric: u64,
    pub sum: i128,
    pub min: Extreme,
    pub max: Extreme,
    /// A bit for each device.
    pub devices: [u64; 4],
}

impl Window {
    const EMPTY: Self = Self {
        count: 0,
        numeric: 0,
        sum: 0,
        min: None,
        max: None,
        devices: [0; 4],
    };

    pub fn distinct(&self) -> u64 {
        self.devices.iter().map(|d| u64::from(d.count_ones())).sum()
    }
}

/// (tier, position in [`PLANS`], group, start).
pub(super) type Key = (u8, usize, u32, i64);

/// Everything that was counted, by window, hour and day.
#[derive(Debug, Default)]
pub(super) struct Windows(pub FxHashMap<Key, Window>);

/// A value that is counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value {
    pub device: u16,
    pub metric: u8,
    pub site: u8,
    pub time: i64,
    pub number: Option<f64>,
}

/// Which tiers an aggregate has: an hour or a day must be whole panes, and more than one.
fn tiers(plan: &Plan) -> [bool; TIERS] {
    let fits = |length: i64| length > plan.hop && length % plan.hop == 0;
    [true, fits(HOUR), fits(DAY)]
}

/// Starts before which windows, hours and days are not kept, when the newest counted event is of `newest`.
pub(super) fn horizons(plan: &Plan, newest: i64) -> [i64; TIERS] {
    let [_, hours, days] = tiers(plan);
    // What has no coarser tier above it takes over that one's time.
    let panes_keep = match (hours, days) {
        (true, _) => KEEP[0],
        (false, true) => KEEP[1],
        (false, false) => KEEP[2],
    };
    let hours_keep = if days { KEEP[1] } else { KEEP[2] };
    let at = |keep: i64, unit: i64| (newest - keep).div_euclid(unit) * unit;
    [at(panes_keep, HOUR), at(hours_keep, DAY), at(KEEP[2], DAY)]
}

impl Windows {
    /// Counts a value in one aggregate. False if it is older than everything that is kept there.
    pub fn add(
        &mut self,
        at: usize,
        horizons: [i64; TIERS],
        v: Value,
        name: impl Fn(u16) -> String,
    ) -> bool {
        let plan = &PLANS[at];
        let group = plan.group(v.metric as usize, v.site as usize);
        let lengths = [plan.hop, HOUR, DAY];
        let mut kept = false;
        for (tier, is_there) in tiers(plan).into_iter().enumerate() {
            let start = v.time.div_euclid(lengths[tier]) * lengths[tier];
            if !is_there || start < horizons[tier] {
                continue;
            }
            kept = true;
            // All windows over its pane, or its hour, or its day.
            let windows = if tier == 0 { plan.window / plan.hop } else { 1 };
            for back in 0..windows {
                let key = (tier as u8, at, group, start - back * plan.hop);
                let window = self.0.entry(key).or_insert(Window::EMPTY);
                count(window, v, &name);
            }
        }
        kept
    }

    /// Forgets the windows of an aggregate that is no longer declared.
    pub fn forget(&mut self, plan: usize) {
        self.0.retain(|key, _| key.1 != plan);
    }
}

fn count(window: &mut Window, v: Value, name: &impl Fn(u16) -> String) {
    window.count += 1;
    window.devices[v.device as usize / 64] |= 1 << (v.device % 64);
    let Some(n) = v.number else { return };
    window.numeric += 1;
    window.sum += (n * UNITS).round() as i128;
    let new = (n, v.time, v.device);
    // The same value: the earliest, then that of the device whose id comes first.
    let goes_first = |old: (f64, i64, u16)| {
        v.time < old.1 || v.time == old.1 && old.2 != v.device && name(v.device) < name(old.2)
    };
    let replaces = |old: Extreme, beyond: std::cmp::Ordering| {
        old.is_none_or(|old| match n.total_cmp(&old.0) {
            std::cmp::Ordering::Equal => goes_first(old),
            order => order == beyond,
        })
    };
    if replaces(window.min, std::cmp::Ordering::Less) {
        window.min = Some(new);
    }
    if replaces(window.max, std::cmp::Ordering::Greater) {
        window.max = Some(new);
    }
}
