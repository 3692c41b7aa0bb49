//! Reads a request's body in one pass.
//!
//! What matters is looked at where it stands; all else is hashed as the raw bytes that it is.

use super::{
    Ttl, Unreadable,
    blocks::{Blocks, Marked},
    content::{Finds, Once, Role, Sum, blocks, time_to_live},
};
use crate::scan::Scan;

/// All that is read from a body.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) model: String,
    pub(super) max_tokens: u64,
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
                    blocks(scan, finds, Role::Tool, 0, &mut |block| tools.push(*block))?;
                }
                "system" => {
                    once.check(5, key)?;
                    blocks(scan, finds, Role::Content, 0, &mut |block| system.push(*block))?;
                }
                "messages" => {
                    once.check(6, key)?;
                    scan.list("a list of messages is expected", |scan| {
                        messages.push(message(scan, finds)?);
                        Ok(())
                    })?;
                }
                // What these make the API do by itself is billed, and has no bound.
                "mcp_servers" | "container" | "compaction" => {
                    finds.server_tools |= !matches!(scan.value()?, "null" | "[]");
                }
                "context_management" => {
                    let edits = scan.value()?;
                    // Whatever an escape hides.
                    finds.server_tools |= edits.contains("\"compact") || edits.contains('\\');
                }
                _ => _ = scan.value()?,
            }
            Ok(())
        })?;
        scan.end()?;
        Ok(Self {
            model: model.ok_or_else(|| Unreadable::new("the field `model` is missing"))?,
            max_tokens: max_tokens
                .ok_or_else(|| Unreadable::new("the field `max_tokens` is missing"))?,
            fast,
            finds,
            blocks: Blocks::new(&tools, &system, &messages),
        })
    }
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
        } else {
            sum.add(scan.value()?);
        }
        Ok(())
    })?;
    Ok(sum.end())
}
