//! A slot, and the worker that serves it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use protocol::{Attempt, ReportKey, ReportOf, ReportSecret, TaskId, TaskResult, Token, strict};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::messages::{Answer, serve};

/// How long anything may take that is not said to take long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something is there.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The folders of a replica.
pub(crate) struct Slot {
    dir: tempfile::TempDir,
}

impl Slot {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["tasks", "results", "workspace", "scratch"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    /// Returns a path in the slot.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns an assignment for a program that is run by `sh -c`.
    pub(crate) fn script(&self, script: &str) -> Value {
        self.assignment(&json!({ "command": ["sh", "-c", script] }))
    }

    /// Returns an assignment for that driver: task `t`, attempt 1.
    pub(crate) fn assignment(&self, driver: &Value) -> Value {
        json!({
            "task": { "task_id": "t", "worker": "marie", "description": "Do it." },
            "attempt": 1,
            "token": "00000000-0000-4000-8000-000000000001",
            "session": {
                "id": "00000000-0000-4000-8000-000000000002", "resume": false, "used": {},
                "cost_usd": 0.0,
            },
            "timeout": { "secs": 60, "nanos": 0 },
            "idle_timeout": { "secs": 60, "nanos": 0 },
            "agent": {
                "worker": "marie", "role": "A dance teacher.", "driver": driver,
                "system_prompt": "You are Marie.", "tools": [], "copy_workspace": false,
                "own_login": false, "env": [],
            },
            "inputs": [], "feedback": [], "rehearsal": false,
        })
    }

    /// Puts an assignment into the slot, whole; returns the name of its folder.
    pub(crate) fn put(&self, assignment: &Value) -> String {
        let name = format!(
            "{}.{}",
            assignment["task"]["task_id"].as_str().unwrap(),
            assignment["attempt"]
        );
        let partial = self.path(&format!("tasks/.{name}"));
        fs::create_dir_all(&partial).unwrap();
        fs::write(partial.join("task.json"), assignment.to_string()).unwrap();
        fs::rename(partial, self.path(&format!("tasks/{name}"))).unwrap();
        name
    }

    /// Gives an attempt that is not put there yet the transcript of an earlier session.
    pub(crate) fn give(&self, name: &str, transcript: &str) {
        let partial = self.path(&format!("tasks/.{name}"));
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join("session.jsonl"), transcript).unwrap();
    }

    /// Starts a worker on this slot, and a gateway if there is none.
    pub(crate) fn worker(&self, more: &[&str]) -> Worker {
        let gateway = self.path("gateway.sock");
        if !gateway.exists() {
            serve(&gateway, vec![Answer::Text("nobody asks")]);
        }
        self.worker_alone(more)
    }

    /// Starts a worker on this slot.
    pub(crate) fn worker_alone(&self, more: &[&str]) -> Worker {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
        for (option, name) in [
            ("--tasks", "tasks"),
            ("--results", "results"),
            ("--workspace", "workspace"),
            ("--scratch", "scratch"),
            ("--gateway", "gateway.sock"),
        ] {
            command.arg(option).arg(self.path(name));
        }
        command
            .arg("--no-walls")
            .args(more)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.env("SECRET_OF_THE_WORKER", "1");
        command.env(ReportSecret::VARIABLE, secret().to_hex().as_str());
        Worker(command.stdin(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// Waits for the result of an attempt, as the supervisor would read it.
    pub(crate) fn result(&self, name: &str) -> TaskResult {
        let path = self.path(&format!("results/{name}.json"));
        let bytes = wait_for(&format!("the result of {name}"), || fs::read(&path).ok());
        opened(name, &bytes).expect("the result should carry its proof")
    }

    /// Runs one attempt to its end and returns its result.
    pub(crate) fn run(&self, assignment: &Value) -> TaskResult {
        let name = self.put(assignment);
        let mut worker = self.worker(&["--once"]);
        let result = self.result(&name);
        assert_eq!(worker.wait().code(), Some(0));
        result
    }

    /// Returns the file of that name when it has text.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok().filter(|text| !text.trim().is_empty())
    }

    pub(crate) fn transcript(&self, name: &str) -> Vec<Value> {
        let text = self.text(&format!("results/{name}/transcript.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The secret of the slot's worker.
pub(crate) fn secret() -> ReportSecret {
    ReportKey::new([7; 32]).secret(&"marie-1".parse().unwrap())
}

/// Returns the report in a result file of the attempt of that name, as the supervisor would read it, if it carries
/// its proof.
pub(crate) fn opened(name: &str, bytes: &[u8]) -> Option<TaskResult> {
    let (task, attempt): (TaskId, Attempt) = TaskId::from_slot_name(name).unwrap();
    let token = json!("00000000-0000-4000-8000-000000000001");
    let token: Token = serde_json::from_value(token).unwrap();
    let of = ReportOf { run: protocol::RunId::Adhoc, task: &task, attempt, token };
    let report = secret().open(of, bytes)?;
    Some(strict::from_slice(report).expect("the supervisor should take it"))
}

/// A worker; killed when dropped.
pub(crate) struct Worker(Child);

impl Worker {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("the worker's end", || self.0.try_wait().unwrap())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns whether a process lives: is there and no zombie.
pub(crate) fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat"));
    stat.is_ok_and(|stat| !stat[stat.rfind(')').unwrap()..].starts_with(") Z"))
}
