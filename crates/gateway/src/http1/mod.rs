//! HTTP/1.1, as much of it as a gateway needs: heads, bodies and connections.
//!
//! A message is never handed on as it came. Its head is read into [`Fields`], its body out of its framing
//! ([`Decoder`]), and both are written anew for the next hop; so nobody there can take for the end of a message what
//! was not its end here. What could be read in two ways is refused: two lengths, a length and chunks, a number that is
//! none, a line that ends in something else than CR LF where a body is framed.
//!
//! Nothing here has a task or a timer of its own.

mod buffer;
mod decoder;
mod fields;
mod head;
mod wire;

pub(crate) use self::{
    buffer::{FIRST, Inbuf, Outbuf},
    decoder::{BadBody, CHUNK_END, Decoder, Framing, LAST_CHUNK, Then, put_chunk_head},
    fields::{Fields, put, put_length},
    head::{AnswerHead, BadHead, Reading, RequestHead, Sought, put_status},
    wire::Wire,
};
#[cfg(test)]
pub(crate) use fields::tests::fields;

/// Reads any bytes as the beginning of a connection, from either side.
///
/// # Panics
///
/// When what is read of them depends on how they are cut, or is not what is written of it.
#[cfg(feature = "fuzzing")]
pub(crate) fn read_any(bytes: &[u8]) {
    head::read_any(bytes);
    decoder::read_any(bytes);
}
