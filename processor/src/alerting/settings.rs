//! What the configuration says of alerts. Durations are microseconds.

use event::Matcher;

use views::matcher::Matchers;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Most routes, inhibitions and maintenance windows, each.
pub const TABLES_MAX: usize = 256;
/// Most attributes in `group_by`.
pub const GROUP_BY_MAX: usize = 4;
/// Most steps of an escalation.
pub const STEPS_MAX: usize = 8;

/// How often people hear of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// Attributes of devices that put alerts of one rule together; at most [`GROUP_BY_MAX`].
    pub group_by: Vec<String>,
    /// From the first message to the one that says how many more there are.
    pub group_wait: i64,
    /// Shortest time between two further messages about changes.
    pub group_interval: i64,
    /// How often an unacknowledged page is said again.
    pub repeat_interval: i64,
}

impl Default for Pace {
    /// By `site`; 10 s, 5 min, 4 h.
    fn default() -> Self {
        Self {
            group_by: vec!["site".to_owned()],
            group_wait: 10 * SECOND,
            group_interval: 5 * MINUTE,
            repeat_interval: 4 * HOUR,
        }
    }
}

/// Who else hears of a page that nobody acknowledges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// How long after the page began.
    pub after: i64,
    /// Notifiers.
    pub to: Vec<String>,
}

/// Who hears of which alerts.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name; pages remember it.
    pub name: String,
    /// Which alerts.
    pub matchers: Matchers,
    /// Notifiers; none = nobody.
    pub to: Vec<String>,
    /// In order of their time; at most [`STEPS_MAX`].
    pub escalate: Vec<Step>,
    /// Whether later routes are asked too.
    pub goes_on: bool,
    /// How often.
    pub pace: Pace,
}

/// While an alert that `source` matches is firing, those that `target` matches and that have the same texts of
/// the labels `equal` are not said.
#[derive(Debug, Clone)]
pub struct Inhibit {
    /// What inhibits.
    pub source: Matchers,
    /// What is inhibited.
    pub target: Matchers,
    /// Labels that must be the same.
    pub equal: Vec<String>,
}

/// A time of the week at which alerts are expected.
#[derive(Debug, Clone)]
pub struct Window {
    /// Its name.
    pub name: String,
    /// Which alerts.
    pub matchers: Matchers,
    /// The same for people.
    pub shown: Vec<Matcher>,
    /// Days on which it begins, Monday is the first.
    pub weekdays: [bool; 7],
    /// Time of day at which it begins, UTC.
    pub from: i64,
    /// Time of day at which it ends; not after `from` = on the next day.
    pub to: i64,
}

impl Window {
    /// The window of the day that begins at `midnight`; none if it has none.
    fn on(&self, midnight: i64) -> Option<(i64, i64)> {
        // 1970 began on a Thursday.
        let weekday = (midnight.div_euclid(DAY) + 3).rem_euclid(7) as usize;
        let length = match self.to - self.from {
            ahead @ 1.. => ahead,
            behind => behind + DAY,
        };
        let begin = midnight + self.from;
        self.weekdays[weekday].then_some((begin, begin + length))
    }

    /// The one that is under way at `now`, or else the next one, as (begin, end).
    pub fn around(&self, now: i64) -> Option<(i64, i64)> {
        let today = now.div_euclid(DAY) * DAY;
        (-1..=7)
            .filter_map(|day| self.on(today + day * DAY))
            .find(|(_, end)| *end > now)
    }

    pub(crate) fn is_active(&self, now: i64) -> bool {
        self.around(now).is_some_and(|(begin, _)| begin <= now)
    }

    /// When it next begins or ends.
    pub(crate) fn next_change(&self, now: i64) -> Option<i64> {
        let (begin, end) = self.around(now)?;
        Some(if begin > now { begin } else { end })
    }
}

/// When an alert that comes and goes is no news any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlapSettings {
    /// More episodes than this of one rule on one device in `within` are flapping; 0 = never. At most 100.
    pub episodes: u32,
    /// See `episodes`.
    pub within: i64,
    /// It is over when nothing fired for this long, ...
    pub quiet: i64,
    /// ... or when it fired without a break for this long.
    pub steady: i64,
}

impl Default for FlapSettings {
    /// 5 in an hour; 30 min, 10 min.
    fn default() -> Self {
        Self {
            episodes: 5,
            within: HOUR,
            quiet: 30 * MINUTE,
            steady: 10 * MINUTE,
        }
    }
}

/// Everything the configuration says of alerts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The first that matches counts. An alert that none matches, and every alert if there are none, goes to all
    /// `notifiers`.
    pub routes: Vec<Route>,
    /// Names of all notifiers.
    pub notifiers: Vec<String>,
    /// For alerts that no route matches.
    pub pace: Pace,
    /// Inhibitions.
    pub inhibit: Vec<Inhibit>,
    /// Maintenance windows.
    pub maintenance: Vec<Window>,
    /// Flapping.
    pub flap: FlapSettings,
    /// More pages than this of one rule within a minute, of devices that have none of the attributes of
    /// `group_by`, become one.
    pub storm_devices: usize,
    /// The same of groups that have them: a fleet in which every device is a site of its own.
    pub storm_groups: usize,
    /// Where people reach the page, such as `https://tidewatch.example.org`; none = messages have no link.
    pub public_url: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            routes: Vec::new(),
            notifiers: Vec::new(),
            pace: Pace::default(),
            inhibit: default_inhibit(),
            maintenance: Vec::new(),
            flap: FlapSettings::default(),
            storm_devices: 20,
            storm_groups: 200,
            public_url: None,
        }
    }
}

/// An agent that is offline explains why its devices are silent.
fn default_inhibit() -> Vec<Inhibit> {
    let kind = |kind: &str| {
        let matcher = Matcher {
            name: "kind".to_owned(),
            value: kind.to_owned(),
            is_regex: false,
            is_equal: true,
        };
        Matchers::new(&[matcher]).unwrap_or_default()
    };
    vec![Inhibit {
        source: kind("offline"),
        target: kind("silence"),
        equal: vec!["agent".to_owned()],
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(days: &[usize], from: i64, to: i64) -> Window {
        let mut weekdays = [false; 7];
        days.iter().for_each(|d| weekdays[*d] = true);
        Window {
            name: "w".to_owned(),
            matchers: Matchers::default(),
            shown: Vec::new(),
            weekdays,
            from: from * HOUR,
            to: to * HOUR,
        }
    }

    #[test]
    fn windows_recur_each_week_also_over_midnight() {
        // 2026-11-29 is a Sunday.
        let sunday = 1_795_910_400 * SECOND;
        let w = window(&[6], 22, 2);
        let begin = sunday + 22 * HOUR;
        assert_eq!(w.around(sunday), Some((begin, begin + 4 * HOUR)));
        assert!(!w.is_active(begin - 1) && w.is_active(begin));
        assert!(w.is_active(begin + 4 * HOUR - 1) && !w.is_active(begin + 4 * HOUR));
        assert_eq!(w.next_change(begin - 1), Some(begin));
        assert_eq!(w.next_change(begin), Some(begin + 4 * HOUR));
        assert_eq!(w.next_change(begin + 4 * HOUR), Some(begin + 7 * DAY));
        // From and to the same hour: a whole day.
        let w = window(&[0, 6], 0, 0);
        assert!(w.is_active(sunday) && w.is_active(sunday + DAY) && !w.is_active(sunday + 2 * DAY));
        assert_eq!(window(&[], 1, 2).next_change(sunday), None);
    }
}
