//! Topic filters of MQTT 3.1.1.

use std::fmt;

/// Longest topic or filter taken, bytes. The protocol allows 65,535; no device has such.
pub const TOPIC_BYTES_MAX: usize = 1024;

/// A checked filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

impl Filter {
    /// Checks a filter.
    ///
    /// **Errors**: a text for people.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > TOPIC_BYTES_MAX {
            return Err(format!("a filter has 1 to {TOPIC_BYTES_MAX} bytes"));
        }
        if text.starts_with("$share/") {
            return Err(
                "a shared subscription may lose what belongs to us; leave out $share".into(),
            );
        }
        if text.contains('\0') {
            return Err("a filter has no NUL".to_owned());
        }
        let levels: Vec<&str> = text.split('/').collect();
        for (i, level) in levels.iter().enumerate() {
            if level.len() > 1 && level.contains(['+', '#']) {
                return Err(format!("{level:?}: + and # stand alone in their level"));
            }
            if *level == "#" && i + 1 < levels.len() {
                return Err("# is the last level".to_owned());
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// The text of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Number of levels, and whether there may be more in a topic.
    pub fn levels(&self) -> (usize, bool) {
        let n = self.0.split('/').count();
        match self.0.ends_with('#') {
            true => (n - 1, true),
            false => (n, false),
        }
    }

    /// Whether a message on `topic` is meant.
    pub fn matches(&self, topic: &str) -> bool {
        // What the broker says of itself is meant only by its name.
        if topic.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let (mut filter, mut topic) = (self.0.split('/'), topic.split('/'));
        loop {
            match (filter.next(), topic.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some("+"), Some(_)) => {}
                (Some(f), Some(t)) if f == t => {}
                _ => return false,
            }
        }
    }

    /// Whether there are topics that both mean.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (mut a, mut b) = (self.0.split('/'), other.0.split('/'));
        let mut first = true;
        loop {
            let (x, y) = (a.next(), b.next());
            let own = |t: Option<&str>| first && t.is_some_and(|t| t.starts_with('$'));
            let wild = |t: Option<&str>| matches!(t, Some("+" | "#"));
            if (own(x) && wild(y)) || (own(y) && wild(x)) {
                return false;
            }
            first = false;
            match (x, y) {
                (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
                (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
                (Some(x), Some(y)) if x == y => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Filter {
        Filter::new(text).unwrap()
    }

    #[test]
    fn filters_match_as_the_standard_says() {
        for (f, topic, expected) in [
            ("zigbee2mqtt/+", "zigbee2mqtt/kitchen", true),
            ("zigbee2mqtt/+", "zigbee2mqtt/kitchen/set", false),
            ("zigbee2mqtt/+", "zigbee2mqtt", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("+/+", "/x", true),
            ("+", "/x", false),
            ("#", "a/b", true),
            ("#", "$SYS/uptime", false),
            ("+/uptime", "$SYS/uptime", false),
            ("$SYS/#", "$SYS/uptime", true),
            ("küche/+", "küche/é", true),
            ("+", "é", true),
        ] {
            assert_eq!(filter(f).matches(topic), expected, "{f} {topic}");
        }
        for bad in ["", "a+/b", "a/#/b", "##", "$share/g/a", "a\0"] {
            assert!(Filter::new(bad).is_err(), "{bad:?}");
        }
        assert!(Filter::new(&"a".repeat(1025)).is_err());
        assert_eq!(filter("tele/+/SENSOR").levels(), (3, false));
        assert_eq!(filter("a/#").levels(), (1, true));
    }

    #[test]
    fn filters_that_share_a_topic_overlap() {
        for (a, b, expected) in [
            ("a/+", "+/b", true),
            ("a/+", "b/+", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/+", "a/+/c", false),
            ("tele/+/SENSOR", "tele/+/STATE", false),
            ("#", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("a", "a", true),
        ] {
            let (a, b) = (filter(a), filter(b));
            assert_eq!(
                (a.overlaps(&b), b.overlaps(&a)),
                (expected, expected),
                "{a} {b}"
            );
        }
    }
}
