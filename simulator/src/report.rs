//! What came of a run.

use std::fmt;
use std::time::Duration;

use crate::{agent, network};

/// Most agents that are named in a report.
pub const NAMED_MAX: usize = 20;

/// The sum of a run. `Display` is one paragraph for people.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// Events made, the devices' attributes included.
    pub events: u64,
    /// Events in windows (without attributes); 0 when no truth was kept.
    pub measured: u64,
    /// Events that were acked.
    pub acked: u64,
    /// Events still un-acked at the end. Not 0 = the run failed.
    pub outstanding: u64,
    /// Agents that hold them, at most [`NAMED_MAX`]: name, events, and why the cloud last refused.
    pub outstanding_agents: Vec<(String, u64, Option<String>)>,
    /// Batches with events that were sent, resends included.
    pub batches: u64,
    /// Batches sent again by the agents.
    pub resends: u64,
    /// Ranges cut in two before they were sent again.
    pub recuts: u64,
    /// Heartbeats.
    pub heartbeats: u64,
    /// Bytes of batches and heartbeats.
    pub bytes: u64,
    /// Batches that the network delivered twice.
    pub duplicates_sent: u64,
    /// Batches held back behind later ones.
    pub reordered: u64,
    /// Acks swallowed.
    pub acks_lost: u64,
    /// Restarts of agent processes.
    pub restarts: u64,
    /// Connections cut by the scenario.
    pub outages: u64,
    /// Connections made.
    pub connections: u64,
    /// Connections lost that nobody cut here: the server's doing.
    pub lost_connections: u64,
    /// Ranges that the cloud refused.
    pub refused: u64,
    /// Acks for events that were never sent: a fault of the cloud.
    pub wrong_acks: u64,
    /// Agents whose last heartbeat was not answered in time.
    pub unanswered_ends: u64,
    /// Real time of the run.
    pub elapsed: Duration,
    /// Rows in the truth file.
    pub truth_rows: u64,
}

impl Report {
    /// Whether everything that was made is durable in the cloud.
    pub fn is_complete(&self) -> bool {
        self.outstanding == 0 && self.wrong_acks == 0
    }

    pub(crate) fn add_agent(&mut self, c: &agent::Counters) {
        self.events += c.made;
        self.acked += c.acked;
        self.outstanding += c.made - c.acked;
        self.batches += c.batches;
        self.resends += c.resends;
        self.recuts += c.recuts;
        self.heartbeats += c.heartbeats;
        self.bytes += c.bytes;
        self.restarts += c.restarts;
        self.refused += c.refused;
        self.wrong_acks += c.wrong_acks;
    }

    pub(crate) fn add_network(&mut self, c: &network::Counters) {
        self.duplicates_sent += c.duplicates;
        self.reordered += c.reordered;
        self.acks_lost += c.acks_lost;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        writeln!(
            f,
            "events     {} made, {} acked, {} outstanding, in {seconds:.1} s",
            self.events, self.acked, self.outstanding
        )?;
        let per_event = self.bytes as f64 / self.acked.max(1) as f64;
        writeln!(
            f,
            "batches    {} ({} resends, {} re-cut), {} heartbeats, {:.2} bytes an event",
            self.batches, self.resends, self.recuts, self.heartbeats, per_event
        )?;
        writeln!(
            f,
            "faults     {} duplicates, {} reordered, {} acks lost, {} restarts, {} outages",
            self.duplicates_sent, self.reordered, self.acks_lost, self.restarts, self.outages
        )?;
        write!(
            f,
            "server     {} connections, {} lost, {} ranges refused, {} wrong acks, {} ends unanswered",
            self.connections,
            self.lost_connections,
            self.refused,
            self.wrong_acks,
            self.unanswered_ends
        )?;
        for (agent, events, refusal) in &self.outstanding_agents {
            write!(f, "\nheld       {agent}: {events} events")?;
            if let Some(why) = refusal {
                write!(f, "; last refused with {why}")?;
            }
        }
        Ok(())
    }
}
