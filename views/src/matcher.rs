//! Conditions on the labels of alerts, as routes, silences, maintenance windows and inhibitions have them.

use std::borrow::Cow;

use event::Matcher;
use event::operate::MATCHER_BYTES_MAX;
use regex::{Regex, RegexBuilder};

use crate::model::Alert;

/// Most bytes that a compiled pattern may take. Patterns come from operators and must not fill the memory.
const PATTERN_BYTES_MAX: usize = 256 << 10;

/// What has labels.
pub trait Labels {
    /// The text of one label; an empty one where there is none.
    fn label(&self, name: &str) -> Cow<'_, str>;
}

#[derive(Debug, Clone)]
enum Test {
    Text(Box<str>),
    Pattern(Box<Regex>),
}

#[derive(Debug, Clone)]
struct Condition {
    name: Box<str>,
    test: Test,
    wanted: bool,
}

/// Conditions of which all must hold, ready to be asked.
#[derive(Debug, Clone, Default)]
pub struct Matchers(Vec<Condition>);

impl Matchers {
    /// Compiles the patterns.
    ///
    /// **Errors**: the matcher that is none, and why.
    pub fn new(matchers: &[Matcher]) -> Result<Self, String> {
        let condition = |m: &Matcher| {
            let test = match m.is_regex {
                false => Test::Text(m.value.as_str().into()),
                true => Test::Pattern(Box::new(pattern(&m.value)?)),
            };
            Ok(Condition {
                name: m.name.as_str().into(),
                test,
                wanted: m.is_equal,
            })
        };
        matchers
            .iter()
            .map(condition)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether all hold. None at all hold for every alert.
    pub fn hold(&self, labels: &impl Labels) -> bool {
        self.0.iter().all(|c| {
            let text = labels.label(&c.name);
            let found = match &c.test {
                Test::Text(expected) => **expected == *text,
                Test::Pattern(pattern) => pattern.is_match(&text),
            };
            found == c.wanted
        })
    }
}

impl Labels for Alert {
    fn label(&self, name: &str) -> Cow<'_, str> {
        Cow::Borrowed(match name {
            "alertname" | "rule" => &self.rule,
            "severity" => self.severity,
            "device" => &self.device,
            "metric" => &self.metric,
            name => self.group.get(name).map_or("", String::as_str),
        })
    }
}

fn pattern(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(&format!("^(?s:{text})$"))
        .size_limit(PATTERN_BYTES_MAX)
        .dfa_size_limit(PATTERN_BYTES_MAX)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => {
                format!("the pattern {text:?} is too large; write a simpler one")
            }
            // The library draws the pattern over several lines; its last one says what is wrong.
            error => {
                let error = error.to_string();
                let reason = error.lines().last().unwrap_or_default();
                format!("{text:?} is no regular expression: {reason}")
            }
        })
}

/// Reads a condition as people write it: `site="plant-1"`, with `=`, `!=`, `=~` or `!~`; the quotes may be left
/// out.
///
/// **Errors**: what it should look like.
pub fn parse(text: &str) -> Result<Matcher, String> {
    let wrong = || {
        format!(
            "{text:?} must be a label, a sign (=, !=, =~ or !~) and a text, such as site=\"plant-1\""
        )
    };
    let at = text.find(['=', '!']).ok_or_else(wrong)?;
    let (name, rest) = text.split_at(at);
    let signs = [
        ("=~", true, true),
        ("!~", true, false),
        ("!=", false, false),
        ("=", false, true),
    ];
    let (sign, is_regex, is_equal) = signs
        .into_iter()
        .find(|s| rest.starts_with(s.0))
        .ok_or_else(wrong)?;
    let (name, value) = (name.trim(), rest[sign.len()..].trim());
    let value = match value.strip_prefix('"') {
        None => value.to_owned(),
        Some(quoted) => unquote(quoted).ok_or_else(wrong)?,
    };
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(wrong());
    }
    if name.len() > MATCHER_BYTES_MAX || value.len() > MATCHER_BYTES_MAX {
        return Err(format!(
            "{:?}… is too long; label and text have at most {MATCHER_BYTES_MAX} bytes",
            text.chars().take(40).collect::<String>()
        ));
    }
    let matcher = Matcher {
        name: name.to_owned(),
        value,
        is_regex,
        is_equal,
    };
    Matchers::new(std::slice::from_ref(&matcher))?;
    Ok(matcher)
}

/// What stands between quotes, the first of which is gone; `\"` and `\\` stand for themselves.
fn unquote(quoted: &str) -> Option<String> {
    let mut text = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none().then_some(text),
            '\\' => match chars.next()? {
                c @ ('"' | '\\') => text.push(c),
                // A regular expression has backslashes of its own.
                c => text.extend(['\\', c]),
            },
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Site(&'static str);

    impl Labels for Site {
        fn label(&self, name: &str) -> Cow<'_, str> {
            Cow::Borrowed(if name == "site" { self.0 } else { "" })
        }
    }

    #[track_caller]
    fn holds(text: &str, site: &'static str, expected: bool) {
        let matcher = parse(text).unwrap();
        let matchers = Matchers::new(std::slice::from_ref(&matcher)).unwrap();
        assert_eq!(matchers.hold(&Site(site)), expected, "{text} on {site:?}");
        // What people wrote reads back.
        assert_eq!(parse(&matcher.text()), Ok(matcher));
    }

    #[test]
    fn every_sign_means_what_it_says() {
        holds("site=plant-1", "plant-1", true);
        holds("site = \"plant-1\"", "plant-2", false);
        holds("site!=\"plant-1\"", "plant-2", true);
        holds("site=~\"plant-.*\"", "plant-2", true);
        holds("site!~\"plant-.*\"", "plant-2", false);
        // The whole text, not a part of it.
        holds("site=~\"plant\"", "plant-2", false);
        holds("site=~\"a|b\"", "bc", false);
        holds("site=~\"\\w+\\d\"", "plänt1", true);
        holds(r#"site="a\"b""#, "a\"b", true);
        // No label is an empty text.
        holds("team=\"\"", "x", true);
        holds("team!=\"oven\"", "x", true);
    }

    #[test]
    fn what_is_no_matcher_says_what_it_should_be() {
        for text in [
            "",
            "site",
            "=x",
            "a b=c",
            "site=\"x",
            "site=\"x\"y",
            "site!x",
            "site=\"x\\",
        ] {
            assert!(parse(text).unwrap_err().contains("such as"), "{text}");
        }
        let error = parse("site=~\"(\"").unwrap_err();
        assert!(error.contains("unclosed group"), "{error}");
        let error = parse("site=~\"(\\w{100}){100}\"").unwrap_err();
        assert!(error.contains("too large"), "{error}");
        assert!(
            parse(&format!("site={}", "x".repeat(513)))
                .unwrap_err()
                .contains("at most 512")
        );
    }
}
