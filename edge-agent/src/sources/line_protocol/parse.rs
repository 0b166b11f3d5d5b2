//! The grammar: bytes to lines with unescaped names, tags, values and the time as it stands there.
//!
//! Names escape `,`, `=` (tags and fields), space and `\` with `\`; before anything else a `\` is
//! itself. Texts stand in double quotes, escape `"` and `\`, and may hold line ends.

use std::borrow::Cow;

/// Most tags of one line: databases of this protocol take no more than a few hundred.
const TAGS_MAX: usize = 256;
/// Most fields of one line, as of one JSON object.
const FIELDS_MAX: usize = 1024;
/// So much of a bad value is shown.
const SHOWN_CHARS: usize = 40;

/// The value of a field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Field<'a> {
    Int(i64),
    Uint(u64),
    Float(f64),
    Bool(bool),
    Text(Cow<'a, str>),
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line<'a> {
    pub measurement: Cow<'a, str>,
    pub tags: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// A value that cannot be is known by its field: the others are still good.
    pub fields: Vec<(Cow<'a, str>, Result<Field<'a>, String>)>,
    /// In the sender's unit.
    pub time: Option<i64>,
}

/// The lines of `input`, with their numbers from 1. Empty lines and comments are passed over; after
/// a line that cannot be read it goes on with the next.
pub(super) fn lines(input: &[u8]) -> Lines<'_> {
    Lines {
        input,
        at: 0,
        number: 1,
    }
}

#[derive(Debug)]
pub(super) struct Lines<'a> {
    input: &'a [u8],
    at: usize,
    number: u64,
}

impl<'a> Iterator for Lines<'a> {
    type Item = (u64, Result<Line<'a>, String>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rest = self.input.get(self.at..).filter(|rest| !rest.is_empty())?;
            let blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\r');
            let begin = rest.iter().position(|b| !blank(b)).unwrap_or(rest.len());
            let number = self.number;
            match rest.get(begin) {
                None => return None,
                Some(b'\n') => self.pass(begin + 1),
                Some(b'#') => {
                    let end = end_of_line(rest, begin);
                    self.pass(end + 1);
                }
                Some(_) => {
                    let mut parser = Parser {
                        input: rest,
                        at: begin,
                    };
                    let line = parser.line();
                    // The end of a good line, or of the line where it went wrong.
                    let end = end_of_line(rest, parser.at);
                    self.pass(end + 1);
                    let line = line.map_err(|reason| {
                        let column = parser.at.saturating_sub(begin) + 1;
                        format!("at byte {column}: {reason}")
                    });
                    return Some((number, line));
                }
            }
        }
    }
}

impl Lines<'_> {
    fn pass(&mut self, bytes: usize) {
        let end = (self.at + bytes).min(self.input.len());
        let passed = self.input.get(self.at..end).unwrap_or_default();
        self.number += passed.iter().filter(|b| **b == b'\n').count() as u64;
        self.at = end;
    }
}

fn end_of_line(input: &[u8], from: usize) -> usize {
    let rest = input.get(from..).unwrap_or_default();
    rest.iter()
        .position(|b| *b == b'\n')
        .map_or(input.len(), |n| from + n)
}

