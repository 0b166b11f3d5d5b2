//! Breadth-first search over all reachable states, exact: a state is known by all of its bytes.

use std::fmt;
use std::hash::{Hash, Hasher};

use rustc_hash::FxHashSet;

use crate::action::Action;
use crate::property::{Broken, Failure};
use crate::rules::Rules;
use crate::world::{Budget, World};

/// What a search found.
#[derive(Debug)]
pub struct Report {
    /// Different states reached.
    pub states: usize,
    /// Steps tried.
    pub steps: usize,
    /// Steps of the longest of the shortest ways to a state.
    pub depth: usize,
    /// The first failure, by a shortest way.
    pub counterexample: Option<Counterexample>,
}

/// A shortest way to a failure.
#[derive(Debug)]
pub struct Counterexample {
    /// What is broken at its end.
    pub failure: Failure,
    /// The steps.
    pub steps: Vec<Action>,
    /// It is broken only when the system is healed after these steps.
    pub after_healing: bool,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:3}. {step}", i + 1)?;
        }
        if self.after_healing {
            writeln!(f, "     all is healed and sent again")?;
        }
        write!(f, "     {}", self.failure)
    }
}

/// Takes what a `Hash` feeds as the state's bytes: every field in order, with lengths, so that equal
/// bytes mean equal states. Lengths and tags are below 256 here.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn write_usize(&mut self, n: usize) {
        self.0.push(n as u8);
    }

    fn write_isize(&mut self, n: isize) {
        self.0.push(n as u8);
    }

    fn finish(&self) -> u64 {
        0
    }
}

fn bytes(world: &World) -> Box<[u8]> {
    let mut out = Bytes::default();
    world.hash(&mut out);
    out.0.into_boxed_slice()
}

struct Found {
    parent: u32,
    action: Option<Action>,
}

/// Visits every state within `budget`. In each one the properties are checked, and that the system
/// heals from it. Stops at the first failure.
pub fn explore(budget: Budget, rules: Rules) -> Report {
    search(budget, rules, None)
}

/// As [`explore`], for one property: failures of others are passed over.
pub fn explore_for(broken: Broken, budget: Budget, rules: Rules) -> Report {
    search(budget, rules, Some(broken))
}

fn search(budget: Budget, rules: Rules, only: Option<Broken>) -> Report {
    let start = World::new(budget, rules);
    let mut seen = FxHashSet::default();
    seen.insert(bytes(&start));
    let mut ways = vec![Found {
        parent: 0,
        action: None,
    }];
    let mut report = Report {
        states: 1,
        steps: 0,
        depth: 0,
        counterexample: None,
    };
    let mut level = vec![(0u32, start)];
    while !level.is_empty() {
        let mut next = Vec::new();
        for (id, world) in &level {
            for action in world.actions(rules) {
                report.steps += 1;
                let mut after = world.clone();
                after.apply(action, rules);
                if !seen.insert(bytes(&after)) {
                    continue;
                }
                ways.push(Found {
                    parent: *id,
                    action: Some(action),
                });
                report.states += 1;
                let new = ways.len() as u32 - 1;
                let result = after.check().map_err(|f| (f, false));
                let result =
                    result.and_then(|()| after.check_healing(rules).map_err(|f| (f, true)));
                if let Err((failure, after_healing)) = result
                    && only.is_none_or(|o| o == failure.broken)
                {
                    report.depth += 1;
                    report.counterexample = Some(Counterexample {
                        failure,
                        steps: way(&ways, new),
                        after_healing,
                    });
                    return report;
                }
                next.push((new, after));
            }
        }
        report.depth += usize::from(!next.is_empty());
        level = next;
    }
    report
}

fn way(ways: &[Found], mut at: u32) -> Vec<Action> {
    let mut steps = Vec::new();
    while let Some(action) = ways[at as usize].action {
        steps.push(action);
        at = ways[at as usize].parent;
    }
    steps.reverse();
    steps
}
