//! Ingest from the outside: real clients over real sockets, a real log in a temporary folder.

mod clients;
mod common;
