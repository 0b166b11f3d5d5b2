//! The delivery log.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use views::model::Notification;

use super::params::Params;
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
