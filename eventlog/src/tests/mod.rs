//! Tests of the whole log, most of them on a storage in memory that fails on command.

mod basics;
