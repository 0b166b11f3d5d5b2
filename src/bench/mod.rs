//! Figures of this machine: what the engine does with a large fleet, without network and without disks in
//! the measured time; and how long a fault takes to become a page.

mod alerts;
mod args;
mod bare;
mod check;
mod detect;
mod fleet;
mod measure;
mod report;
mod run;
mod store;
mod traffic;

use std::process::ExitCode;

use clap::Subcommand;

/// What can be measured.
#[derive(Subcommand)]
pub enum Command {
    /// The engine of the processor on one thread: events per CPU-second, memory, checkpoints
    ///
    /// A simulated fleet sends encoded batches straight into the partitions' state machines. Measured is the
    /// CPU time of their steps (decoding included); making batches and writing checkpoints is not in it.
    /// Checkpoints go to a real state store in a temporary folder, which is removed at the end.
    Engine(args::Args),
    /// The anomaly detector on one thread: CPU time of a value over many series in order, bytes of state
    Detect(detect::Args),
    /// The way of a fault: from a value that leaves an agent to the page that a receiver gets
    ///
    /// The whole server runs here, on loopback, with its data in a temporary folder. With --storm many devices
    /// fail at once, and what pages that makes is counted.
    Alerts(alerts::Args),
}

/// Measures and prints.
///
/// **Errors**: the store failed. Wrong arguments are told on stderr and give exit code 2.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    let args = match command {
        Command::Engine(args) => args,
        Command::Detect(args) => {
            let report = detect::run(&args);
            crate::print(&report);
            if args.json {
                crate::print(format_args!("{}\n", serde_json::to_string(&report)?));
            }
            return Ok(ExitCode::SUCCESS);
        }
        Command::Alerts(args) => return alerts::run(&args),
    };
    let plan = match args.plan() {
        Ok(plan) => plan,
        Err(error) => {
            // Nothing can be done about a closed stderr.
            let _ = error.print();
            return Ok(ExitCode::from(2));
        }
    };
    let report = run::run(&plan)?;
    crate::print(&report);
    if args.json {
        crate::print(format_args!("{}\n", serde_json::to_string(&report)?));
    }
    Ok(ExitCode::SUCCESS)
}
