use influxdb_line_protocol::{FieldValue, ParsedLine};
use proptest::prelude::*;

use super::*;

/// A line in a form to compare: `measurement {tag=value} {field=value} time`.
fn show(line: &Line<'_>) -> String {
    let tags: Vec<_> = line.tags.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let fields: Vec<_> = line
        .fields
        .iter()
        .map(|(k, v)| match v {
            Ok(Field::Float(n)) => format!("{k}=Float({n:?})"),
            Ok(Field::Text(text)) => format!("{k}=Text({text:?})"),
            Ok(other) => format!("{k}={other:?}"),
            Err(reason) => format!("{k}!{reason}"),
        })
        .collect();
    let time = line.time.map_or("-".to_owned(), |t| t.to_string());
    format!(
        "{} {{{}}} {{{}}} {time}",
        line.measurement,
        tags.join(";"),
        fields.join(";")
    )
}

fn read(input: &str) -> Vec<(u64, Result<String, String>)> {
    lines(input.as_bytes())
        .map(|(n, line)| (n, line.map(|l| show(&l))))
        .collect()
}

#[track_caller]
fn check(input: &str, expected: &str) {
    assert_eq!(read(input), [(1, Ok(expected.to_owned()))], "{input}");
}

#[track_caller]
fn check_error(input: &str, expected: &str) {
    match &read(input)[..] {
        [(1, Err(error))] => assert!(error.contains(expected), "{input}: {error}"),
        other => panic!("{input}: {other:?}"),
    }
}

#[test]
fn the_parts_of_a_line() {
    check("m f=1", "m {} {f=Float(1.0)} -");
    check(
        "m,a=1,b=2 f=1,g=2 -5",
        "m {a=1;b=2} {f=Float(1.0);g=Float(2.0)} -5",
    );
    check("  m   f=1   17  \r\n", "m {} {f=Float(1.0)} 17");
    check("m\tf=1\t17", "m {} {f=Float(1.0)} 17");
    check("mäß,tög=wért fé=1", "mäß {tög=wért} {fé=Float(1.0)} -");
    check("m,a=b=c f=1", "m {a=b=c} {f=Float(1.0)} -");
    check("m,a=\"q\" \"f\"=1", "m {a=\"q\"} {\"f\"=Float(1.0)} -");
}

#[test]
fn values_have_types() {
    for (text, expected) in [
        ("1", "Float(1.0)"),
        ("-1.5", "Float(-1.5)"),
        ("+1.5", "Float(1.5)"),
        ("1.", "Float(1.0)"),
        (".5", "Float(0.5)"),
        ("1e3", "Float(1000.0)"),
        ("1.e+3", "Float(1000.0)"),
        ("1E-3", "Float(0.001)"),
        ("1i", "Int(1)"),
        ("-9223372036854775808i", "Int(-9223372036854775808)"),
        ("18446744073709551615u", "Uint(18446744073709551615)"),
        ("\"\"", "Text(\"\")"),
        ("\"1\"", "Text(\"1\")"),
    ] {
        check(
            &format!("m f={text}"),
            &format!("m {{}} {{f={expected}}} -"),
        );
    }
    for text in ["t", "T", "true", "True", "TRUE"] {
        check(&format!("m f={text}"), "m {} {f=Bool(true)} -");
    }
    for text in ["f", "F", "false", "False", "FALSE"] {
        check(&format!("m f={text}"), "m {} {f=Bool(false)} -");
    }
    for (text, reason) in [
        ("1e400", "\"1e400\" is not a finite number"),
        ("-1e400", "not a finite number"),
        ("nan", "not a finite number"),
        ("+inf", "not a finite number"),
        ("9223372036854775808i", "no integer of 64 bits"),
        ("18446744073709551616u", "no unsigned integer"),
        ("-1u", "neither a number"),
        ("1.5i", "neither a number"),
        ("i", "neither a number"),
        ("tRUE", "neither a number"),
        (
            "open",
            "neither a number, true, false, nor a text in double quotes",
        ),
        ("0x10", "neither a number"),
    ] {
        // The other fields and the time of the line are still good.
        let line = read(&format!("m a=1,f={text},b=2 17"));
        let line = line[0].1.as_ref().unwrap();
        assert!(line.starts_with("m {} {a=Float(1.0);f!"), "{line}");
        assert!(line.contains(reason), "{line}");
        assert!(line.ends_with(";b=Float(2.0)} 17"), "{line}");
    }
}

