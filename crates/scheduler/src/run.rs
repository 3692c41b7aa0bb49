//! What is known of a run.

use std::collections::BTreeSet;

use protocol::{Plan, Priority, RunId, RunMode, RunState, ShortRunId, Status, TaskId, Time};

use crate::graph::TaskIx;

/// What is known of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunEntry {
    /// The run.
    pub run: RunId,
    /// Its short form.
    pub short: ShortRunId,
    /// What a person calls it.
    pub name: Option<String>,
    /// What kind of run it is.
    pub mode: RunMode,
    /// The request, where there is one.
    pub request: Option<String>,
    /// The priority of its tasks.
    pub priority: Priority,
    /// US dollars for the whole run, as it was opened.
    pub budget_usd: Option<f64>,
    /// Tokens for the whole run, as it was opened.
    pub budget_tokens: Option<u64>,
    /// Whether the model is the built-in stand-in.
    pub rehearsal: bool,
    /// When it was opened.
    pub opened: Time,
    /// Where it stands.
    pub phase: RunPhase,
    /// The plan; only in a run that is only split.
    pub plan: Option<Plan>,
    /// The complete tasks of earlier runs whose results its answer has too.
    pub given: Vec<TaskId>,
    /// Whether somebody asked for its end.
    pub cancel_requested: bool,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunPhase {
    /// It has no plan yet.
    Planning,
    /// Its tasks are worked on.
    Executing,
    /// Its answer is written.
    Synthesising,
    /// It is over. A task that is done again opens it again.
    Ended {
        /// How it ended.
        state: RunState,
        /// When.
        at: Time,
    },
}

/// A position in the list of runs.
pub(crate) type RunIx = usize;

/// A run and its indexes. Tasks have ended in exactly one way: they are in `open`, in
/// `incomplete`, or complete.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) entry: RunEntry,
    /// In order of addition.
    pub(crate) tasks: Vec<TaskIx>,
    /// Those that have not ended.
    pub(crate) open: BTreeSet<TaskIx>,
    /// Those that ended, but are not complete.
    pub(crate) incomplete: BTreeSet<TaskIx>,
    /// How many of `open` are work.
    pub(crate) work_open: usize,
    /// How many tasks are work.
    pub(crate) work: usize,
    /// How many of them are complete.
    pub(crate) work_complete: usize,
    /// How many came from the plan.
    pub(crate) from_plan: usize,
    pub(crate) plan_task: Option<TaskIx>,
    pub(crate) answer_task: Option<TaskIx>,
    /// Work was reset while the live attempt at the answer was out: it would have a gap.
    pub(crate) answer_is_stale: bool,
    /// How many tasks the accepted plan has.
    pub(crate) accepted: Option<usize>,
    pub(crate) ended: Option<(RunState, Time)>,
    /// Whether there is a hold on it.
    pub(crate) held: bool,
}

impl Run {
    pub(crate) fn new(entry: RunEntry) -> Self {
        Self {
            entry,
            tasks: Vec::new(),
            open: BTreeSet::new(),
            incomplete: BTreeSet::new(),
            work_open: 0,
            work: 0,
            work_complete: 0,
            from_plan: 0,
            plan_task: None,
            answer_task: None,
            answer_is_stale: false,
            accepted: None,
            ended: None,
            held: false,
        }
    }

    /// Brings the phase in line with the rest. A phase is never set otherwise.
    pub(crate) fn rephase(&mut self) {
        let answering = self.answer_task.is_some_and(|ix| self.open.contains(&ix));
        self.entry.phase = match self.ended {
            Some((state, at)) => RunPhase::Ended { state, at },
            None if self.entry.mode == RunMode::Adhoc => RunPhase::Executing,
            None if self.accepted.is_none() => RunPhase::Planning,
            None if answering && self.work_open == 0 => RunPhase::Synthesising,
            None => RunPhase::Executing,
        };
    }

    /// Takes a task into `open`.
    pub(crate) fn reopen(&mut self, ix: TaskIx, is_work: bool) {
        self.open.insert(ix);
        self.incomplete.remove(&ix);
        self.work_open += usize::from(is_work);
    }

    /// Takes a task out of `open`.
    pub(crate) fn close(&mut self, ix: TaskIx, is_work: bool, status: Status) {
        self.open.remove(&ix);
        self.work_open -= usize::from(is_work);
        if status == Status::Complete {
            self.work_complete += usize::from(is_work);
        } else {
            self.incomplete.insert(ix);
        }
    }

    /// Counts a task no longer that has ended.
    pub(crate) fn forget(&mut self, ix: TaskIx, is_work: bool, is_complete: bool) {
        self.incomplete.remove(&ix);
        self.work -= usize::from(is_work);
        self.work_complete -= usize::from(is_work && is_complete);
    }
}
