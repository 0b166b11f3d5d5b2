//! What machines do: start, commit, send, take acks, and die.

use std::rc::Rc;

use edge_agent::buffer::BufferError;
use edge_agent::core::{AckError, Outgoing};
use event::SeqRange;

use crate::disk::{Disk, Fuse, Image};
use crate::matrix::{Fault, Step};
use crate::node::Doubt;
use crate::scenario::{DAY, MINUTE, SECOND};
use crate::world::{Happening, Upload, World};

/// How often an agent commits its samples, about.
const ROUND: i64 = 24 * MINUTE;

/// Un-acked ranges under way (A3).
const IN_FLIGHT_MAX: usize = 8;

/// Answers to a life that may come again in the next one.
const KEPT_ANSWERS: usize = 4;

/// What becomes of a message on its way.
#[derive(Debug, Default)]
struct Way {
    lost: bool,
    twice: bool,
    held_up: bool,
    held_back: bool,
    garbled: bool,
}

impl Way {
    /// Takes a fault of the network; false if it is none.
    fn take(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::Loss => self.lost = true,
            Fault::Duplicate => self.twice = true,
            Fault::Delay => self.held_up = true,
            Fault::HeldBack => self.held_back = true,
            Fault::Garbled => self.garbled = true,
            _ => return false,
        }
        true
    }
}

impl World {
    /// A machine's process starts.
    pub(crate) fn start(&mut self, n: usize, starts: u32) -> Result<(), String> {
        let now = self.now;
        let node = &mut self.nodes[n];
        if node.core.is_some() || node.starts != starts || node.scrapped {
            return Ok(());
        }
        node.skip_sensors(now);
        if node.disk.is_full() {
            node.disk.set_reserve(256);
        }
        if let Err(error) = node.start(now) {
            if error.is_disk_full() {
                self.plan(now + 5 * MINUTE, Happening::Start(n, starts));
                return Ok(());
            }
            return Err(format!("{} does not start: {error:?}", node.id));
        }
        self.resolve_doubt(n, true)?;
        let node = &mut self.nodes[n];
        let unsaved = std::mem::take(&mut node.unsaved);
        if node.clock_sets == node.unsaved_under {
            self.oracle.unsaved(node.agent, &unsaved);
        }
        if !self.healing {
            node.tell_sites(now);
        }
        let life = node.lives.last().copied().unwrap_or_default();
        self.say(|| format!("{} (machine {n}) starts as {life}", self.nodes[n].id));
        self.plan_connect(n);
        Ok(())
    }

    /// What became of a group whose commit failed, as the newly opened buffer knows.
    fn resolve_doubt(&mut self, n: usize, forget: bool) -> Result<(), String> {
        let node = &mut self.nodes[n];
        let (Some(doubt), Some(core)) = (node.doubt.take(), &node.core) else {
            return Ok(());
        };
        let lineage = core.buffer().announcement(usize::MAX).lineage;
        let life = lineage
            .iter()
            .find(|l| l.incarnation == doubt.range.incarnation);
        let agent = node.agent;
        match life {
            Some(l) if l.last_seq >= doubt.range.last => {
                self.oracle.accept(agent, doubt.range, &doubt.samples)
            }
            Some(l) if l.last_seq >= doubt.range.first => Err(format!(
                "half a group is there: {l:?} after {:?}",
                doubt.range
            )),
            _ => {
                if !forget {
                    node.pending.splice(0..0, doubt.samples);
                }
                Ok(())
            }
        }
    }

    pub(crate) fn plan_connect(&mut self, n: usize) {
        let wait = self.rng.range(SECOND, 5 * SECOND);
        let node = &mut self.nodes[n];
        node.epoch += 1;
        let epoch = node.epoch;
        self.plan(self.now + wait, Happening::Connect(n, epoch));
    }

