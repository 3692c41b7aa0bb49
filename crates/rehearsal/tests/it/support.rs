//! A plain HTTP client, and requests as the CLI sends them.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rehearsal::{Rehearsal, Scenario};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};

/// A rehearsal, and a new in-memory connection to it for each request.
pub(crate) struct World {
    pub(crate) rehearsal: Rehearsal,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: String,
    /// Whether the connection broke before the body's end.
    pub(crate) broke: bool,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { rehearsal: Rehearsal::new(Scenario::default()) }
    }

    pub(crate) fn scripted(toml: &str) -> Self {
        let scenario = Scenario::from_toml(toml).expect("the scenario should be valid");
        Self { rehearsal: Rehearsal::new(scenario) }
    }

    /// Sends a request; `None` when the connection breaks before the head of an answer.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Option<Answer> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::spawn(self.rehearsal.clone().serve_stream(far));
        Some(collect(send(near, request).await?).await)
    }

    pub(crate) async fn post(&self, body: &Value) -> Option<Answer> {
        self.send(post("/v1/messages?beta=true", body)).await
    }

    /// Returns the message that answers, put together from the stream.
    pub(crate) async fn message(&self, body: &Value) -> Value {
        self.post(body).await.expect("there should be an answer").message()
    }

    /// Plays the CLI: answers tool calls by `tool` until the structured output, and returns it.
    pub(crate) async fn converse(
        &self,
        mut body: Value,
        tool: impl Fn(&str, &Value) -> (bool, String),
    ) -> Value {
        for _ in 0..10 {
            let message = self.message(&body).await;
            let blocks = message["content"].as_array().expect("content").clone();
            let call = blocks.iter().find(|block| block["type"] == "tool_use");
            let Some(call) = call else {
                return message;
            };
            let name = call["name"].as_str().expect("a name");
            if name == "StructuredOutput" {
                return call["input"].clone();
            }
            let (is_error, text) = tool(name, &call["input"]);
            let result = json!({ "type": "tool_result", "tool_use_id": call["id"],
                "is_error": is_error, "content": [{ "type": "text", "text": text }] });
            let messages = body["messages"].as_array_mut().expect("messages");
            messages.push(json!({ "role": "assistant", "content": blocks }));
            messages.push(json!({ "role": "user", "content": [result] }));
        }
        panic!("the conversation does not end");
    }

    pub(crate) fn answers(&self) -> Vec<String> {
        self.rehearsal.requests().into_iter().map(|request| request.answer).collect()
    }
}

/// Sends a request over a stream of bytes.
pub(crate) async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Option<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("handshake");
    tokio::spawn(connection);
    sender.send_request(request).await.ok()
}

pub(crate) async fn collect(response: Response<Incoming>) -> Answer {
    let (head, mut body) = response.into_parts();
    let (mut bytes, mut broke) = (Vec::new(), false);
    while let Some(frame) = body.frame().await {
        match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(data)) => bytes.extend_from_slice(&data),
            Ok(Err(_)) => {}
            Err(_) => {
                broke = true;
                break;
            }
        }
    }
    let body = String::from_utf8(bytes).expect("UTF-8");
    Answer { status: head.status.as_u16(), headers: head.headers, body, broke }
}

pub(crate) fn post(path: &str, body: &Value) -> Request<Full<Bytes>> {
    let body = Full::from(body.to_string());
    Request::post(path).header("host", "rehearsal").body(body).expect("a request")
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// Returns the events of the stream: their names and data.
    pub(crate) fn events(&self) -> Vec<(String, Value)> {
        let frames = self.body.split("\n\n").filter(|frame| !frame.is_empty());
        let frames = frames.map(|frame| {
            let (name, data) = frame.split_once('\n').expect("two lines");
            let name = name.strip_prefix("event: ").expect("an event line");
            let data = data.strip_prefix("data: ").expect("a data line");
            (name.to_owned(), serde_json::from_str(data).expect("JSON"))
        });
        frames.collect()
    }

    pub(crate) fn event_names(&self) -> Vec<String> {
        self.events().into_iter().map(|(name, _)| name).collect()
    }

    /// Puts a stream together as a client does.
    pub(crate) fn message(&self) -> Value {
        assert_eq!((self.status, self.broke), (200, false), "{}", self.body);
        let mut message = Value::Null;
        let mut inputs = String::new();
        for (name, data) in self.events() {
            let index = usize::try_from(data["index"].as_u64().unwrap_or(0)).expect("an index");
            match name.as_str() {
                "message_start" => message = data["message"].clone(),
                "content_block_start" => {
                    let content = message["content"].as_array_mut().expect("content");
                    assert_eq!(content.len(), index, "blocks should come in order");
                    content.push(data["content_block"].clone());
                    inputs.clear();
                }
                "content_block_delta" => {
                    let delta = &data["delta"];
                    let block = &mut message["content"][index];
                    for key in ["text", "thinking", "signature"] {
                        if let Some(part) = delta[key].as_str() {
                            let text = block[key].as_str().expect("a text").to_owned();
                            block[key] = json!(text + part);
                        }
                    }
                    inputs.push_str(delta["partial_json"].as_str().unwrap_or(""));
                }
                "content_block_stop" if message["content"][index]["type"] == "tool_use" => {
                    let input = serde_json::from_str(&inputs).expect("the joined input");
                    message["content"][index]["input"] = input;
                }
                "message_delta" => {
                    message["stop_reason"] = data["delta"]["stop_reason"].clone();
                    message["usage"] = data["usage"].clone();
                }
                _ => {}
            }
        }
        message
    }
}

/// Returns a streamed request with one user text, offering these tools.
pub(crate) fn request(prompt: &str, tools: &[&str]) -> Value {
    let tools: Vec<Value> =
        tools.iter().map(|name| json!({ "name": name, "input_schema": {} })).collect();
    json!({
        "model": "claude-sonnet-5-5",
        "max_tokens": 1000,
        "stream": true,
        "system": [{ "type": "text", "text": "You are marie." }],
        "tools": tools,
        "messages": [{ "role": "user", "content": prompt }],
    })
}

pub(crate) fn task(id: &str, worker: &str, kind: &str, attempt: u32) -> String {
    format!(
        "<role>\nYou are {worker}.\n</role>\n\
         <task id=\"{id}\" worker=\"{worker}\" kind=\"{kind}\" attempt=\"{attempt}\">\n\
         Review the tango.\n</task>\n\
         <inputs>\n\
         <input task=\"k3f9.survey\" worker=\"anga\" status=\"complete\" folder=\"/tasks/s\">\n\
         Two dances were found.\n</input>\n\
         <input task=\"k3f9.examine\" worker=\"zoe\" status=\"failed\" folder=\"/tasks/e\">\n\
         It timed out.\n</input>\n\
         </inputs>\n\
         <output artifacts=\"/results/{id}.{attempt}/artifacts\">\ncontract\n</output>\n"
    )
}
