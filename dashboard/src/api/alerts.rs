//! Alerts, and what operators do about them.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use event::Operation;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use views::model::Notification;
use views::oncall::{AlertPage, AlertQuery, CommandDecision, MarkedAlert};

use super::error::clip;
use super::params::Params;
use super::write::{Accepted, Body, Writer, name};
use super::{ApiError, Counted, ErrorBody, Shared, cut};
use crate::control::Change;

const STATES: [&str; 3] = ["pending", "firing", "resolved"];
const SEVERITIES: [&str; 4] = ["info", "warning", "error", "critical"];
const ATTRIBUTE: &str = "attr.";
/// Messages and decisions shown with one alert.
const SHOWN_MAX: usize = 100;

/// Alerts, newest first.
///
/// By the time at which they were learned. The oldest resolved ones are forgotten beyond 1000 in a
/// partition. Filters that are given must all fit.
#[utoipa::path(get, path = "/api/v1/alerts", tag = "alerts", params(
    ("state" = Option<String>, Query, description = "`pending`, `firing` or `resolved`"),
    ("severity" = Option<String>, Query, description = "`info`, `warning`, `error` or `critical`"),
    ("rule" = Option<String>, Query, description = "Name of a rule"),
    ("device" = Option<String>, Query, description = "Id of a device"),
    ("attr.KEY" = Option<String>, Query,
        description = "The device's attribute KEY has this text, such as `attr.site=plant-1`"),
    ("page" = Option<String>, Query, description = "Key of a page that it is in"),
    ("acknowledged" = Option<bool>, Query, description = "Whether somebody looks after it"),
    ("silenced" = Option<bool>, Query,
        description = "Whether it is silenced, in maintenance or inhibited at present"),
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most alerts"),
    ("after" = Option<String>, Query, description = "`next` of the page before"),
), responses(
    (status = 200, body = Counted<MarkedAlert>, description = "A page of alerts"),
    (status = 400, body = ErrorBody, description = "A wrong parameter"),
))]
pub async fn alerts(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<Counted<MarkedAlert>>, ApiError> {
    let known = [
        "state",
        "severity",
        "rule",
        "device",
        "page",
        "acknowledged",
        "silenced",
        "limit",
        "after",
    ];
    let params = Params::read(&uri, &known, &[ATTRIBUTE])?;
    let text = |name| params.text(name).map(str::to_owned);
    let query = AlertQuery {
        state: params.choice("state", &STATES)?.map(str::to_owned),
        severity: params.choice("severity", &SEVERITIES)?.map(str::to_owned),
        rule: text("rule"),
        device: text("device"),
        attributes: params.pairs(ATTRIBUTE),
        acknowledged: params.flag("acknowledged")?,
        silenced: params.flag("silenced")?,
        page: text("page"),
    };
    let (after, limit) = (params.after(), params.limit()?);
    let page = shared
        .query(move |views| views.alerts(&query, after.as_deref(), limit + 1))
        .await?;
    let (items, next) = cut(page.items, limit, |a| a.alert.id.clone());
    Ok(Json(Counted {
        items,
        next,
        total: page.total,
    }))
}

/// One alert with everything around it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct AlertDetail {
    /// The alert.
    #[serde(flatten)]
    alert: MarkedAlert,
    /// The page that it is in.
    in_page: Option<AlertPage>,
    /// What was sent about that page, newest first, at most 100.
    notifications: Vec<Notification>,
    /// What its device was to do because of it, and why it was or was not done.
    commands: Vec<CommandDecision>,
}

/// One alert, its page, what was sent about it, and what its device was told to do.
#[utoipa::path(get, path = "/api/v1/alerts/{id}", tag = "alerts", params(
    ("id" = String, Path, description = "Its id"),
), responses(
    (status = 200, body = AlertDetail, description = "The alert"),
    (status = 404, body = ErrorBody, description = "No such alert, or it is forgotten"),
))]
pub async fn alert(
    State(shared): State<Shared>,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Json<AlertDetail>, ApiError> {
    Params::none(&uri)?;
    let id = name(path, "id")?;
    let unknown = unknown(&id);
    let detail = shared
        .query(move |views| {
            let alert = views.alert(&id)?;
            let key = alert.mark.page.clone();
            let sent = key
                .as_deref()
                .map(|key| views.notifications_of(key, SHOWN_MAX));
            Some(AlertDetail {
                in_page: key.as_deref().and_then(|key| views.alert_page(key)),
                notifications: sent.unwrap_or_default(),
                commands: views.command_decisions(Some(&id), None, SHOWN_MAX).items,
                alert,
            })
        })
        .await?;
    detail.map(Json).ok_or(unknown)
}

/// Who takes it.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "for the description; the body is read field by field"
)]
pub struct AckBody {
    /// Name of the person, at most 128 bytes.
    by: String,
    /// What they say, at most 1024 bytes.
    comment: Option<String>,
}

/// Who gives it back.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "for the description; the body is read field by field"
)]
pub struct ByBody {
    /// Name of the person, at most 128 bytes.
    by: String,
}

