//! An answer as server-sent events.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::reply::{Block, Envelope, Reply, SIGNATURE};

/// An event of the stream, with what a fault has to know about it.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) mark: Mark,
    pub(crate) bytes: Bytes,
}

/// The places in a stream where a fault can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// `message_start` and the ping behind it.
    Start,
    TextDelta,
    ToolDelta,
    Other,
    /// `message_delta`, which says why the answer stops.
    Stop,
}

/// A text goes out in this many pieces, so that a client that joins them wrongly is found out.
const TEXT_PIECES: usize = 4;

/// Returns the whole answer as events, in order.
pub(crate) fn events(envelope: &Envelope, reply: &Reply) -> Vec<Event> {
    let mut start = envelope.empty_message();
    // As the API does: the first event can't know the length of the answer.
    start["usage"]["output_tokens"] = json!(1);
    let mut events = vec![
        event(Mark::Start, json!({ "type": "message_start", "message": start })),
        event(Mark::Start, json!({ "type": "ping" })),
    ];
    for (index, block) in reply.blocks.iter().enumerate() {
        push_block(&mut events, envelope, index, block);
    }
    let mut delta = json!({ "stop_reason": reply.stop_reason(), "stop_sequence": null });
    if let Some(details) = &reply.stop_details {
        delta["stop_details"] = details.clone();
    }
    let usage = envelope.usage;
    events.push(event(
        Mark::Stop,
        json!({ "type": "message_delta", "delta": delta, "usage": usage }),
    ));
    events.push(event(Mark::Other, json!({ "type": "message_stop" })));
    events
}

fn push_block(events: &mut Vec<Event>, envelope: &Envelope, index: usize, block: &Block) {
    let mut opening = envelope.block(index, block);
    let deltas: Vec<(Mark, Value)> = match block {
        Block::Text(text) => {
            opening["text"] = json!("");
            let size = text.chars().count().div_ceil(TEXT_PIECES);
            let delta = |text| (Mark::TextDelta, json!({ "type": "text_delta", "text": text }));
            pieces(text, size).into_iter().map(delta).collect()
        }
        Block::Thinking(text) => {
            opening["thinking"] = json!("");
            opening["signature"] = json!("");
            vec![
                (Mark::Other, json!({ "type": "thinking_delta", "thinking": text })),
                (Mark::Other, json!({ "type": "signature_delta", "signature": SIGNATURE })),
            ]
        }
        Block::ToolUse { input, .. } => {
            opening["input"] = json!({});
            let input = input.to_string();
            let size = input.chars().count().div_ceil(2);
            let delta = |part| {
                (Mark::ToolDelta, json!({ "type": "input_json_delta", "partial_json": part }))
            };
            pieces(&input, size).into_iter().map(delta).collect()
        }
    };
    events.push(event(
        Mark::Other,
        json!({ "type": "content_block_start", "index": index, "content_block": opening }),
    ));
    for (mark, delta) in deltas {
        events.push(event(
            mark,
            json!({ "type": "content_block_delta", "index": index, "delta": delta }),
        ));
    }
    events.push(event(Mark::Other, json!({ "type": "content_block_stop", "index": index })));
}

/// Returns an error event, after which a stream ends.
pub(crate) fn error(error: &ApiError) -> Bytes {
    frame(&json!({ "type": "error", "error": error }))
}

/// Returns the event that only says that the connection lives.
pub(crate) fn ping() -> Bytes {
    frame(&json!({ "type": "ping" }))
}

fn event(mark: Mark, data: Value) -> Event {
    Event { mark, bytes: frame(&data) }
}

fn frame(data: &Value) -> Bytes {
    let name = data["type"].as_str().unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n").into()
}

/// Splits a text after every `size` characters. A text without any is one empty piece.
fn pieces(text: &str, size: usize) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    if chars.is_empty() {
        return vec![String::new()];
    }
    chars.chunks(size.max(1)).map(|piece| piece.iter().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_text_join_to_the_text() {
        for text in ["", "é", "ab", "größer als gedacht, 日本語", "x\ny"] {
            let pieces = pieces(text, text.chars().count().div_ceil(TEXT_PIECES));
            assert_eq!(pieces.concat(), text);
            assert!((1..=TEXT_PIECES).contains(&pieces.len()), "{pieces:?}");
        }
    }
}
