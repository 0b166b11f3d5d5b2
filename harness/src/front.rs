//! Ingest and the log: real admission and real acks, a modelled queue and a modelled disk.

use event::{EventTime, IngestTime, Record, Refused};
use ingest::acks;
use ingest::admission::batch::Admitted;
use ingest::admission::{batch, plain};
use ingest::settings::AdmissionSettings;

use crate::matrix::Step;
use crate::oracle::Block;
use crate::scenario::{Declared, MINUTE, SECOND};
use crate::world::{Happening, Upload, World};

/// Who waits for a record to be durable.
#[derive(Debug, Clone)]
pub(crate) enum Waiting {
    Agent {
        node: usize,
        agent: u16,
        admitted: Admitted,
        received: i64,
    },
    Plain(usize),
    Nobody,
}

#[derive(Debug, Clone)]
struct Entry {
    record: Vec<u8>,
    waiting: Waiting,
    /// Stands alone in its block.
    alone: bool,
    /// What it declares.
    declared: Option<Declared>,
}

/// Ingest with the log behind it.
#[derive(Debug)]
pub struct Front {
    /// It runs.
    pub up: bool,
    /// The log takes nothing.
    pub log_full: bool,
    queue: Vec<Entry>,
    limits: AdmissionSettings,
    /// Ingest time of the newest block.
    newest: i64,
    offset: u64,
}

impl Default for Front {
    fn default() -> Self {
        Self {
            up: true,
            log_full: false,
            queue: Vec::new(),
            limits: AdmissionSettings::default(),
            newest: i64::MIN,
            offset: 0,
        }
    }
}

impl Front {
    /// Whether nothing waits for the log.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl World {
    pub(crate) fn enqueue(&mut self, record: Vec<u8>, waiting: Waiting, alone: bool) {
        if self.front.queue.is_empty() {
            let most = self
                .rng
                .pick(&[SECOND / 20, 3 * SECOND, 5 * SECOND, 9 * SECOND]);
            let delay = self.rng.range(SECOND / 100, most);
            self.plan(self.now + delay, Happening::Durable);
        }
        self.front.queue.push(Entry {
            record,
            waiting,
            alone,
            declared: None,
        });
    }

    /// What is declared goes into the log.
    pub(crate) fn declare(&mut self) {
        let record = Record::Declare(self.declared.declaration()).encode();
        self.enqueue(record, Waiting::Nobody, true);
        if let Some(entry) = self.front.queue.last_mut() {
            entry.declared = Some(self.declared.clone());
        }
    }

    /// A message reaches ingest.
    pub(crate) fn arrive(&mut self, upload: &Upload) -> Result<(), String> {
        let node = &self.nodes[upload.node];
        let is_gone = upload.epoch.is_some_and(|e| e != node.epoch) && self.rng.chance(500);
        if is_gone || !self.front.up {
            return Ok(());
        }
        if self.rng.chance(50) {
            self.misdirect(upload)?;
        }
        self.admit(upload)
    }

    /// A message comes on the topic of another agent: refused, whatever is in it (N1).
    fn misdirect(&self, upload: &Upload) -> Result<(), String> {
        let own = &self.nodes[upload.node].id;
        let most = self.front.limits.batch_bytes_max;
        for other in self.nodes.iter().map(|n| &n.id).filter(|id| *id != own) {
            if batch::admit(other, &upload.payload, most).is_ok() {
                return Err(format!(
                    "a batch of {own} was admitted on the topic of {other}"
                ));
            }
        }
        Ok(())
    }

    /// Admission of a batch.
    pub(crate) fn admit(&mut self, upload: &Upload) -> Result<(), String> {
        let (agent, id) = {
            let node = &self.nodes[upload.node];
            (node.agent, node.id.clone())
        };
        let received = EventTime::from_micros(self.now);
        match batch::admit(&id, &upload.payload, self.front.limits.batch_bytes_max) {
            Ok(admitted) => {
                let alone = self.oracle.is_special(agent, admitted.range);
                let waiting = Waiting::Agent {
                    node: upload.node,
                    agent,
                    admitted,
                    received: self.now,
                };
                self.enqueue(Record::encode_batch(&upload.payload), waiting, alone);
                self.pass(Step::AdmitDurable, upload.node)
            }
            Err((refusal, admitted)) => {
                let record = Record::Refused(Refused {
                    source: id.to_string(),
                    agent: Some(id),
                    reason: refusal.reason,
                    message: refusal.message.clone(),
                    count: 1,
                    bytes: upload.payload.len() as u64,
                });
                self.enqueue(record.encode(), Waiting::Nobody, false);
                let ack = acks::refused(admitted, &refusal, received);
                self.send_ack(agent, ack.encode())
            }
        }
    }

