//! What is told of runs from their journals alone.

use protocol::{Event, Record, RunId, RunMode, Status, Task, TaskError, TaskId};
use serde_json::{Value, json};

use super::world::World;
use crate::api::types::SubmitRun;
use crate::cli::history::History;
use crate::cli::rescue;
use crate::install::Installation;
use crate::journal::Journals;
use crate::testing::{self, Job};

/// Two runs of the same plan: in the second `b` fails.
const FIRST: &str = "0199f0f0-0000-7000-8000-000000000001";
const SECOND: &str = "0199f0f0-0000-7000-8000-000000000002";

fn opened(run: &str, short: &str) -> Value {
    json!({
        "event": "run_opened", "run": run, "short": short, "name": null, "mode": "plan",
        "request": "Do it", "priority": "medium", "budget_usd": null, "rehearsal": true,
    })
}

fn added(run: &str, id: &str, worker: &str, dependencies: &[&str]) -> Value {
    json!({
        "event": "task_added", "source": "plan",
        "task": {
            "task_id": id, "worker": worker, "description": "Do it", "run": run,
            "dependencies": dependencies, "timeout": 60,
        },
    })
}

fn dispatched(task: &str, attempt: u32, replica: &str) -> Value {
    let id = "00000000-0000-4000-8000-000000000000";
    json!({
        "event": "attempt_dispatched", "task": task, "attempt": attempt, "replica": replica,
        "token": id, "session": id, "resume": false,
    })
}

fn started(task: &str, attempt: u32) -> Value {
    json!({ "event": "attempt_started", "task": task, "attempt": attempt })
}

fn lost(task: &str, attempt: u32, retry_at: Option<&str>) -> Value {
    json!({
        "event": "attempt_failed", "task": task, "attempt": attempt, "counted": true,
        "error": { "kind": "network", "message": "connection reset" }, "retry_at": retry_at,
    })
}

fn ended(run: &str, task: &str, worker: &str, status: &str, because: &[&str]) -> Value {
    let error = json!({ "kind": "network", "message": "connection reset" });
    json!({
        "event": "task_ended", "because": because,
        "result": {
            "task_id": task, "run": run, "worker": worker, "attempt": 1, "status": status,
            "summary": "Well.", "artifacts": [format!("results/{worker}/{task}/notes.md")],
            "execution_time": 1.0, "error": if status == "complete" { Value::Null } else { error },
            "started_at": "2026-11-20T12:00:00Z", "finished_at": "2026-11-20T12:00:12Z",
        },
    })
}

/// Three tasks: `a`, then `b`, then `c`.
fn plan(run: &str, short: &str) -> Vec<Value> {
    let id = |name: &str| format!("{short}.{name}");
    vec![
        opened(run, short),
        json!({ "event": "plan_accepted", "run": run, "tasks": 3 }),
        added(run, &id("a"), "marie", &[]),
        added(run, &id("b"), "anga", &[&id("a")]),
        added(run, &id("c"), "marie", &[&id("b")]),
        dispatched(&id("a"), 1, "marie-1"),
        started(&id("a"), 1),
        ended(run, &id("a"), "marie", "complete", &[]),
        dispatched(&id("b"), 1, "anga-1"),
        started(&id("b"), 1),
    ]
}

fn first() -> Vec<Value> {
    let mut events = plan(FIRST, "k3f9");
    events.push(ended(FIRST, "k3f9.b", "anga", "complete", &[]));
    events.push(dispatched("k3f9.c", 1, "marie-1"));
    events
}

fn second() -> Vec<Value> {
    let mut events = plan(SECOND, "p4wq");
    events.extend([
        lost("p4wq.b", 1, Some("2026-11-20T12:00:14.500Z")),
        dispatched("p4wq.b", 2, "anga-1"),
        started("p4wq.b", 2),
        lost("p4wq.b", 2, None),
        ended(SECOND, "p4wq.b", "anga", "failed", &[]),
        ended(SECOND, "p4wq.c", "marie", "skipped", &["p4wq.b"]),
        json!({ "event": "run_ended", "run": SECOND, "state": "partial" }),
    ]);
    events
}