#[test]
fn names_are_unescaped() {
    check(r"a\ b\,c f=1", "a b,c {} {f=Float(1.0)} -");
    // The measurement has no `=` to be escaped.
    check(r"a\=b f=1", r"a\=b {} {f=Float(1.0)} -");
    check("a=b f=1", "a=b {} {f=Float(1.0)} -");
    check(
        r"m,t\ a\,g\=1=v\ a\,l\=1 f\ i\,e\=ld=1",
        "m {t a,g=1=v a,l=1} {f i,e=ld=Float(1.0)} -",
    );
    check(r"m\\,a=b\\ f=1", r"m\ {a=b\} {f=Float(1.0)} -");
    check(r"C:\new,a=\d\t f=1", r"C:\new {a=\d\t} {f=Float(1.0)} -");
    check(r#"m,a=\"b f\"=1"#, r#"m {a=\"b} {f\"=Float(1.0)} -"#);
    check(r"m,a=\é f=1", r"m {a=\é} {f=Float(1.0)} -");
}

#[test]
fn texts_are_unescaped_and_may_hold_anything() {
    for (text, expected) in [
        (r#""a b,c=d""#, "a b,c=d"),
        (r#""say \"hi\"""#, r#"say "hi""#),
        (r#""C:\\new\dir""#, r"C:\new\dir"),
        (r#""\\""#, r"\"),
        (r#""\\\"""#, "\\\""),
        (r#""a\ b\,c""#, r"a\ b\,c"),
        ("\"two\nlines # no comment\"", "two\nlines # no comment"),
    ] {
        let expected = format!("m {{}} {{f=Text({expected:?});g=Float(1.0)}} 17");
        check(&format!("m f={text},g=1 17"), &expected);
    }
}

#[test]
fn bad_lines_say_what_and_where() {
    for (line, reason) in [
        ("m", "at byte 2: no fields"),
        ("m ", "no fields"),
        ("m 17", "at byte 5: the field \"17\" has no value"),
        (",a=b f=1", "at byte 1: the measurement is empty"),
        ("m, f=1", "a tag's name is empty"),
        ("m,a f=1", "the tag \"a\" has no value"),
        ("m,a= f=1", "a tag's value is empty"),
        ("m,=b f=1", "a tag's name is empty"),
        ("m =1", "a field's name is empty"),
        ("m f", "the field \"f\" has no value"),
        ("m f=", "the field's value is missing"),
        ("m f=,g=1", "the field's value is missing"),
        ("m f=1,", "a field's name is empty"),
        ("m f=1, 17", "a field's name is empty"),
        ("m f=\"open", "at byte 5: a text without its closing quote"),
        ("m f=\"a\"b", "right after a text's closing quote"),
        (
            "m f=1 soon",
            "at byte 7: the time \"soon\" is not a whole number",
        ),
        ("m f=1 1.5", "the time \"1.5\""),
        ("m f=1 9223372036854775808", "the time"),
        ("m f=1 17 18", "something comes after the line's end"),
        (
            "m f=a b",
            "the time \"b\" is not a whole number (texts stand in double quotes)",
        ),
        (r"m\", "the measurement ends with a backslash"),
        (r"m f\", "a field's name ends with a backslash"),
    ] {
        check_error(line, reason);
    }
    let bad = |bytes: &[u8]| lines(bytes).next().unwrap().1.unwrap_err();
    assert!(bad(b"m\xff f=1").contains("at byte 1: the measurement is not UTF-8"));
    assert!(bad(b"m f=\"\xff\"").contains("a text is not UTF-8"));
    let tags: String = (0..300).map(|i| format!(",t{i}=1")).collect();
    check_error(&format!("m{tags} f=1"), "more than 256 tags");
    let fields: Vec<_> = (0..1025).map(|i| format!("f{i}=1")).collect();
    check_error(&format!("m {}", fields.join(",")), "more than 1024 fields");
}

#[test]
fn a_bad_line_harms_no_other() {
    let input =
        "# a comment\n\na f=1 1\r\n  # another\nbad\nb f=\"x\ny\" 2\nc f=\"open\nd f=4 4\n\r\n";
    let numbers: Vec<_> = read(input)
        .into_iter()
        .map(|(n, line)| (n, line.is_ok()))
        .collect();
    let expected = [(3, true), (5, false), (6, true), (8, false), (9, true)];
    assert_eq!(numbers, expected);
}

/// What an independent parser of the same protocol makes of a line.
fn other(line: &ParsedLine<'_>) -> String {
    let tags = line.series.tag_set.iter().flatten();
    let tags: Vec<_> = tags.map(|(k, v)| format!("{k}={v}")).collect();
    let fields: Vec<_> = line
        .field_set
        .iter()
        .map(|(k, v)| match v {
            FieldValue::I64(n) => format!("{k}=Int({n})"),
            FieldValue::U64(n) => format!("{k}=Uint({n})"),
            FieldValue::F64(n) => format!("{k}=Float({n:?})"),
            FieldValue::Boolean(b) => format!("{k}=Bool({b})"),
            FieldValue::String(text) => format!("{k}=Text({:?})", text.as_str()),
        })
        .collect();
    let time = line.timestamp.map_or("-".to_owned(), |t| t.to_string());
    let measurement = &line.series.measurement;
    format!(
        "{measurement} {{{}}} {{{}}} {time}",
        tags.join(";"),
        fields.join(";")
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn arbitrary_bytes_never_panic_and_lines_are_counted(
        bytes in proptest::collection::vec(
            prop_oneof![any::<u8>(), proptest::sample::select(&b"m,=\\\" \n\r\t#1it.-e"[..])],
            0..200,
        )
    ) {
        let ends = bytes.iter().filter(|b| **b == b'\n').count() as u64;
        let mut last = 0;
        for (number, _) in lines(&bytes) {
            prop_assert!(number > last && number <= ends + 1);
            last = number;
        }
    }

    /// Of what both take, both make the same.
    #[test]
    fn another_parser_agrees(
        name in r#"[ab\\=]{1,3}(\\[ ,=\\"n])?[b"]"#,
        tags in proptest::collection::vec(
            (r#"([aé]|\\[ ,=\\"n]){1,3}[b"]"#, r#"([aé=]|\\[ ,=\\"n]){1,3}[b"]"#),
            0..3,
        ),
        fields in proptest::collection::vec(
            (
                r#"([aé]|\\[ ,=\\"n]){1,3}[b"]"#,
                r#"-?[0-9]{1,3}(\.[0-9]{1,3})?(e-?[0-9]{1,2})?|-?[0-9]{1,20}i|[0-9]{1,21}u|t|TRUE|False|"([a ,=\n#]|\\[\\"an]){0,5}""#,
            ),
            1..4,
        ),
        time in "( -?[0-9]{1,19})?",
    ) {
        let tags: String = tags.iter().map(|(k, v)| format!(",{k}={v}")).collect();
        let fields: Vec<_> = fields.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let line = format!("{name}{tags} {}{time}", fields.join(","));
        let theirs: Vec<_> = influxdb_line_protocol::parse_lines(&line).collect();
        let ours = read(&line);
        if let [Ok(theirs)] = &theirs[..] {
            prop_assert_eq!(&ours, &[(1, Ok(other(theirs)))]);
        } else {
            // They refuse the whole line for one number that is out of range.
            let good = matches!(&ours[..], [(1, Ok(line))] if !line.contains('!'));
            prop_assert!(!good, "{line}: {theirs:?} but {ours:?}");
        }
    }
}
