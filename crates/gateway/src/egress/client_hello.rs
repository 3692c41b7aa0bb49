//! The first message of a TLS connection, read for the one name in it.
//!
//! By RFC 8446, sections 4.1.2 and 5.1, and RFC 6066, section 3. Strict: what another reader could
//! read in another way is refused.

use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

use super::target::brief;
use crate::limits;

const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// The largest payload of a record.
const MAX_RECORD: usize = 1 << 14;

/// Why the beginning of a connection is not a ClientHello for the right host.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum BadHello {
    #[error("it is not TLS")]
    NotTls,
    #[error("the TLS ClientHello is malformed")]
    Malformed,
    #[error("the TLS ClientHello is longer than {} bytes", limits::MAX_CLIENT_HELLO)]
    TooLong,
    #[error("the TLS ClientHello has no server name")]
    NoName,
    #[error("the TLS ClientHello asks for `{0}`")]
    OtherName(String),
    #[error("no TLS ClientHello came within {} s", limits::CLIENT_HELLO_TIMEOUT.as_secs())]
    Silent,
    #[error("the connection ended before the TLS ClientHello did")]
    Cut,
}

/// What is known of a ClientHello that may still be coming.
#[derive(Debug, PartialEq, Eq)]
enum Progress<'a> {
    /// At least so many bytes, from the beginning, are needed to know more.
    Need(usize),
    /// It is there and asks for this name.
    Name(&'a [u8]),
}

/// Reads a ClientHello that asks for `host`. Returns all bytes read, which may be more.
///
/// Returns `None` if the connection ends before its first byte.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    host: &str,
) -> Result<Option<Vec<u8>>, BadHello> {
    let reading = async {
        let mut bytes = Vec::with_capacity(2048);
        let mut message = Vec::new();
        loop {
            match server_name(&bytes, &mut message)? {
                Progress::Name(name) if name.eq_ignore_ascii_case(host.as_bytes()) => break,
                Progress::Name(name) => {
                    return Err(BadHello::OtherName(brief(name)));
                }
                Progress::Need(len) => {
                    while bytes.len() < len {
                        match stream.read_buf(&mut bytes).await {
                            Ok(0) if bytes.is_empty() => return Ok(None),
                            Ok(0) | Err(_) => return Err(BadHello::Cut),
                            Ok(_) => {}
                        }
                    }
                }
            }
        }
        Ok(Some(bytes))
    };
    timeout(limits::CLIENT_HELLO_TIMEOUT, reading).await.unwrap_or(Err(BadHello::Silent))
}

/// Reads any bytes.
///
/// # Panics
///
/// When more bytes are asked for than a ClientHello has, or what is asked for is there already.
#[cfg(feature = "fuzzing")]
pub(super) fn read_any(bytes: &[u8]) {
    match server_name(bytes, &mut Vec::new()) {
        Ok(Progress::Need(len)) => {
            assert!(len > bytes.len() && len <= limits::MAX_CLIENT_HELLO + 5, "{len}");
        }
        Ok(Progress::Name(name)) => assert!(!brief(name).contains(char::is_control)),
        Err(error) => drop(error.to_string()),
    }
}

