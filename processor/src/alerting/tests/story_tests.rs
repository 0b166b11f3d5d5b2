//! Random stories: whatever the order of partitions, wherever the process ends, however much is told again.

use proptest::prelude::*;
use proptest::{collection::vec, sample::Index};

use super::*;

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// The device of this number begins or ends its episode.
    Toggle(usize),
    /// Time goes on, seconds.
    Wait(i64),
    /// Somebody acknowledges the newest alert of a device.
    Ack(usize),
    /// A site is silenced for so many minutes.
    Silence(usize, i64),
    /// The process ends without a word after it took what is next; what it had not committed is lost.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0usize..12).prop_map(Step::Toggle),
        3 => (0i64..2000).prop_map(Step::Wait),
        1 => (0usize..12).prop_map(Step::Ack),
        1 => ((0usize..3), (1i64..60)).prop_map(|(s, m)| Step::Silence(s, m)),
        1 => Just(Step::Crash),
    ]
}

/// An input with its time, as the log has it.
#[derive(Clone)]
enum Input {
    Notice(u16, Notice),
    Operation(Operated),
}

/// The inputs of a story, each with the time that it has.
fn inputs(steps: &[Step]) -> Vec<(i64, Option<Input>, bool)> {
    let mut now = T0;
    let mut open: BTreeMap<usize, Alert> = BTreeMap::new();
    let mut newest: BTreeMap<usize, Alert> = BTreeMap::new();
    let mut offset = 0;
    let mut all = Vec::new();
    let mut crash = false;
    for step in steps {
        // No two at the same time, so that ids differ.
        now += SECOND;
        let mut operation = |operation: &Operation, now| {
            offset += 1;
            Some(Input::Operation(Operated {
                offset,
                at: now,
                json: operation.to_json(),
            }))
        };
        let input = match step {
            Step::Toggle(n) => {
                let partition = (n % 3) as u16;
                let notice = match open.remove(n) {
                    Some(alert) => cleared(&alert, now),
                    None => {
                        let site = ["s0", "s1", ""][n % 3];
                        let alert = alert(["hot", "cold"][n % 2], &format!("d{n}"), site, now);
                        open.insert(*n, alert.clone());
                        newest.insert(*n, alert.clone());
                        raised(&alert, now)
                    }
                };
                Some(Input::Notice(partition, notice))
            }
            Step::Wait(seconds) => {
                now += seconds * SECOND;
                None
            }
            Step::Ack(n) => newest.get(n).and_then(|alert| {
                let ack = Operation::Ack {
                    alert: alert.id.clone(),
                    by: "ann".to_owned(),
                    comment: String::new(),
                };
                operation(&ack, now)
            }),
            Step::Silence(n, minutes) => {
                let spec = SilenceSpec {
                    kind: SilenceKind::Silence,
                    matchers: vec![matcher(["site=s0", "site=s1", "site=\"\""][*n])],
                    starts: now,
                    ends: now + minutes * MINUTE,
                    by: "ann".to_owned(),
                    comment: String::new(),
                };
                operation(&Operation::Silence { id: None, spec }, now)
            }
            Step::Crash => {
                crash = true;
                continue;
            }
        };
        all.push((now, input, std::mem::take(&mut crash)));
    }
    all
}

fn feed(b: &mut Bench, input: &Input) {
    match input {
        Input::Notice(partition, notice) => {
            b.alerting.notice(*partition, notice, None, b.now);
        }
        Input::Operation(operated) => {
            // An acknowledgement may come too late.
            let _ = b.alerting.operate(operated, b.now);
        }
    }
}

/// Runs a story. With `crashes`, the process ends where the story says so, with what it took last not committed,
/// and hears some of what it had taken again.
fn run(story: &[(i64, Option<Input>, bool)], crashes: bool, replays: &[Index]) -> Bench {
    let mut b = Bench::new();
    let mut replays = replays.iter().cycle();
    for (at, (now, input, crash)) in story.iter().enumerate() {
        b.wait(now - b.now);
        if let Some(input) = input {
            if *crash && crashes {
                feed(&mut b, input);
                b.restart();
                // Each partition is told again from somewhere before, in its order.
                let from = replays.next().map_or(0, |i| i.index(at + 1));
                for (_, again, _) in &story[from..at] {
                    again.iter().for_each(|i| feed(&mut b, i));
                }
                b.commit();
            }
            feed(&mut b, input);
            b.commit();
        }
    }
    b.wait(24 * HOUR);
    b
}

