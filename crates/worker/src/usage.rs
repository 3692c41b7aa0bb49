//! What an attempt used: tokens, dollars, and by which model.

use std::collections::HashMap;

use protocol::Usage;
use serde_json::Value;

use crate::session::Session;

/// What an attempt used.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Used {
    pub(crate) usage: Usage,
    pub(crate) cost_usd: f64,
    pub(crate) model: Option<String>,
}

/// The usage of single answers, for when no totals come.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    by_id: HashMap<String, (String, Usage)>,
}

impl Answers {
    /// Takes in an `assistant` message. The CLI repeats one for each block of its content, with
    /// growing figures.
    pub(crate) fn add(&mut self, message: &Value) {
        let (Some(id), Some(model)) = (message["id"].as_str(), message["model"].as_str()) else {
            return;
        };
        if model == "<synthetic>" {
            return;
        }
        let found = by_name(&message["usage"], &API_NAMES);
        let known = self.by_id.entry(id.to_owned()).or_default();
        model.clone_into(&mut known.0);
        raise(&mut known.1, found);
    }
}

const API_NAMES: [&str; 4] =
    ["input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"];

const CLI_NAMES: [&str; 4] =
    ["inputTokens", "outputTokens", "cacheReadInputTokens", "cacheCreationInputTokens"];

/// What the `result`s of one process say that it used itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Own {
    usage: Usage,
    cost_usd: f64,
}

impl Own {
    /// Takes in a `result`: each says what was used since the one before.
    pub(crate) fn add(&mut self, result: &Value) {
        for usage in result["model_usage_since_last_result"].as_object().into_iter().flatten() {
            self.usage += by_name(usage.1, &CLI_NAMES);
            self.cost_usd += usage.1["costUSD"].as_f64().unwrap_or(0.0);
        }
    }
}

/// Returns what this attempt used.
///
/// `modelUsage` and `total_cost_usd` of a result go over the whole session, sub-agents included,
/// and over all the processes that it was resumed in; so what it had used before is taken away.
/// But a process that was killed leaves nothing of its own in these totals; so what the last
/// process says of itself counts where it is more. Without a result there are only the answers
/// that were seen, and no cost.
pub(crate) fn reckon(
    result: Option<&Value>,
    own: &Own,
    answers: &Answers,
    session: &Session,
) -> Used {
    match result.and_then(|result| Some((result, result["modelUsage"].as_object()?))) {
        Some((result, models)) if !models.is_empty() => {
            let models = models.iter();
            let (usage, model) =
                total(models.map(|(name, usage)| (name.clone(), by_name(usage, &CLI_NAMES))));
            let cost = result["total_cost_usd"].as_f64().unwrap_or(0.0) - session.cost_usd;
            let cost = cost.max(own.cost_usd);
            let mut usage = minus(usage, session.used);
            raise(&mut usage, own.usage);
            Used { usage, cost_usd: if cost.is_finite() { cost.max(0.0) } else { 0.0 }, model }
        }
        _ => {
            let (usage, model) = total(answers.by_id.values().cloned());
            Used { usage, cost_usd: 0.0, model }
        }
    }
}

/// Raises each figure to the other's, where that is more.
fn raise(usage: &mut Usage, other: Usage) {
    let raise = |a: &mut u64, b: u64| *a = b.max(*a);
    raise(&mut usage.input_tokens, other.input_tokens);
    raise(&mut usage.output_tokens, other.output_tokens);
    raise(&mut usage.cache_read_input_tokens, other.cache_read_input_tokens);
    raise(&mut usage.cache_creation_input_tokens, other.cache_creation_input_tokens);
}

fn by_name(usage: &Value, names: &[&str; 4]) -> Usage {
    let [input_tokens, output_tokens, cache_read_input_tokens, cache_creation_input_tokens] =
        names.map(|name| usage[name].as_u64().unwrap_or(0));
    Usage { input_tokens, output_tokens, cache_read_input_tokens, cache_creation_input_tokens }
}

