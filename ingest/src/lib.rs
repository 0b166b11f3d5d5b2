//! MQTT front or broker, admission, partitioning, append, acks, downlink
