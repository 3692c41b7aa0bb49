//! What becomes of attempts: retries, deadlines, engines and replicas that go away.

use std::future::pending;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::{Event, FailureKind, Status, TaskError};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::dispatch::Dispatcher;
use crate::runtime::fake::FakeRuntime;
use crate::runtime::{Exit, RuntimeError};
use crate::testing::{Job, World, lost, until};

const MINUTE: Duration = Duration::from_secs(60);

fn finish(job: &Job) {
    job.hand_in(&job.done(&[]));
}

#[tokio::test(start_paused = true)]
async fn failed_attempt_is_retried_before_dependents_start() {
    let world = World::new(async |job: Job| {
        sleep(MINUTE).await;
        if job.name() == "build.1" {
            job.hand_in(&job.failed(TaskError::new(FailureKind::Server, "it said 500")));
        } else {
            finish(&job);
        }
        None
    });
    let daemon = world.up().await;
    let test = json!({"task_id": "test", "worker": "marie", "description": "x", "dependencies": ["build"]});
    daemon.add(test).await.unwrap();
    daemon.add(json!({"task_id": "build", "worker": "marie", "description": "x"})).await.unwrap();

    assert_eq!(daemon.ended(["build", "test"]).await, [Status::Complete, Status::Complete]);

    assert_eq!(world.begun(), ["build.1 on marie-1", "build.2 on marie-1", "test.1 on marie-1"]);
    assert_eq!(world.failures("build"), [(1, "server".to_owned(), true)]);
    // One replica served all three: nothing was started anew.
    assert_eq!(world.engine.calls(), ["ensure marie-1"]);
}

#[tokio::test(start_paused = true)]
async fn chain_that_is_dropped_in_reverse_order_runs_in_order() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    let chain = [("d", "c", "marie"), ("c", "b", "emma"), ("b", "a", "marie"), ("a", "", "emma")];
    for (task, dependency, worker) in chain {
        let dependencies: Vec<_> = Some(dependency).filter(|d| !d.is_empty()).into_iter().collect();
        let task = json!({
            "task_id": task, "worker": worker, "description": "x", "dependencies": dependencies,
        });
        daemon.add(task).await.unwrap();
    }
    assert_eq!(daemon.ended(["a", "b", "c", "d"]).await, [Status::Complete; 4]);
    let order: Vec<_> = world.begun().iter().map(|line| line[..1].to_owned()).collect();
    assert_eq!(order, ["a", "b", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn attempt_sees_the_results_of_what_it_depends_on() {
    let world = World::new(async |job: Job| {
        if job.name() == "test.1" {
            let inputs = job.folder.join("inputs/build");
            let report = std::fs::read_to_string(inputs.join("artifacts/notes/report.md")).unwrap();
            let result = std::fs::read_to_string(inputs.join("result.json")).unwrap();
            assert!(result.contains("build is done") && !result.contains("\"token\""), "{result}");
            job.leave("seen.md", &report);
            job.hand_in(&job.done(&["seen.md"]));
        } else {
            job.leave("notes/report.md", "it builds");
            job.hand_in(&job.done(&["notes/report.md"]));
        }
        None
    });
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "build", "worker": "marie", "description": "x"})).await.unwrap();
    let test =
        json!({"task_id": "test", "worker": "emma", "description": "x", "dependencies": ["build"]});
    daemon.add(test).await.unwrap();
    assert_eq!(daemon.ended(["test"]).await, [Status::Complete]);
    until("it is published", async || world.artifact("emma", "test", "seen.md")).await;
    assert_eq!(world.artifact("emma", "test", "seen.md").unwrap(), "it builds");
    let result = world.result("emma", "test").unwrap();
    assert_eq!(result.artifacts, ["results/emma/test/seen.md"]);
    assert!(!world.task_file("emma", "test").exists());
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_away_for_ten_minutes_costs_nothing_but_time() {
    let world = World::of_diligent_workers();
    world.engine.set_away(true);
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "build", "worker": "marie", "description": "x"})).await.unwrap();
    let start = Instant::now();
    until("it is said", async || {
        let notices = daemon.notices().await;
        notices
            .into_iter()
            .find(|n| n.starts_with("marie-1 waits: cannot reach the container engine"))
    })
    .await;
    assert_eq!(daemon.reason("build").await, "is handed to marie-1");
    sleep(10 * MINUTE).await;
    assert_eq!(daemon.view("build").await.attempt.map(|a| a.get()), Some(1));
    world.engine.set_away(false);

    assert_eq!(daemon.ended(["build"]).await, [Status::Complete]);
    assert!(start.elapsed() < 11 * MINUTE);
    assert_eq!(world.failures("build"), []);
    assert_eq!(daemon.notices().await, [""; 0]);
    assert_eq!(world.begun(), ["build.1 on marie-1"]);
}

