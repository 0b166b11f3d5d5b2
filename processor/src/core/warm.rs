//! Bringing near what the next records will touch.
//!
//! A fleet of millions lies all over the memory, and each record needs a chain of places in it: name, agent,
//! devices, series, panes. One record after the other waits for each of them in turn. Looked at level by level
//! for a dozen records, the waits of a level overlap: what is read here is not used, only fetched. It changes
//! nothing of the state.

use std::hint::black_box;

use event::RecordRef;

use super::group::{EMPTY, SEALED};
use super::partition::Partition;
use super::registry::NONE;

/// Records looked at together.
pub(crate) const AHEAD: usize = 16;
/// Bytes of a cache line.
const LINE: usize = 64;
/// A table smaller than this is near anyhow.
const DEVICES_MIN: usize = 20_000;

impl Partition {
    /// Fetches what these records, at most [`AHEAD`], will touch.
    pub(crate) fn warm<R: AsRef<[u8]>>(&self, records: &[R]) {
        if self.registry.len() < DEVICES_MIN || records.len() < 2 {
            return;
        }
        let mut agents = [NONE; AHEAD];
        for (agent, record) in agents.iter_mut().zip(records) {
            if let Some(raw) = RecordRef::as_batch(record.as_ref())
                && let Some(name) = event::batch::hint_agent(raw)
            {
                *agent = self.agents.find(name).unwrap_or(NONE);
            }
        }
        // (first device, how many).
        let mut rows = [(0usize, 0usize); AHEAD];
        for (row, &agent) in rows.iter_mut().zip(&agents) {
            if agent != NONE {
                let hot = self.agents.hot(agent);
                let devices = hot.devices.min(64) as usize;
                if hot.first_device as usize + devices <= self.registry.len() {
                    *row = (hot.first_device as usize, devices);
                }
                black_box((hot.tx_hint(), self.profiles.view(agent).hour));
            }
        }
        let devices = &self.registry.devices;
        let mut runs = [(0usize, 0u32); AHEAD];
        for (run, &(first, n)) in runs.iter_mut().zip(&rows) {
            if n == 0 {
                continue;
            }
            let step = LINE / size_of::<super::registry::Device>();
            let sum = (first..first + n)
                .step_by(step.max(1))
                .fold(0, |sum, d| sum ^ devices[d].class);
            black_box((sum, self.registry.ids.touch(first as u32)));
            *run = (devices[first].series as usize, devices[first].class);
        }
        let series = &self.registry.series;
        for (&(at, class), &(first, n)) in runs.iter().zip(&rows) {
            if n == 0 {
                continue;
            }
            let metrics = self.registry.classes[class as usize].metrics.len();
            let step = LINE / size_of::<super::registry::Series>();
            let end = (at + n * metrics).min(series.len());
            let sum = (at..end)
                .step_by(step)
                .fold(0, |sum, s| sum ^ series[s].time());
            black_box((sum, self.registry.ids.bytes(first as u32).len()));
        }
        // The newest panes of their groups.
        let mut cells = [EMPTY; AHEAD * 4];
        let groups = runs
            .iter()
            .zip(&rows)
            .filter(|(_, row)| row.1 > 0)
            .flat_map(|(run, _)| {
                let slots = self.registry.classes[run.1 as usize].slots.iter();
                slots.flatten().take(4)
            });
        for (cell, &group) in cells.iter_mut().zip(groups) {
            if let Some(group) = self.groups.get(group as usize) {
                *cell = group.ring.cells.back().copied().unwrap_or(EMPTY);
            }
        }
        let mut sum = 0;
        for &cell in cells.iter().filter(|c| **c != EMPTY && **c != SEALED) {
            let cell = &self.cells[cell as usize];
            sum ^= cell
                .content
                .as_ref()
                .map_or(0, |pane| pane.revision ^ pane.count);
        }
        black_box(sum);
    }

    /// Fetches what the groups will be told of these agents.
    pub(crate) fn warm_members(&self, agents: &[u32]) {
        if self.registry.len() < DEVICES_MIN {
            return;
        }
        let sum = agents.iter().fold(0, |sum, &agent| {
            let hot = self.agents.hot(agent);
            sum ^ hot.progress ^ i64::from(hot.newest_join ^ self.is_moved[agent as usize] as u32)
        });
        black_box(sum);
        let sum = agents
            .iter()
            .fold(0, |sum, &agent| sum ^ self.profiles.hint(agent));
        black_box(sum);
    }
}
