//! A daemon after another: what the journal and the folders say is gone on with.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use protocol::{Attempt, Event, RunId, Status};
use serde_json::json;
use tokio::time::sleep;

use crate::testing::{Job, World, until, until_true};

async fn until_set(flag: &AtomicBool) {
    until_true("the test goes on", || flag.load(Ordering::Relaxed)).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_done_is_not_done_again() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "marie", "description": "x"})).await.unwrap();
    daemon.ended(["a"]).await;
    until("it is published", async || world.result("marie", "a")).await;
    let before = fs::read(world.installation.journal(RunId::Adhoc)).unwrap();
    daemon.kill().await;

    let daemon = world.up().await;
    assert_eq!(daemon.ended(["a"]).await, [Status::Complete]);
    let b = json!({"task_id": "b", "worker": "marie", "description": "x", "dependencies": ["a"]});
    daemon.add(b).await.unwrap();
    assert_eq!(daemon.ended(["b"]).await, [Status::Complete]);
    assert_eq!(world.begun(), ["a.1 on marie-1", "b.1 on marie-1"]);
    let after = fs::read(world.installation.journal(RunId::Adhoc)).unwrap();
    assert!(after.starts_with(&before), "a journal only grows");
}

#[tokio::test(start_paused = true)]
async fn live_attempt_is_adopted() {
    let go = Arc::new(AtomicBool::new(false));
    let wait = Arc::clone(&go);
    let world = World::new(move |job: Job| {
        let wait = Arc::clone(&wait);
        async move {
            until_set(&wait).await;
            job.leave("report.md", "all is well");
            job.hand_in(&job.done(&["report.md"]));
            None
        }
    });
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "marie", "description": "x"})).await.unwrap();
    daemon.says("a", "attempt 1 on marie-1").await;
    until("it is begun", async || world.begun().pop()).await;
    daemon.kill().await;

    // Its replica runs by a spec of yesterday: it is replaced when it has nothing to do.
    world.configure("marie", "replicas = 1\nimage = \"other\"");
    let daemon = world.up().await;
    daemon.says("a", "attempt 1 on marie-1").await;
    until("it is adopted", async || (world.engine.calls().len() == 2).then_some(())).await;
    go.store(true, Ordering::Relaxed);
    assert_eq!(daemon.ended(["a"]).await, [Status::Complete]);
    until("it is published", async || world.artifact("marie", "a", "report.md")).await;
    // Asked for twice, begun once.
    assert_eq!(world.engine.calls(), ["ensure marie-1", "ensure marie-1"]);
    assert_eq!(world.begun(), ["a.1 on marie-1"]);
    assert_eq!(world.failures("a"), []);
}

#[tokio::test(start_paused = true)]
async fn result_that_was_written_while_the_daemon_was_away_is_taken_in() {
    let go = Arc::new(AtomicBool::new(false));
    let wait = Arc::clone(&go);
    let world = World::new(move |job: Job| {
        let wait = Arc::clone(&wait);
        async move {
            until_set(&wait).await;
            job.leave("report.md", "all is well");
            job.hand_in(&job.done(&["report.md"]));
            Some(crate::testing::lost())
        }
    });
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "marie", "description": "x"})).await.unwrap();
    until("it is begun", async || world.begun().pop()).await;
    daemon.kill().await;
    go.store(true, Ordering::Relaxed);
    let slot =
        world.installation.result_slot(&"marie".parse().unwrap(), &"marie-1".parse().unwrap());
    until("it is handed in", async || slot.join("a.1.json").exists().then_some(())).await;

    let daemon = world.up().await;
    assert_eq!(daemon.ended(["a"]).await, [Status::Complete]);
    until("it is published", async || world.artifact("marie", "a", "report.md")).await;
    // Nothing had to run for it.
    assert_eq!(world.engine.calls(), ["ensure marie-1"]);
    assert_eq!(world.begun(), ["a.1 on marie-1"]);
}