    pub(crate) fn connect(&mut self, n: usize, epoch: u32) -> Result<(), String> {
        let node = &mut self.nodes[n];
        if node.epoch != epoch {
            return Ok(());
        }
        let Some(core) = &mut node.core else {
            return Ok(());
        };
        if !self.front.up {
            self.plan_connect(n);
            return Ok(());
        }
        core.connected();
        node.sent.clear();
        let (agent, old) = (node.agent, std::mem::take(&mut node.old_answers));
        if !self.healing && !old.is_empty() && self.rng.chance(300) {
            // Answers to the life before come again, when this one's first words were lost.
            self.nodes[n].mute = 2;
            for (k, payload) in (1..).zip(old) {
                self.plan(self.now + k * SECOND, Happening::Ack(agent, payload));
            }
        }
        self.pump(n)
    }

    /// A machine's agent commits what its sensors have given, and sends.
    pub(crate) fn round(&mut self, n: usize) -> Result<(), String> {
        let is_over = self.now >= self.size.end();
        if !is_over {
            let at = self.now + self.rng.range(ROUND / 2, ROUND * 3 / 2);
            // Agents that commit at about the same time share the blocks of the log.
            let at = (at / (ROUND / 2)) * (ROUND / 2) + self.rng.range(0, 8 * SECOND);
            self.plan(at.min(self.size.end()), Happening::Round(n));
        }
        if self.nodes[n].core.is_none() {
            return Ok(());
        }
        self.nodes[n].read_sensors(self.now);
        self.commit(n)?;
        self.pump(n)
    }

    fn commit(&mut self, n: usize) -> Result<(), String> {
        let (now, node) = (self.now, &mut self.nodes[n]);
        if node.pending.is_empty() || node.core.is_none() {
            return Ok(());
        }
        let fault = match self.nodes[n].clockless {
            true => None,
            false => self.trap(Step::AppendCommit),
        };
        let left = self.rng.below(24) as u32;
        let node = &mut self.nodes[n];
        match fault {
            None => {}
            Some(Fault::DiskFull) => self.fill_disk(n),
            Some(_) => node.disk.set_fuse(Fuse::Blown { left }),
        }
        let node = &mut self.nodes[n];
        if node.disk.is_full() && fault.is_none() {
            // The keeper takes nothing from the sources until there is room.
            return Ok(());
        }
        let samples = std::mem::take(&mut node.pending);
        let wall = node.wall(now);
        let Some(core) = &mut node.core else {
            return Ok(());
        };
        let (incarnation, first) = (core.buffer().incarnation(), core.buffer().next_seq());
        let last = first + samples.len() as u64 - 1;
        let range = SeqRange {
            incarnation,
            first,
            last,
        };
        match core.append(&samples, &[], true, wall) {
            Ok(given) => {
                if given != Some(range) {
                    return Err(format!("{given:?} instead of {range:?}"));
                }
                let agent = node.agent;
                self.oracle.accept(agent, range, &samples)?;
            }
            Err(error) => {
                node.doubt = Some(Doubt { range, samples });
                self.buffer_failed(n, &error)?;
            }
        }
        match fault {
            None => self.pass(Step::CommitSend, n),
            // It is no longer running if the fuse blew within the commit.
            Some(Fault::DiskFull) => Ok(()),
            Some(fault) => self.strike_at(fault, n),
        }
    }

    /// The buffer failed: because the machine is dying, because the disk is full, or it must not.
    fn buffer_failed(&mut self, n: usize, error: &BufferError) -> Result<(), String> {
        let node = &mut self.nodes[n];
        if node.disk.is_dead() {
            return Ok(());
        }
        if !error.is_disk_full() {
            return Err(format!("{}: {error:?}", node.id));
        }
        // As the keeper does: a new life in the same process, with the room of the reserve.
        self.say(|| format!("{} finds its disk full", self.nodes[n].id));
        let node = &mut self.nodes[n];
        node.core = None;
        node.starts += 1;
        node.disk.set_reserve(256);
        match node.start(self.now) {
            Ok(()) => {
                self.resolve_doubt(n, false)?;
                self.plan_connect(n);
            }
            Err(error) if error.is_disk_full() => {
                let starts = node.starts;
                self.plan(self.now + 5 * MINUTE, Happening::Start(n, starts));
            }
            // It dies while it opens the buffer.
            Err(_) if node.disk.is_dead() => {}
            Err(error) => return Err(format!("{} does not open again: {error:?}", node.id)),
        }
        Ok(())
    }

