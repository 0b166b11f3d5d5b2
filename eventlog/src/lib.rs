//! The durable partitioned log and the checkpoint store
