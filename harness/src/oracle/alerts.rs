//! Episodes of rules by the simplest means: values of a device in the order in which they became its newest.

use std::collections::{BTreeMap, BTreeSet};

use rules::{Episode, Rule, ThresholdRule, Transition};

use crate::cloud::{Open, Page};
use crate::scenario::RULES;

/// (rule in [`RULES`], device).
type Place = (usize, u16);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ended {
    began: i64,
    fired: bool,
    /// Block in which it ended.
    block: u64,
}

/// All episodes so far.
#[derive(Debug, Default)]
pub struct Episodes {
    rules: Vec<(usize, ThresholdRule)>,
    /// Newest event time of a series.
    newest: BTreeMap<(u16, u8), i64>,
    open: BTreeMap<Place, Episode>,
    ended: BTreeMap<Place, Vec<Ended>>,
    /// Ids that paged, and whether their end was told.
    paged: BTreeMap<String, (Place, i64, bool)>,
    /// (place, begin) that have paged, to see that each did once.
    begins: BTreeSet<(Place, i64)>,
}

impl Episodes {
    /// Changes the rules; episodes of what is gone end.
    pub fn declare(&mut self, rules: &[usize], block: u64) -> Result<(), String> {
        let gone: Vec<Place> = self
            .open
            .keys()
            .filter(|p| !rules.contains(&p.0))
            .copied()
            .collect();
        for place in gone {
            self.end(place, block);
        }
        self.rules.clear();
        for &at in rules {
            let rule = Rule::parse(RULES[at].json).map_err(|e| e.to_string())?;
            let rule = rule.threshold().ok_or("not a threshold")?;
            self.rules.push((at, rule));
        }
        Ok(())
    }

    /// The device is out of service: what was under way is over without a word.
    pub fn drop_device(&mut self, device: u16) {
        self.open.retain(|place, _| place.1 != device);
        self.paged.retain(|_, (place, ..)| place.1 != device);
        self.newest.retain(|series, _| series.0 != device);
    }

    fn end(&mut self, place: Place, block: u64) {
        if let Some(episode) = self.open.remove(&place) {
            self.ended.entry(place).or_default().push(Ended {
                began: episode.began,
                fired: episode.firing,
                block,
            });
        }
    }

    /// A value that is too old to count is the newest of its series all the same.
    pub fn skip(&mut self, device: u16, metric: u8, time: i64) {
        let newest = self.newest.entry((device, metric)).or_insert(i64::MIN);
        *newest = time.max(*newest);
    }

    /// Takes a counted value.
    pub fn value(&mut self, device: u16, metric: u8, time: i64, value: Option<f64>, block: u64) {
        let newest = self.newest.entry((device, metric)).or_insert(i64::MIN);
        if time < *newest {
            return;
        }
        *newest = time;
        let Some(value) = value else { return };
        for i in 0..self.rules.len() {
            let (at, rule) = &self.rules[i];
            if rule.metric.as_bytes() != [b'm', b'0' + metric] {
                continue;
            }
            let place = (*at, device);
            let mut episode = self.open.get(&place).copied();
            match rule.threshold.step(&mut episode, time, value) {
                Transition::Dropped | Transition::Resolved => self.end(place, block),
                _ => {
                    if let Some(episode) = episode {
                        self.open.insert(place, episode);
                    }
                }
            }
        }
    }

    fn place(&self, rule: &str, device: u16, began: i64, raised: bool) -> Option<Place> {
        let fits = |at: &usize| {
            let place = (*at, device);
            let open = self.open.get(&place);
            let is_open = open.is_some_and(|e| e.began == began && e.firing);
            let ended = self.ended.get(&place).into_iter().flatten();
            let mut ended = ended.filter(|e| e.began == began && e.fired);
            is_open && raised || ended.next().is_some()
        };
        (0..RULES.len())
            .filter(|&at| RULES[at].json.contains(&format!("\"name\":\"{rule}\"")))
            .find(fits)
            .map(|at| (at, device))
    }

    /// Checks a page that `block` gave: a real episode, open in this block, paged once; or the end of one
    /// that paged.
    ///
    /// **Errors**: what is wrong.
    pub fn page(&mut self, page: &Page, device: u16, block: u64) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{what}: {page:?}"));
        let Some(place) = self.place(&page.rule, device, page.began, page.raised) else {
            return wrong(if page.raised {
                "a page for no episode"
            } else {
                "the end of an episode that is not over"
            });
        };
        if !page.raised {
            return match self.paged.get_mut(&page.id) {
                Some((_, began, told)) if *began == page.began && !*told => {
                    *told = true;
                    Ok(())
                }
                Some(_) => wrong("an end told twice"),
                None => wrong("the end of what never paged"),
            };
        }
        let is_open = self.open.get(&place).is_some_and(|e| e.began == page.began);
        let ended = self.ended.get(&place).into_iter().flatten();
        let ended_now = ended
            .filter(|e| e.began == page.began && e.block == block)
            .count()
            > 0;
        if !is_open && !ended_now {
            return wrong("a page for an episode that was over");
        }
        let before = self
            .paged
            .insert(page.id.clone(), (place, page.began, false));
        if before.is_some() {
            return wrong("paged twice under one id");
        }
        let twins = self.ended.get(&place).into_iter().flatten();
        let twins = twins.filter(|e| e.began == page.began).count() + usize::from(is_open);
        if !self.begins.insert((place, page.began)) && twins < 2 {
            return wrong("paged twice for one episode");
        }
        Ok(())
    }

    /// Checks the open alerts at the end.
    ///
    /// **Errors**: what is wrong.
    pub fn check(&self, open: &[Open], device: impl Fn(u16) -> String) -> Result<(), String> {
        let mut expected: Vec<Open> = Vec::new();
        for (place, episode) in &self.open {
            let rule = Rule::parse(RULES[place.0].json).map_err(|e| e.to_string())?;
            expected.push(Open {
                rule: rule.name,
                device: device(place.1),
                began: episode.began,
                firing: episode.firing,
                notified: episode.firing,
            });
        }
        expected.sort();
        if open != expected {
            let odd = open.iter().find(|o| !expected.contains(o));
            let missing = expected.iter().find(|o| !open.contains(o));
            return Err(format!(
                "open alerts differ: unexpected {odd:?}, missing {missing:?}"
            ));
        }
        for (id, (place, began, told)) in &self.paged {
            let is_open = self.open.get(place).is_some_and(|e| e.began == *began);
            if !is_open && !told {
                return Err(format!("page {id} is over and its end was never told"));
            }
        }
        Ok(())
    }
}
