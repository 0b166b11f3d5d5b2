//! Reading the log as the processor must: what each record makes of each event.

use event::{Cell, Record, RecordRef, SeqRange, batch};

use super::windows::{TIERS, Value, horizons};
use super::{Fate, Made, Measured, Oracle, RACK, metric};
use crate::cloud::Outcome;
use crate::scenario::{DAY, Declared, METRICS, MINUTE, PLANS};

/// 2020-01-01T00:00:00Z (P5).
pub(super) const TIME_MIN: i64 = 1_577_836_800_000_000;
/// An event time may be this far ahead of ingest time (P5).
const AHEAD_MAX: i64 = 5 * MINUTE;

/// A block of the log.
#[derive(Debug, Clone)]
pub struct Block {
    /// Number of its first record.
    pub offset: u64,
    /// Ingest time.
    pub ingest: i64,
    /// Encoded records.
    pub records: Vec<Vec<u8>>,
    /// What is declared after it, if it declares.
    pub declared: Option<Declared>,
}

/// What the processor's ledger grew by.
#[derive(Debug, Clone, Copy)]
struct Grown {
    counted: u64,
    duplicate: u64,
    quarantined: u64,
}

impl Oracle {
    /// Takes a block as the processor has just taken it, and compares the ledger. `agent` gives the number
    /// of an agent by its id.
    ///
    /// **Errors**: what is wrong.
    pub fn take_block(
        &mut self,
        number: u64,
        block: &Block,
        outcome: &Outcome,
        agent: &dyn Fn(&str) -> Option<u16>,
    ) -> Result<(), String> {
        let grown = outcome.totals.map(|t| Grown {
            counted: t.counted.wrapping_sub(self.ledger.counted),
            duplicate: t.duplicate.wrapping_sub(self.ledger.duplicate),
            quarantined: t.quarantined.wrapping_sub(self.ledger.quarantined),
        });
        self.episodes.begin(number);
        for record in &block.records {
            let record = RecordRef::decode(record).map_err(|e| format!("read a record: {e}"))?;
            match record {
                RecordRef::Batch(raw) => {
                    let alone = block.records.len() == 1;
                    self.batch(block.ingest, raw, grown.filter(|_| alone), agent)?;
                }
                RecordRef::Other(Record::Plain(plain)) => {
                    let device = *self
                        .numbers
                        .get(plain.device.as_str())
                        .ok_or("an unknown plain device")?;
                    for sample in &plain.samples {
                        let of = metric(sample.metric.as_str()).ok_or("an unknown metric")?;
                        let made = Made {
                            device,
                            metric: of,
                            time: sample.time.map_or(block.ingest, |t| t.as_micros()),
                            value: Measured::of(&sample.value, of as usize == METRICS),
                            fate: Fate::Pending,
                            aside: false,
                        };
                        self.ledger.accepted += 1;
                        // A plain device promises nothing, so nothing of it is waited for.
                        self.judge(block.ingest, made, (0, 0), i64::MAX);
                    }
                }
                RecordRef::Other(Record::Refused(refused)) => {
                    self.ledger.refused += u64::from(refused.count);
                }
                RecordRef::Other(Record::Declare(_)) => {
                    let declared = block.declared.clone().ok_or("a declaration of nothing")?;
                    self.declare(&declared, block.ingest)?;
                }
                RecordRef::Other(Record::Release(release)) => {
                    self.release(block.ingest, &release, agent)?;
                }
                RecordRef::Other(Record::Decommission(device)) => {
                    self.retire(device.as_str(), block.ingest);
                }
                RecordRef::Other(_) => {}
            }
        }
        let Some(t) = outcome.totals else {
            return Ok(());
        };
        let l = self.ledger;
        let got = [
            t.accepted,
            t.counted,
            t.duplicate,
            t.quarantined,
            t.too_old,
            t.refused,
        ];
        let expected = [
            l.accepted,
            l.counted,
            l.duplicate,
            l.quarantined,
            l.too_old,
            l.refused,
        ];
        if got != expected {
            return Err(format!(
                "ledger [accepted, counted, duplicate, quarantined, too old, refused] is {got:?}, must be {expected:?}"
            ));
        }
        // What is kept goes on with each flush.
        if let Some(newest) = self.newest {
            for &plan in &self.declared.plans {
                let kept = self.horizons.entry(plan).or_insert([i64::MIN; TIERS]);
                for (old, new) in kept.iter_mut().zip(horizons(&PLANS[plan], newest)) {
                    *old = new.max(*old);
                }
            }
        }
        Ok(())
    }

