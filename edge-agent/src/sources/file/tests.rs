use super::*;
use crate::clock::{Clock, Quality};
use crate::inbox::{self, Inbox};
use crate::sources::TimeFormat;
use event::DeviceId;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

fn mapping(device_column: &str, time_column: &str, time_format: &str) -> Mapping {
    Mapping {
        device_column: Some(device_column.to_owned()),
        device: None,
        time_column: Some(time_column.to_owned()),
        time_format: TimeFormat::new(time_format, "+00:00").unwrap(),
        metrics: Vec::new(),
        skip: Vec::new(),
        text: Vec::new(),
        rename: BTreeMap::new(),
    }
}

fn settings(path: &Path, format: Format, mapping: Mapping) -> Settings {
    Settings {
        path: path.to_owned(),
        format,
        delimiter: b',',
        header: true,
        columns: Vec::new(),
        mapping,
        timestamps: Timestamps::Own,
        speed: 0.0,
        keep_trying: false,
    }
}

fn inbox() -> Arc<Inbox> {
    Inbox::new(inbox::Settings::default(), Clock::new(Quality::Ntp))
}

/// Replays what can be read and returns the samples as text, the cursor, and the counts.
async fn replay(settings: Settings, cursor: Option<Vec<u8>>) -> (Vec<String>, Vec<u8>, Counts) {
    let (samples, cursor, result) = try_replay(settings, cursor).await;
    (samples, cursor, result.unwrap())
}

type Tried = (Vec<String>, Vec<u8>, Result<Counts, Unreadable>);

async fn try_replay(settings: Settings, cursor: Option<Vec<u8>>) -> Tried {
    let inbox = inbox();
    let feed = Feed::new(inbox.clone(), "f".to_owned(), &BTreeMap::new()).unwrap();
    let result = run(settings, cursor, feed, CancellationToken::new()).await;
    let pending = inbox.wait(Some(Duration::ZERO), true).1.unwrap_or_default();
    let samples = pending
        .samples
        .iter()
        .map(|s| {
            format!(
                "{} {} {} {:?}",
                s.time.as_micros(),
                s.device,
                s.metric,
                s.value
            )
        })
        .collect();
    let cursor = pending
        .cursors()
        .pop()
        .map(|c| c.position)
        .unwrap_or_default();
    (samples, cursor, result)
}

const TELEMETRY: &str = "\
ts,device_id,co,light
1594598424.5023336,0e:9c,0.011737819751470924,false
1594598424.7576046,f3:6b,,true
bad,f3:6b,1,true
1594598425,f3.6b,1,true
1594598426,f3:6b,NaN,true
1594598427,f3:6b,1
1594598428,f3:6b,x,true
";

#[tokio::test]
async fn csv_rows_become_samples_and_bad_ones_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.csv");
    std::fs::write(&path, TELEMETRY).unwrap();
    let s = settings(&path, Format::Csv, mapping("device_id", "ts", "s"));
    let (samples, cursor, counts) = replay(s.clone(), None).await;
    assert_eq!(
        samples,
        [
            "1594598424502333 0e:9c co Number(0.011737819751470924)",
            "1594598424502333 0e:9c light Bool(false)",
            "1594598424757604 f3:6b light Bool(true)",
            "1594598426000000 f3:6b light Bool(true)",
            "1594598428000000 f3:6b co Text(\"x\")",
            "1594598428000000 f3:6b light Bool(true)",
        ]
    );
    // Four bad: a time, a device id, a NaN, a short row.
    assert_eq!(
        counts,
        Counts {
            rows: 7,
            readings: 6,
            bad: 4,
            left_out: 0,
        }
    );
    // At the end nothing is replayed again; rows added later are.
    let (samples, same, _) = replay(s.clone(), Some(cursor.clone())).await;
    assert!(samples.is_empty() && same.is_empty());
    std::fs::write(&path, format!("{TELEMETRY}1594598429,f3:6b,2,false\n")).unwrap();
    let (samples, _, _) = replay(s.clone(), Some(cursor.clone())).await;
    assert_eq!(samples.len(), 2);
    // Bad rows at the end are read once.
    let bad = format!("{TELEMETRY}x,f3:6b,2,false\nx,f3:6b,2,false\n");
    std::fs::write(&path, bad).unwrap();
    let (samples, behind, counts) = replay(s.clone(), Some(cursor.clone())).await;
    assert_eq!((samples.len(), counts.bad), (0, 2));
    let (_, _, counts) = replay(s.clone(), Some(behind)).await;
    assert_eq!(counts, Counts::default());
    // So are those behind good ones.
    let all = format!("{TELEMETRY}1594598429,f3:6b,2,false\nx,f3:6b,2,false\n");
    std::fs::write(&path, all).unwrap();
    let (_, behind, counts) = replay(s.clone(), Some(cursor.clone())).await;
    assert_eq!((counts.rows, counts.bad), (2, 1));
    let (_, _, counts) = replay(s.clone(), Some(behind)).await;
    assert_eq!(counts, Counts::default());
    // Another file under the same name begins anew.
    std::fs::write(&path, "ts,device_id,other\n1,a,2\n").unwrap();
    assert_eq!(
        replay(s, Some(cursor)).await.0,
        ["1000000 a other Number(2.0)"]
    );
}

