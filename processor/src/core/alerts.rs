//! Episodes of rules on devices, and when they page.
//!
//! Values of a series are stepped in event-time order: a value older than the newest one evaluated does
//! not step the rule. A page goes out iff the episode is open at the newest known value **and** the agent
//! has caught up (progress within 30 s of ingest time), or 60 s of ingest time after it was learned. An
//! episode that is learned only after it ended is recorded and never paged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rules::{Direction, Episode, ThresholdRule as Rule, Transition};
use serde::{Deserialize, Serialize};
use views::model::{Alert, Time};
use xxhash_rust::xxh3::xxh3_64;

use super::effects::{Effects, Notice, NoticeKind};

/// An agent within this of ingest time has caught up.
const CAUGHT_UP: i64 = 30_000_000;
/// A page waits at most this long for its agent to catch up.
const PAGE_DEADLINE: i64 = 60_000_000;
/// Ended episodes remembered per partition.
const HISTORY_MAX: usize = 200;
/// Ended episodes shown per flush; of more, the newest.
const ENDED_SHOWN_MAX: usize = 1000;

/// An episode that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Active {
    pub(crate) episode: Episode,
    /// Ingest time at which it was learned.
    reported: i64,
    notified: bool,
    /// Newest value.
    value: f64,
    /// Number of earlier episodes in the history with the same rule, series and begin: a clock that
    /// stands still must not give two episodes one name.
    ordinal: u32,
}

impl Active {
    /// Whether its times are not further from 1970 than `bound`, and there is room for more of its name.
    pub(crate) fn is_sound(&self, bound: i64) -> bool {
        let times = [self.episode.began, self.reported];
        let fit = |t: i64| t.unsigned_abs() <= bound.unsigned_abs();
        times.into_iter().all(fit) && self.ordinal < u32::MAX
    }
}

/// Where an episode is: (position of the rule, number of the device).
pub(crate) type Place = (u32, u32);

/// What the text of an alert needs to know of its device.
pub(crate) struct About<'a> {
    pub(crate) device: &'a str,
    pub(crate) attributes: BTreeMap<String, String>,
}

/// All episodes of a partition.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Alerts {
    pub(crate) rules: Vec<Rule>,
    pub(crate) active: BTreeMap<Place, Active>,
    /// Firing and not paged yet; looked through once a second.
    waiting: BTreeSet<Place>,
    /// Those of them that began to fire in this record: most page at once.
    fresh: Vec<Place>,
    /// To be shown at the next flush. A batch may change an episode many times: only what it is then counts.
    changed: BTreeSet<Place>,
    ended: VecDeque<EndedAlert>,
    pub(crate) history: VecDeque<EndedAlert>,
}

/// An ended episode, kept for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct EndedAlert {
    pub(crate) rule: String,
    pub(crate) device: u32,
    pub(crate) active: Active,
    pub(crate) ended: i64,
    pub(crate) severity: String,
    pub(crate) threshold: f64,
    pub(crate) above: bool,
    pub(crate) metric: String,
}

impl Alerts {
    /// Whether a rule is about the metric.
    pub(crate) fn watches(&self, metric: &str) -> bool {
        self.rules.iter().any(|r| r.metric == metric)
    }

    /// Whether a value may begin an episode.
    #[inline]
    pub(crate) fn may_begin(&self, metric: &str, value: f64) -> bool {
        self.rules
            .iter()
            .any(|r| r.threshold.is_beyond(value) && r.metric == metric)
    }

    /// Whether something began to fire that was not looked at yet.
    pub(crate) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// Whether an episode of the metric is under way on the device.
    pub(crate) fn is_active(&self, metric: &str, device: u32) -> bool {
        (0..self.rules.len()).any(|i| {
            self.rules[i].metric == metric && self.active.contains_key(&(i as u32, device))
        })
    }

    /// The device is gone: what was under way is over without a word.
    pub(crate) fn drop_device(&mut self, device: u32) {
        for rule in 0..self.rules.len() as u32 {
            let place = (rule, device);
            self.active.remove(&place);
            self.waiting.remove(&place);
            self.changed.remove(&place);
        }
        self.fresh.retain(|p| p.1 != device);
    }

