//! A daemon that is killed in the middle of a run, and one that is told to end.

use supervisor::api::types::TaskStatus;

use crate::in_both_runtimes;
use crate::world::{Kind, World, text};

in_both_runtimes! {
    a_daemon_killed_in_mid_run_loses_nothing_and_does_nothing_twice,
    what_down_interrupted_goes_on_at_the_next_up,
}

fn a_daemon_killed_in_mid_run_loses_nothing_and_does_nothing_twice(world: World) {
    // The second task is still at it when the daemon dies; the first is done.
    let rule = "[[rule]]\nmatch = { task = \"second\", turn = 0 }\nanswer = { delay = 4, then = \"default\" }\n";
    let mut world = world.start(rule);
    world.add("marie", "first", "Go first", &[]);
    world.add("anga", "second", "Go second", &["--after", "first"]);
    world.add("fabien", "third", "Go third", &["--after", "second"]);
    world.until_asked("second");
    let first = world.result("marie", "first");

    world.kill_daemon();
    world.start_daemon();

    assert_eq!(world.ended(&["first", "second", "third"]), [TaskStatus::Complete; 3]);
    assert_eq!(world.result("marie", "first"), first, "what was accepted should not change");
    let events = text(&world.expect(0, &["events", "adhoc", "--json"]).stdout);
    for task in ["first", "second", "third"] {
        let ended = events
            .lines()
            .filter(|line| line.contains("task_ended") && line.contains(&format!("\"{task}\"")))
            .count();
        assert_eq!(ended, 1, "{task}\n{events}");
    }
    let dispatched = events.lines().filter(|line| line.contains("attempt_dispatched"));
    let of_first = dispatched.filter(|line| line.contains("\"first\"")).count();
    assert_eq!(of_first, 1, "a finished task should not run again");
}

fn what_down_interrupted_goes_on_at_the_next_up(world: World) {
    let rule =
        "[[rule]]\nmatch = { task = \"long\", turn = 0 }\ntimes = 1\nanswer = { hang = true }\n";
    let mut world = world.start(rule);
    world.add("marie", "long", "Take a while", &[]);
    world.until_asked("long");
    world.expect(0, &["down"]);
    world.wait("the daemon has ended", |world| {
        let output = world.run(&["status"]);
        (output.status.code() == Some(4)).then_some(())
    });
    assert!(world.containers_if_any().is_empty(), "{:?}", world.containers_if_any());
    world.forget_daemon();
    world.start_daemon();
    assert_eq!(world.ended(&["long"]), [TaskStatus::Complete]);
}

/// The agent asks again for some seconds. An upgrade, or a look at why the daemon died, may take longer.
#[test]
fn process_agent_that_gives_up_while_the_daemon_is_away_costs_no_retry() {
    let test = "process_agent_that_gives_up_while_the_daemon_is_away_costs_no_retry";
    let Some(world) = World::of_processes(test) else { return };
    let rule =
        "[[rule]]\nmatch = { task = \"long\", turn = 0 }\ntimes = 1\nanswer = { hang = true }\n";
    let mut world = world.start(rule);
    world.add("marie", "long", "Take a while", &["--retries", "0"]);
    world.until_asked("long");
    world.kill_daemon();
    let report = world.path("results/marie/.slots/marie-1/long.1.json");
    world.wait_ref("the agent has given up", |_| report.is_file().then_some(()));
    world.start_daemon();
    assert_eq!(world.ended(&["long"]), [TaskStatus::Complete]);
    assert_eq!(world.result("marie", "long")["attempt"], 2);
    let events = text(&world.expect(0, &["events", "adhoc", "--json"]).stdout);
    let failed = events.lines().find(|line| line.contains("attempt_failed")).unwrap();
    assert!(failed.contains("worker_lost") && failed.contains("\"counted\":false"), "{failed}");
}

/// The first daemon runs the task as a process, the next one has containers: the process must be gone
/// before the container does the same attempt.
#[test]
fn docker_takes_over_from_processes_and_nothing_runs_twice() {
    let test = "docker_takes_over_from_processes_and_nothing_runs_twice";
    if World::of_containers(test).is_none() {
        return;
    }
    let Some(world) = World::of_processes(test) else { return };
    let rule =
        "[[rule]]\nmatch = { task = \"long\", turn = 0 }\ntimes = 1\nanswer = { hang = true }\n";
    let mut world = world.start(rule);
    world.add("marie", "long", "Take a while", &[]);
    world.until_asked("long");
    world.kill_daemon();
    let before = world.processes(Kind::Process, "worker");
    assert_eq!(before.len(), 1, "{before:?}");
    world.kind = Kind::Docker;
    world.start_daemon();
    assert_eq!(world.ended(&["long"]), [TaskStatus::Complete]);
    let after = world.processes(Kind::Process, "worker");
    assert!(after.is_empty(), "still there: {after:?}");
}

/// A container that is idle serves its slot all the same; where its engine can't be asked, nothing may
/// be started beside it.
#[test]
fn docker_that_does_not_answer_is_not_taken_for_gone_while_its_containers_live() {
    let test = "docker_that_does_not_answer_is_not_taken_for_gone";
    let Some(world) = World::of_containers(test) else { return };
    world.write(
        "workspaces/marie/worker.toml",
        "description = \"stays\"\ncontainer = \"resident\"\n",
    );
    let mut world = world.start("");
    world.add("marie", "quick", "Be quick", &[]);
    assert_eq!(world.ended(&["quick"]), [TaskStatus::Complete]);
    world.kill_daemon();
    let output = world
        .command()
        .args(["up", "--runtime", "process"])
        .env("DOCKER_HOST", "unix:///nonexistent")
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("marie-1"), "{said}");
    world.start_daemon();
}
