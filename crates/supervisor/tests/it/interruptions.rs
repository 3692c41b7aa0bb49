//! A run of three containers, and what may happen to it on the way: its answer is the same as without.

use std::collections::BTreeMap;
use std::fs;

use protocol::{Event, FailureKind, Record, TaskId};
use supervisor::api::types::{RunStatus, RunView};

use crate::engine::Engine;
use crate::world::{World, skip, text};

/// One before three, which are done side by side. The answer comes after them, from a fourth container.
const PLAN: &str = r#"{
    "request": "Should we do it?",
    "tasks": [
        { "id": "start", "worker": "marie", "description": "Look around" },
        { "id": "left", "worker": "marie", "description": "Ask the dancers", "dependencies": ["start"] },
        { "id": "middle", "worker": "anga", "description": "Try it", "dependencies": ["start"] },
        { "id": "right", "worker": "fabien", "description": "Count", "dependencies": ["start"] }
    ]
}"#;

const TASKS: [(&str, &str); 4] =
    [("marie", "start"), ("marie", "left"), ("anga", "middle"), ("fabien", "right")];

/// What a run came to, without what differs between two runs of the same plan.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    answer: String,
    /// The results and the artifacts, by path.
    files: BTreeMap<String, String>,
}

/// What the journal says of a task.
#[derive(Debug, Default)]
struct Story {
    dispatched: Vec<u32>,
    /// Of the attempts that failed, the kinds, and whether they used up a retry.
    failed: Vec<(FailureKind, bool)>,
    /// The attempts that counted.
    ended: Vec<u32>,
}

#[test]
fn docker_run_that_is_interrupted_in_each_way_comes_to_the_same_answer() {
    let test = "docker_run_that_is_interrupted_in_each_way_comes_to_the_same_answer";
    let Some(world) = World::of_containers(test) else { return };
    let mut world = world.prepared().start(&hangs(&["start", "left", "middle", "right", "answer"]));
    let run = world.submit_plan();

    // The daemon: its worker goes on, and the next daemon takes it over.
    world.until_at_work(&[("start", 1)]);
    world.kill_daemon();
    world.start_daemon();

    // Three containers are at work.
    world.until_at_work(&[("left", 1), ("middle", 1), ("right", 1)]);
    good(world.docker(&["rm", "--force", &world.container_of("left")]));
    good(world.docker(&["kill", &world.container_of("middle")]));
    let workers = world.processes_in(&world.container_of("right"), "worker");
    assert_eq!(workers.len(), 1, "{workers:?}");
    kill(workers[0]);

    // A container that goes while no daemon is there.
    world.until_done(&run);
    world.until_at_work(&[("answer", 1)]);
    let container = world.container_of("answer");
    world.kill_daemon();
    good(world.docker(&["rm", "--force", &container]));
    world.start_daemon();

    let interrupted = world.outcome(&run);
    let stories = world.stories(&run);
    for task in ["left", "middle", "right"] {
        assert_eq!(stories[task].ended, [2], "{task}: {:?}", stories[task]);
    }
    world.compare_and_leave(&run, &interrupted);
}

/// A crash of the engine, whose next start ends the containers that it finds; a restart as an upgrade makes it, which ends
/// them first; and a crash of one that lets its containers live.
#[test]
fn docker_run_whose_engine_crashes_and_restarts_comes_to_the_same_answer() {
    let test = "docker_run_whose_engine_crashes_and_restarts_comes_to_the_same_answer";
    let Some((mut engine, world)) = engine_of_its_own(test) else { return };
    let mut world = world.prepared().start(&hangs(&["start", "left", "middle", "right", "answer"]));
    let run = world.submit_plan();

    world.until_at_work(&[("start", 1)]);
    engine.kill().unwrap();
    world.until_engine_is_away(true);
    engine.start_again().unwrap();

    world.until_at_work(&[("left", 1), ("middle", 1), ("right", 1)]);
    engine.stop().unwrap();
    world.until_engine_is_away(true);
    engine.live_restore = true;
    engine.start_again().unwrap();

    world.until_done(&run);
    world.until_at_work(&[("answer", 1)]);
    let containers = |world: &World| text(&world.docker(&["ps", "--quiet", "--no-trunc"]).stdout);
    let before = containers(&world);
    engine.kill().unwrap();
    world.until_engine_is_away(true);
    engine.start_again().unwrap();
    world.until_engine_is_away(false);
    assert_eq!(containers(&world), before, "they should have lived on");
    // What was never answered is asked again. This daemon starts before its engine does.
    world.kill_daemon();
    engine.kill().unwrap();
    world.spawn_daemon();
    world.wait_ref("the daemon waits for its engine", |world| {
        world.log().contains("waiting for it").then_some(())
    });
    engine.start_again().unwrap();
    world.until_healthy();
    assert_eq!(containers(&world), before, "they should have lived on once more");

    let interrupted = world.outcome(&run);
    let stories = world.stories(&run);
    for task in ["start", "left", "middle", "right"] {
        assert_eq!(stories[task].ended, [2], "{task}: {:?}", stories[task]);
    }
    world.compare_and_leave(&run, &interrupted);
    let left = engine.inhabitants().unwrap();
    assert!(left.is_empty(), "{left:?}");
}

