//! The formats of receivers: pure functions from messages to requests, and from answers to outcomes.
//!
//! [`render`] → one file per format; [`judge`] → `judge`, and `slack` where a 200 may be a failure; `text` is the
//! wording that they share.

mod alertmanager_api;
mod alertmanager_webhook;
mod judge;
mod labels;
mod opsgenie;
mod pagerduty;
mod slack;
mod text;
pub(crate) mod webhook;

use std::fmt;

pub use judge::{Answer, Handle, Outcome, RETRY_AFTER_MAX, Verdict, judge};

use crate::{Format, Message, Target};

/// How a request is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `POST`.
    Post,
    /// `PUT`.
    Put,
}

/// One HTTP request. `Debug` shows neither URL nor headers nor body: all may hold secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Where to.
    pub url: String,
    /// Besides `content-type: application/json`.
    pub headers: Vec<(&'static str, String)>,
    /// JSON.
    pub body: String,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({:?}, {} bytes)", self.method, self.body.len())
    }
}

/// What an attempt knows besides its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt<'a> {
    /// The time, microseconds UTC.
    pub at: i64,
    /// What the receiver gave us for the page with an earlier answer: [`Handle::Set`].
    pub handle: Option<&'a str>,
}

/// The requests that tell a target a message, to be made in this order until one is not accepted. At least one.
pub fn render(target: &Target, message: &Message, attempt: &Attempt<'_>) -> Vec<Request> {
    match target.format {
        Format::Webhook => vec![webhook::render(target, message, attempt)],
        Format::Pagerduty => vec![pagerduty::render(target, message)],
        Format::AlertmanagerWebhook => vec![alertmanager_webhook::render(target, message)],
        Format::Alertmanager => vec![repeat(target, &[(message, attempt.handle)])],
        Format::Slack => vec![slack::render(target, message, attempt)],
        Format::Opsgenie => opsgenie::render(target, message),
    }
}

/// The request that reminds an Alertmanager of pages: each with its newest message and its handle. To be made
/// again and again for a page that is open, and for five minutes after its end.
pub fn repeat(target: &Target, pages: &[(&Message, Option<&str>)]) -> Request {
    alertmanager_api::render(target, pages)
}

/// `Authorization: Bearer` with the target's secret, if it has one.
fn bearer(target: &Target) -> Vec<(&'static str, String)> {
    let secret = target.secret.iter();
    secret
        .map(|s| ("authorization", format!("Bearer {}", s.expose())))
        .collect()
}

/// A base URL with a path behind it, before its query.
fn join(base: &str, path: &str) -> String {
    let (base, query) = match base.split_once('?') {
        Some((base, query)) => (base, format!("?{query}")),
        None => (base, String::new()),
    };
    let base = base.trim_end_matches('/');
    if base.ends_with(path) {
        return format!("{base}{query}");
    }
    format!("{base}/{path}{query}")
}
