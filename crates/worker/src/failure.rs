//! What went wrong: the table from what the CLI shows to our kinds of failure.

use protocol::{FailureKind, TaskError};
use serde_json::Value;

use crate::process::Ended;
use crate::stream::Stream;
use crate::text::head;

/// How much of a text that somebody else wrote goes into a message.
const QUOTED: usize = 2000;

/// Returns the kind of a failure class of the CLI (`assistant.error`, `api_retry.error`), where
/// the class alone decides it.
pub(crate) fn by_class(class: &str) -> Option<FailureKind> {
    match class {
        "authentication_failed"
        | "oauth_org_not_allowed"
        | "account_on_hold"
        | "verification_required"
        | "cloud_credential_error" => Some(FailureKind::Auth),
        "billing_error" => Some(FailureKind::Billing),
        "rate_limit" => Some(FailureKind::RateLimited),
        "overloaded" => Some(FailureKind::Overloaded),
        "model_not_found" => Some(FailureKind::Invalid),
        "max_output_tokens" => Some(FailureKind::BadOutput),
        // "server_error", "invalid_request" and "unknown" cover several.
        _ => None,
    }
}

/// Returns the kind of an answer of the model's API with that HTTP status.
fn by_status(status: u64) -> FailureKind {
    match status {
        401 | 403 => FailureKind::Auth,
        402 => FailureKind::Billing,
        408 => FailureKind::Network,
        429 => FailureKind::RateLimited,
        529 => FailureKind::Overloaded,
        400..=499 => FailureKind::Invalid,
        _ => FailureKind::Server,
    }
}

/// Returns the error with what can be done about its kind.
pub(crate) fn explained(kind: FailureKind, message: impl Into<String>) -> TaskError {
    let error = TaskError::new(kind, message);
    match hint(kind) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn hint(kind: FailureKind) -> Option<&'static str> {
    Some(match kind {
        FailureKind::Auth => {
            "Check the key or the login of this worker: `supervisor auth status` shows which it is."
        }
        FailureKind::Billing => "Add credit to the account, or use another key; then retry.",
        FailureKind::RateLimited | FailureKind::Overloaded => {
            "It is tried again; fewer replicas at once make it rarer."
        }
        FailureKind::Network | FailureKind::Server => {
            "`supervisor doctor` shows the address of the model's API; see whether it is reached."
        }
        FailureKind::Budget => {
            "`supervisor decisions` shows which budget it is, and how to raise it and go on."
        }
        FailureKind::Timeout => "Raise `timeout`, or split the task.",
        FailureKind::IdleTimeout => "Raise `idle_timeout` in worker.toml if such silence is usual.",
        FailureKind::Oom => "Raise `resources.memory_mib` in worker.toml.",
        FailureKind::Disk => {
            "Have it write less, or raise `resources.disk_mib` or `resources.files` in worker.toml."
        }
        FailureKind::Refused => "Say in the task what it is for, or give it to another worker.",
        _ => return None,
    })
}

/// Returns why a run of the CLI did not succeed, or `None` when the CLI says that it did.
///
/// The exit code alone says nothing: an interrupted run ends with 0, and a `result` of the subtype
/// `success` may be an error.
pub(crate) fn of_cli(stream: &Stream, ended: Option<Ended>, stderr: &str) -> Option<TaskError> {
    let Some(result) = &stream.result else {
        return Some(without_result(stream, ended, stderr));
    };
    if result["is_error"].as_bool() != Some(false) {
        return Some(by_result(result, stream, ended));
    }
    if !matches!(result["terminal_reason"].as_str(), None | Some("completed")) {
        return Some(by_result(result, stream, ended));
    }
    match ended {
        Some(Ended::Code(0)) => None,
        _ => Some(ended_badly("the agent", ended, stderr)),
    }
}