    /// Sends whatever is to be sent now.
    pub(crate) fn pump(&mut self, n: usize) -> Result<(), String> {
        let end = self.size.end();
        loop {
            let now = self.now;
            let node = &mut self.nodes[n];
            if node.core.is_none() {
                return Ok(());
            }
            node.read_sensors(now.min(end));
            let stamp = node.stamp(now);
            let mono = node.monotonic(now);
            let Some(core) = &mut node.core else {
                return Ok(());
            };
            match core.poll(mono, &stamp) {
                Ok(None) => break,
                Ok(Some(Outgoing::Batch { payload, .. })) => self.send(n, payload)?,
                Ok(Some(Outgoing::Reconnect)) => {
                    core.disconnected();
                    self.plan_connect(n);
                }
                Err(error) => {
                    self.buffer_failed(n, &error)?;
                    // It says nothing more: where its fuse was set it also dies.
                    if self.nodes[n].disk.is_dead() {
                        return Ok(());
                    }
                }
            }
        }
        let node = &self.nodes[n];
        if let Some(wake) = node.core.as_ref().and_then(|c| c.next_wake()) {
            let at = node.at(wake).max(self.now + 1000);
            if at < node.wake_at {
                self.nodes[n].wake_at = at;
                self.plan(at, Happening::Wake(n));
            }
        }
        Ok(())
    }

    fn send(&mut self, n: usize, payload: Vec<u8>) -> Result<(), String> {
        let (header, _) =
            event::batch::peek(&payload).map_err(|e| format!("an agent sends no batch: {e}"))?;
        let node = &mut self.nodes[n];
        let (agent, epoch) = (node.agent, node.epoch);
        let first = !std::mem::replace(&mut node.has_spoken, true);
        if let Some(last) = header.last_seq() {
            let newest = node.sent.entry(header.e_inc).or_default();
            let in_flight = node.core.as_ref().map_or(0, |c| c.session().in_flight());
            // An ack or a loss of the middle of a range leaves two of it: only a new one is too many.
            if header.first_seq > *newest && in_flight > IN_FLIGHT_MAX {
                return Err(format!("{in_flight} ranges of {} in flight", node.id));
            }
            *newest = last.max(*newest);
        }
        self.oracle.sent(agent, header.incarnation, header.tx_no);
        self.say(|| {
            format!(
                "{} sends tx {} of {}: {} events from {} of {}, watermark {}, gaps {:?}, unclean {:?}",
                header.agent,
                header.tx_no,
                header.incarnation,
                header.count,
                header.first_seq,
                header.e_inc,
                header.low_watermark,
                header
                    .gaps
                    .iter()
                    .map(|g| (g.incarnation.no, g.from, g.to))
                    .collect::<Vec<_>>(),
 header.unclean.map(|u| (u.from, u.to))
            )
        });
        let mut way = self.noisy_way();
        let node = &mut self.nodes[n];
        if node.mute > 0 && !self.healing {
            node.mute -= 1;
            way.lost = true;
        }
        let mut strikes = Vec::new();
        let mut steps = vec![Step::SendAdmit];
        steps.extend(first.then_some(Step::RestartFirst));
        steps.extend((!header.lineage.is_empty()).then_some(Step::LineageTold));
        for step in steps {
            if let Some(fault) = self.trap(step)
                && !way.take(fault)
            {
                strikes.push(fault);
            }
        }
        let upload = |epoch| Upload {
            node: n,
            epoch,
            payload: Rc::default(),
        };
        let mut garbled = payload.clone();
        let at = self.rng.below(garbled.len() as u64) as usize;
        garbled[at] ^= 0x20;
        let (payload, garbled) = (Rc::new(payload), Rc::new(garbled));
        let is_garbled = way.garbled;
        for (delay, in_broker) in self.copies(&way) {
            let upload = Upload {
                payload: Rc::clone(if is_garbled { &garbled } else { &payload }),
                ..upload((!in_broker).then_some(epoch))
            };
            self.plan(self.now + delay, Happening::Arrive(upload));
        }
        if way.held_back {
            let at = self.now + self.rng.range(DAY, 30 * DAY);
            self.late.push((
                at,
                Upload {
                    payload,
                    ..upload(None)
                },
            ));
        }
        if !header.gaps.is_empty() && self.rng.chance(300) {
            // More is dropped while the gap is being told, and what is sent behind it is lost.
            self.nodes[n].mute = 8;
            let at = self.now + self.rng.range(0, SECOND);
            self.plan(at, Happening::Commit(n));
        }
        for fault in strikes {
            self.strike(fault, n)?;
        }
        Ok(())
    }

