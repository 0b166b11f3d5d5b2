//! What goes wrong in a run, and when: a TOML file or a built-in name.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use crate::device::Metric;
use crate::duration::{deserialize, deserialize_option, micros};
use crate::rng::{Rng, Shuffle};

/// The documented sample file.
pub const SAMPLE: &str = include_str!("../scenario.sample.toml");
/// Largest scenario file, bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most entries of each kind.
pub const ENTRIES_MAX: usize = 256;

/// What goes wrong. `scenario.sample.toml` documents every key.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Faults of network and agents, all the time.
    #[serde(default)]
    pub faults: Faults,
    /// Agents that go away and come back.
    #[serde(default)]
    pub outage: Vec<Outage>,
    /// Devices that measure something else.
    #[serde(default)]
    pub fault: Vec<DeviceFault>,
}

/// Probabilities (0 to 1) and a rate.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// A batch is sent twice.
    pub duplicate: f64,
    /// An ack that arrives is ignored.
    pub lost_ack: f64,
    /// A batch is held back behind later ones.
    pub reorder: f64,
    /// Restarts per agent and minute.
    pub restart: f64,
    /// How long a restarting agent is away.
    #[serde(deserialize_with = "deserialize")]
    pub restart_down: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            duplicate: 0.0,
            lost_ack: 0.0,
            reorder: 0.0,
            restart: 0.0,
            restart_down: Duration::from_secs(1),
        }
    }
}

/// Agents lose their connection from `from` to `to`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outage {
    /// Which agents.
    pub agents: Choice,
    /// Since the start of the run.
    #[serde(deserialize_with = "deserialize")]
    pub from: Duration,
    /// Since the start of the run.
    #[serde(deserialize_with = "deserialize")]
    pub to: Duration,
    /// Repeats with this period.
    #[serde(default, deserialize_with = "deserialize_option")]
    pub every: Option<Duration>,
}

/// Devices measure something else from `from` to `to`. Exactly one of `value` and `offset` is set.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceFault {
    /// Which devices.
    pub devices: Choice,
    /// Which metric.
    pub metric: String,
    /// Since the start of the run.
    #[serde(deserialize_with = "deserialize")]
    pub from: Duration,
    /// Since the start of the run.
    #[serde(deserialize_with = "deserialize")]
    pub to: Duration,
    /// Repeats with this period.
    #[serde(default, deserialize_with = "deserialize_option")]
    pub every: Option<Duration>,
    /// What is measured instead.
    pub value: Option<f64>,
    /// What is added.
    pub offset: Option<f64>,
}

/// Which of the agents or devices are hit.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Choice {
    /// So many.
    Count(u64),
    /// A share, such as `10%`; at least one.
    Share(String),
    /// These.
    Names(Vec<String>),
}

impl Scenario {
    /// Nothing goes wrong.
    pub fn calm() -> Self {
        Self::default()
    }

    /// Everything goes wrong, moderately.
    pub fn rough() -> Self {
        Self {
            faults: Faults {
                duplicate: 0.05,
                lost_ack: 0.05,
                reorder: 0.05,
                restart: 0.25,
                restart_down: Duration::from_secs(1),
            },
            outage: vec![Outage {
                agents: Choice::Share("20%".to_owned()),
                from: Duration::from_secs(5),
                to: Duration::from_secs(20),
                every: Some(Duration::from_secs(30)),
            }],
            fault: vec![DeviceFault {
                devices: Choice::Share("1%".to_owned()),
                metric: "temperature".to_owned(),
                from: Duration::from_secs(10),
                to: Duration::from_secs(25),
                every: Some(Duration::from_secs(60)),
                value: None,
                offset: Some(40.0),
            }],
        }
    }

