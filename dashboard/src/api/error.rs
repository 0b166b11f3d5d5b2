//! What a caller is told when a call cannot be answered: always the same JSON.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use views::QueryError;

use crate::control::ControlError;

/// Longest piece of a caller's text that is repeated in a message, characters.
const ECHO_CHARS_MAX: usize = 80;

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: ErrorDetail,
}

/// What is wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// For programs: `bad_parameter`, `not_found`, `conflict`, `method_not_allowed`, `wrong_host`, `wrong_origin`,
    /// `read_only`, `not_json`, `too_large`, `busy`, `not_ready` or `internal`.
    #[schema(value_type = String)]
    pub code: &'static str,
    /// For people: what is wrong and what would be right.
    pub message: String,
    /// The parameter, or the field of the body, that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

/// A call that cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    field: Option<String>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            field: None,
        }
    }

    /// Its HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// For people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// 400: the parameter `field` is wrong.
    pub fn bad_parameter(field: &str, message: impl Into<String>) -> Self {
        Self {
            field: Some(clip(field)),
            ..Self::new(StatusCode::BAD_REQUEST, "bad_parameter", message)
        }
    }

    /// 404: there is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// 409: as things are it would do harm, or nothing.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// 405: the path exists, but not for this method.
    pub fn method_not_allowed(method: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            format!("{} is not offered here; see `Allow`", clip(method)),
        )
    }

    /// 421: the name in `Host` is not one of this server.
    pub fn wrong_host(message: impl Into<String>) -> Self {
        Self::new(StatusCode::MISDIRECTED_REQUEST, "wrong_host", message)
    }

    /// 403: the call comes from another site's page.
    pub fn wrong_origin() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "wrong_origin",
            "changes are taken from pages of this server and from programs, not from pages of other sites",
        )
    }

    /// 403: this server takes no changes.
    pub fn read_only() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "read_only",
            "changes are not taken on this address: there are no users yet; listen on loopback, or set \
             `dashboard.writes` to \"always\" where everybody who reaches it may change everything",
        )
    }

    /// 415: the body is not declared as JSON.
    pub fn not_json() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "not_json",
            "send JSON with `content-type: application/json`",
        )
    }

    /// 413: the request's body is larger than `limit` bytes.
    pub fn too_large(limit: u64) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("the request's body is larger than {limit} bytes"),
        )
    }

    /// 503: a stated limit is reached; the caller may try again soon.
    pub fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
    }

    /// 503: the server has not caught up since its start.
    pub fn not_ready(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message)
    }

    /// 500: a fault of this server. The cause is in its log, not in the answer.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the server failed to answer; its log says why",
        )
    }

    /// The same with the parameter that it is about.
    pub fn with_field(mut self, field: &str) -> Self {
        self.field = Some(clip(field));
        self
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Invalid { field, message } => Self::bad_parameter(&field, message),
            ControlError::Unavailable(message) => Self::busy(message),
            ControlError::NotFound(message) => Self::not_found(message),
            ControlError::Conflict(message) => Self::conflict(message),
        }
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        let message = error.to_string();
        match error {
            QueryError::UnknownAggregate(_) => Self::not_found(message).with_field("aggregate"),
            QueryError::UnknownGroupKey { key, .. } | QueryError::GroupNeeded(key) => {
                Self::bad_parameter(&format!("group.{key}"), message)
            }
            QueryError::Unaligned { .. } | QueryError::TimeOutOfRange(_) => {
                Self::bad_parameter("start", message)
            }
            QueryError::BadCursor => Self::bad_parameter("after", message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            error: ErrorDetail {
                code: self.code,
                message: self.message,
                field: self.field,
            },
        };
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            let wait = HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, wait);
        }
        response
    }
}

/// A caller's text, short enough to be repeated.
pub fn clip(text: &str) -> String {
    match text.char_indices().nth(ECHO_CHARS_MAX) {
        Some((i, _)) => format!("{}…", &text[..i]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_of_a_caller_is_not_repeated_whole() {
        assert_eq!(clip("short"), "short");
        assert_eq!(clip(&"ü".repeat(80)), "ü".repeat(80));
        assert_eq!(clip(&"ü".repeat(81)), format!("{}…", "ü".repeat(80)));
    }
}
