//! A host has one spelling, and a rule says which hosts it means.

use proptest::prelude::*;
use protocol::{HostName, HostRule, InvalidHost, WorkerConfig};

fn rule(text: &str) -> HostRule {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn matches(rule: &str, host: &str, port: u16) -> bool {
    self::rule(rule).matches(&host.parse().expect("it should be a host"), port)
}

#[test]
fn exact_rule_means_one_host_on_one_port() {
    assert!(matches("example.com", "example.com", 443));
    assert!(!matches("example.com", "example.com", 80));
    assert!(!matches("example.com", "a.example.com", 443));
    assert!(!matches("example.com", "badexample.com", 443));
    assert!(!matches("example.com", "example.com.evil.org", 443));
    assert!(matches("example.com:80", "example.com", 80));
    assert!(!matches("example.com:80", "example.com", 443));
}

#[test]
fn suffix_rule_means_what_is_below_and_not_the_suffix_itself() {
    assert!(matches("*.example.com", "a.example.com", 443));
    assert!(matches("*.example.com", "a.b.example.com", 443));
    assert!(!matches("*.example.com", "example.com", 443));
    assert!(!matches("*.example.com", "badexample.com", 443));
    assert!(!matches("*.example.com", "a.example.com.evil.org", 443));
    assert!(!matches("*.example.com", "a.example.com", 8443));
    assert!(matches("*.example.com:8443", "a.example.com", 8443));
}

#[test]
fn what_is_no_rule_is_refused_with_how_to_write_it() {
    let said = |text: &str| text.parse::<HostRule>().expect_err(text).to_string();
    for (text, part) in [
        ("", "the host's name is missing"),
        (":443", "the host's name is missing"),
        ("*.", "the host's name is missing"),
        ("https://example.com", "leave out `https://`"),
        ("example.com/x", "leave out everything from `/` on"),
        ("example.com:443/", "leave out everything from `/` on"),
        ("example.com?x", "leave out everything from `?` on"),
        ("Example.com", "write `example.com`"),
        ("*.Example.com:80", "write `example.com`"),
        ("bücher.example", "punycode"),
        ("ｅxample.com", "punycode"),
        ("*", "write `*.example.com`"),
        ("*:80", "write `*.example.com`"),
        ("a.*.com", "write `*.example.com`"),
        ("*example.com", "write `*.example.com`"),
        ("*.*.example.com", "write `*.example.com`"),
        ("localhost", "`localhost` is one label"),
        ("*.com", "`com` is one label"),
        ("example..com", "a part of `example..com` is empty"),
        ("example.com.", "a part of `example.com.` is empty"),
        (".example.com", "a part of `.example.com` is empty"),
        ("-a.example", "`-a` begins or ends with `-`"),
        ("a-.example", "`a-` begins or ends with `-`"),
        ("me@example.com", "'@' is not allowed"),
        (" example.com", "' ' is not allowed"),
        ("example.com\n", "'\\n' is not allowed"),
        ("a,b.example", "',' is not allowed"),
        ("example.com%2e", "'%' is not allowed"),
        ("example.com:", "`` is no port"),
        ("example.com:0", "`0` is no port"),
        ("example.com:0443", "`0443` is no port"),
        ("example.com:+443", "`+443` is no port"),
        ("example.com:65536", "`65536` is no port"),
        ("example.com:443:443", "`443:443` is no port"),
        ("example.com:https", "`https` is no port"),
        ("example.com:*", "`*` is no port"),
    ] {
        assert!(said(text).contains(part), "{text}: {}", said(text));
    }
    let long = format!("{}.example", "a".repeat(64));
    assert!(said(&long).contains("at most 63 characters, one has 64"), "{}", said(&long));
    let long = format!("{}example", "a.".repeat(124));
    assert!(said(&long).contains("at most 253 characters, this one has 255"), "{}", said(&long));
}

#[test]
fn address_in_any_notation_is_no_rule_and_no_host() {
    for text in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "127.0.0.0x1",
        "1.2.3.4.5",
        "a.0x",
        "example.1",
        "*.1.1",
        "10.0.0.1:80",
    ] {
        assert_eq!(text.parse::<HostRule>(), Err(InvalidHost::Address), "{text}");
    }
    for text in ["::1", "[::1]", "[::1]:443", "fe80::1", "::ffff:1.2.3.4", "[fd00:ec2::254]:80"] {
        assert_eq!(text.parse::<HostRule>(), Err(InvalidHost::Address), "{text}");
    }
    for text in ["127.0.0.1.", "0X7F.0.0.1", "127.0.0.0X1", "[::1]", "::1", "[::FFFF:127.0.0.1]"] {
        assert_eq!(HostName::normalise(text), Err(InvalidHost::Address), "{text}");
    }
}

