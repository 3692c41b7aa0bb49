//! How urgent a task is by what depends on it.

use std::collections::VecDeque;

use protocol::{Priority, Status};

use crate::graph::{Graph, TaskIx};
use crate::work;

/// The longest chain that is told from a longer one. It bounds what a chain costs that is dropped
/// task by task: each task's length changes at most this often.
const LONGEST_PATH: u16 = 256;

const LEVELS: [Priority; 3] = [Priority::Low, Priority::Medium, Priority::High];

/// How urgent a task is by itself and by what depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Urgency {
    own: Priority,
    /// Its own priority, or the highest of any task below it that has not ended.
    pub(crate) inherited: Priority,
    /// How many direct dependents that have not ended have each priority.
    below: [u32; LEVELS.len()],
    /// The longest chain of tasks below it that there has been, up to [`LONGEST_PATH`].
    pub(crate) path: u16,
}

impl Urgency {
    pub(crate) fn new(own: Priority) -> Self {
        Self { own, inherited: own, below: [0; LEVELS.len()], path: 0 }
    }

    /// Brings `inherited` in line. Returns what it was, if it changed.
    fn refresh(&mut self) -> Option<Priority> {
        let highest = LEVELS.into_iter().rev().find(|&level| self.below[level as usize] > 0);
        let inherited = highest.map_or(self.own, |level| level.max(self.own));
        let before = std::mem::replace(&mut self.inherited, inherited);
        (before != inherited).then_some(before)
    }
}

impl Graph {
    /// Ties a task that was just added to the urgency of its neighbours. Returns the tasks whose
    /// urgency changed.
    pub(crate) fn add_urgency(&mut self, ix: TaskIx) -> Vec<TaskIx> {
        for at in 0..self[ix].dependents.len() {
            work::count();
            let dependent = self[ix].dependents[at];
            let Urgency { inherited, path, .. } = self[dependent].urgency;
            if self[dependent].entry.status().is_none() {
                self[ix].urgency.below[inherited as usize] += 1;
            }
            let urgency = &mut self[ix].urgency;
            urgency.path = urgency.path.max((path + 1).min(LONGEST_PATH));
        }
        self[ix].urgency.refresh();
        let mut changed = self.count_in(ix);
        changed.extend(self.lengthen(ix));
        changed
    }

    /// Counts the task, which has not ended, in the urgency of those that it depends on. Returns
    /// the tasks whose urgency changed.
    pub(crate) fn count_in(&mut self, ix: TaskIx) -> Vec<TaskIx> {
        self.recount(ix, None, Some(self[ix].urgency.inherited))
    }

    /// Takes the task, which has ended, out of the urgency of those that it depends on. Returns
    /// the tasks whose urgency changed.
    pub(crate) fn count_out(&mut self, ix: TaskIx) -> Vec<TaskIx> {
        self.recount(ix, Some(self[ix].urgency.inherited), None)
    }

    fn recount(&mut self, ix: TaskIx, old: Option<Priority>, new: Option<Priority>) -> Vec<TaskIx> {
        let mut changed = Vec::new();
        // First in, first out: a task that changes twice is counted out of what it was counted in.
        let mut todo = VecDeque::from([(ix, old, new)]);
        while let Some((ix, old, new)) = todo.pop_front() {
            for at in 0..self[ix].dependencies.len() {
                work::count();
                let dependency = self[ix].dependencies[at];
                let node = &mut self[dependency];
                if let Some(old) = old {
                    node.urgency.below[old as usize] -= 1;
                }
                if let Some(new) = new {
                    node.urgency.below[new as usize] += 1;
                }
                if let Some(before) = node.urgency.refresh() {
                    changed.push(dependency);
                    if node.entry.status().is_none() {
                        todo.push_back((dependency, Some(before), Some(node.urgency.inherited)));
                    }
                }
            }
        }
        changed
    }

    /// Makes the chains above the task long enough to hold the one below it. Those of tasks that
    /// are complete no longer matter to anybody.
    fn lengthen(&mut self, ix: TaskIx) -> Vec<TaskIx> {
        let mut changed = Vec::new();
        let mut todo = vec![ix];
        while let Some(ix) = todo.pop() {
            let path = (self[ix].urgency.path + 1).min(LONGEST_PATH);
            for at in 0..self[ix].dependencies.len() {
                work::count();
                let dependency = self[ix].dependencies[at];
                let node = &mut self[dependency];
                if node.urgency.path < path && node.entry.status() != Some(Status::Complete) {
                    node.urgency.path = path;
                    changed.push(dependency);
                    todo.push(dependency);
                }
            }
        }
        changed
    }
}
