//! The real rules pass in every reachable state of every space, and the system heals from each.
#![allow(clippy::print_stdout)]

use protocol_model::{Budget, Rules, explore, spaces};

/// `at_least`: the bounds must not be cut down unnoticed.
fn passes(name: &str, budget: Budget, at_least: usize) {
    let report = explore(budget, Rules::REAL);
    println!(
        "{name}: {} states, {} steps, {} deep",
        report.states, report.steps, report.depth
    );
    if let Some(counterexample) = report.counterexample {
        panic!("{name}:\n{counterexample}");
    }
    assert!(report.states >= at_least, "{name}: {}", report.states);
}

macro_rules! real_rules {
    ($($name:ident: $space:ident, $at_least:literal states;)*) => {
        $(#[test]
        fn $name() {
            passes(stringify!($name), spaces::$space, $at_least);
        })*
    };
}

real_rules! {
    clone: CLONE, 250_000 states;
    clone_of_lives: CLONE_OF_LIVES, 150_000 states;
    crashes: CRASHES, 200_000 states;
    rollback: ROLLBACK, 100_000 states;
    rollback_of_lives: ROLLBACK_OF_LIVES, 60_000 states;
    overflow: OVERFLOW, 30_000 states;
    network: NETWORK, 25_000 states;
    resends: RESENDS, 30_000 states;
    clock: CLOCK, 15_000 states;
}

#[test]
#[ignore = "minutes and gigabytes; run it when a rule changes"]
fn deep_spaces() {
    for (name, budget) in spaces::DEEP {
        passes(name, budget, 0);
    }
}
