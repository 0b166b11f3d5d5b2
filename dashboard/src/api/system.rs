//! The machine room.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use views::model::System;

use super::params::Params;
use super::{ApiError, ErrorBody, Shared};

/// The machine room: version, partitions, lag, files, incidents.
#[utoipa::path(get, path = "/api/v1/system", tag = "system", responses(
    (status = 200, body = System, description = "The state known now"),
    (status = 400, body = ErrorBody, description = "A parameter that is not known"),
))]
pub async fn system(State(shared): State<Shared>, uri: Uri) -> Result<Json<System>, ApiError> {
    Params::none(&uri)?;
    Ok(Json(shared.query(|views| views.system()).await?))
}
