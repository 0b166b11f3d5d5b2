//! Episodes of rules by the simplest means: all values of a series, sorted, stepped from the first one on.

use std::collections::{BTreeMap, BTreeSet};

use rules::{Episode, Rule};

use crate::cloud::{Ended, Open, Page, Told};
use crate::scenario::RULES;

/// (device, metric).
type Series = (u16, u8);
/// (rule's name, begin, end).
type Over = (String, i64, i64);

/// A value that counts.
#[derive(Debug, Clone, Copy)]
struct Known {
    time: i64,
    /// Incarnation and seq: the order of equal times.
    rank: (u32, u64),
    /// How many had come before it.
    arrival: u64,
    number: Option<f64>,
}

/// What is known of a series.
#[derive(Debug, Default)]
struct Values {
    all: Vec<Known>,
    newest: Option<i64>,
    /// A value came behind a promise, or the device was taken out of service: what it makes of episodes is not
    /// promised to be exact.
    inexact: bool,
    /// Episodes of rules that are gone.
    over: BTreeSet<Over>,
}

/// A rule that runs, or did in this block.
#[derive(Debug, Clone)]
struct Runs {
    /// In [`RULES`].
    at: usize,
    rule: Rule,
    /// It sees values from this arrival on, and up to this one.
    since: u64,
    until: u64,
}

/// What was told of a page.
#[derive(Debug)]
struct Paged {
    rule: String,
    device: u16,
    began: i64,
    over: bool,
}

/// All episodes so far.
#[derive(Debug, Default)]
pub struct Episodes {
    rules: Vec<Runs>,
    /// Rules that went in the block under way.
    gone: Vec<Runs>,
    series: BTreeMap<Series, Values>,
    /// Values so far, and before the block under way.
    arrivals: u64,
    before: (u64, u64),
    paged: BTreeMap<String, Paged>,
    /// Ended alerts as they were given out, by id.
    ended: BTreeMap<String, Ended>,
}

/// Episodes of a rule: those that are over, and the one that is open.
fn recompute(runs: &Runs, values: &Values, until: u64) -> (Vec<(i64, i64)>, Option<Episode>) {
    let seen = |k: &&Known| (runs.since..until.min(runs.until)).contains(&k.arrival);
    let mut all: Vec<Known> = values.all.iter().filter(seen).copied().collect();
    all.sort_by_key(|k| (k.time, k.rank));
    let mut state = runs.rule.kind.state(None);
    let mut over = Vec::new();
    for known in all {
        let before = state.episode();
        runs.rule.kind.step(&mut state, known.time, known.number);
        if let Some(before) = before.filter(|b| b.firing)
            && state.episode().is_none_or(|e| e.began != before.began)
        {
            over.push((before.began, known.time));
        }
    }
    (over, state.episode())
}

fn metric_of(rule: &str) -> Option<u8> {
    rule.strip_prefix('m')?.parse().ok()
}

