//! The generic signed webhook, after the Standard Webhooks conventions.
//!
//! `POST` of `{"type", "timestamp", "data"}` with `webhook-id` (the same on every retry),
//! `webhook-timestamp` (of this attempt) and `webhook-signature`
//! (`v1,` + base64 of HMAC-SHA256 over `<id>.<timestamp>.<body>`). Only 2xx is success, redirects are not
//! followed, 410 ends it, `Retry-After` is honoured.

use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::core::{Notice, NoticeKind};

/// A receiver has this long to answer.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A receiver of notices.
#[derive(Clone)]
pub struct Target {
    /// Its name in config and in the delivery log.
    pub name: String,
    /// `http://…` or `https://…`.
    pub url: String,
    /// `whsec_` and base64 of 24 to 64 bytes; none = not signed.
    pub secret: Option<String>,
}

// The secret must not get into a log by way of a debug print.
impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target")
            .field("name", &self.name)
            .field("url", &self.url)
            .field("secret", &self.secret.as_ref().map(|_| "hidden"))
            .finish()
    }
}

impl Target {
    /// Checks url and secret.
    ///
    /// **Errors**: which of them is wrong, and how it would be right; never the secret itself.
    pub fn check(&self) -> anyhow::Result<()> {
        let url = reqwest::Url::parse(&self.url).context("url: not a URL")?;
        anyhow::ensure!(
            matches!(url.scheme(), "http" | "https"),
            "url: must begin with http:// or https://"
        );
        self.key().map(|_| ())
    }

    fn key(&self) -> anyhow::Result<Option<Vec<u8>>> {
        let Some(secret) = &self.secret else {
            return Ok(None);
        };
        let text = secret.strip_prefix("whsec_").unwrap_or(secret);
        let key = STANDARD
            .decode(text)
            .ok()
            .filter(|k| (24..=64).contains(&k.len()));
        let key = key.context("secret: must be whsec_ and the base64 of 24 to 64 bytes")?;
        Ok(Some(key))
    }
}

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) delivered: bool,
    /// The receiver wants nothing more.
    pub(crate) gone: bool,
    pub(crate) status: Option<u16>,
    pub(crate) error: Option<String>,
    /// Microseconds that the receiver asked to wait.
    pub(crate) retry_after: Option<i64>,
}

/// The body of a notice.
pub(crate) fn body(notice: &Notice) -> String {
    let kind = match notice.kind {
        NoticeKind::Raised => "alert.raised",
        NoticeKind::Revised => "alert.updated",
        NoticeKind::Cleared => "alert.cleared",
    };
    let time = notice.alert.resolved.unwrap_or(notice.alert.began);
    serde_json::json!({ "type": kind, "timestamp": time, "data": notice.alert }).to_string()
}

/// `v1,<base64>` of the signed bytes.
fn signature(key: &[u8], id: &str, timestamp: i64, body: &[u8]) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return String::new();
    };
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// Sends to one target.
pub(crate) struct Sender {
    client: reqwest::Client,
    url: String,
    key: Option<Vec<u8>>,
}

impl Sender {
    pub(crate) fn new(target: &Target) -> anyhow::Result<Self> {
        // Fails only if a provider is installed already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .user_agent(concat!("tidewatch/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("failed to set up the HTTP client")?;
        let key = target
            .key()
            .with_context(|| format!("notifier {:?}", target.name))?;
        Ok(Self {
            client,
            url: target.url.clone(),
            key,
        })
    }

    /// One attempt at `now` (microseconds).
    pub(crate) async fn send(&self, id: &str, now: i64, body: &[u8]) -> Outcome {
        let timestamp = now.div_euclid(1_000_000);
        let mut request = self
            .client
            .post(&self.url)
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp.to_string());
        if let Some(key) = &self.key {
            request = request.header("webhook-signature", signature(key, id, timestamp, body));
        }
        match request.body(body.to_vec()).send().await {
            Ok(response) => {
                let status = response.status();
                let retry_after = response
                    .headers()
                    .get("retry-after")
                    .and_then(|v| v.to_str().ok()?.parse::<i64>().ok())
                    .map(|seconds| seconds.clamp(0, 3600) * 1_000_000);
                Outcome {
                    delivered: status.is_success(),
                    gone: status.as_u16() == 410,
                    status: Some(status.as_u16()),
                    error: (!status.is_success())
                        .then(|| format!("the receiver answered {status}")),
                    retry_after,
                }
            }
            Err(error) => Outcome {
                delivered: false,
                gone: false,
                status: None,
                // Without the URL: it may hold a token.
                error: Some(format!("{:#}", anyhow::Error::from(error.without_url()))),
                retry_after: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_is_the_one_of_the_reference_vector() {
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert_eq!(
            signature(
                &key,
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1614265330,
                br#"{"test": 2432232314}"#
            ),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn bad_targets_are_named_without_their_secret() {
        let target = |url: &str, secret: &str| Target {
            name: "ops".to_owned(),
            url: url.to_owned(),
            secret: Some(secret.to_owned()),
        };
        let good = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        assert!(target("https://x/y", good).check().is_ok());
        assert!(
            target("ftp://x/y", good)
                .check()
                .unwrap_err()
                .to_string()
                .contains("url")
        );
        let error = target("https://x/y", "whsec_hunter2")
            .check()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("secret") && !error.contains("hunter2"),
            "{error}"
        );
        assert!(!format!("{:?}", target("https://x", good)).contains("MfKQ"));
    }
}
