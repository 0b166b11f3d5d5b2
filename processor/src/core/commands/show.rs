//! Commands and rollouts as the API answers them.

use event::order::Origin;
use views::model::Time;
use views::{Command, CommandQuery, CommandStop, Page, Rollout};

use super::by_hand::ByHand;
use super::{Commands, Entry, State};
use crate::core::effects::Effects;
use crate::core::partition::Partition;
use crate::core::registry::NONE;

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::DryRun => "dry_run",
        }
    }
}

impl Entry {
    fn rule(&self) -> Option<&String> {
        match &self.order.origin {
            Origin::Rule(name) => Some(name),
            Origin::ByHand | Origin::Rollout(_) => None,
        }
    }

    fn rollout(&self) -> Option<&String> {
        match &self.order.origin {
            Origin::Rollout(id) => Some(id),
            Origin::ByHand | Origin::Rule(_) => None,
        }
    }

    /// Whether it is among the wanted ones, wherever the page begins.
    fn fits(&self, q: &CommandQuery) -> bool {
        let same =
            |want: &Option<String>, have: Option<&String>| want.is_none() || want.as_ref() == have;
        q.state.as_deref().is_none_or(|s| s == self.state.as_str())
            && q.device
                .as_deref()
                .is_none_or(|d| d == self.order.device.as_str())
            && same(&q.rollout, self.rollout())
            && same(&q.rule, self.rule())
            && same(&q.alert, self.order.alert.as_ref())
    }
}

impl Partition {
    /// Gives out what changed in this step.
    pub(crate) fn show_commands(&mut self, fx: &mut Effects) {
        if self.commands.changed.is_empty() {
            return;
        }
        let changed = std::mem::take(&mut self.commands.changed);
        let shown = changed.iter().filter_map(|id| self.find_command(id));
        fx.commands.extend(shown);
    }

    fn command_model(&self, e: &Entry) -> Command {
        Command {
            id: e.order.id.clone(),
            device: e.order.device.to_string(),
            agent: (e.agent != NONE && !self.agents.hot(e.agent).plain())
                .then(|| self.agents.name(e.agent).to_owned()),
            name: e.order.name.clone(),
            args: e.order.args.clone(),
            state: e.state.as_str(),
            certain: e.certain,
            by: e.order.by.clone(),
            why: e.order.why.clone(),
            rule: e.rule().cloned(),
            rollout: e.rollout().cloned(),
            alert: e.order.alert.clone(),
            dry_run: e.order.dry_run,
            forced: e.order.force,
            issued: Time(e.issued),
            expires: Time(e.expires()),
            sent: (e.sends > 0).then_some(Time(e.first_sent)),
            sends: e.sends,
            started: e.started.map(Time),
            ended: e.ended.map(Time),
            exit_code: e.exit_code,
            duration_ms: e.duration_ms,
            output: e.output.clone(),
            reason: e.reason.clone(),
        }
    }

    /// One command.
    pub fn find_command(&self, id: &str) -> Option<Command> {
        let entry = self.commands.entries.get(id)?;
        Some(self.command_model(entry))
    }

    /// The commands that match, newest first.
    pub fn list_commands(&self, query: &CommandQuery) -> Page<Command> {
        let all = self.commands.entries.values();
        let mut all: Vec<&Entry> = all.filter(|e| e.fits(query)).collect();
        let total = all.len() as u64;
        all.retain(|e| query.is_behind(e.issued, &e.order.id));
        all.sort_unstable_by(|a, b| (b.issued, &b.order.id).cmp(&(a.issued, &a.order.id)));
        let items = all.iter().take(query.limit);
        Page {
            items: items.map(|e| self.command_model(e)).collect(),
            total,
        }
    }

    /// The stop switch.
    pub fn command_stop(&self) -> CommandStop {
        match &self.commands.stop {
            None => CommandStop::default(),
            Some(stop) => CommandStop {
                on: true,
                by: Some(stop.by.clone()),
                why: Some(stop.why.clone()),
                since: Some(Time(stop.since)),
            },
        }
    }

    /// The rollouts of this partition, newest first.
    pub fn list_rollouts(&self) -> Vec<Rollout> {
        let all = self.commands.by_hand.values();
        let mut all: Vec<Rollout> = all.map(|r| self.commands.rollout_model(r)).collect();
        all.sort_unstable_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
        all
    }
}

impl Commands {
    fn rollout_model(&self, r: &ByHand) -> Rollout {
        let one = self.rollouts.get(&r.order.id);
        let state = one.map_or("done", |o| o.phase().as_str());
        Rollout {
            id: r.order.id.clone(),
            name: r.order.name.clone(),
            args: r.order.args.clone(),
            state,
            reason: one.and_then(|o| o.because()).map(str::to_owned),
            by: r.order.by.clone(),
            why: r.order.why.clone(),
            created: Time(r.created),
            ended: r.ended.map(Time),
            canary: r.order.canary,
            at_once: r.order.at_once,
            max_failures: r.order.failures_max,
            dry_run: r.order.dry_run,
            total: r.order.targets.len() as u64,
            waiting: one.map_or(0, |o| o.waiting() as u64),
            under_way: one.map_or(0, |o| o.out() as u64),
            succeeded: r.succeeded,
            failed: r.failed,
        }
    }
}