    /// A plain device sends, or sends again.
    pub(crate) fn plain(&mut self, n: usize) -> Result<(), String> {
        let times = (self.size.end(), self.past());
        let message = self.plains[n].message(self.now, times, &mut self.rng);
        let copies = match self.rng.below(1000) {
            _ if message.is_none() => 0,
            0..40 => 0,
            40..60 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            if !self.front.up {
                break;
            }
            let id = &self.plains[n].id;
            let admitted = plain::admit(
                id,
                message.as_deref().unwrap_or_default().as_bytes(),
                &self.front.limits,
            )
            .map_err(|e| format!("plain message refused: {}", e.message))?;
            let record = Record::Plain(admitted.plain).encode();
            self.enqueue(record, Waiting::Plain(n), false);
        }
        let at = self.plains[n].next(self.now, &mut self.rng);
        self.plan(at, Happening::Plain(n));
        Ok(())
    }

    pub(crate) fn tick(&mut self) -> Result<(), String> {
        if self.front.up {
            self.enqueue(Record::Tick.encode(), Waiting::Nobody, false);
        }
        self.plan(self.now + 4 * MINUTE, Happening::Tick);
        Ok(())
    }

    /// What is queued is durable: it is in the log, and acks leave.
    pub(crate) fn durable(&mut self) -> Result<(), String> {
        let mut entries = std::mem::take(&mut self.front.queue);
        if !self.front.up {
            return Ok(());
        }
        if self.front.log_full {
            // Not taken, so not acked (N3). What the server itself declares it tries again.
            let (declared, _): (Vec<Entry>, Vec<Entry>) =
                entries.into_iter().partition(|e| e.declared.is_some());
            if !declared.is_empty() {
                self.front.queue = declared;
                self.plan(self.now + MINUTE, Happening::Durable);
            }
            return Ok(());
        }
        let waiting: Vec<Waiting> = entries.iter().map(|e| e.waiting.clone()).collect();
        let mut rest = entries.as_mut_slice();
        while !rest.is_empty() {
            let n = match rest.iter().position(|e| e.alone) {
                Some(0) => 1,
                Some(at) => at,
                None => rest.len(),
            };
            let (block, after) = rest.split_at_mut(n);
            self.append(block);
            rest = after;
        }
        for waiting in waiting {
            match waiting {
                Waiting::Agent {
                    node,
                    agent,
                    admitted,
                    received,
                } => {
                    self.pass(Step::DurableAck, node)?;
                    if !self.front.up {
                        break;
                    }
                    let received = EventTime::from_micros(received);
                    let ack = acks::stored(admitted, received, EventTime::from_micros(self.now));
                    self.send_ack(agent, ack.encode())?;
                    self.pass(Step::RecordProcessed, node)?;
                }
                Waiting::Plain(n) => self.plains[n].taken(self.now),
                Waiting::Nobody => {}
            }
        }
        self.process()
    }

    fn append(&mut self, entries: &mut [Entry]) {
        let front = &mut self.front;
        let mut ingest = self.now.max(front.newest);
        if entries.iter().any(|e| e.alone) && front.newest > i64::MIN {
            // In a second of its own, so that the ledger before and after it is known.
            ingest = ingest.max((front.newest.div_euclid(SECOND) + 1) * SECOND);
        }
        front.newest = ingest;
        // It stands alone in its block.
        let declared = entries.iter_mut().find_map(|e| e.declared.take());
        let records: Vec<Vec<u8>> = entries
            .iter_mut()
            .map(|e| std::mem::take(&mut e.record))
            .collect();
        let offset = front.offset;
        front.offset += records.len() as u64;
        self.log.push(Block {
            offset,
            ingest,
            records,
            declared,
        });
    }

    /// Ingest is away: what was queued is lost, and all connections drop.
    pub(crate) fn ingest_down(&mut self, pause: i64) {
        if !self.front.up {
            return;
        }
        self.say(|| "ingest is down".to_owned());
        self.front.up = false;
        self.front.queue.retain(|e| e.declared.is_some());
        for n in 0..self.nodes.len() {
            if self.nodes[n].core.is_some() {
                let wait = pause + self.rng.range(SECOND, 20 * SECOND);
                self.drop_connection(n, wait);
            }
        }
        self.plan(self.now + pause, Happening::IngestUp);
    }

    pub(crate) fn ingest_up(&mut self) {
        if self.front.up {
            return;
        }
        self.front.up = true;
        let declared = std::mem::take(&mut self.front.queue);
        if self.front.newest > i64::MIN {
            let gap = Record::AvailabilityGap {
                from: IngestTime::from_micros(self.front.newest),
                to: IngestTime::from_micros(self.now),
            };
            self.enqueue(gap.encode(), Waiting::Nobody, false);
        }
        if !declared.is_empty() {
            self.declare();
        }
    }
}