    /// Steps every rule of the metric with a value.
    pub(crate) fn step(
        &mut self,
        metric: &str,
        device: u32,
        (time, value): (i64, f64),
        now: i64,
        about: &dyn Fn() -> (String, BTreeMap<String, String>),
        fx: &mut Effects,
    ) {
        for i in 0..self.rules.len() {
            if self.rules[i].metric != metric {
                continue;
            }
            let threshold = self.rules[i].threshold;
            let place = (i as u32, device);
            let Some(active) = self.active.get_mut(&place) else {
                let mut episode = None;
                if threshold.is_beyond(value) {
                    threshold.step(&mut episode, time, value);
                }
                if let Some(episode) = episode {
                    self.begin(place, episode, now, value);
                }
                continue;
            };
            active.value = value;
            let mut episode = Some(active.episode);
            let transition = threshold.step(&mut episode, time, value);
            if let Some(episode) = episode {
                active.episode = episode;
            }
            match transition {
                Transition::None | Transition::Pending => {}
                Transition::Fired => {
                    self.waiting.insert(place);
                    self.fresh.push(place);
                }
                Transition::Dropped | Transition::Resolved => {
                    self.end(place, (time, now), about, fx);
                    continue;
                }
            }
            self.changed.insert(place);
        }
    }

    fn begin(&mut self, place: Place, episode: Episode, now: i64, value: f64) {
        let rule = &self.rules[place.0 as usize].name;
        let twins = self.history.iter().filter(|e| {
            e.device == place.1 && e.rule == *rule && e.active.episode.began == episode.began
        });
        let ordinal = twins.map(|e| e.active.ordinal + 1).max().unwrap_or(0);
        let active = Active {
            episode,
            reported: now,
            notified: false,
            value,
            ordinal,
        };
        self.active.insert(place, active);
        self.changed.insert(place);
        if episode.firing {
            self.waiting.insert(place);
            self.fresh.push(place);
        }
    }

    fn end(
        &mut self,
        place: Place,
        // Event time of the end, and ingest time now.
        (time, now): (i64, i64),
        about: &dyn Fn() -> (String, BTreeMap<String, String>),
        fx: &mut Effects,
    ) {
        let Some(active) = self.active.remove(&place) else {
            return;
        };
        self.waiting.remove(&place);
        self.changed.remove(&place);
        let rule = &self.rules[place.0 as usize];
        let ended = EndedAlert {
            rule: rule.name.clone(),
            device: place.1,
            active,
            ended: time,
            severity: rule.severity.as_str().to_owned(),
            threshold: rule.threshold.raise,
            above: rule.threshold.direction == Direction::Above,
            metric: rule.metric.clone(),
        };
        if ended.active.notified {
            let (device, attributes) = about();
            let alert = ended.alert(&About {
                device: &device,
                attributes,
            });
            fx.notices.push(Notice {
                id: format!("{}:cleared", alert.id),
                kind: NoticeKind::Cleared,
                at: now,
                alert,
            });
        }
        push_bounded(&mut self.history, ended.clone(), HISTORY_MAX);
        push_bounded(&mut self.ended, ended, ENDED_SHOWN_MAX);
    }

    /// Pages what began to fire in this record, if its agent has caught up: `progress` gives the progress
    /// of a device's agent.
    pub(crate) fn page_fresh(
        &mut self,
        now: i64,
        progress: impl Fn(u32) -> i64,
        about: impl Fn(u32) -> (String, BTreeMap<String, String>),
        fx: &mut Effects,
    ) {
        for place in std::mem::take(&mut self.fresh) {
            if progress(place.1) >= now - CAUGHT_UP {
                self.page(place, now, &about, fx);
            }
        }
    }

    /// Pages what has been waiting and is due.
    pub(crate) fn page_waiting(
        &mut self,
        now: i64,
        progress: impl Fn(u32) -> i64,
        about: impl Fn(u32) -> (String, BTreeMap<String, String>),
        fx: &mut Effects,
    ) {
        let due: Vec<Place> = self
            .waiting
            .iter()
            .filter(|p| {
                progress(p.1) >= now - CAUGHT_UP
                    || self
                        .active
                        .get(p)
                        .is_none_or(|a| now >= a.reported + PAGE_DEADLINE)
            })
            .copied()
            .collect();
        for place in due {
            self.page(place, now, &about, fx);
        }
    }

    fn page(
        &mut self,
        place: Place,
        now: i64,
        about: &impl Fn(u32) -> (String, BTreeMap<String, String>),
        fx: &mut Effects,
    ) {
        if !self.waiting.remove(&place) {
            return;
        }
        let Some(active) = self.active.get_mut(&place) else {
            return;
        };
        active.notified = true;
        let active = active.clone();
        let (device, attributes) = about(place.1);
        let alert = self.alert(
            place,
            &active,
            None,
            &About {
                device: &device,
                attributes,
            },
        );
        self.changed.insert(place);
        fx.notices.push(Notice {
            id: format!("{}:raised", alert.id),
            kind: NoticeKind::Raised,
            at: now,
            alert,
        });
    }