#[tokio::test(start_paused = true)]
async fn deadline_of_an_adopted_attempt_counts_from_its_start() {
    let world = World::new(async |job: Job| {
        if job.attempt() == 1 {
            std::future::pending::<()>().await;
        }
        job.hand_in(&job.done(&[]));
        None
    });
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "marie", "description": "x"})).await.unwrap();
    daemon.says("a", "attempt 1 on marie-1").await;
    // Of its timeout and what is added to that.
    sleep(Duration::from_secs(170)).await;
    // The journal's time stands still while no daemon runs, since the wall's clock does here.
    let note = daemon.add(json!({"task_id": "b", "worker": "emma", "description": "x"})).await;
    note.unwrap();
    daemon.kill().await;
    let daemon = world.up().await;
    let start = tokio::time::Instant::now();
    daemon.says("a", "is being stopped").await;
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    assert_eq!(daemon.ended(["a"]).await, [Status::Complete]);
}

#[tokio::test(start_paused = true)]
async fn publication_that_was_cut_off_is_made_good() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    for task in ["a", "b", "c"] {
        daemon.add(json!({"task_id": task, "worker": "marie", "description": "x"})).await.unwrap();
        daemon.ended([task]).await;
        until("it is published", async || world.result("marie", task)).await;
    }
    daemon.kill().await;
    // As it is right after the journal was synced: artifacts in safety, nothing shown.
    let installation = &world.installation;
    let marie = "marie".parse().unwrap();
    for task in ["a", "b"] {
        let id = task.parse().unwrap();
        let safe = installation.attempt(RunId::Adhoc, &id, Attempt::FIRST);
        fs::create_dir_all(&safe).unwrap();
        let artifacts = installation.artifacts(&marie, &id);
        let volatile = protocol::atomic_file::Durability::Volatile;
        protocol::atomic_file::move_to(&artifacts, &safe.join("artifacts"), volatile).unwrap();
        fs::remove_file(installation.result_file(&marie, &id)).unwrap();
    }
    // And as a power cut may leave it, whose artifacts were shown.
    let file = installation.result_file(&marie, &"c".parse().unwrap());
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(0).unwrap();

    let daemon = world.up().await;
    for task in ["a", "b", "c"] {
        let file = installation.result_file(&marie, &task.parse().unwrap());
        until("it is published", async || fs::metadata(&file).ok().filter(|file| file.len() > 0))
            .await;
        assert_eq!(world.result("marie", task).unwrap().status, Status::Complete);
        assert_eq!(world.artifact("marie", task, "report.md").unwrap(), "all is well");
    }
    assert_eq!(world.begun().len(), 3);
    assert_eq!(daemon.notices().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn files_of_tasks_are_shown_again() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    let task =
        json!({"task_id": "a", "worker": "marie", "description": "x", "dependencies": ["later"]});
    daemon.add(task).await.unwrap();
    let file = world.task_file("marie", "a");
    until("it is shown", async || fs::read(&file).ok()).await;
    let before = fs::read(&file).unwrap();
    daemon.kill().await;
    fs::remove_dir_all(file.parent().unwrap()).unwrap();

    let daemon = world.up().await;
    until("it is shown again", async || fs::read(&file).ok()).await;
    assert_eq!(fs::read(&file).unwrap(), before);
    assert_eq!(daemon.reason("a").await, "waits for later (not here yet)");
}

