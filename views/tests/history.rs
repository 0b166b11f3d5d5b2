//! Windows from memory and from the past make one list.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use event::AggregateSpec;
use views::model::Totals;
use views::store::ROWS_MAX;
use views::{
    Group, HistoryQuery, HistorySource, RowPage, RowPart, RowState, StatusCounts, Tier, TooOld,
    Views, WindowQuery,
};

const SECOND: i64 = 1_000_000;
const WINDOW: i64 = 10 * SECOND;

/// What a partition's store would hold.
#[derive(Default)]
struct Past {
    rows: Mutex<BTreeMap<(Tier, i64, Group), RowPart>>,
    too_old: Vec<TooOld>,
    /// How often it was asked.
    asked: Mutex<usize>,
}

impl Past {
    fn keep(&self, row: RowPart) {
        let key = (row.tier, row.start, row.group.clone());
        self.rows.lock().unwrap().insert(key, row);
    }

    fn asked(&self) -> usize {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl HistorySource for Past {
    fn rows(&self, q: &HistoryQuery) -> Vec<RowPart> {
        *self.asked.lock().unwrap() += 1;
        let rows = self.rows.lock().unwrap();
        let mut found: Vec<RowPart> = rows
            .values()
            .filter(|r| r.tier == q.tier && r.aggregate == q.aggregate)
            .filter(|r| (q.from..q.to).contains(&r.start) && q.fits(&r.group))
            .filter(|r| {
                let after = q.after.as_ref();
                after.is_none_or(|(at, group)| (r.start, &r.group) > (*at, group))
            })
            .cloned()
            .collect();
        if q.newest {
            found.drain(..found.len().saturating_sub(q.limit));
        }
        found.truncate(q.limit);
        found
    }

    fn too_old(&self, after: Option<&(i64, String)>, limit: usize) -> Vec<TooOld> {
        let behind = |t: &&TooOld| after.is_none_or(|a| (t.day, &t.device) > (a.0, &a.1));
        let found = self.too_old.iter().filter(behind);
        found.take(limit).cloned().collect()
    }

    fn quarantined(&self, id: u64) -> Option<Vec<u8>> {
        (id == 7).then(|| vec![1, 2, 3])
    }
}

fn part(tier: Tier, group: &str, start: i64, count: u64) -> RowPart {
    let len = match tier {
        Tier::Window => WINDOW,
        Tier::Hour => 3600 * SECOND,
        Tier::Day => 86_400 * SECOND,
    };
    RowPart {
        tier,
        aggregate: 3,
        group: [Arc::from(group)].into(),
        start,
        end: start + len,
        revision: count,
        state: RowState::Settled,
        count,
        numeric: 0,
        sum: 0,
        min: 0.0,
        max: 0.0,
        min_at: None,
        max_at: None,
        distinct: 1,
        values: None,
        quantiles: None,
        late_events: 0,
        settled: None,
    }
}

fn setup(partitions: u16) -> (Arc<Views>, Vec<Arc<Past>>) {
    let views = Views::new(partitions, "test", 0);
    let spec = AggregateSpec {
        group_by: vec!["site".to_owned()],
        ..AggregateSpec::defaults().remove(0)
    };
    let mut pasts = Vec::new();
    for partition in 0..partitions {
        views.declare(partition, vec![(3, spec.clone())], Vec::new());
        let past = Arc::new(Past::default());
        views.add_history_source(partition, past.clone());
        pasts.push(past);
    }
    (views, pasts)
}

fn query() -> WindowQuery {
    WindowQuery {
        aggregate: "fleet".to_owned(),
        limit: 7,
        ..WindowQuery::default()
    }
}

/// Start in windows, site, count.
type Seen = (i64, String, u64);

fn seen(page: &RowPage) -> Vec<Seen> {
    let row = |r: &views::model::Row| (r.start.0 / WINDOW, r.group["site"].clone(), r.count);
    page.items.iter().map(row).collect()
}

fn pages(views: &Views, first: WindowQuery) -> Vec<Seen> {
    let mut all = Vec::new();
    let mut q = first;
    loop {
        let page = views.windows(&q).unwrap();
        all.extend(seen(&page));
        q.after = page.next;
        if q.after.is_none() {
            return all;
        }
    }
}

/// Windows 0 to 19 of two sites in two partitions: what each holds is spread over memory and the past, and
/// partition 0 restarted when it had come to 10.
fn spread() -> (Arc<Views>, Vec<Arc<Past>>, Vec<Seen>) {
    let (views, pasts) = setup(2);
    let mut expected = Vec::new();
    for n in 0..20 {
        for site in ["a", "b:1"] {
            let mut count = 0;
            for partition in 0..2u16 {
                // Some have no event of a window.
                if (n + i64::from(partition)) % 5 == 0 {
                    continue;
                }
                let row = part(Tier::Window, site, n * WINDOW, 3);
                count += 3;
                let hot = n >= 10 || (n == 4 && site == "a");
                if hot {
                    views.put_rows(partition, vec![row.clone()]);
                }
                if !hot || n == 11 {
                    // What was stored before has fewer events.
                    let (count, revision) = if hot { (2, 2) } else { (3, 3) };
                    pasts[usize::from(partition)].keep(RowPart {
                        count,
                        revision,
                        ..row
                    });
                }
            }
            if count > 0 {
                expected.push((n, site.to_owned(), count));
            }
        }
    }
    (views, pasts, expected)
}

#[test]
fn pages_go_through_the_past_and_memory_in_one_order() {
    for ready in [false, true] {
        let (views, _, expected) = spread();
        if ready {
            views.set_ready();
        }
        for limit in [1, 2, 7, 1000] {
            let from = WindowQuery {
                from: Some(0),
                limit,
                ..query()
            };
            assert_eq!(pages(&views, from), expected, "limit {limit}");
            let newest = views.windows(&WindowQuery { limit, ..query() }).unwrap();
            let skip = expected.len().saturating_sub(limit);
            assert_eq!(seen(&newest), expected[skip..], "limit {limit}");
        }
        let site = WindowQuery {
            from: Some(3 * WINDOW),
            to: Some(12 * WINDOW),
            group: vec![("site".to_owned(), "b:1".to_owned())],
            limit: 2,
            ..query()
        };
        let of_site: Vec<Seen> = expected
            .iter()
            .filter(|s| (3..12).contains(&s.0) && s.1 == "b:1")
            .cloned()
            .collect();
        assert_eq!(pages(&views, site), of_site);
    }
}

#[test]
fn memory_answers_alone_where_it_holds_everything() {
    let (views, pasts, expected) = spread();
    views.set_ready();
    let newest = WindowQuery {
        limit: 6,
        ..query()
    };
    views.windows(&newest).unwrap();
    for past in &pasts {
        past.asked();
    }
    let page = views.windows(&newest).unwrap();
    assert_eq!(seen(&page), expected[expected.len() - 6..]);
    let recent = WindowQuery {
        from: Some(12 * WINDOW),
        ..query()
    };
    assert_eq!(pages(&views, recent).len(), 16);
    assert_eq!(pasts.iter().map(|p| p.asked()).sum::<usize>(), 0);
}

#[test]
fn memory_holds_the_newest_rows_only() {
    let (views, pasts) = setup(1);
    views.set_ready();
    let more = 50;
    for n in 0..ROWS_MAX as i64 + more {
        let row = part(Tier::Window, "a", n * WINDOW, 1);
        pasts[0].keep(row.clone());
        views.put_rows(0, vec![row]);
    }
    // The oldest are found in the past, and only there.
    let first = WindowQuery {
        from: Some(0),
        ..query()
    };
    let page = views.windows(&first).unwrap();
    assert_eq!(seen(&page)[0], (0, "a".to_owned(), 1));
    pasts[0].rows.lock().unwrap().clear();
    let page = views.windows(&first).unwrap();
    assert_eq!(seen(&page)[0], (more, "a".to_owned(), 1));
}

#[test]
fn a_late_row_shows_what_the_other_partitions_have_stored() {
    let (views, pasts) = setup(2);
    pasts[0].keep(part(Tier::Window, "a", WINDOW, 5));
    views.set_ready();
    views.put_rows(1, vec![part(Tier::Window, "a", WINDOW, 2)]);
    let changed = views.take_changes().windows;
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].count, 7);
}

