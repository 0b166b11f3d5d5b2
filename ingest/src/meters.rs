//! Counters of the tier, through the `metrics` facade. Never a device id as a label.

use event::RefusalReason;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

/// Handles of all counters. Made once, after the program installed its recorder: handles made
/// before that count into nothing.
pub struct Meters {
    pub(crate) batches: Counter,
    pub(crate) plain: Counter,
    pub(crate) status: Counter,
    pub(crate) events: Counter,
    pub(crate) refused: Counter,
    pub(crate) failed: Counter,
    pub(crate) bytes: Counter,
    pub(crate) acks: Counter,
    pub(crate) busy: Counter,
    pub(crate) append_full: Counter,
    pub(crate) append_io: Counter,
    pub(crate) log_failing: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) sessions_v3: Counter,
    pub(crate) sessions_v5: Counter,
    pub(crate) connections_refused: Counter,
    pub(crate) deliveries: Counter,
    pub(crate) deliveries_dropped: Counter,
    pub(crate) codec_panics: Counter,
    pub(crate) ticks: Counter,
    /// One per reason, in the order of the codes.
    reasons: Vec<Counter>,
}

impl Meters {
    /// Names and describes everything.
    pub fn new() -> Self {
        describe_counter!(
            "tidewatch_ingest_messages_total",
            "Messages that arrived, by kind and by what became of them"
        );
        describe_counter!(
            "tidewatch_ingest_events_total",
            "Events in the messages that were stored"
        );
        describe_counter!(
            "tidewatch_ingest_bytes_total",
            "Payload bytes of messages that arrived"
        );
        describe_counter!("tidewatch_ingest_refused_total", "Refusals by reason");
        describe_counter!("tidewatch_ingest_acks_total", "Acks handed over to agents");
        describe_counter!(
            "tidewatch_ingest_busy_total",
            "Times that a message found the queue of the log full and its socket was not read"
        );
        describe_counter!(
            "tidewatch_ingest_append_errors_total",
            "Appends that the log did not take; nothing of them was acknowledged"
        );
        describe_gauge!(
            "tidewatch_ingest_log_failing",
            "1 while the newest append failed: the log takes no records, so nothing is acknowledged"
        );
        describe_gauge!("tidewatch_ingest_connections", "MQTT connections open now");
        describe_counter!("tidewatch_ingest_sessions_total", "MQTT sessions accepted");
        describe_counter!(
            "tidewatch_ingest_connections_refused_total",
            "Connections that were closed or refused before they were a session"
        );
        describe_counter!(
            "tidewatch_ingest_deliveries_total",
            "Messages queued for a connection"
        );
        describe_counter!(
            "tidewatch_ingest_deliveries_dropped_total",
            "Messages to a connection that were dropped because it reads too slowly"
        );
        describe_counter!(
            "tidewatch_ingest_codec_panics_total",
            "Panics of the packet codec; each closed one connection"
        );
        describe_counter!(
            "tidewatch_ingest_ticks_total",
            "Tick records for idle partitions"
        );
        let messages = |kind: &'static str, result: &'static str| counter!("tidewatch_ingest_messages_total", "kind" => kind, "result" => result);
        // Every reason is there from the start, so that an alert on a rate sees the first one.
        let reason = |reason: &RefusalReason| {
            let counter = counter!("tidewatch_ingest_refused_total", "reason" => reason.as_str());
            counter.increment(0);
            counter
        };
        Self {
            batches: messages("batch", "stored"),
            plain: messages("plain", "stored"),
            status: messages("status", "stored"),
            refused: messages("any", "refused"),
            failed: messages("any", "failed"),
            events: counter!("tidewatch_ingest_events_total"),
            bytes: counter!("tidewatch_ingest_bytes_total"),
            acks: counter!("tidewatch_ingest_acks_total"),
            busy: counter!("tidewatch_ingest_busy_total"),
            append_full: counter!("tidewatch_ingest_append_errors_total", "kind" => "full"),
            append_io: counter!("tidewatch_ingest_append_errors_total", "kind" => "io"),
            log_failing: gauge!("tidewatch_ingest_log_failing"),
            connections: gauge!("tidewatch_ingest_connections"),
            sessions_v3: counter!("tidewatch_ingest_sessions_total", "version" => "3.1.1"),
            sessions_v5: counter!("tidewatch_ingest_sessions_total", "version" => "5"),
            connections_refused: counter!("tidewatch_ingest_connections_refused_total"),
            deliveries: counter!("tidewatch_ingest_deliveries_total"),
            deliveries_dropped: counter!("tidewatch_ingest_deliveries_dropped_total"),
            codec_panics: counter!("tidewatch_ingest_codec_panics_total"),
            ticks: counter!("tidewatch_ingest_ticks_total"),
            reasons: RefusalReason::ALL.iter().map(reason).collect(),
        }
    }

    /// Counts a refusal that stands for `count` messages or fields.
    pub(crate) fn refused_by(&self, reason: RefusalReason, count: u32) {
        // `ALL` is in the order of the codes; a test below holds it to that.
        if let Some(counter) = self.reasons.get(reason as usize) {
            counter.increment(u64::from(count));
        }
    }
}

impl Default for Meters {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_at_their_codes() {
        for (at, reason) in RefusalReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, at);
        }
    }
}
