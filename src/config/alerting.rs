//! What the configuration says of alerts: `[alerting]`, `[[routes]]`, `[[inhibit]]`, `[[maintenance]]`.

use anyhow::{Context, bail, ensure};
use processor::alerting::{
    FlapSettings, GROUP_BY_MAX, Inhibit, Matchers, Pace, Route, STEPS_MAX, Settings, Step,
    TABLES_MAX, Window, parse_matcher,
};
use rules::{format_duration, parse_duration};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;
/// Longest of all durations here.
const TIME_MAX: i64 = 30 * DAY;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// `[alerting]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlertingConfig {
    /// Attributes that put alerts of a rule into one page.
    pub group_by: Vec<String>,
    /// From a page's first message to the one that says how many there are.
    pub group_wait: String,
    /// Shortest time between further messages about changes.
    pub group_interval: String,
    /// How often a page that nobody acknowledged is said again.
    pub repeat_interval: String,
    /// Pages of devices without these attributes, of one rule within a minute; further ones become one.
    pub storm_devices: u32,
    /// The same of pages of groups with them.
    pub storm_groups: u32,
    /// More episodes than this of one rule on one device within `flap_within` are flapping; 0 = never.
    pub flap_episodes: u32,
    /// See `flap_episodes`.
    pub flap_within: String,
    /// Flapping is over after so long without a fault, ...
    pub flap_quiet: String,
    /// ... or with one all the time.
    pub flap_steady: String,
    /// Whether an agent that is offline explains why its devices are silent.
    pub offline_explains_silence: bool,
    /// Where people reach the page; empty = messages have no links.
    pub public_url: String,
}

impl Default for AlertingConfig {
    fn default() -> Self {
        let (pace, flap, settings) = (
            Pace::default(),
            FlapSettings::default(),
            Settings::default(),
        );
        Self {
            group_by: pace.group_by,
            group_wait: format_duration(pace.group_wait),
            group_interval: format_duration(pace.group_interval),
            repeat_interval: format_duration(pace.repeat_interval),
            storm_devices: settings.storm_devices as u32,
            storm_groups: settings.storm_groups as u32,
            flap_episodes: flap.episodes,
            flap_within: format_duration(flap.within),
            flap_quiet: format_duration(flap.quiet),
            flap_steady: format_duration(flap.steady),
            offline_explains_silence: true,
            public_url: String::new(),
        }
    }
}

/// One of `[[routes]]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// Its name; none = `route-1` and so on by its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which alerts; none = all.
    #[serde(default)]
    pub matchers: Vec<String>,
    /// Notifiers.
    pub to: Vec<String>,
    /// Whether later routes are asked too.
    #[serde(default, rename = "continue")]
    pub goes_on: bool,
    /// Who else hears of what nobody acknowledges.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub escalate: Vec<StepConfig>,
    /// As in `[alerting]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_by: Option<Vec<String>>,
    /// As in `[alerting]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_wait: Option<String>,
    /// As in `[alerting]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_interval: Option<String>,
    /// As in `[alerting]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat_interval: Option<String>,
}

/// One step of an escalation.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepConfig {
    /// How long after the page began.
    pub after: String,
    /// Notifiers.
    pub to: Vec<String>,
}

/// One of `[[inhibit]]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InhibitConfig {
    /// Alerts that explain others.
    pub source: Vec<String>,
    /// Alerts that are explained.
    pub target: Vec<String>,
    /// Labels that must be the same on both.
    #[serde(default)]
    pub equal: Vec<String>,
}

/// One of `[[maintenance]]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaintenanceConfig {
    /// Its name.
    pub name: String,
    /// Which alerts.
    pub matchers: Vec<String>,
    /// Days on which it begins; none = every day.
    #[serde(default)]
    pub weekdays: Vec<String>,
    /// Time of day at which it begins, UTC.
    pub from: String,
    /// Time of day at which it ends, UTC.
    pub to: String,
}

