//! Exact sets of devices.
