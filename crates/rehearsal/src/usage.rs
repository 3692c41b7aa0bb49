//! The `usage` object of an answer.

use serde::{Deserialize, Serialize};

/// The token counts of one answer, as the API reports them. 1 token is 4 bytes of JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens after the last cache breakpoint: neither read from the cache nor written to it.
    pub input_tokens: u64,
    /// Tokens written to the cache.
    pub cache_creation_input_tokens: u64,
    /// Tokens read from the cache.
    pub cache_read_input_tokens: u64,
    /// The written tokens by their time to live.
    pub cache_creation: CacheCreation,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// Always `standard`.
    pub service_tier: ServiceTier,
}

/// The tokens written to the cache, by their time to live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CacheCreation {
    /// Written for five minutes.
    pub ephemeral_5m_input_tokens: u64,
    /// Written for an hour.
    pub ephemeral_1h_input_tokens: u64,
}

/// The service tier of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceTier {
    /// The only tier that a rehearsal has.
    #[default]
    Standard,
}

/// What a scenario says instead of the counted tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UsageOverride {
    input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

impl UsageOverride {
    pub(crate) fn apply(&self, usage: &mut Usage) {
        if let Some(tokens) = self.input_tokens {
            usage.input_tokens = tokens;
        }
        if let Some(tokens) = self.cache_creation_input_tokens {
            usage.cache_creation_input_tokens = tokens;
            // The parts must add up to the whole: who adds them up should get the same bill.
            usage.cache_creation =
                CacheCreation { ephemeral_5m_input_tokens: tokens, ephemeral_1h_input_tokens: 0 };
        }
        if let Some(tokens) = self.cache_read_input_tokens {
            usage.cache_read_input_tokens = tokens;
        }
        if let Some(tokens) = self.output_tokens {
            usage.output_tokens = tokens;
        }
    }
}

/// Returns the emulated count for so many bytes of JSON. Nothing is free: at least 1.
pub(crate) fn tokens(bytes: usize) -> u64 {
    (bytes as u64 / 4).max(1)
}
