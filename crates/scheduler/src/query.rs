//! What the scheduler can be asked.

use protocol::{Attempt, Priority, ReplicaId, RunId, TaskError, TaskId, Time, WorkerId};

use crate::{RunEntry, Scheduler, TaskEntry};

/// By what a ready task goes before others: the first that differs decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its own priority, or the highest of any task below it that has not ended.
    pub priority: Priority,
    /// The longest chain of tasks below it, up to 256.
    pub chain: u16,
    /// Since when it has been ready. Who has waited long enough goes before all others.
    pub since: Time,
}

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
        let known = |run: &&RunEntry| self.run_index.contains_key(&run.run);
        self.runs.iter().map(|run| &run.entry).filter(known)
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

    /// Returns by what a task goes before others; `None` when it does not exist.
    pub fn standing(&self, id: &TaskId) -> Option<Standing> {
        let node = &self.graph[self.graph.find(id)?];
        let (priority, chain) = (node.urgency.inherited, node.urgency.path);
        Some(Standing { priority, chain, since: node.since })
    }

    /// Returns how many tasks are ready for a worker.
    pub fn ready(&self, worker: &WorkerId) -> usize {
        let worker = self.workers.iter().find(|(_, other)| other.id == *worker);
        worker.map_or(0, |(_, worker)| worker.ready.len())
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
