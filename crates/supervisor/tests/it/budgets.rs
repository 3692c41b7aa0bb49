//! Money, with the real CLI: what is spent never passes a budget, and what it stopped goes on where it was.

use std::fmt::Write as _;

use gateway::{Prices, Terms, Tokens, Usd};
use protocol::{Event, Record};
use rehearsal::SeenRequest;
use serde_json::Value;
use supervisor::api::types::{RunStatus, TaskStatus};

use crate::world::World;

/// Sixteen replicas of one worker. Its answers are short: what is held for each is little.
const COUNTER: &str = "description = \"Counts.\"\nmodel = \"claude-sonnet-5-5\"\nreplicas = 16\n\
                       max_output_tokens = 4000\ntools = [\"Read\", \"Write\"]\n";

const TASKS: usize = 16;

fn plan() -> String {
    let mut tasks = String::new();
    for number in 1..=TASKS {
        let comma = if number == TASKS { "" } else { "," };
        writeln!(
            tasks,
            r#"{{"id": "count-{number}", "worker": "counter", "description": "Count to {number}"}}{comma}"#
        )
        .unwrap();
    }
    format!("{{\"version\": 1, \"tasks\": [{tasks}]}}")
}

/// Returns what requests cost, by what the model's side says of them.
fn bill(requests: &[SeenRequest]) -> Usd {
    let prices = Prices::built_in();
    let cost = |request: &SeenRequest| {
        let usage = request.usage?;
        let tokens = Tokens {
            input: usage.input_tokens,
            output: usage.output_tokens,
            cache_read: usage.cache_read_input_tokens,
            cache_write_5m: usage.cache_creation.ephemeral_5m_input_tokens,
            cache_write_1h: usage.cache_creation.ephemeral_1h_input_tokens,
        };
        prices.cost(request.model.as_deref()?, &tokens, Terms::default())
    };
    requests.iter().filter_map(cost).sum()
}

fn usd(dollars: f64) -> Usd {
    Usd::from_dollars(dollars).unwrap()
}

fn of<'a>(requests: &'a [SeenRequest], task: &str) -> Vec<&'a SeenRequest> {
    requests.iter().filter(|request| request.task.as_deref() == Some(task)).collect()
}

#[test]
fn process_sixteen_workers_never_pass_a_budget_and_go_on_when_it_is_raised() {
    let name = "process_sixteen_workers_never_pass_a_budget_and_go_on_when_it_is_raised";
    let Some(world) = World::of_processes(name) else { return };
    world.write("workspaces/counter/worker.toml", COUNTER);
    world.write("supervisor.toml", "backoff_base = 0.2\nstop_grace = 5\nmax_running = 16\n");
    world.write("plan.json", &plan());
    let world = world.start("");
    let budget = 0.12;

    let args = ["submit", "--plan", "plan.json", "--budget", "0.12", "--detach", "--json"];
    let run = world.json(&args)["run"].as_str().unwrap().to_owned();
    let decision = world.wait_ref("a decision is raised and nothing runs", |world| {
        let decisions = decisions(world);
        let running = world.status().runs.iter().flat_map(|run| &run.tasks).any(is_running);
        decisions.first().filter(|_| !running).cloned()
    });

    let before = world.requests();
    assert!(bill(&before) <= usd(budget), "{} of {budget} are spent", bill(&before));
    assert!(bill(&before) > Usd::ZERO);
    assert_eq!(decision["kind"], "budget", "{decision}");
    let shown = crate::world::text(&world.expect(0, &["status"]).stdout);
    assert!(shown.contains("supervisor decide d1 go-on"), "{shown}");
    let done: Vec<String> = (1..=TASKS)
        .map(|number| format!("count-{number}"))
        .filter_map(|local| {
            let report = world.status();
            let mut tasks = report.runs.into_iter().flat_map(|run| run.tasks);
            let task = tasks.find(|task| task.task_id.as_str().ends_with(&format!(".{local}")))?;
            (task.status == TaskStatus::Complete).then(|| task.task_id.to_string())
        })
        .collect();
    println!("{} of {budget} dollars, {} of {TASKS} tasks are done", bill(&before), done.len());
    assert!(done.len() < TASKS, "the budget should have stopped some");

    // Nothing is asked while the question is open, and no larger budget is no answer.
    world.expect(3, &["decide", "d1", "go-on"]);
    world.expect(3, &["decide", "d1", "go-on", "--budget", "0.12"]);
    assert_eq!(world.requests().len(), before.len());
    world.expect(0, &["decide", "d1", "go-on", "--budget", "5"]);
    let summary = world.wait_ref("the run has ended", |world| {
        let path = world.path(&format!("results/{run}.json"));
        let text = std::fs::read(path).ok()?;
        serde_json::from_slice::<supervisor::api::types::RunSummary>(&text).ok()
    });

    assert_eq!(summary.state, RunStatus::Complete, "{summary:#?}");
    let after = world.requests();
    for task in &done {
        assert_eq!(of(&after, task).len(), of(&before, task).len(), "{task} was paid for twice");
    }
    // What was begun went on in its session.
    let events = crate::world::text(&world.expect(0, &["events", &run, "--json"]).stdout);
    let again: Vec<bool> = events
        .lines()
        .filter_map(|line| match serde_json::from_str::<Record>(line).unwrap().event {
            Event::AttemptDispatched { attempt, resume, .. } if attempt.get() > 1 => Some(resume),
            _ => None,
        })
        .collect();
    assert!(!again.is_empty() && again.iter().all(|resume| *resume), "{events}");
    let cost = usd(summary.cost_usd.unwrap());
    assert_eq!(cost, bill(&after), "the run's figures are those of the model's side");
}

