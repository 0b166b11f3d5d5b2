//! The edge agent: sources, durable buffer, uplink
