//! Rules, as they are declared.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use serde_json::Value;

use super::error::clip;
use super::params::Params;
use super::{ApiError, ErrorBody, Listing, Shared};

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
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Json<Value>, ApiError> {
    Params::none(&uri)?;
    let Ok(Path(name)) = name else {
        let message = "is not UTF-8 behind its percent signs";
        return Err(ApiError::bad_parameter("name", message));
    };
    let unknown =
        ApiError::not_found(format!("rule `{}` is not known", clip(&name))).with_field("name");
    let rule = shared.query(move |views| views.rule(&name)).await?;
    rule.map(Json).ok_or(unknown)
}
