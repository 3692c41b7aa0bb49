//! Hosts that a worker may reach, by name.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// The name of a host in the DNS, in its one spelling.
///
/// # Invariants
///
/// At least two labels of 1 to 63 bytes of `a-z`, `0-9`, `-` and `_`, without `-` at either end; 253
/// bytes at most. The last label is no number, so no resolver takes the name for an IP address, in
/// whatever notation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

impl HostName {
    /// The longest name, in bytes, without a final dot (RFC 1035, section 2.3.4).
    pub const MAX_BYTES: usize = 253;

    /// Returns the name that `text` means: upper case and one final dot are no difference in the DNS.
    ///
    /// # Errors
    ///
    /// As for [`FromStr`], which takes only the one spelling.
    pub fn normalise(text: &str) -> Result<Self, InvalidHost> {
        let text = text.strip_suffix('.').unwrap_or(text);
        text.to_ascii_lowercase().parse()
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = InvalidHost;

    fn from_str(s: &str) -> Result<Self, InvalidHost> {
        check_name(s)?;
        Ok(Self(s.into()))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

/// A host, or all hosts below a name, that a worker may reach on one port: `host[:port]` or
/// `*.suffix[:port]`. Without a port it is 443.
///
/// `*.example.com` stands for `a.example.com` and `a.b.example.com`, not for `example.com`. An IP
/// address is no rule: what is allowed is a name, and the addresses behind it are looked up and
/// checked by the gateway, outside of the container.
///
/// # Examples
///
/// ```
/// use protocol::{HostName, HostRule};
///
/// let rule: HostRule = "*.example.org".parse()?;
/// let host: HostName = "files.example.org".parse()?;
/// assert!(rule.matches(&host, 443));
/// assert!(!rule.matches(&host, 80));
/// # Ok::<(), protocol::InvalidHost>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostRule {
    name: HostName,
    /// Whether it stands for what is below the name, and not for the name.
    below: bool,
    port: u16,
}

impl HostRule {
    /// The port of a rule without one: HTTPS.
    pub const DEFAULT_PORT: u16 = 443;

    /// Returns whether the rule allows this host on this port.
    pub fn matches(&self, host: &HostName, port: u16) -> bool {
        let (host, name) = (host.as_str(), self.name.as_str());
        let matches = match host.strip_suffix(name) {
            Some("") => !self.below,
            Some(front) => self.below && front.ends_with('.'),
            None => false,
        };
        matches && port == self.port
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HostRule {
    type Err = InvalidHost;

    fn from_str(s: &str) -> Result<Self, InvalidHost> {
        if let Some((scheme, _)) = s.split_once("://") {
            return Err(InvalidHost::Scheme { scheme: scheme.to_owned() });
        }
        if let Some(found) = s.chars().find(|c| matches!(c, '/' | '?' | '#')) {
            return Err(InvalidHost::Path { found });
        }
        if is_v6(s) {
            return Err(InvalidHost::Address);
        }
        let (pattern, port) = match s.split_once(':') {
            Some((pattern, port)) => (pattern, parse_port(port)?),
            None => (s, Self::DEFAULT_PORT),
        };
        let (name, below) = match pattern.strip_prefix("*.") {
            Some(suffix) => (suffix, true),
            None => (pattern, false),
        };
        Ok(Self { name: name.parse()?, below, port })
    }
}

// By hand: from within `deserialize_str` an error gets the place of the rule, and by way of
// `try_from` only that of the list it is in.
impl<'de> Deserialize<'de> for HostRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = HostRule;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a host, as a string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<HostRule, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl Serialize for HostRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = if self.below { "*." } else { "" };
        match self.port {
            Self::DEFAULT_PORT => write!(f, "{below}{}", self.name),
            port => write!(f, "{below}{}:{port}", self.name),
        }
    }
}

impl fmt::Debug for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

impl JsonSchema for HostRule {
    fn schema_name() -> Cow<'static, str> {
        "HostRule".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)+(:[1-9][0-9]{0,4})?$",
        })
    }
}

