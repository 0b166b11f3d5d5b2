//! The live stream: one task writes each frame once, all viewers share its bytes.
//!
//! Frames are numbered without gaps, and the newest are kept, so that a viewer whose connection broke
//! goes on where it was. Numbers begin at the start time of the server: they also increase over
//! restarts, and a number of a former life is noticed as such.

mod feed;
mod frame;
mod hub;

pub use feed::run;
pub use hub::Hub;
