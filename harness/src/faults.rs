//! What each fault does when it strikes.

use crate::disk::Image;
use crate::matrix::Fault;
use crate::node::Node;
use crate::rng::Rng;
use crate::scenario::{DAY, HOUR, MINUTE, SECOND, START};
use crate::world::{Happening, World};

const YEAR: i64 = 365 * DAY;

impl World {
    /// A fault strikes a machine (or another one, that fits better), or the cloud while it deals with it.
    pub(crate) fn strike(&mut self, fault: Fault, n: usize) -> Result<(), String> {
        let n = self.focus(fault, n);
        let n = self.victim(fault, n);
        self.strike_at(fault, n)
    }

    /// A fault strikes this very machine.
    pub(crate) fn strike_at(&mut self, fault: Fault, n: usize) -> Result<(), String> {
        let pause = self.rng.range(SECOND, 20 * MINUTE);
        match fault {
            // Faults of messages are dealt with where there is one.
            Fault::Loss | Fault::Duplicate | Fault::Delay | Fault::HeldBack | Fault::Garbled => {}
            Fault::Drop => self.drop_connection(n, pause),
            Fault::Kill => {
                let image = self.nodes[n].disk.seen();
                self.die(n, image, pause);
            }
            Fault::PowerCut => {
                let image = self.nodes[n].disk.after_power_cut(&mut self.rng);
                self.die(n, image, pause);
            }
            Fault::Stop => self.stop(n, pause)?,
            Fault::DiskFull => self.fill_disk(n),
            Fault::Damage => {
                let mut image = self.nodes[n].disk.seen();
                let places = self.damage(n, &mut image);
                self.say(|| format!("{places} chunks damaged"));
                self.die(n, image, pause);
                // A bit may have fallen out of what says since when.
                self.nodes[n].unsaved.clear();
            }
            Fault::Wipe => {
                self.suspect(n, fault);
                self.die(n, Image::default(), pause);
            }
            Fault::Rollback => {
                let images = &self.nodes[n].images;
                let at = self.rng.below(images.len() as u64) as usize;
                let image = images.get(at).cloned().unwrap_or_default();
                self.suspect(n, fault);
                self.die(n, image, pause);
            }
            Fault::Clone => {
                let image = self.nodes[n].disk.certain();
                self.suspect(n, fault);
                let rng = Rng::new(self.seed, 1000 + self.nodes.len() as u64);
                let twin = Node::clone_from_image(&self.nodes[n], image, rng);
                let at = self.nodes.len();
                let starts = twin.starts;
                self.nodes.push(twin);
                self.plan(self.now + pause, Happening::Start(at, starts));
                self.plan(self.now + pause, Happening::Round(at));
            }
            Fault::ClockHour => {
                // Or less, sometimes about as much as is still believed (P5).
                let little = self.rng.range(4 * MINUTE, 6 * MINUTE);
                let some = self.rng.range(6 * MINUTE, 30 * MINUTE);
                let by = self.rng.pick(&[HOUR, HOUR, some, little]);
                self.misset_clock(n, by);
            }
            Fault::ClockDecade => self.misset_clock(n, 10 * YEAR),
            Fault::ClockWeeks => self.set_back(n, 40 * DAY),
            Fault::ClockYears => self.set_back(n, 2 * YEAR),
            Fault::Clock1970 => self.set_back(n, START - DAY),
            Fault::IngestCrash => self.ingest_down(pause.min(2 * MINUTE)),
            Fault::IngestOutage => {
                let pause = self.rng.range(2 * MINUTE, 30 * MINUTE);
                self.ingest_down(pause);
            }
            Fault::LogFull => {
                self.front.log_full = true;
                self.plan(self.now + pause, Happening::LogRoom);
            }
            Fault::ProcessorCrash => self.processor_down(pause),
            Fault::CheckpointFails => self.processing.fails = true,
            Fault::Rules => {
                self.declared.rules = self
                    .rng
                    .pick::<&[usize]>(&[&[0, 1, 4], &[0, 1, 2, 5], &[1, 2, 3, 4, 5], &[5, 2, 1, 0]])
                    .to_vec();
                self.declare();
            }
            Fault::Aggregates => {
                self.declared.plans = self
                    .rng
                    .pick::<&[usize]>(&[&[0, 1, 2, 3], &[2, 1, 0], &[0, 3], &[1, 2]])
                    .to_vec();
                self.declare();
            }
        }
        Ok(())
    }

    /// What makes histories of lives strikes one agent more often than others, so that they get long.
    fn focus(&mut self, fault: Fault, n: usize) -> usize {
        use Fault::*;
        if !matches!(fault, Kill | PowerCut | Wipe | Rollback | Clone) || !self.rng.chance(400) {
            return n;
        }
        let of = |m: &(usize, &Node)| m.1.agent == 0;
        let machines: Vec<usize> = self
            .nodes
            .iter()
            .enumerate()
            .filter(of)
            .map(|m| m.0)
            .collect();
        let at = self.rng.below(machines.len() as u64) as usize;
        machines.get(at).copied().unwrap_or(n)
    }