#[tokio::test(start_paused = true)]
async fn engine_that_restarts_while_an_attempt_runs_is_waited_for_and_said_as_long_as_it_is_away() {
    let world = World::new(async |job: Job| {
        sleep(MINUTE * 4 / 5).await;
        finish(&job);
        None
    });
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "build", "worker": "marie", "description": "x"})).await.unwrap();
    daemon.says("build", "attempt 1 on marie-1").await;
    world.engine.set_away(true);
    until("it is said", async || daemon.notices().await.pop()).await;
    world.engine.set_away(false);
    // Long before the attempt ends.
    until("it is over", async || daemon.notices().await.is_empty().then_some(())).await;
    assert_eq!(daemon.reason("build").await, "attempt 1 on marie-1");

    assert_eq!(daemon.ended(["build"]).await, [Status::Complete]);
    assert_eq!(world.engine.calls(), ["ensure marie-1"]);
    assert_eq!(world.failures("build"), []);
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_pauses_its_worker_alone_and_a_retry_lets_it_go_on() {
    let world = World::of_diligent_workers();
    for _ in 0..2 {
        let error = RuntimeError::ImageMissing { image: "worker:1".to_owned() };
        world.engine.replicas.fail_ensure(&"marie-1".parse().unwrap(), error);
    }
    let daemon = world.up().await;
    for (task, worker) in [("build", "marie"), ("more", "marie"), ("other", "emma")] {
        daemon.add(json!({"task_id": task, "worker": worker, "description": "x"})).await.unwrap();
    }
    assert_eq!(daemon.ended(["other"]).await, [Status::Complete]);
    let retry = || scheduler::Input::Retry(scheduler::Target::Task("more".parse().unwrap()));
    for tries in 1..=2 {
        let notice = until("it is said", async || daemon.notices().await.pop()).await;
        assert!(notice.starts_with("marie is paused"), "{notice}");
        assert!(notice.contains("image `worker:1` is not on this host"), "{notice}");
        assert!(notice.contains("Build it with `make image`."), "{notice}");
        sleep(10 * MINUTE).await;
        assert!(daemon.reason("more").await.starts_with("marie is paused"));
        let calls = world.engine.calls();
        assert_eq!(calls.iter().filter(|call| *call == "ensure marie-1").count(), tries);
        daemon.ask(move |d| d.request(retry())).await.unwrap();
    }
    assert_eq!(daemon.ended(["build", "more"]).await, [Status::Complete; 2]);
    assert_eq!(daemon.notices().await, [""; 0]);
}

