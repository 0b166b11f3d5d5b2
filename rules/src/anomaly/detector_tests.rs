use proptest::prelude::*;

use super::*;
use crate::anomaly::{FalseAlarms, Options, Per};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const DAY: i64 = 1440 * MINUTE;
const NONE: [usize; 0] = [];

/// Numbers that look random, the same in each run.
struct Noise(u64);

impl Noise {
    /// 0 to 1.
    fn even(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// About normal, variance 1, within ±6.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.even()).sum::<f64>() - 6.0
    }
}

fn settings(detector: Variant) -> Anomaly {
    Anomaly::new(Options {
        detector,
        ..Options::default()
    })
}

fn both() -> [Anomaly; 2] {
    [Variant::Default, Variant::Large].map(settings)
}

fn detector(settings: &Anomaly) -> Detector {
    Detector::New(settings.options().detector)
}

/// The times (as positions) of alarms of a series with a value a `step`.
fn alarms(settings: &Anomaly, step: i64, values: impl IntoIterator<Item = f64>) -> Vec<usize> {
    let mut detector = detector(settings);
    let mut found = Vec::new();
    for (i, value) in values.into_iter().enumerate() {
        let verdict = detector.step(i as i64 * step, value, settings);
        if let Verdict::Alarm(_) = verdict {
            found.push(i);
        }
        assert_eq!(
            verdict.score() >= THRESHOLD,
            matches!(verdict, Verdict::Alarm(_))
        );
    }
    assert!(detector.is_sound());
    found
}

#[test]
fn the_default_detector_has_128_bytes_and_the_large_one_less_than_4_kb() {
    assert!(size_of::<Small>() <= 128, "{}", size_of::<Small>());
    let small = Small::begin(0, 1.5, &settings(Variant::Default)).unwrap();
    assert!(postcard::to_stdvec(&small).unwrap().len() <= 128);
    assert!(Detector::bytes(Variant::Large) <= 2048);
    assert!(Small::begin(0, f64::NAN, &settings(Variant::Default)).is_none());
}

#[test]
fn an_outlier_after_ordinary_days_is_found_and_explained() {
    for settings in both() {
        let mut noise = Noise(7);
        let mut detector = detector(&settings);
        let mut early = 0;
        for minute in 0..3 * 1440 {
            let value = 20.0 + noise.even();
            let verdict = detector.step(minute * MINUTE, value, &settings);
            early += u32::from(matches!(verdict, Verdict::Alarm(_)));
        }
        // A young series may find itself surprising a few times.
        assert!(early <= 6, "{early}");
        let verdict = detector.step(3 * DAY, 35.0, &settings);
        let Verdict::Alarm(evidence) = verdict else {
            panic!("{verdict:?}");
        };
        assert_eq!((evidence.part, evidence.value), (Part::Value, 35.0));
        let (low, high) = evidence.expected;
        assert!(
            (20.0..20.01).contains(&low) && (20.99..21.0).contains(&high),
            "{evidence:?}"
        );
        assert!(verdict.score() > 0.9);
    }
}

#[test]
fn the_level_of_the_day_at_night_is_found() {
    for settings in both() {
        let mut noise = Noise(7);
        // 10 to 30 within each day, a value each five minutes.
        let mut day = |i: usize| {
            let turn = std::f64::consts::TAU * i as f64 / 288.0;
            20.0 - 10.0 * turn.cos() + 0.3 * noise.normal()
        };
        let mut values: Vec<f64> = (0..20 * 288 + 6).map(&mut day).collect();
        // Half past midnight, and for half an hour.
        values.extend([27.0; 6]);
        let found = alarms(&settings, 5 * MINUTE, values);
        assert!(
            found.iter().any(|i| (20 * 288 + 6..).contains(i)),
            "{found:?}"
        );
        assert!(found.len() <= 8, "{found:?}");
    }
}

#[test]
fn a_level_shift_is_one_alarm_and_then_ordinary() {
    for settings in both() {
        let mut noise = Noise(3);
        let values = (0..10 * 1440).map(|minute| {
            let level = if minute < 5 * 1440 { 5.0 } else { 500.0 };
            level + noise.even()
        });
        let found = alarms(&settings, MINUTE, values);
        assert!(found.contains(&(5 * 1440)), "{found:?}");
        assert!(
            found.iter().filter(|i| **i >= 5 * 1440).count() <= 2,
            "{found:?}"
        );
    }
}

