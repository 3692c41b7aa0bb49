//! What is said only when it is safe, and what happens where nothing can be written.

use std::fs;
use std::time::Duration;

use protocol::{Event, RunId, Status};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::admit;
use crate::api::types::SubmitRun;
use crate::inbox::Message;
use crate::testing::{World, until};

fn waits(id: &str) -> serde_json::Value {
    json!({"task_id": id, "worker": "marie", "description": "x", "dependencies": ["later"]})
}

#[tokio::test(start_paused = true)]
async fn answer_comes_when_the_journal_holds_what_it_promises() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    let journal = world.installation.journal(RunId::Adhoc);
    let (tell, told) = tokio::sync::oneshot::channel();
    daemon.inbox.send(Message::Ask(Box::new(move |dispatcher| {
        let before = fs::read_to_string(&journal).unwrap_or_default();
        admit::new_task(dispatcher, waits("a")).unwrap();
        // When this is called, the answer is on its way.
        Box::new(move || {
            let _ = tell.send((before, fs::read_to_string(&journal).unwrap()));
        })
    })));
    let (before, after) = told.await.unwrap();
    assert!(!before.contains("task_added"), "{before}");
    assert!(after.contains("task_added") && after.contains("\"task_id\":\"a\""), "{after}");
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_share_a_write() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    let ids: Vec<_> = (0..50).map(|n| format!("t{n}")).collect();
    let asks = ids.iter().map(|id| daemon.add(waits(id)));
    for added in futures_util::future::join_all(asks).await {
        assert!(!added.unwrap().existed);
    }
    let journal = fs::read_to_string(world.installation.journal(RunId::Adhoc)).unwrap();
    let places: Vec<_> = journal
        .lines()
        .filter(|line| line.contains("task_added"))
        .map(|line| line.rsplit_once('\t').unwrap().1.split('@').next().unwrap().to_owned())
        .collect();
    let expected: Vec<_> = (1..=50).map(|n| format!("{n}/50")).collect();
    assert_eq!(places, expected);
}

#[tokio::test(start_paused = true)]
async fn where_the_journal_can_not_be_written_nothing_is_promised_and_status_says_so() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    daemon.ask(|_| ()).await;
    // A file where the folder of the new run's journal would be made.
    let runs = world.installation.runs();
    let away = world.installation.state().join("away");
    let volatile = protocol::atomic_file::Durability::Volatile;
    protocol::atomic_file::move_to(&runs, &away, volatile).unwrap();
    fs::File::create(&runs).unwrap();

    let submitted = SubmitRun { request: Some("split this".to_owned()), ..Default::default() };
    let opened = daemon.inbox.ask(move |d| admit::run(d, submitted));
    let mut opened = std::pin::pin!(opened);
    assert!(timeout(Duration::from_secs(60), &mut opened).await.is_err(), "nothing is promised");
    let notices = daemon.inbox.look(|d| d.notices()).await.unwrap();
    assert!(
        notices[0].starts_with("everything waits: the journal can't be written"),
        "{notices:?}"
    );
    assert_eq!(world.begun(), [""; 0]);

    fs::remove_file(&runs).unwrap();
    protocol::atomic_file::move_to(&away, &runs, volatile).unwrap();
    let opened = opened.await.unwrap().unwrap();
    let events = world.events_of(opened.run);
    assert!(matches!(events[0], Event::RunOpened { .. }), "{events:?}");
    assert_eq!(daemon.notices().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn daemon_whose_journal_can_not_be_written_can_be_ended() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    daemon.ask(|_| ()).await;
    fs::remove_dir_all(world.installation.runs()).unwrap();
    fs::File::create(world.installation.runs()).unwrap();
    let submitted = SubmitRun { request: Some("split this".to_owned()), ..Default::default() };
    let ask = daemon.inbox.ask(move |d| admit::run(d, submitted));
    assert!(timeout(Duration::from_secs(5), ask).await.is_err());
    daemon.stop.cancel();
    daemon.work.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_written_is_written_later_however_much_is_asked_meanwhile() {
    let world = World::of_diligent_workers();
    // A file where results would be published.
    let in_the_way = world.installation.worker_results(&"marie".parse().unwrap()).join("a.json");
    fs::create_dir_all(&in_the_way).unwrap();
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "marie", "description": "x"})).await.unwrap();
    assert_eq!(daemon.ended(["a"]).await, [Status::Complete]);
    until("it is said", async || {
        daemon.notices().await.into_iter().find(|n| n.starts_with("can't write files"))
    })
    .await;
    fs::remove_dir(&in_the_way).unwrap();
    // Somebody looks at the status more often than anything is tried again.
    for _ in 0..30 {
        daemon.notices().await;
        sleep(Duration::from_millis(100)).await;
    }
    assert!(world.result("marie", "a").is_some());
    assert_eq!(daemon.notices().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn whoever_reads_along_sees_no_more_than_what_is_safe() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    daemon.add(waits("a")).await.unwrap();
    let file = fs::metadata(world.installation.journal(RunId::Adhoc)).unwrap().len();
    assert_eq!(daemon.committed.length(RunId::Adhoc), file);
}
