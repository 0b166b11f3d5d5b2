//! `tidewatch log inspect`: what a data folder holds, for people.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use event::{IngestTime, Record, RecordRef};
use eventlog::{Log, Offset, PartitionId};

use crate::config::LogConfig;

/// Most records printed per partition.
const RECORDS_MAX: u64 = 10_000;
/// Bytes read at once.
const READ_BYTES: usize = 4 << 20;

/// The log of a data folder whose server is stopped.
///
/// **Errors**: no log there, a server has it open, or it is damaged.
pub fn open(data: &Path) -> anyhow::Result<Log> {
    let shown = data.display();
    ensure!(
        data.join("log.redb").is_file(),
        "{shown} has no log.redb: it is not a data folder"
    );
    let open = |partitions| {
        let settings = eventlog::Settings {
            partitions,
            cache_bytes: LogConfig::default().cache_bytes,
            ..eventlog::Settings::default()
        };
        // Nothing is appended here, so no time is ever asked for.
        Log::open(data, settings, Arc::new(|| 0))
    };
    match open(LogConfig::default().partitions) {
        Err(eventlog::Error::PartitionsChanged { stored, .. }) => open(stored),
        opened => opened,
    }
    .with_context(|| format!("failed to open the data folder {shown}"))
}

/// Partitions, offsets and the newest `records` of each.
///
/// **Errors**: no log there, a server has it open, or it is damaged.
pub fn inspect(data: &Path, records: u64) -> anyhow::Result<String> {
    let log = open(data)?;
    let sizes = log.sizes()?;
    let mut out = String::new();
    writeln!(out, "log   {:>12} bytes on disk", sizes.log_file_bytes)?;
    writeln!(out, "state {:>12} bytes on disk", sizes.state_file_bytes)?;
    for (number, size) in sizes.partitions.iter().enumerate() {
        let partition = PartitionId(number as u16);
        let checkpoint = log.latest_offset(partition)?;
        let newest = size.last_ingest_time.map(|t| IngestTime(t).to_string());
        writeln!(
            out,
            "partition {number}: offsets {}..{} in {} blocks of {} bytes, checkpoint {}, newest {}",
            size.first,
            size.end,
            size.blocks,
            size.stored_bytes,
            checkpoint.map_or_else(|| "none".to_owned(), |o| o.to_string()),
            newest.unwrap_or_else(|| "none".to_owned()),
        )?;
        let from = size
            .end
            .0
            .saturating_sub(records.min(RECORDS_MAX))
            .max(size.first.0);
        let mut at = Offset(from);
        while at < size.end {
            for block in log.read(partition, at, READ_BYTES)? {
                for (i, record) in block.records.iter().enumerate() {
                    let offset = block.first.0 + i as u64;
                    let time = IngestTime(block.ingest_time);
                    writeln!(out, "  {offset} {time} {}", describe(record))?;
                }
                at = block.end();
            }
        }
    }
    Ok(out)
}

fn describe(bytes: &[u8]) -> String {
    match RecordRef::decode(bytes) {
        Ok(RecordRef::Batch(raw)) => match event::batch::peek(raw) {
            Ok((h, _)) => format!(
                "batch of {}: {} events from seq {} of {}, tx {}, watermark {}, {} bytes",
                h.agent,
                h.count,
                h.first_seq,
                h.e_inc,
                h.tx_no,
                h.low_watermark,
                raw.len()
            ),
            Err(error) => format!("batch that does not decode: {error}"),
        },
        Ok(RecordRef::Other(Record::Plain(p))) => {
            format!("plain {}: {} values", p.device, p.samples.len())
        }
        Ok(RecordRef::Other(Record::Refused(r))) => {
            format!(
                "refused {} from {}: {} ({} times)",
                r.reason, r.source, r.message, r.count
            )
        }
        Ok(RecordRef::Other(Record::Status(s))) => {
            let state = if s.status.online { "online" } else { "offline" };
            format!("status {}: {state}, backlog {}", s.agent, s.status.backlog)
        }
        Ok(RecordRef::Other(Record::Tick)) => "tick".to_owned(),
        Ok(RecordRef::Other(Record::AvailabilityGap { from, to })) => {
            format!("availability gap {from} to {to}")
        }
        Ok(RecordRef::Other(Record::Declare(d))) => {
            format!(
                "declaration of {} aggregates and {} rules",
                d.aggregates.len(),
                d.rules.len()
            )
        }
        Ok(RecordRef::Other(Record::SetAggregate(a))) => {
            let (window, hop) = (a.window as f64 / 1e6, a.hop as f64 / 1e6);
            format!("aggregate {:?}: {window} s every {hop} s", a.name)
        }
        Ok(RecordRef::Other(Record::RemoveAggregate(name))) => {
            format!("aggregate {name:?} removed")
        }
        Ok(RecordRef::Other(Record::SetRule(json))) => format!("rule {json}"),
        Ok(RecordRef::Other(Record::RemoveRule(name))) => format!("rule {name:?} removed"),
        Ok(RecordRef::Other(Record::SetDevice(d))) => {
            format!("device {}: {} attributes set", d.device, d.attributes.len())
        }
        Ok(RecordRef::Other(Record::Decommission(d))) => format!("device {d} decommissioned"),
        Ok(RecordRef::Other(Record::Retain(r))) => format!(
            "retain panes={}s hours={}s days={}s",
            r.panes / 1_000_000,
            r.hours / 1_000_000,
            r.days / 1_000_000
        ),
        Ok(RecordRef::Other(Record::Operate(json))) => format!("operation {json}"),
        Ok(RecordRef::Other(Record::Release(r))) => {
            format!(
                "release of quarantined {} ({} bytes), times moved by {} s",
                r.id,
                r.record.len(),
                r.shift as f64 / 1e6
            )
        }
        Ok(RecordRef::Other(Record::Command(o))) => format!(
            "command {} {:?} for device {} by {:?}",
            o.id, o.name, o.device, o.by
        ),
        Ok(RecordRef::Other(Record::CommandControl(c))) => format!("command control {c:?}"),
        Ok(RecordRef::Other(Record::Batch(_))) => "batch".to_owned(),
        Err(error) => format!("record that does not decode: {error}"),
    }
}
