//! A transcript's lines, as a person reads them.
//!
//! The lines are Claude Code's stream, or the output of another program; nothing in them is relied on.

use serde_json::Value;

use super::text::{
    BAD, BOLD, DIM, LIVE, NOTE, clean, count, duration, indent, one_line, paint, usd,
};

/// How much of a tool call or a remark is shown.
const MAX_LINE: usize = 160;

/// How much of one text is shown. An agent may print a book.
const MAX_TEXT: usize = 64 << 10;

/// Returns what a line of a transcript says; nothing, where it says nothing to a person.
pub(crate) fn render(line: &str) -> String {
    let Ok(value) = serde_json::from_str::<Value>(line) else {
        return format!("{}\n", one_line(line, MAX_LINE));
    };
    let text = match field(&value, "type") {
        "system" => system(&value),
        "assistant" => assistant(&value),
        "user" => user(&value),
        "result" => ended(&value),
        "rate_limit_event" => rate_limit(&value),
        "stdout" | "text" => said(field(&value, "text")),
        "stderr" => paint(NOTE, said(field(&value, "text"))),
        "worker" => remark(NOTE, field(&value, "text")),
        _ => String::new(),
    };
    // What a sub-agent says and does stands to the right.
    match value["parent_tool_use_id"].is_string() {
        true => indent(&text, 4),
        false => text,
    }
}

fn system(value: &Value) -> String {
    match field(value, "subtype") {
        "init" => remark(DIM, &format!("starts with {}", field(value, "model"))),
        "api_retry" => {
            let number = |name| value[name].as_u64().unwrap_or_default();
            let wait = value["retry_delay_ms"].as_f64().unwrap_or_default() / 1000.0;
            let status = match value["error_status"].as_u64() {
                Some(status) => format!("{status} "),
                None => String::new(),
            };
            let what = format!(
                "retry {} of {} in {}: {status}{}",
                number("attempt"),
                number("max_retries"),
                duration(wait),
                field(value, "error")
            );
            remark(NOTE, &what)
        }
        "model_refusal_fallback" | "model_refusal_no_fallback" => remark(NOTE, "the model refuses"),
        _ => String::new(),
    }
}

fn assistant(value: &Value) -> String {
    let mut text = String::new();
    for block in blocks(value) {
        match field(block, "type") {
            "text" => text.push_str(&said(field(block, "text"))),
            "tool_use" => {
                let name = one_line(field(block, "name"), 60);
                let what = one_line(&call(&block["input"]), MAX_LINE);
                text.push_str(&format!(
                    "{} {}\n",
                    paint(LIVE, format!("> {name}")),
                    paint(DIM, what)
                ));
            }
            _ => {}
        }
    }
    if let Some(error) = value["error"].as_str() {
        text.push_str(&remark(BAD, &format!("error: {error}")));
    }
    text
}

/// Returns what a tool is called with: the one field that says most, or all of it.
fn call(input: &Value) -> String {
    let telling = ["command", "file_path", "path", "pattern", "url", "query", "description"];
    let found = telling.into_iter().find_map(|name| input[name].as_str());
    found.map_or_else(|| input.to_string(), str::to_owned)
}

/// Tells of tools that failed; those that did not need no word.
fn user(value: &Value) -> String {
    let failed = |block: &&Value| {
        field(block, "type") == "tool_result" && block["is_error"].as_bool() == Some(true)
    };
    let show = |block: &Value| remark(BAD, &format!("failed: {}", tool_text(&block["content"])));
    blocks(value).filter(failed).map(show).collect()
}

fn tool_text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(|part| field(part, "text")).collect(),
        other => other.to_string(),
    }
}

fn ended(value: &Value) -> String {
    let seconds = value["duration_ms"].as_f64().unwrap_or_default() / 1000.0;
    let cost = value["total_cost_usd"].as_f64().unwrap_or_default();
    let turns = value["num_turns"].as_u64().and_then(|turns| turns.try_into().ok());
    let turns = count(turns.unwrap_or_default(), "turn");
    // The CLI's own count: it knows neither of a rehearsal nor of a subscription.
    let figures = format!("{turns}, {}, {} at list price", duration(seconds), usd(cost));
    if value["is_error"].as_bool() != Some(true) {
        return remark(BOLD, &format!("ends: {figures}"));
    }
    let why = match value["result"].as_str() {
        Some(text) => text.to_owned(),
        None => tool_text(&value["errors"]),
    };
    let why = if why.is_empty() { field(value, "subtype").to_owned() } else { why };
    remark(BAD, &format!("ends with an error: {why} ({figures})"))
}