/// Returns the sum, and the model that wrote most.
fn total(models: impl Iterator<Item = (String, Usage)>) -> (Usage, Option<String>) {
    let mut sum = Usage::default();
    let mut by_model: HashMap<String, u64> = HashMap::new();
    for (model, usage) in models {
        sum += usage;
        let output = by_model.entry(model).or_default();
        *output = output.saturating_add(usage.output_tokens);
    }
    // By name where two wrote the same, so that the answer does not change.
    let most = by_model.into_iter().max_by(|a, b| (a.1, &b.0).cmp(&(b.1, &a.0)));
    (sum, most.map(|(model, _)| model))
}

fn minus(all: Usage, before: Usage) -> Usage {
    Usage {
        input_tokens: all.input_tokens.saturating_sub(before.input_tokens),
        output_tokens: all.output_tokens.saturating_sub(before.output_tokens),
        cache_read_input_tokens: all
            .cache_read_input_tokens
            .saturating_sub(before.cache_read_input_tokens),
        cache_creation_input_tokens: all
            .cache_creation_input_tokens
            .saturating_sub(before.cache_creation_input_tokens),
    }
}

#[cfg(test)]
mod tests {
    use protocol::SessionId;
    use serde_json::json;

    use super::*;

    fn session(output_tokens: u64, cost_usd: f64) -> Session {
        let used = Usage { output_tokens, ..Usage::default() };
        Session { id: SessionId::from_random(1, 2), resumed: true, used, cost_usd }
    }

    #[test]
    fn what_the_session_had_used_before_is_taken_away() {
        let result = json!({
            "total_cost_usd": 0.75,
            "usage": { "output_tokens": 1 },
            "modelUsage": {
                "big": { "inputTokens": 1, "outputTokens": 100, "cacheReadInputTokens": 5 },
                "small": { "outputTokens": 20, "cacheCreationInputTokens": 3 },
            },
        });
        let used = reckon(Some(&result), &Own::default(), &Answers::default(), &session(40, 0.5));
        assert_eq!(used.usage.output_tokens, 80);
        assert_eq!(used.usage.input(), 9);
        assert_eq!((used.cost_usd, used.model.as_deref()), (0.25, Some("big")));
        let used = reckon(Some(&result), &Own::default(), &Answers::default(), &session(400, 5.0));
        assert_eq!((used.usage.output_tokens, used.cost_usd), (0, 0.0));
    }

    #[test]
    fn what_a_killed_process_had_used_is_not_taken_from_the_next_one() {
        // The session's totals lack what the killed process used, which was reported before.
        let result = json!({
            "total_cost_usd": 0.25,
            "modelUsage": { "big": { "outputTokens": 30 } },
            "model_usage_since_last_result": { "big": { "outputTokens": 30, "costUSD": 0.25 } },
        });
        let mut own = Own::default();
        own.add(&result);
        let used = reckon(Some(&result), &own, &Answers::default(), &session(40, 0.5));
        assert_eq!((used.usage.output_tokens, used.cost_usd), (30, 0.25));
    }

    #[test]
    fn without_a_result_each_answer_counts_once() {
        let mut answers = Answers::default();
        for (id, output) in [("a", 1), ("a", 9), ("b", 5), ("a", 2)] {
            answers.add(&json!({
                "id": id, "model": "m", "usage": { "input_tokens": 10, "output_tokens": output }
            }));
        }
        answers
            .add(&json!({ "id": "c", "model": "<synthetic>", "usage": { "output_tokens": 99 } }));
        let used = reckon(None, &Own::default(), &answers, &session(0, 0.0));
        assert_eq!((used.usage.input_tokens, used.usage.output_tokens), (20, 14));
        assert_eq!((used.cost_usd, used.model.as_deref()), (0.0, Some("m")));
    }
}