fn decisions(world: &World) -> Vec<Value> {
    let shown = world.expect(0, &["decisions", "--json"]).stdout;
    serde_json::from_slice(&shown).unwrap()
}

fn is_running(task: &supervisor::api::types::TaskView) -> bool {
    task.status == TaskStatus::Running
}

#[test]
fn process_run_that_names_no_budget_has_that_of_the_configuration() {
    let name = "process_run_that_names_no_budget_has_that_of_the_configuration";
    let Some(world) = World::of_processes(name) else { return };
    let config =
        |usd| format!("backoff_base = 0.2\nstop_grace = 5\n[budgets]\nusd_per_run = {usd}\n");
    world.write("workspaces/counter/worker.toml", COUNTER);
    world.write("supervisor.toml", &config("0.12"));
    world.write("plan.json", &plan());
    let mut world = world.start("");

    let args = ["submit", "--plan", "plan.json", "--detach", "--json"];
    let run = world.json(&args)["run"].as_str().unwrap().to_owned();
    let decision =
        world.wait_ref("a decision is raised", |world| decisions(world).first().cloned());

    assert_eq!(decision["kind"], "budget", "{decision}");
    assert!(bill(&world.requests()) <= usd(0.12), "{} are spent", bill(&world.requests()));
    // Whoever raises it there starts the daemon again; it also holds for the run that is open then.
    world.kill_daemon();
    world.write("supervisor.toml", &config("0.13"));
    world.start_daemon();
    let again = world.wait_ref("the next is raised", |world| {
        decisions(world).into_iter().find(|other| other["id"] != decision["id"])
    });
    assert!(again["question"].as_str().unwrap().contains("$0.1300"), "{again}");
    assert!(bill(&world.requests()) <= usd(0.13), "{} are spent", bill(&world.requests()));
    world.kill_daemon();
    world.write("supervisor.toml", &config("5"));
    world.start_daemon();
    let summary = world.wait_ref("the run has ended", |world| {
        let text = std::fs::read(world.path(&format!("results/{run}.json"))).ok()?;
        serde_json::from_slice::<supervisor::api::types::RunSummary>(&text).ok()
    });
    assert_eq!(summary.state, RunStatus::Complete, "{summary:#?}");
}

#[test]
fn process_model_without_a_price_fails_its_task_and_holds_nobody_else() {
    let name = "process_model_without_a_price_fails_its_task_and_holds_nobody_else";
    let Some(world) = World::of_processes(name) else { return };
    let worker = "description = \"Counts.\"\nmodel = \"studio-1\"\n";
    world.write("workspaces/counter/worker.toml", worker);
    world.write("supervisor.toml", "backoff_base = 0.2\n[budgets]\nusd_per_day = 50\n");
    let world = world.start("");
    world.add("counter", "odd", "Count", &[]);
    world.add("marie", "other", "Write", &[]);

    assert_eq!(world.ended(&["odd", "other"]), [TaskStatus::Failed, TaskStatus::Complete]);
    let result = world.result("counter", "odd");
    assert_eq!(result["error"]["kind"], "invalid", "{result}");
    let hint = result["error"]["hint"].as_str().unwrap();
    assert!(hint.contains("Give `studio-1` a price"), "{hint}");
    assert_eq!(decisions(&world), Vec::<Value>::new());
}

#[test]
fn process_a_day_that_is_spent_holds_everybody_and_says_so() {
    let name = "process_a_day_that_is_spent_holds_everybody_and_says_so";
    let Some(world) = World::of_processes(name) else { return };
    world.write("supervisor.toml", "backoff_base = 0.2\n[budgets]\nusd_per_day = 0.01\n");
    let world = world.start("");
    world.add("marie", "dear", "Write a long letter", &[]);

    world.wait_ref("a decision is raised", |world| decisions(world).first().cloned());
    world.add("anga", "other", "Write another", &[]);

    assert_eq!(world.requests().len(), 0, "what could pass the budget should not be sent");
    let shown = crate::world::text(&world.expect(0, &["status"]).stdout);
    assert!(shown.contains("all workers today"), "{shown}");
    world.expect(0, &["decide", "d1", "go-on", "--budget", "50"]);
    assert_eq!(world.ended(&["dear", "other"]), [TaskStatus::Complete; 2]);
}
