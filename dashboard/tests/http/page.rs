//! The page: files, caching, headers.

use crate::fixture::start;

#[tokio::test]
async fn the_page_answers_for_all_its_paths() {
    let server = start().await;
    let root = server.get("/").await;
    assert_eq!(root.status, 200);
    assert_eq!(root.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(root.header("cache-control"), "no-cache");
    assert!(
        root.text()
            .to_ascii_lowercase()
            .starts_with("<!doctype html>")
    );
    for path in [
        "/alerts",
        "/alerts/a-1",
        "/devices/d-1",
        "/system",
        "/?aggregate=fleet",
    ] {
        assert_eq!(server.get(path).await.body, root.body, "{path}");
    }
    for path in [
        "/nothing",
        "/assets/nothing.js",
        "/alerts/a/b",
        "/../Cargo.toml",
        "/%2e%2e/Cargo.toml",
        "/index.html/x",
    ] {
        let reply = server.get(path).await;
        assert_eq!(reply.status, 404, "{path}");
    }
}

#[tokio::test]
async fn files_are_cached_by_their_content() {
    let server = start().await;
    let root = server.get("/").await;
    let etag = root.header("etag");
    assert!(etag.starts_with('"') && etag.len() > 10, "{etag}");
    let again = server
        .send(
            "GET",
            "/",
            &[("if-none-match", &format!("\"x\", W/{etag}"))],
        )
        .await;
    assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
    assert_eq!(again.header("etag"), etag);
    let changed = server.send("GET", "/", &[("if-none-match", "\"x\"")]).await;
    assert_eq!(changed.status, 200);

    // A build without the page has no assets.
    let text = root.text().to_owned();
    for asset in text.split('"').filter(|s| s.starts_with("/assets/")) {
        let reply = server.get(asset).await;
        assert_eq!(reply.status, 200, "{asset}");
        assert!(
            reply.header("cache-control").contains("immutable"),
            "{asset}"
        );
        let expected = if asset.ends_with(".css") {
            "text/css"
        } else {
            "text/javascript"
        };
        assert!(
            reply.header("content-type").starts_with(expected),
            "{asset}"
        );
    }
}

#[tokio::test]
async fn every_answer_carries_the_security_headers() {
    let server = start().await;
    for path in [
        "/",
        "/api/v1/overview",
        "/api/v1/nothing",
        "/nothing",
        "/metrics",
        "/healthz",
    ] {
        let reply = server.get(path).await;
        let policy = reply.header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'self'") && !policy.contains("unsafe"),
            "{path}"
        );
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(reply.header("x-frame-options"), "DENY", "{path}");
        assert_eq!(reply.header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(reply.header("access-control-allow-origin"), "", "{path}");
        assert_ne!(reply.header("cache-control"), "", "{path}");
    }
    assert_eq!(
        server.get("/api/v1/overview").await.header("cache-control"),
        "no-store"
    );
}
