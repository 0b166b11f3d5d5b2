//! Devices, their series and what they have in common.
//!
//! A device is 24 bytes and its name; a series (one metric of it) is 16: the newest value and its event time.
//! What many devices share (attributes, which metrics they have, which groups that makes) is a *class*,
//! held once.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::flat;
use super::names::{Names, grow};
use super::texts::Texts;

const SECOND: i64 = 1_000_000;
/// 2020-01-01T00:00:00Z in seconds: an earlier event time is a clock that was never set (P5).
const EPOCH: i64 = 1_577_836_800;
/// The same in microseconds.
pub(crate) const TIME_MIN: i64 = EPOCH * SECOND;

/// Most devices, series and metrics of a partition. What comes beyond is quarantined.
pub(crate) const DEVICES_MAX: usize = 4_000_000;
pub(crate) const SERIES_MAX: usize = 64_000_000;
pub(crate) const METRICS_MAX: usize = 65_536;
/// Most metrics of a device; events of further ones are quarantined.
pub(crate) const DEVICE_SERIES_MAX: usize = 1024;
/// Most attributes of a device; more are ignored.
pub(crate) const ATTRIBUTES_MAX: usize = 32;
/// No number.
pub(crate) const NONE: u32 = u32::MAX;

/// Whole seconds since 2020.
pub(crate) fn second_of(t: i64) -> u32 {
    (t.div_euclid(SECOND) - EPOCH).clamp(0, i64::from(u32::MAX)) as u32
}

/// The time (microseconds) of a second since 2020.
pub(crate) fn micros_of(second: u32) -> i64 {
    (i64::from(second) + EPOCH) * SECOND
}

/// One device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) agent: u32,
    pub(crate) class: u32,
    /// Place of its first series; the others follow in the order of its class' metrics.
    pub(crate) series: u32,
    /// Earliest event time, seconds since 2020.
    pub(crate) first: u32,
    /// Event time of its attributes, microseconds; `i64::MIN` without any.
    pub(crate) attrs_at: i64,
}

impl Device {
    /// The record as it is saved.
    #[inline]
    fn to_bytes(self) -> [u8; 24] {
        let mut row = [0; 24];
        for (place, n) in
            row.chunks_exact_mut(4)
                .zip([self.agent, self.class, self.series, self.first])
        {
            place.copy_from_slice(&n.to_le_bytes());
        }
        row[16..].copy_from_slice(&self.attrs_at.to_le_bytes());
        row
    }

    fn from_bytes(row: &[u8; 24]) -> Self {
        let word = |at: usize| flat::number::<u32>(&row[at..at + 4]);
        Self {
            agent: word(0),
            class: word(4),
            series: word(8),
            first: word(12),
            attrs_at: flat::number(&row[16..]),
        }
    }
}

/// What a series' newest value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A double's bits.
    Number,
    /// 0 or 1.
    Bool,
    /// The number of a text.
    Text,
}

/// The newest value of one metric of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Series {
    /// Event time × 8 + 4 if an episode of a rule is under way + kind.
    stamp: i64,
    bits: u64,
}

impl Series {
    /// One that has no value.
    pub(crate) const EMPTY: Self = Self {
        stamp: i64::MIN,
        bits: 0,
    };

    /// The record as it is saved.
    #[inline]
    fn to_bytes(self) -> [u8; 16] {
        let mut row = [0; 16];
        row[..8].copy_from_slice(&self.stamp.to_le_bytes());
        row[8..].copy_from_slice(&self.bits.to_le_bytes());
        row
    }

    fn from_bytes(row: &[u8; 16]) -> Self {
        Self {
            stamp: flat::number(&row[..8]),
            bits: flat::number(&row[8..]),
        }
    }

    /// Event time of the newest value; about -10^18 before the first.
    #[inline(always)]
    pub(crate) fn time(self) -> i64 {
        self.stamp >> 3
    }

