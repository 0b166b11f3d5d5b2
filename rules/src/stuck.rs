//! Stuck: values keep coming, and they do not change.
//!
//! A *run* is a row of values of which none is further from any other than `tolerance`. It begins with the
//! first value of its kind, and begins anew with the first one that does not fit, or after a pause longer than
//! `for`: where no values come, nothing is known (that is for a silence). A run fires when it has lasted for
//! `for`; the episode began with the first value of the run and ends with the first one that does not fit.

use serde::{Deserialize, Serialize};

use crate::episode::{Episode, Transition};

/// The limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stuck {
    /// How far apart values may be and still pass for the same, in the metric's own unit; 0 or more.
    pub tolerance: f64,
    /// How long values must stay the same, microseconds of event time; 1 s to 30 days.
    pub hold: i64,
}

/// The run under way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    since: i64,
    newest: i64,
    min: f64,
    max: f64,
}

impl Stuck {
    /// Takes a value; one that is older than the newest so far is passed over.
    pub(crate) fn step(
        &self,
        row: &mut Option<Row>,
        episode: &mut Option<Episode>,
        time: i64,
        value: f64,
    ) -> Transition {
        if row.is_some_and(|r| time < r.newest) {
            return Transition::None;
        }
        if let Some(r) = row {
            let (min, max) = (r.min.min(value), r.max.max(value));
            // An episode goes on over a pause: nothing says that it ended.
            let paused = episode.is_none() && time.saturating_sub(r.newest) > self.hold;
            if max - min <= self.tolerance && !paused {
                (r.min, r.max, r.newest) = (min, max, time);
                if episode.is_some() || time.saturating_sub(r.since) < self.hold {
                    return Transition::None;
                }
                *episode = Some(Episode {
                    began: r.since,
                    firing: true,
                });
                return Transition::Fired;
            }
        } else if let Some(e) = episode.filter(|e| e.firing) {
            // Resumed: which values it is stuck at is learned from the first one.
            *row = Some(Row {
                since: e.began.min(time),
                newest: time,
                min: value,
                max: value,
            });
            return Transition::None;
        }
        *row = Some(Row {
            since: time,
            newest: time,
            min: value,
            max: value,
        });
        match episode.take() {
            Some(_) => Transition::Resolved,
            None => Transition::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Transition::{Fired, None as Nothing, Resolved};
    use super::*;

    #[track_caller]
    fn check(stuck: Stuck, values: &[(i64, f64, Transition)]) -> Option<Episode> {
        let (mut row, mut episode) = (None, None);
        for &(time, value, expected) in values {
            let got = stuck.step(&mut row, &mut episode, time, value);
            assert_eq!(got, expected, "at {time} with {value}");
        }
        episode
    }

    const EXACT: Stuck = Stuck {
        tolerance: 0.0,
        hold: 10,
    };

    #[test]
    fn a_value_that_stays_fires_with_its_first_time() {
        let open = check(
            EXACT,
            &[
                (0, 1.0, Nothing),
                (3, 2.0, Nothing),
                (12, 2.0, Nothing),
                (13, 2.0, Fired),
                (14, 2.0, Nothing),
            ],
        );
        assert_eq!(open.map(|e| e.began), Some(3));
        check(
            EXACT,
            &[
                (0, 2.0, Nothing),
                (10, 2.0, Fired),
                (30, 2.0, Nothing),
                (31, 2.1, Resolved),
                (40, 2.1, Nothing),
                (41, 2.1, Fired),
            ],
        );
    }

    #[test]
    fn noise_within_the_tolerance_is_no_change_and_a_drift_is() {
        let near = Stuck {
            tolerance: 0.5,
            ..EXACT
        };
        check(
            near,
            &[(0, 1.0, Nothing), (5, 1.5, Nothing), (10, 1.2, Fired)],
        );
        check(
            near,
            &[
                (0, 1.0, Nothing),
                (5, 1.4, Nothing),
                // Near the last one, but not near the first.
                (9, 1.8, Nothing),
                (12, 1.8, Nothing),
                (19, 1.8, Fired),
            ],
        );
    }

    #[test]
    fn a_pause_proves_nothing_and_older_values_change_nothing() {
        check(
            EXACT,
            &[
                (0, 1.0, Nothing),
                (50, 1.0, Nothing),
                (49, 9.0, Nothing),
                (59, 1.0, Nothing),
                (60, 1.0, Fired),
                (60, 1.0, Nothing),
            ],
        );
    }
}
