//! Attempts of the real Claude Code CLI, against an API of our own on a unix socket.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use protocol::{FailureKind, Status};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::messages::{Answer, Requests, serve};
use crate::slot::{Slot, Worker, lives, wait_for};

/// Returns the CLI; without one the test is skipped, and says so.
fn cli(test: &str) -> Option<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cached = root.join(".cache/cli/2.1.327/claude");
    let path = std::env::var_os("SUPERVISOR_CLAUDE").map_or(cached, PathBuf::from);
    if path.is_file() {
        return Some(path);
    }
    assert!(
        std::env::var_os("REQUIRE_DOCKER").is_none_or(|value| value != "1"),
        "{test} needs the Claude Code CLI at {}",
        path.display()
    );
    let line = format!("SKIPPED: {test}: no Claude Code CLI");
    println!("{line}");
    if let Some(skips) = std::env::var_os("TEST_SKIPS") {
        let mut skips = std::fs::OpenOptions::new().create(true).append(true).open(skips).unwrap();
        writeln!(skips, "{line}").unwrap();
    }
    None
}

struct Stage {
    slot: Slot,
    cli: PathBuf,
    requests: Requests,
}

impl Stage {
    fn new(test: &str, answers: impl FnOnce(&Slot) -> Vec<Answer>) -> Option<Self> {
        let cli = cli(test)?;
        let slot = Slot::new();
        let requests = serve(&slot.path("gateway.sock"), answers(&slot));
        Some(Self { slot, cli, requests })
    }

    fn assignment(&self, tools: &[&str]) -> Value {
        let mut assignment = self.slot.assignment(&json!("claude"));
        assignment["agent"]["tools"] = json!(tools);
        assignment
    }

    fn worker(&self) -> Worker {
        self.slot.worker(&["--claude", self.cli.to_str().unwrap()])
    }

    fn requests(&self) -> Vec<Value> {
        self.requests.lock().unwrap().clone()
    }

    /// Returns where the CLI keeps an attempt's session.
    fn session(&self, name: &str) -> Option<PathBuf> {
        let projects = self.slot.path(&format!("results/{name}/config/projects"));
        let mut folders = std::fs::read_dir(projects).ok()?;
        Some(folders.next()?.unwrap().path().join(format!("{SESSION}.jsonl")))
    }

    /// Gives an attempt the session of an earlier one, as the supervisor does.
    fn hand_on(&self, from: &str, to: &str) {
        let transcript = std::fs::read_to_string(self.session(from).unwrap()).unwrap();
        self.slot.give(to, &transcript);
    }
}

/// The session of all assignments here.
const SESSION: &str = "00000000-0000-4000-8000-000000000002";

fn write(path: &std::path::Path) -> Answer {
    Answer::Tool("Write", json!({ "file_path": path, "content": "hello" }))
}

#[test]
fn attempt_runs_through_the_cli_and_its_files_and_tokens_are_reported() {
    let Some(stage) = Stage::new("attempt_runs_through_the_cli", |slot| {
        vec![
            write(&slot.path("results/t.1/artifacts/a.md")),
            Answer::Tool("Bash", json!({ "command": "env", "description": "look" })),
            Answer::hand_in("done", &["a.md"]),
        ]
    }) else {
        return;
    };
    let mut assignment = stage.assignment(&["Read", "Write", "Bash"]);
    assignment["task"]["verify"] = json!({ "command": "test \"$(cat a.md)\" = hello" });
    let _worker = stage.worker();
    stage.slot.put(&assignment);
    let result = stage.slot.result("t.1");
    assert_eq!(result.status, Status::Complete, "{result:?}");
    assert_eq!(
        (result.summary.as_str(), result.artifacts.as_slice()),
        ("done", &["a.md".to_owned()][..])
    );
    assert_eq!((result.usage.input_tokens, result.usage.output_tokens), (300, 30));
    assert!(result.cost_usd > Some(0.0) && result.model.is_some());
    assert_eq!(
        stage.slot.text("results/t.1/session").unwrap().trim(),
        "00000000-0000-4000-8000-000000000002"
    );
    let requests = stage.requests();
    let tools: Vec<_> =
        requests[0]["tools"].as_array().unwrap().iter().map(|t| &t["name"]).collect();
    assert!(
        tools.contains(&&json!("StructuredOutput")) && tools.contains(&&json!("Write")),
        "{tools:?}"
    );
    // What the agent's commands can see has no secret of ours.
    let seen = requests[2].to_string();
    assert!(seen.contains("ANTHROPIC_API_KEY=held-by-the-gateway"));
    // The proxy is for its commands: its own requests came to the socket all the same.
    assert!(seen.contains("HTTPS_PROXY=http://127.0.0.1:"));
    assert!(!seen.contains("SECRET_OF_THE_WORKER"));
    assert_eq!(stage.slot.transcript("t.1").last().unwrap()["type"], "result");
}

