use super::super::tests::load_text;
use super::*;

const COMMAND: &str = "agent = 'gw'\n[[command]]\nname = 'cool'\nprogram = '/bin/true'\n\
                       args = ['{what}', '{how}']\nallowed = { what = ['fan', 'warning'] }\n\
                       max_length = { how = 24 }\n";

fn rule(rest: &str) -> Result<EdgeRule, String> {
    let text = format!("{COMMAND}[[rule]]\nname = 'hot'\nmetric = 't'\n{rest}");
    load_text(&text, &[], &[]).map(|mut s| s.rules.remove(0))
}

#[track_caller]
fn check_error(rest: &str, expected: &str) {
    let error = rule(rest).unwrap_err();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_rule_is_read_with_its_defaults() {
    let rule = rule("raise = 80").unwrap();
    assert_eq!(
        rule.rule.to_json(),
        Rule::parse(r#"{"name":"hot","metric":"t","raise":80}"#)
            .unwrap()
            .to_json()
    );
    assert_eq!(rule.stale_after, Duration::from_secs(60));
    assert!(rule.devices.is_empty() && rule.run.is_none());
}

#[test]
fn every_kind_has_its_fields_and_a_command() {
    let run = "run = 'cool'\nargs = { what = '{severity}', how = '{metric}:{value}' }\n";
    for fields in [
        "raise = 80",
        "kind = 'rate'\nraise = 1\nwithin = '1m'\ndirection = 'either'",
        "kind = 'silence'\nafter = '5m'",
    ] {
        let rule = rule(&format!("{fields}\n{run}stale_after = '5s'")).unwrap();
        assert_eq!(rule.stale_after, Duration::from_secs(5));
        assert_eq!(rule.run.unwrap().command, "cool");
    }
}

#[test]
fn mistakes_name_entry_rule_field_and_remedy() {
    check_error("", "rule[0].raise: rule \"hot\": is missing");
    check_error(
        "raise = nan",
        "rule[0].raise: rule \"hot\": must be a finite",
    );
    check_error(
        "raise = 1\nclear = inf",
        "rule[0].clear: rule \"hot\": must be a finite",
    );
    check_error(
        "raise = 1\nkind = 'late'",
        "rule[0].kind: rule \"hot\": \"late\" is not known",
    );
    check_error(
        "raise = 1\nafter = '1m'",
        "rule[0].after: rule \"hot\": a rule of the kind",
    );
    check_error("rise = 1", "did you mean \"rule[0].raise\"?");
    check_error(
        "raise = 1\nstale_after = 60",
        "rule[0].stale_after: rule \"hot\": must be a text",
    );
    check_error("raise = 1\nstale_after = '2d'", "must be 100ms to 1d");
    check_error(
        "raise = 1\ndevices = []",
        "rule[0].devices: rule \"hot\": must be a list",
    );
    check_error(
        "raise = 1\ndevices = ['a b']",
        "rule[0].devices: rule \"hot\": device id",
    );
    check_error(
        "raise = 1\n[[rule]]\nname = 'hot'\nmetric = 't'\nraise = 2",
        "rule[1].name: rule \"hot\": it is taken",
    );
    let many = "[[rule]]\nname = 'x'\nmetric = 't'\nraise = 2\n".repeat(64);
    check_error(
        &format!("raise = 1\n{many}"),
        "rule: 65 entries, more than 64",
    );
}

#[test]
fn a_command_must_be_there_and_take_what_it_is_given() {
    let run = |rest: &str, expected: &str| {
        check_error(
            &format!("raise = 1\n{rest}"),
            &format!("rule \"hot\": {expected}"),
        );
    };
    run("args = {}", "set `run`, too");
    run("run = 5", "must be the name of a [[command]]");
    run(
        "run = 'cooll'",
        "there is no [[command]] with the name \"cooll\"; did you mean \"cool\"?",
    );
    run(
        "run = 'cool'",
        "the command \"cool\" does not take them: the argument \"how\" is missing",
    );
    run("run = 'cool'\nargs = 5", "must be a table");
    run("run = 'cool'\nargs = { what = 5 }", "what must be a text");
    run(
        "run = 'cool'\nargs = { what = '{x' }",
        "what: \"{x\" has a brace",
    );
    run(
        "run = 'cool'\nargs = { what = '{site}' }",
        "what: there is no {site} in a rule; there are {device}, ",
    );
    run(
        "run = 'cool'\nargs = { what = 'pump', how = '{value}' }",
        "the command \"cool\" does not take them: argument \"what\": \"pump\" is not an allowed value",
    );
    run(
        "run = 'cool'\nargs = { what = 'fan', how = '-{value}' }",
        "the command \"cool\" does not take them: argument \"how\": \"-1.5\" begins with",
    );
    // What only a device makes too long, too.
    let long = "d".repeat(25);
    run(
        &format!(
            "run = 'cool'\ndevices = ['a', '{long}']\nargs = {{ what = 'fan', how = '{{device}}' }}"
        ),
        "the command \"cool\" does not take them: argument \"how\": 25 characters, more than 24",
    );
    run(
        "run = 'cool'\nargs = { what = 'fan', how = 'x', why = 'y' }",
        "the command \"cool\" does not take them: \"cool\" takes no argument \"why\"",
    );
}

#[test]
fn a_command_for_a_device_must_allow_it() {
    let check = |devices: &str, ours: &str| {
        let text = format!(
            "agent = 'gw'\n[[command]]\nname = 'off'\nprogram = '/bin/true'\nargs = ['{{device}}']\n{devices}\n\
             [[rule]]\nname = 'hot'\nmetric = 't'\nraise = 1\nrun = 'off'\n{ours}"
        );
        load_text(&text, &[], &[]).map(|mut s| s.rules.remove(0))
    };
    for (devices, ours) in [
        ("", ""),
        ("devices = ['a']", ""),
        ("devices = ['a']", "devices = ['a', 'b']"),
    ] {
        let error = check(devices, ours).unwrap_err();
        assert!(
            error.contains("rule[0].run: rule \"hot\": the command \"off\" has {device}"),
            "{error}"
        );
    }
    check("", "devices = ['gw']").unwrap();
    check("devices = ['a', 'b']", "devices = ['a', 'b', 'gw']").unwrap();
}

#[test]
fn devices_that_are_missed_from_the_start_are_limited() {
    let devices: Vec<String> = (0..4096).map(|n| format!("'d{n}'")).collect();
    let devices = devices.join(", ");
    let silence = format!("kind = 'silence'\nafter = '1m'\ndevices = [{devices}]\n");
    assert_eq!(rule(&silence).unwrap().devices.len(), 4096);
    let second =
        "[[rule]]\nname = 'b'\nmetric = 't'\nkind = 'silence'\nafter = '1m'\ndevices = ['x']";
    check_error(
        &format!("{silence}{second}"),
        "name 4097 devices, more than 4096",
    );
    check_error(
        &format!("raise = 1\ndevices = [{devices}, 'x']"),
        "4097 devices, more than 4096",
    );
}