impl Episodes {
    fn of<'a>(&'a self, runs: &'a Runs) -> impl Iterator<Item = (u16, &'a Values)> + use<'a> {
        let metric = metric_of(&runs.rule.metric);
        let series = self.series.iter();
        series.filter_map(move |(s, v)| (Some(s.1) == metric).then_some((s.0, v)))
    }

    /// A block begins.
    pub fn begin(&mut self, block: u64) {
        if self.before.0 != block {
            self.before = (block, self.arrivals);
            self.gone.clear();
        }
    }

    /// Changes the rules at ingest time `now`; episodes of what is gone end.
    ///
    /// **Errors**: a rule that does not parse.
    pub fn declare(&mut self, rules: &[usize], now: i64) -> Result<(), String> {
        let (stay, gone): (Vec<Runs>, Vec<Runs>) = std::mem::take(&mut self.rules)
            .into_iter()
            .partition(|r| rules.contains(&r.at));
        for runs in &gone {
            let metric = metric_of(&runs.rule.metric);
            let arrivals = self.arrivals;
            let series = self.series.iter_mut();
            for (_, values) in series.filter(|s| Some(s.0.1) == metric) {
                let (over, open) = recompute(runs, values, arrivals);
                let open = open.filter(|e| e.firing).map(|e| (e.began, now));
                let name = |e: (i64, i64)| (runs.rule.name.clone(), e.0, e.1);
                values.over.extend(over.into_iter().chain(open).map(name));
            }
        }
        let arrivals = self.arrivals;
        self.gone.extend(gone.into_iter().map(|runs| Runs {
            until: arrivals,
            ..runs
        }));
        for &at in rules {
            if let Some(old) = stay.iter().find(|r| r.at == at) {
                self.rules.push(old.clone());
                continue;
            }
            let rule = Rule::parse(RULES[at].json).map_err(|e| e.to_string())?;
            self.rules.push(Runs {
                at,
                rule,
                since: self.arrivals,
                until: u64::MAX,
            });
        }
        Ok(())
    }

    /// The device is out of service: what was under way is over without a word.
    pub fn drop_device(&mut self, device: u16) {
        let of_device = self.series.iter_mut().filter(|s| s.0.0 == device);
        for (_, values) in of_device {
            values.inexact = true;
            values.all.clear();
            values.newest = None;
        }
        self.paged.retain(|_, paged| paged.device != device);
    }

    /// Takes a counted value. `promised`: its agent had said that nothing before this would come.
    pub fn value(
        &mut self,
        (device, metric): Series,
        time: i64,
        rank: (u32, u64),
        number: Option<f64>,
        promised: i64,
    ) {
        let values = self.series.entry((device, metric)).or_default();
        values.inexact |= time < promised && values.newest.is_some_and(|n| time < n);
        values.newest = values.newest.max(Some(time));
        values.all.push(Known {
            time,
            rank,
            arrival: self.arrivals,
            number,
        });
        self.arrivals += 1;
    }

    /// Nothing that this agent says of its devices is worth much.
    pub fn distrust(&mut self, devices: impl Fn(u16) -> bool) {
        for (series, values) in &mut self.series {
            values.inexact |= devices(series.0);
        }
    }

    fn is_exact(&self, rule: &str, device: u16) -> bool {
        let rules = RULES.iter().filter_map(|r| Rule::parse(r.json).ok());
        let mut same = rules.filter(|r| r.name == rule);
        same.all(|r| {
            let metric = metric_of(&r.metric).unwrap_or(u8::MAX);
            let values = self.series.get(&(device, metric));
            values.is_some_and(|v| !v.inexact)
        })
    }

    /// Whether an episode with this begin was open and firing at some moment of the block under way.
    fn was_open(&self, rule: &str, device: u16, began: i64) -> bool {
        let rules = self.rules.iter().chain(&self.gone);
        let mut same = rules.filter(|r| r.rule.name == rule);
        same.any(|runs| {
            let metric = metric_of(&runs.rule.metric).unwrap_or(u8::MAX);
            let Some(values) = self.series.get(&(device, metric)) else {
                return false;
            };
            let is_open = |until: u64| {
                let open = recompute(runs, values, until).1;
                open.is_some_and(|e| e.firing && e.began == began)
            };
            let new = values.all.iter().map(|k| k.arrival + 1);
            let mut moments = new.filter(|a| *a > self.before.1);
            is_open(self.before.1) || is_open(self.arrivals) || moments.any(is_open)
        })
    }

    /// Checks a page: a real episode, open in this block, paged once; another begin of it; or the end of one that
    /// paged. `trusted`: nothing happened to the disk or the clock of its agent.
    ///
    /// **Errors**: what is wrong.
    pub fn page(&mut self, page: &Page, device: u16, trusted: bool) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{what}: {page:?}"));
        let is_exact = trusted && self.is_exact(&page.rule, device);
        if page.told != Told::Cleared && is_exact && !self.was_open(&page.rule, device, page.began)
        {
            return wrong("a page for no episode that is open");
        }
        if page.told == Told::Raised {
            let paged = Paged {
                rule: page.rule.clone(),
                device,
                began: page.began,
                over: false,
            };
            return match self.paged.insert(page.id.clone(), paged) {
                Some(_) => wrong("paged twice under one id"),
                None => Ok(()),
            };
        }
        match self.paged.get_mut(&page.id) {
            None => wrong("of what never paged"),
            Some(paged) if paged.over => wrong("of what was told to be over"),
            Some(paged) => {
                paged.over = page.told == Told::Cleared;
                paged.began = page.began;
                Ok(())
            }
        }
    }

    /// Takes an ended alert as it was given out.
    pub fn take_ended(&mut self, ended: &Ended) {
        self.ended.insert(ended.id.clone(), ended.clone());
    }

    /// Checks everything at the end: the episodes of all series without broken promises are those of all their
    /// values in order. Gives how many series were checked, and how many could not be.
    ///
    /// **Errors**: what is wrong.
    pub fn check(
        &self,
        open: &[Open],
        name: impl Fn(u16) -> String,
    ) -> Result<(usize, usize), String> {
        let mut must: BTreeSet<(String, Over)> = BTreeSet::new();
        let mut must_be_open: BTreeSet<Open> = BTreeSet::new();
        let (mut exact, mut inexact) = (0, 0);
        for ((device, _), values) in &self.series {
            (exact, inexact) = match values.inexact {
                false => (exact + 1, inexact),
                true => (exact, inexact + 1),
            };
            if !values.inexact {
                must.extend(values.over.iter().map(|o| (name(*device), o.clone())));
            }
        }
        for runs in &self.rules {
            for (device, values) in self.of(runs).filter(|s| !s.1.inexact) {
                let (over, now) = recompute(runs, values, u64::MAX);
                let rule = &runs.rule.name;
                let over = over.into_iter().map(|e| (rule.clone(), e.0, e.1));
                must.extend(over.map(|o| (name(device), o)));
                must_be_open.extend(now.map(|e| Open {
                    rule: rule.clone(),
                    device: name(device),
                    began: e.began,
                    firing: e.firing,
                    notified: e.firing,
                }));
            }
        }
        let numbers: BTreeMap<String, u16> = self.series.keys().map(|s| (name(s.0), s.0)).collect();
        let is_exact = |rule: &str, device: &str| {
            let number = numbers.get(device);
            number.is_some_and(|n| self.is_exact(rule, *n))
        };
        let ended = self.ended.values();
        let ended = ended.filter(|e| !e.never && is_exact(&e.rule, &e.device));
        let got: BTreeSet<(String, Over)> = ended
            .map(|e| (e.device.clone(), (e.rule.clone(), e.began, e.ended)))
            .collect();
        if got != must {
            let odd = got.difference(&must).next();
            let missing = must.difference(&got).next();
            return Err(format!(
                "ended episodes differ: unexpected {odd:?}, missing {missing:?}"
            ));
        }
        let is_open: BTreeSet<Open> = open
            .iter()
            .filter(|o| is_exact(&o.rule, &o.device))
            .cloned()
            .collect();
        // One that paged before values came that say that it is pending only stays a page.
        let same = |a: &Open, b: &Open| {
            (&a.rule, &a.device, a.began, a.firing) == (&b.rule, &b.device, b.began, b.firing)
                && a.notified >= b.notified
        };
        let odd = is_open
            .iter()
            .find(|o| !must_be_open.iter().any(|m| same(o, m)));
        let missing = must_be_open
            .iter()
            .find(|m| !is_open.iter().any(|o| same(o, m)));
        if odd.is_some() || missing.is_some() {
            return Err(format!(
                "open alerts differ: unexpected {odd:?}, missing {missing:?}"
            ));
        }
        for (id, paged) in &self.paged {
            let device = name(paged.device);
            let is_open = open.iter().any(|o| {
                // One that is pending again is told of when it fires or is dropped.
                let began = o.began == paged.began || !o.firing || !is_exact(&o.rule, &o.device);
                (&o.rule, &o.device) == (&paged.rule, &device) && began && o.notified
            });
            if is_open == paged.over && !(paged.over && is_open) {
                return Err(format!(
                    "page {id} is over and its end, or its true begin, was never told: {paged:?}"
                ));
            }
        }
        Ok((exact, inexact))
    }
}
