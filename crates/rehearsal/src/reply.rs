//! What the stand-in says, before it is put on the wire.

use serde_json::{Value, json};

use crate::usage::{Usage, tokens};

/// The content of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reply {
    pub(crate) blocks: Vec<Block>,
    /// `None`: `tool_use` when a tool is called, else `end_turn`.
    pub(crate) stop_reason: Option<String>,
    pub(crate) stop_details: Option<Value>,
}

/// A content block.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Block {
    Thinking(String),
    Text(String),
    ToolUse { name: String, input: Value },
}

/// The tool through which the CLI takes an answer that must follow a schema.
pub(crate) const STRUCTURED_OUTPUT: &str = "StructuredOutput";

impl Reply {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self { blocks: vec![Block::Text(text.into())], ..Self::default() }
    }

    pub(crate) fn and_use(mut self, name: &str, input: Value) -> Self {
        self.blocks.push(Block::ToolUse { name: name.to_owned(), input });
        self
    }

    pub(crate) fn stop_reason(&self) -> &str {
        let calls = self.blocks.iter().any(|block| matches!(block, Block::ToolUse { .. }));
        self.stop_reason.as_deref().unwrap_or(if calls { "tool_use" } else { "end_turn" })
    }

    pub(crate) fn output_tokens(&self) -> u64 {
        let size = |block: &Block| match block {
            Block::Thinking(text) | Block::Text(text) => text.len(),
            Block::ToolUse { name, input } => name.len() + input.to_string().len(),
        };
        tokens(self.blocks.iter().map(size).sum())
    }

    /// Returns one line about the answer, for the list of requests.
    pub(crate) fn summary(&self) -> String {
        let tools = self.blocks.iter().filter_map(|block| match block {
            Block::ToolUse { name, .. } => Some(name.as_str()),
            Block::Thinking(_) | Block::Text(_) => None,
        });
        [self.stop_reason()].into_iter().chain(tools).collect::<Vec<_>>().join(" ")
    }
}

/// What surrounds the content of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    pub(crate) message_id: String,
    /// What a tool call's id begins with.
    pub(crate) call_prefix: String,
    pub(crate) model: String,
    pub(crate) usage: Usage,
}

impl Envelope {
    /// Returns a whole message, as it answers a request without `stream`.
    pub(crate) fn message(&self, reply: &Reply) -> Value {
        let blocks = reply.blocks.iter().enumerate();
        let mut message = self.empty_message();
        message["content"] = blocks.map(|(index, block)| self.block(index, block)).collect();
        message["stop_reason"] = json!(reply.stop_reason());
        if let Some(details) = &reply.stop_details {
            message["stop_details"] = details.clone();
        }
        message
    }

    /// Returns the message that a stream begins with.
    pub(crate) fn empty_message(&self) -> Value {
        json!({
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": self.usage,
        })
    }

    pub(crate) fn block(&self, index: usize, block: &Block) -> Value {
        match block {
            Block::Text(text) => json!({ "type": "text", "text": text }),
            Block::Thinking(text) => {
                json!({ "type": "thinking", "thinking": text, "signature": SIGNATURE })
            }
            Block::ToolUse { name, input } => {
                json!({ "type": "tool_use", "id": self.call_id(index), "name": name, "input": input })
            }
        }
    }

    pub(crate) fn call_id(&self, index: usize) -> String {
        format!("{}_{index}", self.call_prefix)
    }
}

/// Base64 of "rehearsal": real signatures can't be made here, and nobody checks this one.
pub(crate) const SIGNATURE: &str = "cmVoZWFyc2Fs";
