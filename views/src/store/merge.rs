//! Parts of one window from several partitions, put together.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use event::{AggregateSpec, Function};

use super::{SETTLE_AFTER, SETTLE_DEADLINE};
use crate::completeness::Counts;
use crate::model::{Extreme, Row, Time};
use crate::part::{Group, Origin, RowPart, RowState, Tier};
use crate::sketch::{Quantiles, Values};

/// What the partitions know of one window of one group.
#[derive(Default)]
pub(super) struct Merged {
    parts: Option<RowPart>,
    counts: Counts,
    settled: (u64, u64),
    open: bool,
    revised: bool,
}

/// Whether a partition without any event of a window has settled it as empty.
fn is_settled(counts: &Counts, now: i64, end: i64) -> bool {
    (now >= end + SETTLE_AFTER && counts.is_enough()) || now >= end + SETTLE_DEADLINE
}

/// Whether a partition that has no event of a window still waits for some.
pub(super) fn is_open_if_empty(counts: &Counts, now: Option<i64>, end: i64) -> bool {
    counts.expected > 0 && !is_settled(counts, now.unwrap_or(i64::MIN), end)
}

impl Merged {
    /// Adds a partition that has no event of the window: that part has settled as empty, or is still
    /// awaited. `now` is the partition's ingest time, `end` the window's.
    pub(super) fn add_empty(&mut self, counts: &Counts, now: Option<i64>, end: i64) {
        self.counts.add(counts);
        self.open |= is_open_if_empty(counts, now, end);
        if counts.expected > 0 {
            self.settled.0 += counts.complete + counts.lossy;
            self.settled.1 += counts.expected;
        }
    }

    /// Adds a partition's part.
    pub(super) fn add(&mut self, counts: &Counts, row: &RowPart) {
        self.counts.add(counts);
        self.open |= row.state == RowState::Open;
        self.revised |= row.state == RowState::Revised;
        if let Some(s) = row.settled {
            self.settled.0 += s.done;
            self.settled.1 += s.expected;
        }
        match &mut self.parts {
            None => self.parts = Some(row.clone()),
            Some(all) => absorb(all, row),
        }
    }

    /// As [`Self::row`], also if no partition has an event of it.
    pub(super) fn row_or_empty(
        mut self,
        spec: &AggregateSpec,
        group: &Group,
        start: i64,
    ) -> Option<Row> {
        self.parts.get_or_insert_with(|| RowPart {
            tier: Tier::Window,
            aggregate: 0,
            group: group.clone(),
            start,
            end: start + spec.window,
            revision: 0,
            state: RowState::Settled,
            count: 0,
            numeric: 0,
            sum: 0,
            min: 0.0,
            max: 0.0,
            min_at: None,
            max_at: None,
            distinct: 0,
            values: None,
            quantiles: None,
            late_events: 0,
            settled: None,
        });
        self.row(spec)
    }

