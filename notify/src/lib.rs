//! Notifiers: what is said to whom in which format, and the HTTP that carries it.
//!
//! A [`Message`] is what people are to learn of a page, in no format yet.

mod message;

pub use message::{ENTRIES_MAX, Entry, Kind, Message, dedup_key};
