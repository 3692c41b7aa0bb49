//! Whether bodies arrive as they were sent, both ways.

use std::{
    fs::File,
    io::{Read as _, Write as _},
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::{
    Result, sse,
    wire::{self, Address, Answer},
};

/// Asks our own upstream for the body with this seed and length.
pub(crate) const ANSWER_HEADER: &str = "x-bench-answer";

/// Carries the hash of the request's body as the upstream has received it.
pub(crate) const HASH_HEADER: &str = "x-bench-request-sha256";

/// Around what buffers and pages hold, and what no buffer holds.
const SIZES: [usize; 11] =
    [2_000, 4_095, 4_096, 16_385, 65_535, 65_536, 65_537, 131_073, 1 << 20, 8 << 20, 31 << 20];

/// Sends and fetches bodies of all sizes up to `most` bytes, by length and in chunks, in pieces of changing
/// size. Returns how many exchanges and bytes were compared.
///
/// # Errors
///
/// If a body is not the one that was sent.
pub(crate) fn compare(at: &Address, most: usize) -> Result<(usize, u64)> {
    let (mut exchanges, mut bytes) = (0, 0);
    let sizes: Vec<usize> = SIZES.into_iter().filter(|size| *size <= most).collect();
    for (ix, &size) in sizes.iter().enumerate() {
        for chunked in [false, true] {
            let seed = 2 * ix as u64 + u64::from(chunked);
            let request = sse::request_body(size);
            // Those that are cut differently have different neighbours, too.
            let answer = sizes[sizes.len() - 1 - ix];
            exchange(at, seed, &request, chunked, answer)
                .map_err(|error| format!("{size} B up, {answer} B down: {error}"))?;
            exchanges += 1;
            bytes += (request.len() + answer) as u64;
        }
    }
    Ok((exchanges, bytes))
}

fn exchange(at: &Address, seed: u64, body: &[u8], chunked: bool, answer: usize) -> Result<()> {
    let framing = match chunked {
        true => "Transfer-Encoding: chunked\r\n".to_owned(),
        false => format!("Content-Length: {}\r\n", body.len()),
    };
    let head = wire::head(&format!("{ANSWER_HEADER}: {seed} {answer}\r\n{framing}"));
    let mut stream = File::from(at.connect(false)?);
    stream.write_all(&head)?;
    for piece in cut(seed, body) {
        if chunked {
            write!(stream, "{:x}\r\n", piece.len())?;
        }
        stream.write_all(piece)?;
        if chunked {
            stream.write_all(b"\r\n")?;
        }
    }
    if chunked {
        stream.write_all(b"0\r\n\r\n")?;
    }

    let (mut received, mut followed) = (Sha256::new(), Answer::default());
    let mut buffer = vec![0; 100_000];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err("the answer breaks off".into());
        }
        let mut hash = |piece: &[u8]| {
            received.update(piece);
            Ok(())
        };
        if followed.feed(&buffer[..read], &mut hash)? {
            break;
        }
    }
    let mut sent = Sha256::new();
    pieces(seed, answer).for_each(|piece| sent.update(&piece));
    if received.finalize() != sent.finalize() {
        return Err("the answer's body is another one".into());
    }
    let wanted = format!("{HASH_HEADER}: {}", hex(&Sha256::digest(body)));
    if !followed.head().to_ascii_lowercase().contains(&wanted) {
        return Err("the request's body is another one".into());
    }
    Ok(())
}

/// Returns the pieces of the body with this seed and length.
pub(crate) fn pieces(seed: u64, len: usize) -> impl Iterator<Item = Bytes> + Send {
    let mut state = seed;
    let body: Bytes = (0..len.div_ceil(8)).flat_map(|_| next(&mut state).to_le_bytes()).collect();
    let (mut state, mut at) = (seed, 0);
    std::iter::from_fn(move || {
        let from = at;
        at = (at + size(&mut state)).min(len);
        (from < at).then(|| body.slice(from..at))
    })
}

/// Cuts a body into pieces of changing size.
fn cut(seed: u64, body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut state, mut rest) = (seed, body);
    std::iter::from_fn(move || {
        let piece;
        (piece, rest) = rest.split_at(size(&mut state).min(rest.len()));
        (!piece.is_empty()).then_some(piece)
    })
}

/// Returns the size of the next piece: of any magnitude up to 256 KiB, one byte as likely as many.
fn size(state: &mut u64) -> usize {
    let magnitude = next(state) % 18;
    (1 << magnitude) + (next(state) % (1 << magnitude)) as usize
}

/// The generator `splitmix64`: <https://prng.di.unimi.it/splitmix64.c>.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
