//! HTTP: carries requests to one target and brings its answers back.
//!
//! Connections are kept alive, redirects are not followed, proxies of the environment are not used (a page must
//! not depend on who started the server), and names are looked up by a resolver of our own, which lets only
//! addresses through that may be spoken to. The connection is then made to just those, so a name that changes its
//! mind between a check and the connection gains nothing.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Proxy, Url, redirect};

use crate::format::{self, Answer, Attempt, Method, Outcome, Request, Verdict};
use crate::target::{TargetError, literal};
use crate::{Message, Target, is_public, tls};

/// Most bytes that are read of an answer.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;
/// To make a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections kept for the next message.
const IDLE_MAX: usize = 8;

/// Speaks to one target. Clones share their connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    target: Arc<Target>,
}

impl Client {
    /// Checks the target and gets ready; connects to nobody yet. Reads the CA file.
    ///
    /// **Errors**: as [`Target::check`], and a CA file that cannot be used.
    pub fn new(target: Target) -> Result<Self, TargetError> {
        target.check()?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(target.ca_file.as_deref())?)
            .redirect(redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .timeout(target.timeout)
            .connect_timeout(CONNECT_TIMEOUT.min(target.timeout))
            .pool_max_idle_per_host(IDLE_MAX)
            .user_agent(concat!("tidewatch/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(Resolver {
                // With a proxy only the proxy's own name is looked up here.
                allow_private: target.allow_private || target.proxy.is_some(),
            }));
        let wrong = |field, message: String| TargetError { field, message };
        if let Some(proxy) = &target.proxy {
            let proxy = Proxy::all(proxy.expose())
                .map_err(|_| wrong("proxy", "must be a URL that begins with http://".to_owned()))?;
            builder = builder.proxy(proxy);
        }
        let http = builder
            .build()
            .map_err(|error| wrong("url", format!("HTTP cannot be used: {}", chain(&error))))?;
        Ok(Self {
            http,
            target: Arc::new(target),
        })
    }

    /// Whom it speaks to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// One attempt to tell a message. Takes at most the target's timeout for each request that its format needs.
    pub async fn send(&self, message: &Message, attempt: &Attempt<'_>) -> Outcome {
        let mut last = None;
        for request in format::render(&self.target, message, attempt) {
            let outcome = self.attempt(&request, |answer| {
                format::judge(&self.target, message, attempt, answer)
            });
            let outcome = outcome.await;
            if outcome.verdict != Verdict::Delivered {
                return outcome;
            }
            last = Some(outcome);
        }
        let nothing = || Outcome::failed(Verdict::Refused, "there is nothing to send".to_owned());
        last.unwrap_or_else(nothing)
    }

    /// Reminds the target of pages: see [`format::repeat`].
    pub async fn repeat(&self, pages: &[(&Message, Option<&str>)], at: i64) -> Outcome {
        let request = format::repeat(&self.target, pages);
        let attempt = Attempt { at, handle: None };
        let none = Message::default();
        let message = pages.first().map_or(&none, |page| page.0);
        let outcome = self.attempt(&request, |answer| {
            format::judge(&self.target, message, &attempt, answer)
        });
        outcome.await
    }

    async fn attempt(
        &self,
        request: &Request,
        judge: impl FnOnce(&Answer<'_>) -> Outcome,
    ) -> Outcome {
        if !self.target.allow_private
            && let Ok(url) = Url::parse(&request.url)
            && let Some(address) = literal(&url).filter(|a| !is_public(*a))
        {
            let error = NotPublic {
                host: address.to_string(),
                address,
            };
            return Outcome::failed(Verdict::Refused, error.to_string());
        }
        match self.exchange(request).await {
            Ok((status, retry_after, location, body)) => judge(&Answer {
                status,
                retry_after: retry_after.as_deref(),
                location: location.as_deref(),
                body: &body,
            }),
            Err(error) => self.explain(error),
        }
    }

    async fn exchange(
        &self,
        request: &Request,
    ) -> reqwest::Result<(u16, Option<String>, Option<String>, Vec<u8>)> {
        let builder = match request.method {
            Method::Post => self.http.post(&request.url),
            Method::Put => self.http.put(&request.url),
        };
        let mut builder = builder.header("content-type", "application/json");
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        let mut response = builder.body(request.body.clone()).send().await?;
        let header = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let (retry_after, location) = (header("retry-after"), header("location"));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            let room = ANSWER_BYTES_MAX - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() >= room {
                // Nobody needs more of it. The connection is closed with the response.
                break;
            }
        }
        Ok((response.status().as_u16(), retry_after, location, body))
    }

    fn explain(&self, error: reqwest::Error) -> Outcome {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(inner) = source {
            if let Some(refused) = inner.downcast_ref::<NotPublic>() {
                // Not final, unlike an address in the configuration: a resolver may lie for a while (a portal, a
                // name server that is down), and a page must not be lost to that.
                return Outcome::failed(Verdict::Retry, refused.to_string());
            }
            source = inner.source();
        }
        if error.is_timeout() {
            let what = if error.is_connect() {
                "connection"
            } else {
                "whole answer"
            };
            let text = format!("no {what} in time (timeout {:?})", self.target.timeout);
            return Outcome::failed(Verdict::Retry, text);
        }
        // Without the URL: it may hold a token.
        let mut text = self.target.scrub(&chain(&error.without_url()));
        if text.contains("UnknownIssuer") {
            text.push_str("; if its CA is one of yours, give it in ca_file");
        }
        Outcome::failed(Verdict::Retry, text)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// An error and its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let cause = inner.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = inner.source();
    }
    text
}

/// Looks names up and keeps what may be spoken to.
struct Resolver {
    allow_private: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let host = name.as_str();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
            let allowed = |a: &&SocketAddr| allow_private || is_public(a.ip());
            let may: Vec<SocketAddr> = found.iter().filter(allowed).copied().collect();
            match (may.is_empty(), found.first()) {
                (true, Some(first)) => Err(NotPublic {
                    host: host.to_owned(),
                    address: first.ip(),
                }
                .into()),
                _ => Ok(Box::new(may.into_iter()) as Addrs),
            }
        })
    }
}

/// A receiver where none may be.
#[derive(Debug)]
struct NotPublic {
    host: String,
    address: IpAddr,
}

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, address } = self;
        write!(
            f,
            "refused to connect to {host}: {address} is not a public address; set allow_private = true if it is meant"
        )
    }
}

impl std::error::Error for NotPublic {}
