//! The state of one key.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::{Ask, COOLING_MAX, Decision, Limits, Outcome, PER_HOUR_MAX, Released, WAITING_MAX};

const HOUR: i64 = 3_600_000_000;
/// Failures whose times are remembered; more stop any key.
const FAILURES_MAX: usize = 10_000;

/// How far a key has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The first commands have to succeed.
    #[default]
    Canary,
    /// They did; the others go out.
    Rolling,
    /// Nothing goes out until somebody resets it.
    Stopped,
}

impl Phase {
    /// The name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::Rolling => "rolling",
            Self::Stopped => "stopped",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waiting {
    id: String,
    device: String,
    expires: i64,
}

impl Waiting {
    pub(super) fn released(self, key: &str, decision: Decision) -> Released {
        Released {
            key: key.to_owned(),
            id: self.id,
            device: self.device,
            decision,
        }
    }
}

/// A command that was sent and has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Out {
    device: String,
    canary: bool,
}

/// One key: a rule, or a rollout by hand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    limits: Option<Limits>,
    form: u64,
    phase: Phase,
    because: Option<String>,
    /// Canaries that have succeeded.
    proven: u32,
    out: BTreeMap<String, Out>,
    waiting: VecDeque<Waiting>,
    waiting_ids: BTreeSet<String>,
    /// When commands were sent within the last hour, if there is a budget.
    sent: VecDeque<i64>,
    /// Device → until when it gets no other command.
    cooling: BTreeMap<String, i64>,
    /// Devices that have a command waiting or out.
    busy: BTreeSet<String>,
    /// When commands failed after the canary.
    failures: VecDeque<i64>,
    succeeded: u64,
    failed: u64,
}

impl Rollout {
    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Why it is stopped.
    pub fn because(&self) -> Option<&str> {
        self.because.as_deref()
    }

    /// Commands sent that have not ended.
    pub fn out(&self) -> usize {
        self.out.len()
    }

    /// Whether a command was sent and has not ended.
    pub fn is_out(&self, id: &str) -> bool {
        self.out.contains_key(id)
    }

    /// Commands that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Commands that have succeeded and those that have failed, so far.
    pub fn ended(&self) -> (u64, u64) {
        (self.succeeded, self.failed)
    }

    pub(super) fn ask(
        &mut self,
        limits: &Limits,
        ask: &Ask<'_>,
        stopped: bool,
        now: i64,
    ) -> Decision {
        if self.limits.is_some() && self.form != ask.form {
            self.reset();
        }
        self.form = ask.form;
        self.limits = Some(*limits);
        if self.out.contains_key(ask.id) {
            return Decision::Send;
        }
        if self.waiting_ids.contains(ask.id) {
            return self.why_wait(limits).unwrap_or(Decision::WaitingForTurn);
        }
        if stopped || self.phase == Phase::Stopped {
            return Decision::Stopped;
        }
        let cools = self.cooling.get(ask.device).is_some_and(|t| *t > now);
        if limits.cooldown > 0 && (cools || self.busy.contains(ask.device)) {
            return Decision::CoolingDown;
        }
        if self.is_over_budget(limits, now) {
            return Decision::OverBudget;
        }
        if limits.dry_run {
            self.spend(limits, ask.device, now);
            return Decision::DryRun;
        }
        // Nobody overtakes those that wait.
        let why = match self.waiting.is_empty() {
            true => self.why_wait(limits),
            false => Some(self.why_wait(limits).unwrap_or(Decision::WaitingForTurn)),
        };
        match why {
            None => {
                self.send(limits, ask.id.to_owned(), ask.device.to_owned(), now);
                Decision::Send
            }
            Some(_) if self.waiting.len() >= WAITING_MAX => Decision::NoRoom,
            Some(why) => {
                self.busy.insert(ask.device.to_owned());
                self.waiting_ids.insert(ask.id.to_owned());
                self.waiting.push_back(Waiting {
                    id: ask.id.to_owned(),
                    device: ask.device.to_owned(),
                    expires: ask.expires,
                });
                why
            }
        }
    }

    /// Why the next one has to wait, if it has.
    fn why_wait(&self, limits: &Limits) -> Option<Decision> {
        if self.is_proving(limits) {
            let canaries = self.out.values().filter(|o| o.canary).count();
            let begun = canaries.saturating_add(self.proven as usize);
            return (begun >= limits.canary as usize).then_some(Decision::WaitingForCanary);
        }
        let full = limits.at_once > 0 && self.out.len() >= limits.at_once as usize;
        full.then_some(Decision::WaitingForTurn)
    }

    fn is_proving(&self, limits: &Limits) -> bool {
        self.phase == Phase::Canary && self.proven < limits.canary
    }

    fn is_over_budget(&mut self, limits: &Limits, now: i64) -> bool {
        while self
            .sent
            .front()
            .is_some_and(|t| t.saturating_add(HOUR) <= now)
        {
            self.sent.pop_front();
        }
        limits.per_hour > 0 && self.sent.len() >= limits.per_hour.min(PER_HOUR_MAX) as usize
    }

