//! What an ordinary agent does not have: a past, losses, other lives, a backlog.

use event::{Held, Incarnation};
use serde::{Deserialize, Serialize};

use super::super::intervals::IntervalSet;
use super::losses::{self, Losses};
use super::seen;
use super::tombstones::Tombstones;

/// Incarnations that are not closed, per agent. Beyond it the oldest one that nobody speaks for is closed as
/// it is; if there is none, a new one is refused.
pub(super) const LIVES_MAX: usize = 64;
/// Separate ranges of seqs held per incarnation. An agent that numbers without holes and has at most eight
/// batches under way needs a few.
pub(super) const RANGES_MAX: usize = 4096;
/// Pairs of incarnations whose conflict was told.
pub(super) const TOLD_MAX: usize = 64;

/// The part of an agent that few have. One restart makes one of 64 bytes, without heap of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rare {
    pub(super) tombstones: Tombstones,
    pub(super) losses: Losses,
    pub(super) more: Option<Box<More>>,
}

const _: () = assert!(size_of::<Rare>() <= 72);

/// What passes again: other lives, holes, a backlog; and what remains of conflicts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct More {
    /// All lives that are not in the hot record, ascending; the newest is here too unless it is ordinary.
    pub(super) lives: Vec<Life>,
    pub(super) conflicts: Option<Box<Conflicts>>,
    /// What it held outside the newest batch.
    pub(super) held: Held,
    /// Offset of the clock, microseconds, if the hot record has no room for it.
    pub(super) offset: Option<i64>,
    /// The newest life promised to make no event before this time, microseconds; `i64::MIN` = no promise.
    pub(super) quiet: i64,
}

impl Default for More {
    fn default() -> Self {
        Self {
            lives: Vec::new(),
            conflicts: None,
            held: Held::default(),
            offset: None,
            quiet: i64::MIN,
        }
    }
}

/// One incarnation that may still send or be sent for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Life {
    pub(super) incarnation: Incarnation,
    /// Newest transmission seen; 0 = none.
    pub(super) tx_no: u64,
    /// From that transmission; `i64::MIN` if this incarnation never sent for itself.
    pub(super) watermark: i64,
    #[serde(with = "super::seen")]
    pub(super) seen: IntervalSet,
    #[serde(with = "super::seen")]
    pub(super) lost: IntervalSet,
    /// It holds nobody back any more: what it may have held is declared lost.
    pub(super) abandoned: bool,
    /// A successor said that this was its last seq; none also if what came contradicts that.
    pub(super) last: Option<u64>,
    /// A successor said that nothing of it is held any more.
    pub(super) done: bool,
    /// The newest life that knows it and is not given up; whose watermark covers what is held of it.
    pub(super) teller: Option<Incarnation>,
    /// Ingest time of its last sign of life since a conflict was noticed; `i64::MIN` = none.
    pub(super) heard: i64,
}

impl Life {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            tx_no: 0,
            watermark: i64::MIN,
            seen: IntervalSet::default(),
            lost: IntervalSet::default(),
            abandoned: false,
            last: None,
            done: false,
            teller: None,
            heard: i64::MIN,
        }
    }

    /// Whether the hot record has room for all that is known of it.
    pub(super) fn ordinary(&self) -> bool {
        self.seen.len() <= 1
            && self.lost.len() == 0
            && !self.abandoned
            && self.last.is_none()
            && !self.done
            && self.teller.is_none()
            && self.heard == i64::MIN
    }

    /// Whether it holds progress back.
    pub(super) fn counts(&self) -> bool {
        !self.abandoned && self.watermark != i64::MIN
    }

    /// Whether a life that is not given up has come after it in the same buffer.
    pub(super) fn past(&self) -> bool {
        self.teller.is_some()
    }

    /// The greatest seq that came or was declared lost.
    pub(super) fn highest(&self) -> u64 {
        seen::highest(&self.seen).max(seen::highest(&self.lost))
    }
}

/// What is remembered of conflicts of identity (P4).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Conflicts {
    /// Pairs that were told, the lesser first, in the order in which they were told.
    pub(super) told: Vec<(Incarnation, Incarnation)>,
    /// Where the stretch of loss of the newest conflict begins.
    pub(super) from: i64,
    /// What was sent before this time was sent before the newest conflict was noticed: no sign of life.
    pub(super) since: i64,
}

impl Rare {
    pub(super) fn is_empty(&self) -> bool {
        self.tombstones.is_empty() && self.losses.is_empty() && self.more.is_none()
    }

    /// Whether what was read is within the limits that the code relies upon.
    pub(super) fn sound(&self) -> bool {
        let more = self.more.as_ref().is_none_or(|m| {
            m.lives.len() <= LIVES_MAX
                && m.lives
                    .windows(2)
                    .all(|w| w[0].incarnation < w[1].incarnation)
                && m.conflicts
                    .as_ref()
                    .is_none_or(|c| c.told.len() <= TOLD_MAX)
        });
        more && self.tombstones.sound() && losses::sound(&self.losses)
    }
}
