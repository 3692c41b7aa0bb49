//! What a worker may hand in, and what may not come of it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use protocol::{Attempt, ReportKey, ReportOf, Status, TaskResult, Token};
use rustix::fs::{CWD, FileType, Mode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::testing::{Job, World, until, until_true};

/// Hands in something that can't be used in the first attempt, does it right in the second, and
/// returns why the first did not count.
async fn refused(hand_in: impl Fn(&Job) + Send + Sync + 'static) -> String {
    let hand_in = std::sync::Arc::new(hand_in);
    let world = World::new(move |job: Job| {
        let hand_in = std::sync::Arc::clone(&hand_in);
        async move {
            if job.attempt() == 1 {
                hand_in(&job);
            } else {
                job.leave("report.md", "right");
                job.hand_in(&job.done(&["report.md"]));
            }
            None
        }
    });
    let daemon = world.up().await;
    let start = Instant::now();
    daemon.add(json!({"task_id": "build", "worker": "marie", "description": "x"})).await.unwrap();
    assert_eq!(daemon.ended(["build"]).await, [Status::Complete]);
    // It is said at once, and not found out by a timeout.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    until("it is published", async || world.artifact("marie", "build", "report.md")).await;
    assert_eq!(world.failures("build"), [(1, "bad_output".to_owned(), true)]);
    let folder = world.installation.artifacts(&"marie".parse().unwrap(), &"build".parse().unwrap());
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1, "only what was accepted is published");
    let journal = world.installation.journal(protocol::RunId::Adhoc);
    let journal = fs::read_to_string(journal).unwrap();
    assert!(!journal.contains("a secret"), "nothing outside is read");
    let failed = world.events().into_iter().find_map(|event| match event {
        protocol::Event::AttemptFailed { error, .. } => Some(error.message),
        _ => None,
    });
    failed.unwrap().strip_prefix("the result can't be used: ").unwrap().to_owned()
}

fn edited(job: &Job, edit: impl FnOnce(&mut TaskResult)) {
    let mut report = job.done(&[]);
    edit(&mut report);
    job.hand_in(&report);
}

fn fifo(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
}

#[tokio::test(start_paused = true)]
async fn report_with_a_wrong_token_is_refused() {
    let why = refused(|job| edited(job, |r| r.token = Some(Token::from_random(1, 2)))).await;
    assert_eq!(why, "its token is not the attempt's");
}

#[tokio::test(start_paused = true)]
async fn report_without_a_token_is_refused() {
    assert_eq!(
        refused(|job| edited(job, |r| r.token = None)).await,
        "its token is not the attempt's"
    );
}

#[tokio::test(start_paused = true)]
async fn report_of_another_attempt_is_refused() {
    assert_eq!(refused(|job| edited(job, |r| r.attempt = 7)).await, "it is about another attempt");
}

#[tokio::test(start_paused = true)]
async fn report_for_another_task_run_or_worker_is_refused_whatever_its_status() {
    let about = "it is about another task";
    assert_eq!(refused(|job| edited(job, |r| r.task_id = "other".parse().unwrap())).await, about);
    assert_eq!(refused(|job| edited(job, |r| r.worker = "emma".parse().unwrap())).await, about);
    let run = "0199a3c4-5a3c-7000-8000-000000000000";
    assert_eq!(refused(move |job| edited(job, |r| r.run = run.parse().unwrap())).await, about);
    let failed = |r: &mut TaskResult| {
        r.status = Status::Failed;
        r.task_id = "other".parse().unwrap();
    };
    assert_eq!(refused(move |job| edited(job, failed)).await, about);
}

