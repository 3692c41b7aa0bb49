//! A gateway: a Messages API on a unix socket, which gives the answers that it was given, in their order.
//! No other host can be reached by it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// An answer.
#[derive(Clone)]
pub(crate) enum Answer {
    Text(&'static str),
    Tool(&'static str, Value),
    Error(u16, &'static str),
}

impl Answer {
    /// Hands in a result.
    pub(crate) fn hand_in(summary: &str, artifacts: &[&str]) -> Self {
        Self::Tool(
            "StructuredOutput",
            json!({
                "summary": summary, "findings": [], "recommendations": [], "artifacts": artifacts,
            }),
        )
    }
}

/// The requests that came, without what surrounds them.
pub(crate) type Requests = Arc<Mutex<Vec<Value>>>;

/// Serves the answers; the last one for ever.
pub(crate) fn serve(socket: &Path, answers: Vec<Answer>) -> Requests {
    let listener = UnixListener::bind(socket).unwrap();
    let requests = Requests::default();
    let seen = Arc::clone(&requests);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (seen, answers) = (Arc::clone(&seen), answers.clone());
            std::thread::spawn(move || converse(&stream, &answers, &seen));
        }
    });
    requests
}

fn converse(stream: &UnixStream, answers: &[Answer], seen: &Requests) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        let mut first = String::new();
        reader.read_line(&mut first).ok().filter(|len| *len > 0)?;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            let header = header.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let (status, kind, body) = if first.starts_with("POST /v1/messages?") {
            let mut seen = seen.lock().unwrap();
            let body: Value = serde_json::from_slice(&body).ok()?;
            let answer = &answers[seen.len().min(answers.len() - 1)];
            let answer = render(answer, seen.len(), body["model"].as_str()?);
            seen.push(body);
            answer
        } else if first.starts_with("GET /api/hello ") {
            (200, "text/plain", String::new())
        } else if first.starts_with("CONNECT ") {
            (403, "text/plain", "it is on no list".to_owned())
        } else {
            (404, "application/json", "{}".to_owned())
        };
        let head = format!(
            "HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = stream;
        stream.write_all((head + &body).as_bytes()).ok()?;
    }
}

fn render(answer: &Answer, number: usize, model: &str) -> (u16, &'static str, String) {
    let (block, delta, reason) = match answer {
        Answer::Error(status, kind) => {
            let error = json!({ "type": "error", "error": { "type": kind, "message": kind } });
            return (*status, "application/json", error.to_string());
        }
        Answer::Text(text) => (
            json!({ "type": "text", "text": "" }),
            json!({ "type": "text_delta", "text": text }),
            "end_turn",
        ),
        Answer::Tool(name, input) => (
            json!({ "type": "tool_use", "id": format!("toolu_{number}"), "name": name, "input": {} }),
            json!({ "type": "input_json_delta", "partial_json": input.to_string() }),
            "tool_use",
        ),
    };
    let usage = json!({ "input_tokens": 100, "output_tokens": 10 });
    let message = json!({
        "id": format!("msg_{number}"), "type": "message", "role": "assistant", "model": model,
        "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage,
    });
    let events = [
        json!({ "type": "message_start", "message": message }),
        json!({ "type": "content_block_start", "index": 0, "content_block": block }),
        json!({ "type": "content_block_delta", "index": 0, "delta": delta }),
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({
            "type": "message_delta", "usage": usage,
            "delta": { "stop_reason": reason, "stop_sequence": null },
        }),
        json!({ "type": "message_stop" }),
    ];
    let event = |event: &Value| {
        format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
    };
    (200, "text/event-stream", events.iter().map(event).collect())
}
