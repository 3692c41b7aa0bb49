//! A task's own check: run apart from the agent, waited for, and called off.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use protocol::{CHECK_FAILED_CODE, CHECK_IMPOSSIBLE_CODE, Status};
use scheduler::{Input, Target};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::api::types::TaskStatus;
use crate::runtime::Exit;
use crate::testing::{World, until, until_true};

fn task() -> Value {
    json!({"task_id": "build", "worker": "marie", "description": "x", "retries": 0,
        "verify": {"command": "test -s report.md"}})
}

fn exit(code: Option<i64>, output: &str) -> Exit {
    Exit { code, oom: false, output: output.to_owned() }
}

fn counted(world: &World, call: &str) -> usize {
    world.engine.calls().iter().filter(|found| *found == call).count()
}

#[tokio::test(start_paused = true)]
async fn check_gets_what_was_taken_in_and_its_end_decides() {
    for (code, output, ended, failure) in [
        (0, "", Status::Complete, None),
        (
            CHECK_FAILED_CODE,
            "check: ended with code 3: why\ncheck: passed",
            Status::Failed,
            Some((
                "unverified",
                "the task's check `test -s report.md` ended with code 3: why\ncheck: passed",
            )),
        ),
        (
            CHECK_IMPOSSIBLE_CODE,
            "check: can't be started with `sh`: no such file",
            Status::Failed,
            Some((
                "invalid",
                "the task's check `test -s report.md` can't be started with `sh`: no such file",
            )),
        ),
    ] {
        let world = World::of_diligent_workers();
        let private = world.installation.runs();
        world.engine.replicas.play_checks(move |check| {
            let artifacts = check.artifacts.unwrap();
            assert!(artifacts.starts_with(&private) && artifacts.join("report.md").is_file());
            assert!(check.task.ends_with("build.1") && check.task.join("task.json").is_file());
            let end = exit(Some(code.into()), output);
            async move { end }
        });
        let daemon = world.up().await;
        daemon.add(task()).await.unwrap();
        assert_eq!(daemon.ended(["build"]).await, [ended]);
        let result = until("it is published", async || world.result("marie", "build")).await;
        let error = result.error.map(|error| (error.kind.to_string(), error.message));
        let failure = failure.map(|(kind, message)| (kind.to_owned(), message.to_owned()));
        assert_eq!(error, failure);
        assert_eq!(world.artifact("marie", "build", "report.md").is_some(), code == 0);
    }
}

/// The engine may be restarted in the middle: that is no word about the work.
#[tokio::test(start_paused = true)]
async fn check_whose_end_nobody_knows_is_made_again_and_not_for_ever() {
    for (lost, ended) in [(2, Status::Complete), (9, Status::Failed)] {
        let world = World::of_diligent_workers();
        let tries = Arc::new(AtomicUsize::new(0));
        let tried = Arc::clone(&tries);
        world.engine.replicas.play_checks(move |_| {
            let lost = tried.fetch_add(1, Ordering::Relaxed) < lost;
            async move { exit((!lost).then_some(0), "") }
        });
        let daemon = world.up().await;
        daemon.add(task()).await.unwrap();
        until("an attempt is over", async || (tries.load(Ordering::Relaxed) >= 3).then_some(()))
            .await;
        if ended == Status::Complete {
            assert_eq!(daemon.ended(["build"]).await, [ended]);
        } else {
            let failures =
                until("it failed", async || world.failures("build").first().cloned()).await;
            assert_eq!(failures, (1, "worker_lost".to_owned(), false));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn attempt_that_is_cancelled_while_it_is_checked_ends_at_once() {
    let world = World::of_diligent_workers();
    world.engine.replicas.play_checks(|_| std::future::pending());
    let daemon = world.up().await;
    daemon.add(task()).await.unwrap();
    until_true("it is checked", || counted(&world, "verify marie-1") == 1).await;
    assert_eq!(daemon.view("build").await.status, TaskStatus::Running);
    daemon
        .ask(|dispatcher| {
            let task = Target::Task("build".parse().unwrap());
            dispatcher.request(Input::Cancel(task))
        })
        .await
        .unwrap();
    let start = tokio::time::Instant::now();
    assert_eq!(daemon.ended(["build"]).await, [Status::Cancelled]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(counted(&world, "end check of marie-1"), 1);
}

#[tokio::test(start_paused = true)]
async fn check_that_a_crash_of_the_daemon_interrupts_is_made_again_by_the_next() {
    let world = World::of_diligent_workers();
    world.engine.replicas.play_checks(|_| std::future::pending());
    let daemon = world.up().await;
    daemon.add(task()).await.unwrap();
    until_true("it is checked", || counted(&world, "verify marie-1") == 1).await;
    daemon.kill().await;
    world.engine.replicas.play_checks(async |_| {
        sleep(Duration::from_secs(30)).await;
        exit(Some(0), "")
    });
    let daemon = world.up().await;
    assert_eq!(daemon.ended(["build"]).await, [Status::Complete]);
    assert_eq!(counted(&world, "verify marie-1"), 2);
    assert_eq!(world.begun(), ["build.1 on marie-1"], "the agent does not work again");
}