#[tokio::test(start_paused = true)]
async fn report_that_is_not_of_the_format_is_refused_with_its_place() {
    assert_eq!(refused(|job| job.hand_in_proven(b"{\xff}")).await, "byte 1 is not UTF-8 text");
    assert_eq!(refused(|job| job.hand_in_proven(b"")).await, "line 1: the JSON ends too early");
    let with = |name: &'static str, value: Value| {
        move |job: &Job| {
            let mut report = serde_json::to_value(job.done(&[])).unwrap();
            report[name] = value.clone();
            job.hand_in_proven(report.to_string().as_bytes());
        }
    };
    let why = refused(with("sumary", json!("x"))).await;
    assert!(why.contains("field `sumary`: unknown field"), "{why}");
    let why = refused(with("status", json!("great"))).await;
    assert!(why.contains("field `status`"), "{why}");
    let why = refused(with("task_id", json!("../../x"))).await;
    assert!(why.contains("field `task_id`: '.' is not allowed at position 0"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn report_that_is_larger_than_a_worker_makes_it_is_tampering() {
    let large = |job: &Job| edited(job, |r| r.summary = "x".repeat(1 << 20));
    let why = tampered(large).await;
    assert!(why.contains("at most 1048662 are allowed"), "{why}");
}

/// Puts something in the place of a report while the agent goes on, and returns why the attempt failed.
async fn tampered(forge: impl Fn(&Job) + Send + Sync + 'static) -> String {
    let world = World::new(move |job: Job| {
        forge(&job);
        std::future::pending()
    });
    let daemon = world.up().await;
    let start = Instant::now();
    daemon.add(json!({"task_id": "build", "worker": "marie", "description": "x"})).await.unwrap();
    assert_eq!(daemon.ended(["build"]).await, [Status::Failed]);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(world.failures("build"), [(1, "tampered".to_owned(), true)]);
    // Whoever forged it does not go on, and nothing is tried again.
    assert_eq!(world.engine.calls(), ["ensure marie-1", "stop marie-1"]);
    assert_eq!(world.begun(), ["build.1 on marie-1"]);
    let journal = fs::read_to_string(world.installation.journal(protocol::RunId::Adhoc)).unwrap();
    assert!(!journal.contains("a secret"), "nothing outside is read");
    let error = until("it is published", async || world.result("marie", "build")).await.error;
    let error = error.unwrap();
    assert!(error.hint.unwrap().contains("supervisor retry"));
    let about = "what lies in the place of the report is not the worker's: ";
    error.message.strip_prefix(about).unwrap().to_owned()
}

const UNPROVEN: &str = "`build.1.json` does not carry the worker's proof";

#[tokio::test(start_paused = true)]
async fn report_without_the_workers_proof_ends_the_replica_and_the_task_as_tampered() {
    // What is right in all else: the token is no secret to an agent.
    let plain = |job: &Job| job.hand_in_bytes(&serde_json::to_vec(&job.done(&[])).unwrap());
    assert_eq!(tampered(plain).await, UNPROVEN);
    assert_eq!(tampered(|job| job.hand_in_bytes(b"")).await, UNPROVEN);
    let signed_by = |replica: &'static str| {
        move |job: &Job| {
            let secret = ReportKey::new([7; 32]).secret(&replica.parse().unwrap());
            let report = serde_json::to_vec(&job.done(&[])).unwrap();
            job.hand_in_bytes(&secret.seal(ReportOf::assignment(&job.assignment), &report));
        }
    };
    assert_eq!(tampered(signed_by("marie-2")).await, UNPROVEN);
    let of_another_attempt = |job: &Job| {
        let attempt = Attempt::new(2).unwrap();
        let of = ReportOf { attempt, ..ReportOf::assignment(&job.assignment) };
        let report = serde_json::to_vec(&job.done(&[])).unwrap();
        job.hand_in_bytes(&job.spec.secret.seal(of, &report));
    };
    assert_eq!(tampered(of_another_attempt).await, UNPROVEN);
}

#[tokio::test(start_paused = true)]
async fn pipe_link_folder_or_giant_in_the_place_of_a_report_is_tampering_and_nobody_waits_for_it() {
    let why = tampered(|job| fifo(&job.result_file())).await;
    assert_eq!(why, "`build.1.json` is not a regular file");
    let why = tampered(|job| {
        let secret = job.spec.workspace.join("secret.json");
        protocol::atomic_file::replace(
            &secret,
            b"a secret",
            protocol::atomic_file::Durability::Volatile,
        )
        .unwrap();
        symlink(secret, job.result_file()).unwrap();
    })
    .await;
    assert_eq!(why, "`build.1.json` leads out of its folder or through a link");
    let why = tampered(|job| fs::create_dir(job.result_file()).unwrap()).await;
    assert_eq!(why, "`build.1.json` is not a regular file");
    let why = tampered(|job| {
        // Whole at once, as by a rename: what is still empty would be refused for that.
        let draft = job.result_file().with_extension("draft");
        fs::File::create(&draft).unwrap().set_len(10 << 30).unwrap();
        let durability = protocol::atomic_file::Durability::Volatile;
        protocol::atomic_file::move_to(&draft, &job.result_file(), durability).unwrap();
    })
    .await;
    let max = protocol::strict::MAX_BYTES + protocol::ENVELOPE_BYTES;
    assert_eq!(why, format!("`build.1.json` has 10737418240 bytes, at most {max} are allowed"));
}

#[tokio::test(start_paused = true)]
async fn forged_report_that_was_seen_is_tampering_also_when_the_worker_writes_over_it() {
    let world = World::new(async |job: Job| {
        job.hand_in_bytes(b"{}");
        sleep(Duration::from_secs(20)).await;
        job.hand_in(&job.done(&[]));
        std::future::pending().await
    });
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "build", "worker": "marie", "description": "x"})).await.unwrap();
    until_true("it has begun", || !world.begun().is_empty()).await;
    // It can't be stopped for now, so that its worker comes to its end.
    world.engine.set_hanging(Some("marie-1"));
    sleep(Duration::from_secs(60)).await;
    world.engine.set_hanging(None);
    assert_eq!(daemon.ended(["build"]).await, [Status::Failed]);
    assert_eq!(world.failures("build"), [(1, "tampered".to_owned(), true)]);
}

