//! What people do meanwhile: they release what was set aside, unplug devices and take them out of service.

use event::{DeviceId, Record, Release};

use crate::front::Waiting;
use crate::scenario::MINUTE;
use crate::world::{Happening, World};

/// A release of 15 events does not decode: `event::Record` takes their number for the tag of a release. To be
/// taken out here when that is mended.
const UNREADABLE: u8 = 15;

impl World {
    /// An operator does one thing or another, and comes again.
    pub(crate) fn operator(&mut self) -> Result<(), String> {
        if self.healing {
            return Ok(());
        }
        let at = self.now + self.rng.range(10 * MINUTE, 60 * MINUTE);
        self.plan(at, Happening::Operator);
        if !self.front.up || !self.processing.up {
            return Ok(());
        }
        match self.rng.below(3) {
            0 => self.unplug(),
            1 => self.retire()?,
            _ => {}
        }
        self.release();
        Ok(())
    }

    /// A device of an agent is taken away, from all machines of that agent.
    fn unplug(&mut self) {
        let n = self.rng.below(self.nodes.len() as u64) as usize;
        let agent = self.nodes[n].agent;
        let same = self.nodes.iter_mut().filter(|m| m.agent == agent);
        let gone: Vec<String> = same.filter_map(|m| m.unplug()).collect();
        if let Some(device) = gone.first() {
            self.say(|| format!("{device} is unplugged"));
            self.unplugged.push(device.clone());
        }
    }

    /// Unplugged devices of which all has come are taken out of service.
    fn retire(&mut self) -> Result<(), String> {
        let (ready, waiting): (Vec<String>, Vec<String>) = std::mem::take(&mut self.unplugged)
            .into_iter()
            .partition(|device| self.oracle.is_settled(device));
        self.unplugged = waiting;
        for device in ready {
            let id = DeviceId::new(&device).map_err(|e| e.to_string())?;
            self.say(|| format!("{device} is out of service"));
            self.enqueue(Record::Decommission(id).encode(), Waiting::Nobody, false);
        }
        Ok(())
    }

    /// Some of what was set aside is released, some of it twice, with its time mended or as it is.
    fn release(&mut self) {
        for (id, time) in std::mem::take(&mut self.processing.held) {
            let Some(record) = self.processing.cloud.held_record(id) else {
                continue;
            };
            if record.first() == Some(&UNREADABLE) {
                continue;
            }
            if self.rng.chance(500) {
                self.processing.held.push((id, time));
                continue;
            }
            let age = self.rng.range(MINUTE, 60 * MINUTE);
            let shift = time.filter(|_| self.rng.chance(700));
            let shift = shift.map_or(0, |t| self.now - age - t);
            self.say(|| format!("{id} is released, {shift} later"));
            let record = Record::Release(Release { id, shift, record }).encode();
            let copies = 1 + usize::from(self.rng.chance(300));
            for _ in 0..copies {
                self.enqueue(record.clone(), Waiting::Nobody, false);
            }
        }
    }
}
