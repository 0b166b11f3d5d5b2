//! Ingest from the outside: real clients over real sockets, a real log in a temporary folder.

mod brokers;
mod clients;
mod common;
mod fuzz;
mod hostile;
mod interop;
mod wire;
