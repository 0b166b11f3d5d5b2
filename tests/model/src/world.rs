//! The state of the whole: agents, messages, cloud, what may still go wrong, and what really happened.
//!
//! All numbers are small on purpose. Times are ticks: the clock goes on by one with each event that is
//! accepted, so that an event's time is its identity in the ground truth, and bit `1 << time` stands for
//! it in a [`Set`]. What many states have in common is shared, which makes a copy of a state cheap.

use std::rc::Rc;

/// A set of events by time, or of seqs (bit 0 = seq 1).
pub type Set = u16;

/// The events of a stretch of time, `[from, to)`.
pub fn stretch(from: u8, to: u8) -> Set {
    let below = |t: u8| Set::MAX.checked_shr(16 - u32::from(t.min(16))).unwrap_or(0);
    below(to) & !below(from)
}

/// One life of an agent process. 0 as number: none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation {
    /// Stored counter + 1.
    pub no: u8,
    /// The random bits; each draw is another number.
    pub rand: u8,
}

/// An accepted event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Event {
    /// Who numbered it.
    pub incarnation: Incarnation,
    /// Its number there, from 1.
    pub seq: u8,
    /// Its event time, and its identity in the ground truth.
    pub time: u8,
}

impl Event {
    /// Its bit.
    pub fn bit(self) -> Set {
        1 << self.time
    }
}

/// An earlier incarnation of a buffer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ancestor {
    /// Which one.
    pub incarnation: Incarnation,
    /// Its last seq.
    pub last: u8,
    /// Whether any event of it is held.
    pub held: bool,
    /// Whether the cloud has it as it stands. In memory only.
    pub told: bool,
}

/// What is on an agent's disk; also the working copy in its memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Buffer {
    /// The present life.
    pub incarnation: Incarnation,
    /// The last seq given out in it.
    pub last: u8,
    /// Whether the cloud may have heard of it.
    pub spoke: bool,
    /// Transmissions of it. On disk only with the weak rule that keeps incarnations.
    pub tx_no: u8,
    /// Un-acked events, oldest first.
    pub held: Vec<Event>,
    /// Earlier lives of which the cloud does not know that nothing is held.
    pub lineage: Vec<Ancestor>,
    /// Declared losses that the cloud does not know.
    pub gaps: Vec<Event>,
}

impl Buffer {
    /// The bits of what is held or declared lost.
    pub fn accounted(&self) -> Set {
        self.held
            .iter()
            .chain(&self.gaps)
            .fold(0, |s, e| s | e.bit())
    }
}

/// A machine with an agent that runs. Being down is no state of its own: nothing else depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Machine {
    /// What survives a crash.
    pub disk: Rc<Buffer>,
    /// What the process works with; the same but for acks that are not committed.
    pub memory: Rc<Buffer>,
    /// Events sent at least once by this life; kept only for the rule that needs it.
    pub sent: Set,
}

/// A transmission. It stays where it is for ever: being lost is never being delivered, and being
/// repeated or overtaken is being delivered at any time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Message {
    /// Who sent it.
    pub incarnation: Incarnation,
    /// Its number in that life.
    pub tx_no: u8,
    /// The clock when it was sent.
    pub sent_at: u8,
    /// The events inside, consecutive numbers of one life.
    pub events: Vec<Event>,
    /// The low watermark.
    pub watermark: u8,
    /// Earlier lives: which, last seq, held.
    pub lineage: Vec<(Incarnation, u8, bool)>,
    /// Declared losses.
    pub gaps: Vec<Event>,
}

/// What the processor knows of one life.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    /// Which one.
    pub incarnation: Incarnation,
    /// The newest transmission; 0 = it was never heard.
    pub tx_no: u8,
    /// When that was sent: place in the order of all transmissions, and the clock.
    pub heard: (u8, u8),
    /// From that transmission.
    pub watermark: u8,
    /// Seqs that came.
    pub seen: Set,
    /// Seqs declared lost.
    pub lost: Set,
    /// Another life has named it or sent its events: it is somebody's ancestor.
    pub listed: bool,
    /// Given up because of a transmission sent at this place in the order.
    pub abandoned: Option<u8>,
    /// Its last seq, and when the teller sent that.
    pub end: Option<(u8, (u8, u8))>,
    /// That teller says that nothing of it is held any more.
    pub finished: bool,
}

/// The processor's state of the agent, and what became of the events.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Cloud {
    /// Lives that are not closed, ascending.
    pub lives: Vec<Life>,
    /// Closed lives and their last seq.
    pub tombstones: Vec<(Incarnation, u8)>,
    /// Event time up to which the agent is complete.
    pub progress: Option<u8>,
    /// Stretches of time declared lost, by gaps and incidents.
    pub losses: Set,
    /// An incident `rollback_or_clone` was raised.
    pub incident: bool,
    /// Events of records in the log.
    pub logged: Set,
    /// Events that count.
    pub counted: Set,
    /// Events that were counted again.
    pub twice: Set,
    /// Events set aside because their identity is ambiguous.
    pub quarantined: Set,
    /// Events in declared gaps.
    pub declared: Set,
    /// Lives that sent a record in the log.
    pub heard: Vec<Incarnation>,
    /// Progress was ahead of ingest time.
    pub ahead: bool,
}

/// What may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    /// Events to be accepted.
    pub events: u8,
    /// Transmissions.
    pub sends: u8,
    /// Crashes of an agent, each followed by a start.
    pub crashes: u8,
    /// Images taken of a disk.
    pub images: u8,
    /// Disks set back to the image (to an empty disk if there is none).
    pub rollbacks: u8,
    /// Machines made from the image.
    pub clones: u8,
    /// Times that an agent's clock goes wrong (far ahead) and right again.
    pub fast_clocks: u8,
    /// Events a buffer holds; beyond it the oldest is dropped.
    pub capacity: u8,
    /// Acks are written with a commit of their own that may come late, not at once.
    pub lazy: bool,
}

/// What really happened, which neither side can see.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Truth {
    /// Events accepted, by time.
    pub accepted: Rc<Vec<Event>>,
    /// Events that were on no disk and not in the log after a rollback.
    pub gone: Set,
    /// A rollback or a clone has happened: identities may be ambiguous from here.
    pub forked: bool,
    /// Some agent's clock was wrong.
    pub wrong_clock: bool,
    /// Lives of the first machine since the image was taken.
    pub since_image: Vec<Incarnation>,
    /// Those of them that the rolled back disk does not know.
    pub lost_lives: Vec<Incarnation>,
}

/// The whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct World {
    /// The true time.
    pub clock: u8,
    /// Incarnations drawn.
    pub draws: u8,
    /// The agent's clock is far ahead.
    pub fast: bool,
    /// The agent's machine and its clones: all have one agent id.
    pub machines: Vec<Machine>,
    /// A copy of a disk.
    pub image: Rc<Buffer>,
    /// All transmissions, in the order of sending; the wire and the broker's memory in one.
    pub messages: Vec<Rc<Message>>,
    /// Those that are in the log, once or more often (bit = place). Any number of acks of them may be
    /// under way.
    pub appended: u64,
    /// Those that ingest has acked without having them in the log (weak rule only).
    pub promised: u64,
    /// Behind the log. The log itself is not kept: a record is processed when it is appended, which
    /// differs from later only in when results show.
    pub cloud: Cloud,
    /// What may still happen.
    pub budget: Budget,
    /// What really happened.
    pub truth: Truth,
}
