//! How a daemon ends: by a signal, by a drain, by a signal in the middle of one. And a daemon that can't
//! watch its folders, or write its log. Real processes: the daemon, its worker, and a program in place of the agent.

#![expect(clippy::unwrap_used, reason = "a test ends where it is wrong")]
#![expect(clippy::disallowed_methods, reason = "a test's own files, which nobody else reads")]

#[path = "support/janitor.rs"]
mod janitor;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use janitor::Janitor;

/// Far longer than anything here takes, for a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is promised.
const END_LIMIT: Duration = Duration::from_secs(5);

/// The agent: notes that it began, with its number, and works until `go` is there.
const AGENT: &str =
    "echo $$ >>\"$0/begun\"; while [ ! -e \"$0/go\" ]; do sleep 0.05; done; echo done";

struct World {
    dir: TempDir,
    sockets: TempDir,
    worker: PathBuf,
    daemon: Option<Child>,
    _janitor: Janitor,
}

impl World {
    fn new(test: &str) -> Option<Self> {
        let Some(worker) = std::env::var_os("SUPERVISOR_WORKER").map(PathBuf::from) else {
            return skip(test, "no static worker: run `make test`, which builds it");
        };
        let dir = tempfile::Builder::new().prefix("sup").tempdir().unwrap();
        let sockets = tempfile::Builder::new().prefix("s").tempdir().unwrap();
        let janitor = Janitor::new(None, &[dir.path(), sockets.path()]);
        for name in ["marie", "orchestrator"] {
            let folder = dir.path().join("workspaces").join(name);
            fs::create_dir_all(&folder).unwrap();
            let agent = ["sh", "-c", AGENT, dir.path().to_str().unwrap()];
            let command = serde_json::to_string(&agent).unwrap();
            let text =
                format!("description = \"Does things.\"\nreplicas = 1\ncommand = {command}\n");
            fs::write(folder.join("worker.toml"), text).unwrap();
        }
        Some(Self { dir, sockets, worker, daemon: None, _janitor: janitor })
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("XDG_RUNTIME_DIR", self.sockets.path())
            .env("SUPERVISOR_DIR", self.dir.path())
            .env("SUPERVISOR_CLAUDE", "/bin/true")
            .env("SUPERVISOR_WORKER", &self.worker)
            .env("SUPERVISOR_RUNTIME", "process")
            .env("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
            .env("ANTHROPIC_API_KEY", "sk-test")
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    fn supervisor(&self) -> Command {
        self.command(env!("CARGO_BIN_EXE_supervisor"))
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.supervisor().args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "supervisor {args:?}\n{said}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    fn up(&mut self) {
        let command = self.supervisor();
        self.start(command);
    }

    fn start(&mut self, command: Command) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("daemon.log"));
        self.start_with_log(command, log.unwrap());
    }

