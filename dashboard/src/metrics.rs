//! What `/metrics` says: what the views hold, read at the scrape, and what other crates count with the
//! `metrics` macros.
//!
//! The values of the views are written here and do not go through the recorder: it belongs to the
//! whole process, and would go on showing labels that no longer exist. No label is ever a device.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use event::time::SECOND;
use metrics::{Unit, describe_counter, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;
use views::Views;
use views::model::Overview;

use crate::exposition::{Exposition, Kind};

/// The type of the answer.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Requests by route and status.
pub const REQUESTS: &str = "tidewatch_http_requests_total";
/// Time to the first byte of the answer by route.
pub const REQUEST_SECONDS: &str = "tidewatch_http_request_seconds";

const BUCKETS: [f64; 11] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];
const UPKEEP: Duration = Duration::from_secs(5);
/// Age at which a window should be complete: agents report every few seconds, and a device counts as
/// caught up within this time.
const WINDOW_AGE: i64 = 30 * SECOND;

static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Takes the metrics of this process from now on. To be called before anything counts; later calls do
/// nothing. False if another recorder was there before: then `/metrics` shows the views only.
pub fn install() -> bool {
    let handle = HANDLE.get_or_init(|| {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS);
        match builder.map(PrometheusBuilder::install_recorder) {
            Ok(Ok(handle)) => {
                describe_counter!(REQUESTS, "HTTP requests by route and status");
                describe_histogram!(
                    REQUEST_SECONDS,
                    Unit::Seconds,
                    "Time until an HTTP answer begins, by route"
                );
                Some(handle)
            }
            Ok(Err(error)) | Err(error) => {
                tracing::warn!(%error, "failed to install the recorder of metrics");
                None
            }
        }
    });
    handle.is_some()
}

/// Keeps what histograms collect small, also if nobody scrapes, until `stop` is cancelled.
pub async fn upkeep(stop: CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(UPKEEP))
        .await
        .is_some()
    {
        if let Some(Some(handle)) = HANDLE.get() {
            handle.run_upkeep();
        }
    }
}

/// All families.
pub fn render(views: &Views, viewers: usize) -> String {
    let mut out = Exposition::default();
    let overview = views.overview();
    server(&mut out, views, viewers);
    ledger(&mut out, &overview, views);
    fleet(&mut out, &overview);
    alerts(&mut out, &views.alert_counts());
    partitions(&mut out, views);
    let recorded = HANDLE.get().and_then(Option::as_ref);
    out.with(&recorded.map(PrometheusHandle::render).unwrap_or_default())
}

fn server(out: &mut Exposition, views: &Views, viewers: usize) {
    use Kind::Gauge;
    let system = views.system();
    out.family("tidewatch_build_info", Gauge, "Version of the server")
        .value(&[("version", &system.version)], 1);
    if let Some(started) = system.started {
        out.single(
            "tidewatch_start_timestamp_seconds",
            Gauge,
            "When the server started, seconds since 1970",
            seconds(started.0),
        );
    }
    out.single(
        "tidewatch_ready",
        Gauge,
        "Whether the processor has caught up since the start",
        u8::from(system.ready),
    );
    out.single(
        "tidewatch_live_viewers",
        Gauge,
        "Viewers of the live stream",
        viewers,
    );
    out.single(
        "tidewatch_log_bytes",
        Gauge,
        "Size of the event log on disk",
        system.log.bytes,
    );
    out.single(
        "tidewatch_state_bytes",
        Gauge,
        "Size of the checkpoint file on disk",
        system.state.bytes,
    );
}

