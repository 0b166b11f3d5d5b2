//! `tidewatch detect`: the anomaly detector over a recorded series, row by row in constant memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use event::EventTime;
use rules::anomaly::{Anomaly, Detector, Verdict};
use rules::{Kind, Rule};
use serde_json::{Map, Value, json};

/// Longest line, bytes.
const LINE_BYTES_MAX: usize = 64 << 10;

/// What is asked.
#[derive(clap::Args)]
pub struct Args {
    /// CSV with a header line and the columns `timestamp` and `value`; - is standard input
    ///
    /// Further columns are passed over. Times are "YYYY-MM-DD HH:MM:SS" (UTC), RFC 3339, or numbers of
    /// seconds or milliseconds since 1970.
    #[arg(long, value_name = "F", default_value = "-")]
    input: PathBuf,
    /// CSV with the columns timestamp, value and anomaly_score, a row for each of the input; - is standard
    /// output
    ///
    /// Scores are 0 to 1; at 0.5 and above an anomaly begins. A row whose value is no number or a code for a
    /// missing one, or whose time is before that of an earlier row, has score 0.
    #[arg(long, value_name = "F", default_value = "-")]
    output: PathBuf,
    /// default (128 bytes of state) or large
    #[arg(long, value_name = "NAME")]
    detector: Option<String>,
    /// Alarms that the series may give in the long run [default: 1/month]
    #[arg(long, value_name = "N/UNIT")]
    false_alarms: Option<String>,
    /// Above 1 it finds less marked things; 0.1 to 10 [default: 1]
    #[arg(long, value_name = "X")]
    sensitivity: Option<f64>,
    /// For how long nothing is found before an anomaly is over [default: 2h]
    #[arg(long, value_name = "TIME")]
    hold: Option<String>,
    /// In what time the range of values becomes half as wide if nothing confirms it [default: 180d]
    #[arg(long, value_name = "TIME")]
    half_life: Option<String>,
    /// Nothing is said before values have covered this time, and there were 200 of them [default: 1d]
    #[arg(long, value_name = "TIME")]
    warm_up: Option<String>,
    /// Numbers that stand for no value, with commas between; an empty text is none [default: -200,-127]
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    missing: Option<String>,
    /// Say on standard error why each anomaly is one
    #[arg(long)]
    explain: bool,
}

impl Args {
    /// The same checks as for a rule.
    fn settings(&self) -> Result<Anomaly, String> {
        let mut rule = Map::new();
        rule.insert("name".to_owned(), "detect".into());
        rule.insert("kind".to_owned(), "anomaly".into());
        rule.insert("metric".to_owned(), "value".into());
        for (field, text) in [
            ("detector", &self.detector),
            ("false_alarms", &self.false_alarms),
            ("hold", &self.hold),
            ("half_life", &self.half_life),
            ("warm_up", &self.warm_up),
        ] {
            if let Some(text) = text {
                rule.insert(field.to_owned(), text.as_str().into());
            }
        }
        if let Some(sensitivity) = self.sensitivity {
            rule.insert("sensitivity".to_owned(), json!(sensitivity));
        }
        if let Some(list) = &self.missing {
            let codes = list.split(',').map(str::trim).filter(|c| !c.is_empty());
            let codes: Result<Vec<f64>, _> = codes.map(str::parse).collect();
            let codes = codes.map_err(|_| "--missing: must be numbers with commas between")?;
            rule.insert("missing".to_owned(), json!(codes));
        }
        let flag = |field: &str| field.replace('_', "-");
        match Rule::from_value(&Value::Object(rule)) {
            Ok(Rule {
                kind: Kind::Anomaly(settings),
                ..
            }) => Ok(settings),
            Ok(_) => Err("not an anomaly".to_owned()),
            Err(error) => Err(format!("--{}: {}", flag(&error.field), error.message)),
        }
    }
}

