//! Alerts.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use views::model::Alert;

use super::params::Params;
use super::{ApiError, Counted, ErrorBody, Shared, cut};

const STATES: [&str; 3] = ["pending", "firing", "resolved"];

/// Alerts, newest first.
///
/// By the time at which they were learned. The oldest resolved ones are forgotten beyond 1000 in a
/// partition.
#[utoipa::path(get, path = "/api/v1/alerts", tag = "alerts", params(
    ("state" = Option<String>, Query, description = "`pending`, `firing` or `resolved`"),
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most alerts"),
    ("after" = Option<String>, Query, description = "`next` of the page before"),
), responses(
    (status = 200, body = Counted<Alert>, description = "A page of alerts"),
    (status = 400, body = ErrorBody, description = "A wrong parameter"),
))]
pub async fn alerts(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<Counted<Alert>>, ApiError> {
    let params = Params::read(&uri, &["state", "limit", "after"], &[])?;
    let state = params.choice("state", &STATES)?.map(str::to_owned);
    let (after, limit) = (params.after(), params.limit()?);
    let page = shared
        .query(move |views| views.alerts(state.as_deref(), after.as_deref(), limit + 1))
        .await?;
    let (items, next) = cut(page.items, limit, |a| a.id.clone());
    Ok(Json(Counted {
        items,
        next,
        total: page.total,
    }))
}
