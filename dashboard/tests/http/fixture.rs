//! A server on a free port, and a small HTTP client.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dashboard::control::{Change, Control, ControlError, Place, Resent, Submitted};
use dashboard::{Dashboard, Settings};
use event::AggregateSpec;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use views::completeness::IndexBuilder;
use views::model::{
    Alert, Device, DeviceCounts, FileReport, HeldBackBy, Incident, LastValue, Notification,
    Outstanding, PartitionReport, Point, QuarantineItem, Scalar, Time, Totals,
};
use views::{
    Command, CommandQuery, DeviceQuery, DeviceSource, Group, LagReport, OutstandingQuery, Page,
    Rollout, RowPart, RowState, SettledCounts, StatusCounts, Tier, Views,
};

pub const SECOND: i64 = 1_000_000;
/// 2026-11-22T06:37:00Z
pub const T: i64 = 1_795_329_420 * SECOND;
/// A test that waits longer than this hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running server.
pub struct Server {
    pub views: Arc<Views>,
    /// What it was asked to change.
    pub changes: Arc<Changes>,
    pub addr: SocketAddr,
    pub stop: CancellationToken,
    pub running: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub async fn start() -> Server {
    start_with(Settings::default(), filled()).await
}

pub async fn start_with(settings: Settings, views: Arc<Views>) -> Server {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let settings = Settings { listen, ..settings };
    let changes = Arc::new(Changes::default());
    let dashboard = Dashboard::bind(settings, views.clone()).await.unwrap();
    let dashboard = dashboard.with_control(changes.clone());
    let addr = dashboard.local_addr();
    let stop = CancellationToken::new();
    let running = tokio::spawn(dashboard.run(stop.clone()));
    Server {
        views,
        changes,
        addr,
        stop,
        running,
    }
}

/// Takes changes as the log would.
#[derive(Default)]
pub struct Changes {
    pub taken: Mutex<Vec<Change>>,
    /// What the next ones are answered with.
    pub refuse: Mutex<Option<ControlError>>,
}

impl Changes {
    pub fn take(&self) -> Vec<Change> {
        std::mem::take(&mut self.taken.lock().unwrap())
    }
}

impl Control for Changes {
    fn submit(&self, change: Change) -> Submitted<'_> {
        let answer = match self.refuse.lock().unwrap().clone() {
            Some(error) => Err(error),
            None => {
                self.taken.lock().unwrap().push(change);
                Ok(vec![Place {
                    partition: 1,
                    offset: 41,
                }])
            }
        };
        Box::pin(std::future::ready(answer))
    }

    fn resend(&self, id: String) -> Resent<'_> {
        let answer = match self.refuse.lock().unwrap().clone() {
            Some(error) => Err(error),
            None => Ok(format!("{id}~1")),
        };
        Box::pin(std::future::ready(answer))
    }
}

pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    async fn whole(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        Self {
            status: head.status,
            headers: head.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        assert_eq!(
            self.header("content-type"),
            "application/json",
            "{}",
            self.text()
        );
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Server {
    /// Sends a request on a connection of its own; the answer's body is still to be read.
    pub async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Response<Incoming> {
        self.open_with(method, path, headers, "").await
    }

    async fn open_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response<Incoming> {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", self.addr.to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let response = tokio::time::timeout(PATIENCE, sender.send_request(request));
        response.await.expect("an answer in time").unwrap()
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        Reply::whole(self.open(method, path, headers).await).await
    }

    /// Sends JSON, as a program does.
    pub async fn write(&self, method: &str, path: &str, body: &str) -> Reply {
        let json = [("content-type", "application/json")];
        Reply::whole(self.open_with(method, path, &json, body).await).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[]).await
    }

    /// The answer of a call that must succeed.
    pub async fn json(&self, path: &str) -> Value {
        let reply = self.get(path).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}: {}", reply.text());
        reply.json()
    }

    /// Checks that a call is refused with this status and code, and returns the error.
    #[track_caller]
    pub fn refused(&self, path: &str, status: u16, code: &str) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        async move {
            let reply = self.get(path).await;
            let error = reply.json()["error"].clone();
            let got = (reply.status.as_u16(), error["code"].as_str().unwrap());
            assert_eq!(got, (status, code), "{path} at {caller}: {error}");
            assert!(!error["message"].as_str().unwrap().is_empty());
            error
        }
    }
}

pub fn group(values: &[&str]) -> Group {
    values.iter().map(|&v| v.into()).collect()
}

/// A part of a window that starts `at` seconds after [`T`] and holds `count` values from 20 to 22.
pub fn row(aggregate: u32, values: &[&str], at: i64, count: u64, revision: u64) -> RowPart {
    RowPart {
        tier: Tier::Window,
        aggregate,
        group: group(values),
        start: T + at * SECOND,
        end: T + (at + 10) * SECOND,
        revision,
        state: RowState::Settled,
        count,
        numeric: count,
        sum: i128::from(count) * (21 << 48),
        min: 20.0,
        max: 22.0,
        min_at: None,
        max_at: None,
        distinct: count.min(2),
        values: None,
        quantiles: None,
        late_events: 0,
        settled: Some(SettledCounts {
            done: 2,
            expected: 2,
        }),
    }
}

