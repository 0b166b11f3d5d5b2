//! Which fault hit which step of the protocol, and how often: what was never hit is not tested.

use std::fmt::Write as _;

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $item:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$item_doc])* $item,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$item,)*];

            /// Its name in the table.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$item => $text,)* }
            }
        }
    };
}

names! {
    /// What goes wrong.
    Fault {
        /// A message is lost.
        Loss = "loss",
        /// A message arrives twice.
        Duplicate = "duplicate",
        /// A message is held up for minutes or hours, behind others.
        Delay = "delay",
        /// A copy of a message arrives 1 to 30 days later.
        HeldBack = "held back",
        /// A message is damaged on its way.
        Garbled = "garbled",
        /// The connection drops, and half of what is on its way with it.
        Drop = "drop",
        /// The agent's process dies.
        Kill = "kill",
        /// The power goes: what is not synced is lost, torn or kept.
        PowerCut = "power cut",
        /// The agent stops in order and starts again.
        Stop = "stop",
        /// The disk takes no new pages for a while.
        DiskFull = "disk full",
        /// What is held on the disk is damaged.
        Damage = "damage",
        /// The data folder is lost.
        Wipe = "wipe",
        /// An older image of the disk is restored.
        Rollback = "rollback",
        /// An image of the disk starts on a second machine.
        Clone = "clone",
        /// The clock is set an hour forward or back.
        ClockHour = "clock 1 h",
        /// The clock falls 40 days behind: its events are older than panes and hours are kept.
        ClockWeeks = "clock 40 d",
        /// The clock falls two years behind: its events are older than everything that is kept.
        ClockYears = "clock 2 y",
        /// The clock is set ten years forward or back.
        ClockDecade = "clock 10 y",
        /// The clock begins again in 1970.
        Clock1970 = "clock 1970",
        /// Ingest dies: what is queued and every ack not sent is lost.
        IngestCrash = "ingest crash",
        /// Ingest is away for up to half an hour.
        IngestOutage = "ingest outage",
        /// The log takes nothing for a while (N3).
        LogFull = "log full",
        /// The processor dies and goes on from its newest checkpoint.
        ProcessorCrash = "processor",
        /// A checkpoint cannot be saved.
        CheckpointFails = "checkpoint",
        /// Rules change.
        Rules = "rules",
        /// Aggregates change.
        Aggregates = "aggregates",
    }
}

names! {
    /// Where in the life of an event it goes wrong.
    Step {
        /// While a group is being committed.
        AppendCommit = "append→commit",
        /// Committed, not sent.
        CommitSend = "commit→send",
        /// On its way to ingest.
        SendAdmit = "send→admit",
        /// In the log's queue.
        AdmitDurable = "admit→durable",
        /// Durable, the ack not sent.
        DurableAck = "durable→ack",
        /// The ack is on its way.
        AckDeliver = "ack→deliver",
        /// The ack has come, the deletion is not committed.
        DeliverDelete = "deliver→delete",
        /// A new life has sent nothing yet, or its first batch is on its way.
        RestartFirst = "restart→first",
        /// Lineage was told and is not acknowledged.
        LineageTold = "lineage→acked",
        /// Durable, not processed.
        RecordProcessed = "record→processed",
        /// A checkpoint was taken, and the state may be restored from it.
        CheckpointRestored = "checkpoint→restore",
    }
}

impl Fault {
    /// Those that make new lives, and what keeps the words of old ones under way.
    pub const OF_LIVES: &[Self] = &[
        Self::Delay,
        Self::Kill,
        Self::PowerCut,
        Self::Wipe,
        Self::Rollback,
        Self::Clone,
    ];
}

/// Why a fault cannot hit a step; none if it can.
pub fn impossible(fault: Fault, step: Step) -> Option<&'static str> {
    use Fault::*;
    use Step::*;
    let message = matches!(fault, Loss | Duplicate | Delay | HeldBack | Garbled);
    match (fault, step) {
        (Garbled, AckDeliver) => Some("an ack has no checksum: TCP and MQTT keep it whole"),
        _ if message && !matches!(step, SendAdmit | AckDeliver | RestartFirst | LineageTold) => {
            Some("no message is on its way")
        }
        (Kill | PowerCut | DiskFull | Wipe | Rollback, AppendCommit) => None,
        (_, AppendCommit) => Some("a commit is one moment for all but the disk and the process"),
        (CheckpointFails, CheckpointRestored) => None,
        (CheckpointFails, _) => Some("no checkpoint is being saved"),
        _ => None,
    }
}

/// Counts of hits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix(Vec<u64>);

impl Default for Matrix {
    fn default() -> Self {
        Self(vec![0; Fault::ALL.len() * Step::ALL.len()])
    }
}

impl Matrix {
    fn at(fault: Fault, step: Step) -> usize {
        fault as usize * Step::ALL.len() + step as usize
    }

    /// Notes a hit.
    pub fn hit(&mut self, fault: Fault, step: Step) {
        self.0[Self::at(fault, step)] += 1;
    }

    /// Adds the hits of another run.
    pub fn add(&mut self, other: &Self) {
        for (sum, n) in self.0.iter_mut().zip(&other.0) {
            *sum += n;
        }
    }

    /// How often it was hit.
    pub fn get(&self, fault: Fault, step: Step) -> u64 {
        self.0[Self::at(fault, step)]
    }

    /// Possible combinations that were never hit.
    pub fn missing(&self) -> Vec<(Fault, Step)> {
        pairs()
            .filter(|&(fault, step)| {
                impossible(fault, step).is_none() && self.get(fault, step) == 0
            })
            .collect()
    }

    /// A table for people: hits, and for what is impossible a letter with its reason below.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let mut reasons: Vec<&str> = Vec::new();
        let _ = write!(out, "{:16}", "");
        for step in Step::ALL {
            let _ = write!(out, "{:>19}", step.as_str());
        }
        for &fault in Fault::ALL {
            let _ = write!(out, "\n{:16}", fault.as_str());
            for &step in Step::ALL {
                let cell = match impossible(fault, step) {
                    None => self.get(fault, step).to_string(),
                    Some(reason) => {
                        let at = reasons.iter().position(|r| *r == reason);
                        let at = at.unwrap_or_else(|| {
                            reasons.push(reason);
                            reasons.len() - 1
                        });
                        char::from(b'a' + at as u8).to_string()
                    }
                };
                let _ = write!(out, "{cell:>19}");
            }
        }
        for (i, reason) in reasons.iter().enumerate() {
            let _ = write!(
                out,
                "\n{}: impossible: {reason}",
                char::from(b'a' + i as u8)
            );
        }
        out
    }
}

/// All combinations.
pub fn pairs() -> impl Iterator<Item = (Fault, Step)> {
    Fault::ALL
        .iter()
        .flat_map(|&fault| Step::ALL.iter().map(move |&step| (fault, step)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_possible_combination_is_missing_until_it_is_hit() {
        let mut matrix = Matrix::default();
        let possible = pairs().filter(|p| impossible(p.0, p.1).is_none()).count();
        assert_eq!(matrix.missing().len(), possible);
        for (fault, step) in matrix.missing() {
            matrix.hit(fault, step);
        }
        assert!(matrix.missing().is_empty());
        assert!(matrix.table().contains("impossible"));
    }
}