/// Returns the same, or that the supervisor was away if it was: nobody else can refuse a connection to the
/// gateway. The model's API is not to blame then, nor the attempt.
pub(crate) fn or_away(error: TaskError, gateway_answers: impl FnOnce() -> bool) -> TaskError {
    if !matches!(error.kind, FailureKind::Network | FailureKind::Server) {
        return error;
    }
    // It may be back by now.
    if !error.message.contains("ECONNREFUSED") && gateway_answers() {
        return error;
    }
    let message =
        format!("the supervisor was away for longer than the agent asks again: {}", error.message);
    TaskError::new(FailureKind::WorkerLost, message)
}

/// Returns whether the CLI could not read the session that it was to resume.
pub(crate) fn session_is_lost(stream: &Stream, stderr: &str) -> bool {
    const SAID: &str = "No conversation found with session ID";
    match &stream.result {
        Some(result) => result["is_error"] == true && said(result, stream).contains(SAID),
        None => stream.objects == 0 && stderr.contains(SAID),
    }
}

/// Returns what a `result` that is an error means.
fn by_result(result: &Value, stream: &Stream, ended: Option<Ended>) -> TaskError {
    let subtype = result["subtype"].as_str().unwrap_or_default();
    let terminal = result["terminal_reason"].as_str().unwrap_or_default();
    let text = said(result, stream);
    match (subtype, terminal) {
        ("error_max_budget_usd", _) | (_, "budget_exhausted") => {
            return explained(FailureKind::Budget, "the budget of the attempt is used up");
        }
        ("error_max_turns", _) | (_, "max_turns") => {
            let message = "the agent used up its tool rounds before it was done";
            return TaskError::new(FailureKind::BadOutput, message)
                .with_hint("Raise `max_turns` in worker.toml, or split the task.");
        }
        ("error_max_structured_output_retries", _) | (_, "structured_output_retry_exhausted") => {
            let message = "the agent handed in five outputs, none of the right form";
            return TaskError::new(FailureKind::BadOutput, message);
        }
        (_, "prompt_too_long" | "blocking_limit") => {
            let message = "the prompt is larger than what the model can hold";
            return TaskError::new(FailureKind::Invalid, message)
                .with_hint("Split the task, or hand large material over as files.");
        }
        (_, "image_error") => {
            let message = format!("the model's API does not take what was sent: {text}");
            return TaskError::new(FailureKind::Invalid, message);
        }
        (_, "aborted_streaming" | "aborted_tools") => {
            return ended_badly("the agent was interrupted by somebody else and", ended, "");
        }
        _ => {}
    }
    if result["stop_reason"] == "refusal" || stream.refused {
        return explained(FailureKind::Refused, format!("the model refuses: {text}"));
    }
    let kind = api_failure(result, stream, &text);
    let message = match kind {
        FailureKind::BadOutput => format!("the agent gave up: {text}"),
        FailureKind::Network => format!("the model's API can't be reached: {text}"),
        FailureKind::Auth => format!("the model's API does not accept the credential: {text}"),
        FailureKind::Billing => format!("the model's API wants to be paid: {text}"),
        FailureKind::RateLimited => match stream.limit_resets_at {
            Some(at) => {
                let at = protocol::Time::from_millis(at.saturating_mul(1000));
                format!("the model's API limits the rate until {at}: {text}")
            }
            None => format!("the model's API limits the rate: {text}"),
        },
        _ => format!("the model's API failed: {text}"),
    };
    let no_model =
        result["api_error_status"] == 404 || stream.error.as_deref() == Some("model_not_found");
    if kind == FailureKind::Invalid && no_model {
        return TaskError::new(kind, message)
            .with_hint("Correct `model` in worker.toml, or use a key that may use it.");
    }
    explained(kind, message)
}

