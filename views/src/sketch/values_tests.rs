use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn of<'a>(texts: impl IntoIterator<Item = &'a String>) -> Values {
    let mut v = Values::default();
    texts.into_iter().for_each(|t| v.add(t));
    v
}

fn texts(max: usize) -> impl Strategy<Value = Vec<String>> {
    let range = prop_oneof![Just(20u32), Just(150), Just(100_000)];
    range.prop_flat_map(move |r| {
        prop::collection::vec((0..r).prop_map(|n| format!("text {n}")), 0..max)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_set_of_texts_makes_the_sketch(
        (texts, shuffled) in texts(400).prop_flat_map(|t| (Just(t.clone()), Just(t).prop_shuffle())),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let set: BTreeSet<String> = texts.iter().cloned().collect();
        let whole = of(&set);
        prop_assert_eq!(&of(&texts), &whole);
        let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(texts.len() + 1)).collect();
        cuts.extend([0, texts.len()]);
        cuts.sort_unstable();
        let parts: Vec<_> = cuts.windows(2).map(|c| of(&shuffled[c[0]..c[1]])).collect();
        let (mut forth, mut back) = (Values::default(), Values::default());
        parts.iter().for_each(|p| forth.merge(p));
        parts.iter().rev().for_each(|p| back.merge(p));
        prop_assert_eq!(&forth, &whole);
        prop_assert_eq!(back.to_bytes(), whole.to_bytes());
        prop_assert_eq!(whole.is_empty(), set.is_empty());
        if set.len() <= FEW_MAX {
            prop_assert_eq!(whole.estimate(), set.len() as u64);
        } else {
            let off = whole.estimate() as f64 / set.len() as f64 - 1.0;
            prop_assert!(off.abs() < 5.0 * Values::RELATIVE_ERROR, "{off}");
        }
        prop_assert_eq!(Values::from_bytes(&whole.to_bytes()), Some(whole));
    }

    #[test]
    fn arbitrary_bytes_give_none_or_a_sound_sketch(
        texts in texts(200),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        garbage in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut bytes = of(&texts).to_bytes();
        prop_assert_eq!(Values::from_bytes(&bytes[..cut.index(bytes.len())]), None);
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for bytes in [bytes, garbage] {
            if let Some(mut read) = Values::from_bytes(&bytes) {
                prop_assert_eq!(read.to_bytes(), bytes);
                read.estimate();
                read.merge(&of(&texts));
            }
        }
    }
}

/// Also that the stated error is neither missed nor padded.
#[test]
fn the_error_is_the_promised_one_at_every_size() {
    for n in [65u64, 200, 1_000, 5_000, 50_000] {
        let runs = 30;
        let mut squares = 0.0;
        for run in 0..runs {
            let mut v = Values::default();
            (0..n).for_each(|i| v.add(&format!("{run}/{i}")));
            let off = v.estimate() as f64 / n as f64 - 1.0;
            assert!(off.abs() < 5.0 * Values::RELATIVE_ERROR, "{n}: {off}");
            squares += off * off;
        }
        let rms = (squares / f64::from(runs)).sqrt();
        assert!(rms < 1.3 * Values::RELATIVE_ERROR, "{n}: {rms}");
    }
}

#[test]
fn full_registers_are_no_error() {
    let full = Values(Form::Many(Box::new([RANK_MAX; REGISTERS])));
    assert!(full.estimate() > 1 << 60);
    assert_eq!(Values::from_bytes(&full.to_bytes()), Some(full));
}
