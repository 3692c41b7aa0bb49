//! Headers that belong to one connection and not to the message.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE},
};

/// Returns whether a header ends at the next hop, by RFC 9110, section 7.6.1. `Trailer` does not.
fn is_of_the_hop(name: &HeaderName) -> bool {
    // No look into the map: to hash eight names costs more than to compare all that are there.
    [CONNECTION, TRANSFER_ENCODING, TE, UPGRADE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION]
        .contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Removes the headers that end at this hop, also those that `Connection` names. hyper frames the
/// message anew for the next hop.
///
/// What says no more than hyper itself would say on the next hop may stay. That is all there is in almost
/// every message, and to make a map anew is a tenth of the work on a request.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.iter().all(|(name, value)| !is_of_the_hop(name) || says_nothing(name, value)) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    retain(headers, |name| !is_of_the_hop(name) && !named.contains(name));
}

/// Returns whether a header of the hop is what hyper assumes without it, or writes by itself.
fn says_nothing(name: &HeaderName, value: &HeaderValue) -> bool {
    let usual: &[u8] = match *name {
        CONNECTION => b"keep-alive",
        TRANSFER_ENCODING => b"chunked",
        _ => return false,
    };
    value.as_bytes().eq_ignore_ascii_case(usual)
}

/// Keeps the headers whose names `wanted` accepts. `HeaderMap::remove` would move the last one
/// into the gap; this keeps the order.
pub(crate) fn retain(headers: &mut HeaderMap, wanted: impl Fn(&HeaderName) -> bool) {
    if headers.keys().all(&wanted) {
        return;
    }
    let mut kept = HeaderMap::with_capacity(headers.len());
    let mut current = None;
    // The name comes with the first of its values only.
    for (name, value) in std::mem::take(headers) {
        current = name.or(current);
        if let Some(name) = current.as_ref().filter(|name| wanted(name)) {
            kept.append(name, value);
        }
    }
    *headers = kept;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_hop_go_and_all_others_stay_in_order() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Mine"),
            ("accept", "a"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("accept", "b"),
            ("connection", "x-other"),
            ("x-other", "2"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("content-encoding", "br"),
        ] {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }

        strip_hop_by_hop(&mut headers);

        let left: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let expected: [(&str, &[u8]); 3] =
            [("accept", b"a"), ("accept", b"b"), ("content-encoding", b"br")];
        assert_eq!(left, expected);
    }

    #[test]
    fn what_the_hop_says_anyway_may_stay_and_nothing_else() {
        let left = |given: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for &(name, value) in given {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            strip_hop_by_hop(&mut headers);
            headers.len()
        };
        let usual = [("connection", "Keep-Alive"), ("transfer-encoding", "chunked")];
        assert_eq!(left(&usual), 2);
        for unusual in [
            ("connection", "close"),
            ("connection", "x-mine"),
            ("transfer-encoding", "gzip, chunked"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authenticate", "Basic"),
            ("proxy-authorization", "Basic"),
        ] {
            assert_eq!(left(&[usual[0], usual[1], unusual]), 0, "{unusual:?}");
        }
    }
}
