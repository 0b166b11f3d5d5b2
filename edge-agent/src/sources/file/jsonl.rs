//! Rows of JSON, one a line.

use std::fs::File;
use std::io::{self, BufReader, Seek as _, SeekFrom};

use super::{Cursor, Row, Rows, Settings, fingerprint};
use crate::sources::json;
use crate::sources::mapping::{Devices, Mapping};
use crate::sources::stdin::{LINE_BYTES_MAX, read_line};

pub(super) struct Jsonl {
    reader: BufReader<File>,
    mapping: Mapping,
    devices: Devices,
    here: Cursor,
}

pub(super) fn open(settings: &Settings, cursor: Option<Cursor>) -> io::Result<Jsonl> {
    let mut reader = BufReader::new(File::open(&settings.path)?);
    let first = read_line(&mut reader, LINE_BYTES_MAX)?;
    let fingerprint = fingerprint(&first.and_then(Result::ok).unwrap_or_default());
    let mut here = Cursor {
        fingerprint,
        byte: 0,
        line: 1,
        row: 0,
    };
    match cursor {
        Some(c) if c.fingerprint == fingerprint => here = c,
        Some(_) => tracing::warn!(
            path = %settings.path.display(),
            "the file is another one than before: it is replayed from its beginning"
        ),
        None => {}
    }
    reader.seek(SeekFrom::Start(here.byte))?;
    let (mapping, devices) = (settings.mapping.clone(), Devices::default());
    Ok(Jsonl {
        reader,
        mapping,
        devices,
        here,
    })
}

impl Rows for Jsonl {
    fn next(&mut self) -> io::Result<Option<Row>> {
        let line = self.here.line;
        let Some(text) = read_line(&mut self.reader, LINE_BYTES_MAX)? else {
            return Ok(None);
        };
        self.here.line += 1;
        self.here.row += 1;
        self.here.byte = self.reader.stream_position()?;
        let parsed = match text {
            Ok(text) if text.iter().all(u8::is_ascii_whitespace) => Ok(json::Parsed::default()),
            Ok(text) => json::parse(&text, &self.mapping, &mut self.devices),
            Err(reason) => Err(reason),
        };
        let (readings, refused) = match parsed {
            Ok(parsed) => (Ok(parsed.readings), parsed.refused),
            Err(reason) => (Err(reason), Vec::new()),
        };
        // A line may hold several objects: the earliest is what is still to come.
        let time = readings.iter().flatten().filter_map(|r| r.time).min();
        Ok(Some(Row {
            line,
            time,
            readings,
            refused,
            next: self.here,
        }))
    }
}