/// Writes a run's journal: an event each second from noon.
fn write(world: &World, run: &str, events: Vec<Value>) {
    let installation = Installation::at(world.dir.path()).unwrap();
    std::fs::create_dir_all(installation.runs()).unwrap();
    let (mut journals, _) = Journals::open(&installation).unwrap();
    let run: RunId = run.parse().unwrap();
    for (at, event) in events.into_iter().enumerate() {
        let mut record = json!({ "v": 1, "seq": 1, "at": format!("2026-11-20T12:00:{at:02}Z") });
        record.as_object_mut().unwrap().extend(event.as_object().unwrap().clone());
        let record: Record = serde_json::from_value(record).unwrap();
        journals.push(run, record.at, record.event);
    }
    journals.commit().unwrap();
}

fn world() -> World {
    let world = World::new();
    write(&world, FIRST, first());
    write(&world, SECOND, second());
    world
}

#[tokio::test]
async fn replay_shows_how_a_run_stood_and_why() {
    let world = world();
    let did = world.run(&["replay", "p4wq", "--until", "12:00:11"]).await;
    assert_eq!((did.code, did.err.as_str()), (0, ""));
    insta::assert_snapshot!(did.out, @"
    #24    12:00:11  b             anga          attempt 2 is handed to anga-1
              why: the attempt before it failed (network: connection reset)
              why: anga-1 is free; nothing else runs

    After event 24 (12 of 17 of this run), at 12:00:11:
    Run p4wq: executing, 1 of 3 tasks ended, opened 2026-11-20 12:00
    TASK    WORKER  STATUS    ATTEMPT  NOTE
    p4wq.a  marie   complete        1
    p4wq.b  anga    running         2  is handed to anga-1
    p4wq.c  marie   waiting         -  waits for p4wq.b
    ");
    let by_number = world.run(&["replay", SECOND, "--until", "24"]).await;
    assert_eq!(by_number.out, did.out);
}

#[tokio::test]
async fn replay_by_steps_shows_each_event_with_its_reason_and_what_it_changed() {
    let world = world();
    let did = world.run(&["replay", "p4wq", "--step"]).await;
    insta::assert_snapshot!(did.out, @"
    #13    p4wq      the plan is carried out
              why: somebody submitted a plan
    #14    12:00:01  the plan is accepted: 3 tasks
              why: its workers exist, it has no cycle, and it keeps the limits
    #15    12:00:02  a             marie         added
              why: it is in the run's plan
              why: it depends on nothing
    #16    12:00:03  b             anga          added
              why: it is in the run's plan
              why: it waits for p4wq.a
    #17    p4wq      plan: 3 tasks for anga, marie
              a             marie
              b             anga          waits for a
              c             marie         waits for b
              why: it is in the run's plan
              why: it waits for p4wq.b
    #18    12:00:05  a             marie         attempt 1 is handed to marie-1
              why: marie-1 is free; 1 attempt at the same time
    #19    12:00:06  a             marie         running (attempt 1 on marie-1)
              why: the replica runs and has the attempt before it
    #20    12:00:07  a             marie         complete in 1.0 s, $0.00
              why: attempt 1 was the live one, echoed its token, and what it handed in was checked
              so p4wq.b is ready
    #21    12:00:08  b             anga          attempt 1 is handed to anga-1
              why: p4wq.a is complete
              why: anga-1 is free; nothing else runs
    #22    12:00:09  b             anga          running (attempt 1 on anga-1)
              why: the replica runs and has the attempt before it
    #23    12:00:10  b             anga          attempt 1 failed (network): connection reset; tries again in 4.5 s
              why: network: connection reset
              why: it counts: failure 1 of this task
              why: it may be tried again in 4.5 s
    #24    12:00:11  b             anga          attempt 2 is handed to anga-1
              why: the attempt before it failed (network: connection reset)
              why: anga-1 is free; nothing else runs
    #25    12:00:12  b             anga          running (attempt 2 on anga-1)
              why: the replica runs and has the attempt before it
    #26    12:00:13  b             anga          attempt 2 failed (network): connection reset
              why: network: connection reset
              why: it counts: failure 2 of this task
              why: it is not tried again: its retries are used up
    #27    12:00:14  b             anga          failed (network): connection reset
              why: network: connection reset
    #28    12:00:15  c             marie         skipped, since b did not complete
              why: it depends on p4wq.b (failed)
    #29    12:00:16  the run is partial
              why: 1 complete, 1 failed, 1 skipped

    After event 29 (17 of 17 of this run), at 12:00:16:
    Run p4wq: partial, 3 of 3 tasks ended, opened 2026-11-20 12:00
    TASK    WORKER  STATUS    ATTEMPT  NOTE
    p4wq.a  marie   complete        1
    p4wq.b  anga    failed          2  network: connection reset
    p4wq.c  marie   skipped         1  connection reset
    ");

    let did = world.run(&["replay", "p4wq", "--step", "--json"]).await;
    let lines: Vec<Value> = did.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), second().len());
    assert_eq!(lines[7]["event"], "task_ended");
    assert_eq!(
        lines[7]["changes"][1],
        json!({"task_id": "p4wq.b", "from": "waiting", "to": "ready"})
    );
    let did = world.run(&["replay", "p4wq", "--json"]).await;
    let last: Value = serde_json::from_str(&did.out).unwrap();
    assert_eq!((&last["events"], &last["of"]), (&json!(17), &json!(17)));
    assert_eq!(last["state"]["state"], "partial");
}