fn api_failure(result: &Value, stream: &Stream, text: &str) -> FailureKind {
    let status = result["api_error_status"].as_u64();
    let class = stream.error.as_deref();
    // "Credit balance is too low" is a 400 for the API.
    if text.to_ascii_lowercase().contains("credit balance") {
        return FailureKind::Billing;
    }
    if let Some(kind) = class.and_then(by_class) {
        return kind;
    }
    match (result["api_error"].as_str(), result["api_error_type"].as_str()) {
        (Some("usage_limit_reached"), _) => return FailureKind::RateLimited,
        (Some("connection_failed"), _) => return FailureKind::Network,
        (Some("max_output_tokens"), _) => return FailureKind::BadOutput,
        (_, Some("billing_error")) => return FailureKind::Billing,
        (_, Some("authentication_error" | "permission_error")) => return FailureKind::Auth,
        (_, Some("rate_limit_error")) => return FailureKind::RateLimited,
        (_, Some("overloaded_error")) => return FailureKind::Overloaded,
        _ => {}
    }
    if let Some(status) = status {
        return by_status(status);
    }
    match (result["terminal_reason"].as_str(), class) {
        (_, Some("server_error")) => FailureKind::Server,
        // An answer of the API has a status; without one there was no answer.
        (Some("api_error"), _) | (_, Some("unknown")) => FailureKind::Network,
        (Some("model_error" | "malformed_tool_use_exhausted"), _) => FailureKind::Server,
        _ => FailureKind::BadOutput,
    }
}

/// Returns what the CLI says of its failure.
fn said(result: &Value, stream: &Stream) -> String {
    let errors = result["errors"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let errors = errors.collect::<Vec<_>>().join("; ");
    let candidates = [
        result["result"].as_str().unwrap_or_default(),
        stream.error_text.as_deref().unwrap_or_default(),
        &errors,
        result["terminal_reason"].as_str().unwrap_or_default(),
    ];
    let said = candidates.into_iter().find(|text| !text.trim().is_empty());
    head(said.unwrap_or("it does not say why").trim(), QUOTED)
}

fn without_result(stream: &Stream, ended: Option<Ended>, stderr: &str) -> TaskError {
    match ended {
        // Nothing but a line on standard error: it did not like how it was started.
        Some(Ended::Code(code)) if code != 0 && code < 128 && stream.objects == 0 => {
            let lines: Vec<_> = stderr.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
            let said = match lines.as_slice() {
                [] => format!("it ended with code {code}"),
                some => head(&some.join(" "), QUOTED),
            };
            TaskError::new(FailureKind::Invalid, format!("the agent does not start: {said}"))
                .with_hint("Check worker.toml (tools, mcp, env) and that the CLI is a version that this supervisor knows: `supervisor doctor`.")
        }
        _ => ended_badly("the agent said nothing of its end and", ended, stderr),
    }
}

/// Returns what it means that a program ended in this way, where nothing else is known.
pub(crate) fn ended_badly(who: &str, ended: Option<Ended>, stderr: &str) -> TaskError {
    let stderr = crate::text::tail(stderr.trim(), QUOTED);
    let stderr = if stderr.is_empty() { String::new() } else { format!(": {stderr}") };
    let signal = match ended {
        Some(Ended::Signal(signal)) => Some(signal),
        // So says a shell of a child that a signal ended.
        Some(Ended::Code(code)) if code > 128 && code < 128 + 65 => Some(code - 128),
        _ => None,
    };
    match (signal, ended) {
        // KILL, TERM, INT and HUP are somebody's decision, and it was not ours.
        (Some(9 | 15 | 2 | 1), _) => {
            let name = signal.map_or("", name_of);
            let message = format!("{who} was ended from outside by {name}{stderr}");
            TaskError::new(FailureKind::WorkerLost, message)
        }
        (Some(signal), _) => {
            let message = format!("{who} crashed with {}{stderr}", name_of(signal));
            TaskError::new(FailureKind::BadOutput, message)
        }
        (None, Some(Ended::Code(code))) => {
            TaskError::new(FailureKind::BadOutput, format!("{who} ended with code {code}{stderr}"))
        }
        (None, _) => TaskError::new(FailureKind::WorkerLost, format!("{who} could not be ended")),
    }
}

/// Returns whether it looks as if the kernel had killed the program.
pub(crate) fn looks_killed(ended: Option<Ended>) -> bool {
    matches!(ended, Some(Ended::Signal(9) | Ended::Code(137)))
}

/// Returns whether the kernel ended the program, or what it ran, since a file of it grew too large.
pub(crate) fn hit_file_size(ended: Option<Ended>) -> bool {
    matches!(ended, Some(Ended::Signal(25) | Ended::Code(153)))
}

fn name_of(signal: i32) -> &'static str {
    match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => "a signal",
    }
}

