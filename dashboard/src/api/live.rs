//! The live stream: server-sent events.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};

use super::params::Params;
use super::{ApiError, ErrorBody, Shared};

/// What changes, as it changes.
///
/// Server-sent events: `overview` (the answer of `/api/v1/overview`; at most one a second, at least
/// one every two), `windows` (`{"items": [row], "dropped": n}`: rows that changed since the last
/// such event, at most 500; `dropped` found no room and are to be asked for), `alerts`
/// (`{"items": [alert]}`), `commands` (`{"items": [command], "dropped": n}`, as `windows`) and a comment every 5 s. Ids increase. With `Last-Event-ID` the stream goes
/// on behind that event; if that is no longer possible, or the viewer was too slow, a `reset` event
/// (`{"reason"}`) says that everything is to be loaded again.
#[utoipa::path(get, path = "/api/v1/live", tag = "fleet", params(
    ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event that was seen"),
    ("last_event_id" = Option<String>, Query, description = "The same where no header can be set"),
), responses(
    (status = 200, body = String, content_type = "text/event-stream", description = "The stream"),
    (status = 400, body = ErrorBody, description = "A parameter that is not known"),
    (status = 503, body = ErrorBody, description = "Too many viewers"),
))]
pub async fn live(
    State(shared): State<Shared>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let params = Params::read(&uri, &["last_event_id"], &[])?;
    let in_header = headers.get("last-event-id").map(|v| v.to_str());
    // An id that is not text cannot be one of ours: the stream answers it with `reset`.
    let last = match in_header {
        Some(id) => Some(id.unwrap_or("?")).filter(|id| !id.is_empty()),
        None => params.text("last_event_id"),
    };
    let viewer = shared.hub().join(last, shared.stop().clone());
    let viewer = viewer.ok_or_else(|| ApiError::busy("too many viewers; try again later"))?;
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        // A proxy that collects the stream before it passes it on would make it late.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(viewer)).into_response())
}