/// Reads, scores, writes.
///
/// **Errors**: a file cannot be read or written, or a line of the input is not of the form; its number is
/// told. Wrong options are told on stderr and give exit code 2.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut notes = io::stderr();
    let settings = match args.settings() {
        Ok(settings) => settings,
        Err(message) => {
            // Nothing can be done about a closed stderr, here and below.
            let _ = writeln!(notes, "tidewatch: {message}");
            return Ok(ExitCode::from(2));
        }
    };
    ensure_apart(&args.input, &args.output)?;
    let input: Box<dyn Read> = if is_std(&args.input) {
        Box::new(io::stdin().lock())
    } else {
        let shown = args.input.display();
        Box::new(File::open(&args.input).with_context(|| format!("failed to open {shown}"))?)
    };
    let output: Box<dyn Write> = if is_std(&args.output) {
        Box::new(io::stdout().lock())
    } else {
        let shown = args.output.display();
        Box::new(File::create(&args.output).with_context(|| format!("failed to create {shown}"))?)
    };
    let mut explain = |line: u64, sentence: &str| {
        if args.explain {
            let _ = writeln!(notes, "line {line}: {sentence}");
        }
    };
    let name = |path: &Path, std: &str| match is_std(path) {
        true => std.to_owned(),
        false => path.display().to_string(),
    };
    match score(input, output, &settings, &mut explain) {
        Ok(counts) => {
            let _ = writeln!(io::stderr(), "tidewatch: {counts}");
            Ok(ExitCode::SUCCESS)
        }
        // Whoever reads the output has seen enough (`| head`).
        Err(Failure::Write(e)) if e.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(Failure::Write(e)) => {
            let shown = name(&args.output, "standard output");
            Err(e).with_context(|| format!("failed to write {shown}"))
        }
        Err(Failure::Read(error)) => {
            let shown = name(&args.input, "standard input");
            let note = match is_std(&args.output) {
                true => String::new(),
                false => format!("; {} ends before that line", args.output.display()),
            };
            Err(error.context(format!("{shown} cannot be scored{note}")))
        }
    }
}

fn is_std(path: &Path) -> bool {
    path == Path::new("-")
}

/// Writing would empty what is still to be read.
fn ensure_apart(input: &Path, output: &Path) -> anyhow::Result<()> {
    if is_std(input) || is_std(output) {
        return Ok(());
    }
    let same = match (input.canonicalize(), output.canonicalize()) {
        (Ok(input), Ok(output)) => input == output,
        _ => false,
    };
    ensure!(
        !same,
        "{} is input and output: give another output",
        input.display()
    );
    Ok(())
}

/// What was seen.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    rows: u64,
    alarms: u64,
    missing: u64,
    late: u64,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows, {} anomalies", self.rows, self.alarms)?;
        if self.missing > 0 {
            let n = self.missing;
            write!(
                f,
                "; {n} without a value (no number, or a code for none): score 0"
            )?;
        }
        if self.late > 0 {
            let n = self.late;
            write!(f, "; {n} older than an earlier row, not looked at: score 0")?;
        }
        Ok(())
    }
}

#[derive(Debug)]
enum Failure {
    Read(anyhow::Error),
    Write(io::Error),
}

/// Scores a whole input. `explain` gets the number of a line and why it is an anomaly.
fn score(
    input: impl Read,
    output: impl Write,
    settings: &Anomaly,
    explain: &mut dyn FnMut(u64, &str),
) -> Result<Counts, Failure> {
    let mut lines = Lines {
        input: BufReader::with_capacity(64 << 10, input),
        number: 0,
    };
    let mut output = BufWriter::with_capacity(64 << 10, output);
    let mut line = String::new();
    let columns = match lines.next(&mut line).map_err(Failure::Read)? {
        true => Columns::read(&line).map_err(Failure::Read)?,
        false => {
            let error = anyhow::anyhow!("it is empty; it needs a header line: timestamp,value");
            return Err(Failure::Read(error));
        }
    };
    writeln!(output, "timestamp,value,anomaly_score").map_err(Failure::Write)?;
    let mut detector = Detector::New(settings.options().detector);
    let mut counts = Counts::default();
    while lines.next(&mut line).map_err(Failure::Read)? {
        let row = columns.row(&line);
        let row = row.with_context(|| format!("line {}", lines.number));
        let (time_text, value_text) = row.map_err(Failure::Read)?;
        let time = parse_time(plain(time_text));
        let time = time.with_context(|| format!("line {}", lines.number));
        let time = time.map_err(Failure::Read)?;
        // What is no number is a missing value.
        let value = plain(value_text).parse().unwrap_or(f64::NAN);
        let verdict = detector.step(time.0, value, settings);
        counts.rows += 1;
        match &verdict {
            Verdict::Missing => counts.missing += 1,
            Verdict::Late => counts.late += 1,
            Verdict::Alarm(evidence) => {
                counts.alarms += 1;
                explain(lines.number, &evidence.sentence(time.0));
            }
            Verdict::Quiet(_) | Verdict::GoesOn(_) => {}
        }
        let score = verdict.score();
        writeln!(output, "{time_text},{value_text},{score:.4}").map_err(Failure::Write)?;
    }
    output.flush().map_err(Failure::Write)?;
    Ok(counts)
}

