use std::fs::File;

use protocol::Plan;
use serde_json::json;

use super::*;
use crate::api::types::SubmitRun;
use crate::testing::{Daemon, World, until};

const ALL: GcRequest = GcRequest { keep_seconds: 0, dry_run: false, results: false };

/// Has a run of one task of marie's come to its end.
async fn run_to_its_end(world: &World, daemon: &Daemon) -> (RunId, String) {
    let plan = json!({"tasks": [{"id": "a", "worker": "marie", "description": "x"}]});
    let plan: Option<Plan> = Some(serde_json::from_value(plan).unwrap());
    let submitted = SubmitRun { plan, ..SubmitRun::default() };
    let opened = daemon.ask(|d| crate::admit::run(d, submitted)).await.unwrap();
    until("the run has ended", async || {
        world.installation.summary(opened.run).exists().then_some(())
    })
    .await;
    let task = format!("{}.a", opened.short);
    let attempt = world.installation.attempt(opened.run, &task.parse().unwrap(), Attempt::FIRST);
    until("its attempt is cleared away", async || attempt.exists().then_some(())).await;
    (opened.run, task)
}

async fn clear(daemon: &Daemon, request: GcRequest) -> GcReport {
    // What ended just now is not from before.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let chosen = daemon.ask(move |d| d.choose_old(request)).await;
    let tasks = chosen.tasks.clone();
    let report = chosen.carry_out();
    if !request.dry_run {
        daemon.ask(|d| d.request(scheduler::Input::Forget(tasks))).await.unwrap();
    }
    report
}

fn names(report: &GcReport, kind: GcKind) -> Vec<&str> {
    let items = report.removed.iter().filter(|item| item.kind == kind);
    items.map(|item| item.name.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn old_run_goes_and_its_results_stay() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    let (run, task) = run_to_its_end(&world, &daemon).await;
    let folder = world.installation.runs().join(run.to_string());
    let name = format!(".supervisor/runs/{run}");

    let report = clear(&daemon, GcRequest { keep_seconds: 86_400, ..ALL }).await;
    assert_eq!(report.removed, [], "it is not old");
    let dry = clear(&daemon, GcRequest { dry_run: true, ..ALL }).await;
    assert_eq!(names(&dry, GcKind::Run), [&name]);
    assert!(folder.exists() && dry.bytes > 0);

    let report = clear(&daemon, ALL).await;
    assert_eq!(GcReport { dry_run: true, before: dry.before, ..report }, dry);
    assert!(!folder.exists());
    assert!(world.result("marie", &task).is_some());
    assert!(world.installation.summary(run).exists());
    assert!(daemon.ask(move |d| d.scheduler().run(&run).is_none()).await);
    // Everything goes on, also after a restart.
    let retry = scheduler::Input::Retry(scheduler::Target::Run(run));
    daemon.ask(|d| d.request(retry)).await.unwrap_err();
    let (_, other) = run_to_its_end(&world, &daemon).await;
    daemon.kill().await;
    let daemon = world.up().await;
    assert!(daemon.ask(move |d| d.scheduler().run(&run).is_none()).await);
    daemon.view(&other).await;
    let none = fs::read_dir(world.installation.runs()).unwrap().flatten();
    assert_eq!(none.filter(|e| e.file_name().to_string_lossy().starts_with('.')).count(), 0);
}

#[tokio::test(start_paused = true)]
async fn run_on_which_something_depends_stays_and_results_go_when_that_is_said() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    let (needed, task) = run_to_its_end(&world, &daemon).await;
    let (run, other) = run_to_its_end(&world, &daemon).await;
    let later = json!({"task_id": "later", "worker": "emma", "description": "x",
        "dependencies": [task, "never"]});
    daemon.add(later).await.unwrap();

    let report = clear(&daemon, GcRequest { results: true, ..ALL }).await;

    let why = "the task `later` depends on it, and stays".to_owned();
    assert_eq!(report.kept, [GcKept { run: needed, why }]);
    assert_eq!(names(&report, GcKind::Run), [format!(".supervisor/runs/{run}")]);
    assert!(world.result("marie", &task).is_some() && world.result("marie", &other).is_none());
    assert!(!world.installation.summary(run).exists());
    assert_eq!(names(&report, GcKind::Result).len(), 6, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn run_whose_results_are_not_shown_stays() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    let (run, task) = run_to_its_end(&world, &daemon).await;
    let file = world.installation.result_file(&"marie".parse().unwrap(), &task.parse().unwrap());
    fs::remove_file(file).unwrap();
    let report = clear(&daemon, ALL).await;
    assert_eq!(names(&report, GcKind::Run), [""; 0]);
    assert_eq!(report.kept[0].run, run);
}

#[tokio::test(start_paused = true)]
async fn transcripts_of_old_tasks_without_a_run_go_and_those_of_open_ones_stay() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "marie", "description": "x"})).await.unwrap();
    daemon.ended(["a"]).await;
    let kept = |task: &str| {
        world.installation.attempt(RunId::Adhoc, &task.parse().unwrap(), Attempt::FIRST)
    };
    until("it is cleared away", async || kept("a").exists().then_some(())).await;
    until("it is published", async || world.result("marie", "a")).await;
    let strange = kept("a").with_file_name("notes");
    fs::create_dir_all(&strange).unwrap();
    fs::create_dir_all(kept("b")).unwrap();

    let report = clear(&daemon, ALL).await;

    assert_eq!(names(&report, GcKind::Attempt), [".supervisor/runs/adhoc/attempts/a.1"]);
    assert!(strange.exists() && kept("b").exists() && !kept("a").exists());
    assert!(world.artifact("marie", "a", "report.md").is_some());
    daemon.view("a").await;
}

