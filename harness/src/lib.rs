//! The deterministic simulation of the whole way of an event, with every fault that the protocol is made for.
//!
//! One thread, no real time, no real I/O: a seed decides everything, and the same seed gives the same run
//! again. **Real** are the agent's core with its buffer (redb over a simulated [`disk`]), admission, acks and
//! the processor's core; **modelled** are disks, clocks, the network, the log and the state store. The
//! [`oracle`] knows every event that an agent accepted and compares every window, ledger and alert.
//!
//! Whether it would notice is tested by `harness/mutants/run`, which puts bugs into a copy of the project.
//!
//! Read `scenario` → `world` (the queue of happenings) → `node` `machine` (agents) → `front` (ingest and
//! log) → `processing` `cloud` (the only contact with the processor) → `operator` `faults` `matrix` → `oracle/`.

pub mod cloud;
pub mod disk;
mod faults;
pub mod front;
mod machine;
pub mod matrix;
pub mod node;
mod operator;
pub mod oracle;
pub mod plain;
mod processing;
pub mod rng;
pub mod scenario;
pub mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use matrix::Matrix;
use scenario::Size;
use world::World;

/// What a seed gave.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Hits of faults.
    pub matrix: Matrix,
    /// Events accepted by agents.
    pub events: u64,
    /// Blocks of the log.
    pub blocks: u64,
    /// Events lost with a disk, by what covers them.
    pub excused: BTreeMap<&'static str, u64>,
}

/// Runs a seed. With `tell` it prints its story.
///
/// **Errors**: what is wrong, or the panic.
pub fn run(seed: u64, size: Size, tell: bool) -> Result<Report, String> {
    let run = AssertUnwindSafe(|| {
        let mut world = World::new(seed, size, tell)?;
        world.run()?;
        Ok(world.report())
    });
    catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

impl World {
    fn report(&self) -> Report {
        Report {
            matrix: self.matrix.clone(),
            events: self.oracle.made() as u64,
            blocks: self.log.len() as u64,
            excused: self.oracle.excused.clone(),
        }
    }
}
