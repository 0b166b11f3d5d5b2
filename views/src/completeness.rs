//! How many devices a window should contain, how many are done, and how many are awaited: for every
//! window at once, from one small index.
//!
//! A device is *known* from its earliest event on. It is *expected* in a window if it was known
//! before the window's end, did not leave before its start, and its agent was heard from within 7 days (in
//! whole hours) before the window's start; *complete* if its agent's progress reaches the window's end; *lossy* if it does, but a declared
//! loss overlaps the window; else *outstanding*. Whole seconds are enough: windows start and end on
//! them, so `progress >= end` holds for the second exactly if it holds for the microsecond.

use crate::model::WindowCompleteness;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;
/// How long an agent may be out of contact before its devices are dormant: 7 days, microseconds.
pub const DORMANT_AFTER: i64 = 7 * 86_400 * SECOND;

/// How many devices of a window are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Should be in it.
    pub expected: u64,
    /// Done.
    pub complete: u64,
    /// Done, with a loss.
    pub lossy: u64,
    /// Awaited.
    pub outstanding: u64,
    /// Silent too long to be awaited.
    pub dormant: u64,
}

impl Counts {
    /// `(complete + lossy) / expected`; none where nothing is expected.
    pub fn completeness(&self) -> Option<f64> {
        (self.expected > 0).then(|| (self.complete + self.lossy) as f64 / self.expected as f64)
    }

    /// Whether at least 99.5 % of the expected devices are done (true where nothing is expected).
    pub fn is_enough(&self) -> bool {
        (self.complete + self.lossy) * 1000 >= self.expected * 995
    }

    /// Adds another partition's part.
    pub fn add(&mut self, other: &Self) {
        self.expected += other.expected;
        self.complete += other.complete;
        self.lossy += other.lossy;
        self.outstanding += other.outstanding;
        self.dormant += other.dormant;
    }

    /// As the API shows it for the window `[start, end)`.
    pub fn for_window(&self, start: i64, end: i64) -> WindowCompleteness {
        WindowCompleteness {
            start: crate::model::Time(start),
            end: crate::model::Time(end),
            expected: self.expected,
            complete: self.complete,
            lossy: self.lossy,
            outstanding: self.outstanding,
            dormant: self.dormant,
            completeness: self.completeness(),
        }
    }
}

/// A stretch of event time in which an agent lost events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Number of the agent within its partition, to count it once.
    pub agent: u32,
    /// Earliest lost event time, microseconds.
    pub from: i64,
    /// Latest lost event time, microseconds.
    pub to: i64,
    /// The agent's progress, microseconds.
    pub progress: i64,
    /// Its devices in this group.
    pub devices: u64,
}

/// A device that belonged to the group for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Past {
    join: i64,
    leave: i64,
    progress: i64,
}

/// A step function: how many devices are at or above a second.
///
/// There are some for each group, so they are kept narrow: seconds since 1970 until 2106, what lies before (a
/// progress that is not known) as 0, and a partition has fewer devices than 2^32.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Steps {
    /// (second, devices at or above it), ascending by second.
    at_or_above: Box<[(u32, u32)]>,
}

fn narrow(second: i64) -> u32 {
    second.clamp(0, i64::from(u32::MAX)) as u32
}

impl Steps {
    fn build(mut points: Vec<(i64, u64)>) -> Self {
        points.sort_unstable_by_key(|p| p.0);
        points.dedup_by(|next, kept| {
            let same = narrow(next.0) == narrow(kept.0);
            if same {
                kept.1 += next.1;
            }
            same
        });
        let mut sum = 0u64;
        let mut steps: Box<[(u32, u32)]> = points.iter().map(|p| (narrow(p.0), 0)).collect();
        for (step, point) in steps.iter_mut().zip(&points).rev() {
            sum += point.1;
            step.1 = u32::try_from(sum).unwrap_or(u32::MAX);
        }
        Self { at_or_above: steps }
    }

    fn at_or_above(&self, second: i64) -> u64 {
        let second = narrow(second);
        let i = self.at_or_above.partition_point(|p| p.0 < second);
        self.at_or_above.get(i).map_or(0, |p| u64::from(p.1))
    }

    fn total(&self) -> u64 {
        self.at_or_above.first().map_or(0, |p| u64::from(p.1))
    }
}

/// Completeness of every window of one group in one partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CompletenessIndex {
    first: Steps,
    done: Steps,
    heard: Steps,
    losses: Vec<Loss>,
    past: Vec<Past>,
}

/// Collects what an index is made of.
#[derive(Debug, Clone, Default)]
pub struct IndexBuilder {
    first: Vec<(i64, u64)>,
    done: Vec<(i64, u64)>,
    heard: Vec<(i64, u64)>,
    losses: Vec<Loss>,
    past: Vec<Past>,
}

impl IndexBuilder {
    /// Adds `devices` devices known from `first` on, whose agent has come to `progress` and was last
    /// heard from at `heard` (ingest time). All in microseconds.
    pub fn add(&mut self, devices: u64, first: i64, progress: i64, heard: i64) {
        self.add_first(first, devices);
        // A device that is known only from after its agent's progress must not count as done for
        // windows before it was known; see `counts`.
        self.add_done(progress.max(first), devices);
        self.add_heard(heard, devices);
    }

    /// Adds devices known from `first` on. Each needs a call of [`Self::add_done`] and one of
    /// [`Self::add_heard`], in any order and joined with others at will.
    pub fn add_first(&mut self, first: i64, devices: u64) {
        self.first.push((first.div_euclid(SECOND), devices));
    }

    /// Adds devices that are done up to `done`: their agent's progress, or when they became known if that is
    /// later.
    pub fn add_done(&mut self, done: i64, devices: u64) {
        self.done.push((done.div_euclid(SECOND), devices));
    }