/// Returns the name that a ClientHello asks for. `message` is where it is put together from its records.
fn server_name<'a>(bytes: &[u8], message: &'a mut Vec<u8>) -> Result<Progress<'a>, BadHello> {
    message.clear();
    let mut at = 0;
    loop {
        let record = &bytes[at..];
        if record.first().is_some_and(|kind| *kind != HANDSHAKE_RECORD)
            || record.get(1).is_some_and(|version| *version != 3)
        {
            return Err(BadHello::NotTls);
        }
        let Some((&[_, _, _, high, low], payload)) = record.split_first_chunk() else {
            return Ok(Progress::Need(at + 5));
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len == 0 || len > MAX_RECORD {
            return Err(BadHello::Malformed);
        }
        at += 5 + len;
        if at > limits::MAX_CLIENT_HELLO {
            return Err(BadHello::TooLong);
        }
        let Some(payload) = payload.get(..len) else {
            return Ok(Progress::Need(at));
        };
        message.extend_from_slice(payload);
        if message[0] != CLIENT_HELLO {
            return Err(BadHello::Malformed);
        }
        let Some(&[_, a, b, c]) = message.first_chunk() else { continue };
        let whole = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
        if whole > limits::MAX_CLIENT_HELLO {
            return Err(BadHello::TooLong);
        }
        if message.len() >= whole {
            // It must end where its record ends.
            let body = (message.len() == whole).then_some(&message[4..]);
            return name_in(body.ok_or(BadHello::Malformed)?).map(Progress::Name);
        }
    }
}