#[test]
fn hours_and_days_come_from_the_past_and_are_merged() {
    let (views, pasts) = setup(2);
    let hour = 3600 * SECOND;
    for past in &pasts {
        for n in 0..5 {
            past.keep(part(Tier::Hour, "a", n * hour, 4));
        }
        past.keep(part(Tier::Day, "a", 0, 20));
    }
    views.put_rows(0, vec![part(Tier::Window, "a", 0, 9)]);
    let hours = WindowQuery {
        tier: Tier::Hour,
        from: Some(hour),
        limit: 2,
        ..query()
    };
    let page = views.windows(&hours).unwrap();
    let counts: Vec<_> = page
        .items
        .iter()
        .map(|r| (r.start.0, r.end.0, r.count))
        .collect();
    assert_eq!(counts, [(hour, 2 * hour, 8), (2 * hour, 3 * hour, 8)]);
    assert_eq!(pages(&views, hours).len(), 4);
    let day = WindowQuery {
        tier: Tier::Day,
        ..query()
    };
    assert_eq!(views.windows(&day).unwrap().items[0].count, 40);
}

#[test]
fn the_ledger_adds_up_and_names_what_was_too_old() {
    let views = Views::new(2, "test", 0);
    let old = |day: i64, device: &str, events| TooOld {
        day: day * 86_400 * SECOND,
        device: device.to_owned(),
        events,
    };
    let lists = [
        vec![old(1, "a", 2), old(1, "c", 1), old(2, "a", 5)],
        vec![old(1, "a", 3), old(1, "b", 4)],
    ];
    for (partition, too_old) in (0..).zip(lists) {
        let past = Past {
            too_old,
            ..Past::default()
        };
        views.add_history_source(partition, Arc::new(past));
        let totals = Totals {
            accepted: 10,
            counted: 4,
            duplicate: 3,
            quarantined: 1,
            too_old: 2,
            ..Totals::default()
        };
        views.put_summary(partition, 0, totals, StatusCounts::default(), None);
    }
    assert!(views.ledger().adds_up);
    assert_eq!(views.ledger().accepted, 20);
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = views.too_old(after.as_ref(), 2);
        let Some(last) = page.last() else { break };
        after = Some((last.day.0, last.device.clone()));
        all.extend(page.into_iter().map(|t| (t.device, t.events)));
    }
    let expected = [("a", 5), ("b", 4), ("c", 1), ("a", 5)];
    assert_eq!(all, expected.map(|(d, n)| (d.to_owned(), n)));
    assert_eq!(views.quarantined(1, 7), Some(vec![1, 2, 3]));
    assert_eq!(views.quarantined(1, 8), None);
    assert_eq!(views.quarantined(2, 7), None);
}

