//! How long it takes from a value that leaves an agent to the page that a receiver gets, and what a storm of
//! faults comes to. The whole server runs in this process, on loopback, with its data in a temporary folder.

mod probe;
mod receiver;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use event::Value as Reading;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::server::{self, Addresses};
use probe::{Agent, Link, sample};
use receiver::Pages;

/// The metric that the measured rule watches.
const METRIC: &str = "bench.fault";
/// A page that has not come after this long is missing.
const PATIENCE: Duration = Duration::from_secs(30);
/// Devices behind an agent of the storm.
const PER_AGENT: u32 = 100;
/// Connections that the storm comes over.
const LINKS: u32 = 8;
/// What happens after a storm is watched for so long: pages are held together for ten seconds.
const AFTERMATH: Duration = Duration::from_secs(20);

#[derive(clap::Args)]
pub struct Args {
    /// Events per second of other devices meanwhile; 0 = an idle server
    #[arg(long, value_name = "EVENTS_PER_S", default_value_t = 50_000.0)]
    rate: f64,
    /// Devices that make them
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    devices: u32,
    /// Faults whose pages are timed, one after the other (of more than 200 pages of a rule in a minute the
    /// server makes one, so more need a longer --every)
    #[arg(long, value_name = "N", default_value_t = 190, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    faults: u32,
    /// Milliseconds between two of them
    #[arg(long, value_name = "MS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    every: u64,
    /// Instead: so many devices fail within one second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    storm: Option<u32>,
    /// Sites of the storm's devices
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    sites: u32,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

/// What a run of single faults came to; times in milliseconds from the moment before the batch is written to
/// the agent's socket to the moment after the page is read from the receiver's.
#[derive(Serialize)]
struct Latency {
    faults: usize,
    missing: usize,
    rate: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// The part until the batch is on disk and its PUBACK is back.
    stored_p50_ms: f64,
    stored_p99_ms: f64,
}

/// What a storm came to.
#[derive(Serialize)]
struct Storm {
    devices: u32,
    sites: usize,
    /// Seconds in which the faults were sent.
    sent_s: f64,
    /// Seconds from the first fault until all of them were listed by the API.
    listed_s: f64,
    /// Firing alerts that the API counts.
    listed: u64,
    /// Messages by their type.
    messages: BTreeMap<String, usize>,
    /// Most messages about one site.
    most_per_site: usize,
    /// Devices that the newest message of each site counts, added up.
    told: u64,
}

/// Measures and prints.
///
/// **Errors**: the server cannot start here.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("failed to start the runtime")?;
    runtime.block_on(measure(args))
}

async fn measure(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = tempfile::Builder::new()
        .prefix("tidewatch-bench-")
        .tempdir()
        .context("failed to make a temporary folder")?;
    let (receiver, pages) = receiver::start().await?;
    let config = config(folder.path(), receiver)?;
    let stop = CancellationToken::new();
    let (announce, announced) = tokio::sync::oneshot::channel::<Addresses>();
    let server = {
        let stop = stop.clone();
        tokio::spawn(server::serve(config, stop, |addresses| {
            let _ = announce.send(addresses);
        }))
    };
    let Ok(addresses) = announced.await else {
        return server.await?.map(|()| ExitCode::FAILURE);
    };
    let mqtt = addresses.mqtt.context("the server serves no MQTT")?;
    let result = match args.storm {
        Some(devices) => storm(args, devices, mqtt, addresses.http, &pages)
            .await
            .and_then(|s| show(args, &s, Storm::print)),
        None => {
            let (fleet, load) = (CancellationToken::new(), args.rate > 0.0);
            let running =
                load.then(|| tokio::spawn(fleet_of(args.devices, args.rate, mqtt, fleet.clone())));
            let result = latency(args, mqtt, load, &pages).await;
            fleet.cancel();
            if let Some(running) = running {
                running.await.context("the simulated fleet panicked")??;
            }
            result.and_then(|l| show(args, &l, Latency::print))
        }
    };
    stop.cancel();
    server.await.context("the server panicked")??;
    result.map(|()| ExitCode::SUCCESS)
}

fn show<T: Serialize>(args: &Args, report: &T, print: impl Fn(&T)) -> anyhow::Result<()> {
    print(report);
    if args.json {
        crate::print(format_args!("{}\n", serde_json::to_string(report)?));
    }
    Ok(())
}

