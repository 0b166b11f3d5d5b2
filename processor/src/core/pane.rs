//! What a pane holds: values whose merge does not depend on order.
//!
//! A window is the merge of its panes, an hour of the panes in it, a cold pane of its base and its deltas. So
//! merging panes gives the same as adding all their events to one, bit for bit, in any order and any split.

use std::cmp::Ordering;

use event::{AggregateSpec, Function};
use views::sketch::{Quantiles, Values, put_signed, put_varint, take_signed, take_varint};
use xxhash_rust::xxh3::xxh3_64;

use super::device_set::DeviceSet;

/// One unit of a sum is 2^-48.
const UNITS: f64 = (1u64 << 48) as f64;
/// No device.
const NONE: u32 = u32::MAX;
/// First byte of the saved form.
const VERSION: u8 = 2;

/// What an aggregate asks of its panes; what it does not is not computed. Counts always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wants(u8);

impl Wants {
    pub(crate) const SUM: Self = Self(1);
    pub(crate) const EXTREMES: Self = Self(2);
    /// The caller's business: see [`Pane::devices`].
    pub(crate) const DEVICES: Self = Self(4);
    pub(crate) const VALUES: Self = Self(8);
    pub(crate) const QUANTILES: Self = Self(16);

    /// What the functions of an aggregate need.
    pub(crate) fn of(spec: &AggregateSpec) -> Self {
        let wanted = spec.functions.iter().map(|f| match f {
            Function::Count => Self(0),
            Function::Sum | Function::Mean => Self::SUM,
            Function::Min | Function::Max => Self::EXTREMES,
            Function::DistinctDevices => Self::DEVICES,
            Function::DistinctValues => Self::VALUES,
            Function::P50 | Function::P90 | Function::P95 | Function::P99 => Self::QUANTILES,
        });
        Self(wanted.fold(0, |all, w| all | w.0))
    }

    /// Whether all of `part` is wanted.
    #[inline]
    pub(crate) fn has(self, part: Self) -> bool {
        self.0 & part.0 == part.0
    }
}

/// A smallest or largest value, with the event that set it. Of equal values the earlier one counts, then the
/// one of the smaller device id; −0 is smaller than +0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Extreme {
    pub(crate) value: f64,
    /// Event time, microseconds.
    pub(crate) time: i64,
    /// Dense number; `u32::MAX` if no value came yet.
    pub(crate) device: u32,
}

impl Extreme {
    /// Whether a value came.
    pub(crate) fn is_set(&self) -> bool {
        self.device != NONE
    }

    /// Takes another one if it goes before; `side` is `Less` for the smallest.
    #[inline]
    fn take(&mut self, other: Self, side: Ordering, before: &impl Fn(u32, u32) -> bool) {
        let order = other.value.total_cmp(&self.value);
        let goes_before = if order == Ordering::Equal {
            other.time < self.time
                || (other.time == self.time
                    && other.device != self.device
                    && before(other.device, self.device))
        } else {
            order == side
        };
        if goes_before {
            *self = other;
        }
    }
}

/// A pane's contents in one partition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pane {
    /// Events.
    pub(crate) count: u64,
    /// Events with a number or a boolean.
    pub(crate) numeric: u64,
    /// Exact: each value is rounded once to a multiple of 2^-48 and added as an integer, so order cannot
    /// matter. It wraps on overflow; the reader knows from count, min and max when that is possible.
    pub(crate) sum: i128,
    pub(crate) min: Extreme,
    pub(crate) max: Extreme,
    /// The devices in it; the caller inserts, once per series and pane.
    pub(crate) devices: DeviceSet,
    /// The different texts; none if no text came or they are not wanted.
    pub(crate) values: Option<Box<Values>>,
    /// The numbers' distribution; none if no number came or it is not wanted.
    pub(crate) quantiles: Option<Box<Quantiles>>,
    /// Newest offset + 1 that touched it; the caller sets it.
    pub(crate) revision: u64,
}

const _: () = assert!(size_of::<Pane>() <= 176);

