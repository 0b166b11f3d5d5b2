//! What people see of episodes: names, pages, ends, the history.

use std::collections::VecDeque;

use rules::Kind;
use serde::{Deserialize, Serialize};
use views::model::Alert;

use super::super::effects::{Effects, Notice, NoticeKind};
use super::super::partition::Partition;
use super::run::{Closed, Open, Run, overlap};
use super::{Alerts, Place};

/// An agent within this of ingest time has caught up.
const CAUGHT_UP: i64 = 30_000_000;
/// A page waits at most this long for its agent to catch up.
const PAGE_DEADLINE: i64 = 60_000_000;
/// Ended episodes remembered and shown, per partition.
pub(crate) const HISTORY_MAX: usize = 1000;
/// Pages of a place whose end was told and is not final.
const TOLD_MAX: usize = 8;

/// Why a page is over without an end of its episode.
const NEVER_WAS: &str = "values that came late show that it was none";
const RULE_GONE: &str = "the rule was changed or removed";

/// An episode as people know it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Active {
    /// Its name for ever, made from rule, device, metric and the begin that was known first.
    pub(crate) id: u64,
    pub(crate) open: Open,
    /// Ingest time at which it was learned.
    pub(crate) reported: i64,
    pub(crate) notified: bool,
    /// Whether it was shown as open.
    visible: bool,
    /// The begin that was told, and when (ingest time).
    told: (i64, i64),
    /// How often another one was told since.
    revisions: u32,
}

impl Active {
    /// Whether its times are not further from 1970 than `bound`.
    pub(crate) fn is_sound(&self, bound: i64) -> bool {
        let fit = |t: i64| t.unsigned_abs() <= bound.unsigned_abs();
        let times = [self.open.episode.began, self.open.seen, self.reported];
        times.into_iter().all(fit)
            && self.open.evidence.iter().all(|e| fit(e.0))
            && self.revisions < u32::MAX
    }

    /// Whether a page or another begin is to be told.
    pub(crate) fn has_to_tell(&self) -> bool {
        // Of a page that late values made pending again nothing is told before it fires or is dropped.
        self.fired() && (!self.notified || self.began() != self.told.0)
    }

    fn began(&self) -> i64 {
        self.open.episode.began
    }

    fn fired(&self) -> bool {
        self.open.episode.firing
    }
}

/// What is known of a rule on a series (or on an agent).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Track {
    /// After all final values.
    pub(crate) run: Run,
    /// Open after all known values.
    pub(crate) shown: Option<Active>,
    /// Paged and told to be over, with the end; not final yet.
    pub(crate) told: VecDeque<(Active, i64)>,
}

impl Track {
    pub(crate) fn is_blank(&self) -> bool {
        self.run.is_blank() && self.shown.is_none() && self.told.is_empty()
    }
}

/// An ended episode, kept for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) rule: String,
    /// Number of the device, or of the agent.
    pub(crate) subject: u32,
    pub(crate) of_agent: bool,
    pub(crate) active: Active,
    pub(crate) ended: i64,
    /// Why, where no value ended it.
    pub(crate) why: Option<String>,
    pub(crate) severity: String,
    pub(crate) kind: String,
    /// As of [`rules::Kind::describe`] and [`rules::Kind::limit`].
    pub(crate) condition: String,
    pub(crate) limit: f64,
    pub(crate) metric: String,
}

/// What the values of a place say now.
pub(crate) struct Round {
    /// Ended since the last round, ascending; of these the first `finals` for good, the others after the final
    /// state.
    pub(crate) closed: Vec<Closed>,
    pub(crate) finals: usize,
    pub(crate) open: Option<Open>,
    /// Everything before this is final.
    pub(crate) floor: i64,
}

/// Which episode of a round is the one that people know.
#[derive(PartialEq)]
enum Same {
    Open,
    Closed(usize),
    None,
}

impl Round {
    /// It is the one that it has a moment in common with: best the one that is open, then one that fired, then
    /// the latest.
    fn find(&self, known: &Active) -> Same {
        let (began, seen) = (known.began(), known.open.seen);
        // Its own end, and not one that late values put into the middle of it.
        let own = |c: &Closed| c.open.episode.began == began && c.ended >= seen;
        if let Some(at) = self.closed.iter().position(own) {
            return Same::Closed(at);
        }
        if self.open.as_ref().is_some_and(|o| o.episode.began <= seen) {
            return Same::Open;
        }
        let fits = |c: &Closed| overlap((c.open.episode.began, c.ended), (began, seen));
        let fired = |c: &Closed| fits(c) && c.open.episode.firing;
        let at = self.closed.iter().rposition(fired);
        match at.or_else(|| self.closed.iter().rposition(fits)) {
            Some(at) => Same::Closed(at),
            None => Same::None,
        }
    }
}

