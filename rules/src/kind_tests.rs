use proptest::prelude::*;

use super::Transition::{Dropped, Fired, None as Nothing, Pending, Resolved};
use super::*;
use crate::rate::Course;
use crate::threshold::Direction;

fn rate(course: Course, raise: f64, clear: f64, hold: i64) -> Kind {
    Kind::Rate(Rate {
        course,
        raise,
        clear,
        within: 160,
        hold,
    })
}

#[track_caller]
fn check(kind: Kind, values: &[(i64, f64, Transition)]) {
    let mut state = kind.state(None);
    for &(time, value, expected) in values {
        let got = kind.step(&mut state, time, Some(value));
        assert_eq!(got, expected, "at {time} with {value}");
    }
}

#[test]
fn a_rise_within_the_stretch_fires_and_ends_when_it_has_left_it() {
    check(
        rate(Course::Rising, 5.0, 2.0, 0),
        &[
            (0, 20.0, Nothing),
            (100, 25.0, Nothing),
            (140, 25.5, Fired),
            (150, 25.5, Nothing),
            // The 20 has left the stretch; above `clear` it goes on.
            (170, 27.5, Nothing),
            (400, 27.5, Resolved),
        ],
    );
}

#[test]
fn a_slow_rise_a_repeat_and_an_old_value_are_nothing() {
    check(
        rate(Course::Rising, 5.0, 5.0, 0),
        &[
            (0, 20.0, Nothing),
            (160, 26.0, Nothing),
            (160, 26.0, Nothing),
            // Older than the newest: not a fall to 0, and not the ground of a rise.
            (159, 0.0, Nothing),
            (161, 26.0, Nothing),
            (161, 32.0, Fired),
        ],
    );
}

#[test]
fn a_fall_and_either_way() {
    check(
        rate(Course::Falling, 5.0, 5.0, 0),
        &[(0, 20.0, Nothing), (1, 90.0, Nothing), (2, 84.0, Fired)],
    );
    check(
        rate(Course::Either, 5.0, 5.0, 0),
        &[
            (0, 20.0, Nothing),
            (1, 14.0, Fired),
            (500, 14.0, Resolved),
            (501, 20.0, Fired),
        ],
    );
}

#[test]
fn a_change_must_last_for_the_hold() {
    check(
        rate(Course::Rising, 5.0, 5.0, 20),
        &[
            (0, 20.0, Nothing),
            (1, 30.0, Pending),
            (2, 20.0, Dropped),
            (3, 30.0, Pending),
            (22, 30.0, Nothing),
            (23, 30.0, Fired),
        ],
    );
}

#[test]
fn a_resumed_rate_ends_only_when_a_whole_stretch_is_known() {
    let kind = rate(Course::Rising, 5.0, 5.0, 0);
    let episode = Episode {
        began: -7,
        firing: true,
    };
    let mut state = kind.resume(episode);
    for time in [0, 50, 159] {
        assert_eq!(kind.step(&mut state, time, Some(20.0)), Nothing);
        assert_eq!(state.episode(), Some(episode));
    }
    assert_eq!(kind.step(&mut state, 160, Some(20.0)), Resolved);
    assert_eq!(kind.step(&mut state, 161, Some(26.0)), Fired);
    assert_eq!(kind.step(&mut state, 400, Some(26.0)), Resolved);
}

#[test]
fn silence_begins_with_the_last_value_and_ends_with_any() {
    let kind = Kind::Silence(Silence { after: 100 });
    let mut state = kind.state(None);
    assert_eq!(
        (kind.due(&state), kind.pass(&mut state, 1000)),
        (None, Nothing)
    );
    assert_eq!(kind.step(&mut state, 1000, None), Nothing);
    assert_eq!(kind.due(&state), Some(1101));
    assert_eq!(kind.pass(&mut state, 1100), Nothing);
    assert_eq!(kind.pass(&mut state, 1101), Fired);
    assert_eq!(state.episode().map(|e| e.began), Some(1000));
    assert_eq!(
        (kind.due(&state), kind.pass(&mut state, 9999)),
        (None, Nothing)
    );
    assert_eq!(kind.step(&mut state, 1050, Some(1.0)), Resolved);
    assert_eq!(kind.due(&state), Some(1151));
    // Awaited from the beginning.
    let mut state = kind.state(Some(5));
    assert_eq!(kind.pass(&mut state, 106), Fired);
    // Known to be silent: it is not told again, and ends with a value.
    let mut state = kind.resume(Episode {
        began: 3,
        firing: true,
    });
    assert_eq!(kind.pass(&mut state, i64::MAX), Nothing);
    assert_eq!(kind.step(&mut state, 9, None), Resolved);
}