#[tokio::test(start_paused = true)]
async fn figures_of_a_run_that_ended_anew_are_written_again_when_that_was_cut_off() {
    let world = World::new(async |job: Job| {
        let fails = job.assignment.task.id.as_str().ends_with(".a") && job.attempt() == 1;
        if fails {
            job.hand_in(
                &job.failed(protocol::TaskError::new(protocol::FailureKind::Refused, "no")),
            );
        } else {
            job.hand_in(&protocol::TaskResult {
                report: Some("# Done".to_owned()),
                ..job.done(&[])
            });
        }
        None
    });
    let daemon = world.up().await;
    let plan = json!({"tasks": [
        {"id": "a", "worker": "marie", "description": "x"},
        {"id": "b", "worker": "marie", "description": "x"},
    ]});
    let submitted = crate::api::types::SubmitRun {
        plan: Some(serde_json::from_value(plan).unwrap()),
        ..Default::default()
    };
    let opened = daemon.ask(move |d| crate::admit::run(d, submitted)).await.unwrap();
    let summary = world.installation.summary(opened.run);
    until("the run has ended", async || summary.exists().then_some(())).await;
    let partial = fs::read(&summary).unwrap();
    assert!(String::from_utf8_lossy(&partial).contains("\"partial\""));
    let target = scheduler::Target::Run(opened.run);
    daemon.ask(move |d| d.request(scheduler::Input::Retry(target))).await.unwrap();
    let complete = until("it is complete", async || {
        fs::read(&summary)
            .ok()
            .filter(|text| String::from_utf8_lossy(text).contains("\"state\": \"complete\""))
    })
    .await;
    daemon.kill().await;
    // As it is when the last write did not come.
    let volatile = protocol::atomic_file::Durability::Volatile;
    protocol::atomic_file::replace(&summary, &partial, volatile).unwrap();

    let _daemon = world.up().await;
    until("it is written again", async || (fs::read(&summary).ok()? == complete).then_some(()))
        .await;
}

#[tokio::test(start_paused = true)]
async fn attempt_whose_replica_died_while_the_daemon_was_away_is_made_again_under_its_own_number() {
    let world = World::new(async |job: Job| {
        if job.spec.replica.as_str() == "marie-1" && job.attempt() == 1 && !job.left().exists() {
            fs::create_dir_all(job.left()).unwrap();
            std::future::pending::<()>().await;
        }
        job.hand_in(&job.done(&[]));
        None
    });
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "marie", "description": "x"})).await.unwrap();
    until("it is begun", async || world.begun().pop()).await;
    daemon.kill().await;
    world.engine.replicas.end(&"marie-1".parse().unwrap(), crate::testing::lost());

    let daemon = world.up().await;
    assert_eq!(daemon.ended(["a"]).await, [Status::Complete]);
    assert_eq!(world.begun(), ["a.1 on marie-1", "a.1 on marie-1"]);
}

#[tokio::test(start_paused = true)]
async fn task_of_a_worker_that_is_gone_waits_and_its_file_is_shown() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    let task =
        json!({"task_id": "a", "worker": "emma", "description": "x", "dependencies": ["later"]});
    daemon.add(task).await.unwrap();
    daemon.kill().await;
    let emma = &"emma".parse().unwrap();
    fs::remove_dir_all(world.installation.workspace(emma)).unwrap();
    fs::remove_dir_all(world.installation.tasks(emma)).unwrap();

    let daemon = world.up().await;
    until_true("it is shown", || world.task_file("emma", "a").exists()).await;
    assert_eq!(daemon.reason("a").await, "waits for later (not here yet)");
    assert_eq!(daemon.notices().await, [""; 0]);
}

/// Cancels `a`, whose worker has begun, in a daemon that is then followed by another.
async fn cancelled_before_a_restart(world: &World) -> crate::testing::Daemon {
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "marie", "description": "x"})).await.unwrap();
    until("it is begun", async || world.begun().pop()).await;
    daemon.says("a", "attempt 1 on marie-1").await;
    let target = scheduler::Target::Task("a".parse().unwrap());
    daemon.ask(move |d| d.request(scheduler::Input::Cancel(target))).await.unwrap();
    daemon.kill().await;
    world.up().await
}