impl Alerts {
    /// Brings what people know of a place to what its values say.
    pub(super) fn reconcile(
        &mut self,
        place: Place,
        mut track: Track,
        round: Round,
        p: &Partition,
        fx: &mut Effects,
    ) {
        let same = match &track.shown {
            Some(known) => round.find(known),
            None => Same::None,
        };
        if same == Same::None
            && let Some(known) = track.shown.take()
        {
            self.drop_known(place, known, p, fx);
        }
        let finals = round.finals;
        for (i, closed) in round.closed.into_iter().enumerate() {
            let fired = closed.open.episode.firing;
            let known = (same == Same::Closed(i)).then(|| track.shown.take());
            let known = known.flatten();
            if known.is_some() {
                self.waiting.remove(&place);
                self.changed.remove(&place);
            }
            match known {
                Some(known) if !fired => self.drop_known(place, known, p, fx),
                Some(known) if i < finals => self.end(place, known, closed, p, fx),
                Some(known) if known.notified => {
                    let known = self.tell_end(place, known, &closed, p, fx);
                    if track.told.len() == TOLD_MAX
                        && let Some((oldest, ended)) = track.told.pop_front()
                    {
                        self.record(place, oldest, ended, None);
                    }
                    track.told.push_back((known, closed.ended));
                }
                // It is recorded when it is final.
                Some(known) => self.drop_known(place, known, p, fx),
                None if fired && i < finals => self.learn(place, &mut track, closed, p, fx),
                None => {}
            }
        }
        while track.told.front().is_some_and(|t| t.1 < round.floor)
            && let Some((known, ended)) = track.told.pop_front()
        {
            self.record(place, known, ended, Some(NEVER_WAS));
        }
        if let Some(open) = round.open {
            track.shown = Some(self.show(place, track.shown.take(), open, p, fx));
        }
        self.put_back(place, track);
    }

    /// What is open now, as `known` or as a new one.
    fn show(
        &mut self,
        place: Place,
        known: Option<Active>,
        open: Open,
        p: &Partition,
        fx: &mut Effects,
    ) -> Active {
        let active = match known {
            Some(mut known) => {
                if known.began() != open.episode.began && !known.notified {
                    // Nobody was told its name.
                    self.retract(place, &known, p, fx);
                    known.id = self.name(place, open.episode.began, p);
                    known.visible = false;
                }
                known.open = open;
                known
            }
            None => self.learned(place, open, p),
        };
        self.changed.insert(place);
        if active.has_to_tell() && self.waiting.insert(place) && !active.notified {
            self.fresh.push(place);
        }
        active
    }

    fn learned(&mut self, place: Place, open: Open, p: &Partition) -> Active {
        Active {
            id: self.name(place, open.episode.began, p),
            told: (open.episode.began, p.now),
            open,
            reported: p.now,
            notified: false,
            visible: false,
            revisions: 0,
        }
    }

    /// A name that nothing else has: a clock that stands still must not give two episodes one name.
    fn name(&mut self, place: Place, began: i64, p: &Partition) -> u64 {
        let subject = self.subject_name(place, p);
        let facts = self.facts(place.0);
        let mut ordinal = 0;
        let id = loop {
            let rule = (facts.rule, facts.metric);
            let id = super::text::identity(rule, subject, began, ordinal);
            if !self.ids.contains(&id) {
                break id;
            }
            ordinal += 1;
        };
        self.ids.insert(id);
        id
    }

    /// A final end.
    fn end(
        &mut self,
        place: Place,
        mut known: Active,
        closed: Closed,
        p: &Partition,
        fx: &mut Effects,
    ) {
        self.page_for_safety(place, &mut known, p, fx);
        let known = self.tell_end(place, known, &closed, p, fx);
        self.record(place, known, closed.ended, None);
    }

    /// Tells the end of what was paged. Gives the episode as it is then.
    fn tell_end(
        &mut self,
        place: Place,
        mut known: Active,
        closed: &Closed,
        p: &Partition,
        fx: &mut Effects,
    ) -> Active {
        known.open = closed.open.clone();
        if known.notified {
            let ended = self.ended(place, known.clone(), closed.ended, None);
            let alert = self.alert_of_ended(&ended, p);
            fx.alerts.push(alert.clone());
            fx.notices.push(cleared(alert, p.now));
        }
        known
    }

