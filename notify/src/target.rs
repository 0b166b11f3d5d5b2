//! Receivers: what the configuration says of one, and whether that can work.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::format::webhook;
use crate::{Kind, Secret, is_public};

/// A receiver has this long to answer, unless its target says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(15);
/// Longest timeout of a target.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Most attempts a minute that a target may be given.
const RATE_MAX: u32 = 60_000;
/// Longest name.
const NAME_MAX: usize = 64;
/// Shorter pieces of secrets and URLs are not looked for in texts.
const SCRUBBED_MIN: usize = 6;

/// The format of a receiver.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Standard Webhooks, signed.
    #[default]
    Webhook,
    /// PagerDuty Events v2.
    Pagerduty,
    /// What Alertmanager sends to a webhook, version 4.
    AlertmanagerWebhook,
    /// The API of an Alertmanager, version 2: it does the paging.
    Alertmanager,
    /// An incoming webhook of Slack, or its API with a bot's token.
    Slack,
    /// Opsgenie, and Jira Service Management after it.
    #[serde(alias = "jsm")]
    Opsgenie,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Webhook,
        Self::Pagerduty,
        Self::AlertmanagerWebhook,
        Self::Alertmanager,
        Self::Slack,
        Self::Opsgenie,
    ];

    /// The name in the configuration and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Pagerduty => "pagerduty",
            Self::AlertmanagerWebhook => "alertmanager_webhook",
            Self::Alertmanager => "alertmanager",
            Self::Slack => "slack",
            Self::Opsgenie => "opsgenie",
        }
    }

    /// Attempts a minute that the receiver can be expected to take: PagerDuty limits an integration to about
    /// 120, Slack a webhook to one a second.
    pub const fn rate_per_minute(self) -> u32 {
        match self {
            Self::Pagerduty => 120,
            Self::Slack => 60,
            _ => 600,
        }
    }

    /// Where the receiver is if the configuration does not say; none = it must.
    const fn default_url(self, has_secret: bool) -> Option<&'static str> {
        match self {
            Self::Pagerduty => Some("https://events.pagerduty.com/v2/enqueue"),
            Self::Opsgenie => Some("https://api.atlassian.com/jsm/ops/integration/"),
            Self::Slack if has_secret => Some("https://slack.com/api/"),
            _ => None,
        }
    }
}

/// A receiver of messages. `Debug` shows of its URL the host only, of its secret nothing.
#[derive(Clone)]
pub struct Target {
    /// Its name in the configuration and in the delivery log: 1 to 64 of `[A-Za-z0-9_.-]`.
    pub name: String,
    /// What it understands.
    pub format: Format,
    /// `http://…` or `https://…`; may hold a token.
    pub url: Secret,
    /// By format: `whsec_…` (several during a rotation, separated by spaces), a routing key, a bearer token, a
    /// bot's token, a GenieKey.
    pub secret: Option<Secret>,
    /// Slack: the channel.
    pub channel: Option<String>,
    /// Whether it may have an address that is not public.
    pub allow_private: bool,
    /// PEM file of the only CAs that may sign its certificate; none = the CAs of the web.
    pub ca_file: Option<PathBuf>,
    /// `http://…` of a proxy to go through. The name of the receiver is then looked up by the proxy, so only an
    /// address that is written in the URL can be refused.
    pub proxy: Option<Secret>,
    /// For the whole of a request and its answer.
    pub timeout: Duration,
    /// Attempts within any 60 s.
    pub rate_per_minute: u32,
    /// Who gets what this one does not take for ten minutes.
    pub fallback: Option<String>,
}

/// What is wrong with a target. `Display` says how it would be right, and never shows a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct TargetError {
    /// The key of the configuration.
    pub field: &'static str,
    /// What is wrong with it.
    pub message: String,
}

fn wrong<T>(field: &'static str, message: impl Into<String>) -> Result<T, TargetError> {
    let message = message.into();
    Err(TargetError { field, message })
}

impl Target {
    /// A target with the defaults of its format. An empty `url` stands for the format's own.
    pub fn new(name: &str, format: Format, url: &str, secret: Option<Secret>) -> Self {
        let default = format.default_url(secret.is_some()).unwrap_or_default();
        Self {
            name: name.to_owned(),
            format,
            url: Secret::new(if url.is_empty() { default } else { url }),
            secret,
            channel: None,
            allow_private: false,
            ca_file: None,
            proxy: None,
            timeout: TIMEOUT,
            rate_per_minute: format.rate_per_minute(),
            fallback: None,
        }
    }