#[test]
fn a_clock_that_was_set_ends_what_is_pending_and_not_what_fires() {
    let hot = Kind::Threshold(Threshold {
        direction: Direction::Above,
        raise: 80.0,
        clear: 75.0,
        hold: 10,
    });
    let mut state = hot.state(None);
    hot.step(&mut state, 0, Some(90.0));
    hot.clock_set(&mut state);
    assert_eq!(hot.step(&mut state, 1 << 50, Some(90.0)), Pending);
    assert_eq!(hot.step(&mut state, (1 << 50) + 10, Some(90.0)), Fired);
    let episode = state.episode();
    hot.clock_set(&mut state);
    assert_eq!(state.episode(), episode);
    assert_eq!(hot.step(&mut state, 3, Some(75.0)), Resolved);
    let kind = rate(Course::Rising, 5.0, 5.0, 0);
    let mut state = kind.state(None);
    kind.step(&mut state, 1 << 50, Some(20.0));
    kind.clock_set(&mut state);
    // Time has gone back, and nothing is compared with what was before.
    assert_eq!(kind.step(&mut state, 0, Some(26.0)), Nothing);
    assert_eq!(kind.step(&mut state, 1, Some(32.0)), Fired);
}

#[test]
fn text_says_nothing_to_a_limit_and_a_strange_state_does_no_harm() {
    let kind = rate(Course::Rising, 5.0, 5.0, 0);
    let silence = Kind::Silence(Silence { after: 1 });
    let mut state = silence.state(None);
    assert_eq!(kind.step(&mut state, 0, Some(1.0)), Nothing);
    assert_eq!(
        (kind.due(&state), kind.pass(&mut state, 5)),
        (None, Nothing)
    );
    let mut state = kind.state(None);
    assert_eq!(kind.step(&mut state, 0, None), Nothing);
    assert_eq!(silence.step(&mut state, 0, None), Nothing);
}

fn stories() -> impl Strategy<Value = Vec<(i64, f64)>> {
    // Times mostly go on, sometimes stand, sometimes go back.
    let step = prop_oneof![6 => 1..40i64, 1 => Just(0), 1 => -60..0i64, 1 => 100..400i64];
    let value = (-20..20i32).prop_map(f64::from);
    prop::collection::vec((step, value), 1..200).prop_map(|steps| {
        let mut time = -500;
        let next = |(step, value)| {
            time += step;
            (time, value)
        };
        steps.into_iter().map(next).collect()
    })
}

fn courses() -> impl Strategy<Value = Course> {
    prop_oneof![
        Just(Course::Rising),
        Just(Course::Falling),
        Just(Course::Either)
    ]
}

/// The change at the last of `values` over those that `counts`, the plain way.
fn change(course: Course, values: &[(i64, f64)], counts: impl Fn(i64) -> bool) -> f64 {
    let now = values.last().unwrap().1;
    let changes = values.iter().filter(|v| counts(v.0)).map(|v| match course {
        Course::Rising => now - v.1,
        Course::Falling => v.1 - now,
        Course::Either => (now - v.1).abs(),
    });
    changes.fold(0.0, f64::max)
}

