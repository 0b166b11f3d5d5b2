//! The ledger: where every event went.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use views::model::{Ledger, TooOldItem};

use super::params::Params;
use super::{ApiError, ErrorBody, Paged, Shared, cut};

/// Where every event went.
///
/// `accepted = counted + duplicate + quarantined + too_old`, and whether it does.
#[utoipa::path(get, path = "/api/v1/ledger", tag = "system", responses(
    (status = 200, body = Ledger, description = "The ledger of all partitions"),
    (status = 400, body = ErrorBody, description = "A parameter that is not known"),
))]
pub async fn ledger(State(shared): State<Shared>, uri: Uri) -> Result<Json<Ledger>, ApiError> {
    Params::none(&uri)?;
    Ok(Json(shared.query(|views| views.ledger()).await?))
}

/// Events that were older than every retention tier, by day and device.
#[utoipa::path(get, path = "/api/v1/ledger/too_old", tag = "system", params(
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most entries"),
    ("after" = Option<String>, Query, description = "`next` of the page before"),
), responses(
    (status = 200, body = Paged<TooOldItem>, description = "A page, ascending by day and device"),
    (status = 400, body = ErrorBody, description = "A wrong parameter"),
))]
pub async fn too_old(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<Paged<TooOldItem>>, ApiError> {
    let params = Params::read(&uri, &["limit", "after"], &[])?;
    let limit = params.limit()?;
    let after = params.text("after").map(cursor).transpose()?;
    let items = shared
        .query(move |views| views.too_old(after.as_ref(), limit + 1))
        .await?;
    let (items, next) = cut(items, limit, |t| format!("{}:{}", t.day.0, t.device));
    Ok(Json(Paged { items, next }))
}

fn cursor(text: &str) -> Result<(i64, String), ApiError> {
    let parsed = text
        .split_once(':')
        .and_then(|(day, device)| Some((day.parse().ok()?, device.to_owned())));
    let strange = "the cursor is not one that this list gave out";
    parsed.ok_or_else(|| ApiError::bad_parameter("after", strange))
}
