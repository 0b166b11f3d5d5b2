//! House rules that a compiler does not check: who may know whom, and who may know the time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The arrows of the design: a crate and the crates of ours that it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("event", &[]),
    ("eventlog", &[]),
    ("rules", &[]),
    ("views", &["event"]),
    ("edge-agent", &["event", "rules"]),
    ("ingest", &["event", "eventlog"]),
    ("notify", &[]),
    (
        "processor",
        &["event", "eventlog", "notify", "rules", "views"],
    ),
    ("dashboard", &["event", "views"]),
    ("simulator", &["event"]),
    ("tests/model", &[]),
    (
        "harness",
        &[
            "edge-agent",
            "event",
            "ingest",
            "processor",
            "rules",
            "views",
        ],
    ),
];

/// Third-party crates that only some may use: only these know MQTT, HTTP or the storage engine.
const ONLY: &[(&str, &[&str])] = &[
    ("rumqttc", &["edge-agent", "ingest", "simulator"]),
    ("rumqttd", &["ingest"]),
    ("mqtt-protocol-core", &["ingest"]),
    ("axum", &["dashboard"]),
    // The harness gives the real buffer a disk in memory.
    ("redb", &["edge-agent", "eventlog", "harness"]),
    ("reqwest", &["notify"]),
];

/// Where neither clocks nor randomness nor threads nor I/O may be.
const PURE: &[&str] = &[
    "event/src",
    "rules/src",
    "views/src",
    "notify/src/format",
    "processor/src/core",
    "processor/src/alerting",
    "processor/src/outbox/queue",
    "processor/src/rollout",
];
const BANNED_IN_PURE: &[&str] = &[
    "SystemTime",
    "Instant",
    "std::time",
    "std::net",
    "std::fs",
    "std::io",
    "std::env",
    "std::thread",
    "thread_rng",
    "rand::",
    "random()",
    "RandomState",
    "tokio::",
    "Utc::now",
    "Local::now",
    "async fn",
    "println!",
];
/// The log has files and a thread, but is told the time. (Durations are not clocks.)
const TOLD_THE_TIME: &[&str] = &["eventlog/src"];
const BANNED_CLOCKS: &[&str] = &[
    "SystemTime",
    "Instant::now",
    "thread_rng",
    "rand::",
    "Utc::now",
];

/// Marks of unfinished work.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
];

/// `[dependencies]` of a crate, test and bench ones not counted.
fn dependencies(krate: &str) -> BTreeSet<String> {
    let path = root().join(krate).join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let manifest: toml::Table = text.parse().unwrap();
    let dependencies = manifest.get("dependencies").and_then(|d| d.as_table());
    dependencies
        .into_iter()
        .flat_map(|d| d.keys().cloned())
        .collect()
}

fn sources(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(
                    name.as_str(),
                    "target" | "node_modules" | "dist" | ".git" | ".venv"
                ) {
                    folders.push(path);
                }
            } else if endings.iter().any(|e| name.ends_with(e)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Lines of a source without comments and without its unit tests, numbered from 1.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let name = path.to_string_lossy();
    if name.ends_with("tests.rs") || name.contains("/tests/") {
        return Vec::new();
    }
    text.lines()
        .enumerate()
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .map(|(i, line)| {
            (
                i + 1,
                line.split("//").next().unwrap_or_default().to_owned(),
            )
        })
        .collect()
}

fn offences(folders: &[&str], banned: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for path in folders.iter().flat_map(|f| sources(f, &[".rs"])) {
        for (number, line) in code(&path) {
            for word in banned.iter().filter(|w| line.contains(**w)) {
                let shown = path.strip_prefix(root()).unwrap().display();
                found.push(format!("{shown}:{number}: {word}"));
            }
        }
    }
    found
}

#[test]
fn crates_know_only_whom_the_design_lets_them() {
    let ours: BTreeSet<&str> = ARROWS.iter().map(|a| a.0).collect();
    for (krate, allowed) in ARROWS {
        for used in dependencies(krate)
            .iter()
            .filter(|d| ours.contains(d.as_str()))
        {
            assert!(
                allowed.contains(&used.as_str()),
                "{krate} must not use {used}"
            );
        }
    }
    let folders: BTreeSet<String> = [root().to_owned(), root().join("tests")]
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap())
        .map(|e| e.unwrap().path())
        .filter(|p| p.join("Cargo.toml").is_file())
        // A workspace of its own: its targets use whatever they feed.
        .filter(|p| !p.ends_with("fuzz"))
        .map(|p| p.strip_prefix(root()).unwrap().display().to_string())
        .collect();
    let listed: BTreeSet<String> = ours.iter().map(|s| (*s).to_owned()).collect();
    assert_eq!(
        folders, listed,
        "a crate without arrows, or arrows without a crate"
    );
}

#[test]
fn only_the_right_crates_know_mqtt_http_and_the_store() {
    let users: BTreeMap<&str, BTreeSet<String>> =
        ARROWS.iter().map(|a| (a.0, dependencies(a.0))).collect();
    for (library, allowed) in ONLY {
        for (krate, _) in users.iter().filter(|u| u.1.contains(*library)) {
            assert!(allowed.contains(krate), "{krate} must not use {library}");
        }
    }
}

#[test]
fn pure_code_knows_no_clock_no_randomness_and_no_io() {
    let found = offences(PURE, BANNED_IN_PURE);
    assert!(found.is_empty(), "{}", found.join("\n"));
    let found = offences(TOLD_THE_TIME, BANNED_CLOCKS);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_core_does_not_depend_on_the_order_of_hash_maps() {
    // Maps of the core are looked up, never walked: what is walked is an array or an ordered map.
    let maps = ["wide_series", "group_index", "window_index", "self.numbers"];
    let walks = [
        ".iter()",
        ".keys()",
        ".values()",
        ".drain()",
        ".into_iter()",
    ];
    let mut found = Vec::new();
    for path in sources("processor/src/core", &[".rs"]) {
        for (number, line) in code(&path) {
            for map in maps {
                for walk in walks.iter().filter(|w| line.contains(&format!("{map}{w}"))) {
                    found.push(format!("{}:{number}: {map}{walk}", path.display()));
                }
            }
            let other_map = line.contains("HashSet") || line.contains("std::collections::HashMap");
            assert!(
                !other_map,
                "{}:{number}: use an ordered map",
                path.display()
            );
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn nothing_is_marked_as_unfinished() {
    let mut found = Vec::new();
    for path in sources(".", &[".rs", ".ts", ".tsx", ".py", ".sh", ".toml", ".mjs"]) {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        for (i, line) in text.lines().enumerate() {
            if UNFINISHED.iter().any(|m| line.contains(m)) {
                found.push(format!("{}:{}: {line}", path.display(), i + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_crate_has_the_lints_of_the_workspace() {
    for (krate, _) in ARROWS {
        let text = fs::read_to_string(root().join(krate).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = text.parse().unwrap();
        let lints = manifest.get("lints").and_then(|l| l.get("workspace"));
        assert_eq!(lints.and_then(|l| l.as_bool()), Some(true), "{krate}");
    }
}
