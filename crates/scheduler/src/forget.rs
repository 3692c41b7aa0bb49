//! Forgets what has ended: runs, whose journals go with them, and tasks of the standing run, whose journal
//! says so.

use std::collections::{BTreeSet, HashSet};

use protocol::{RunId, RunMode, TaskId};

use crate::graph::TaskIx;
use crate::run::RunIx;
use crate::{RunEntry, RunPhase, Scheduler, TaskEntry};

/// Which of the runs that somebody wants gone can go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dispensable {
    /// Nothing that stays depends on them.
    pub runs: Vec<RunId>,
    /// Those on which something depends that stays: one such task each.
    pub needed: Vec<(RunId, TaskId)>,
}

impl Scheduler {
    /// Returns which of the ended runs that are `wanted` gone can go together. The standing run never ends.
    pub fn dispensable(&self, wanted: impl Fn(&RunEntry) -> bool) -> Dispensable {
        let mut going: BTreeSet<RunIx> = self
            .run_index
            .values()
            .copied()
            .filter(|&ix| {
                let run = &self.runs[ix].entry;
                let ended = matches!(run.phase, RunPhase::Ended { .. });
                ended && run.mode != RunMode::Adhoc && wanted(run)
            })
            .collect();
        let mut needed = Vec::new();
        loop {
            let found = going.iter().find_map(|&ix| {
                let tasks = self.runs[ix].tasks.iter();
                let mut dependents = tasks.flat_map(|&task| &self.graph[task].dependents);
                let staying = dependents.find(|&&task| !going.contains(&self.graph[task].run))?;
                Some((ix, self.graph[*staying].entry.task.id.clone()))
            });
            let Some((ix, task)) = found.or_else(|| self.given_out_of(&going)) else { break };
            going.remove(&ix);
            needed.push((self.runs[ix].entry.run, task));
        }
        Dispensable { runs: going.into_iter().map(|ix| self.runs[ix].entry.run).collect(), needed }
    }

    /// Returns one of these runs, and a task of it whose result another run builds on, that is none of them.
    fn given_out_of(&self, going: &BTreeSet<RunIx>) -> Option<(RunIx, TaskId)> {
        let others = self.run_index.values().filter(|ix| !going.contains(ix));
        others.flat_map(|&ix| &self.runs[ix].entry.given).find_map(|task| {
            let ix = self.graph[self.graph.find(task)?].run;
            going.contains(&ix).then(|| (ix, task.clone()))
        })
    }

    /// Returns which of the ended tasks of the standing run that are `wanted` gone can go, when those `runs` go
    /// too: nothing that stays depends on them, or builds on them.
    pub fn dispensable_tasks(
        &self,
        runs: &[RunId],
        wanted: impl Fn(&TaskEntry) -> bool,
    ) -> Vec<TaskId> {
        let Some(standing) = self.run_index.get(&RunId::Adhoc) else { return Vec::new() };
        let runs: HashSet<RunIx> =
            runs.iter().filter_map(|run| self.run_index.get(run).copied()).collect();
        let tasks = self.runs[*standing].tasks.iter().copied();
        let mut going: BTreeSet<TaskIx> = tasks
            .filter(|&ix| self.graph[ix].entry.status().is_some() && wanted(&self.graph[ix].entry))
            .collect();
        let stays = |ix: &TaskIx| !going.contains(ix) && !runs.contains(&self.graph[*ix].run);
        let others = self.run_index.values().filter(|ix| !runs.contains(ix));
        let given = others.flat_map(|&ix| &self.runs[ix].entry.given);
        let mut needed: Vec<TaskIx> = given.filter_map(|task| self.graph.find(task)).collect();
        needed.extend(going.iter().filter(|&&ix| self.graph[ix].dependents.iter().any(stays)));
        // What one depends on that stays has to stay, too.
        while let Some(ix) = needed.pop() {
            if going.remove(&ix) {
                needed.extend(&self.graph[ix].dependencies);
            }
        }
        going.into_iter().map(|ix| self.graph[ix].entry.task.id.clone()).collect()
    }

    /// Forgets runs that can go, with their tasks: see [`dispensable`](Self::dispensable). Their names are
    /// free again, but not their short forms, which are in files that people keep.
    pub fn forget(&mut self, runs: &[RunId]) {
        for run in runs {
            let Some(ix) = self.run_index.remove(run) else { continue };
            for task in std::mem::take(&mut self.runs[ix].tasks) {
                self.graph.forget(task);
            }
        }
    }
}
