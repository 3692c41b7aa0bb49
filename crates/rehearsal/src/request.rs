//! The body of a request to the Messages API, as far as a rehearsal looks at it.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::ApiError;

/// A request to `/v1/messages` or `/v1/messages/count_tokens`. Fields not named here are accepted.
#[derive(Debug, Deserialize)]
pub(crate) struct MessagesRequest {
    pub(crate) model: String,
    pub(crate) messages: Vec<Message>,
    pub(crate) system: Option<Content>,
    pub(crate) tools: Option<Vec<Value>>,
    pub(crate) stream: Option<bool>,
    pub(crate) max_tokens: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Message {
    pub(crate) role: Role,
    pub(crate) content: Content,
}

/// Who speaks. The CLI also sends `system` in the middle of `messages`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    User,
    Assistant,
    System,
}

impl Role {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::System => "system",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "content must be a string or a list of blocks")]
pub(crate) enum Content {
    Text(String),
    Blocks(Vec<Value>),
}

impl Content {
    /// Returns the content as blocks. A bare string is one text block: the CLI sends the same
    /// message in both forms, in one turn so and in the next so.
    pub(crate) fn blocks(&self) -> Vec<Value> {
        match self {
            Self::Text(text) => vec![json!({ "type": "text", "text": text })],
            Self::Blocks(blocks) => blocks.clone(),
        }
    }

    /// Returns the text blocks.
    pub(crate) fn texts(&self) -> Vec<&str> {
        match self {
            Self::Text(text) => vec![text],
            Self::Blocks(blocks) => blocks.iter().filter_map(text_of).collect(),
        }
    }

    /// Returns the blocks of one type, such as `tool_use`.
    pub(crate) fn of_type<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = &'a Value> {
        let blocks = match self {
            Self::Text(_) => &[],
            Self::Blocks(blocks) => blocks.as_slice(),
        };
        blocks.iter().filter(move |block| block["type"] == wanted)
    }
}

fn text_of(block: &Value) -> Option<&str> {
    (block["type"] == "text").then(|| block["text"].as_str()).flatten()
}

impl MessagesRequest {
    /// Reads a request body.
    ///
    /// # Errors
    ///
    /// The API's `invalid_request_error` when it is not JSON or lacks what the API requires.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let request: Self = serde_json::from_slice(body).map_err(|error| {
            ApiError::new(400, format!("the request body is not valid: {error}"))
        })?;
        if request.messages.is_empty() {
            return Err(ApiError::new(400, "messages: at least one message is required"));
        }
        Ok(request)
    }

    pub(crate) fn tools(&self) -> &[Value] {
        self.tools.as_deref().unwrap_or_default()
    }

    pub(crate) fn offers(&self, tool: &str) -> bool {
        self.tools().iter().any(|offered| offered["name"] == tool)
    }

    /// Returns the system prompt's text, without `system` messages in the conversation.
    pub(crate) fn system_text(&self) -> String {
        self.system.as_ref().map(|system| system.texts().join("\n\n")).unwrap_or_default()
    }
}