/// Stands at one byte of the input. Where an error is returned, it stands where that is.
struct Parser<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Parser<'a> {
    fn line(&mut self) -> Result<Line<'a>, String> {
        let measurement = self.name("the measurement", b",")?;
        let mut tags = Vec::new();
        while self.take(b',') {
            if tags.len() >= TAGS_MAX {
                return Err(format!("more than {TAGS_MAX} tags"));
            }
            let key = self.name("a tag's name", b",=")?;
            if !self.take(b'=') {
                return Err(format!("the tag {:?} has no value", shortened(&key)));
            }
            tags.push((key, self.name("a tag's value", b",")?));
        }
        if !self.spaces() || self.at_end() {
            return Err(
                "no fields: after measurement and tags comes a space, then name=value".into(),
            );
        }
        let mut fields = Vec::new();
        loop {
            if fields.len() >= FIELDS_MAX {
                return Err(format!("more than {FIELDS_MAX} fields"));
            }
            let key = self.name("a field's name", b",=")?;
            if !self.take(b'=') {
                return Err(format!("the field {:?} has no value", shortened(&key)));
            }
            fields.push((key, self.value()?));
            if !self.take(b',') {
                break;
            }
        }
        let time = match self.spaces() && !self.at_end() {
            false => None,
            true => {
                let start = self.at;
                let token = self.token();
                let Ok(time) = token.parse() else {
                    self.at = start;
                    return Err(format!(
                        "the time {:?} is not a whole number (texts stand in double quotes)",
                        shortened(&token)
                    ));
                };
                self.spaces();
                Some(time)
            }
        };
        if !self.at_end() {
            return Err("something comes after the line's end".into());
        }
        Ok(Line {
            measurement,
            tags,
            fields,
            time,
        })
    }

    /// Up to white space or an unescaped byte of `stops`.
    fn name(&mut self, what: &str, stops: &[u8]) -> Result<Cow<'a, str>, String> {
        let start = self.at;
        // What has been unescaped, and where the rest begins.
        let (mut unescaped, mut from) = (Vec::new(), start);
        while let Some(&b) = self.input.get(self.at) {
            if stops.contains(&b) || matches!(b, b' ' | b'\t' | b'\n') || self.at_end() {
                break;
            }
            if b != b'\\' {
                self.at += 1;
                continue;
            }
            match self.input.get(self.at + 1) {
                None | Some(b'\n') => return Err(format!("{what} ends with a backslash")),
                Some(next) => {
                    // The measurement stops at `,` only: there is no `=` to be escaped.
                    let special = matches!(next, b' ' | b'\\' | b',')
                        || (*next == b'=' && what != "the measurement");
                    if special {
                        unescaped
                            .extend_from_slice(self.input.get(from..self.at).unwrap_or_default());
                        from = self.at + 1;
                    }
                    self.at += 2;
                }
            }
        }
        if self.at == start {
            return Err(format!("{what} is empty"));
        }
        let rest = self.input.get(from..self.at).unwrap_or_default();
        let text = if from == start {
            std::str::from_utf8(rest).ok().map(Cow::Borrowed)
        } else {
            unescaped.extend_from_slice(rest);
            String::from_utf8(unescaped).ok().map(Cow::Owned)
        };
        text.ok_or_else(|| {
            self.at = start;
            format!("{what} is not UTF-8")
        })
    }

    fn value(&mut self) -> Result<Result<Field<'a>, String>, String> {
        if self.input.get(self.at) == Some(&b'"') {
            return self.text().map(|text| Ok(Field::Text(text)));
        }
        let token = self.token();
        if token.is_empty() {
            return Err("the field's value is missing".into());
        }
        Ok(value(&token))
    }

    fn text(&mut self) -> Result<Cow<'a, str>, String> {
        let quote = self.at;
        let start = quote + 1;
        let (mut unescaped, mut from) = (Vec::new(), start);
        let mut at = start;
        loop {
            match (self.input.get(at), self.input.get(at + 1)) {
                (None, _) => return Err("a text without its closing quote".into()),
                (Some(b'"'), _) => break,
                (Some(b'\\'), Some(b'"' | b'\\')) => {
                    unescaped.extend_from_slice(self.input.get(from..at).unwrap_or_default());
                    from = at + 1;
                    at += 2;
                }
                _ => at += 1,
            }
        }
        let rest = self.input.get(from..at).unwrap_or_default();
        let text = if from == start {
            std::str::from_utf8(rest).ok().map(Cow::Borrowed)
        } else {
            unescaped.extend_from_slice(rest);
            String::from_utf8(unescaped).ok().map(Cow::Owned)
        };
        let text = text.ok_or("a text is not UTF-8")?;
        self.at = at + 1;
        let ends = matches!(self.input.get(self.at), Some(b',' | b' ' | b'\t'));
        if !ends && !self.at_end() {
            return Err("something comes right after a text's closing quote".into());
        }
        Ok(text)
    }

    /// Up to `,`, white space or the end. Bytes that are no text make it no number either.
    fn token(&mut self) -> Cow<'a, str> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let ends = |b: &u8| matches!(b, b',' | b' ' | b'\t' | b'\r' | b'\n');
        let length = rest.iter().position(ends).unwrap_or(rest.len());
        self.at += length;
        String::from_utf8_lossy(rest.get(..length).unwrap_or_default())
    }

    fn take(&mut self, byte: u8) -> bool {
        let is = self.input.get(self.at) == Some(&byte);
        self.at += usize::from(is);
        is
    }

    /// Whether there were any.
    fn spaces(&mut self) -> bool {
        let start = self.at;
        while matches!(self.input.get(self.at), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        self.at > start
    }

    fn at_end(&self) -> bool {
        match self.input.get(self.at) {
            None | Some(b'\n') => true,
            Some(b'\r') => matches!(self.input.get(self.at + 1), None | Some(b'\n')),
            Some(_) => false,
        }
    }
}

/// A value without quotes.
fn value(token: &str) -> Result<Field<'static>, String> {
    let bad = |what: &str| Err(format!("{:?} is {what}", shortened(token)));
    match token {
        "t" | "T" | "true" | "True" | "TRUE" => return Ok(Field::Bool(true)),
        "f" | "F" | "false" | "False" | "FALSE" => return Ok(Field::Bool(false)),
        _ => {}
    }
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if let Some(n) = token.strip_suffix('i')
        && digits(n.strip_prefix(['-', '+']).unwrap_or(n))
    {
        return match n.parse() {
            Ok(n) => Ok(Field::Int(n)),
            Err(_) => bad("no integer of 64 bits"),
        };
    }
    if let Some(n) = token.strip_suffix('u')
        && digits(n)
    {
        return match n.parse() {
            Ok(n) => Ok(Field::Uint(n)),
            Err(_) => bad("no unsigned integer of 64 bits"),
        };
    }
    match token.parse::<f64>() {
        Ok(n) if n.is_finite() => Ok(Field::Float(n)),
        Ok(_) => bad("not a finite number"),
        Err(_) => bad("neither a number, true, false, nor a text in double quotes"),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests;
