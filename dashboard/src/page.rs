//! The operators' page: files that `build.rs` made and the binary carries.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use rust_embed::{EmbeddedFile, RustEmbed};

use crate::api::ApiError;

#[derive(RustEmbed)]
#[folder = "$OUT_DIR/web"]
struct Page;

const INDEX: &str = "index.html";
/// Pages without a part of their own behind them.
const PAGES: [&str; 8] = [
    "alerts", "silences", "rules", "devices", "map", "sites", "windows", "commands",
];
/// Pages about one thing: `/devices/{id}`.
const DETAILS: [&str; 4] = ["alerts", "devices", "sites", "commands"];

/// Answers every path that no call has: files of the page, and the page itself for its own paths.
pub async fn fallback(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let path = uri.path();
    if path == "/api" || path.starts_with("/api/") {
        return ApiError::not_found("there is no such call; /api/openapi.json lists them all")
            .into_response();
    }
    if method != Method::GET && method != Method::HEAD {
        let mut response = ApiError::method_not_allowed(method.as_str()).into_response();
        let allow = HeaderValue::from_static("GET,HEAD");
        response.headers_mut().insert(header::ALLOW, allow);
        return response;
    }
    let name = path.trim_start_matches('/');
    let (name, file) = match Page::get(name) {
        Some(file) => (name, Some(file)),
        None if is_page(path) => (INDEX, Page::get(INDEX)),
        None => (name, None),
    };
    match file {
        Some(file) => answer(name, file, &headers),
        None => (StatusCode::NOT_FOUND, "There is nothing here.\n").into_response(),
    }
}

/// Whether the page itself knows what to show for this path.
fn is_page(path: &str) -> bool {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    match path.split_once('/') {
        None => path.is_empty() || path == "system" || PAGES.contains(&path),
        Some((page, id)) => DETAILS.contains(&page) && !id.is_empty() && !id.contains('/'),
    }
}

fn answer(name: &str, file: EmbeddedFile, asked: &HeaderMap) -> Response {
    let hash: String = file.metadata.sha256_hash()[..16]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let etag = format!("\"{hash}\"");
    // Names under `assets/` carry a hash of their content: what they name never changes.
    let cache = match name.starts_with("assets/") {
        true => "public, max-age=31536000, immutable",
        false => "no-cache",
    };
    let known = asked
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|tag| tag.trim().trim_start_matches("W/") == etag || tag.trim() == "*");
    let headers = [
        (header::ETAG, etag),
        (header::CACHE_CONTROL, cache.to_owned()),
    ];
    if known {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    let data = match file.data {
        std::borrow::Cow::Borrowed(data) => Bytes::from_static(data),
        std::borrow::Cow::Owned(data) => data.into(),
    };
    let content_type = [(header::CONTENT_TYPE, content_type(name))];
    (headers, content_type, Body::from(data)).into_response()
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("json" | "map") => "application/json",
        Some("webmanifest") => "application/manifest+json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("woff2") => "font/woff2",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_answers_for_its_own_paths_only() {
        for path in [
            "/",
            "/alerts",
            "/alerts/",
            "/alerts/a:1",
            "/devices/x%20y",
            "/system",
            "/commands/new",
        ] {
            assert!(is_page(path), "{path}");
        }
        for path in [
            "/favicon.ico",
            "/alert",
            "/alerts/a/b",
            "/system/x",
            "/devices//",
            "/assets/x.js",
            "/../etc/passwd",
            "/rules/x",
        ] {
            assert!(!is_page(path), "{path}");
        }
    }
}
