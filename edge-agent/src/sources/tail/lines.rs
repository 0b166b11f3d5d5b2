//! From the bytes of a growing file to its lines, and what must lie before a place in it.

use crate::sources::hash::fnv1a;

/// So many bytes are remembered of the file's beginning and before the present place: enough that two
/// logs whose lines carry times differ in them.
pub(super) const KNOWN_BYTES: usize = 256;
/// Longest line, bytes. A longer one is refused and read past.
pub(super) const LINE_BYTES_MAX: usize = 64 << 10;

/// A place behind a line, and what lies before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Bytes before it.
    pub offset: u64,
    /// Hash of the file's first bytes, at most [`KNOWN_BYTES`], none from behind the place.
    pub head: u64,
    /// Hash of the last bytes before it, at most [`KNOWN_BYTES`].
    pub tail: u64,
}

/// Splits a file into lines. Bytes come in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Lines {
    /// Bytes of the file that have been given out, or passed over.
    start: u64,
    head: Vec<u8>,
    before: Vec<u8>,
    /// Read but not given out: from `at` on.
    buffer: Vec<u8>,
    at: usize,
    /// Bytes behind `at` that are known to hold no end of line.
    searched: usize,
    /// Bytes of a line that is too long, so far.
    passed: u64,
}

impl Lines {
    /// Goes on at `offset`, with the first bytes and those before it as [`Self::known_ranges`] wants
    /// them.
    pub fn at(offset: u64, head: Vec<u8>, before: Vec<u8>) -> Self {
        Self {
            start: offset,
            head,
            before,
            ..Self::default()
        }
    }

    /// Which bytes lie at the beginning and before `offset`: their lengths.
    pub fn known_ranges(offset: u64) -> usize {
        usize::try_from(offset).map_or(KNOWN_BYTES, |n| n.min(KNOWN_BYTES))
    }

    /// Where the next byte is to be read.
    pub fn end(&self) -> u64 {
        self.start + self.rest().len() as u64
    }

    /// The last bytes before [`Self::end`]: a file that has others there is not the same any more.
    pub fn known(&self) -> Vec<u8> {
        let rest = self.rest();
        if rest.len() >= KNOWN_BYTES {
            return last(rest, KNOWN_BYTES).to_vec();
        }
        let mut known = last(&self.before, KNOWN_BYTES - rest.len()).to_vec();
        known.extend_from_slice(rest);
        known
    }

    /// More bytes of the file.
    pub fn add(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line without its end. A last line without an end waits. A line that is too long
    /// is an error, as a text for people.
    pub fn next(&mut self) -> Option<Result<Vec<u8>, String>> {
        let rest = self.rest();
        let unsearched = rest.get(self.searched..).unwrap_or_default();
        match unsearched.iter().position(|b| *b == b'\n') {
            Some(n) => Some(self.give(self.searched + n, 1)),
            None => {
                let n = rest.len();
                self.searched = n;
                if n > LINE_BYTES_MAX {
                    self.passed += n as u64;
                    self.consume(n);
                }
                None
            }
        }
    }

    /// The last line, whose end will not come any more. None if there is nothing of it.
    pub fn last(&mut self) -> Option<Result<Vec<u8>, String>> {
        let n = self.rest().len();
        (n > 0 || self.passed > 0).then(|| self.give(n, 0))
    }

    /// The place behind the last line given out.
    pub fn place(&self) -> Place {
        Place {
            offset: self.start,
            head: fnv1a(&self.head),
            tail: fnv1a(&self.before),
        }
    }

    fn give(&mut self, n: usize, end: usize) -> Result<Vec<u8>, String> {
        let passed = std::mem::take(&mut self.passed) + n as u64;
        let mut line = self.rest().get(..n).unwrap_or_default().to_vec();
        self.consume(n + end);
        if passed > LINE_BYTES_MAX as u64 {
            return Err(format!(
                "line of {passed} bytes, more than {LINE_BYTES_MAX}"
            ));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(line)
    }

    fn consume(&mut self, n: usize) {
        let end = (self.at + n).min(self.buffer.len());
        let bytes = self.buffer.get(self.at..end).unwrap_or_default();
        let missing = KNOWN_BYTES.saturating_sub(self.head.len()).min(bytes.len());
        self.head
            .extend_from_slice(bytes.get(..missing).unwrap_or_default());
        self.before.extend_from_slice(last(bytes, KNOWN_BYTES));
        let surplus = self.before.len().saturating_sub(KNOWN_BYTES);
        self.before.drain(..surplus);
        self.start += bytes.len() as u64;
        self.at = end;
        self.searched = 0;
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.at..).unwrap_or_default()
    }
}

fn last(bytes: &[u8], n: usize) -> &[u8] {
    bytes.get(bytes.len().saturating_sub(n)..).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_however_the_bytes_come() {
        let text = format!("ab\r\n\n{}\nlast", "x".repeat(600));
        for step in [1, 2, 7, 300, 10_000] {
            let mut lines = Lines::default();
            let mut got = Vec::new();
            for bytes in text.as_bytes().chunks(step) {
                lines.add(bytes);
                while let Some(line) = lines.next() {
                    got.push(String::from_utf8(line.unwrap()).unwrap());
                    // What is remembered is what lies there.
                    let n = lines.place().offset as usize;
                    let before = &text.as_bytes()[..n];
                    assert_eq!(lines.place().head, fnv1a(&before[..n.min(KNOWN_BYTES)]));
                    assert_eq!(lines.place().tail, fnv1a(last(before, KNOWN_BYTES)));
                    let end = lines.end() as usize;
                    assert_eq!(lines.known(), last(&text.as_bytes()[..end], KNOWN_BYTES));
                }
            }
            assert_eq!(got, ["ab", "", &"x".repeat(600)], "{step}");
            assert_eq!(lines.last(), Some(Ok(b"last".to_vec())));
            assert_eq!(lines.last(), None);
            assert_eq!(lines.place().offset, text.len() as u64);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_read_past_in_little_memory() {
        let mut lines = Lines::default();
        for _ in 0..100 {
            lines.add(&[b'x'; 8192]);
            assert_eq!(lines.next(), None);
            assert!(lines.buffer.len() < 2 * LINE_BYTES_MAX);
        }
        lines.add(b"y\nshort\n");
        let error = lines.next().unwrap().unwrap_err();
        assert!(error.contains("line of 819201 bytes"), "{error}");
        assert_eq!(lines.next(), Some(Ok(b"short".to_vec())));
        assert_eq!(lines.place().offset, 819_201 + 1 + 6);
    }
}
