//! The events of a batch as columns: what one decode gives, and the bytes of it.
//!
//! Why columns: 1,000 events of a gateway repeat the same few devices and metrics at the same
//! moments, and a sensor's next value is near its last. Stored by column, with a dictionary of
//! series, deltas and decimal scaling, most events take about one byte before compression.
//!
//! Format (before LZ4; `event/FORMAT.md` draws it): dictionaries of device ids, metric names and
//! texts; the series (device, metric); for each event the step in the series order; for each event
//! the step in time, in the coarsest of µs, ms or s that is exact; then the values series by series,
//! each with its own encoding: scaled decimals as deltas, raw doubles, booleans, texts, or mixed.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::batch::{DecodeError, EVENTS_MAX, EncodeError};
use crate::bytes::{Reader, put_signed, put_str, put_varint};
use crate::id::{DeviceId, MetricName};
use crate::value::TEXT_BYTES_MAX;
use crate::{EventTime, Sample, Value};

/// Most digits behind the point that scaling tries. 10^9 is exact in a double, so `n / 10^e` is the
/// correctly rounded value of the decimal, that is, the very double a parser makes of its text.
const DIGITS_MAX: u8 = 9;
const POWERS: [f64; 10] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Scaled values stay below 2^53, where every whole number is a double.
const SCALED_MAX: f64 = 9_007_199_254_740_992.0;

const KIND_RAW: u8 = 0x10;
const KIND_BOOL: u8 = 0x11;
const KIND_TEXT: u8 = 0x12;
const KIND_MIXED: u8 = 0x13;

/// Units of the time column, coarsest first, in microseconds.
const UNITS: [i64; 3] = [1_000_000, 1_000, 1];

/// A list of names held in one allocation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    text: String,
    ends: Vec<u32>,
}

impl Names {
    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    fn push(&mut self, s: &str) {
        self.text.push_str(s);
        self.ends.push(self.text.len() as u32);
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no name.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The name at `i`.
    ///
    /// **Panics** if `i` is not below [`Self::len`]; indexes in decoded columns always are.
    pub fn get(&self, i: u32) -> &str {
        let i = i as usize;
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        &self.text[start..self.ends[i] as usize]
    }

    /// All names in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.ends.len() as u32).map(|i| self.get(i))
    }
}

/// One device's one metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Series {
    /// Index in [`Columns::devices`].
    pub device: u32,
    /// Index in [`Columns::metrics`].
    pub metric: u32,
}

/// A value in a column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell {
    /// A finite number.
    Number(f64),
    /// A boolean.
    Bool(bool),
    /// Index in [`Columns::texts`].
    Text(u32),
}

/// The decoded events of a batch. Reused from batch to batch, so that a decode does not allocate once
/// the buffers have grown.
///
/// **Shape**: `series_of`, `times` and `values` have one entry per event, in `seq` order. All
/// indexes are in range; names and texts have passed the rules of their types; numbers are finite.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Columns {
    /// Device ids.
    pub devices: Names,
    /// Metric names (`@name` for attributes).
    pub metrics: Names,
    /// Text values.
    pub texts: Names,
    /// The distinct (device, metric) pairs.
    pub series: Vec<Series>,
    /// For each event its index in `series`.
    pub series_of: Vec<u32>,
    /// For each event its time, microseconds UTC.
    pub times: Vec<i64>,
    /// For each event its value.
    pub values: Vec<Cell>,
    scratch: Scratch,
}

#[derive(Debug, Clone, Default)]
struct Scratch {
    raw: Vec<u8>,
    /// For each series, where its next value goes in `order`.
    next: Vec<u32>,
    /// Events grouped by series.
    order: Vec<u32>,
}

impl PartialEq for Scratch {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Columns {
    /// How many events there are.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there is no event.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The event at `i` in its owned form; none if `i` is out of range.
    pub fn sample(&self, i: usize) -> Option<Sample> {
        let series = self.series[*self.series_of.get(i)? as usize];
        let value = match self.values[i] {
            Cell::Number(n) => Value::Number(n),
            Cell::Bool(b) => Value::Bool(b),
            Cell::Text(t) => Value::Text(self.texts.get(t).into()),
        };
        Some(Sample {
            device: DeviceId::new(self.devices.get(series.device)).ok()?,
            metric: MetricName::new(self.metrics.get(series.metric)).ok()?,
            time: EventTime(self.times[i]),
            value,
        })
    }