    /// Takes one out of the budget and begins the device's cool-down.
    fn spend(&mut self, limits: &Limits, device: &str, now: i64) {
        if limits.per_hour > 0 {
            self.sent.push_back(now);
        }
        if limits.cooldown <= 0 {
            return;
        }
        if self.cooling.len() >= COOLING_MAX {
            self.cooling.retain(|_, until| *until > now);
        }
        if self.cooling.len() >= COOLING_MAX {
            let first = self.cooling.iter().min_by_key(|(_, until)| **until);
            if let Some(first) = first.map(|(device, _)| device.clone()) {
                self.cooling.remove(&first);
            }
        }
        let until = now.saturating_add(limits.cooldown);
        self.cooling.insert(device.to_owned(), until);
    }

    fn send(&mut self, limits: &Limits, id: String, device: String, now: i64) {
        let canary = self.is_proving(limits);
        if !canary && self.phase == Phase::Canary {
            self.phase = Phase::Rolling;
        }
        self.spend(limits, &device, now);
        self.busy.insert(device.clone());
        self.out.insert(id, Out { device, canary });
    }

    pub(super) fn outcome(&mut self, id: &str, outcome: Outcome, now: i64) {
        let Some(out) = self.out.remove(id) else {
            if self.waiting_ids.remove(id) {
                let at = self.waiting.iter().position(|w| w.id == id);
                if let Some(gone) = at.and_then(|at| self.waiting.remove(at)) {
                    self.busy.remove(&gone.device);
                }
            }
            return;
        };
        self.busy.remove(&out.device);
        let limits = self.limits;
        match outcome {
            Outcome::Cancelled => {}
            Outcome::Succeeded => {
                self.succeeded += 1;
                if out.canary && self.phase == Phase::Canary {
                    self.proven += 1;
                    if limits.is_some_and(|l| self.proven >= l.canary) {
                        self.phase = Phase::Rolling;
                    }
                }
            }
            Outcome::Failed => {
                self.failed += 1;
                if out.canary && self.phase == Phase::Canary {
                    self.stop(format!(
                        "the canary on {} did not succeed (command {id})",
                        out.device
                    ));
                } else {
                    self.note_failure(&out.device, id, now);
                }
            }
        }
    }

    fn note_failure(&mut self, device: &str, id: &str, now: i64) {
        let (max, counted) = self
            .limits
            .map_or((0, i64::MAX), |l| (l.failures_max, l.failures_for));
        self.failures.push_back(now);
        while self
            .failures
            .front()
            .is_some_and(|t| t.saturating_add(counted) <= now)
        {
            self.failures.pop_front();
        }
        let most = (max as usize).min(FAILURES_MAX);
        if self.failures.len() > most && self.phase != Phase::Stopped {
            let n = self.failures.len();
            self.stop(format!(
                "{n} failed, {most} may; the last was command {id} on {device}"
            ));
        }
    }

    pub(super) fn stop(&mut self, because: String) {
        self.phase = Phase::Stopped;
        self.because = Some(because);
    }

    pub(super) fn reset(&mut self) {
        self.phase = Phase::Canary;
        self.because = None;
        self.proven = 0;
        self.failures.clear();
        // Those of before prove nothing about what comes now.
        for out in self.out.values_mut() {
            out.canary = false;
        }
    }

    /// The next of those that wait, if its waiting is over.
    pub(super) fn release_next(&mut self, stopped: bool, now: i64) -> Option<(Waiting, Decision)> {
        let limits = self.limits?;
        if stopped || self.phase == Phase::Stopped || self.why_wait(&limits).is_some() {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.waiting_ids.remove(&next.id);
        self.busy.remove(&next.device);
        let decision = if next.expires <= now {
            Decision::Expired
        } else if self.is_over_budget(&limits, now) {
            Decision::OverBudget
        } else {
            self.send(&limits, next.id.clone(), next.device.clone(), now);
            Decision::Send
        };
        Some((next, decision))
    }

    /// When the first of those that wait expires.
    pub(super) fn next_expiry(&self) -> Option<i64> {
        let first = self.waiting.iter().map(|w| w.expires).min();
        first.filter(|t| *t < i64::MAX)
    }

    /// Takes out what has waited too long.
    pub(super) fn expire(&mut self, now: i64) -> impl Iterator<Item = Waiting> + use<> {
        let all = std::mem::take(&mut self.waiting);
        let (late, rest): (VecDeque<_>, VecDeque<_>) =
            all.into_iter().partition(|w| w.expires <= now);
        self.waiting = rest;
        for gone in &late {
            self.waiting_ids.remove(&gone.id);
            self.busy.remove(&gone.device);
        }
        late.into_iter()
    }

    /// Whether nothing of it can still matter.
    pub(super) fn is_idle(&self, now: i64) -> bool {
        let is_old = |t: &i64| t.saturating_add(HOUR) <= now;
        self.out.is_empty()
            && self.waiting.is_empty()
            && self.phase != Phase::Stopped
            && self.sent.iter().all(is_old)
            && self.cooling.values().all(|until| *until <= now)
    }
}

#[cfg(test)]
impl Rollout {
    pub(super) fn waits(&self, id: &str) -> bool {
        self.waiting_ids.contains(id)
    }
}
