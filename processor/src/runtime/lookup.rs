//! Device questions, answered from the state between two steps.

use std::sync::{Arc, PoisonError, RwLock};

use views::model::{Device, Outstanding, Point};
use views::{
    Command, CommandQuery, CommandStop, DeviceQuery, DeviceSource, OutstandingQuery, Page, Rollout,
};

use crate::core::Partition;

/// A partition's state as a place to look devices up.
pub(crate) struct Lookup(pub(crate) Arc<RwLock<Partition>>);

impl Lookup {
    fn with<T>(&self, ask: impl FnOnce(&Partition) -> T) -> T {
        ask(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl DeviceSource for Lookup {
    fn device(&self, id: &str) -> Option<Device> {
        self.with(|p| p.find_device(id))
    }

    fn devices(&self, query: &DeviceQuery) -> Page<Device> {
        self.with(|p| p.list_devices(query))
    }

    fn outstanding(&self, query: &OutstandingQuery) -> Page<Outstanding> {
        self.with(|p| p.list_outstanding(query))
    }

    fn recent(&self, id: &str, metric: &str) -> Option<Vec<Point>> {
        self.with(|p| p.recent_points(id, metric))
    }

    fn command(&self, id: &str) -> Option<Command> {
        self.with(|p| p.find_command(id))
    }

    fn commands(&self, query: &CommandQuery) -> Page<Command> {
        self.with(|p| p.list_commands(query))
    }

    fn command_stop(&self) -> CommandStop {
        self.with(Partition::command_stop)
    }

    fn rollouts(&self) -> Vec<Rollout> {
        self.with(Partition::list_rollouts)
    }
}
