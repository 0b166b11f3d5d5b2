//! What the buffer keeps for the commands of the device: a row per id, so that a command is known over
//! any restart, and what must be assumed of ids that are no longer known. Open episodes of rules are rows
//! of the same table; their keys have a space, which no id has.

use std::collections::BTreeMap;

use event::EventTime;
use redb::ReadableDatabase as _;
use redb::ReadableTable as _;
use serde::{Deserialize, Serialize};

use super::tables::{COMMANDS, META};
use super::{Buffer, BufferError};

pub(super) const MARKS: &str = "commands";

/// What is known of commands whose rows are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Marks {
    /// Of the rows that were removed, the latest time at which one expired: an unknown command that
    /// expires no later may have run.
    pub forgotten_until: Option<EventTime>,
    /// The rows were lost with the file, at this time: an unknown command that was issued before may have
    /// run.
    pub lost_at: Option<EventTime>,
}

/// Rows of commands as they are on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SavedCommands {
    /// Id and bytes of each.
    pub rows: Vec<(String, Vec<u8>)>,
    /// What is known of others.
    pub marks: Marks,
}

/// Changed rows of commands (none = remove), to be stored with the samples that report them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandChanges {
    /// By id.
    pub rows: BTreeMap<String, Option<Vec<u8>>>,
    /// At least this; see [`Marks::forgotten_until`].
    pub forgotten_until: Option<EventTime>,
}

impl CommandChanges {
    /// What came first, then what came later.
    pub fn extend(&mut self, later: Self) {
        self.rows.extend(later.rows);
        self.forgotten_until = self.forgotten_until.max(later.forgotten_until);
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.forgotten_until.is_none()
    }
}

impl Buffer {
    /// The rows of commands at the last commit.
    ///
    /// **Errors**: open the buffer again.
    pub fn commands(&self) -> Result<SavedCommands, BufferError> {
        let tx = self.db.begin_read()?;
        let marks = match tx.open_table(META)?.get(MARKS)? {
            Some(row) => decode(row.value())?,
            None => Marks::default(),
        };
        let mut rows = Vec::new();
        for row in tx.open_table(COMMANDS)?.iter()? {
            let (id, bytes) = row?;
            rows.push((id.value().to_owned(), bytes.value().to_vec()));
        }
        Ok(SavedCommands { rows, marks })
    }

    /// Changes rows of commands with the next commit, which the next [`Self::append`] is.
    pub fn note_commands(&mut self, changes: &CommandChanges) {
        self.changes_mut().commands.extend(changes.clone());
    }

    /// The file is new, because the one before was lost: its rows are gone, too.
    pub(super) fn note_commands_lost(&mut self, now: EventTime) {
        self.changes_mut().commands_lost_at = Some(now);
    }
}

/// Writes changed rows as a part of a commit.
pub(super) fn write(
    tx: &redb::WriteTransaction,
    changes: &CommandChanges,
    lost_at: Option<EventTime>,
) -> Result<(), BufferError> {
    if !changes.rows.is_empty() {
        let mut table = tx.open_table(COMMANDS)?;
        for (id, row) in &changes.rows {
            match row {
                Some(bytes) => drop(table.insert(id.as_str(), bytes.as_slice())?),
                None => drop(table.remove(id.as_str())?),
            }
        }
    }
    if changes.forgotten_until.is_some() || lost_at.is_some() {
        let mut meta = tx.open_table(META)?;
        let old: Marks = match meta.get(MARKS)? {
            Some(row) => decode(row.value())?,
            None => Marks::default(),
        };
        let marks = Marks {
            forgotten_until: old.forgotten_until.max(changes.forgotten_until),
            lost_at: lost_at.or(old.lost_at),
        };
        meta.insert(MARKS, super::tables::encode(&marks)?.as_slice())?;
    }
    Ok(())
}

fn decode(row: &[u8]) -> Result<Marks, BufferError> {
    postcard::from_bytes(row)
        .map_err(|e| BufferError::Damaged(format!("its row {MARKS:?} of meta: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{FILE_NAME, Settings, open};
    use event::{AgentId, DeviceId, MetricName, Sample, Value};

    fn opened(dir: &std::path::Path, now: i64) -> Buffer {
        let agent = AgentId::new("gw").unwrap();
        let now = EventTime::from_secs(now);
        open(dir, &agent, &Settings::default(), 1, now)
            .unwrap()
            .buffer
    }

    fn change(id: &str, row: Option<&[u8]>, forgotten: Option<i64>) -> CommandChanges {
        CommandChanges {
            rows: BTreeMap::from([(id.to_owned(), row.map(<[u8]>::to_vec))]),
            forgotten_until: forgotten.map(EventTime::from_secs),
        }
    }

    #[test]
    fn rows_go_with_the_samples_of_the_same_commit_and_marks_only_grow() {
        let dir = tempfile::tempdir().unwrap();
        let mut buffer = opened(dir.path(), 100);
        assert_eq!(buffer.commands().unwrap(), SavedCommands::default());
        let sample = Sample {
            device: DeviceId::new("d").unwrap(),
            metric: MetricName::new("m").unwrap(),
            time: EventTime::from_secs(100),
            value: Value::Bool(true),
        };
        let now = EventTime::from_secs(101);
        buffer.note_commands(&change("a", Some(b"1"), Some(50)));
        buffer.note_commands(&change("b", Some(b"2"), None));
        // Not on disk before the commit.
        drop(buffer);
        let mut buffer = opened(dir.path(), 102);
        assert!(buffer.commands().unwrap().rows.is_empty());
        buffer.note_commands(&change("a", Some(b"1"), Some(50)));
        buffer.note_commands(&change("b", Some(b"2"), None));
        buffer
            .append(std::slice::from_ref(&sample), &[], false, now)
            .unwrap();
        buffer.note_commands(&change("a", None, Some(40)));
        buffer.append(&[sample], &[], false, now).unwrap();
        drop(buffer);
        let saved = opened(dir.path(), 103).commands().unwrap();
        assert_eq!(saved.rows, [("b".to_owned(), b"2".to_vec())]);
        let forgotten_until = Some(EventTime::from_secs(50));
        let lost_at = None;
        assert_eq!(
            saved.marks,
            Marks {
                forgotten_until,
                lost_at
            }
        );
    }

    #[test]
    fn a_lost_file_leaves_a_mark() {
        let dir = tempfile::tempdir().unwrap();
        drop(opened(dir.path(), 100));
        std::fs::remove_file(dir.path().join(FILE_NAME)).unwrap();
        drop(opened(dir.path(), 200));
        let marks = opened(dir.path(), 300).commands().unwrap().marks;
        assert_eq!(marks.lost_at, Some(EventTime::from_secs(200)));
    }
}