/// Returns the name in a ClientHello without its header.
fn name_in(hello: &[u8]) -> Result<&[u8], BadHello> {
    let mut hello = Reader(hello);
    hello.take(2 + 32)?; // version, random
    hello.list8()?; // session id
    hello.list16()?; // cipher suites
    hello.list8()?; // compression methods
    if hello.0.is_empty() {
        return Err(BadHello::NoName);
    }
    let mut extensions = Reader(hello.list16()?);
    hello.end()?;
    let mut found = None;
    while !extensions.0.is_empty() {
        let (kind, value) = (extensions.u16()?, extensions.list16()?);
        if kind == SERVER_NAME && found.replace(value).is_some() {
            return Err(BadHello::Malformed);
        }
    }
    let mut value = Reader(found.ok_or(BadHello::NoName)?);
    let mut names = Reader(value.list16()?);
    value.end()?;
    if names.take(1)? != [HOST_NAME] {
        return Err(BadHello::Malformed);
    }
    let name = names.list16()?;
    names.end()?;
    if name.is_empty() { Err(BadHello::NoName) } else { Ok(name) }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], BadHello> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(BadHello::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, BadHello> {
        let (&taken, rest) = self.0.split_first_chunk().ok_or(BadHello::Malformed)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(taken))
    }

    /// A list with its length in one byte.
    fn list8(&mut self) -> Result<&'a [u8], BadHello> {
        let len = self.take(1)?[0];
        self.take(len.into())
    }

    /// A list with its length in two bytes.
    fn list16(&mut self) -> Result<&'a [u8], BadHello> {
        let len = self.u16()?;
        self.take(len.into())
    }

    fn end(&self) -> Result<(), BadHello> {
        if self.0.is_empty() { Ok(()) } else { Err(BadHello::Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::ring, server::Acceptor};

    use super::*;

    /// Returns what a real client says first.
    fn hello(name: &str) -> Vec<u8> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let name = name.to_owned().try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// Cuts one record into many, of these sizes and one more.
    fn split(record: &[u8], sizes: &[usize]) -> Vec<u8> {
        let (mut payload, mut records) = (&record[5..], Vec::new());
        for size in sizes.iter().copied().chain([usize::MAX]) {
            let (piece, rest) = payload.split_at(size.min(payload.len()));
            if !piece.is_empty() {
                records.extend([&[22, 3, 1][..], &(piece.len() as u16).to_be_bytes()].concat());
                records.extend(piece);
            }
            payload = rest;
        }
        records
    }

    /// A ClientHello of one extension.
    fn made(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let list16 = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
        let extensions: Vec<u8> = extensions
            .iter()
            .flat_map(|(kind, value)| [&kind.to_be_bytes()[..], &list16(value)].concat())
            .collect();
        let body =
            [&[3, 3][..], &[0; 32], &[0], &list16(&[0x13, 1]), &[1, 0], &list16(&extensions)]
                .concat();
        let message = [&[1, 0][..], &list16(&body)].concat();
        [&[22, 3, 1][..], &list16(&message)].concat()
    }

    fn names(names: &[(u8, &str)]) -> Vec<u8> {
        let list: Vec<u8> = names
            .iter()
            .flat_map(|(kind, name)| {
                [&[*kind][..], &(name.len() as u16).to_be_bytes(), name.as_bytes()].concat()
            })
            .collect();
        [&(list.len() as u16).to_be_bytes()[..], &list].concat()
    }

    /// Returns what is read, with the bytes all there at once.
    fn name(bytes: &[u8]) -> Result<String, BadHello> {
        match server_name(bytes, &mut Vec::new())? {
            Progress::Name(name) => Ok(name.escape_ascii().to_string()),
            Progress::Need(len) => {
                assert!(len > bytes.len());
                Err(BadHello::Cut)
            }
        }
    }

    /// What another reader, rustls, takes the name for.
    fn theirs(mut bytes: &[u8]) -> Option<String> {
        let mut acceptor = Acceptor::default();
        while acceptor.read_tls(&mut bytes).ok()? > 0 {}
        let accepted = acceptor.accept().ok()??;
        Some(accepted.client_hello().server_name()?.to_owned())
    }

    #[test]
    fn name_of_a_real_client_is_found() {
        assert_eq!(name(&hello("a.example")).as_deref(), Ok("a.example"));
        assert_eq!(theirs(&hello("a.example")).as_deref(), Some("a.example"));
        assert_eq!(name(&made(&[(0, names(&[(0, "a.example")]))])).as_deref(), Ok("a.example"));
    }

    #[test]
    fn client_that_names_nobody_is_told_from_one_that_is_malformed() {
        // rustls names no address.
        assert_eq!(name(&hello("192.0.2.1")), Err(BadHello::NoName));
        assert_eq!(name(&made(&[])), Err(BadHello::NoName));
        assert_eq!(name(&made(&[(0, names(&[(0, "")]))])), Err(BadHello::NoName));
        for bad in [
            made(&[(0, vec![])]),
            made(&[(0, names(&[]))]),
            made(&[(0, names(&[(1, "a.example")]))]),
            made(&[(0, names(&[(0, "a.example"), (0, "b.example")]))]),
            made(&[(0, names(&[(0, "a.example")])), (0, names(&[(0, "b.example")]))]),
            made(&[(0, [names(&[(0, "a.example")]), vec![0]].concat())]),
        ] {
            assert_eq!(name(&bad), Err(BadHello::Malformed));
        }
    }

    #[test]
    fn hello_ends_where_its_lists_and_its_record_end() {
        let good = made(&[(0, names(&[(0, "a.example")]))]);
        assert_eq!(name(&good).as_deref(), Ok("a.example"));
        // One byte more, which the record counts, and then the message too.
        let mut bad = [&good[..], &[0]].concat();
        bad[4] += 1;
        assert_eq!(name(&bad), Err(BadHello::Malformed));
        bad[8] += 1;
        assert_eq!(name(&bad), Err(BadHello::Malformed));
        // Which the list of extensions counts as well: half an extension.
        let extensions = good.len() - 18 - 1;
        bad[extensions] += 1;
        assert_eq!(name(&bad), Err(BadHello::Malformed));
    }

    #[test]
    fn what_is_not_tls_is_known_by_its_first_bytes() {
        for bytes in [&b"GET / HTTP/1.1"[..], b"S", &[22, 2], &[21, 3, 3, 0, 2], &[0x80, 0x2e, 1]] {
            assert_eq!(name(bytes), Err(BadHello::NotTls), "{bytes:?}");
        }
        // A record that is no handshake, behind one that is.
        let mut mixed = split(&hello("a.example"), &[10])[..15].to_vec();
        mixed.extend([23, 3, 3]);
        assert_eq!(name(&mixed), Err(BadHello::NotTls));
        // Another message than a ClientHello.
        let mut server_hello = hello("a.example");
        server_hello[5] = 2;
        assert_eq!(name(&server_hello), Err(BadHello::Malformed));
        assert_eq!(name(&[22, 3, 1, 0, 0]), Err(BadHello::Malformed));
    }

    #[test]
    fn hello_has_a_bound_however_it_is_cut() {
        let long = names(&[(0, "a.example")]);
        let padded = |len| made(&[(0, long.clone()), (21, vec![0; len])]);
        assert_eq!(name(&padded(16_200)).as_deref(), Ok("a.example"));
        assert_eq!(name(&padded(16_312)), Err(BadHello::TooLong));
        // Six bytes for each one: too long on the wire.
        assert_eq!(name(&split(&padded(8_000), &[1; 8_000])), Err(BadHello::TooLong));
        assert_eq!(name(&[22, 3, 1, 0x40, 1]), Err(BadHello::Malformed));
        assert_eq!(name(&[22, 3, 1, 0, 4, 1, 1, 0, 0]), Err(BadHello::TooLong));
    }

    #[tokio::test]
    async fn name_is_the_hosts_whatever_the_case_and_nothing_else() {
        let read = async |hello: Vec<u8>, host| super::read(&mut hello.as_slice(), host).await;
        let said = |name: &str| made(&[(0, names(&[(0, name)]))]);
        for name in ["a.example", "A.Example"] {
            assert_eq!(read(said(name), "a.example").await, Ok(Some(said(name))));
        }
        for name in ["b.example", "a.example.", "a.example\0", "xa.example", "a.exampl"] {
            let refused = read(said(name), "a.example").await;
            assert!(matches!(refused, Err(BadHello::OtherName(_))), "{name}: {refused:?}");
        }
        assert_eq!(read(vec![], "a.example").await, Ok(None));
        assert_eq!(read(vec![22], "a.example").await, Err(BadHello::Cut));
        let more = [said("a.example"), b"more".to_vec()].concat();
        assert_eq!(read(more.clone(), "a.example").await, Ok(Some(more)));
    }

    proptest! {
        #[test]
        fn hello_may_come_in_any_records(sizes in prop::collection::vec(1..600_usize, 0..8)) {
            let records = split(&hello("a.example"), &sizes);
            prop_assert_eq!(name(&records), Ok("a.example".to_owned()));
            prop_assert_eq!(theirs(&records), Some("a.example".to_owned()));
        }

        #[test]
        fn hello_that_is_not_all_there_says_what_it_needs(
            sizes in prop::collection::vec(1..600_usize, 0..4),
            cut: prop::sample::Index,
        ) {
            let records = split(&hello("a.example"), &sizes);
            let cut = cut.index(records.len());
            let progress = server_name(&records[..cut], &mut Vec::new()).map(|progress| match progress {
                Progress::Need(len) => len,
                Progress::Name(_) => 0,
            });
            prop_assert!(
                progress.as_ref().is_ok_and(|need| (cut + 1..=records.len()).contains(need)),
                "{:?} of {} at {}", progress, records.len(), cut
            );
        }

        /// Whoever reads another name than we do would be a way around the list.
        #[test]
        fn nobody_reads_another_name_than_we_do(
            bytes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            real: bool,
        ) {
            let mut hello = match real {
                true => hello("a.example"),
                false => made(&[(0, names(&[(0, "a.example")])), (0x0a0a, vec![0; 5])]),
            };
            for (at, byte) in bytes {
                let at = at.index(hello.len());
                hello[at] = byte;
            }
            if let (Ok(ours), Some(theirs)) = (name(&hello), theirs(&hello)) {
                prop_assert_eq!(ours.to_ascii_lowercase(), theirs);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(
            start in 0..3_usize,
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let starts = [&[][..], &[22, 3, 1], &[22, 3, 1, 0, 100, 1, 0, 0, 96, 3, 3]];
            let bytes = [starts[start], &bytes].concat();
            let _ = server_name(&bytes, &mut Vec::new());
        }
    }
}
