//! Which requests may leave at all.
//!
//! Limits and budgets, when they come, are further reasons to refuse, decided here.

use http::{Method, Request, StatusCode, uri::PathAndQuery};

/// What to do with a request.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Send it on, with this path and query.
    Forward(PathAndQuery),
    /// Say that somebody is here. The CLI asks so before its first request.
    Hello,
    /// Say no.
    Refuse(Refusal),
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It wants a part of the API that a worker has no use for.
    Path,
}

impl Refusal {
    /// Returns the status of the answer, the API's name for that kind of error, and the reason.
    pub(crate) fn answer(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Path => (
                StatusCode::NOT_FOUND,
                "not_found_error",
                "gateway: only paths under /v1/ and /api/hello of the model's API are let through",
            ),
        }
    }
}

/// Returns whether a request is for another host than the one it came to: the egress proxy's business.
pub(crate) fn is_for_elsewhere<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT || request.uri().authority().is_some()
}

/// Decides about a request to the model's API by its first line alone.
pub(crate) fn judge<B>(request: &Request<B>) -> Verdict {
    let uri = request.uri();
    match uri.path() {
        "/api/hello" if request.method() == Method::HEAD => return Verdict::Hello,
        "/api/hello" => {}
        path if path.starts_with("/v1/") && !climbs(path) => {}
        _ => return Verdict::Refuse(Refusal::Path),
    }
    match uri.path_and_query() {
        Some(path) => Verdict::Forward(path.clone()),
        None => Verdict::Refuse(Refusal::Path),
    }
}

/// Returns whether the path has a `.` or `..` in it, in any spelling that a server may take for
/// one. Such a path begins under `/v1/` and ends elsewhere.
fn climbs(path: &str) -> bool {
    let mut plain = path.to_ascii_lowercase();
    for (spelling, meaning) in [("%2e", "."), ("%2f", "/"), ("%5c", "/"), ("\\", "/")] {
        plain = plain.replace(spelling, meaning);
    }
    plain.split('/').any(|part| part == "." || part == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(method: Method, uri: &str) -> Verdict {
        judge(&Request::builder().method(method).uri(uri).body(()).unwrap())
    }

    #[test]
    fn only_the_api_is_let_through() {
        for uri in ["/v1/messages?beta=true", "/v1/models", "/v1/a..b/...", "/api/hello"] {
            assert!(matches!(verdict(Method::POST, uri), Verdict::Forward(_)), "{uri}");
        }
        assert!(matches!(verdict(Method::HEAD, "/api/hello"), Verdict::Hello));
        for uri in ["/", "/v1", "/v2/x", "/api/hello/x", "/api/oauth", "*"] {
            let verdict = verdict(Method::GET, uri);
            assert!(matches!(verdict, Verdict::Refuse(Refusal::Path)), "{uri}");
        }
    }

    #[test]
    fn path_that_climbs_out_is_refused() {
        for uri in [
            "/v1/../admin",
            "/v1/./x",
            "/v1/..",
            "/v1/%2e%2E/admin",
            "/v1/.%2e/admin",
            "/v1/..%2fadmin",
            "/v1/x%5C..%5c/admin",
        ] {
            let verdict = verdict(Method::GET, uri);
            assert!(matches!(verdict, Verdict::Refuse(Refusal::Path)), "{uri}");
        }
    }

    #[test]
    fn request_for_another_host_is_the_egress_proxys() {
        for (method, uri, expected) in [
            (Method::GET, "http://example.com/v1/messages", true),
            (Method::CONNECT, "example.com:443", true),
            (Method::POST, "/v1/messages", false),
            (Method::GET, "//example.com/", false),
        ] {
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            assert_eq!(is_for_elsewhere(&request), expected, "{uri}");
        }
    }
}
