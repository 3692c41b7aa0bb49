//! What the parts of an answer say about its usage.

use std::{borrow::Cow, sync::Arc};

use super::Reading;
use crate::{Terms, Tokens, ask::Unreadable, number, scan::Scan};

/// The longest error type that is kept.
const MAX_ERROR: usize = 64;

/// An event of a stream, or a whole answer: all that matters of either.
#[derive(Default)]
struct Part<'a> {
    kind: Option<Cow<'a, str>>,
    message: Option<Message<'a>>,
    model: Option<Cow<'a, str>>,
    usage: Option<Usage<'a>>,
    /// Its delta says why the answer stopped.
    stops: bool,
    /// The type of the error that it is.
    error: Option<Cow<'a, str>>,
}

#[derive(Default)]
struct Message<'a> {
    model: Option<Cow<'a, str>>,
    usage: Option<Usage<'a>>,
}

#[derive(Default)]
struct Usage<'a> {
    input: Option<u64>,
    output: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    cache_write_5m: Option<u64>,
    cache_write_1h: Option<u64>,
    web_searches: Option<u64>,
    speed: Option<Cow<'a, str>>,
    geo: Option<Cow<'a, str>>,
    /// What the API did beside the answer and bills with it: to summarise what came before, for one. It is in none
    /// of the figures above. (platform.claude.com, "Compaction", 2026.)
    aside: Option<Tokens>,
}

type Result<T> = std::result::Result<T, Unreadable>;

impl<'a> Part<'a> {
    /// Reads JSON. What is not JSON in every detail may be read, too; what is not what it should be is not.
    fn read(json: &'a [u8]) -> Option<Self> {
        let mut scan = Scan::new(std::str::from_utf8(json).ok()?);
        let mut part = Self::default();
        scan.object("", |scan, key| {
            match key {
                "type" => part.kind = text(scan)?,
                "message" => part.message = or_null(scan, Message::read)?,
                "model" => part.model = text(scan)?,
                "usage" => part.usage = or_null(scan, Usage::read)?,
                "delta" => part.stops = or_null(scan, stop_reason)?.unwrap_or(false),
                "error" => part.error = or_null(scan, kind_of_error)?,
                _ => drop(scan.value()?),
            }
            Ok(())
        })
        .ok()?;
        scan.end().ok()?;
        Some(part)
    }
}

impl<'a> Message<'a> {
    fn read(scan: &mut Scan<'a>) -> Result<Self> {
        let mut message = Self::default();
        scan.object("", |scan, key| {
            match key {
                "model" => message.model = text(scan)?,
                "usage" => message.usage = or_null(scan, Usage::read)?,
                _ => drop(scan.value()?),
            }
            Ok(())
        })?;
        Ok(message)
    }
}

impl<'a> Usage<'a> {
    fn read(scan: &mut Scan<'a>) -> Result<Self> {
        let mut usage = Self::default();
        scan.object("", |scan, key| {
            match key {
                "input_tokens" => usage.input = count(scan)?,
                "output_tokens" => usage.output = count(scan)?,
                "cache_read_input_tokens" => usage.cache_read = count(scan)?,
                "cache_creation_input_tokens" => usage.cache_write = count(scan)?,
                "cache_creation" => {
                    let read = |scan: &mut Scan<'a>| {
                        scan.object("", |scan, key| {
                            match key {
                                "ephemeral_5m_input_tokens" => usage.cache_write_5m = count(scan)?,
                                "ephemeral_1h_input_tokens" => usage.cache_write_1h = count(scan)?,
                                _ => drop(scan.value()?),
                            }
                            Ok(())
                        })
                    };
                    or_null(scan, read)?;
                }
                "server_tool_use" => {
                    let read = |scan: &mut Scan<'a>| {
                        scan.object("", |scan, key| {
                            match key {
                                "web_search_requests" => usage.web_searches = count(scan)?,
                                _ => drop(scan.value()?),
                            }
                            Ok(())
                        })
                    };
                    or_null(scan, read)?;
                }
                "iterations" => usage.aside = or_null(scan, aside)?,
                "speed" => usage.speed = text(scan)?,
                "inference_geo" => usage.geo = text(scan)?,
                _ => drop(scan.value()?),
            }
            Ok(())
        })?;
        Ok(usage)
    }
}

/// Reads the parts of which an answer was made, and returns the sum of those that are not the answer.
fn aside(scan: &mut Scan<'_>) -> Result<Tokens> {
    let mut sum = Tokens::default();
    scan.list("", |scan| {
        let (mut part, mut is_message, mut written) = (Tokens::default(), false, None);
        scan.object("", |scan, key| {
            let of = |scan: &mut Scan<'_>| Ok(count(scan)?.unwrap_or(0));
            match key {
                "type" => is_message = text(scan)?.as_deref() == Some("message"),
                "input_tokens" => part.input = of(scan)?,
                "output_tokens" => part.output = of(scan)?,
                "cache_read_input_tokens" => part.cache_read = of(scan)?,
                "cache_creation_input_tokens" => written = count(scan)?,
                _ => drop(scan.value()?),
            }
            Ok(())
        })?;
        part.cache_write_5m = written.unwrap_or(0);
        if !is_message {
            sum += part;
        }
        Ok(())
    })?;
    Ok(sum)
}

