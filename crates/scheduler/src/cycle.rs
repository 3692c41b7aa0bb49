//! Tasks that would wait for each other.

use std::collections::{HashMap, HashSet, VecDeque};

use protocol::{Status, Task, TaskId, TaskKind};

use crate::graph::TaskIx;
use crate::run::RunIx;
use crate::{Scheduler, lifecycle, work};

/// What takes part in a cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Vertex {
    Task(TaskIx),
    /// The answer of a run that was not added yet. It will depend on all work of the run.
    Answer(RunIx),
}

/// A search in one direction, breadth first.
struct Search {
    queue: VecDeque<Vertex>,
    /// From where each was reached.
    from: HashMap<Vertex, Option<Vertex>>,
    goals: HashSet<Vertex>,
}

impl Search {
    fn new(starts: &[Vertex], goals: &[Vertex]) -> Self {
        Self {
            queue: starts.iter().copied().collect(),
            from: starts.iter().map(|&vertex| (vertex, None)).collect(),
            goals: goals.iter().copied().collect(),
        }
    }

    fn reach(&mut self, vertex: Vertex, next: impl IntoIterator<Item = Vertex>) {
        for next in next {
            work::count();
            self.from.entry(next).or_insert_with(|| {
                self.queue.push_back(next);
                Some(vertex)
            });
        }
    }

    /// Returns the way from a start to a goal.
    fn way_to(&self, goal: Vertex) -> Vec<Vertex> {
        let back = |vertex: &Vertex| self.from.get(vertex).copied().flatten();
        let mut way: Vec<_> = std::iter::successors(Some(goal), back).collect();
        way.reverse();
        way
    }
}

impl Scheduler {
    /// Returns the cycle that the task, which is not added yet, would close: each depends on the
    /// next, and the last is the first again.
    ///
    /// Only a task that others wait for can close one. The search goes up and down by turns, and
    /// one end is enough, so a task between a long chain and a short one costs the short one.
    pub(crate) fn cycle_with(&self, task: &Task) -> Option<Vec<TaskId>> {
        if task.dependencies.contains(&task.id) {
            return Some(vec![task.id.clone(), task.id.clone()]);
        }
        let below = self.waiting_on(task);
        if below.is_empty() {
            return None;
        }
        let above: Vec<_> = self.vertices(&task.dependencies).collect();
        let mut up = Search::new(&above, &below);
        let mut down = Search::new(&below, &above);
        let way = loop {
            let vertex = up.queue.pop_front()?;
            if up.goals.contains(&vertex) {
                break up.way_to(vertex);
            }
            self.go_up(&mut up, vertex);
            let vertex = down.queue.pop_front()?;
            if down.goals.contains(&vertex) {
                break down.way_to(vertex).into_iter().rev().collect();
            }
            self.go_down(&mut down, vertex, task);
        };
        let names = way.iter().filter_map(|&vertex| self.name(vertex));
        let own = || std::iter::once(task.id.clone());
        Some(own().chain(names).chain(own()).collect())
    }

    /// Returns what names stand for, as far as that is known.
    fn vertices(&self, ids: &[TaskId]) -> impl Iterator<Item = Vertex> {
        ids.iter().filter_map(|id| match self.graph.find(id) {
            Some(ix) => Some(Vertex::Task(ix)),
            None => self.graph.answer_to_come(id).map(Vertex::Answer),
        })
    }

    /// Returns what depends on a task that was not added, by its name or as work of its run.
    fn waiting_on(&self, task: &Task) -> Vec<Vertex> {
        let by_name = self.graph.awaiting(&task.id).iter().map(|&ix| Vertex::Task(ix));
        let run = self.run_index.get(&task.run).copied();
        let answer = run.and_then(|run| self.answer_of(run, &task.dependencies));
        by_name.chain(answer).collect()
    }

    /// Returns the answer that a run will have, if anything waits for it or `more` names it.
    fn answer_of(&self, run: RunIx, more: &[TaskId]) -> Option<Vertex> {
        let id = lifecycle::answer_name(&self.runs[run].entry.short)?;
        let awaited = !self.graph.awaiting(&id).is_empty() || more.contains(&id);
        (awaited && self.graph.answer_to_come(&id).is_some()).then_some(Vertex::Answer(run))
    }

    fn go_up(&self, search: &mut Search, vertex: Vertex) {
        match vertex {
            Vertex::Task(ix) => {
                let entry = &self.graph[ix].entry;
                // What is complete waits for nothing, and never will again.
                if entry.status() != Some(Status::Complete) {
                    search.reach(vertex, self.vertices(&entry.task.dependencies));
                }
            }
            Vertex::Answer(run) => {
                search.reach(vertex, self.runs[run].tasks.iter().map(|&ix| Vertex::Task(ix)));
            }
        }
    }

    fn go_down(&self, search: &mut Search, vertex: Vertex, task: &Task) {
        match vertex {
            Vertex::Task(ix) => {
                let node = &self.graph[ix];
                search.reach(vertex, node.dependents.iter().map(|&ix| Vertex::Task(ix)));
                if node.entry.task.kind == TaskKind::Work {
                    search.reach(vertex, self.answer_of(node.run, &task.dependencies));
                }
            }
            Vertex::Answer(_) => {
                let id = self.name(vertex);
                let waiting = id.iter().flat_map(|id| self.graph.awaiting(id));
                search.reach(vertex, waiting.map(|&ix| Vertex::Task(ix)));
            }
        }
    }

    fn name(&self, vertex: Vertex) -> Option<TaskId> {
        match vertex {
            Vertex::Task(ix) => Some(self.graph[ix].entry.task.id.clone()),
            Vertex::Answer(run) => lifecycle::answer_name(&self.runs[run].entry.short),
        }
    }
}
