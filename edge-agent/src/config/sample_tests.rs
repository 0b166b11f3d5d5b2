//! The sample is complete, whatever options there are: nothing here names one. What can be set is found
//! by reading the sample with every option made real and writing out what it became; what is said of an
//! option is the comment above it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json};
use toml::Table;

use super::Raw;
use super::tests::{SAMPLE, sample_without_comments};

/// Every place an option can stand, as `buffer.bytes_max` or `source(mqtt).topics.filter`. Elements of a
/// list are taken together, sources by their kind.
fn places(value: &Map<String, Json>, prefix: &str, into: &mut BTreeSet<String>) {
    for (key, value) in value {
        let place = format!("{prefix}{key}");
        match value {
            Json::Object(map) => places(map, &format!("{place}."), into),
            Json::Array(items) if items.iter().any(Json::is_object) => {
                for item in items.iter().filter_map(Json::as_object) {
                    let kind = item.get("kind").and_then(Json::as_str);
                    let kind = kind.map(|k| format!("({k})")).unwrap_or_default();
                    places(item, &format!("{place}{kind}."), into);
                }
            }
            _ => {}
        }
        into.insert(place);
    }
}

fn object(value: &impl serde::Serialize) -> Map<String, Json> {
    match serde_json::to_value(value).unwrap() {
        Json::Object(map) => map,
        other => panic!("{other} is no table"),
    }
}

fn read(text: &str) -> Option<Json> {
    let raw: Raw = toml::from_str(text).ok()?;
    Some(Json::Object(object(&raw)))
}

/// What every source can have; it stands in the sample once.
fn of_every_source() -> BTreeSet<String> {
    object(&super::raw::Common::default())
        .into_iter()
        .map(|(key, _)| key)
        .collect()
}

#[test]
fn every_option_there_is_stands_in_the_sample() {
    let text = sample_without_comments();
    let written: Table = text.parse().unwrap();
    let understood: Raw = toml::from_str(&text).unwrap();
    let (mut written_places, mut all) = (BTreeSet::new(), BTreeSet::new());
    places(&object(&written), "", &mut written_places);
    places(&object(&understood), "", &mut all);
    let common = of_every_source();
    let missing: Vec<&String> = all
        .difference(&written_places)
        .filter(|place| {
            let of_source = place
                .strip_prefix("source(")
                .and_then(|p| p.split_once(")."));
            // A unit, say, stands at one source for all.
            !of_source.is_some_and(|(_, key)| {
                common.contains(key)
                    && written_places
                        .iter()
                        .any(|w| w.starts_with("source(") && w.ends_with(&format!(").{key}")))
            })
        })
        .collect();
    assert!(missing.is_empty(), "not in agent.sample.toml: {missing:?}");

    // A list that holds tables could not be looked into if it were empty.
    for (key, value) in object(&understood) {
        let is_empty = value.as_array().is_some_and(Vec::is_empty);
        assert!(!is_empty, "agent.sample.toml has no example of {key}");
    }
    let error = toml::from_str::<Raw>("[[source]]\nkind = '?'").unwrap_err();
    let kinds: Vec<&str> = error.message().split('`').skip(3).step_by(2).collect();
    assert!(
        kinds.len() > 5 && kinds.contains(&"host"),
        "{}",
        error.message()
    );
    for kind in kinds {
        let place = format!("source({kind}).kind");
        assert!(
            written_places.contains(&place),
            "no source of kind {kind} in agent.sample.toml"
        );
    }
}

/// An option as the sample has it.
struct Example {
    /// Its table, as `source(mqtt).topics`; empty at the top.
    table: String,
    key: String,
    value: toml::Value,
    /// The comment above it, which may be for several.
    comment: String,
}

fn examples() -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let (mut table, mut comment, mut ended) = (String::new(), String::new(), false);
    for line in SAMPLE.lines() {
        let bare = line
            .strip_prefix("# ")
            .or(line.strip_prefix('#'))
            .unwrap_or(line);
        let is_header = bare.starts_with('[') && bare.ends_with(']');
        let pair = bare
            .split_once(" = ")
            .filter(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        match pair {
            _ if is_header => {
                let name = bare.trim_matches(['[', ']']);
                let within = name.strip_prefix("source.");
                let source = table.split('.').next().unwrap_or_default().to_owned();
                table = within.map_or(name.to_owned(), |inner| format!("{source}.{inner}"));
                (comment, ended) = (String::new(), false);
            }
            Some(("kind", kind)) if table.starts_with("source") && !table.contains('.') => {
                table = format!("source({})", kind.trim_matches('"'));
            }
            Some((key, value)) => {
                let parsed: Table = format!("v = {value}").parse().unwrap();
                examples.push(Example {
                    table: table.clone(),
                    key: key.to_owned(),
                    value: parsed["v"].clone(),
                    comment: comment.clone(),
                });
                ended = true;
            }
            None => {
                if ended {
                    (comment, ended) = (String::new(), false);
                }
                comment.push_str(bare);
                comment.push(' ');
            }
        }
    }
    examples
}

