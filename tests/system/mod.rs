//! What the suites stand on, then the suites in the order of the data's way.

mod edge;
mod harness;
mod http;
mod mqtt;
mod oracle;
mod receiver;
mod wire;

mod demo;
mod life;

mod bad_input;
mod replay;

mod kill;
mod late;

mod alerts;
mod commands;
mod groups;
mod notifiers;
mod on_call;

mod engine;

mod detect;
