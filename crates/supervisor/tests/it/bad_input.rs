//! Bad input to each command: a clear error, the right exit code, nothing lost.

use crate::world::{World, text};

fn error(world: &World, code: i32, args: &[&str]) -> String {
    let output = world.expect(code, args);
    assert!(output.stdout.is_empty(), "errors belong on stderr: {}", text(&output.stdout));
    text(&output.stderr)
}

#[test]
fn every_command_says_what_is_wrong_with_what_it_was_given() {
    let Some(world) = World::of_processes("bad_input") else { return };
    let world = world.start("");
    world.write("empty.txt", " \n");
    world.write(
        "bad-plan.json",
        "{\"tasks\": [{\"id\": \"a\", \"worker\": \"mary\", \"description\": \"x\"}]}",
    );
    world.write("cycle.json", "{\"tasks\": [\
        {\"id\": \"a\", \"worker\": \"marie\", \"description\": \"x\", \"dependencies\": [\"b\"]},\
        {\"id\": \"b\", \"worker\": \"marie\", \"description\": \"x\", \"dependencies\": [\"a\"]}]}");
    world.write("broken.json", "{\"tasks\": [");
    for (code, args, said) in [
        (3, &["submit", "no-such-file.txt"][..], "no-such-file.txt"),
        (3, &["submit", "empty.txt"], "empty"),
        (3, &["submit", "--plan", "broken.json"], "line 1"),
        (3, &["submit", "--plan", "bad-plan.json"], "marie"),
        (3, &["submit", "--plan", "cycle.json"], "wait for each other"),
        (2, &["submit", "empty.txt", "--budget", "-1"], "from 0.0001 to 1000000"),
        (3, &["plan", "empty.txt"], "empty"),
        (3, &["task", "mary", "Do it"], "marie"),
        (3, &["task", "marie", "Do it", "--after", "x", "--id", "x"], "itself"),
        (2, &["task", "marie", "Do it", "--id", "NO"], "NO"),
        (2, &["task", "marie", "Do it", "--timeout", "0"], "timeout"),
        (3, &["check", "bad-plan.json"], "marie"),
        (3, &["check", "broken.json"], "broken.json"),
        (3, &["status", "zzzz"], "zzzz"),
        (3, &["logs", "zzzz"], "zzzz"),
        (3, &["result", "zzzz"], "zzzz"),
        (3, &["events", "zzzz"], "zzzz"),
        (3, &["cancel", "zzzz"], "zzzz"),
        (3, &["retry", "zzzz"], "zzzz"),
        (2, &["schema", "zzzz"], "zzzz"),
        (2, &["no-such-command"], "no-such-command"),
    ] {
        let output = world.expect(code, args);
        let shown = text(&output.stderr) + &text(&output.stdout);
        assert!(shown.contains(said), "supervisor {args:?} should say {said:?}:\n{shown}");
    }
    // None of it left a task behind.
    let report = world.status();
    assert!(report.runs.iter().all(|run| run.tasks.is_empty()), "{report:#?}");
}

#[test]
fn without_a_daemon_every_command_says_how_to_start_one() {
    let Some(world) = World::of_processes("without_a_daemon") else { return };
    world.write("request.txt", "Do it");
    for args in [
        &["submit", "request.txt"][..],
        &["plan", "request.txt"],
        &["task", "marie", "Do it"],
        &["status"],
        &["workers"],
        &["logs", "x"],
        &["events", "x"],
        &["cancel", "x"],
    ] {
        let said = error(&world, 4, args);
        assert!(said.contains("supervisor up"), "supervisor {args:?}:\n{said}");
    }
}

#[test]
fn a_wrong_configuration_is_named_with_its_place() {
    let Some(world) = World::of_processes("a_wrong_configuration") else { return };
    for (file, contents, said) in [
        ("supervisor.toml", "max_runing = 3\n", "max_running"),
        ("supervisor.toml", "max_running = 0\n", "at least 1"),
        ("supervisor.toml", "max_running = \"x\"\n", "max_running"),
        ("workspaces/marie/worker.toml", "descripton = \"x\"\n", "description"),
        ("workspaces/marie/worker.toml", "description = \"x\"\nreplicas = 0\n", "replicas"),
        (
            "workspaces/marie/worker.toml",
            "description = \"x\"\nsystem_prompt = \"NO.md\"\n",
            "NO.md",
        ),
    ] {
        let before = std::fs::read_to_string(world.path(file)).unwrap();
        world.write(file, contents);
        let shown = error(&world, 3, &["up"]);
        assert!(shown.contains(said), "{contents:?} should say {said:?}:\n{shown}");
        world.write(file, &before);
    }
}

#[test]
fn a_second_supervisor_of_the_same_folder_is_refused() {
    let Some(world) = World::of_processes("a_second_supervisor") else { return };
    let world = world.start("");
    let shown = error(&world, 4, &["up"]);
    assert!(shown.contains("another supervisor"), "{shown}");
}
