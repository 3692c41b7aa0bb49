use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{World, request, task};

const WORK_TOOLS: [&str; 3] = ["Agent", "StructuredOutput", "Write"];
const AGENTS: &str = "# Environment\n\nAvailable agent types for the Agent tool:\n\
    - choreography-analyzer: Analyses (Tools: All tools)\n- Plan: Plans (Tools: Read)\n\nToday.";

fn work() -> Value {
    let mut body = request(&task("k3f9.review", "marie", "work", 1), &WORK_TOOLS);
    let messages = body["messages"].as_array_mut().expect("messages");
    messages.push(json!({ "role": "system", "content": AGENTS }));
    body
}

async fn plan(workers: &Value) -> Vec<Value> {
    let prompt = format!(
        "<request>\nWhich tango is better for beginners?\n</request>\n\
         <workers>\n{workers}\n</workers>\n{}",
        task("k3f9.plan", "orchestrator", "plan", 1)
    );
    let output = World::new()
        .converse(request(&prompt, &["StructuredOutput"]), |_, _| unreachable!("no tools"))
        .await;
    output["tasks"].as_array().expect("tasks").clone()
}

fn workers_of(plan: &[Value]) -> BTreeSet<&str> {
    plan.iter().filter_map(|task| task["worker"].as_str()).collect()
}

#[tokio::test]
async fn plan_is_a_diamond_over_three_workers_that_fit() {
    let plan = plan(&json!([
        { "name": "orchestrator", "description": "splits tango for beginners" },
        { "name": "paul", "description": "writer" },
        { "name": "marie", "description": "dance teacher of beginners", "subagents": ["x"] },
        { "name": "anga", "description": "tango" },
        { "name": "zoe", "description": "tango for beginners" },
    ]))
    .await;
    assert_eq!(workers_of(&plan), BTreeSet::from(["zoe", "marie", "anga"]));
    let dependencies: Vec<_> = plan.iter().map(|task| task["dependencies"].clone()).collect();
    let middle = json!([plan[0]["id"]]);
    assert_eq!(
        dependencies,
        [json!([]), middle.clone(), middle, json!([plan[1]["id"], plan[2]["id"]])]
    );
    for task in &plan {
        let description = task["description"].as_str().expect("a description");
        assert!(description.contains("Which tango is better for beginners?"), "{description}");
        assert!(description.contains("no model"), "{description}");
    }
}

#[tokio::test]
async fn plan_has_its_four_tasks_with_one_worker_or_none() {
    let alone = plan(&json!([{ "name": "marie", "description": "dances" }])).await;
    assert_eq!((alone.len(), workers_of(&alone)), (4, BTreeSet::from(["marie"])));
    let nobody = plan(&json!([])).await;
    assert_eq!((nobody.len(), workers_of(&nobody)), (4, BTreeSet::from(["orchestrator"])));
}

#[tokio::test]
async fn work_asks_the_own_subagent_writes_a_file_and_reports_both() {
    let world = World::new();
    let calls = RefCell::new(Vec::new());
    let output = world
        .converse(work(), |name, input| {
            calls.borrow_mut().push((name.to_owned(), input.clone()));
            (false, "The report follows:\n  I looked.\nagentId: a1".to_owned())
        })
        .await;
    let calls = calls.into_inner();
    assert_eq!(calls[0].0, "Agent");
    assert_eq!(calls[0].1["subagent_type"], "choreography-analyzer");
    assert_eq!(calls[1].0, "Write");
    assert_eq!(calls[1].1["file_path"], "/results/k3f9.review.1/artifacts/review.md");
    let content = calls[1].1["content"].as_str().expect("content");
    assert!(content.contains("no model read this") && content.contains("I looked."), "{content}");
    assert_eq!(output["artifacts"], json!(["review.md"]));
    let findings = output["findings"].to_string();
    assert!(findings.contains("k3f9.survey") && findings.contains("I looked."), "{findings}");
}

#[tokio::test]
async fn work_goes_on_after_failed_tools_and_lists_no_file_that_is_not_there() {
    let output = World::new().converse(work(), |_, _| (true, "not allowed".to_owned())).await;
    assert_eq!(output["artifacts"], json!([]));
    let findings = output["findings"].to_string();
    assert!(findings.contains("was not written: not allowed"), "{findings}");
    assert!(findings.contains("choreography-analyzer failed"), "{findings}");
}

