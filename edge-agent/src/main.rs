//! `tidewatch-agent`: reads its configuration, runs the agent, and stops in order.

mod help;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use edge_agent::{config, status};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// collects readings, keeps them on disk, and delivers each exactly once to a Tidewatch server
#[derive(Debug, Parser)]
#[command(
    name = "tidewatch-agent",
    version,
    help_template = help::TEMPLATE,
    before_long_help = help::DESCRIPTION,
    after_help = "--help says all: configuration, files, environment, signals, exit codes and examples.",
    after_long_help = help::after()
)]
struct Args {
    #[command(subcommand)]
    command: Option<Subcommand>,
    /// Configuration file (TOML); agent.sample.toml documents every key [default: none, so all defaults]
    #[arg(
        long,
        short,
        value_name = "FILE",
        env = "TIDEWATCH_AGENT_CONFIG",
        global = true
    )]
    config: Option<PathBuf>,
    /// The cloud's MQTT endpoint, mqtts://host:8883 or mqtt://host:1883 [default: mqtt://127.0.0.1:1883]
    #[arg(long, value_name = "URL", global = true)]
    server: Option<String>,
    /// The agent's id, 1 to 128 bytes without . * > + # / and white space [default: the host name]
    #[arg(long, value_name = "ID", global = true)]
    agent: Option<String>,
    /// Directory of the durable buffer [default: tidewatch-agent-data]
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<String>,
    /// Log filter: error, warn, info, debug, or as "warn,edge_agent=debug" [default: info]
    #[arg(long, value_name = "FILTER", global = true)]
    log: Option<String>,
    /// Stop when all sources have ended and everything is acknowledged [default: run on]
    #[arg(long, global = true)]
    exit_when_done: bool,
    /// Any other key, as --set buffer.bytes_max=100000000; may be given many times [default: none]
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair, global = true)]
    set: Vec<(String, String)>,
}

/// Without a command the agent runs.
#[derive(Debug, Clone, Copy, clap::Subcommand)]
enum Subcommand {
    /// Run the agent until it is told to stop; the same as no command
    #[command(
        help_template = help::TEMPLATE,
        before_long_help = help::DESCRIPTION,
        after_long_help = help::after()
    )]
    Run,
    /// Check the configuration and the files it names, and change nothing
    #[command(
        help_template = help::TEMPLATE,
        before_long_help = help::CHECK,
        after_long_help = help::CHECK_AFTER
    )]
    Check,
    /// Ask the agent that runs on the data directory how it is
    #[command(
        help_template = help::TEMPLATE,
        before_long_help = help::STATUS,
        after_long_help = help::STATUS_AFTER
    )]
    Status {
        /// One line of JSON [default: text for people]
        #[arg(long)]
        json: bool,
    },
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must look like key=value")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let settings = match settings(&args) {
        Ok(settings) => settings,
        Err(error) => {
            say(&format!("tidewatch-agent: {error:#}"));
            return ExitCode::from(2);
        }
    };
    // Asking a running agent needs none of what it runs with.
    if let Some(Subcommand::Status { json }) = args.command {
        return status(&settings, json);
    }
    if let Err(error) = edge_agent::commands::check(&settings.commands) {
        say(&format!("tidewatch-agent: {error}"));
        return ExitCode::from(2);
    }
    if let Some(Subcommand::Check) = args.command {
        return check(&settings);
    }
    if let Err(error) = start_log(&settings.log) {
        say(&format!("tidewatch-agent: {error:#}"));
        return ExitCode::from(2);
    }
    let code = match run(settings) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("{error:#}");
            1
        }
    };
    // A thread that waits for standard input cannot be joined; everything is on disk by now.
    std::process::exit(code);
}

fn check(settings: &edge_agent::Settings) -> ExitCode {
    if let Err(error) = edge_agent::sources::check(&settings.sources) {
        say(&format!("tidewatch-agent: {error}"));
        return ExitCode::from(2);
    }
    if let Err(error) = settings.link.check() {
        say(&format!("tidewatch-agent: {error}"));
        return ExitCode::from(2);
    }
    say(&format!(
        "the configuration is valid: agent {}, {} source(s), {} rule(s)",
        settings.agent,
        settings.sources.len(),
        settings.rules.len()
    ));
    ExitCode::SUCCESS
}

fn status(settings: &edge_agent::Settings, json: bool) -> ExitCode {
    let snapshot = match status::ask(&settings.data_dir) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            let dir = settings.data_dir.display();
            say(&format!(
                "tidewatch-agent: no agent answers on the data directory {dir} ({error}); name the one it runs \
                 on with --config or --data-dir"
            ));
            return ExitCode::FAILURE;
        }
    };
    let text = if json {
        serde_json::to_string(&snapshot).unwrap_or_default() + "\n"
    } else {
        status::describe(&snapshot)
    };
    // A closed pipe is no failure of the agent.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// Standard error may be a pipe that nobody reads any more: that is no reason to end.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn settings(args: &Args) -> anyhow::Result<edge_agent::Settings> {
    let mut flags: Vec<(String, String)> = args.set.clone();
    let named = [
        ("server", &args.server),
        ("agent", &args.agent),
        ("data_dir", &args.data_dir),
        ("log", &args.log),
    ];
    for (key, value) in named {
        flags.extend(value.clone().map(|value| (key.to_owned(), value)));
    }
    if args.exit_when_done {
        flags.push(("exit_when_done".to_owned(), "true".to_owned()));
    }
    Ok(config::load(
        args.config.as_deref(),
        std::env::vars(),
        &flags,
    )?)
}

fn start_log(filter: &str) -> anyhow::Result<()> {
    let filter: Targets = filter
        .parse()
        .with_context(|| format!("read the log filter {filter:?}"))?;
    // Colours are for people; a journal gets plain text.
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        // A log that cannot be written is reported by `eprintln!`, which panics where the log goes to
        // the same closed pipe.
        .log_internal_errors(false);
    tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        .init();
    Ok(())
}

fn run(settings: edge_agent::Settings) -> anyhow::Result<()> {
    // One thread for all sources and the connection: an agent is small.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let token = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            token.cancel();
        });
        let report = edge_agent::run(settings, shutdown).await?;
        tracing::info!(done = report.done, "stopped");
        Ok(())
    })
}