    /// Something to look at every minute: a gateway drives through a tunnel, a device overheats, the
    /// network repeats and reorders a little.
    pub fn demo() -> Self {
        Self {
            faults: Faults {
                duplicate: 0.01,
                lost_ack: 0.01,
                reorder: 0.02,
                ..Faults::default()
            },
            outage: vec![Outage {
                agents: Choice::Count(1),
                from: Duration::from_secs(20),
                to: Duration::from_secs(50),
                every: Some(Duration::from_secs(60)),
            }],
            fault: vec![DeviceFault {
                devices: Choice::Count(1),
                metric: "temperature".to_owned(),
                from: Duration::from_secs(15),
                to: Duration::from_secs(45),
                every: Some(Duration::from_secs(90)),
                value: None,
                offset: Some(45.0),
            }],
        }
    }

    /// A built-in scenario (`calm`, `rough`, `demo`), or else the file at that path.
    ///
    /// **Errors**: no such name or file, a file over [`FILE_BYTES_MAX`], a key or value that is wrong
    /// (with its line).
    pub fn load(name_or_path: &str) -> anyhow::Result<Self> {
        match name_or_path {
            "calm" => return Ok(Self::calm()),
            "rough" => return Ok(Self::rough()),
            "demo" => return Ok(Self::demo()),
            _ => {}
        }
        let path = Path::new(name_or_path);
        let size = std::fs::metadata(path).map(|m| m.len()).with_context(|| {
            format!("scenario {name_or_path:?} is neither calm, rough or demo nor a readable file")
        })?;
        ensure!(
            size <= FILE_BYTES_MAX,
            "scenario file of {size} bytes is over {FILE_BYTES_MAX}"
        );
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("reading the scenario {name_or_path:?}"))?;
        Self::parse(&text).with_context(|| format!("in the scenario {name_or_path:?}"))
    }

    /// Reads the TOML text.
    ///
    /// **Errors**: as [`Scenario::load`].
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> anyhow::Result<()> {
        let f = &self.faults;
        for (name, p) in [
            ("duplicate", f.duplicate),
            ("lost_ack", f.lost_ack),
            ("reorder", f.reorder),
        ] {
            // Certain loss would make a run that cannot end.
            ensure!(
                (0.0..=0.95).contains(&p),
                "faults.{name} = {p} must be 0 to 0.95"
            );
        }
        ensure!(
            (0.0..=600.0).contains(&f.restart),
            "faults.restart = {} must be 0 to 600 a minute",
            f.restart
        );
        ensure!(
            self.outage.len() <= ENTRIES_MAX && self.fault.len() <= ENTRIES_MAX,
            "at most {ENTRIES_MAX} entries of a kind"
        );
        for o in &self.outage {
            check_times("outage", o.from, o.to, o.every)?;
            o.agents.check()?;
        }
        for f in &self.fault {
            check_times("fault", f.from, f.to, f.every)?;
            f.devices.check()?;
            match Metric::of_name(&f.metric) {
                Some(m) if m.is_number() => {}
                _ => bail!(
                    "fault.metric = {:?} must be temperature, humidity, vibration or battery",
                    f.metric
                ),
            }
            match (f.value, f.offset) {
                (Some(v), None) | (None, Some(v)) => {
                    ensure!(
                        v.abs() <= 1e6,
                        "fault.value and fault.offset must be within ±1000000"
                    );
                }
                _ => bail!("a fault needs either `value` or `offset`"),
            }
        }
        Ok(())
    }
}

fn check_times(
    what: &str,
    from: Duration,
    to: Duration,
    every: Option<Duration>,
) -> anyhow::Result<()> {
    ensure!(from < to, "{what}: `from` must be before `to`");
    if let Some(every) = every {
        ensure!(
            to - from < every,
            "{what}: `every` must be longer than from `from` to `to`"
        );
    }
    Ok(())
}

impl Choice {
    fn check(&self) -> anyhow::Result<()> {
        if let Self::Share(text) = self {
            let percent = text
                .strip_suffix('%')
                .and_then(|n| n.trim().parse::<f64>().ok());
            match percent {
                Some(p) if (0.0..=100.0).contains(&p) => {}
                _ => bail!("{text:?} is no share; write for example \"10%\", a number or names"),
            }
        }
        Ok(())
    }