/// Lines of a bounded length; empty ones are passed over.
struct Lines<R> {
    input: BufReader<R>,
    /// Of the line that was read last, from 1.
    number: u64,
}

impl<R: Read> Lines<R> {
    fn next(&mut self, line: &mut String) -> anyhow::Result<bool> {
        loop {
            let mut bytes = std::mem::take(line).into_bytes();
            bytes.clear();
            self.number += 1;
            let number = self.number;
            let mut limited = (&mut self.input).take(LINE_BYTES_MAX as u64 + 1);
            let read = limited.read_until(b'\n', &mut bytes);
            read.with_context(|| format!("line {number}: failed to read"))?;
            if bytes.is_empty() {
                return Ok(false);
            }
            if bytes.len() > LINE_BYTES_MAX {
                bail!("line {number}: longer than {LINE_BYTES_MAX} bytes; is it CSV?");
            }
            let text = String::from_utf8(bytes);
            *line = text.map_err(|_| anyhow::anyhow!("line {number}: not UTF-8"))?;
            line.truncate(line.trim_end_matches(['\n', '\r']).len());
            if number == 1 && line.starts_with('\u{feff}') {
                line.drain(..'\u{feff}'.len_utf8());
            }
            if !line.trim().is_empty() {
                return Ok(true);
            }
        }
    }
}

/// Positions of the two columns.
#[derive(Debug, PartialEq, Eq)]
struct Columns {
    timestamp: usize,
    value: usize,
}

impl Columns {
    fn read(header: &str) -> anyhow::Result<Self> {
        let at = |name: &str| {
            let mut names = fields(header).map(plain);
            names.position(|n| n.trim().eq_ignore_ascii_case(name))
        };
        let columns = at("timestamp").zip(at("value"));
        let shown: String = header.chars().take(200).collect();
        let (timestamp, value) = columns.with_context(|| {
            format!("line 1: the header needs the columns timestamp and value, it is {shown:?}")
        })?;
        Ok(Self { timestamp, value })
    }

    /// Time and value of a line, as they are written.
    fn row<'a>(&self, line: &'a str) -> anyhow::Result<(&'a str, &'a str)> {
        let (mut time, mut value) = (None, None);
        for (i, field) in fields(line).enumerate() {
            if i == self.timestamp {
                time = Some(field);
            }
            if i == self.value {
                value = Some(field);
            }
        }
        time.zip(value).with_context(|| {
            let shown: String = line.chars().take(200).collect();
            format!("fewer columns than the header: {shown:?}")
        })
    }
}

/// Fields between commas, those in quotes with their quotes.
fn fields(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    line.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
}

/// Without quotes and blanks around.
fn plain(field: &str) -> &str {
    let field = field.trim();
    let inner = field.strip_prefix('"').and_then(|f| f.strip_suffix('"'));
    inner.unwrap_or(field)
}

