use proptest::prelude::*;

use super::*;

fn request(text: &str) -> Result<Option<(Sought, usize)>, BadHead> {
    Reading::default().request(text.as_bytes())
}

fn head(text: &str) -> RequestHead {
    match request(text) {
        Ok(Some((Sought::Request(head), _))) => *head,
        other => panic!("{text:?}: {other:?}"),
    }
}

fn bad(lines: &str) -> BadHead {
    request(&format!("POST / HTTP/1.1\r\n{lines}\r\n\r\n")).unwrap_err()
}

fn answer(text: &str, to_head: bool) -> Result<AnswerHead, BadHead> {
    let read = Reading::default().answer(text.as_bytes(), to_head)?;
    Ok(read.unwrap_or_else(|| panic!("{text:?} should be whole")).0)
}

#[test]
fn head_is_read_and_what_follows_is_left() {
    let text =
        "POST /v1/messages?beta=true HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\nGET / ";
    let Ok(Some((Sought::Request(head), length))) = request(text) else { panic!("no head") };
    assert_eq!(&text[length..], "GET / ");
    assert_eq!((head.method, head.path.as_str()), (Method::POST, "/v1/messages?beta=true"));
    assert_eq!((head.framing, head.keeps_alive, head.expects), (Framing::Length(12), true, false));
    assert_eq!(head.fields.get("host"), Some(&b"a"[..]));
}

#[test]
fn body_of_a_request_has_one_framing_or_none() {
    let framing = |lines: &str| head(&format!("POST / HTTP/1.1\r\n{lines}\r\n")).framing;
    assert_eq!(framing(""), Framing::None);
    assert_eq!(framing("content-length: 0\r\n"), Framing::Length(0));
    assert_eq!(framing("content-length: 007\r\n"), Framing::Length(7));
    assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Framing::Chunked);
}

#[test]
fn request_that_can_be_read_in_two_ways_is_refused() {
    for lines in [
        "content-length: 3\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 3",
        "Transfer-Encoding: chunked\r\nContent-length: 0",
    ] {
        assert_eq!(bad(lines), BadHead::TwoFramings, "{lines}");
    }
    for lines in
        ["content-length: 3\r\ncontent-length: 3", "content-length: 3\r\nCONTENT-LENGTH: 4"]
    {
        assert_eq!(bad(lines), BadHead::TwoLengths, "{lines}");
    }
    for length in ["", "+3", "-3", "3 3", "3, 3", "0x3", "3.0", "18446744073709551616", "\u{663}"] {
        assert_eq!(bad(&format!("content-length: {length}")), BadHead::Length, "{length}");
    }
    for coding in [
        "",
        "gzip",
        "gzip, chunked",
        "chunked, chunked",
        "chunked;x",
        "identity",
        "xchunked",
        "chunked,",
    ] {
        assert_eq!(bad(&format!("transfer-encoding: {coding}")), BadHead::Coding, "{coding}");
    }
    assert_eq!(bad("transfer-encoding: chunked\r\ntransfer-encoding: chunked"), BadHead::Coding);
    let old = request("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n");
    assert_eq!(old.unwrap_err(), BadHead::Coding);
}

#[test]
fn what_is_no_head_is_refused() {
    for lines in [
        " content-length: 3",
        "content-length : 3",
        "x: a\r\n b",
        "x: a\r\n\tb",
        "x: a\rb",
        "x: a\0b",
        "x\0: a",
        ": a",
        "transfer-encoding\t: chunked",
        "no colon",
        "x\u{e9}: a",
    ] {
        assert!(matches!(bad(lines), BadHead::Malformed(_)), "{lines:?}: {:?}", bad(lines));
    }
    for text in [
        "GET  / HTTP/1.1\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "GET / HTTP/1.10\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / x HTTP/1.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\n",
        "\x16\x03\x01\x02\x00",
        "SSH-2.0-OpenSSH_9.2\r\n",
    ] {
        assert!(request(text).is_err(), "{text:?}");
    }
}

