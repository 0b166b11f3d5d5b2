//! The deterministic core and its runtime