    fn declare(&mut self, declared: &Declared, now: i64) -> Result<(), String> {
        for plan in &self.declared.plans {
            if !declared.plans.contains(plan) {
                self.windows.forget(*plan);
                self.horizons.remove(plan);
                self.rows.retain(|key, _| key.0 != *plan);
                self.retired.retain(|r| r.plan != *plan);
                self.groups.retain(|key, _| key.0 != *plan);
            }
        }
        self.episodes.declare(&declared.rules, now)?;
        self.declared = declared.clone();
        Ok(())
    }

    /// Judges an event that is counted for the first time. `rank` is its incarnation and seq, `promised` what its
    /// agent had promised not to come behind.
    fn judge(&mut self, ingest: i64, made: Made, rank: (u32, u64), promised: i64) -> Fate {
        if made.time < TIME_MIN || made.time > ingest + AHEAD_MAX {
            self.ledger.quarantined += 1;
            return Fate::Quarantined;
        }
        self.ledger.counted += 1;
        self.newest = self.newest.max(Some(made.time));
        let device = &mut self.devices[made.device as usize];
        device.known = device.known.min(made.time);
        if let Measured::Site(site) = made.value {
            if made.time >= device.site.0 {
                device.site = (made.time, site);
            }
            return Fate::Counted;
        }
        if made.metric == RACK {
            return Fate::Counted;
        }
        device.first = device.first.min(made.time);
        device.metrics[made.metric as usize] = true;
        let value = Value {
            device: made.device,
            metric: made.metric,
            site: device.site.1,
            time: made.time,
            number: made.value.number(),
        };
        let (mut relevant, mut kept) = (false, false);
        for &plan in &self.declared.plans {
            if PLANS[plan].metric.is_none_or(|m| m == made.metric as usize) {
                let horizons = self.horizons.get(&plan).copied();
                let devices = &self.devices;
                let name = |d: u16| devices[d as usize].name.clone();
                let horizons = horizons.unwrap_or([i64::MIN; TIERS]);
                kept |= self.windows.add(plan, horizons, value, name);
                relevant = true;
            }
        }
        if relevant && !kept {
            self.ledger.counted -= 1;
            self.ledger.too_old += 1;
            let day = made.time.div_euclid(DAY) * DAY;
            *self.too_old.entry((day, made.device)).or_default() += 1;
        }
        let series = (made.device, made.metric);
        self.episodes
            .value(series, made.time, rank, value.number, promised);
        match relevant && !kept {
            true => Fate::TooOld,
            false => Fate::Counted,
        }
    }

    fn batch(
        &mut self,
        ingest: i64,
        raw: &[u8],
        grown: Option<Grown>,
        agent: &dyn Fn(&str) -> Option<u16>,
    ) -> Result<(), String> {
        let (header, body) = batch::peek(raw).map_err(|e| format!("read a batch: {e}"))?;
        let of = agent(header.agent.as_str()).ok_or("a batch of nobody")?;
        let shift = self.shift(of, &header, ingest);
        if let Some(last) = header.last_seq() {
            let range = SeqRange {
                incarnation: header.e_inc,
                first: header.first_seq,
                last,
            };
            let life = self.lives.get(&(of, range.incarnation));
            let ids = life
                .and_then(|l| l.get(range.first as usize - 1..last as usize))
                .ok_or_else(|| format!("{range:?} of agent {of} was never accepted"))?
                .to_vec();
            let mut columns = std::mem::take(&mut self.columns);
            body.decode_into(&mut columns)
                .map_err(|e| format!("decode {range:?}: {e}"))?;
            for (i, &id) in ids.iter().enumerate() {
                self.compare(&columns, i, &self.made[id as usize])?;
            }
            self.columns = columns;
            let first = (header.e_inc.no, header.first_seq);
            self.events((ingest, shift), of, &ids, first, grown)?;
        }
        self.header(of, &header, ingest, shift);
        Ok(())
    }

