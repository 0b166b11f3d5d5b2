//! Query parameters, read strictly: what is not understood is an error that says what would be,
//! for a filter that is silently ignored shows the wrong devices as if they were the right ones.

use std::fmt::Write;

use axum::http::Uri;
use event::EventTime;
use percent_encoding::percent_decode_str;

use super::error::{ApiError, clip};

/// Items of a page where `limit` is not given.
pub const LIMIT_DEFAULT: usize = 100;
/// Most items of a page.
pub const LIMIT_MAX: usize = 1000;
/// Most parameters of a call.
const PARAMETERS_MAX: usize = 64;

/// The parameters of one call. An empty value counts as absent, except after a prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params {
    items: Vec<(String, String)>,
}

impl Params {
    /// Reads the query of `uri`. `known` are the names that the call takes, `prefixes` the beginnings
    /// (with their dot) of names such as `group.site`.
    ///
    /// **Errors**: 400 for text that is not UTF-8, a name that is not known, a name given twice, more
    /// than 64 parameters.
    pub fn read(uri: &Uri, known: &[&str], prefixes: &[&str]) -> Result<Self, ApiError> {
        let mut items: Vec<(String, String)> = Vec::new();
        for pair in uri.query().unwrap_or_default().split('&') {
            if pair.is_empty() {
                continue;
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name, name)?;
            let value = decode(value, &name)?;
            let prefixed = prefixes
                .iter()
                .any(|p| name.len() > p.len() && name.starts_with(p));
            if !prefixed && !known.contains(&name.as_str()) {
                return Err(unknown(&name, known, prefixes));
            }
            if items.iter().any(|(n, _)| *n == name) {
                let message = format!("`{}` is given twice", clip(&name));
                return Err(ApiError::bad_parameter(&name, message));
            }
            if items.len() == PARAMETERS_MAX {
                let message = format!("more than {PARAMETERS_MAX} parameters");
                return Err(ApiError::bad_parameter(&name, message));
            }
            items.push((name, value));
        }
        Ok(Self { items })
    }

    /// Reads the query of a call that takes no parameters.
    ///
    /// **Errors**: 400 if there are any.
    pub fn none(uri: &Uri) -> Result<(), ApiError> {
        Self::read(uri, &[], &[]).map(|_| ())
    }

    /// A text; none if absent or empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        let (_, value) = self.items.iter().find(|(n, _)| n == name)?;
        (!value.is_empty()).then_some(value)
    }

    /// A text that must be there.
    ///
    /// **Errors**: 400 if it is absent or empty.
    pub fn required(&self, name: &str) -> Result<&str, ApiError> {
        self.text(name)
            .ok_or_else(|| ApiError::bad_parameter(name, format!("`{name}` is needed")))
    }

    /// One of `choices`; none if absent.
    ///
    /// **Errors**: 400 that names the choices.
    pub fn choice(&self, name: &str, choices: &[&str]) -> Result<Option<&str>, ApiError> {
        match self.text(name) {
            Some(value) if !choices.contains(&value) => Err(ApiError::bad_parameter(
                name,
                format!("`{}` is none of {}", clip(value), choices.join(", ")),
            )),
            value => Ok(value),
        }
    }

    /// Yes or no; none if absent.
    ///
    /// **Errors**: 400 if it is neither `true` nor `false`.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let choice = self.choice(name, &["true", "false"])?;
        Ok(choice.map(|c| c == "true"))
    }

    /// A time in microseconds: RFC 3339, or integer milliseconds since the epoch.
    ///
    /// **Errors**: 400 if it is neither.
    pub fn time(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let millis = text.parse().ok().and_then(|ms: i64| ms.checked_mul(1000));
        // A `+` of an offset that was not encoded has become a space.
        let parsed = millis
            .or_else(|| EventTime::parse_rfc3339(text).ok().map(|t| t.0))
            .or_else(|| Some(EventTime::parse_rfc3339(&text.replace(' ', "+")).ok()?.0));
        parsed.map(Some).ok_or_else(|| {
            let message = format!(
                "`{}` is no time: give RFC 3339 such as 2026-11-22T06:37:10Z, or milliseconds \
                 since 1970 as an integer",
                clip(text)
            );
            ApiError::bad_parameter(name, message)
        })
    }

    /// The size of a page: `limit`, 100 if absent.
    ///
    /// **Errors**: 400 if it is not a number from 1 to 1000.
    pub fn limit(&self) -> Result<usize, ApiError> {
        let Some(text) = self.text("limit") else {
            return Ok(LIMIT_DEFAULT);
        };
        match text.parse() {
            Ok(n) if (1..=LIMIT_MAX).contains(&n) => Ok(n),
            _ => Err(ApiError::bad_parameter(
                "limit",
                format!("`{}` is not a number from 1 to {LIMIT_MAX}", clip(text)),
            )),
        }
    }

    /// The cursor of the last page, `after`.
    pub fn after(&self) -> Option<String> {
        self.text("after").map(str::to_owned)
    }

    /// The names and values behind a prefix: `group.site=north` gives (`site`, `north`).
    pub fn pairs(&self, prefix: &str) -> Vec<(String, String)> {
        let behind = |(name, value): &(String, String)| {
            Some((name.strip_prefix(prefix)?.to_owned(), value.clone()))
        };
        self.items.iter().filter_map(behind).collect()
    }
}

