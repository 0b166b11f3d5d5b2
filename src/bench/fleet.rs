//! The simulated fleet: who sends what and when. Everything follows from numbers by hashing, so that a
//! fleet of millions takes a few bytes an agent.

use event::time::SECOND;
use event::{
    AgentId, BatchHeader, ClockQuality, ClockState, DeviceId, EventTime, Held, Incarnation,
    MetricName, Record, Sample, Value, batch, slot,
};

use super::args::{LATE_MAX, Plan, START};

const METRICS: [&str; 4] = ["temperature", "humidity", "vibration", "battery"];
/// Between an agent's first and last device of one round of polling.
const POLL: i64 = SECOND;

/// A batch of an agent: the round counts from the start of the traffic; before it there are only those
/// that were kept back then and come after it.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    pub agent: u32,
    pub round: i32,
    /// Number of its first transmission; 0 before that.
    pub tx_no: u32,
}

/// An event, in numbers.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    pub device: u64,
    pub site: u64,
    pub metric: u64,
    pub time: i64,
    pub value: f64,
}

pub struct Fleet {
    plan: Plan,
    metrics: Vec<MetricName>,
    /// The agent that is the n-th to send in every cycle, and the reverse.
    order: Vec<u32>,
    place: Vec<u32>,
    /// Transmissions.
    tx: Vec<u32>,
    /// Batches from before the start that come after it.
    past: Vec<u16>,
    events: Vec<Event>,
    samples: Vec<Sample>,
}

