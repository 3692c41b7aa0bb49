//! What broke the prompt cache, when it breaks.
//!
//! The hashes of the last requests of each worker are kept. When an answer's usage says that less was
//! read from the cache than an earlier request had put there, they say why: which block differs
//! first and from which attempt, or that the bytes are the same.
//!
//! A report costs somebody an hour of looking, so a doubt is no report:
//!
//! - Sessions of one worker have different messages. Between sessions, only the tools and the system prompt
//!   are compared.
//! - A request with other tools altogether is another kind of request, not a broken one. The CLI
//!   has some of its own beside the conversation.
//! - Which type a sub-agent is of is not known, so one sub-agent's prompt may differ from another's.
//! - What could not have been read anyway is not missed: what was never cached, what was sent before the
//!   answer that cached it was over, and what is too little to be told from an estimate.

mod report;

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use protocol::{Attempt, RunId, TaskId};
use tokio::time::Instant;

pub use self::report::CacheBreak;
pub(crate) use self::report::{Cause, PrefixBreak};
use crate::{
    ask::{Ask, Block, Blocks, Place, hash_of, size},
    tokens::Tokens,
};

/// How many requests are kept of each group: the last one of each session that runs, for up to 32
/// replicas. One is 16 bytes a block, about 1 KB, and 16 KB at most.
const MAX_ENTRIES: usize = 32;

/// How many groups are kept, each worker being one on each account it uses.
const MAX_GROUPS: usize = 64;

/// How many reports are kept.
const MAX_BREAKS: usize = 64;

/// How many tokens must be missing before it is worth a line: less than the API would cache at all.
const MIN_LOST: u64 = 1_000;

/// The last requests of each group, and what they put into the cache.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    /// The latest reports, newest last.
    breaks: Mutex<VecDeque<CacheBreak>>,
    groups: Mutex<HashMap<u64, Vec<Entry>, foldhash::fast::RandomState>>,
}

/// Who sends a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'a> {
    /// The run of the task.
    pub(crate) run: RunId,
    /// The task that it works on.
    pub(crate) task: &'a TaskId,
    /// Which attempt.
    pub(crate) attempt: Attempt,
    /// Its session, by `X-Claude-Code-Session-Id`.
    pub(crate) session: Option<&'a str>,
    /// The sub-agent, by `x-claude-code-agent-id`; none for the main conversation.
    pub(crate) agent: Option<&'a str>,
}

/// A request that is out. To drop it is to forget it: it has put nothing into the cache.
#[derive(Debug)]
pub(crate) struct Sent {
    run: RunId,
    group: u64,
    entry: Entry,
    expected: Option<Expected>,
}

/// A request that was answered.
#[derive(Clone, Debug)]
struct Entry {
    task: TaskId,
    attempt: Attempt,
    session: Option<u64>,
    agent: Option<u64>,
    model: Arc<str>,
    blocks: Blocks,
    started: Instant,
    /// What the cache held of it when it was answered, in tokens.
    cached: u64,
}

/// What should be read from the cache, because of whom, and what is wrong if it is not.
#[derive(Debug)]
struct Expected {
    task: TaskId,
    attempt: Attempt,
    cause: Cause,
    /// At most, in tokens: what the other one had cached.
    cached: u64,
    /// The blocks that should be read, in bytes. None: all that was cached, exactly.
    bytes: Option<u64>,
    /// Those of them that can be read whatever is wrong, in bytes.
    kept: u64,
}

impl Prefixes {
    /// Returns a memory of nothing.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Notes that a request is sent now.
    ///
    /// A group is who is to send the same tools and system prompt: a worker on an account.
    pub(crate) fn sent(&self, group: impl Hash, sender: Sender<'_>, ask: &Ask) -> Sent {
        let entry = Entry {
            task: sender.task.clone(),
            attempt: sender.attempt,
            session: sender.session.map(hash_of),
            agent: sender.agent.map(hash_of),
            model: Arc::clone(&ask.model),
            blocks: ask.blocks.clone(),
            started: Instant::now(),
            cached: 0,
        };
        let group = hash_of(group);
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = groups.get(&group).and_then(|entries| entry.expected(entries));
        drop(groups);
        Sent { run: sender.run, group, entry, expected }
    }