    /// As the API shows it; none if no partition has an event of it. Only what the aggregate declares is
    /// shown.
    pub(super) fn row(self, spec: &AggregateSpec) -> Option<Row> {
        let m = self.parts?;
        let has = |f: Function| spec.functions.contains(&f);
        let numeric = m.numeric > 0;
        let extremes = has(Function::Min) || has(Function::Max);
        let sum = sum_f64(&m, extremes);
        let extreme = |origin: Option<Origin>| {
            origin.filter(|_| numeric).map(|o| Extreme {
                time: Time(o.time),
                device: o.device.to_string(),
            })
        };
        let range = (numeric && extremes).then_some((m.min, m.max));
        let quantile = |f: Function, q: f64| {
            let sketch = m.quantiles.as_deref().filter(|_| has(f))?;
            quantile(sketch, q, range)
        };
        let estimated = [Function::P50, Function::P90, Function::P95, Function::P99];
        let distinct_values =
            has(Function::DistinctValues).then(|| m.values.as_deref().map_or(0, Values::estimate));
        Some(Row {
            aggregate: spec.name.clone(),
            group: group_map(spec, &m.group),
            start: Time(m.start),
            end: Time(m.end),
            state: match (self.open, self.revised) {
                (true, _) => RowState::Open,
                (false, true) => RowState::Revised,
                (false, false) => RowState::Settled,
            }
            .as_str(),
            revision: m.revision,
            count: m.count,
            sum: sum.filter(|_| has(Function::Sum)),
            mean: sum
                .filter(|_| has(Function::Mean))
                .map(|s| s / m.numeric as f64),
            min: (numeric && has(Function::Min)).then_some(m.min),
            max: (numeric && has(Function::Max)).then_some(m.max),
            min_at: extreme(m.min_at).filter(|_| has(Function::Min)),
            max_at: extreme(m.max_at).filter(|_| has(Function::Max)),
            distinct_devices: has(Function::DistinctDevices).then_some(m.distinct),
            p50: quantile(Function::P50, 0.5),
            p90: quantile(Function::P90, 0.9),
            p95: quantile(Function::P95, 0.95),
            p99: quantile(Function::P99, 0.99),
            quantile_relative_error: estimated
                .iter()
                .any(|f| has(*f))
                .then_some(Quantiles::RELATIVE_ERROR),
            distinct_values,
            distinct_values_relative_error: distinct_values.map(|_| Values::RELATIVE_ERROR),
            expected: self.counts.expected,
            complete: self.counts.complete,
            lossy: self.counts.lossy,
            outstanding: self.counts.outstanding,
            dormant: self.counts.dormant,
            completeness: self.counts.completeness(),
            late_events: m.late_events,
            // Parts settle one by one: as long as one is awaited, the window has not settled.
            settled_completeness: (!self.open && self.settled.1 > 0)
                .then(|| self.settled.0 as f64 / self.settled.1 as f64),
        })
    }
}

fn absorb(all: &mut RowPart, row: &RowPart) {
    all.revision += row.revision;
    all.count += row.count;
    // Wrapping on purpose: `sum_f64` says when a sum cannot be told.
    all.sum = all.sum.wrapping_add(row.sum);
    if row.numeric > 0 {
        let none = all.numeric == 0;
        let lower = row.min.total_cmp(&all.min);
        if none || goes_before(lower, &row.min_at, &all.min_at) {
            (all.min, all.min_at) = (row.min, row.min_at.clone());
        }
        let higher = all.max.total_cmp(&row.max);
        if none || goes_before(higher, &row.max_at, &all.max_at) {
            (all.max, all.max_at) = (row.max, row.max_at.clone());
        }
    }
    all.numeric += row.numeric;
    all.distinct += row.distinct;
    all.late_events += row.late_events;
    match (&mut all.values, &row.values) {
        (Some(all), Some(row)) => Arc::make_mut(all).merge(row),
        (all @ None, Some(row)) => *all = Some(row.clone()),
        (_, None) => {}
    }
    match (&mut all.quantiles, &row.quantiles) {
        (Some(all), Some(row)) => Arc::make_mut(all).merge(row),
        (all @ None, Some(row)) => *all = Some(row.clone()),
        (_, None) => {}
    }
}

/// Of equal values the earlier one counts, then the smaller device id: the rule within a partition, too.
fn goes_before(values: Ordering, new: &Option<Origin>, old: &Option<Origin>) -> bool {
    match (values, new, old) {
        (Ordering::Equal, Some(new), Some(old)) => new < old,
        (values, ..) => values == Ordering::Less,
    }
}

/// A quantile; none if it lies among values that the sketch has folded.
fn quantile(sketch: &Quantiles, q: f64, range: Option<(f64, f64)>) -> Option<f64> {
    let value = sketch.quantile(q)?;
    let place = q * sketch.count().saturating_sub(1) as f64;
    if sketch.folded() > 0 && place < sketch.folded() as f64 {
        return None;
    }
    // An estimate does not lie outside what was measured.
    Some(range.map_or(value, |(min, max)| value.max(min).min(max)))
}