pub fn alert(id: &str, state: &'static str, reported: i64) -> Alert {
    Alert {
        id: id.to_owned(),
        rule: "too-hot".to_owned(),
        kind: "threshold",
        severity: "critical",
        state,
        device: "d-1".to_owned(),
        metric: "temperature".to_owned(),
        group: BTreeMap::from([("site".to_owned(), "plant-1".to_owned())]),
        value: 91.5,
        threshold: 80.0,
        began: Time(T - SECOND),
        reported: Time(T + reported * SECOND),
        resolved: None,
        notified: true,
        summary: "d-1 is too hot".to_owned(),
        ..Alert::default()
    }
}

pub fn totals(counted: u64) -> Totals {
    Totals {
        accepted: counted + 6,
        counted,
        duplicate: 3,
        quarantined: 2,
        too_old: 1,
        refused: 4,
        broken_promises: 0,
    }
}

/// The newest state of partition 0: `seconds` after [`T`], so many events counted.
pub fn summary(views: &Views, seconds: i64, counted: u64) {
    let status = StatusCounts {
        devices: DeviceCounts {
            expected: 3,
            online: 2,
            buffering: 1,
            silent: 0,
        },
        ..StatusCounts::default()
    };
    let lag = LagReport(HeldBackBy {
        agent: "OSL-11".to_owned(),
        devices: 1,
        progress: Time(T + 8 * SECOND),
    });
    views.put_summary(0, T + seconds * SECOND, totals(counted), status, Some(lag));
}

/// Views of two partitions with a little of everything.
pub fn filled() -> Arc<Views> {
    let views = Views::new(2, "1.2.3", T - 60 * SECOND);
    let rules = vec![json!({"name": "too-hot", "raise": 80.0, "clear": 75.0})];
    for partition in 0..2 {
        let aggregates = (0..).zip(AggregateSpec::defaults()).collect();
        views.declare(partition, aggregates, rules.clone());
    }
    for at in [0, 10, 20] {
        views.put_rows(0, vec![row(0, &[], at, 5, 100)]);
        views.put_rows(1, vec![row(0, &[], at, 3, 50)]);
        for metric in ["humidity", "temperature"] {
            views.put_rows(0, vec![row(1, &[metric], at, 4, 100)]);
        }
    }
    let mut index = IndexBuilder::default();
    index.add(2, T, T + 30 * SECOND, T + 30 * SECOND);
    index.add(1, T, T + 8 * SECOND, T + 30 * SECOND);
    views.put_index(0, 0, &group(&[]), Arc::new(index.build()));
    summary(&views, 41, 1000);
    views.put_alert(0, alert("a-1", "resolved", 1));
    views.put_alert(0, alert("a-2", "firing", 2));
    views.put_alert(1, alert("a-3", "firing", 3));
    for (at, device) in [(1, "d-1"), (2, "d-2"), (3, "d-3")] {
        let item = QuarantineItem {
            id: None,
            time: Time(T + at * SECOND),
            kind: "quarantined",
            source: None,
            agent: None,
            device: Some(device.to_owned()),
            metric: None,
            event_time: None,
            reason: "time_in_future",
            message: "an hour ahead".to_owned(),
            count: 1,
        };
        views.push_quarantine(0, item);
    }
    views.put_troubles(0, [("time_in_future", 13)].into(), 0);
    views.put_troubles(1, [].into(), 1);
    views.push_incident(
        1,
        Incident {
            time: Time(T),
            kind: "rollback_or_clone",
            agent: Some("OSL-11".to_owned()),
            message: "a disk was rolled back".to_owned(),
        },
    );
    views.put_notification(Notification {
        id: "ops:a-2:raised".to_owned(),
        message: "a-2:raised".to_owned(),
        page: "p-1".to_owned(),
        alert: "a-2".to_owned(),
        target: "ops".to_owned(),
        kind: "raised".to_owned(),
        summary: "too hot".to_owned(),
        attempts: 1,
        state: "delivered".to_owned(),
        queued: Time(T),
        last_attempt: Some(Time(T)),
        status: Some(200),
        error: None,
        by_fallback: false,
        handed_on: false,
    });
    for partition in 0..2 {
        views.put_report(PartitionReport {
            partition,
            lag_records: 7,
            checkpoint_age_seconds: (partition == 0).then_some(12.5),
            ..PartitionReport::default()
        });
    }
    views.put_files(FileReport { bytes: 4096 }, FileReport { bytes: 512 });
    views.add_device_source(Arc::new(Registry {
        ids: &["d-1", "d-3", "ä-5"],
    }));
    views.add_device_source(Arc::new(Registry {
        ids: &["D-2", "d-4"],
    }));
    views
}

/// The devices of one partition, as the processor would hold them.
struct Registry {
    ids: &'static [&'static str],
}