fn ledger(out: &mut Exposition, overview: &Overview, views: &Views) {
    use Kind::Counter;
    let t = &overview.totals;
    out.single(
        "tidewatch_accepted_events_total",
        Counter,
        "Events that entered the log",
        t.accepted,
    );
    out.family(
        "tidewatch_events_total",
        Counter,
        "Where the accepted events went; the results add up to all of them",
    )
    .value(&[("result", "counted")], t.counted)
    .value(&[("result", "duplicate")], t.duplicate)
    .value(&[("result", "quarantined")], t.quarantined)
    .value(&[("result", "too_old")], t.too_old);
    out.single(
        "tidewatch_refused_total",
        Counter,
        "Messages refused at the door, never accepted",
        t.refused,
    );
    out.single(
        "tidewatch_broken_promises_total",
        Counter,
        "Events behind their agent's own low watermark",
        t.broken_promises,
    );
    let mut family = out.family(
        "tidewatch_quarantined_total",
        Counter,
        "What was refused or set aside, by reason",
    );
    for (reason, n) in views.quarantine(0).0 {
        family.value(&[("reason", reason)], n);
    }
    out.single(
        "tidewatch_incidents_total",
        Counter,
        "Rolled-back or cloned disks and other things that need a person",
        overview.incidents,
    );
}

fn fleet(out: &mut Exposition, overview: &Overview) {
    use Kind::Gauge;
    let (d, a) = (&overview.devices, &overview.agents);
    out.single(
        "tidewatch_devices_expected",
        Gauge,
        "Devices known and heard from within 7 days",
        d.expected,
    );
    out.family("tidewatch_devices", Gauge, "Devices by status")
        .value(&[("status", "online")], d.online)
        .value(&[("status", "buffering")], d.buffering)
        .value(&[("status", "silent")], d.silent);
    out.single(
        "tidewatch_agents_known",
        Gauge,
        "Agents ever heard of",
        a.known,
    );
    out.family("tidewatch_agents", Gauge, "Agents by status")
        .value(&[("status", "online")], a.online)
        .value(&[("status", "buffering")], a.buffering);
    if let Some(ratio) = due_completeness(overview) {
        out.single(
            "tidewatch_window_completeness_ratio",
            Gauge,
            "Completeness of the newest window that ended 30 s ago or earlier, settled or not",
            ratio,
        );
    }
    if let (Some(now), Some(complete_to)) = (overview.now, overview.complete_to) {
        out.single(
            "tidewatch_watermark_lag_seconds",
            Gauge,
            "How far the agent that is furthest behind is behind the newest ingest time",
            seconds(now.0.saturating_sub(complete_to.0)),
        );
    }
}

/// Completeness of the newest window that should be complete by now.
fn due_completeness(overview: &Overview) -> Option<f64> {
    let due = overview.now?.0 - WINDOW_AGE;
    let window = overview
        .completeness
        .iter()
        .rev()
        .find(|w| w.end.0 <= due)?;
    window.completeness
}

fn alerts(out: &mut Exposition, counts: &BTreeMap<(&str, &str), u64>) {
    let mut family = out.family(
        "tidewatch_alerts",
        Kind::Gauge,
        "Alerts by state and severity; resolved ones while memory holds them",
    );
    for state in ["pending", "firing", "resolved"] {
        for severity in ["critical", "error", "warning", "info"] {
            let n = counts.get(&(state, severity)).copied().unwrap_or_default();
            family.value(&[("state", state), ("severity", severity)], n);
        }
    }
}

fn partitions(out: &mut Exposition, views: &Views) {
    let reports = views.system().partitions;
    let mut family = |name, help, value: fn(&views::model::PartitionReport) -> Option<f64>| {
        let mut family = out.family(name, Kind::Gauge, help);
        for report in &reports {
            if let Some(value) = value(report) {
                family.value(&[("partition", &report.partition.to_string())], value);
            }
        }
    };
    family(
        "tidewatch_partition_lag_records",
        "Records written to the log and not yet processed",
        |r| Some(r.lag_records as f64),
    );
    family(
        "tidewatch_partition_lag_seconds",
        "Ingest time between the newest written and the newest processed record",
        |r| Some(r.lag_seconds),
    );
    family(
        "tidewatch_checkpoint_age_seconds",
        "Ingest time since the newest checkpoint",
        |r| r.checkpoint_age_seconds,
    );
    family(
        "tidewatch_partition_windows",
        "Windows held in memory",
        |r| Some(r.windows as f64),
    );
}

fn seconds(micros: i64) -> f64 {
    micros as f64 / SECOND as f64
}
