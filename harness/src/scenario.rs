//! What is simulated: sizes, times, what devices measure, what is declared.

use event::aggregate::Function;
use event::{AggregateSpec, Declaration};

/// A second, microseconds.
pub const SECOND: i64 = 1_000_000;
/// A minute, microseconds.
pub const MINUTE: i64 = 60 * SECOND;
/// An hour, microseconds.
pub const HOUR: i64 = 60 * MINUTE;
/// A day, microseconds.
pub const DAY: i64 = 24 * HOUR;
/// When the simulation begins, microseconds since the epoch: on a day's boundary.
pub const START: i64 = 1_750_032_000 * SECOND;

/// How large a simulation is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Agents; further ones appear as clones.
    pub agents: usize,
    /// Simulated hours until the healing begins.
    pub hours: i64,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            agents: 20,
            hours: 6,
        }
    }
}

impl Size {
    /// When the last event is made.
    pub fn end(self) -> i64 {
        START + self.hours * HOUR
    }
}

/// Metrics that devices measure: `m0` to `m2`.
pub const METRICS: usize = 3;
/// Values of the attribute `site`: `s1` to `s4`; 0 = not known.
pub const SITES: usize = 4;

/// What makes the groups of an aggregate here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupBy {
    /// One group.
    Fleet,
    /// The metric.
    Metric,
    /// The attribute `site`.
    Site,
    /// Site, then metric.
    SiteMetric,
}

/// An aggregate of the simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Its name.
    pub name: &'static str,
    /// Groups.
    pub by: GroupBy,
    /// Only this metric.
    pub metric: Option<usize>,
    /// Length of its windows, microseconds.
    pub window: i64,
    /// A window begins every so often, microseconds.
    pub hop: i64,
}

impl Plan {
    /// The number of the group of a value: metric and site as digits.
    pub fn group(&self, metric: usize, site: usize) -> u32 {
        let (metric, site) = (metric as u32 + 1, site as u32 + 1);
        match self.by {
            GroupBy::Fleet => 0,
            GroupBy::Metric => metric,
            GroupBy::Site => site,
            GroupBy::SiteMetric => site * 16 + metric,
        }
    }

    /// The number of a group as the cloud writes it; none for what no device here has.
    pub fn group_of(&self, values: &[std::sync::Arc<str>]) -> Option<u32> {
        let digit = |text: &str, prefix: char| text.strip_prefix(prefix)?.parse::<usize>().ok();
        let site = |text: &str| match text {
            "" => Some(0),
            text => digit(text, 's'),
        };
        match (self.by, values) {
            (GroupBy::Fleet, []) => Some(0),
            (GroupBy::Metric, [m]) => Some(self.group(digit(m, 'm')?, 0)),
            (GroupBy::Site, [s]) => Some(self.group(0, site(s)?)),
            (GroupBy::SiteMetric, [s, m]) => Some(self.group(digit(m, 'm')?, site(s)?)),
            _ => None,
        }
    }

    fn spec(&self) -> AggregateSpec {
        let names: &[&str] = match self.by {
            GroupBy::Fleet => &[],
            GroupBy::Metric => &["metric"],
            GroupBy::Site => &["site"],
            GroupBy::SiteMetric => &["site", "metric"],
        };
        AggregateSpec {
            name: self.name.to_owned(),
            metric: self.metric.map_or("*".to_owned(), |m| format!("m{m}")),
            group_by: names.iter().map(|n| (*n).to_owned()).collect(),
            window: self.window,
            hop: self.hop,
            functions: Function::EXACT.iter().copied().collect(),
        }
    }
}

/// Every aggregate that may be declared.
pub const PLANS: &[Plan] = &[
    Plan {
        name: "fleet",
        by: GroupBy::Fleet,
        metric: None,
        window: MINUTE,
        hop: MINUTE,
    },
    Plan {
        name: "by_metric",
        by: GroupBy::Metric,
        metric: None,
        window: 5 * MINUTE,
        hop: 5 * MINUTE,
    },
    Plan {
        name: "by_site",
        by: GroupBy::Site,
        metric: None,
        window: 20 * MINUTE,
        hop: 10 * MINUTE,
    },
    Plan {
        name: "m0_by_site_metric",
        by: GroupBy::SiteMetric,
        metric: Some(0),
        window: HOUR,
        hop: HOUR,
    },
];

/// A rule of the simulation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RulePlan {
    /// Its JSON, as config gives it.
    pub json: &'static str,
}

/// Every rule that may be declared; some have the same name and other limits.
pub const RULES: &[RulePlan] = &[
    RulePlan {
        json: r#"{"name":"hot","metric":"m0","raise":900,"clear":700}"#,
    },
    RulePlan {
        json: r#"{"name":"slow","metric":"m1","raise":500,"clear":400,"for":"5m"}"#,
    },
    RulePlan {
        json: r#"{"name":"low","metric":"m2","direction":"below","raise":100,"clear":150}"#,
    },
    RulePlan {
        json: r#"{"name":"hot","metric":"m0","raise":800,"clear":700}"#,
    },
    RulePlan {
        json: r#"{"name":"jump","metric":"m1","kind":"rate","direction":"either","raise":600,"clear":300,"within":"10m"}"#,
    },
    RulePlan {
        json: r#"{"name":"frozen","metric":"m2","kind":"stuck","tolerance":70,"for":"2m"}"#,
    },
];

/// What is declared at a time: positions in [`PLANS`] and [`RULES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Aggregates, in the order of the declaration.
    pub plans: Vec<usize>,
    /// Rules.
    pub rules: Vec<usize>,
}

impl Default for Declared {
    fn default() -> Self {
        Self {
            plans: vec![0, 1, 2],
            rules: vec![0, 1, 2, 4, 5],
        }
    }
}

impl Declared {
    /// As a record of the log says it.
    pub fn declaration(&self) -> Declaration {
        Declaration {
            aggregates: self.plans.iter().map(|&p| PLANS[p].spec()).collect(),
            rules: self
                .rules
                .iter()
                .map(|&r| RULES[r].json.to_owned())
                .collect(),
        }
    }
}
