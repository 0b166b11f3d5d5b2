//! How many events a second one core makes, buffers, encodes, adds to the truth and forgets again:
//! 64 agents, batches of 1,000 events, the rough network. No sockets. `cargo bench -p simulator`.
#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use event::{Ack, EventTime, Incarnation, SeqRange, batch};
use simulator::agent::Agent;
use simulator::clock::{Now, Wall};
use simulator::fleet::Fleet;
use simulator::source::Source;
use simulator::truth::{Table, Tally};
use simulator::{Scenario, Settings};

const AGENTS: u32 = 64;
const EVENTS: u64 = 4_000_000;

fn main() -> anyhow::Result<()> {
    let server = "mqtt://127.0.0.1:1".parse().map_err(anyhow::Error::msg)?;
    let mut settings = Settings::new(server, 6400, AGENTS, 200_000.0);
    settings.scenario = Scenario::rough();
    let wall = Wall::new(EventTime::from_secs(1_790_000_000), 1.0);
    let fleet = Arc::new(Fleet::new(settings, wall)?);
    let table = Arc::new(Table::default());
    let windows = [Duration::from_secs(10)];
    let mut agents = Vec::new();
    for n in 0..AGENTS {
        let site = fleet.site_of(n);
        agents.push((
            Agent::new(
                Arc::clone(&fleet),
                n,
                Incarnation {
                    no: 1,
                    rand: u64::from(n),
                },
            )?,
            Source::new(Arc::clone(&fleet), n),
            Tally::new(
                Arc::clone(&table),
                &windows,
                site,
                fleet.devices_of(n).len(),
            ),
        ));
    }
    let started = Instant::now();
    let (mut real, mut events, mut bytes, mut encoding) = (0, 0, 0, Duration::ZERO);
    while events < EVENTS {
        real += 320_000;
        for (agent, source, tally) in &mut agents {
            source.make(real, u64::MAX, |event| {
                tally.add(&event);
                agent.take(event, real);
            });
            let now = Now {
                real,
                wall: wall.at(real),
            };
            let present = source.next_time().unwrap_or(now.wall);
            loop {
                let before = Instant::now();
                let Some(t) = agent.next_batch(now, present, false) else {
                    break;
                };
                encoding += before.elapsed();
                events += u64::from(t.events);
                bytes += t.bytes.len();
                let (header, _) = batch::peek(&t.bytes)?;
                let range = SeqRange {
                    incarnation: header.e_inc,
                    first: header.first_seq,
                    last: header.last_seq().unwrap_or_default(),
                };
                let ack = Ack {
                    tx_no: t.tx_no,
                    ranges: vec![range],
                    ..Ack::default()
                };
                agent.hear(&ack, real);
            }
        }
    }
    let all = started.elapsed();
    let rate = |time: Duration| events as f64 / time.as_secs_f64() / 1e6;
    println!(
        "{events} events, {:.2} bytes an event",
        bytes as f64 / events as f64
    );
    println!("{:.2} M events/s in all", rate(all));
    println!(
        "{:.2} M events/s making and truth alone",
        rate(all - encoding)
    );
    println!("{:.2} M events/s encoding alone", rate(encoding));
    Ok(())
}