/// First work goes on while there is no room. Then the daemon dies of something else, and can't start for want of it.
#[test]
fn docker_run_on_a_disk_that_fills_up_and_is_freed_comes_to_the_same_answer() {
    let test = "docker_run_on_a_disk_that_fills_up_and_is_freed_comes_to_the_same_answer";
    let Some(world) = World::of_containers_on_a_disk_of(64, test) else { return };
    let slow = "[[rule]]\nmatch = { task = \"start\" }\ntimes = 1\nanswer = { delay = 4, then = \"default\" }\n";
    let scenario = slow.to_owned() + &hangs(&["left", "middle", "right"]);
    let mut world = world.prepared().start(&scenario);
    let run = world.submit_plan();

    let no_room = "there is no room on the disk";
    world.until_at_work(&[("start", 1)]);
    world.disk().fill().unwrap();
    let before = world.requests().len();
    world.wait_ref("the agent has an answer, and no room for it", |world| {
        (world.requests().len() > before).then_some(())
    });
    world.until_said(no_room, true);
    world.disk().free().unwrap();
    world.until_said(no_room, false);

    world.until_at_work(&[("left", 1), ("middle", 1), ("right", 1)]);
    world.disk().fill().unwrap();
    world.kill_daemon();
    let said = text(&world.expect(4, &["up"]).stderr);
    assert!(said.contains("No space left on device"), "{said}");
    world.disk().free().unwrap();
    world.start_daemon();

    let interrupted = world.outcome(&run);
    world.stories(&run);
    world.compare_and_leave(&run, &interrupted);
}

/// Returns an engine that may be stopped, and an installation that uses it.
fn engine_of_its_own(test: &str) -> Option<(Engine, World)> {
    if let Some(why) = Engine::impossible() {
        return skip(test, &why);
    }
    // Not without the image; and it is loaded from where it is.
    World::of_containers(test)?;
    let engine = Engine::start().unwrap();
    let world = World::of_containers_of(&engine, test)?;
    Some((engine, world))
}

impl World {
    /// Has one container for each worker.
    fn prepared(self) -> Self {
        for worker in ["marie", "anga", "fabien"] {
            let path = format!("workspaces/{worker}/worker.toml");
            let config = fs::read_to_string(self.path(&path)).unwrap();
            assert!(config.contains("replicas = 2"), "{config}");
            self.write(&path, &config.replace("replicas = 2", "replicas = 1"));
        }
        self
    }

    /// Hands in the plan and returns the run.
    fn submit_plan(&self) -> String {
        self.write("plan.json", PLAN);
        let opened = self.json(&["submit", "--plan", "plan.json", "--detach", "--json"]);
        opened["run"].as_str().unwrap().to_owned()
    }

    /// Waits until the model was asked for each of these attempts.
    fn until_at_work(&self, attempts: &[(&str, u32)]) {
        self.wait_ref(&format!("{attempts:?} are at work"), |world| {
            let requests = world.requests();
            let is_asked = |(task, attempt): &(&str, u32)| {
                requests.iter().any(|request| {
                    let name = request.task.as_deref().unwrap_or_default();
                    local(name) == *task && request.attempt == Some(*attempt)
                })
            };
            attempts.iter().all(is_asked).then_some(())
        });
    }

    /// Returns the container that is at work on a task: any of its worker's, since each attempt gets a fresh one.
    fn container_of(&self, task: &str) -> String {
        let running = self.status().workers.into_iter().flat_map(|worker| worker.running);
        let at_work = running.filter_map(|line| {
            let (replica, attempt) = line.split_once(": ")?;
            let (name, _) = attempt.split_once(',')?;
            (local(name) == task).then(|| self.container(replica))
        });
        let [container] = &at_work.collect::<Vec<_>>()[..] else { panic!("who is at {task}?") };
        container.clone()
    }

    /// Waits until `status` says that the engine is away, or says so no more.
    fn until_engine_is_away(&self, is_away: bool) {
        self.until_said("waits: ", is_away);
    }

    /// Waits until `status` has a notice with that text, or has it no more.
    fn until_said(&self, text: &str, is_said: bool) {
        self.wait_ref(&format!("{text:?} is a notice: {is_said}"), |world| {
            let notices = world.status().daemon.notices;
            let is_one = notices.iter().any(|notice| notice.contains(text));
            (is_one == is_said).then_some(())
        });
    }

    fn view(&self, run: &str) -> RunView {
        let report = self.status();
        report.runs.into_iter().find(|view| view.run.to_string() == run).unwrap()
    }

    /// Waits until each task of a run has a result, one after the other: as long as something comes, it is
    /// waited for.
    fn until_done(&self, run: &str) {
        let short = self.view(run).short;
        for (worker, task) in TASKS {
            let file = format!("results/{worker}/{short}.{task}.json");
            self.wait_ref(&format!("there is {file}"), |world| {
                world.path(&file).is_file().then_some(())
            });
        }
    }

