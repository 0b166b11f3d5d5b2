//! The help of the program has the parts of a manual page, and no option is left out.

mod program;

use std::collections::BTreeSet;

fn help(args: &[&str]) -> String {
    let out = program::agent().args(args).arg("--help").output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", out.status);
    String::from_utf8(out.stdout).unwrap()
}

/// The lines of one part, without its title.
#[track_caller]
fn part<'a>(text: &'a str, title: &str) -> Vec<&'a str> {
    let lines: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.starts_with(title))
        .skip(1)
        .take_while(|line| line.is_empty() || line.starts_with(' '))
        .collect();
    assert!(
        lines.iter().any(|l| !l.trim().is_empty()),
        "no part {title:?} in:\n{text}"
    );
    lines
}

const COMMANDS: &[&[&str]] = &[&[], &["run"], &["status"], &["check"]];

#[test]
fn each_help_has_all_parts_of_a_manual_page() {
    for args in COMMANDS {
        let text = help(args);
        let name = args
            .first()
            .map_or("tidewatch-agent".to_owned(), |c| (*c).to_owned());
        let first = text.lines().next().unwrap();
        assert!(
            first.contains(&name) && first.contains(" - "),
            "{args:?}: {first:?}"
        );
        let usage = text
            .lines()
            .find(|l| l.starts_with("Usage: tidewatch-agent"));
        assert!(usage.is_some_and(|l| l.contains("[OPTIONS]")), "{text}");
        for title in [
            "Description:",
            "Options:",
            "Files:",
            "Environment:",
            "Signals:",
            "Exit codes:",
            "Examples:",
        ] {
            part(&text, title);
        }
        let examples = part(&text, "Examples:").join("\n");
        assert!(
            examples.contains(args.first().unwrap_or(&"tidewatch-agent")) || *args == ["run"],
            "{args:?}: no example of it"
        );
        let wide: Vec<&str> = text.lines().filter(|l| l.chars().count() > 112).collect();
        assert!(wide.is_empty(), "{args:?}: too wide: {wide:#?}");
        // For those who look for one option only.
        let short = program::agent().args(*args).arg("-h").output().unwrap();
        let short = String::from_utf8(short.stdout).unwrap();
        assert!(
            short.contains("--config") && !short.contains("Files:"),
            "{args:?}: {short}"
        );
    }
}

#[test]
fn every_option_says_its_default() {
    for args in COMMANDS {
        let text = help(args);
        let options = part(&text, "Options:").join("\n");
        // One option is what begins with its dashes, to the next.
        let mut found = 0;
        for option in options.split("\n\n").filter(|o| !o.trim().is_empty()) {
            let names = option.trim_start().lines().next().unwrap();
            assert!(names.starts_with('-'), "{option}");
            if names.contains("--help") || names.contains("--version") {
                continue;
            }
            assert!(option.contains("[default: "), "{args:?}: {option}");
            found += 1;
        }
        assert!(found >= 7, "{args:?}: {found} options in {options}");
    }
}

#[test]
fn the_help_names_every_key_of_the_top_level_and_every_kind_of_source() {
    // The sample has all keys: that is a test of the configuration.
    let sample = include_str!("../agent.sample.toml");
    let mut keys = BTreeSet::new();
    let mut is_top = true;
    for line in sample.lines() {
        let bare = line
            .strip_prefix("# ")
            .or(line.strip_prefix('#'))
            .unwrap_or(line);
        if bare.starts_with('[') && bare.ends_with(']') {
            is_top = false;
            if !bare.contains('.') {
                keys.insert(bare.to_owned());
            }
        } else if let Some((key, _)) = bare.split_once(" = ")
            && is_top
            && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        {
            keys.insert(key.to_owned());
        }
    }
    assert!(
        keys.contains("exit_when_done") && keys.contains("[buffer]"),
        "{keys:?}"
    );
    let kinds = sample.lines().filter_map(|line| {
        let kind = line
            .trim_start_matches(['#', ' '])
            .strip_prefix("kind = ")?;
        Some(kind.trim_matches('"'))
    });
    let kinds: BTreeSet<&str> = kinds.collect();
    assert!(kinds.contains("mqtt"), "{kinds:?}");
    for args in [&[][..], &["run"]] {
        let text = help(args);
        let configuration = part(&text, "Configuration:");
        assert!(
            configuration
                .iter()
                .any(|l| l.contains("agent.sample.toml")),
            "no word of agent.sample.toml"
        );
        let named: BTreeSet<&str> = configuration
            .iter()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        let missing: Vec<&String> = keys
            .iter()
            .filter(|k| !named.contains(k.as_str()))
            .collect();
        assert!(missing.is_empty(), "not in the help: {missing:?}");
        let words = configuration.join(" ");
        let words: BTreeSet<&str> = words.split([' ', ',']).collect();
        let missing: Vec<&&str> = kinds.iter().filter(|k| !words.contains(**k)).collect();
        assert!(
            missing.is_empty(),
            "kinds that are not in the help: {missing:?}"
        );
    }
}
