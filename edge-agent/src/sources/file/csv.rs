//! Rows of separated values.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};

use csv::{Position, Reader, ReaderBuilder, StringRecord};
use event::MetricName;

use super::{Cursor, Row, Rows, Settings, fingerprint};
use crate::inbox::Reading;
use crate::sources::mapping::{Devices, Mapping};
use crate::sources::stdin::{LINE_BYTES_MAX, read_line};

pub(super) struct Csv {
    reader: Reader<File>,
    mapping: Mapping,
    names: Vec<String>,
    metrics: Vec<Option<MetricName>>,
    device_at: Option<usize>,
    time_at: Option<usize>,
    devices: Devices,
    fingerprint: u64,
    row: u64,
    record: StringRecord,
}

pub(super) fn open(settings: &Settings, cursor: Option<Cursor>) -> io::Result<Csv> {
    let first_line = read_line(
        &mut BufReader::new(File::open(&settings.path)?),
        LINE_BYTES_MAX,
    )?;
    if first_line.is_none() {
        return Err(io::Error::other("the file is empty"));
    }
    let fingerprint = fingerprint(&first_line.and_then(Result::ok).unwrap_or_default());
    let mut reader = ReaderBuilder::new()
        .delimiter(settings.delimiter)
        .has_headers(false)
        .flexible(true)
        .from_path(&settings.path)?;
    let mut record = StringRecord::new();
    let mut names = settings.columns.clone();
    if settings.header {
        reader.read_record(&mut record).map_err(io::Error::from)?;
        if names.is_empty() {
            names = record.iter().map(|name| name.trim().to_owned()).collect();
        }
    }
    let mapping = settings.mapping.clone();
    let find = |column: &Option<String>| match column {
        None => Ok(None),
        Some(column) => match names.iter().position(|name| name == column) {
            Some(at) => Ok(Some(at)),
            None => Err(missing(column, &names, settings.delimiter)),
        },
    };
    let (device_at, time_at) = (find(&mapping.device_column)?, find(&mapping.time_column)?);
    let (taken, renamed) = (mapping.metrics.iter(), mapping.rename.keys());
    for column in taken.chain(renamed).chain(&mapping.text) {
        find(&Some(column.clone()))?;
    }
    if let [only] = names.as_slice()
        && settings.columns.is_empty()
        && only.contains([',', ';', '\t', '|'])
    {
        return Err(io::Error::other(format!(
            "the header is one column, {only:?}; is the delimiter {:?} right?",
            char::from(settings.delimiter)
        )));
    }
    let metrics: Vec<_> = names.iter().map(|name| mapping.metric(name)).collect();
    let mut columns = BTreeMap::new();
    for (name, metric) in names.iter().zip(&metrics) {
        if let Some(metric) = metric
            && let Some(first) = columns.insert(metric, name)
            && first != name
        {
            return Err(io::Error::other(format!(
                "the columns {first:?} and {name:?} both become the metric \"{metric}\"; \
                 rename or skip one"
            )));
        }
    }
    let mut row = 0;
    match cursor {
        Some(c) if c.fingerprint == fingerprint => {
            let mut position = Position::new();
            position.set_byte(c.byte).set_line(c.line).set_record(c.row);
            reader.seek(position).map_err(io::Error::from)?;
            row = c.row;
        }
        Some(_) => tracing::warn!(
            path = %settings.path.display(),
            "the file is another one than before: it is replayed from its beginning"
        ),
        None => {}
    }
    let devices = Devices::default();
    Ok(Csv {
        reader,
        mapping,
        names,
        metrics,
        device_at,
        time_at,
        devices,
        fingerprint,
        row,
        record,
    })
}

fn missing(column: &str, names: &[String], delimiter: u8) -> io::Error {
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut text = format!("no column {column:?}");
    if let Some(nearest) = crate::config::nearest(column, &known) {
        text.push_str(&format!("; did you mean {nearest:?}?"));
    }
    text.push_str(&format!(
        "; with the delimiter {:?} the columns are {}",
        char::from(delimiter),
        names.join(", ")
    ));
    io::Error::other(text)
}

impl Rows for Csv {
    fn next(&mut self) -> io::Result<Option<Row>> {
        let line = self.reader.position().line();
        let mut record = std::mem::take(&mut self.record);
        let read = self.reader.read_record(&mut record);
        let mut row = Row {
            line: record.position().map_or(line, Position::line),
            time: None,
            readings: Ok(Vec::new()),
            refused: Vec::new(),
            next: self.here(),
        };
        match read {
            Ok(false) => return Ok(None),
            Ok(true) => row.readings = self.readings(&record, &mut row.time, &mut row.refused),
            Err(error) if error.is_io_error() => return Err(error.into()),
            Err(error) => row.readings = Err(error.to_string()),
        }
        self.row += 1;
        row.next = self.here();
        self.record = record;
        Ok(Some(row))
    }
}

impl Csv {
    fn here(&self) -> Cursor {
        let position = self.reader.position();
        Cursor {
            fingerprint: self.fingerprint,
            byte: position.byte(),
            line: position.line(),
            row: self.row,
        }
    }

    fn readings(
        &mut self,
        record: &StringRecord,
        time: &mut Option<event::EventTime>,
        refused: &mut Vec<String>,
    ) -> Result<Vec<Reading>, String> {
        if record.len() != self.names.len() {
            return Err(format!(
                "{} fields where the header names {}; set `columns` if the header is short",
                record.len(),
                self.names.len()
            ));
        }
        let device = match (self.device_at, &self.mapping.device) {
            (Some(at), _) => self.devices.get(record[at].trim())?,
            (None, Some(device)) => device.clone(),
            (None, None) => return Err("no device".to_owned()),
        };
        if let Some(at) = self.time_at {
            *time = Some(self.mapping.time_format.parse(&record[at])?);
        }
        let mut readings = Vec::with_capacity(self.metrics.len());
        for ((cell, name), metric) in record.iter().zip(&self.names).zip(&self.metrics) {
            let Some(metric) = metric else { continue };
            match self.mapping.value(name, cell) {
                Ok(None) => {}
                Ok(Some(value)) => {
                    let (device, metric) = (device.clone(), metric.clone());
                    readings.push(Reading {
                        device,
                        metric,
                        time: *time,
                        value,
                    });
                }
                Err(reason) => refused.push(reason),
            }
        }
        Ok(readings)
    }
}
