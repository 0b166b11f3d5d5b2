//! What strangers may not do.

use std::time::{Duration, Instant};

use dashboard::{Dashboard, DashboardError, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use views::model::{Device, Outstanding, Point};
use views::{DeviceQuery, DeviceSource, OutstandingQuery, Page};

use crate::fixture::{PATIENCE, Server, filled, start, start_with};

/// Sends bytes and returns all that comes back until the server closes.
async fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset in place of an orderly end is fine as well.
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = end.expect("the server closes");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_rebound_name_is_refused() {
    let server = start().await;
    for path in ["/", "/api/v1/overview", "/api/v1/live", "/metrics"] {
        let reply = server
            .send("GET", path, &[("host", "evil.example:8080")])
            .await;
        assert_eq!(reply.status, 421, "{path}");
        assert_eq!(reply.json()["error"]["code"], "wrong_host");
    }
    for host in ["localhost", "localhost:1234", "127.0.0.1", "[::1]:80"] {
        let reply = server.send("GET", "/healthz", &[("host", host)]).await;
        assert_eq!(reply.status, 200, "{host}");
    }
    let close = "Connection: close\r\n\r\n";
    let none = raw(
        &server,
        format!("GET /healthz HTTP/1.1\r\n{close}").as_bytes(),
    )
    .await;
    assert!(none.starts_with("HTTP/1.1 4"), "{none}");
    let two = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n{close}");
    assert!(raw(&server, two.as_bytes()).await.starts_with("HTTP/1.1 4"));
    let absolute =
        format!("GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n{close}");
    assert!(
        raw(&server, absolute.as_bytes())
            .await
            .starts_with("HTTP/1.1 421")
    );
}

#[tokio::test]
async fn a_name_from_the_settings_is_served() {
    let settings = Settings {
        hosts: vec!["tidewatch.example".to_owned()],
        ..Settings::default()
    };
    let server = start_with(settings, filled()).await;
    let reply = server
        .send("GET", "/healthz", &[("host", "Tidewatch.example:443")])
        .await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn large_heads_and_bodies_are_refused() {
    let server = start().await;
    let long = format!(
        "GET /?{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "x".repeat(64 * 1024)
    );
    let answer = raw(&server, long.as_bytes()).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
        "a: b\r\n".repeat(200)
    );
    let answer = raw(&server, many.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let body = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\nConnection: close\r\n\r\n";
    let answer = raw(&server, body.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("too_large"), "{answer}");
    let garbage = raw(&server, b"\x16\x03\x01\x00\x00 not http at all\r\n\r\n").await;
    assert!(
        garbage.is_empty() || garbage.starts_with("HTTP/1.1 400"),
        "{garbage}"
    );
    assert_eq!(server.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut() {
    let settings = Settings {
        head_timeout_ms: 100,
        ..Settings::default()
    };
    let server = start_with(settings, filled()).await;
    // `raw` returns only when the server closes.
    raw(&server, b"GET / HTTP/1.1\r\nHost: loc").await;
    raw(&server, b"").await;
}

#[tokio::test]
async fn a_viewer_that_reads_nothing_is_cut() {
    let settings = Settings {
        viewers_max: 1,
        write_timeout_ms: 200,
        ..Settings::default()
    };
    let server = start_with(settings, filled()).await;
    let mut stuck = TcpStream::connect(server.addr).await.unwrap();
    stuck
        .write_all(b"GET /api/v1/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let began = Instant::now();
    // Large frames until its buffers are full; its seat comes free when it is cut.
    for revision in 1000.. {
        let rows = (0..500).map(|i| {
            let metric = format!("m{i}-{}", "x".repeat(2000));
            crate::fixture::row(1, &[&metric], 0, 1, revision)
        });
        server.views.put_rows(0, rows.collect());
        if server.open("GET", "/api/v1/live", &[]).await.status() == 200 {
            break;
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "the stuck viewer keeps its seat"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn connections_are_limited_and_wait_for_their_turn() {
    let settings = Settings {
        connections_max: 1,
        ..Settings::default()
    };
    let server = start_with(settings, filled()).await;
    let first = TcpStream::connect(server.addr).await.unwrap();
    let waiting = server.get("/healthz");
    let mut waiting = std::pin::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(200), waiting.as_mut()).await;
    assert!(early.is_err(), "there is one seat only");
    drop(first);
    assert_eq!(waiting.await.status, 200);
}

/// Fails as a fault of ours would.
struct Broken;

impl DeviceSource for Broken {
    fn device(&self, _: &str) -> Option<Device> {
        panic!("a fault");
    }
    fn devices(&self, _: &DeviceQuery) -> Page<Device> {
        panic!("a fault");
    }
    fn outstanding(&self, _: &OutstandingQuery) -> Page<Outstanding> {
        panic!("a fault");
    }
    fn recent(&self, _: &str, _: &str) -> Option<Vec<Point>> {
        panic!("a fault");
    }
}

#[tokio::test]
async fn a_fault_of_ours_is_an_answer_without_details() {
    let settings = Settings {
        queries_max: 1,
        ..Settings::default()
    };
    let server = start_with(settings, filled()).await;
    server.views.add_device_source(std::sync::Arc::new(Broken));
    for _ in 0..3 {
        let error = server.refused("/api/v1/devices", 500, "internal").await;
        assert!(!error.to_string().contains("a fault"), "{error}");
    }
    assert_eq!(server.get("/api/v1/overview").await.status, 200);
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let server = start().await;
    let settings = Settings {
        listen: server.addr,
        ..Settings::default()
    };
    let Err(DashboardError::Listen { address, .. }) = Dashboard::bind(settings, filled()).await
    else {
        panic!("two servers on one port");
    };
    assert_eq!(address, server.addr);
}

#[test]
fn loopback_is_the_default() {
    assert!(Settings::default().listen.ip().is_loopback());
}
