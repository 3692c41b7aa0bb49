//! Does again what did not complete.

use std::collections::BTreeSet;

use protocol::{Decider, DecisionKind, Event, OnDependencyFailure, Status, TaskKind};

use crate::graph::TaskIx;
use crate::scheduler::Turn;
use crate::{Hold, Refusal, Scheduler, Target, work};

impl Scheduler {
    /// Resets what a person wants done again, and lets what is paused go on.
    pub(crate) fn retry(&mut self, turn: &mut Turn<'_>, target: &Target) -> Result<(), Refusal> {
        let roots: Vec<_> = match target {
            Target::Run(run) => {
                let &ix = self.run_index.get(run).ok_or(Refusal::UnknownRun(*run))?;
                self.runs[ix].incomplete.iter().copied().collect()
            }
            Target::Task(id) => {
                let ix = self.graph.find(id).ok_or_else(|| Refusal::UnknownTask(id.clone()))?;
                Some(ix).filter(|&ix| self.is_incomplete(ix)).into_iter().collect()
            }
        };
        let is_mended = |hold: &Hold| hold.kind != DecisionKind::Budget;
        let waits = self.let_go(turn, Decider::Retry, is_mended);
        if !self.workers.unpause() && !waits && roots.is_empty() {
            return Err(Refusal::NothingToRetry);
        }
        let tasks = self.to_reset(roots);
        for ix in self.dependents_first(&tasks) {
            let task = self.graph[ix].entry.task.id.clone();
            self.record(turn, Event::TaskReset { task });
        }
        Ok(())
    }

    fn is_incomplete(&self, ix: TaskIx) -> bool {
        self.graph[ix].entry.status().is_some_and(|status| status != Status::Complete)
    }

    /// Returns these tasks, those without which they would be skipped again, those that were
    /// skipped because of one of them, and the answers of runs whose work is among them.
    fn to_reset(&self, roots: Vec<TaskIx>) -> BTreeSet<TaskIx> {
        let mut tasks = BTreeSet::new();
        let mut up = roots;
        while let Some(ix) = up.pop() {
            work::count();
            let node = &self.graph[ix];
            if tasks.insert(ix)
                && node.entry.task.on_dependency_failure == OnDependencyFailure::Skip
            {
                let failed = node.dependencies.iter().copied().filter(|&ix| self.is_incomplete(ix));
                up.extend(failed);
            }
        }
        let mut down: Vec<_> = tasks.iter().copied().collect();
        while let Some(ix) = down.pop() {
            work::count();
            let id = &self.graph[ix].entry.task.id;
            for &dependent in &self.graph[ix].dependents {
                work::count();
                let entry = &self.graph[dependent].entry;
                let skipped = entry.status() == Some(Status::Skipped);
                if skipped && entry.because.first() == Some(id) && tasks.insert(dependent) {
                    down.push(dependent);
                }
            }
        }
        let answers: Vec<_> = tasks
            .iter()
            .filter(|&&ix| self.graph[ix].entry.task.kind == TaskKind::Work)
            .filter_map(|&ix| self.runs[self.graph[ix].run].answer_task)
            .filter(|&answer| self.graph[answer].entry.status().is_some())
            .collect();
        tasks.extend(answers);
        tasks
    }

    /// Returns the tasks, each after all those of them that depend on it: wherever a torn journal
    /// ends, what is reset without its dependency is merely skipped again.
    fn dependents_first(&self, tasks: &BTreeSet<TaskIx>) -> Vec<TaskIx> {
        let mut order = Vec::with_capacity(tasks.len());
        let mut seen = BTreeSet::new();
        for &root in tasks {
            let mut path = vec![(root, 0)];
            while let Some((ix, at)) = path.pop() {
                work::count();
                if at == 0 && !seen.insert(ix) {
                    continue;
                }
                match self.graph[ix].dependents.get(at) {
                    Some(&dependent) => {
                        path.push((ix, at + 1));
                        if tasks.contains(&dependent) && !seen.contains(&dependent) {
                            path.push((dependent, 0));
                        }
                    }
                    None => order.push(ix),
                }
            }
        }
        order
    }
}
