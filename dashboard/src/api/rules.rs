//! Rules: as they are declared, and changes at run time.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use serde_json::Value;

use super::error::clip;
use super::params::Params;
use super::write::{Accepted, Body, Writer, name};
use super::{ApiError, ErrorBody, Listing, Shared};
use crate::control::Change;

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
/// The body is the rule as `GET` shows it: `metric` and `raise` are needed. Its name may be left out.
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

fn unknown(name: &str) -> ApiError {
    ApiError::not_found(format!("rule `{}` is not known", clip(name))).with_field("name")
}
