//! The rule engine: pure, small, the same in the processor and on the device
