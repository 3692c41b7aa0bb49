//! Which requests may leave at all, as far as their first line tells.

use http::{Method, Request, uri::PathAndQuery};

/// What to do with a request to the model's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Ask the model: it costs money, and is booked.
    Ask,
    /// Ask how long a request to the model is: by the same rules, but it costs nothing.
    Count,
    /// Send it on: it costs nothing.
    Forward {
        /// Whether only an attempt may ask.
        needs_attempt: bool,
    },
    /// Say that somebody is here. The CLI asks so before its first request.
    Hello,
    /// Say no: a worker has no use for that part of the API.
    Refuse,
}

/// Returns whether a request is for another host than the one it came to: the egress proxy's business.
pub(crate) fn is_for_elsewhere<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT || request.uri().authority().is_some()
}

/// Decides about a request to the model's API by its first line alone.
pub(crate) fn judge(method: &Method, path: &PathAndQuery) -> Verdict {
    // To the letter: what a server takes for the same path in another spelling would not be booked.
    match path.path() {
        "/v1/messages" => Verdict::Ask,
        "/api/hello" if *method == Method::HEAD => Verdict::Hello,
        "/api/hello" if *method == Method::GET => Verdict::Forward { needs_attempt: false },
        "/v1/messages/count_tokens" => Verdict::Count,
        "/v1/models" => Verdict::Forward { needs_attempt: true },
        other if other.strip_prefix("/v1/models/").is_some_and(is_name) => {
            Verdict::Forward { needs_attempt: true }
        }
        _ => Verdict::Refuse,
    }
}

/// Returns whether this can be a model's name, and nothing else.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@:".contains(&byte);
    !text.is_empty() && text.bytes().all(plain) && !text.bytes().all(|byte| byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(method: Method, uri: &str) -> Verdict {
        judge(&method, &uri.parse().unwrap())
    }

    #[test]
    fn only_the_api_is_let_through() {
        assert_eq!(verdict(Method::POST, "/v1/messages?beta=true"), Verdict::Ask);
        assert_eq!(verdict(Method::POST, "/v1/messages/count_tokens"), Verdict::Count);
        for uri in ["/v1/models", "/v1/models/claude-x.5@1", "/api/hello"] {
            let needs_attempt = uri != "/api/hello";
            assert_eq!(verdict(Method::GET, uri), Verdict::Forward { needs_attempt }, "{uri}");
        }
        assert_eq!(verdict(Method::HEAD, "/api/hello"), Verdict::Hello);
        for uri in ["/", "/v1", "/v2/x", "/v1/messages/batches", "/api/hello/x", "/api/oauth", "*"]
        {
            assert_eq!(verdict(Method::GET, uri), Verdict::Refuse, "{uri}");
        }
    }

    #[test]
    fn other_spellings_of_a_path_are_refused() {
        for uri in [
            "/v1/messages/",
            "/v1//messages",
            "/v1/./messages",
            "/v1/%6dessages",
            "/V1/messages",
            "/v1/models/../messages",
            "/v1/models/..",
            "/v1/models/x%2f..%2fmessages",
            "/v1/models/x/y",
            "/v1/models/",
        ] {
            assert_eq!(verdict(Method::POST, uri), Verdict::Refuse, "{uri}");
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
