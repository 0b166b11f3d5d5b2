//! `tidewatch demo`: the whole thing on this machine with a simulated fleet.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use simulator::Scenario;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::server::{self, Addresses};

/// How long the fleet may take to say good-bye.
const FLEET_STOP_MAX: Duration = Duration::from_secs(1);

/// Flags of the demo.
#[derive(clap::Args)]
pub struct Args {
    /// Address of page and API; port 0 takes a free one [default: 127.0.0.1:8080, or a free port]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Address for MQTT; port 0 takes a free one [default: 127.0.0.1:1883, or a free port]
    #[arg(long, value_name = "ADDR:PORT")]
    mqtt: Option<SocketAddr>,
    /// Keep the data here [default: a temporary folder, deleted at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How many devices
    #[arg(long, value_name = "N", default_value_t = 1000)]
    devices: u32,
    /// How many gateways they are behind
    #[arg(long, value_name = "M", default_value_t = 20)]
    agents: u32,
    /// Events per second over all devices
    #[arg(long, value_name = "EVENTS_PER_S", default_value_t = 2000.0)]
    rate: f64,
    /// calm, rough, demo, or a TOML file
    #[arg(long, value_name = "NAME|FILE", default_value = "demo")]
    scenario: String,
}

/// The default port if it is free, else any.
fn free_or_any(port: u16) -> SocketAddr {
    let wanted = SocketAddr::from(([127, 0, 0, 1], port));
    match TcpListener::bind(wanted) {
        Ok(_) => wanted,
        Err(_) => SocketAddr::from(([127, 0, 0, 1], 0)),
    }
}

/// Runs until a signal.
///
/// **Errors**: the server or the fleet cannot start.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let temporary = tempfile::Builder::new()
        .prefix("tidewatch-demo-")
        .tempdir()
        .context("failed to make a temporary folder")?;
    let mut config = config::Config {
        data: args
            .data
            .clone()
            .unwrap_or_else(|| temporary.path().join("data")),
        ..config::Config::default()
    };
    config.dashboard.listen = args.listen.unwrap_or_else(|| free_or_any(8080));
    config.ingest.listen = args.mqtt.unwrap_or_else(|| free_or_any(1883));
    let rule = "name = \"overheating\"\nmetric = \"temperature\"\nraise = 60.0\nclear = 50.0\nseverity = \"critical\"";
    config
        .rules
        .push(rule.parse().context("failed to read the demo's rule")?);

    let stop = CancellationToken::new();
    server::cancel_on_signal(&stop)?;
    let (fleet_stop, server_stop) = (CancellationToken::new(), CancellationToken::new());
    let scenario = Scenario::load(&args.scenario)?;
    let state = args.data.as_ref().map(|data| data.join("demo-fleet.json"));
    let (announce, announced) = tokio::sync::oneshot::channel::<Addresses>();

    let fleet = {
        let (fleet_stop, server_stop) = (fleet_stop.clone(), server_stop.clone());
        async move {
            // The server ended before it was ready: its own error says why.
            let Ok(addresses) = announced.await else {
                return Ok(());
            };
            let mqtt = addresses.mqtt.context("the demo needs an MQTT address")?;
            let connect = format!("mqtt://{mqtt}")
                .parse()
                .map_err(anyhow::Error::msg)?;
            let settings = simulator::Settings {
                scenario,
                state,
                ..simulator::Settings::new(connect, args.devices, args.agents, args.rate)
            };
            print_welcome(&args, addresses);
            let result = simulator::run(settings, fleet_stop).await;
            server_stop.cancel();
            result.map(|_| ()).context("the simulated fleet failed")
        }
    };
    // The fleet says good-bye first, so that the server drains what it had to say; but a fleet that cannot
    // drain must not hold the stop up.
    let server_stop_later = server_stop.clone();
    tokio::spawn(async move {
        stop.cancelled().await;
        fleet_stop.cancel();
        tokio::time::sleep(FLEET_STOP_MAX).await;
        server_stop_later.cancel();
    });
    let fleet = tokio::spawn(fleet);
    server::serve(config, server_stop, |addresses| {
        let _ = announce.send(addresses);
    })
    .await?;
    match tokio::time::timeout(FLEET_STOP_MAX, fleet).await {
        Ok(ended) => ended.context("the simulated fleet panicked")??,
        Err(_) => tracing::debug!("the simulated fleet was still draining"),
    }
    Ok(ExitCode::SUCCESS)
}

fn print_welcome(args: &Args, addresses: Addresses) {
    let mqtt = addresses
        .mqtt
        .map_or_else(|| "none".to_owned(), |a| a.to_string());
    let text = format!(
        "ready http={http} mqtt={mqtt}\n\n  \
         Tidewatch is running with {devices} simulated devices behind {agents} gateways.\n  \
         Open http://{http}/ in a browser. Ctrl-C stops it.\n",
        http = addresses.http,
        devices = args.devices,
        agents = args.agents,
    );
    // A closed stdout is no reason to stop.
    let _ = writeln!(std::io::stdout(), "{text}");
    let _ = std::io::stdout().flush();
}