#[tokio::test(start_paused = true)]
async fn attempt_that_was_being_stopped_ends_as_soon_as_its_worker_says_so() {
    let world = World::new(async |job: Job| {
        job.cancelled().await;
        sleep(Duration::from_secs(3)).await;
        let error = protocol::TaskError::new(protocol::FailureKind::Cancelled, "asked to");
        job.hand_in(&protocol::TaskResult { status: Status::Cancelled, ..job.failed(error) });
        None
    });
    let daemon = cancelled_before_a_restart(&world).await;
    let start = tokio::time::Instant::now();
    assert_eq!(daemon.ended(["a"]).await, [Status::Cancelled]);
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    // It serves the next one, as it is known to run by today's spec.
    daemon.add(json!({"task_id": "b", "worker": "marie", "description": "x"})).await.unwrap();
    until("it is begun", async || (world.begun().len() == 2).then_some(())).await;
    assert_eq!(world.engine.calls(), ["ensure marie-1", "ensure marie-1"]);
}

#[tokio::test(start_paused = true)]
async fn attempt_that_was_being_stopped_ends_with_its_replica() {
    let world = World::new(async |_: Job| std::future::pending().await);
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "marie", "description": "x"})).await.unwrap();
    daemon.says("a", "attempt 1 on marie-1").await;
    let target = scheduler::Target::Task("a".parse().unwrap());
    daemon.ask(move |d| d.request(scheduler::Input::Cancel(target))).await.unwrap();
    daemon.kill().await;
    world.engine.replicas.end(&"marie-1".parse().unwrap(), crate::testing::lost());

    let daemon = world.up().await;
    let start = tokio::time::Instant::now();
    assert_eq!(daemon.ended(["a"]).await, [Status::Cancelled]);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn result_that_was_handed_in_just_before_a_stop_at_its_deadline_counts_after_a_restart() {
    let world = World::new(async |job: Job| {
        job.cancelled().await;
        sleep(Duration::from_secs(5)).await;
        job.leave("report.md", "just in time");
        job.hand_in(&job.done(&["report.md"]));
        None
    });
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "marie", "description": "x"})).await.unwrap();
    daemon.says("a", "is being stopped").await;
    daemon.kill().await;

    let daemon = world.up().await;
    assert_eq!(daemon.ended(["a"]).await, [Status::Complete]);
    until("it is published", async || world.artifact("marie", "a", "report.md")).await;
    assert_eq!(world.begun(), ["a.1 on marie-1"]);
    assert_eq!(world.failures("a"), []);
}

#[tokio::test(start_paused = true)]
async fn transcript_of_an_attempt_that_was_not_cleared_away_is_kept() {
    let world = World::new(async |job: Job| {
        fs::create_dir_all(job.left()).unwrap();
        fs::File::create(job.left().join("transcript.jsonl")).unwrap();
        job.hand_in(&job.done(&[]));
        None
    });
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "marie", "description": "x"})).await.unwrap();
    daemon.ended(["a"]).await;
    let (a, marie) = ("a".parse().unwrap(), "marie".parse().unwrap());
    let installation = &world.installation;
    let kept = installation.attempt(RunId::Adhoc, &a, Attempt::FIRST).join("transcript.jsonl");
    until_true("it is kept", || kept.exists()).await;
    daemon.kill().await;
    // As it is when the daemon was killed right after the end was recorded; and a worker that makes up
    // the past of others.
    let replica = "marie-1".parse().unwrap();
    let left = installation.result_slot(&marie, &replica);
    for folder in ["a.1", "a.2"] {
        fs::create_dir_all(left.join(folder)).unwrap();
    }
    let volatile = protocol::atomic_file::Durability::Volatile;
    protocol::atomic_file::move_to(&kept, &left.join("a.1/transcript.jsonl"), volatile).unwrap();
    fs::File::create(left.join("a.2/transcript.jsonl")).unwrap();
    fs::create_dir_all(installation.task_slot(&marie, &replica).join("a.1")).unwrap();

    let daemon = world.up().await;
    daemon.add(json!({"task_id": "b", "worker": "marie", "description": "x"})).await.unwrap();
    daemon.ended(["b"]).await;
    assert!(kept.exists());
    let made_up = installation.attempt(RunId::Adhoc, &a, Attempt::FIRST.next());
    assert!(!made_up.exists());
    assert!(!left.join("a.1").exists() && !left.join("a.2").exists());
}

