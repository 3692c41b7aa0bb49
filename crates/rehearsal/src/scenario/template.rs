//! `{task}`, `{worker}`, `{attempt}` and `{artifacts}` in the strings of an answer.

use serde_json::Value;

use crate::prompt::TaskPrompt;

/// Fills in the names. Other braces stay: answers may hold code and JSON.
pub(super) fn fill(text: &str, task: &TaskPrompt) -> String {
    let artifacts = task.artifacts.as_deref().unwrap_or("{artifacts}");
    // The path last: it is the only value that could hold a brace.
    text.replace("{task}", &task.id)
        .replace("{worker}", &task.worker)
        .replace("{attempt}", &task.attempt.to_string())
        .replace("{artifacts}", artifacts)
}

/// Fills in the names in every string of a value.
pub(super) fn fill_value(value: &Value, task: &TaskPrompt) -> Value {
    match value {
        Value::String(text) => Value::String(fill(text, task)),
        Value::Array(items) => items.iter().map(|item| fill_value(item, task)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.clone(), fill_value(value, task))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}
