//! One rule along one series: values in event-time order in, episodes out. The same code runs for the final
//! state, for what is provisional, and for a backtest.

use rules::{Episode, Kind, State};
use serde::{Deserialize, Serialize};

/// Most values kept of the onset of an episode: the last one before it, and the first ones of it.
pub(crate) const EVIDENCE_MAX: usize = 16;

/// A value as rules see it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Event time, microseconds.
    pub(crate) time: i64,
    /// None: a text, of which only a silence takes note.
    pub(crate) value: Option<f64>,
}

/// An episode that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Open {
    pub(crate) episode: Episode,
    /// Newest number; of a silence the last one before it. 0 if there was none.
    pub(crate) value: f64,
    /// Newest event time at which it was known to be under way.
    pub(crate) seen: i64,
    /// (event time, value) around the onset.
    pub(crate) evidence: Vec<(i64, f64)>,
    /// Why it fires, where the rule alone does not say it.
    pub(crate) reason: Option<String>,
}

impl Open {
    fn note(&mut self, point: Point) {
        self.seen = self.seen.max(point.time);
        if let Some(value) = point.value {
            self.value = value;
            if self.evidence.len() < EVIDENCE_MAX {
                self.evidence.push((point.time, value));
            }
        }
    }
}

/// An episode that is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Closed {
    pub(crate) open: Open,
    /// Event time of its end.
    pub(crate) ended: i64,
}

/// Where a rule is on a series. Blank: nothing is under way, and nothing must be remembered.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Run {
    state: Option<State>,
    pub(crate) open: Option<Open>,
}

impl Run {
    pub(crate) fn is_blank(&self) -> bool {
        self.state.is_none() && self.open.is_none()
    }

    /// Whether what was read from a snapshot is a state of this kind.
    pub(crate) fn fits(&self, kind: &Kind) -> bool {
        self.state.as_ref().is_none_or(|s| kind.is_sound(s))
    }

    /// Takes the next value; `before` is the one before it in event-time order, if any is known.
    pub(crate) fn step(
        &mut self,
        kind: &Kind,
        before: Option<Point>,
        point: Point,
        closed: &mut Vec<Closed>,
    ) {
        let state = self.state.take();
        let mut state = state.unwrap_or_else(|| kind.state(before.map(|b| b.time)));
        // Up to this value there was none.
        kind.pass(&mut state, point.time);
        let silent = Point {
            value: None,
            ..point
        };
        self.follow(kind, &state, before, silent, closed);
        kind.step(&mut state, point.time, point.value);
        self.follow(kind, &state, before, point, closed);
        self.keep(kind, state);
    }

    /// Time has come to `now` without a value since `last`.
    pub(crate) fn pass(&mut self, kind: &Kind, last: Point, now: i64) {
        let state = self.state.take();
        let mut state = state.unwrap_or_else(|| kind.state(Some(last.time)));
        kind.pass(&mut state, now);
        let silent = Point {
            time: now,
            value: None,
        };
        self.follow(kind, &state, Some(last), silent, &mut Vec::new());
        self.keep(kind, state);
    }

    fn keep(&mut self, kind: &Kind, state: State) {
        if kind.has_memory() || state.episode().is_some() {
            self.state = Some(state);
        }
    }

    /// Brings what is open to what the state says after `point`.
    fn follow(
        &mut self,
        kind: &Kind,
        state: &State,
        before: Option<Point>,
        point: Point,
        closed: &mut Vec<Closed>,
    ) {
        let episode = state.episode();
        let began = episode.map(|e| e.began);
        if self
            .open
            .as_ref()
            .is_some_and(|o| Some(o.episode.began) != began)
            && let Some(mut open) = self.open.take()
        {
            open.value = point.value.unwrap_or(open.value);
            closed.push(Closed {
                open,
                ended: point.time,
            });
        }
        let Some(episode) = episode else { return };
        let fires = episode.firing && !self.open.as_ref().is_some_and(|o| o.episode.firing);
        let open = self.open.get_or_insert_with(|| {
            let mut open = Open {
                episode,
                value: 0.0,
                seen: episode.began,
                evidence: Vec::new(),
                reason: None,
            };
            if let Some(before) = before {
                open.note(before);
            }
            open
        });
        open.episode = episode;
        open.note(point);
        if fires {
            open.reason = kind.reason(state, open.value);
        }
    }
}

/// Whether two stretches of event time have a moment in common, both ends included.
pub(crate) fn overlap(a: (i64, i64), b: (i64, i64)) -> bool {
    a.0 <= b.1 && b.0 <= a.1
}
