//! Why a request is not answered as it was meant: a status, and a line that says what to do.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// `{"error": "..."}`.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    error: String,
    /// Seconds after which to try again.
    retry: Option<u64>,
    /// Whether the connection holds something that nobody will read.
    close: bool,
}

impl Refusal {
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into(), retry: None, close: false }
    }

    /// 400.
    pub fn bad(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// 503, to come back later.
    pub fn busy(error: impl Into<String>, seconds: u64) -> Self {
        Self { retry: Some(seconds), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, error) }
    }

    /// And closes the connection.
    pub fn closing(self) -> Self {
        Self { close: true, ..self }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = json_answer(self.status, &json!({ "error": self.error }));
        if let Some(seconds) = self.retry {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.close {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// A body of JSON.
pub fn json_answer(status: StatusCode, value: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{value}\n")).into_response()
}
