//! HTTP API, live stream, metrics and the operators' page
