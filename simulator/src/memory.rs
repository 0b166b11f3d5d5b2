//! What virtual agents remember from one run to the next, so that a later run goes on as the *same*
//! agents: a new life of each that declares its earlier one. Without it the cloud rightly sees agents
//! whose buffer was rolled back or cloned, and says so.
//!
//! Events that were un-acked at the end of a run are gone with its memory; they are remembered as
//! ranges and declared lost, as a real agent does after its buffer was damaged. A run that is killed
//! writes nothing.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use event::{EventTime, Gap, GapReason, Incarnation, TimeRange};
use serde::{Deserialize, Serialize};

/// All agents of a run, by id. A JSON file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Each agent's part.
    pub agents: BTreeMap<String, AgentMemory>,
}

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentMemory {
    /// Its last transmission.
    pub tx_no: u64,
    /// Its lives that the cloud may not know to be over; the last one is the newest.
    pub lives: Vec<LifeMemory>,
    /// Events that will never come.
    pub lost: Vec<Lost>,
}

/// One life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LifeMemory {
    /// Which.
    pub incarnation: Incarnation,
    /// The last seq it gave out.
    pub last_seq: u64,
}

/// A range of events that were un-acked when a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lost {
    /// Whose seqs.
    pub incarnation: Incarnation,
    /// First seq.
    pub from: u64,
    /// Last seq.
    pub to: u64,
    /// Earliest event time.
    pub time_from: EventTime,
    /// Latest event time.
    pub time_to: EventTime,
}

impl Lost {
    /// The declaration of it.
    pub fn gap(&self) -> Gap {
        Gap {
            incarnation: self.incarnation,
            from: self.from,
            to: self.to,
            time: TimeRange {
                from: self.time_from,
                to: self.time_to,
            },
            reason: GapReason::Corruption,
        }
    }
}

impl Memory {
    /// Reads the file; a missing one is an empty memory.
    ///
    /// **Errors**: the file cannot be read or is something else.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => {
                return Err(e).with_context(|| format!("reading the state {}", path.display()));
            }
        };
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is no state of a simulated fleet", path.display()))
    }

    /// Writes the file. When this returns, it is complete under its name.
    ///
    /// **Errors**: the file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let failed = || format!("writing the state to {}", path.display());
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        std::fs::write(&part, serde_json::to_vec(self)?).with_context(failed)?;
        std::fs::rename(&part, path).with_context(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        assert_eq!(Memory::read(&path).unwrap(), Memory::default());
        let incarnation = Incarnation {
            no: 3,
            rand: u64::MAX,
        };
        let lost = Lost {
            incarnation,
            from: 4,
            to: 9,
            time_from: EventTime(-1),
            time_to: EventTime(i64::MAX),
        };
        let lives = vec![LifeMemory {
            incarnation,
            last_seq: 9,
        }];
        let agent = AgentMemory {
            tx_no: 12,
            lives,
            lost: vec![lost],
        };
        let memory = Memory {
            agents: BTreeMap::from([("gw-0001".to_owned(), agent)]),
        };
        memory.write(&path).unwrap();
        assert_eq!(Memory::read(&path).unwrap(), memory);
        std::fs::write(&path, "{}").unwrap();
        assert!(Memory::read(&path).is_err());
    }
}
