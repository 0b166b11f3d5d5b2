//! `[[notifiers]]`: who is told of alerts.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use notify::{Client, Format, Secret, Target, shown_url};
use rules::parse_duration;
use serde::{Deserialize, Serialize, Serializer};
use toml::Table;

/// Most notifiers.
const NOTIFIERS_MAX: usize = 32;
/// Largest file of a secret, bytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// All keys of a notifier.
pub(super) const KEYS: [&str; 13] = [
    "name",
    "kind",
    "url",
    "secret",
    "secret_env",
    "secret_file",
    "channel",
    "fallback",
    "rate_per_minute",
    "timeout",
    "allow_private",
    "ca_file",
    "proxy",
];

/// One notifier, as it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotifierConfig {
    /// Its name in routes and in the delivery log.
    pub name: String,
    /// What it understands.
    #[serde(default)]
    pub kind: Format,
    /// Where to POST; none = the kind's own, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Link>,
    /// The secret itself, by kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// The environment variable that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
    /// The file that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// Slack: the channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Name of the notifier that gets what this one does not take for ten minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// Attempts within any 60 s; none = the kind's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_per_minute: Option<u32>,
    /// For a request and its answer; none = 15 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Whether it may have an address that is not public.
    #[serde(default)]
    pub allow_private: bool,
    /// PEM file of the only CAs that may sign its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// HTTP proxy to go through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Link>,
}

/// A URL that may hold a token: of it only scheme, host and port are shown.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Link(String);

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown_url(&self.0))
    }
}

impl Serialize for Link {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&shown_url(&self.0))
    }
}

/// Until version 0.1 there were webhooks only.
pub(super) fn refuse_former_table(table: &Table) -> anyhow::Result<()> {
    ensure!(
        !table.contains_key("webhooks"),
        "[[webhooks]] is now [[notifiers]]: write [[notifiers]] with the same keys (kind = \"webhook\" is the \
         default), and allow_private = true if the receiver has no public address"
    );
    Ok(())
}

/// Reads secrets and CA files, and checks everything.
///
/// **Errors**: which notifier is wrong, in which key; never its secret.
pub(super) fn targets(notifiers: &[NotifierConfig]) -> anyhow::Result<Vec<Target>> {
    ensure!(
        notifiers.len() <= NOTIFIERS_MAX,
        "notifiers: at most {NOTIFIERS_MAX}"
    );
    let names: BTreeSet<&str> = notifiers.iter().map(|n| n.name.as_str()).collect();
    let mut targets: Vec<Target> = Vec::new();
    for (number, notifier) in notifiers.iter().enumerate() {
        let name = &notifier.name;
        ensure!(
            !name.is_empty(),
            "notifier number {}: name is empty",
            number + 1
        );
        let place = || format!("notifier {name:?}");
        ensure!(
            !targets.iter().any(|t| t.name == *name),
            "{} is declared twice",
            place()
        );
        if let Some(fallback) = &notifier.fallback {
            let is_other = fallback != name && names.contains(fallback.as_str());
            ensure!(
                is_other,
                "{}: fallback: {fallback:?} must be the name of another notifier",
                place()
            );
        }
        let target = notifier.target().with_context(place)?;
        // Also what only its client would find, such as a CA file that is none.
        Client::new(target.clone()).with_context(place)?;
        targets.push(target);
    }
    Ok(targets)
}

impl NotifierConfig {
    fn target(&self) -> anyhow::Result<Target> {
        let url = self.url.as_ref().map_or("", |url| url.0.as_str());
        let mut target = Target::new(&self.name, self.kind, url, self.secret()?);
        target.channel = self.channel.clone();
        target.fallback = self.fallback.clone();
        target.allow_private = self.allow_private;
        target.ca_file = self.ca_file.clone();
        target.proxy = self.proxy.as_ref().map(|proxy| Secret::new(&*proxy.0));
        if let Some(rate) = self.rate_per_minute {
            target.rate_per_minute = rate;
        }
        if let Some(text) = &self.timeout {
            let micros = parse_duration(text)
                .map_err(anyhow::Error::msg)
                .context("timeout")?;
            target.timeout = Duration::from_micros(micros.unsigned_abs());
        }
        Ok(target)
    }

