//! The key to the model's API.

use std::fmt;

use bytes::Bytes;
use http::{HeaderValue, header::InvalidHeaderValue};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::http1;

/// An API key, added to requests so that their sender need not have it.
///
/// The key's memory is overwritten when the last request that uses it is gone. The
/// buffers of connections hold copies while a request is being sent; those are not overwritten.
pub struct Credential {
    value: HeaderValue,
}

impl Credential {
    /// Takes an API key, which goes out as `x-api-key`. White space around it is removed: keys
    /// are often read from files that end in a newline.
    ///
    /// # Errors
    ///
    /// An empty key, or one with characters that a header can't carry, is refused. The error does
    /// not contain it.
    pub fn api_key(key: String) -> Result<Self, InvalidCredential> {
        let key = Zeroizing::new(key);
        let trimmed = key.trim();
        if trimmed.is_empty() {
            return Err(InvalidCredential::Empty);
        }
        if !trimmed.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidCredential::BadCharacter);
        }
        let bytes = Bytes::from_owner(Secret(trimmed.as_bytes().into()));
        let mut value = HeaderValue::from_maybe_shared(bytes)
            .map_err(|_: InvalidHeaderValue| InvalidCredential::BadCharacter)?;
        value.set_sensitive(true);
        Ok(Self { value })
    }

    /// Returns whether both are the same key.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.value == other.value
    }

    /// Returns the text without the key, should whoever wrote it have quoted what it was sent.
    pub(crate) fn taken_out_of(&self, text: Bytes) -> Bytes {
        let key = self.value.as_bytes();
        if memchr::memmem::find(&text, key).is_none() {
            return text;
        }
        let mut clean = Vec::with_capacity(text.len());
        let mut rest = &text[..];
        while let Some(at) = memchr::memmem::find(rest, key) {
            clean.extend_from_slice(&rest[..at]);
            clean.extend_from_slice(b"(the key)");
            rest = &rest[at + key.len()..];
        }
        clean.extend_from_slice(rest);
        clean.into()
    }

    /// Returns whether a header, whose name is in lower case, is a credential. This one takes its place.
    pub(crate) fn replaces(name: &[u8]) -> bool {
        matches!(name, b"authorization" | b"x-api-key")
    }

    /// Appends the header that carries the key.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        http1::put(out, b"x-api-key", self.value.as_bytes());
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(..)")
    }
}

struct Secret(Box<[u8]>);

impl AsRef<[u8]> for Secret {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Why a text is not an API key. Never contains the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidCredential {
    /// There is no text.
    #[error("the API key is empty")]
    Empty,
    /// There is a space, a control character or a character that is not ASCII.
    #[error("the API key has a character in it that no key has")]
    BadCharacter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_never_printed() {
        let key = Credential::api_key("sk-ant-very-secret\n".to_owned()).unwrap();
        let mut out = Vec::new();
        key.put(&mut out);
        assert_eq!(out, b"x-api-key: sk-ant-very-secret\r\n");
        assert_eq!(format!("{key:?}"), "Credential(..)");
        let error = Credential::api_key("very secret".to_owned()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"));
    }

    #[test]
    fn key_that_is_no_key_is_refused() {
        let refused = |key: &str| Credential::api_key(key.to_owned()).unwrap_err();
        assert_eq!(refused(" \n"), InvalidCredential::Empty);
        assert_eq!(refused("a\r\nx-evil: 1"), InvalidCredential::BadCharacter);
        assert_eq!(refused("ключ"), InvalidCredential::BadCharacter);
    }
}
