//! Errors in the form of Anthropic's API.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The `error` object of an error answer: what kind, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiError {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) message: String,
}

/// The API's error types and the statuses they travel with.
const STATUSES: [(&str, u16); 10] = [
    ("invalid_request_error", 400),
    ("authentication_error", 401),
    ("billing_error", 402),
    ("permission_error", 403),
    ("not_found_error", 404),
    ("request_too_large", 413),
    ("rate_limit_error", 429),
    ("api_error", 500),
    ("timeout_error", 504),
    ("overloaded_error", 529),
];

impl ApiError {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Self {
        Self { kind: kind_of(status).to_owned(), message: message.into() }
    }

    /// Returns the status that this kind of error travels with; 500 when it is not one of the
    /// API's.
    pub(crate) fn status(&self) -> u16 {
        STATUSES.iter().find(|(kind, _)| *kind == self.kind).map_or(500, |(_, status)| *status)
    }

    pub(crate) fn to_json(&self, request_id: &str) -> Value {
        json!({ "type": "error", "error": self, "request_id": request_id })
    }
}

fn kind_of(status: u16) -> &'static str {
    let exact = STATUSES.iter().find(|(_, known)| *known == status).map(|(kind, _)| *kind);
    exact.unwrap_or(if status < 500 { "invalid_request_error" } else { "api_error" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_kind_name_each_other() {
        for (kind, status) in STATUSES {
            let error = ApiError::new(status, "x");
            assert_eq!((error.kind.as_str(), error.status()), (kind, status));
        }
        assert_eq!(ApiError::new(418, "x").kind, "invalid_request_error");
        assert_eq!(ApiError::new(502, "x").kind, "api_error");
    }
}
