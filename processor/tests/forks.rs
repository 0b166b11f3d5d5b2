//! Events that came from beyond the end of a closed life (a disk that was rolled back or cloned): set aside
//! once, and counted at most once, however often they are sent and released.

mod support;

use event::{
    AgentId, BatchHeader, ClockQuality, ClockState, EventTime, Held, Incarnation, Lineage, Record,
    Release, Sample, batch,
};
use processor::core::Partition;
use support::{Bench, S, T0, temperature};

fn life(no: u32) -> Incarnation {
    Incarnation {
        no,
        rand: u64::from(no) * 77,
    }
}

/// A batch of the life `inc`; `ended` names the last seq of the first life.
fn sent(inc: Incarnation, tx_no: u64, seqs: (u64, u64), ended: Option<u64>) -> Vec<u8> {
    let samples: Vec<Sample> = (seqs.0..=seqs.1)
        .map(|seq| temperature("d", T0 + seq as i64 * S, seq as f64))
        .collect();
    let header = BatchHeader {
        agent: AgentId::new("gw").unwrap(),
        incarnation: inc,
        tx_no,
        sent_at: EventTime(T0 + 10 * S),
        boottime_us: 0,
        clock: ClockState {
            quality: ClockQuality::Ntp,
            error_ms: 5,
        },
        e_inc: inc,
        first_seq: seqs.0,
        count: samples.len() as u32,
        low_watermark: EventTime(T0 + 10 * S),
        quiet_until: None,
        held: Held::default(),
        lineage: ended
            .map(|last_seq| Lineage {
                incarnation: life(1),
                last_seq,
                held: false,
            })
            .into_iter()
            .collect(),
        unclean: None,
        gaps: Vec::new(),
    };
    Record::Batch(batch::encode(&header, &samples).unwrap()).encode()
}

fn release(b: &mut Bench, now: i64, id: u64, record: Vec<u8>) {
    let release = Release {
        id,
        shift: 0,
        record,
    };
    b.at(now, &[Record::Release(release).encode()]);
}

#[test]
fn a_fork_that_is_set_aside_sent_again_and_released_twice_counts_once() {
    let mut b = Bench::new(&[]);
    let now = |i: i64| T0 + (20 + i) * S;
    b.at(now(0), &[sent(life(1), 1, (1, 3), None)]);
    b.at(now(1), &[sent(life(2), 1, (1, 0), Some(3))]);
    // Beyond the end; the same again; and in another cut, with one that is new.
    b.at(now(2), &[sent(life(1), 2, (4, 6), None)]);
    b.restart();
    b.at(now(3), &[sent(life(1), 2, (4, 6), None)]);
    b.at(now(4), &[sent(life(1), 3, (3, 7), None)]);
    let t = b.p.totals();
    assert_eq!((t.accepted, t.counted), (14, 3));
    assert_eq!((t.quarantined, t.duplicate), (4, 7));
    let aside: Vec<_> =
        b.fx.quarantine
            .iter()
            .map(|q| (q.id.clone(), q.count))
            .collect();
    let id = |n: u64| Some(format!("0-{n}"));
    assert_eq!(aside, [(id(0), 3), (id(1), 1)]);
    assert_eq!(b.fx.incidents.len(), 2);
    b.restart();
    let records: Vec<Vec<u8>> = (0..2)
        .map(|id| b.store[&Partition::held_key(id)].clone())
        .collect();
    for round in 0..2 {
        for (id, record) in (0..).zip(&records) {
            release(&mut b, now(10 + 2 * round + id as i64), id, record.clone());
        }
    }
    let t = b.p.totals();
    assert_eq!((t.counted, t.quarantined, t.duplicate), (7, 0, 7));
    // Released, it is known for ever.
    b.at(now(20), &[sent(life(1), 4, (4, 7), None)]);
    let t = b.p.totals();
    assert_eq!((t.counted, t.quarantined, t.duplicate), (7, 0, 11));
    let events: u64 = b
        .rows
        .values()
        .filter(|r| r.aggregate == 0)
        .map(|r| r.count)
        .sum();
    assert_eq!(events, 7, "in the windows too");
}
