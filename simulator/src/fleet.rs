//! Who is in a fleet: ids, which device sits behind which agent, and where.

use std::ops::Range;

use event::{AgentId, DeviceId};

use crate::Settings;
use crate::clock::Wall;
use crate::device::{Metric, Vocabulary};
use crate::scenario::{Plan, Planner};

/// The plan of a whole run, shared by its agents. Immutable.
#[derive(Debug)]
pub struct Fleet {
    /// What the run was told.
    pub settings: Settings,
    /// Names and texts.
    pub vocabulary: Vocabulary,
    /// The devices' wall clock.
    pub wall: Wall,
    /// Outages of agents.
    pub outages: Vec<Plan>,
    /// Faults of devices.
    pub faults: Vec<Fault>,
}

/// A fault of devices, ready to use.
#[derive(Debug)]
pub struct Fault {
    /// When and who.
    pub plan: Plan,
    /// Which metric.
    pub metric: Metric,
    /// What is measured instead; none = `offset` is added.
    pub value: Option<f64>,
    /// What is added.
    pub offset: f64,
}

impl Fleet {
    /// Plans the run.
    ///
    /// **Errors**: a scenario that names agents or devices which do not exist.
    pub fn new(settings: Settings, wall: Wall) -> anyhow::Result<Self> {
        let find_agent = |name: &str| number(name, &settings.agent_prefix, 4, settings.agents);
        let agents = Planner {
            seed: settings.seed,
            kind: "agent",
            n: u64::from(settings.agents),
            find: &find_agent,
        };
        let outages = settings
            .scenario
            .outage
            .iter()
            .enumerate()
            .map(|(i, o)| agents.plan(i, &o.agents, o.from, o.to, o.every))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let find_device = |name: &str| number(name, &settings.device_prefix, 6, settings.devices);
        let devices = Planner {
            seed: settings.seed,
            kind: "device",
            n: u64::from(settings.devices),
            find: &find_device,
        };
        let faults = settings
            .scenario
            .fault
            .iter()
            .enumerate()
            .map(|(i, f)| {
                Ok(Fault {
                    plan: devices.plan(i, &f.devices, f.from, f.to, f.every)?,
                    metric: Metric::of_name(&f.metric).unwrap_or(Metric::Temperature),
                    value: f.value,
                    offset: f.offset.unwrap_or(0.0),
                })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let vocabulary = Vocabulary::new(settings.sites)?;
        Ok(Self {
            vocabulary,
            wall,
            outages,
            faults,
            settings,
        })
    }

    /// Agent number `agent` (from 0): `gw-0001` and so on.
    pub fn agent_id(&self, agent: u32) -> anyhow::Result<AgentId> {
        Ok(AgentId::new(&format!(
            "{}{:04}",
            self.settings.agent_prefix,
            agent + 1
        ))?)
    }

    /// Device number `device` (from 0): `dev-000001` and so on.
    pub fn device_id(&self, device: u32) -> anyhow::Result<DeviceId> {
        Ok(DeviceId::new(&format!(
            "{}{:06}",
            self.settings.device_prefix,
            device + 1
        ))?)
    }

    /// The devices behind an agent, by number. Never empty.
    pub fn devices_of(&self, agent: u32) -> Range<u32> {
        let (n, m) = (
            u64::from(self.settings.devices),
            u64::from(self.settings.agents),
        );
        let start = |a: u64| (a * n / m) as u32;
        start(u64::from(agent))..start(u64::from(agent) + 1)
    }

    /// The site of an agent and its devices, by number.
    pub fn site_of(&self, agent: u32) -> u32 {
        agent % self.settings.sites
    }

    /// Whether an agent is cut off at `real`, and until when.
    pub fn cut_off(&self, agent: u32, real: u64) -> Option<u64> {
        self.outages
            .iter()
            .filter_map(|p| p.hits(u64::from(agent), real))
            .max()
    }

    /// The next time after `real` at which an agent may be cut off.
    pub fn next_outage(&self, real: u64) -> Option<u64> {
        self.outages.iter().filter_map(|p| p.next_start(real)).min()
    }

    /// What a device measures at `real` when a fault has its way with `value`.
    pub fn faulty(&self, device: u32, metric: Metric, real: u64, value: f64) -> f64 {
        self.faults
            .iter()
            .filter(|f| f.metric == metric && f.plan.hits(u64::from(device), real).is_some())
            // Hundredths, as the sensors give them.
            .fold(value, |v, f| {
                ((f.value.unwrap_or(v) + f.offset) * 100.0).round() / 100.0
            })
    }
}

fn number(name: &str, prefix: &str, digits: usize, n: u32) -> Option<u64> {
    let i: u32 = name.strip_prefix(prefix)?.parse().ok()?;
    let exact = format!("{prefix}{i:0digits$}") == name;
    (exact && (1..=n).contains(&i)).then(|| u64::from(i - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scenario;
    use event::EventTime;

    fn fleet(devices: u32, agents: u32, scenario: &str) -> anyhow::Result<Fleet> {
        let mut s = Settings::new("mqtt://h:1".parse().unwrap(), devices, agents, 10.0);
        s.scenario = Scenario::parse(scenario)?;
        Fleet::new(s, Wall::new(EventTime(0), 1.0))
    }

    #[test]
    fn every_device_has_one_agent() {
        for (devices, agents) in [(1, 1), (10, 3), (1000, 64), (64, 64)] {
            let f = fleet(devices, agents, "").unwrap();
            let all: Vec<u32> = (0..agents).flat_map(|a| f.devices_of(a)).collect();
            assert_eq!(all, (0..devices).collect::<Vec<_>>());
            assert!((0..agents).all(|a| !f.devices_of(a).is_empty()));
        }
    }

    #[test]
    fn ids_are_numbered_from_one_and_found_again() {
        let f = fleet(20, 3, "").unwrap();
        assert_eq!(f.agent_id(2).unwrap().as_str(), "gw-0003");
        assert_eq!(f.device_id(19).unwrap().as_str(), "dev-000020");
        assert_eq!(number("gw-0003", "gw-", 4, 3), Some(2));
        for bad in ["gw-0004", "gw-0000", "gw-3", "dev-000001", "gw-"] {
            assert_eq!(number(bad, "gw-", 4, 3), None, "{bad}");
        }
    }

    #[test]
    fn faults_change_values_of_the_named_device_only() {
        let text = "[[fault]]\ndevices = [\"dev-000002\"]\nmetric = \"temperature\"\nfrom = \"1s\"\nto = \"2s\"\noffset = 40.0";
        let f = fleet(3, 1, text).unwrap();
        assert_eq!(f.faulty(1, Metric::Temperature, 1_500_000, 21.13), 61.13);
        assert_eq!(f.faulty(1, Metric::Temperature, 2_000_000, 21.13), 21.13);
        assert_eq!(f.faulty(0, Metric::Temperature, 1_500_000, 21.13), 21.13);
        assert_eq!(f.faulty(1, Metric::Humidity, 1_500_000, 40.0), 40.0);
    }

    #[test]
    fn names_outside_the_fleet_are_refused() {
        let text = "[[outage]]\nagents = [\"gw-0009\"]\nfrom = \"1s\"\nto = \"2s\"";
        assert!(fleet(3, 1, text).is_err());
    }
}