#[test]
fn partitions_may_number_for_themselves() {
    let views = Views::new(2, "test", 0);
    let spec = |name: &str| AggregateSpec {
        name: name.to_owned(),
        ..AggregateSpec::defaults().remove(0)
    };
    let row = |slot, count| RowPart {
        aggregate: slot,
        group: [].into(),
        ..part(Tier::Window, "", 0, count)
    };
    // Partition 1 died before it got the aggregate that the other has in slot 0.
    views.declare(0, vec![(0, spec("one")), (1, spec("two"))], Vec::new());
    views.declare(1, vec![(0, spec("two"))], Vec::new());
    views.put_rows(0, vec![row(0, 1), row(1, 20)]);
    views.put_rows(1, vec![row(0, 300)]);
    let count = |name: &str| {
        let q = WindowQuery {
            aggregate: name.to_owned(),
            ..query()
        };
        views.windows(&q).unwrap().items[0].count
    };
    assert_eq!((count("one"), count("two")), (1, 320));
    views.take_changes();
    // Now both use slot 0 only, each for another one.
    views.declare(0, vec![(0, spec("one"))], Vec::new());
    views.put_rows(0, vec![row(0, 2)]);
    views.put_rows(1, vec![row(0, 321)]);
    assert_eq!((count("one"), count("two")), (2, 321));
    let mut changed: Vec<_> = views.take_changes().windows;
    changed.sort_by_key(|r| r.count);
    let shown: Vec<_> = changed
        .iter()
        .map(|r| (r.aggregate.as_str(), r.count))
        .collect();
    assert_eq!(shown, [("one", 2), ("two", 321)]);
}

#[test]
fn a_change_shows_from_the_first_partition_on_until_the_last() {
    let views = Views::new(2, "test", 0);
    let spec = |name: &str| AggregateSpec {
        name: name.to_owned(),
        ..AggregateSpec::defaults().remove(0)
    };
    let names = || {
        let all = views.aggregates();
        all.into_iter().map(|a| a.name).collect::<Vec<_>>()
    };
    let row = |slot| RowPart {
        aggregate: slot,
        group: [].into(),
        ..part(Tier::Window, "", 0, 1)
    };
    views.expect(vec![spec("zero")], Vec::new());
    assert_eq!(names(), ["zero"]);
    for partition in 0..2 {
        views.declare(partition, vec![(0, spec("one"))], Vec::new());
        views.put_rows(partition, vec![row(0)]);
    }
    views.declare(0, vec![(0, spec("one")), (1, spec("two"))], Vec::new());
    views.put_rows(0, vec![row(1)]);
    // Partition 1 comes to an older record meanwhile.
    views.declare(1, vec![(0, spec("one"))], Vec::new());
    assert_eq!(names(), ["one", "two"]);
    let two = WindowQuery {
        aggregate: "two".to_owned(),
        ..query()
    };
    assert_eq!(views.windows(&two).unwrap().items.len(), 1);
    views.declare(1, vec![(1, spec("two"))], Vec::new());
    assert_eq!(names(), ["one", "two"]);
    views.declare(0, vec![(1, spec("two"))], Vec::new());
    assert_eq!(names(), ["two"]);
    assert_eq!(views.windows(&two).unwrap().items.len(), 1);
}
