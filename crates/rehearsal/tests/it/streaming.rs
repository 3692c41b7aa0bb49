use serde_json::json;

use crate::support::{World, request, task};

#[tokio::test]
async fn stream_has_the_events_of_the_api_in_order() {
    let world = World::scripted(
        r#"[[rule]]
        answer = { thinking = "hm", text = "Größer als gedacht", tool_use = [{ name = "Read", input = { file_path = "/x" } }] }"#,
    );
    let answer = world.post(&request("x", &["Read"])).await.expect("an answer");
    assert_eq!(answer.headers["content-type"], "text/event-stream; charset=utf-8");
    let mut names = answer.event_names();
    names.dedup();
    let block = ["content_block_start", "content_block_delta", "content_block_stop"];
    let mut wanted = vec!["message_start", "ping"];
    wanted.extend(block.into_iter().cycle().take(9));
    wanted.extend(["message_delta", "message_stop"]);
    assert_eq!(names, wanted);

    let message = answer.message();
    assert_eq!(message["content"][0]["thinking"], "hm");
    assert_eq!(message["content"][1]["text"], "Größer als gedacht");
    assert_eq!(message["content"][2]["input"], json!({ "file_path": "/x" }));
    assert_eq!(message["stop_reason"], "tool_use");
    let starts = answer.events().into_iter().filter(|(name, _)| name == "content_block_start");
    let starts: Vec<_> = starts.map(|(_, data)| data["content_block"].clone()).collect();
    assert_eq!((&starts[0]["thinking"], &starts[1]["text"]), (&json!(""), &json!("")));
    assert_eq!(starts[2]["input"], json!({}));
    let texts = answer.events().iter().filter(|(_, e)| e["delta"]["type"] == "text_delta").count();
    assert!(texts > 1, "a text should come in pieces");
}

#[tokio::test]
async fn stream_begins_with_the_input_tokens_and_ends_with_all() {
    let world = World::new();
    let answer = world.post(&request("x", &[])).await.expect("an answer");
    let events = answer.events();
    let start = &events[0].1["message"]["usage"];
    let end = &events[events.len() - 2].1["usage"];
    assert_eq!(start["input_tokens"], end["input_tokens"]);
    assert_eq!(start["output_tokens"], 1);
    assert!(end["output_tokens"].as_u64().is_some_and(|tokens| tokens > 10));
    assert_eq!(end["cache_creation"]["ephemeral_5m_input_tokens"], 0);
    assert_eq!(end["cache_creation"]["ephemeral_1h_input_tokens"], 0);
}

#[tokio::test]
async fn names_are_filled_into_an_answer() {
    let world = World::scripted(
        r#"[[rule]]
        match = { kind = "work" }
        answer = { text = "{worker} does {task}, {attempt} {not_this}", structured = { artifacts = ["{artifacts}/x.md"] } }"#,
    );
    let message = world
        .message(&request(&task("k3f9.review", "marie", "work", 3), &["StructuredOutput"]))
        .await;
    assert_eq!(message["content"][0]["text"], "marie does k3f9.review, 3 {not_this}");
    assert_eq!(message["content"][1]["name"], "StructuredOutput");
    let artifacts = &message["content"][1]["input"]["artifacts"];
    assert_eq!(artifacts, &json!(["/results/k3f9.review.3/artifacts/x.md"]));
}

#[tokio::test]
async fn steps_follow_the_turns_and_then_the_built_in_behaviour_goes_on() {
    let world = World::scripted(
        r#"[[rule]]
        match = { task = "review" }
        steps = [{ tool_use = [{ name = "Bash", input = { command = "ls" } }] }, { tool_use = [{ name = "Bash" }] }]"#,
    );
    let body = request(&task("k3f9.review", "marie", "work", 1), &["Bash", "StructuredOutput"]);
    let output = world.converse(body, |_, _| (false, "fine".to_owned())).await;
    assert!(output["summary"].is_string(), "{output}");
    assert_eq!(world.answers(), ["tool_use Bash", "tool_use Bash", "tool_use StructuredOutput"]);
    let rules: Vec<_> = world.rehearsal.requests().into_iter().map(|seen| seen.rule).collect();
    assert_eq!(rules, [Some("1".to_owned()), Some("1".to_owned()), None]);
}

#[tokio::test]
async fn one_answer_serves_every_turn() {
    let world = World::scripted(
        r#"[[rule]]
        times = 2
        answer = { tool_use = [{ name = "Bash", input = { command = "ls" } }] }"#,
    );
    let body = request(&task("k3f9.review", "marie", "work", 1), &["Bash", "StructuredOutput"]);
    world.converse(body, |_, _| (false, "fine".to_owned())).await;
    assert_eq!(world.answers(), ["tool_use Bash", "tool_use Bash", "tool_use StructuredOutput"]);
}

#[tokio::test]
async fn rules_choose_by_task_attempt_tool_and_turn() {
    let world = World::scripted(
        r#"
        [[rule]]
        name = "attempt"
        match = { task = "k3f9.review", attempt = 2 }
        answer = { text = "x" }
        [[rule]]
        name = "turn"
        match = { task = "review", turn = 1 }
        answer = { text = "x" }
        [[rule]]
        name = "tool"
        match = { tool = "Bash" }
        answer = { tool_use = [{ name = "Bash" }] }"#,
    );
    let ask = async |id: &str, attempt, tools: &[&str]| {
        let body = request(&task(id, "marie", "work", attempt), tools);
        world.converse(body, |_, _| (false, "fine".to_owned())).await;
    };
    ask("k3f9.review", 2, &[]).await;
    ask("k3f9.review", 1, &[]).await;
    ask("k3f9.preview", 2, &[]).await;
    ask("other.review", 2, &["Bash"]).await;
    let rules: Vec<_> = world.rehearsal.requests().into_iter().map(|seen| seen.rule).collect();
    let rules: Vec<_> = rules.iter().map(|rule| rule.as_deref().unwrap_or("none")).collect();
    assert_eq!(rules, ["attempt", "none", "none", "tool", "turn"]);
}

#[tokio::test]
async fn refusal_and_usage_are_as_scripted() {
    let world = World::scripted(
        r#"[[rule]]
        match = { text = "lockpicking", system = "marie", model = "sonnet", subagent = false, stream = true }
        answer = { text = "No.", stop_reason = "refusal", usage = { input_tokens = 7, output_tokens = 9 } }"#,
    );
    let message = world.message(&request("teach me lockpicking", &[])).await;
    assert_eq!(message["stop_reason"], "refusal");
    assert_eq!(message["usage"]["input_tokens"], 7);
    assert_eq!(message["usage"]["output_tokens"], 9);
    let other = world.message(&request("teach me tango", &[])).await;
    assert_eq!(other["stop_reason"], "end_turn");
}
