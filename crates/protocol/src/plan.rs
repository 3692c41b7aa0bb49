//! The plan: the tasks of a run and their dependencies.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::strict::nearest;
use crate::task::check_limits;
use crate::{
    FORMAT_VERSION, InvalidTask, OnDependencyFailure, Priority, RunId, ShortRunId, Status, Task,
    TaskId, TaskKind, Verify, WorkerId,
};

/// A directed acyclic graph of tasks, with names that are local to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The version of this format; absent means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// The request that the plan serves; the synthesis answers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Tasks of earlier runs that are complete in the same installation: tasks of this plan may
    /// depend on them, and the answer has their results too. For plans that a person hands in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given: Vec<TaskId>,
    /// The tasks.
    pub tasks: Vec<PlanTask>,
}

/// A task of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanTask {
    /// The name of the task in this plan: short, in words joined by `-`.
    #[serde(alias = "task_id")]
    pub id: TaskId,
    /// The worker that does it.
    pub worker: WorkerId,
    /// What to do, complete in itself: the worker sees this, the request, and the results of the
    /// dependencies.
    pub description: String,
    /// The `id`s of the tasks whose results it needs: of this plan, or `given`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<TaskId>,
    /// How soon, when several could run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Seconds that one attempt may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    /// Further attempts after a failure that may pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// What becomes of it when one that it depends on does not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_dependency_failure: Option<OnDependencyFailure>,
    /// The most that the task may spend over all its attempts, in US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_usd: Option<f64>,
    /// The most tokens that the task may use over all its attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_tokens: Option<u64>,
    /// What must hold before a result counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// Anything; handed to the worker as it is.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub context: Map<String, Value>,
}

/// The bounds that a plan must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanLimits {
    /// The most tasks.
    pub tasks: usize,
    /// The longest chain of dependencies, in tasks.
    pub depth: usize,
}

/// Something that is wrong with a plan.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum PlanFault {
    /// It is of a later version.
    #[error("`version` is {0}, and this supervisor reads up to {FORMAT_VERSION}")]
    Version(u32),
    /// It has no task.
    #[error("the plan has no tasks")]
    Empty,
    /// It has too many tasks.
    #[error("the plan has {found} tasks, at most {max} are allowed")]
    TooMany {
        /// How many it has.
        found: usize,
        /// How many it may have.
        max: usize,
    },
    /// Its longest chain is too long.
    #[error("the longest chain of dependencies has {found} tasks, at most {max} are allowed")]
    TooDeep {
        /// How long it is.
        found: usize,
        /// How long it may be.
        max: usize,
    },
    /// Two tasks have the same name.
    #[error("two tasks have the id {0:?}")]
    Duplicate(TaskId),
    /// A worker does not exist.
    #[error("task {task:?} names the worker {worker:?}, which does not exist{}", did_you_mean(.nearest))]
    UnknownWorker {
        /// The task.
        task: TaskId,
        /// The worker that it names.
        worker: WorkerId,
        /// The nearest that exists.
        nearest: Option<String>,
    },
    /// A dependency is not in the plan.
    #[error("task {task:?} depends on {dependency:?}, which is not in the plan{}", did_you_mean(.nearest))]
    UnknownDependency {
        /// The task.
        task: TaskId,
        /// What it depends on.
        dependency: TaskId,
        /// The nearest that exists.
        nearest: Option<String>,
    },
    /// A task that should be complete is not, or is not here.
    #[error("`given` names {task:?}, which {}", match .status {
        Some(status) => format!("is {status}, not complete"),
        None => "is no task here that has ended".to_owned(),
    })]
    NotGiven {
        /// The task.
        task: TaskId,
        /// How it ended, if it has.
        status: Option<Status>,
    },
    /// Only what a person hands in may name tasks of other runs.
    #[error("`given` names tasks of other runs: leave it out")]
    MayNotGive,
    /// Tasks wait for each other.
    #[error("tasks wait for each other: {}", .0.iter().map(TaskId::as_str).collect::<Vec<_>>().join(" -> "))]
    Cycle(
        /// The tasks, each depending on the next; the last is the first again.
        Vec<TaskId>,
    ),
    /// A field of a task is wrong.
    #[error("task {task:?}: {fault}")]
    Task {
        /// The task.
        task: TaskId,
        /// What is wrong with it.
        fault: InvalidTask,
    },
    /// A task's name leaves no room for the run's prefix.
    #[error("the id {0:?} is too long: with the run's prefix it would pass 64 characters")]
    LongId(TaskId),
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

/// The most faults that are looked for. Whoever has more than that to mend looks again.
const MAX_FAULTS: usize = 100;