async fn cancel(daemon: &crate::testing::Daemon, task: &str) {
    let target = scheduler::Target::Task(task.parse().unwrap());
    daemon.ask(move |d| d.request(scheduler::Input::Cancel(target))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn engine_that_hangs_for_one_replica_holds_up_no_other() {
    let world = World::of_diligent_workers();
    world.engine.set_hanging(Some("marie-1"));
    let daemon = world.up().await;
    for (task, worker) in [("hangs", "marie"), ("one", "emma"), ("two", "emma")] {
        daemon.add(json!({"task_id": task, "worker": worker, "description": "x"})).await.unwrap();
    }
    let start = Instant::now();
    assert_eq!(daemon.ended(["one", "two"]).await, [Status::Complete; 2]);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(daemon.view("hangs").await.status, crate::api::types::TaskStatus::Running);
    world.engine.set_hanging(None);
    assert_eq!(daemon.ended(["hangs"]).await, [Status::Complete]);
}

#[tokio::test(start_paused = true)]
async fn attempt_that_waits_for_the_engine_is_cancelled_at_once() {
    let world = World::of_diligent_workers();
    world.engine.set_away(true);
    let daemon = world.up().await;
    for task in ["build", "test"] {
        daemon.add(json!({"task_id": task, "worker": "marie", "description": "x"})).await.unwrap();
    }
    until("it is said", async || daemon.notices().await.pop()).await;
    let start = Instant::now();
    cancel(&daemon, "build").await;
    assert_eq!(daemon.ended(["build"]).await, [Status::Cancelled]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());

    world.engine.set_away(false);
    assert_eq!(daemon.ended(["test"]).await, [Status::Complete]);
    assert_eq!(world.begun(), ["test.1 on marie-1"]);
    assert_eq!(daemon.notices().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn result_is_taken_in_while_the_engine_that_should_stop_its_replica_is_away() {
    let world = World::new(async |job: Job| {
        job.cancelled().await;
        sleep(MINUTE).await;
        finish(&job);
        None
    });
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "build", "worker": "marie", "description": "x"})).await.unwrap();
    daemon.says("build", "attempt 1 on").await;
    daemon.says("build", "is being stopped").await;
    world.engine.set_away(true);
    // It had its grace; what stops it from outside is away.
    let notice = until("it is said", async || {
        let notices = daemon.notices().await;
        notices.into_iter().find(|n| n.contains("can't be stopped"))
    })
    .await;
    assert!(notice.contains("cannot reach the container engine"), "{notice}");
    assert!(notice.contains("connection refused"), "{notice}");
    assert_eq!(daemon.ended(["build"]).await, [Status::Complete]);
    assert_eq!(world.failures("build"), []);
}

#[tokio::test(start_paused = true)]
async fn full_disk_does_not_keep_a_replica_from_being_stopped() {
    let world = World::new(async |job: Job| {
        // As if there were no room for it.
        std::fs::create_dir(job.folder.join(protocol::CANCEL_FILE)).unwrap();
        pending().await
    });
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "build", "worker": "marie", "description": "x"})).await.unwrap();
    until("it is begun", async || world.begun().pop()).await;
    daemon.says("build", "attempt 1 on").await;
    cancel(&daemon, "build").await;
    assert_eq!(daemon.ended(["build"]).await, [Status::Cancelled]);
    assert_eq!(world.engine.calls(), ["ensure marie-1", "stop marie-1"]);
    until("all is well", async || daemon.notices().await.is_empty().then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn no_room_where_a_replica_is_started_costs_nothing_but_time() {
    let world = World::of_diligent_workers();
    for _ in 0..100 {
        let error = RuntimeError::Refused {
            action: "create",
            name: "marie-1".to_owned(),
            source: "write /var/lib/docker/x: no space left on device (500)".into(),
        };
        world.engine.replicas.fail_ensure(&"marie-1".parse().unwrap(), error);
    }
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "build", "worker": "marie", "description": "x"})).await.unwrap();
    let notice = until("it is said", async || daemon.notices().await.pop()).await;
    assert!(notice.contains("no space left on device"), "{notice}");
    assert_eq!(daemon.ended(["build"]).await, [Status::Complete]);
    assert_eq!(world.failures("build"), []);
    assert_eq!(daemon.notices().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn socket_of_a_replica_that_somebody_removed_is_made_again() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "marie", "description": "x"})).await.unwrap();
    daemon.ended(["a"]).await;
    let folder = world.sockets().join("gateway");
    std::fs::remove_dir_all(&folder).unwrap();
    daemon.add(json!({"task_id": "b", "worker": "marie", "description": "x"})).await.unwrap();
    assert_eq!(daemon.ended(["b"]).await, [Status::Complete]);
    assert!(folder.join("marie-1/gateway.sock").exists());
    assert_eq!(world.engine.calls(), ["ensure marie-1", "stop marie-1", "ensure marie-1"]);
}