/// What holds in every story.
fn sound(b: &Bench) -> Result<(), TestCaseError> {
    let mut ids = BTreeSet::new();
    let mut pages: BTreeMap<(&str, &str), Vec<Kind>> = BTreeMap::new();
    for o in &b.sent {
        prop_assert!(
            ids.insert((&*o.target, &*o.message.id)),
            "said twice: {o:?}"
        );
        let page = pages.entry((&o.target, &o.message.dedup_key)).or_default();
        page.push(o.message.kind);
    }
    for (page, kinds) in &pages {
        prop_assert_eq!(kinds[0], Kind::Raised, "{:?} {:?}", page, kinds);
        let count = |kind| kinds.iter().filter(|k| **k == kind).count();
        prop_assert_eq!(count(Kind::Raised), 1);
        let cleared = count(Kind::Cleared);
        prop_assert!(cleared <= 1);
        prop_assert!(
            cleared == 0 || kinds.last() == Some(&Kind::Cleared),
            "{:?}",
            kinds
        );
    }
    // What is open is in pages that count it; what is not has none that is open.
    let mut firing: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
    for (id, episode) in &b.alerting.episodes {
        let Some(open) = &episode.open else {
            continue;
        };
        prop_assert!(
            open.mutes.any() || !episode.pages.is_empty(),
            "{id} pages nobody"
        );
        if !episode.held {
            for page in &episode.pages {
                let count = firing.entry(*page).or_default();
                count.0 += 1;
                count.1 += u32::from(open.mutes.any());
            }
        }
    }
    for subject in b.alerting.flaps.subjects() {
        let flap = b.alerting.flaps.get(subject).unwrap();
        for page in &flap.pages {
            let count = firing.entry(*page).or_default();
            count.0 += 1;
            count.1 += u32::from(flap.muted);
        }
    }
    for (id, page) in &b.alerting.pages {
        let counted = (page.firing, page.muted);
        prop_assert_eq!(
            counted,
            firing.remove(id).unwrap_or_default(),
            "page {}",
            id
        );
        prop_assert_eq!(page.closed.is_some(), page.firing == 0);
        prop_assert_eq!(
            b.alerting.open_pages.values().any(|p| p == id),
            page.firing > 0
        );
    }
    prop_assert!(firing.is_empty());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Ends and replays leave no trace: the same messages under the same ids at the same times.
    #[test]
    fn a_story_with_ends_and_replays_is_the_story_without(
        steps in vec(step(), 1..80),
        replays in vec(any::<Index>(), 1..5),
    ) {
        let story = inputs(&steps);
        let plain = run(&story, false, &[]);
        sound(&plain)?;
        let crashed = run(&story, true, &replays);
        prop_assert_eq!(&plain.sent, &crashed.sent);
        prop_assert_eq!(&plain.marks, &crashed.marks);
        prop_assert_eq!(&plain.pages, &crashed.pages);
        // Without operators, who act on what they see.
        prop_assert_eq!(plain.rows, crashed.rows);
    }

    /// Partitions that come in any order: each alert is in the pages, and each page has its begin and end.
    #[test]
    fn any_order_of_partitions_is_sound(
        steps in vec(step(), 1..80),
        order in vec(0usize..3, 0..80),
    ) {
        let mut lanes: Vec<Vec<Input>> = vec![Vec::new(); 3];
        for (_, input, _) in inputs(&steps) {
            match input {
                Some(Input::Notice(p, n)) => lanes[usize::from(p)].push(Input::Notice(p, n)),
                Some(operation) => lanes[0].push(operation),
                None => {}
            }
        }
        let mut b = Bench::new();
        let mut lanes: Vec<_> = lanes.into_iter().map(Vec::into_iter).collect();
        for lane in order.into_iter().chain([0, 1, 2].repeat(80)) {
            if let Some(input) = lanes[lane].next() {
                b.now += SECOND;
                feed(&mut b, &input);
                b.commit();
            }
        }
        b.wait(24 * HOUR);
        sound(&b)?;
        b.restart();
    }
}
