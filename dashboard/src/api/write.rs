//! What every call that changes something goes through: may it, where from, and is its body one.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::error::clip;
use super::params::Params;
use super::{ApiError, Shared};
use crate::control::{Change, Control, Place, RuleTest, Tested};
use crate::server::guard::BODY_BYTES_MAX;

/// Most texts of a list in a body.
const LIST_MAX: usize = 64;

/// The answer to a change: it is durable in the event log, and takes effect when each partition comes to it,
/// as a rule within a second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Accepted {
    /// `aggregate`, `rule`, `device`, `quarantine`, `command`, `commands`, `rollout`, `alert` or
    /// `silence`.
    #[schema(value_type = String)]
    pub kind: &'static str,
    /// Its name or id.
    pub name: String,
    /// `set`, `removed`, `decommissioned`, `released`, `cancelled`, `on`, `off`, `stopped`, `resumed`,
    /// `acknowledged`, `unacknowledged` or `expired`.
    #[schema(value_type = String)]
    pub action: &'static str,
    /// Where it stands in the log.
    pub at: Vec<Place>,
}

/// The right to change something: the extractor of every such call.
pub struct Writer(Arc<dyn Control>);

impl FromRequestParts<Shared> for Writer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, ApiError> {
        Params::none(&parts.uri)?;
        same_origin(&parts.headers)?;
        // Other pages can send forms and texts here without asking; JSON they cannot.
        if parts.method != Method::DELETE && !is_json(&parts.headers) {
            return Err(ApiError::not_json());
        }
        let control = shared.control().cloned().ok_or_else(ApiError::read_only)?;
        if !shared.ready() {
            // What is asked for now could be overtaken by what the start still declares.
            return Err(ApiError::not_ready(
                "the server has not caught up since its start; try again when `/readyz` answers 200",
            ));
        }
        Ok(Self(control))
    }
}

impl Writer {
    /// Submits a change and gives the places where it stands.
    ///
    /// **Errors**: as [`Self::submit`].
    pub async fn append(
        &self,
        change: Change,
        kind: &'static str,
        name: &str,
        action: &'static str,
    ) -> Result<Vec<Place>, ApiError> {
        let at = self.0.submit(change).await?;
        tracing::info!(kind, name, action, "a change entered the log");
        Ok(at)
    }

    /// Runs a rule over the log that was kept.
    ///
    /// **Errors**: 400 that names the field; 503 if that cannot be done now.
    pub async fn test_rule(&self, test: RuleTest) -> Result<Tested, ApiError> {
        Ok(self.0.test_rule(test).await?)
    }

    /// Submits a change and says where it stands.
    ///
    /// **Errors**: 400 that names the field; 503 if the log does not take it.
    pub async fn submit(
        &self,
        change: Change,
        kind: &'static str,
        name: String,
        action: &'static str,
    ) -> Result<(StatusCode, Json<Accepted>), ApiError> {
        let at = self.append(change, kind, &name, action).await?;
        let accepted = Accepted {
            kind,
            name,
            action,
            at,
        };
        Ok((StatusCode::ACCEPTED, Json(accepted)))
    }
}

impl Writer {
    /// Sends a notification again, and says under which id its row is found.
    ///
    /// **Errors**: 404, 409; 503 if it cannot be saved now.
    pub async fn resend(&self, id: String) -> Result<String, ApiError> {
        let again = self.0.resend(id.clone()).await?;
        tracing::info!(id, again, "a notification is sent again by hand");
        Ok(again)
    }
}

