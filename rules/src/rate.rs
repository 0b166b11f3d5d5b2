//! Rate of change: a value that rises, or falls, by more than `raise` within a stretch of event time.
//!
//! The change at a value is how far it is above the smallest (rising) or below the largest (falling)
//! value of the stretch that ends with it. There is no division by the time between two values: repeats
//! change nothing, and values that are close together are no danger.
//!
//! The stretch is kept in 16 slices of equal length, aligned to the epoch, each with its smallest and
//! largest value: bounded state, whatever the pace of the values. So a change within 15/16 of the
//! stretch always counts, and one that took longer than the whole stretch never.

use serde::{Deserialize, Serialize};

use crate::episode::{Episode, Side, Transition, advance};

/// Slices of a stretch.
pub(crate) const SLICES: usize = 16;

/// Which way the value goes when it is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Course {
    /// Up.
    #[default]
    Rising,
    /// Down.
    Falling,
    /// Up or down.
    Either,
}

/// The limits, in the metric's own unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Which way is bad.
    pub course: Course,
    /// A change by more than this begins an episode; more than 0.
    pub raise: f64,
    /// A change by at most this ends it; 0 to `raise`.
    pub clear: f64,
    /// The stretch, microseconds of event time; 10 ms to a day.
    pub within: i64,
    /// How long values must have changed so before it fires, microseconds of event time; 0 = at once.
    pub hold: i64,
}

/// Extremes of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Slice {
    index: i64,
    min: f64,
    max: f64,
}

/// What is remembered of the stretch: at most 16 slices.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Stretch {
    newest: Option<i64>,
    slices: Vec<Slice>,
    sight: Sight,
}

/// How much of the stretch is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Sight {
    /// All that there was.
    #[default]
    Whole,
    /// An episode was under way before the first value is known: it goes on …
    Blind,
    /// … at least until this time, when a whole stretch has been seen.
    BlindUntil(i64),
}

impl Stretch {
    /// Nothing is known, and an episode is under way.
    pub(crate) fn blind() -> Self {
        Self {
            sight: Sight::Blind,
            ..Self::default()
        }
    }

    /// Whether small changes count at `time`.
    fn sees(&mut self, time: i64, within: i64) -> bool {
        self.sight = match self.sight {
            Sight::Blind => Sight::BlindUntil(time.saturating_add(within)),
            Sight::BlindUntil(until) if time >= until => Sight::Whole,
            sight => sight,
        };
        self.sight == Sight::Whole
    }
}

impl Rate {
    /// Takes a value; one that is older than the newest so far is passed over.
    pub(crate) fn step(
        &self,
        stretch: &mut Stretch,
        episode: &mut Option<Episode>,
        time: i64,
        value: f64,
    ) -> Transition {
        if stretch.newest.is_some_and(|newest| time < newest) {
            return Transition::None;
        }
        stretch.newest = Some(time);
        let change = self.change(stretch, time, value);
        let sees = stretch.sees(time, self.within);
        let side = if change > self.raise {
            Side::Beyond
        } else if change <= self.clear && sees {
            Side::Clear
        } else {
            Side::Between
        };
        advance(episode, time, side, self.hold)
    }

    /// Puts a value in its slice and forgets those that have left the stretch. Returns the change.
    fn change(&self, stretch: &mut Stretch, time: i64, value: f64) -> f64 {
        let width = (self.within / SLICES as i64).max(1);
        let index = time.div_euclid(width);
        let oldest = index.saturating_sub(SLICES as i64 - 1);
        stretch.slices.retain(|s| s.index >= oldest);
        match stretch.slices.last_mut() {
            Some(s) if s.index == index => {
                s.min = s.min.min(value);
                s.max = s.max.max(value);
            }
            _ => stretch.slices.push(Slice {
                index,
                min: value,
                max: value,
            }),
        }
        let (mut min, mut max) = (value, value);
        for s in &stretch.slices {
            min = min.min(s.min);
            max = max.max(s.max);
        }
        match self.course {
            Course::Rising => value - min,
            Course::Falling => max - value,
            Course::Either => (value - min).max(max - value),
        }
    }
}
