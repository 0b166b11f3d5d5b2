use super::super::Table;
use super::super::tests::{check_error, load_text, sample_without_comments};
use super::*;

const HEAD: &str = "[[command]]\nname = 'restart'\nprogram = '/bin/true'\n";

#[test]
fn mistakes_name_their_key_and_the_remedy() {
    for (more, expected) in [
        (
            "timeout = 5",
            "unknown key \"command[0].timeout\"; did you mean \"command[0].timeout_ms\"?",
        ),
        (
            "args = ['{service}']",
            "command[0].args: say what {service} may be: allowed = { service",
        ),
        (
            "args = ['{service']",
            "command[0].args: \"{service\" has a brace without its partner",
        ),
        ("args = ['}']", "brace without its partner"),
        ("args = ['{a b}']", "a placeholder is {name}"),
        ("args = ['{}']", "a placeholder is {name}"),
        (
            "args = ['{service}']\nallowed = { servise = ['a'] }",
            "command[0].allowed: {servise} is not in `args`; did you mean \"service\"?",
        ),
        (
            "args = ['{s}']\nallowed = { s = ['a'] }\nmax_length = { s = 3 }",
            "command[0].max_length: {s} has a list",
        ),
        (
            "args = ['{s}']\nallowed = { s = ['a'] }\ncharacters = { s = 'a' }",
            "command[0].characters: {s} has a list",
        ),
        (
            "args = ['{s}']\nmax_length = { s = 0 }",
            "command[0].max_length: 0 is out of range",
        ),
        (
            "args = ['{s}']\nmax_length = { s = 3 }\ncharacters = { s = 'z-a' }",
            "command[0].characters: s: the range z-a goes down",
        ),
        (
            "timeout_ms = 0",
            "command[0].timeout_ms: 0 is out of range; it must be 1 to 86400000",
        ),
        (
            "max_per_hour = 0",
            "command[0].max_per_hour: 0 is out of range",
        ),
        (
            "dir = 'tmp'",
            "command[0].dir: \"tmp\" is not an absolute path",
        ),
        ("devices = ['a/b']", "command[0].devices: device id"),
        ("env = { 'A=B' = 'c' }", "command[0].env: \"A=B\""),
        (
            "[[command]]\nname = 'restart'\nprogram = '/bin/true'",
            "command[1].name: \"restart\" is taken",
        ),
    ] {
        check_error(&format!("{HEAD}{more}"), expected);
    }
    check_error(
        "[[command]]\nprogram = '/bin/true'",
        "command[0].name: name is empty",
    );
    check_error(
        "[[command]]\nname = 'a b'\nprogram = '/bin/true'",
        "command[0].name: name \"a b\"",
    );
    check_error(
        "[[command]]\nname = 'a'",
        "command[0].program: \"\" is not an absolute path",
    );
    check_error(
        "[[command]]\nname = 'a'\nprogram = 'true'",
        "command[0].program: \"true\" is not an absolute",
    );
}

#[test]
fn an_entry_means_what_it_says() {
    let text = format!(
        "{HEAD}args = ['restart', '--unit={{service}}', '{{note}}', '{{device}}', '{{{{x}}}}']\n\
         allowed.service = ['nginx', 'app']\nmax_length.note = 8\ndevices = ['pump-1']"
    );
    let settings = load_text(&text, &[], &[]).unwrap();
    let [command] = settings.commands.as_slice() else {
        panic!("one command");
    };
    assert_eq!(command.limits.len(), 2);
    assert_eq!(command.timeout, Duration::from_secs(30));
    assert_eq!((command.max_per_hour, command.output_bytes_max), (60, 4096));
    let args = BTreeMap::from([
        ("service".to_owned(), "app".to_owned()),
        ("note".to_owned(), "a:b".to_owned()),
    ]);
    let device = DeviceId::new("pump-1").unwrap();
    let found = crate::commands::argv(&settings.commands, "gw", &device, "restart", &args);
    let argv = ["restart", "--unit=app", "a:b", "pump-1", "{x}"].map(str::to_owned);
    assert_eq!(found, Ok((0, argv.to_vec())));
}

#[test]
fn the_sample_has_every_option_with_its_default() {
    let table: Table = sample_without_comments().parse().unwrap();
    let sample = table["command"].as_array().unwrap()[0].as_table().unwrap();
    for key in KEYS {
        assert!(
            sample.contains_key(*key),
            "{key} of command is not in agent.sample.toml"
        );
    }
    let defaults = Table::try_from(Command::default()).unwrap();
    for key in [
        "timeout_ms",
        "stop_grace_ms",
        "dir",
        "output_bytes_max",
        "max_per_hour",
        "dry_run",
    ] {
        assert_eq!(sample[key], defaults[key], "{key}");
    }
}
