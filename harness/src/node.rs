//! A machine with an agent on it: disk, clock, sensors, and the real core while the process lives.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use edge_agent::buffer::{self, open_backend};
use edge_agent::core::{Core, Stamp};
use edge_agent::uplink::session;
use event::{
    AgentId, ClockQuality, ClockState, DeviceId, EventTime, Incarnation, MetricName, Sample,
    SeqRange, Value,
};

use crate::disk::{Disk, Image};
use crate::rng::Rng;
use crate::scenario::{METRICS, SECOND};

/// A device behind an agent.
#[derive(Debug, Clone)]
struct Sensor {
    device: DeviceId,
    site: usize,
    /// When it is read next, and how often.
    next: i64,
    every: i64,
    /// Metrics it has.
    metrics: usize,
    level: [i64; METRICS],
}

/// A group whose commit failed: it may be on the disk all the same.
#[derive(Debug, Clone)]
pub struct Doubt {
    /// The numbers it was to have.
    pub range: SeqRange,
    /// What it held.
    pub samples: Vec<Sample>,
}

/// A machine.
pub struct Node {
    /// Number of the agent; clones share it.
    pub agent: u16,
    /// Id of the agent.
    pub id: AgentId,
    /// Its disk.
    pub disk: Disk,
    /// The agent, while its process lives.
    pub core: Option<Core>,
    /// Wall clock minus the true time, microseconds.
    pub offset: i64,
    /// It was taken away and never starts again; a copy of its disk goes on elsewhere.
    pub scrapped: bool,
    /// Nothing ever sets its clock, and it says so: its times are corrected when they arrive (P5). Such a
    /// machine never restarts here, so that one life says all of its clock.
    pub clockless: bool,
    /// Counts connections; what was sent on an earlier one may be lost.
    pub epoch: u32,
    /// Counts lives, so that what was planned for an earlier one is dropped.
    pub starts: u32,
    /// Whether this life has sent anything.
    pub has_spoken: bool,
    /// When it is to be asked next what it has to send.
    pub wake_at: i64,
    /// Samples that wait for the next commit; they die with the process.
    pub pending: Vec<Sample>,
    /// A group in doubt.
    pub doubt: Option<Doubt>,
    /// Images of its disk that somebody took.
    pub images: Vec<Image>,
    /// Its lives.
    pub lives: Vec<Incarnation>,
    /// The first answers to this life; and those to the one before it, if the network delivers them again.
    pub answers: Vec<Rc<Vec<u8>>>,
    /// See above.
    pub old_answers: Vec<Rc<Vec<u8>>>,
    /// So many of its next transmissions are lost.
    pub mute: u32,
    /// The newest event of each life that went over this connection.
    pub sent: BTreeMap<Incarnation, u64>,
    /// Times of samples that died in memory with the process, for the next life to tell of.
    pub unsaved: Vec<i64>,
    /// How often the clock was set; that number when samples died in memory, and when this life began.
    pub clock_sets: u32,
    /// See above.
    pub unsaved_under: u32,
    /// See above.
    pub life_under: u32,
    started: i64,
    sensors: Vec<Sensor>,
    settings: buffer::Settings,
    rng: Rng,
}

