//! Why something was refused or set aside: one closed list, the same on the wire, in `/metrics` and
//! in the API.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why input was refused at the door or quarantined behind it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum RefusalReason {
            $($(#[$doc])* $name,)*
        }

        impl RefusalReason {
            /// Every reason, in the order of their codes.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The stable name: a label value in `/metrics` and a code in the API.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

// New reasons go to the end: the position is the code on the wire.
reasons! {
    /// The format version of the batch is not known here.
    UnknownVersion = "unknown_version",
    /// The checksum does not fit the bytes.
    Checksum = "checksum",
    /// The batch names another agent than its topic or its connection.
    WrongAgent = "wrong_agent",
    /// Larger than the stated limit.
    TooLarge = "too_large",
    /// Nothing in it.
    Empty = "empty",
    /// Bytes that do not decode.
    Malformed = "malformed",
    /// Text that is not UTF-8.
    InvalidUtf8 = "invalid_utf8",
    /// An agent, device, metric or attribute name that breaks the rules.
    InvalidId = "invalid_id",
    /// Text that is not JSON (NaN and Infinity are not JSON).
    InvalidJson = "invalid_json",
    /// A value of a type that is not taken: object, array, null.
    UnsupportedType = "unsupported_type",
    /// NaN or an infinity.
    NotFinite = "not_finite",
    /// More fields or objects than the stated limit.
    TooManyFields = "too_many_fields",
    /// A text value beyond the stated length.
    TooLongText = "too_long_text",
    /// The sender may not do that.
    Unauthorized = "unauthorized",
    /// A topic that nobody here listens to.
    UnknownTopic = "unknown_topic",
    /// Too many of them in too short a time.
    RateLimited = "rate_limited",
    /// An event time before 2020.
    TimeTooOld = "time_too_old",
    /// An event time more than five minutes after the ingest time.
    TimeInFuture = "time_in_future",
    /// An event whose identity is ambiguous (rolled-back or cloned disk).
    AmbiguousIdentity = "ambiguous_identity",
    /// A stated capacity (devices, series, agents of a partition) is used up.
    CapacityReached = "capacity_reached",
    /// A timestamp that cannot be read.
    InvalidTime = "invalid_time",
    /// Bytes that break the rules of MQTT.
    ProtocolError = "protocol_error",
    /// Counted, but an aggregate that it belongs to no longer holds its window.
    WindowForgotten = "window_forgotten",
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