impl Plan {
    /// Returns the plan's tasks as tasks of a run, or all that is wrong with the plan.
    ///
    /// Names get the run's prefix; a task without a priority gets `priority`.
    ///
    /// # Errors
    ///
    /// Every [`PlanFault`] that was found, up to a hundred, so that whoever wrote the plan can mend it in
    /// one go.
    pub fn resolve(
        &self,
        run: RunId,
        short: &ShortRunId,
        priority: Priority,
        workers: &[WorkerId],
        limits: PlanLimits,
    ) -> Result<Vec<Task>, Vec<PlanFault>> {
        let mut faults = self.shape_faults(workers, limits);
        if faults.is_empty() {
            match self.depth() {
                Err(cycle) => faults.push(PlanFault::Cycle(cycle)),
                Ok(found) if found > limits.depth => {
                    faults.push(PlanFault::TooDeep { found, max: limits.depth });
                }
                Ok(_) => {}
            }
        }
        let given: HashSet<_> = self.given.iter().collect();
        let mut tasks = Vec::new();
        for task in &self.tasks {
            if faults.len() >= MAX_FAULTS {
                break;
            }
            match task.resolve(run, short, priority, &given) {
                Ok(task) => tasks.push(task),
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() { Ok(tasks) } else { Err(faults) }
    }

    fn shape_faults(&self, workers: &[WorkerId], limits: PlanLimits) -> Vec<PlanFault> {
        let mut faults = Vec::new();
        if let Some(version) = self.version.filter(|&version| version != FORMAT_VERSION) {
            faults.push(PlanFault::Version(version));
        }
        if self.tasks.is_empty() {
            faults.push(PlanFault::Empty);
        }
        if self.tasks.len() > limits.tasks {
            faults.push(PlanFault::TooMany { found: self.tasks.len(), max: limits.tasks });
            // A megabyte of tasks would be compared with each other for minutes.
            return faults;
        }
        let mut names: HashSet<_> = self.given.iter().collect();
        for task in &self.tasks {
            if !names.insert(&task.id) {
                faults.push(PlanFault::Duplicate(task.id.clone()));
            }
        }
        for task in &self.tasks {
            if !workers.contains(&task.worker) {
                faults.push(PlanFault::UnknownWorker {
                    task: task.id.clone(),
                    worker: task.worker.clone(),
                    nearest: nearest(task.worker.as_str(), workers.iter().map(WorkerId::as_str)),
                });
            }
            for dependency in task.dependencies.iter().filter(|id| !names.contains(id)) {
                // Each is compared with every name; there may be a hundred thousand.
                if faults.len() >= MAX_FAULTS {
                    return faults;
                }
                faults.push(PlanFault::UnknownDependency {
                    task: task.id.clone(),
                    dependency: dependency.clone(),
                    nearest: nearest(dependency.as_str(), names.iter().map(|id| id.as_str())),
                });
            }
        }
        faults
    }

    /// Returns the length of the longest chain, or a cycle. Every dependency must be in the plan.
    ///
    /// Takes away what depends on nothing, layer by layer (Kahn 1962); what stays has a cycle.
    fn depth(&self) -> Result<usize, Vec<TaskId>> {
        let mut missing: HashMap<&TaskId, usize> = HashMap::new();
        let mut dependents: HashMap<&TaskId, Vec<&TaskId>> = HashMap::new();
        // What is given is complete: nobody waits for it.
        let given: HashSet<_> = self.given.iter().collect();
        for task in &self.tasks {
            let unmet = task.dependencies.iter().filter(|id| !given.contains(id));
            let dependencies: HashSet<_> = unmet.collect();
            missing.insert(&task.id, dependencies.len());
            for dependency in dependencies {
                dependents.entry(dependency).or_default().push(&task.id);
            }
        }
        let mut layer: Vec<&TaskId> =
            missing.iter().filter(|(_, n)| **n == 0).map(|(id, _)| *id).collect();
        let mut depth = 0;
        let mut left = missing.len();
        while !layer.is_empty() {
            depth += 1;
            left -= layer.len();
            let mut next = Vec::new();
            for id in layer {
                for dependent in dependents.get(id).into_iter().flatten() {
                    if let Some(n) = missing.get_mut(dependent) {
                        *n -= 1;
                        if *n == 0 {
                            next.push(*dependent);
                        }
                    }
                }
            }
            layer = next;
        }
        if left == 0 { Ok(depth) } else { Err(self.cycle(&missing)) }
    }

    /// Follows unmet dependencies from any task that is left until one comes up again.
    fn cycle(&self, missing: &HashMap<&TaskId, usize>) -> Vec<TaskId> {
        let unmet = |id: &TaskId| missing.get(id).is_some_and(|n| *n > 0);
        let Some(start) = self.tasks.iter().find(|task| unmet(&task.id)) else {
            return Vec::new();
        };
        let mut path = vec![start.id.clone()];
        loop {
            let last = path.last().cloned();
            let next = self
                .tasks
                .iter()
                .find(|task| Some(&task.id) == last.as_ref())
                .and_then(|task| task.dependencies.iter().find(|id| unmet(id)));
            let Some(next) = next else {
                return path;
            };
            let seen = path.iter().position(|id| id == next);
            path.push(next.clone());
            if let Some(at) = seen {
                return path.split_off(at);
            }
        }
    }
}

impl PlanTask {
    fn resolve(
        &self,
        run: RunId,
        short: &ShortRunId,
        priority: Priority,
        given: &HashSet<&TaskId>,
    ) -> Result<Task, PlanFault> {
        let bad = |fault| PlanFault::Task { task: self.id.clone(), fault };
        if self.description.trim().is_empty() {
            return Err(bad(InvalidTask::NoDescription));
        }
        check_limits(self.timeout, self.retries, self.budget_usd, self.budget_tokens)
            .map_err(bad)?;
        let outer = |id: &TaskId| id.in_run(short).map_err(|_| PlanFault::LongId(id.clone()));
        let mut dependencies = Vec::with_capacity(self.dependencies.len());
        for id in &self.dependencies {
            let id = if given.contains(id) { id.clone() } else { outer(id)? };
            if !dependencies.contains(&id) {
                dependencies.push(id);
            }
        }
        Ok(Task {
            id: outer(&self.id)?,
            worker: self.worker.clone(),
            description: self.description.clone(),
            dependencies,
            priority: self.priority.unwrap_or(priority),
            timeout: self.timeout.map(|s| Duration::from_secs(s.into())),
            run,
            retries: self.retries,
            on_dependency_failure: self.on_dependency_failure.unwrap_or_default(),
            budget_usd: self.budget_usd,
            budget_tokens: self.budget_tokens,
            verify: self.verify.clone(),
            context: self.context.clone(),
            kind: TaskKind::Work,
        })
    }
}
