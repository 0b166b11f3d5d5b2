//! Every format against a receiver on this machine: the exact JSON, and what each kind of answer comes to.

mod answers;
mod golden;
mod private;
mod receiver;
