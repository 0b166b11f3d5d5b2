//! A rule over recorded data: the episodes that it would have raised, by the code that runs live.

use std::collections::BTreeMap;

use rules::{Course, Direction, Kind, Rule};

use super::alerts::run::{Closed, Point, Run};

/// Most values that a backtest takes; further ones are not looked at.
pub const VALUES_MAX: usize = 2_000_000;
/// Most episodes that it lists: the first of each device come first.
pub const EPISODES_MAX: usize = 1_000;

/// One value of the rule's metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recorded {
    /// Event time, microseconds.
    pub time: i64,
    /// Orders values of the same time, and tells repeats: the same (time, rank) of a device counts once.
    pub rank: u128,
    /// None: a text, of which only a silence takes note.
    pub value: Option<f64>,
}

/// One episode that the rule would have found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The device.
    pub device: String,
    /// Event time at which it began, microseconds.
    pub began: i64,
    /// Event time at which it ended; none: it was open at the end of the data.
    pub ended: Option<i64>,
    /// Whether it lasted long enough to page, had the data come as it was made.
    pub would_have_paged: bool,
    /// The value that was furthest on the bad side, or furthest from 0 where there is none; 0 if no number is part
    /// of it.
    pub peak: f64,
}

/// What a backtest found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// By device, then begin; at most [`EPISODES_MAX`].
    pub episodes: Vec<Found>,
    /// How many there are in all, and how many of them would have paged.
    pub total: u64,
    /// As of `total`.
    pub would_have_paged: u64,
    /// Devices and values that were looked at.
    pub devices: u64,
    /// As of `devices`.
    pub values: u64,
    /// More than [`VALUES_MAX`] values: what came after them was not looked at.
    pub cut: bool,
}

/// Gathers recorded values in any order.
pub struct Backtest {
    rule: Rule,
    devices: BTreeMap<String, Vec<Recorded>>,
    values: usize,
    cut: bool,
}

impl Backtest {
    /// Of this rule. `match` is not looked at: whoever gives the values decides which devices are meant.
    pub fn new(rule: Rule) -> Self {
        Self {
            rule,
            devices: BTreeMap::new(),
            values: 0,
            cut: false,
        }
    }

    /// The rule.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Takes a value of the rule's metric. False: there is no room for more.
    pub fn take(&mut self, device: &str, recorded: Recorded) -> bool {
        if self.values >= VALUES_MAX {
            self.cut = true;
            return false;
        }
        match self.devices.get_mut(device) {
            Some(values) => values.push(recorded),
            None => {
                self.devices.insert(device.to_owned(), vec![recorded]);
            }
        }
        self.values += 1;
        true
    }

    /// Keeps only the devices of which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.devices.retain(|device, _| keep(device));
    }

    /// Steps the rule along all that was gathered.
    pub fn run(self) -> Report {
        let mut report = Report {
            devices: self.devices.len() as u64,
            cut: self.cut,
            ..Report::default()
        };
        let kind = self.rule.kind;
        for (device, mut values) in self.devices {
            values.sort_by_key(|v| (v.time, v.rank));
            values.dedup_by_key(|v| (v.time, v.rank));
            report.values += values.len() as u64;
            let points: Vec<Point> = values
                .iter()
                .map(|v| Point {
                    time: v.time,
                    value: v.value,
                })
                .collect();
            let (mut run, mut before, mut closed) = (Run::default(), None, Vec::new());
            for &point in &points {
                run.step(&kind, before, point, &mut closed);
                before = Some(point);
            }
            let over = closed.len();
            closed.extend(run.open.map(|open| Closed {
                ended: i64::MAX,
                open,
            }));
            for (i, c) in closed.into_iter().enumerate() {
                let (began, fired) = (c.open.episode.began, c.open.episode.firing);
                report.total += 1;
                report.would_have_paged += u64::from(fired);
                if report.episodes.len() < EPISODES_MAX {
                    report.episodes.push(Found {
                        device: device.clone(),
                        began,
                        ended: (i < over).then_some(c.ended),
                        would_have_paged: fired,
                        peak: peak(&kind, &points, began, c.ended),
                    });
                }
            }
        }
        report
    }
}

/// The worst value from `began` on, before `ended`.
fn peak(kind: &Kind, points: &[Point], began: i64, ended: i64) -> f64 {
    let from = points.partition_point(|p| p.time < began);
    let to = points.partition_point(|p| p.time < ended).max(from);
    let values = points[from..to].iter().filter_map(|p| p.value);
    let low = match kind {
        Kind::Threshold(t) => t.direction == Direction::Below,
        Kind::Rate(r) => r.course == Course::Falling,
        _ => false,
    };
    let high = matches!(kind, Kind::Threshold(_) | Kind::Rate(_)) && !low;
    let worse = |a: f64, b: f64| match (low, high) {
        (true, _) => b < a,
        (_, true) => b > a,
        _ => b.abs() > a.abs(),
    };
    let worst = values.reduce(|a, b| if worse(a, b) { b } else { a });
    worst.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(rule: &str, values: &[(&str, i64, f64)]) -> Report {
        let mut backtest = Backtest::new(Rule::parse(rule).unwrap());
        for (rank, &(device, second, value)) in values.iter().enumerate() {
            let recorded = Recorded {
                time: second * 1_000_000,
                rank: rank as u128,
                value: Some(value),
            };
            assert!(backtest.take(device, recorded));
            // A repeat is none.
            assert!(backtest.take(device, recorded));
        }
        backtest.run()
    }

    #[test]
    fn the_episodes_of_unordered_data_are_listed_with_their_worst_value() {
        let rule = r#"{"name":"hot","metric":"t","raise":80,"clear":75,"for":"5s"}"#;
        let report = test(
            rule,
            &[
                ("b", 10, 81.0),
                ("a", 30, 99.0),
                ("a", 1, 81.0),
                ("a", 6, 90.0),
                ("a", 9, 70.0),
                ("a", 8, 85.0),
                ("a", 31, 20.0),
            ],
        );
        let found: Vec<_> = report
            .episodes
            .iter()
            .map(|e| {
                let ended = e.ended.map(|t| t / 1_000_000);
                let began = e.began / 1_000_000;
                (e.device.as_str(), began, ended, e.would_have_paged, e.peak)
            })
            .collect();
        assert_eq!(
            found,
            [
                ("a", 1, Some(9), true, 90.0),
                ("a", 30, Some(31), false, 99.0),
                ("b", 10, None, false, 81.0),
            ]
        );
        assert_eq!((report.total, report.would_have_paged), (3, 1));
        assert_eq!((report.devices, report.values, report.cut), (2, 7, false));
    }

    #[test]
    fn every_kind_of_a_series_runs() {
        let silence = r#"{"name":"s","metric":"t","kind":"silence","after":"10s"}"#;
        let report = test(silence, &[("a", 0, 1.0), ("a", 50, 2.0), ("a", 55, 3.0)]);
        assert_eq!(report.episodes.len(), 1);
        assert_eq!(report.episodes[0].ended, Some(50_000_000));
        let low = r#"{"name":"l","metric":"t","direction":"below","raise":0}"#;
        let report = test(low, &[("a", 0, -1.0), ("a", 1, -7.0), ("a", 2, -2.0)]);
        assert_eq!(
            (report.episodes[0].peak, report.episodes[0].ended),
            (-7.0, None)
        );
    }
}
