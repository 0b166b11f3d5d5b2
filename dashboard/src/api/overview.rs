//! The fleet at a glance.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use views::model::Overview;

use super::params::Params;
use super::{ApiError, ErrorBody, Shared};

/// The fleet at a glance.
///
/// Devices by state, the ledger of events, alerts, and the completeness of the newest windows.
#[utoipa::path(get, path = "/api/v1/overview", tag = "fleet", responses(
    (status = 200, body = Overview, description = "The state known now"),
    (status = 400, body = ErrorBody, description = "A parameter that is not known"),
))]
pub async fn overview(State(shared): State<Shared>, uri: Uri) -> Result<Json<Overview>, ApiError> {
    Params::none(&uri)?;
    Ok(Json(shared.query(|views| views.overview()).await?))
}
