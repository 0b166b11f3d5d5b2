//! The agents of a partition.
