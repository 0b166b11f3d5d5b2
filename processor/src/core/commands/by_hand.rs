//! Rollouts by hand: one command to many devices, a canary first. They live in partition 0; the commands
//! themselves in the partitions of their devices. The two talk through the log: released commands are records
//! for those partitions, and how each ended is a record for this one. Both may come twice.

use event::command::State as Said;
use event::order::Origin;
use event::{CommandControl, Order, Record, RolloutOrder};
use serde::{Deserialize, Serialize};

use super::super::effects::{CommandOutcome, Effects};
use super::super::partition::Partition;
use crate::rollout::{Ask, Limits, Outcome, Phase, Released};

/// Rollouts remembered. Of more, the oldest that is done or stopped goes; if none is, a new one is not begun.
pub(crate) const ROLLOUTS_MAX: usize = 100;

/// One rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ByHand {
    pub(super) order: RolloutOrder,
    pub(super) created: i64,
    pub(super) ended: Option<i64>,
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
}

/// Tells partition 0 how a command of a rollout has ended.
pub(super) fn tell(rollout: &str, outcome: &CommandOutcome, fx: &mut Effects) {
    let control = CommandControl::Outcome {
        rollout: rollout.to_owned(),
        id: outcome.id.clone(),
        state: outcome.state,
    };
    fx.appends.push((0, Record::CommandControl(control)));
}

impl Partition {
    /// Takes what steers commands.
    pub(crate) fn control_commands(&mut self, control: CommandControl, fx: &mut Effects) {
        match control {
            CommandControl::Cancel { id, by } => self.cancel_command(&id, &by, fx),
            CommandControl::Stop { on, by, why } => {
                let control = CommandControl::Stop {
                    on,
                    by: by.clone(),
                    why: why.clone(),
                };
                self.pass_on(control, fx);
                self.stop_commands(on, by, why, fx);
            }
            CommandControl::Rollout(order) => self.begin_rollout(order, fx),
            CommandControl::Steer {
                rollout: Some(id),
                go_on,
                by,
                why,
                ..
            } => self.steer_rollout(&id, go_on, &by, &why, fx),
            steer @ CommandControl::Steer { .. } => self.pass_on(steer, fx),
            CommandControl::Outcome { rollout, id, state } => {
                self.rollout_outcome(&rollout, &id, state, fx);
            }
        }
    }

    /// To those who decide on the commands of rules. All partitions get some of these; one tells.
    fn pass_on(&self, control: CommandControl, fx: &mut Effects) {
        if self.number == 0 {
            fx.controls.push((self.offset - 1, control));
        }
    }

    fn begin_rollout(&mut self, order: RolloutOrder, fx: &mut Effects) {
        let all = &mut self.commands.by_hand;
        if all.contains_key(&order.id) {
            return;
        }
        if all.len() >= ROLLOUTS_MAX {
            let is_stopped = |id: &str| {
                let one = self.commands.rollouts.get(id);
                one.is_some_and(|r| r.phase() == Phase::Stopped)
            };
            let over = |(id, r): &(&String, &ByHand)| r.ended.is_some() || is_stopped(id);
            let oldest = all.iter().filter(over).min_by_key(|(_, r)| r.created);
            let Some(oldest) = oldest.map(|(id, _)| id.clone()) else {
                return;
            };
            all.remove(&oldest);
            self.commands.rollouts.remove(&oldest);
        }
        let limits = Limits {
            per_hour: 0,
            cooldown: 0,
            canary: order.canary,
            at_once: order.at_once,
            failures_max: order.failures_max,
            failures_for: i64::MAX,
            dry_run: false,
        };
        let mut first = Vec::new();
        for (i, (_, device)) in order.targets.iter().enumerate() {
            let id = order.command_id(i);
            let ask = Ask {
                id: &id,
                device: device.as_str(),
                form: 0,
                expires: i64::MAX,
            };
            let decision = self
                .commands
                .rollouts
                .ask(&order.id, &limits, &ask, self.now);
            if decision == crate::rollout::Decision::Send {
                first.push(i);
            }
        }
        for i in first {
            fx.appends.extend(order_of(&order, i));
        }
        let by_hand = ByHand {
            created: self.now,
            ended: None,
            succeeded: 0,
            failed: 0,
            cancelled: 0,
            order,
        };
        let id = by_hand.order.id.clone();
        self.commands.by_hand.insert(id, by_hand);
    }

    fn steer_rollout(&mut self, id: &str, go_on: bool, by: &str, why: &str, fx: &mut Effects) {
        let is_over = |r: &ByHand| r.ended.is_some();
        if self.commands.by_hand.get(id).is_none_or(is_over) {
            return;
        }
        if go_on {
            let released = self.commands.rollouts.reset(id, self.now);
            self.give_out(id, released, fx);
            return self.end_if_done(id);
        }
        let colon = if why.is_empty() { "" } else { ": " };
        self.commands
            .rollouts
            .stop(id, &format!("stopped by {by}{colon}{why}"));
    }

    fn rollout_outcome(&mut self, key: &str, id: &str, state: Option<Said>, fx: &mut Effects) {
        let Some(by_hand) = self.commands.by_hand.get_mut(key) else {
            return;
        };
        let outcome = match state {
            Some(Said::Running) => return,
            Some(Said::Succeeded) => Outcome::Succeeded,
            Some(Said::Failed | Said::Expired | Said::Refused) => Outcome::Failed,
            None => Outcome::Cancelled,
        };
        let one = self.commands.rollouts.get(key);
        if !one.is_some_and(|r| r.is_out(id)) {
            return;
        }
        let released = self.commands.rollouts.outcome(key, id, outcome, self.now);
        match outcome {
            Outcome::Succeeded => by_hand.succeeded += 1,
            Outcome::Failed => by_hand.failed += 1,
            Outcome::Cancelled => by_hand.cancelled += 1,
        }
        self.give_out(key, released, fx);
        self.end_if_done(key);
    }

    fn end_if_done(&mut self, key: &str) {
        let Some(one) = self.commands.rollouts.get(key) else {
            return;
        };
        if one.out() > 0 || one.waiting() > 0 || one.phase() == Phase::Stopped {
            return;
        }
        self.commands.rollouts.remove(key);
        if let Some(by_hand) = self.commands.by_hand.get_mut(key) {
            by_hand.ended = Some(self.now);
        }
    }

    fn give_out(&mut self, key: &str, released: Vec<Released>, fx: &mut Effects) {
        let Some(by_hand) = self.commands.by_hand.get(key) else {
            return;
        };
        for one in released {
            let number = one.id.rsplit_once(':').and_then(|(_, n)| n.parse().ok());
            let index = number.and_then(|n: usize| n.checked_sub(1));
            if let Some(index) = index {
                fx.appends.extend(order_of(&by_hand.order, index));
            }
        }
    }
}

/// The record of the command to a target.
fn order_of(rollout: &RolloutOrder, index: usize) -> Option<(u16, Record)> {
    let (partition, device) = rollout.targets.get(index)?;
    let order = Order {
        id: rollout.command_id(index),
        device: device.clone(),
        name: rollout.name.clone(),
        args: rollout.args.clone(),
        ttl: rollout.ttl,
        by: rollout.by.clone(),
        why: rollout.why.clone(),
        origin: Origin::Rollout(rollout.id.clone()),
        alert: None,
        dry_run: rollout.dry_run,
        force: false,
    };
    Some((*partition, Record::Command(order)))
}