    /// Takes in the answer's usage, and tells what broke the prefix if something did.
    ///
    /// The tokens of the answer's first event are enough.
    pub(crate) fn answered(&self, sent: Sent, tokens: &Tokens) -> Option<PrefixBreak> {
        let Sent { run, group, mut entry, expected } = sent;
        let report = expected.and_then(|expected| expected.missed(&entry.blocks, tokens));
        if let Some(report) = &report {
            let (task, attempt) = (entry.task.clone(), entry.attempt);
            let (lost, why) = (report.lost, report.to_string());
            let mut breaks = self.breaks.lock().unwrap_or_else(PoisonError::into_inner);
            if breaks.len() == MAX_BREAKS {
                breaks.pop_front();
            }
            breaks.push_back(CacheBreak { run, task, attempt, lost, why });
        }
        entry.cached = tokens.read().saturating_sub(tokens.input);
        if entry.cached > 0 {
            self.keep(group, entry);
        }
        report
    }

    /// Returns the latest reports, oldest first.
    pub(crate) fn breaks(&self) -> Vec<CacheBreak> {
        self.breaks.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn keep(&self, group: u64, entry: Entry) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if !groups.contains_key(&group) && groups.len() == MAX_GROUPS {
            let last_used = |entries: &[Entry]| entries.iter().map(|entry| entry.started).max();
            let oldest = groups.iter().min_by_key(|(_, entries)| last_used(entries));
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                groups.remove(&oldest);
            }
        }
        let entries = groups.entry(group).or_default();
        entries.retain(|old| !old.is_continued_by(&entry));
        if entries.len() == MAX_ENTRIES {
            let oldest = entries.iter().enumerate().min_by_key(|(_, old)| old.started);
            if let Some((at, _)) = oldest {
                entries.swap_remove(at);
            }
        }
        entries.push(entry);
    }
}

impl Entry {
    /// Returns whether another request comes from the same conversation, or at least its session.
    fn is_with(&self, other: &Self) -> bool {
        (self.session, self.agent) == (other.session, other.agent) && self.model == other.model
    }

    /// Returns whether another request goes on where this one ended, and makes it superfluous.
    fn is_continued_by(&self, next: &Self) -> bool {
        let shared = self.blocks.shared();
        self.is_with(next) && common(shared, next.blocks.shared()) == shared.len()
    }

    fn is_warm(&self, now: Instant) -> bool {
        now < self.started + self.blocks.ttl().duration()
    }

    /// Returns what should be read from the cache, going by what was sent before.
    fn expected(&self, entries: &[Self]) -> Option<Expected> {
        let session = |old: &&Self| self.session.is_some() && old.is_with(self);
        let kind = |old: &&Self| old.agent.is_some() == self.agent.is_some();
        let model = |old: &&Self| old.model == self.model;
        self.expected_after(entries.iter().filter(session), Compared::Session)
            .or_else(|| {
                let worker = entries.iter().filter(kind).filter(model);
                self.expected_after(worker, Compared::Worker)
            })
            .or_else(|| {
                let others = entries.iter().filter(kind).filter(|old| !model(old));
                let same = |old: &&Self| {
                    let shared = old.blocks.shared();
                    !shared.is_empty() && shared == self.blocks.shared()
                };
                let warm = others.filter(same).filter(|old| old.is_warm(self.started));
                let old = warm.max_by_key(|old| old.started)?;
                let cause = Cause::OtherModel { had: Arc::clone(&old.model) };
                Some(old.promises(Compared::Worker, cause, 0))
            })
    }

