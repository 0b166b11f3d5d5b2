//! What happens to every request: checks before, headers and counting after.

use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::api::ApiError;
use crate::metrics::{REQUEST_SECONDS, REQUESTS};

/// Largest body of a request, bytes.
pub const BODY_BYTES_MAX: u64 = 64 * 1024;

const SECURITY: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; \
         form-action 'self'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
];

/// Under which names the server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    names: Arc<[String]>,
    loopback: bool,
}

impl Hosts {
    /// The names besides those of the address `listen`.
    pub fn new(listen: SocketAddr, names: &[String]) -> Self {
        Self {
            names: names.iter().map(|n| n.to_ascii_lowercase()).collect(),
            loopback: listen.ip().is_loopback(),
        }
    }

    /// Whether a request for this host is for us. A page elsewhere can let its own name lead to this
    /// address, and then read the answers as its own; what it cannot do is to change the name.
    fn serves(&self, host: &str) -> bool {
        if !self.loopback && self.names.is_empty() {
            return true;
        }
        let Some(name) = without_port(host) else {
            return false;
        };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if self.names.contains(&name) {
            return true;
        }
        let ip = match name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
            Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => name.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        };
        match ip {
            // An address is no name: it cannot be rebound.
            Some(ip) => ip.is_loopback() || !self.loopback,
            None => name == "localhost",
        }
    }
}

fn without_port(host: &str) -> Option<&str> {
    let is_port = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit());
    match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) && (!name.contains(':') || name.ends_with(']')) => {
            Some(name)
        }
        Some(_) if host.starts_with('[') && host.ends_with(']') => Some(host),
        Some(_) => None,
        None => Some(host),
    }
    .filter(|name| !name.is_empty())
}

/// Refuses what is not for this server or too large.
pub async fn check(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let mut named = request.headers().get_all(header::HOST).iter();
    // A request for `http://host/path` names the host there.
    let host = match (request.uri().authority(), named.next(), named.next()) {
        (Some(authority), ..) => Some(authority.as_str()),
        (None, Some(host), None) => host.to_str().ok(),
        _ => None,
    };
    if !host.is_some_and(|host| hosts.serves(host)) {
        return ApiError::wrong_host(
            "this is not one of the server's names: call it `localhost` or by its address, or add \
             the name to its setting `hosts`",
        )
        .into_response();
    }
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|v| v.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > BODY_BYTES_MAX) {
        return ApiError::too_large(BODY_BYTES_MAX).into_response();
    }
    next.run(request).await
}

/// Adds what every answer carries, and counts it.
pub async fn finish(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in SECURITY {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));

    // Routes and statuses are few; the path itself is the caller's and has no bound.
    let route = route.map_or_else(|| "page".to_owned(), |r| r.as_str().to_owned());
    let status = response.status().as_u16().to_string();
    metrics::histogram!(REQUEST_SECONDS, "route" => route.clone()).record(began.elapsed());
    metrics::counter!(REQUESTS, "route" => route, "status" => status).increment(1);
    response
}

/// The answer to a request whose handler panicked.
pub fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("unknown");
    tracing::error!(panic = text, "failed to answer a request");
    ApiError::internal().into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(listen: &str, names: &[&str], served: &[&str], refused: &[&str]) {
        let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        let hosts = Hosts::new(listen.parse().unwrap(), &names);
        for host in served {
            assert!(hosts.serves(host), "{host}");
        }
        for host in refused {
            assert!(!hosts.serves(host), "{host}");
        }
    }

    #[test]
    fn on_loopback_only_local_names_are_served() {
        check(
            "127.0.0.1:0",
            &["Edge.example"],
            &[
                "localhost",
                "LOCALHOST:8080",
                "127.0.0.1",
                "127.0.0.1:1",
                "[::1]",
                "[::1]:8080",
                "localhost.:80",
                "edge.example:443",
            ],
            &[
                "evil.example",
                "localhost.evil.example",
                "127.0.0.1.evil.example",
                "10.0.0.1:80",
                "",
                ":80",
                "localhost:",
                "localhost:x",
                "::1",
                "[::1",
                "a:b:1",
                "[fe80::1]:80",
            ],
        );
    }

    #[test]
    fn elsewhere_names_are_checked_once_one_is_given() {
        check("0.0.0.0:80", &[], &["any.example", "10.0.0.1"], &[]);
        check(
            "0.0.0.0:80",
            &["tidewatch.example"],
            &[
                "tidewatch.example",
                "10.0.0.1:80",
                "[fe80::1]:80",
                "localhost",
            ],
            &["evil.example"],
        );
    }
}
