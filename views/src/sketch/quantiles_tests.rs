use proptest::prelude::*;

use super::*;

fn of(values: &[f64]) -> Quantiles {
    let mut q = Quantiles::default();
    values.iter().for_each(|v| q.add(*v));
    q
}

/// Numbers of all magnitudes and signs, and of one narrow range.
fn numbers(max: usize) -> impl Strategy<Value = Vec<f64>> {
    let wide = any::<u64>().prop_map(f64::from_bits);
    let some = -50.0..50.0f64;
    let zero = prop::sample::select(vec![0.0, -0.0, 1.0, -1.0, f64::MAX, f64::MIN_POSITIVE]);
    prop_oneof![
        prop::collection::vec(some.clone(), 0..max),
        prop::collection::vec(wide.clone(), 0..max),
        prop::collection::vec(prop_oneof![wide, some, zero], 0..max),
    ]
}

fn exact(sorted: &[f64], q: f64) -> f64 {
    sorted[(q * (sorted.len() - 1) as f64).floor() as usize]
}

/// Whether `value` is as near as promised; a subnormal counts as zero.
fn near(value: f64, exact: f64) -> bool {
    if exact.abs() < f64::MIN_POSITIVE {
        return value == 0.0;
    }
    // Divided first: the difference of the largest doubles is no double. Rounding: a few last bits.
    (value / exact - 1.0).abs() <= Quantiles::RELATIVE_ERROR * (1.0 + 1e-12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn quantiles_are_near_the_exact_ones(values in numbers(600)) {
        let sketch = of(&values);
        let mut sorted: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        prop_assert_eq!(sketch.count(), sorted.len() as u64);
        prop_assert_eq!(sketch.quantile(0.5).is_some(), !sorted.is_empty());
        for i in 0..=100 {
            let q = f64::from(i) / 100.0;
            let rank = (q * sorted.len().saturating_sub(1) as f64).floor() as u64;
            if sorted.is_empty() || rank < sketch.folded() {
                continue;
            }
            let (got, want) = (sketch.quantile(q).unwrap(), exact(&sorted, q));
            prop_assert!(near(got, want), "p{i}: {got} for {want}");
        }
    }

    #[test]
    fn order_and_parts_do_not_matter(
        (values, shuffled) in numbers(1500).prop_flat_map(|v| (Just(v.clone()), Just(v).prop_shuffle())),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        backwards in any::<bool>(),
    ) {
        let whole = of(&values);
        let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(values.len() + 1)).collect();
        cuts.extend([0, values.len()]);
        cuts.sort_unstable();
        let mut parts: Vec<_> = cuts.windows(2).map(|c| of(&shuffled[c[0]..c[1]])).collect();
        if backwards {
            parts.reverse();
        }
        // Left to right, and as a tree.
        let mut merged = Quantiles::default();
        parts.iter().for_each(|p| merged.merge(p));
        while parts.len() > 1 {
            let last = parts.pop().unwrap();
            let half = parts.len() / 2;
            parts[half].merge(&last);
        }
        prop_assert_eq!(&merged, &whole);
        prop_assert_eq!(&parts[0], &whole);
        prop_assert_eq!(of(&shuffled).to_bytes(), whole.to_bytes());
        prop_assert_eq!(merged.to_bytes(), whole.to_bytes());
        prop_assert!(whole.heads.len() <= CHUNKS_MAX);
        let back = Quantiles::from_bytes(&whole.to_bytes());
        prop_assert_eq!(back, Some(whole));
    }

    #[test]
    fn the_folded_are_those_below_the_highest_chunks(values in numbers(1500)) {
        let sketch = of(&values);
        let chunk = |v: &f64| (v.is_sign_negative(), (v.to_bits() & (u64::MAX >> 1)) >> (SHIFT + 3));
        let mut kept: Vec<f64> = values.into_iter().filter(|v| v.is_normal()).collect();
        kept.sort_by(|a, b| b.total_cmp(a));
        let all = kept.len();
        let mut chunks: Vec<_> = kept.iter().map(chunk).collect();
        chunks.dedup();
        chunks.truncate(CHUNKS_MAX);
        kept.retain(|v| chunks.contains(&chunk(v)));
        let zeros = sketch.count() - all as u64;
        let below = (all - kept.len()) as u64;
        let zeros_too = below > 0 && kept[kept.len() - 1] > 0.0;
        prop_assert_eq!(sketch.folded(), below + if zeros_too { zeros } else { 0 });
    }

    #[test]
    fn arbitrary_bytes_give_none_or_a_sound_sketch(
        values in numbers(300),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        garbage in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut bytes = of(&values).to_bytes();
        prop_assert_eq!(Quantiles::from_bytes(&bytes[..cut.index(bytes.len())]), None);
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for bytes in [bytes, garbage.clone(), [vec![VERSION], garbage].concat()] {
            if let Some(mut read) = Quantiles::from_bytes(&bytes) {
                prop_assert_eq!(read.to_bytes(), bytes);
                read.merge(&read.clone());
                values.iter().for_each(|v| read.add(*v));
                read.quantile(0.5);
            }
        }
    }
}

#[test]
fn the_error_is_the_promised_one_in_every_bucket_of_an_octave() {
    for i in 0..64 * 50 {
        let v = 1.0 + f64::from(i) / (64.0 * 50.0);
        for v in [v, -v, v * 2f64.powi(1023), v * 2f64.powi(-1022)] {
            let got = of(&[v]).quantile(0.5).unwrap();
            assert!(near(got, v) && got.is_finite(), "{got} for {v}");
        }
    }
}

#[test]
fn edges() {
    let none = Quantiles::default();
    assert_eq!((none.count(), none.quantile(0.5)), (0, None));
    let ignored = of(&[f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY]);
    assert_eq!(ignored, none);
    let zeros = of(&[0.0, -0.0, 5e-324]);
    assert_eq!((zeros.count(), zeros.quantile(1.0)), (3, Some(0.0)));
    let three = of(&[-1.0, 0.0, 1.0]);
    assert!(near(three.quantile(-3.0).unwrap(), -1.0));
    assert_eq!(three.quantile(0.5), Some(0.0));
    assert!(near(three.quantile(7.0).unwrap(), 1.0));
    assert!(near(three.quantile(f64::NAN).unwrap(), -1.0));
}

#[test]
fn a_range_of_nine_digits_is_not_folded() {
    let mut sketch = Quantiles::default();
    let mut v = 0.001;
    while v < 1e6 {
        sketch.add(v);
        v *= 1.001;
    }
    assert_eq!(sketch.folded(), 0);
    assert!(sketch.bytes() <= CHUNKS_MAX * 66, "{}", sketch.bytes());
}