#[tokio::test(start_paused = true)]
async fn attempt_whose_file_a_power_cut_has_emptied_is_put_before_its_worker_again() {
    let world = World::new(async |job: Job| {
        if job.attempt() == 1 && !job.left().exists() {
            fs::create_dir_all(job.left()).unwrap();
            std::future::pending::<()>().await;
        }
        job.hand_in(&job.done(&[]));
        None
    });
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "marie", "description": "x"})).await.unwrap();
    daemon.says("a", "attempt 1 on marie-1").await;
    until("it is begun", async || world.begun().pop()).await;
    daemon.kill().await;
    let replica = "marie-1".parse().unwrap();
    world.engine.replicas.end(&replica, crate::testing::lost());
    let slot = world.installation.task_slot(&"marie".parse().unwrap(), &replica);
    fs::OpenOptions::new()
        .write(true)
        .open(slot.join("a.1/task.json"))
        .unwrap()
        .set_len(0)
        .unwrap();
    let left = world.installation.result_slot(&"marie".parse().unwrap(), &replica).join("a.1");
    fs::remove_dir_all(&left).unwrap();

    let daemon = world.up().await;
    until("it is begun again", async || (world.begun().len() == 2).then_some(())).await;
    assert_eq!(world.begun(), ["a.1 on marie-1"; 2]);
    drop(daemon);
}

#[tokio::test(start_paused = true)]
async fn temporary_files_that_a_crash_has_left_stop_nothing_and_mean_nothing() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "marie", "description": "x"})).await.unwrap();
    daemon.ended(["a"]).await;
    daemon.kill().await;
    let at = &world.installation;
    let (worker, replica) = ("marie".parse().unwrap(), "marie-1".parse().unwrap());
    let run = at.journal(RunId::Adhoc);
    let folders = [
        at.state(),
        at.runs(),
        run.parent().unwrap().to_owned(),
        at.tasks(&worker),
        at.rejected(&worker),
        at.task_slot(&worker, &replica),
        at.result_slot(&worker, &replica),
        at.worker_results(&worker),
        at.results(),
    ];
    for folder in folders {
        fs::create_dir_all(&folder).unwrap();
        // As each of them would be left: of a file, of an attempt that was being put together.
        for name in [".b.1.tmp", ".b.1.json.tmp", "b.1.json.tmp", ".tmpAbCdEf"] {
            fs::create_dir_all(folder.join(name).join("inputs")).unwrap();
        }
        for name in [".b.json.tmp", ".journal.jsonl.x.tmp", "b.json.tmp"] {
            fs::File::create(folder.join(name)).unwrap();
        }
    }
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "b", "worker": "marie", "description": "x"})).await.unwrap();
    assert_eq!(daemon.ended(["b"]).await, [Status::Complete]);
    assert_eq!(world.begun(), ["a.1 on marie-1", "b.1 on marie-1"]);
    assert_eq!(daemon.notices().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn journal_that_was_made_shorter_says_the_same() {
    let mut world = World::of_diligent_workers();
    world.growth = Some(2 << 10);
    let daemon = world.up().await;
    let names: Vec<String> = (0..20).map(|n| format!("t{n}")).collect();
    for name in &names {
        let task = json!({"task_id": name, "worker": "marie", "description": "x"});
        daemon.add(task).await.unwrap();
        daemon.ended([name.as_str()]).await;
    }
    until("the journal begins with a snapshot", async || {
        let all = daemon.committed.read(&world.installation, RunId::Adhoc, 0).unwrap().0;
        all[0].snapshot
    })
    .await;
    let mut before = Vec::new();
    for name in &names {
        before.push(format!("{:?}", daemon.view(name).await));
    }
    let length = daemon.committed.length(RunId::Adhoc);
    daemon.kill().await;

    let daemon = world.up().await;
    assert!(daemon.committed.length(RunId::Adhoc) >= length);
    for (name, before) in names.iter().zip(&before) {
        assert_eq!(format!("{:?}", daemon.view(name).await), *before);
    }
    let next =
        json!({"task_id": "b", "worker": "marie", "description": "x", "dependencies": names});
    daemon.add(next).await.unwrap();
    assert_eq!(daemon.ended(["b"]).await, [Status::Complete]);
    assert_eq!(world.begun().len(), 21, "nothing was done twice");
}

#[tokio::test(start_paused = true)]
async fn files_that_are_missing_are_made_again_and_nothing_waits_for_them() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    let names: Vec<String> = (0..100).map(|n| format!("t{n}")).collect();
    for name in &names {
        let after = json!({"task_id": format!("{name}-next"), "worker": "marie",
            "description": "x", "dependencies": [name, "never"]});
        daemon.add(after).await.unwrap();
        let task = json!({"task_id": name, "worker": "emma", "description": "x"});
        daemon.add(task).await.unwrap();
    }
    for name in &names {
        daemon.ended([name.as_str()]).await;
    }
    until("all is published", async || world.result("emma", "t99")).await;
    daemon.kill().await;
    for name in &names {
        fs::remove_file(
            world.installation.result_file(&"emma".parse().unwrap(), &name.parse().unwrap()),
        )
        .unwrap();
        fs::remove_file(world.task_file("marie", &format!("{name}-next"))).unwrap();
    }

    let daemon = world.up().await;
    let last = json!({"task_id": "last", "worker": "emma", "description": "x"});
    daemon.add(last).await.unwrap();
    for name in &names {
        until(&format!("the files of {name} are there"), async || {
            let result = world.result("emma", name);
            result.filter(|_| world.task_file("marie", &format!("{name}-next")).exists())
        })
        .await;
    }
    assert_eq!(daemon.ended(["last"]).await, [Status::Complete]);
}