/// Why a text is not a host, or not a rule for hosts. Says how to write it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidHost {
    /// There is no name.
    #[error(
        "the host's name is missing (write `example.com`, `example.com:8443` or `*.example.com`)"
    )]
    Empty,
    /// There is a scheme in front.
    #[error("a host has no scheme (leave out `{scheme}://`)")]
    Scheme {
        /// What stands before `://`.
        scheme: String,
    },
    /// There is a path, a query or a fragment behind.
    #[error("a host has no path (leave out everything from `{found}` on)")]
    Path {
        /// What it begins with.
        found: char,
    },
    /// It is an IP address, in some notation.
    #[error(
        "an IP address can't be allowed (write the host's name: the gateway looks up its addresses \
         outside of the container and checks them)"
    )]
    Address,
    /// What follows the colon is not a port.
    #[error(
        "`{found}` is no port (write a number from 1 to 65535 after the `:`, without zeros in front)"
    )]
    Port {
        /// What stands after the colon.
        found: String,
    },
    /// There is a `*` where none can be.
    #[error("`*` stands only in front, followed by a dot (write `*.example.com`)")]
    Star,
    /// It has one label only.
    #[error(
        "`{name}` is one label (write a full name: what has no dot is a name of the local network, or \
         a whole top-level domain)"
    )]
    OneLabel {
        /// The label.
        name: String,
    },
    /// There is a dot too many.
    #[error("a part of `{name}` is empty (leave out the dot that is too much)")]
    EmptyLabel {
        /// The name.
        name: String,
    },
    /// A label is longer than the DNS allows.
    #[error("a part between two dots has at most 63 characters, one has {len}")]
    LabelTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The name is longer than the DNS allows.
    #[error("a host's name has at most {max} characters, this one has {len}", max = HostName::MAX_BYTES)]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A label begins or ends with `-`.
    #[error("`{label}` begins or ends with `-`, as no part of a host's name does")]
    EdgeHyphen {
        /// The label.
        label: String,
    },
    /// There is a capital letter.
    #[error("a host is written in lower case (write `{lower}`)")]
    UpperCase {
        /// The name in lower case.
        lower: String,
    },
    /// It is an internationalised name.
    #[error(
        "{found:?} is not ASCII (write the name as it is in the DNS, in punycode: `bücher.example` is \
         `xn--bcher-kva.example`)"
    )]
    NotAscii {
        /// The first character that isn't.
        found: char,
    },
    /// There is a character that no name has.
    #[error("{found:?} is not allowed in a host's name (use a-z, 0-9, `-`, `_` and `.`)")]
    BadChar {
        /// The character.
        found: char,
    },
}

fn check_name(s: &str) -> Result<(), InvalidHost> {
    if s.is_empty() {
        return Err(InvalidHost::Empty);
    }
    if is_v6(s) {
        return Err(InvalidHost::Address);
    }
    for found in s.chars() {
        match found {
            'a'..='z' | '0'..='9' | '-' | '_' | '.' => {}
            'A'..='Z' => {
                return Err(InvalidHost::UpperCase { lower: s.to_ascii_lowercase() });
            }
            '*' => return Err(InvalidHost::Star),
            found if !found.is_ascii() => return Err(InvalidHost::NotAscii { found }),
            found => return Err(InvalidHost::BadChar { found }),
        }
    }
    if s.len() > HostName::MAX_BYTES {
        return Err(InvalidHost::TooLong { len: s.len() });
    }
    let mut last = "";
    for label in s.split('.') {
        match label.len() {
            0 => return Err(InvalidHost::EmptyLabel { name: s.to_owned() }),
            1..=63 => {}
            len => return Err(InvalidHost::LabelTooLong { len }),
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(InvalidHost::EdgeHyphen { label: label.to_owned() });
        }
        last = label;
    }
    if is_number(last) {
        return Err(InvalidHost::Address);
    }
    if last.len() == s.len() {
        return Err(InvalidHost::OneLabel { name: s.to_owned() });
    }
    Ok(())
}

/// Returns whether this is an IPv6 address, or in brackets like one.
fn is_v6(s: &str) -> bool {
    s.starts_with('[') || s.parse::<Ipv6Addr>().is_ok()
}

/// Returns whether a name that ends in this label may be read as an IPv4 address: `inet_aton` takes
/// decimal, octal and hexadecimal numbers, one to four of them. No top-level domain is a number.
fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

fn parse_port(text: &str) -> Result<u16, InvalidHost> {
    // `u16::from_str` takes `+443` and `0443`, second spellings of the same port.
    match text.parse::<u16>() {
        Ok(port) if port > 0 && port.to_string() == text => Ok(port),
        _ => Err(InvalidHost::Port { found: text.to_owned() }),
    }
}
