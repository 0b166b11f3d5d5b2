//! `harness`: runs seeds of the simulation on all cores, and says which one fails.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use harness::Report;
use harness::matrix::Matrix;
use harness::scenario::Size;

/// A seed is millions of small allocations.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Simulate fleets with faults and compare every result with the truth.
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Agents of a seed
    #[arg(long, default_value_t = 20)]
    agents: usize,
    /// Simulated hours of a seed
    #[arg(long, default_value_t = 6)]
    hours: i64,
    /// Threads; each runs one seed at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Print how often each fault hit each step of the protocol; a possible one that was never hit is a failure
    #[arg(long)]
    matrix: bool,
    /// Print the story of each seed
    #[arg(long)]
    trace: bool,
    /// Go on after a failure
    #[arg(long)]
    all: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let size = Size {
        agents: args.agents,
        hours: args.hours,
    };
    // A panic is a failure of its seed, and told with it.
    std::panic::set_hook(Box::new(|_| {}));
    let begin = Instant::now();
    let next = AtomicU64::new(args.from);
    let (failed, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let total = Mutex::new(Report::default());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= args.from + args.seeds || stop.load(Ordering::Relaxed) {
                return;
            }
            match harness::run(seed, size, args.trace) {
                Ok(report) => add(&total, &report),
                Err(error) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    stop.store(!args.all, Ordering::Relaxed);
                    say(&format!(
                        "seed {seed} failed: {error}\n  again: cargo run --release -p harness -- --from {seed} --seeds 1 --agents {} --hours {} --trace",
                        args.agents, args.hours
                    ));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(work);
        }
    });
    let total = total.into_inner().unwrap_or_default();
    let took = begin.elapsed().as_secs_f64();
    let done = next.into_inner().min(args.from + args.seeds) - args.from;
    let failed = failed.into_inner();
    say(&format!(
        "{done} seeds in {took:.1} s ({:.0} a minute), {} events, {} blocks, {failed} failed; lost with a disk and covered: {:?}",
        done as f64 * 60.0 / took.max(0.001),
        total.events,
        total.blocks,
        total.excused
    ));
    if args.matrix {
        say(&total.matrix.table());
        return exit(failed == 0 && is_complete(&total.matrix));
    }
    exit(failed == 0)
}

fn add(total: &Mutex<Report>, report: &Report) {
    let mut total = total.lock().unwrap_or_else(|e| e.into_inner());
    total.matrix.add(&report.matrix);
    total.events += report.events;
    total.blocks += report.blocks;
    for (what, n) in &report.excused {
        *total.excused.entry(what).or_default() += n;
    }
}

fn is_complete(matrix: &Matrix) -> bool {
    let missing = matrix.missing();
    for (fault, step) in &missing {
        say(&format!(
            "never hit: {} at {}",
            fault.as_str(),
            step.as_str()
        ));
    }
    missing.is_empty()
}

fn exit(ok: bool) -> ExitCode {
    if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn say(line: &str) {
    // A reader that is gone is no reason to fail.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