    /// An event must arrive as it was made.
    fn compare(&self, columns: &event::Columns, i: usize, made: &Made) -> Result<(), String> {
        let series = columns.series[columns.series_of[i] as usize];
        let device = columns.devices.get(series.device);
        let is_site = made.metric as usize == METRICS;
        let value = match columns.values[i] {
            Cell::Number(n) => Measured::Number(n),
            Cell::Bool(b) => Measured::Bool(b),
            Cell::Text(text) => {
                Measured::of(&event::Value::Text(columns.texts.get(text).into()), is_site)
            }
        };
        let same_value = match (value, made.value) {
            (Measured::Number(a), Measured::Number(b)) => a.to_bits() == b.to_bits(),
            (a, b) => a == b,
        };
        if device != self.devices[made.device as usize].name
            || metric(columns.metrics.get(series.metric)) != Some(made.metric)
            || columns.times[i] != made.time
            || !same_value
        {
            return Err(format!("an event changed on its way: {made:?}"));
        }
        Ok(())
    }

    fn events(
        &mut self,
        (ingest, shift): (i64, i64),
        agent: u16,
        ids: &[u32],
        (incarnation, first): (u32, u64),
        grown: Option<Grown>,
    ) -> Result<(), String> {
        let of = |oracle: &Self, fate| {
            let same = ids
                .iter()
                .filter(|id| oracle.made[**id as usize].fate == fate);
            same.count() as u64
        };
        let n = ids.len() as u64;
        self.ledger.accepted += n;
        let (fresh, lost) = (of(self, Fate::Pending), of(self, Fate::Lost));
        let repeated = n - fresh - lost;
        let is_suspect = self.agents[agent as usize].suspect.is_some();
        // What was declared lost may come after all: counted if its life is not closed, else a repeat.
        let lost_is_repeat = lost > 0 && grown.is_some_and(|g| g.duplicate >= repeated + lost);
        // Beyond the end of a closed life that was rolled back or cloned: set aside, the first time it comes.
        let implausible = |id: &&u32| {
            let made = &self.made[**id as usize];
            let is_new = matches!(made.fate, Fate::Pending | Fate::Lost);
            is_new && (made.time < TIME_MIN || made.time > ingest + AHEAD_MAX)
        };
        let implausible = ids.iter().filter(implausible).count() as u64;
        let fork = grown
            .filter(|g| is_suspect && g.counted == 0 && g.quarantined > implausible)
            .map_or(0, |g| g.quarantined);
        let is_fork = fork > 0;
        // The last ones of those that were not set aside before.
        let mut left = ids
            .iter()
            .filter(|id| !self.made[**id as usize].aside)
            .count() as u64;
        let promised = self.agents[agent as usize].promise;
        for (&id, seq) in ids.iter().zip(first..) {
            let made = self.made[id as usize];
            self.agents[agent as usize].pending.remove(&(made.time, id));
            let again = made.aside;
            let forked = is_fork && !again && left <= fork;
            left -= u64::from(!again);
            let fate = match made.fate {
                _ if forked => {
                    self.made[id as usize].aside = true;
                    self.ledger.quarantined += 1;
                    if made.fate == Fate::Counted {
                        made.fate
                    } else {
                        Fate::Quarantined
                    }
                }
                Fate::Counted | Fate::Quarantined | Fate::TooOld => {
                    self.ledger.duplicate += 1;
                    made.fate
                }
                Fate::Lost if lost_is_repeat => {
                    self.ledger.duplicate += 1;
                    made.fate
                }
                Fate::Pending if is_fork => {
                    return Err(format!("a fork swallowed {made:?}"));
                }
                Fate::Pending | Fate::Lost => {
                    let time = made.time.saturating_add(shift);
                    let rank = (incarnation, seq);
                    self.judge(ingest, Made { time, ..made }, rank, promised)
                }
            };
            self.made[id as usize].fate = fate;
        }
        Ok(())
    }

