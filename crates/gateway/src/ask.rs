//! What a request to the model asks for, read from its body without copying what it says.

mod blocks;
mod content;
mod demand;
mod reader;

use std::{fmt, sync::Arc, time::Duration};

pub(crate) use self::blocks::{Block, Blocks, Place, PrefixKey, hash_of, size};
pub(crate) use self::demand::{Demand, What};
use self::reader::Reading;

/// The most tokens that one image is: 92 by 52 patches of 28 pixels, 4,784, for models that read up
/// to 2,576 pixels; older ones stop at about 1,600. (platform.claude.com, "Images and vision", 2026.)
const IMAGE_BOUND: u64 = 5_000;
/// What an image is likely to be: a screenshot at the older models' limit.
const IMAGE_LIKELY: u64 = 1_600;

/// The most tokens that one PDF is: a whole context window. A page is an image and all its text, a file
/// has up to 600 pages, and a kilobyte of it can hold a megabyte of text, so that its length says
/// nothing. What is more than a window is refused, and what is refused costs nothing.
const DOCUMENT_BOUND: u64 = 1_000_000;
/// What a page of a PDF is likely to be: text and image together.
const PAGE_LIKELY: u64 = 3_000;
/// How much base64 a page of a PDF is likely to be.
const PAGE_BYTES: u64 = 64 * 1024;

/// More tokens than the API adds by itself when there are tools: 159 to 804, by model and tool choice,
/// and up to 500 for computer use. (platform.claude.com, "Tool use", pricing.)
const PREAMBLE_BOUND: u64 = 2_000;
/// More tokens than a tool is whose schema the API knows itself: 245 for bash, 735 for computer use.
const KNOWN_TOOL_BOUND: u64 = 1_000;

/// More than any model writes in one answer (128,000, or 300,000 in batches): a number above it is a
/// mistake, and would only make sums overflow.
const MAX_TOKENS_BOUND: u64 = 1_000_000;
/// The longest model name that is taken: it becomes a key in several tables.
const MODEL_BYTES: usize = 200;

/// How long a prefix must be to be cached: 1,024 tokens for most models, at about 4 bytes each.
const MIN_PREFIX_BYTES: u64 = 4_096;

/// A request to `/v1/messages`, as far as limits, budgets and the prompt cache need to know it.
#[derive(Debug)]
pub(crate) struct Ask {
    /// The model that is asked.
    pub(crate) model: Arc<str>,
    /// The most tokens that it may write.
    pub(crate) max_tokens: u64,
    /// Whether another speed than the standard one is asked for, which has another price.
    pub(crate) fast: bool,
    /// Whether anything is to be cached for longer than five minutes, which costs more.
    pub(crate) long_lived: bool,
    /// Whether a tool is offered that the API runs by itself, such as its web search. What that one
    /// reads is billed, too, and cannot be known before: [`input_bound`](Self::input_bound) is
    /// without it.
    pub(crate) server_tools: bool,
    /// No more input tokens than this, however it is cached.
    ///
    /// A token is at least one byte of text, and text is never shorter in JSON. Images and PDFs
    /// are counted apart, because the length of their base64 says little, and so is what the API
    /// adds by itself.
    pub(crate) input_bound: u64,
    /// How many input tokens it probably is, for pacing: 4 bytes each.
    pub(crate) input_estimate: u64,
    /// What other requests of the worker begin with, too; none where it is too short to be cached.
    pub(crate) prefix: Option<Prefix>,
    /// All that can be cached.
    pub(crate) blocks: Blocks,
    /// What the worker's configuration has to allow, besides the model.
    pub(crate) demands: Vec<Demand>,
}

/// A request to `/v1/messages/count_tokens`, as far as it can be misused.
#[derive(Debug)]
pub(crate) struct CountAsk {
    /// The model that is asked.
    pub(crate) model: Arc<str>,
    /// What the worker's configuration has to allow, besides the model.
    pub(crate) demands: Vec<Demand>,
}

impl CountAsk {
    /// Reads a request's body.
    ///
    /// # Errors
    ///
    /// As for [`Ask::parse`], but that `max_tokens` need not be there.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Unreadable> {
        let reading = Reading::of_body(body)?;
        Ok(Self { model: reading.model.into(), demands: reading.finds.demands.all })
    }
}

/// The tools and the system prompt, up to the last block that is to be cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// Of the model and of these very bytes.
    pub(crate) key: PrefixKey,
    /// How long it is to be cached.
    pub(crate) ttl: Ttl,
}

/// How long something is cached, from the start of the last request that used it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ttl {
    /// Five minutes.
    Short,
    /// An hour.
    Long,
}

impl Ttl {
    pub(crate) fn duration(self) -> Duration {
        match self {
            Self::Short => Duration::from_secs(5 * 60),
            Self::Long => Duration::from_secs(60 * 60),
        }
    }
}

/// Why a body is no request: the reason, for an answer with status 400.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable(String);

/// How much of a reason is kept. A parser quotes what it did not expect, however long that is.
const REASON_CHARS: usize = 200;

impl Unreadable {
    pub(crate) fn new(reason: &str) -> Self {
        Self(reason.chars().take(REASON_CHARS).collect())
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the request can't be read: {}", self.0)
    }
}

impl std::error::Error for Unreadable {}

impl Ask {
    /// Reads a request's body.
    ///
    /// Nothing in it is copied but the model's name. What is not read here is only walked over: it costs no
    /// memory, and no stack however deep it is nested.
    ///
    /// # Errors
    ///
    /// [`Unreadable`] for what is no JSON object, has no model or no sensible `max_tokens`, has blocks
    /// that are none, or a key twice that is read here: which of the two the API would read is
    /// unknown.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Unreadable> {
        let reading = Reading::of_body(body)?;
        let max_tokens = reading
            .max_tokens
            .ok_or_else(|| Unreadable::new("the field `max_tokens` is missing"))?;
        if max_tokens > MAX_TOKENS_BOUND {
            let reason = format!("max_tokens is {max_tokens}: no model writes that much");
            return Err(Unreadable::new(&reason));
        }
        let finds = reading.finds;
        let text_bytes = body.len() as u64 - finds.media_bytes;
        let pages = finds.document_bytes / PAGE_BYTES + finds.documents;
        let blocks = reading.blocks;
        let prefix = blocks.shared_ttl().filter(|_| blocks.shared_size() >= MIN_PREFIX_BYTES);
        Ok(Self {
            max_tokens,
            fast: reading.fast,
            long_lived: finds.long_lived,
            server_tools: finds.server_tools,
            input_bound: text_bytes
                + finds.images * IMAGE_BOUND
                + finds.documents * DOCUMENT_BOUND
                + finds.known_tools * KNOWN_TOOL_BOUND
                + PREAMBLE_BOUND,
            input_estimate: text_bytes / 4 + finds.images * IMAGE_LIKELY + pages * PAGE_LIKELY,
            prefix: prefix.map(|ttl| Prefix { key: blocks.prefix_key(&reading.model), ttl }),
            model: reading.model.into(),
            blocks,
            demands: finds.demands.all,
        })
    }
}

impl Reading {
    fn of_body(body: &[u8]) -> Result<Self, Unreadable> {
        let text =
            std::str::from_utf8(body).map_err(|error| Unreadable::new(&error.to_string()))?;
        let reading = Self::of(text)?;
        if reading.model.is_empty() || reading.model.len() > MODEL_BYTES {
            return Err(Unreadable::new("the model's name is empty or too long"));
        }
        Ok(reading)
    }
}

#[cfg(test)]
mod tests;