    fn start_with_log(&mut self, mut command: Command, log: fs::File) {
        let said = log.try_clone().unwrap();
        self.daemon = Some(command.arg("up").stdout(said).stderr(log).spawn().unwrap());
        until("the daemon answers", || {
            let output = self.supervisor().args(["status", "--json"]).output().unwrap();
            output.status.success().then_some(())
        });
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.run(&["status", "--json"])).unwrap()
    }

    fn add(&self, task: &str) {
        self.run(&["task", "marie", "Do it", "--id", task, "--detach"]);
    }

    /// Returns the numbers of the agents that began, once there are so many.
    fn begun(&self, count: usize) -> Vec<Pid> {
        until("an agent has begun", || {
            let text = fs::read_to_string(self.path("begun")).unwrap_or_default();
            let pids: Vec<_> =
                text.lines().map(|l| Pid::from_raw(l.parse().unwrap()).unwrap()).collect();
            (pids.len() >= count && text.ends_with('\n')).then_some(pids)
        })
    }

    fn result(&self, task: &str) -> Value {
        let path = self.path(&format!("results/marie/{task}.json"));
        until("the result is there", || {
            let bytes = fs::read(&path).ok()?;
            serde_json::from_slice(&bytes).ok()
        })
    }

    fn signal(&self, signal: Signal) {
        let pid = self.daemon.as_ref().unwrap().id().try_into().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Returns how the daemon ended, which it has to do in time.
    fn ended_within(&mut self, limit: Duration) -> ExitStatus {
        let (start, mut daemon) = (Instant::now(), self.daemon.take().unwrap());
        loop {
            if let Some(status) = daemon.try_wait().unwrap() {
                return status;
            }
            if start.elapsed() > limit {
                let _ = daemon.kill();
                let _ = daemon.wait();
                panic!("the daemon runs on after {limit:?}\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns the lines of the journal that tell of an event.
    fn events(&self, kind: &str) -> usize {
        let journal =
            fs::read_to_string(self.path(".supervisor/runs/adhoc/journal.jsonl")).unwrap();
        assert!(journal.ends_with('\n'), "the journal should be whole");
        journal.lines().filter(|line| line.contains(kind)).count()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.log());
        }
        let _ = self.supervisor().arg("down").stderr(Stdio::null()).status();
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// Waits until there is something to see.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Says that a test is left out. Where everything must be there, that is a failure.
fn skip<T>(test: &str, why: &str) -> Option<T> {
    assert!(std::env::var_os("REQUIRE_DOCKER").is_none(), "{test}: {why}");
    println!("SKIPPED: {test}: {why}");
    if let Some(path) = std::env::var_os("TEST_SKIPS") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "SKIPPED: {test}: {why}").unwrap();
    }
    None
}

fn lives(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

#[test]
fn sigterm_and_ctrl_c_end_the_daemon_and_its_worker_is_adopted() {
    let Some(mut world) = World::new("sigterm_and_ctrl_c_end_the_daemon") else { return };
    world.up();
    world.add("long");
    let agent = world.begun(1)[0];
    for signal in [Signal::TERM, Signal::INT] {
        // What was promised a moment before is in the journal.
        let task = format!("promised-{}", signal.as_raw());
        world.add(&task);
        world.signal(signal);
        let status = world.ended_within(END_LIMIT);
        assert!(status.success(), "{status}\n{}", world.log());
        assert_eq!(world.events(&format!("\"task_id\":\"{task}\"")), 1, "it was promised");
        assert!(lives(agent), "the agent should work on");
        assert!(!world.path("results/marie/long.json").exists());
        world.up();
    }
    assert!(!world.path(".supervisor/runs/adhoc/journal.torn").exists());
    fs::File::create(world.path("go")).unwrap();
    for task in ["long", "promised-15", "promised-2"] {
        let result = world.result(task);
        assert_eq!((&result["status"], &result["attempt"]), (&json!("complete"), &json!(1)));
    }
    assert_eq!(world.begun(3).len(), 3, "nothing should be done twice");
}

#[test]
fn drain_ends_when_the_work_does_and_a_signal_ends_it_at_once() {
    let Some(mut world) = World::new("drain_ends_when_the_work_does") else { return };
    world.up();
    world.add("runs");
    let agent = world.begun(1)[0];
    world.add("waits");
    let drain = |world: &World| {
        let mut down = world.supervisor();
        let down = down.args(["down", "--drain"]).stderr(Stdio::null()).spawn().unwrap();
        // It has been heard when nothing new is begun: the log says so.
        let before = world.log().matches("Ending.").count();
        (down, before)
    };
    let (mut down, _) = drain(&world);
    until("the drain has begun", || world.log().contains("Ending.").then_some(()));
    assert!(world.daemon.as_mut().unwrap().try_wait().unwrap().is_none(), "work is still out");
    world.signal(Signal::TERM);
    let status = world.ended_within(END_LIMIT);
    assert!(status.success(), "{status}\n{}", world.log());
    assert!(lives(agent), "who gave up waiting did not give up the work");
    down.wait().unwrap();

    world.up();
    let (mut down, before) = drain(&world);
    until("the drain has begun", || {
        (world.log().matches("Ending.").count() > before).then_some(())
    });
    fs::File::create(world.path("go")).unwrap();
    let status = world.ended_within(PATIENCE);
    assert!(status.success(), "{status}\n{}", world.log());
    assert!(down.wait().unwrap().success());
    let result = world.result("runs");
    assert_eq!((&result["status"], &result["attempt"]), (&json!("complete"), &json!(1)));
    assert!(!lives(agent), "down leaves no worker");
    assert_eq!(world.begun(1), [agent], "a drain begins nothing new");
    assert!(world.path("tasks/marie/waits.json").exists());
}

/// In a user namespace of its own, which has no instance of inotify to give.
#[test]
fn without_inotify_work_goes_on_and_status_names_the_setting() {
    let test = "without_inotify_work_goes_on_and_status_names_the_setting";
    let Some(mut world) = World::new(test) else { return };
    let script = "echo 0 >/proc/sys/user/max_inotify_instances && exec \"$0\" \"$@\"";
    let unshare = |world: &World, program: &str| {
        let mut command = world.command("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", script, program]);
        command
    };
    let may = unshare(&world, "true").stderr(Stdio::null()).status();
    if !may.is_ok_and(|status| status.success()) {
        println!("SKIPPED: {test}: no user namespaces here");
        return;
    }
    fs::File::create(world.path("go")).unwrap();
    let command = unshare(&world, env!("CARGO_BIN_EXE_supervisor"));
    world.start(command);
    fs::write(
        world.path("tasks/marie/dropped.json"),
        "{\"task_id\":\"dropped\",\"description\":\"x\"}",
    )
    .unwrap();
    assert_eq!(world.result("dropped")["status"], "complete");
    let notices = world.status()["daemon"]["notices"].to_string();
    assert!(notices.contains("`fs.inotify.max_user_instances`"), "{notices}");
    assert!(world.run(&["status"]).contains("fs.inotify.max_user_instances"));
    let doctor = unshare(&world, env!("CARGO_BIN_EXE_supervisor"))
        .args(["doctor", "--json"])
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let findings: Vec<Value> = serde_json::from_slice(&doctor.stdout).unwrap();
    let found = findings.iter().find(|finding| finding["check"] == "watches").unwrap();
    assert!(found["cure"].as_str().unwrap().contains("fs.inotify.max_user_instances="), "{found}");
}

/// As on a full disk: what is not told is no reason to leave the work.
#[test]
fn daemon_that_has_no_room_for_its_log_works_on() {
    let Some(mut world) = World::new("daemon_that_has_no_room_for_its_log_works_on") else {
        return;
    };
    fs::File::create(world.path("go")).unwrap();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let command = world.supervisor();
    world.start_with_log(command, full);
    world.add("told-to-nobody");
    assert_eq!(world.result("told-to-nobody")["status"], "complete");
    assert!(world.daemon.as_mut().unwrap().try_wait().unwrap().is_none(), "it should be there");
    world.signal(Signal::TERM);
    let status = world.ended_within(END_LIMIT);
    assert!(status.success(), "{status}");
}