    /// Returns what should be read of that which one of these requests cached: of the one that has
    /// most in common with this one.
    fn expected_after<'a>(
        &self,
        others: impl Iterator<Item = &'a Self>,
        compared: Compared,
    ) -> Option<Expected> {
        let all = self.blocks.all();
        let told_apart = compared == Compared::Session || self.agent.is_none();
        let found = others.filter_map(|old| {
            let part = compared.of(&old.blocks);
            let same = common(part, all);
            let counts = if same == part.len() {
                !part.is_empty()
            } else {
                // One that ends where the other goes on is not another.
                let differs = same < all.len() && old.is_warm(self.started);
                differs && told_apart && is_kin(&old.blocks, all)
            };
            counts.then_some((same, old))
        });
        let (same, old) = found.max_by_key(|(same, old)| (*same, old.started))?;
        let part = compared.of(&old.blocks);
        let after = self.started - old.started;
        let cause = match (part.get(same), all.get(same)) {
            (None, _) if old.is_warm(self.started) => Cause::Lost { after },
            (None, _) => Cause::Expired { after },
            (Some(was), Some(is)) if was.place == is.place => Cause::Differs { place: is.place },
            (Some(was), Some(is)) if is.place < was.place => Cause::New { place: is.place },
            (Some(was), _) => Cause::Missing { place: was.place },
        };
        let kept = if same == part.len() { 0 } else { size(&part[..same]) };
        Some(old.promises(compared, cause, kept))
    }

    fn promises(&self, compared: Compared, cause: Cause, kept: u64) -> Expected {
        let bytes = (compared == Compared::Worker).then(|| size(self.blocks.shared()));
        let task = self.task.clone();
        Expected { task, attempt: self.attempt, cause, cached: self.cached, bytes, kept }
    }
}

/// Which of an earlier request's blocks are expected again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compared {
    /// All that it cached: it was of the same session.
    Session,
    /// Its tools and system prompt.
    Worker,
}

impl Compared {
    fn of(self, blocks: &Blocks) -> &[Block] {
        match self {
            Self::Session => blocks.cached(),
            Self::Worker => blocks.shared(),
        }
    }
}

/// Returns how many blocks are the same from the start.
fn common(a: &[Block], b: &[Block]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Returns whether a request is of the same kind as an earlier one, though it differs: whether it has
/// at least half of its tools, wherever.
fn is_kin(old: &Blocks, new: &[Block]) -> bool {
    // Enough to tell, and few enough to compare each with each.
    let tools = |blocks: &'_ [Block]| -> Vec<u64> {
        let tools = blocks.iter().take_while(|block| matches!(block.place, Place::Tool(_)));
        tools.take(100).map(|tool| tool.hash).collect()
    };
    let (old, new) = (tools(old.all()), tools(new));
    let kept = old.iter().filter(|tool| new.contains(tool)).count();
    if old.is_empty() { new.is_empty() } else { 2 * kept >= old.len() }
}

impl Expected {
    /// Returns the report if less was read from the cache than was expected.
    fn missed(self, blocks: &Blocks, tokens: &Tokens) -> Option<PrefixBreak> {
        let bytes = size(blocks.all()).max(1);
        // How many bytes a token is, this request itself says best.
        let estimate = |part: u64| {
            let tokens = u128::from(part) * u128::from(tokens.read()) / u128::from(bytes);
            u64::try_from(tokens).unwrap_or(u64::MAX)
        };
        let promised = self.bytes.map_or(self.cached, |bytes| estimate(bytes).min(self.cached));
        let kept = estimate(self.kept).min(promised);
        let exact = self.bytes.is_none() && self.kept == 0;
        // Half-way between what is read when it is broken and when it is not, since both are
        // estimates; with known numbers a tenth is enough.
        let least = if exact { promised - promised / 10 } else { kept.midpoint(promised) };
        let lost = promised.saturating_sub(tokens.cache_read);
        (tokens.cache_read < least && lost >= MIN_LOST).then_some(PrefixBreak {
            task: self.task,
            attempt: self.attempt,
            cause: self.cause,
            lost,
        })
    }
}

#[cfg(test)]
mod tests;