/// A value as a whole number of 2^-48, rounded half away from zero. Beyond ±2^79 it saturates.
#[inline]
pub(crate) fn fixed(value: f64) -> i128 {
    let scaled = value * UNITS;
    // The short way for the common range; both give the same. `round` is a call where the target has no
    // instruction for it; cutting off is one instruction, and the rest of that is exact.
    if scaled.abs() < 4.6e18 {
        let whole = scaled as i64;
        let rest = scaled - whole as f64;
        i128::from(whole + i64::from(rest >= 0.5) - i64::from(rest <= -0.5))
    } else {
        scaled.round() as i128
    }
}

impl Pane {
    pub(crate) fn new() -> Self {
        let unset = |value| Extreme {
            value,
            time: i64::MAX,
            device: NONE,
        };
        Self {
            count: 0,
            numeric: 0,
            sum: 0,
            min: unset(f64::INFINITY),
            max: unset(f64::NEG_INFINITY),
            devices: DeviceSet::default(),
            values: None,
            quantiles: None,
            revision: 0,
        }
    }

    /// Takes an event with a finite number. `before(a, b)`: whether the id of device `a` is the smaller text;
    /// asked only of two devices that set the same extreme at the same time.
    #[inline]
    pub(crate) fn add_number(
        &mut self,
        wants: Wants,
        n: f64,
        time: i64,
        device: u32,
        before: &impl Fn(u32, u32) -> bool,
    ) {
        self.count += 1;
        self.numeric += 1;
        if wants.has(Wants::EXTREMES) {
            let event = Extreme {
                value: n,
                time,
                device,
            };
            // One comparison decides for nearly all.
            if n <= self.min.value {
                self.min.take(event, Ordering::Less, before);
            }
            if n >= self.max.value {
                self.max.take(event, Ordering::Greater, before);
            }
        }
        if wants.has(Wants::SUM) {
            self.sum = self.sum.wrapping_add(fixed(n));
        }
        if wants.has(Wants::QUANTILES) {
            self.quantiles.get_or_insert_default().add(n);
        }
    }

    /// Takes an event with a boolean: a number, 0 or 1.
    #[inline]
    pub(crate) fn add_bool(
        &mut self,
        wants: Wants,
        b: bool,
        time: i64,
        device: u32,
        before: &impl Fn(u32, u32) -> bool,
    ) {
        self.add_number(wants, f64::from(u8::from(b)), time, device, before);
    }

    /// Takes an event with a text.
    #[inline]
    pub(crate) fn add_text(&mut self, wants: Wants, text: &str) {
        self.count += 1;
        if wants.has(Wants::VALUES) {
            self.values.get_or_insert_default().add(text);
        }
    }

    /// Takes all events of another pane of the same partition; `before` as in [`Self::add_number`]. The
    /// revision is the newer one.
    pub(crate) fn merge(&mut self, other: &Self, before: &impl Fn(u32, u32) -> bool) {
        self.count = self.count.saturating_add(other.count);
        self.numeric = self.numeric.saturating_add(other.numeric);
        self.sum = self.sum.wrapping_add(other.sum);
        if other.min.is_set() {
            self.min.take(other.min, Ordering::Less, before);
        }
        if other.max.is_set() {
            self.max.take(other.max, Ordering::Greater, before);
        }
        self.devices.union_with(&other.devices);
        if let Some(values) = &other.values {
            self.values.get_or_insert_default().merge(values);
        }
        if let Some(quantiles) = &other.quantiles {
            self.quantiles.get_or_insert_default().merge(quantiles);
        }
        self.revision = self.revision.max(other.revision);
    }

