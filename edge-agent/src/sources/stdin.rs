//! JSON lines on standard input, for pipes and for programs that start the agent.

use std::io::{BufRead, Read};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::json;
use super::mapping::Devices;
use super::{Counts, Feed, Mapping};
use crate::inbox::Position;

/// Longest line, bytes. A longer one is refused and read past.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// Lines read ahead.
const LINES_MAX: usize = 64;

/// How lines are to be understood.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Keys of device, time and metrics.
    pub mapping: Mapping,
    /// How far times in the lines may lie behind the present: the agent promises no more.
    pub lag: Duration,
}

/// Reads `input` to its end, or until the agent stops; returns what was done. A thread reads,
/// because a read of a terminal or a pipe cannot be broken off.
pub async fn run(
    settings: Settings,
    input: impl Read + Send + 'static,
    mut feed: Feed,
    stop: CancellationToken,
) -> Counts {
    feed.stand_at(if settings.lag.is_zero() {
        Position::Live
    } else {
        Position::Behind(settings.lag)
    });
    let (lines, mut read) = mpsc::channel(LINES_MAX);
    let reader = std::thread::Builder::new().name("stdin".to_owned());
    let reader = match reader.spawn(move || read_lines(input, &lines)) {
        Ok(reader) => reader,
        Err(error) => {
            feed.refuse(0, &format!("cannot start the reading thread: {error}"));
            return feed.counts();
        }
    };
    let mut devices = Devices::default();
    let mut number = 0;
    loop {
        let line = tokio::select! {
            () = stop.cancelled() => return feed.counts(),
            line = read.recv() => line,
        };
        number += 1;
        let line = match line {
            None => {
                // The input has ended, or the thread has panicked: that is not the same.
                if let Err(panic) = reader.join() {
                    std::panic::resume_unwind(panic);
                }
                return feed.counts();
            }
            Some(Ok(line)) => line,
            Some(Err(reason)) => {
                feed.refuse(number, &reason);
                continue;
            }
        };
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        feed.count_row();
        match json::parse(&line, &settings.mapping, &mut devices) {
            Err(reason) => feed.refuse(number, &reason),
            Ok(parsed) => {
                for reason in &parsed.refused {
                    feed.refuse(number, reason);
                }
                if feed
                    .push(number, parsed.readings, None, None)
                    .await
                    .is_err()
                {
                    return feed.counts();
                }
            }
        }
    }
}

fn read_lines(input: impl Read, lines: &mpsc::Sender<Result<Vec<u8>, String>>) {
    let mut input = std::io::BufReader::new(input);
    loop {
        let item = match read_line(&mut input, LINE_BYTES_MAX) {
            Ok(None) => return,
            Ok(Some(line)) => line,
            Err(error) => {
                let _ = lines.blocking_send(Err(format!("read standard input: {error}")));
                return;
            }
        };
        if lines.blocking_send(item).is_err() {
            return;
        }
    }
}

/// One line without its end; a line over `max` is read past and reported. None at the end.
pub(super) fn read_line(
    input: &mut impl BufRead,
    max: usize,
) -> std::io::Result<Option<Result<Vec<u8>, String>>> {
    let mut line = Vec::new();
    let n = input.take(max as u64 + 1).read_until(b'\n', &mut line)?;
    if n == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        return Ok(Some(Ok(line)));
    }
    if n <= max {
        return Ok(Some(Ok(line))); // the last line, without its end
    }
    let mut passed = n as u64;
    loop {
        let buffer = input.fill_buf()?;
        let end = buffer.iter().position(|b| *b == b'\n');
        let used = end.map_or(buffer.len(), |at| at + 1);
        let done = end.is_some() || buffer.is_empty();
        passed += used as u64;
        input.consume(used);
        if done {
            return Ok(Some(Err(format!(
                "line of {passed} bytes, more than {max}"
            ))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Quality};
    use crate::inbox::{self, Inbox};
    use crate::sources::TimeFormat;
    use std::collections::BTreeMap;
    use std::io::Cursor;

    #[test]
    fn long_lines_are_read_past() {
        let mut input = Cursor::new(b"ab\r\n0123456789\n\nlast".to_vec());
        let mut next = || read_line(&mut input, 5).unwrap();
        assert_eq!(next(), Some(Ok(b"ab".to_vec())));
        assert!(next().unwrap().unwrap_err().contains("more than 5"));
        assert_eq!(next(), Some(Ok(Vec::new())));
        assert_eq!(next(), Some(Ok(b"last".to_vec())));
        assert_eq!(next(), None);
    }

    #[tokio::test]
    async fn bad_lines_are_passed_over_and_attributes_come_once_per_device() {
        let inbox = Inbox::new(inbox::Settings::default(), Clock::new(Quality::Ntp));
        let attributes = BTreeMap::from([("site".to_owned(), "p1".to_owned())]);
        let feed = Feed::new(inbox.clone(), "stdin".to_owned(), &attributes).unwrap();
        let settings = Settings {
            mapping: Mapping {
                device_column: None,
                device: None,
                time_column: None,
                time_format: TimeFormat::Millis,
                metrics: Vec::new(),
                skip: Vec::new(),
                text: Vec::new(),
                rename: BTreeMap::new(),
            },
            lag: Duration::ZERO,
        };
        let input =
            b"{\"device\":\"a\",\"t\":1}\nnot json\n\n{\"device\":\"a\",\"t\":2}\n{\"t\":3}";
        run(
            settings,
            Cursor::new(input.to_vec()),
            feed,
            CancellationToken::new(),
        )
        .await;
        let pending = inbox.wait(None, true).1.unwrap();
        let metrics: Vec<_> = pending.samples.iter().map(|s| s.metric.as_str()).collect();
        assert_eq!(metrics, ["@site", "t", "t"]);
        // The source has ended: it holds nobody back.
        assert!(inbox.stamp().is_some());
    }
}
