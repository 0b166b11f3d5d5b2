//! The description of the API.

use axum::Extension;
use axum::http::header;
use axum::response::IntoResponse;
use bytes::Bytes;

/// The document, written once at the start.
#[derive(Debug, Clone)]
pub struct Text(pub Bytes);

/// This description: OpenAPI.
#[utoipa::path(get, path = "/api/openapi.json", tag = "system", responses(
    (status = 200, body = Object, description = "The OpenAPI document"),
))]
pub async fn description(Extension(Text(text)): Extension<Text>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], text)
}
