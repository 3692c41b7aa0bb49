//! What the CLI says while it works: one JSON object a line. Unknown types are passed over.

use protocol::{FailureKind, TaskError};
use serde_json::Value;

use crate::failure;
use crate::usage::{Answers, Own};

/// What is known of a session from its stream up to now.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// How many objects came.
    pub(crate) objects: u64,
    /// The last `result`. There may be several; each counts from the start of the session.
    pub(crate) result: Option<Value>,
    /// The failure class of the last answer of the main agent that was an error.
    pub(crate) error: Option<String>,
    /// The text of that answer.
    pub(crate) error_text: Option<String>,
    /// The class of the last try that failed, and the HTTP status, where there was an answer.
    pub(crate) retry: Option<(String, Option<u64>)>,
    /// Whether the model refused.
    pub(crate) refused: bool,
    /// When the limit ends that was hit, in seconds since 1970.
    pub(crate) limit_resets_at: Option<u64>,
    /// What this process used, as far as its results say it.
    pub(crate) own: Own,
    /// The usage of single answers.
    pub(crate) answers: Answers,
}

impl Stream {
    /// Takes in an object. Returns a failure after which it is of no use to go on.
    pub(crate) fn take(&mut self, object: &Value) -> Option<TaskError> {
        self.objects += 1;
        match (object["type"].as_str()?, object["subtype"].as_str()) {
            ("result", _) => {
                self.own.add(object);
                self.result = Some(object.clone());
            }
            ("assistant", _) => self.take_answer(object),
            ("system", Some("api_retry")) => return self.take_retry(object),
            ("system", Some("model_refusal_fallback" | "model_refusal_no_fallback")) => {
                self.refused = true;
            }
            ("rate_limit_event", _) => {
                let info = &object["rate_limit_info"];
                if info["status"] == "rejected" {
                    self.limit_resets_at = info["resetsAt"].as_u64();
                }
            }
            _ => {}
        }
        None
    }

    fn take_answer(&mut self, object: &Value) {
        let message = &object["message"];
        self.answers.add(message);
        // A sub-agent that failed is the main agent's business.
        if !object["parent_tool_use_id"].is_null() {
            return;
        }
        self.error = object["error"].as_str().map(str::to_owned);
        self.error_text = self.error.as_ref().and_then(|_| {
            let texts = message["content"].as_array()?.iter();
            texts.filter_map(|block| block["text"].as_str()).next_back().map(str::to_owned)
        });
    }

    fn take_retry(&mut self, object: &Value) -> Option<TaskError> {
        let class = object["error"].as_str().unwrap_or("unknown").to_owned();
        let status = object["error_status"].as_u64();
        let kind = failure::by_class(&class);
        self.retry = Some((class, status));
        // The CLI would go on for three minutes with a key that is not going to be any better.
        (kind == Some(FailureKind::Auth)).then(|| {
            failure::explained(FailureKind::Auth, "the model's API does not accept the credential")
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stream(lines: &[Value]) -> (Stream, Option<TaskError>) {
        let mut stream = Stream::default();
        let useless = lines.iter().filter_map(|line| stream.take(line)).next();
        (stream, useless)
    }

    #[test]
    fn unknown_objects_are_passed_over_and_the_last_result_counts() {
        let (stream, useless) = stream(&[
            json!({ "type": "system", "subtype": "init", "tools": [] }),
            json!({ "type": "something new", "result": 1 }),
            json!({ "no type": true }),
            json!({ "type": "result", "result_index": 0 }),
            json!({ "type": "result", "result_index": 1 }),
        ]);
        assert_eq!((stream.objects, useless), (5, None));
        assert_eq!(stream.result.unwrap()["result_index"], 1);
    }

    #[test]
    fn rejected_key_ends_the_attempt_at_once() {
        let retry = |error: &str, status: u64| {
            json!({
                "type": "system", "subtype": "api_retry", "attempt": 1, "error_status": status,
                "error": error,
            })
        };
        let (_, useless) = stream(&[retry("rate_limit", 429), retry("overloaded", 529)]);
        assert_eq!(useless, None);
        let (_, useless) = stream(&[retry("authentication_failed", 401)]);
        assert_eq!(useless.unwrap().kind, FailureKind::Auth);
    }

    #[test]
    fn error_of_a_sub_agent_is_not_the_attempts() {
        let answer = |error: Option<&str>, parent: Option<&str>| {
            json!({
                "type": "assistant", "error": error, "parent_tool_use_id": parent,
                "message": { "content": [{ "type": "text", "text": "Overloaded" }] },
            })
        };
        let (seen, _) = stream(&[answer(Some("overloaded"), Some("toolu_1"))]);
        assert_eq!(seen.error, None);
        let (seen, _) = stream(&[answer(Some("overloaded"), None)]);
        assert_eq!(seen.error.as_deref(), Some("overloaded"));
        assert_eq!(seen.error_text.as_deref(), Some("Overloaded"));
        // It recovered.
        let (seen, _) = stream(&[answer(Some("overloaded"), None), answer(None, None)]);
        assert_eq!((seen.error, seen.error_text), (None, None));
    }
}
