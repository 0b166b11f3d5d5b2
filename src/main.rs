//! Tidewatch server binary.
fn main() {}