#[test]
fn request_that_names_a_host_is_for_the_egress_proxy() {
    for line in [
        "GET http://a.example/ HTTP/1.1",
        "CONNECT a.example:443 HTTP/1.1",
        "CONNECT /x HTTP/1.1",
        "GET a.example HTTP/1.1",
        "GET HTTP://A/ HTTP/1.0",
    ] {
        let read = request(&format!("{line}\r\nhost: a\r\n\r\n"));
        assert!(matches!(read, Ok(Some((Sought::Elsewhere, _)))), "{line}: {read:?}");
    }
    assert_eq!(head("GET //a.example/ HTTP/1.1\r\n\r\n").path.path(), "//a.example/");
    assert_eq!(head("OPTIONS * HTTP/1.1\r\n\r\n").path.path(), "*");
}

#[test]
fn connection_is_kept_unless_somebody_says_otherwise() {
    let keeps = |version, lines| head(&format!("GET / HTTP/{version}\r\n{lines}\r\n")).keeps_alive;
    assert!(keeps("1.1", "") && keeps("1.1", "connection: keep-alive, x\r\n"));
    assert!(!keeps("1.1", "connection: x, Close\r\n"));
    assert!(!keeps("1.1", "connection: x\r\nConnection: close\r\n"));
    assert!(!keeps("1.0", "") && !keeps("1.0", "connection: keep-alive\r\n"));
    assert!(head("GET / HTTP/1.1\r\nExpect: 100-Continue\r\n\r\n").expects);
    assert!(!head("GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").expects);
}

#[test]
fn head_has_a_limit_in_bytes_and_in_lines() {
    let long = format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(limits::BUFFER));
    assert_eq!(request(&long).unwrap_err(), BadHead::TooLong);
    let lines = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "x: a\r\n".repeat(count));
    assert_eq!(head(&lines(MAX_LINES)).fields.iter().count(), MAX_LINES);
    assert_eq!(request(&lines(MAX_LINES + 1)).unwrap_err(), BadHead::TooLong);
}

#[test]
fn answers_body_ends_where_method_status_and_lines_say() {
    let framing = |text: &str, to_head| {
        let head = answer(&format!("HTTP/1.1 {text}\r\n\r\n"), to_head).unwrap();
        (head.framing, head.length)
    };
    assert_eq!(framing("200 OK\r\ncontent-length: 3", false), (Framing::Length(3), Some(3)));
    assert_eq!(framing("200 OK\r\ntransfer-encoding: chunked", false), (Framing::Chunked, None));
    assert_eq!(framing("200", false), (Framing::UntilClose, None));
    assert_eq!(framing("200 OK\r\ncontent-length: 3", true), (Framing::None, Some(3)));
    assert_eq!(framing("200 OK\r\ntransfer-encoding: chunked", true), (Framing::None, None));
    for status in ["100", "101", "204", "304"] {
        let said = framing(&format!("{status} x\r\ncontent-length: 3"), false);
        assert_eq!(said.0, Framing::None, "{status}");
    }
    let two = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(answer(two, false).unwrap_err(), BadHead::TwoFramings);
    assert_eq!(answer(two, true).unwrap_err(), BadHead::TwoFramings);
    assert!(answer("HTTP/1.1 099 x\r\n\r\n", false).is_err());
    let head = answer("HTTP/1.1 529 Overloaded Now\r\nConnection: close\r\n\r\n", false).unwrap();
    assert_eq!((&head.reason[..], head.keeps_alive), (&b"Overloaded Now"[..], false));
    assert!(!answer("HTTP/1.0 200 OK\r\n\r\n", false).unwrap().keeps_alive);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn pieces_do_not_matter(
        text in r"(GET|POST|CONNECT|G@T) (/|/v1/x\?y|\*|http://a/|) HTTP/1.[01](\r\n|\n|\r)(((content-length|transfer-encoding|connection|Expect|x)(:|: | :)(1|12|chunked|close|a,x|))(\r\n|\r\n|\n|\r|\r\n )){0,4}(\r\n|\n)[a\r\n]{0,3}",
    ) {
        read_any(text.as_bytes());
    }

    #[test]
    fn no_bytes_can_break_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_any(&bytes);
    }
}