    pub(crate) fn is_empty(self) -> bool {
        self.stamp == i64::MIN
    }

    /// Whether an episode of a rule is under way.
    #[inline(always)]
    pub(crate) fn is_flagged(self) -> bool {
        self.stamp & 4 != 0
    }

    pub(crate) fn set_flag(&mut self, on: bool) {
        if !self.is_empty() {
            self.stamp = (self.stamp & !4) | if on { 4 } else { 0 };
        }
    }

    /// What it holds; none before the first value.
    pub(crate) fn value(self) -> Option<(Kind, u64)> {
        let kind = match self.stamp & 3 {
            0 => Kind::Number,
            1 => Kind::Bool,
            _ => Kind::Text,
        };
        (!self.is_empty()).then_some((kind, self.bits))
    }

    /// Takes a newer value; the flag stays.
    #[inline(always)]
    pub(crate) fn set(&mut self, time: i64, kind: Kind, bits: u64) {
        let flag = if self.is_empty() { 0 } else { self.stamp & 4 };
        self.stamp = (time << 3) | flag | kind as i64;
        self.bits = bits;
    }
}

/// Attributes and metrics that devices have in common, and the groups that follow.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Class {
    /// (number of the attribute's name, number of its text), ascending.
    pub(crate) attributes: Box<[(u32, u32)]>,
    /// Numbers of the metrics, ascending.
    pub(crate) metrics: Box<[u32]>,
    /// How many devices have it. At 0 the number may be given out again.
    pub(crate) devices: u32,
    /// Whether the groups are known; they are looked up when an event first needs them.
    pub(crate) placed: bool,
    /// All groups, ascending.
    pub(crate) groups: Vec<u32>,
    /// For each metric the groups its events go to, in the order of the aggregates ([`NONE`]: no room).
    pub(crate) slots: Vec<SmallVec<[u32; 4]>>,
}

impl Class {
    /// Where a metric stands.
    #[inline]
    pub(crate) fn position(&self, metric: u32) -> Option<usize> {
        if self.metrics.len() <= 16 {
            self.metrics.iter().position(|m| *m == metric)
        } else {
            self.metrics.binary_search(&metric).ok()
        }
    }
}

type ClassKey = (Box<[(u32, u32)]>, Box<[u32]>);

/// All devices of a partition.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry {
    pub(crate) ids: Names,
    pub(crate) devices: Vec<Device>,
    /// Since when (seconds since 2020) a device has the attributes that place it, where that is not its first
    /// event.
    pub(crate) placed: std::collections::BTreeMap<u32, u32>,
    /// Event time of each attribute (by name number), where they are not all [`Device::attrs_at`].
    pub(crate) attribute_times: std::collections::BTreeMap<u32, Vec<(u32, i64)>>,
    pub(crate) metrics: Names,
    pub(crate) attributes: Names,
    pub(crate) texts: Texts,
    pub(crate) series: Vec<Series>,
    /// Freed runs of series by length.
    free_series: std::collections::BTreeMap<u32, Vec<u32>>,
    pub(crate) live_series: usize,
    pub(crate) classes: Vec<Class>,
    free_classes: Vec<u32>,
    class_index: FxHashMap<ClassKey, u32>,
}

impl Registry {
    /// How many devices there are, decommissioned ones included: their numbers stay taken.
    pub(crate) fn len(&self) -> usize {
        self.devices.len()
    }

    /// Adds a device that is not there; none if there is no room.
    pub(crate) fn add(&mut self, id: &str, agent: u32, first: i64) -> Option<u32> {
        if self.devices.len() >= DEVICES_MAX {
            return None;
        }
        let number = self.ids.insert(id)?;
        let class = self.class((Box::from([]), Box::from([])));
        grow(&mut self.devices, 1);
        self.devices.push(Device {
            agent,
            class,
            series: 0,
            first: second_of(first),
            attrs_at: i64::MIN,
        });
        Some(number)
    }

