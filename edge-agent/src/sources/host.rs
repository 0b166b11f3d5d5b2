//! This machine as a device: CPU, memory, disk, temperature, load and uptime.

use std::path::PathBuf;
use std::time::Duration;

use event::{DeviceId, MetricName, Value};
use sysinfo::{Components, Disks, System};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{Counts, Feed};
use crate::inbox::{Position, Reading};

/// What to report and how often.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The device to report as.
    pub device: DeviceId,
    /// Time between two rounds.
    pub interval: Duration,
    /// The disk that holds this path is reported.
    pub disk: PathBuf,
}

/// Reports until the agent stops. Returns what was done.
pub async fn run(settings: Settings, mut feed: Feed, stop: CancellationToken) -> Counts {
    let mut host = match Host::new() {
        Ok(host) => host,
        Err(error) => {
            feed.refuse(0, &format!("this system cannot be read: {error}"));
            return feed.counts();
        }
    };
    feed.stand_at(Position::Live);
    let mut ticks = interval(settings.interval.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut round = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return feed.counts(),
            _ = ticks.tick() => {}
        }
        round += 1;
        feed.count_row();
        let readings = host.read(&settings);
        if feed.push(round, readings, None, None).await.is_err() {
            return feed.counts();
        }
    }
}

struct Host {
    system: System,
    components: Components,
    /// CPU use is a difference: the first reading has none.
    cpu_known: bool,
}

impl Host {
    fn new() -> Result<Self, sysinfo::Error> {
        Ok(Self {
            system: System::new()?,
            components: Components::new()?,
            cpu_known: false,
        })
    }

    fn read(&mut self, settings: &Settings) -> Vec<Reading> {
        let mut values: Vec<(&str, f64)> = Vec::new();
        self.system.refresh_cpu_usage();
        if self.cpu_known {
            values.push((
                "cpu_percent",
                round(f64::from(self.system.global_cpu_usage())),
            ));
        }
        self.cpu_known = true;
        self.system.refresh_memory();
        let total = self.system.total_memory();
        if total > 0 {
            values.push((
                "memory_used_percent",
                percent(self.system.used_memory(), total),
            ));
            values.push((
                "memory_available_bytes",
                self.system.available_memory() as f64,
            ));
        }
        if self.system.total_swap() > 0 {
            let (used, total) = (self.system.used_swap(), self.system.total_swap());
            values.push(("swap_used_percent", percent(used, total)));
        }
        if let Ok(load) = System::load_average() {
            values.push(("load_1m", round(load.one)));
        }
        if let Ok(uptime) = System::uptime() {
            values.push(("uptime_seconds", uptime as f64));
        }
        if let Some((total, free)) = disk(&settings.disk) {
            values.push((
                "disk_used_percent",
                percent(total.saturating_sub(free), total),
            ));
            values.push(("disk_free_bytes", free as f64));
        }
        self.components.refresh(true);
        let hottest = self
            .components
            .iter()
            .filter_map(|c| c.temperature())
            .filter(|t| t.is_finite())
            .fold(None, |max: Option<f32>, t| {
                Some(max.map_or(t, |m| m.max(t)))
            });
        if let Some(t) = hottest {
            values.push(("temperature_celsius", round(f64::from(t))));
        }
        values
            .into_iter()
            .filter_map(|(name, n)| {
                let metric = MetricName::new(name).ok()?;
                let device = settings.device.clone();
                Some(Reading {
                    device,
                    metric,
                    time: None,
                    value: Value::Number(n),
                })
            })
            .collect()
    }
}

/// Size and free space of the disk that holds `path`: the longest mount point that it lies under.
fn disk(path: &std::path::Path) -> Option<(u64, u64)> {
    let disks = Disks::new_with_refreshed_list().ok()?;
    disks
        .iter()
        .filter(|d| path.starts_with(d.mount_point()) && d.total_space() > 0)
        .max_by_key(|d| d.mount_point().as_os_str().len())
        .map(|d| (d.total_space(), d.available_space()))
}

/// Two digits are enough, and cost fewer bytes on the wire.
fn round(n: f64) -> f64 {
    (n * 100.0).round() / 100.0
}

fn percent(part: u64, whole: u64) -> f64 {
    round(part as f64 * 100.0 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_cpu_and_memory() {
        let settings = Settings {
            device: DeviceId::new("me").unwrap(),
            interval: Duration::from_secs(1),
            disk: "/".into(),
        };
        let mut host = Host::new().unwrap();
        host.read(&settings);
        let readings = host.read(&settings);
        let value = |name: &str| {
            readings
                .iter()
                .find(|r| r.metric.as_str() == name)
                .and_then(|r| r.value.as_number())
        };
        for name in ["cpu_percent", "memory_used_percent"] {
            let n = value(name).unwrap_or_else(|| panic!("{name} is missing"));
            assert!((0.0..=100.0).contains(&n), "{name} = {n}");
        }
        assert!(value("memory_available_bytes").unwrap() > 0.0);
        assert!(value("uptime_seconds").unwrap() > 0.0);
    }
}
