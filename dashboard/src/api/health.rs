//! What other programs ask: does it run, is it ready, what does it count.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::{ApiError, ErrorBody, Shared};

/// Whether the process runs.
#[utoipa::path(get, path = "/healthz", tag = "system", responses(
    (status = 200, body = String, content_type = "text/plain", description = "`ok`"),
))]
pub async fn healthz() -> &'static str {
    "ok"
}

/// Whether the processor has caught up since the start.
#[utoipa::path(get, path = "/readyz", tag = "system", responses(
    (status = 200, body = String, content_type = "text/plain", description = "`ok`"),
    (status = 503, body = ErrorBody, description = "Not yet"),
))]
pub async fn readyz(State(shared): State<Shared>) -> Result<&'static str, ApiError> {
    match shared.ready() {
        true => Ok("ok"),
        false => Err(ApiError::not_ready(
            "the processor is still reading what was stored before the start, or the log takes no \
             records (is the disk full?); the server's log says which",
        )),
    }
}

/// Metrics for Prometheus, text format 0.0.4.
#[utoipa::path(get, path = "/metrics", tag = "system", responses(
    (status = 200, body = String, content_type = "text/plain", description = "Metric families"),
))]
pub async fn metrics(State(shared): State<Shared>) -> Result<impl IntoResponse, ApiError> {
    let viewers = shared.hub().viewers();
    let text = shared
        .query(move |views| crate::metrics::render(views, viewers))
        .await?;
    Ok(([(header::CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], text))
}
