//! Every event and every window as files, for somebody else to compute the same.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use views::{Group, RowPart, Tier};

use super::fleet::{Event, metric_name, site_name};
use super::traffic::Sink;

/// A window (or hour, or day) over all partitions.
#[derive(Debug, Clone, Copy)]
struct Sum {
    count: u64,
    min: f64,
    max: f64,
    sum: i128,
    distinct: u64,
}

/// The two files being written.
pub struct Check {
    events: BufWriter<File>,
    windows: BufWriter<File>,
    sums: BTreeMap<(Tier, i64, Group), Sum>,
}

impl Check {
    /// Makes folder and files.
    ///
    /// **Errors**: they cannot be written.
    pub fn create(dir: &Path) -> anyhow::Result<Self> {
        let make = |name: &str| -> anyhow::Result<_> {
            let path = dir.join(name);
            let file = File::create(&path).with_context(|| format!("write {}", path.display()))?;
            Ok(BufWriter::with_capacity(1 << 20, file))
        };
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let mut check = Self {
            events: make("events.csv")?,
            windows: make("windows.csv")?,
            sums: BTreeMap::new(),
        };
        writeln!(check.events, "site,metric,device,time,value")?;
        let columns = "tier,site,metric,start,count,min,max,sum,distinct";
        writeln!(check.windows, "{columns}")?;
        Ok(check)
    }

    /// Adds what a partition has.
    pub fn rows(&mut self, rows: &[RowPart]) {
        for r in rows {
            let key = (r.tier, r.start, r.group.clone());
            let own = Sum {
                count: r.count,
                min: r.min,
                max: r.max,
                sum: r.sum,
                distinct: r.distinct,
            };
            self.sums
                .entry(key)
                .and_modify(|sum| {
                    sum.count += own.count;
                    sum.min = sum.min.min(own.min);
                    sum.max = sum.max.max(own.max);
                    sum.sum += own.sum;
                    // A device is in one partition.
                    sum.distinct += own.distinct;
                })
                .or_insert(own);
        }
    }

    /// Writes what was added.
    ///
    /// **Errors**: the file cannot be written.
    pub fn write(&mut self) -> anyhow::Result<()> {
        for ((tier, start, group), s) in std::mem::take(&mut self.sums) {
            let tier = tier.as_str();
            let [site, metric] = &*group else {
                anyhow::bail!("a window of {} attributes", group.len());
            };
            writeln!(
                self.windows,
                "{tier},{site},{metric},{start},{},{},{},{},{}",
                s.count, s.min, s.max, s.sum, s.distinct
            )?;
        }
        Ok(())
    }

    /// **Errors**: the files cannot be written.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.events.flush()?;
        self.windows.flush()?;
        Ok(())
    }
}

impl Sink for Check {
    fn take(&mut self, events: &[Event]) -> anyhow::Result<()> {
        for e in events {
            let (site, metric) = (site_name(e.site), metric_name(e.metric));
            writeln!(
                self.events,
                "{site},{metric},{},{},{}",
                e.device, e.time, e.value
            )?;
        }
        Ok(())
    }
}
