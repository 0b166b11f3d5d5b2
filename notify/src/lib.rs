//! Notifiers: what is said to whom in which format, and the HTTP that carries it.
//!
//! A [`Message`] is what people are to learn of a page, in no format yet. A [`Target`] is a receiver. For each
//! attempt [`format::render`] makes requests of the two, a [`Client`] carries them, and [`format::judge`] says
//! what the answer means. When and how often is not decided here.
//!
//! **Limits.** A receiver has [`TIMEOUT`] to answer unless its target says otherwise; of an answer at most
//! [`ANSWER_BYTES_MAX`] are read. Redirects are not followed. Addresses that are not public are refused when the
//! connection is made, unless the target allows them.
//!
//! **Never here.** Clocks, queues, retries, files other than a CA's.

mod address;
mod client;
pub mod format;
mod message;
mod secret;
mod target;
mod tls;

pub use address::is_public;
pub use client::{ANSWER_BYTES_MAX, Client};
pub use message::{ENTRIES_MAX, Entry, Kind, Message, dedup_key};
pub use secret::Secret;
pub use target::{Format, TIMEOUT, Target, TargetError, shown_url};
