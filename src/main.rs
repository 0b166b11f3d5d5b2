//! The server binary: read what was asked, configure, start the roles, announce, wait, drain.

mod allocator;
mod backtest;
mod bench;
mod clock;
mod command;
mod config;
mod control;
mod demo;
mod detect;
mod inspect;
mod notifiers;
mod server;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// IoT device monitoring: complete, exactly once, honest.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage.
#[derive(Parser)]
#[command(name = "tidewatch", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything on this machine with a simulated fleet; prints the page's address
    Demo(demo::Args),
    /// Run the server
    Up(UpArgs),
    /// Run a virtual fleet against a server, with faults and ground truth
    Simulate(Box<simulator::cli::Args>),
    /// Compare a server's windows with the truth of a simulated run
    Verify(simulator::cli::VerifyArgs),
    /// Find anomalies in a recorded series: timestamp,value in, anomaly_score out
    ///
    /// The detector of rules of the kind "anomaly", with their options. It reads each row once, in constant
    /// memory.
    Detect(detect::Args),
    /// Measure this machine
    #[command(subcommand)]
    Bench(bench::Command),
    /// Give commands to devices through a running server, and see what becomes of them
    #[command(name = "command")]
    Orders(CommandArgs),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at the event log
    #[command(subcommand)]
    Log(LogCommand),
    /// Look after those who are told of alerts
    #[command(subcommand)]
    Notify(NotifyCommand),
    /// Try rules
    #[command(subcommand)]
    Rules(RulesCommand),
}

#[derive(Subcommand)]
enum RulesCommand {
    /// List the episodes that a rule would have raised over recorded data
    Test(backtest::Args),
}

#[derive(clap::Args)]
struct UpArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where the event log and the state live [default: tidewatch-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address of page and API; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<std::net::SocketAddr>,
    /// Address for MQTT; port 0 takes a free one [default: 127.0.0.1:1883]
    #[arg(long, value_name = "ADDR:PORT")]
    mqtt: Option<std::net::SocketAddr>,
}

#[derive(clap::Args)]
struct ConfigArgs {
    /// Configuration file (deploy/tidewatch.sample.toml has every key)
    #[arg(long, value_name = "F")]
    config: Option<PathBuf>,
}

#[derive(clap::Args)]
struct CommandArgs {
    #[command(flatten)]
    server: command::Server,
    #[command(subcommand)]
    command: command::Command,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Say whether file and environment are right
    Check(ConfigArgs),
    /// Print what results from defaults, file and environment, secrets hidden
    Show(ConfigArgs),
}

#[derive(Subcommand)]
enum LogCommand {
    /// Print partitions, offsets and newest records of a data folder; stop its server first
    ///
    /// A running server holds the folder's lock, and this command then refuses. What a running server
    /// has is on its page and in GET /api/v1/system.
    Inspect {
        /// The data folder
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// How many of the newest records of each partition to print
        #[arg(long, value_name = "N", default_value_t = 5)]
        records: u64,
    },
}

#[derive(Subcommand)]
enum NotifyCommand {
    /// Send one test message to a notifier of the configuration and print what comes back
    ///
    /// It is a real message: a pager rings. PagerDuty, Opsgenie and Jira keep it open until somebody closes it.
    Test {
        /// Its name
        name: String,
        #[command(flatten)]
        config: ConfigArgs,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match cli.command {
        // The demo's output is its address; the log would push it away.
        Command::Demo(_) | Command::Orders(_) => "warn",
        _ => "info",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // When the reader of the log is gone, its complaint about that would be a panic.
        .log_internal_errors(false)
        .init();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "tidewatch: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints; a closed stdout (`| head`) is no reason to fail.
fn print(text: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(args) => block_on(demo::run(args)),
        Command::Up(args) => {
            let mut config = config::load(args.config.config.as_deref())?;
            if let Some(data) = args.data {
                config.data = data;
            }
            if let Some(listen) = args.listen {
                config.dashboard.listen = listen;
            }
            if let Some(mqtt) = args.mqtt {
                config.ingest.listen = mqtt;
            }
            block_on(server::up(config))
        }
        Command::Simulate(args) => {
            let settings = args.settings()?;
            block_on(async {
                let stop = CancellationToken::new();
                server::cancel_on_signal(&stop)?;
                let report = simulator::run(settings, stop).await?;
                print(format_args!("{report}\n"));
                Ok(if report.outstanding == 0 {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::FAILURE
                })
            })
        }
        Command::Verify(args) => block_on(async {
            let comparison = args.run().await?;
            print(format_args!("{comparison}\n"));
            Ok(if comparison.is_equal() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }),
        Command::Detect(args) => detect::run(&args),
        Command::Bench(command) => bench::run(command),
        Command::Orders(args) => block_on(command::run(args.server, args.command)),
        Command::Config(ConfigCommand::Check(args)) => {
            config::load(args.config.as_deref())?.declaration()?;
            print("configuration is right\n");
            Ok(ExitCode::SUCCESS)
        }
        Command::Config(ConfigCommand::Show(args)) => {
            print(config::load(args.config.as_deref())?.show()?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Notify(NotifyCommand::Test { name, config }) => {
            let config = config::load(config.config.as_deref())?;
            block_on(notifiers::test(config.targets()?, name))
        }
        Command::Rules(RulesCommand::Test(args)) => {
            print(backtest::run(&args)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Log(LogCommand::Inspect { data, records }) => {
            print(inspect::inspect(&data, records)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?
        .block_on(work)
}