/// The worker looks at no pattern: what was taken in is what counts.
#[tokio::test(start_paused = true)]
async fn artifacts_that_the_task_wants_are_looked_for_in_what_was_taken_in() {
    let world = World::new(async |job: Job| {
        job.leave("sub/notes.md", "x");
        job.hand_in(&job.done(&["sub/notes.md"]));
        None
    });
    let daemon = world.up().await;
    for (id, pattern) in [("wanting", "*.md"), ("whole", "**/*.md"), ("wrong", "[z")] {
        let task = json!({"task_id": id, "worker": "marie", "description": "x", "retries": 0,
            "verify": {"artifacts": [pattern]}});
        daemon.add(task).await.unwrap();
    }
    let ended = daemon.ended(["wanting", "whole", "wrong"]).await;
    assert_eq!(ended, [Status::Failed, Status::Complete, Status::Failed]);
    assert_eq!(world.failures("wanting"), [(1, "unverified".to_owned(), true)]);
    assert_eq!(world.failures("wrong"), [(1, "invalid".to_owned(), true)]);
    let result = until("it is published", async || world.result("marie", "wanting")).await;
    assert_eq!(result.summary, "no artifact matches `*.md`: there is sub/notes.md");
    assert!(world.artifact("marie", "wanting", "sub/notes.md").is_none());
}

#[tokio::test(start_paused = true)]
async fn artifact_that_is_named_and_missing_is_refused() {
    let why = refused(|job| job.hand_in(&job.done(&["notes.md"]))).await;
    assert_eq!(why, "it names the artifact `notes.md`, which is not there");
    let why =
        refused(|job| job.hand_in(&job.done(&["../../../../workspaces/marie/worker.toml"]))).await;
    assert!(why.ends_with("which is not there"), "{why}");
    // What is told of it is bounded.
    let giant = "x".repeat(900_000);
    let why = refused(move |job| job.hand_in(&job.done(&[&giant]))).await;
    assert!(why.starts_with("it names the artifact `xxx") && why.len() < 2500, "{}", why.len());
}

