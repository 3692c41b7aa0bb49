//! What the scheduler can be asked.

use protocol::{Attempt, ReplicaId, RunId, TaskError, TaskId, WorkerId};

use crate::{RunEntry, Scheduler, TaskEntry};

impl Scheduler {
    /// Returns what is known of a task.
    pub fn task(&self, id: &TaskId) -> Option<&TaskEntry> {
        self.graph.find(id).map(|ix| &self.graph[ix].entry)
    }

    /// Returns what is known of a run.
    pub fn run(&self, id: &RunId) -> Option<&RunEntry> {
        self.run_index.get(id).map(|&ix| &self.runs[ix].entry)
    }

    /// Returns all runs, in order of opening.
    pub fn runs(&self) -> impl Iterator<Item = &RunEntry> {
        self.runs.iter().map(|run| &run.entry)
    }

    /// Returns the tasks of a run, in order of addition; none if it does not exist.
    pub fn run_tasks(&self, id: &RunId) -> impl Iterator<Item = &TaskEntry> {
        let tasks = self.run_index.get(id).map(|&ix| self.runs[ix].tasks.iter());
        tasks.into_iter().flatten().map(|&ix| &self.graph[ix].entry)
    }

    /// Returns the dependencies for which a task waits, in the order of its own list. Those that
    /// do not exist yet are among them. Empty when the task does not exist.
    pub fn waiting_for(&self, id: &TaskId) -> Vec<TaskId> {
        let Some(ix) = self.graph.find(id) else {
            return Vec::new();
        };
        let node = &self.graph[ix];
        if node.unmet == 0 || !node.is_idle() {
            return Vec::new();
        }
        let met = |id: &TaskId| self.task(id).is_some_and(|entry| node.is_met_by(entry.status()));
        node.entry.task.dependencies.iter().filter(|id| !met(id)).cloned().collect()
    }

    /// Returns the live attempt that a replica has.
    pub fn attempt_on(&self, replica: &ReplicaId) -> Option<(&TaskId, Attempt)> {
        let entry = &self.graph[self.workers.task_on(replica)?].entry;
        entry.live().map(|live| (&entry.task.id, live.attempt))
    }

    /// Returns the workers of which nothing can be started at present, and why. They go on after any
    /// [`Retry`](crate::Input::Retry), and after a restart.
    pub fn paused(&self) -> impl Iterator<Item = (&WorkerId, &TaskError)> {
        self.workers.iter().filter_map(|(_, worker)| Some((&worker.id, worker.paused.as_ref()?)))
    }

    /// Returns how many attempts are live.
    pub fn running(&self) -> usize {
        self.workers.live
    }
}
