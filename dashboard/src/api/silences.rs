//! Silences and maintenance.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use event::operate::silence_id;
use event::{EventTime, Matcher, Operation, SilenceKind, SilenceSpec};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use views::oncall::Silence;

use super::error::clip;
use super::params::Params;
use super::write::{Accepted, Body, Writer, name};
use super::{ApiError, ErrorBody, Listing, Shared};
use crate::control::{Change, Place};

/// Who ends a silence where nobody is named.
const SOMEBODY: &str = "somebody through the API";

/// Silences, maintenance, and the weekly maintenance windows of the configuration, newest first.
///
/// Expired ones are shown for five days; there are at most 1000.
#[utoipa::path(get, path = "/api/v1/silences", tag = "alerts", params(
    ("state" = Option<String>, Query, description = "`pending`, `active` or `expired`"),
), responses(
    (status = 200, body = Listing<Silence>, description = "All of them"),
    (status = 400, body = ErrorBody, description = "A wrong parameter"),
))]
pub async fn silences(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<Listing<Silence>>, ApiError> {
    let params = Params::read(&uri, &["state"], &[])?;
    let states = ["pending", "active", "expired"];
    let state = params.choice("state", &states)?.map(str::to_owned);
    let mut items = shared.query(|views| views.silences()).await?;
    items.retain(|s| state.as_ref().is_none_or(|state| s.state == state));
    Ok(Json(Listing { items }))
}

/// One silence.
#[utoipa::path(get, path = "/api/v1/silences/{id}", tag = "alerts", params(
    ("id" = String, Path, description = "Its id"),
), responses(
    (status = 200, body = Silence, description = "The silence"),
    (status = 404, body = ErrorBody, description = "No such silence"),
))]
pub async fn silence(
    State(shared): State<Shared>,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Json<Silence>, ApiError> {
    Params::none(&uri)?;
    let id = name(path, "id")?;
    let unknown = unknown(&id);
    let found = shared.query(move |views| views.silence(&id)).await?;
    found.map(Json).ok_or(unknown)
}

/// A condition on a label: `alertname` (the rule), `severity`, `metric`, `kind`, `device`, `agent`, an attribute
/// of the device or a label of the rule.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(
    dead_code,
    reason = "for the description; the body is read field by field"
)]
pub struct MatcherBody {
    /// The label.
    name: String,
    /// Its text.
    value: String,
    /// Whether `value` is a regular expression for the whole text; false if absent.
    is_regex: Option<bool>,
    /// False turns the condition round; true if absent.
    is_equal: Option<bool>,
}

/// Which alerts nobody is told of, and when.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "for the description; the body is read field by field"
)]
pub struct SilenceBody {
    /// Changes the silence of that id, if it is not over; a new one if absent.
    id: Option<String>,
    /// `silence` (the default), or `maintenance`: then rules give no commands either.
    kind: Option<String>,
    /// All must hold: 1 to 20.
    matchers: Vec<MatcherBody>,
    /// RFC 3339; now if absent.
    starts_at: Option<String>,
    /// RFC 3339.
    ends_at: String,
    /// Name of the person, at most 128 bytes.
    by: String,
    /// What for, at most 1024 bytes.
    comment: Option<String>,
}

const FIELDS: [&str; 7] = [
    "id",
    "kind",
    "matchers",
    "starts_at",
    "ends_at",
    "by",
    "comment",
];

/// Silence alerts for some time, or change a silence.
///
/// While it is active nobody is told of the alerts that match. What still fires when it ends, pages then. The
/// answer names the silence.
#[utoipa::path(post, path = "/api/v1/silences", tag = "alerts", request_body = SilenceBody, responses(
    (status = 202, body = Accepted, description = "Durable; takes effect within about a second"),
    (status = 400, body = ErrorBody, description = "A wrong field"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 415, body = ErrorBody, description = "Not `application/json`"),
    (status = 503, body = ErrorBody, description = "Not ready, or the log takes nothing now"),
))]
pub async fn set_silence(
    writer: Writer,
    State(shared): State<Shared>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let body = Body::read(body, &FIELDS)?;
    let kind = match body.text("kind")? {
        None | Some("silence") => SilenceKind::Silence,
        Some("maintenance") => SilenceKind::Maintenance,
        Some(_) => {
            let message = "must be `silence` or `maintenance`";
            return Err(ApiError::bad_parameter("kind", message));
        }
    };
    let wrong_matchers = |e: serde_json::Error| {
        let message =
            format!("must be a list of {{\"name\", \"value\", \"isRegex\", \"isEqual\"}}: {e}");
        ApiError::bad_parameter("matchers", message)
    };
    let matchers = body.0.get("matchers").cloned().unwrap_or(Value::Null);
    let matchers: Vec<Matcher> = serde_json::from_value(matchers).map_err(wrong_matchers)?;
    let starts = time(&body, "starts_at")?;
    let ends = time(&body, "ends_at")?;
    let ends =
        ends.ok_or_else(|| ApiError::bad_parameter("ends_at", "`ends_at` is needed, RFC 3339"))?;
    let spec = SilenceSpec {
        kind,
        matchers,
        starts: starts.unwrap_or(i64::MIN),
        ends,
        by: body.needed("by")?.to_owned(),
        comment: body.text("comment")?.unwrap_or_default().to_owned(),
    };
    let old = body.text("id")?.map(str::to_owned);
    let (id, at) = submit(&writer, &shared, old, spec).await?;
    Ok(accepted(id, "set", at))
}