/// What the options of a table are when nothing is said.
fn defaults(table: &str) -> Json {
    let at = |text: &str, pointer: &str| {
        read(text)
            .and_then(|json| json.pointer(pointer).cloned())
            .unwrap_or(Json::Null)
    };
    let source = table
        .strip_prefix("source(")
        .and_then(|t| t.split_once(')'));
    if let Some((kind, inner)) = source {
        let text = format!("[[source]]\nkind = '{kind}'\n");
        return match inner.strip_prefix('.') {
            None => at(&text, "/source/0"),
            Some(inner) => at(
                &format!("{text}[[source.{inner}]]\n"),
                &format!("/source/0/{inner}/0"),
            ),
        };
    }
    if table.is_empty() {
        return at("", "");
    }
    match at("", &format!("/{table}")) {
        Json::Array(_) => at(&format!("[[{table}]]\n"), &format!("/{table}/0")),
        found => found,
    }
}

/// Words that say in what a number counts.
const UNITS: &[&str] = &[
    "ms",
    "seconds",
    "minutes",
    "hour",
    "days",
    "bytes",
    "gigabytes",
    "MiB",
    "KiB",
    "samples",
    "events",
    "batches",
    "characters",
    "percent",
    "level",
    "faster",
    "a factor without unit",
    "moved by more than this",
];
/// Ends of names that do.
const UNIT_ENDS: &[&str] = &[
    "_ms",
    "_s",
    "_bytes",
    "_gb",
    "_hours",
    "_days",
    "_percent",
    "_per_hour",
];

#[test]
fn every_option_is_explained_with_its_default_its_unit_and_an_example() {
    // What is said once of a key of sources holds for all of them.
    let mut said: BTreeMap<(String, String), Vec<Example>> = BTreeMap::new();
    for example in examples() {
        let family = example.table.split(['(', '.']).next().unwrap_or_default();
        said.entry((family.to_owned(), example.key.clone()))
            .or_default()
            .push(example);
    }
    assert!(said.len() > 100, "{} options are found", said.len());
    let mut wrong = Vec::new();
    for ((family, key), examples) in &said {
        // Names that the operator chooses are examples, not options.
        if family == "attributes" {
            continue;
        }
        let any = |holds: &dyn Fn(&Example) -> bool| examples.iter().any(holds);
        let is_default = |e: &Example| {
            let default = defaults(&e.table);
            default.get(&e.key) == Some(&serde_json::to_value(&e.value).unwrap())
        };
        let has_default = |e: &Example| is_default(e) || e.comment.contains("efault");
        if !any(&|e| e.comment.trim().len() > 10) {
            wrong.push(format!("{family}.{key}: no comment stands above it"));
        }
        // Off, none and nothing need no words; nor has what must be given a default.
        let is_nothing = |e: &Example| match defaults(&e.table).get(&e.key) {
            Some(Json::String(text)) => text.is_empty(),
            Some(Json::Array(list)) => list.is_empty(),
            Some(Json::Object(map)) => map.is_empty(),
            _ => false,
        };
        if !any(&has_default) && !any(&is_nothing) {
            wrong.push(format!("{family}.{key}: the default is not said"));
        }
        let is_number = |e: &Example| e.value.is_integer() || e.value.is_float();
        let has_unit = |e: &Example| {
            UNIT_ENDS.iter().any(|end| key.ends_with(end))
                || UNITS.iter().any(|unit| {
                    e.comment
                        .split(|c: char| !c.is_alphanumeric() && c != ' ')
                        .any(|part| format!(" {part} ").contains(&format!(" {unit} ")))
                })
        };
        if any(&is_number) && !any(&has_unit) {
            wrong.push(format!("{family}.{key}: the unit is not said"));
        }
        // A value that stands there as if it were the default, and is another.
        for e in examples {
            let default = defaults(&e.table).get(&e.key).cloned();
            let is_scalar = default
                .as_ref()
                .is_some_and(|d| d.is_number() || d.is_boolean());
            if is_scalar && !has_default(e) {
                wrong.push(format!(
                    "{}.{key}: {} is not the default, {}",
                    e.table,
                    e.value,
                    default.unwrap_or_default()
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "in agent.sample.toml:\n{}",
        wrong.join("\n")
    );
}
