//! The server as its callers see it: a real listener, real views filled as the processor fills them.

mod fixture;

mod alerting;
mod calls;
mod commands;
mod description;
mod limits;
mod live;
mod metrics;
mod page;
mod writes;