fn config(folder: &std::path::Path, receiver: SocketAddr) -> anyhow::Result<Config> {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let text = format!(
        "[[rules]]\nname = \"bench\"\nmetric = \"{METRIC}\"\nraise = 0.5\nseverity = \"critical\"\n\
         # What everything else is compared with, and never reaches.\n\
         [[rules]]\nname = \"never\"\nmetric = \"temperature\"\nraise = 1e9\n\
         [[notifiers]]\nname = \"bench\"\nurl = \"http://{receiver}/\"\nallow_private = true\nrate_per_minute = 60000\n"
    );
    let mut config: Config = toml::from_str(&text).context("the benchmark's configuration")?;
    config.data = folder.join("data");
    config.dashboard.listen = free;
    config.ingest.listen = free;
    Ok(config)
}

async fn fleet_of(
    devices: u32,
    rate: f64,
    mqtt: SocketAddr,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let connect = format!("mqtt://{mqtt}")
        .parse()
        .map_err(anyhow::Error::msg)?;
    let agents = (devices / 50).clamp(1, 1000);
    let settings = simulator::Settings::new(connect, devices, agents, rate);
    simulator::run(settings, stop).await?;
    Ok(())
}

/// Faults of devices one by one, each at a site of its own, so that each is a page.
async fn latency(
    args: &Args,
    mqtt: SocketAddr,
    load: bool,
    pages: &Pages,
) -> anyhow::Result<Latency> {
    let mut link = Link::open(mqtt, "bench-probe").await?;
    let mut agent = Agent::new("bench-probe", 1)?;
    let name = |n: u32| format!("probe-{n}");
    for first in (0..args.faults).step_by(500) {
        let mut known = Vec::new();
        for n in first..args.faults.min(first + 500) {
            let site = Reading::Text(format!("site-{n}").into());
            known.push(sample(&name(n), "@site", site)?);
            known.push(sample(&name(n), METRIC, Reading::Number(0.0))?);
        }
        let (topic, bytes) = agent.batch(&known)?;
        link.publish(&topic, &bytes).await?;
    }
    // The fleet comes up to speed, and the processor has it all.
    tokio::time::sleep(Duration::from_secs(if load { 10 } else { 2 })).await;

    let mut left = Vec::new();
    let mut stored = Vec::new();
    let mut pace = tokio::time::interval(Duration::from_millis(args.every));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for n in 0..args.faults {
        pace.tick().await;
        let fault = sample(&name(n), METRIC, Reading::Number(1.0))?;
        let (topic, bytes) = agent.batch(&[fault])?;
        let at = link.publish(&topic, &bytes).await?;
        stored.push(at.elapsed());
        left.push(at);
    }
    let until = Instant::now() + PATIENCE;
    while pages.look(<[_]>::len) < left.len() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut times: Vec<Duration> = pages.look(|pages| {
        let mut came: BTreeMap<&str, Instant> = BTreeMap::new();
        for page in pages {
            if let Some(device) = page.body["data"]["device"].as_str() {
                came.entry(device).or_insert(page.at);
            }
        }
        let all = left.iter().enumerate();
        all.filter_map(|(n, at)| {
            let page = came.get(format!("probe-{n}").as_str())?;
            Some(page.duration_since(*at))
        })
        .collect()
    });
    times.sort_unstable();
    stored.sort_unstable();
    let at = |sorted: &[Duration], share: f64| {
        let place = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1));
        sorted
            .get(place - 1)
            .map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
    };
    Ok(Latency {
        faults: left.len(),
        missing: left.len() - times.len(),
        rate: args.rate,
        p50_ms: at(&times, 0.5),
        p90_ms: at(&times, 0.9),
        p99_ms: at(&times, 0.99),
        max_ms: at(&times, 1.0),
        stored_p50_ms: at(&stored, 0.5),
        stored_p99_ms: at(&stored, 0.99),
    })
}

