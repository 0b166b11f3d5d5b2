//! Seeds of the simulation in a debug build: few, because it is slow. CI runs thousands with the binary.

use harness::matrix::Matrix;
use harness::scenario::Size;

/// Seeds to run, from `TIDEWATCH_TEST_SEEDS`.
fn seeds() -> u64 {
    let set = std::env::var("TIDEWATCH_TEST_SEEDS").ok();
    set.and_then(|n| n.parse().ok()).unwrap_or(30)
}

#[test]
fn every_result_is_equal_to_the_truth() {
    let mut failed = Vec::new();
    let mut matrix = Matrix::default();
    for seed in 1..=seeds() {
        match harness::run(seed, Size::default(), false) {
            Ok(report) => matrix.add(&report.matrix),
            Err(error) => failed.push(format!("seed {seed} failed: {error}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    // 2,000 seeds hit each combination dozens of times; the binary's --matrix asserts it there.
    if seeds() >= 1000 {
        assert_eq!(matrix.missing(), []);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let size = Size {
        agents: 6,
        hours: 3,
    };
    for seed in [3, 4] {
        let twice = [(); 2].map(|()| harness::run(seed, size, false).unwrap());
        assert_eq!(twice[0].matrix, twice[1].matrix);
        assert_eq!(twice[0].events, twice[1].events);
        assert_eq!(twice[0].blocks, twice[1].blocks);
        assert!(twice[0].events > 100);
    }
}