#[tokio::test(start_paused = true)]
async fn attempt_that_hangs_is_interrupted_at_its_deadline_then_its_replica_is_stopped_then_it_is_tried_again()
 {
    let asked = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&asked);
    let world = World::new(move |job: Job| {
        let told = Arc::clone(&told);
        async move {
            if job.attempt() == 1 {
                let reason = job.cancelled().await;
                assert!(reason.contains("timeout"), "{reason}");
                told.store(true, Ordering::Relaxed);
                pending::<()>().await;
            }
            finish(&job);
            None
        }
    });
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "build", "worker": "marie", "description": "x"})).await.unwrap();
    let start = Instant::now();
    daemon.says("build", "attempt 1 on").await;
    daemon.says("build", "is being stopped").await;
    // The timeout of the worker, and the margin in which it would have stopped by itself.
    assert!(start.elapsed() >= Duration::from_secs(90), "{:?}", start.elapsed());
    assert_eq!(world.engine.calls(), ["ensure marie-1"]);
    assert_eq!(daemon.ended(["build"]).await, [Status::Complete]);

    assert!(asked.load(Ordering::Relaxed));
    assert_eq!(world.engine.calls(), ["ensure marie-1", "stop marie-1", "ensure marie-1"]);
    assert_eq!(world.begun(), ["build.1 on marie-1", "build.2 on marie-1"]);
    assert_eq!(world.failures("build"), [(1, "timeout".to_owned(), true)]);
}

#[tokio::test(start_paused = true)]
async fn cancelled_attempt_is_asked_to_stop_and_its_replica_serves_the_next_task() {
    let world = World::new(async |job: Job| {
        if job.name() == "build.1" {
            job.cancelled().await;
            let error = TaskError::new(FailureKind::Cancelled, "asked to");
            job.hand_in(&protocol::TaskResult { status: Status::Cancelled, ..job.failed(error) });
        } else {
            finish(&job);
        }
        None
    });
    let daemon = world.up().await;
    for task in ["build", "test"] {
        daemon.add(json!({"task_id": task, "worker": "marie", "description": "x"})).await.unwrap();
    }
    daemon.says("build", "attempt 1 on").await;
    let target = scheduler::Target::Task("build".parse().unwrap());
    daemon.ask(move |d| d.request(scheduler::Input::Cancel(target))).await.unwrap();
    assert_eq!(daemon.ended(["build", "test"]).await, [Status::Cancelled, Status::Complete]);
    assert_eq!(world.engine.calls(), ["ensure marie-1"]);
}

#[tokio::test(start_paused = true)]
async fn replica_that_dies_after_handing_in_its_result_loses_nothing() {
    let world = World::new(async |job: Job| {
        job.leave("report.md", "all is well");
        job.hand_in(&job.done(&["report.md"]));
        Some(lost())
    });
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "build", "worker": "marie", "description": "x"})).await.unwrap();
    assert_eq!(daemon.ended(["build"]).await, [Status::Complete]);
    until("it is published", async || world.artifact("marie", "build", "report.md")).await;
    assert_eq!(world.begun(), ["build.1 on marie-1"]);
    assert_eq!(world.failures("build"), []);
}

#[tokio::test(start_paused = true)]
async fn replica_that_dies_before_its_result_is_made_anew_and_that_is_not_counted() {
    let world = World::new(async |job: Job| {
        sleep(MINUTE / 2).await;
        if job.attempt() <= 3 {
            return Some(lost());
        }
        finish(&job);
        None
    });
    let daemon = world.up().await;
    let task = json!({"task_id": "build", "worker": "marie", "description": "x", "retries": 0});
    daemon.add(task).await.unwrap();
    assert_eq!(daemon.ended(["build"]).await, [Status::Complete]);
    let lost = |n| (n, "worker_lost".to_owned(), false);
    assert_eq!(world.failures("build"), [lost(1), lost(2), lost(3)]);
    let one = ["ensure marie-1", "stop marie-1"];
    assert_eq!(world.engine.calls(), [one[0], one[1], one[0], one[1], one[0], one[1], one[0]]);
}

#[tokio::test(start_paused = true)]
async fn out_of_memory_is_retried_once() {
    let world = World::new(async |_: Job| Some(Exit { oom: true, ..lost() }));
    let daemon = world.up().await;
    let task = json!({"task_id": "build", "worker": "marie", "description": "x", "retries": 9});
    daemon.add(task).await.unwrap();
    assert_eq!(daemon.ended(["build"]).await, [Status::Failed]);
    until("it is published", async || world.result("marie", "build")).await;
    let oom = |n| (n, "oom".to_owned(), true);
    assert_eq!(world.failures("build"), [oom(1), oom(2)]);
    let hint = world.result("marie", "build").unwrap().error.unwrap().hint.unwrap();
    assert!(hint.contains("resources.memory_mib"), "{hint}");
}