fn rate_limit(value: &Value) -> String {
    match field(&value["rate_limit_info"], "status") {
        "" | "allowed" => String::new(),
        status => remark(NOTE, &format!("rate limit: {status}")),
    }
}

fn said(text: &str) -> String {
    let mut shown = clean(text.trim_end());
    if shown.len() > MAX_TEXT {
        let end = shown.floor_char_boundary(MAX_TEXT);
        shown.truncate(end);
        shown.push_str("\n(the rest of this text is left out here)");
    }
    if shown.is_empty() { shown } else { format!("{shown}\n") }
}

fn remark(style: anstyle::Style, text: &str) -> String {
    format!("{}\n", paint(style, format!("[{}]", one_line(text, MAX_LINE))))
}

fn field<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn blocks(value: &Value) -> impl Iterator<Item = &Value> {
    value["message"]["content"].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stream_reads_as_what_was_said_and_done() {
        let message = |content: Value| json!({ "role": "assistant", "content": content });
        let long = "x".repeat(200);
        let lines = [
            json!({ "type": "system", "subtype": "init", "model": "claude-opus-5-5", "tools": [] }),
            json!({ "type": "system", "subtype": "hook_started" }),
            json!({
                "type": "system", "subtype": "api_retry", "attempt": 1, "max_retries": 10,
                "retry_delay_ms": 2370, "error_status": 429, "error": "rate_limit",
            }),
            json!({ "type": "assistant", "message": message(json!([
                { "type": "thinking", "thinking": "hm" },
                { "type": "text", "text": "I look at\nthe notes.\u{1b}[2J" },
                { "type": "tool_use", "name": "Read", "input": { "file_path": "students/emma.md" } },
                { "type": "tool_use", "name": "Odd", "input": { "n": 1, "long": long } },
            ])) }),
            json!({ "type": "user", "message": { "content": [
                { "type": "tool_result", "content": "fine" },
                { "type": "tool_result", "is_error": true, "content": [{ "text": "no such file" }] },
            ] } }),
            json!({ "type": "assistant", "parent_tool_use_id": "toolu_1", "message":
                message(json!([{ "type": "text", "text": "A sub-agent speaks." }])) }),
            json!({ "type": "assistant", "error": "billing_error", "message":
                message(json!([{ "type": "text", "text": "Credit balance is too low" }])) }),
            json!({ "type": "rate_limit_event", "rate_limit_info": { "status": "rejected" } }),
            json!({ "type": "never seen", "text": "nothing" }),
            json!({ "type": "assistant", "message": 7 }),
            json!({ "type": "stdout", "text": "plain output" }),
            json!({ "type": "worker", "text": "The transcript is full." }),
            json!({
                "type": "result", "subtype": "success", "is_error": true, "result": "Invalid API key",
                "num_turns": 1, "duration_ms": 1180, "total_cost_usd": 0.0,
            }),
            json!({
                "type": "result", "subtype": "success", "is_error": false, "result": "Done",
                "num_turns": 3, "duration_ms": 11800, "total_cost_usd": 0.0583,
            }),
        ];
        let mut text: String = lines.iter().map(|line| render(&line.to_string())).collect();
        text.push_str(&render("no JSON at all"));
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string(), @r#"
        [starts with claude-opus-5-5]
        [retry 1 of 10 in 2.4 s: 429 rate_limit]
        I look at
        the notes.�[2J
        > Read students/emma.md
        > Odd {"n":1,"long":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…
        [failed: no such file]
            A sub-agent speaks.
        Credit balance is too low
        [error: billing_error]
        [rate limit: rejected]
        plain output
        [The transcript is full.]
        [ends with an error: Invalid API key (1 turn, 1.2 s, $0.00 at list price)]
        [ends: 3 turns, 11.8 s, $0.0583 at list price]
        no JSON at all
        "#);
    }
}
