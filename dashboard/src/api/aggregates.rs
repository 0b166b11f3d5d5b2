//! Aggregates: the list, and changes at run time.

use std::collections::BTreeSet;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use event::aggregate::{AGGREGATES_MAX, ALL_METRICS};
use event::{AggregateSpec, Function};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use views::model::Aggregate;

use super::error::clip;
use super::params::Params;
use super::write::{Accepted, Body, Writer, name};
use super::{ApiError, ErrorBody, Listing, Shared};
use crate::control::Change;

const FIELDS: [&str; 6] = ["name", "metric", "group_by", "window", "hop", "functions"];
/// Window where none is given.
const WINDOW_DEFAULT: &str = "10s";

/// What an aggregate is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "for the description; the body is read field by field"
)]
pub struct AggregateBody {
    /// As in the path.
    name: Option<String>,
    /// A metric; `*` (all of them) if absent.
    metric: Option<String>,
    /// Device attributes, or `metric`, whose values make the groups; the whole fleet if absent.
    group_by: Option<Vec<String>>,
    /// Length of a window, such as `10s` (if absent), `5m` or `1h`; at most a day.
    window: Option<String>,
    /// From the start of a window to the start of the next: the window is a whole multiple of it. As the
    /// window if absent.
    hop: Option<String>,
    /// `count`, `sum`, `mean`, `min`, `max`, `distinct_devices` (these six if absent), `distinct_values`,
    /// `p50`, `p90`, `p95`, `p99`.
    functions: Option<Vec<String>>,
}

/// The declared aggregates.
///
/// Each with the groups seen so far, at most 100.
#[utoipa::path(get, path = "/api/v1/aggregates", tag = "windows", responses(
    (status = 200, body = Listing<Aggregate>, description = "In the order of their declaration"),
    (status = 400, body = ErrorBody, description = "A parameter that is not known"),
))]
pub async fn aggregates(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<Listing<Aggregate>>, ApiError> {
    Params::none(&uri)?;
    let items = shared.query(|views| views.aggregates()).await?;
    Ok(Json(Listing { items }))
}

/// Declare an aggregate, or change it.
///
/// A changed one begins anew: with the events that are counted from then on.
#[utoipa::path(put, path = "/api/v1/aggregates/{name}", tag = "windows", params(
    ("name" = String, Path, description = "Its name"),
), request_body = AggregateBody, responses(
    (status = 202, body = Accepted, description = "Durable; takes effect within about a second"),
    (status = 400, body = ErrorBody, description = "A wrong field"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 415, body = ErrorBody, description = "Not `application/json`"),
    (status = 503, body = ErrorBody, description = "Not ready, or the log takes nothing now"),
))]
pub async fn set_aggregate(
    writer: Writer,
    State(shared): State<Shared>,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let name = name(path, "name")?;
    let body = Body::read(body, &FIELDS)?;
    body.name_is(&name)?;
    let spec = spec(&name, &body)?;
    let others = shared.query(|views| views.aggregates()).await?;
    if others.len() >= AGGREGATES_MAX && !others.iter().any(|a| a.name == name) {
        let message = format!("there are {AGGREGATES_MAX} aggregates, which is the most");
        return Err(ApiError::bad_parameter("name", message));
    }
    let change = Change::SetAggregate(spec);
    writer.submit(change, "aggregate", name, "set").await
}

/// Remove an aggregate.
///
/// Its windows go with it.
#[utoipa::path(delete, path = "/api/v1/aggregates/{name}", tag = "windows", params(
    ("name" = String, Path, description = "Its name"),
), responses(
    (status = 202, body = Accepted, description = "Durable; takes effect within about a second"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 404, body = ErrorBody, description = "No such aggregate"),
    (status = 503, body = ErrorBody, description = "Not ready, or the log takes nothing now"),
))]
pub async fn remove_aggregate(
    writer: Writer,
    State(shared): State<Shared>,
    path: Result<Path<String>, PathRejection>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let name = name(path, "name")?;
    let all = shared.query(|views| views.aggregates()).await?;
    if !all.iter().any(|a| a.name == name) {
        let message = format!("aggregate `{}` is not declared", clip(&name));
        return Err(ApiError::not_found(message).with_field("name"));
    }
    let change = Change::RemoveAggregate(name.clone());
    writer.submit(change, "aggregate", name, "removed").await
}

fn spec(name: &str, body: &Body) -> Result<AggregateSpec, ApiError> {
    let window_text = body.text("window")?.unwrap_or(WINDOW_DEFAULT);
    let window = duration("window", window_text)?;
    let hop = match body.text("hop")? {
        Some(text) => duration("hop", text)?,
        None => window,
    };
    let mut functions: BTreeSet<Function> = BTreeSet::new();
    for name in body.texts("functions")? {
        let function = serde_json::from_value(Value::String(name.clone()));
        functions.insert(function.map_err(|_| {
            let known = serde_json::to_string(Function::ALL).unwrap_or_default();
            let message = format!("`{}` is none of {known}", clip(&name));
            ApiError::bad_parameter("functions", message)
        })?);
    }
    if functions.is_empty() {
        functions.extend(Function::EXACT);
    }
    let spec = AggregateSpec {
        name: name.to_owned(),
        metric: body.text("metric")?.unwrap_or(ALL_METRICS).to_owned(),
        group_by: body.texts("group_by")?,
        window,
        hop,
        functions,
    };
    spec.check()
        .map_err(|e| ApiError::bad_parameter(e.field, e.message))?;
    Ok(spec)
}

/// Whole seconds, minutes, hours or days, in microseconds.
pub(super) fn duration(field: &str, text: &str) -> Result<i64, ApiError> {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let parsed = units.into_iter().find_map(|(unit, seconds)| {
        let digits = text.strip_suffix(unit)?;
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let number: i64 = digits.parse().ok().filter(|_| plain)?;
        number.checked_mul(seconds * 1_000_000)
    });
    parsed.ok_or_else(|| {
        let message = format!(
            "`{}` is no duration; write a whole number and s, m, h or d, such as \"10s\"",
            clip(text)
        );
        ApiError::bad_parameter(field, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_a_unit() {
        for (text, seconds) in [("10s", 10), ("5m", 300), ("2h", 7200), ("1d", 86_400)] {
            assert_eq!(duration("window", text), Ok(seconds * 1_000_000));
        }
        for bad in [
            "",
            "s",
            "10",
            "-1s",
            "+1s",
            "1.5s",
            "10ms",
            "9999999999999d",
        ] {
            assert!(duration("window", bad).is_err(), "{bad}");
        }
    }
}
