//! Device questions, answered from the state between two steps.

use std::sync::{Arc, PoisonError, RwLock};

use views::model::{Device, Outstanding, Point};
use views::{DeviceQuery, DeviceSource, OutstandingQuery, Page};

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
}
