//! The blocks of a request, as far as the prompt cache tells them apart.

use std::{
    fmt,
    hash::{BuildHasher, Hasher},
    sync::LazyLock,
};

use foldhash::quality::{FoldHasher, RandomState};

use super::Ttl;

/// The key of all hashes, new in each process: nobody can prepare two blocks with one hash.
///
/// foldhash, because a hash that costs as much as the parsing is too much: it takes more than 10 GB a
/// second, where the standard library's takes 1 to 2. It is in the tree anyway, below `hashbrown`. That it is not
/// cryptographic is enough here: a collision would make one request wait for another, or leave a
/// report out.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// How many blocks of a request are told apart; what is behind them is not compared. A session of
/// 200 turns has about 450.
pub(super) const MAX_BLOCKS: usize = 1_024;

pub(super) fn hasher() -> FoldHasher<'static> {
    KEY.build_hasher()
}

/// Returns the hash of anything, by the process's key.
pub(crate) fn hash_of(value: impl std::hash::Hash) -> u64 {
    KEY.hash_one(value)
}

/// The hash of a prefix and of the model that it is sent to. Holds within one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PrefixKey(u64);

/// A tool, a block of the system prompt, or a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Of all its bytes but `cache_control`: where a prefix ends is no part of it.
    pub(crate) hash: u64,
    /// In bytes. An image is as long as text of as many tokens.
    pub(crate) size: u32,
    /// Where it stands.
    pub(crate) place: Place,
}

/// Where a block stands in its request, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Among the tools.
    Tool(u16),
    /// Among the blocks of the system prompt.
    System(u16),
    /// Among the messages.
    Message(u16),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tool(at) => write!(f, "tools[{at}]"),
            Self::System(at) => write!(f, "system[{at}]"),
            Self::Message(at) => write!(f, "messages[{at}]"),
        }
    }
}

/// The blocks of a request in the order in which the API caches them: tools, system, messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Blocks {
    all: Box<[Block]>,
    /// How many of them, tools and system only, are before the end of what other requests share,
    /// and for how long that is cached.
    shared: Option<(usize, Ttl)>,
    /// How many are to be cached at all.
    cached: usize,
    /// For how long the last of those is.
    ttl: Option<Ttl>,
}

/// A block, and whether a prefix that is to be cached ends with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marked {
    pub(super) hash: u64,
    pub(super) size: u64,
    pub(super) ends: Option<Ttl>,
}

impl Blocks {
    pub(super) fn new(tools: &[Marked], system: &[Marked], messages: &[Marked]) -> Self {
        let places: [fn(u16) -> Place; 3] = [Place::Tool, Place::System, Place::Message];
        let parts = [tools, system, messages].into_iter().zip(places);
        let blocks = parts.flat_map(|(part, place)| {
            part.iter().zip(0..=u16::MAX).map(move |(block, at)| (block, place(at)))
        });
        let mut new = Self::default();
        let mut all =
            Vec::with_capacity((tools.len() + system.len() + messages.len()).min(MAX_BLOCKS));
        for (block, place) in blocks.take(MAX_BLOCKS) {
            let size = u32::try_from(block.size).unwrap_or(u32::MAX);
            all.push(Block { hash: block.hash, size, place });
            if let Some(ttl) = block.ends {
                (new.cached, new.ttl) = (all.len(), Some(ttl));
                if !matches!(place, Place::Message(_)) {
                    new.shared = Some((all.len(), ttl));
                }
            }
        }
        new.all = all.into();
        new
    }

    /// Returns all blocks.
    pub(crate) fn all(&self) -> &[Block] {
        &self.all
    }

    /// Returns those that other requests of the worker share.
    pub(crate) fn shared(&self) -> &[Block] {
        &self.all[..self.shared.map_or(0, |(count, _)| count)]
    }

    /// Returns those that are to be cached.
    pub(crate) fn cached(&self) -> &[Block] {
        &self.all[..self.cached]
    }

    /// Returns for how long the last block that is to be cached is. Without any, the API's default.
    pub(crate) fn ttl(&self) -> Ttl {
        self.ttl.unwrap_or(Ttl::Short)
    }

    pub(super) fn shared_ttl(&self) -> Option<Ttl> {
        self.shared.map(|(_, ttl)| ttl)
    }

    pub(super) fn shared_size(&self) -> u64 {
        size(self.shared())
    }

    pub(super) fn prefix_key(&self, model: &str) -> PrefixKey {
        let mut hasher = hasher();
        hasher.write(model.as_bytes());
        for block in self.shared() {
            let place = match block.place {
                Place::Tool(_) => 0,
                Place::System(_) | Place::Message(_) => 1,
            };
            hasher.write_u8(place);
            hasher.write_u64(block.hash);
        }
        PrefixKey(hasher.finish())
    }
}

/// Returns the size of blocks together, in bytes.
pub(crate) fn size(blocks: &[Block]) -> u64 {
    blocks.iter().map(|block| u64::from(block.size)).sum()
}
