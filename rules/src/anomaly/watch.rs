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

    pub(crate) fn is_sound(&self) -> bool {
        self.detector.is_sound()
    }
}
