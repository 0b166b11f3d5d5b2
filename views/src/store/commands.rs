//! Commands: looked up in the partitions, merged.

use std::collections::BTreeMap;

use super::write::CHANGES_MAX;
use super::{Views, read};
use crate::commands::{Command, CommandQuery, CommandStop, Rollout};
use crate::model::Device;
use crate::part::{DeviceQuery, Page};

impl Views {
    /// A command, and the partition that has it.
    pub fn command(&self, id: &str) -> Option<(u16, Command)> {
        let sources = read(&self.sources);
        let mut found = (0..).zip(sources.iter());
        found.find_map(|(n, s)| Some((n, s.command(id)?)))
    }

    /// The commands that match, newest first (by the time they were issued, then by id).
    pub fn commands(&self, query: &CommandQuery) -> Page<Command> {
        let mut all = Page::default();
        for source in read(&self.sources).iter() {
            let page = source.commands(query);
            all.total += page.total;
            all.items.extend(page.items);
        }
        all.items
            .sort_by(|a, b| (b.issued, &b.id).cmp(&(a.issued, &a.id)));
        all.items.truncate(query.limit);
        all
    }

    /// The stop switch: on as long as any partition has it on.
    pub fn command_stop(&self) -> CommandStop {
        let sources = read(&self.sources);
        let on = sources.iter().map(|s| s.command_stop()).find(|s| s.on);
        on.unwrap_or_default()
    }

    /// The rollouts, newest first.
    pub fn rollouts(&self) -> Vec<Rollout> {
        let sources = read(&self.sources);
        sources.iter().flat_map(|s| s.rollouts()).collect()
    }

    /// A device, and the partition that commands to it belong to: that of the agent heard from last, where the
    /// device has moved behind another one.
    pub fn command_target(&self, device: &str) -> Option<(u16, Device)> {
        let sources = read(&self.sources);
        let found = (0..)
            .zip(sources.iter())
            .filter_map(|(n, s)| Some((n, s.device(device)?)));
        found.max_by_key(|(n, d)| (rank(d), std::cmp::Reverse(*n)))
    }

    /// The same for all devices that match, ascending by id, at most `query.limit`.
    pub fn command_targets(&self, query: &DeviceQuery) -> Vec<(u16, Device)> {
        let mut all: BTreeMap<String, (u16, Device)> = BTreeMap::new();
        for (n, source) in (0..).zip(read(&self.sources).iter()) {
            for device in source.devices(query).items {
                match all.get(&device.id) {
                    Some((_, old)) if rank(old) >= rank(&device) => {}
                    _ => {
                        all.insert(device.id.clone(), (n, device));
                    }
                }
            }
        }
        all.into_values().take(query.limit).collect()
    }

    /// Takes the newest form of a command, for the live stream.
    pub fn push_command(&self, command: Command) {
        let mut pending = self.pending();
        if pending.commands.len() >= CHANGES_MAX && !pending.commands.contains_key(&command.id) {
            pending.commands_dropped += 1;
        } else {
            pending.commands.insert(command.id.clone(), command);
        }
    }
}

fn rank(device: &Device) -> (bool, i64) {
    (device.agent.is_some(), device.last_contact.0)
}
