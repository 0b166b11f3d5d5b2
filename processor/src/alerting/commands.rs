//! What devices are told to do because of an alert: within the limits of its rule, at most once an episode.
//!
//! Every decision is kept with the alert and, once it is known, with the outcome.

use std::collections::{BTreeMap, BTreeSet};

use event::order::{Origin, WHY_BYTES_MAX};
use event::{CommandControl, DeviceId, Order};
use rules::RuleCommand;
use serde::{Deserialize, Serialize};
use views::model::Time;
use views::oncall::CommandDecision;
use xxhash_rust::xxh3::xxh3_64;

use super::Alerting;
use super::facts::Facts;
use super::timers::Timer;
use crate::core::CommandOutcome;
use crate::rollout::{Ask, Decision, Limits, Outcome, Released, Rollout, Rollouts};

/// Decisions remembered. Of more, the oldest of which nothing more is to come are forgotten.
const DECISIONS_MAX: usize = 2000;
/// After the canary so many commands of a rule may fail within an hour; one more stops the rule's commands.
const FAILURES_MAX: u32 = 2;
const FAILURES_FOR: i64 = 3_600_000_000;

/// One command that an alert asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Asked {
    at: i64,
    rule: Box<str>,
    alert: Box<str>,
    device: Box<str>,
    command: Box<str>,
    decision: Answer,
    outcome: Option<event::command::State>,
    /// Its partition and the order, as long as it waits or is not in the log yet.
    order: Option<(u16, Order)>,
    /// Whether the order is to be appended.
    due: bool,
    /// Whether something more is to come: an answer or an outcome.
    open: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Answer {
    Of(Decision),
    /// Somebody works there.
    Maintenance,
}

impl Asked {
    fn model(&self, id: &str) -> CommandDecision {
        CommandDecision {
            id: id.to_owned(),
            at: Time(self.at),
            rule: self.rule.to_string(),
            alert: self.alert.to_string(),
            device: self.device.to_string(),
            command: self.command.to_string(),
            decision: match self.decision {
                Answer::Of(decision) => decision.as_str(),
                Answer::Maintenance => "maintenance",
            }
            .to_owned(),
            outcome: self.outcome.map(|s| state_name(s).to_owned()),
        }
    }
}

const fn state_name(state: event::command::State) -> &'static str {
    use event::command::State;
    match state {
        State::Running => "running",
        State::Succeeded => "succeeded",
        State::Failed => "failed",
        State::Expired => "expired",
        State::Refused => "refused",
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    rollouts: Rollouts,
    /// By id of the command.
    asked: BTreeMap<Box<str>, Asked>,
    /// Those of which nothing more is to come, by time.
    ended: BTreeSet<(i64, Box<str>)>,
}

impl Commands {
    pub(crate) fn is_stopped(&self) -> bool {
        self.rollouts.is_stopped()
    }

    pub(crate) fn restore_base(&mut self, stopped: bool) {
        // While it is on nothing is released, so nothing is lost here.
        if stopped {
            self.rollouts.set_stopped(true, i64::MIN);
        }
    }

    pub(crate) fn restore_rule(&mut self, rule: String, rollout: Rollout) {
        self.rollouts.insert(rule, rollout);
    }

    pub(crate) fn restore_asked(&mut self, id: Box<str>, asked: Asked) {
        if !asked.open {
            self.ended.insert((asked.at, id.clone()));
        }
        self.asked.insert(id, asked);
    }

    pub(crate) fn asked(&self, id: &str) -> Option<&Asked> {
        self.asked.get(id)
    }

    pub(crate) fn rule(&self, rule: &str) -> Option<&Rollout> {
        self.rollouts.get(rule)
    }

    pub(crate) fn model(&self, id: &str) -> Option<CommandDecision> {
        self.asked.get(id).map(|a| a.model(id))
    }

    pub(crate) fn models(&self) -> impl Iterator<Item = (String, Option<CommandDecision>)> {
        self.asked
            .iter()
            .map(|(id, a)| (id.to_string(), Some(a.model(id))))
    }

    pub(crate) fn next_expiry(&self) -> Option<i64> {
        self.rollouts.next_expiry()
    }
}

fn limits(command: &RuleCommand) -> Limits {
    Limits {
        per_hour: command.budget_per_hour.min(crate::rollout::PER_HOUR_MAX),
        cooldown: command.cooldown,
        canary: command.canary,
        at_once: 0,
        failures_max: FAILURES_MAX,
        failures_for: FAILURES_FOR,
        dry_run: command.dry_run,
    }
}

fn order(command: &RuleCommand, facts: &Facts, id: &str) -> Option<Order> {
    let mut why = facts.summary.to_string();
    while why.len() > WHY_BYTES_MAX {
        why.pop();
    }
    let order = Order {
        id: id.to_owned(),
        device: DeviceId::new(&facts.device).ok()?,
        name: command.name.clone(),
        args: command.args.clone(),
        ttl: command.ttl,
        by: format!("rule {}", facts.rule),
        why,
        origin: Origin::Rule(facts.rule.to_string()),
        alert: Some(facts.id.to_string()),
        dry_run: command.dry_run,
        force: false,
    };
    order.check().is_ok().then_some(order)
}

