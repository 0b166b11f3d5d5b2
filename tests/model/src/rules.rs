//! The rules of the protocol, each with a switch to a weaker one.

/// One rule replaced by a weaker one. The text says what the weaker one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weakness {
    /// N2: an ack means "everything of this incarnation up to here".
    CumulativeAck,
    /// N2: the ack is sent before the append is durable; ingest may die in between.
    AckBeforeAppend,
    /// A2: a PUBACK of the broker deletes the events.
    PubackDeletes,
    /// P1: an event counts iff its seq is above the highest seen.
    HighWaterDedup,
    /// A restart goes on with the incarnation, the seq and the `tx_no` on its disk.
    IncarnationKept,
    /// A5: the watermark covers only what was never sent.
    WatermarkOverUnsent,
    /// A5: the watermark covers only events of the present incarnation.
    WatermarkOfOwnLifeOnly,
    /// P2: the watermark is taken from any transmission, older ones too.
    WatermarkFromOlderTx,
    /// P2: the watermark is not clamped to ingest time.
    NoClamp,
    /// P3: progress is the maximum over the incarnations.
    ProgressIsMaximum,
    /// P3: an incarnation is closed by its first mention in a lineage, held or not, holes or not.
    ClosedWithHoles,
    /// P3, P6: nothing is kept of an incarnation that was closed.
    DedupDroppedAtClose,
    /// A4: the declared gap goes to disk with the next transaction, not with the drop.
    GapAfterDrop,
    /// Lineage is told once, not until it is acked.
    LineageToldOnce,
    /// An ack does not say which incarnation's `tx_no` it answers.
    AckWithoutIncarnation,
    /// The agent does not note on disk that it is about to speak for the first time.
    FirstWordNotNoted,
    /// P4: no incident is ever raised and no life is ever given up.
    NoIncidents,
    /// P4: a lineage that ends a life before the newest seq that came of it is believed.
    ContradictionBelieved,
    /// P4: events beyond the end of a closed life are set aside, but no loss is declared.
    ForkNotLossy,
    /// P4: a life that was given up counts again with any newer `tx_no`, and the life that is heard
    /// first later always wins, however old the message is.
    LateMessageRevives,
    /// P4: a life with a lower number than one that is known is taken for late, never for strange.
    LowerNumberIsLate,
}

/// The rules in force: the real ones, or those with one weakness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules(pub Option<Weakness>);

impl Rules {
    /// The rules as they are.
    pub const REAL: Self = Self(None);

    /// Whether the rule of `weakness` is replaced.
    pub fn lack(self, weakness: Weakness) -> bool {
        self.0 == Some(weakness)
    }
}