    fn noisy_way(&mut self) -> Way {
        let noise = self.noise;
        Way {
            lost: self.rng.chance(noise),
            twice: self.rng.chance(noise),
            held_up: self.rng.chance(noise),
            held_back: self.rng.chance(noise / 4),
            garbled: self.rng.chance(noise / 8),
        }
    }

    /// Delays of the copies that arrive, and whether a copy outlives its connection.
    fn copies(&mut self, way: &Way) -> Vec<(i64, bool)> {
        let mut out = Vec::new();
        if !way.lost {
            let delay = if way.held_up {
                self.rng.range(MINUTE, 100 * MINUTE)
            } else {
                self.rng.range(SECOND / 50, SECOND)
            };
            out.push((delay, way.held_up));
        }
        if way.twice {
            let most = self.rng.pick(&[SECOND, 2 * MINUTE, 60 * MINUTE]);
            out.push((self.rng.range(SECOND / 50, most), true));
        }
        out
    }

    /// An ack of ingest leaves for the machines of an agent.
    pub(crate) fn send_ack(&mut self, agent: u16, payload: Vec<u8>) -> Result<(), String> {
        let mut way = self.noisy_way();
        let fault = self.trap(Step::AckDeliver);
        let strike = fault.filter(|f| !way.take(*f));
        let payload = Rc::new(payload);
        for node in self.nodes.iter_mut().filter(|m| m.agent == agent) {
            if node.answers.len() < KEPT_ANSWERS {
                node.answers.push(Rc::clone(&payload));
            }
        }
        let mut copies = self.copies(&way);
        if way.held_back {
            copies.push((self.rng.range(MINUTE, 3 * DAY), true));
        }
        for (delay, _) in copies {
            self.plan(self.now + delay, Happening::Ack(agent, Rc::clone(&payload)));
        }
        match (strike, self.machine_of(agent)) {
            (Some(fault), Some(n)) => self.strike(fault, n),
            _ => Ok(()),
        }
    }

    /// A machine of an agent.
    pub(crate) fn machine_of(&self, agent: u16) -> Option<usize> {
        self.nodes.iter().position(|n| n.agent == agent)
    }

