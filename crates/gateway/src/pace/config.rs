//! Limits that a person sets.

use std::{collections::BTreeMap, sync::Arc};

use protocol::WorkerId;

/// How much may be asked of the API. What is `None` has no bound of ours.
///
/// The rates are those of a bucket that holds a minute's worth and is refilled continuously, as the
/// API's own are. Zero lets nothing through: whoever waits for it is told at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests per minute.
    pub requests_per_minute: Option<u32>,
    /// Input tokens per minute. What is read from the prompt cache does not count.
    pub input_tokens_per_minute: Option<u64>,
    /// Output tokens per minute.
    pub output_tokens_per_minute: Option<u64>,
    /// Requests that have been sent and whose answers have not ended.
    pub max_in_flight: Option<u32>,
}

impl Limits {
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The limits of an installation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PaceConfig {
    /// Of each account, for all its models together.
    pub account: Limits,
    /// Of a model: its exact name, or the beginning of it and a `*`. Of those that fit, the exact one
    /// counts, else the longest. All models that a pattern covers share the one limit, and what the
    /// server says about one of them is taken to hold for all: the API, too, limits some models as a
    /// class.
    pub models: Vec<(String, Limits)>,
    /// Of a worker, for all its replicas and models together.
    pub workers: BTreeMap<WorkerId, Limits>,
}

impl PaceConfig {
    /// Returns the class that a model is limited in: the pattern that covers it, or its own name.
    pub(crate) fn class(&self, model: &Arc<str>) -> (Arc<str>, Limits) {
        let fits = |pattern: &str| match pattern.strip_suffix('*') {
            Some(start) => model.starts_with(start).then_some(pattern.len()),
            None => (pattern == &**model).then_some(usize::MAX),
        };
        let found = self
            .models
            .iter()
            .filter_map(|(pattern, limits)| Some((fits(pattern)?, pattern, limits)))
            .max_by_key(|(fit, ..)| *fit);
        match found {
            Some((_, pattern, limits)) => (pattern.as_str().into(), limits.clone()),
            None => (Arc::clone(model), Limits::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_is_limited_by_the_closest_pattern() {
        let patterns = ["*", "claude-sonnet-4*", "claude-sonnet-*", "claude-sonnet-4-5", "o"];
        let config = PaceConfig {
            models: patterns.map(|pattern| (pattern.to_owned(), Limits::default())).into(),
            ..PaceConfig::default()
        };
        let class = |model: &str| config.class(&model.into()).0.to_string();
        assert_eq!(
            ["claude-sonnet-4-5", "claude-sonnet-4-6", "claude-sonnet-3", "opus", ""].map(class),
            ["claude-sonnet-4-5", "claude-sonnet-4*", "claude-sonnet-*", "*", "*"],
        );
        assert_eq!(PaceConfig::default().class(&"opus".into()).0.as_ref(), "opus");
    }
}