    /// A final episode that nobody knew to be open: it may have paged before, else it is learned only now.
    fn learn(
        &mut self,
        place: Place,
        track: &mut Track,
        closed: Closed,
        p: &Partition,
        fx: &mut Effects,
    ) {
        let extent = (closed.open.episode.began, closed.ended);
        let told = &mut track.told;
        let at = told
            .iter()
            .position(|t| overlap((t.0.began(), t.1), extent));
        if let Some((mut known, _)) = at.and_then(|at| told.remove(at)) {
            known.open = closed.open;
            self.record(place, known, closed.ended, None);
            return;
        }
        let known = self.learned(place, closed.open.clone(), p);
        self.end(place, known, closed, p, fx);
    }

    /// What ended before it could page does so all the same, if its rule says `safety`.
    fn page_for_safety(
        &mut self,
        place: Place,
        known: &mut Active,
        p: &Partition,
        fx: &mut Effects,
    ) {
        let safety = self.facts(place.0).now.is_some_and(|r| r.safety);
        if safety && !known.notified {
            known.notified = true;
            let alert = self.alert_of(place, known, p);
            fx.notices.push(raised(alert, p.now));
        }
    }

    /// An episode among values that are older than what is final, unless it is known already.
    pub(super) fn record_historical(
        &mut self,
        place: Place,
        closed: Closed,
        p: &Partition,
        fx: &mut Effects,
    ) {
        let extent = (closed.open.episode.began, closed.ended);
        let rule = &self.rules[place.0 as usize].rule.name;
        let is_open = self.tracks.get(&place).is_some_and(|t| {
            let shown = t.shown.as_ref().filter(|a| a.began() <= extent.1);
            shown.is_some() || t.told.iter().any(|t| overlap((t.0.began(), t.1), extent))
        });
        let is_past = self.history.iter().any(|e| {
            e.subject == place.1 && e.rule == *rule && overlap((e.active.began(), e.ended), extent)
        });
        if closed.open.episode.firing && !is_open && !is_past {
            self.learn(place, &mut Track::default(), closed, p, fx);
        }
    }

    /// It is over without an end: a pending one leaves no trace, of a page the end is told.
    fn drop_known(&mut self, place: Place, known: Active, p: &Partition, fx: &mut Effects) {
        self.waiting.remove(&place);
        self.changed.remove(&place);
        if !known.notified {
            self.retract(place, &known, p, fx);
            return;
        }
        let ended = known.open.seen;
        self.end_without_value(place, known, ended, NEVER_WAS, p, fx);
    }

    fn end_without_value(
        &mut self,
        place: Place,
        known: Active,
        ended: i64,
        why: &str,
        p: &Partition,
        fx: &mut Effects,
    ) {
        if known.notified {
            let ended = self.ended(place, known.clone(), ended, Some(why));
            fx.notices
                .push(cleared(self.alert_of_ended(&ended, p), p.now));
        }
        self.record(place, known, ended, Some(why));
    }

    /// What was shown and is not.
    fn retract(&mut self, place: Place, known: &Active, p: &Partition, fx: &mut Effects) {
        self.ids.remove(&known.id);
        if known.visible {
            let mut alert = self.alert_of(place, known, p);
            alert.state = "dropped";
            fx.alerts.push(alert);
        }
    }

    /// The rule is gone.
    pub(super) fn end_with_rule(&mut self, place: Place, p: &Partition, fx: &mut Effects) {
        let Some(track) = self.tracks.get_mut(&place) else {
            return;
        };
        let (shown, told) = (track.shown.take(), std::mem::take(&mut track.told));
        for (known, ended) in told {
            self.record(place, known, ended, None);
        }
        match shown {
            Some(known) if known.fired() || known.notified => {
                self.end_without_value(place, known, p.now, RULE_GONE, p, fx);
            }
            Some(known) => self.retract(place, &known, p, fx),
            None => {}
        }
    }

    /// An agent is heard from again, at the present ingest time.
    pub(super) fn end_now(&mut self, place: Place, p: &Partition, fx: &mut Effects) {
        if let Some(track) = self.tracks.remove(&place)
            && let Some(known) = track.shown
        {
            self.waiting.remove(&place);
            self.changed.remove(&place);
            let open = known.open.clone();
            let ended = p.now;
            self.end(place, known, Closed { open, ended }, p, fx);
        }
    }

    fn ended(&self, place: Place, active: Active, ended: i64, why: Option<&str>) -> Ended {
        let facts = self.facts(place.0);
        Ended {
            rule: facts.rule.to_owned(),
            subject: place.1,
            of_agent: self.is_of_agents(place.0),
            active,
            ended,
            why: why.map(str::to_owned),
            severity: facts.severity.to_owned(),
            kind: facts.kind.to_owned(),
            condition: facts.condition.into_owned(),
            limit: facts.limit,
            metric: facts.metric.to_owned(),
        }
    }

