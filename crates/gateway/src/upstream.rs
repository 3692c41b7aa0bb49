//! Where requests go.

use std::{
    borrow::Cow,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use http::{
    HeaderValue, Uri,
    uri::{self, Authority, InvalidUri, PathAndQuery, Scheme},
};
use protocol::HostName;
use thiserror::Error;

/// The address of the model's API: a URL with an optional path prefix, or a unix socket.
///
/// # Invariants
///
/// A URL has a host and carries neither credentials nor a query, and its prefix does not end in
/// `/`. So an `Upstream` can be shown and logged as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    route: Route,
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
    prefix: String,
}

/// How the upstream is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// By the authority of the URL, with TLS when the scheme says so.
    Tcp,
    /// By this socket, in plain HTTP.
    Unix(Arc<Path>),
}

impl Upstream {
    /// Returns the address that `text` names: `https://host[:port][/prefix]`, the same with
    /// `http`, or `unix:/absolute/path`.
    ///
    /// # Errors
    ///
    /// Everything else is refused, also a URL with credentials, a query or a fragment: they
    /// would be dropped or leak silently.
    ///
    /// # Examples
    ///
    /// ```
    /// use gateway::Upstream;
    ///
    /// let upstream = Upstream::parse("http://127.0.0.1:4000/prefix/")?;
    /// assert_eq!(upstream.to_string(), "http://127.0.0.1:4000/prefix");
    /// # Ok::<(), gateway::InvalidUpstream>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, InvalidUpstream> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidUpstream::Empty);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return Self::unix(path);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(InvalidUpstream::NoScheme);
        };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "https" => Scheme::HTTPS,
            "http" => Scheme::HTTP,
            _ => return Err(InvalidUpstream::UnknownScheme { scheme: scheme.to_owned() }),
        };
        // Looked at before anything that could put the text into an error.
        let host_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        if rest[..host_end].contains('@') {
            return Err(InvalidUpstream::UserInfo);
        }
        if rest.contains('?') {
            return Err(InvalidUpstream::Query);
        }
        if rest.contains('#') {
            return Err(InvalidUpstream::Fragment);
        }
        let (authority, prefix) = rest.split_at(host_end);
        if authority.is_empty() || authority.starts_with(':') {
            return Err(InvalidUpstream::MissingHost);
        }
        let malformed =
            |source: InvalidUri| InvalidUpstream::Malformed { text: text.to_owned(), source };
        let authority: Authority = authority.parse().map_err(malformed)?;
        // The http crate takes anything for a port.
        if authority.as_str() != authority.host() && authority.port_u16().is_none() {
            return Err(InvalidUpstream::BadPort { text: text.to_owned() });
        }
        let prefix = prefix.trim_end_matches('/').to_owned();
        if !prefix.is_empty() {
            prefix.parse::<PathAndQuery>().map_err(malformed)?;
        }
        let host = HeaderValue::from_str(authority.as_str())
            .expect("BUG: an authority should be a legal header value");
        Ok(Self { route: Route::Tcp, scheme, authority, host, prefix })
    }

    fn unix(path: &str) -> Result<Self, InvalidUpstream> {
        // `unix:///path` is the same place, in the spelling of URLs.
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') {
            return Err(InvalidUpstream::RelativeSocket { path: PathBuf::from(path) });
        }
        Ok(Self {
            route: Route::Unix(Arc::from(Path::new(path))),
            scheme: Scheme::HTTP,
            authority: Authority::from_static("localhost"),
            host: HeaderValue::from_static("localhost"),
            prefix: String::new(),
        })
    }

    /// Returns what a person calls the other end: host and port, or the socket's path.
    pub fn host(&self) -> String {
        match &self.route {
            Route::Tcp => self.authority.to_string(),
            Route::Unix(path) => path.display().to_string(),
        }
    }

    /// Returns the host's name, if it has one in the DNS.
    pub(crate) fn host_name(&self) -> Option<HostName> {
        match &self.route {
            Route::Tcp => HostName::normalise(self.authority.host()).ok(),
            Route::Unix(_) => None,
        }
    }

    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    pub(crate) fn uses_tls(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// Returns the value of the `Host` header of each request.
    pub(crate) fn host_header(&self) -> &[u8] {
        self.host.as_bytes()
    }

    /// Returns where connections go: the address without the prefix.
    pub(crate) fn origin(&self) -> Uri {
        let mut parts = uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
        Uri::from_parts(parts).expect("BUG: scheme, authority and path should be an address")
    }

    /// Returns what a request for `path` asks the upstream for. Path and query keep their bytes.
    ///
    /// # Errors
    ///
    /// With the prefix, the path may be longer than a URI can be.
    pub(crate) fn target<'a>(&self, path: &'a PathAndQuery) -> Result<Cow<'a, str>, InvalidUri> {
        if self.prefix.is_empty() {
            return Ok(Cow::Borrowed(path.as_str()));
        }
        let target = format!("{}{path}", self.prefix);
        target.parse::<PathAndQuery>()?;
        Ok(Cow::Owned(target))
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.route {
            Route::Tcp => write!(f, "{}://{}{}", self.scheme, self.authority, self.prefix),
            Route::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a text is not the address of an upstream. What to do about it is in [`hint`](Self::hint).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InvalidUpstream {
    /// There is no text.
    #[error("the address of the model's API is empty")]
    Empty,
    /// There is no `https://`, `http://` or `unix:` in front.
    #[error("the address of the model's API has no scheme")]
    NoScheme,
    /// The scheme is none that the gateway speaks.
    #[error("the address of the model's API has the unknown scheme `{scheme}`")]
    UnknownScheme {
        /// What stands before `://`.
        scheme: String,
    },
    /// Nothing stands between `://` and the path.
    #[error("the address of the model's API has no host")]
    MissingHost,
    /// There is `user:password@` before the host. The text is not repeated: it may be a secret.
    #[error("the address of the model's API has a user name or password in it")]
    UserInfo,
    /// There is a `?`.
    #[error("the address of the model's API has a query in it")]
    Query,
    /// There is a `#`.
    #[error("the address of the model's API has a fragment in it")]
    Fragment,
    /// The path of a socket does not begin at the root.
    #[error("the socket of the model's API, `{}`, is not an absolute path", path.display())]
    RelativeSocket {
        /// The path as given.
        path: PathBuf,
    },
    /// What follows the host's `:` is not a port number.
    #[error("the address of the model's API, `{text}`, has no port number after its `:`")]
    BadPort {
        /// The address as given.
        text: String,
    },
    /// Host or path have a character or form that URLs don't.
    #[error("the address of the model's API, `{text}`, is not a URL")]
    Malformed {
        /// The address as given.
        text: String,
        /// What is wrong with it.
        source: InvalidUri,
    },
}

impl InvalidUpstream {
    /// Returns what the operator can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::UserInfo => {
                "Remove the part before `@`; the key belongs into ANTHROPIC_API_KEY.".to_owned()
            }
            Self::Query | Self::Fragment => {
                "Remove everything from `?` or `#` on; only a path prefix is kept.".to_owned()
            }
            Self::RelativeSocket { .. } => "Write `unix:/` and the path from the root.".to_owned(),
            Self::Empty
            | Self::NoScheme
            | Self::UnknownScheme { .. }
            | Self::MissingHost
            | Self::BadPort { .. }
            | Self::Malformed { .. } => {
                "Write `https://api.anthropic.com`, `http://HOST:PORT/PREFIX` or `unix:/PATH`."
                    .to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(upstream: &str, path: &str) -> String {
        let path = path.parse().unwrap();
        Upstream::parse(upstream).unwrap().target(&path).unwrap().into_owned()
    }

    #[test]
    fn prefix_is_kept_and_path_and_query_are_untouched() {
        let path = "/v1/messages?beta=true&x=%2f";
        assert_eq!(target("https://a.example", path), path);
        assert_eq!(target("http://a:4000/p/q/", path), format!("/p/q{path}"));
        assert_eq!(target("unix:/a.sock", path), path);
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_reason() {
        let refused = |text| {
            let error = Upstream::parse(text).unwrap_err();
            assert!(error.hint().ends_with('.'), "{error:?}");
            error
        };
        assert!(matches!(refused("  "), InvalidUpstream::Empty));
        assert!(matches!(refused("api.anthropic.com"), InvalidUpstream::NoScheme));
        assert!(matches!(refused("localhost:4000"), InvalidUpstream::NoScheme));
        assert!(matches!(refused("ftp://a"), InvalidUpstream::UnknownScheme { .. }));
        assert!(matches!(refused("https://"), InvalidUpstream::MissingHost));
        assert!(matches!(refused("https:///v1"), InvalidUpstream::MissingHost));
        assert!(matches!(refused("http://:80"), InvalidUpstream::MissingHost));
        assert!(matches!(refused("https://a/?x=1"), InvalidUpstream::Query));
        assert!(matches!(refused("https://a#b"), InvalidUpstream::Fragment));
        assert!(matches!(refused("unix:a.sock"), InvalidUpstream::RelativeSocket { .. }));
        assert!(matches!(refused("http://a b"), InvalidUpstream::Malformed { .. }));
        for text in ["http://a:99x", "http://a:", "http://a:65536", "http://[::1]:x"] {
            assert!(matches!(refused(text), InvalidUpstream::BadPort { .. }), "{text}");
        }
        assert_eq!(Upstream::parse("http://[::1]:4000").unwrap().host(), "[::1]:4000");
    }

    #[test]
    fn password_in_the_address_is_refused_and_not_repeated() {
        let error = Upstream::parse("https://me:hunter2@a/?x").unwrap_err();
        assert!(matches!(error, InvalidUpstream::UserInfo));
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
