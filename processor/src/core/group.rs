//! A group of an aggregate: who belongs to it, and how complete each of its windows is.

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;
use views::completeness::{IndexBuilder, Loss};
use views::{CompletenessIndex, Group as GroupValues};

use super::agent::Agent;

const SECOND: i64 = 1_000_000;

/// Most groups of a partition over all aggregates. Series beyond it belong to no group of the aggregate;
/// their events are counted, and the quarantine says that they are missing there.
pub(crate) const GROUPS_MAX: usize = 100_000;

/// One group of one aggregate.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group {
    /// Position of the aggregate in the declaration; none once it is no longer declared.
    pub(crate) aggregate: Option<u32>,
    pub(crate) values: GroupValues,
    /// For each agent: how many of its devices belong here from which second on.
    members: BTreeMap<u32, SmallVec<[(i64, u32); 1]>>,
    pub(crate) index: Arc<CompletenessIndex>,
}

impl Group {
    pub(crate) fn new(aggregate: u32, values: GroupValues) -> Self {
        Self {
            aggregate: Some(aggregate),
            values,
            members: BTreeMap::new(),
            index: Arc::default(),
        }
    }

    /// Adds a device of `agent` that is known from `first` (microseconds) on.
    pub(crate) fn join(&mut self, agent: u32, first: i64) {
        let second = first.div_euclid(SECOND);
        let buckets = self.members.entry(agent).or_default();
        match buckets.iter_mut().find(|b| b.0 == second) {
            Some(b) => b.1 += 1,
            None => buckets.push((second, 1)),
        }
    }

    /// Takes back [`Self::join`] with the same arguments.
    pub(crate) fn leave(&mut self, agent: u32, first: i64) {
        let second = first.div_euclid(SECOND);
        if let Some(buckets) = self.members.get_mut(&agent) {
            if let Some(i) = buckets.iter().position(|b| b.0 == second) {
                buckets[i].1 -= 1;
                if buckets[i].1 == 0 {
                    buckets.swap_remove(i);
                }
            }
            if buckets.is_empty() {
                self.members.remove(&agent);
            }
        }
    }

    /// Brings the index up to date; true if it changed.
    pub(crate) fn build_index(&mut self, agents: &[Agent]) -> bool {
        let mut builder = IndexBuilder::default();
        for (&number, buckets) in &self.members {
            let agent = &agents[number as usize];
            let mut devices = 0;
            for &(second, n) in buckets {
                devices += u64::from(n);
                builder.add(
                    u64::from(n),
                    second * SECOND,
                    agent.progress,
                    agent.last_contact,
                );
            }
            for &(from, to) in &agent.losses {
                builder.add_loss(Loss {
                    agent: number,
                    from,
                    to,
                    progress: agent.progress,
                    devices,
                });
            }
        }
        let index = builder.build();
        let changed = index != *self.index;
        if changed {
            self.index = Arc::new(index);
        }
        changed
    }
}
