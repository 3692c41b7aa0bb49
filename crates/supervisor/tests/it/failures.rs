//! Runs that go wrong.

use std::process::Command;

use supervisor::api::types::TaskStatus;

use crate::in_both_runtimes;
use crate::world::{Kind, World, text};

in_both_runtimes! {
    a_task_that_fails_takes_those_that_need_it_along,
    a_task_that_takes_too_long_is_stopped_and_said_to_have,
    a_killed_cli_is_started_again_and_the_task_completes,
    a_lost_replica_costs_no_retry,
    a_cancelled_task_stops_and_leaves_no_process,
    a_wrong_key_pauses_the_worker_and_costs_no_retry,
    a_busy_model_is_asked_again,
    an_api_that_is_away_is_waited_for_and_costs_no_retry,
}

const REFUSES: &str = r#"
    [[rule]]
    match = { task = "bad" }
    answer = { text = "I can't help with that.", stop_reason = "refusal" }
"#;

fn a_task_that_fails_takes_those_that_need_it_along(world: World) {
    let world = world.start(REFUSES);
    world.add("anga", "next", "Build on it", &["--after", "bad"]);
    world.add("fabien", "last", "Tell of it", &["--after", "next"]);
    world.add(
        "fabien",
        "anyway",
        "Tell of it anyway",
        &["--after", "bad", "--on-dependency-failure", "run"],
    );
    let output = world.expect(1, &["task", "marie", "Do what is refused", "--id", "bad"]);
    let shown = text(&output.stdout) + &text(&output.stderr);
    assert!(shown.contains("refused"), "{shown}");
    assert_eq!(
        world.ended(&["bad", "next", "last", "anyway"]),
        [TaskStatus::Failed, TaskStatus::Skipped, TaskStatus::Skipped, TaskStatus::Complete,]
    );
    // Whoever looks at the last one sees where it began.
    let last = world.result("fabien", "last");
    assert!(last["error"]["message"].as_str().unwrap().contains("bad"), "{last}");
}

fn a_task_that_takes_too_long_is_stopped_and_said_to_have(world: World) {
    let world = world.start("[[rule]]\nmatch = { task = \"slow\" }\nanswer = { hang = true }\n");
    let more = ["--timeout", "2", "--retries", "0"];
    world.add("marie", "slow", "Take your time", &more);
    assert_eq!(world.ended(&["slow"]), [TaskStatus::Failed]);
    assert_eq!(world.result("marie", "slow")["error"]["kind"], "timeout");
    no_cli_is_left(&world);
    // The replica serves the next task.
    world.add("marie", "quick", "Be quick", &[]);
    assert_eq!(world.ended(&["quick"]), [TaskStatus::Complete]);
}

fn a_killed_cli_is_started_again_and_the_task_completes(world: World) {
    let rule = "[[rule]]\nmatch = { task = \"hit\", attempt = 1 }\nanswer = { hang = true }\n";
    let world = world.start(rule);
    world.add("marie", "hit", "Get hit", &[]);
    world.until_asked("hit");
    for pid in cli_processes(&world) {
        Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    }
    assert_eq!(world.ended(&["hit"]), [TaskStatus::Complete]);
    assert_eq!(world.result("marie", "hit")["attempt"], 2);
}

fn a_lost_replica_costs_no_retry(world: World) {
    let rule = "[[rule]]\nmatch = { task = \"lost\", attempt = 1 }\nanswer = { hang = true }\n";
    let world = world.start(rule);
    world.add("marie", "lost", "Get lost", &["--retries", "0"]);
    world.until_asked("lost");
    match world.kind {
        Kind::Docker => {
            let name = format!("supervisor-{}-marie-1", world.installation_id());
            Command::new("docker").args(["rm", "--force", &name]).output().unwrap();
        }
        Kind::Process => {
            for pid in world.processes(world.kind, "worker") {
                Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
            }
        }
    }
    assert_eq!(world.ended(&["lost"]), [TaskStatus::Complete]);
    let events = text(&world.expect(0, &["events", "adhoc", "--json"]).stdout);
    let failed = events.lines().find(|line| line.contains("attempt_failed")).unwrap();
    assert!(failed.contains("worker_lost") && failed.contains("\"counted\":false"), "{failed}");
}

