//! The API of a running server, as a command-line tool speaks to it: http or https (with the certificate
//! authorities that the system trusts), through the proxy of the environment unless the server is on this
//! machine.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Method, StatusCode, Url};
use serde_json::Value;

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A server.
pub struct Client {
    base: Url,
    http: reqwest::Client,
}

impl Client {
    /// The server at `base`, such as `https://tidewatch.example.com` or with a path where a proxy has it there.
    ///
    /// **Errors**: not such an address.
    pub fn new(base: &str) -> anyhow::Result<Self> {
        let wrong = || format!("--server {base:?}: give an address such as http://127.0.0.1:8080");
        let mut url = Url::parse(base).with_context(wrong)?;
        if !matches!(url.scheme(), "http" | "https") || url.query().is_some() {
            bail!(wrong());
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        // Fails only if somebody has installed one before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("tidewatch/", env!("CARGO_PKG_VERSION")));
        if is_here(&url) {
            http = http.no_proxy();
        }
        let http = http.build().context("failed to make an HTTP client")?;
        Ok(Self { base: url, http })
    }

    /// The address of a call: `api/v1` and these segments, which are encoded.
    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// Reads something; none if there is no such thing.
    ///
    /// **Errors**: no connection, or an answer that is another error.
    pub async fn find(&self, path: &[&str]) -> anyhow::Result<Option<Value>> {
        let (status, value) = self.ask(Method::GET, self.url(path, &[]), None).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            _ => checked(status, value).map(Some),
        }
    }

    /// Reads something that must be there.
    ///
    /// **Errors**: no connection, or an answer that is an error.
    pub async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Value> {
        let (status, value) = self.ask(Method::GET, self.url(path, query), None).await?;
        checked(status, value)
    }

    /// Changes something.
    ///
    /// **Errors**: no connection, or an answer that is an error.
    pub async fn change(
        &self,
        method: Method,
        path: &[&str],
        body: &Value,
    ) -> anyhow::Result<Value> {
        let (status, value) = self.ask(method, self.url(path, &[]), Some(body)).await?;
        checked(status, value)
    }

    async fn ask(
        &self,
        method: Method,
        url: Url,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        let unreachable = || {
            format!(
                "no answer from {}; does the server run there? (--server)",
                self.base
            )
        };
        let response = request.send().await.with_context(unreachable)?;
        let status = response.status();
        if status.is_redirection() {
            let to = response.headers().get("location");
            let to = to.and_then(|v| v.to_str().ok()).unwrap_or("elsewhere");
            bail!("{} leads to {to}; give that with --server", self.base);
        }
        let text = response.text().await.with_context(unreachable)?;
        let value = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} answers {status} with what is no JSON; is it a Tidewatch server?",
                self.base
            )
        })?;
        Ok((status, value))
    }
}

fn is_here(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback()),
        None => false,
    }
}

/// The answer, or what the server says is wrong.
fn checked(status: StatusCode, value: Value) -> anyhow::Result<Value> {
    if status.is_success() {
        return Ok(value);
    }
    let text = |key: &str| value["error"][key].as_str();
    let message = text("message").unwrap_or("no reason is given");
    match text("field") {
        Some(field) => bail!("the server refuses it ({status}): {field}: {message}"),
        None => bail!("the server refuses it ({status}): {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_their_path_and_names_are_encoded() {
        let url = |base: &str, path: &[&str]| {
            let client = Client::new(base).unwrap();
            client.url(path, &[("state", "a&b")]).to_string()
        };
        assert_eq!(
            url("http://127.0.0.1:8080", &["devices", "b8:27", "commands"]),
            "http://127.0.0.1:8080/api/v1/devices/b8:27/commands?state=a%26b"
        );
        assert_eq!(
            url("https://h.example/tide/", &["commands", "r/1 ü"]),
            "https://h.example/tide/api/v1/commands/r%2F1%20%C3%BC?state=a%26b"
        );
        for bad in ["", "127.0.0.1:8080", "ftp://x", "http://x/?a=b"] {
            assert!(Client::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_this_machine_is_asked_without_a_proxy() {
        let here = |text: &str| is_here(&Url::parse(text).unwrap());
        assert!(here("http://127.0.0.1:1") && here("http://[::1]:1") && here("http://localhost"));
        assert!(!here("http://10.0.0.1") && !here("https://tidewatch.example"));
    }

    #[test]
    fn errors_of_the_server_are_passed_on() {
        let body =
            serde_json::json!({"error": {"code": "x", "message": "is wrong", "field": "ttl"}});
        let error = checked(StatusCode::BAD_REQUEST, body).unwrap_err();
        let expected = "the server refuses it (400 Bad Request): ttl: is wrong";
        assert_eq!(error.to_string(), expected);
    }
}