/// Acknowledge an alert: somebody looks after it.
///
/// It counts for the whole page that the alert is in: its notifiers are told, nobody is reminded and nothing
/// escalates any more, until a worse alert joins the page.
#[utoipa::path(post, path = "/api/v1/alerts/{id}/ack", tag = "alerts", params(
    ("id" = String, Path, description = "The alert's id"),
), request_body = AckBody, responses(
    (status = 202, body = Accepted, description = "Durable; takes effect within about a second"),
    (status = 400, body = ErrorBody, description = "A wrong field"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 404, body = ErrorBody, description = "No such alert"),
    (status = 409, body = ErrorBody, description = "Nobody was paged for it yet, or it is over"),
    (status = 415, body = ErrorBody, description = "Not `application/json`"),
    (status = 503, body = ErrorBody, description = "Not ready, or the log takes nothing now"),
))]
pub async fn acknowledge(
    writer: Writer,
    State(shared): State<Shared>,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let id = name(path, "id")?;
    let body = Body::read(body, &["by", "comment"])?;
    let operation = Operation::Ack {
        alert: id.clone(),
        by: body.needed("by")?.to_owned(),
        comment: body.text("comment")?.unwrap_or_default().to_owned(),
    };
    must_be_open(&shared, &id).await?;
    let change = Change::Operate(operation);
    writer.submit(change, "alert", id, "acknowledged").await
}

/// Take back an acknowledgement.
///
/// Its notifiers are told, and the escalation of the page begins anew.
#[utoipa::path(post, path = "/api/v1/alerts/{id}/unack", tag = "alerts", params(
    ("id" = String, Path, description = "The alert's id"),
), request_body = ByBody, responses(
    (status = 202, body = Accepted, description = "Durable; takes effect within about a second"),
    (status = 400, body = ErrorBody, description = "A wrong field"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 404, body = ErrorBody, description = "No such alert"),
    (status = 409, body = ErrorBody, description = "Nobody was paged for it yet, or it is over"),
    (status = 415, body = ErrorBody, description = "Not `application/json`"),
    (status = 503, body = ErrorBody, description = "Not ready, or the log takes nothing now"),
))]
pub async fn unacknowledge(
    writer: Writer,
    State(shared): State<Shared>,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let id = name(path, "id")?;
    let body = Body::read(body, &["by"])?;
    let operation = Operation::Unack {
        alert: id.clone(),
        by: body.needed("by")?.to_owned(),
    };
    must_be_open(&shared, &id).await?;
    let change = Change::Operate(operation);
    writer.submit(change, "alert", id, "unacknowledged").await
}

async fn must_be_open(shared: &Shared, id: &str) -> Result<(), ApiError> {
    let asked = id.to_owned();
    let found = shared.query(move |views| views.alert(&asked)).await?;
    let alert = found.ok_or_else(|| unknown(id))?.alert;
    match (alert.state, alert.notified) {
        ("resolved", _) => Err(ApiError::conflict("the alert is over").with_field("id")),
        (_, false) => Err(ApiError::conflict(
            "nobody was paged for the alert yet: it is pending, or its agent has not caught up",
        )
        .with_field("id")),
        _ => Ok(()),
    }
}

/// Pages, newest first: what people got for groups of alerts.
///
/// All open ones, and the newest 1000 closed ones.
#[utoipa::path(get, path = "/api/v1/pages", tag = "alerts", params(
    ("state" = Option<String>, Query, description = "`firing` or `resolved`"),
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most pages"),
    ("after" = Option<String>, Query, description = "`next` of the answer before"),
), responses(
    (status = 200, body = Counted<AlertPage>, description = "Pages"),
    (status = 400, body = ErrorBody, description = "A wrong parameter"),
))]
pub async fn pages(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<Counted<AlertPage>>, ApiError> {
    let params = Params::read(&uri, &["state", "limit", "after"], &[])?;
    let state = params.choice("state", &["firing", "resolved"])?;
    let open = state.map(|s| s == "firing");
    let (after, limit) = (params.after(), params.limit()?);
    let page = shared
        .query(move |views| views.alert_pages(open, after.as_deref(), limit + 1))
        .await?;
    let (items, next) = cut(page.items, limit, |p| p.key.clone());
    Ok(Json(Counted {
        items,
        next,
        total: page.total,
    }))
}

/// What rules had devices do, and what they did not and why, newest first.
///
/// The newest 2000 decisions.
#[utoipa::path(get, path = "/api/v1/automation", tag = "alerts", params(
    ("alert" = Option<String>, Query, description = "Id of an alert"),
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most decisions"),
    ("after" = Option<String>, Query, description = "`next` of the page before"),
), responses(
    (status = 200, body = Counted<CommandDecision>, description = "A page of decisions"),
    (status = 400, body = ErrorBody, description = "A wrong parameter"),
))]
pub async fn automation(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<Counted<CommandDecision>>, ApiError> {
    let params = Params::read(&uri, &["alert", "limit", "after"], &[])?;
    let alert = params.text("alert").map(str::to_owned);
    let (after, limit) = (params.after(), params.limit()?);
    let page = shared
        .query(move |views| views.command_decisions(alert.as_deref(), after.as_deref(), limit + 1))
        .await?;
    let (items, next) = cut(page.items, limit, |d| d.id.clone());
    Ok(Json(Counted {
        items,
        next,
        total: page.total,
    }))
}

fn unknown(id: &str) -> ApiError {
    ApiError::not_found(format!("alert `{}` is not known", clip(id))).with_field("id")
}
