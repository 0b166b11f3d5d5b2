//! Rules: as they are declared, and changes at run time.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use event::EventTime;
use serde_json::Value;

use super::error::clip;
use super::params::Params;
use super::write::{Accepted, Body, Writer, name};
use super::{ApiError, ErrorBody, Listing, Shared};
use crate::control::{Change, RuleTest, Tested};

/// Most rules.
const RULES_MAX: usize = 1000;

/// The rules.
#[utoipa::path(get, path = "/api/v1/rules", tag = "alerts", responses(
    (status = 200, body = Listing<Value>, description = "In the order of their declaration"),
    (status = 400, body = ErrorBody, description = "A parameter that is not known"),
))]
pub async fn rules(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<Listing<Value>>, ApiError> {
    Params::none(&uri)?;
    let items = shared.query(|views| views.rules()).await?;
    Ok(Json(Listing { items }))
}

/// One rule.
#[utoipa::path(get, path = "/api/v1/rules/{name}", tag = "alerts", params(
    ("name" = String, Path, description = "Its name"),
), responses(
    (status = 200, body = Value, description = "The rule as it is declared"),
    (status = 404, body = ErrorBody, description = "No such rule"),
))]
pub async fn rule(
    State(shared): State<Shared>,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Json<Value>, ApiError> {
    Params::none(&uri)?;
    let name = name(path, "name")?;
    let unknown = unknown(&name);
    let rule = shared.query(move |views| views.rule(&name)).await?;
    rule.map(Json).ok_or(unknown)
}

/// Declare a rule, or change it.
///
/// The body is the rule as `GET` shows it: what it needs depends on its `kind`. Its name may be left out.
#[utoipa::path(put, path = "/api/v1/rules/{name}", tag = "alerts", params(
    ("name" = String, Path, description = "Its name"),
), request_body = Object, responses(
    (status = 202, body = Accepted, description = "Durable; takes effect within about a second"),
    (status = 400, body = ErrorBody, description = "A wrong field"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 415, body = ErrorBody, description = "Not `application/json`"),
    (status = 503, body = ErrorBody, description = "Not ready, or the log takes nothing now"),
))]
pub async fn set_rule(
    writer: Writer,
    State(shared): State<Shared>,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let name = name(path, "name")?;
    let Body(mut rule) = {
        let body = Body::read(body, &[])?;
        body.name_is(&name)?;
        body
    };
    rule.insert("name".to_owned(), Value::String(name.clone()));
    let others = shared.query(|views| views.rules()).await?;
    if others.len() >= RULES_MAX && !others.iter().any(|r| r["name"] == *name) {
        let message = format!("there are {RULES_MAX} rules, which is the most");
        return Err(ApiError::bad_parameter("name", message));
    }
    let change = Change::SetRule(Value::Object(rule));
    writer.submit(change, "rule", name, "set").await
}

/// Remove a rule.
///
/// Its open alerts end with it.
#[utoipa::path(delete, path = "/api/v1/rules/{name}", tag = "alerts", params(
    ("name" = String, Path, description = "Its name"),
), responses(
    (status = 202, body = Accepted, description = "Durable; takes effect within about a second"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 404, body = ErrorBody, description = "No such rule"),
    (status = 503, body = ErrorBody, description = "Not ready, or the log takes nothing now"),
))]
pub async fn remove_rule(
    writer: Writer,
    State(shared): State<Shared>,
    path: Result<Path<String>, PathRejection>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let name = name(path, "name")?;
    let known = name.clone();
    if shared
        .query(move |views| views.rule(&known))
        .await?
        .is_none()
    {
        return Err(unknown(&name));
    }
    let change = Change::RemoveRule(name.clone());
    writer.submit(change, "rule", name, "removed").await
}

/// Try a rule.
///
/// The episodes that a rule would have raised over the log that the server has kept, by the code that runs live.
/// The body has `rule` (as for `PUT`), and may have `from` and `to` (RFC 3339, event time) and `device`. One test at
/// a time.
#[utoipa::path(post, path = "/api/v1/rules/test", tag = "alerts", request_body = Object, responses(
    (status = 200, body = Tested, description = "What it would have found"),
    (status = 400, body = ErrorBody, description = "A wrong field, of the rule too"),
    (status = 403, body = ErrorBody, description = "Changes, and tests, are not accepted here, or from that page"),
    (status = 415, body = ErrorBody, description = "Not `application/json`"),
    (status = 503, body = ErrorBody, description = "Not ready, or another test is under way"),
))]
pub async fn test_rule(
    writer: Writer,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Tested>, ApiError> {
    let Body(mut body) = Body::read(body, &["rule", "from", "to", "device"])?;
    let Some(mut rule) = body.remove("rule") else {
        return Err(ApiError::bad_parameter("rule", "is missing".to_owned()));
    };
    // A rule that is only tried needs no name.
    if let Some(rule) = rule.as_object_mut() {
        rule.entry("name").or_insert_with(|| "test".into());
    }
    let time = |field: &str| match body.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_str().map(EventTime::parse_rfc3339) {
            Some(Ok(time)) => Ok(Some(time.as_micros())),
            _ => {
                let message = "must be a time as \"2026-01-31T12:00:00Z\"".to_owned();
                Err(ApiError::bad_parameter(field, message))
            }
        },
    };
    let device = match body.get("device") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) => Some(id.clone()),
        Some(_) => {
            let message = "must be a text in quotes".to_owned();
            return Err(ApiError::bad_parameter("device", message));
        }
    };
    let test = RuleTest {
        rule,
        from: time("from")?,
        to: time("to")?,
        device,
    };
    Ok(Json(writer.test_rule(test).await?))
}

fn unknown(name: &str) -> ApiError {
    ApiError::not_found(format!("rule `{}` is not known", clip(name))).with_field("name")
}