fn decode(text: &str, field: &str) -> Result<String, ApiError> {
    let spaced = text.replace('+', " ");
    match percent_decode_str(&spaced).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(ApiError::bad_parameter(
            field,
            "is not UTF-8 behind its percent signs",
        )),
    }
}

fn unknown(name: &str, known: &[&str], prefixes: &[&str]) -> ApiError {
    let shown = clip(name);
    let mut message = format!("there is no parameter `{shown}`");
    let all: Vec<&str> = known.iter().chain(prefixes).copied().collect();
    let nearest = all.iter().max_by(|a, b| {
        let likeness = |candidate: &str| {
            // `grp.site` is to be compared with `group.`, not with its value's length.
            let head = match (candidate.ends_with('.'), shown.split_once('.')) {
                (true, Some((head, _))) => format!("{head}."),
                _ => shown.clone(),
            };
            strsim::normalized_damerau_levenshtein(&head, candidate)
        };
        likeness(a).total_cmp(&likeness(b))
    });
    // Writing to a string cannot fail.
    let _ = match nearest {
        None => write!(message, "; this call takes none"),
        Some(nearest) => {
            let with_key = |name: &str| match name.ends_with('.') {
                true => format!("`{name}KEY`"),
                false => format!("`{name}`"),
            };
            let names: Vec<String> = all.iter().map(|n| with_key(n)).collect();
            let (nearest, names) = (with_key(nearest), names.join(", "));
            write!(message, "; the nearest is {nearest} of {names}")
        }
    };
    ApiError::bad_parameter(name, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["aggregate", "from", "to", "limit", "after"];

    fn read(query: &str) -> Result<Params, ApiError> {
        let uri = format!("/x?{query}").parse().unwrap();
        Params::read(&uri, KNOWN, &["group."])
    }

    #[track_caller]
    fn refuses(query: &str, words: &[&str]) {
        let error = format!("{:?}", read(query).unwrap_err());
        for word in words {
            assert!(error.contains(word), "{word} is not in {error}");
        }
    }

    #[test]
    fn reads_encoded_names_and_values() {
        let p = read("aggregate=a+b%C3%A4&group.site=plant%201&group.line=&&limit=7").unwrap();
        assert_eq!(p.text("aggregate"), Some("a bä"));
        assert_eq!(p.limit(), Ok(7));
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(
            p.pairs("group."),
            [pair("site", "plant 1"), pair("line", "")]
        );
        assert_eq!(read("").unwrap().limit(), Ok(LIMIT_DEFAULT));
        assert_eq!(read("after=").unwrap().after(), None);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest() {
        refuses("agregate=x", &["nearest is `aggregate`", "agregate"]);
        refuses("grp.site=x", &["nearest is `group.KEY`"]);
        refuses("group.=x", &["group."]);
        refuses("form=1", &["nearest is `from`"]);
        let uri = "/x?a=1".parse().unwrap();
        let error = format!("{:?}", Params::none(&uri).unwrap_err());
        assert!(error.contains("takes none"), "{error}");
    }

    #[test]
    fn what_is_ambiguous_or_broken_is_refused() {
        refuses("from=1&from=2", &["twice", "from"]);
        refuses("aggregate=%ff", &["UTF-8", "aggregate"]);
        refuses(
            &(0..65)
                .map(|i| format!("group.k{i}=1&"))
                .collect::<String>(),
            &["more than 64"],
        );
        for limit in ["0", "1001", "-1", "ten", "1e2"] {
            let p = read(&format!("limit={limit}")).unwrap();
            assert!(p.limit().is_err(), "{limit}");
        }
    }

    #[test]
    fn times_are_rfc3339_or_milliseconds() {
        let at = |text: &str| read(&format!("from={text}")).unwrap().time("from");
        assert_eq!(at("1700000000123"), Ok(Some(1_700_000_000_123_000)));
        assert_eq!(
            at("2023-11-14T22:13:20.5Z"),
            Ok(Some(1_700_000_000_500_000))
        );
        let expected = Ok(Some(1_700_000_000_000_000));
        assert_eq!(at("2023-11-15T00:13:20%2B02:00"), expected);
        assert_eq!(at("2023-11-15T00:13:20+02:00"), expected);
        assert_eq!(at(""), Ok(None));
        for bad in ["yesterday", "1.5", "2023-11-14", "9223372036854775807"] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }
}
