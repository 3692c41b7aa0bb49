//! An attempt, as the one who plays the worker sees it.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::atomic_file::{self, Durability};
use protocol::{Assignment, Attempt, CANCEL_FILE, ReportOf, Status, TaskError, TaskResult, Time};
use tokio::time::sleep;

use crate::runtime::{Exit, ReplicaSpec};

/// How often a played worker looks at its folder.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// An attempt that was found in a slot.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) assignment: Assignment,
    pub(crate) spec: ReplicaSpec,
    /// The attempt's folder in `/tasks`.
    pub(crate) folder: PathBuf,
}

impl Job {
    /// Task and attempt: `build.1`.
    pub(crate) fn name(&self) -> String {
        self.assignment.task.id.slot_name(self.assignment.attempt)
    }

    pub(crate) fn attempt(&self) -> u32 {
        self.assignment.attempt.get()
    }

    /// Where the result is handed in.
    pub(crate) fn result_file(&self) -> PathBuf {
        self.spec.results.join(format!("{}.json", self.name()))
    }

    /// Where the attempt leaves things.
    pub(crate) fn left(&self) -> PathBuf {
        self.spec.results.join(self.name())
    }

    /// The file that an artifact of that name is.
    pub(crate) fn artifact(&self, path: &str) -> PathBuf {
        self.left().join("artifacts").join(path)
    }

    /// Leaves an artifact.
    pub(crate) fn leave(&self, path: &str, contents: &str) {
        let path = self.artifact(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        atomic_file::replace(&path, contents.as_bytes(), Durability::Volatile).unwrap();
    }

    /// Returns a report that the work is done.
    pub(crate) fn done(&self, artifacts: &[&str]) -> TaskResult {
        let task = &self.assignment.task;
        TaskResult {
            status: Status::Complete,
            summary: format!("{} is done", task.id),
            artifacts: artifacts.iter().map(|&path| path.to_owned()).collect(),
            execution_time: 1.5,
            error: None,
            ..self.failed(TaskError::new(protocol::FailureKind::BadOutput, ""))
        }
    }

    /// Returns a report that the attempt failed.
    pub(crate) fn failed(&self, error: TaskError) -> TaskResult {
        let task = &self.assignment.task;
        TaskResult {
            token: Some(self.assignment.token),
            ..TaskResult::without_report(
                task.id.clone(),
                task.run,
                task.worker.clone(),
                Attempt::new(self.attempt()),
                Status::Failed,
                error,
                Time::from_millis(5),
            )
        }
    }

    /// Hands in a report, with the worker's proof.
    pub(crate) fn hand_in(&self, report: &TaskResult) {
        self.hand_in_proven(&serde_json::to_vec(report).unwrap());
    }

    /// Hands in a report that may be none, with the worker's proof.
    pub(crate) fn hand_in_proven(&self, report: &[u8]) {
        let of = ReportOf::assignment(&self.assignment);
        self.hand_in_bytes(&self.spec.secret.seal(of, report));
    }

    /// Hands in anything.
    pub(crate) fn hand_in_bytes(&self, bytes: &[u8]) {
        atomic_file::replace(&self.result_file(), bytes, Durability::Volatile).unwrap();
    }

    /// Waits until the attempt is asked to stop, and returns why.
    pub(crate) async fn cancelled(&self) -> String {
        loop {
            if let Ok(reason) = fs::read_to_string(self.folder.join(CANCEL_FILE)) {
                return reason;
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Plays a worker: does `act` with one attempt after another, until one is its end.
pub(super) async fn serve<F>(spec: ReplicaSpec, act: impl Fn(Job) -> F) -> Exit
where
    F: Future<Output = Option<Exit>>,
{
    let mut handled = HashSet::new();
    loop {
        let names = names(&spec.tasks);
        handled.retain(|name| names.contains(name));
        let next = names.into_iter().find(|name| {
            !handled.contains(name) && !spec.results.join(format!("{name}.json")).exists()
        });
        let Some(name) = next else {
            sleep(LOOK_EVERY).await;
            continue;
        };
        let folder = spec.tasks.join(&name);
        // It may be cleared away at any time.
        let Ok(json) = fs::read(folder.join("task.json")) else { continue };
        let assignment = serde_json::from_slice(&json).unwrap();
        handled.insert(name);
        if let Some(exit) = act(Job { assignment, spec: spec.clone(), folder }).await {
            return exit;
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| atomic_file::is_visible(name)).collect();
    names.sort();
    names
}