impl Registry {
    fn page<T>(
        &self,
        after: Option<&str>,
        limit: usize,
        fits: impl Fn(&Device) -> bool,
        show: impl Fn(Device) -> T,
    ) -> Page<T> {
        let fitting: Vec<Device> = self.ids.iter().map(|id| device(id)).filter(fits).collect();
        let total = fitting.len() as u64;
        let behind = |d: &Device| after.is_none_or(|after| d.id.as_str() > after);
        let items = fitting
            .into_iter()
            .filter(behind)
            .take(limit)
            .map(show)
            .collect();
        Page { items, total }
    }
}

impl DeviceSource for Registry {
    fn device(&self, id: &str) -> Option<Device> {
        self.ids.contains(&id).then(|| device(id))
    }

    fn devices(&self, query: &DeviceQuery) -> Page<Device> {
        let fits = |d: &Device| {
            d.id.to_ascii_lowercase()
                .contains(&query.text.to_ascii_lowercase())
                && query.status.as_deref().is_none_or(|s| s == d.status)
                && query
                    .attributes
                    .iter()
                    .all(|(k, v)| d.attributes.get(k) == Some(v))
        };
        self.page(query.after.as_deref(), query.limit, fits, |d| d)
    }

    fn outstanding(&self, query: &OutstandingQuery) -> Page<Outstanding> {
        let late = |d: &Device| d.status == "buffering" && query.start >= T;
        self.page(query.after.as_deref(), query.limit, late, |d| Outstanding {
            device: d.id,
            agent: d.agent,
            last_contact: Some(d.last_contact),
            progress: Some(d.progress),
            backlog: d.backlog,
            online: Some(false),
        })
    }

    fn recent(&self, id: &str, metric: &str) -> Option<Vec<Point>> {
        (self.ids.contains(&id) && metric == "temperature").then(|| {
            let point = |(i, value)| Point {
                time: Time(T + i * SECOND),
                value,
            };
            [(0, Scalar::Number(20.5)), (1, Scalar::Bool(true))]
                .map(point)
                .into()
        })
    }

    fn command(&self, id: &str) -> Option<Command> {
        let known = ["d-1", "d-4"].contains(&id) && self.ids.contains(&id);
        known.then(|| command(id))
    }

    fn commands(&self, query: &CommandQuery) -> Page<Command> {
        let all = ["d-1", "d-4"].into_iter();
        let fits = |c: &Command| {
            query.device.as_ref().is_none_or(|d| *d == c.device)
                && query.state.as_ref().is_none_or(|s| s == c.state)
        };
        let all = all.filter_map(|id| self.command(id)).filter(fits);
        let all: Vec<Command> = all.collect();
        let total = all.len() as u64;
        let behind = |c: &Command| query.is_behind(c.issued.0, &c.id);
        let items = all.into_iter().filter(behind).take(query.limit).collect();
        Page { items, total }
    }

    fn rollouts(&self) -> Vec<Rollout> {
        let rollout = Rollout {
            id: "d-1".to_owned(),
            name: "fan".to_owned(),
            args: BTreeMap::new(),
            state: "stopped",
            reason: Some("the canary failed".to_owned()),
            by: "ann".to_owned(),
            why: String::new(),
            created: Time(T),
            ended: None,
            canary: 1,
            at_once: 50,
            max_failures: 0,
            dry_run: false,
            total: 4,
            waiting: 3,
            under_way: 0,
            succeeded: 0,
            failed: 1,
        };
        if self.ids.contains(&"d-1") {
            vec![rollout]
        } else {
            Vec::new()
        }
    }
}

/// A command for the device of the same name: `d-1` waits, `d-4` was sent later.
fn command(id: &str) -> Command {
    let sent = id == "d-4";
    Command {
        id: id.to_owned(),
        device: id.to_owned(),
        agent: Some("gw-1".to_owned()),
        name: "fan".to_owned(),
        args: [("speed".to_owned(), "3".to_owned())].into(),
        state: if sent { "sent" } else { "queued" },
        certain: !sent,
        by: "ann".to_owned(),
        why: String::new(),
        rule: None,
        rollout: None,
        alert: None,
        dry_run: false,
        forced: false,
        issued: Time(T + i64::from(sent)),
        expires: Time(T + 300 * SECOND),
        sent: sent.then_some(Time(T + 1)),
        sends: u32::from(sent),
        started: None,
        ended: None,
        exit_code: None,
        duration_ms: None,
        output: None,
        reason: None,
    }
}

fn device(id: &str) -> Device {
    let buffering = matches!(id, "d-3" | "d-4");
    Device {
        id: id.to_owned(),
        agent: (id != "D-2").then(|| "gw-1".to_owned()),
        status: if buffering { "buffering" } else { "online" },
        first_seen: Time(T),
        last_event: Time(T + 20 * SECOND),
        last_contact: Time(T + 30 * SECOND),
        progress: Time(T + 8 * SECOND),
        attributes: BTreeMap::from([("site".to_owned(), "plant-1".to_owned())]),
        values: vec![LastValue {
            metric: "temperature".to_owned(),
            time: Time(T),
            value: Scalar::Number(20.5),
        }],
        backlog: None,
        clock: None,
    }
}