    fn secret(&self) -> anyhow::Result<Option<Secret>> {
        Ok(match (&self.secret, &self.secret_env, &self.secret_file) {
            (None, None, None) => None,
            (Some(secret), None, None) => Some(secret.clone()),
            (None, Some(name), None) => {
                let text = std::env::var(name).with_context(|| {
                    format!("secret_env: the environment variable {name} cannot be read")
                })?;
                Some(Secret::new(text.trim()))
            }
            (None, None, Some(path)) => {
                let shown = path.display();
                let failed = || format!("secret_file: failed to read {shown}");
                let bytes = std::fs::metadata(path).with_context(failed)?.len();
                ensure!(
                    bytes <= SECRET_BYTES_MAX,
                    "secret_file: {shown} has {bytes} bytes, more than {SECRET_BYTES_MAX}"
                );
                let text = std::fs::read_to_string(path).with_context(failed)?;
                Some(Secret::new(text.trim()))
            }
            _ => bail!("give only one of secret, secret_env, secret_file"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, refused};
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const KEY: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn every_kind_is_read_with_its_defaults() {
        let text = format!(
            "[[notifiers]]\nname = \"hook\"\nurl = \"https://x.example/\"\nsecret = \"{SECRET}\"\n\
             [[notifiers]]\nname = \"pd\"\nkind = \"pagerduty\"\nsecret = \"{KEY}\"\nfallback = \"hook\"\n\
             [[notifiers]]\nname = \"amw\"\nkind = \"alertmanager_webhook\"\nurl = \"https://x.example/\"\n\
             [[notifiers]]\nname = \"am\"\nkind = \"alertmanager\"\nurl = \"http://127.0.0.1:9093\"\nallow_private = true\n\
             [[notifiers]]\nname = \"slack\"\nkind = \"slack\"\nsecret = \"xoxb-1\"\nchannel = \"#ops\"\ntimeout = \"5s\"\n\
             [[notifiers]]\nname = \"jsm\"\nkind = \"jsm\"\nsecret = \"k\"\nrate_per_minute = 7\n"
        );
        let targets = check(&text, &[]).unwrap().targets().unwrap();
        let formats: Vec<Format> = targets.iter().map(|t| t.format).collect();
        use Format::{Alertmanager, AlertmanagerWebhook, Opsgenie, Pagerduty, Slack, Webhook};
        assert_eq!(
            formats,
            [
                Webhook,
                Pagerduty,
                AlertmanagerWebhook,
                Alertmanager,
                Slack,
                Opsgenie
            ]
        );
        let rates: Vec<u32> = targets.iter().map(|t| t.rate_per_minute).collect();
        assert_eq!(rates, [600, 120, 600, 600, 60, 7]);
        assert_eq!(targets[1].fallback.as_deref(), Some("hook"));
        assert_eq!(targets[1].shown_url(), "https://events.pagerduty.com/…");
        assert_eq!(targets[4].timeout, Duration::from_secs(5));
    }

    #[test]
    fn what_is_wrong_names_notifier_and_key() {
        let hook = |rest: &str| {
            format!("[[notifiers]]\nname = \"w\"\nurl = \"https://x.example/hunter2\"\n{rest}")
        };
        let secret_file = tempfile::NamedTempFile::new().unwrap();
        let path = secret_file.path().display();
        for (text, expected) in [
            (hook("kind = \"pager\""), "unknown variant `pager`"),
            (
                hook("secret = \"whsec_hunter2\""),
                "notifier \"w\": secret: must be whsec_",
            ),
            (
                hook("secret_env = \"NO_SUCH_VARIABLE\""),
                "notifier \"w\": secret_env",
            ),
            (
                hook("secret_file = \"/no/such\""),
                "notifier \"w\": secret_file",
            ),
            (
                hook(&format!("secret_file = \"{path}\"\nsecret = \"x\"")),
                "give only one of",
            ),
            (
                hook("fallback = \"w\""),
                "notifier \"w\": fallback: \"w\" must be",
            ),
            (
                hook("fallback = \"x\""),
                "notifier \"w\": fallback: \"x\" must be",
            ),
            (hook("timeout = \"soon\""), "notifier \"w\": timeout"),
            (hook("timeout = \"2m\""), "notifier \"w\": timeout"),
            (
                hook("rate_per_minute = 0"),
                "notifier \"w\": rate_per_minute",
            ),
            (
                hook("ca_file = \"/no/such.pem\""),
                "notifier \"w\": ca_file",
            ),
            (hook("proxy = \"hunter2\""), "notifier \"w\": proxy"),
            (
                format!("{0}{0}", hook("")),
                "notifier \"w\" is declared twice",
            ),
            (
                "[[notifiers]]\nname = \"\"\nurl = \"https://x/\"".to_owned(),
                "number 1: name",
            ),
            (
                "[[notifiers]]\nname = \"w\"".to_owned(),
                "notifier \"w\": url: is missing",
            ),
            (
                "[[notifiers]]\nname = \"w\"\nurl = \"nowhere\"".to_owned(),
                "notifier \"w\": url",
            ),
            (
                "[[notifiers]]\nname = \"w\"\nurl = \"http://10.0.0.1/\"".to_owned(),
                "notifier \"w\": url: 10.0.0.1 is not a public address; set allow_private",
            ),
            (
                "[[webhooks]]\nname = \"w\"".to_owned(),
                "[[webhooks]] is now [[notifiers]]",
            ),
        ] {
            let error = format!("{:#}", check(&text, &[]).unwrap_err());
            assert!(!error.contains("hunter2"), "{error}");
            refused(&text, &[], expected);
        }
    }

    #[test]
    fn secrets_and_tokens_are_not_shown() {
        let c = check(
            &format!(
                "[[notifiers]]\nname = \"w\"\nurl = \"https://x.example:444/hunter2\"\nsecret = \"{SECRET}\"\n\
                 proxy = \"http://u:hunter2@p.example:3128\""
            ),
            &[],
        )
        .unwrap();
        for shown in [
            c.show().unwrap(),
            format!("{c:?} {:?}", c.targets().unwrap()),
        ] {
            assert!(
                !shown.contains("MfKQ") && !shown.contains("hunter2"),
                "{shown}"
            );
            assert!(shown.contains("https://x.example:444/…"), "{shown}");
        }
    }
}
