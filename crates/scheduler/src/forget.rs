//! Forgets runs that have ended: whoever keeps the journals has taken theirs away.

use std::collections::BTreeSet;

use protocol::{RunId, RunMode, TaskId};

use crate::run::RunIx;
use crate::{RunEntry, RunPhase, Scheduler};

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
            let Some((ix, task)) = found else { break };
            going.remove(&ix);
            needed.push((self.runs[ix].entry.run, task));
        }
        Dispensable { runs: going.into_iter().map(|ix| self.runs[ix].entry.run).collect(), needed }
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