#[cfg(test)]
mod tests {
    use protocol::FailureKind as Kind;
    use serde_json::json;

    use super::*;

    fn judged(lines: &[Value], ended: Ended, stderr: &str) -> Option<TaskError> {
        let mut stream = Stream::default();
        for line in lines {
            stream.take(line);
        }
        of_cli(&stream, Some(ended), stderr)
    }

    fn kind(lines: &[Value], code: i32) -> Kind {
        judged(lines, Ended::Code(code), "").expect("it should be a failure").kind
    }

    /// A result as it is after an answer of the API that is an error.
    fn api_error(status: Option<u16>, text: &str) -> Value {
        json!({
            "type": "result", "subtype": "success", "is_error": true, "api_error_status": status,
            "terminal_reason": "api_error", "stop_reason": null, "result": text,
        })
    }

    fn answer(class: &str, text: &str) -> Value {
        json!({
            "type": "assistant", "error": class, "is_api_error_message": true,
            "message": { "model": "<synthetic>", "content": [{ "type": "text", "text": text }] },
        })
    }

    #[test]
    fn only_a_clean_end_is_a_success() {
        let good = json!({
            "type": "result", "subtype": "success", "is_error": false,
            "terminal_reason": "completed",
        });
        assert_eq!(judged(std::slice::from_ref(&good), Ended::Code(0), ""), None);
        // Permission modes that need a server end so.
        assert_eq!(kind(std::slice::from_ref(&good), 1), Kind::BadOutput);
        let killed = judged(std::slice::from_ref(&good), Ended::Signal(9), "").unwrap();
        assert_eq!(killed.kind, Kind::WorkerLost);
        let mut stopped = good.clone();
        stopped["terminal_reason"] = json!("hook_stopped");
        assert_eq!(kind(&[stopped], 0), Kind::BadOutput);
        // SIGINT ends with 0.
        let aborted = json!({
            "type": "result", "subtype": "error_during_execution", "is_error": true,
            "terminal_reason": "aborted_streaming",
        });
        assert_eq!(kind(&[aborted], 0), Kind::BadOutput);
        assert_eq!(kind(&[json!({ "type": "result", "subtype": "success" })], 0), Kind::BadOutput);
    }

    #[test]
    fn where_nobody_is_at_the_gateway_neither_the_api_nor_the_attempt_is_to_blame() {
        for (kind, message, answers, expected) in [
            (Kind::Network, "Connection refused (ECONNREFUSED)", true, Kind::WorkerLost),
            (Kind::Network, "Connection error.", false, Kind::WorkerLost),
            (Kind::Server, "stream", false, Kind::WorkerLost),
            (Kind::Network, "Connection error.", true, Kind::Network),
            (Kind::Server, "500 boom", true, Kind::Server),
            (Kind::Invalid, "no such file (ECONNREFUSED)", false, Kind::Invalid),
        ] {
            let error = or_away(TaskError::new(kind, message), || answers);
            assert_eq!(error.kind, expected, "{message} {answers}");
            assert!(error.message.contains(message), "{error}");
        }
    }

    #[test]
    fn answers_of_the_api_have_their_kinds() {
        for (status, class, text, expected) in [
            (
                Some(429),
                "rate_limit",
                "API Error: Request rejected (429) · slow",
                Kind::RateLimited,
            ),
            (Some(529), "overloaded", "Repeated 529 Overloaded errors", Kind::Overloaded),
            (Some(500), "server_error", "API Error: 500 boom", Kind::Server),
            (Some(502), "server_error", "API Error: 502 <html>", Kind::Server),
            (Some(401), "authentication_failed", "Invalid API key · Fix it", Kind::Auth),
            (Some(403), "authentication_failed", "Failed to authenticate.", Kind::Auth),
            (Some(403), "unknown", "forbidden", Kind::Auth),
            (Some(400), "billing_error", "Credit balance is too low", Kind::Billing),
            (Some(400), "invalid_request", "Your credit balance is too low", Kind::Billing),
            (Some(402), "unknown", "pay", Kind::Billing),
            (Some(404), "model_not_found", "There's an issue with the model", Kind::Invalid),
            (Some(400), "invalid_request", "API Error: 400 bad tools", Kind::Invalid),
            (None, "unknown", "API Error: Connection error.", Kind::Network),
            (None, "server_error", "API Error: stream", Kind::Server),
            (None, "max_output_tokens", "the answer was too long", Kind::BadOutput),
        ] {
            let lines = [answer(class, text), api_error(status, text)];
            assert_eq!(kind(&lines, 1), expected, "{status:?} {class} {text}");
            // The status alone has to do where the class is missing; it does for most.
            if let Some(status) = status {
                assert_eq!(kind(&[api_error(Some(status), text)], 1), expected, "{status} {text}");
            }
        }
    }