    /// Waits until a run has ended, and returns what came of it.
    fn outcome(&self, run: &str) -> Outcome {
        self.until_done(run);
        let summary = format!("results/{run}.json");
        self.wait_ref("the run has ended", |world| world.path(&summary).is_file().then_some(()));
        let view = self.view(run);
        assert_eq!(view.state, RunStatus::Complete, "{view:#?}");
        let short = view.short.to_string();
        let plain = |text: String| text.replace(run, "RUN").replace(&format!("{short}."), "SHORT.");
        let mut files = BTreeMap::new();
        for (worker, task) in TASKS {
            let id = format!("{short}.{task}");
            let result = self.result(worker, &id);
            assert_eq!(result["status"], "complete", "{result}");
            let said = ["summary", "findings", "recommendations", "artifacts"]
                .map(|field| result[field].to_string());
            files.insert(task.to_owned(), plain(said.join("\n")));
            for artifact in result["artifacts"].as_array().unwrap() {
                let path = artifact.as_str().unwrap();
                let text = fs::read_to_string(self.path(path)).unwrap();
                files.insert(plain(path.to_owned()), plain(text));
            }
            let left = self.path(&format!("tasks/{worker}/{id}.json"));
            assert!(!left.exists(), "{} is left", left.display());
        }
        let answer = fs::read_to_string(self.path(&format!("results/{run}.md"))).unwrap();
        Outcome { answer: plain(answer), files }
    }

    /// Returns what the run's journal says of each task, and checks what must hold for each.
    fn stories(&self, run: &str) -> BTreeMap<String, Story> {
        let events = text(&self.expect(0, &["events", run, "--json"]).stdout);
        let mut stories: BTreeMap<String, Story> = BTreeMap::new();
        let name = |task: &TaskId| local(task.as_str()).to_owned();
        for line in events.lines() {
            let record: Record = serde_json::from_str(line).unwrap();
            match record.event {
                Event::AttemptDispatched { task, attempt, .. } => {
                    let story = stories.entry(name(&task)).or_default();
                    assert!(story.ended.is_empty(), "{task} was begun again when it was done");
                    story.dispatched.push(attempt.get());
                }
                Event::AttemptFailed { task, error, counted, .. } => {
                    stories.entry(name(&task)).or_default().failed.push((error.kind, counted));
                }
                Event::TaskEnded { result, .. } => {
                    stories.entry(name(&result.task_id)).or_default().ended.push(result.attempt);
                }
                _ => {}
            }
        }
        for (task, story) in &stories {
            assert_eq!(story.ended.len(), 1, "{task}: {story:?}\n{events}");
            let one_by_one: Vec<u32> = (1..=story.ended[0]).collect();
            assert_eq!(story.dispatched, one_by_one, "{task}: {story:?}\n{events}");
            assert_eq!(
                story.failed.len(),
                story.dispatched.len() - 1,
                "{task}: {story:?}\n{events}"
            );
            let lost = |failed: &(FailureKind, bool)| *failed == (FailureKind::WorkerLost, false);
            assert!(story.failed.iter().all(lost), "{task}: {story:?}\n{events}");
        }
        stories
    }

    /// Runs the same plan with nothing in its way, compares, and sees that nothing is left.
    fn compare_and_leave(mut self, run: &str, interrupted: &Outcome) {
        let published: BTreeMap<_, _> = self.published();
        let undisturbed = self.submit_plan();
        let outcome = self.outcome(&undisturbed);
        for (task, story) in self.stories(&undisturbed) {
            assert_eq!(story.dispatched, [1], "{task}: {story:?}");
        }
        assert_eq!(*interrupted, outcome, "left: with the interruptions of {run}");
        for (path, before) in published {
            assert_eq!(fs::read(&path).unwrap(), before, "{} changed", path.display());
        }
        let containers = self.containers();
        // One at work for each of the four workers, and a spare.
        assert!(containers.len() <= 8, "{containers:?}");
        self.expect(0, &["down"]);
        self.forget_daemon();
        let left = self.containers();
        assert!(left.is_empty(), "{left:?}");
    }

    /// Returns what is in `results/` for people.
    fn published(&self) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
        let folders = ["results", "results/marie", "results/anga", "results/fabien"];
        let entries = folders.iter().flat_map(|folder| fs::read_dir(self.path(folder)).unwrap());
        let paths = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        paths.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
    }
}

/// Returns the scenario in which the first request for each of these tasks is never answered.
fn hangs(tasks: &[&str]) -> String {
    let rule = |task: &&str| {
        format!(
            "[[rule]]\nmatch = {{ task = \"{task}\", attempt = 1 }}\ntimes = 1\nanswer = {{ hang = true }}\n"
        )
    };
    tasks.iter().map(rule).collect()
}

/// Returns the name of a task without its run's.
fn local(task: &str) -> &str {
    task.split_once('.').map_or(task, |(_, local)| local)
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn good(output: std::process::Output) {
    assert!(output.status.success(), "{}", text(&output.stderr));
}