#[tokio::test(start_paused = true)]
async fn dropped_tasks_go_with_their_results_unless_something_depends_on_them() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    let task = |id: &str, dependencies: &[&str]| json!({"task_id": id, "worker": "marie", "description": "x", "dependencies": dependencies});
    daemon.add(task("a", &[])).await.unwrap();
    daemon.add(task("b", &["a"])).await.unwrap();
    daemon.add(task("other", &[])).await.unwrap();
    daemon.add(task("c", &["b", "never"])).await.unwrap();
    daemon.ended(["a", "b", "other"]).await;
    until("all is published", async || {
        let shown = |task| world.result("marie", task).is_some();
        ["a", "b", "other"].into_iter().all(shown).then_some(())
    })
    .await;
    let is_shown = |task: &str| world.result("marie", task).is_some();
    let results = GcRequest { results: true, ..ALL };

    clear(&daemon, ALL).await;
    assert!(is_shown("other"), "nobody said that results may go");
    let dry = clear(&daemon, GcRequest { dry_run: true, ..results }).await;
    assert_eq!(names(&dry, GcKind::Result), ["results/marie/other.json", "results/marie/other"]);
    clear(&daemon, results).await;
    assert!(is_shown("a") && is_shown("b") && !is_shown("other"));
    let cancel = scheduler::Input::Cancel(scheduler::Target::Task("c".parse().unwrap()));
    daemon.ask(|d| d.request(cancel)).await.unwrap();
    until("it is cancelled", async || world.result("marie", "c")).await;
    clear(&daemon, results).await;
    assert!(!is_shown("a") && !is_shown("b") && !is_shown("c"));

    daemon.kill().await;
    let daemon = world.up().await;
    assert!(daemon.ask(|d| d.scheduler().task(&"a".parse().unwrap()).is_none()).await);
    assert!(!is_shown("a"), "what is cleared away should not come again");
    // An attempt of another task of that name could be taken for one of the old.
    for again in [task("a", &[]), task("d", &["a"])] {
        let refusal = daemon.add(again).await.unwrap_err().to_string();
        assert!(refusal.contains("was cleared away"), "{refusal}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_files_with_our_names_and_of_some_age_are_unfinished() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    let adhoc = world.installation.runs().join("adhoc");
    let sessions = world.installation.sessions(protocol::RunId::Adhoc);
    let session = "01a1f84a-95c0-4c3a-9b1e-4d5f60718a93.jsonl";
    fs::create_dir_all(&sessions).unwrap();
    let make = |path: PathBuf, old: bool| {
        let file = File::create(&path).unwrap();
        if old {
            file.set_modified(SystemTime::now() - 2 * UNFINISHED).unwrap();
        }
        path
    };
    let gone = [
        make(world.installation.results().join(".AbC123.tmp"), true),
        make(adhoc.join(snapshot::DRAFT), true),
        make(sessions.join(session), true),
    ];
    let stay = [
        make(world.installation.results().join(".AbC124.tmp"), false),
        make(world.installation.results().join(".notes-of-mine.tmp"), true),
        make(world.installation.results().join("AbC123.tmp"), true),
        make(sessions.join("notes.jsonl"), true),
    ];
    clear(&daemon, ALL).await;
    assert!(gone.iter().all(|path| !path.exists()), "{gone:?}");
    assert!(stay.iter().all(|path| path.exists()), "{stay:?}");
}

/// Earlier versions let containers write there, and followed what they found.
#[tokio::test(start_paused = true)]
async fn link_that_an_agent_left_leads_to_nothing_that_is_removed() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    let outside = tempfile::tempdir().unwrap();
    let session = outside.path().join("-w/01a1f84a-95c0-4c3a-9b1e-4d5f60718a93.jsonl");
    fs::create_dir_all(session.parent().unwrap()).unwrap();
    let old = SystemTime::now() - 2 * UNFINISHED;
    File::create(&session).unwrap().set_modified(old).unwrap();
    let config = world.installation.old_agent_config();
    let emma = config.join("emma");
    fs::create_dir_all(&emma).unwrap();
    let links = [emma.join("projects"), emma.join("other"), config.join("marie")];
    links.iter().for_each(|link| std::os::unix::fs::symlink(outside.path(), link).unwrap());
    let report = clear(&daemon, ALL).await;
    assert_eq!(
        names(&report, GcKind::Session),
        [".supervisor/config/emma", ".supervisor/config/marie"]
    );
    assert!(session.exists(), "what lies behind a link is somebody else's");
    assert!(!emma.exists() && !links[2].is_symlink());
}