/// Enters a silence into the log. Its id, and where it stands.
pub(super) async fn submit(
    writer: &Writer,
    shared: &Shared,
    old: Option<String>,
    mut spec: SilenceSpec,
) -> Result<(String, Vec<Place>), ApiError> {
    let asked = old.clone().unwrap_or_default();
    let (now, known) = shared
        .query(move |views| (views.now(), views.silence(&asked)))
        .await?;
    let now = now.unwrap_or_default();
    if let Some(old) = &old {
        let known = known.ok_or_else(|| unknown(old))?;
        if known.weekly {
            let message = "the window is part of the configuration and is changed there";
            return Err(ApiError::conflict(message).with_field("id"));
        }
        if known.ends_at.0 <= now {
            let message = "the silence is over; make a new one, without an id";
            return Err(ApiError::conflict(message).with_field("id"));
        }
    }
    if spec.starts == i64::MIN {
        spec.starts = now;
    }
    if spec.ends <= now {
        return Err(ApiError::bad_parameter("ends_at", "is in the past"));
    }
    let operation = Operation::Silence {
        id: old.clone(),
        spec,
    };
    let name = old.as_deref().unwrap_or("new");
    let at = writer
        .append(Change::Operate(operation), "silence", name, "set")
        .await?;
    let offset = at.first().map_or(0, |p| p.offset);
    Ok((old.unwrap_or_else(|| silence_id(offset)), at))
}

/// Who ends it.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "for the description; the body is read field by field"
)]
pub struct ExpireBody {
    /// Name of the person, at most 128 bytes.
    by: Option<String>,
}

/// End a silence now.
///
/// There may be a body that says who.
#[utoipa::path(delete, path = "/api/v1/silences/{id}", tag = "alerts", params(
    ("id" = String, Path, description = "Its id"),
), request_body = ExpireBody, responses(
    (status = 202, body = Accepted, description = "Durable; takes effect within about a second"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 404, body = ErrorBody, description = "No such silence"),
    (status = 409, body = ErrorBody, description = "It is part of the configuration"),
    (status = 503, body = ErrorBody, description = "Not ready, or the log takes nothing now"),
))]
pub async fn expire_silence(
    writer: Writer,
    State(shared): State<Shared>,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let id = name(path, "id")?;
    let body = Body::read(body, &["by"])?;
    let by = body.text("by")?.unwrap_or(SOMEBODY).to_owned();
    let at = expire(&writer, &shared, &id, by).await?;
    Ok(accepted(id, "expired", at))
}

/// Ends a silence.
pub(super) async fn expire(
    writer: &Writer,
    shared: &Shared,
    id: &str,
    by: String,
) -> Result<Vec<Place>, ApiError> {
    let asked = id.to_owned();
    let known = shared.query(move |views| views.silence(&asked)).await?;
    if known.ok_or_else(|| unknown(id))?.weekly {
        let message = "the window is part of the configuration and is changed there";
        return Err(ApiError::conflict(message).with_field("id"));
    }
    let operation = Operation::Expire {
        id: id.to_owned(),
        by,
    };
    let change = Change::Operate(operation);
    writer.append(change, "silence", id, "expired").await
}

fn accepted(name: String, action: &'static str, at: Vec<Place>) -> (StatusCode, Json<Accepted>) {
    let accepted = Accepted {
        kind: "silence",
        name,
        action,
        at,
    };
    (StatusCode::ACCEPTED, Json(accepted))
}

fn time(body: &Body, field: &str) -> Result<Option<i64>, ApiError> {
    let Some(text) = body.text(field)? else {
        return Ok(None);
    };
    match EventTime::parse_rfc3339(text) {
        Ok(time) => Ok(Some(time.0)),
        Err(_) => {
            let message = format!(
                "`{}` is no time; give RFC 3339 such as 2026-11-22T06:37:10Z",
                clip(text)
            );
            Err(ApiError::bad_parameter(field, message))
        }
    }
}

fn unknown(id: &str) -> ApiError {
    ApiError::not_found(format!("silence `{}` is not known", clip(id))).with_field("id")
}