    /// Checks everything that can be checked without asking anybody.
    ///
    /// **Errors**: which key is wrong, and how it would be right; never the secret itself.
    pub fn check(&self) -> Result<(), TargetError> {
        let named = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if self.name.is_empty() || self.name.len() > NAME_MAX || !self.name.chars().all(named) {
            return wrong(
                "name",
                format!("must be 1 to {NAME_MAX} letters, digits, `_`, `.` or `-`"),
            );
        }
        if self.url.expose().is_empty() {
            return wrong(
                "url",
                format!("is missing; a {} has no default", self.format.as_str()),
            );
        }
        let url = self.parsed("url", self.url.expose())?;
        if !self.allow_private
            && let Some(address) = literal(&url).filter(|a| !is_public(*a))
        {
            return wrong(
                "url",
                format!(
                    "{address} is not a public address; set allow_private = true if it is meant"
                ),
            );
        }
        if let Some(proxy) = &self.proxy {
            self.parsed("proxy", proxy.expose())?;
        }
        if self.timeout.is_zero() || self.timeout > TIMEOUT_MAX {
            return wrong(
                "timeout",
                format!("must be above 0 and at most {TIMEOUT_MAX:?}"),
            );
        }
        if !(1..=RATE_MAX).contains(&self.rate_per_minute) {
            return wrong("rate_per_minute", format!("must be 1 to {RATE_MAX}"));
        }
        if self.channel.is_some() && self.format != Format::Slack {
            return wrong(
                "channel",
                "only a notifier of the kind \"slack\" has channels",
            );
        }
        self.check_secret()
    }

    fn parsed(&self, field: &'static str, text: &str) -> Result<Url, TargetError> {
        match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(url),
            // The text may hold a token.
            _ => wrong(field, "must be a URL that begins with http:// or https://"),
        }
    }

    fn check_secret(&self) -> Result<(), TargetError> {
        let secret = self.secret.as_ref().map(Secret::expose);
        let is_header = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_graphic());
        match (self.format, secret) {
            (Format::Webhook, Some(secret)) => match webhook::keys(secret) {
                Some(keys) if !keys.is_empty() => Ok(()),
                _ => wrong(
                    "secret",
                    "must be whsec_ and the base64 of 24 to 64 bytes; during a rotation several, separated by spaces",
                ),
            },
            (Format::Pagerduty, Some(key))
                if key.len() == 32 && key.bytes().all(|b| b.is_ascii_alphanumeric()) =>
            {
                Ok(())
            }
            (Format::Pagerduty, _) => wrong(
                "secret",
                "must be the routing key (32 characters) of an Events API v2 integration",
            ),
            (Format::Opsgenie, None) => wrong("secret", "must be the API key of an integration"),
            (Format::Slack, Some(_)) if self.channel.is_none() => wrong(
                "channel",
                "is missing; a bot (secret) must be told where to write, such as \"#alerts\"",
            ),
            (_, Some(secret)) if !is_header(secret) => {
                wrong("secret", "must be one word of visible ASCII characters")
            }
            _ => Ok(()),
        }
    }

    /// Whether the format has words for messages of a kind; others need not be sent.
    pub const fn takes(&self, kind: Kind) -> bool {
        match self.format {
            // An Alertmanager knows firing and resolved alone.
            Format::AlertmanagerWebhook | Format::Alertmanager => {
                !matches!(kind, Kind::Acknowledged)
            }
            _ => true,
        }
    }

    /// Whether the receiver forgets what it is not told again and again: see [`crate::format::repeat`].
    pub const fn repeats(&self) -> bool {
        matches!(self.format, Format::Alertmanager)
    }

    /// The URL as it may be shown: scheme, host and port.
    pub fn shown_url(&self) -> String {
        shown_url(self.url.expose())
    }

    /// Takes everything out of a text that must not be shown.
    pub fn scrub(&self, text: &str) -> String {
        let mut text = text.to_owned();
        let url = self.url.expose();
        let mut hidden = vec![url.to_owned()];
        for url in [Some(url), self.proxy.as_ref().map(Secret::expose)] {
            let Some(url) = url.and_then(|url| Url::parse(url).ok()) else {
                continue;
            };
            hidden.push(url.path().to_owned());
            hidden.extend(url.path().split('/').map(str::to_owned));
            hidden.extend(url.query_pairs().map(|(_, value)| value.into_owned()));
            hidden.extend(url.password().map(str::to_owned));
        }
        let secrets = self.secret.iter().map(Secret::expose);
        hidden.extend(secrets.flat_map(str::split_whitespace).map(str::to_owned));
        // Short pieces such as `v2` are in every text and tell nobody anything. The longest first: a path goes
        // whole, not only the piece of it that is also something else.
        hidden.retain(|piece| piece.len() >= SCRUBBED_MIN);
        hidden.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
        for piece in hidden {
            text = text.replace(&piece, "…");
        }
        text
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target")
            .field("name", &self.name)
            .field("format", &self.format)
            .field("url", &self.shown_url())
            .field("secret", &self.secret)
            .finish_non_exhaustive()
    }
}