#[test]
fn bound_on_the_output_reaches_the_api_and_leaves_the_cached_prefix_alone() {
    let asked = |bound: Option<u32>| {
        let test = "bound_on_the_output_reaches_the_api";
        let stage = Stage::new(test, |_| vec![Answer::hand_in("done", &[])])?;
        let mut assignment = stage.assignment(&["Read"]);
        assignment["agent"]["max_output_tokens"] = json!(bound);
        let _worker = stage.worker();
        stage.slot.put(&assignment);
        assert_eq!(stage.slot.result("t.1").status, Status::Complete);
        stage.requests().into_iter().next()
    };
    let (Some(free), Some(bound)) = (asked(None), asked(Some(1000))) else { return };
    assert_eq!(bound["max_tokens"], 1000);
    // The client's own; a gateway would have to hold back what that many cost.
    assert_eq!(free["max_tokens"], 128_000);
    for part in ["model", "tools", "system", "thinking"] {
        assert_eq!(bound[part], free[part], "{part}");
    }
}

#[test]
fn next_attempt_resumes_the_session_and_counts_only_its_own_tokens() {
    let Some(stage) = Stage::new("next_attempt_resumes_the_session", |_| {
        vec![Answer::hand_in("first", &["missing.md"]), Answer::hand_in("second", &[])]
    }) else {
        return;
    };
    let mut assignment = stage.assignment(&["Read"]);
    let _worker = stage.worker();
    stage.slot.put(&assignment);
    let first = stage.slot.result("t.1");
    let error = first.error.clone().unwrap();
    assert_eq!(error.kind, FailureKind::BadOutput);
    assert_eq!(first.usage.input_tokens, 100);
    stage.hand_on("t.1", "t.2");

    assignment["attempt"] = json!(2);
    assignment["feedback"] = json!([error.message]);
    assignment["session"]["resume"] = json!(true);
    assignment["session"]["used"] = json!(first.usage);
    assignment["session"]["cost_usd"] = json!(first.cost_usd);
    assignment["agent"]["system_prompt"] = json!("You are another Marie.");
    stage.slot.put(&assignment);
    let second = stage.slot.result("t.2");
    assert_eq!((second.status, second.summary.as_str()), (Status::Complete, "second"));
    assert_eq!(second.usage.input_tokens, 100);
    let costs = (first.cost_usd.unwrap(), second.cost_usd.unwrap());
    assert!((costs.1 - costs.0).abs() < 1e-9, "{costs:?}");
    let resumed = &stage.requests()[1];
    assert!(resumed["messages"].as_array().unwrap().len() > 3);
    let text = resumed.to_string();
    assert!(text.contains("missing.md` is named in the output") && text.contains("another Marie"));
}

#[test]
fn session_that_cannot_be_read_is_begun_anew() {
    let answers = |_: &Slot| vec![Answer::hand_in("anew", &[])];
    let Some(stage) = Stage::new("session_that_cannot_be_read", answers) else {
        return;
    };
    let mut assignment = stage.assignment(&["Read"]);
    assignment["session"]["resume"] = json!(true);
    assignment["session"]["used"] = json!({ "input_tokens": 5000 });
    // Lines of JSON, and no session: the CLI finds nothing to go on from.
    stage.slot.give("t.1", "{\"type\":\"user\"}\n");
    let _worker = stage.worker();
    stage.slot.put(&assignment);
    let result = stage.slot.result("t.1");
    assert_eq!((result.status, result.summary.as_str()), (Status::Complete, "anew"), "{result:?}");
    assert_eq!(result.usage.input_tokens, 100);
    let file = stage.session("t.1").expect("the file that the CLI could not read");
    assert!(file.with_extension("jsonl.damaged").exists());
}

#[test]
fn interrupted_attempt_goes_on_with_its_session_in_the_next_worker() {
    let Some(stage) = Stage::new("interrupted_attempt_goes_on", |slot| {
        let command = format!("echo $$ > {}; sleep 60", slot.path("pid").display());
        let wait = json!({ "command": command, "description": "wait" });
        vec![Answer::Tool("Bash", wait), Answer::hand_in("after all", &[])]
    }) else {
        return;
    };
    let mut worker = stage.worker();
    stage.slot.put(&stage.assignment(&["Bash"]));
    let pid = wait_for("the command", || stage.slot.text("pid"));
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code(), Some(143));
    assert!(!lives(&pid) && !stage.slot.path("results/t.1.json").exists());

    let _worker = stage.worker();
    let result = stage.slot.result("t.1");
    assert_eq!((result.status, result.summary.as_str()), (Status::Complete, "after all"));
    assert_eq!(result.usage.input_tokens, 200, "both parts count");
    assert!(stage.requests()[1]["messages"].to_string().contains("sleep 60"));
}

#[test]
fn cancelled_cli_is_stopped_with_its_commands_and_its_tokens_count() {
    let Some(stage) = Stage::new("cancelled_cli_is_stopped", |slot| {
        let command = format!("echo $$ > {}; sleep 60", slot.path("pid").display());
        vec![Answer::Tool("Bash", json!({ "command": command, "description": "wait" }))]
    }) else {
        return;
    };
    let _worker = stage.worker();
    stage.slot.put(&stage.assignment(&["Bash"]));
    let pid = wait_for("the command", || stage.slot.text("pid"));
    let cancelled = Instant::now();
    std::fs::write(stage.slot.path("tasks/t.1/cancel"), "enough").unwrap();
    let result = stage.slot.result("t.1");
    assert_eq!((result.status, result.usage.input_tokens), (Status::Cancelled, 100));
    assert!(!lives(&pid) && cancelled.elapsed() < Duration::from_secs(5));
}

