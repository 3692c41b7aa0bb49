use std::io::Write;
use std::os::unix::fs::symlink;

use protocol::{Event, RunId, Status};
use rustix::fs::{CWD, FileType, Mode};
use serde_json::Value;
use tokio::time::sleep;

use super::*;
use crate::testing::{Daemon, Job, World, until, until_true};

/// Writes a file as an editor or `cp` does: in place.
fn write(path: &Path, contents: &[u8]) {
    fs::File::create(path).unwrap().write_all(contents).unwrap();
}

fn drop_file(world: &World, name: &str, contents: &[u8]) {
    write(&world.installation.root().join("tasks/marie").join(name), contents);
}

fn task(id: &str) -> String {
    format!("{{\"task_id\": \"{id}\", \"description\": \"x\"}}")
}

fn rejected(world: &World, name: &str) -> std::path::PathBuf {
    world.installation.root().join("tasks/marie/rejected").join(name)
}

/// Waits until a file is rejected, and returns its note.
async fn why(world: &World, name: &str) -> Value {
    let note = rejected(world, &format!("{name}.why.json"));
    let text = until("it is rejected", async || fs::read(&note).ok()).await;
    serde_json::from_slice(&text).unwrap()
}

async fn is_known(daemon: &Daemon, id: &str) -> bool {
    let id: TaskId = id.parse().unwrap();
    daemon.ask(move |d| d.scheduler().task(&id).is_some()).await
}

/// Returns a world whose workers wait until they are asked to stop.
fn busy() -> World {
    World::new(async |job: Job| {
        job.cancelled().await;
        job.hand_in(&job.done(&[]));
        None
    })
}

#[tokio::test(start_paused = true)]
async fn file_is_taken_done_and_replaced_by_its_result() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    drop_file(&world, "a.json", task("a").as_bytes());
    until("it is taken", async || is_known(&daemon, "a").await.then_some(())).await;
    assert_eq!(daemon.ended(["a"]).await, [Status::Complete]);
    until("it is published", async || world.artifact("marie", "a", "report.md")).await;
    until_true("the file is gone", || !world.task_file("marie", "a").exists()).await;
}

#[tokio::test(start_paused = true)]
async fn file_that_is_half_written_and_completed_soon_is_taken() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    let text = task("a");
    let path = world.task_file("marie", "a");
    let mut file = fs::File::create(&path).unwrap();
    for part in text.as_bytes().chunks(text.len() / 4) {
        assert!(!is_known(&daemon, "a").await);
        file.write_all(part).unwrap();
        sleep(Duration::from_millis(1500)).await;
    }
    assert_eq!(daemon.ended(["a"]).await, [Status::Complete]);
    assert!(!rejected(&world, "a.json").exists());
}

#[tokio::test(start_paused = true)]
async fn file_that_stays_broken_is_rejected_with_place_and_cure() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    drop_file(&world, "a.json", b"{\n  \"task_id\": \"a\",\n  \"descripton\": \"x\"\n}\n");
    sleep(Duration::from_millis(1900)).await;
    assert!(world.task_file("marie", "a").exists(), "whoever writes it may not be done");
    let why = why(&world, "a.json").await;
    assert_eq!(why["file"], "tasks/marie/a.json");
    assert_eq!(why["message"], "line 3, column 14, field `descripton`: unknown field `descripton`");
    assert_eq!((&why["line"], &why["column"]), (&3.into(), &14.into()));
    assert_eq!(why["hint"], "Did you mean `description`?");
    assert!(rejected(&world, "a.json").is_file());
    assert!(!world.task_file("marie", "a").exists());
    // Mended, it is taken; and the next broken one does not take the first one's place.
    drop_file(&world, "a.json", task("a").as_bytes());
    until("it is taken", async || is_known(&daemon, "a").await.then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn file_that_is_mended_and_moved_back_is_taken_and_its_reason_goes() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    drop_file(
        &world,
        "a.json",
        b"{\"task_id\": \"a\", \"worker\": \"anga\", \"description\": \"x\"}",
    );
    let why = why(&world, "a.json").await;
    assert_eq!(why["hint"], "Move the file to `tasks/anga/`, or leave `worker` out.");
    fs::remove_file(rejected(&world, "a.json")).unwrap();
    drop_file(&world, "a.json", task("a").as_bytes());
    assert_eq!(daemon.ended(["a"]).await, [Status::Complete]);
    let note = rejected(&world, "a.json.why.json");
    until_true("the reason is gone", || !note.exists()).await;
}