    /// Adds devices whose agent was last heard from at `heard`.
    pub fn add_heard(&mut self, heard: i64, devices: u64) {
        let hour = heard.div_euclid(HOUR).saturating_mul(HOUR);
        self.heard.push((hour.div_euclid(SECOND), devices));
    }

    /// Adds a device that belonged to the group from `join` to `leave` and is done to `progress`.
    pub fn add_past(&mut self, join: i64, leave: i64, progress: i64) {
        self.past.push(Past {
            join,
            leave,
            progress,
        });
    }

    /// Adds a loss.
    pub fn add_loss(&mut self, loss: Loss) {
        self.losses.push(loss);
    }

    /// The index.
    pub fn build(self) -> CompletenessIndex {
        let mut losses = self.losses;
        losses.sort_unstable_by_key(|l| (l.agent, l.from, l.to));
        CompletenessIndex {
            first: Steps::build(self.first),
            done: Steps::build(self.done),
            heard: Steps::build(self.heard),
            losses,
            past: self.past,
        }
    }
}

impl CompletenessIndex {
    /// The counts of the window `[start, end)`, microseconds, both on whole seconds.
    pub fn counts(&self, start: i64, end: i64) -> Counts {
        let end_s = end.div_euclid(SECOND);
        let not_yet_known = self.first.at_or_above(end_s);
        let mut known = self.first.total() - not_yet_known;
        // done >= first for every device, so those first known at or after `end` are all among the
        // done ones and can be taken off.
        let mut complete = self.done.at_or_above(end_s).saturating_sub(not_yet_known);
        let heard_after = (start - DORMANT_AFTER).div_euclid(HOUR) * (HOUR / SECOND);
        let dormant = (self.heard.total() - self.heard.at_or_above(heard_after))
            .min(known - complete.min(known));
        for p in &self.past {
            if p.join < end && p.leave > start {
                known += 1;
                complete += u64::from(p.progress >= end);
            }
        }
        let mut lossy = 0;
        let mut last_agent = None;
        for loss in &self.losses {
            if loss.from < end
                && loss.to >= start
                && loss.progress >= end
                && last_agent != Some(loss.agent)
            {
                last_agent = Some(loss.agent);
                lossy += loss.devices;
            }
        }
        lossy = lossy.min(complete);
        complete -= lossy;
        let expected = known - dormant;
        Counts {
            expected,
            complete,
            lossy,
            outstanding: expected.saturating_sub(complete + lossy),
            dormant,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = SECOND;

    fn index(devices: &[(i64, i64, i64)]) -> CompletenessIndex {
        let mut b = IndexBuilder::default();
        for &(first, progress, heard) in devices {
            b.add(1, first * S, progress * S, heard * S);
        }
        b.build()
    }

    #[track_caller]
    fn check(index: &CompletenessIndex, window: (i64, i64), expected: [u64; 5]) {
        let c = index.counts(window.0 * S, window.1 * S);
        assert_eq!(
            [c.expected, c.complete, c.lossy, c.outstanding, c.dormant],
            expected
        );
    }

    #[test]
    fn a_device_is_expected_from_the_window_it_became_known_in() {
        let i = index(&[(5, 100, 100), (15, 100, 100)]);
        check(&i, (0, 5), [0, 0, 0, 0, 0]);
        check(&i, (0, 10), [1, 1, 0, 0, 0]);
        check(&i, (10, 20), [2, 2, 0, 0, 0]);
    }

    #[test]
    fn a_device_behind_is_outstanding() {
        let i = index(&[(0, 100, 100), (0, 19, 100)]);
        check(&i, (0, 10), [2, 2, 0, 0, 0]);
        check(&i, (10, 20), [2, 1, 0, 1, 0]);
        check(&i, (90, 100), [2, 1, 0, 1, 0]);
        check(&i, (100, 110), [2, 0, 0, 2, 0]);
    }

    #[test]
    fn known_after_its_agents_progress_is_not_done_earlier() {
        // First event at 50, but the agent still holds something from 20.
        let i = index(&[(50, 20, 100)]);
        check(&i, (0, 10), [0, 0, 0, 0, 0]);
        check(&i, (40, 50), [0, 0, 0, 0, 0]);
        check(&i, (50, 60), [1, 0, 0, 1, 0]);
    }

    #[test]
    fn seven_days_without_contact_is_dormant() {
        let day = 86_400;
        let i = index(&[(0, 10, 10), (0, 9 * day, 9 * day)]);
        check(&i, (6 * day, 6 * day + 10), [2, 1, 0, 1, 0]);
        check(&i, (8 * day, 8 * day + 10), [1, 1, 0, 0, 1]);
    }

    #[test]
    fn a_declared_loss_makes_a_done_device_lossy_once() {
        let mut b = IndexBuilder::default();
        b.add(3, 0, 100 * S, 100 * S);
        b.add(2, 0, 100 * S, 100 * S);
        for (from, to) in [(12, 13), (18, 25)] {
            b.add_loss(Loss {
                agent: 1,
                from: from * S,
                to: to * S,
                progress: 100 * S,
                devices: 2,
            });
        }
        let i = b.build();
        check(&i, (0, 10), [5, 5, 0, 0, 0]);
        check(&i, (10, 20), [5, 3, 2, 0, 0]);
        check(&i, (20, 30), [5, 3, 2, 0, 0]);
        check(&i, (30, 40), [5, 5, 0, 0, 0]);
    }

    #[test]
    fn enough_is_99_5_percent() {
        let c = |complete| Counts {
            expected: 1000,
            complete,
            ..Counts::default()
        };
        assert!(c(995).is_enough());
        assert!(!c(994).is_enough());
        assert!(Counts::default().is_enough());
    }
}