    /// What changed since the last call, as it is now.
    pub(crate) fn take_changed(
        &mut self,
        about: impl Fn(u32) -> (String, BTreeMap<String, String>),
        fx: &mut Effects,
    ) {
        for ended in std::mem::take(&mut self.ended) {
            let (device, attributes) = about(ended.device);
            fx.alerts.push(ended.alert(&About {
                device: &device,
                attributes,
            }));
        }
        for place in std::mem::take(&mut self.changed) {
            let Some(active) = self.active.get(&place) else {
                continue;
            };
            let (device, attributes) = about(place.1);
            fx.alerts.push(self.alert(
                place,
                active,
                None,
                &About {
                    device: &device,
                    attributes,
                },
            ));
        }
    }

    /// Changes the rules. Episodes of rules that are gone or changed end at `now`.
    pub(crate) fn declare(
        &mut self,
        rules: Vec<Rule>,
        now: i64,
        about: impl Fn(u32) -> (String, BTreeMap<String, String>),
        fx: &mut Effects,
    ) {
        let moved: Vec<Option<u32>> = self
            .rules
            .iter()
            .map(|old| rules.iter().position(|new| new == old).map(|i| i as u32))
            .collect();
        let ended: Vec<Place> = self
            .active
            .keys()
            .filter(|p| moved[p.0 as usize].is_none())
            .copied()
            .collect();
        for place in ended {
            self.end(place, (now, now), &|| about(place.1), fx);
        }
        let renumber = |p: &Place| moved[p.0 as usize].map(|rule| (rule, p.1));
        self.active = std::mem::take(&mut self.active)
            .into_iter()
            .filter_map(|(p, a)| Some((renumber(&p)?, a)))
            .collect();
        self.waiting = self.waiting.iter().filter_map(renumber).collect();
        self.changed = self.changed.iter().filter_map(renumber).collect();
        self.fresh.clear();
        self.rules = rules;
    }

    /// What was restored: the waiting ones follow from the active ones.
    pub(crate) fn restore(
        rules: Vec<Rule>,
        active: BTreeMap<Place, Active>,
        history: VecDeque<EndedAlert>,
    ) -> Self {
        let waiting = active
            .iter()
            .filter(|(_, a)| a.episode.firing && !a.notified)
            .map(|(p, _)| *p)
            .collect();
        Self {
            rules,
            active,
            waiting,
            history,
            ..Self::default()
        }
    }

    /// The alert of an active episode.
    pub(crate) fn alert(
        &self,
        place: Place,
        active: &Active,
        ended: Option<i64>,
        about: &About<'_>,
    ) -> Alert {
        let rule = &self.rules[place.0 as usize];
        build(
            &rule.name,
            rule.severity.as_str(),
            &rule.metric,
            (
                rule.threshold.raise,
                rule.threshold.direction == Direction::Above,
            ),
            active,
            ended,
            about,
        )
    }
}

impl EndedAlert {
    /// The alert of an ended episode.
    pub(crate) fn alert(&self, about: &About<'_>) -> Alert {
        let severity = ["info", "warning", "error", "critical"]
            .into_iter()
            .find(|s| *s == self.severity)
            .unwrap_or("warning");
        build(
            &self.rule,
            severity,
            &self.metric,
            (self.threshold, self.above),
            &self.active,
            Some(self.ended),
            about,
        )
    }
}

fn push_bounded<T>(list: &mut VecDeque<T>, item: T, max: usize) {
    if list.len() == max {
        list.pop_front();
    }
    list.push_back(item);
}

fn build(
    rule: &str,
    severity: &'static str,
    metric: &str,
    (threshold, above): (f64, bool),
    active: &Active,
    ended: Option<i64>,
    about: &About<'_>,
) -> Alert {
    let began = active.episode.began;
    // The same in every replay, and different for every episode.
    let mut identity = format!("{rule}\0{}\0{metric}\0{began}", about.device);
    if active.ordinal > 0 {
        identity.push_str(&format!("\0{}", active.ordinal));
    }
    let state = match (ended, active.episode.firing) {
        (Some(_), _) => "resolved",
        (None, true) => "firing",
        (None, false) => "pending",
    };
    let side = if above { "above" } else { "below" };
    let value = active.value;
    let mut summary = format!(
        "{metric} of {} went {side} {threshold} (rule {rule}); began {}, reported {}",
        about.device,
        Time(began),
        Time(active.reported)
    );
    match ended {
        Some(at) => summary.push_str(&format!("; over since {} with {value}", Time(at))),
        None => summary.push_str(&format!("; now {value}")),
    }
    Alert {
        id: format!("{:016x}", xxh3_64(identity.as_bytes())),
        rule: rule.to_owned(),
        severity,
        state,
        device: about.device.to_owned(),
        metric: metric.to_owned(),
        group: about.attributes.clone(),
        value,
        threshold,
        began: Time(began),
        reported: Time(active.reported),
        resolved: ended.map(Time),
        notified: active.notified,
        summary,
    }
}
