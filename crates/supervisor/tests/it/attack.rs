//! A hostile agent tries every wall: `docs/walls.md` has a row for each.
//!
//! The attacks are in the crate `hostile`, a program that is the agent of a worker. What it can see from the inside it
//! says in lines of JSON; the rest is seen here. Each test ends in [`Verdicts::finish`], which compares its rows
//! with those of the table. `make attack` runs just these.

mod bounds;
mod canary;
mod files;
mod inside;
mod left;
mod planted;
mod report;
mod upstream;
mod verdicts;
mod way_out;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use supervisor::api::types::TaskStatus;

use crate::world::{World, skip, text};
use verdicts::Verdicts;

/// How long an attempt may take where a test says nothing else.
const PATIENCE: Duration = Duration::from_secs(25);

/// How long a container of the attacked worker lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// One task after another.
    Resident,
    /// One task, or less.
    Fresh,
}

impl Life {
    /// Returns the line of `worker.toml`.
    fn setting(self, world: &World) -> &'static str {
        match self {
            Self::Resident => "container = \"resident\"\n",
            Self::Fresh if has_setting(world, "per-task") => "container = \"per-task\"\n",
            Self::Fresh => "container = \"per-attempt\"\n",
        }
    }
}

/// An installation with a hostile worker, and what was seen of it.
struct Attack {
    world: World,
    verdicts: Verdicts,
    hostile: PathBuf,
    /// How long an attempt may take before it counts as hanging.
    patience: Duration,
}

/// How a task has ended.
struct Ended {
    status: Option<TaskStatus>,
    /// Its published result; null where there is none.
    result: Value,
}

impl Ended {
    fn is_complete(&self) -> bool {
        self.status == Some(TaskStatus::Complete)
    }

    /// Returns the kind of its failure; empty where it did not fail.
    fn kind(&self) -> &str {
        self.result["error"]["kind"].as_str().unwrap_or_default()
    }

    /// Returns how it has ended, in a line.
    fn told(&self) -> String {
        match self.status {
            None => "it did not end".to_owned(),
            Some(status) => {
                let error = self.result["error"]["message"].as_str().unwrap_or_default();
                format!("{status:?} {} {error}", self.kind())
            }
        }
    }
}

impl Attack {
    /// Prepares an installation for that test; the daemon is not started.
    fn of(test: &'static str) -> Option<Self> {
        let world = World::of_containers(test)?;
        let Some(hostile) = std::env::var_os("SUPERVISOR_HOSTILE").map(PathBuf::from) else {
            return skip(test, "no hostile agent: run `make test`, which builds it");
        };
        Some(Self { world, verdicts: Verdicts::of(test), hostile, patience: PATIENCE })
    }

    /// Starts the daemon.
    fn start(self) -> Self {
        Self { world: self.world.start(""), ..self }
    }

    /// Makes a worker whose agent is hostile.
    fn make_worker(&self, name: &str, settings: &str) {
        let command = "command = [\"/workspace/hostile\"]";
        let config = format!("description = \"Means harm.\"\n{command}\n{settings}");
        self.world.write(&format!("workspaces/{name}/worker.toml"), &config);
        self.add_hostile(name);
    }

    /// Puts the hostile program into a worker's folder.
    fn add_hostile(&self, name: &str) {
        let program = self.world.path(&format!("workspaces/{name}/hostile"));
        fs::copy(&self.hostile, &program).unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// Has a worker carry out an order, and waits for its end with a bound. One that does not end is cancelled.
    fn task(&self, worker: &str, id: &str, order: &str, more: &[&str]) -> Ended {
        self.begin(worker, id, order, more);
        self.end(worker, id)
    }

    fn begin(&self, worker: &str, id: &str, order: &str, more: &[&str]) {
        let description = format!("attack: {order};");
        self.world.add(worker, id, &description, &[more, &["--timeout", "120"]].concat());
    }

    fn end(&self, worker: &str, id: &str) -> Ended {
        let start = Instant::now();
        let status = loop {
            let status = self.world.task(id).status;
            if status.has_ended() {
                break Some(status);
            }
            if start.elapsed() > self.patience {
                self.world.run(&["cancel", id]);
                let cancelled = Instant::now();
                while !self.world.task(id).status.has_ended() && cancelled.elapsed() < self.patience
                {
                    std::thread::sleep(Duration::from_millis(100));
                }
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let result = self.world.path(&format!("results/{worker}/{id}.json"));
        // It is published a moment after the end is known.
        let result = (0..100).find_map(|_| {
            let read = fs::read(&result).ok();
            if read.is_none() {
                std::thread::sleep(Duration::from_millis(20));
            }
            read
        });
        let result = result.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ended { status, result: result.unwrap_or_default() }
    }

    /// Returns what the agent of a task printed, of all its attempts.
    fn said(&self, id: &str) -> Vec<String> {
        let mut logs = self.world.command();
        logs.args(["logs", id]);
        let shown = Bounded::start(logs).output().unwrap_or_default();
        text(&shown).lines().map(str::to_owned).collect()
    }

    /// Takes over what the agent of a task said of the walls.
    fn take_rows(&mut self, id: &str) {
        for line in self.said(id) {
            let Ok(row) = serde_json::from_str::<Value>(&line) else { continue };
            let (Some(name), Some(held)) = (row["row"].as_str(), row["held"].as_bool()) else {
                continue;
            };
            self.verdicts.say(name, held, row["saw"].as_str().unwrap_or_default());
        }
    }
}

impl Attack {
    /// Puts the attacked worker's folders back in order, and ends its container, so that a wall that did not hold is
    /// not counted again for the rows that follow.
    fn mend(&self, worker: &str) {
        let replica = format!("{worker}-1");
        self.world.docker(&["rm", "--force", &self.world.container(&replica)]);
        let slot = self.world.path(&format!("results/{worker}/.slots/{replica}"));
        let config = self.world.path(&format!(".supervisor/config/{worker}"));
        for folder in [slot, config] {
            if !folder.is_dir() {
                continue;
            }
            fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
            for entry in fs::read_dir(&folder).unwrap().flatten() {
                // What is nested too deep for this is left to the supervisor.
                let _ = match entry.file_type().unwrap().is_dir() {
                    true => fs::remove_dir_all(entry.path()),
                    false => fs::remove_file(entry.path()),
                };
            }
        }
    }
}

/// A command that may wait for ever for what an agent has left. It ends with the bound.
struct Bounded {
    child: Child,
    output: tempfile::NamedTempFile,
}

impl Bounded {
    fn start(mut command: Command) -> Self {
        let output = tempfile::NamedTempFile::new().unwrap();
        let stdout = output.reopen().unwrap();
        command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::null());
        Self { child: command.spawn().unwrap(), output }
    }

    /// Returns what it has printed; nothing where it had to be ended.
    fn output(mut self) -> Option<Vec<u8>> {
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if start.elapsed() > Duration::from_secs(8) {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(fs::read(self.output.path()).unwrap())
    }
}

/// Returns whether a worker's configuration knows a setting, or a value of one.
fn has_setting(world: &World, name: &str) -> bool {
    text(&world.expect(0, &["schema", "worker"]).stdout).contains(&format!("\"{name}\""))
}