/// A browser says which page a call comes from; only pages of this server may change things.
fn same_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let foreign = || ApiError::wrong_origin();
    if text(header::HeaderName::from_static("sec-fetch-site"))
        .is_some_and(|s| s != "same-origin" && s != "none")
    {
        return Err(foreign());
    }
    if !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let origin = text(header::ORIGIN).and_then(|o| o.split_once("://"));
    let host = text(header::HOST);
    match (origin, host) {
        (Some(("http" | "https", origin)), Some(host)) if origin.eq_ignore_ascii_case(host) => {
            Ok(())
        }
        _ => Err(foreign()),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

/// A name in the path.
///
/// **Errors**: 400 if it is not UTF-8.
pub fn name(path: Result<Path<String>, PathRejection>, field: &str) -> Result<String, ApiError> {
    path.map(|Path(name)| name)
        .map_err(|_| ApiError::bad_parameter(field, "is not UTF-8 behind its percent signs"))
}

/// A JSON object as it came, read strictly: what is not known is refused.
#[derive(Debug)]
pub struct Body(pub Map<String, Value>);

impl Body {
    /// Reads a body whose fields are among `known`; any, if that is empty. None at all counts as `{}`.
    ///
    /// **Errors**: 400 that names the field, 413.
    pub fn read(bytes: Result<Bytes, BytesRejection>, known: &[&str]) -> Result<Self, ApiError> {
        let bytes = bytes.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(BODY_BYTES_MAX),
            _ => ApiError::bad_parameter("body", "the body did not come whole"),
        })?;
        if bytes.is_empty() {
            return Ok(Self(Map::new()));
        }
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|e| ApiError::bad_parameter("body", format!("is not JSON: {e}")))?;
        let Value::Object(map) = value else {
            return Err(ApiError::bad_parameter("body", "must be a JSON object"));
        };
        let strange = map.keys().find(|k| !known.contains(&k.as_str()));
        if let Some(strange) = strange.filter(|_| !known.is_empty()) {
            let message = format!(
                "there is no field `{}`; there are {}",
                clip(strange),
                known.join(", ")
            );
            return Err(ApiError::bad_parameter(strange, message));
        }
        Ok(Self(map))
    }

    /// A name in the body, if there is one, must be that of the path.
    ///
    /// **Errors**: 400.
    pub fn name_is(&self, name: &str) -> Result<(), ApiError> {
        match self.0.get("name") {
            Some(Value::String(own)) if own == name => Ok(()),
            None => Ok(()),
            Some(_) => Err(ApiError::bad_parameter(
                "name",
                format!("must be `{}`, as in the path, or absent", clip(name)),
            )),
        }
    }

    /// A text.
    ///
    /// **Errors**: 400 if it is something else.
    pub fn text(&self, field: &str) -> Result<Option<&str>, ApiError> {
        match self.0.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(ApiError::bad_parameter(field, "must be a text in quotes")),
        }
    }

    /// A list of texts.
    ///
    /// **Errors**: 400 if it is something else, or has more than 64.
    pub fn texts(&self, field: &str) -> Result<Vec<String>, ApiError> {
        let wrong = || {
            let message = format!("must be a list of at most {LIST_MAX} texts");
            ApiError::bad_parameter(field, message)
        };
        match self.0.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) if items.len() <= LIST_MAX => {
                let text = |v: &Value| v.as_str().map(str::to_owned).ok_or_else(wrong);
                items.iter().map(text).collect()
            }
            Some(_) => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn origin(pairs: &[(&'static str, &'static str)], allowed: bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        assert_eq!(same_origin(&headers).is_ok(), allowed, "{pairs:?}");
    }

    #[test]
    fn only_our_own_pages_and_programs_may_write() {
        let host = ("host", "localhost:8080");
        origin(&[host], true);
        origin(&[host, ("origin", "http://localhost:8080")], true);
        origin(&[host, ("origin", "HTTPS://x"), ("host", "x")], false);
        origin(&[host, ("origin", "http://localhost:9090")], false);
        origin(&[host, ("origin", "http://evil.example")], false);
        origin(&[host, ("origin", "null")], false);
        origin(&[host, ("sec-fetch-site", "cross-site")], false);
        origin(&[host, ("sec-fetch-site", "same-origin")], true);
    }

    #[test]
    fn bodies_are_objects_with_known_fields() {
        let read = |text: &'static str| Body::read(Ok(Bytes::from_static(text.as_bytes())), &["a"]);
        assert!(read("").unwrap().0.is_empty());
        assert_eq!(read("{\"a\": \"x\"}").unwrap().text("a"), Ok(Some("x")));
        for bad in ["[]", "{", "{\"b\": 1}", "1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read("{\"a\": 1}").unwrap().text("a").is_err());
        assert!(read("{\"a\": [1]}").unwrap().texts("a").is_err());
    }
}
