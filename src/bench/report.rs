//! What came out.

use std::fmt;

use serde::Serialize;

use super::run::Phase;
use super::store::Spent;

/// Every figure by its name in `--json`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    pub devices: u64,
    pub sites: u64,
    pub metrics: u64,
    pub per_agent: u64,
    pub interval_seconds: i64,
    pub batch_events: u64,
    pub late_share: f64,
    pub repeat_share: f64,
    pub hop: bool,
    pub partitions: u16,
    pub threads: u32,
    pub machine: String,
    pub cores: usize,
    pub warmup_seconds: i64,
    pub simulated_seconds: i64,
    /// Measured, and those of them that came late or twice.
    pub events: u64,
    pub events_sent_late: u64,
    pub events_repeated: u64,
    pub events_per_cpu_second: f64,
    pub events_per_cpu_second_with_checkpoint_pauses: f64,
    /// What this machine does at best: see [`super::bare`].
    pub bare_updates_per_cpu_second: f64,
    pub register_events: u64,
    pub register_events_per_cpu_second: f64,
    pub warmup_events_per_cpu_second: f64,
    /// Growth of resident memory from before the partitions to the end of the measured events, nothing
    /// subtracted; after registration; and what the partitions count of their own tables.
    pub state_bytes_per_device: f64,
    pub state_bytes_per_device_registered: f64,
    pub state_bytes_per_device_counted: f64,
    pub resident_peak_bytes: u64,
    /// One checkpoint of all partitions at the end: snapshots and rows; begin to end of commit.
    pub checkpoint_bytes_total: u64,
    pub checkpoint_rows: u64,
    pub checkpoint_seconds_total: f64,
    /// The longest of the run, CPU time.
    pub checkpoint_pause_ms_max: f64,
    /// All during the measured events.
    pub checkpoints: u64,
    pub checkpoint_bytes_written: u64,
    pub checkpoint_seconds_spent: f64,
    pub recovery_seconds: f64,
    /// The ledger over the whole run.
    pub counted: u64,
    pub duplicate: u64,
    pub quarantined: u64,
    pub broken_promises: u64,
    /// Parts of windows (one for each partition that has events of it) with events, those that settled, and
    /// events that came after that.
    pub window_parts: u64,
    pub windows_settled: u64,
    pub late_events: u64,
}

fn rate(events: u64, seconds: f64) -> f64 {
    match seconds > 0.0 {
        true => events as f64 / seconds,
        false => 0.0,
    }
}

impl Report {
    pub fn of_phases(&mut self, register: &Phase, warmup: &Phase, steady: &Phase, last: &Spent) {
        let cpu = steady.cpu.as_secs_f64();
        let pauses = steady.saved.pause.as_secs_f64();
        self.events = steady.events;
        self.events_sent_late = steady.late;
        self.events_repeated = steady.repeated;
        self.events_per_cpu_second = rate(steady.events, cpu);
        self.events_per_cpu_second_with_checkpoint_pauses = rate(steady.events, cpu + pauses);
        self.register_events = register.events;
        self.register_events_per_cpu_second = rate(register.events, register.cpu.as_secs_f64());
        self.warmup_events_per_cpu_second = rate(warmup.events, warmup.cpu.as_secs_f64());
        self.checkpoint_bytes_total = last.bytes;
        self.checkpoint_rows = last.rows;
        self.checkpoint_seconds_total = last.wall.as_secs_f64();
        let pauses = [register, warmup, steady].map(|phase| phase.saved.pause_max);
        let longest = pauses
            .into_iter()
            .max()
            .unwrap_or_default()
            .max(last.pause_max);
        self.checkpoint_pause_ms_max = longest.as_secs_f64() * 1e3;
        self.checkpoints = steady.saved.checkpoints;
        self.checkpoint_bytes_written = steady.saved.bytes;
        self.checkpoint_seconds_spent = steady.saved.wall.as_secs_f64();
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mega = |n: f64| n / 1e6;
        let late = self.late_share * 100.0;
        let windows = if self.hop { "60 s every 10 s" } else { "10 s" };
        writeln!(
            f,
            "machine      {} ({} cores, 1 thread)",
            self.machine, self.cores
        )?;
        writeln!(
            f,
            "fleet        {} devices × {} metrics each {} s, {} devices an agent, {} sites, {late} % late",
            self.devices, self.metrics, self.interval_seconds, self.per_agent, self.sites
        )?;
        writeln!(
            f,
            "engine       {} partitions, windows of {windows} by site and metric, batches of {} events",
            self.partitions, self.batch_events
        )?;
        writeln!(
            f,
            "register     {:.2} M events/CPU-s ({} events)",
            mega(self.register_events_per_cpu_second),
            self.register_events
        )?;
        writeln!(
            f,
            "steady       {:.2} M events/CPU-s, {:.2} with the pauses of checkpoints ({} events in {} simulated s after {} s)",
            mega(self.events_per_cpu_second),
            mega(self.events_per_cpu_second_with_checkpoint_pauses),
            self.events,
            self.simulated_seconds,
            self.warmup_seconds
        )?;
        writeln!(
            f,
            "machine's    {:.2} M bare updates of tables of that size/CPU-s: the engine does {:.0} % of it",
            mega(self.bare_updates_per_cpu_second),
            100.0 * self.events_per_cpu_second / self.bare_updates_per_cpu_second.max(1.0)
        )?;
        writeln!(
            f,
            "state        {:.0} bytes of resident memory a device ({:.0} after registration; {:.0} counted); peak {:.0} MB",
            self.state_bytes_per_device,
            self.state_bytes_per_device_registered,
            self.state_bytes_per_device_counted,
            mega(self.resident_peak_bytes as f64)
        )?;
        writeln!(
            f,
            "checkpoint   {:.0} MB with {} rows in {:.2} s for all partitions; longest pause {:.0} ms of CPU",
            mega(self.checkpoint_bytes_total as f64),
            self.checkpoint_rows,
            self.checkpoint_seconds_total,
            self.checkpoint_pause_ms_max
        )?;
        writeln!(
            f,
            "checkpoints  {} meanwhile, {:.0} MB in {:.2} s",
            self.checkpoints,
            mega(self.checkpoint_bytes_written as f64),
            self.checkpoint_seconds_spent
        )?;
        writeln!(f, "recovery     {:.2} s", self.recovery_seconds)?;
        writeln!(
            f,
            "windows      {} parts, {} settled; {} events came after that",
            self.window_parts, self.windows_settled, self.late_events
        )?;
        writeln!(
            f,
            "ledger       {} counted, {} duplicate, {} set aside, {} behind a promise",
            self.counted, self.duplicate, self.quarantined, self.broken_promises
        )
    }
}