    /// Sets the events of a plain device's message; values without a time get `now` (microseconds).
    pub fn set_plain(&mut self, plain: &crate::Plain, now: i64) {
        self.clear();
        self.devices.push(plain.device.as_str());
        for sample in &plain.samples {
            // A message has few metrics: a linear search is enough.
            let name = sample.metric.as_str();
            let metric = self.metrics.iter().position(|m| m == name);
            let metric = metric.unwrap_or_else(|| {
                self.metrics.push(name);
                self.series.push(Series {
                    device: 0,
                    metric: self.series.len() as u32,
                });
                self.series.len() - 1
            });
            self.series_of.push(metric as u32);
            self.times
                .push(sample.time.map_or(now, EventTime::as_micros));
            self.values.push(match &sample.value {
                Value::Number(n) => Cell::Number(*n),
                Value::Bool(b) => Cell::Bool(*b),
                Value::Text(text) => {
                    self.texts.push(text);
                    Cell::Text(self.texts.len() as u32 - 1)
                }
            });
        }
    }

    fn clear(&mut self) {
        self.devices.clear();
        self.metrics.clear();
        self.texts.clear();
        self.series.clear();
        self.series_of.clear();
        self.times.clear();
        self.values.clear();
    }

    /// Decodes the LZ4 block of a batch with `count` events.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        raw_len: usize,
        count: usize,
    ) -> Result<(), DecodeError> {
        self.clear();
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.raw.resize(raw_len, 0);
        let result = match lz4_flex::block::decompress_into(block, &mut scratch.raw) {
            Ok(n) if n == raw_len => {
                let raw = std::mem::take(&mut scratch.raw);
                let result = self.read(&raw, count, &mut scratch);
                scratch.raw = raw;
                result
            }
            _ => Err(DecodeError::Invalid {
                what: "compressed columns",
                at: 0,
            }),
        };
        self.scratch = scratch;
        if result.is_err() {
            self.clear();
        }
        result
    }

    fn read(&mut self, raw: &[u8], count: usize, s: &mut Scratch) -> Result<(), DecodeError> {
        let mut r = Reader::new(raw);
        for _ in 0..r.count(EVENTS_MAX, "number of devices")? {
            let name = r.str()?;
            DeviceId::check(name).map_err(|e| DecodeError::Id {
                error: e,
                at: r.at(),
            })?;
            self.devices.push(name);
        }
        for _ in 0..r.count(EVENTS_MAX, "number of metrics")? {
            let name = r.str()?;
            MetricName::check(name).map_err(|e| DecodeError::Id {
                error: e,
                at: r.at(),
            })?;
            self.metrics.push(name);
        }
        for _ in 0..r.count(EVENTS_MAX, "number of texts")? {
            let text = r.str()?;
            if text.len() > TEXT_BYTES_MAX {
                return Err(r.invalid("text value longer than 1024 bytes"));
            }
            self.texts.push(text);
        }
        let series = r.count(EVENTS_MAX, "number of series")?;
        for _ in 0..series {
            let device = r.below(self.devices.len(), "device index")?;
            let metric = r.below(self.metrics.len(), "metric index")?;
            self.series.push(Series { device, metric });
        }
        if count > 0 && series == 0 {
            return Err(r.invalid("events without a series"));
        }
        // Both columns take at least a byte an event: checked before anything is reserved.
        if r.left() < count.saturating_mul(2) {
            return Err(DecodeError::Truncated { at: raw.len() });
        }
        self.read_order(&mut r, count, s)?;
        self.read_times(&mut r, count)?;
        self.read_values(&mut r, count, s)?;
        if r.left() > 0 {
            Err(r.invalid("bytes behind the last column"))
        } else {
            Ok(())
        }
    }

    fn read_order(
        &mut self,
        r: &mut Reader<'_>,
        count: usize,
        s: &mut Scratch,
    ) -> Result<(), DecodeError> {
        let n = self.series.len() as u32;
        s.next.clear();
        s.next.resize(self.series.len(), 0);
        let mut expected = 0u32;
        for _ in 0..count {
            let step = r.below(n as usize, "series step")?;
            let mut i = expected + step;
            if i >= n {
                i -= n;
            }
            s.next[i as usize] += 1;
            self.series_of.push(i);
            expected = if i + 1 == n { 0 } else { i + 1 };
        }
        // Counts become start positions; then the events are listed series by series.
        let mut start = 0;
        for next in &mut s.next {
            let n = *next;
            *next = start;
            start += n;
        }
        s.order.clear();
        s.order.resize(count, 0);
        for (event, &series) in self.series_of.iter().enumerate() {
            let next = &mut s.next[series as usize];
            s.order[*next as usize] = event as u32;
            *next += 1;
        }
        Ok(())
    }

