//! The kinds of rules behind one face: a state, stepped with values and with the time that passes.

use serde::{Deserialize, Serialize};

use crate::anomaly::{Anomaly, THRESHOLD, Watch};
use crate::episode::{Episode, Transition};
use crate::fleet::{Share, Window};
use crate::format_duration;
use crate::offline::Offline;
use crate::rate::Course;
use crate::rate::{Rate, Stretch};
use crate::silence::Silence;
use crate::stuck::{Row, Stuck};
use crate::threshold::{Direction, Threshold};

/// Names of the kinds, as they are declared.
pub const KINDS: [&str; 8] = [
    "threshold",
    "rate",
    "silence",
    "stuck",
    "offline",
    "anomaly",
    "window",
    "share",
];

/// What a rule looks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A value beyond a limit.
    Threshold(Threshold),
    /// A value that changes too fast.
    Rate(Rate),
    /// No value.
    Silence(Silence),
    /// A value that does not change.
    Stuck(Stuck),
    /// An agent that is not heard from. It has no series: nothing steps it.
    Offline(Offline),
    /// A value unlike those before.
    Anomaly(Anomaly),
    /// A window of a group. It has no series: nothing here steps it.
    Window(Window),
    /// A share of a group. It has no series, either.
    Share(Share),
}

/// What is remembered of one rule on one series (a metric of a device): at most about 400 bytes, of an
/// anomaly with the large detector 1.8 kB.
///
/// It can be saved and read back. It belongs to the kind that made it ([`Kind::state`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    episode: Option<Episode>,
    memory: Memory,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Memory {
    None,
    Stretch(Stretch),
    Heard(Option<i64>),
    Row(Option<Row>),
    Watch(Box<Watch>),
}

impl State {
    /// The episode that is under way.
    pub fn episode(&self) -> Option<Episode> {
        self.episode
    }
}