impl Alerting {
    /// An alert was raised: what its rule has its device do.
    pub(super) fn command(&mut self, partition: u16, facts: &Facts, is_maintenance: bool) {
        let Some(command) = self.rule_commands.get(&*facts.rule).cloned() else {
            return;
        };
        let id = format!("rule-{}", facts.id);
        let Some(order) = order(&command, facts, &id) else {
            return;
        };
        let decision = match is_maintenance {
            true => Answer::Maintenance,
            false => {
                let args: Vec<_> = command.args.iter().collect();
                let ask = Ask {
                    id: &id,
                    device: &facts.device,
                    form: xxh3_64(format!("{:?}{args:?}", command.name).as_bytes()),
                    expires: self.now.saturating_add(command.ttl),
                };
                let (limits, now) = (limits(&command), self.now);
                let rollouts = &mut self.commands.rollouts;
                Answer::Of(rollouts.ask(&facts.rule, &limits, &ask, now))
            }
        };
        let asked = Asked {
            at: self.now,
            rule: facts.rule.clone(),
            alert: facts.id.clone(),
            device: facts.device.clone(),
            command: command.name.as_str().into(),
            decision,
            outcome: None,
            order: Some((partition, order)),
            due: false,
            open: true,
        };
        let id: Box<str> = id.into();
        self.commands.asked.insert(id.clone(), asked);
        self.touched.rules.insert(facts.rule.clone());
        self.settle(&id);
        self.reschedule_commands();
    }

    /// Follows from the answer: a command goes out, waits, or is done with.
    fn settle(&mut self, id: &str) {
        let Some(asked) = self.commands.asked.get_mut(id) else {
            return;
        };
        self.touched.commands.insert(id.into());
        match asked.decision {
            Answer::Of(Decision::Send) => asked.due = true,
            // For the record; nothing comes of it.
            Answer::Of(Decision::DryRun) => {
                asked.due = true;
                asked.open = false;
            }
            Answer::Of(waits) if waits.is_waiting() => {}
            Answer::Of(_) | Answer::Maintenance => {
                asked.order = None;
                asked.open = false;
            }
        }
        if !asked.open {
            self.commands.ended.insert((asked.at, id.into()));
        }
        while self.commands.asked.len() > DECISIONS_MAX
            && let Some((_, old)) = self.commands.ended.pop_first()
        {
            self.commands.asked.remove(&old);
            self.touched.commands.insert(old);
        }
    }

    fn released(&mut self, released: Vec<Released>) {
        for one in released {
            if let Some(asked) = self.commands.asked.get_mut(&*one.id) {
                asked.decision = Answer::Of(one.decision);
                self.settle(&one.id);
            }
            self.touched.rules.insert(one.key.into());
        }
        self.reschedule_commands();
    }

    pub(super) fn reschedule_commands(&mut self) {
        let next = self.commands.next_expiry();
        self.timers.set(Timer::Commands, next);
    }

    pub(super) fn commands_due(&mut self) {
        let released = self.commands.rollouts.tick(self.now);
        self.released(released);
    }

    /// Orders that are to be appended to the partitions named with them. The same order twice does no harm.
    pub fn orders(&self) -> Vec<(u16, Order)> {
        let due = self.commands.asked.values().filter(|a| a.due);
        due.filter_map(|a| a.order.clone()).collect()
    }

    /// The order of that id is in the log.
    pub fn ordered(&mut self, id: &str) {
        if let Some(asked) = self.commands.asked.get_mut(id)
            && asked.due
        {
            asked.due = false;
            asked.order = None;
            self.touched.commands.insert(id.into());
        }
    }

    /// Takes what became of a command at `now`. One that no rule asked for, and what is said again, changes
    /// nothing.
    pub fn outcome(&mut self, outcome: &CommandOutcome, now: i64) {
        use event::command::State;
        self.at(now);
        let Some(asked) = self.commands.asked.get_mut(&*outcome.id) else {
            return;
        };
        if outcome.state.is_some_and(|s| !s.is_final()) || (asked.order.is_some() && !asked.due) {
            return;
        }
        // It is in the log, though nobody said so yet: an answer may be faster than that word, or a kill
        // came between.
        if asked.due {
            asked.due = false;
            asked.order = None;
            self.touched.commands.insert(outcome.id.as_str().into());
        }
        if asked.outcome != outcome.state {
            asked.outcome = outcome.state;
            self.touched.commands.insert(outcome.id.as_str().into());
        }
        if !asked.open {
            return;
        }
        asked.open = false;
        let (rule, at) = (asked.rule.clone(), asked.at);
        let what = match outcome.state {
            Some(State::Succeeded) => Outcome::Succeeded,
            Some(_) => Outcome::Failed,
            None => Outcome::Cancelled,
        };
        self.commands.ended.insert((at, outcome.id.as_str().into()));
        self.touched.commands.insert(outcome.id.as_str().into());
        self.touched.rules.insert(rule.clone());
        let rollouts = &mut self.commands.rollouts;
        let released = rollouts.outcome(&rule, &outcome.id, what, self.now);
        self.released(released);
    }

    /// Takes a record of partition 0 that steers commands, at `offset`, if it is newer than the newest that was
    /// taken: the stop switch, and stop or go on of a rule.
    pub fn steer(&mut self, offset: u64, control: &CommandControl, now: i64) {
        self.at(now);
        if self.steered.is_some_and(|s| offset <= s) {
            return;
        }
        let rollouts = &mut self.commands.rollouts;
        let released = match control {
            CommandControl::Stop { on, .. } => rollouts.set_stopped(*on, self.now),
            CommandControl::Steer {
                rule: Some(rule),
                go_on,
                by,
                why,
                ..
            } => {
                self.touched.rules.insert(rule.as_str().into());
                match go_on {
                    true => rollouts.reset(rule, self.now),
                    false => {
                        rollouts.stop(rule, &format!("{by}: {why}"));
                        Vec::new()
                    }
                }
            }
            _ => return,
        };
        self.steered = Some(offset);
        self.touched.base = true;
        self.released(released);
    }
}