    /// What was set aside counts, if it is still there and its time will do.
    fn release(
        &mut self,
        ingest: i64,
        release: &event::Release,
        agent: &dyn Fn(&str) -> Option<u16>,
    ) -> Result<(), String> {
        if !self.held.remove(&release.id) {
            return Ok(());
        }
        let mut bytes = release.record.as_slice();
        let mut events = Vec::new();
        for _ in 0..varint(&mut bytes).ok_or("a released record is cut")? {
            events.push(varint(&mut bytes).ok_or("a released record is cut")? as usize);
        }
        let len = varint(&mut bytes).ok_or("a released record is cut")?;
        if len != bytes.len() as u64 {
            return Err("a released record is of another length".to_owned());
        }
        let (header, _) = batch::peek(bytes).map_err(|e| format!("read a release: {e}"))?;
        let of = agent(header.agent.as_str()).ok_or("a release of nobody")?;
        let life = self.lives.get(&(of, header.e_inc));
        let ids = life.and_then(|l| l.get(header.first_seq as usize - 1..));
        let ids = ids.ok_or("a release of what was never accepted")?;
        let ids: Vec<u32> = events.iter().filter_map(|e| ids.get(*e).copied()).collect();
        self.ledger.quarantined -= ids.len() as u64;
        for id in ids {
            let made = self.made[id as usize];
            let shifted = Made {
                time: made.time.saturating_add(release.shift),
                ..made
            };
            // It was set aside, and nothing was waiting for it.
            let rank = (header.e_inc.no, header.first_seq);
            let fate = self.judge(ingest, shifted, rank, i64::MAX);
            if made.fate != Fate::Counted {
                self.made[id as usize].fate = fate;
            }
        }
        Ok(())
    }

    /// What is added to the times of a batch: for an agent without a clock, what it is off by more than a
    /// minute, as its newest transmission shows (P5).
    fn shift(&mut self, agent: u16, header: &event::BatchHeader, ingest: i64) -> i64 {
        let truth = &mut self.agents[agent as usize];
        if !truth.clockless {
            return 0;
        }
        if header.tx_no > truth.clock.0 {
            truth.clock = (header.tx_no, header.sent_at.as_micros() - ingest);
        }
        let off = truth.clock.1;
        if off.abs() > MINUTE { -off } else { 0 }
    }

    /// What a header declares.
    fn header(&mut self, agent: u16, header: &event::BatchHeader, ingest: i64, shift: i64) {
        for gap in &header.gaps {
            let life = self.lives.get(&(agent, gap.incarnation));
            let ids =
                life.and_then(|l| l.get(gap.from as usize - 1..(gap.to as usize).min(l.len())));
            for &id in ids.unwrap_or_default() {
                let made = &mut self.made[id as usize];
                if made.fate == Fate::Pending {
                    made.fate = Fate::Lost;
                }
                self.agents[agent as usize].pending.remove(&(made.time, id));
            }
        }
        let truth = &mut self.agents[agent as usize];
        let gaps = header.gaps.iter().map(|g| g.time);
        let told = gaps.chain(header.unclean);
        truth
            .losses
            .extend(told.map(|t| (t.from.as_micros(), t.to.as_micros())));
        truth.heard.insert(header.incarnation);
        // Events accepted after this transmission left and before what it promised: the promise is broken.
        let promise = (header.low_watermark.as_micros() + shift).min(ingest);
        let newest = truth.newest.entry(header.incarnation).or_default();
        if header.tx_no > newest.0 {
            *newest = (header.tx_no, promise);
        }
        let key = (agent, header.incarnation, header.tx_no);
        let known = self.sent.get(&key).copied().unwrap_or(0);
        let broken: Vec<(i64, u32)> = truth
            .pending
            .range(..(promise, 0))
            .filter(|p| p.1 >= known)
            .copied()
            .collect();
        for p in broken {
            truth.pending.remove(&p);
        }
        truth.promise = truth.promise.max(promise);
        let watermark = truth
            .watermarks
            .entry(header.incarnation)
            .or_insert(promise);
        *watermark = promise.max(*watermark);
    }
}

/// A number as postcard writes it.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        n |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(n);
        }
    }
    None
}
