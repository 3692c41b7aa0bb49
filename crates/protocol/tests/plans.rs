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
fn tasks_may_build_on_what_earlier_runs_have_found() {
    let json = |given: &str, needs: &str| {
        format!(
            r#"{{"given": {given}, "tasks": [
                {{"id": "a", "worker": "marie", "description": "x"}},
                {{"id": "b", "worker": "marie", "description": "x", "dependencies": {needs}}}]}}"#
        )
    };
    let resolve = |json: &str| {
        let plan: Plan = strict::from_slice(json.as_bytes()).unwrap();
        let workers: Vec<WorkerId> = vec!["marie".parse().unwrap()];
        let short = "k3f9".parse().unwrap();
        plan.resolve(RunId::Adhoc, &short, Priority::High, &workers, LIMITS)
            .map_err(|faults| faults.iter().map(PlanFault::to_string).collect::<Vec<_>>())
    };
    let tasks = resolve(&json(r#"["p4wq.x"]"#, r#"["p4wq.x", "a"]"#)).unwrap();
    let needs: Vec<_> = tasks[1].dependencies.iter().map(|id| id.as_str()).collect();
    assert_eq!(needs, ["p4wq.x", "k3f9.a"], "what is given keeps its name");

    let said = resolve(&json("[]", r#"["p4wq.x"]"#)).unwrap_err();
    assert_eq!(said, ["task `b` depends on `p4wq.x`, which is not in the plan"]);
    let said = resolve(&json(r#"["a"]"#, "[]")).unwrap_err();
    assert_eq!(said, ["two tasks have the id `a`"]);
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

/// A megabyte of names that nobody knows: each is compared with all that are known.
#[test]
fn plan_with_more_faults_than_anybody_reads_is_judged_in_bounded_work() {
    let unknown: Vec<_> = (0..50_000).map(|n| format!("no-{n}")).collect();
    let unknown: Vec<&str> = unknown.iter().map(String::as_str).collect();
    let said = resolve(&task("a", "marie", &unknown)).unwrap_err();
    assert_eq!(said.len(), 100);
    // Too many tasks: nothing else is looked for.
    let many: Vec<_> = (0..10_000).map(|n| task(&format!("t{n}"), "nobody", &["none"])).collect();
    let said = resolve(&many.join(",")).unwrap_err();
    assert_eq!(said, ["the plan has 10000 tasks, at most 6 are allowed"]);
}