#[test]
fn sub_agent_has_its_own_prompt_and_its_tokens_count() {
    let Some(stage) = Stage::new("sub_agent_has_its_own_prompt", |_| {
        let input = json!({ "description": "d", "prompt": "Look", "subagent_type": "reviewer" });
        vec![
            Answer::Tool("Agent", input),
            Answer::Text("all is well"),
            Answer::hand_in("done", &[]),
        ]
    }) else {
        return;
    };
    let mut assignment = stage.assignment(&["Read", "Agent"]);
    assignment["agent"]["subagents"] = json!({
        "reviewer": { "description": "Reviews.", "prompt": "You are REVIEWER.", "model": "haiku" }
    });
    let _worker = stage.worker();
    stage.slot.put(&assignment);
    let result = stage.slot.result("t.1");
    assert_eq!(result.status, Status::Complete, "{result:?}");
    assert_eq!(result.usage.input_tokens, 300);
    let requests = stage.requests();
    assert!(requests[1]["system"].to_string().contains("You are REVIEWER."));
    assert!(requests[1]["model"].as_str().unwrap().contains("haiku"));
    assert!(requests[2].to_string().contains("all is well"));
}

#[test]
fn denied_tool_fails_the_attempt_and_names_the_tool() {
    let Some(stage) = Stage::new("denied_tool_fails_the_attempt", |slot| {
        vec![write(&slot.path("workspace/.git/config")), Answer::hand_in("done", &[])]
    }) else {
        return;
    };
    let _worker = stage.worker();
    stage.slot.put(&stage.assignment(&["Write"]));
    let error = stage.slot.result("t.1").error.unwrap();
    assert_eq!(error.kind, FailureKind::BadOutput);
    assert!(
        error.message.contains("`Write` with") && error.message.contains(".git/config"),
        "{error}"
    );
}

#[test]
fn agent_that_only_talks_has_handed_in_nothing() {
    let Some(stage) = Stage::new("agent_that_only_talks", |_| vec![Answer::Text("All done!")])
    else {
        return;
    };
    let _worker = stage.worker();
    stage.slot.put(&stage.assignment(&["Read"]));
    let error = stage.slot.result("t.1").error.unwrap();
    assert_eq!(error.kind, FailureKind::BadOutput);
    assert!(error.message.contains("StructuredOutput"), "{error}");
}

#[test]
fn rejected_key_ends_the_attempt_at_once() {
    let Some(stage) =
        Stage::new("rejected_key", |_| vec![Answer::Error(401, "authentication_error")])
    else {
        return;
    };
    let _worker = stage.worker();
    stage.slot.put(&stage.assignment(&[]));
    let result = stage.slot.result("t.1");
    assert_eq!(result.error.unwrap().kind, FailureKind::Auth);
    // By itself the CLI tries as often as it may.
    assert!(stage.requests().len() <= 2, "{}", stage.requests().len());
    assert!(result.execution_time < 10.0, "{}", result.execution_time);
}

#[test]
fn replicas_send_the_same_bytes_before_the_prompt() {
    let mut prefixes = Vec::new();
    for description in ["One thing.", "Another."] {
        let answers = |_: &Slot| vec![Answer::hand_in("done", &[])];
        let Some(stage) = Stage::new("replicas_send_the_same_bytes", answers) else {
            return;
        };
        let mut assignment = stage.assignment(&["Read", "Bash", "Write", "Agent"]);
        assignment["task"]["description"] = json!(description);
        let _worker = stage.worker();
        stage.slot.put(&assignment);
        assert_eq!(stage.slot.result("t.1").status, Status::Complete);
        let request = stage.requests().remove(0);
        prefixes.push([request["tools"].to_string(), request["system"].to_string()]);
    }
    assert_eq!(prefixes[0], prefixes[1]);
}

#[test]
fn planner_without_tools_hands_in_a_plan() {
    let plan = json!({
        "tasks": [{ "id": "a", "worker": "marie", "description": "x", "dependencies": [] }]
    });
    let tool = plan.clone();
    let answers = |_: &Slot| vec![Answer::Tool("StructuredOutput", tool)];
    let Some(stage) = Stage::new("planner_without_tools", answers) else {
        return;
    };
    let mut assignment = stage.assignment(&[]);
    assignment["task"]["kind"] = json!("plan");
    assignment["request"] = json!("Dance.");
    let _worker = stage.worker();
    stage.slot.put(&assignment);
    assert_eq!(stage.slot.result("t.1").plan, Some(plan));
    let tools = stage.requests().remove(0)["tools"].take();
    let mut names = tools.as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap());
    // The CLI adds a placeholder of its own to any list of tools.
    assert!(names.all(|name| ["StructuredOutput", "DeferredToolPlaceholder"].contains(&name)));
}