    fn count(&self, n: u64) -> u64 {
        match self {
            Self::Count(k) => (*k).min(n),
            Self::Share(text) => {
                let percent: f64 = text
                    .strip_suffix('%')
                    .and_then(|p| p.trim().parse().ok())
                    .unwrap_or(0.0);
                if percent > 0.0 {
                    ((n as f64 * percent / 100.0).round() as u64).clamp(1, n)
                } else {
                    0
                }
            }
            Self::Names(_) => 0,
        }
    }
}

/// One stretch of time, maybe repeated, and who is hit by it. Times in microseconds of real time.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    from: u64,
    to: u64,
    every: Option<u64>,
    members: Members,
}

#[derive(Debug, Clone, PartialEq)]
enum Members {
    Ranks {
        shuffle: Shuffle,
        seed: u64,
        count: u64,
        n: u64,
    },
    Sorted(Vec<u64>),
}

impl Plan {
    /// Whether member `who` is hit at `real`, and until when.
    pub fn hits(&self, who: u64, real: u64) -> Option<u64> {
        let (round, until) = self.round(real)?;
        self.members.contains(who, round).then_some(until)
    }

    /// The next time at which anybody may be hit anew, after `real`.
    pub fn next_start(&self, real: u64) -> Option<u64> {
        if real < self.from {
            return Some(self.from);
        }
        let every = self.every?;
        Some(self.from + ((real - self.from) / every + 1) * every)
    }

    fn round(&self, real: u64) -> Option<(u64, u64)> {
        let since = real.checked_sub(self.from)?;
        let round = self.every.map_or(0, |every| since / every);
        let start = self.from + round * self.every.unwrap_or(0);
        let until = start + (self.to - self.from);
        (real < until).then_some((round, until))
    }
}

impl Members {
    fn contains(&self, who: u64, round: u64) -> bool {
        match self {
            Self::Ranks {
                shuffle,
                seed,
                count,
                n,
            } => {
                // Each round takes another stretch of the same shuffle.
                let shift = if round == 0 {
                    0
                } else {
                    Rng::new(*seed, round).below(*n)
                };
                (shuffle.rank(who) + shift) % n < *count
            }
            Self::Sorted(list) => list.binary_search(&who).is_ok(),
        }
    }
}

/// What makes a [`Plan`] of a scenario's entry.
#[derive(Clone, Copy)]
pub struct Planner<'a> {
    /// The seed of the run.
    pub seed: u64,
    /// What is chosen from: `agent` or `device`.
    pub kind: &'static str,
    /// How many there are.
    pub n: u64,
    /// Finds a name.
    pub find: &'a dyn Fn(&str) -> Option<u64>,
}

