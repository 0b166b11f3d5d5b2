//! What a program writes to its standard error goes to the agent's log: shortened, and not more of
//! it than a person would read.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::BufReader;
use tokio::process::ChildStderr;
use tokio::time::Instant;

use crate::sources::lines::read_line;

/// Longest line that is read whole, bytes.
const LINE_BYTES_MAX: usize = 4096;
/// So much of a line is logged.
const LOGGED_CHARS: usize = 200;
/// Most lines that are logged in one window.
const LINES_MAX: u64 = 10;
/// Length of a window.
const WINDOW: Duration = Duration::from_secs(60);

/// Says which lines are logged. Lives as long as the source: a program that starts again every
/// second must not have the limit for itself each time.
#[derive(Debug, Default)]
pub(super) struct Limit {
    since: Option<Instant>,
    lines: u64,
}

impl Limit {
    /// Whether the next line is to be logged, and how many were not in the window before.
    fn next(&mut self, now: Instant) -> (bool, u64) {
        let mut passed_over = 0;
        if self.since.is_none_or(|since| now >= since + WINDOW) {
            passed_over = self.lines.saturating_sub(LINES_MAX);
            *self = Self {
                since: Some(now),
                lines: 0,
            };
        }
        self.lines += 1;
        (self.lines <= LINES_MAX, passed_over)
    }
}

/// Reads to the end, so that the program never waits for us.
pub(super) async fn log(stderr: ChildStderr, source: String, limit: Arc<Mutex<Limit>>) {
    let mut stderr = BufReader::with_capacity(LINE_BYTES_MAX, stderr);
    while let Ok(Some(line)) = read_line(&mut stderr, LINE_BYTES_MAX).await {
        let now = Instant::now();
        let (logged, passed_over) = limit.lock().unwrap_or_else(|e| e.into_inner()).next(now);
        if passed_over > 0 {
            tracing::warn!(
                source,
                lines = passed_over,
                "the program said more than is logged"
            );
        }
        if logged {
            let text = match line {
                Ok(bytes) => shortened(&String::from_utf8_lossy(&bytes)),
                Err(too_long) => too_long,
            };
            tracing::warn!(source, text, "the program says");
        }
    }
}

/// A line for the log: without what would move a terminal's cursor.
fn shortened(text: &str) -> String {
    let mut short: String = text
        .chars()
        .take(LOGGED_CHARS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(LOGGED_CHARS).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_a_minute_are_logged_and_the_others_counted() {
        let mut limit = Limit::default();
        let start = Instant::now();
        let logged = (0..25).filter(|_| limit.next(start).0).count();
        assert_eq!(logged, 10);
        assert_eq!(limit.next(start + WINDOW / 2), (false, 0));
        assert_eq!(limit.next(start + WINDOW), (true, 16));
        assert_eq!(limit.next(start + WINDOW), (true, 0));
    }

    #[test]
    fn long_lines_are_cut_and_controls_are_blanks() {
        assert_eq!(shortened("a\x1b[2Jb"), "a [2Jb");
        let long = shortened(&"ä".repeat(300));
        assert_eq!(long.chars().count(), 201);
        assert!(long.ends_with('…'));
        assert_eq!(shortened(&"x".repeat(200)).len(), 200);
    }
}
