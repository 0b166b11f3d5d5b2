//! Virtual fleets with faults and ground truth
