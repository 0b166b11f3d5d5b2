//! Virtual agents against a small cloud in memory that follows the protocol's rules for the
//! processor: whatever the network and the agents do, nothing is lost, nothing counts twice, and no
//! window is promised complete too early.

mod brute_force;
mod faults;
mod model;
mod sockets;
