//! Tokens, by how they are billed.

use std::ops::AddAssign;

use protocol::Usage;
use serde::{Deserialize, Serialize};

/// Tokens of one answer, or of many, by how they are billed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tokens {
    /// Read by the model, neither from nor into the prompt cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub input: u64,
    /// Written by the model.
    #[serde(skip_serializing_if = "is_zero")]
    pub output: u64,
    /// Read from the prompt cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_read: u64,
    /// Written to the prompt cache for five minutes.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_5m: u64,
    /// Written to the prompt cache for an hour.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_1h: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
pub(crate) fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Tokens {
    /// Returns all tokens that the model read, from wherever.
    pub fn read(&self) -> u64 {
        [self.input, self.cache_read, self.cache_write_5m, self.cache_write_1h]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Returns all tokens, read and written.
    pub fn all(&self) -> u64 {
        self.read().saturating_add(self.output)
    }
}

impl AddAssign for Tokens {
    fn add_assign(&mut self, rhs: Self) {
        let add = |a: &mut u64, b: u64| *a = a.saturating_add(b);
        add(&mut self.input, rhs.input);
        add(&mut self.output, rhs.output);
        add(&mut self.cache_read, rhs.cache_read);
        add(&mut self.cache_write_5m, rhs.cache_write_5m);
        add(&mut self.cache_write_1h, rhs.cache_write_1h);
    }
}

impl From<Tokens> for Usage {
    fn from(tokens: Tokens) -> Self {
        Self {
            input_tokens: tokens.input,
            output_tokens: tokens.output,
            cache_read_input_tokens: tokens.cache_read,
            cache_creation_input_tokens: tokens
                .cache_write_5m
                .saturating_add(tokens.cache_write_1h),
        }
    }
}