impl Kind {
    /// The name in declarations.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Threshold(_) => KINDS[0],
            Self::Rate(_) => KINDS[1],
            Self::Silence(_) => KINDS[2],
            Self::Stuck(_) => KINDS[3],
            Self::Offline(_) => KINDS[4],
            Self::Anomaly(_) => KINDS[5],
            Self::Window(_) => KINDS[6],
            Self::Share(_) => KINDS[7],
        }
    }

    /// Whether it is about groups of devices: no series is stepped with it.
    pub const fn is_of_groups(&self) -> bool {
        matches!(self, Self::Window(_) | Self::Share(_))
    }

    /// Whether something must be remembered of a series without an episode. What has no memory needs no
    /// [`State`] then: [`Self::state`] gives it, for a silence from the last value on.
    pub const fn has_memory(&self) -> bool {
        !matches!(
            self,
            Self::Threshold(_)
                | Self::Silence(_)
                | Self::Offline(_)
                | Self::Window(_)
                | Self::Share(_)
        )
    }

    /// What is wrong while an episode fires, for people: goes on after "x of y ".
    pub fn describe(&self) -> String {
        match self {
            Self::Threshold(t) | Self::Share(Share { threshold: t, .. }) => crossed(t),
            Self::Window(w) => format!("{} {}", w.field.as_str(), crossed(&w.threshold)),
            Self::Rate(r) => {
                let way = match r.course {
                    Course::Rising => "rose",
                    Course::Falling => "fell",
                    Course::Either => "changed",
                };
                let within = format_duration(r.within);
                format!("{way} by more than {} within {within}", r.raise)
            }
            Self::Silence(s) => format!("gave no value for more than {}", format_duration(s.after)),
            Self::Stuck(s) if s.tolerance > 0.0 => format!(
                "did not change by more than {} for {}",
                s.tolerance,
                format_duration(s.hold)
            ),
            Self::Stuck(s) => format!("did not change for {}", format_duration(s.hold)),
            Self::Offline(o) => format!(
                "was not heard from for more than {}; it buffers",
                format_duration(o.after)
            ),
            Self::Anomaly(_) => "is unlike what it has been".to_owned(),
        }
    }

    /// The number that people compare values with: the limit, of a silence and of an agent that is offline the
    /// seconds, of an anomaly the score.
    pub fn limit(&self) -> f64 {
        match self {
            Self::Threshold(t) | Self::Share(Share { threshold: t, .. }) => t.raise,
            Self::Window(w) => w.threshold.raise,
            Self::Rate(r) => r.raise,
            Self::Silence(s) => s.after as f64 / 1e6,
            Self::Stuck(s) => s.tolerance,
            Self::Offline(o) => o.after as f64 / 1e6,
            Self::Anomaly(_) => f64::from(THRESHOLD),
        }
    }

    /// Why an episode fires, where the rule alone does not say it, for people. Asked right after the value that
    /// made it fire was stepped; at most 512 bytes.
    /// None of an anomaly that was resumed.
    pub fn reason(&self, state: &State, _value: f64) -> Option<String> {
        let (Memory::Watch(watch), Some(episode)) = (&state.memory, state.episode) else {
            return None;
        };
        let evidence = watch.evidence()?;
        Some(evidence.sentence(episode.began))
    }

    /// Whether a state that was read from outside is one of this kind, and can have come from steps.
    pub fn is_sound(&self, state: &State) -> bool {
        match (self, &state.memory) {
            (
                Self::Threshold(_) | Self::Offline(_) | Self::Window(_) | Self::Share(_),
                Memory::None,
            )
            | (Self::Rate(_), Memory::Stretch(_))
            | (Self::Silence(_), Memory::Heard(_))
            | (Self::Stuck(_), Memory::Row(_)) => true,
            (Self::Anomaly(a), Memory::Watch(w)) => w.is_sound(a),
            _ => false,
        }
    }

    /// The state of a series of which nothing is known: no episode. A silence begins with the first
    /// value, or with `from`, in microseconds, if a value is awaited from then on.
    pub fn state(&self, from: Option<i64>) -> State {
        let memory = match self {
            Self::Threshold(_) | Self::Offline(_) | Self::Window(_) | Self::Share(_) => {
                Memory::None
            }
            Self::Rate(_) => Memory::Stretch(Stretch::default()),
            Self::Silence(_) => Memory::Heard(from),
            Self::Stuck(_) => Memory::Row(None),
            Self::Anomaly(a) => Memory::Watch(Box::new(Watch::new(a, false))),
        };
        State {
            episode: None,
            memory,
        }
    }

    /// The state of a series of which only an episode is known that is under way. The next values tell
    /// whether it is over; of a rate that is known only when a whole stretch has been seen, and an anomaly
    /// is over after its `hold`, while the detector learns from nothing.
    pub fn resume(&self, episode: Episode) -> State {
        let memory = match self {
            Self::Threshold(_) | Self::Offline(_) | Self::Window(_) | Self::Share(_) => {
                Memory::None
            }
            Self::Rate(_) => Memory::Stretch(Stretch::blind()),
            Self::Silence(_) => Memory::Heard(None),
            Self::Stuck(_) => Memory::Row(None),
            Self::Anomaly(a) => Memory::Watch(Box::new(Watch::new(a, true))),
        };
        State {
            episode: Some(episode),
            memory,
        }
    }

    /// Takes the next value in event-time order; none = a value that is no number, of which only a
    /// silence takes note. `time` is in microseconds.
    pub fn step(&self, state: &mut State, time: i64, value: Option<f64>) -> Transition {
        let episode = &mut state.episode;
        match (self, &mut state.memory, value) {
            (Self::Threshold(t), _, Some(value)) => t.step(episode, time, value),
            (Self::Rate(r), Memory::Stretch(s), Some(value)) => r.step(s, episode, time, value),
            (Self::Silence(s), Memory::Heard(last), _) => s.heard(last, episode, time),
            (Self::Stuck(s), Memory::Row(row), Some(value)) => s.step(row, episode, time, value),
            (Self::Anomaly(a), Memory::Watch(w), Some(value)) => w.step(a, episode, time, value),
            // Text says nothing to a limit, and a state of another kind nothing to this one.
            _ => Transition::None,
        }
    }

    /// Time has come to `now`, microseconds of the clock that values are stepped with. Only silence
    /// fires by itself.
    pub fn pass(&self, state: &mut State, now: i64) -> Transition {
        match (self, &state.memory) {
            (Self::Silence(s), Memory::Heard(last)) => s.pass(*last, &mut state.episode, now),
            _ => Transition::None,
        }
    }

    /// The earliest time at which [`Self::pass`] has something to tell, if no value comes before.
    pub fn due(&self, state: &State) -> Option<i64> {
        match (self, &state.memory) {
            (Self::Silence(s), Memory::Heard(last)) => s.due(*last, state.episode),
            _ => None,
        }
    }

    /// The clock of the values was set: what was measured by it before says nothing of the time since.
    /// An episode that fires goes on; one that is pending, and the stretch of a rate, begin again. What an
    /// anomaly has learned stays.
    pub fn clock_set(&self, state: &mut State) {
        if let Memory::Watch(watch) = &mut state.memory {
            watch.clock_set();
            return;
        }
        if matches!(self, Self::Silence(_) | Self::Offline(_)) {
            return;
        }
        *state = match state.episode.filter(|e| e.firing) {
            Some(episode) => self.resume(episode),
            None => self.state(None),
        };
    }
}

fn crossed(threshold: &Threshold) -> String {
    let side = match threshold.direction {
        Direction::Above => "above",
        Direction::Below => "below",
    };
    format!("went {side} {}", threshold.raise)
}

#[cfg(test)]
#[path = "kind_tests.rs"]
mod tests;