    /// Appends the pane, with its length told by its contents: version; a byte of what is there (1 extremes, 2
    /// values, 4 quantiles); count, numeric, revision; sum (bytes in use, then those, little-endian); extremes
    /// (value, time, device); devices; sketches behind their sizes. Numbers are varints, values 8 bytes. Equal
    /// panes have equal bytes.
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        let extremes = self.min.is_set() && self.max.is_set();
        let flags = u8::from(extremes)
            | u8::from(self.values.is_some()) << 1
            | u8::from(self.quantiles.is_some()) << 2;
        out.extend([VERSION, flags]);
        put_varint(out, self.count);
        put_varint(out, self.numeric);
        put_varint(out, self.revision);
        let sum = ((self.sum << 1) ^ (self.sum >> 127)) as u128;
        let used = (128 - sum.leading_zeros()).div_ceil(8) as usize;
        out.push(used as u8);
        out.extend_from_slice(&sum.to_le_bytes()[..used]);
        if extremes {
            for extreme in [&self.min, &self.max] {
                out.extend(extreme.value.to_bits().to_le_bytes());
                put_signed(out, extreme.time);
                put_varint(out, u64::from(extreme.device));
            }
        }
        self.devices.save(out);
        let sketches = [
            self.values.as_ref().map(|v| v.to_bytes()),
            self.quantiles.as_ref().map(|q| q.to_bytes()),
        ];
        for sketch in sketches.iter().flatten() {
            put_varint(out, sketch.len() as u64);
            out.extend_from_slice(sketch);
        }
    }

    /// Takes what [`Self::save`] wrote; none if the bytes are not of that form.
    pub(crate) fn load(bytes: &mut &[u8]) -> Option<Self> {
        if *bytes.split_off_first()? != VERSION {
            return None;
        }
        let flags = *bytes.split_off_first()?;
        let mut pane = Self::new();
        pane.count = take_varint(bytes)?;
        pane.numeric = take_varint(bytes)?;
        pane.revision = take_varint(bytes)?;
        let used = usize::from(*bytes.split_off_first()?);
        let mut sum = [0; 16];
        let place = sum.get_mut(..used)?;
        place.copy_from_slice(bytes.split_off(..used)?);
        if place.last() == Some(&0) {
            return None;
        }
        let sum = u128::from_le_bytes(sum);
        pane.sum = (sum >> 1) as i128 ^ -((sum & 1) as i128);
        if flags & 1 != 0 {
            pane.min = take_extreme(bytes)?;
            pane.max = take_extreme(bytes)?;
            if pane.min.value.total_cmp(&pane.max.value) == Ordering::Greater {
                return None;
            }
        }
        pane.devices = DeviceSet::load(bytes)?;
        if flags & 2 != 0 {
            let values = Values::from_bytes(take_sized(bytes)?)?;
            pane.values = Some(Box::new(values));
        }
        if flags & 4 != 0 {
            let quantiles = Quantiles::from_bytes(take_sized(bytes)?)?;
            pane.quantiles = Some(Box::new(quantiles));
        }
        (flags < 8 && pane.numeric <= pane.count).then_some(pane)
    }

    /// A hash of all of it: that of its saved form.
    pub(crate) fn digest(&self) -> u64 {
        let mut out = Vec::with_capacity(1024);
        self.save(&mut out);
        xxh3_64(&out)
    }

    /// Memory, bytes, with the struct itself. It follows from the contents.
    pub(crate) fn bytes(&self) -> usize {
        let values = |v: &Values| size_of::<Values>() + v.bytes();
        let quantiles = |q: &Quantiles| size_of::<Quantiles>() + q.bytes();
        size_of::<Self>()
            + self.devices.bytes()
            + self.values.as_deref().map_or(0, values)
            + self.quantiles.as_deref().map_or(0, quantiles)
    }
}

fn take_sized<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let size = usize::try_from(take_varint(bytes)?).ok()?;
    bytes.split_off(..size)
}

fn take_extreme(bytes: &mut &[u8]) -> Option<Extreme> {
    let (value, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    let extreme = Extreme {
        value: f64::from_bits(u64::from_le_bytes(*value)),
        time: take_signed(bytes)?,
        device: u32::try_from(take_varint(bytes)?).ok()?,
    };
    (extreme.value.is_finite() && extreme.is_set()).then_some(extreme)
}

#[cfg(test)]
#[path = "pane_tests.rs"]
mod tests;
