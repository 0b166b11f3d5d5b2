//! What this machine could do at best: the updates of tables that any engine has to make, and nothing else.
//!
//! Machines differ by a factor of two and more in how long a look into a large memory takes, so a figure of the
//! engine means little without this one beside it.

use std::hint::black_box;

use super::measure::measured;

/// Events whose devices are looked at together before any of them is changed.
const BATCH: usize = 24;
/// Events that are measured.
const EVENTS: usize = 20_000_000;
/// Bytes of a device's state, as 64-bit words: a newest value with its time, count, min, max, two more.
const WORDS: usize = 7;

/// Updates in a second of CPU time: of each event one device of `devices`, anywhere in the table, and one of
/// `windows` (count, min and max).
pub fn updates_per_cpu_second(devices: usize, windows: usize) -> f64 {
    let mut states = vec![[1u64; WORDS]; devices.max(1)];
    let mut cells = vec![[1u64; 4]; windows.max(1)];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let (n, m) = (states.len() as u64, cells.len() as u64);
    let ((), cpu) = measured(|| {
        let mut batch = [(0usize, 0usize, 0u64); BATCH];
        for _ in 0..EVENTS / BATCH {
            for event in &mut batch {
                // xorshift64 (Marsaglia 2003), as fractions of the tables.
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let device = (u128::from(random) * u128::from(n)) >> 64;
                *event = (device as usize, (device as u64 % m) as usize, random >> 40);
            }
            // Read first, so that the waits for memory overlap.
            black_box(batch.iter().fold(0, |sum, e| sum ^ states[e.0][0]));
            for &(device, window, value) in &batch {
                let state = &mut states[device];
                state[0] = value;
                state[1] += 1;
                state[2] = state[2].min(value);
                state[3] = state[3].max(value);
                let cell = &mut cells[window];
                cell[0] += 1;
                cell[1] = cell[1].min(value);
                cell[2] = cell[2].max(value);
            }
        }
    });
    black_box((&states, &cells));
    (EVENTS / BATCH * BATCH) as f64 / cpu.as_secs_f64().max(1e-9)
}