fn a_cancelled_task_stops_and_leaves_no_process(world: World) {
    let world = world.start("[[rule]]\nmatch = { task = \"long\" }\nanswer = { hang = true }\n");
    world.add("marie", "long", "Go on for ever", &[]);
    world.add("marie", "after", "Never begin", &["--after", "long"]);
    world.until_asked("long");
    world.expect(0, &["cancel", "long"]);
    assert_eq!(world.ended(&["long", "after"]), [TaskStatus::Cancelled, TaskStatus::Skipped]);
    no_cli_is_left(&world);
    world.expect(3, &["cancel", "long"]);
}

fn a_wrong_key_pauses_the_worker_and_costs_no_retry(world: World) {
    let rule = "[[rule]]\nmatch = { task = \"locked\" }\ntimes = 1\nanswer = { http = 401 }\n";
    let world = world.start(rule);
    world.add("marie", "locked", "Open up", &["--retries", "0"]);
    world.wait_ref("the worker is paused", |world| {
        let report = world.status();
        report.workers.iter().any(|worker| worker.paused.is_some()).then_some(())
    });
    assert_eq!(world.task("locked").status, TaskStatus::Ready);
    world.expect(0, &["retry", "locked"]);
    assert_eq!(world.ended(&["locked"]), [TaskStatus::Complete]);
}

fn a_busy_model_is_asked_again(world: World) {
    let rule = "[[rule]]\nmatch = { task = \"busy\" }\ntimes = 1\nanswer = { http = 529 }\n";
    let world = world.start(rule);
    world.add("marie", "busy", "Wait for me", &[]);
    assert_eq!(world.ended(&["busy"]), [TaskStatus::Complete]);
    assert_eq!(world.result("marie", "busy")["attempt"], 1, "the CLI asks again by itself");
}

fn an_api_that_is_away_is_waited_for_and_costs_no_retry(world: World) {
    world.write(
        "workspaces/marie/worker.toml",
        "description = \"waits\"\nidle_timeout = 3\ncontainer = \"resident\"\n",
    );
    let mut world = world.start("");
    world.close_api();
    world.add("marie", "early", "Begin without it", &["--retries", "0"]);
    // A replica that starts asks for it, and takes no attempt.
    world.until_logged("the replica asks", ["/api/hello", "502"]);
    assert_eq!(world.task("early").status, TaskStatus::Running);
    let away = "cannot reach the model's API at 127.0.0.1:";
    assert!(text(&world.expect(0, &["status"]).stdout).contains(away));
    world.open_api("");
    assert_eq!(world.ended(&["early"]), [TaskStatus::Complete]);

    // One that is there asks the model, and its request waits.
    world.close_api();
    world.add("marie", "late", "Go on without it", &["--retries", "0"]);
    world.wait_ref("its request waits", |world| {
        text(&world.expect(0, &["status"]).stdout).contains("unreachable").then_some(())
    });
    // The agent is silent meanwhile, and its worker asks whether it is to blame.
    world.until_logged("its worker asks", ["/api/hello", "HEAD"]);
    world.open_api("");
    assert_eq!(world.ended(&["late"]), [TaskStatus::Complete]);
    for task in ["early", "late"] {
        assert_eq!(world.result("marie", task)["attempt"], 1, "{task}");
    }
}

fn no_cli_is_left(world: &World) {
    let left = cli_processes(world);
    assert!(left.is_empty(), "still there: {left:?}");
}

/// Returns the processes of the CLI that belong to this world.
fn cli_processes(world: &World) -> Vec<u32> {
    world.processes(world.kind, "claude")
}
