//! What a replica shows on a TCP listener, where anybody on its network could call.

use std::{fmt, str::FromStr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode,
    header::{PROXY_AUTHENTICATE, PROXY_AUTHORIZATION},
};
use subtle::ConstantTimeEq as _;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{admission::is_for_elsewhere, answer, headers::retain, http1::Fields};

/// The header in which a request for the model's API carries the [`Secret`]. The Claude Code CLI
/// sends it when `ANTHROPIC_CUSTOM_HEADERS` says so.
pub const SECRET_HEADER: HeaderName = HeaderName::from_static("x-supervisor-secret");

/// 256 bits: nobody guesses it, so guesses need not be counted.
const BYTES: usize = 32;

/// What tells one replica from another on a TCP listener: 32 random bytes, as 64 hexadecimal digits.
///
/// Its memory is overwritten when the last clone is gone. The buffers of connections hold copies while
/// a request comes in; those are not overwritten.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Returns a new secret, from the system's random numbers.
    ///
    /// # Panics
    ///
    /// If the system has no random numbers.
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; BYTES]);
        getrandom::fill(bytes.as_mut_slice()).expect("the system should have random numbers");
        let mut text = Zeroizing::new(String::with_capacity(2 * BYTES));
        for byte in *bytes {
            for digit in [byte >> 4, byte & 0xf] {
                text.push(char::from_digit(digit.into(), 16).expect("BUG: four bits are a digit"));
            }
        }
        Self(Arc::new(text))
    }

    /// Returns the secret as text, to be handed to its replica and to nobody else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns whether a request for the model's API, with these headers, comes from the replica.
    pub(crate) fn is_shown(&self, fields: &Fields) -> bool {
        fields.only(SECRET_HEADER.as_str()).is_some_and(|value| self.is(value))
    }

    /// Returns the answer to a request that does not come from the replica, or `None` if it does. Takes
    /// the secret out of it. The answer is the same whether the secret is missing or wrong.
    ///
    /// A request for the model's API shows it in [`SECRET_HEADER`], one for the egress proxy as the
    /// password of `Proxy-Authorization: Basic`, with any user name.
    pub(crate) fn turn_away<B>(&self, request: &mut Request<B>) -> Option<Response<Bytes>> {
        let to_proxy = is_for_elsewhere(request);
        let headers = request.headers_mut();
        let shown = if to_proxy { self.is_password(headers) } else { self.is_header(headers) };
        retain(headers, |name| *name != SECRET_HEADER && *name != PROXY_AUTHORIZATION);
        match (shown, to_proxy) {
            (true, _) => None,
            (false, false) => Some(answer::stranger(StatusCode::UNAUTHORIZED)),
            (false, true) => {
                let mut answer = answer::stranger(StatusCode::PROXY_AUTHENTICATION_REQUIRED);
                let challenge = HeaderValue::from_static("Basic realm=\"supervisor\"");
                answer.headers_mut().insert(PROXY_AUTHENTICATE, challenge);
                Some(answer)
            }
        }
    }

    fn is_header(&self, headers: &HeaderMap) -> bool {
        only(headers, &SECRET_HEADER).is_some_and(|value| self.is(value.as_bytes()))
    }

    fn is_password(&self, headers: &HeaderMap) -> bool {
        let password = || {
            let value = only(headers, &PROXY_AUTHORIZATION)?.as_bytes();
            let (scheme, coded) = value.split_at_checked("Basic ".len())?;
            let decoded = Zeroizing::new(STANDARD.decode(coded.trim_ascii()).ok()?);
            let colon = decoded.iter().position(|&byte| byte == b':')?;
            Some(scheme.eq_ignore_ascii_case(b"Basic ") && self.is(&decoded[colon + 1..]))
        };
        password().unwrap_or(false)
    }

    /// Takes as long for every text of the right length. The length is no secret.
    fn is(&self, shown: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(shown).into()
    }
}

/// Returns the value of a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

impl FromStr for Secret {
    type Err = InvalidSecret;