#[tokio::test]
async fn work_without_tools_ends_with_text() {
    let body = request(&task("k3f9.review", "marie", "work", 1), &[]);
    let message = World::new().message(&body).await;
    assert_eq!(message["stop_reason"], "end_turn");
    assert!(
        message["content"][0]["text"].as_str().is_some_and(|text| text.contains("\"summary\""))
    );
}

#[tokio::test]
async fn newest_task_of_a_resumed_session_is_the_one_that_is_done() {
    let world = World::new();
    let mut body = work();
    let old = json!([
        { "role": "user", "content": task("k3f9.old", "marie", "work", 1) },
        { "role": "assistant", "content": [
            { "type": "tool_use", "id": "t1", "name": "Write", "input": {} }] },
        { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "t1", "content": "" }] },
    ]);
    let mut messages = old.as_array().expect("messages").clone();
    messages.extend(body["messages"].as_array().expect("messages").iter().cloned());
    body["messages"] = json!(messages);
    world.message(&body).await;
    let seen = &world.rehearsal.requests()[0];
    assert_eq!((seen.task.as_deref(), seen.turn), (Some("k3f9.review"), 0));
    assert_eq!(seen.answer, "tool_use Agent");
}

#[tokio::test]
async fn newest_prompt_of_a_message_is_the_one_that_is_done() {
    let world = World::new();
    let mut body = request(&task("k3f9.review", "marie", "work", 1), &[]);
    // A first attempt that was never answered: the CLI puts both prompts into one message.
    let both = [1, 2].map(
        |attempt| json!({ "type": "text", "text": task("k3f9.review", "marie", "work", attempt) }),
    );
    body["messages"] = json!([{ "role": "user", "content": both }]);
    world.message(&body).await;
    assert_eq!(world.rehearsal.requests()[0].attempt, Some(2));
}

#[tokio::test]
async fn summary_for_a_shorter_conversation_keeps_the_task() {
    let world = World::new();
    let mut body = work();
    let messages = body["messages"].as_array_mut().expect("messages");
    let ask = "CRITICAL: Respond with TEXT ONLY. Do NOT call any tools.";
    messages.push(json!({ "role": "user", "content": ask }));
    let summary = world.message(&body).await["content"][0]["text"].clone();
    world.message(&request(summary.as_str().expect("a text"), &["StructuredOutput"])).await;
    assert_eq!(world.answers(), ["end_turn", "tool_use StructuredOutput"]);
    assert_eq!(world.rehearsal.requests()[1].task.as_deref(), Some("k3f9.review"));
}

#[tokio::test]
async fn synthesis_lists_each_input_and_names_the_gaps() {
    let body = request(&task("k3f9.end", "orchestrator", "synthesize", 1), &["StructuredOutput"]);
    let output = World::new().converse(body, |_, _| unreachable!("no tools")).await;
    let report = output["report"].as_str().expect("a report");
    assert!(report.contains("- **k3f9.survey** (anga, complete): Two dances were found."));
    assert!(report.contains("- k3f9.examine of zoe is failed."), "{report}");
    assert!(report.contains("no model read this"), "{report}");
    let summary = output["summary"].as_str().expect("a summary");
    assert!(summary.contains("1 of 2 tasks are complete"), "{summary}");
}

#[tokio::test]
async fn tool_call_ids_differ_from_turn_to_turn() {
    let world = World::new();
    let ids = RefCell::new(BTreeSet::new());
    let mut body = work();
    for _ in 0..3 {
        let message = world.message(&body).await;
        let call = message["content"][1].clone();
        assert!(ids.borrow_mut().insert(call["id"].to_string()), "{call}");
        let result = json!({ "type": "tool_result", "tool_use_id": call["id"], "content": "ok" });
        let messages = body["messages"].as_array_mut().expect("messages");
        messages.push(json!({ "role": "assistant", "content": message["content"] }));
        messages.push(json!({ "role": "user", "content": [result] }));
    }
}
