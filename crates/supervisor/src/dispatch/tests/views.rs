//! What `status` says about why something is where it is.

use std::time::Duration;

use protocol::{FailureKind, HoldScope, Status, TaskError};
use serde_json::json;
use tokio::time::sleep;

use crate::api::types::TaskStatus;
use crate::testing::{Daemon, Job, World};

/// Returns what `status` shows of each task, a line each.
async fn shown(daemon: &Daemon, tasks: &[&str]) -> String {
    let mut text = String::new();
    for task in tasks {
        let view = daemon.view(task).await;
        let (status, reason) = (view.status.as_str(), view.reason.unwrap_or_default());
        text.push_str(format!("{task:<8} {status:<9} {reason}").trim_end());
        text.push('\n');
    }
    text
}

#[tokio::test(start_paused = true)]
async fn each_task_says_why_it_is_where_it_is() {
    let world = World::new(async |job: Job| {
        match job.assignment.task.id.as_str() {
            "broken" => {
                let error = TaskError::new(FailureKind::Server, "it said 500");
                job.hand_in(&job.failed(error));
            }
            "refused" => {
                let error = TaskError::new(FailureKind::Refused, "it will not");
                job.hand_in(&job.failed(error));
            }
            "done" => job.hand_in(&job.done(&[])),
            _ => {
                job.cancelled().await;
                std::future::pending::<()>().await;
            }
        }
        None
    });
    let daemon = world.up().await;
    let task = |id: &str, worker: &str, dependencies: &[&str]| {
        json!({"task_id": id, "worker": worker, "description": "x", "dependencies": dependencies,
               "retries": 20})
    };
    let tasks = [
        ("done", "emma", &[][..]),
        ("refused", "emma", &[]),
        ("skipped", "emma", &["refused"]),
        ("broken", "emma", &[]),
        ("runs", "marie", &[]),
        ("room", "marie", &[]),
        ("waits", "marie", &["runs", "later"]),
    ];
    for (id, worker, dependencies) in tasks {
        daemon.add(task(id, worker, dependencies)).await.unwrap();
    }
    daemon.ended(["done", "refused", "skipped"]).await;
    daemon.says("runs", "attempt 1 on").await;
    // Its waits get longer: one that can be seen comes.
    let broken = daemon.says("broken", "tries again in").await;
    let (_, after) = broken.split_once(", ").unwrap();
    assert_eq!(after, "after server: it said 500");

    let ids = ["done", "refused", "skipped", "runs", "room", "waits"];
    insta::assert_snapshot!(shown(&daemon, &ids).await, @"
    done     complete
    refused  failed    refused: it will not
    skipped  skipped   it depends on a task that did not complete: `refused` failed (refused: it will not)
    runs     running   attempt 1 on marie-1
    room     ready     waits for room at marie
    waits    waiting   waits for runs, later (not here yet)
    ");
    let target = scheduler::Target::Task("runs".parse().unwrap());
    daemon.ask(move |d| d.request(scheduler::Input::Cancel(target))).await.unwrap();
    insta::assert_snapshot!(
        shown(&daemon, &["runs"]).await,
        @"runs     running   is being stopped: somebody cancelled it"
    );
    daemon.ended(["runs"]).await;
    insta::assert_snapshot!(shown(&daemon, &["runs", "waits"]).await, @"
    runs     cancelled somebody cancelled it
    waits    skipped   it depends on a task that did not complete: `runs` was cancelled
    ");
}

#[tokio::test(start_paused = true)]
async fn worker_whose_key_was_refused_waits_until_somebody_retries() {
    let world = World::new(async |job: Job| {
        if job.attempt() == 1 {
            let error = TaskError::new(FailureKind::Auth, "the API does not know the key");
            job.hand_in(&job.failed(error));
        } else {
            job.hand_in(&job.done(&[]));
        }
        None
    });
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "marie", "description": "x"})).await.unwrap();
    daemon.says("a", "waits for decision").await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(daemon.view("a").await.status, TaskStatus::Ready);
    insta::assert_snapshot!(
        shown(&daemon, &["a"]).await,
        @"a        ready     waits for decision d1 (auth): the API does not know the key"
    );
    let target = scheduler::Target::Task("a".parse().unwrap());
    daemon.ask(move |d| d.request(scheduler::Input::Retry(target))).await.unwrap();
    assert_eq!(daemon.ended(["a"]).await, [Status::Complete]);
    assert_eq!(world.failures("a"), [(1, "auth".to_owned(), false)]);
}

#[tokio::test(start_paused = true)]
async fn task_that_waits_for_a_limit_says_whose_and_until_when() {
    let world = World::new(async |_: Job| std::future::pending().await);
    let daemon = world.up().await;
    let task = json!({"task_id": "a", "worker": "marie", "description": "x"});
    daemon.add(task).await.unwrap();
    for (scope, begin, end) in [
        (Some(HoldScope::All), "waits for the limit of the account to reset at ", ""),
        (
            Some(HoldScope::Worker("marie".parse().unwrap())),
            "waits for the limit of marie to reset at ",
            "",
        ),
        // It may be one that somebody has set.
        (None, "goes on at ", ": model `x` is at its limit"),
    ] {
        let reset = daemon.now().await + Duration::from_secs(1800);
        let error = TaskError::new(FailureKind::RateLimited, "model `x` is at its limit");
        daemon.fails("a", TaskError { retry_at: Some(reset), scope, ..error }).await;
        let reason = daemon.reason("a").await;
        // With the day before it, shortly before midnight.
        let clock = &reset.to_string()[11..16];
        assert!(reason.starts_with(begin), "{reason}");
        assert!(reason.ends_with(&format!("{clock} UTC{end}")), "{reason}");
        assert_eq!(daemon.view("a").await.status, TaskStatus::Waiting);
        daemon.says("a", "attempt").await;
    }
    assert!(world.failures("a").iter().all(|(_, _, counted)| !counted));
}

#[tokio::test(start_paused = true)]
async fn cost_that_is_not_known_of_one_task_is_not_known_of_all() {
    let world = World::new(async |job: Job| {
        let cost_usd = (job.name() == "a.1").then_some(0.5);
        job.hand_in(&protocol::TaskResult { cost_usd, ..job.done(&[]) });
        None
    });
    let daemon = world.up().await;
    let sum = async || {
        daemon
            .ask(|d| {
                let (run, now) = (protocol::RunId::Adhoc, d.now());
                crate::view::summary(d.scheduler(), d.installation(), d.gateways(), run, now)
                    .unwrap()
                    .cost_usd
            })
            .await
    };
    for (name, expected) in [("a", Some(0.5)), ("b", None)] {
        let task = json!({"task_id": name, "worker": "marie", "description": "x"});
        daemon.add(task).await.unwrap();
        daemon.ended([name]).await;
        assert_eq!((daemon.view(name).await.cost_usd, sum().await), (expected, expected));
    }
}