#[tokio::test]
async fn a_replay_cut_anywhere_resumes_exactly() {
    let dir = tempfile::tempdir().unwrap();
    for format in [Format::Csv, Format::Jsonl] {
        let path = dir.path().join("rows");
        let mut text = String::new();
        if format == Format::Csv {
            text.push_str("ts,d,v\n");
        }
        for i in 0..3000 {
            text.push_str(&match format {
                Format::Csv => format!("{i},dev,\"{i}\"\n"),
                Format::Jsonl => format!("{{\"ts\":{i},\"d\":\"dev\",\"v\":{i}}}\n"),
            });
        }
        std::fs::write(&path, text).unwrap();
        let s = settings(&path, format, mapping("d", "ts", "s"));
        // The inbox takes one group at a time; stop after the first ones, as a crash would.
        let limits = inbox::Settings {
            events_max: 1,
            ..inbox::Settings::default()
        };
        let mut cursor = None;
        let mut values = Vec::new();
        for _ in 0..10 {
            let inbox = Inbox::new(limits.clone(), Clock::new(Quality::Ntp));
            let feed = Feed::new(inbox.clone(), "f".to_owned(), &BTreeMap::new()).unwrap();
            let stop = CancellationToken::new();
            let task = tokio::spawn(run(s.clone(), cursor.clone(), feed, stop.clone()));
            while inbox.stamp().is_none() {
                tokio::task::yield_now().await;
            }
            tokio::task::yield_now().await;
            let pending = inbox.wait(Some(inbox.clock().monotonic()), true).1;
            task.abort();
            let _ = task.await;
            let Some(pending) = pending else { continue };
            values.extend(pending.samples.iter().map(|s| s.value.as_number().unwrap()));
            cursor = pending.cursors().pop().map(|c| c.position);
        }
        let expected: Vec<f64> = (0..3000).map(f64::from).collect();
        assert_eq!(values, expected, "{format:?}");
    }
}

#[tokio::test]
async fn semicolons_short_headers_and_renames_are_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.csv");
    std::fs::write(
        &path,
        "datetime;Volume Flow RateRMS;x\n2020-03-09 10:14:33;32.0;1\n",
    )
    .unwrap();
    let mut m = mapping("x", "datetime", "%Y-%m-%d %H:%M:%S");
    m.device_column = None;
    m.device = Some(DeviceId::new("valve1").unwrap());
    m.skip = vec!["x".to_owned()];
    let mut s = settings(&path, Format::Csv, m);
    s.delimiter = b';';
    let (samples, _, _) = replay(s.clone(), None).await;
    assert_eq!(
        samples,
        ["1583748873000000 valve1 Volume_Flow_RateRMS Number(32.0)"]
    );

    // A header that is one name short: refused row by row, until the names are given.
    std::fs::write(&path, "date,T\n1,2015-02-04 17:51:00,23.18\n").unwrap();
    let mut m = mapping("row", "date", "%Y-%m-%d %H:%M:%S");
    m.device_column = None;
    m.device = Some(DeviceId::new("room").unwrap());
    let mut s = settings(&path, Format::Csv, m);
    let (_, none, result) = try_replay(s.clone(), None).await;
    let error = result.unwrap_err().to_string();
    assert!(error.contains("none of its 1 rows can be taken"), "{error}");
    assert!(
        none.is_empty(),
        "it is read again when the configuration is right"
    );
    s.columns = ["row", "date", "T"].map(str::to_owned).to_vec();
    s.mapping.skip = vec!["row".to_owned()];
    let (samples, _, _) = replay(s, None).await;
    assert_eq!(samples, ["1423072260000000 room T Number(23.18)"]);
}

