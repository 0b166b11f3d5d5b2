use super::*;
use crate::uplink::secret::{Password, Secret};

pub(super) fn load_text(
    text: &str,
    env: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Settings, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    let pairs = |list: &[(&str, &str)]| {
        list.iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect::<Vec<_>>()
    };
    load(Some(&path), pairs(env).into_iter(), &pairs(flags)).map_err(|e| {
        e.to_string()
            .replace(&path.display().to_string(), "agent.toml")
    })
}

#[track_caller]
pub(super) fn check_error(text: &str, expected: &str) {
    let error = load_text(text, &[], &[]).unwrap_err();
    assert!(
        error.contains(expected),
        "{error:?} does not contain {expected:?}"
    );
}

#[test]
fn unknown_keys_name_the_nearest_valid_one() {
    check_error(
        "sever = 'x'",
        r#"agent.toml: unknown key "sever"; did you mean "server"?"#,
    );
    check_error(
        "[buffer]\nbyte_max = 1",
        r#""buffer.byte_max"; did you mean "buffer.bytes_max"?"#,
    );
    check_error(
        "[[source]]\nkind = 'file'\npaht = 'x'",
        r#"unknown key "source[0].paht"; did you mean "source[0].path"?"#,
    );
    check_error(
        "[[source]]\nkind = 'hots'",
        r#"source[0].kind: unknown "hots"; did you mean "host"?"#,
    );
    check_error("[[source]]\nname = 'a'", "source[0].kind: is missing");
    check_error("zzzz = 1", r#"unknown key "zzzz""#);
    let env = [("TIDEWATCH_AGENT_BUFFER__COMMIT_EVENT", "1")];
    let error = load_text("", &env, &[]).unwrap_err();
    assert!(
        error.contains("did you mean \"buffer.commit_events\"?"),
        "{error}"
    );
}

#[test]
fn bad_values_name_their_key() {
    check_error(
        "agent = 'a b'",
        "agent: agent id \"a b\" has the character ' ' at byte 1",
    );
    check_error(
        "[tls]\nca = 'x'",
        "tls: is set, but server begins with mqtt://",
    );
    let tls = "server = 'mqtts://h'\n[tls]\n";
    check_error(&format!("{tls}cert = 'x'"), "tls.key: set it beside");
    check_error(&format!("{tls}key = 'x'"), "tls.cert: set it beside");
    check_error(&format!("{tls}alpn = ['']"), "tls.alpn: \"\" must have");
    check_error(&format!("{tls}server_name = 'a b'"), "tls.server_name: ");
    check_error(
        &format!("{tls}sever_name = 'x'"),
        "did you mean \"tls.server_name\"?",
    );
    check_error(
        "password = 'a'\npassword_file = 'b'",
        "password_file: password is set, too",
    );
    check_error("server = 'http://h'", "server: unknown scheme \"http\"");
    check_error(
        "server = 'mqtt://h:99999'",
        "server: \"99999\" is not a port",
    );
    check_error(
        "[uplink]\nin_flight_max = 9",
        "uplink.in_flight_max: 9 is out of range; it must be 1 to 8",
    );
    check_error(
        "[[source]]\nkind = 'file'\npath = 'x.csv'",
        "source[0].device_column: set it",
    );
    check_error(
        "[[source]]\nkind = 'file'\npath = 'x.csv'\ndevice = 'd'\ntimestamps = 'shifted'\nspeed = 0.0",
        "source[0].timestamps: \"shifted\" needs a speed",
    );
    check_error(
        "[[source]]\nkind = 'stdin'\n[[source]]\nkind = 'stdin'\nname = 'b'",
        "standard input is taken",
    );
    check_error(
        "[[source]]\nkind = 'host'\n[[source]]\nkind = 'host'",
        "\"host\" is taken",
    );
    check_error(
        "[[source]]\nkind = 'stdin'\nrename = { a = 't', b = 't' }",
        "source[0]: rename: \"a\" and \"b\" both become \"t\"",
    );
    check_error(
        "[[source]]\nkind = 'stdin'\ntime_format = '%Y-%Q'",
        "source[0]: time_format \"%Y-%Q\" is neither",
    );
    check_error(
        "[attributes]\n'a b' = 'x'\n[[source]]\nkind = 'host'",
        "attribute name",
    );
    check_error(
        "[[source]]\nkind = 'host'\ndead_band = -1.0",
        "source[0].dead_band: must be 0 or more",
    );
    check_error(
        "[[source]]\nkind = 'host'\nmin_interval_ms = 20\nmax_interval_ms = 10",
        "source[0].max_interval_ms: 10 is less",
    );
    check_error(
        "[[source]]\nkind = 'host'\ndead_bant = 1.0",
        "did you mean \"source[0].dead_band\"?",
    );
    check_error("[buffer]\nbytes_max = 'much'", "invalid type");
    check_error("a = = b", "agent.toml: ");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let text =
        "agent = 'from-file'\nserver = 'h1'\n[buffer]\nbytes_max = 100_000\ncommit_events = 5";
    let env = [
        ("TIDEWATCH_AGENT_AGENT", "from-env"),
        ("TIDEWATCH_AGENT_BUFFER__BYTES_MAX", "200000"),
        ("TIDEWATCH_AGENT_PASSWORD", "1234"),
        ("TIDEWATCH_AGENT_CONFIG", "ignored"),
        ("TIDEWATCH_DATA", "of the server"),
    ];
    let flags = [
        ("agent", "from-flag"),
        ("server", "mqtt://h2:1884"),
        ("exit_when_done", "true"),
    ];
    let settings = load_text(text, &env, &flags).unwrap();
    assert_eq!(settings.agent.as_str(), "from-flag");
    assert_eq!(settings.buffer.bytes_max, 200_000);
    assert_eq!(settings.inbox.replay_backlog_max, 100_000);
    assert_eq!(settings.inbox.commit_events, 5);
    assert_eq!(settings.link.password, Password::Text(Secret::new("1234")));
    assert_eq!(
        (settings.link.host.as_str(), settings.link.port),
        ("h2", 1884)
    );
    assert!(settings.exit_when_done);
}

#[test]
fn servers_are_read_with_and_without_scheme_and_port() {
    for (text, host, port, tls) in [
        ("h", "h", 1883, false),
        ("mqtt://h", "h", 1883, false),
        ("mqtt://h:1/", "h", 1, false),
        ("mqtts://h", "h", 8883, true),
        ("mqtts://h:1", "h", 1, true),
        ("[::1]:1884", "[::1]", 1884, false),
        ("[::1]", "[::1]", 1883, false),
    ] {
        let host = host.to_owned();
        assert_eq!(
            tls::address(text).unwrap(),
            tls::Address { host, port, tls },
            "{text}"
        );
    }
}

#[test]
fn tls_settings_come_from_file_environment_and_flags() {
    let text = "server = 'mqtts://[::1]'\n[tls]\nca = 'ca.pem'\nalpn = ['mqtt']";
    let env = [
        ("TIDEWATCH_AGENT_TLS__CERT", "c.pem"),
        ("TIDEWATCH_AGENT_PASSWORD_FILE", "/run/p"),
    ];
    let flags = [("tls.key", "1234"), ("tls.server_name", "broker")];
    let link = load_text(text, &env, &flags).unwrap().link;
    let tls = link.tls.unwrap();
    assert_eq!(tls.ca.as_deref(), Some(Path::new("ca.pem")));
    let identity = tls.identity.unwrap();
    assert_eq!(identity.cert, Path::new("c.pem"));
    assert_eq!(identity.key, Path::new("1234"));
    assert_eq!(tls.server_name.as_deref(), Some("broker"));
    assert_eq!(tls.alpn, ["mqtt"]);
    assert_eq!(link.password, Password::File("/run/p".into()));
}

#[test]
fn no_error_shows_a_secret() {
    for text in [
        "password = 918273",
        "password = \"918273",
        "password = ['918273']",
        "password = '918273'\nagent = 'a b'",
        "password = '918273'\npassword_file = 'x'",
    ] {
        let error = load_text(text, &[], &[]).unwrap_err();
        assert!(!error.contains("918273"), "{error}");
    }
    let settings = load_text("password = '918273'", &[], &[]).unwrap();
    assert!(!format!("{settings:?}").contains("918273"));
    check_error("agent = 'a'\n  b = = 1", "agent.toml: line 2, column ");
}

#[test]
fn a_password_in_the_clear_is_warned_of() {
    for (server, warned) in [
        ("mqtt://plant.example", true),
        ("mqtt://192.0.2.1:1883", true),
        ("mqtts://plant.example", false),
        ("mqtt://localhost", false),
        ("mqtt://127.0.0.1", false),
        ("mqtt://[::1]:1883", false),
    ] {
        let warning = |text: &str| load_text(text, &[], &[]).unwrap().link.warnings();
        let secret = format!("server = '{server}'\npassword = 'abc'");
        assert_eq!(warning(&secret).is_some(), warned, "{server}");
        let without = format!("server = '{server}'");
        assert_eq!(warning(&without), None, "{server}");
    }
}

#[test]
fn attributes_of_the_agent_and_of_a_source_are_joined() {
    let text = "[attributes]\nsite = 'p1'\nroom = 'a'\n[[source]]\nkind = 'host'\nattributes = { room = 'b' }";
    let settings = load_text(text, &[], &[]).unwrap();
    let attributes = &settings.sources[0].attributes;
    assert_eq!(attributes["site"], "p1");
    assert_eq!(attributes["room"], "b");
}

#[test]
fn what_every_source_has_is_read_for_each_kind() {
    let text = "[[source]]\nkind = 'stdin'\ndead_band = 0.5\nmin_interval_ms = 10\nmax_interval_ms = 20\n\
                units = { t = 'celsius' }\n[[source]]\nkind = 'host'";
    let settings = load_text(text, &[], &[]).unwrap();
    let (stdin, host) = (&settings.sources[0], &settings.sources[1]);
    assert_eq!(stdin.on_change.dead_band, Some(0.5));
    assert_eq!(stdin.on_change.max_interval, Duration::from_millis(20));
    assert_eq!(stdin.attributes["unit.t"], "celsius");
    assert!(host.on_change.is_off() && host.attributes.is_empty());
}

pub(super) const SAMPLE: &str = include_str!("../../agent.sample.toml");

/// The sample with every `# key = value` line made real.
pub(super) fn sample_without_comments() -> String {
    let mut text = String::new();
    for line in SAMPLE.lines() {
        let line = match line.strip_prefix("# ").or(line.strip_prefix("#[")) {
            Some(rest) if line.starts_with("#[") => format!("[{rest}"),
            Some(rest) => rest.to_owned(),
            None => line.to_owned(),
        };
        let is_key = line
            .split_once(" = ")
            .is_some_and(|(k, _)| k.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        if is_key || line.starts_with('[') {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}

#[test]
fn the_sample_is_valid_as_it_is_and_with_every_option_set() {
    load_text(SAMPLE, &[], &[]).unwrap();
    // Two ways to give the password are in it, and [tls] is nothing for mqtt://.
    let full = sample_without_comments()
        .replacen("\"mqtt://", "\"mqtts://", 1)
        .replacen("\npassword = ", "\n#", 1);
    load_text(&full, &[], &[]).unwrap_or_else(|e| panic!("{e}\n{full}"));
}

#[test]
fn the_sample_has_every_option() {
    let table: Table = sample_without_comments().parse().unwrap();
    for key in keys::every_key() {
        let found = match key.split_once('.') {
            Some((section, name)) => table[section].get(name).is_some(),
            None => table.contains_key(&key),
        };
        assert!(found, "{key} is not in agent.sample.toml");
    }
    let sources = table["source"].as_array().unwrap();
    for key in keys::COMMON {
        assert!(
            sources[0].get(*key).is_some(),
            "{key} is not in agent.sample.toml"
        );
    }
    for (kind, known) in [
        ("host", keys::HOST),
        ("agent", keys::OWN),
        ("stdin", keys::STDIN),
        ("file", keys::FILE),
        ("socket", inputs::SOCKET),
        ("exec", inputs::EXEC),
        ("sysfs", keys::SYSFS),
        ("mqtt", keys::MQTT),
        ("tail", keys::TAIL),
    ] {
        let source = sources
            .iter()
            .find(|s| s["kind"].as_str() == Some(kind))
            .unwrap();
        for key in known {
            assert!(
                source.get(key).is_some(),
                "{key} of {kind} is not in agent.sample.toml"
            );
        }
    }
    let rules = table["rule"].as_array().unwrap();
    for key in rule::KEYS {
        assert!(
            rules.iter().any(|r| r.get(*key).is_some()),
            "{key} of [[rule]] is not in agent.sample.toml"
        );
    }
    let topics = sources.iter().find_map(|s| s.get("topics")).unwrap();
    let topics = topics.as_array().unwrap();
    for key in keys::TOPIC_KEYS {
        assert!(
            topics.iter().any(|t| t.get(key).is_some()),
            "{key} of topics is not in agent.sample.toml"
        );
    }
}

#[test]
fn the_defaults_in_the_sample_are_the_defaults() {
    // Lines that say `(default)` hold the value that is taken without them.
    let raw: Raw = toml::from_str("").unwrap();
    let defaults = Table::try_from(&raw).unwrap();
    let table: Table = sample_without_comments().parse().unwrap();
    for section in ["buffer", "uplink"] {
        for (key, value) in defaults[section].as_table().unwrap() {
            assert_eq!(table[section].get(key), Some(value), "{section}.{key}");
        }
    }
}

#[test]
fn what_the_buffer_does_without_room_is_configured() {
    let settings = load_text("", &[], &[]).unwrap();
    assert_eq!(settings.buffer.overflow, buffer::Overflow::Compact);
    assert_eq!(settings.buffer.age_max, None);
    assert_eq!(settings.disk_free_min, 64 << 20);
    let text = "[buffer]\nage_max_s = 3600\ndisk_free_min = 0\n\
                [[source]]\nkind = 'host'\npriority = 'fault'\n[[source]]\nkind = 'agent'";
    let env = [("TIDEWATCH_AGENT_BUFFER__OVERFLOW", "drop_oldest")];
    let settings = load_text(text, &env, &[]).unwrap();
    assert_eq!(settings.buffer.overflow, buffer::Overflow::DropOldest);
    assert_eq!(settings.buffer.age_max, Some(3600));
    assert_eq!(settings.disk_free_min, 0);
    let priorities: Vec<Priority> = settings.sources.iter().map(|s| s.priority).collect();
    assert_eq!(priorities, [Priority::Fault, Priority::Normal]);
    check_error(
        "[buffer]\nage_max_s = 59",
        "buffer.age_max_s: 59 is out of range",
    );
    check_error("[buffer]\noverflow = 'newest'", "drop_oldest");
    check_error("[[source]]\nkind = 'host'\npriority = 'high'", "fault");
}