impl Node {
    /// A machine that was never started, with 1 to 4 devices.
    pub fn new(agent: u16, id: &str, now: i64, mut rng: Rng) -> Result<Self, String> {
        let sensors = (0..rng.range(1, 4))
            .map(|k| {
                let every = rng.range(60, 240) * SECOND;
                let name = format!("d{agent}-{k}");
                Ok(Sensor {
                    device: DeviceId::new(&name).map_err(|e| e.to_string())?,
                    site: 1 + agent as usize % crate::scenario::SITES,
                    next: now + rng.range(0, every),
                    every,
                    metrics: rng.range(1, METRICS as i64) as usize,
                    level: [500; METRICS],
                })
            })
            .collect::<Result<_, String>>()?;
        let settings = buffer::Settings {
            // A few have so little room that an outage overflows it.
            bytes_max: if rng.chance(200) {
                rng.range(300, 1500) as u64
            } else {
                1 << 30
            },
            cache_bytes: 64 << 10,
            chunk_events_max: rng.pick(&[8, 30, 1000]),
            chunk_bytes: rng.pick(&[150, 400, 8192]),
            // The truth knows only what the sensors said, no summaries of it.
            overflow: buffer::Overflow::DropOldest,
            ..buffer::Settings::default()
        };
        Ok(Self {
            agent,
            id: AgentId::new(id).map_err(|e| e.to_string())?,
            disk: Disk::new(Image::default()),
            core: None,
            offset: rng.range(-300, 300) * 1000,
            scrapped: false,
            clockless: false,
            epoch: 0,
            starts: 0,
            has_spoken: false,
            wake_at: i64::MAX,
            pending: Vec::new(),
            doubt: None,
            images: Vec::new(),
            lives: Vec::new(),
            answers: Vec::new(),
            old_answers: Vec::new(),
            mute: 0,
            sent: BTreeMap::new(),
            unsaved: Vec::new(),
            clock_sets: 0,
            unsaved_under: 0,
            life_under: 0,
            started: now,
            sensors,
            settings,
            rng,
        })
    }

    /// Takes away its clock: it is off by `offset`, for ever.
    pub fn lose_clock(&mut self, offset: i64) {
        self.clockless = true;
        self.offset = offset;
        self.settings.bytes_max = 1 << 30;
    }

    /// A second machine from an image of this one's disk.
    pub fn clone_from_image(&self, image: Image, rng: Rng) -> Self {
        Self {
            agent: self.agent,
            id: self.id.clone(),
            disk: Disk::new(image),
            core: None,
            pending: Vec::new(),
            doubt: None,
            images: Vec::new(),
            answers: Vec::new(),
            old_answers: Vec::new(),
            sent: BTreeMap::new(),
            unsaved: Vec::new(),
            lives: self.lives.clone(),
            sensors: self.sensors.clone(),
            settings: self.settings.clone(),
            wake_at: i64::MAX,
            has_spoken: false,
            scrapped: false,
            rng,
            ..*self
        }
    }

    /// Names of its devices.
    pub fn devices(&self) -> impl Iterator<Item = &str> {
        self.sensors.iter().map(|s| s.device.as_str())
    }

    /// Starts the process: a new life.
    ///
    /// **Errors**: the buffer does not open.
    pub fn start(&mut self, now: i64) -> Result<(), buffer_error::OpenError> {
        let (rand, jitter) = (self.rng.bits(), self.rng.bits());
        let buffer = open_backend(
            self.disk.clone(),
            &self.id,
            &self.settings,
            rand,
            self.wall(now),
        )?;
        self.lives.push(buffer.incarnation());
        let secs = Duration::from_secs;
        let settings = session::Settings {
            batch_events_max: [7, 40, 1000][(self.starts as usize + self.agent as usize) % 3],
            ack_timeout: secs(20),
            heartbeat: secs(1500),
            ..session::Settings::default()
        };
        self.core = Some(Core::new(
            self.id.clone(),
            buffer,
            settings,
            1 << 20,
            jitter,
        ));
        self.started = now;
        self.life_under = self.clock_sets;
        self.old_answers = std::mem::take(&mut self.answers);
        self.has_spoken = false;
        self.wake_at = i64::MAX;
        Ok(())
    }

    /// Its present time.
    pub fn wall(&self, now: i64) -> EventTime {
        EventTime::from_micros(now + self.offset)
    }

    /// Microseconds since the process started, as the session counts time.
    pub fn monotonic(&self, now: i64) -> Duration {
        Duration::from_micros((now - self.started).max(0) as u64)
    }

    /// The true time of a monotonic one.
    pub fn at(&self, monotonic: Duration) -> i64 {
        self.started + i64::try_from(monotonic.as_micros()).unwrap_or(i64::MAX / 2)
    }

