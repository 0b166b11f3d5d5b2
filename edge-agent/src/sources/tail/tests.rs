//! Against real files that are renamed, copied, cut and removed, with the follower begun anew from a
//! cursor at every place.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use super::open::GRACE;
use super::*;
use crate::clock::{Clock, Quality};
use crate::inbox::{self, Inbox};
use crate::sources::TimeFormat;

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A follower with its own time, and what it has given.
struct Reader {
    follower: Follower,
    cursor: Option<Cursor>,
    now: Instant,
    lines: Vec<String>,
    notes: Vec<String>,
}

impl Reader {
    fn new(path: &Path, from: From) -> Self {
        Self {
            follower: Follower::new(path, from, None),
            cursor: None,
            now: Instant::now(),
            lines: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Reads at most `max` lines.
    fn read(&mut self, max: usize) {
        for _ in 0..max {
            let step = self.follower.next(self.now).unwrap();
            self.notes.append(&mut self.follower.notes);
            match step {
                Step::Line(line, _, cursor) => {
                    self.lines.push(String::from_utf8(line.unwrap()).unwrap());
                    self.cursor = Some(cursor);
                }
                Step::Idle => {
                    self.cursor = self.follower.cursor().or(self.cursor.take());
                    return;
                }
            }
        }
    }

    /// Reads all, waiting for the end of files that are away.
    fn read_all(&mut self) {
        for _ in 0..12 {
            self.read(usize::MAX);
            self.now += GRACE;
        }
    }

    /// The agent is killed and starts again: only the cursor is left.
    fn restart(&mut self, path: &Path) {
        let bytes = self
            .cursor
            .as_ref()
            .map(|c| postcard::to_stdvec(c).unwrap());
        let cursor = bytes.map(|b| postcard::from_bytes(&b).unwrap());
        self.follower = Follower::new(path, From::Begin, cursor);
    }

    #[track_caller]
    fn check(&mut self, lines: &[&str]) {
        self.read_all();
        assert_eq!(self.lines, lines);
        assert_eq!(self.notes, [] as [&str; 0]);
    }
}

#[test]
fn lines_come_when_they_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.log");
    let mut reader = Reader::new(&path, From::End);
    reader.check(&[]);
    append(&path, "a\nb");
    // A file that appears is new from its beginning.
    reader.check(&["a"]);
    append(&path, "c\n\nd\n");
    reader.check(&["a", "bc", "", "d"]);
}

#[test]
fn the_first_start_begins_where_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.log");
    let long = "l".repeat(1000);
    append(&path, &format!("{long}\nb\nhalf"));
    let mut end = Reader::new(&path, From::End);
    let mut begin = Reader::new(&path, From::Begin);
    end.check(&[]);
    begin.check(&[&long, "b"]);
    append(&path, " whole\nc\n");
    // A kill before the first line changes nothing of that.
    end.restart(&path);
    end.check(&["half whole", "c"]);
    begin.check(&[&long, "b", "half whole", "c"]);
}

/// Reads `before` lines, kills, lets `happen`, and goes on: for all places, with and without the kill,
/// the lines must be the same.
fn story(first: &str, happen: impl Fn(&Path), expected: &[&str]) {
    for before in 0..=first.lines().count() {
        for kill in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("app.log");
            append(&path, first);
            let mut reader = Reader::new(&path, From::Begin);
            reader.open();
            // Of a file of which nothing is known, nobody sees that it was cut between two looks.
            if before == 0 && !kill {
                continue;
            }
            tick();
            reader.read(before);
            if kill {
                reader.restart(&path);
            }
            happen(&path);
            reader.read_all();
            assert_eq!(reader.lines, expected, "{before} lines before, kill {kill}");
            assert_eq!(
                reader.notes,
                [] as [&str; 0],
                "{before} lines before, kill {kill}"
            );
            // Nothing comes again later.
            reader.restart(&path);
            append(&path, "z\n");
            reader.read_all();
            assert_eq!(reader.lines.last().unwrap(), "z");
            assert_eq!(
                reader.lines.len(),
                expected.len() + 1,
                "{before}, {kill}: {:?}",
                reader.lines
            );
        }
    }
}

impl Reader {
    /// The file is opened and its beginning is kept, but no line is read: as after a start while there
    /// was no line yet.
    fn open(&mut self) {
        assert!(self.follower.open_first().unwrap());
        self.cursor = self.follower.cursor();
    }
}

fn rename(path: &Path) {
    let generation = |n: u32| path.with_file_name(format!("app.log.{n}"));
    for n in (1..5).rev() {
        if generation(n).exists() {
            fs::rename(generation(n), generation(n + 1)).unwrap();
        }
    }
    fs::rename(path, generation(1)).unwrap();
}

fn copy_and_cut(path: &Path) {
    let generation = |n: u32| path.with_file_name(format!("app.log.{n}"));
    for n in (1..5).rev() {
        if generation(n).exists() {
            fs::rename(generation(n), generation(n + 1)).unwrap();
        }
    }
    fs::copy(path, generation(1)).unwrap();
    OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(0)
        .unwrap();
}

/// Times of files are as coarse as the kernel's tick.
fn tick() {
    std::thread::sleep(Duration::from_millis(12));
}

#[test]
fn a_renamed_file_is_finished_first_also_what_comes_late() {
    story(
        "a\nb\nc\n",
        |path| {
            let mut writer = OpenOptions::new().append(true).open(path).unwrap();
            append(path, "d\n");
            rename(path);
            append(path, "e\n");
            // Whoever writes has not noticed yet.
            writer.write_all(b"late\nno end").unwrap();
        },
        &["a", "b", "c", "d", "late", "no end", "e"],
    );
}

