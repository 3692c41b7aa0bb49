//! Prompt caching, emulated by the real prefix.
//!
//! A request's blocks (tools, then system, then messages) are hashed cumulatively. A block with
//! `cache_control` is a breakpoint: it reads the longest prefix that is in the cache and ends at
//! most [`LOOK_BACK`] blocks before it, and writes its own. Each model has a cache of its own.
//!
//! Left out of what the real API does: the least length of a cached prefix, and that other
//! settings (thinking, tool choice, images) also invalidate.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::request::MessagesRequest;
use crate::usage::{CacheCreation, Usage, tokens};

/// How many blocks before a breakpoint the API looks for a cached prefix.
const LOOK_BACK: usize = 20;
const FIVE_MINUTES: Duration = Duration::from_secs(5 * 60);
const ONE_HOUR: Duration = Duration::from_secs(60 * 60);
/// Entries kept at most, about 10 MB: a day of heavy rehearsing writes fewer in an hour.
const MAX_ENTRIES: usize = 100_000;

/// The hash of a prefix, and of the model it was sent to.
pub(crate) type PrefixHash = [u8; 32];

/// A request's blocks, hashed and counted.
#[derive(Debug)]
pub(crate) struct Prefix {
    blocks: Vec<Block>,
}

#[derive(Debug)]
struct Block {
    /// Of everything up to and with this block.
    hash: PrefixHash,
    /// Up to and with this block.
    tokens: u64,
    /// The time to live that its breakpoint asks for, if it is one.
    breakpoint: Option<Duration>,
}

impl Prefix {
    pub(crate) fn of(request: &MessagesRequest) -> Self {
        let mut prefix = Self { blocks: Vec::new() };
        let mut hasher = Sha256::new_with_prefix(&request.model);
        let mut push = |place: &str, mut value: Value| {
            let breakpoint = take_breakpoint(&mut value);
            let text = value.to_string();
            // Lengths first, so that no two different lists of blocks look the same.
            hasher.update((place.len() as u64).to_le_bytes());
            hasher.update(place);
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(&text);
            let before = prefix.blocks.last().map_or(0, |block| block.tokens);
            let hash = hasher.clone().finalize().into();
            prefix.blocks.push(Block { hash, tokens: before + tokens(text.len()), breakpoint });
        };
        for tool in request.tools() {
            push("tool", tool.clone());
        }
        for block in request.system.iter().flat_map(|system| system.blocks()) {
            push("system prompt", block);
        }
        for message in &request.messages {
            for block in message.content.blocks() {
                push(message.role.as_str(), block);
            }
        }
        prefix
    }

    /// Returns the tokens of the whole request.
    pub(crate) fn tokens(&self) -> u64 {
        self.blocks.last().map_or(0, |block| block.tokens)
    }

    /// Returns the first bytes of the whole request's hash, as hexadecimal digits.
    pub(crate) fn digest(&self) -> String {
        let hash = self.blocks.last().map_or([0; 32], |block| block.hash);
        hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Takes `cache_control` away: where a breakpoint is must not change what is before it.
fn take_breakpoint(block: &mut Value) -> Option<Duration> {
    let control = block.as_object_mut()?.shift_remove("cache_control")?;
    let wanted = control.is_object();
    wanted.then(|| if control["ttl"] == "1h" { ONE_HOUR } else { FIVE_MINUTES })
}

/// The cache entries that an answer will make or refresh once it begins.
#[derive(Debug)]
pub(crate) struct PendingWrites {
    /// When the request came: their time to live runs from here.
    started: Instant,
    entries: Vec<(PrefixHash, Duration)>,
}

/// What is cached, and until when. Time comes from the caller.
#[derive(Debug, Default)]
pub(crate) struct PromptCache {
    entries: HashMap<PrefixHash, Entry>,
    next_sweep: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    ttl: Duration,
    expires: Instant,
}

impl PromptCache {
    /// Returns what a request reads and writes, with `output_tokens` 0.
    ///
    /// Nothing is written yet: like the API's, an entry can be read only after the answer that
    /// makes it has begun. Give the writes to [`commit`](Self::commit) then.
    pub(crate) fn look_up(&self, now: Instant, prefix: &Prefix) -> (Usage, PendingWrites) {
        let mut read = 0;
        let mut writes = Vec::new();
        for (at, ttl) in breakpoints(prefix) {
            let window = &prefix.blocks[at.saturating_sub(LOOK_BACK)..=at];
            if let Some((block, entry)) = window.iter().rev().find_map(|block| {
                let entry = self.entries.get(&block.hash).filter(|entry| entry.expires > now)?;
                Some((block, entry))
            }) {
                read = read.max(block.tokens);
                writes.push((block.hash, entry.ttl));
            }
            writes.push((prefix.blocks[at].hash, ttl));
        }
        let mut covered = read;
        let mut creation = CacheCreation::default();
        for (at, ttl) in breakpoints(prefix) {
            let fresh = prefix.blocks[at].tokens.saturating_sub(covered);
            covered += fresh;
            if ttl == ONE_HOUR {
                creation.ephemeral_1h_input_tokens += fresh;
            } else {
                creation.ephemeral_5m_input_tokens += fresh;
            }
        }
        let usage = Usage {
            input_tokens: prefix.tokens() - covered,
            cache_creation_input_tokens: covered - read,
            cache_read_input_tokens: read,
            cache_creation: creation,
            ..Usage::default()
        };
        (usage, PendingWrites { started: now, entries: writes })
    }

    /// Makes the entries of an answer that begins, and starts anew the life of those it read.
    pub(crate) fn commit(&mut self, now: Instant, writes: PendingWrites) {
        self.sweep(now);
        for (hash, ttl) in writes.entries {
            // A five-minute breakpoint does not shorten the life of an hour's entry.
            let known = self.entries.get(&hash).filter(|entry| entry.expires > now);
            let ttl = known.map_or(ttl, |entry| entry.ttl.max(ttl));
            let expires = writes.started + ttl;
            // Nor does a slow answer that of an entry which was used since it was asked for.
            let expires = known.map_or(expires, |entry| entry.expires.max(expires));
            self.entries.insert(hash, Entry { ttl, expires });
        }
    }

    fn sweep(&mut self, now: Instant) {
        if self.next_sweep.is_none_or(|at| now >= at) || self.entries.len() >= MAX_ENTRIES {
            self.entries.retain(|_, entry| entry.expires > now);
            self.next_sweep = Some(now + FIVE_MINUTES);
        }
        if self.entries.len() >= MAX_ENTRIES {
            // Rare enough that starting over is fair; the API promises no cache hit either.
            self.entries.clear();
        }
    }
}

fn breakpoints(prefix: &Prefix) -> impl Iterator<Item = (usize, Duration)> {
    let blocks = prefix.blocks.iter().enumerate();
    blocks.filter_map(|(at, block)| block.breakpoint.map(|ttl| (at, ttl)))
}

#[cfg(test)]
mod tests;