impl Planner<'_> {
    /// The plan of an entry; `index` is its position in the file.
    ///
    /// **Errors**: a name that is not in the fleet.
    pub fn plan(
        &self,
        index: usize,
        choice: &Choice,
        from: Duration,
        to: Duration,
        every: Option<Duration>,
    ) -> anyhow::Result<Plan> {
        let stream = 0x5ce4_0000 + index as u64 + (self.kind.len() as u64) * 1_000_000;
        let members = match choice {
            Choice::Names(names) => {
                let mut list = names
                    .iter()
                    .map(|name| {
                        (self.find)(name).with_context(|| {
                            format!(
                                "the scenario names {} {name:?}, which this fleet has not",
                                self.kind
                            )
                        })
                    })
                    .collect::<anyhow::Result<Vec<_>>>()?;
                list.sort_unstable();
                Members::Sorted(list)
            }
            _ => Members::Ranks {
                shuffle: Shuffle::new(self.seed, stream, self.n),
                seed: self.seed ^ stream,
                count: choice.count(self.n),
                n: self.n.max(1),
            },
        };
        Ok(Plan {
            from: micros(from),
            to: micros(to),
            every: every.map(|e| micros(e).max(1)),
            members,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_valid_and_says_what_it_means() {
        let s = Scenario::parse(SAMPLE).unwrap();
        assert_eq!(s.faults.duplicate, 0.05);
        assert_eq!(s.faults.restart_down, Duration::from_secs(1));
        assert_eq!(s.outage[0].agents, Choice::Share("10%".to_owned()));
        assert_eq!(s.outage[0].every, Some(Duration::from_secs(60)));
        assert_eq!(s.fault[0].devices, Choice::Count(3));
        assert_eq!(s.fault[0].offset, Some(40.0));
    }

    #[test]
    fn the_built_in_scenarios_are_valid() {
        for name in ["calm", "rough", "demo"] {
            Scenario::load(name).unwrap().check().unwrap();
        }
        assert!(Scenario::load("stormy").is_err());
    }

    #[test]
    fn a_file_is_loaded_by_its_path() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[faults]\nlost_ack = 0.5\n").unwrap();
        let s = Scenario::load(file.path().to_str().unwrap()).unwrap();
        assert_eq!(s.faults.lost_ack, 0.5);
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, words: &str| {
            let e = format!("{:#}", Scenario::parse(text).unwrap_err());
            assert!(e.contains(words), "{text}: {e}");
        };
        check("[faults]\nlost_acks = 0.1", "lost_acks");
        check("[faults]\nlost_ack = 1.0", "0.95");
        check(
            "[[outage]]\nagents = 1\nfrom = \"5s\"\nto = \"1s\"",
            "before",
        );
        check(
            "[[outage]]\nagents = \"ten\"\nfrom = \"1s\"\nto = \"5s\"",
            "share",
        );
        check(
            "[[outage]]\nagents = 1\nfrom = \"1\"\nto = \"5s\"",
            "duration",
        );
        check(
            "[[outage]]\nagents = 1\nfrom = \"1s\"\nto = \"9s\"\nevery = \"5s\"",
            "every",
        );
        let fault = "[[fault]]\ndevices = 1\nfrom = \"1s\"\nto = \"9s\"\n";
        check(
            &format!("{fault}metric = \"door\"\nvalue = 1.0"),
            "temperature",
        );
        check(&format!("{fault}metric = \"humidity\""), "either");
        check("outages = []", "outages");
    }

    fn plan(choice: Choice, n: u64, every: Option<u64>) -> anyhow::Result<Plan> {
        let find = |name: &str| name.strip_prefix("gw-")?.parse().ok().filter(|&i| i < n);
        Planner {
            seed: 5,
            kind: "agent",
            n,
            find: &find,
        }
        .plan(
            0,
            &choice,
            Duration::from_secs(10),
            Duration::from_secs(40),
            every.map(Duration::from_secs),
        )
    }

    #[test]
    fn a_share_hits_so_many_and_only_in_its_time() {
        let p = plan(Choice::Share("10%".to_owned()), 100, None).unwrap();
        let hit = |t: u64| {
            (0..100)
                .filter(|&i| p.hits(i, t * 1_000_000).is_some())
                .count()
        };
        assert_eq!(
            (hit(9), hit(10), hit(39), hit(40), hit(1000)),
            (0, 10, 10, 0, 0)
        );
        assert_eq!(p.next_start(0), Some(10_000_000));
        assert_eq!(p.next_start(10_000_000), None);
    }

    #[test]
    fn repeats_hit_others() {
        let p = plan(Choice::Count(3), 50, Some(60)).unwrap();
        let who = |t: u64| -> Vec<u64> {
            (0..50)
                .filter(|&i| p.hits(i, t * 1_000_000).is_some())
                .collect()
        };
        assert_eq!(who(20).len(), 3);
        assert_eq!(who(80).len(), 3);
        assert!((0..20).any(|r| who(20 + 60 * r) != who(20)));
        assert_eq!(p.hits(who(80)[0], 80_000_000), Some(100_000_000));
        assert_eq!(p.next_start(80_000_000), Some(130_000_000));
    }

    #[test]
    fn names_are_found_or_refused() {
        let p = plan(Choice::Names(vec!["gw-7".to_owned()]), 10, None).unwrap();
        assert!(p.hits(7, 20_000_000).is_some() && p.hits(6, 20_000_000).is_none());
        let e = plan(Choice::Names(vec!["gw-70".to_owned()]), 10, None).unwrap_err();
        assert!(e.to_string().contains("gw-70"), "{e}");
    }
}