    /// What would restart a machine without a clock strikes another one.
    fn victim(&self, fault: Fault, n: usize) -> usize {
        use Fault::*;
        let spares = matches!(
            fault,
            Loss | Duplicate | Delay | HeldBack | Garbled | Drop | IngestCrash | IngestOutage
        );
        if spares || !self.nodes[n].clockless {
            return n;
        }
        let other = self.nodes.iter().position(|m| !m.clockless);
        other.unwrap_or(n)
    }

    /// The first machine is replaced by a copy: the copy runs; the old one is put back to an early image, lives
    /// twice for a moment, and is gone. Nobody ever hears of those lives again.
    pub(crate) fn replace(&mut self, chapter: usize) -> Result<(), String> {
        if self.healing {
            return Ok(());
        }
        let wait = match chapter {
            0 => {
                self.strike_at(Fault::Clone, 0)?;
                self.rng.range(20 * MINUTE, 60 * MINUTE)
            }
            1 => {
                let image = self.nodes[0].images.first().cloned().unwrap_or_default();
                self.suspect(0, Fault::Rollback);
                self.die(0, image, SECOND);
                self.rng.range(10 * SECOND, 5 * MINUTE)
            }
            2 => {
                self.commit_now(0)?;
                if self.nodes[0].core.is_some() {
                    let image = self.nodes[0].disk.seen();
                    self.die(0, image, SECOND);
                }
                let most = self.rng.pick(&[8 * SECOND, 20 * SECOND, 5 * MINUTE]);
                self.rng.range(2 * SECOND, most)
            }
            _ => {
                self.say(|| "machine 0 is gone for good".to_owned());
                self.die(0, Image::default(), SECOND);
                self.nodes[0].scrapped = true;
                return Ok(());
            }
        };
        self.plan(self.now + wait, Happening::Replace(chapter + 1));
        Ok(())
    }

    fn suspect(&mut self, n: usize, fault: Fault) {
        let agent = self.nodes[n].agent;
        self.oracle.suspect(agent, self.now, fault);
    }

    /// The connection is gone; half of what is on its way goes with it.
    pub(crate) fn drop_connection(&mut self, n: usize, pause: i64) {
        let node = &mut self.nodes[n];
        if let Some(core) = &mut node.core {
            core.disconnected();
        }
        node.epoch += 1;
        let epoch = node.epoch;
        self.plan(self.now + pause, Happening::Connect(n, epoch));
    }

    fn stop(&mut self, n: usize, pause: i64) -> Result<(), String> {
        let now = self.now;
        let node = &mut self.nodes[n];
        let wall = node.wall(now);
        let Some(core) = node.core.take() else {
            return Ok(());
        };
        // What its sources have given is stored first, as the keeper does; a full disk keeps it from that.
        if let Err(error) = core.close(wall)
            && !error.is_disk_full()
        {
            return Err(format!("{} does not stop: {error:?}", node.id));
        }
        let image = node.disk.seen();
        self.die(n, image, pause);
        Ok(())
    }

    pub(crate) fn fill_disk(&mut self, n: usize) {
        self.nodes[n].disk.set_full(true);
        self.nodes[n].disk.set_reserve(0);
        let at = self.now + self.rng.range(10 * MINUTE, HOUR);
        self.plan(at, Happening::Room(n));
    }

    /// Damages every chunk of one of the agent's lives. Returns how many places of the image.
    fn damage(&mut self, n: usize, image: &mut Image) -> usize {
        let node = &self.nodes[n];
        // A chunk begins as a batch does: version, agent, incarnation.
        let mut places = 0;
        for life in node.lives.iter().rev().take(2) {
            let id = node.id.as_str().as_bytes();
            let mut pattern = vec![event::batch::VERSION, id.len() as u8];
            pattern.extend_from_slice(id);
            put_varint(&mut pattern, u64::from(life.no));
            put_varint(&mut pattern, life.rand);
            places += image.damage(&pattern, pattern.len() + 2);
        }
        places
    }

    fn misset_clock(&mut self, n: usize, by: i64) {
        let by = if self.rng.chance(500) { by } else { -by };
        self.set_back(n, by);
    }

    /// The clock is so far behind for a while.
    pub(crate) fn set_back(&mut self, n: usize, by: i64) {
        self.set_clock(n, -by);
        let at = self.now + self.rng.range(5 * MINUTE, HOUR);
        self.plan(at, Happening::ClockRight(n));
    }

    /// Sets a machine's clock. What its sensors gave until now carries the old time.
    pub(crate) fn set_clock(&mut self, n: usize, offset: i64) {
        let until = self.now.min(self.size.end());
        let node = &mut self.nodes[n];
        if node.core.is_some() {
            node.read_sensors(until);
        } else {
            node.skip_sensors(self.now);
        }
        node.clock_sets += u32::from(node.offset != offset);
        if offset < node.offset {
            self.oracle.set_back(node.agent);
        }
        node.offset = offset;
    }
}

fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}
