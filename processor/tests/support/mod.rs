//! What the tests of the core share: records, and a core with a store and a picture of what it emitted.
#![allow(dead_code)]

use std::collections::BTreeMap;

use event::{
    AgentId, AggregateSpec, BatchHeader, ClockQuality, ClockState, Declaration, DeviceId,
    EventTime, Held, Incarnation, MetricName, Record, Sample, Value, batch,
};
use processor::core::{Effects, NoticeKind, Partition};
use views::{OutstandingQuery, RowPart};

pub const S: i64 = 1_000_000;
/// 2023-11-14T22:13:20Z, on the grid of 10 s.
pub const T0: i64 = 1_700_000_000 * S;
pub const INC: Incarnation = Incarnation { no: 1, rand: 77 };

pub fn sample(device: &str, metric: &str, time: i64, value: Value) -> Sample {
    Sample {
        device: DeviceId::new(device).unwrap(),
        metric: MetricName::new(metric).unwrap(),
        time: EventTime(time),
        value,
    }
}

pub fn temperature(device: &str, time: i64, value: f64) -> Sample {
    sample(device, "temperature", time, Value::Number(value))
}

pub fn batch_record(agent: &str, tx_no: u64, first: u64, samples: &[Sample], mark: i64) -> Vec<u8> {
    let header = BatchHeader {
        agent: AgentId::new(agent).unwrap(),
        incarnation: INC,
        tx_no,
        sent_at: EventTime(mark),
        boottime_us: 0,
        clock: ClockState {
            quality: ClockQuality::Ntp,
            error_ms: 5,
        },
        e_inc: INC,
        first_seq: first,
        count: samples.len() as u32,
        low_watermark: EventTime(mark),
        quiet_until: None,
        held: Held::default(),
        lineage: Vec::new(),
        unclean: None,
        gaps: Vec::new(),
    };
    Record::Batch(batch::encode(&header, samples).unwrap()).encode()
}

/// A core with a store for its rows and a picture of what it emitted.
pub struct Bench {
    pub p: Partition,
    pub fx: Effects,
    pub store: BTreeMap<Vec<u8>, Vec<u8>>,
    pub saved: u64,
    pub rows: BTreeMap<(u32, Vec<String>, i64), RowPart>,
}

impl Bench {
    pub fn new(rules: &[&str]) -> Self {
        Self::with(AggregateSpec::defaults(), rules)
    }

    pub fn with(aggregates: Vec<AggregateSpec>, rules: &[&str]) -> Self {
        let mut bench = Self {
            p: Partition::new(0),
            fx: Effects::default(),
            store: BTreeMap::new(),
            saved: 0,
            rows: BTreeMap::new(),
        };
        let rules = rules.iter().map(|r| (*r).to_owned()).collect();
        bench.at(
            T0,
            &[Record::Declare(Declaration { aggregates, rules }).encode()],
        );
        bench
    }

    pub fn at(&mut self, now: i64, records: &[Vec<u8>]) {
        self.p.step(self.p.offset(), now, records, &mut self.fx);
        let mut rows = std::mem::take(&mut self.fx.rows);
        let mut cold = std::mem::take(&mut self.fx.cold);
        cold.sort_unstable();
        cold.dedup();
        for window in cold {
            let keys = self.p.window_keys(window.group, window.pane);
            let stored: Vec<_> = keys.iter().map(|k| self.store.get(k).cloned()).collect();
            let saved = Some(self.saved);
            rows.extend(
                self.p
                    .window_with(window.group, window.pane, &stored, saved),
            );
        }
        for row in rows {
            let group = row.group.iter().map(|v| v.to_string()).collect();
            let old = self
                .rows
                .insert((row.aggregate, group, row.start), row.clone());
            assert!(
                old.is_none_or(|old| old.revision < row.revision || old == row),
                "revision went back: {row:?}"
            );
        }
    }

    pub fn tick(&mut self, now: i64) {
        self.at(now, &[Record::Tick.encode()]);
    }

    /// Saves as a checkpoint would.
    pub fn save(&mut self) -> Vec<u8> {
        let saving = self.p.begin_checkpoint(Vec::new()).unwrap();
        let stored: Vec<_> = saving
            .keys()
            .iter()
            .map(|k| self.store.get(k).cloned())
            .collect();
        let rows = saving.rows(&stored, |a, b| self.p.is_before(a, b)).unwrap();
        for (key, value) in rows {
            match value {
                Some(value) => self.store.insert(key, value),
                None => self.store.remove(&key),
            };
        }
        for (from, to) in saving.forget() {
            self.store.retain(|key, _| *key < from || *key >= to);
        }
        self.saved = saving.offset;
        self.p.finish_checkpoint(true);
        saving.snapshot
    }

    /// Saves and restores, as a checkpoint and a crash would.
    pub fn restart(&mut self) {
        assert!(self.p.at_rest());
        let hash = self.p.state_hash();
        let snapshot = self.save();
        assert_eq!(self.p.state_hash(), hash, "saving changes nothing");
        self.p = Partition::restore(&snapshot).unwrap();
        assert_eq!(self.p.state_hash(), hash);
    }

    pub fn row(&self, aggregate: u32, group: &[&str], start: i64) -> &RowPart {
        let group = group.iter().map(|s| (*s).to_owned()).collect();
        &self.rows[&(aggregate, group, start)]
    }

    pub fn outstanding(&self, start: i64) -> Vec<String> {
        let query = OutstandingQuery {
            aggregate: 0,
            group: [].into(),
            start,
            after: None,
            limit: 100,
        };
        self.p
            .list_outstanding(&query)
            .items
            .into_iter()
            .map(|o| o.device)
            .collect()
    }

    pub fn notices(&mut self) -> Vec<(NoticeKind, String)> {
        self.fx
            .notices
            .drain(..)
            .map(|n| (n.kind, n.alert.device))
            .collect()
    }
}