async fn storm(
    args: &Args,
    devices: u32,
    mqtt: SocketAddr,
    http: SocketAddr,
    pages: &Pages,
) -> anyhow::Result<Storm> {
    let sites = args.sites.min(devices);
    let agents = devices.div_ceil(PER_AGENT);
    let of = move |agent: u32| agent * PER_AGENT..devices.min((agent + 1) * PER_AGENT);
    // Each link has its own agents, with their batches made beforehand.
    let mut tasks = tokio::task::JoinSet::new();
    let gate = std::sync::Arc::new(tokio::sync::Barrier::new(LINKS as usize + 1));
    for number in 0..LINKS {
        let gate = gate.clone();
        let mine: Vec<u32> = (0..agents).filter(|a| a % LINKS == number).collect();
        let mut link = Link::open(mqtt, &format!("bench-storm-{number}")).await?;
        tasks.spawn(async move {
            let mut known = Vec::new();
            for agent in &mine {
                let mut it = Agent::new(&format!("storm-{agent}"), u64::from(*agent) + 1)?;
                let site = Reading::Text(format!("site-{}", agent % sites).into());
                let mut batch = Vec::new();
                for device in of(*agent) {
                    let device = format!("storm-{device}");
                    batch.push(sample(&device, "@site", site.clone())?);
                    batch.push(sample(&device, METRIC, Reading::Number(0.0))?);
                }
                let (topic, bytes) = it.batch(&batch)?;
                link.publish(&topic, &bytes).await?;
                known.push(it);
            }
            gate.wait().await;
            gate.wait().await;
            for (agent, it) in mine.iter().zip(&mut known) {
                let faults: Vec<_> = of(*agent)
                    .map(|d| sample(&format!("storm-{d}"), METRIC, Reading::Number(1.0)))
                    .collect::<anyhow::Result<_>>()?;
                let (topic, bytes) = it.batch(&faults)?;
                link.publish(&topic, &bytes).await?;
            }
            anyhow::Ok(())
        });
    }
    gate.wait().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let begun = Instant::now();
    gate.wait().await;
    while let Some(done) = tasks.join_next().await {
        done.context("a connection of the storm panicked")??;
    }
    let sent = begun.elapsed();
    let mut listed = 0;
    let until = Instant::now() + PATIENCE;
    while listed < u64::from(devices) && Instant::now() < until {
        listed = firing(http).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let all_listed = begun.elapsed();
    tokio::time::sleep(AFTERMATH).await;
    Ok(pages.look(|pages| {
        let mut messages: BTreeMap<String, usize> = BTreeMap::new();
        let mut by_site: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
        for page in pages {
            let kind = page.body["type"].as_str().unwrap_or("?");
            *messages.entry(kind.to_owned()).or_default() += 1;
            let data = &page.body["data"];
            let site = data["page"]["labels"]["site"].as_str().unwrap_or("?");
            let told = by_site.entry(site).or_default();
            told.0 += 1;
            told.1 = data["page"]["firing"].as_u64().unwrap_or_default();
        }
        Storm {
            devices,
            sites: by_site.len(),
            sent_s: sent.as_secs_f64(),
            listed_s: all_listed.as_secs_f64(),
            listed,
            messages,
            most_per_site: by_site.values().map(|s| s.0).max().unwrap_or_default(),
            told: by_site.values().map(|s| s.1).sum(),
        }
    }))
}

/// How many alerts fire, as the API counts them.
async fn firing(http: SocketAddr) -> anyhow::Result<u64> {
    let mut stream = tokio::net::TcpStream::connect(http).await?;
    let request = format!(
        "GET /api/v1/alerts?state=firing&limit=1 HTTP/1.1\r\nhost: {http}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    let body = text.split_once("\r\n\r\n").map_or("", |parts| parts.1);
    let page: Value = serde_json::from_str(body)
        .with_context(|| format!("the server's answer is no JSON: {text:?}"))?;
    page["total"]
        .as_u64()
        .with_context(|| format!("the server's answer has no total: {body}"))
}

impl Latency {
    fn print(&self) {
        crate::print(format_args!(
            "{} faults at {} events/s beside them, {} pages missing\n\
             from the agent to the receiver: p50 {:.1} ms, p90 {:.1}, p99 {:.1}, max {:.1}\n\
             until the batch is on disk:     p50 {:.1} ms, p99 {:.1}\n",
            self.faults,
            self.rate,
            self.missing,
            self.p50_ms,
            self.p90_ms,
            self.p99_ms,
            self.max_ms,
            self.stored_p50_ms,
            self.stored_p99_ms,
        ));
    }
}

impl Storm {
    fn print(&self) {
        crate::print(format_args!(
            "{} devices of {} sites failed within {:.2} s\n\
             messages: {:?}; at most {} about one site; the newest ones count {} devices\n\
             {} listed as firing after {:.1} s\n",
            self.devices,
            self.sites,
            self.sent_s,
            self.messages,
            self.most_per_site,
            self.told,
            self.listed,
            self.listed_s,
        ));
    }
}