#[tokio::test]
async fn point_before_the_run_and_a_run_that_is_not_there_are_bad_input() {
    let world = world();
    let did = world.run(&["replay", "p4wq", "--until", "3"]).await;
    assert_eq!(did.code, 3);
    insta::assert_snapshot!(did.err, @"
    Error: run p4wq had not begun by then

    Hint: It begins with event 13, at 2026-11-20T12:00:00.000Z, and what is known of it ends with event 29, at 2026-11-20T12:00:16.000Z.
    ");
    for args in [&["replay", "nope"][..], &["diff", "p4wq", "nope"], &["rescue", "nope"]] {
        let did = world.run(args).await;
        assert_eq!(did.code, 3, "{args:?}");
        assert!(did.err.contains("there is no run `nope`"), "{}", did.err);
    }
    assert_eq!(World::new().run(&["replay", "k3f9"]).await.code, 3, "where nothing ran yet");
}

#[tokio::test]
async fn journal_that_is_being_written_is_read_as_far_as_it_is_whole() {
    let world = world();
    let path = world.dir.path().join(format!(".supervisor/runs/{FIRST}/journal.jsonl"));
    let whole = std::fs::read(&path).unwrap();
    let half = [&whole[..], b"{\"v\":1,\"seq\":99,"].concat();
    world.file(
        &format!(".supervisor/runs/{FIRST}/journal.jsonl"),
        &String::from_utf8(half.clone()).unwrap(),
    );
    let did = world.run(&["replay", "k3f9"]).await;
    assert_eq!(did.code, 0, "{}", did.err);
    assert!(
        did.out.contains("k3f9.c is handed to marie-1")
            || did.out.contains("attempt 1 is handed to marie-1")
    );
    assert_eq!(std::fs::read(&path).unwrap(), half, "nothing is changed");
}

#[tokio::test]
async fn damage_in_another_run_is_told_and_stops_nobody() {
    let world = world();
    let path = format!(".supervisor/runs/{SECOND}/journal.jsonl");
    // A further batch, so that the one before it is known to have been whole.
    write(
        &world,
        SECOND,
        vec![json!({ "event": "cancel_requested", "run": SECOND, "task": null })],
    );
    let whole = std::fs::read_to_string(world.dir.path().join(&path)).unwrap();
    world.file(&path, &whole.replacen("\"marie\"", "\"maria\"", 1));
    let did = world.run(&["replay", "k3f9"]).await;
    assert_eq!(did.code, 0, "{}", did.err);
    assert!(did.err.starts_with("Note: line 3 of the journal"), "{}", did.err);
    let did = world.run(&["replay", "p4wq"]).await;
    assert_eq!(did.code, 4, "its short form is not known: {}", did.err);
    assert!(did.err.contains("its checksum is wrong"), "{}", did.err);
}

#[tokio::test]
async fn diff_shows_where_runs_part_and_ends_with_1() {
    let world = world();
    let did = world.run(&["diff", "k3f9", "p4wq"]).await;
    assert_eq!(did.code, 1);
    insta::assert_snapshot!(did.out, @"
    Runs k3f9 and p4wq part in 2 tasks; 1 task went the same way. Where each parts first:

    TASK       RUN   EVENT   AFTER  WHAT
    b          k3f9    #11  10.0 s  complete at attempt 1, 1 artifact
               p4wq    #23  10.0 s  attempt 1 failed (network): connection reset
    c          k3f9    #12  11.0 s  attempt 1 is handed to marie-1
               p4wq    #28  15.0 s  skipped (network): connection reset
    (the run)  k3f9      -       -  nothing more
               p4wq    #29  16.0 s  the run is partial
    ");
    let did = world.run(&["diff", "k3f9", "p4wq", "--json"]).await;
    let told: Value = serde_json::from_str(&did.out).unwrap();
    assert_eq!((&told["same"], &told["same_tasks"]), (&json!(false), &json!(1)));
    assert_eq!(told["partings"][0]["task"], "b");

    let third = "0199f0f0-0000-7000-8000-000000000003";
    let mut same = plan(third, "zz99");
    same.push(ended(third, "zz99.b", "anga", "complete", &[]));
    same.push(dispatched("zz99.c", 1, "marie-2"));
    write(&world, third, same);
    let did = world.run(&["diff", "k3f9", "zz99"]).await;
    assert_eq!(
        (did.code, did.out.as_str()),
        (0, "Runs k3f9 and zz99 went the same way: 3 tasks.\n")
    );
}

#[tokio::test]
async fn rescue_writes_a_plan_of_what_is_left_and_says_what_it_builds_on() {
    let world = world();
    let did = world.run(&["rescue", "p4wq"]).await;
    assert_eq!(did.code, 0, "{}", did.err);
    insta::assert_snapshot!(did.out, @r#"
    {
      "version": 1,
      "request": "Do it",
      "given": [
        "p4wq.a"
      ],
      "tasks": [
        {
          "id": "b",
          "worker": "anga",
          "description": "Do it",
          "dependencies": [
            "p4wq.a"
          ],
          "priority": "medium",
          "timeout": 60,
          "on_dependency_failure": "skip"
        },
        {
          "id": "c",
          "worker": "marie",
          "description": "Do it",
          "dependencies": [
            "b"
          ],
          "priority": "medium",
          "timeout": 60,
          "on_dependency_failure": "skip"
        }
      ]
    }
    "#);
    insta::assert_snapshot!(did.err, @"
    Left of run p4wq: 2 tasks (1 failed, 1 skipped).
    Not done again: 1 task, complete in p4wq or before. They are `given` in the plan by their full names. Tasks of the plan depend on p4wq.a; the new run's answer has the results of all of them. That works in this installation only, and as long as run p4wq is kept.
    To carry it out, as it is or changed by you:
      supervisor rescue p4wq --output plan.json
      supervisor submit --plan plan.json
    ");

    let file = world.path("left.json");
    let did = world.run(&["rescue", "k3f9", "--output", &file]).await;
    assert_eq!((did.code, did.out.as_str()), (0, ""));
    assert!(did.err.contains("run k3f9 is not over"), "{}", did.err);
    let did = world.run(&["check", &file]).await;
    assert_eq!(did.code, 0, "{} {}", did.out, did.err);
    let did = world.run(&["rescue", "k3f9", "--output", &file]).await;
    assert_eq!(did.code, 3, "a file that is there is not replaced");
}

#[tokio::test]
async fn rescue_of_a_run_that_has_nothing_left_says_what_to_do() {
    let world = World::new();
    let mut events = plan(FIRST, "k3f9");
    events.push(ended(FIRST, "k3f9.b", "anga", "complete", &[]));
    events.push(ended(FIRST, "k3f9.c", "marie", "complete", &[]));
    write(&world, FIRST, events);
    let did = world.run(&["rescue", "k3f9"]).await;
    assert_eq!(did.code, 3);
    insta::assert_snapshot!(did.err, @"
    Error: nothing is left of run k3f9: all of its work is complete

    Hint: If its answer is missing, have it written: `supervisor retry k3f9`. `supervisor result TASK` shows the result of a task.
    ");
    write(&world, SECOND, vec![opened(SECOND, "p4wq")]);
    let did = world.run(&["rescue", "p4wq"]).await;
    assert_eq!(did.code, 3);
    assert!(did.err.contains("has no tasks"), "{}", did.err);
}

/// `a` is complete, `b` failed, and `c` was skipped: the plan of what is left has `b` and `c`, is taken as
/// it is, and `b` sees what `a` had found.
#[tokio::test(start_paused = true)]
async fn what_was_rescued_is_submitted_and_goes_on_from_what_is_complete() {
    let broken = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let breaks = std::sync::Arc::clone(&broken);
    let world = testing::World::new(move |job: Job| {
        let breaks = breaks.load(std::sync::atomic::Ordering::Relaxed);
        async move {
            let name = job.name();
            if name.contains(".b.") && breaks {
                job.hand_in(&job.failed(TaskError::new(protocol::FailureKind::Refused, "no")));
                return None;
            }
            if name.contains(".b.") {
                let inputs = std::fs::read_dir(job.folder.join("inputs")).unwrap();
                let given = inputs.map(|entry| entry.unwrap().path()).next().unwrap();
                let found = std::fs::read_to_string(given.join("artifacts/report.md")).unwrap();
                job.leave("report.md", &format!("from {found}"));
            } else {
                job.leave("report.md", &format!("made by {name}"));
            }
            let mut report = job.done(&["report.md"]);
            report.report = Some("The answer.".to_owned());
            job.hand_in(&report);
            None
        }
    });
    let daemon = world.up().await;
    let plan: protocol::Plan = serde_json::from_value(json!({
        "request": "Do it", "tasks": [
            {"id": "a", "worker": "marie", "description": "x"},
            {"id": "b", "worker": "marie", "description": "x", "dependencies": ["a"]},
            {"id": "c", "worker": "emma", "description": "x", "dependencies": ["b"]},
        ],
    }))
    .unwrap();
    let submit = async |plan| {
        let order = SubmitRun { plan: Some(plan), ..SubmitRun::default() };
        daemon.ask(|d| crate::admit::run(d, order)).await.unwrap()
    };
    let lost = submit(plan).await;
    let names = |short: &str| ["a", "b", "c"].map(|task| format!("{short}.{task}"));
    let [a, b, c] = names(lost.short.as_str());
    let ends = daemon.ended([&a, &b, &c]).await;
    assert_eq!(ends, [Status::Complete, Status::Failed, Status::Skipped]);

    broken.store(false, std::sync::atomic::Ordering::Relaxed);
    let history = History::read(&world.installation).unwrap();
    let left = rescue::left_of(&history.find(lost.short.as_str()).unwrap()).unwrap();
    assert_eq!(left.plan.tasks.len(), 2);
    let rescued = submit(left.plan).await;
    let [_, b, c] = names(rescued.short.as_str());
    assert_eq!(daemon.ended([&b, &c]).await, [Status::Complete; 2]);
    let seen =
        testing::until("b is published", async || world.artifact("marie", &b, "report.md")).await;
    assert_eq!(seen, format!("from made by {a}.1"));
    let answer = format!("{}.answer", rescued.short);
    assert_eq!(daemon.ended([&answer]).await, [Status::Complete]);
    let task = |name: &str| name.parse::<TaskId>().unwrap();
    let inputs = world.events_of(rescued.run).into_iter().find_map(|event| match event {
        Event::TaskAdded { task: Task { id, dependencies, .. }, .. } if id == task(&answer) => {
            Some(dependencies)
        }
        _ => None,
    });
    assert_eq!(inputs, Some([&b, &c, &a].map(|name| task(name)).to_vec()));
    let opened = &world.events_of(rescued.run)[0];
    assert!(matches!(opened, Event::RunOpened { mode: RunMode::Plan, request: Some(_), .. }));
}
