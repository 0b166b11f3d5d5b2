//! The whole system: the real programs as processes, over real sockets, on real files.
//!
//! Every suite starts what it needs on free ports and in temporary folders, waits for what it expects
//! to see (never for a length of time), and ends what it started. Random choices come from a seed that
//! is printed; `TIDEWATCH_TEST_SEED` repeats it. `TIDEWATCH_TEST_KILLS` sets the rounds of the kill
//! suite, `TIDEWATCH_SHARED` says where the shared data sets are.

mod system;