#[test]
fn a_file_that_is_copied_and_cut_is_finished_in_its_copy() {
    story(
        "a\nb\nc\n",
        |path| {
            append(path, "d\n");
            copy_and_cut(path);
            append(path, "e\n");
        },
        &["a", "b", "c", "d", "e"],
    );
    // It has grown beyond the old place before anybody looked.
    story(
        "a\nb\nc\n",
        |path| {
            append(path, "d\n");
            copy_and_cut(path);
            append(path, "e1\ne2\ne3\ne4\ne5\n");
        },
        &["a", "b", "c", "d", "e1", "e2", "e3", "e4", "e5"],
    );
}

#[test]
fn several_rotations_lose_and_double_nothing() {
    story(
        "a\nb\n",
        |path| {
            for n in 0..3 {
                tick();
                rename(path);
                append(path, &format!("r{n}\n"));
            }
            let other = path.with_file_name("app-errors.log");
            append(&other, "not ours\n");
            append(&path.with_file_name("app.log.3.gz"), "not ours\n");
        },
        &["a", "b", "r0", "r1", "r2"],
    );
    story(
        "a\nb\n",
        |path| {
            for n in 0..3 {
                append(path, &format!("more {n}\n"));
                tick();
                copy_and_cut(path);
                tick();
                append(path, &format!("r{n}\n"));
            }
        },
        &["a", "b", "more 0", "r0", "more 1", "r1", "more 2", "r2"],
    );
}

#[test]
fn older_generations_are_not_read_and_a_reused_inode_is_a_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.log");
    append(&path.with_file_name("app.log.1"), "old\n");
    tick();
    append(&path, "a\n");
    let mut reader = Reader::new(&path, From::Begin);
    reader.check(&["a"]);
    for n in 0..20 {
        // Removed and made anew: file systems like to give the number again.
        fs::remove_file(&path).unwrap();
        append(&path, &format!("b{n}\n"));
        reader.read_all();
        assert_eq!(reader.lines.last().unwrap(), &format!("b{n}"));
    }
    assert_eq!(reader.lines.len(), 21);
}

#[test]
fn what_cannot_be_found_any_more_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.log");
    append(&path, "a\nb\nc\n");
    let mut reader = Reader::new(&path, From::Begin);
    reader.read(2);
    // Compressed while the agent was down; the next generation is still there.
    reader.restart(&path);
    fs::rename(&path, dir.path().join("app.log.2.gz")).unwrap();
    append(&dir.path().join("app.log.2.gz"), "");
    fs::write(dir.path().join("app.log.2.gz"), "packed").unwrap();
    // Without a file it waits: a disk may not be there yet.
    reader.read_all();
    assert_eq!((reader.lines.len(), reader.notes.len()), (2, 0));
    tick();
    append(&dir.path().join("app.log.1"), "d\n");
    append(&path, "e\n");
    reader.read_all();
    assert_eq!(reader.lines, ["a", "b", "d", "e"]);
    assert_eq!(reader.notes.len(), 1, "{:?}", reader.notes);
    assert!(
        reader.notes[0].contains("after its byte 4 is missed"),
        "{:?}",
        reader.notes
    );
    // Cut without a copy.
    fs::write(&path, "").unwrap();
    append(&path, "f\n");
    reader.notes.clear();
    reader.read_all();
    assert_eq!(reader.lines.last().unwrap(), "f");
    assert!(reader.notes[0].contains("was cut"), "{:?}", reader.notes);
}

fn mapping() -> Mapping {
    Mapping {
        device_column: None,
        device: event::DeviceId::new("d").ok(),
        time_column: None,
        time_format: TimeFormat::Millis,
        metrics: Vec::new(),
        skip: Vec::new(),
        text: Vec::new(),
        rename: BTreeMap::new(),
    }
}

#[tokio::test]
async fn samples_come_with_their_cursor_and_the_watermark_waits_for_old_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.log");
    let line = |i: u64| format!("{{\"ts\":{},\"n\":{i}}}\n", 1_700_000_000_000 + i * 1000);
    let all: String = (0..2500).map(line).collect();
    append(&path, &format!("not json\n{all}"));
    let inbox = Inbox::new(inbox::Settings::default(), Clock::new(Quality::Ntp));
    let feed = Feed::new(inbox.clone(), "t".to_owned(), &BTreeMap::new()).unwrap();
    assert!(inbox.stamp().is_none());
    let settings = Settings {
        path,
        format: Format::Json,
        mapping: mapping(),
        from: From::Begin,
        interval: Duration::from_millis(5),
        lag: Duration::from_secs(2),
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(settings, None, feed, stop.clone()));
    let mut numbers = Vec::new();
    while numbers.len() < 2500 {
        tokio::task::yield_now().await;
        let (_, pending) = inbox.wait(Some(Duration::ZERO), true);
        if let Some(pending) = pending {
            assert_eq!(pending.cursors().len(), 1);
            assert!(!pending.volatile, "it can be read again");
            numbers.extend(pending.samples.iter().filter_map(|s| s.value.as_number()));
            inbox.stored(pending);
            if numbers.len() < 2500 {
                let next = 1_700_000_000_000 + numbers.len() as i64 * 1000;
                assert_eq!(inbox.stamp().unwrap().floor.as_millis(), next);
            }
        }
    }
    let stamp = inbox.stamp().unwrap();
    assert!(stamp.wall.as_micros() - stamp.floor.as_micros() <= 2_000_000);
    stop.cancel();
    let counts = running.await.unwrap();
    assert_eq!((counts.rows, counts.readings, counts.bad), (2501, 2500, 1));
    let expected: Vec<f64> = (0..2500).map(f64::from).collect();
    assert!(numbers == expected);
}