#[test]
fn host_has_one_spelling_after_all() {
    for text in ["example.com", "EXAMPLE.com", "Example.Com.", "example.com."] {
        let host = HostName::normalise(text).expect("it should be a host");
        assert_eq!(host.as_str(), "example.com", "{text}");
    }
    for text in ["", ".", "..", "example.com..", "localhost", "a b.example", "[::1]"] {
        assert!(HostName::normalise(text).is_err(), "{text}");
    }
}

#[test]
fn rule_that_is_wrong_is_shown_with_its_place_in_worker_toml() {
    let text =
        "description = \"x\"\negress = [\n  \"docs.example.com\",\n  \"https://example.com\",\n]\n";

    let error = WorkerConfig::from_toml(text).expect_err("it should be refused").to_string();

    assert!(error.contains("line 4"), "{error}");
    assert!(error.contains("a host has no scheme (leave out `https://`)"), "{error}");
}

#[test]
fn worker_reaches_nothing_unless_it_says_so() {
    let config = WorkerConfig::from_toml("description = \"x\"").expect("it should be read");
    assert_eq!(config.egress, []);
}

fn label() -> impl Strategy<Value = String> {
    "[a-z_]([a-z0-9_-]{0,6}[a-z0-9_])?"
}

fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(label(), 2..5).prop_map(|labels| labels.join("."))
}

proptest! {
    #[test]
    fn rule_reads_back_as_it_is_written(star: bool, name in name(), port in 1..=u16::MAX) {
        let text = format!("{}{name}:{port}", if star { "*." } else { "" });
        let rule = rule(&text);
        prop_assert_eq!(&self::rule(&rule.to_string()), &rule);
        let json = serde_json::to_string(&rule).expect("a rule should be writable");
        prop_assert_eq!(serde_json::from_str::<HostRule>(&json).expect("it should be read"), rule);
    }

    #[test]
    fn whatever_is_a_host_is_its_own_normal_form_and_no_address(text in "[a-zA-Z0-9.:*_\\[\\]-]{0,24}") {
        if let Ok(host) = HostName::normalise(&text) {
            prop_assert_eq!(HostName::normalise(host.as_str()), Ok(host.clone()));
            prop_assert!(host.as_str().parse::<std::net::IpAddr>().is_err());
            prop_assert!(!host.as_str().ends_with('.') && host.as_str().contains('.'));
            prop_assert!(host.as_str().bytes().all(|byte| !byte.is_ascii_uppercase()));
        }
    }

    /// Against the definition by labels.
    #[test]
    fn rule_matches_by_whole_labels(
        star: bool,
        front in prop::collection::vec(label(), 0..3),
        glue: bool,
        name in name(),
        port in 442..445_u16,
    ) {
        let mut host = front.clone();
        host.extend(name.split('.').map(str::to_owned));
        if glue && !front.is_empty() {
            // `badexample.com`: its text ends like the rule's, its labels don't.
            let joined = host.remove(front.len() - 1);
            let next = &mut host[front.len() - 1];
            *next = format!("{joined}{next}");
        }
        let rule = format!("{}{name}", if star { "*." } else { "" });
        let labels: Vec<&str> = name.split('.').collect();
        let host: Vec<&str> = host.iter().map(String::as_str).collect();
        let expected = port == 443
            && host.ends_with(&labels)
            && (host.len() > labels.len()) == star;
        prop_assert_eq!(matches(&rule, &host.join("."), port), expected);
    }
}