/// Splitmix64 of four numbers.
fn hash(purpose: u64, a: u64, b: u64, c: u64) -> u64 {
    let mix = |mut x: u64| {
        x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    mix(mix(mix(purpose ^ (a << 3)) ^ b) ^ c)
}

/// Whether a hash falls into a share.
fn hit(hash: u64, share: f64) -> bool {
    ((hash >> 11) as f64) < share * (1u64 << 53) as f64
}

/// Name of a metric.
pub fn metric_name(number: u64) -> String {
    match METRICS.get(number as usize) {
        Some(name) => (*name).to_owned(),
        None => format!("m{number}"),
    }
}

/// Name of a site.
pub fn site_name(number: u64) -> String {
    format!("site-{number:05}")
}

/// Two decimals, one, four (finer than sums keep) and none.
fn value(metric: u64, device: u64, time: i64) -> f64 {
    let noise = hash(1, device, metric, time as u64) % 400;
    match metric % 4 {
        0 => (2000 + noise) as f64 / 100.0,
        1 => (400 + noise) as f64 / 10.0,
        2 => (100 + noise * 7) as f64 / 10_000.0,
        _ => (100 - noise / 40) as f64,
    }
}

impl Fleet {
    /// **Errors**: names of metrics that are none.
    pub fn new(plan: &Plan) -> anyhow::Result<Self> {
        let agents = plan.agents as u32;
        let mut order: Vec<u32> = (0..agents).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, (hash(2, i as u64, 0, 0) % (i as u64 + 1)) as usize);
        }
        let mut place = vec![0; order.len()];
        for (i, &agent) in order.iter().enumerate() {
            place[agent as usize] = i as u32;
        }
        let metrics: Result<_, _> = (0..plan.metrics)
            .map(|m| MetricName::new(&metric_name(m)))
            .collect();
        let mut fleet = Self {
            plan: plan.clone(),
            metrics: metrics?,
            order,
            place,
            tx: vec![0; agents as usize],
            past: Vec::new(),
            events: Vec::new(),
            samples: Vec::new(),
        };
        let past = (0..agents).map(|a| fleet.past_before(a, 0) as u16);
        fleet.past = past.collect();
        Ok(fleet)
    }

    /// The n-th batch of the traffic.
    pub fn batch_at(&self, n: u64) -> Batch {
        let agents = self.plan.agents;
        Batch {
            agent: self.order[(n % agents) as usize],
            round: (n / agents) as i32,
            tx_no: 0,
        }
    }

    /// When the n-th batch is made, microseconds.
    pub fn time_at(&self, n: u64) -> i64 {
        let (cycle, agents) = (self.plan.cycle(), self.plan.agents);
        let within = (n % agents) as i64 * cycle / agents as i64;
        START * SECOND + (n / agents) as i64 * cycle + within
    }

    /// When a batch is made.
    fn made(&self, b: &Batch) -> i64 {
        let within =
            i64::from(self.place[b.agent as usize]) * self.plan.cycle() / self.plan.agents as i64;
        START * SECOND + i64::from(b.round) * self.plan.cycle() + within
    }

    fn hash_of(&self, purpose: u64, b: &Batch) -> u64 {
        hash(purpose, u64::from(b.agent), b.round as u64, 0)
    }

    /// Whether it is kept back.
    pub fn is_late(&self, b: &Batch) -> bool {
        hit(self.hash_of(3, b), self.plan.late_share)
    }

    /// When it comes for the first time.
    pub fn due(&self, b: &Batch) -> i64 {
        let delay = match self.is_late(b) {
            true => 1 + (self.hash_of(4, b) % (LATE_MAX * SECOND) as u64) as i64,
            false => 0,
        };
        self.made(b) + delay
    }

    /// When it comes a second time, if it does.
    pub fn repeated(&self, b: &Batch) -> Option<i64> {
        let again = hit(self.hash_of(5, b), self.plan.repeat_share);
        again.then(|| self.due(b) + (self.hash_of(6, b) % (60 * SECOND) as u64) as i64)
    }

    fn rounds_back(&self) -> i32 {
        (LATE_MAX * SECOND / self.plan.cycle() + 1) as i32
    }

    /// Batches of an agent from before the start and from before this round that come after the start.
    fn past_before(&self, agent: u32, round: i32) -> u64 {
        self.past_of(agent).filter(|b| b.round < round).count() as u64
    }

    /// Batches of an agent from before the start that come after it.
    pub fn past_of(&self, agent: u32) -> impl Iterator<Item = Batch> + '_ {
        (-self.rounds_back()..0)
            .map(move |round| Batch {
                agent,
                round,
                tx_no: 0,
            })
            .filter(|b| self.is_late(b) && self.due(b) >= START * SECOND)
    }

    /// The time of the first event in a batch.
    fn oldest(&self, b: &Batch) -> i64 {
        self.made(b) - (self.plan.batch_rounds as i64 - 1) * self.plan.interval - POLL
    }

    /// How many other batches the agent holds at a time, and the earliest event time in them.
    fn held(&self, b: &Batch, at: i64) -> (u64, Option<i64>) {
        let newest = ((at - START * SECOND) / self.plan.cycle()) as i32;
        let (mut n, mut oldest) = (0, None);
        // Up to the batch that is being filled.
        for round in newest - self.rounds_back() - 1..=newest + 1 {
            let other = Batch { round, ..*b };
            let first = self.oldest(&other);
            if round != b.round && first <= at && self.due(&other) > at {
                n += 1;
                oldest = oldest.or(Some(first));
            }
        }
        (n, oldest)
    }

    /// The partition of an agent.
    pub fn partition(&self, agent: u32) -> usize {
        let slot = slot::of(&agent_name(agent));
        usize::from(slot::partition(slot, self.plan.partitions))
    }

    fn site(&self, agent: u32) -> u64 {
        hash(7, u64::from(agent), 0, 0) % self.plan.sites
    }

    fn round_of_events(&mut self, agent: u32, at: i64) {
        let per_agent = self.plan.per_agent;
        for d in 0..per_agent {
            let device = u64::from(agent) * per_agent + d;
            let time = at - POLL + (d + 1) as i64 * POLL / per_agent as i64;
            let site = self.site(agent);
            self.events
                .extend((0..self.plan.metrics).map(|metric| Event {
                    device,
                    site,
                    metric,
                    time,
                    value: value(metric, device, time),
                }));
        }
    }

    fn fill_samples(&mut self) -> anyhow::Result<()> {
        let mut device: Option<(u64, DeviceId)> = None;
        for e in &self.events {
            let id = match &device {
                Some((number, id)) if *number == e.device => id.clone(),
                _ => DeviceId::new(&device_name(e.device))?,
            };
            device = Some((e.device, id.clone()));
            self.samples.push(Sample {
                device: id,
                metric: self.metrics[e.metric as usize].clone(),
                time: EventTime(e.time),
                value: Value::Number(e.value),
            });
        }
        Ok(())
    }

    /// The record with which an agent shows itself: the sites of its devices and a first round of values.
    ///
    /// **Errors**: a batch that does not encode.
    pub fn register(&mut self, agent: u32, at: i64) -> anyhow::Result<(Vec<u8>, &[Event])> {
        self.events.clear();
        self.samples.clear();
        let metric = MetricName::new("@site")?;
        let site = site_name(self.site(agent));
        for d in 0..self.plan.per_agent {
            self.samples.push(Sample {
                device: DeviceId::new(&device_name(u64::from(agent) * self.plan.per_agent + d))?,
                metric: metric.clone(),
                time: EventTime(at - POLL),
                value: Value::Text(site.as_str().into()),
            });
        }
        self.round_of_events(agent, at);
        self.fill_samples()?;
        let n = self.samples.len() as u64;
        let record = self.encode(agent, at, 1, at, (n, at - POLL))?;
        Ok((record, &self.events))
    }

    /// The record of a batch that comes now, and its events. It gets its number if it comes for the first time.
    ///
    /// **Errors**: a batch that does not encode.
    pub fn send(&mut self, b: &mut Batch) -> anyhow::Result<(Vec<u8>, &[Event])> {
        self.events.clear();
        self.samples.clear();
        let made = self.made(b);
        for back in (0..self.plan.batch_rounds as i64).rev() {
            self.round_of_events(b.agent, made - back * self.plan.interval);
        }
        self.fill_samples()?;
        if b.tx_no == 0 {
            let tx = &mut self.tx[b.agent as usize];
            *tx += 1;
            // The first was that of the registration.
            b.tx_no = *tx + 1;
        }
        let before = match b.round {
            0.. => u64::from(self.past[b.agent as usize]) + b.round as u64,
            _ => self.past_before(b.agent, b.round),
        };
        let first = self.plan.first_events() + before * self.plan.batch_events() + 1;
        // A repeat is the same bytes again.
        let at = self.due(b);
        let (others, oldest) = self.held(b, at);
        let own = self.oldest(b);
        let held = (
            (others + 1) * self.plan.batch_events(),
            oldest.map_or(own, |o| o.min(own)),
        );
        let mark = oldest.unwrap_or(at);
        let record = self.encode_as(b, at, first, mark, held)?;
        Ok((record, &self.events))
    }

    fn encode(
        &self,
        agent: u32,
        at: i64,
        first_seq: u64,
        mark: i64,
        held: (u64, i64),
    ) -> anyhow::Result<Vec<u8>> {
        let b = Batch {
            agent,
            round: 0,
            tx_no: 1,
        };
        self.encode_as(&b, at, first_seq, mark, held)
    }

    fn encode_as(
        &self,
        b: &Batch,
        at: i64,
        first_seq: u64,
        mark: i64,
        (held, oldest): (u64, i64),
    ) -> anyhow::Result<Vec<u8>> {
        let incarnation = Incarnation {
            no: 1,
            rand: hash(8, u64::from(b.agent), 0, 0),
        };
        let header = BatchHeader {
            agent: AgentId::new(&agent_name(b.agent))?,
            incarnation,
            tx_no: u64::from(b.tx_no),
            sent_at: EventTime(at),
            boottime_us: at.unsigned_abs(),
            clock: ClockState {
                quality: ClockQuality::Ntp,
                error_ms: 5,
            },
            e_inc: incarnation,
            first_seq,
            count: self.samples.len() as u32,
            low_watermark: EventTime(mark),
            quiet_until: None,
            held: Held {
                events: held,
                bytes: held * 2,
                oldest: Some(EventTime(oldest)),
            },
            lineage: Vec::new(),
            unclean: None,
            gaps: Vec::new(),
        };
        let raw = batch::encode(&header, &self.samples)?;
        Ok(Record::encode_batch(&raw))
    }
}

fn agent_name(number: u32) -> String {
    format!("gw-{number:08}")
}

fn device_name(number: u64) -> String {
    format!("dev-{number:08}")
}