    /// The class with these attributes and metrics, for one device more.
    fn class(&mut self, key: ClassKey) -> u32 {
        if let Some(&class) = self.class_index.get(&key) {
            self.classes[class as usize].devices += 1;
            return class;
        }
        for (_, text) in &key.0 {
            self.texts.hold_again(*text);
        }
        let class = Class {
            attributes: key.0.clone(),
            metrics: key.1.clone(),
            devices: 1,
            ..Class::default()
        };
        let number = match self.free_classes.pop() {
            Some(number) => {
                self.classes[number as usize] = class;
                number
            }
            None => {
                self.classes.push(class);
                self.classes.len() as u32 - 1
            }
        };
        self.class_index.insert(key, number);
        number
    }

    fn leave_class(&mut self, number: u32) {
        let class = &mut self.classes[number as usize];
        class.devices -= 1;
        if class.devices == 0 {
            let class = std::mem::take(class);
            for (_, text) in &class.attributes {
                self.texts.release(*text);
            }
            self.class_index.remove(&(class.attributes, class.metrics));
            self.free_classes.push(number);
        }
    }

    /// Gives the device further metrics (numbers, any order, not there yet); its values stay. False if there is
    /// no room for all of them.
    pub(crate) fn add_metrics(&mut self, device: u32, more: &[u32]) -> bool {
        let old = self.devices[device as usize];
        let class = &self.classes[old.class as usize];
        let count = class.metrics.len() + more.len();
        if count > DEVICE_SERIES_MAX || self.live_series + more.len() > SERIES_MAX {
            return false;
        }
        let mut metrics: Vec<u32> = class.metrics.iter().chain(more).copied().collect();
        metrics.sort_unstable();
        let new = self.class((class.attributes.clone(), metrics.into()));
        let run = self.take_run(count as u32);
        let (from, to) = (
            &self.classes[old.class as usize],
            &self.classes[new as usize],
        );
        let mut at = 0;
        for (i, metric) in to.metrics.iter().enumerate() {
            let place = run as usize + i;
            if from.metrics.get(at) == Some(metric) {
                self.series[place] = self.series[old.series as usize + at];
                at += 1;
            } else {
                self.series[place] = Series::EMPTY;
            }
        }
        let freed = from.metrics.len() as u32;
        self.free_run(old.series, freed);
        self.leave_class(old.class);
        let device = &mut self.devices[device as usize];
        device.class = new;
        device.series = run;
        true
    }

    fn take_run(&mut self, len: u32) -> u32 {
        self.live_series += len as usize;
        if let Some(runs) = self.free_series.get_mut(&len)
            && let Some(run) = runs.pop()
        {
            return run;
        }
        let run = self.series.len() as u32;
        grow(&mut self.series, len as usize);
        self.series
            .resize(self.series.len() + len as usize, Series::EMPTY);
        run
    }

    fn free_run(&mut self, run: u32, len: u32) {
        if len > 0 {
            self.live_series -= len as usize;
            self.free_series.entry(len).or_default().push(run);
        }
    }