/// `2015-02-04 17:51:00` (UTC), RFC 3339, or seconds or milliseconds since 1970.
fn parse_time(text: &str) -> anyhow::Result<EventTime> {
    let shown = || {
        let text: String = text.chars().take(64).collect();
        format!(
            "{text:?} is no time; write \"YYYY-MM-DD HH:MM:SS\", RFC 3339, or seconds or milliseconds since 1970"
        )
    };
    if let Ok(number) = text.parse::<f64>() {
        // Seconds until the year 5138, milliseconds from 1973 on.
        let micros = if number.abs() < 1e11 {
            number * 1e6
        } else {
            number * 1e3
        };
        ensure!(micros.abs() < 9e18, "{}", shown());
        return Ok(EventTime(micros.round() as i64));
    }
    let zone = |text: &str| {
        let of_day = text.get(10..).unwrap_or_default();
        of_day.contains(['Z', 'z', '+', '-'])
    };
    let mut text = text.replacen(' ', "T", 1);
    if !zone(&text) {
        text.push('Z');
    }
    EventTime::parse_rfc3339(&text).with_context(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_on(input: &str) -> Result<(String, Counts, Vec<String>), String> {
        let mut output = Vec::new();
        let mut said = Vec::new();
        let settings = Anomaly::default();
        let mut explain = |line: u64, sentence: &str| said.push(format!("{line} {sentence}"));
        match score(input.as_bytes(), &mut output, &settings, &mut explain) {
            Ok(counts) => Ok((String::from_utf8(output).unwrap(), counts, said)),
            Err(Failure::Read(error)) => Err(format!("{error:#}")),
            Err(Failure::Write(error)) => Err(error.to_string()),
        }
    }

    fn micros(text: &str) -> i64 {
        parse_time(text).unwrap().0
    }

    #[test]
    fn times_of_all_forms_are_the_same() {
        let expected = micros("2014-04-01 00:00:00");
        assert_eq!(expected, 1_396_310_400_000_000);
        for text in [
            "2014-04-01T00:00:00Z",
            "2014-04-01 00:00:00.000000",
            "2014-04-01T02:00:00+02:00",
            "2014-03-31 17:00:00-07:00",
            "1396310400",
            "1396310400.0",
            "1396310400000",
        ] {
            assert_eq!(micros(text), expected, "{text}");
        }
        for text in [
            "",
            "yesterday",
            "2014-04-31 00:00:00",
            "NaN",
            "1e300",
            "2014-04-01",
        ] {
            let error = format!("{:#}", parse_time(text).unwrap_err());
            assert!(error.contains("is no time; write"), "{text}: {error}");
        }
    }

    #[test]
    fn texts_stay_as_they_are_and_rows_in_their_order() {
        let input = "\u{feff}Value,\"Timestamp\",more\r\n1.50,2014-04-01 00:00:00,x\r\n\r\n,2014-04-01 00:05:00,y\r\n\
                     \"2\",\"2014-04-01 00:10:00\",\"a,b\"\r\n-127,2014-04-01 00:15:00,\r\n3e0,2014-04-01 00:14:59,z";
        let (output, counts, _) = run_on(input).unwrap();
        assert_eq!(
            output,
            "timestamp,value,anomaly_score\n2014-04-01 00:00:00,1.50,0.0000\n2014-04-01 00:05:00,,0.0000\n\
             \"2014-04-01 00:10:00\",\"2\",0.0000\n2014-04-01 00:15:00,-127,0.0000\n2014-04-01 00:14:59,3e0,0.0000\n"
        );
        let expected = Counts {
            rows: 5,
            alarms: 0,
            missing: 2,
            late: 0,
        };
        // The code for no value has no time either.
        assert_eq!(counts, expected);
    }

    #[test]
    fn an_outlier_has_a_score_of_a_half_and_more_and_a_reason() {
        let mut input = "timestamp,value\n".to_owned();
        for i in 0..400 {
            let value = if i == 390 { 50 } else { i % 3 };
            input.push_str(&format!("{},{value}\n", 1_396_310_400 + i * 300));
        }
        // Late: an hour before.
        input.push_str("1396310400,70\n");
        let (output, counts, said) = run_on(&input).unwrap();
        let rows: Vec<&str> = output.lines().skip(1).collect();
        let high = |row: &&str| row.rsplit(',').next().unwrap().parse::<f64>().unwrap() >= 0.5;
        let found: Vec<&&str> = rows.iter().filter(|r| high(r)).collect();
        assert_eq!((rows.len(), found), (401, vec![&rows[390]]));
        assert!(
            said.len() == 1 && said[0].starts_with("392 50 is above all that is known"),
            "{said:?}"
        );
        let shown = counts.to_string();
        assert_eq!(
            shown,
            "401 rows, 1 anomalies; 1 older than an earlier row, not looked at: score 0"
        );
    }

    #[test]
    fn mistakes_have_the_number_of_their_line() {
        for (input, message) in [
            ("", "it is empty"),
            (
                "time,value\n",
                "line 1: the header needs the columns timestamp and value",
            ),
            (
                "timestamp,value\n2014-04-01 00:00:00\n",
                "line 2: fewer columns",
            ),
            ("timestamp,value\n1,1\n\nx,1\n", "line 4: \"x\" is no time"),
        ] {
            let error = run_on(input).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
        let long = format!("timestamp,value\n1,{}\n", "9".repeat(70_000));
        assert!(
            run_on(&long)
                .unwrap_err()
                .contains("line 2: longer than 65536")
        );
        let mut bytes = b"timestamp,value\n1,\xff\n".as_slice();
        let result = score(&mut bytes, Vec::new(), &Anomaly::default(), &mut |_, _| ());
        assert!(matches!(result, Err(Failure::Read(e)) if format!("{e:#}") == "line 2: not UTF-8"));
    }
}
