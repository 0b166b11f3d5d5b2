//! The cloud as PROTOCOL.md has it, small and slow: ingest (N1, N2) and dedup and progress of the
//! processor (P1 to P3).

use std::collections::{BTreeMap, BTreeSet};

use event::{Ack, Columns, EventTime, Incarnation, Sample, SeqRange, batch};

/// One agent as the cloud sees it.
#[derive(Debug, Default)]
pub struct Seen {
    lives: BTreeMap<Incarnation, Life>,
    tombstones: BTreeMap<Incarnation, u64>,
}

#[derive(Debug, Default)]
struct Life {
    /// Ranges of seqs: first → last, never touching.
    intervals: BTreeMap<u64, u64>,
    /// Declared losses, the same way.
    gaps: BTreeMap<u64, u64>,
    tx_no: u64,
    low_watermark: EventTime,
}

/// Everything that was counted, once each.
#[derive(Debug, Default)]
pub struct Cloud {
    agents: BTreeMap<String, Seen>,
    pub events: Vec<Sample>,
    pub duplicates: u64,
    /// Events behind a promise: must stay 0.
    pub broken_promises: u64,
    /// Two lives at once, lives that come back from the dead: must stay empty.
    pub incidents: Vec<String>,
    /// Events that were declared lost, as often as they were.
    pub lost: u64,
    /// Batches whose events were numbered by an earlier life than the sender's.
    pub inherited: u64,
    identities: BTreeSet<(String, Incarnation, u64)>,
    columns: Columns,
}

impl Cloud {
    /// Appends one batch and answers exactly that range.
    pub fn append(&mut self, bytes: &[u8]) -> (String, Ack) {
        let (header, body) = batch::peek(bytes).unwrap();
        body.decode_into(&mut self.columns).unwrap();
        assert_eq!(self.columns.len(), header.count as usize);
        let agent = header.agent.to_string();
        let seen = self.agents.entry(agent.clone()).or_default();

        for l in &header.lineage {
            assert!(l.incarnation < header.incarnation);
            if !seen.tombstones.contains_key(&l.incarnation) {
                seen.lives.entry(l.incarnation).or_default();
            }
        }
        let is_buried = seen.tombstones.contains_key(&header.incarnation);
        if !is_buried {
            // A life that is neither the sender nor declared by it is a second live one.
            for (&other, _) in seen.lives.range(..header.incarnation) {
                let is_declared = header.lineage.iter().any(|l| l.incarnation == other);
                let was_declared = seen.lives.contains_key(&header.incarnation);
                if !is_declared && !was_declared {
                    self.incidents
                        .push(format!("{agent}: {other} besides {}", header.incarnation));
                }
            }
        }
        let progress = seen.progress();
        for i in 0..self.columns.len() {
            let seq = header.first_seq + i as u64;
            let sample = self.columns.sample(i).unwrap();
            assert!(sample.time < header.sent_at, "stamped after it was sent");
            if let Some(&last) = seen.tombstones.get(&header.e_inc) {
                assert!(seq <= last, "a dead life made an event");
                self.duplicates += 1;
                continue;
            }
            let life = seen.lives.entry(header.e_inc).or_default();
            if !life.insert(seq) {
                self.duplicates += 1;
                continue;
            }
            if progress.is_some_and(|p| sample.time < p) {
                self.broken_promises += 1;
            }
            assert!(
                self.identities.insert((agent.clone(), header.e_inc, seq)),
                "dedup is broken"
            );
            self.events.push(sample);
        }
        self.inherited += u64::from(header.count > 0 && header.e_inc != header.incarnation);

        if !is_buried {
            let life = seen.lives.entry(header.incarnation).or_default();
            if header.tx_no > life.tx_no {
                life.tx_no = header.tx_no;
                life.low_watermark = header.low_watermark;
            }
        }
        for gap in &header.gaps {
            if let Some(life) = seen.lives.get_mut(&gap.incarnation) {
                life.gaps.insert(gap.from, gap.to);
                self.lost += gap.to - gap.from + 1;
            }
        }
        for l in header.lineage.iter().filter(|l| !l.held) {
            let covers = |life: &Life| {
                let mut whole = Life::default();
                for (&first, &last) in life.intervals.iter().chain(&life.gaps) {
                    for seq in first..=last {
                        whole.insert(seq);
                    }
                }
                let expected = (l.last_seq > 0).then_some((1, l.last_seq));
                whole.intervals == expected.into_iter().collect()
            };
            if seen.lives.get(&l.incarnation).is_some_and(covers) {
                seen.lives.remove(&l.incarnation);
                seen.tombstones.insert(l.incarnation, l.last_seq);
            } else {
                assert!(
                    seen.tombstones.contains_key(&l.incarnation),
                    "declared whole, but is not"
                );
            }
        }
        let range = header.last_seq().map(|last| SeqRange {
            incarnation: header.e_inc,
            first: header.first_seq,
            last,
        });
        let ranges = range.into_iter().collect();
        (
            agent,
            Ack {
                incarnation: header.incarnation,
                tx_no: header.tx_no,
                ranges,
                ..Ack::default()
            },
        )
    }

    /// How far an agent is known to be complete.
    pub fn progress(&self, agent: &str) -> Option<EventTime> {
        self.agents.get(agent).and_then(Seen::progress)
    }

    /// Lives of an agent that still await something.
    pub fn live(&self, agent: &str) -> usize {
        self.agents[agent].lives.len()
    }
}

impl Seen {
    fn progress(&self) -> Option<EventTime> {
        self.lives.values().map(|l| l.low_watermark).min()
    }
}

impl Life {
    fn insert(&mut self, seq: u64) -> bool {
        let before = self
            .intervals
            .range(..=seq)
            .next_back()
            .map(|(&a, &b)| (a, b));
        if before.is_some_and(|(_, last)| seq <= last) {
            return false;
        }
        let first = match before {
            Some((first, last)) if last + 1 == seq => first,
            _ => seq,
        };
        let last = self.intervals.remove(&(seq + 1)).unwrap_or(seq);
        self.intervals.insert(first, last);
        true
    }
}

#[test]
fn interval_sets_join_and_refuse() {
    let mut life = Life::default();
    for (seq, new) in [
        (3, true),
        (1, true),
        (3, false),
        (2, true),
        (5, true),
        (4, true),
        (1, false),
    ] {
        assert_eq!(life.insert(seq), new, "{seq}");
    }
    assert_eq!(life.intervals, BTreeMap::from([(1, 5)]));
}
