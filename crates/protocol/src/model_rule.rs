//! Models that a worker may ask, by name.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// A model's name, or the beginning of it and a `*`.
///
/// # Examples
///
/// ```
/// use protocol::ModelRule;
///
/// let rule: ModelRule = "claude-haiku-*".parse()?;
/// assert!(rule.matches("claude-haiku-5-5"));
/// assert!(!rule.matches("claude-opus-5-5"));
/// # Ok::<(), protocol::InvalidModelRule>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelRule(String);

impl ModelRule {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 200;

    /// Returns whether the rule allows this model.
    pub fn matches(&self, model: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => model.starts_with(beginning),
            None => model == self.0,
        }
    }
}

impl FromStr for ModelRule {
    type Err = InvalidModelRule;

    fn from_str(s: &str) -> Result<Self, InvalidModelRule> {
        let stem = s.strip_suffix('*').unwrap_or(s);
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'*' | b'"' | b'\\');
        if s.is_empty() || s.len() > Self::MAX_BYTES || !stem.bytes().all(is_plain) {
            return Err(InvalidModelRule);
        }
        Ok(Self(s.to_owned()))
    }
}

impl fmt::Display for ModelRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ModelRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

impl<'de> Deserialize<'de> for ModelRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for ModelRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl JsonSchema for ModelRule {
    fn schema_name() -> Cow<'static, str> {
        "ModelRule".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": Self::MAX_BYTES,
            "pattern": r#"^([!#-)+-\[\]-~]+\*?|\*)$"#,
        })
    }
}

/// A text is no model's name, and no beginning of one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "a model is its full name, or the beginning of it and a `*` as the last character (write \
     `claude-haiku-*`)"
)]
pub struct InvalidModelRule;