    /// Whether the id of one device comes before that of another.
    pub(crate) fn order(&self) -> impl Fn(u32, u32) -> bool + '_ {
        |a, b| self.ids.bytes(a) < self.ids.bytes(b)
    }

    /// The value of an attribute, if the device has it.
    pub(crate) fn attribute(&self, device: u32, name: u32) -> Option<u32> {
        let class = &self.classes[self.devices[device as usize].class as usize];
        class.attributes.iter().find(|a| a.0 == name).map(|a| a.1)
    }

    /// Event time of an attribute; `i64::MIN` if it was never set.
    pub(crate) fn attribute_time(&self, device: u32, name: u32) -> i64 {
        match self.attribute_times.get(&device) {
            Some(times) => times.iter().find(|t| t.0 == name).map_or(i64::MIN, |t| t.1),
            None if self.attribute(device, name).is_some() => {
                self.devices[device as usize].attrs_at
            }
            None => i64::MIN,
        }
    }

    /// Sets an attribute (`None` removes it) as of an event time that is not older than what it had. False if
    /// the device has too many.
    pub(crate) fn set_attribute(
        &mut self,
        device: u32,
        name: u32,
        time: i64,
        text: Option<&str>,
    ) -> bool {
        let old = self.devices[device as usize];
        let class = &self.classes[old.class as usize];
        let at = class.attributes.binary_search_by_key(&name, |a| a.0);
        if at.is_err() && class.attributes.len() >= ATTRIBUTES_MAX {
            return false;
        }
        self.note_attribute_time(device, name, time);
        let class = &self.classes[old.class as usize];
        let same = match (at, text) {
            (Ok(i), Some(text)) => **self.texts.get(class.attributes[i].1) == *text,
            (Err(_), None) => true,
            _ => false,
        };
        if same {
            return true;
        }
        let mut attributes = class.attributes.to_vec();
        let metrics = class.metrics.clone();
        let text = text.map(|text| self.texts.hold(text));
        match (at, text) {
            (Ok(i), Some(text)) => attributes[i].1 = text,
            (Ok(i), None) => {
                attributes.remove(i);
            }
            (Err(i), Some(text)) => attributes.insert(i, (name, text)),
            (Err(_), None) => {}
        }
        let new = self.class((attributes.into(), metrics));
        // The class holds it now.
        if let Some(text) = text {
            self.texts.release(text);
        }
        self.leave_class(old.class);
        self.devices[device as usize].class = new;
        true
    }

    /// Most devices tell all attributes at once: one time is enough for them.
    fn note_attribute_time(&mut self, device: u32, name: u32, time: i64) {
        let state = self.devices[device as usize];
        if !self.attribute_times.contains_key(&device) {
            let class = &self.classes[state.class as usize];
            let only = class.attributes.iter().all(|a| a.0 == name);
            if only || state.attrs_at == time {
                self.devices[device as usize].attrs_at = time;
                return;
            }
            let times = class
                .attributes
                .iter()
                .map(|a| (a.0, state.attrs_at))
                .collect();
            self.attribute_times.insert(device, times);
        }
        if let Some(times) = self.attribute_times.get_mut(&device) {
            match times.iter_mut().find(|t| t.0 == name) {
                Some(t) => t.1 = time,
                None => times.push((name, time)),
            }
            if times.iter().all(|t| t.1 == time) && times.len() >= 2 {
                let class = &self.classes[state.class as usize];
                // A removed attribute's time is in no class: only then must the list stay.
                if times
                    .iter()
                    .all(|t| class.attributes.iter().any(|a| a.0 == t.0) || t.0 == name)
                {
                    self.attribute_times.remove(&device);
                    self.devices[device as usize].attrs_at = time;
                }
            }
        }
    }

    /// The series of a device's metric.
    pub(crate) fn find_series(&self, device: u32, metric: u32) -> Option<u32> {
        let device = self.devices[device as usize];
        let class = &self.classes[device.class as usize];
        class.position(metric).map(|i| device.series + i as u32)
    }

    /// The series of a device, with their metrics.
    pub(crate) fn series_of(&self, device: u32) -> impl Iterator<Item = (u32, Series)> {
        let device = self.devices[device as usize];
        let metrics = &self.classes[device.class as usize].metrics;
        metrics
            .iter()
            .enumerate()
            .map(move |(i, m)| (*m, self.series[device.series as usize + i]))
    }

    /// Since when the device has been where its attributes say, seconds since 2020.
    pub(crate) fn placed_since(&self, device: u32) -> u32 {
        match self.placed.get(&device) {
            Some(&since) => since,
            None => self.devices[device as usize].first,
        }
    }

    /// Takes away series and attributes of a device for good; the number and the id stay.
    pub(crate) fn strip(&mut self, device: u32) {
        let old = self.devices[device as usize];
        let len = self.classes[old.class as usize].metrics.len() as u32;
        for i in 0..len {
            let series = &mut self.series[(old.series + i) as usize];
            if let Some((Kind::Text, text)) = series.value() {
                self.texts.release(text as u32);
            }
            *series = Series::EMPTY;
        }
        self.free_run(old.series, len);
        let empty = self.class((Box::from([]), Box::from([])));
        self.leave_class(old.class);
        self.placed.remove(&device);
        self.attribute_times.remove(&device);
        let device = &mut self.devices[device as usize];
        device.class = empty;
        device.series = 0;
        device.attrs_at = i64::MIN;
    }

    /// Memory, bytes, as far as it grows with devices.
    pub(crate) fn memory(&self) -> usize {
        self.ids.memory()
            + self.devices.capacity() * size_of::<Device>()
            + self.series.capacity() * size_of::<Series>()
    }

    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        self.ids.save(out);
        self.metrics.save(out);
        self.attributes.save(out);
        self.texts.save(out);
        flat::put_rows(out, self.devices.iter().copied().map(Device::to_bytes));
        flat::put_rows(out, self.series.iter().copied().map(Series::to_bytes));
        flat::put_len(out, self.classes.len());
        for class in &self.classes {
            flat::put_u32(out, class.devices);
            flat::put_u32(out, u32::from(class.placed));
            let pairs = class.attributes.iter().flat_map(|a| [a.0, a.1]);
            flat::put_all(out, class.attributes.len() * 2, pairs);
            flat::put_u32s(out, &class.metrics);
        }
        flat::put_u32s(out, &self.free_classes);
        let rare = (&self.placed, &self.attribute_times, &self.free_series);
        flat::put_bytes(out, &postcard::to_allocvec(&rare).unwrap_or_default());
    }

    /// Reads [`Self::save`]; none if the bytes are not of that form or contradict each other: what is counted is
    /// counted again.
    pub(crate) fn load(bytes: &mut &[u8]) -> Option<Self> {
        let mut r = Self {
            ids: Names::load(bytes)?,
            metrics: Names::load(bytes)?,
            attributes: Names::load(bytes)?,
            texts: Texts::load(bytes)?,
            ..Self::default()
        };
        let devices = flat::take_rows(bytes)?;
        if devices.len() != r.ids.len() {
            return None;
        }
        r.devices = devices.iter().map(Device::from_bytes).collect();
        let series = flat::take_rows(bytes)?;
        r.series = series.iter().map(Series::from_bytes).collect();
        let len = usize::try_from(flat::take_u64(bytes)?).ok()?;
        if len > bytes.len() / 24 {
            return None;
        }
        for number in 0..len {
            let devices = flat::take_u32(bytes)?;
            let placed = match flat::take_u32(bytes)? {
                0 => false,
                1 => true,
                _ => return None,
            };
            let attributes = flat::take_u32s(bytes)?;
            let metrics: Box<[u32]> = flat::take_u32s(bytes)?.into();
            let (pairs, odd) = attributes.as_chunks::<2>();
            let attributes: Box<[(u32, u32)]> = pairs.iter().map(|c| (c[0], c[1])).collect();
            let known = attributes
                .iter()
                .all(|a| (a.0 as usize) < r.attributes.len() && (a.1 as usize) < r.texts.len())
                && metrics.iter().all(|m| (*m as usize) < r.metrics.len());
            let ascending = attributes.windows(2).all(|w| w[0].0 < w[1].0)
                && metrics.windows(2).all(|w| w[0] < w[1]);
            let within = attributes.len() <= ATTRIBUTES_MAX && metrics.len() <= DEVICE_SERIES_MAX;
            if !(known && ascending && within && odd.is_empty()) {
                return None;
            }
            if devices > 0 {
                let key = (attributes.clone(), metrics.clone());
                if r.class_index.insert(key, number as u32).is_some() {
                    return None;
                }
            }
            r.classes.push(Class {
                attributes,
                metrics,
                devices,
                placed,
                ..Class::default()
            });
        }
        r.free_classes = flat::take_u32s(bytes)?;
        let rare = flat::take_bytes(bytes)?;
        (r.placed, r.attribute_times, r.free_series) = postcard::from_bytes(rare).ok()?;
        let within = r.devices.len() <= DEVICES_MAX
            && r.series.len() <= u32::MAX as usize
            && r.metrics.len() <= METRICS_MAX;
        let used = r.count_runs()?;
        r.live_series = used;
        (within && r.check_classes() && r.check_texts() && r.check_rare()).then_some(r)
    }

    /// How many series are in use, if the runs of the devices and the free ones are all series and none is in
    /// two of them.
    fn count_runs(&self) -> Option<usize> {
        let mut taken = vec![0u64; self.series.len().div_ceil(64)];
        let mut take = |run: u32, len: usize| -> Option<()> {
            let run = run as usize;
            if run.checked_add(len)? > self.series.len() {
                return None;
            }
            for place in run..run + len {
                let (word, bit) = (&mut taken[place / 64], 1 << (place % 64));
                if *word & bit != 0 {
                    return None;
                }
                *word |= bit;
            }
            Some(())
        };
        let (mut used, mut free) = (0, 0);
        for device in &self.devices {
            let len = self.classes.get(device.class as usize)?.metrics.len();
            if len > 0 {
                take(device.series, len)?;
                used += len;
            }
        }
        for (len, runs) in &self.free_series {
            for run in runs {
                if *len == 0 {
                    return None;
                }
                take(*run, *len as usize)?;
                free += *len as usize;
            }
        }
        (used + free == self.series.len()).then_some(used)
    }

    /// Whether each class has the devices that it says, and those without any are free, once.
    fn check_classes(&self) -> bool {
        let mut devices = vec![0; self.classes.len()];
        for device in &self.devices {
            devices[device.class as usize] += 1;
        }
        let counted = self.classes.iter().map(|c| c.devices).eq(devices);
        let mut free = self.free_classes.clone();
        free.sort_unstable();
        let unused = (0u32..).zip(&self.classes).filter(|c| c.1.devices == 0);
        let empty = |c: &Class| c.attributes.is_empty() && c.metrics.is_empty() && !c.placed;
        counted && unused.clone().all(|c| empty(c.1)) && unused.map(|c| c.0).eq(free)
    }

    /// Whether each text is held by as many classes and newest values as it says.
    fn check_texts(&self) -> bool {
        let mut holders = vec![0u32; self.texts.len()];
        for class in &self.classes {
            for (_, text) in &class.attributes {
                holders[*text as usize] += 1;
            }
        }
        // What lies in free runs is left over and holds nothing.
        for device in &self.devices {
            let len = self.classes[device.class as usize].metrics.len();
            let run = self.series.iter().skip(device.series as usize).take(len);
            for series in run {
                if let Some((Kind::Text, text)) = series.value() {
                    let place = usize::try_from(text).ok();
                    match place.and_then(|at| holders.get_mut(at)) {
                        Some(n) => *n += 1,
                        None => return false,
                    }
                }
            }
        }
        self.texts.are_held(&holders)
    }

    /// Whether what few devices have is of devices and attributes that there are.
    fn check_rare(&self) -> bool {
        let device = |d: &u32| (*d as usize) < self.devices.len();
        let attribute = |t: &(u32, i64)| (t.0 as usize) < self.attributes.len();
        self.placed.keys().all(device)
            && self.attribute_times.keys().all(device)
            && self.attribute_times.values().flatten().all(attribute)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_when_metrics_are_added_and_runs_are_used_again() {
        let mut r = Registry::default();
        for m in ["a", "b", "c"] {
            r.metrics.insert(m).unwrap();
        }
        let d = r.add("dev", 0, TIME_MIN).unwrap();
        assert!(r.add_metrics(d, &[1]));
        let s = r.find_series(d, 1).unwrap() as usize;
        r.series[s].set(TIME_MIN + 5, Kind::Number, 7);
        assert!(r.add_metrics(d, &[2, 0]));
        let values: Vec<_> = r.series_of(d).map(|(m, s)| (m, s.value())).collect();
        assert_eq!(values, [(0, None), (1, Some((Kind::Number, 7))), (2, None)]);
        let e = r.add("other", 0, TIME_MIN).unwrap();
        assert!(r.add_metrics(e, &[1]));
        assert_eq!(r.series.len(), 4, "the freed run of one was used again");
        let mut bytes = Vec::new();
        r.save(&mut bytes);
        let back = Registry::load(&mut bytes.as_slice()).unwrap();
        let mut again = Vec::new();
        back.save(&mut again);
        assert_eq!(bytes, again);
        for cut in 0..bytes.len() {
            assert!(Registry::load(&mut &bytes[..cut]).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_counted_wrongly_is_refused() {
        let mut r = Registry::default();
        r.metrics.insert("state").unwrap();
        r.attributes.insert("site").unwrap();
        for id in ["a", "b", "c"] {
            let d = r.add(id, 0, TIME_MIN).unwrap();
            assert!(r.set_attribute(d, 0, 10, Some("s1")) && r.add_metrics(d, &[0]));
        }
        let text = r.texts.hold("on");
        let s = r.find_series(1, 0).unwrap() as usize;
        r.series[s].set(TIME_MIN, Kind::Text, u64::from(text));
        // A run and a class that are free again, with what was left in them.
        r.strip(2);
        let load = |r: &Registry| {
            let mut bytes = Vec::new();
            r.save(&mut bytes);
            Registry::load(&mut bytes.as_slice())
        };
        assert_eq!(load(&r).unwrap().live_series, 2);
        let wrong: [fn(&mut Registry); 10] = [
            |r| r.classes[r.devices[0].class as usize].devices += 1,
            |r| r.devices[0].class = r.devices[2].class,
            |r| r.free_classes.clear(),
            |r| r.free_classes.push(r.free_classes[0]),
            |r| r.texts.hold_again(0),
            |r| r.devices[1].series = r.devices[0].series,
            |r| r.free_series.clear(),
            |r| r.free_run(r.devices[0].series, 1),
            |r| r.series[r.devices[0].series as usize].set(TIME_MIN, Kind::Text, 1 << 40),
            |r| r.placed.extend([(9, 1)]),
        ];
        for (i, change) in wrong.iter().enumerate() {
            let mut damaged = r.clone();
            change(&mut damaged);
            assert!(load(&damaged).is_none(), "{i}");
        }
    }

    #[test]
    fn attributes_have_one_time_as_long_as_it_is_one() {
        let mut r = Registry::default();
        for a in ["site", "model"] {
            r.attributes.insert(a).unwrap();
        }
        let d = r.add("dev", 0, TIME_MIN).unwrap();
        assert!(r.set_attribute(d, 0, 10, Some("s1")) && r.set_attribute(d, 1, 10, Some("m")));
        assert!(r.attribute_times.is_empty());
        assert!(r.set_attribute(d, 0, 20, Some("s2")));
        assert_eq!((r.attribute_time(d, 0), r.attribute_time(d, 1)), (20, 10));
        assert!(r.set_attribute(d, 1, 20, Some("m")));
        assert!(r.attribute_times.is_empty());
        assert_eq!((r.attribute_time(d, 0), r.attribute_time(d, 1)), (20, 20));
        assert_eq!(**r.texts.get(r.attribute(d, 0).unwrap()), *"s2");
        assert_eq!(r.texts.find("s1"), None, "nobody has it any more");
    }
}
