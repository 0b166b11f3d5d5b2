//! The spaces that are searched in full: what may happen, and how often.

use crate::world::Budget;

const NOTHING: Budget = Budget {
    events: 0,
    sends: 0,
    crashes: 0,
    images: 0,
    rollbacks: 0,
    clones: 0,
    fast_clocks: 0,
    capacity: 4,
    lazy: false,
};

/// Loss, repeats, reordering, re-cuts of three events.
pub const NETWORK: Budget = Budget {
    events: 3,
    sends: 3,
    ..NOTHING
};
/// The same with a resend more and an event less.
pub const RESENDS: Budget = Budget {
    events: 2,
    sends: 4,
    ..NOTHING
};
/// Two crashes of the agent; deletions by acks may be lost with the process.
pub const CRASHES: Budget = Budget {
    events: 2,
    sends: 3,
    crashes: 2,
    lazy: true,
    ..NOTHING
};
/// A buffer of one event, and a crash.
pub const OVERFLOW: Budget = Budget {
    events: 3,
    sends: 3,
    crashes: 1,
    capacity: 1,
    ..NOTHING
};
/// The disk is set back to an image (an empty one: wiped), without other crashes.
pub const ROLLBACK: Budget = Budget {
    events: 2,
    sends: 3,
    images: 1,
    rollbacks: 1,
    ..NOTHING
};
/// The same over several lives.
pub const ROLLBACK_OF_LIVES: Budget = Budget {
    events: 1,
    sends: 3,
    crashes: 1,
    images: 1,
    rollbacks: 1,
    ..NOTHING
};
/// A second machine runs with a copy of the disk.
pub const CLONE: Budget = Budget {
    events: 2,
    sends: 3,
    images: 1,
    clones: 1,
    ..NOTHING
};
/// The same over several lives.
pub const CLONE_OF_LIVES: Budget = Budget {
    events: 1,
    sends: 3,
    crashes: 1,
    images: 1,
    clones: 1,
    ..NOTHING
};
/// The agent's clock is far ahead for a while.
pub const CLOCK: Budget = Budget {
    events: 2,
    sends: 3,
    fast_clocks: 1,
    ..NOTHING
};

/// Larger ones, minutes and gigabytes each, for changes of the rules: `cargo test -p protocol-model
/// -- --ignored --nocapture`.
pub const DEEP: [(&str, Budget); 5] = [
    (
        "network",
        Budget {
            sends: 4,
            ..NETWORK
        },
    ),
    (
        "overflow",
        Budget {
            sends: 4,
            ..OVERFLOW
        },
    ),
    (
        "rollback",
        Budget {
            crashes: 1,
            ..ROLLBACK
        },
    ),
    (
        "rollback and clone",
        Budget {
            clones: 1,
            ..ROLLBACK_OF_LIVES
        },
    ),
    (
        "clone",
        Budget {
            crashes: 1,
            ..CLONE
        },
    ),
];