/// The sum as a double; none without numeric values, or if the exact sum may have overflowed. Without
/// `extremes` nobody knows how large the values were; then it is told as it is.
fn sum_f64(row: &RowPart, extremes: bool) -> Option<f64> {
    const UNIT: f64 = (1u64 << 48) as f64;
    const RANGE: f64 = (1u128 << 78) as f64;
    let largest = row.min.abs().max(row.max.abs());
    let fits = !extremes || largest * (row.numeric as f64) < RANGE;
    (row.numeric > 0 && fits).then(|| row.sum as f64 / UNIT)
}

/// A group as the API shows it.
pub(super) fn group_map(spec: &AggregateSpec, group: &Group) -> BTreeMap<String, String> {
    spec.group_by
        .iter()
        .cloned()
        .zip(group.iter().map(|v| v.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::part;

    fn merged(parts: &[RowPart], functions: &[Function]) -> Row {
        let mut m = Merged::default();
        for part in parts {
            m.add(&Counts::default(), part);
        }
        let spec = AggregateSpec {
            functions: functions.iter().copied().collect(),
            ..AggregateSpec::defaults().remove(0)
        };
        m.row(&spec).unwrap()
    }

    fn extreme(value: f64, time: i64, device: &str) -> RowPart {
        let at = Some(Origin {
            time,
            device: device.into(),
        });
        RowPart {
            min: value,
            max: value,
            min_at: at.clone(),
            max_at: at,
            ..part(0, &[], 0, 1)
        }
    }

    #[test]
    fn extremes_keep_who_set_them_whichever_partition_comes_first() {
        let parts = [
            extreme(3.0, 50, "c"),
            extreme(7.0, 50, "b"),
            extreme(3.0, 40, "z"),
            extreme(7.0, 50, "a"),
            RowPart {
                numeric: 0,
                ..extreme(-9.0, 1, "none")
            },
        ];
        let mut orders = vec![parts.to_vec(); 2];
        orders[1].reverse();
        for parts in orders {
            let row = merged(&parts, Function::EXACT);
            assert_eq!((row.min, row.max), (Some(3.0), Some(7.0)));
            let (min, max) = (row.min_at.unwrap(), row.max_at.unwrap());
            assert_eq!((min.time, min.device.as_str()), (Time(40), "z"));
            assert_eq!((max.time, max.device.as_str()), (Time(50), "a"));
        }
    }

    #[test]
    fn sketches_of_partitions_are_one() {
        let half = |numbers: std::ops::Range<u32>| {
            let (mut values, mut quantiles) = (Values::default(), Quantiles::default());
            for n in numbers {
                values.add(&format!("v{}", n % 40));
                quantiles.add(f64::from(n));
            }
            RowPart {
                values: Some(Arc::new(values)),
                quantiles: Some(Arc::new(quantiles)),
                min: 1.0,
                max: 1000.0,
                ..part(0, &[], 0, 1)
            }
        };
        let wanted = [Function::P50, Function::P99, Function::DistinctValues];
        let row = merged(
            &[half(1..400), part(0, &[], 0, 1), half(400..1001)],
            &wanted,
        );
        let near = |value: Option<f64>, exact: f64| {
            (value.unwrap() / exact - 1.0).abs() <= Quantiles::RELATIVE_ERROR
        };
        assert!(near(row.p50, 500.0) && near(row.p99, 990.0), "{row:?}");
        assert_eq!((row.p90, row.p95), (None, None));
        assert_eq!(row.distinct_values, Some(40));
        assert_eq!(row.quantile_relative_error, Some(Quantiles::RELATIVE_ERROR));
    }

    #[test]
    fn only_what_is_declared_is_shown() {
        let row = merged(&[extreme(3.0, 1, "a")], &[Function::Count]);
        assert_eq!((row.sum, row.mean, row.min, row.max), Default::default());
        assert_eq!((&row.min_at, row.distinct_devices), (&None, None));
        let json = serde_json::to_value(&row).unwrap();
        assert!(json.get("p50").is_none() && json.get("min_at").is_none());
        assert!(json.get("quantile_relative_error").is_none());
    }
}
