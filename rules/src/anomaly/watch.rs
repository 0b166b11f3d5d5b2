//! A detector under the face of a rule: episodes with their reason.

use serde::{Deserialize, Serialize};

use super::{Anomaly, Detector, Evidence, Verdict};
use crate::episode::{Episode, Transition};

/// What is remembered of one rule on one series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Watch {
    detector: Detector,
    /// Of the episode that is under way; none if it was resumed.
    evidence: Option<Evidence>,
    /// An episode was resumed: the first value begins the wait for its end.
    resumed: bool,
}

impl Watch {
    pub(crate) fn new(settings: &Anomaly, resumed: bool) -> Self {
        Self {
            detector: Detector::New(settings.options().detector),
            evidence: None,
            resumed,
        }
    }

    /// Takes a value.
    pub(crate) fn step(
        &mut self,
        settings: &Anomaly,
        episode: &mut Option<Episode>,
        time: i64,
        value: f64,
    ) -> Transition {
        let verdict = self.detector.step(time, value, settings);
        match verdict {
            Verdict::Missing | Verdict::Late => return Transition::None,
            Verdict::Alarm(evidence) if episode.is_none() => {
                self.evidence = Some(evidence);
                *episode = Some(Episode {
                    began: time,
                    firing: true,
                });
                return Transition::Fired;
            }
            Verdict::Quiet(_) if episode.is_some() && !self.resumed => {
                *episode = None;
                self.evidence = None;
                return Transition::Resolved;
            }
            Verdict::Alarm(_) | Verdict::GoesOn(_) | Verdict::Quiet(_) => {}
        }
        if std::mem::take(&mut self.resumed) {
            self.detector.hold(settings);
        }
        Transition::None
    }

    /// What was learned stays, and an episode goes on.
    pub(crate) fn clock_set(&mut self) {
        self.detector.clock_set();
    }

    pub(crate) fn evidence(&self) -> Option<&Evidence> {
        self.evidence.as_ref()
    }

    pub(crate) fn is_sound(&self, settings: &Anomaly) -> bool {
        self.detector.is_sound() && self.detector.variant() == settings.options().detector
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anomaly::Options;
    use crate::kind::{Kind, State};

    const MINUTE: i64 = 60_000_000;

    fn kind() -> Kind {
        Kind::Anomaly(Anomaly::default())
    }

    /// Two days of 0, 1, 2, 0, …, a value a minute.
    fn learned(kind: &Kind) -> (State, i64) {
        let mut state = kind.state(None);
        for i in 0..2880 {
            let transition = kind.step(&mut state, i * MINUTE, Some((i % 3) as f64));
            assert_eq!(transition, Transition::None, "{i}");
        }
        (state, 2880 * MINUTE)
    }

    #[test]
    fn an_episode_begins_with_a_reason_and_ends_after_quiet_hours() {
        let kind = kind();
        let (mut state, from) = learned(&kind);
        assert_eq!(kind.reason(&state, 1.0), None);
        assert_eq!(kind.step(&mut state, from, None), Transition::None);
        assert_eq!(kind.step(&mut state, from, Some(9.0)), Transition::Fired);
        let began = Episode {
            began: from,
            firing: true,
        };
        assert_eq!(state.episode(), Some(began));
        let reason = kind.reason(&state, 9.0).unwrap();
        assert_eq!(
            reason,
            "9 is above all that is known of it: expected 0 to 2, since 1970-01-03T00:00:00Z, score 0.98 \
             (part: value)"
        );
        // Saved and read back in the middle of it.
        let bytes = postcard::to_stdvec(&state).unwrap();
        assert!(bytes.len() <= 256, "{}", bytes.len());
        let mut state: State = postcard::from_bytes(&bytes).unwrap();
        assert!(kind.is_sound(&state));
        assert_eq!(kind.reason(&state, 9.0), Some(reason));
        // An hour later it is worse: that is the same episode, and the two hours begin again.
        let mut ended = Vec::new();
        for minute in 1..400 {
            let value = if minute == 60 {
                90.0
            } else {
                (minute % 3) as f64
            };
            match kind.step(&mut state, from + minute * MINUTE, Some(value)) {
                Transition::None => {}
                Transition::Resolved => ended.push(minute),
                other => panic!("{other:?} at {minute}"),
            }
        }
        assert_eq!(ended, [180]);
        assert_eq!((state.episode(), kind.reason(&state, 1.0)), (None, None));
    }

    #[test]
    fn a_resumed_episode_ends_after_its_hold() {
        let kind = kind();
        let episode = Episode {
            began: -5,
            firing: true,
        };
        let mut state = kind.resume(episode);
        assert_eq!(kind.reason(&state, 0.0), None);
        for minute in 0..120 {
            let transition = kind.step(&mut state, minute * MINUTE, Some(1.0));
            assert_eq!(transition, Transition::None, "{minute}");
            assert_eq!(state.episode(), Some(episode));
        }
        assert_eq!(
            kind.step(&mut state, 120 * MINUTE, Some(1.0)),
            Transition::Resolved
        );
    }

    #[test]
    fn a_clock_that_was_set_keeps_what_was_learned_and_the_episode() {
        let kind = kind();
        let (mut state, from) = learned(&kind);
        assert_eq!(kind.step(&mut state, from, Some(9.0)), Transition::Fired);
        kind.clock_set(&mut state);
        assert!(state.episode().is_some());
        for minute in 0..130 {
            kind.step(&mut state, minute * MINUTE, Some((minute % 3) as f64));
        }
        assert_eq!(state.episode(), None);
        assert_eq!(
            kind.step(&mut state, 131 * MINUTE, Some(-90.0)),
            Transition::Fired
        );
    }

    #[test]
    fn late_values_and_states_of_others_do_nothing() {
        let kind = kind();
        let (mut state, from) = learned(&kind);
        assert_eq!(
            kind.step(&mut state, from - 2 * MINUTE, Some(90.0)),
            Transition::None
        );
        assert_eq!(kind.step(&mut state, from, Some(90.0)), Transition::Fired);
        let large = Kind::Anomaly(Anomaly::new(Options {
            detector: crate::anomaly::Variant::Large,
            ..Options::default()
        }));
        assert!(!large.is_sound(&state) && large.is_sound(&large.state(None)));
        let silence = Kind::Silence(crate::Silence { after: 5 });
        assert!(!silence.is_sound(&state) && !kind.is_sound(&silence.state(None)));
        assert_eq!(silence.step(&mut state, from, Some(1.0)), Transition::None);
    }
}
