//! The prompt cache, with the real CLI: twenty tasks of one worker share their prefix.

use std::fmt::Write as _;

use crate::world::World;
use rehearsal::SeenRequest;

/// About 20,000 tokens at 4 bytes each.
const PROMPT_BYTES: usize = 80_000;

const TASKS: usize = 20;

/// How many requests a task takes: few, for an agent.
const TURNS: usize = 4;

/// The first answer takes its time, as a model does with a long prompt: whoever starts meanwhile can't read
/// the cache yet. Then come some files and the report.
const SCENARIO: &str = r#"
    [[rule]]
    match = { worker = "reader", kind = "work" }

    [[rule.steps]]
    delay = 5
    tool_use = [{ name = "Write", input = { file_path = "{artifacts}/one.md", content = "one" } }]

    [[rule.steps]]
    tool_use = [{ name = "Write", input = { file_path = "{artifacts}/two.md", content = "two" } }]

    [[rule.steps]]
    tool_use = [{ name = "Write", input = { file_path = "{artifacts}/three.md", content = "three" } }]

    [[rule.steps]]
    [rule.steps.structured]
    summary = "It was read."
    findings = []
    recommendations = []
    artifacts = []
"#;

/// As many at once as can be on a small machine: each would write the prefix, were the first not to go alone.
const REPLICAS: usize = 8;

fn world(name: &str, stagger: bool) -> Option<World> {
    let world = World::of_processes(name)?;
    let worker = format!(
        "description = \"Reads.\"\nmodel = \"claude-sonnet-5-5\"\nsystem_prompt = \"ROLE.md\"\n\
         replicas = {REPLICAS}\nmax_output_tokens = 4000\ntools = [\"Read\", \"Write\"]\n"
    );
    world.write("workspaces/reader/worker.toml", &worker);
    let mut prompt = String::new();
    for line in 0.. {
        writeln!(prompt, "Rule {line}: what is read is quoted with its place.").unwrap();
        if prompt.len() >= PROMPT_BYTES {
            break;
        }
    }
    world.write("workspaces/reader/ROLE.md", &prompt);
    let config = format!("backoff_base = 0.2\nmax_running = {REPLICAS}\nstagger = {stagger}\n");
    world.write("supervisor.toml", &config);
    let mut tasks = String::new();
    for number in 1..=TASKS {
        let comma = if number == TASKS { "" } else { "," };
        writeln!(
            tasks,
            r#"{{"id": "read-{number}", "worker": "reader", "description": "Read page {number}"}}{comma}"#
        )
        .unwrap();
    }
    world.write("plan.json", &format!("{{\"version\": 1, \"tasks\": [{tasks}]}}"));
    Some(world)
}

/// Returns the share of the shared prefix's input cost that the cache saved, against no caching: a write
/// costs 1.25 times, a read 0.1 times what plain input does. It can't be more than 90 % less 1.15 / n for
/// n requests, of which the first has to write it.
fn saved(world: &World) -> f64 {
    let requests = world.requests();
    let usage = |request: &SeenRequest| request.usage.unwrap();
    let of_task = |request: &&SeenRequest| request.worker.as_deref() == Some("reader");
    let all: Vec<_> = requests.iter().filter(of_task).collect();
    assert_eq!(all.len(), TASKS * TURNS, "each task should have its requests once");
    // What later sessions find of the first one's.
    let firsts = all.iter().filter(|request| request.turn == 0);
    let prefix = firsts.map(|request| usage(request).cache_read_input_tokens).max().unwrap();
    assert!(prefix > 20_000, "the system prompt is about 20,000 tokens: {prefix}");
    let read = all.iter().filter(|r| usage(r).cache_read_input_tokens >= prefix).count() as f64;
    let written = all.len() as f64 - read;
    println!("{prefix} tokens: written {written} times, read {read} times");
    1.0 - (1.25 * written + 0.1 * read) / all.len() as f64
}

fn run(name: &str, stagger: bool) -> Option<f64> {
    let world = world(name, stagger)?.start(SCENARIO);
    let summary = world.json(&["submit", "--plan", "plan.json", "--json"]);
    assert_eq!(summary["state"], "complete", "{summary}");
    Some(saved(&world))
}

#[test]
fn process_twenty_tasks_pay_for_their_prefix_once() {
    let name = "process_twenty_tasks_pay_for_their_prefix_once";
    let (Some(staggered), Some(together)) = (run(name, true), run(name, false)) else { return };
    println!(
        "of the shared prefix's input cost are saved: {:.1} % staggered, {:.1} % not",
        100.0 * staggered,
        100.0 * together
    );
    assert!(staggered >= 0.88, "only {:.1} % are saved", 100.0 * staggered);
    assert!(
        staggered > together + 0.02,
        "{staggered} and {together}: the stagger makes no difference"
    );
}