    fn record(&mut self, place: Place, known: Active, ended: i64, why: Option<&str>) {
        let ended = self.ended(place, known, ended, why);
        if self.history.len() == HISTORY_MAX
            && let Some(oldest) = self.history.pop_front()
        {
            self.ids.remove(&oldest.active.id);
        }
        self.history.push_back(ended.clone());
        if ended.active.visible {
            self.ended_shown.push(ended);
            return;
        }
        if self.ended.len() == HISTORY_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(ended);
    }

    /// Whether something began to fire that was not looked at yet.
    pub(crate) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// Pages what began to fire in this record, if its agent has caught up.
    pub(crate) fn page_fresh(&mut self, p: &Partition, fx: &mut Effects) {
        for place in std::mem::take(&mut self.fresh) {
            if self.has_caught_up(place, p) {
                self.tell(place, p, fx);
            }
        }
    }

    fn has_caught_up(&self, place: Place, p: &Partition) -> bool {
        let rule = self.rules.get(place.0 as usize).map(|w| &w.rule.kind);
        match rule {
            // Of an agent that is offline nothing is awaited, and of a device that is silent altogether.
            Some(Kind::Offline(_)) => true,
            Some(Kind::Silence(_)) if p.is_plain(place.1) => true,
            _ => p.progress_of(place.1) >= p.now - CAUGHT_UP,
        }
    }

    /// Pages what has been waiting and is due, and tells begins that turned out to be others.
    pub(crate) fn page_waiting(&mut self, p: &Partition, fx: &mut Effects) {
        let due = |place: &&Place| {
            let track = self.tracks.get(place);
            let since = match track.and_then(|t| t.shown.as_ref()) {
                Some(a) if a.notified => a.told.1,
                Some(a) => a.reported,
                None => return true,
            };
            p.now >= since + PAGE_DEADLINE || self.has_caught_up(**place, p)
        };
        let due: Vec<Place> = self.waiting.iter().filter(due).copied().collect();
        for place in due {
            self.tell(place, p, fx);
        }
    }

    fn tell(&mut self, place: Place, p: &Partition, fx: &mut Effects) {
        if !self.waiting.remove(&place) {
            return;
        }
        let track = self.tracks.get_mut(&place);
        let Some(active) = track.and_then(|t| t.shown.as_mut()) else {
            return;
        };
        if !active.has_to_tell() {
            return;
        }
        let first = !std::mem::replace(&mut active.notified, true);
        active.told = (active.began(), p.now);
        active.revisions += u32::from(!first);
        let active = active.clone();
        let alert = self.alert_of(place, &active, p);
        self.changed.insert(place);
        fx.notices.push(match first {
            true => raised(alert, p.now),
            false => Notice {
                id: format!("{}:revised:{}", alert.id, active.revisions),
                kind: NoticeKind::Revised,
                at: p.now,
                alert,
            },
        });
    }

    /// What changed since the last call, as it is now.
    pub(crate) fn take_changed(&mut self, p: &Partition, fx: &mut Effects) {
        let shown = std::mem::take(&mut self.ended_shown);
        for ended in shown.into_iter().chain(std::mem::take(&mut self.ended)) {
            fx.alerts.push(self.alert_of_ended(&ended, p));
        }
        for place in std::mem::take(&mut self.changed) {
            let track = self.tracks.get_mut(&place);
            if let Some(active) = track.and_then(|t| t.shown.as_mut()) {
                active.visible = true;
                let active = active.clone();
                fx.alerts.push(self.alert_of(place, &active, p));
            }
        }
    }

    /// All that is open, and the history.
    pub(crate) fn all(&self, p: &Partition) -> Vec<Alert> {
        let mut all = Vec::new();
        for (place, track) in &self.tracks {
            if let Some(active) = &track.shown {
                all.push(self.alert_of(*place, active, p));
            }
            for (known, ended) in &track.told {
                let ended = self.ended(*place, known.clone(), *ended, None);
                all.push(self.alert_of_ended(&ended, p));
            }
        }
        all.extend(self.history.iter().map(|e| self.alert_of_ended(e, p)));
        all
    }
}

fn raised(alert: Alert, at: i64) -> Notice {
    Notice {
        id: format!("{}:raised", alert.id),
        kind: NoticeKind::Raised,
        at,
        alert,
    }
}

fn cleared(alert: Alert, at: i64) -> Notice {
    Notice {
        id: format!("{}:cleared", alert.id),
        kind: NoticeKind::Cleared,
        at,
        alert,
    }
}
