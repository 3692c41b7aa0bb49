//! What the parts of an answer say about its usage.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, de::IgnoredAny};

use super::Reading;
use crate::{Terms, Tokens};

/// The longest error type that is kept.
const MAX_ERROR: usize = 64;

/// A text that is copied only where it has escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// An event of a stream, or a whole answer: all that matters of either.
#[derive(Deserialize)]
struct Part<'a> {
    #[serde(rename = "type", borrow)]
    kind: Text<'a>,
    #[serde(borrow)]
    message: Option<Message<'a>>,
    #[serde(borrow)]
    model: Option<Text<'a>>,
    #[serde(borrow)]
    usage: Option<Usage<'a>>,
    delta: Option<Delta>,
    error: Option<Error>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    model: Option<Text<'a>>,
    #[serde(borrow)]
    usage: Option<Usage<'a>>,
}

#[derive(Deserialize)]
struct Delta {
    stop_reason: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Error {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Usage<'a> {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_creation: Option<Creation>,
    server_tool_use: Option<ServerTools>,
    #[serde(borrow)]
    speed: Option<Text<'a>>,
    #[serde(borrow)]
    inference_geo: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Creation {
    ephemeral_5m_input_tokens: Option<u64>,
    ephemeral_1h_input_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct ServerTools {
    web_search_requests: Option<u64>,
}

/// What was seen of an answer so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    input: u64,
    output: u64,
    cache_read: u64,
    /// Written to the cache, for however long.
    cache_write: u64,
    cache_write_1h: u64,
    terms: Terms,
    model: Option<Arc<str>>,
    error: Option<String>,
    input_seen: bool,
    stopped: bool,
}

impl Seen {
    /// Takes note of an event's data. What is no event that is known changes nothing.
    pub(super) fn event(&mut self, data: &[u8]) {
        let Ok(part) = serde_json::from_slice::<Part<'_>>(data) else { return };
        match &*part.kind.0 {
            "message_start" => {
                let Some(message) = part.message else { return };
                self.model = message.model.map(|model| model.0.into());
                self.usage(message.usage.as_ref());
            }
            "message_delta" => {
                self.usage(part.usage.as_ref());
                self.stopped |= part.delta.is_some_and(|delta| delta.stop_reason.is_some());
            }
            "message_stop" => self.stopped = true,
            "error" => self.error(part.error.as_ref()),
            _ => {}
        }
    }

    /// Takes note of an answer that is no stream.
    pub(super) fn whole(&mut self, json: &[u8]) {
        let Ok(part) = serde_json::from_slice::<Part<'_>>(json) else { return };
        match &*part.kind.0 {
            "message" => {
                self.model = part.model.map(|model| model.0.into());
                self.usage(part.usage.as_ref());
                self.stopped = true;
            }
            "error" => self.error(part.error.as_ref()),
            _ => {}
        }
    }

    /// Takes the figures as the CLI does (measured): all are totals, so a later one replaces an earlier
    /// one, but for a zero, which says nothing. The output never goes back.
    fn usage(&mut self, usage: Option<&Usage<'_>>) {
        let Some(usage) = usage else { return };
        let replace = |old: &mut u64, new: Option<u64>| {
            *old = new.filter(|count| *count > 0).unwrap_or(*old);
        };
        self.input_seen |= usage.input_tokens.is_some();
        replace(&mut self.input, usage.input_tokens);
        replace(&mut self.cache_read, usage.cache_read_input_tokens);
        self.output = self.output.max(usage.output_tokens.unwrap_or(0));
        let split = usage.cache_creation.as_ref();
        let hour = split.and_then(|split| split.ephemeral_1h_input_tokens);
        let parts = split.and_then(|split| split.ephemeral_5m_input_tokens).unwrap_or(0);
        let parts = parts.saturating_add(hour.unwrap_or(0));
        replace(&mut self.cache_write, usage.cache_creation_input_tokens.or(Some(parts)));
        replace(&mut self.cache_write_1h, hour);
        let tools = usage.server_tool_use.as_ref();
        let searches = tools.and_then(|tools| tools.web_search_requests);
        self.terms.web_searches = self.terms.web_searches.max(searches.unwrap_or(0));
        self.terms.fast |= usage.speed.as_ref().is_some_and(|speed| speed.0 == "fast");
        self.terms.us_only |= usage.inference_geo.as_ref().is_some_and(|geo| geo.0 == "us");
    }

    fn error(&mut self, error: Option<&Error>) {
        let kind = error.map_or("", |error| &error.kind);
        self.error = Some(kind.chars().take(MAX_ERROR).collect());
    }

    pub(super) fn reading(&self) -> Reading {
        // What is not said to be written for an hour is billed as written for five minutes.
        let cache_write_1h = self.cache_write_1h.min(self.cache_write);
        Reading {
            tokens: Tokens {
                input: self.input,
                output: self.output,
                cache_read: self.cache_read,
                cache_write_5m: self.cache_write - cache_write_1h,
                cache_write_1h,
            },
            terms: self.terms,
            model: self.model.clone(),
            complete: self.input_seen && self.stopped,
            error: self.error.clone(),
        }
    }
}
