//! What a rule does: an answer, a fault, or both.

mod check;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::template::{fill, fill_value};
use crate::conversation::Conversation;
use crate::error::ApiError;
use crate::reply::{Block, Reply, STRUCTURED_OUTPUT};
use crate::usage::UsageOverride;

/// One answer. Empty, it means the built-in behaviour.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Step {
    thinking: Option<String>,
    text: Option<Texts>,
    tool_use: Vec<ToolUse>,
    structured: Option<Value>,
    stop_reason: Option<String>,
    stop_details: Option<Value>,
    then: Option<Then>,
    pub(crate) usage: UsageOverride,

    pub(crate) http: Option<u16>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) error: Option<ApiError>,
    pub(crate) body: Option<String>,

    pub(crate) sse_error: Option<SseError>,
    pub(crate) drop: Option<DropAt>,
    pub(crate) rst: bool,
    pub(crate) hang: bool,
    #[serde(deserialize_with = "some_seconds")]
    pub(crate) stall: Option<Duration>,
    pub(crate) pings: bool,
    #[serde(deserialize_with = "seconds")]
    pub(crate) delay: Duration,
    #[serde(deserialize_with = "seconds")]
    pub(crate) chunk_delay: Duration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "text must be a string or a list of strings")]
enum Texts {
    One(String),
    Many(Vec<String>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolUse {
    name: String,
    #[serde(default = "no_input")]
    input: Value,
}

fn no_input() -> Value {
    Value::Object(serde_json::Map::new())
}

/// Who makes the content when the step itself has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Then {
    Default,
}

/// Where in the answer the connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DropAt {
    BeforeHeaders,
    AfterHeaders,
    AfterStart,
    MidText,
    MidTool,
    BeforeStop,
}

impl DropAt {
    fn as_str(self) -> &'static str {
        match self {
            Self::BeforeHeaders => "before_headers",
            Self::AfterHeaders => "after_headers",
            Self::AfterStart => "after_start",
            Self::MidText => "mid_text",
            Self::MidTool => "mid_tool",
            Self::BeforeStop => "before_stop",
        }
    }
}

/// An error event inside a stream that began well.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SseError {
    #[serde(rename = "type")]
    kind: String,
    message: String,
    #[serde(default)]
    pub(crate) after: ErrorAfter,
}

impl SseError {
    pub(crate) fn error(&self) -> ApiError {
        ApiError { kind: self.kind.clone(), message: self.message.clone() }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ErrorAfter {
    #[default]
    Start,
    Text,
}

impl Step {
    /// Returns the content, or `None` when the built-in behaviour is to make it.
    pub(crate) fn reply(&self) -> Option<Reply> {
        if self.then == Some(Then::Default) {
            return None;
        }
        if !self.has_content() {
            let fault = self.drop.is_some() || self.sse_error.is_some();
            return fault.then(|| Reply::text("Rehearsal: this answer breaks off on purpose."));
        }
        let mut blocks: Vec<Block> = self.thinking.iter().cloned().map(Block::Thinking).collect();
        blocks.extend(match &self.text {
            None => vec![],
            Some(Texts::One(text)) => vec![Block::Text(text.clone())],
            Some(Texts::Many(texts)) => texts.iter().cloned().map(Block::Text).collect(),
        });
        let structured = self.structured.iter().map(|value| (STRUCTURED_OUTPUT, value));
        let calls = self.tool_use.iter().map(|call| (call.name.as_str(), &call.input));
        blocks.extend(
            calls.chain(structured).map(|(name, input)| Block::ToolUse {
                name: name.to_owned(),
                input: input.clone(),
            }),
        );
        let (stop_reason, stop_details) = (self.stop_reason.clone(), self.stop_details.clone());
        Some(Reply { blocks, stop_reason, stop_details })
    }

    fn has_content(&self) -> bool {
        self.thinking.is_some()
            || self.text.is_some()
            || !self.tool_use.is_empty()
            || self.structured.is_some()
            || self.stop_reason.is_some()
    }

    /// Returns the status of the error that the step answers with, if it does.
    pub(crate) fn error_status(&self, stream: bool) -> Option<u16> {
        // Without a stream there is no error event: the same error is an answer of its own.
        let sse = self.sse_error.as_ref().filter(|_| !stream).map(|error| error.error().status());
        self.http.or(sse)
    }

    /// Returns whether a message begins, be it only to break off.
    pub(crate) fn begins(&self, stream: bool) -> bool {
        let before = matches!(self.drop, Some(DropAt::BeforeHeaders | DropAt::AfterHeaders));
        !before && !self.hang && self.error_status(stream).is_none()
    }

    /// Returns the fault in a few words, if there is one that ends the answer.
    pub(crate) fn fault(&self, stream: bool) -> Option<String> {
        if self.hang {
            return Some("hang".to_owned());
        }
        if let Some(status) = self.error_status(stream) {
            return Some(format!("http {status}"));
        }
        let sse = self.sse_error.as_ref().map(|error| format!("sse_error {}", error.kind));
        self.drop.map(|at| format!("drop {}", at.as_str())).or(sse)
    }

    /// Returns the step with the task's names filled into its strings.
    pub(super) fn filled(&self, conversation: &Conversation<'_>) -> Self {
        let mut step = self.clone();
        let Some(task) = &conversation.task else {
            return step;
        };
        step.thinking = step.thinking.map(|text| fill(&text, task));
        step.text = step.text.map(|texts| match texts {
            Texts::One(text) => Texts::One(fill(&text, task)),
            Texts::Many(texts) => Texts::Many(texts.iter().map(|text| fill(text, task)).collect()),
        });
        step.structured = step.structured.map(|value| fill_value(&value, task));
        for call in &mut step.tool_use {
            call.input = fill_value(&call.input, task);
        }
        step
    }
}

/// Reads a time in seconds, whole or not.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        serde::de::Error::custom(format!("{seconds} is not a time in seconds: use 0 or more"))
    })
}

fn some_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    seconds(deserializer).map(Some)
}