    fn read_times(&mut self, r: &mut Reader<'_>, count: usize) -> Result<(), DecodeError> {
        let unit = *UNITS
            .get(usize::from(r.byte()?))
            .ok_or_else(|| r.invalid("time unit"))?;
        let mut t = 0i64;
        for _ in 0..count {
            t = t.wrapping_add(r.signed()?);
            self.times
                .push(t.checked_mul(unit).ok_or_else(|| r.invalid("event time"))?);
        }
        Ok(())
    }

    fn read_values(
        &mut self,
        r: &mut Reader<'_>,
        count: usize,
        s: &Scratch,
    ) -> Result<(), DecodeError> {
        self.values.resize(count, Cell::Bool(false));
        let mut start = 0usize;
        for &end in &s.next {
            let end = end as usize;
            let events = &s.order[start..end];
            start = end;
            if events.is_empty() {
                continue;
            }
            match r.byte()? {
                digits @ 0..=DIGITS_MAX => {
                    let power = POWERS[usize::from(digits)];
                    let mut n = 0i64;
                    for &e in events {
                        n = n.wrapping_add(r.signed()?);
                        self.values[e as usize] = Cell::Number(n as f64 / power);
                    }
                }
                KIND_RAW => {
                    for &e in events {
                        self.values[e as usize] = Cell::Number(read_f64(r)?);
                    }
                }
                KIND_BOOL => {
                    for &e in events {
                        self.values[e as usize] = Cell::Bool(r.below(2, "boolean")? == 1);
                    }
                }
                KIND_TEXT => {
                    for &e in events {
                        let text = r.below(self.texts.len(), "text index")?;
                        self.values[e as usize] = Cell::Text(text);
                    }
                }
                KIND_MIXED => {
                    for &e in events {
                        self.values[e as usize] = match r.byte()? {
                            KIND_RAW => Cell::Number(read_f64(r)?),
                            KIND_BOOL => Cell::Bool(r.below(2, "boolean")? == 1),
                            KIND_TEXT => Cell::Text(r.below(self.texts.len(), "text index")?),
                            _ => return Err(r.invalid("kind of a mixed value")),
                        };
                    }
                }
                _ => return Err(r.invalid("kind of a series")),
            }
        }
        Ok(())
    }
}

fn read_f64(r: &mut Reader<'_>) -> Result<f64, DecodeError> {
    let mut b = [0; 8];
    b.copy_from_slice(r.take(8)?);
    let n = f64::from_le_bytes(b);
    if n.is_finite() {
        Ok(n)
    } else {
        Err(r.invalid("number that is not finite"))
    }
}

/// The columns of `samples`, not yet compressed.
pub(crate) fn encode(samples: &[Sample]) -> Result<Vec<u8>, EncodeError> {
    let mut devices = Dictionary::default();
    let mut metrics = Dictionary::default();
    let mut texts = Dictionary::default();
    let mut series: FxHashMap<(u32, u32), u32> = FxHashMap::default();
    let mut pairs: Vec<(u32, u32)> = Vec::new();
    let mut events_of: Vec<Vec<u32>> = Vec::new();
    let mut series_of = Vec::with_capacity(samples.len());
    for (at, s) in samples.iter().enumerate() {
        match &s.value {
            Value::Number(n) if !n.is_finite() => return Err(EncodeError::NotFinite { at }),
            Value::Text(t) if t.len() > TEXT_BYTES_MAX => {
                return Err(EncodeError::TextTooLong { at, len: t.len() });
            }
            Value::Text(t) => {
                texts.index(t);
            }
            _ => {}
        }
        let pair = (
            devices.index(s.device.as_str()),
            metrics.index(s.metric.as_str()),
        );
        let i = *series.entry(pair).or_insert_with(|| {
            pairs.push(pair);
            events_of.push(Vec::new());
            pairs.len() as u32 - 1
        });
        events_of[i as usize].push(at as u32);
        series_of.push(i);
    }

    let mut out = Vec::with_capacity(samples.len() * 4 + 256);
    devices.write(&mut out);
    metrics.write(&mut out);
    texts.write(&mut out);
    put_varint(&mut out, pairs.len() as u64);
    for &(device, metric) in &pairs {
        put_varint(&mut out, u64::from(device));
        put_varint(&mut out, u64::from(metric));
    }
    let n = pairs.len() as u32;
    let mut expected = 0;
    for &i in &series_of {
        put_varint(
            &mut out,
            u64::from(if i >= expected {
                i - expected
            } else {
                i + n - expected
            }),
        );
        expected = if i + 1 == n { 0 } else { i + 1 };
    }
    write_times(&mut out, samples);
    for events in &events_of {
        write_values(&mut out, samples, events, &mut texts);
    }
    Ok(out)
}