    /// Returns a secret that [`expose`](Self::expose) has written: a replica that outlives the daemon
    /// keeps its own.
    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == 2 * BYTES && text.bytes().all(digit) {
            Ok(Self(Arc::new(Zeroizing::new(text.to_owned()))))
        } else {
            Err(InvalidSecret)
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A text is not a [`Secret`]. Does not contain the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a replica's secret is not {} hexadecimal digits", 2 * BYTES)]
pub struct InvalidSecret;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::fields;

    fn request(to: &str, headers: &[(&str, String)]) -> Request<()> {
        let mut request = Request::get(to);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        request.body(()).unwrap()
    }

    fn basic(user: &str, password: &str) -> String {
        format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
    }

    #[test]
    fn secret_is_let_in_where_it_belongs_and_taken_out() {
        let secret = Secret::generate();
        let text = secret.expose().to_owned();
        for (to, name, value) in [
            ("/v1/messages", "x-supervisor-secret", text.clone()),
            ("http://a.example/", "proxy-authorization", basic("supervisor", &text)),
            ("http://a.example/", "proxy-authorization", basic("", &text)),
            (
                "http://a.example/",
                "proxy-authorization",
                basic("x", &text).replace("Basic", "basic"),
            ),
        ] {
            if to.starts_with('/') {
                assert!(secret.is_shown(&fields(&[(name, value.as_str())])));
            }
            let mut request = request(to, &[("accept", "a".to_owned()), (name, value)]);
            assert!(secret.turn_away(&mut request).is_none(), "{to}");
            assert_eq!(request.headers().len(), 1, "{to}");
        }
    }

    #[test]
    fn whoever_does_not_show_it_is_told_the_same() {
        let secret = Secret::generate();
        let text = secret.expose().to_owned();
        let other = Secret::generate().expose().to_owned();
        let api = "x-supervisor-secret";
        let proxy = "proxy-authorization";
        let mut answers = Vec::new();
        for (to, headers) in [
            ("/v1/messages", vec![]),
            ("/v1/messages", vec![(api, other.clone())]),
            ("/v1/messages", vec![(api, String::new())]),
            ("/v1/messages", vec![(api, text[1..].to_owned())]),
            ("/v1/messages", vec![(api, text.clone() + "0")]),
            ("/v1/messages", vec![(api, text.clone()), (api, other.clone())]),
            ("/v1/messages", vec![(proxy, basic("x", &text))]),
            ("http://a.example/", vec![]),
            ("http://a.example/", vec![(api, text.clone())]),
            ("http://a.example/", vec![(proxy, basic("x", &other))]),
            ("http://a.example/", vec![(proxy, basic(&text, ""))]),
            ("http://a.example/", vec![(proxy, format!("Bearer {text}"))]),
            ("http://a.example/", vec![(proxy, basic("x", &text).replace("Basic", "Other"))]),
            ("http://a.example/", vec![(proxy, "Basic !".to_owned())]),
            ("http://a.example/", vec![(proxy, "Bas".to_owned())]),
            ("http://a.example/", vec![(proxy, basic("x", &text)), (proxy, basic("x", &other))]),
        ] {
            let lines: Vec<_> =
                headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert!(!to.starts_with('/') || !secret.is_shown(&fields(&lines)), "{headers:?}");
            let answer = secret.turn_away(&mut request(to, &headers)).unwrap();
            let expected = if to.starts_with('/') { 401 } else { 407 };
            assert_eq!(answer.status(), expected, "{to} {headers:?}");
            assert_eq!(answer.headers().contains_key(PROXY_AUTHENTICATE), expected == 407);
            answers.push(answer.into_body());
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{answers:?}");
    }

    #[test]
    fn secret_is_new_each_time_survives_as_text_and_is_never_printed() {
        let (one, two) = (Secret::generate(), Secret::generate());
        assert_ne!(one.expose(), two.expose());
        assert_eq!(one.expose().parse::<Secret>().unwrap().expose(), one.expose());
        for text in ["", "a", &one.expose()[1..], &one.expose().replace(|_| true, "G")] {
            assert_eq!(text.parse::<Secret>().unwrap_err(), InvalidSecret);
        }
        assert_eq!(format!("{one:?}"), "Secret(..)");
    }
}
