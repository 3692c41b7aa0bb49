//! The process runtime, with shell scripts in place of the worker.

#![expect(clippy::unwrap_used, reason = "a test ends where it is wrong")]

#[path = "support/janitor.rs"]
mod janitor;

use std::env;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use protocol::{Auth, ReplicaId, Resources, WorkspaceMode};
use rustix::process::{Pid, Signal, getsid, kill_process};
use supervisor::runtime::process::ProcessRuntime;
use supervisor::runtime::{Exit, Found, Owner, ReplicaSpec, Runtime, RuntimeError};
use tempfile::TempDir;
use tokio::time::timeout;

use janitor::Janitor;

/// Far longer than anything here takes, for a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);

/// A script that writes down its number and its environment, and stops when it is told to. `$4` is
/// the folder of results.
const RESIDENT: &str =
    "trap 'exit 143' TERM\nenv >\"$4/env\"\necho $$ >>\"$4/pids\"\nwhile :; do sleep 0.05; done";

/// Folders of an installation. What runs in it is stopped when it is dropped.
struct World {
    dir: TempDir,
    runtime: ProcessRuntime,
    _janitor: Janitor,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = restarted(dir.path());
        let janitor = Janitor::new(None, &[dir.path()]);
        Self { dir, runtime, _janitor: janitor }
    }

    /// Returns the spec of a replica that runs a script.
    fn spec(&self, script: &str) -> ReplicaSpec {
        let spec = spec_in(self.dir.path());
        fs::create_dir_all(spec.program.parent().unwrap()).unwrap();
        for folder in [&spec.tasks, &spec.results, &spec.workspace] {
            fs::create_dir_all(folder).unwrap();
        }
        install(&spec.program, script);
        spec
    }

    async fn ensure(&self, spec: &ReplicaSpec) {
        self.runtime.ensure(spec, false).await.unwrap();
    }

    async fn wait(&self, replica: &ReplicaId) -> Exit {
        timeout(PATIENCE, self.runtime.wait(replica)).await.unwrap().unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A test that fails leaves its processes to this.
        let mark = format!("SUPERVISOR_REPLICA={}/", self.dir.path().join("state").display());
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let environ = fs::read(process.path().join("environ")).unwrap_or_default();
            let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid.and_then(Pid::from_raw)
                && environ.split(|&byte| byte == 0).any(|text| text.starts_with(mark.as_bytes()))
            {
                let _gone_already = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Returns the runtime of another daemon in the same installation.
fn restarted(dir: &Path) -> ProcessRuntime {
    ProcessRuntime::new(dir.join("state"))
}

fn spec_in(dir: &Path) -> ReplicaSpec {
    ReplicaSpec {
        replica: "marie-1".parse().unwrap(),
        worker: "marie".parse().unwrap(),
        image: String::new(),
        program: dir.join("bin/worker"),
        claude: None,
        secret: protocol::ReportKey::new([7; 32]).secret(&"marie-1".parse().unwrap()),
        tasks: dir.join("tasks"),
        results: dir.join("results"),
        workspace: dir.join("workspace"),
        workspace_mode: WorkspaceMode::ReadOnly,
        login: None,
        auth: Auth::Gateway,
        scratch: dir.join("scratch"),
        gateway: dir.join("gateway"),
        egress: Vec::new(),
        requests: Default::default(),
        resources: Resources::default(),
        user: Owner { uid: 1000, gid: 1000 },
        asks_model: true,
        container: protocol::ContainerMode::Resident,
        accepted: Vec::new(),
    }
}

/// Puts a program where it is run from, in place of one that may be running.
fn install(program: &Path, script: &str) {
    let mut file = tempfile::NamedTempFile::new_in(program.parent().unwrap()).unwrap();
    file.write_all(format!("#!/bin/bash\n{script}\n").as_bytes()).unwrap();
    file.as_file().set_permissions(Permissions::from_mode(0o755)).unwrap();
    file.persist(program).unwrap();
}

/// Waits until a file has that many lines, and returns them.
async fn lines(path: PathBuf, count: usize) -> Vec<String> {
    let read = async {
        loop {
            let text = fs::read_to_string(&path).unwrap_or_default();
            if text.matches('\n').count() >= count {
                return text.lines().map(str::to_owned).collect();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, read).await.unwrap()
}

async fn pids(spec: &ReplicaSpec, count: usize) -> Vec<i32> {
    let lines = lines(spec.results.join("pids"), count).await;
    lines.iter().map(|line| line.parse().unwrap()).collect()
}

/// Waits until a process has become that program.
async fn becomes(pid: i32, program: &str) {
    let look = async {
        while fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim() != program {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, look).await.unwrap();
}

fn runs(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn second_ensure_adopts_also_after_a_restart() {
    let world = World::new();
    let spec = world.spec(RESIDENT);
    world.ensure(&spec).await;
    world.ensure(&spec).await;
    let later = restarted(world.dir.path());
    later.ensure(&spec, false).await.unwrap();
    assert_eq!(pids(&spec, 1).await.len(), 1);
    let found = Found { replica: spec.replica.clone(), running: true };
    assert_eq!(later.list().await.unwrap(), [found]);

    // How it ends is told to the daemon that started it only.
    let stop = world.runtime.stop(&spec.replica, PATIENCE);
    let (mine, theirs, stopped) =
        tokio::join!(world.wait(&spec.replica), later.wait(&spec.replica), stop);
    stopped.unwrap();
    assert_eq!((mine.code, theirs.unwrap().code), (Some(143), None));
    assert!(later.list().await.unwrap().is_empty());
}

/// Plays a daemon that starts a worker and dies. Does nothing unless a test has started it.
#[tokio::test]
async fn daemon_for_another_test() {
    if let Some(dir) = env::var_os("TEST_DAEMON_IN") {
        let dir = PathBuf::from(dir);
        restarted(&dir).ensure(&spec_in(&dir), false).await.unwrap();
        kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
    }
}

#[tokio::test]
async fn worker_outlives_the_daemon_and_knows_none_of_its_secrets() {
    let world = World::new();
    let spec = world.spec(RESIDENT);
    let daemon = Command::new(env::current_exe().unwrap())
        .args(["--exact", "daemon_for_another_test"])
        .env("TEST_DAEMON_IN", world.dir.path())
        .env("ANTHROPIC_API_KEY", "secret")
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(!daemon.success());

    world.ensure(&spec).await;
    let pids = pids(&spec, 1).await;
    assert_eq!(pids.len(), 1);
    let session = getsid(Pid::from_raw(pids[0])).unwrap();
    assert_eq!(session.as_raw_nonzero().get(), pids[0], "it has its own session");
    let mut names: Vec<String> = lines(spec.results.join("env"), 5)
        .await
        .iter()
        .map(|line| line.split('=').next().unwrap().to_owned())
        .filter(|name| !["PWD", "SHLVL", "_", "LANG", "TZ"].contains(&name.as_str()))
        .collect();
    names.sort();
    assert_eq!(names, ["HOME", "PATH", "SUPERVISOR_REPLICA", "SUPERVISOR_REPORT_SECRET"]);

    let (exit, stopped) =
        tokio::join!(world.wait(&spec.replica), world.runtime.stop(&spec.replica, PATIENCE));
    stopped.unwrap();
    assert_eq!(exit.code, None);
    assert!(!runs(pids[0]));
}

#[tokio::test]
async fn worker_without_a_record_is_found_and_replaced() {
    let world = World::new();
    let spec = world.spec(RESIDENT);
    world.ensure(&spec).await;
    let first = pids(&spec, 1).await[0];
    // As after a crash between the start and the record.
    fs::remove_file(world.dir.path().join("state/marie-1.json")).unwrap();
    let later = restarted(world.dir.path());
    let found = Found { replica: spec.replica.clone(), running: true };
    assert_eq!(later.list().await.unwrap(), [found]);

    later.ensure(&spec, true).await.unwrap();
    assert!(!runs(first));
    assert!(runs(pids(&spec, 2).await[1]));
    later.stop(&spec.replica, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn number_that_was_given_to_another_process_is_not_taken_for_the_worker() {
    let world = World::new();
    let spec = world.spec("exit 0");
    world.ensure(&spec).await;
    world.wait(&spec.replica).await;
    let path = world.dir.path().join("state/marie-1.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    record["pid"] = stranger.id().into();
    // It may have been started within the same tick of the clock.
    record["started"] = (record["started"].as_u64().unwrap() - 1).into();
    OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&path)
        .unwrap()
        .write_all(record.to_string().as_bytes())
        .unwrap();

    let later = restarted(world.dir.path());
    let waited = timeout(PATIENCE, later.wait(&spec.replica)).await.unwrap();
    assert_eq!(waited.unwrap().code, None);
    later.stop(&spec.replica, Duration::ZERO).await.unwrap();
    assert!(stranger.try_wait().unwrap().is_none(), "it was killed");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test]
async fn other_spec_replaces_a_worker_unless_it_is_busy() {
    let world = World::new();
    let spec = world.spec(RESIDENT);
    world.ensure(&spec).await;
    let first = pids(&spec, 1).await[0];
    let other = ReplicaSpec { scratch: world.dir.path().join("elsewhere"), ..spec.clone() };
    world.runtime.ensure(&other, true).await.unwrap();
    assert!(runs(first));

    world.ensure(&other).await;
    assert!(!runs(first));
    pids(&spec, 2).await;

    install(&spec.program, &format!("{RESIDENT} # new"));
    world.ensure(&other).await;
    pids(&spec, 3).await;
    world.runtime.stop(&spec.replica, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn exit_code_and_last_words_are_of_this_start() {
    let world = World::new();
    let script = "if [ -e \"$2/again\" ]; then kill -SEGV $$; fi; echo good; echo bye >&2; exit 7";
    let spec = world.spec(script);
    world.ensure(&spec).await;
    let exit = world.wait(&spec.replica).await;
    assert_eq!(exit, Exit { code: Some(7), oom: false, output: "good\nbye".to_owned() });
    assert_eq!(world.wait(&spec.replica).await, exit);
    let found = Found { replica: spec.replica.clone(), running: false };
    assert_eq!(world.runtime.list().await.unwrap(), [found]);

    fs::create_dir(spec.tasks.join("again")).unwrap();
    world.ensure(&spec).await;
    let exit = world.wait(&spec.replica).await;
    assert_eq!((exit.code, exit.output.as_str()), (Some(139), ""));
    let log = fs::read_to_string(world.runtime.log_path(&spec.replica)).unwrap();
    assert!(log.starts_with("good\nbye\n"), "{log}");
    world.runtime.stop(&spec.replica, Duration::ZERO).await.unwrap();
    assert_eq!(world.wait(&spec.replica).await, Exit::unknown());
}

/// A worker with a child that does not stop, one in a session of its own, one that is only known by
/// its session, and one that is only known by its parent.
const PARENT: &str = r#"
    trap "exit 143" TERM
    ignore() { trap "" TERM; exec sleep 1000; }
    ignore & echo $! >>"$4/pids"
    setsid sleep 1000 & echo $! >>"$4/pids"
    (env -i sleep 1000 & echo $! >>"$4/pids")
    env -i setsid sleep 1000 & echo $! >>"$4/pids"
    echo $$ >>"$4/pids"
    while :; do sleep 0.05; done
"#;

#[tokio::test]
async fn stop_leaves_nothing_that_the_worker_started() {
    let world = World::new();
    let spec = world.spec(PARENT);
    world.ensure(&spec).await;
    let pids = pids(&spec, 5).await;
    for pid in &pids[..4] {
        becomes(*pid, "sleep").await;
    }
    assert!(runs(pids[4]));
    let (exit, stopped) =
        tokio::join!(world.wait(&spec.replica), world.runtime.stop(&spec.replica, PATIENCE));
    stopped.unwrap();
    assert_eq!(exit.code, Some(143));
    assert_eq!(pids.into_iter().filter(|&pid| runs(pid)).count(), 0);
    // Again, for what is gone.
    world.runtime.stop(&spec.replica, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn worker_that_does_not_stop_is_killed() {
    let world = World::new();
    let spec = world.spec("trap '' TERM\necho $$ >>\"$4/pids\"\nwhile :; do sleep 0.05; done");
    world.ensure(&spec).await;
    let pids = pids(&spec, 1).await;
    let grace = Duration::from_millis(300);
    let (exit, stopped) =
        tokio::join!(world.wait(&spec.replica), world.runtime.stop(&spec.replica, grace));
    stopped.unwrap();
    assert_eq!(exit.code, Some(137));
    assert!(!runs(pids[0]));
}

#[tokio::test]
async fn what_a_killed_worker_left_behind_is_gone_before_the_next_starts() {
    let world = World::new();
    let spec = world.spec("setsid sleep 1000 & echo $! >>\"$4/pids\"; kill -KILL $$");
    world.ensure(&spec).await;
    assert_eq!(world.wait(&spec.replica).await.code, Some(137));
    let left = pids(&spec, 1).await[0];
    assert!(runs(left));
    let found = Found { replica: spec.replica.clone(), running: true };
    assert_eq!(world.runtime.list().await.unwrap(), [found]);

    world.ensure(&spec).await;
    assert!(!runs(left));
    world.wait(&spec.replica).await;
    world.runtime.stop(&spec.replica, Duration::ZERO).await.unwrap();
    assert!(!runs(pids(&spec, 2).await[1]));
    assert!(world.runtime.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn program_that_is_missing_is_named() {
    let world = World::new();
    let spec = world.spec(RESIDENT);
    let no_claude = ReplicaSpec { claude: Some("/nowhere/claude".into()), ..spec.clone() };
    let no_worker = ReplicaSpec { program: "/nowhere/worker".into(), ..spec };
    for (spec, missing) in [(no_claude, "/nowhere/claude"), (no_worker, "/nowhere/worker")] {
        let error = world.runtime.ensure(&spec, false).await.unwrap_err();
        assert!(
            matches!(&error, RuntimeError::ProgramMissing { path, .. } if path == Path::new(missing)),
            "{error:?}"
        );
    }
    assert!(world.runtime.list().await.unwrap().is_empty());
    world.runtime.check(&[]).await.unwrap();
}
