//! Stretches of event time in which an agent lost events.

use smallvec::SmallVec;

/// Separate stretches remembered; beyond it the nearest are joined.
pub(super) const LOSSES_MAX: usize = 64;

/// Disjoint stretches, both ends included, ascending, microseconds.
pub(super) type Losses = SmallVec<[(i64, i64); 1]>;

/// Adds a stretch; the ends may come in either order.
pub(super) fn add(losses: &mut Losses, from: i64, to: i64) {
    let (from, to) = (from.min(to), from.max(to));
    let a = losses.partition_point(|l| l.1 < from);
    let b = losses.partition_point(|l| l.0 <= to);
    if a == b {
        losses.reserve_exact(1);
        losses.insert(a, (from, to));
    } else {
        losses[a] = (from.min(losses[a].0), to.max(losses[b - 1].1));
        losses.drain(a + 1..b);
    }
    if losses.len() > LOSSES_MAX {
        // Join the two nearest: says too much is lost rather than too little.
        let nearest = (1..losses.len())
            .min_by_key(|&i| losses[i].0.saturating_sub(losses[i - 1].1))
            .unwrap_or(1);
        losses[nearest - 1].1 = losses[nearest].1;
        losses.remove(nearest);
    }
}

/// Whether a list that was read is one.
pub(super) fn sound(losses: &Losses) -> bool {
    losses.len() <= LOSSES_MAX
        && losses.iter().all(|l| l.0 <= l.1)
        && losses.windows(2).all(|w| w[0].1 < w[1].0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_stay_bounded() {
        let mut losses = Losses::new();
        for i in 0..500 {
            add(&mut losses, i * 10, i * 10 + 1);
        }
        assert!(sound(&losses));
        assert_eq!(losses.len(), LOSSES_MAX);
        assert_eq!((losses[0].0, losses[LOSSES_MAX - 1].1), (0, 4991));
        add(&mut losses, 6000, -5);
        assert_eq!(losses.as_slice(), [(-5, 6000)]);
    }
}
