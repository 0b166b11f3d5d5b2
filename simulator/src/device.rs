//! What one device measures: a small state that steps forward and gives plausible values.

use std::f64::consts::TAU;
use std::sync::Arc;

use event::{MetricName, Value};

use crate::rng::Rng;

/// What is measured, and the attributes that travel as events. The number is its index everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Metric {
    /// °C, two decimals: a daily wave and a wandering noise.
    Temperature,
    /// Percent, one decimal.
    Humidity,
    /// mm/s, two decimals.
    Vibration,
    /// Percent, one decimal, slowly falling.
    Battery,
    /// Open or not.
    Door,
    /// `ok`, `degraded` or `fault`.
    State,
    /// The attribute `site`.
    Site,
    /// The attribute `model`.
    Model,
}

/// The texts of [`Metric::State`].
pub const STATES: [&str; 3] = ["ok", "degraded", "fault"];
/// The texts of [`Metric::Model`].
pub const MODELS: [&str; 3] = ["tw-100", "tw-200", "tw-300"];

impl Metric {
    /// The measured ones; attributes come behind them.
    pub const MEASURED: [Self; 6] = [
        Self::Temperature,
        Self::Humidity,
        Self::Vibration,
        Self::Battery,
        Self::Door,
        Self::State,
    ];
    /// All of them, by index.
    pub const ALL: [Self; 8] = [
        Self::Temperature,
        Self::Humidity,
        Self::Vibration,
        Self::Battery,
        Self::Door,
        Self::State,
        Self::Site,
        Self::Model,
    ];

    /// The name in the protocol.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Temperature => "temperature",
            Self::Humidity => "humidity",
            Self::Vibration => "vibration",
            Self::Battery => "battery",
            Self::Door => "door",
            Self::State => "state",
            Self::Site => "@site",
            Self::Model => "@model",
        }
    }

    /// The measured metric with that name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::MEASURED.into_iter().find(|m| m.name() == name)
    }

    /// Whether its values are plain numbers.
    pub const fn is_number(self) -> bool {
        matches!(
            self,
            Self::Temperature | Self::Humidity | Self::Vibration | Self::Battery
        )
    }

    /// Whether it is an attribute.
    pub const fn is_attribute(self) -> bool {
        matches!(self, Self::Site | Self::Model)
    }
}

/// The names and texts that events point to, made once.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    names: Vec<MetricName>,
    states: Vec<Arc<str>>,
    models: Vec<Arc<str>>,
    sites: Vec<Arc<str>>,
}

impl Vocabulary {
    /// The vocabulary of a fleet with `sites` sites.
    ///
    /// **Errors**: none in practice; the names are constants of this file.
    pub fn new(sites: u32) -> anyhow::Result<Self> {
        let texts = |list: &[&str]| list.iter().map(|&t| Arc::from(t)).collect();
        Ok(Self {
            names: Metric::ALL
                .iter()
                .map(|m| MetricName::new(m.name()))
                .collect::<Result<_, _>>()?,
            states: texts(&STATES),
            models: texts(&MODELS),
            sites: (1..=sites)
                .map(|i| Arc::from(format!("site-{i:02}")))
                .collect(),
        })
    }

    /// The metric's name.
    pub fn name(&self, metric: Metric) -> &MetricName {
        &self.names[metric as usize]
    }

    /// The name of a site.
    pub fn site(&self, site: u32) -> &Arc<str> {
        &self.sites[site as usize]
    }

    /// The value as it travels. `raw` is the number itself, 0 or 1, or the index of a text.
    pub fn value(&self, metric: Metric, raw: f64) -> Value {
        match metric {
            Metric::Door => Value::Bool(raw != 0.0),
            Metric::State => Value::Text(Arc::clone(&self.states[raw as usize])),
            Metric::Model => Value::Text(Arc::clone(&self.models[raw as usize])),
            Metric::Site => Value::Text(Arc::clone(&self.sites[raw as usize])),
            _ => Value::Number(raw),
        }
    }
}

/// One device. Its values depend on the seed, its number and its step alone, not on any clock.
#[derive(Debug, Clone)]
pub struct Device {
    rng: Rng,
    /// Hundredths of a degree beside the wave.
    drift: i32,
    /// Tenths of a percent.
    humidity: i32,
    /// Thousandths of a percent.
    battery: i32,
    /// Hundredths of a mm/s that it shakes at rest.
    shake: i32,
    /// Which twelfth of the reporting cycle it begins with.
    phase: u8,
    door: bool,
    state: u8,
}

