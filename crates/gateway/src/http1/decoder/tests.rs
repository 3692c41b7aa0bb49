use proptest::prelude::*;

use super::*;

/// Decodes all of `bytes`, handed in pieces of these sizes in turns. Returns the body, what stands behind it, and
/// whether it has ended.
fn decode(
    framing: Framing,
    bytes: &[u8],
    sizes: &[usize],
) -> Result<(Vec<u8>, Vec<u8>, bool), BadBody> {
    let mut decoder = Decoder::new(framing);
    let (mut held, mut body) = (Vec::new(), Vec::new());
    let (mut rest, mut sizes) = (bytes, sizes.iter().cycle());
    loop {
        let step = decoder.step(&held)?;
        held.drain(..step.skip);
        match step.then {
            Then::Data(len) => {
                assert!(len > 0);
                // Not all that is there is taken at once.
                let taken = len.div_ceil(2);
                body.extend(held.drain(..taken));
                decoder.took(taken);
            }
            Then::End => {
                held.extend_from_slice(rest);
                return Ok((body, held, true));
            }
            Then::More if rest.is_empty() => {
                let is_over = decoder.close();
                return Ok((body, held, is_over));
            }
            Then::More => {
                assert!(held.is_empty(), "all that is there is framing");
                let size = (*sizes.next().unwrap()).clamp(1, rest.len());
                held.extend_from_slice(&rest[..size]);
                rest = &rest[size..];
            }
        }
    }
}

fn whole(framing: Framing, text: &str) -> Result<(String, String, bool), BadBody> {
    let (body, rest, is_over) = decode(framing, text.as_bytes(), &[usize::MAX])?;
    Ok((String::from_utf8(body).unwrap(), String::from_utf8(rest).unwrap(), is_over))
}

fn ended(body: &str, rest: &str) -> Result<(String, String, bool), BadBody> {
    Ok((body.to_owned(), rest.to_owned(), true))
}

#[test]
fn body_ends_where_its_framing_says() {
    assert_eq!(whole(Framing::None, "GET"), ended("", "GET"));
    assert_eq!(whole(Framing::Length(0), "GET"), ended("", "GET"));
    assert_eq!(whole(Framing::Length(3), "abcGET"), ended("abc", "GET"));
    assert!(!whole(Framing::Length(9), "abc").unwrap().2);
    assert_eq!(whole(Framing::UntilClose, "abc"), ended("abc", ""));
    assert_eq!(whole(Framing::Chunked, "3\r\nabc\r\n0\r\n\r\nGET"), ended("abc", "GET"));
    assert_eq!(whole(Framing::Chunked, "0\r\n\r\n"), ended("", ""));
    assert!(!whole(Framing::Chunked, "3\r\nabc\r\n0\r\n").unwrap().2);
    assert!(!whole(Framing::Chunked, "3\r\nabc").unwrap().2);
}

#[test]
fn extensions_and_trailers_are_passed_over() {
    for text in [
        "00A\r\n0123456789\r\n0;last\r\n\r\nrest",
        "a ; x=\"y\"\r\n0123456789\r\n0\r\nx-a: 1\r\nx-b: 2\r\n\r\nrest",
        "A\t\r\n0123456789\r\n000\r\nx: caf\u{e9}\r\n\r\nrest",
    ] {
        assert_eq!(whole(Framing::Chunked, text), ended("0123456789", "rest"), "{text:?}");
    }
    let long = "x".repeat(MAX_ASIDE);
    for text in [
        format!("1;{long}\r\na\r\n0\r\n\r\n"),
        format!("1\r\na\r\n0\r\nx:{long}\r\n\r\n"),
        "1;xxxxxxx\r\na\r\n".repeat(MAX_ASIDE / 8 + 1),
    ] {
        assert_eq!(whole(Framing::Chunked, &text), Err(BadBody::TooMuchAside));
    }
}

#[test]
fn what_another_server_might_take_for_a_size_is_refused() {
    for text in ["", "x", " 3", "+3", "-3", "0x3", "3x", "3,", "3 3", "_", "1_0", "\u{663}"] {
        let text = format!("{text}\r\nabc\r\n0\r\n\r\n");
        assert_eq!(whole(Framing::Chunked, &text), Err(BadBody::Size), "{text:?}");
    }
    for digits in ["1000000000000000", "ffffffffffffffff", "10000000000000003", "0000000000000003"]
    {
        assert_eq!(whole(Framing::Chunked, &format!("{digits}\r\n")), Err(BadBody::Size));
    }
    for text in ["3\nabc\r\n", "\n3\r\nabc", "\r\n3\r\nabc"] {
        assert_eq!(whole(Framing::Chunked, text), Err(BadBody::Size), "{text:?}");
    }
    for text in [
        "3\r\rabc\r\n",
        "3;x\nabc\r\n",
        "3;\0\r\n",
        "3;x\r\r\n",
        "0\r\n\n",
        "0\r\nx: 1\n\r\n",
        "0\r\n\rx",
        "0\r\nx\r\r\n",
        "0\r\nx\0\r\n\r\n",
    ] {
        assert_eq!(whole(Framing::Chunked, text), Err(BadBody::LineEnd), "{text:?}");
    }
    for text in ["3\r\nabcd\r\n", "3\r\nabc0\r\n\r\n", "3\r\nabc\n0\r\n", "3\r\nabc\r0"] {
        assert_eq!(whole(Framing::Chunked, text), Err(BadBody::ChunkEnd), "{text:?}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_in_whatever_pieces(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
        sizes in prop::collection::vec(1..40usize, 1..6),
    ) {
        let mut bytes = Vec::new();
        for chunk in &chunks {
            put_chunk_head(&mut bytes, chunk.len());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(CHUNK_END);
        }
        bytes.extend_from_slice(LAST_CHUNK);
        bytes.extend_from_slice(b"POST");
        let expected = (chunks.concat(), b"POST".to_vec(), true);
        prop_assert_eq!(decode(Framing::Chunked, &bytes, &sizes), Ok(expected));
    }

    /// Of any bytes at all it is the same, however they are cut, and nothing is taken twice or lost.
    #[test]
    fn pieces_do_not_matter(
        text in r"([0-9a-f]{1,2}(;x)?|[ 0x;]|\r\n|\r|\n|abc|0\r\n\r\n|3\r\nabc\r\n|x: y\r\n){0,12}",
        sizes in prop::collection::vec(1..7usize, 1..6),
        length in 0..9u64,
    ) {
        for framing in
            [Framing::Chunked, Framing::Length(length), Framing::UntilClose, Framing::None]
        {
            let at_once = decode(framing, text.as_bytes(), &[usize::MAX]);
            prop_assert_eq!(&at_once, &decode(framing, text.as_bytes(), &sizes));
            prop_assert_eq!(&at_once, &decode(framing, text.as_bytes(), &[1]));
        }
    }
}