#[tokio::test(start_paused = true)]
async fn artifact_that_is_a_link_or_a_pipe_is_refused_and_nothing_outside_is_read() {
    let secret = |job: &Job| {
        let secret = job.spec.workspace.join("secret");
        protocol::atomic_file::replace(
            &secret,
            b"a secret",
            protocol::atomic_file::Durability::Volatile,
        )
        .unwrap();
        job.leave("a.md", "fine");
        secret
    };
    let why = refused(move |job| {
        symlink(secret(job), job.artifact("report.md")).unwrap();
        job.hand_in(&job.done(&["report.md"]));
    })
    .await;
    assert_eq!(why, "`report.md` leads out of its folder or through a link");
    // Also one that the report does not name, and a folder.
    let why = refused(move |job| {
        symlink(secret(job).parent().unwrap(), job.artifact("workspace")).unwrap();
        job.hand_in(&job.done(&["a.md"]));
    })
    .await;
    assert_eq!(why, "`workspace` leads out of its folder or through a link");
    let why = refused(move |job| {
        job.leave("a.md", "fine");
        fifo(&job.artifact("report.md"));
        job.hand_in(&job.done(&["report.md"]));
    })
    .await;
    assert_eq!(why, "`report.md` is not a regular file");
    // The folder of the artifacts itself, and the attempt's.
    let why = refused(|job| {
        fs::create_dir_all(job.left()).unwrap();
        symlink(&job.spec.workspace, job.left().join("artifacts")).unwrap();
        job.hand_in(&job.done(&["worker.toml"]));
    })
    .await;
    assert!(why.contains("leads out of its folder or through a link"), "{why}");
    let why = refused(|job| {
        symlink(&job.spec.workspace, job.left()).unwrap();
        job.hand_in(&job.done(&["worker.toml"]));
    })
    .await;
    assert!(why.contains("leads out of its folder or through a link"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn report_of_an_attempt_that_is_over_counts_for_nothing() {
    let world = World::new(async |job: Job| {
        if job.name() == "a.1" {
            job.cancelled().await;
            // Too late: its deadline is past, and it is being stopped.
            std::future::pending::<()>().await;
        }
        if job.name() == "a.2" {
            // The first attempt's words, and another task's.
            let old = TaskResult { attempt: 1, summary: "old".to_owned(), ..job.done(&[]) };
            let bytes = serde_json::to_vec(&old).unwrap();
            for name in ["a.1.json", "b.1.json", "a.3.json", "x.json", ".hidden"] {
                let path = job.spec.results.join(name);
                protocol::atomic_file::replace(
                    &path,
                    &bytes,
                    protocol::atomic_file::Durability::Volatile,
                )
                .unwrap();
            }
            let planted = job.spec.results.join("b.1/artifacts");
            fs::create_dir_all(&planted).unwrap();
            fs::File::create(planted.join("planted.md")).unwrap();
            sleep(Duration::from_secs(10)).await;
        }
        job.hand_in(&job.done(&[]));
        None
    });
    let daemon = world.up().await;
    let a = json!({"task_id": "a", "worker": "marie", "description": "x"});
    let b = json!({"task_id": "b", "worker": "marie", "description": "x", "dependencies": ["a"]});
    for task in [a, b] {
        daemon.add(task).await.unwrap();
    }
    assert_eq!(daemon.ended(["a", "b"]).await, [Status::Complete; 2]);
    until("it is published", async || world.result("marie", "b")).await;
    assert_eq!(world.result("marie", "a").unwrap().summary, "a is done");
    assert_eq!(world.result("marie", "b").unwrap().summary, "b is done");
    assert_eq!(world.result("marie", "b").unwrap().artifacts, [""; 0]);
    assert_eq!(world.failures("b"), []);
}

#[tokio::test(start_paused = true)]
async fn artifacts_are_published_beside_the_result_which_names_them() {
    let world = World::new(async |job: Job| {
        job.leave("report.md", "all is well");
        job.leave("data/table.csv", "a,b");
        job.hand_in(&job.done(&["report.md"]));
        None
    });
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "build", "worker": "marie", "description": "x"})).await.unwrap();
    daemon.ended(["build"]).await;
    let result = until("it is published", async || world.result("marie", "build")).await;
    let names = ["results/marie/build/data/table.csv", "results/marie/build/report.md"];
    assert_eq!(result.artifacts, names);
    for name in names {
        assert!(world.installation.root().join(name).is_file(), "{name}");
    }
    assert_eq!((result.attempt, result.token), (1, None));
    until("the file of the task is gone", async || {
        (!world.task_file("marie", "build").exists()).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn worker_that_edits_its_artifacts_after_acceptance_changes_nothing_that_was_published() {
    let world = World::new(async |job: Job| {
        job.leave("report.md", "honest");
        let path = job.artifact("report.md");
        let mut open = fs::File::options().append(true).open(&path).unwrap();
        job.hand_in(&job.done(&["report.md"]));
        // The slot is cleared when the result was taken in.
        until_true("it is taken in", || !job.folder.exists()).await;
        std::io::Write::write_all(&mut open, b", or not").unwrap();
        job.leave("report.md", "forged");
        job.hand_in(&TaskResult { summary: "forged".to_owned(), ..job.done(&["report.md"]) });
        None
    });
    let daemon = world.up().await;
    for task in ["a", "b"] {
        daemon.add(json!({"task_id": task, "worker": "marie", "description": "x"})).await.unwrap();
    }
    daemon.ended(["a", "b"]).await;
    until("it is published", async || world.artifact("marie", "b", "report.md")).await;
    for task in ["a", "b"] {
        assert_eq!(world.artifact("marie", task, "report.md").unwrap(), "honest");
        assert_eq!(world.result("marie", task).unwrap().summary, format!("{task} is done"));
    }
}

#[tokio::test(start_paused = true)]
async fn transcript_is_kept_and_one_behind_a_link_stays_where_it_is() {
    let world = World::new(async |job: Job| {
        let other = job.spec.workspace.join("transcript.jsonl");
        if job.name() == "good.1" {
            fs::create_dir_all(job.left()).unwrap();
            fs::File::create(job.left().join("transcript.jsonl")).unwrap();
        } else {
            fs::File::create(other).unwrap();
            symlink(&job.spec.workspace, job.left()).unwrap();
        }
        job.hand_in(&job.done(&[]));
        None
    });
    let daemon = world.up().await;
    let task =
        |id: &str| json!({"task_id": id, "worker": "marie", "description": "x", "retries": 0});
    daemon.add(task("good")).await.unwrap();
    daemon.add(task("evil")).await.unwrap();
    assert_eq!(daemon.ended(["good", "evil"]).await, [Status::Complete, Status::Failed]);
    let kept = |task: &str| {
        let attempt = protocol::Attempt::FIRST;
        let folder =
            world.installation.attempt(protocol::RunId::Adhoc, &task.parse().unwrap(), attempt);
        folder.join("transcript.jsonl").exists()
    };
    until("it is kept", async || kept("good").then_some(())).await;
    daemon.add(task("next")).await.unwrap();
    daemon.ended(["next"]).await;
    assert!(!kept("evil"));
    assert!(
        world.installation.workspace(&"marie".parse().unwrap()).join("transcript.jsonl").exists()
    );
}

#[tokio::test(start_paused = true)]
async fn result_that_can_not_be_taken_in_is_waited_for_even_when_its_replica_is_gone() {
    let world = World::new(async |job: Job| {
        job.leave("report.md", "all is well");
        job.hand_in(&job.done(&["report.md"]));
        Some(crate::testing::lost())
    });
    // Where artifacts are copied to there is no room for them.
    let in_the_way = world.installation.runs().join("adhoc/attempts");
    let daemon = world.up().await;
    until("the journal is there", async || in_the_way.parent()?.exists().then_some(())).await;
    fs::File::create(&in_the_way).unwrap();
    daemon.add(json!({"task_id": "build", "worker": "marie", "description": "x"})).await.unwrap();
    until("it is said", async || {
        daemon
            .notices()
            .await
            .into_iter()
            .find(|n| n.starts_with("can't take in a result of marie-1"))
    })
    .await;
    sleep(Duration::from_secs(30)).await;
    fs::remove_file(&in_the_way).unwrap();
    assert_eq!(daemon.ended(["build"]).await, [Status::Complete]);
    until("it is published", async || world.artifact("marie", "build", "report.md")).await;
    assert_eq!(world.begun(), ["build.1 on marie-1"]);
    until("it is over", async || daemon.notices().await.is_empty().then_some(())).await;
}

/// As many files as make the looks of the others late, if anything was done for each of them by anybody but
/// the keeper of their own replica.
#[tokio::test]
async fn worker_that_makes_files_without_end_holds_up_nobody_else() {
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_over = std::sync::Arc::clone(&over);
    let world = World::new(move |job: Job| {
        let over = std::sync::Arc::clone(&is_over);
        async move {
            if job.assignment.task.worker.as_str() == "marie" {
                let folders = [job.left().join("artifacts"), job.spec.results.clone()];
                fs::create_dir_all(&folders[0]).unwrap();
                let flood = tokio::task::spawn_blocking(move || {
                    let mut made = 0;
                    let is_over = || over.load(std::sync::atomic::Ordering::Relaxed);
                    while made < 20_000 || (!is_over() && made < 200_000) {
                        for folder in &folders {
                            fs::File::create(folder.join(format!("x{made}"))).unwrap();
                            made += 1;
                        }
                    }
                });
                flood.await.unwrap();
                job.hand_in(&job.done(&[]));
            } else {
                job.leave("report.md", "all is well");
                job.hand_in(&job.done(&["report.md"]));
            }
            None
        }
    });
    let daemon = world.up().await;
    let task = |id: &str, worker: &str| json!({"task_id": id, "worker": worker, "description": "x", "retries": 0});
    daemon.add(task("flood", "marie")).await.unwrap();
    daemon.says("flood", "attempt 1").await;
    // A chain: each link waits for a look of its keeper and one of the loop.
    let mut last: Option<String> = None;
    for number in 0..20 {
        let id = format!("e{number}");
        let mut link = task(&id, "emma");
        link["dependencies"] = json!(last.iter().collect::<Vec<_>>());
        daemon.add(link).await.unwrap();
        last = Some(id);
    }
    let start = Instant::now();
    assert_eq!(daemon.ended(["e19"]).await, [Status::Complete]);
    // By the looks from time to time alone it would be 40 s.
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(daemon.ended(["flood"]).await, [Status::Failed]);
    let result = until("it is published", async || world.result("marie", "flood")).await;
    let error = result.error.unwrap().message;
    assert_eq!(error, "the result can't be used: it has more than 4096 entries");
    // What was left is cleared away, and the next task finds its slot clean.
    daemon.add(task("next", "emma")).await.unwrap();
    assert_eq!(daemon.ended(["next"]).await, [Status::Complete]);
}

#[tokio::test(start_paused = true)]
async fn artifacts_that_are_too_deep_too_many_or_sparse_giants_are_refused_and_cleared_away() {
    let why = refused(|job| {
        let deep = vec!["a"; 40].join("/");
        job.leave(&format!("{deep}/report.md"), "deep");
        job.hand_in(&job.done(&[]));
    })
    .await;
    assert!(why.ends_with("has more than 16 levels of folders"), "{why}");
    let why = refused(|job| {
        job.leave("giant", "");
        fs::OpenOptions::new()
            .write(true)
            .open(job.artifact("giant"))
            .unwrap()
            .set_len(10 << 30)
            .unwrap();
        job.hand_in(&job.done(&["giant"]));
    })
    .await;
    assert_eq!(why, "`giant` has 10737418240 bytes, at most 1073741824 are allowed");
    let why = refused(|job| {
        job.leave("report\u{202e}dm.exe", "");
        job.hand_in(&job.done(&[]));
    })
    .await;
    assert_eq!(why, "\"report\\u{202e}dm.exe\" has a name that can't be shown");
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let why = refused(move |job| {
        let report = serde_json::to_string(&job.done(&[])).unwrap();
        job.hand_in_proven(report.replacen("[]", &deep, 1).as_bytes());
    })
    .await;
    assert!(why.contains("nested deeper than 32"), "{why}");
}
