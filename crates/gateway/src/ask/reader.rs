//! Reads a request's body in one pass.
//!
//! What matters is looked at where it stands; all else is hashed as the raw bytes that it is.

use super::{
    Place, Ttl, Unreadable,
    blocks::{Blocks, Marked},
    content::{Finds, Once, Role, Sum, blocks, hidden, time_to_live},
    demand::{What, shown},
};
use crate::scan::Scan;

/// All that is read from a body.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) model: String,
    /// None where it is only asked how long the request is.
    pub(super) max_tokens: Option<u64>,
    pub(super) fast: bool,
    pub(super) finds: Finds,
    pub(super) blocks: Blocks,
}

impl Reading {
    pub(super) fn of(text: &str) -> Result<Self, Unreadable> {
        let (mut model, mut max_tokens, mut fast) = (None, None, false);
        let (mut tools, mut system, mut messages) = (Vec::new(), Vec::new(), Vec::new());
        let (mut finds, mut once) = (Finds::default(), Once::default());
        let mut scan = Scan::new(text);
        scan.object("a request for a message is expected", |scan, key| {
            let finds = &mut finds;
            match key {
                "model" => {
                    once.check(0, key)?;
                    model = Some(scan.text()?.into_owned());
                }
                "max_tokens" => {
                    once.check(1, key)?;
                    max_tokens = Some(count(scan)?);
                }
                "speed" => {
                    once.check(2, key)?;
                    fast = !matches!(scan.value()?, "null" | "\"standard\"");
                }
                "cache_control" => {
                    once.check(3, key)?;
                    finds.long_lived |= time_to_live(scan)? == Some(Ttl::Long);
                }
                "tools" => {
                    once.check(4, key)?;
                    finds.demands.place = Some(Place::Tool(0));
                    blocks(scan, finds, Role::Tool, 0, &mut |block| tools.push(*block))?;
                }
                "system" => {
                    once.check(5, key)?;
                    finds.demands.place = Some(Place::System(0));
                    blocks(scan, finds, Role::Content, 0, &mut |block| system.push(*block))?;
                }
                "messages" => {
                    once.check(6, key)?;
                    scan.list("a list of messages is expected", |scan| {
                        let at = u16::try_from(messages.len()).unwrap_or(u16::MAX);
                        finds.demands.place = Some(Place::Message(at));
                        messages.push(message(scan, finds)?);
                        Ok(())
                    })?;
                }
                // What these make the API do by itself is billed, and has no bound.
                "mcp_servers" | "container" => {
                    let raw = scan.value()?;
                    if !matches!(raw, "null" | "[]") {
                        finds.server_tools = true;
                        let is_mcp = key == "mcp_servers";
                        let what = if is_mcp { What::McpServers } else { What::Container };
                        finds.demands.push(what)?;
                        hidden(raw, finds)?;
                    }
                }
                "compaction" => {
                    let raw = scan.value()?;
                    finds.server_tools |= !matches!(raw, "null" | "[]");
                    hidden(raw, finds)?;
                }
                "context_management" => {
                    let edits = scan.value()?;
                    // Whatever an escape hides.
                    finds.server_tools |= edits.contains("\"compact") || edits.contains('\\');
                    hidden(edits, finds)?;
                }
                "fallbacks" => fallbacks(scan, finds)?,
                // The schema of an answer looks like anything.
                "output_config" | "output_format" => _ = scan.value()?,
                // What the client tells of itself.
                "metadata" | "diagnostics" | "safeguards" | "data_flow" | "tags" => {
                    _ = scan.value()?;
                }
                _ => {
                    if !KNOWN.contains(&key) {
                        finds.demands.push(What::Field(shown(key)))?;
                    }
                    hidden(scan.value()?, finds)?;
                }
            }
            finds.demands.place = None;
            Ok(())
        })?;
        scan.end()?;
        Ok(Self {
            model: model.ok_or_else(|| Unreadable::new("the field `model` is missing"))?,
            max_tokens,
            fast,
            finds,
            blocks: Blocks::new(&tools, &system, &messages),
        })
    }
}

/// The other fields that a request may have: those of the API, and what the CLI adds. What a field does that nobody
/// here knows, such as to name another model, can't be judged.
const KNOWN: [&str; 10] = [
    "tool_choice",
    "stop_sequences",
    "stream",
    "temperature",
    "top_k",
    "top_p",
    "thinking",
    "service_tier",
    "inference_geo",
    "betas",
];

/// Reads the models that the API may take in the place of the one that is asked.
fn fallbacks(scan: &mut Scan<'_>, finds: &mut Finds) -> Result<(), Unreadable> {
    if scan.peek() != Some(b'[') {
        return match scan.value()? {
            "null" => Ok(()),
            _ => finds.demands.push(What::AnyModel),
        };
    }
    scan.list("", |scan| {
        let (mut model, mut once) = (None, Once::default());
        scan.object("a fallback is expected", |scan, key| {
            if key == "model" {
                once.check(0, key)?;
                model = Some(shown(&scan.text()?));
            } else {
                hidden(scan.value()?, finds)?;
            }
            Ok(())
        })?;
        finds.demands.push(model.map_or(What::AnyModel, What::Model))
    })
}

fn count(scan: &mut Scan<'_>) -> Result<u64, Unreadable> {
    let text = scan.value()?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let count = text.parse().ok().filter(|_| digits);
    count.ok_or_else(|| scan.wrong("no whole number ends"))
}

fn message(scan: &mut Scan<'_>, finds: &mut Finds) -> Result<Marked, Unreadable> {
    let (mut sum, mut once) = (Sum::default(), Once::default());
    scan.object("a message is expected", |scan, key| {
        sum.add(key);
        if key == "content" {
            once.check(0, key)?;
            blocks(scan, finds, Role::Content, 0, &mut |block| sum.add_block(block))?;
        } else if key.eq_ignore_ascii_case("content") {
            let why = format!("the field `{key}` could be read as `content`");
            return Err(Unreadable::new(&why));
        } else {
            let raw = scan.value()?;
            sum.add(raw);
            hidden(raw, finds)?;
        }
        Ok(())
    })?;
    Ok(sum.end())
}
