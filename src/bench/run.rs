//! The run: register, wait, warm up, measure, save, recover, read back.

use std::time::{Duration, Instant};

use event::Record;
use event::time::SECOND;
use processor::core::{Effects, Partition};
use views::{RowState, Tier};

use super::args::{Plan, REGISTER_SPAN, START};
use super::bare;
use super::check::Check;
use super::measure::{machine, measured, resident, resident_peak};
use super::report::Report;
use super::store::{Spent, Store};
use super::traffic::{Second, Sink, Traffic};

/// Records in a block.
const BLOCK: usize = 256;
/// With more rows waiting a checkpoint is made before its time, as in the server.
const COLD_MAX: usize = 200_000;
/// A stretch of windows that is read at once, seconds.
const STRETCH: i64 = 300;

/// What steps took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Phase {
    pub events: u64,
    pub late: u64,
    pub repeated: u64,
    pub cpu: Duration,
    pub saved: Spent,
}

struct Engine {
    partitions: Vec<Partition>,
    store: Store,
    /// When each partition is to be saved, microseconds of ingest time.
    due: Vec<i64>,
    every: i64,
}

impl Engine {
    fn new(plan: &Plan, store: Store) -> Self {
        let n = i64::from(plan.partitions);
        let turn = |p| START * SECOND + plan.checkpoint_every * (p + 1) / n;
        Self {
            partitions: (0..plan.partitions).map(Partition::new).collect(),
            store,
            due: (0..n).map(turn).collect(),
            every: plan.checkpoint_every,
        }
    }

    /// Takes one second (the one that begins at `at`, microseconds).
    fn take(&mut self, at: i64, second: &Second, phase: &mut Phase) -> anyhow::Result<()> {
        for (number, records) in second.records.iter().enumerate() {
            let blocks = records.chunks(BLOCK);
            let n = blocks.len() as i64;
            for (i, block) in blocks.enumerate() {
                let ingest = at + (i as i64 + 1) * (SECOND - 1) / n;
                let p = &mut self.partitions[number];
                let mut fx = Effects::default();
                let ((), cpu) = measured(|| p.step(p.offset(), ingest, block, &mut fx));
                phase.cpu += cpu;
                // What becomes of effects is no affair of the engine.
                drop(fx);
                if p.at_rest() && (ingest >= self.due[number] || p.sizes().cold > COLD_MAX) {
                    self.due[number] = ingest.max(self.due[number]) + self.every;
                    phase.saved.add(&self.store.save(number as u16, p)?);
                }
            }
        }
        phase.events += second.events;
        phase.late += second.late;
        phase.repeated += second.repeated;
        Ok(())
    }

    fn tick(&mut self, at: i64) {
        let tick = [Record::Tick.encode()];
        for p in &mut self.partitions {
            p.step(p.offset(), at, &tick, &mut Effects::default());
        }
    }

    fn save_all(&mut self) -> anyhow::Result<Spent> {
        let mut spent = Spent::default();
        for (number, p) in self.partitions.iter_mut().enumerate() {
            spent.add(&self.store.save(number as u16, p)?);
        }
        Ok(spent)
    }
}