    /// What a transmission says of this moment.
    pub fn stamp(&self, now: i64) -> Stamp {
        let wall = self.wall(now);
        let floor = self.pending.iter().map(|s| s.time).min();
        Stamp {
            wall,
            floor: floor.map_or(wall, |f| f.min(wall)),
            boottime_us: (now - self.started).max(0) as u64,
            clock: ClockState {
                quality: if self.clockless {
                    ClockQuality::None
                } else {
                    ClockQuality::Ntp
                },
                error_ms: 10,
            },
        }
    }

    /// Reads the sensors up to `now`; the samples wait for the next commit.
    pub fn read_sensors(&mut self, now: i64) {
        for sensor in &mut self.sensors {
            while sensor.next <= now {
                let time = EventTime::from_micros(sensor.next + self.offset);
                let metric = self.rng.below(sensor.metrics as u64) as usize;
                let value = value(&mut self.rng, metric, &mut sensor.level[metric]);
                if let Some(metric) = name(metric) {
                    self.pending.push(Sample {
                        device: sensor.device.clone(),
                        metric,
                        time,
                        value,
                    });
                }
                if self.rng.chance(100)
                    && let Ok(metric) = MetricName::attribute("rack")
                {
                    // It is moved about within its site: another class, the same groups.
                    self.pending.push(Sample {
                        device: sensor.device.clone(),
                        metric,
                        time,
                        value: Value::Text(format!("r{}", self.rng.below(3)).into()),
                    });
                }
                sensor.next += sensor.every / 2 + self.rng.range(0, sensor.every);
            }
        }
    }

    /// Reads nothing up to `now`: there is no process to do it.
    pub fn skip_sensors(&mut self, now: i64) {
        for sensor in &mut self.sensors {
            sensor.next = sensor.next.max(now + 1);
        }
    }

    /// A device but the last one is unplugged; none if there is no other.
    pub fn unplug(&mut self) -> Option<String> {
        let sensor = (self.sensors.len() > 1).then(|| self.sensors.remove(0))?;
        let device = sensor.device;
        self.pending.retain(|s| s.device != device);
        Some(device.as_str().to_owned())
    }

    /// Every device says where it is, as an agent does at its start.
    pub fn tell_sites(&mut self, now: i64) {
        for sensor in &self.sensors {
            let time = self.wall(now);
            if let Ok(metric) = MetricName::attribute("site") {
                self.pending.push(Sample {
                    device: sensor.device.clone(),
                    metric,
                    time,
                    value: Value::Text(format!("s{}", sensor.site).into()),
                });
            }
        }
    }

    /// Whether everything is sent, acknowledged, told and deleted.
    pub fn is_drained(&self) -> bool {
        self.core.as_ref().is_some_and(|core| {
            let buffer = core.buffer();
            self.pending.is_empty()
                && buffer.held().events == 0
                && !buffer.is_dirty()
                && buffer.announcement(1).is_empty()
        })
    }
}

/// The error type of opening, under a short name.
pub mod buffer_error {
    pub use edge_agent::buffer::OpenError;
}

fn name(metric: usize) -> Option<MetricName> {
    MetricName::new(&format!("m{metric}")).ok()
}

/// A walk with jumps, mostly in steps that a double holds exactly; some booleans, texts and odd numbers.
fn value(rng: &mut Rng, metric: usize, level: &mut i64) -> Value {
    *level = if rng.chance(250) {
        rng.range(0, 1000)
    } else {
        (*level + rng.range(-60, 60)).clamp(0, 1000)
    };
    let n = *level as f64;
    match (metric, rng.below(20)) {
        (2, 0) => Value::Bool(rng.chance(500)),
        (2, 1) => Value::Text("ok".into()),
        (_, 2) => Value::Number(-0.0),
        (_, 3) => Value::Number(n / 7.0),
        (_, 4) => Value::Number(n + 0.1),
        _ => Value::Number(n + rng.below(4) as f64 / 4.0),
    }
}