#[tokio::test]
async fn a_missing_column_or_file_ends_the_source_and_holds_nobody_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.csv");
    let s = settings(&path, Format::Csv, mapping("device_id", "ts", "s"));
    assert_unreadable(&s, "source \"f\" cannot be read: ").await;
    assert_unreadable(&s, "t.csv: No such file").await;
    std::fs::write(&path, "").unwrap();
    assert_unreadable(&s, "the file is empty").await;
    std::fs::write(&path, "a,b\n1,2\n").unwrap();
    assert_unreadable(&s, "no column \"device_id\"").await;
    std::fs::write(&path, "ts;device_id;v\n1;a;2\n").unwrap();
    assert_unreadable(&s, "with the delimiter ',' the columns are ts;device_id;v").await;
    std::fs::write(&path, "ts,device_id,temp,a b,a_b\n1,a,2,3,4\n").unwrap();
    let twice = "\"a b\" and \"a_b\" both become the metric \"a_b\"";
    assert_unreadable(&s, twice).await;
    let mut nope = s.clone();
    nope.mapping.metrics = vec!["tmep".to_owned()];
    assert_unreadable(&nope, "no column \"tmep\"; did you mean \"temp\"?").await;
    let mut one = s;
    one.mapping.device_column = None;
    one.mapping.device = Some(DeviceId::new("d").unwrap());
    one.mapping.time_column = None;
    std::fs::write(&path, "v;w\n1;2\n").unwrap();
    assert_unreadable(&one, "the header is one column, \"v;w\"; is the delimiter").await;
    let mut jsonl = one;
    jsonl.format = Format::Jsonl;
    assert_unreadable(&jsonl, "none of its 2 rows can be taken").await;
}

/// A replay fails with a text that has `expected`, as a check does if it is not about rows; the
/// source holds nobody back.
async fn assert_unreadable(s: &Settings, expected: &str) {
    let inbox = inbox();
    let feed = Feed::new(inbox.clone(), "f".to_owned(), &BTreeMap::new()).unwrap();
    let error = run(s.clone(), None, feed, CancellationToken::new())
        .await
        .unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
    assert!(expected.contains("rows") || check(s).is_err());
    let stamp = inbox.stamp().unwrap();
    assert_eq!(stamp.floor, stamp.wall);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_missing_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.csv");
    let mut s = settings(&path, Format::Csv, mapping("d", "ts", "s"));
    s.keep_trying = true;
    let inbox = inbox();
    let feed = Feed::new(inbox.clone(), "f".to_owned(), &BTreeMap::new()).unwrap();
    let task = tokio::spawn(run(s, None, feed, CancellationToken::new()));
    tokio::time::sleep(RETRY * 3).await;
    assert!(inbox.stamp().is_some() && !task.is_finished());
    std::fs::write(&path, "ts,d,v\n1000,a,1\n").unwrap();
    assert_eq!(task.await.unwrap().unwrap().readings, 1);
}

#[tokio::test(start_paused = true)]
async fn the_speed_paces_rows_and_the_watermark_follows_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.csv");
    std::fs::write(&path, "ts,d,v\n1000,a,1\n1010,a,2\n1020,a,3\n").unwrap();
    let mut s = settings(&path, Format::Csv, mapping("d", "ts", "s"));
    s.speed = 2.0;
    let inbox = inbox();
    let feed = Feed::new(inbox.clone(), "f".to_owned(), &BTreeMap::new()).unwrap();
    let task = tokio::spawn(run(s, None, feed, CancellationToken::new()));
    let floor = |inbox: &Inbox| inbox.stamp().map(|s| s.floor.as_micros() / 1_000_000);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let first = inbox.wait(Some(Duration::ZERO), true).1.unwrap();
    assert_eq!(first.samples.len(), 1);
    assert_eq!(floor(&inbox), Some(1010), "the next row");
    tokio::time::sleep(Duration::from_secs(5)).await; // row 2 came at 5 s
    assert_eq!(
        inbox
            .wait(Some(Duration::ZERO), true)
            .1
            .unwrap()
            .samples
            .len(),
        1
    );
    assert_eq!(floor(&inbox), Some(1020));
    let began = Instant::now();
    task.await.unwrap().unwrap();
    let took = began.elapsed().as_secs_f64();
    assert!(
        (3.5..4.5).contains(&took),
        "row 3 came at 10 s, not {took} s after 6 s"
    );
    assert!(floor(&inbox) <= Some(1020));
    drop(inbox.wait(Some(Duration::ZERO), true));
    assert!(
        floor(&inbox) > Some(1_700_000_000),
        "the source has ended: the present"
    );
}

#[tokio::test(start_paused = true)]
async fn shifted_times_begin_now_and_keep_their_distances_by_speed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.csv");
    std::fs::write(&path, "ts,d,v\n1000,a,1\n1010,a,2\n").unwrap();
    let mut s = settings(&path, Format::Csv, mapping("d", "ts", "s"));
    s.speed = 10.0;
    s.timestamps = Timestamps::Shifted;
    let inbox = inbox();
    let before = inbox.clock().wall().as_micros();
    let feed = Feed::new(inbox.clone(), "f".to_owned(), &BTreeMap::new()).unwrap();
    run(s, None, feed, CancellationToken::new()).await.unwrap();
    let pending = inbox.wait(Some(Duration::ZERO), true).1.unwrap();
    let times: Vec<i64> = pending.samples.iter().map(|s| s.time.as_micros()).collect();
    assert!(times[0] >= before && times[0] < before + 5_000_000);
    assert_eq!(times[1] - times[0], 1_000_000, "10 s at tenfold speed");
}