/// Runs the plan.
///
/// **Errors**: the store's, or the check's files cannot be written.
pub fn run(plan: &Plan) -> anyhow::Result<Report> {
    let scratch = match &plan.scratch {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let mut check = plan.check.as_deref().map(Check::create).transpose()?;
    let check_is_wanted = check.is_some();
    let mut nobody = ();
    let mut traffic = Traffic::new(plan)?;
    let store = Store::open(scratch.path(), plan.partitions)?;
    let before = resident();
    let mut engine = Engine::new(plan, store);
    let sink: &mut dyn Sink = match &mut check {
        Some(check) => check,
        None => &mut nobody,
    };

    tracing::info!("{} devices register", plan.devices);
    let register = register(plan, &mut traffic, &mut engine, sink)?;
    let registered = resident().saturating_sub(before);

    let mut phase = Phase::default();
    let mut second = START;
    while second < START + plan.warmup {
        engine.take(second * SECOND, &traffic.second(sink)?, &mut phase)?;
        second += 1;
    }
    let warmup = phase;
    tracing::info!("{} events are measured", plan.events);
    let mut steady = Phase::default();
    let measured_from = second;
    let mut half = check_is_wanted.then_some(plan.events / 2);
    while steady.events < plan.events {
        if half.is_some_and(|half| steady.events >= half) {
            half = None;
            engine.tick(second * SECOND);
            engine.save_all()?;
            recover(&mut engine, true)?;
        }
        engine.take(second * SECOND, &traffic.second(sink)?, &mut steady)?;
        second += 1;
    }
    let grown = resident().saturating_sub(before);
    let counted: usize = engine.partitions.iter().map(Partition::memory).sum();
    drop(traffic);

    tracing::info!("checkpoint and recovery");
    engine.tick(second * SECOND);
    let last = engine.save_all()?;
    let recovery = recover(&mut engine, check_is_wanted)?;

    tracing::info!("reading back");
    let (machine, cores) = machine();
    let mut report = Report {
        devices: plan.devices,
        sites: plan.sites,
        metrics: plan.metrics,
        per_agent: plan.per_agent,
        interval_seconds: plan.interval / SECOND,
        batch_events: plan.batch_events(),
        late_share: plan.late_share,
        repeat_share: plan.repeat_share,
        hop: plan.hop,
        partitions: plan.partitions,
        threads: 1,
        machine,
        cores,
        warmup_seconds: plan.warmup,
        simulated_seconds: second - measured_from,
        state_bytes_per_device: grown as f64 / plan.devices as f64,
        state_bytes_per_device_registered: registered as f64 / plan.devices as f64,
        state_bytes_per_device_counted: counted as f64 / plan.devices as f64,
        resident_peak_bytes: resident_peak(),
        recovery_seconds: recovery.as_secs_f64(),
        ..Report::default()
    };
    report.of_phases(&register, &warmup, &steady, &last);
    let totals = engine.partitions.iter().map(Partition::totals);
    for t in totals {
        report.counted += t.counted;
        report.duplicate += t.duplicate;
        report.quarantined += t.quarantined + t.too_old;
        report.broken_promises += t.broken_promises;
    }
    read_back(plan, &engine, second, &mut report, check.as_mut())?;
    if let Some(check) = check {
        check.finish()?;
    }
    drop(engine);
    let windows = plan.sites * plan.metrics * u64::from(plan.partitions);
    report.bare_updates_per_cpu_second =
        bare::updates_per_cpu_second(plan.devices as usize, windows as usize);
    Ok(report)
}

/// The fleet shows itself within a minute; then nothing but ticks until the traffic starts.
fn register(
    plan: &Plan,
    traffic: &mut Traffic,
    engine: &mut Engine,
    sink: &mut dyn Sink,
) -> anyhow::Result<Phase> {
    let mut at = plan.register_at();
    let declare = [Record::Declare(plan.declaration()).encode()];
    for p in &mut engine.partitions {
        p.step(0, at * SECOND, &declare, &mut Effects::default());
    }
    let mut phase = Phase::default();
    let agents = plan.agents as u32;
    let share = |i: i64| (u64::from(agents) * i as u64 / REGISTER_SPAN as u64) as u32;
    for i in 0..REGISTER_SPAN {
        at += 1;
        let some = traffic.register(share(i)..share(i + 1), at * SECOND, sink)?;
        engine.take(at * SECOND, &some, &mut phase)?;
    }
    while at < START - 10 {
        at += 10;
        engine.tick(at * SECOND);
    }
    Ok(phase)
}

/// Reads every partition from its checkpoint in place of the one in memory.
fn recover(engine: &mut Engine, compare: bool) -> anyhow::Result<Duration> {
    let mut took = Duration::ZERO;
    for (number, place) in engine.partitions.iter_mut().enumerate() {
        let before = compare.then(|| place.state_hash());
        *place = Partition::new(number as u16);
        let began = Instant::now();
        *place = engine.store.restore(number as u16)?;
        took += began.elapsed();
        let after = compare.then(|| place.state_hash());
        anyhow::ensure!(before == after, "partition {number} recovered differently");
    }
    Ok(took)
}

/// Every window that there is.
fn read_back(
    plan: &Plan,
    engine: &Engine,
    end: i64,
    report: &mut Report,
    mut check: Option<&mut Check>,
) -> anyhow::Result<()> {
    let mut from = (plan.register_at() - 120).div_euclid(60) * 60;
    while from < end {
        let to = from + STRETCH;
        for (number, p) in engine.partitions.iter().enumerate() {
            let stretch = (from * SECOND, to * SECOND);
            let rows = engine.store.rows(number as u16, p, Tier::Window, stretch)?;
            for row in &rows {
                report.window_parts += 1;
                report.windows_settled += u64::from(row.state != RowState::Open);
                report.late_events += row.late_events;
            }
            if let Some(check) = &mut check {
                check.rows(&rows);
            }
        }
        if let Some(check) = &mut check {
            check.write()?;
        }
        from = to;
    }
    let Some(check) = check else { return Ok(()) };
    for tier in [Tier::Hour, Tier::Day] {
        for (number, p) in engine.partitions.iter().enumerate() {
            let all = ((START - 2 * 86_400) * SECOND, (end + 86_400) * SECOND);
            check.rows(&engine.store.rows(number as u16, p, tier, all)?);
        }
        check.write()?;
    }
    Ok(())
}