#[tokio::test(start_paused = true)]
async fn file_whose_reason_can_not_be_written_stays_until_it_can() {
    let world = World::of_diligent_workers();
    let _daemon = world.up().await;
    let note = rejected(&world, "a.json.why.json");
    fs::create_dir_all(note.join("in the way")).unwrap();
    drop_file(&world, "a.json", b"{}");
    sleep(PATIENCE * 5).await;
    assert!(world.task_file("marie", "a").exists(), "it should not be moved without its reason");
    fs::remove_dir_all(&note).unwrap();
    why(&world, "a.json").await;
    until_true("it is moved", || rejected(&world, "a.json").is_file()).await;
}

#[tokio::test(start_paused = true)]
async fn rejected_files_of_the_same_name_are_all_kept() {
    let world = World::of_diligent_workers();
    let _daemon = world.up().await;
    for name in ["a.json", "a.2.json", "a.3.json"] {
        drop_file(&world, "a.json", b"no");
        why(&world, name).await;
        assert!(rejected(&world, name).is_file());
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_are_not_for_readers_stay_and_others_must_be_task_ids() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    for name in ["x.tmp", ".hidden.json"] {
        drop_file(&world, name, task("x").as_bytes());
    }
    for (name, part) in [
        ("UPPER.json", "the file's name is no task id: 'U' is not allowed"),
        ("a.json.json", "the file's name is no task id: an id can't end in `.json`"),
        ("notes.md", "the name does not end in `.json`"),
        ("b.json", "`task_id` is `x`, but the file is named `b.json`"),
    ] {
        drop_file(&world, name, task("x").as_bytes());
        let why = why(&world, name).await;
        assert!(why["message"].as_str().unwrap().starts_with(part), "{why}");
    }
    fs::create_dir(world.installation.root().join("tasks/marie/folder.json")).unwrap();
    let note = why(&world, "folder.json").await;
    assert_eq!(note["message"], "`folder.json` is not a regular file");
    for name in ["x.tmp", ".hidden.json"] {
        assert!(world.installation.root().join("tasks/marie").join(name).exists(), "{name}");
    }
    assert!(!is_known(&daemon, "x").await);
}

#[tokio::test(start_paused = true)]
async fn pipe_link_and_giant_are_rejected_and_nobody_waits_for_them() {
    let world = World::of_diligent_workers();
    let _daemon = world.up().await;
    let folder = world.installation.root().join("tasks/marie");
    rustix::fs::mknodat(CWD, folder.join("pipe.json"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let secret = world.installation.root().join("secret");
    write(&secret, task("link").as_bytes());
    symlink(&secret, folder.join("link.json")).unwrap();
    let large = fs::File::create(folder.join("large.json")).unwrap();
    large.set_len(2 << 20).unwrap();

    assert_eq!(why(&world, "pipe.json").await["message"], "`pipe.json` is not a regular file");
    let link = why(&world, "link.json").await;
    assert_eq!(link["message"], "`link.json` leads out of its folder or through a link");
    assert!(rejected(&world, "link.json").is_symlink());
    assert!(secret.is_file());
    let large = why(&world, "large.json").await;
    let text = "`large.json` has 2097152 bytes, at most 1048576 are allowed";
    assert_eq!(large["message"], text);
}

#[tokio::test(start_paused = true)]
async fn same_task_again_changes_nothing() {
    let world = busy();
    let daemon = world.up().await;
    drop_file(&world, "a.json", task("a").as_bytes());
    until("it is taken", async || is_known(&daemon, "a").await.then_some(())).await;
    daemon.says("a", "attempt 1").await;
    let before = world.events();
    drop_file(&world, "a.json", task("a").as_bytes());
    let added =
        daemon.add(serde_json::json!({"task_id": "a", "worker": "marie", "description": "x"}));
    assert!(added.await.unwrap().existed);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(world.events(), before);
    assert!(world.task_file("marie", "a").exists());
    assert_eq!(fs::read_dir(rejected(&world, "")).unwrap().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn edited_file_of_a_task_under_way_is_rejected_and_the_accepted_one_comes_back() {
    let world = busy();
    let daemon = world.up().await;
    daemon
        .add(serde_json::json!({"task_id": "a", "worker": "marie", "description": "x"}))
        .await
        .unwrap();
    let path = world.task_file("marie", "a");
    let shown = until("it is shown", async || fs::read(&path).ok()).await;
    for (n, edited) in
        [task("a").replace("\"x\"", "\"y\""), "{broken".to_owned()].iter().enumerate()
    {
        drop_file(&world, "a.json", edited.as_bytes());
        let name = if n == 0 { "a.json" } else { "a.2.json" };
        let note = why(&world, name).await;
        assert_eq!(fs::read_to_string(rejected(&world, name)).unwrap(), *edited);
        if n == 0 {
            assert_eq!(note["message"], "there is another task `a`, with other content");
        }
        until("it is shown again", async || (fs::read(&path).ok()? == shown).then_some(())).await;
    }
    sleep(Duration::from_secs(20)).await;
    assert_eq!(daemon.view("a").await.status, crate::api::types::TaskStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn removed_file_cancels_a_task_that_waits_and_not_one_that_runs() {
    let world = busy();
    let daemon = world.up().await;
    for id in ["runs", "waits"] {
        drop_file(&world, &format!("{id}.json"), task(id).as_bytes());
        until("it is taken", async || is_known(&daemon, id).await.then_some(())).await;
    }
    daemon.says("runs", "attempt 1").await;
    daemon.says("waits", "waits for room").await;
    for id in ["runs", "waits"] {
        fs::remove_file(world.task_file("marie", id)).unwrap();
    }
    assert_eq!(daemon.ended(["waits"]).await, [Status::Cancelled]);
    sleep(Duration::from_secs(20)).await;
    daemon.says("runs", "attempt 1").await;
    let cancels =
        world.events().iter().filter(|e| matches!(e, Event::CancelRequested { .. })).count();
    assert_eq!(cancels, 1);
}

#[tokio::test(start_paused = true)]
async fn file_that_an_editor_puts_in_place_of_another_is_not_a_removal() {
    let world = busy();
    let daemon = world.up().await;
    drop_file(
        &world,
        "a.json",
        task("a").replace("\"x\"", "\"x\", \"dependencies\": [\"b\"]").as_bytes(),
    );
    until("it is taken", async || is_known(&daemon, "a").await.then_some(())).await;
    let path = world.task_file("marie", "a");
    let text = fs::read(&path).unwrap();
    for _ in 0..3 {
        fs::remove_file(&path).unwrap();
        sleep(Duration::from_millis(1500)).await;
        write(&path, &text);
        sleep(Duration::from_millis(1500)).await;
    }
    sleep(Duration::from_secs(20)).await;
    assert_eq!(daemon.reason("a").await, "waits for b (not here yet)");
}

/// An editor may save every other second, and no event tell of it. The looks from time to time alone would
/// then find the file missing twice, two seconds apart.
#[tokio::test(start_paused = true)]
async fn file_that_an_editor_replaces_again_and_again_unheard_is_not_a_removal() {
    let world = busy().deaf();
    let daemon = world.up().await;
    let text = task("a").replace("\"x\"", "\"x\", \"dependencies\": [\"b\"]");
    drop_file(&world, "a.json", text.as_bytes());
    until("it is taken", async || is_known(&daemon, "a").await.then_some(())).await;
    let path = world.task_file("marie", "a");
    for _ in 0..20 {
        fs::remove_file(&path).unwrap();
        sleep(Duration::from_millis(1500)).await;
        write(&path, text.as_bytes());
        // So that the looks fall on every part of it.
        sleep(Duration::from_millis(1330)).await;
    }
    assert_eq!(daemon.reason("a").await, "waits for b (not here yet)");
    fs::remove_file(&path).unwrap();
    assert_eq!(daemon.ended(["a"]).await, [Status::Cancelled]);
}

#[tokio::test(start_paused = true)]
async fn without_any_event_drops_are_taken_and_results_taken_in() {
    let world = World::of_diligent_workers().deaf();
    let daemon = world.up().await;
    let start = Instant::now();
    drop_file(&world, "a.json", task("a").as_bytes());
    assert_eq!(daemon.ended(["a"]).await, [Status::Complete]);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let notices = daemon.notices().await;
    assert!(notices.iter().any(|n| n.contains("`fs.inotify.max_user_instances`")), "{notices:?}");
}

/// No event tells of most of them: the queue of events is shorter.
#[tokio::test(start_paused = true)]
async fn twenty_thousand_files_that_are_dropped_at_once_are_all_taken() {
    let world = World::with_runtime(crate::runtime::fake::FakeRuntime::unused());
    let daemon = world.up().await;
    for number in 0..20_000 {
        let id = format!("t{number}");
        let text = task(&id).replace("\"x\"", "\"x\", \"dependencies\": [\"later\"]");
        drop_file(&world, &format!("{id}.json"), text.as_bytes());
    }
    until("all are taken", async || {
        let known = daemon.ask(|d| d.scheduler().run_tasks(&RunId::Adhoc).count()).await;
        (known == 20_000).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn folder_that_was_removed_is_made_again_and_watched() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    let folder = world.installation.root().join("tasks/marie");
    fs::remove_dir_all(&folder).unwrap();
    until_true("it is made again", || folder.join("rejected").is_dir()).await;
    drop_file(&world, "a.json", task("a").as_bytes());
    until("it is taken", async || is_known(&daemon, "a").await.then_some(())).await;
    assert_eq!(daemon.ended(["a"]).await, [Status::Complete]);
    assert_eq!(daemon.notices().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn installation_that_was_removed_is_not_made_again() {
    let world = World::of_diligent_workers();
    let _daemon = world.up().await;
    fs::remove_dir_all(world.installation.root()).unwrap();
    sleep(Duration::from_secs(20)).await;
    assert!(!world.installation.root().exists());
}

/// The clock runs: an event has to come before the next look.
#[tokio::test]
async fn folder_that_was_removed_and_made_again_is_watched_anew() {
    let world = World::with_runtime(crate::runtime::fake::FakeRuntime::unused());
    world.engine.set_away(true);
    let daemon = world.up().await;
    let folder = world.installation.root().join("tasks/marie");
    for by_whom in ["us", "somebody"] {
        fs::remove_dir_all(&folder).unwrap();
        if by_whom == "somebody" {
            fs::create_dir(&folder).unwrap();
        } else {
            until_true("it is made again", || folder.join("rejected").is_dir()).await;
        }
        let is_taken = async |id: &str| {
            until("it is taken", async || is_known(&daemon, id).await.then_some(())).await;
        };
        // When it is seen by a look from time to time, the next look is a while away.
        let names = ["first", "second"].map(|n| format!("{n}-by-{by_whom}"));
        drop_file(&world, &format!("{}.json", names[0]), task(&names[0]).as_bytes());
        is_taken(&names[0]).await;
        let start = Instant::now();
        drop_file(&world, &format!("{}.json", names[1]), task(&names[1]).as_bytes());
        is_taken(&names[1]).await;
        assert!(start.elapsed() < LOOK_EVERY / 2, "{by_whom}: {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn task_that_a_person_drops_for_the_supervisor_alone_is_refused() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    drop_file(&world, "a.json", task("a").replace("\"x\"", "\"x\", \"kind\": \"plan\"").as_bytes());
    assert_eq!(why(&world, "a.json").await["message"], "`kind` is set by the supervisor only");
    drop_file(
        &world,
        "b.json",
        task("b").replace("\"x\"", "\"x\", \"worker\": \"emma\"").as_bytes(),
    );
    let text = "`worker` is `emma`, but the file lies in the folder of `marie`";
    assert_eq!(why(&world, "b.json").await["message"], text);
    assert!(!is_known(&daemon, "a").await);
}

#[tokio::test(start_paused = true)]
async fn late_word_of_a_file_that_is_there_again_cancels_nothing() {
    let world = busy();
    let daemon = world.up().await;
    let waits = task("a").replace("\"x\"", "\"x\", \"dependencies\": [\"b\"]");
    drop_file(&world, "a.json", waits.as_bytes());
    until("it is taken", async || is_known(&daemon, "a").await.then_some(())).await;
    let (worker, task) = ("marie".parse().unwrap(), "a".parse().unwrap());
    daemon.inbox.send(Message::TaskFileGone { worker, task });
    assert_eq!(daemon.reason("a").await, "waits for b (not here yet)");
}