fn write_times(out: &mut Vec<u8>, samples: &[Sample]) {
    let exact = |unit: i64| samples.iter().all(|s| s.time.0 % unit == 0);
    let code = UNITS
        .iter()
        .position(|&u| exact(u))
        .unwrap_or(UNITS.len() - 1);
    out.push(code as u8);
    let mut last = 0i64;
    for s in samples {
        let t = s.time.0 / UNITS[code];
        put_signed(out, t.wrapping_sub(last));
        last = t;
    }
}

fn write_values(out: &mut Vec<u8>, samples: &[Sample], events: &[u32], texts: &mut Dictionary) {
    let values = || events.iter().map(|&e| &samples[e as usize].value);
    let numbers = || {
        values().map(|v| match v {
            Value::Number(n) => *n,
            _ => 0.0,
        })
    };
    if values().all(|v| matches!(v, Value::Number(_))) {
        if let Some(digits) = common_digits(numbers()) {
            out.push(digits);
            let mut last = 0i64;
            for n in numbers() {
                let scaled = (n * POWERS[usize::from(digits)]).round() as i64;
                put_signed(out, scaled - last);
                last = scaled;
            }
        } else {
            out.push(KIND_RAW);
            for n in numbers() {
                out.extend_from_slice(&n.to_le_bytes());
            }
        }
    } else if values().all(|v| matches!(v, Value::Bool(_))) {
        out.push(KIND_BOOL);
        out.extend(values().map(|v| u8::from(matches!(v, Value::Bool(true)))));
    } else if values().all(|v| matches!(v, Value::Text(_))) {
        out.push(KIND_TEXT);
        for v in values() {
            if let Value::Text(t) = v {
                put_varint(out, u64::from(texts.index(t)));
            }
        }
    } else {
        out.push(KIND_MIXED);
        for v in values() {
            match v {
                Value::Number(n) => {
                    out.push(KIND_RAW);
                    out.extend_from_slice(&n.to_le_bytes());
                }
                Value::Bool(b) => out.extend_from_slice(&[KIND_BOOL, u8::from(*b)]),
                Value::Text(t) => {
                    out.push(KIND_TEXT);
                    put_varint(out, u64::from(texts.index(t)));
                }
            }
        }
    }
}

/// The fewest digits behind the point with which every number reads back bit for bit, if any.
fn common_digits(numbers: impl Iterator<Item = f64> + Clone) -> Option<u8> {
    let mut digits = 0u8;
    for n in numbers.clone() {
        while !reads_back(n, digits) {
            digits += 1;
            if digits > DIGITS_MAX {
                return None;
            }
        }
    }
    // An early large number was checked only with the digits needed by then; with more it may pass 2^53.
    let mut numbers = numbers;
    numbers.all(|n| reads_back(n, digits)).then_some(digits)
}

fn reads_back(n: f64, digits: u8) -> bool {
    let power = POWERS[usize::from(digits)];
    let scaled = (n * power).round();
    scaled.abs() < SCALED_MAX && (scaled as i64 as f64 / power).to_bits() == n.to_bits()
}

#[derive(Default)]
struct Dictionary {
    index: FxHashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
}

impl Dictionary {
    fn index(&mut self, name: &str) -> u32 {
        if let Some(&i) = self.index.get(name) {
            return i;
        }
        let name: Arc<str> = name.into();
        let i = self.names.len() as u32;
        self.names.push(name.clone());
        self.index.insert(name, i);
        i
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_varint(out, self.names.len() as u64);
        for name in &self.names {
            put_str(out, name);
        }
    }
}