#[test]
fn what_is_constant_or_only_rises_or_is_no_number_is_quiet() {
    for settings in both() {
        assert_eq!(alarms(&settings, MINUTE, (0..5000).map(|_| 21.5)), NONE);
        assert_eq!(alarms(&settings, MINUTE, (0..20_000).map(f64::from)), NONE);
        assert_eq!(
            alarms(&settings, MINUTE, (0..5000).map(|i| f64::from(i % 2))),
            NONE
        );
        let mut detector = detector(&settings);
        for (i, value) in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -127.0, -200.0]
            .into_iter()
            .cycle()
            .take(1000)
            .enumerate()
        {
            assert_eq!(detector.step(i as i64, value, &settings), Verdict::Missing);
        }
        assert_eq!(detector, Detector::New(settings.options().detector));
    }
}

#[test]
fn a_constant_that_changes_is_found() {
    for settings in both() {
        let values = (0..5000).map(|i| if i < 4000 { 1.0 } else { 2.0 });
        assert_eq!(alarms(&settings, MINUTE, values), [4000]);
    }
}

#[test]
fn nothing_is_said_before_values_and_time_are_enough() {
    for settings in both() {
        // A day has 86,400 s: spikes before do not count, one after does.
        let spikes = (0..90_000).map(|i| {
            if i % 10_000 == 9_999 {
                f64::from(i)
            } else {
                0.0
            }
        });
        let found = alarms(&settings, SECOND, spikes);
        assert!(found.first().is_none_or(|i| *i >= 86_400), "{found:?}");
        // 199 values over half a year.
        let values = (0..200).map(|i| if i == 199 { 9.0 } else { f64::from(i % 2) });
        assert_eq!(alarms(&settings, DAY, values), NONE);
        let values = (0..=200).map(|i| if i == 200 { 9.0 } else { f64::from(i % 2) });
        assert_eq!(alarms(&settings, DAY, values), [200]);
    }
}

#[test]
fn codes_and_late_values_change_nothing() {
    for settings in both() {
        let mut noise = Noise(11);
        let values: Vec<f64> = (0..3000).map(|_| noise.normal()).collect();
        let (mut plain, mut mixed) = (detector(&settings), detector(&settings));
        for (i, value) in values.iter().enumerate() {
            let time = i as i64 * MINUTE;
            let verdict = plain.step(time, *value, &settings);
            assert_eq!(mixed.step(time, *value, &settings), verdict);
            assert_eq!(mixed.step(time, -127.0, &settings), Verdict::Missing);
            assert_eq!(mixed.step(time - 1, 1e9, &settings), Verdict::Late);
        }
        assert_eq!(plain, mixed);
    }
}

#[test]
fn a_clock_that_was_set_back_goes_on_with_what_was_learned() {
    let settings = settings(Variant::Default);
    let mut detector = detector(&settings);
    for i in 0..3000 {
        detector.step(i * MINUTE, (i % 7) as f64, &settings);
    }
    assert_eq!(detector.step(0, 50.0, &settings), Verdict::Late);
    detector.clock_set();
    assert!(matches!(
        detector.step(0, 50.0, &settings),
        Verdict::Alarm(_)
    ));
}

#[test]
fn no_series_gives_more_alarms_than_its_budget() {
    // Spikes that grow tenfold each, every three hours: the worst there is.
    for (false_alarms, per_day) in [("1/month", 1.0 / 30.0), ("2/day", 2.0)] {
        let settings = Anomaly::new(Options {
            false_alarms: FalseAlarms::parse(false_alarms).unwrap(),
            ..Options::default()
        });
        let days = 200;
        let values = (0..days * 144).map(|i| match i % 18 {
            0 => 10_f64.powi(i / 18 % 250),
            _ => f64::from(i % 3),
        });
        let found = alarms(&settings, 10 * MINUTE, values).len() as f64;
        assert!(
            found <= f64::from(days) * per_day + 12.0,
            "{false_alarms}: {found}"
        );
        assert!(found >= 3.0, "{false_alarms}: {found}");
    }
    assert_eq!(Per::Month.micros(), 30 * DAY);
}

#[test]
fn ordinary_noise_comes_near_the_rate_in_the_long_run_and_not_above_it() {
    let settings = settings(Variant::Default);
    let mut noise = Noise(5);
    let values: Vec<f64> = (0..3 * 365 * 288).map(|_| noise.normal()).collect();
    let found = alarms(&settings, 5 * MINUTE, values);
    let in_year = |year: usize| found.iter().filter(|i| **i / (365 * 288) == year).count();
    assert!(in_year(0) <= 24, "{found:?}");
    assert!(
        (4..=14).contains(&in_year(1)) && (4..=14).contains(&in_year(2)),
        "{found:?}"
    );
}

