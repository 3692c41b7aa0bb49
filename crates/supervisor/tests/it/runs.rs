//! Runs that go well.

use std::collections::BTreeSet;

use supervisor::api::types::{RunStatus, TaskStatus};

use crate::in_both_runtimes;
use crate::world::{KEY, World, text};

in_both_runtimes! {
    a_single_worker_does_a_task_and_leaves_an_artifact,
    three_workers_work_at_the_same_time,
    a_chain_runs_in_order_and_each_link_gets_what_came_before,
    a_sub_agent_asks_the_model_itself,
    ten_tasks_over_three_workers_all_complete,
    a_request_becomes_a_plan_a_diamond_and_an_answer,
    a_plan_file_is_carried_out_as_it_stands,
    a_task_whose_check_fails_is_told_why_and_mends_it,
}

fn a_single_worker_does_a_task_and_leaves_an_artifact(world: World) {
    let world = world.start("");
    let result = world.json(&["task", "marie", "Review Emma's progress", "--id", "emma", "--json"]);
    assert_eq!(result["status"], "complete");
    let published = world.result("marie", "emma");
    let artifacts = published["artifacts"].as_array().unwrap();
    assert_eq!(artifacts.len(), 1, "{published}");
    let artifact = artifacts[0].as_str().unwrap();
    assert!(artifact.starts_with("results/marie/emma/"), "{artifact}");
    assert!(world.path(artifact).is_file());
    assert!(!world.path("tasks/marie/emma.json").exists(), "the task file should be gone");
    // The key was added on the way out; the CLI had none.
    let requests = world.requests();
    assert!(!requests.is_empty());
    let shown = text(&world.expect(0, &["logs", "emma"]).stdout);
    assert!(!shown.is_empty() && !shown.contains(KEY));
}

/// A first answer that comes only when three tasks have asked: so three were under way at once.
fn three_workers_work_at_the_same_time(world: World) {
    let world = world.start(
        "[[rule]]\nmatch = { kind = \"work\", turn = 0 }\nanswer = { delay = 3, then = \"default\" }\n",
    );
    for worker in ["marie", "anga", "fabien"] {
        world.add(worker, &format!("{worker}-1"), "Look around", &[]);
    }
    world.wait_ref("all three run", |world| {
        let running = ["marie-1", "anga-1", "fabien-1"].map(|id| world.task(id).status);
        assert!(!running.contains(&TaskStatus::Failed), "{running:?}");
        running.iter().all(|status| *status == TaskStatus::Running).then_some(())
    });
    let ended = world.ended(&["marie-1", "anga-1", "fabien-1"]);
    assert_eq!(ended, [TaskStatus::Complete; 3]);
}

fn a_chain_runs_in_order_and_each_link_gets_what_came_before(world: World) {
    let world = world.start("");
    // Dropped from the end: each names one that is not there yet.
    world.add("fabien", "third", "Tell people", &["--after", "second"]);
    world.add("anga", "second", "Check it", &["--after", "first"]);
    assert_eq!(world.task("third").status, TaskStatus::Waiting);
    world.add("marie", "first", "Look", &[]);
    assert_eq!(world.ended(&["first", "second", "third"]), [TaskStatus::Complete; 3]);
    let time = |worker: &str, id: &str, field: &str| {
        world.result(worker, id)[field].as_str().unwrap().to_owned()
    };
    assert!(time("marie", "first", "finished_at") <= time("anga", "second", "started_at"));
    assert!(time("anga", "second", "finished_at") <= time("fabien", "third", "started_at"));
    let journal = text(&world.expect(0, &["events", "adhoc", "--json"]).stdout);
    assert!(journal.contains("attempt_dispatched"));
}

fn a_sub_agent_asks_the_model_itself(world: World) {
    let world = world.start("");
    world.json(&["task", "marie", "Study the choreography", "--id", "dance", "--json"]);
    let requests = world.requests();
    let sub: Vec<_> = requests.iter().filter(|request| request.subagent.is_some()).collect();
    assert!(!sub.is_empty(), "{requests:#?}");
    let model = sub[0].model.as_deref().unwrap();
    assert!(model.contains("haiku"), "the choreography-analyzer is a haiku, not {model}");
}