proptest! {
    /// Against a history that forgets nothing: the same transitions at every value.
    #[test]
    fn a_rate_is_what_the_whole_history_says(
        story in stories(),
        course in courses(),
        raise in 1..15i32,
        clear in 0..15i32,
        hold in prop_oneof![Just(0), 1..200i64],
        cut in 0..200usize,
    ) {
        let (raise, clear) = (f64::from(raise), f64::from(clear.min(raise)));
        let kind = rate(course, raise, clear, hold);
        let mut state = kind.state(None);
        let mut history: Vec<(i64, f64)> = Vec::new();
        // (since when, firing)
        let mut open: Option<(i64, bool)> = None;
        for (n, (time, value)) in story.into_iter().enumerate() {
            if n == cut {
                // Saved and read back in the middle.
                let bytes = postcard::to_stdvec(&state).unwrap();
                prop_assert!(bytes.len() < 450);
                state = postcard::from_bytes(&bytes).unwrap();
            }
            let got = kind.step(&mut state, time, Some(value));
            if history.last().is_some_and(|last| time < last.0) {
                prop_assert_eq!(got, Nothing);
                continue;
            }
            history.push((time, value));
            let slice = |t: i64| t.div_euclid(10);
            let by = change(course, &history, |t| slice(time) - slice(t) < 16);
            let expected = match open {
                None if by > raise => {
                    open = Some((time, hold == 0));
                    if hold == 0 { Fired } else { Pending }
                }
                None => Nothing,
                Some((_, true)) if by <= clear => { open = None; Resolved }
                Some((_, true)) => Nothing,
                Some(_) if by <= raise => { open = None; Dropped }
                Some((began, _)) if time - began >= hold => { open = Some((began, true)); Fired }
                Some(_) => Nothing,
            };
            prop_assert_eq!(got, expected, "at {} with {}: {}", time, value, by);
            prop_assert_eq!(state.episode().map(|e| (e.began, e.firing)), open);
            // Whatever the slices are: a change within 15/16 of the stretch counts, and one over more
            // than all of it does not.
            if by > raise {
                prop_assert!(change(course, &history, |t| time - t < 160) > raise);
            } else {
                prop_assert!(change(course, &history, |t| time - t <= 150) <= raise);
            }
        }
    }

    #[test]
    fn a_silence_is_what_the_whole_history_says(
        steps in prop::collection::vec((0..60i64, any::<bool>()), 1..200),
        after in 1..100i64,
        awaited in any::<bool>(),
    ) {
        let kind = Kind::Silence(Silence { after });
        let mut state = kind.state(awaited.then_some(0));
        let mut heard: Vec<i64> = awaited.then_some(0).into_iter().collect();
        let mut silent = false;
        let mut now = 0;
        for (step, speaks) in steps {
            let due = kind.due(&state);
            now += step;
            let (got, expected) = if speaks {
                heard.push(now);
                let was = std::mem::take(&mut silent);
                (kind.step(&mut state, now, None), if was { Resolved } else { Nothing })
            } else {
                let newest = heard.iter().max();
                let begins = !silent && newest.is_some_and(|n| now - n > after);
                silent |= begins;
                prop_assert_eq!(begins, due.is_some_and(|due| now >= due));
                (kind.pass(&mut state, now), if begins { Fired } else { Nothing })
            };
            prop_assert_eq!(got, expected);
            let began = state.episode().map(|e| e.began);
            prop_assert_eq!(began, heard.iter().max().copied().filter(|_| silent));
        }
    }

    /// Extreme numbers and times from outside do no harm.
    #[test]
    fn nothing_panics(values in prop::collection::vec((any::<i64>(), any::<f64>()), 1..50)) {
        let kinds = [
            rate(Course::Either, 1.0, 0.5, 1),
            Kind::Rate(Rate { course: Course::Rising, raise: 1.0, clear: 0.0, within: i64::MAX, hold: 5 }),
            Kind::Silence(Silence { after: i64::MAX }),
            Kind::Threshold(Threshold { direction: Direction::Above, raise: 1.0, clear: 0.0, hold: 9 }),
        ];
        for kind in kinds {
            let mut state = kind.resume(Episode { began: i64::MIN, firing: false });
            for (time, value) in &values {
                kind.step(&mut state, *time, Some(*value));
                kind.pass(&mut state, *time);
                kind.due(&state);
                kind.clock_set(&mut state.clone());
            }
        }
    }
}
