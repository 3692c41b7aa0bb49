//! Headers that belong to one connection and not to the message.

use http::{
    HeaderMap, HeaderName,
    header::{CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE},
};

/// Headers that end at the next hop, by RFC 9110, section 7.6.1. `Trailer` is not among them.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Removes the headers that end at this hop, also those that `Connection` names. hyper frames the
/// message anew for the next hop.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    retain(headers, |name| !HOP_BY_HOP.contains(name) && !named.contains(name));
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
}
