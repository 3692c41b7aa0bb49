//! The tasks and who depends on whom.

use std::collections::{HashMap, HashSet};
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use protocol::{Attempt, DecisionKind, HoldScope, OnDependencyFailure, Status, TaskId, Time};

use crate::TaskEntry;
use crate::queue::Rank;
use crate::replicas::WorkerIx;
use crate::run::RunIx;
use crate::urgency::Urgency;
use crate::work;

/// A position in the list of tasks, which is in order of addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TaskIx(u32);

/// A task and its bookkeeping.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) entry: TaskEntry,
    pub(crate) run: RunIx,
    pub(crate) worker: WorkerIx,
    /// The tasks that it depends on, as far as they were added.
    pub(crate) dependencies: Vec<TaskIx>,
    /// The tasks that depend on it.
    pub(crate) dependents: Vec<TaskIx>,
    /// How many dependencies do not let it run yet, including those that were not added.
    pub(crate) unmet: usize,
    pub(crate) urgency: Urgency,
    /// When its next attempt may be dispatched.
    pub(crate) not_before: Time,
    /// Since when it has been ready.
    pub(crate) since: Time,
    /// Its place in the queue, while it is ready and not held itself.
    pub(crate) rank: Option<Rank>,
    /// Whether there is a hold on this very task.
    pub(crate) held: bool,
    /// The hold that its last attempt began or ran into.
    pub(crate) stopped_by: Option<(HoldScope, DecisionKind)>,
    /// Why it is cancelled, if it is not that somebody asked for it.
    pub(crate) stop_reason: Option<Arc<str>>,
    /// Attempts that failed by a limit of the model's API, in a row.
    pub(crate) limited: u32,
    /// Attempts lost with their replica, in a row.
    pub(crate) lost: u32,
    /// Attempts that ran out of memory.
    pub(crate) ooms: u32,
    /// Attempts that wrote more than they may.
    pub(crate) disks: u32,
    /// Plans of its that were rejected.
    pub(crate) rejections: u32,
    /// The attempt whose plan was rejected last: a rejection that is recorded twice counts once.
    pub(crate) rejected: Option<Attempt>,
}

impl Node {
    /// Returns whether it neither has ended nor is out.
    pub(crate) fn is_idle(&self) -> bool {
        self.entry.status().is_none() && self.entry.live().is_none()
    }

    /// Returns whether a dependency that stands like this lets the task run.
    pub(crate) fn is_met_by(&self, dependency: Option<Status>) -> bool {
        match dependency {
            None => false,
            Some(Status::Complete) => true,
            Some(_) => self.entry.task.on_dependency_failure == OnDependencyFailure::Run,
        }
    }
}

/// All tasks, by position and by name.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    nodes: Vec<Node>,
    index: HashMap<TaskId, TaskIx>,
    /// The names of tasks that were cleared away out of a run that goes on: an attempt of another task of that
    /// name could be taken for one of theirs.
    gone: HashSet<TaskId>,
    /// Names that tasks depend on and that were not added yet, with those tasks.
    awaited: HashMap<TaskId, Vec<TaskIx>>,
    /// The names of the answers of runs that will have one. An answer depends on all work of its
    /// run, also before it is added.
    answers: HashMap<TaskId, RunIx>,
}

impl Index<TaskIx> for Graph {
    type Output = Node;

    fn index(&self, ix: TaskIx) -> &Node {
        &self.nodes[ix.0 as usize]
    }
}

impl IndexMut<TaskIx> for Graph {
    fn index_mut(&mut self, ix: TaskIx) -> &mut Node {
        &mut self.nodes[ix.0 as usize]
    }
}

impl Graph {
    pub(crate) fn find(&self, id: &TaskId) -> Option<TaskIx> {
        work::count();
        self.index.get(id).copied()
    }

    /// Returns how many tasks there are, without those that were forgotten.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Returns the tasks that depend on a name that was not added.
    pub(crate) fn awaiting(&self, id: &TaskId) -> &[TaskIx] {
        self.awaited.get(id).map_or(&[], Vec::as_slice)
    }

    /// Forgets a task on which nothing depends that is not forgotten too.
    pub(crate) fn forget(&mut self, ix: TaskIx) {
        let id = self[ix].entry.task.id.clone();
        self.index.remove(&id);
        self.answers.remove(&id);
        self[ix].entry.result = None;
        self[ix].dependents.clear();
        for dependency in std::mem::take(&mut self[ix].dependencies) {
            self[dependency].dependents.retain(|&dependent| dependent != ix);
        }
    }

    /// Returns whether there was a task of that name, which is cleared away.
    pub(crate) fn is_gone(&self, id: &TaskId) -> bool {
        self.gone.contains(id)
    }

    /// Returns whether no other task can have that name.
    pub(crate) fn is_taken(&self, id: &TaskId) -> bool {
        self.find(id).is_some() || self.is_gone(id)
    }

    /// Gives a name to no other task.
    pub(crate) fn clear_away(&mut self, id: &TaskId) {
        self.gone.insert(id.clone());
    }

    /// Notes under which name a run will have its answer.
    pub(crate) fn expect_answer(&mut self, id: TaskId, run: RunIx) {
        self.answers.insert(id, run);
    }

    /// Returns the run of which this is the name of the answer, if that was not added yet.
    pub(crate) fn answer_to_come(&self, id: &TaskId) -> Option<RunIx> {
        let run = *self.answers.get(id)?;
        self.find(id).is_none().then_some(run)
    }

    /// Adds a task, whose name must be new, and ties it to those that it depends on and to those
    /// that wait for it.
    pub(crate) fn add(&mut self, entry: TaskEntry, run: RunIx, worker: WorkerIx) -> TaskIx {
        let number = u32::try_from(self.nodes.len()).expect("BUG: more tasks than memory holds");
        let ix = TaskIx(number);
        let task = entry.task.clone();
        let dependents = self.awaited.remove(&task.id).unwrap_or_default();
        let mut node = Node {
            urgency: Urgency::new(task.priority),
            entry,
            run,
            worker,
            dependencies: Vec::new(),
            dependents: Vec::new(),
            unmet: 0,
            not_before: Time::ZERO,
            since: Time::ZERO,
            rank: None,
            held: false,
            stopped_by: None,
            stop_reason: None,
            limited: 0,
            lost: 0,
            ooms: 0,
            disks: 0,
            rejections: 0,
            rejected: None,
        };
        for id in &task.dependencies {
            work::count();
            let Some(&dependency) = self.index.get(id) else {
                let awaiting = self.awaited.entry(id.clone()).or_default();
                // The task's own list may name it twice.
                if awaiting.last() != Some(&ix) {
                    awaiting.push(ix);
                    node.unmet += 1;
                }
                continue;
            };
            let other = &mut self.nodes[dependency.0 as usize];
            if other.dependents.last() != Some(&ix) {
                other.dependents.push(ix);
                node.unmet += usize::from(!node.is_met_by(other.entry.status()));
                node.dependencies.push(dependency);
            }
        }
        self.index.insert(task.id.clone(), ix);
        self.nodes.push(node);
        for &dependent in &dependents {
            work::count();
            self[dependent].dependencies.push(ix);
        }
        self[ix].dependents = dependents;
        ix
    }
}