#[tokio::test(start_paused = true)]
async fn replica_that_ends_after_each_attempt_never_has_one_that_is_over() {
    let at_once = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&at_once);
    let world = World::new(move |job: Job| {
        let seen = Arc::clone(&seen);
        async move {
            assert_eq!(seen.fetch_add(1, Ordering::SeqCst), 0, "two at once");
            sleep(Duration::from_millis(10)).await;
            finish(&job);
            seen.fetch_sub(1, Ordering::SeqCst);
            Some(lost())
        }
    });
    let daemon = world.up().await;
    let tasks = ["a", "b", "c", "d", "e", "f"];
    for task in tasks {
        daemon.add(json!({"task_id": task, "worker": "marie", "description": "x"})).await.unwrap();
    }
    assert_eq!(daemon.ended(tasks).await, [Status::Complete; 6]);
    // An attempt that was given to a replica just as that ended was never begun.
    let first: Vec<_> = world.begun();
    assert_eq!(first.len(), tasks.len(), "{first:?}\n{:#?}", world.events());
}

#[tokio::test(start_paused = true)]
async fn keeper_that_panics_ends_in_a_stop_and_another_attempt() {
    let world = World::with_runtime(FakeRuntime::unused());
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "build", "worker": "marie", "description": "x"})).await.unwrap();
    // Each attempt panics: after a few of them the task fails, and nothing hangs.
    assert_eq!(daemon.ended(["build"]).await, [Status::Failed]);
    until("it is published", async || world.result("marie", "build")).await;
    let error = world.result("marie", "build").unwrap().error.unwrap();
    assert!(error.message.contains("marie-1 was stopped"), "{error}");
    let calls = world.engine.calls();
    assert_eq!(calls[..3], ["ensure marie-1", "stop marie-1", "ensure marie-1"], "{calls:?}");
    assert!(calls.last().is_some_and(|call| call == "stop marie-1"), "{calls:?}");
    assert!(
        world.failures("build").iter().all(|(_, kind, counted)| kind == "worker_lost" && !counted)
    );
}

#[tokio::test(start_paused = true)]
async fn drain_lets_what_runs_end_and_starts_nothing_new() {
    let world = World::new(async |job: Job| {
        sleep(MINUTE / 2).await;
        finish(&job);
        None
    });
    let daemon = world.up().await;
    for task in ["a", "b"] {
        daemon.add(json!({"task_id": task, "worker": "marie", "description": "x"})).await.unwrap();
    }
    daemon.says("a", "attempt 1 on").await;
    daemon.ask(Dispatcher::drain).await;
    daemon.work.await.unwrap().unwrap();
    assert_eq!(world.begun(), ["a.1 on marie-1"]);
    assert_eq!(world.result("marie", "a").unwrap().status, Status::Complete);
    assert!(world.task_file("marie", "b").exists());
}

#[tokio::test(start_paused = true)]
async fn drain_of_an_idle_daemon_ends_it_at_once() {
    let world = World::with_runtime(FakeRuntime::unused());
    let daemon = world.up().await;
    daemon.ask(Dispatcher::drain).await;
    daemon.work.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn folders_of_a_replica_that_somebody_removed_are_made_again() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "marie", "description": "x"})).await.unwrap();
    daemon.ended(["a"]).await;
    for folder in [world.installation.results(), world.installation.root().join("tasks")] {
        std::fs::remove_dir_all(folder).unwrap();
    }
    daemon.add(json!({"task_id": "b", "worker": "marie", "description": "x"})).await.unwrap();
    assert_eq!(daemon.ended(["b"]).await, [Status::Complete]);
    until("it is published", async || world.artifact("marie", "b", "report.md")).await;
    // What was mounted from the folders that are gone was of no use any more.
    assert_eq!(world.engine.calls(), ["ensure marie-1", "stop marie-1", "ensure marie-1"]);
    until("all is well", async || daemon.notices().await.is_empty().then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn started_attempt_is_journaled_once() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "marie", "description": "x"})).await.unwrap();
    daemon.ended(["a"]).await;
    let started =
        world.events().iter().filter(|e| matches!(e, Event::AttemptStarted { .. })).count();
    assert_eq!(started, 1);
}

