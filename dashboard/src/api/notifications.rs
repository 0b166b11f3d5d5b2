//! The delivery log.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use views::model::Notification;

use super::params::Params;
use super::write::{Body, Writer, name};
use super::{ApiError, ErrorBody, Listing, Shared};

/// Notifications, newest first.
///
/// Only what memory holds: the newest 1000.
#[utoipa::path(get, path = "/api/v1/notifications", tag = "alerts", params(
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most entries"),
), responses(
    (status = 200, body = Listing<Notification>, description = "The newest ones"),
    (status = 400, body = ErrorBody, description = "A wrong parameter"),
))]
pub async fn notifications(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<Listing<Notification>>, ApiError> {
    let limit = Params::read(&uri, &["limit"], &[])?.limit()?;
    let items = shared
        .query(move |views| views.notifications(limit))
        .await?;
    Ok(Json(Listing { items }))
}

/// A notification that is sent again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Again {
    /// The `id` of its row in the delivery log.
    id: String,
}

/// There is nothing to say.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "for the description; the body is read field by field"
)]
pub struct ResendBody {}

/// Send a finished notification again
///
/// Under the same idempotency key, to the same notifier: a receiver that has it already may well say so and do
/// nothing. The begin of a page that is over is not sent again, because nothing would end it.
#[utoipa::path(post, path = "/api/v1/notifications/{id}/resend", tag = "alerts", params(
    ("id" = String, Path, description = "The row's `id`, such as `ops:4f1c…:raised`"),
), request_body = ResendBody, responses(
    (status = 202, body = Again, description = "Durable; it is sent at once"),
    (status = 400, body = ErrorBody, description = "A body with fields"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 404, body = ErrorBody, description = "There is no such notification (any more)"),
    (status = 409, body = ErrorBody, description = "It still waits, its page is over, or its notifier is gone"),
    (status = 415, body = ErrorBody, description = "Not `application/json`"),
    (status = 503, body = ErrorBody, description = "Not ready, or it cannot be saved now"),
))]
pub async fn resend(
    writer: Writer,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Again>), ApiError> {
    let id = name(path, "id")?;
    // There is nothing to say, so nothing is taken.
    let Body(body) = Body::read(body, &[])?;
    if let Some(strange) = body.keys().next() {
        return Err(ApiError::bad_parameter(
            strange,
            "this call takes no fields",
        ));
    }
    let id = writer.resend(id).await?;
    Ok((StatusCode::ACCEPTED, Json(Again { id })))
}
