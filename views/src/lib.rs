//! Live results in memory: written by the processor, read by the dashboard