/// Values of the sorts that sensors give, with some that are nothing.
fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => -1.0..1.0_f64,
        4 => (0..4_i32).prop_map(f64::from),
        1 => any::<f64>(),
        1 => any::<u64>().prop_map(f64::from_bits),
        1 => Just(-127.0),
    ]
}

/// Steps of time in microseconds, some of them back.
fn series() -> impl Strategy<Value = Vec<(i64, f64)>> {
    let step = prop_oneof![8 => 0..20 * MINUTE, 1 => -MINUTE..DAY, 1 => any::<i64>()];
    let values = prop::collection::vec((step, value()), 1..600);
    values.prop_map(|values| {
        let mut time = 0_i64;
        let at = |(step, value)| {
            time = time.wrapping_add(step);
            (time, value)
        };
        values.into_iter().map(at).collect()
    })
}

fn open(detector: Variant) -> Anomaly {
    Anomaly::new(Options {
        detector,
        warm_up: 0,
        hold: 10 * SECOND,
        false_alarms: FalseAlarms {
            count: 1000,
            per: Per::Hour,
        },
        ..Options::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn saved_and_read_back_it_goes_on_bit_for_bit(
        values in series(),
        cuts in prop::collection::vec(0..600_usize, 0..5),
        large in any::<bool>(),
    ) {
        let variant = if large { Variant::Large } else { Variant::Default };
        let settings = open(variant);
        let (mut whole, mut cut) = (detector(&settings), detector(&settings));
        for (i, (time, value)) in values.into_iter().enumerate() {
            if cuts.contains(&i) {
                let bytes = postcard::to_stdvec(&cut).unwrap();
                cut = postcard::from_bytes(&bytes).unwrap();
                prop_assert!(cut.is_sound());
                // And as text.
                let text = serde_json::to_string(&cut).unwrap();
                cut = serde_json::from_str(&text).unwrap();
            }
            let a = whole.step(time, value, &settings);
            let b = cut.step(time, value, &settings);
            prop_assert_eq!(a.score().to_bits(), b.score().to_bits());
        }
        prop_assert_eq!(postcard::to_stdvec(&whole), postcard::to_stdvec(&cut));
    }

    #[test]
    fn any_bits_give_a_score_in_0_to_1_and_a_sound_state(values in series(), large in any::<bool>()) {
        let variant = if large { Variant::Large } else { Variant::Default };
        let settings = open(variant);
        let mut detector = detector(&settings);
        for (time, value) in values {
            let verdict = detector.step(time, value, &settings);
            prop_assert!((0.0..=1.0).contains(&verdict.score()));
            if let Verdict::Alarm(evidence) = verdict {
                let (low, high) = evidence.expected;
                prop_assert!(low.is_finite() && high.is_finite() && low <= high);
                prop_assert!(evidence.compared.is_finite());
                let sentence = evidence.sentence(time);
                prop_assert!(sentence.len() <= 300, "{}", sentence);
            }
        }
        prop_assert!(detector.is_sound());
    }

    #[test]
    fn a_power_of_two_in_the_scale_changes_nothing(
        seed in 1..u64::MAX,
        power in -300..300_i32,
        large in any::<bool>(),
    ) {
        let variant = if large { Variant::Large } else { Variant::Default };
        let settings = open(variant);
        let mut noise = Noise(seed);
        let (mut a, mut b) = (detector(&settings), detector(&settings));
        for i in 0..800_i64 {
            let spike = if i % 97 == 96 { 10.0 } else { 1.0 };
            let value = noise.normal() * spike;
            let scaled = value * 2_f64.powi(power);
            let one = a.step(i * MINUTE, value, &settings);
            let other = b.step(i * MINUTE, scaled, &settings);
            prop_assert_eq!(one.score().to_bits(), other.score().to_bits());
        }
    }

    #[test]
    fn garbage_that_reads_as_a_state_is_told_or_harmless(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        if let Ok(mut detector) = postcard::from_bytes::<Detector>(&bytes)
            && detector.is_sound()
        {
            let settings = open(detector.variant());
            for i in 0..50 {
                let verdict = detector.step(i64::MAX - 50 + i, i as f64, &settings);
                prop_assert!((0.0..=1.0).contains(&verdict.score()));
            }
        }
    }
}