#[tokio::test(start_paused = true)]
async fn task_waits_while_a_torn_result_that_it_is_given_can_not_be_written() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "emma", "description": "x"})).await.unwrap();
    let after = json!({"task_id": "b", "worker": "marie", "description": "x",
        "dependencies": ["a", "late"]});
    daemon.add(after).await.unwrap();
    until("it is published", async || world.result("emma", "a")).await;
    daemon.kill().await;
    // As a power cut may leave it: a part of the result, and its artifacts not moved yet.
    let (emma, a) = ("emma".parse().unwrap(), "a".parse().unwrap());
    let shown = world.installation.artifacts(&emma, &a);
    let safe = world.installation.attempt(RunId::Adhoc, &a, Attempt::FIRST);
    fs::create_dir_all(&safe).unwrap();
    let volatile = protocol::atomic_file::Durability::Volatile;
    protocol::atomic_file::move_to(&shown, &safe.join("artifacts"), volatile).unwrap();
    let file = world.installation.result_file(&emma, &a);
    fs::OpenOptions::new().write(true).open(file).unwrap().set_len(20).unwrap();
    // And something is in the way.
    fs::File::create(&shown).unwrap();

    let daemon = world.up().await;
    let late = json!({"task_id": "late", "worker": "emma", "description": "x"});
    daemon.add(late).await.unwrap();
    daemon.ended(["late"]).await;
    let is_dispatched = |event: &Event| matches!(event, Event::AttemptDispatched { task, .. } if task.as_str() == "b");
    until("its turn has come", async || world.events().iter().any(is_dispatched).then_some(()))
        .await;
    sleep(Duration::from_secs(60)).await;
    assert!(!world.begun().iter().any(|begun| begun.starts_with("b.")));
    // Nobody has tried to put half a result before it.
    let notice = "can't write files: Not a directory (os error 20)";
    assert_eq!(daemon.notices().await, [notice]);
    fs::remove_file(&shown).unwrap();
    assert_eq!(daemon.ended(["b"]).await, [Status::Complete]);
    assert_eq!(world.artifact("emma", "a", "report.md").unwrap(), "all is well");
}