/// The keys of the lists of tables, which show them only when they are filled.
pub fn known() -> [(&'static str, Value); 3] {
    let keys = |names: &[&str]| -> Table {
        let key = |name: &&str| ((*name).to_owned(), Value::Boolean(true));
        names.iter().map(key).collect()
    };
    let mut route = keys(&[
        "name",
        "matchers",
        "to",
        "continue",
        "group_by",
        "group_wait",
        "group_interval",
        "repeat_interval",
    ]);
    let step = Value::Table(keys(&["after", "to"]));
    route.insert("escalate".to_owned(), Value::Array(vec![step]));
    let inhibit = keys(&["source", "target", "equal"]);
    let maintenance = keys(&["name", "matchers", "weekdays", "from", "to"]);
    [
        ("routes", route),
        ("inhibit", inhibit),
        ("maintenance", maintenance),
    ]
    .map(|(name, table)| (name, Value::Array(vec![Value::Table(table)])))
}

/// The tables, checked. `notifiers` are the names of all of them.
///
/// **Errors**: which table and field is wrong, and how it would be right.
pub fn settings(
    alerting: &AlertingConfig,
    routes: &[RouteConfig],
    inhibit: &[InhibitConfig],
    maintenance: &[MaintenanceConfig],
    notifiers: &[String],
) -> anyhow::Result<Settings> {
    let pace = alerting.pace().context("alerting")?;
    let counts = [
        ("routes", routes.len()),
        ("inhibit", inhibit.len()),
        ("maintenance", maintenance.len()),
    ];
    for (name, count) in counts {
        ensure!(
            count <= TABLES_MAX,
            "{name}: there are {count}, at most {TABLES_MAX} are taken"
        );
    }
    let mut settings = Settings {
        notifiers: notifiers.to_vec(),
        flap: alerting.flap().context("alerting")?,
        storm_devices: alerting.storm_devices as usize,
        storm_groups: alerting.storm_groups as usize,
        public_url: public_url(&alerting.public_url).context("alerting.public_url")?,
        pace,
        ..Settings::default()
    };
    if !alerting.offline_explains_silence {
        settings.inhibit.clear();
    }
    for (at, one) in inhibit.iter().enumerate() {
        let one = one.checked();
        settings
            .inhibit
            .push(one.with_context(|| format!("inhibit number {}", at + 1))?);
    }
    for (at, route) in routes.iter().enumerate() {
        let name = route
            .name
            .clone()
            .unwrap_or_else(|| format!("route-{}", at + 1));
        ensure!(
            name != processor::alerting::DEFAULT_ROUTE
                && !settings.routes.iter().any(|r| r.name == name),
            "route {name:?}: name: there is another one of that name"
        );
        let checked = route.checked(&name, &settings.pace, notifiers);
        settings
            .routes
            .push(checked.with_context(|| format!("route {name:?}"))?);
    }
    for one in maintenance {
        ensure!(
            !one.name.is_empty() && !settings.maintenance.iter().any(|w| w.name == one.name),
            "maintenance {:?}: name: must be there, and once",
            one.name
        );
        let window = one.checked();
        settings
            .maintenance
            .push(window.with_context(|| format!("maintenance {:?}", one.name))?);
    }
    Ok(settings)
}

fn public_url(text: &str) -> anyhow::Result<Option<String>> {
    if text.is_empty() {
        return Ok(None);
    }
    let is_url = ["http://", "https://"].iter().any(|s| text.starts_with(s));
    ensure!(
        is_url && text.len() <= 256 && !text.contains(char::is_whitespace),
        "must be a link of at most 256 bytes, such as \"https://tidewatch.example.org\", it is {text:?}"
    );
    Ok(Some(text.trim_end_matches('/').to_owned()))
}

fn duration(field: &'static str, text: &str, least: i64) -> anyhow::Result<i64> {
    let time = parse_duration(text)
        .map_err(anyhow::Error::msg)
        .context(field)?;
    ensure!(
        (least..=TIME_MAX).contains(&time),
        "{field}: {text:?} must be from {} to 30d",
        format_duration(least)
    );
    Ok(time)
}

fn group_by(names: &[String]) -> anyhow::Result<Vec<String>> {
    ensure!(
        names.len() <= GROUP_BY_MAX && names.iter().all(|n| !n.is_empty() && n.len() <= 64),
        "group_by: must be at most {GROUP_BY_MAX} names of attributes, such as [\"site\"]"
    );
    Ok(names.to_vec())
}

fn matchers(
    field: &'static str,
    texts: &[String],
) -> anyhow::Result<(Matchers, Vec<event::Matcher>)> {
    ensure!(
        texts.len() <= event::operate::MATCHERS_MAX,
        "{field}: at most {} are taken",
        event::operate::MATCHERS_MAX
    );
    let parsed: Result<Vec<_>, String> = texts.iter().map(|t| parse_matcher(t)).collect();
    let parsed = parsed.map_err(anyhow::Error::msg).context(field)?;
    let compiled = Matchers::new(&parsed)
        .map_err(anyhow::Error::msg)
        .context(field)?;
    Ok((compiled, parsed))
}

fn targets(
    field: &'static str,
    to: &[String],
    notifiers: &[String],
) -> anyhow::Result<Vec<String>> {
    for name in to {
        if notifiers.contains(name) {
            continue;
        }
        let known = match notifiers.is_empty() {
            true => "there are none; add a [[notifiers]] table".to_owned(),
            false => format!("there are {}", notifiers.join(", ")),
        };
        bail!("{field}: there is no notifier {name:?}; {known}");
    }
    Ok(to.to_vec())
}

impl AlertingConfig {
    fn pace(&self) -> anyhow::Result<Pace> {
        Ok(Pace {
            group_by: group_by(&self.group_by)?,
            group_wait: duration("group_wait", &self.group_wait, 0)?,
            group_interval: duration("group_interval", &self.group_interval, SECOND)?,
            repeat_interval: duration("repeat_interval", &self.repeat_interval, 60 * SECOND)?,
        })
    }

    fn flap(&self) -> anyhow::Result<FlapSettings> {
        ensure!(
            self.flap_episodes <= 100,
            "flap_episodes: {} is too many; at most 100, 0 = never",
            self.flap_episodes
        );
        ensure!(
            self.storm_devices >= 1 && self.storm_groups >= 1,
            "storm_devices, storm_groups: must be 1 or more"
        );
        Ok(FlapSettings {
            episodes: self.flap_episodes,
            within: duration("flap_within", &self.flap_within, SECOND)?,
            quiet: duration("flap_quiet", &self.flap_quiet, SECOND)?,
            steady: duration("flap_steady", &self.flap_steady, SECOND)?,
        })
    }
}

impl RouteConfig {
    fn checked(&self, name: &str, pace: &Pace, notifiers: &[String]) -> anyhow::Result<Route> {
        ensure!(
            !name.is_empty() && name.len() <= 64,
            "name: must have 1 to 64 bytes"
        );
        ensure!(
            self.escalate.len() <= STEPS_MAX,
            "escalate: at most {STEPS_MAX} steps"
        );
        let mut escalate: Vec<Step> = Vec::new();
        for step in &self.escalate {
            let after = duration("escalate.after", &step.after, SECOND)?;
            ensure!(
                escalate.last().is_none_or(|s| s.after < after),
                "escalate.after: {:?} must be later than the step before",
                step.after
            );
            let to = targets("escalate.to", &step.to, notifiers)?;
            ensure!(!to.is_empty(), "escalate.to: name at least one notifier");
            escalate.push(Step { after, to });
        }
        let time = |field, own: &Option<String>, least, default| match own {
            Some(text) => duration(field, text, least),
            None => Ok(default),
        };
        Ok(Route {
            name: name.to_owned(),
            matchers: matchers("matchers", &self.matchers)?.0,
            to: targets("to", &self.to, notifiers)?,
            escalate,
            goes_on: self.goes_on,
            pace: Pace {
                group_by: match &self.group_by {
                    Some(names) => group_by(names)?,
                    None => pace.group_by.clone(),
                },
                group_wait: time("group_wait", &self.group_wait, 0, pace.group_wait)?,
                group_interval: time(
                    "group_interval",
                    &self.group_interval,
                    SECOND,
                    pace.group_interval,
                )?,
                repeat_interval: time(
                    "repeat_interval",
                    &self.repeat_interval,
                    60 * SECOND,
                    pace.repeat_interval,
                )?,
            },
        })
    }
}

impl InhibitConfig {
    fn checked(&self) -> anyhow::Result<Inhibit> {
        for (field, texts) in [("source", &self.source), ("target", &self.target)] {
            ensure!(
                !texts.is_empty(),
                "{field}: give at least one matcher, such as [\"severity=critical\"]"
            );
        }
        ensure!(self.equal.len() <= 8, "equal: at most 8 labels");
        Ok(Inhibit {
            source: matchers("source", &self.source)?.0,
            target: matchers("target", &self.target)?.0,
            equal: self.equal.clone(),
        })
    }
}

impl MaintenanceConfig {
    fn checked(&self) -> anyhow::Result<Window> {
        ensure!(
            !self.matchers.is_empty(),
            "matchers: give at least one, such as [\"site=plant-1\"]"
        );
        let (matchers, shown) = matchers("matchers", &self.matchers)?;
        let mut weekdays = [self.weekdays.is_empty(); 7];
        for day in &self.weekdays {
            let at = DAYS.iter().position(|d| d.eq_ignore_ascii_case(day));
            let at = at
                .with_context(|| format!("weekdays: {day:?} must be one of {}", DAYS.join(", ")))?;
            weekdays[at] = true;
        }
        Ok(Window {
            name: self.name.clone(),
            matchers,
            shown,
            weekdays,
            from: time_of_day("from", &self.from)?,
            to: time_of_day("to", &self.to)?,
        })
    }
}

fn time_of_day(field: &'static str, text: &str) -> anyhow::Result<i64> {
    let parts = text.split_once(':').and_then(|(hours, minutes)| {
        let fits = hours.len() == 2 && minutes.len() == 2;
        let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
        (fits && (0..24).contains(&hours) && (0..60).contains(&minutes))
            .then_some((hours * 60 + minutes) * 60 * SECOND)
    });
    parts.with_context(|| {
        format!("{field}: {text:?} must be a time of day, such as \"22:30\" (UTC)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Tables {
        #[serde(default)]
        alerting: AlertingConfig,
        #[serde(default)]
        routes: Vec<RouteConfig>,
        #[serde(default)]
        inhibit: Vec<InhibitConfig>,
        #[serde(default)]
        maintenance: Vec<MaintenanceConfig>,
    }

    fn read(text: &str) -> anyhow::Result<Settings> {
        let t: Tables = toml::from_str(text)?;
        let notifiers = ["ops".to_owned(), "boss".to_owned()];
        settings(
            &t.alerting,
            &t.routes,
            &t.inhibit,
            &t.maintenance,
            &notifiers,
        )
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        let error = format!("{:#}", read(text).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn all_that_can_be_said_is_understood() {
        let settings = read(
            r#"
            [alerting]
            group_wait = "5s"
            public_url = "https://tw.example.org/"
            [[routes]]
            matchers = ['severity="critical"', 'site=~"plant-.*"']
            to = ["ops"]
            continue = true
            escalate = [{ after = "15m", to = ["boss"] }]
            group_by = []
            group_wait = "1s"
            [[routes]]
            name = "rest"
            to = []
            [[inhibit]]
            source = ["severity=critical"]
            target = ["severity=warning"]
            equal = ["site"]
            [[maintenance]]
            name = "night"
            matchers = ["site=plant-1"]
            weekdays = ["Sat", "sun"]
            from = "22:00"
            to = "02:30"
            "#,
        )
        .unwrap();
        let [first, rest] = &settings.routes[..] else {
            panic!("{:?}", settings.routes)
        };
        assert_eq!((&*first.name, &*rest.name), ("route-1", "rest"));
        assert_eq!(first.escalate[0].after, 900 * SECOND);
        assert_eq!(
            (first.pace.group_wait, rest.pace.group_wait),
            (SECOND, 5 * SECOND)
        );
        assert!(first.goes_on && first.pace.group_by.is_empty());
        assert_eq!(settings.inhibit.len(), 2);
        assert_eq!(
            settings.public_url.as_deref(),
            Some("https://tw.example.org")
        );
        let night = &settings.maintenance[0];
        assert_eq!(
            night.weekdays,
            [false, false, false, false, false, true, true]
        );
        assert_eq!(night.to, (2 * 60 + 30) * 60 * SECOND);
        let none = read("[alerting]\noffline_explains_silence = false").unwrap();
        assert!(none.inhibit.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        refused("[alerting]\ngroup_wait = \"soon\"", "alerting: group_wait");
        refused(
            "[alerting]\nrepeat_interval = \"1s\"",
            "must be from 1m to 30d",
        );
        refused("[alerting]\nflap_episodes = 101", "at most 100");
        refused(
            "[alerting]\npublic_url = \"tw\"",
            "alerting.public_url: must be a link",
        );
        refused(
            "[[routes]]\nto = [\"opps\"]",
            "route \"route-1\": to: there is no notifier \"opps\"; there are ops, boss",
        );
        refused(
            "[[routes]]\nto = []\nmatchers = [\"x\"]",
            "matchers: \"x\" must be a label",
        );
        refused(
            "[[routes]]\nto = []\nmatchers = ['a=~\"(\"']",
            "no regular expression",
        );
        refused(
            "[[routes]]\nname = \"default\"\nto = []",
            "another one of that name",
        );
        refused(
            "[[routes]]\nto = []\nescalate = [{after=\"2m\",to=[\"ops\"]},{after=\"1m\",to=[\"boss\"]}]",
            "must be later than the step before",
        );
        refused(
            "[[inhibit]]\nsource = []\ntarget = [\"a=b\"]",
            "inhibit number 1: source",
        );
        let night =
            |rest: &str| format!("[[maintenance]]\nname = \"n\"\nmatchers = [\"a=b\"]\n{rest}");
        refused(
            &night("from = \"24:00\"\nto = \"01:00\""),
            "maintenance \"n\": from: \"24:00\" must be a time of day",
        );
        refused(
            &night("from = \"1:00\"\nto = \"02:00\""),
            "such as \"22:30\"",
        );
        refused(
            &night("weekdays = [\"so\"]\nfrom = \"01:00\"\nto = \"02:00\""),
            "must be one of mon, tue",
        );
    }
}
