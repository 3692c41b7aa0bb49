//! Where the key of a running daemon can be seen from outside: nowhere.

#![expect(clippy::unwrap_used, reason = "a test that can't go on should say where")]
#![expect(clippy::disallowed_methods, reason = "a test's own files, which nobody else reads")]

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const KEY: &str = "sk-test-2b91d07c4aa";

/// Far longer than anything here takes, for a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);

/// An installation whose one worker is never started.
struct World {
    dir: TempDir,
    sockets: TempDir,
}

impl World {
    fn new(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("workspaces/orchestrator")).unwrap();
        let worker = "description = \"Plans.\"\n";
        fs::write(dir.path().join("workspaces/orchestrator/worker.toml"), worker).unwrap();
        fs::write(dir.path().join("supervisor.toml"), config).unwrap();
        Self { dir, sockets: tempfile::Builder::new().prefix("k").tempdir().unwrap() }
    }

    /// Returns a command with nothing of the test's environment but the `PATH`.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("XDG_RUNTIME_DIR", self.sockets.path())
            .env("SUPERVISOR_DIR", self.dir.path())
            .env("SUPERVISOR_CLAUDE", "/bin/true")
            .env("SUPERVISOR_WORKER", "/bin/true")
            .env("SUPERVISOR_RUNTIME", "process")
            .env("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
            .env("ANTHROPIC_API_KEY", KEY)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn supervisor(&self) -> Command {
        self.command(env!("CARGO_BIN_EXE_supervisor"))
    }

    /// Waits until a daemon answers, and returns its number.
    fn pid(&self) -> u32 {
        let limit = Instant::now() + PATIENCE;
        loop {
            let output = self.supervisor().args(["status", "--json"]).output().unwrap();
            let status: serde_json::Value =
                serde_json::from_slice(&output.stdout).unwrap_or_default();
            if let Some(pid) = status["daemon"]["pid"].as_u64() {
                return pid.try_into().unwrap();
            }
            assert!(Instant::now() < limit, "no daemon answers");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asserts that neither the daemon's environment nor a file of the installation has the key.
    fn assert_hidden(&self, pid: u32) {
        let proc = Path::new("/proc").join(pid.to_string());
        for name in ["environ", "cmdline"] {
            let text = fs::read(proc.join(name)).unwrap();
            assert!(!text.is_empty() && !contains(&text), "the key is in /proc/{pid}/{name}");
        }
        assert_eq!(fs::read_link(proc.join("fd/0")).unwrap(), Path::new("/dev/null"));
        let mut folders = vec![self.dir.path().to_owned(), self.sockets.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap() {
                    kind if kind.is_dir() => folders.push(entry.path()),
                    kind if kind.is_file() => {
                        let text = fs::read(entry.path()).unwrap();
                        assert!(!contains(&text), "the key is in {}", entry.path().display());
                    }
                    _ => {}
                }
            }
        }
    }
}

fn contains(text: &[u8]) -> bool {
    text.windows(KEY.len()).any(|part| part == KEY.as_bytes())
}

/// A daemon; killed when dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn key_is_not_in_the_environment_of_a_daemon_in_the_foreground() {
    let world = World::new("");
    let daemon = Daemon(world.supervisor().arg("up").spawn().unwrap());
    let pid = world.pid();
    assert_eq!(pid, daemon.0.id(), "it should be the same process");
    world.assert_hidden(pid);
}

#[test]
fn key_is_not_in_the_environment_of_a_daemon_in_the_background() {
    let world = World::new("");
    assert!(world.supervisor().args(["up", "--detach"]).status().unwrap().success());
    let pid = world.pid();
    world.assert_hidden(pid);
    assert!(world.supervisor().arg("down").status().unwrap().success());
}

#[test]
fn key_command_does_not_get_the_key_of_the_environment() {
    let world = World::new(
        "[keys.workers.orchestrator]\ncommand = [\"sh\", \"-c\", \"echo ${ANTHROPIC_API_KEY:+two words}own\"]\n",
    );
    let output = world.supervisor().args(["doctor", "--json"]).output().unwrap();
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let keys = findings.iter().find(|finding| finding["check"] == "keys").unwrap();
    assert_eq!(keys["state"], "ok", "{keys}");
}

#[test]
fn bad_key_stops_the_start_of_both_with_its_reason() {
    let world = World::new("[keys]\nfile = \"absent\"\n");
    for more in [&["up"][..], &["up", "--detach"]] {
        let mut up = world.supervisor();
        let output = up.env_remove("ANTHROPIC_API_KEY").args(more).stderr(Stdio::piped()).output();
        let output = output.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("supervisor.toml:2:8: the key file"), "{said}");
        assert!(said.contains("Hint: Put the key there"), "{said}");
    }
}

#[test]
fn daemon_that_is_killed_leaves_no_core() {
    let world = World::new("");
    // Not SIGSEGV: Rust's own handler passes over one that no fault has raised.
    let kill = |child: &mut Child| {
        kill_process(Pid::from_child(child), Signal::QUIT).unwrap();
        child.wait().unwrap()
    };
    let mut other = world.command("sh");
    other.args(["-c", "ulimit -c unlimited && echo && exec cat"]);
    let mut other = Daemon(other.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = [0];
    other.0.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    // Without this the test proves nothing: it is so where no program may leave a core.
    if !kill(&mut other.0).core_dumped() {
        println!("No program leaves a core here.");
    }

    let mut up = world.command("sh");
    up.args(["-c", "ulimit -c unlimited; exec \"$0\" up", env!("CARGO_BIN_EXE_supervisor")]);
    let mut daemon = Daemon(up.spawn().unwrap());
    assert_eq!(world.pid(), daemon.0.id());
    let ended = kill(&mut daemon.0);
    assert_eq!(ended.signal(), Some(Signal::QUIT.as_raw()));
    assert!(!ended.core_dumped(), "{ended}");
}
