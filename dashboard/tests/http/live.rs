//! The live stream, read as a browser reads it.

use dashboard::Settings;
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::fixture::{PATIENCE, Server, alert, filled, row, start, start_with, summary};

struct Event {
    name: String,
    id: u64,
    data: Value,
}

/// A viewer.
struct Stream {
    response: Response<Incoming>,
    text: String,
}

impl Stream {
    async fn open(server: &Server, last: Option<u64>) -> Self {
        let last = last.map(|id| id.to_string());
        let headers = last.as_deref().map(|id| ("last-event-id", id));
        let response = server.open("GET", "/api/v1/live", headers.as_slice()).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            text: String::new(),
        }
    }

    /// The next block of lines; none at the end.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                return Some(block);
            }
            let frame = tokio::time::timeout(PATIENCE, self.response.body_mut().frame());
            let frame = frame.await.expect("a frame in time")?.ok()?;
            self.text
                .push_str(std::str::from_utf8(frame.data_ref()?).unwrap());
        }
    }

    async fn event(&mut self) -> Event {
        loop {
            let block = self.block().await.expect("an event");
            let field = |name: &str| {
                block
                    .lines()
                    .find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
            };
            if let Some(name) = field("event") {
                return Event {
                    name: name.to_owned(),
                    id: field("id").map_or(0, |id| id.parse().unwrap()),
                    data: serde_json::from_str(field("data").unwrap()).unwrap(),
                };
            }
        }
    }

    /// The next event of this name. Comments alone do not keep a test waiting for ever.
    async fn next(&mut self, name: &str) -> Event {
        let found = async {
            loop {
                let event = self.event().await;
                if event.name == name {
                    return event;
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect(name)
    }
}

#[tokio::test]
async fn changes_reach_every_viewer_in_order() {
    let server = start().await;
    let mut a = Stream::open(&server, None).await;
    let mut b = Stream::open(&server, None).await;
    assert_eq!(a.next("overview").await.data["totals"]["counted"], 1000);
    b.next("overview").await;

    summary(&server.views, 42, 1234);
    server.views.put_rows(0, vec![row(0, &[], 30, 9, 200)]);
    server.views.put_alert(0, alert("a-9", "firing", 9));
    let mut ids = Vec::new();
    let (mut overview, mut windows, mut alerts) = (None, None, None);
    while overview.is_none() || windows.is_none() || alerts.is_none() {
        let event = a.event().await;
        ids.push(event.id);
        // The fixture's own rows and alerts are news to a server that has just started.
        match event.name.as_str() {
            "overview" if event.data["totals"]["counted"] == 1234 => overview = Some(event.id),
            "windows" if event.data["items"].to_string().contains("06:37:30Z") => {
                windows = Some(event)
            }
            "alerts" if event.data["items"].to_string().contains("a-9") => alerts = Some(event),
            _ => {}
        }
    }
    assert!(ids.windows(2).all(|w| w[1] == w[0] + 1), "{ids:?}");
    let windows = windows.unwrap();
    assert_eq!(windows.data["dropped"], 0);
    let is_new = |r: &&Value| r["start"] == "2026-11-22T06:37:30Z";
    let items = windows.data["items"].as_array().unwrap();
    assert_eq!(items.iter().find(is_new).unwrap()["count"], 9);
    loop {
        let event = b.event().await;
        if event.id == windows.id {
            assert_eq!(event.data, windows.data);
            break;
        }
    }
}

#[tokio::test]
async fn a_viewer_resumes_behind_the_event_it_saw_last() {
    let server = start().await;
    let mut a = Stream::open(&server, None).await;
    let first = a.next("overview").await.id;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        summary(&server.views, 42, 2000 + seen.len() as u64);
        seen.push(a.event().await.id);
    }
    drop(a);
    let mut back = Stream::open(&server, Some(first)).await;
    for id in seen {
        assert_eq!(back.event().await.id, id);
    }
}

#[tokio::test]
async fn a_number_of_a_former_life_resets() {
    let server = start().await;
    for old in [1, u64::MAX] {
        let mut viewer = Stream::open(&server, Some(old)).await;
        let reset = viewer.event().await;
        assert_eq!(
            (reset.name.as_str(), &reset.data["reason"]),
            ("reset", &Value::from("too_old"))
        );
        assert!(viewer.next("overview").await.id >= reset.id);
    }
}

#[tokio::test]
async fn an_idle_server_shows_signs_of_life() {
    let server = start().await;
    let mut viewer = Stream::open(&server, None).await;
    viewer.next("overview").await;
    // Nothing changes any more, yet overviews come and comments do.
    viewer.next("overview").await;
    viewer.next("overview").await;
    loop {
        if viewer.block().await.unwrap().starts_with(": ") {
            break;
        }
    }
}

#[tokio::test]
async fn viewers_are_limited() {
    let settings = Settings {
        viewers_max: 1,
        ..Settings::default()
    };
    let server = start_with(settings, filled()).await;
    let mut first = Stream::open(&server, None).await;
    first.next("overview").await;
    let reply = server.get("/api/v1/live").await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("retry-after")),
        (503, "1")
    );
    assert_eq!(reply.json()["error"]["code"], "busy");
}

#[tokio::test]
async fn a_stop_ends_open_streams_before_the_grace_is_over() {
    let settings = Settings {
        shutdown_grace_ms: 3_600_000,
        ..Settings::default()
    };
    assert!(Settings::default().shutdown_grace_ms < 2000);
    let mut server = start_with(settings, filled()).await;
    let mut viewers = Vec::new();
    for _ in 0..20 {
        viewers.push(Stream::open(&server, None).await);
    }
    viewers[0].next("overview").await;
    server.stop.cancel();
    let stopped = tokio::time::timeout(PATIENCE, &mut server.running);
    stopped
        .await
        .expect("the streams end by themselves")
        .unwrap();
    for mut viewer in viewers {
        while viewer.block().await.is_some() {}
    }
}

#[tokio::test]
async fn a_stop_cuts_what_outlasts_the_grace() {
    let mut server = start().await;
    // Half a request: its connection would wait for the rest.
    let mut half = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    half.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
    server.get("/healthz").await;
    server.stop.cancel();
    let stopped = tokio::time::timeout(PATIENCE, &mut server.running);
    stopped.await.expect("the grace ends").unwrap();
}