/// Reports in a cycle.
pub const CYCLE: u64 = 12;
/// Events that a device makes in a whole cycle; a third of it a report on average.
pub const CYCLE_EVENTS: u64 = 36;

impl Device {
    /// Device `number` of a fleet.
    pub fn new(seed: u64, number: u32) -> Self {
        let mut rng = Rng::new(seed, 0xde71_ce00_0000_0000 | u64::from(number));
        Self {
            drift: rng.around(300),
            humidity: 450 + rng.around(150),
            battery: 60_000 + rng.below(40_000) as i32,
            shake: 20 + rng.below(150) as i32,
            phase: rng.below(CYCLE) as u8,
            door: false,
            state: 0,
            rng,
        }
    }

    /// Which model it is.
    pub fn model(seed: u64, number: u32) -> usize {
        Rng::new(seed, 0x30de_1000_0000_0000 | u64::from(number)).below(MODELS.len() as u64)
            as usize
    }

    /// Makes the values of report `step` (they must be taken in order): temperature and humidity
    /// always, vibration every second time, door every third, battery and state every twelfth.
    /// `day` is the part of a day gone by since the start, for the daily wave.
    pub fn report(&mut self, step: u64, day: f64, mut value: impl FnMut(Metric, f64)) {
        self.walk();
        let wave = (TAU * (day + f64::from(self.phase) / 96.0)).sin();
        let temperature = 2100 + (wave * 600.0).round() as i32 + self.drift;
        value(Metric::Temperature, f64::from(temperature) / 100.0);
        value(Metric::Humidity, f64::from(self.humidity) / 10.0);
        let at = (step + u64::from(self.phase)) % CYCLE;
        if at.is_multiple_of(2) {
            let shake = self.shake + self.rng.around(self.shake / 2);
            value(Metric::Vibration, f64::from(shake) / 100.0);
        }
        if at.is_multiple_of(3) {
            value(Metric::Door, f64::from(u8::from(self.door)));
        }
        if at == 5 {
            value(Metric::Battery, f64::from(self.battery / 100) / 10.0);
        }
        if at == 11 {
            value(Metric::State, f64::from(self.state));
        }
    }

    /// Every quantity wanders and is drawn back to its middle, so that values stay plausible however
    /// long a run takes.
    fn walk(&mut self) {
        self.drift += self.rng.around(12) - self.drift / 64;
        self.humidity =
            (self.humidity + self.rng.around(4) + (450 - self.humidity) / 64).clamp(0, 1000);
        self.battery = (self.battery - self.rng.below(8) as i32).max(0);
        let dice = self.rng.below(1000);
        if dice < 20 {
            self.door = !self.door;
        }
        self.state = match (self.state, dice) {
            (0, 990..) => 1,
            (1, 980..) => 2,
            (1 | 2, 900..) => 0,
            (state, _) => state,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_has_its_events_whatever_the_phase() {
        for number in 0..50 {
            let mut d = Device::new(9, number);
            let mut count = [0; 6];
            for step in 0..CYCLE {
                d.report(step, 0.0, |m, _| count[m as usize] += 1);
            }
            assert_eq!(count, [12, 12, 6, 1, 4, 1]);
            assert_eq!(count.iter().sum::<u64>(), CYCLE_EVENTS);
        }
    }

    #[test]
    fn values_stay_plausible_for_long() {
        let mut d = Device::new(1, 1);
        for step in 0..200_000 {
            d.report(step, step as f64 / 1000.0, |m, v| {
                let good = match m {
                    Metric::Temperature => (-5.0..50.0).contains(&v),
                    Metric::Humidity | Metric::Battery => (0.0..=100.0).contains(&v),
                    Metric::Vibration => (0.0..5.0).contains(&v),
                    Metric::Door => v == 0.0 || v == 1.0,
                    Metric::State => (0.0..3.0).contains(&v),
                    Metric::Site | Metric::Model => false,
                };
                assert!(good, "{m:?} = {v}");
            });
        }
    }

    #[test]
    fn the_seed_decides_the_values() {
        let run = |seed, number| {
            let mut d = Device::new(seed, number);
            let mut all = Vec::new();
            for step in 0..100 {
                d.report(step, 0.25, |m, v| all.push((m, v.to_bits())));
            }
            all
        };
        assert_eq!(run(1, 1), run(1, 1));
        assert_ne!(run(1, 1), run(2, 1));
        assert_ne!(run(1, 1), run(1, 2));
    }
}