/// Returns whether a delta says why the answer stopped.
fn stop_reason(scan: &mut Scan<'_>) -> Result<bool> {
    let mut stops = false;
    scan.object("", |scan, key| {
        let value = scan.value()?;
        stops |= key == "stop_reason" && value != "null";
        Ok(())
    })?;
    Ok(stops)
}

fn kind_of_error<'a>(scan: &mut Scan<'a>) -> Result<Cow<'a, str>> {
    let mut kind = None;
    scan.object("", |scan, key| {
        match key {
            "type" => kind = text(scan)?,
            _ => drop(scan.value()?),
        }
        Ok(())
    })?;
    kind.ok_or_else(|| scan.wrong("an error without a type ends"))
}

/// Reads something, or `null`.
fn or_null<'a, T>(
    scan: &mut Scan<'a>,
    read: impl FnOnce(&mut Scan<'a>) -> Result<T>,
) -> Result<Option<T>> {
    if scan.peek() != Some(b'n') {
        return read(scan).map(Some);
    }
    match scan.value()? {
        "null" => Ok(None),
        _ => Err(scan.wrong("a value is broken")),
    }
}

fn text<'a>(scan: &mut Scan<'a>) -> Result<Option<Cow<'a, str>>> {
    or_null(scan, Scan::text)
}

fn count(scan: &mut Scan<'_>) -> Result<Option<u64>> {
    or_null(scan, |scan| {
        let value = scan.value()?;
        number::read(value.as_bytes()).ok_or_else(|| scan.wrong("a count is none"))
    })
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
    aside: Tokens,
    terms: Terms,
    model: Option<Arc<str>>,
    error: Option<String>,
    input_seen: bool,
    stopped: bool,
}

impl Seen {
    pub(super) fn has_begun(&self) -> bool {
        self.input_seen
    }

    /// Takes note of an event's data. What is no event that is known changes nothing.
    pub(super) fn event(&mut self, data: &[u8]) {
        let Some(part) = Part::read(data) else { return };
        match part.kind.as_deref().unwrap_or_default() {
            "message_start" => {
                let Some(message) = part.message else { return };
                self.model = message.model.map(Arc::from);
                self.usage(message.usage.as_ref());
            }
            "message_delta" => {
                self.usage(part.usage.as_ref());
                self.stopped |= part.stops;
            }
            "message_stop" => self.stopped = true,
            "error" => self.error(part.error.as_deref()),
            _ => {}
        }
    }

    /// Takes note of an answer that is no stream.
    pub(super) fn whole(&mut self, json: &[u8]) {
        let Some(part) = Part::read(json) else { return };
        match part.kind.as_deref().unwrap_or_default() {
            "message" => {
                self.model = part.model.map(Arc::from);
                self.usage(part.usage.as_ref());
                self.stopped = true;
            }
            "error" => self.error(part.error.as_deref()),
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
        self.input_seen |= usage.input.is_some();
        replace(&mut self.input, usage.input);
        replace(&mut self.cache_read, usage.cache_read);
        self.output = self.output.max(usage.output.unwrap_or(0));
        let hour = usage.cache_write_1h;
        let parts = usage.cache_write_5m.unwrap_or(0).saturating_add(hour.unwrap_or(0));
        replace(&mut self.cache_write, usage.cache_write.or(Some(parts)));
        replace(&mut self.cache_write_1h, hour);
        self.aside = usage.aside.unwrap_or(self.aside);
        self.terms.web_searches = self.terms.web_searches.max(usage.web_searches.unwrap_or(0));
        self.terms.fast |= usage.speed.as_deref() == Some("fast");
        self.terms.us_only |= usage.geo.as_deref() == Some("us");
    }

    fn error(&mut self, kind: Option<&str>) {
        self.error = Some(kind.unwrap_or_default().chars().take(MAX_ERROR).collect());
    }

    pub(super) fn reading(&self) -> Reading {
        // What is not said to be written for an hour is billed as written for five minutes.
        let cache_write_1h = self.cache_write_1h.min(self.cache_write);
        let mut tokens = Tokens {
            input: self.input,
            output: self.output,
            cache_read: self.cache_read,
            cache_write_5m: self.cache_write - cache_write_1h,
            cache_write_1h,
        };
        tokens += self.aside;
        Reading {
            tokens,
            terms: self.terms,
            model: self.model.clone(),
            complete: self.input_seen && self.stopped,
            error: self.error.clone(),
        }
    }
}