fn ten_tasks_over_three_workers_all_complete(world: World) {
    let world = world.start("");
    let ids: Vec<String> = (0..10).map(|n| format!("t{n}")).collect();
    for (n, id) in ids.iter().enumerate() {
        world.add(["marie", "anga", "fabien"][n % 3], id, "Do your part", &[]);
    }
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    assert_eq!(world.ended(&ids), [TaskStatus::Complete; 10]);
    // Two attempts at once for each, and as many containers that wait or are replaced: more would be a limit passed.
    let replicas: BTreeSet<String> = text(&world.expect(0, &["events", "adhoc", "--json"]).stdout)
        .lines()
        .filter_map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            Some(event.get("replica")?.as_str()?.to_owned())
        })
        .collect();
    assert!(replicas.len() <= 12, "{replicas:?}");
}

fn a_request_becomes_a_plan_a_diamond_and_an_answer(world: World) {
    let world = world.start("");
    let request = include_str!("../../../../examples/request.txt");
    let summary = world.submit(request);
    assert_eq!(summary.state, RunStatus::Complete);
    let work: Vec<_> = summary
        .tasks
        .iter()
        .filter(|task| task.worker.as_str() != protocol::ORCHESTRATOR)
        .collect();
    assert!(work.len() >= 4, "{work:#?}");
    let workers: BTreeSet<_> = work.iter().map(|task| task.worker.as_str()).collect();
    assert_eq!(workers.len(), 3, "{workers:?}");
    // A diamond: one task that needs two, which need the same one.
    let events = text(&world.expect(0, &["events", &summary.run.to_string(), "--json"]).stdout);
    let tasks: Vec<serde_json::Value> = events
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|event| event["event"] == "task_added" && event["source"] == "plan")
        .map(|event| event["task"].clone())
        .collect();
    let needs = |id: &str| -> BTreeSet<String> {
        let task = tasks.iter().find(|task| task["task_id"] == id).unwrap();
        let needs = task["dependencies"].as_array().cloned().unwrap_or_default();
        needs.iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    };
    let is_diamond = tasks.iter().any(|task| {
        let middle: Vec<_> = needs(task["task_id"].as_str().unwrap()).into_iter().collect();
        middle
            .iter()
            .enumerate()
            .any(|(i, a)| middle[i + 1..].iter().any(|b| !needs(a).is_disjoint(&needs(b))))
    });
    assert!(is_diamond, "{tasks:#?}");
    let answer = std::fs::read_to_string(world.path(summary.answer.as_deref().unwrap())).unwrap();
    assert!(answer.contains("# "), "{answer}");
    assert!(world.path(summary.summary.as_deref().unwrap()).is_file());
}

fn a_plan_file_is_carried_out_as_it_stands(world: World) {
    let world = world.start("");
    let plan = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/plan.json");
    world.expect(0, &["check", plan]);
    let summary = world.json(&["submit", "--plan", plan, "--json"]);
    assert_eq!(summary["state"], "complete");
    let planned = summary["tasks"].as_array().unwrap().iter();
    assert!(!planned.clone().any(|task| task["task_id"].as_str().unwrap().ends_with(".plan")));
    assert!(planned.clone().any(|task| task["task_id"].as_str().unwrap().ends_with(".answer")));
}

fn a_task_whose_check_fails_is_told_why_and_mends_it(world: World) {
    let scenario = r#"
        [[rule]]
        match = { task = "checked", attempt = 1 }
        [[rule.steps]]
        structured = { summary = "No file.", findings = [], recommendations = [], artifacts = [] }
    "#;
    let world = world.start(scenario);
    let verify = ["--verify-artifact", "*.md", "--json"];
    let args = [&["task", "marie", "Write it down", "--id", "checked"], &verify[..]].concat();
    let result = world.json(&args);
    assert_eq!(result["status"], "complete");
    assert_eq!(result["attempt"], 2, "{result}");
    let events = text(&world.expect(0, &["events", "adhoc", "--json"]).stdout);
    assert!(events.contains("\"unverified\""), "{events}");
}
