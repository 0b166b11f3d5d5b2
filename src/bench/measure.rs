//! What the machine says of this process.

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time of this thread so far.
pub fn cpu() -> Duration {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec.unsigned_abs(), t.tv_nsec as u32)
}

/// Runs it; what it gave, and the CPU time that it took.
pub fn measured<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = cpu();
    let out = work();
    (out, cpu().saturating_sub(began))
}

fn status(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    let kb = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kb.unwrap_or(0) * 1024
}

/// Memory of this process that is resident, bytes; 0 where the system does not say.
pub fn resident() -> u64 {
    status("VmRSS:")
}

/// The most that it ever was.
pub fn resident_peak() -> u64 {
    status("VmHWM:")
}

/// Model of the processor and number of cores.
pub fn machine() -> (String, usize) {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find(|l| l.starts_with("model name"))
        .and_then(|l| l.split(": ").nth(1))
        .unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    (model.to_owned(), cores)
}