    #[test]
    fn special_fields_of_a_result_have_their_kinds() {
        let with = |name: &str, value: &str| {
            let mut result = api_error(None, "text");
            result[name] = json!(value);
            [result]
        };
        assert_eq!(kind(&with("api_error", "connection_failed"), 1), Kind::Network);
        assert_eq!(kind(&with("api_error", "usage_limit_reached"), 1), Kind::RateLimited);
        assert_eq!(kind(&with("api_error", "max_output_tokens"), 1), Kind::BadOutput);
        assert_eq!(kind(&with("api_error_type", "overloaded_error"), 1), Kind::Overloaded);
        assert_eq!(kind(&with("terminal_reason", "prompt_too_long"), 1), Kind::Invalid);
        assert_eq!(kind(&with("terminal_reason", "blocking_limit"), 1), Kind::Invalid);
        assert_eq!(kind(&with("terminal_reason", "image_error"), 1), Kind::Invalid);
        assert_eq!(kind(&with("subtype", "error_max_budget_usd"), 1), Kind::Budget);
        assert_eq!(kind(&with("subtype", "error_max_turns"), 1), Kind::BadOutput);
        let retries = "error_max_structured_output_retries";
        assert_eq!(kind(&with("subtype", retries), 1), Kind::BadOutput);
        assert_eq!(kind(&with("stop_reason", "refusal"), 1), Kind::Refused);
        let refusal = json!({ "type": "system", "subtype": "model_refusal_no_fallback" });
        assert_eq!(kind(&[refusal, api_error(None, "no")], 1), Kind::Refused);
    }

    #[test]
    fn limit_says_when_it_ends() {
        let event = json!({
            "type": "rate_limit_event",
            "rate_limit_info": { "status": "rejected", "resetsAt": 1_795_200_000 },
        });
        let error = judged(&[event, api_error(Some(429), "hit")], Ended::Code(1), "").unwrap();
        assert_eq!(
            error.message,
            "the model's API limits the rate until 2026-11-20T18:40:00.000Z: hit"
        );
        assert!(error.hint.is_some());
    }

    #[test]
    fn end_without_a_result_is_told_by_how_it_ended() {
        let start = judged(&[], Ended::Code(1), "\nError: --json-schema is bad\nmore\n").unwrap();
        assert_eq!(start.kind, Kind::Invalid);
        assert_eq!(start.message, "the agent does not start: Error: --json-schema is bad more");
        let init = json!({ "type": "system", "subtype": "init" });
        let lines = std::slice::from_ref(&init);
        assert_eq!(kind(lines, 1), Kind::BadOutput);
        assert_eq!(kind(lines, 0), Kind::BadOutput);
        assert_eq!(kind(&[], 0), Kind::BadOutput);
        assert_eq!(kind(lines, 143), Kind::WorkerLost);
        assert_eq!(judged(lines, Ended::Signal(9), "").unwrap().kind, Kind::WorkerLost);
        let crash = judged(lines, Ended::Signal(11), "oh").unwrap();
        assert_eq!(crash.kind, Kind::BadOutput);
        assert_eq!(crash.message, "the agent said nothing of its end and crashed with SIGSEGV: oh");
        assert!(looks_killed(Some(Ended::Signal(9))) && !looks_killed(Some(Ended::Code(1))));
    }
}
