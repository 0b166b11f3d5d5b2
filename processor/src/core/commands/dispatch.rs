//! When a command goes to its agent, and when it is given up.

use event::EventTime;

use super::{ANSWER_WAIT, Entry, HOUR, IN_FLIGHT_MAX, SECOND, State};
use crate::core::effects::{Effects, SendCommand};
use crate::core::flush::Standing;
use crate::core::partition::Partition;
use crate::core::registry::NONE;

/// Waits between two sends double from this …
const AGAIN_AFTER: i64 = 30 * SECOND;
/// … so many times.
const DOUBLINGS: u32 = 5;
/// An agent that connects again and again gets a command at most once in this time.
const AGAIN_MIN: i64 = SECOND / 10;

impl Entry {
    fn is_sent_again_at(&self) -> i64 {
        let doublings = self.sends.saturating_sub(1).min(DOUBLINGS);
        self.sent.saturating_add(AGAIN_AFTER << doublings)
    }

    fn command(&self) -> event::Command {
        event::Command {
            id: self.order.id.clone(),
            device: self.order.device.clone(),
            name: self.order.name.clone(),
            args: self.order.args.clone(),
            issued_at: EventTime(self.issued),
            expires_at: EventTime(self.expires()),
        }
    }
}

impl Partition {
    /// Whether nothing is to be expected from sending: the agent said good-bye, or was silent for long.
    pub(crate) fn is_away(&self, agent: u32) -> bool {
        self.agents.hot(agent).online() == Some(false) || self.standing(agent) == Standing::Silent
    }

    /// Sends what is to be sent to an agent that is in contact. `back`: it has just connected or come back, so
    /// what it has not answered is sent again at once.
    pub(crate) fn dispatch(&mut self, agent: u32, back: bool, fx: &mut Effects) {
        if !self.commands.awaits(agent) || self.is_away(agent) {
            return;
        }
        let now = self.now;
        let name = self.agents.name(agent);
        let commands = &mut self.commands;
        let stopped = commands.stop.is_some();
        let Some(open) = commands.open.get(&agent) else {
            return;
        };
        let all = open.iter().filter_map(|(_, id)| commands.entries.get(id));
        let mut in_flight = all.filter(|e| e.state != State::Queued).count();
        for (_, id) in open {
            let Some(entry) = commands.entries.get_mut(id) else {
                continue;
            };
            let is_new = entry.state == State::Queued;
            if is_new && in_flight >= IN_FLIGHT_MAX {
                continue;
            }
            if stopped && !entry.order.force {
                continue;
            }
            let due = match entry.state {
                State::Queued => now < entry.expires(),
                State::Sent if back => now >= entry.sent.saturating_add(AGAIN_MIN),
                _ => now >= entry.is_sent_again_at(),
            };
            if !due {
                continue;
            }
            if is_new {
                entry.state = State::Sent;
                entry.certain = false;
                entry.first_sent = now;
                in_flight += 1;
                commands.changed.insert(id.clone());
            }
            entry.sent = now;
            entry.sends = entry.sends.saturating_add(1);
            fx.sends.push(SendCommand {
                agent: name.to_owned(),
                command: entry.command(),
            });
        }
    }

    /// The same for all agents.
    pub(crate) fn dispatch_all(&mut self, fx: &mut Effects) {
        let agents: Vec<u32> = self.commands.open.keys().copied().collect();
        for agent in agents {
            self.dispatch(agent, false, fx);
        }
    }

    /// Once a second: gives up what has no more time, and sends again what was not answered.
    pub(crate) fn tend_commands(&mut self, fx: &mut Effects) {
        if self.commands.open.is_empty() {
            self.commands.forget(self.now);
            return;
        }
        self.follow_devices();
        let now = self.now;
        let mut over: Vec<(String, State, bool, &'static str)> = Vec::new();
        for (_, id) in self.commands.open.values().flatten() {
            let Some(e) = self.commands.entries.get(id) else {
                continue;
            };
            let registered = self.registry.devices[e.device as usize].agent;
            let began = e.started.unwrap_or(i64::MIN).max(e.expires());
            let end = match e.state {
                State::Queued if registered == NONE => {
                    (State::Refused, true, "the device was decommissioned")
                }
                State::Queued if self.agents.hot(e.agent).plain() => {
                    (State::Refused, true, super::PLAIN)
                }
                State::Queued if now >= e.expires() => {
                    (State::Expired, true, "it expired before it was sent")
                }
                State::Sent if now >= e.expires().saturating_add(ANSWER_WAIT) => (
                    State::Expired,
                    false,
                    "it was sent and not answered before it expired; if it did start, the device will say so",
                ),
                State::Running if now >= began.saturating_add(HOUR) => (
                    State::Failed,
                    false,
                    "it began, and the device has not told its end; the outcome is unknown",
                ),
                _ => continue,
            };
            over.push((id.clone(), end.0, end.1, end.2));
        }
        for (id, state, certain, reason) in over {
            if let Some(entry) = self.commands.entries.get_mut(&id) {
                entry.reason = Some(reason.to_owned());
            }
            self.end_command(&id, state, certain, fx);
        }
        self.dispatch_all(fx);
        self.commands.forget(now);
    }

    /// What was not sent yet goes to the agent that the device is behind now.
    fn follow_devices(&mut self) {
        let mut moved = Vec::new();
        for (&agent, open) in &self.commands.open {
            for place in open {
                let Some(e) = self.commands.entries.get(&place.1) else {
                    continue;
                };
                let now = self.registry.devices[e.device as usize].agent;
                if e.state == State::Queued && now != agent && now != NONE {
                    moved.push((agent, now, place.clone()));
                }
            }
        }
        for (from, to, place) in moved {
            if let Some(open) = self.commands.open.get_mut(&from) {
                open.remove(&place);
                if open.is_empty() {
                    self.commands.open.remove(&from);
                }
            }
            if let Some(entry) = self.commands.entries.get_mut(&place.1) {
                entry.agent = to;
            }
            self.commands.open.entry(to).or_default().insert(place);
        }
    }

    /// What was sent and not answered, to agents in contact: for a runtime whose sends were dropped while it
    /// replayed the log.
    pub fn unanswered(&self) -> Vec<SendCommand> {
        let stopped = self.commands.stop.is_some();
        let mut sends = Vec::new();
        for (&agent, open) in &self.commands.open {
            if self.is_away(agent) {
                continue;
            }
            let entries = open
                .iter()
                .filter_map(|(_, id)| self.commands.entries.get(id));
            let due = entries.filter(|e| e.state == State::Sent && (!stopped || e.order.force));
            sends.extend(due.map(|e| SendCommand {
                agent: self.agents.name(agent).to_owned(),
                command: e.command(),
            }));
        }
        sends
    }
}
