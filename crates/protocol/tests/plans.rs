//! What makes a plan one that can be carried out.

#![expect(clippy::unwrap_used, reason = "a test ends where it is wrong")]

use protocol::{Plan, PlanFault, PlanLimits, Priority, RunId, Task, WorkerId, strict};

const LIMITS: PlanLimits = PlanLimits { tasks: 6, depth: 3 };

fn resolve(tasks: &str) -> Result<Vec<Task>, Vec<String>> {
    let plan: Plan = strict::from_slice(format!("{{\"tasks\": [{tasks}]}}").as_bytes()).unwrap();
    let workers: Vec<WorkerId> = ["anga", "marie"].map(|name| name.parse().unwrap()).to_vec();
    let short = "k3f9".parse().unwrap();
    plan.resolve(RunId::Adhoc, &short, Priority::High, &workers, LIMITS)
        .map_err(|faults| faults.iter().map(PlanFault::to_string).collect())
}

fn task(id: &str, worker: &str, needs: &[&str]) -> String {
    let needs: Vec<_> = needs.iter().map(|id| format!("\"{id}\"")).collect();
    format!(
        "{{\"id\": \"{id}\", \"worker\": \"{worker}\", \"description\": \"x\", \"dependencies\": [{}]}}",
        needs.join(", ")
    )
}

#[test]
fn names_get_the_runs_prefix_and_tasks_its_priority() {
    let tasks = [task("a", "marie", &[]), task("b", "anga", &["a", "a"])].join(",");
    let tasks = resolve(&tasks).unwrap();
    assert_eq!(tasks[1].id.as_str(), "k3f9.b");
    assert_eq!(tasks[1].dependencies.len(), 1, "a dependency named twice is one");
    assert_eq!(tasks[1].dependencies[0].as_str(), "k3f9.a");
    assert_eq!(tasks[0].priority, Priority::High);
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let tasks = [task("a", "mary", &[]), task("a", "anga", &["c"])].join(",");
    insta::assert_snapshot!(resolve(&tasks).unwrap_err().join("\n"), @"
    two tasks have the id `a`
    task `a` names the worker `mary`, which does not exist (did you mean `marie`?)
    task `a` depends on `c`, which is not in the plan
    ");
}

#[test]
fn a_cycle_is_named_from_end_to_end() {
    let tasks =
        [task("a", "marie", &["c"]), task("b", "marie", &["a"]), task("c", "marie", &["b"])];
    let said = resolve(&tasks.join(",")).unwrap_err();
    assert_eq!(said, ["tasks wait for each other: a -> c -> b -> a"]);
    let itself = resolve(&task("a", "marie", &["a"])).unwrap_err();
    assert_eq!(itself, ["tasks wait for each other: a -> a"]);
}

#[test]
fn size_and_depth_are_bounded() {
    assert_eq!(resolve("").unwrap_err(), ["the plan has no tasks"]);
    let many: Vec<_> = (0..7).map(|n| task(&format!("t{n}"), "marie", &[])).collect();
    let said = resolve(&many.join(",")).unwrap_err();
    assert_eq!(said, ["the plan has 7 tasks, at most 6 are allowed"]);
    let chain = [
        task("a", "marie", &[]),
        task("b", "marie", &["a"]),
        task("c", "marie", &["b"]),
        task("d", "marie", &["c"]),
    ];
    let said = resolve(&chain.join(",")).unwrap_err();
    assert_eq!(said, ["the longest chain of dependencies has 4 tasks, at most 3 are allowed"]);
}