/// Scheme, host and port of a URL, as they may be shown; the rest may hold a token.
pub fn shown_url(url: &str) -> String {
    match Url::parse(url) {
        Ok(url) => {
            let host = url.host_str().unwrap_or_default();
            let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
            format!("{}://{host}{port}/…", url.scheme())
        }
        Err(_) => "…".to_owned(),
    }
}

/// The address that is written in a URL instead of a name.
pub(crate) fn literal(url: &Url) -> Option<std::net::IpAddr> {
    // IPv6 is in brackets here. Forms such as 0x7f.1 have become 127.0.0.1 by now.
    let host = url.host_str()?;
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNING: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn target(format: Format, url: &str, secret: &str) -> Target {
        let secret = (!secret.is_empty()).then(|| Secret::new(secret));
        Target::new("ops", format, url, secret)
    }

    #[track_caller]
    fn refused(target: &Target, field: &str) {
        let error = target.check().unwrap_err();
        assert_eq!(error.field, field, "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn targets_have_the_defaults_of_their_format() {
        let key = "0123456789abcdef0123456789ABCDEF";
        for (format, secret) in [(Format::Pagerduty, key), (Format::Opsgenie, "5d8c3bfa-11")] {
            let target = target(format, "", secret);
            assert_eq!(target.check(), Ok(()), "{target:?}");
        }
        assert_eq!(target(Format::Pagerduty, "", key).rate_per_minute, 120);
        for format in [
            Format::Webhook,
            Format::Alertmanager,
            Format::AlertmanagerWebhook,
            Format::Slack,
        ] {
            refused(&target(format, "", ""), "url");
        }
        let mut bot = target(Format::Slack, "", "xoxb-1");
        refused(&bot, "channel");
        bot.channel = Some("#ops".to_owned());
        assert_eq!(bot.check(), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_named_without_its_secret() {
        let hook = |url: &str| target(Format::Webhook, url, SIGNING);
        assert_eq!(hook("https://x.example/y").check(), Ok(()));
        refused(&hook("ftp://x/y"), "url");
        refused(&hook("hunter2"), "url");
        refused(
            &target(Format::Webhook, "https://x/", "whsec_hunter2"),
            "secret",
        );
        refused(&target(Format::Webhook, "https://x/", "  "), "secret");
        let two = format!("{SIGNING} whsec_hunter2");
        refused(&target(Format::Webhook, "https://x/", &two), "secret");
        refused(&target(Format::Pagerduty, "", "hunter2"), "secret");
        refused(&target(Format::Pagerduty, "", ""), "secret");
        refused(&target(Format::Opsgenie, "", ""), "secret");
        refused(&target(Format::Opsgenie, "", "hunter2 hunter2"), "secret");
        refused(&target(Format::Opsgenie, "", "hunter2\r\nx: y"), "secret");
        let with = |change: &dyn Fn(&mut Target)| {
            let mut target = hook("https://x.example/y");
            change(&mut target);
            target
        };
        refused(&with(&|t| t.name = "a:b".to_owned()), "name");
        refused(&with(&|t| t.name = "n".repeat(65)), "name");
        refused(&with(&|t| t.timeout = Duration::ZERO), "timeout");
        refused(&with(&|t| t.rate_per_minute = 0), "rate_per_minute");
        refused(&with(&|t| t.channel = Some("c".to_owned())), "channel");
        refused(&with(&|t| t.proxy = Some(Secret::new("hunter2"))), "proxy");
    }

    #[test]
    fn written_addresses_that_are_not_public_are_refused_in_every_form() {
        for url in [
            "http://127.0.0.1/",
            "http://[::1]:9/",
            "http://[::ffff:10.0.0.1]/",
            "http://0x7f000001/",
            "http://2130706433/",
            "http://169.254.169.254/latest/",
        ] {
            let mut target = target(Format::Webhook, url, "");
            refused(&target, "url");
            target.allow_private = true;
            assert_eq!(target.check(), Ok(()), "{url}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let url = "https://user:hunter2@hooks.slack.com:444/services/T0/B0/hunter2?t=hunter2";
        let mut target = target(Format::Slack, url, "xoxb-hunter2");
        target.proxy = Some(Secret::new("http://u:hunter2@p/"));
        let shown = format!("{target:?} {}", target.shown_url());
        assert!(shown.contains("https://hooks.slack.com:444/…"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
        let text = target.scrub("bad xoxb-hunter2 at /services/T0/B0/hunter2, token hunter2");
        assert_eq!(text, "bad … at …, token …");
    }
}
