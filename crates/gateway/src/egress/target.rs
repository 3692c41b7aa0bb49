//! Where a request to the proxy wants to go.

use std::fmt;

use http::{
    Request, Uri,
    header::HOST,
    uri::{Authority, Scheme},
};
use protocol::{HostName, HostRule};

use super::refusal::Refusal;

/// The port of plain HTTP.
pub(super) const HTTP: u16 = 80;

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) host: HostName,
    pub(crate) port: u16,
}

impl Target {
    /// Returns where a CONNECT wants to go.
    pub(crate) fn of_connect(uri: &Uri) -> Result<Self, Refusal> {
        let authority = uri.authority().ok_or(Refusal::Malformed("it names no host"))?;
        Self::parse(authority, None)
    }

    /// Returns where a request with an absolute URL wants to go.
    pub(crate) fn of_absolute<B>(request: &Request<B>) -> Result<Self, Refusal> {
        let uri = request.uri();
        if uri.scheme() != Some(&Scheme::HTTP) {
            return Err(Refusal::Malformed(
                "only http:// URLs are sent on; use CONNECT for others",
            ));
        }
        let authority = uri.authority().ok_or(Refusal::Malformed("it names no host"))?;
        let target = Self::parse(authority, Some(HTTP))?;
        if target.port == HostRule::DEFAULT_PORT {
            return Err(Refusal::Malformed("port 443 is for TLS; use CONNECT"));
        }
        // Servers that share an address go by the header, and the list by the URL.
        let mut hosts = request.headers().get_all(HOST).iter();
        let same = hosts
            .next()
            .and_then(|host| Authority::try_from(host.as_bytes()).ok())
            .is_some_and(|host| Self::parse(&host, Some(HTTP)).is_ok_and(|host| host == target));
        if !same || hosts.next().is_some() {
            return Err(Refusal::Malformed("its `Host` header is not the host of its URL"));
        }
        Ok(target)
    }

    /// Returns from where the model's API would get what is at a URL that stands in a request.
    ///
    /// Strict: whatever two readers of URLs could take for two hosts is none here.
    pub(crate) fn of_source(url: &str) -> Result<Self, Refusal> {
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
        if !url.bytes().all(plain) {
            return Err(Refusal::Malformed("its URL has a character that no URL has"));
        }
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let default_port = match scheme {
            _ if scheme.eq_ignore_ascii_case("https") => HostRule::DEFAULT_PORT,
            _ if scheme.eq_ignore_ascii_case("http") => HTTP,
            _ => return Err(Refusal::Malformed("its URL does not begin with https:// or http://")),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let authority = Authority::try_from(authority)
            .map_err(|_| Refusal::Malformed("its URL names no host"))?;
        Self::parse(&authority, Some(default_port))
    }

    fn parse(authority: &Authority, default_port: Option<u16>) -> Result<Self, Refusal> {
        let text = authority.as_str();
        if text.contains('@') {
            return Err(Refusal::Malformed("there is a user name before its host"));
        }
        let host = authority.host();
        let port = match authority.port_u16() {
            Some(port) => port,
            // The http crate takes anything for a port.
            None if text != host => return Err(Refusal::Malformed("its port is no number")),
            None => default_port.ok_or(Refusal::Malformed("it names no port"))?,
        };
        // A URL has room for more than belongs into a log.
        let host = HostName::normalise(host).map_err(|why| Refusal::NoName {
            host: brief(host.as_bytes()),
            port,
            why,
        })?;
        Ok(Self { host, port })
    }
}

/// Returns what a client calls a host, fit to be shown: printable, and no longer than a name can be.
pub(super) fn brief(host: &[u8]) -> String {
    host[..host.len().min(HostName::MAX_BYTES)].escape_ascii().to_string()
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(to: &str) -> Result<String, String> {
        let authority: Authority = to.parse().unwrap();
        let uri = Uri::builder().authority(authority).build().unwrap();
        said(Target::of_connect(&uri))
    }

    fn absolute(url: &str, hosts: &[&str]) -> Result<String, String> {
        let mut request = Request::get(url);
        for host in hosts {
            request = request.header("host", *host);
        }
        said(Target::of_absolute(&request.body(()).unwrap()))
    }

    fn said(target: Result<Target, Refusal>) -> Result<String, String> {
        target.map(|target| target.to_string()).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn host_of_a_connect_has_one_spelling() {
        for to in ["a.example:443", "A.Example:443", "a.example.:443", "a.example:0443"] {
            assert_eq!(connect(to).as_deref(), Ok("a.example:443"), "{to}");
        }
    }

    #[test]
    fn connect_without_a_host_and_a_port_is_refused() {
        for (to, part) in [
            ("a.example", "names no port"),
            ("a.example:", "port is no number"),
            ("a.example:x", "port is no number"),
            ("a.example:65536", "port is no number"),
            ("me@a.example:443", "user name"),
            ("me:secret@a.example:443", "user name"),
            ("127.0.0.1:443", "IP address"),
            ("2130706433:443", "IP address"),
            ("0177.0.0.1:443", "IP address"),
            ("0x7f.1:443", "IP address"),
            ("127.0.0.1.:443", "IP address"),
            ("[::1]:443", "IP address"),
            ("[::ffff:127.0.0.1]:443", "IP address"),
            ("localhost:443", "one label"),
            ("a..example:443", "is empty"),
        ] {
            let refusal = connect(to).unwrap_err();
            assert!(refusal.contains(part), "{to}: {refusal}");
            assert!(!refusal.contains("secret"), "{to}: {refusal}");
        }
    }

    #[test]
    fn what_is_told_of_a_host_is_printable_and_short() {
        assert_eq!(brief(b"a\n\xffb"), "a\\n\\xffb");
        assert_eq!(brief(&[b'a'; 10_000]).len(), 253);
        assert!(connect(&format!("{}:443", "a".repeat(10_000))).unwrap_err().len() < 400);
    }

    #[test]
    fn url_and_host_header_name_the_same_host() {
        for (url, host) in [
            ("http://a.example/x", "a.example"),
            ("http://a.example/x", "A.example.:80"),
            ("http://a.example:80", "a.example"),
        ] {
            assert_eq!(absolute(url, &[host]).as_deref(), Ok("a.example:80"), "{url} {host}");
        }
        assert_eq!(absolute("http://a.example:81/", &["a.example:81"]).unwrap(), "a.example:81");
        for hosts in [
            &[][..],
            &[""],
            &["b.example"],
            &["a.example:81"],
            &["a.example", "b.example"],
            &["a.example", "a.example"],
            &["x@a.example"],
            &["a.example, b.example"],
        ] {
            let refusal = absolute("http://a.example/x", hosts).unwrap_err();
            assert!(refusal.contains("`Host` header"), "{hosts:?}: {refusal}");
        }
        for (url, part) in [
            ("https://a.example/", "use CONNECT"),
            ("ftp://a.example/", "use CONNECT"),
            ("http://a.example:443/", "use CONNECT"),
            ("http://127.0.0.1/", "IP address"),
            ("http://me@a.example/", "user name"),
        ] {
            let refusal = absolute(url, &["a.example"]).unwrap_err();
            assert!(refusal.contains(part), "{url}: {refusal}");
        }
    }
}
