//! The processor's life: it takes blocks, saves checkpoints, dies, and goes on.

use std::fmt::Write as _;

use crate::cloud::Outcome;
use crate::matrix::{Fault, Step};
use crate::oracle::Block;
use crate::scenario::{PLANS, SECOND, START};
use crate::world::{Happening, World};

impl World {
    /// Takes all blocks that are durable and not processed.
    pub(crate) fn process(&mut self) -> Result<(), String> {
        while self.processing.up && self.processing.done < self.log.len() {
            let at = self.processing.done;
            let block = &self.log[at];
            let p = &mut self.processing;
            let outcome = p.cloud.step(block.offset, block.ingest, &block.records);
            p.hashes.push(outcome.hash());
            p.held.extend_from_slice(&outcome.held);
            p.done += 1;
            self.say(|| told(at, block, &outcome));
            let agents = &self.agents;
            let agent = |id: &str| agents.get(id).copied();
            let number = at as u64;
            let taken = self
                .oracle
                .take_block(number, block, &outcome, &agent)
                .and_then(|()| self.oracle.take_outcome(block.ingest, &outcome, &agent));
            taken.map_err(|e| format!("at block {at}, {}: {e}", block.ingest))?;
            if outcome.totals.is_some() && self.rng.chance(400) {
                let cloud = &self.processing.cloud;
                self.oracle
                    .check_progress(|device| cloud.progress(device))
                    .map_err(|e| format!("after block {at}: {e}"))?;
            }
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Begins a checkpoint when one is due, and ends it some blocks later.
    fn checkpoint(&mut self) -> Result<(), String> {
        if self.processing.cloud.is_saving() {
            if self.rng.chance(600) {
                return Ok(());
            }
            let agent = self.rng.below(self.nodes.len() as u64) as usize;
            let fault = self.trap(Step::CheckpointRestored);
            let fails =
                fault == Some(Fault::CheckpointFails) || std::mem::take(&mut self.processing.fails);
            let p = &mut self.processing;
            p.cloud.end_checkpoint(!fails)?;
            if !fails {
                p.saved = p.begun;
            }
            self.say(|| format!("checkpoint: {}", if fails { "fails" } else { "saved" }));
            if let Some(fault) = fault.filter(|_| !fails) {
                self.strike(fault, agent)?;
            }
        }
        let p = &mut self.processing;
        if p.checkpoint_due && p.cloud.at_rest() && p.cloud.begin_checkpoint() {
            p.checkpoint_due = false;
            p.begun = p.done;
        }
        Ok(())
    }

    pub(crate) fn processor_down(&mut self, pause: i64) {
        if self.processing.up {
            self.processing.up = false;
            self.plan(self.now + pause, Happening::ProcessorUp);
        }
    }

    /// The processor starts again from its newest checkpoint: it must give what it gave, and come to the
    /// same state.
    pub(crate) fn processor_up(&mut self) -> Result<(), String> {
        if self.processing.up {
            return Ok(());
        }
        let before = self.processing.cloud.at_rest();
        let hash = self.processing.cloud.state_hash();
        let is_there = self.rng.chance(500);
        let p = &mut self.processing;
        if p.cloud.is_saving() && is_there {
            p.saved = p.begun;
        }
        p.cloud.restore(is_there)?;
        let saved = p.saved;
        self.replay(saved)?;
        let again = self.processing.cloud.state_hash();
        if before && hash != again {
            let (saved, done) = (self.processing.saved, self.processing.done);
            return Err(format!(
                "blocks {saved} to {done} again give the state {again:x}, not {hash:x}"
            ));
        }
        self.processing.up = true;
        self.process()
    }

    /// Processes the blocks from `from` on again and compares what they give.
    pub(crate) fn replay(&mut self, from: usize) -> Result<(), String> {
        let p = &mut self.processing;
        for at in from..p.done {
            let block = &self.log[at];
            let outcome = p.cloud.step(block.offset, block.ingest, &block.records);
            if outcome.hash() != p.hashes[at] {
                return Err(format!("block {at} gives something else when replayed"));
            }
        }
        Ok(())
    }
}

/// A block and what it gave, for the story.
fn told(at: usize, block: &Block, outcome: &Outcome) -> String {
    let mut line = format!(
        "block {at}: {} records (kinds {:?}) from {} at {:.3}",
        block.records.len(),
        block
            .records
            .iter()
            .filter_map(|r| r.first())
            .collect::<Vec<_>>(),
        block.offset,
        (block.ingest - START) as f64 / 1e6
    );
    for r in &outcome.rows {
        let _ = write!(
            line,
            "\n{:18}{} {} at {}: {:?} revision {} count {} late {}",
            "",
            PLANS[r.plan].name,
            r.group,
            (r.start - START) / SECOND,
            r.state,
            r.revision,
            r.count,
            r.late
        );
    }
    line
}