    /// An ack arrives: every machine of that agent hears it.
    pub(crate) fn ack(&mut self, agent: u16, payload: &[u8]) -> Result<(), String> {
        for n in 0..self.nodes.len() {
            let node = &mut self.nodes[n];
            if node.agent != agent {
                continue;
            }
            let (mono, wall) = (node.monotonic(self.now), node.wall(self.now));
            let Some(core) = &mut node.core else { continue };
            if !core.session().is_connected() {
                continue;
            }
            match core.ack_received(mono, wall, payload) {
                Ok(_) => {}
                Err(AckError::Decode(error)) => return Err(format!("no ack: {error}")),
                Err(AckError::Buffer(error)) => self.buffer_failed(n, &error)?,
            }
            let Some(core) = &self.nodes[n].core else {
                continue;
            };
            if core.buffer().is_dirty() {
                // Most deletions go with the next commit of samples.
                if self.healing || self.rng.chance(60) {
                    let starts = self.nodes[n].starts;
                    let at = self.now + self.rng.range(SECOND, MINUTE);
                    self.plan(at, Happening::Flush(n, starts));
                }
                self.pass(Step::DeliverDelete, n)?;
            }
            self.pump(n)?;
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self, n: usize, starts: u32) -> Result<(), String> {
        let (now, end) = (self.now, self.size.end());
        let node = &mut self.nodes[n];
        if node.core.is_some() {
            node.read_sensors(now.min(end));
        }
        // As the keeper does: what waits in memory is not stored with this.
        let until = node.stamp(now).floor;
        if let Some(core) = &mut node.core
            && node.starts == starts
        {
            if let Err(error) = core.flush(until) {
                self.buffer_failed(n, &error)?;
            }
            self.pump(n)?;
        }
        Ok(())
    }

    /// The process dies and leaves `image` on the disk. It starts again after `pause`.
    pub(crate) fn die(&mut self, n: usize, image: Image, pause: i64) {
        let node = &mut self.nodes[n];
        // Nothing that is still tidied up on the way out reaches the new disk.
        node.disk.set_fuse(Fuse::Blown { left: 0 });
        let was_full = node.disk.is_full();
        // Taken from the sensors and not stored: the next life must tell of that stretch, for this one has
        // said that its samples cannot be read again. Across a step of the clock it cannot know which.
        let (clock, agent) = (node.clock_sets, node.agent);
        let has_stored = |core: &edge_agent::core::Core| {
            let life = core.buffer().incarnation();
            self.oracle.has_stored(agent, life)
        };
        if clock == node.life_under && node.core.as_ref().is_some_and(has_stored) {
            node.unsaved
                .extend(node.pending.iter().map(|s| s.time.as_micros()));
            node.unsaved_under = clock;
        }
        node.core = None;
        node.disk = Disk::new(image);
        node.disk.set_full(was_full);
        node.pending.clear();
        node.starts += 1;
        node.epoch += 1;
        let starts = node.starts;
        self.plan(self.now + pause, Happening::Start(n, starts));
        // Some die again soon: answers to several short lives cross.
        if !self.healing && self.rng.chance(300) {
            let soon = self.rng.pick(&[10 * SECOND, MINUTE, 10 * MINUTE]);
            let at = self.now + pause + self.rng.range(SECOND, soon);
            self.plan(at, Happening::DieAgain(n, starts));
        }
    }

    /// The process of a start dies.
    pub(crate) fn die_again(&mut self, n: usize, starts: u32) -> Result<(), String> {
        // Some have stored something and told nobody.
        if self.lives(n, starts) && self.rng.chance(500) {
            self.nodes[n].read_sensors(self.now.min(self.size.end()));
            self.commit(n)?;
        }
        if self.lives(n, starts) {
            if self.rng.chance(200) {
                // It comes back with its clock behind.
                let by = self.rng.range(MINUTE, DAY);
                self.set_back(n, by);
            }
            let image = self.nodes[n].disk.seen();
            let pause = self.rng.range(SECOND, 20 * SECOND);
            self.die(n, image, pause);
        }
        Ok(())
    }

    fn lives(&self, n: usize, starts: u32) -> bool {
        let node = &self.nodes[n];
        !self.healing && node.starts == starts && node.core.is_some()
    }

    /// A machine's agent commits out of turn.
    pub(crate) fn commit_now(&mut self, n: usize) -> Result<(), String> {
        if self.nodes[n].core.is_some() {
            self.nodes[n].read_sensors(self.now.min(self.size.end()));
            self.commit(n)?;
        }
        self.pump(n)
    }
}