#[tokio::test(start_paused = true)]
async fn each_attempt_gets_a_fresh_replica_and_the_next_one_waits_already() {
    let world = World::of_diligent_workers();
    world.configure("marie", "container = \"per-task\"\nreplicas = 1");
    let daemon = world.up().await;
    for task in ["a", "b"] {
        let task = json!({"task_id": task, "worker": "marie", "description": "x"});
        daemon.add(task).await.unwrap();
    }
    assert_eq!(daemon.ended(["a", "b"]).await, [Status::Complete; 2]);
    // Before each start is made sure that nothing is there.
    let (first, spare) = (["stop marie-1", "ensure marie-1"], ["stop marie-2", "ensure marie-2"]);
    let calls = until("the last one is stopped", async || {
        Some(world.engine.calls()).filter(|calls| calls.len() >= 6)
    })
    .await;
    let of = |replica: &str| -> Vec<&str> {
        calls.iter().map(String::as_str).filter(|call| call.ends_with(replica)).collect()
    };
    assert_eq!(of("marie-1"), [first[0], first[1], first[0]]);
    assert_eq!(of("marie-2"), [spare[0], spare[1], spare[0]]);
    assert_eq!(world.begun(), ["a.1 on marie-1", "b.1 on marie-2"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_that_an_attempt_wrote_is_there_when_its_replica_starts_anew() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let world = World::new(move |job| {
        let log = Arc::clone(&log);
        async move {
            let names = |folder: &Path| -> Vec<_> {
                let entries = std::fs::read_dir(folder).unwrap();
                entries.map(|entry| entry.unwrap().file_name()).collect()
            };
            let slot = &job.spec.results;
            log.lock()
                .unwrap()
                .push((names(slot), std::fs::metadata(slot).unwrap().mode() & 0o777));
            for name in [".hidden", ".worker.lock", "x.1.json", ".config.new"] {
                std::fs::File::create(slot.join(name)).unwrap();
            }
            std::fs::set_permissions(slot, std::fs::Permissions::from_mode(0o711)).unwrap();
            job.hand_in(&job.done(&[]));
            None
        }
    });
    world.configure("marie", "container = \"per-task\"\nreplicas = 1");
    let daemon = world.up().await;
    for task in ["a", "b", "c"] {
        let task = json!({"task_id": task, "worker": "marie", "description": "x"});
        daemon.add(task).await.unwrap();
    }
    assert_eq!(daemon.ended(["a", "b", "c"]).await, [Status::Complete; 3]);
    assert_eq!(world.begun()[2], "c.1 on marie-1", "the third has the first one's folders");
    let seen = seen.lock().unwrap();
    assert!(seen.iter().all(|found| *found == (Vec::new(), seen[0].1)), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn worker_whose_configuration_is_broken_fails_its_task_with_the_place() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    world.configure("marie", "replica = 1");
    let task = json!({"task_id": "a", "worker": "marie", "description": "x"});
    daemon.add(task).await.unwrap();
    assert_eq!(daemon.ended(["a"]).await, [Status::Failed]);
    let result = until("it is published", async || world.result("marie", "a")).await;
    let error = result.error.unwrap();
    assert_eq!(error.kind, FailureKind::Invalid);
    assert!(error.message.contains("`workspaces/marie/worker.toml`"), "{error}");
    assert!(error.message.contains("replica"), "{error}");
    assert_eq!(error.hint.as_deref(), Some("Mend it and retry the task."));
}

#[tokio::test(start_paused = true)]
async fn no_socket_is_opened_where_somebody_else_could_have_put_its_folder() {
    let world = World::of_diligent_workers();
    let elsewhere = world.installation.root().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, world.sockets()).unwrap();
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "marie", "description": "x"})).await.unwrap();
    assert_eq!(daemon.ended(["a"]).await, [Status::Failed]);
    let reason = daemon.reason("a").await;
    assert!(reason.contains("belongs to somebody else"), "{reason}");
    assert_eq!(std::fs::read_dir(elsewhere).unwrap().count(), 0);
    assert_eq!(world.begun(), [""; 0]);
}
