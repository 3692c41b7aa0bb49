//! The workers and who of their replicas is free.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use protocol::{ReplicaId, TaskError, WorkerId};

use crate::graph::TaskIx;
use crate::queue::Queue;
use crate::run::RunIx;
use crate::{Config, WorkerLimits};

/// A position in the list of workers.
pub(crate) type WorkerIx = usize;

/// The limits of a worker that a journal names and the configuration does not: nothing new is
/// given to it, and what it had comes to an end.
const UNKNOWN: WorkerLimits = WorkerLimits {
    replicas: 0,
    per_attempt: false,
    timeout: Duration::from_secs(600),
    retries: 0,
    resumes: false,
};

/// A worker: its limits, its ready tasks, and its replicas by number.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) limits: WorkerLimits,
    pub(crate) ready: Queue,
    /// Why nothing can be started for it.
    pub(crate) paused: Option<TaskError>,
    /// Whether there is a hold on it.
    pub(crate) held: bool,
    /// Free, and known to be running.
    up: BTreeSet<u32>,
    /// Free, and used before.
    down: BTreeSet<u32>,
    /// All numbers from here on were never used.
    unused: u32,
    /// How many are not free.
    taken: u32,
}

impl Worker {
    fn new(id: WorkerId, limits: WorkerLimits) -> Self {
        Self {
            id,
            limits,
            ready: Queue::default(),
            paused: None,
            held: false,
            up: BTreeSet::new(),
            down: BTreeSet::new(),
            unused: 1,
            taken: 0,
        }
    }

    /// Returns the number of the replica that gets the next attempt: the lowest that is known to
    /// be running, else the lowest.
    pub(crate) fn free(&self) -> Option<u32> {
        if self.taken >= self.limits.replicas {
            return None;
        }
        let unused = (self.unused <= self.limits.replicas).then_some(self.unused);
        let down = self.down.first().copied();
        self.up.first().copied().or_else(|| down.into_iter().chain(unused).min())
    }

    fn take(&mut self, number: u32) {
        self.taken += 1;
        self.up.remove(&number);
        self.down.remove(&number);
        if (self.unused..=self.limits.replicas).contains(&number) {
            // Only a torn journal names a replica beyond the next unused one.
            self.down.extend(self.unused..number);
            self.unused = number.saturating_add(1);
        }
    }

    fn put_back(&mut self, number: u32, up: bool) {
        self.taken -= 1;
        self.shelve(number, up);
    }

    fn shelve(&mut self, number: u32, up: bool) {
        self.up.remove(&number);
        self.down.remove(&number);
        if number <= self.limits.replicas {
            if up {
                self.up.insert(number)
            } else {
                self.down.insert(number)
            };
        }
    }
}

/// What a replica does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Free,
    /// It has this task's attempt.
    Live(TaskIx),
    /// It was asked to stop and is not confirmed to be gone. Not recorded: after a restart such a
    /// replica counts as free, and the runtime finds out what it is.
    Leaving,
}

#[derive(Debug)]
struct Replica {
    worker: WorkerIx,
    number: u32,
    up: bool,
    usage: Use,
    /// It was asked to stop while it had an attempt.
    stopping: bool,
}

/// The workers and their replicas.
#[derive(Debug)]
pub(crate) struct Workers {
    list: Vec<Worker>,
    index: HashMap<WorkerId, WorkerIx>,
    replicas: HashMap<ReplicaId, Replica>,
    /// How many replicas have an attempt.
    pub(crate) live: usize,
}

impl Workers {
    pub(crate) fn new(config: &Config) -> Self {
        let mut workers =
            Self { list: Vec::new(), index: HashMap::new(), replicas: HashMap::new(), live: 0 };
        for (id, limits) in &config.workers {
            workers.push(id.clone(), limits.clone());
        }
        workers
    }

    fn push(&mut self, id: WorkerId, limits: WorkerLimits) -> WorkerIx {
        let ix = self.list.len();
        self.index.insert(id.clone(), ix);
        self.list.push(Worker::new(id, limits));
        ix
    }

    /// Returns the worker's position. A name that is not configured gets one too.
    pub(crate) fn intern(&mut self, id: &WorkerId) -> WorkerIx {
        match self.index.get(id) {
            Some(&ix) => ix,
            None => self.push(id.clone(), UNKNOWN),
        }
    }

    pub(crate) fn get(&self, ix: WorkerIx) -> &Worker {
        &self.list[ix]
    }

    pub(crate) fn get_mut(&mut self, ix: WorkerIx) -> &mut Worker {
        &mut self.list[ix]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkerIx, &Worker)> {
        self.list.iter().enumerate()
    }

    /// Keeps the tasks of a run out of the queues, or puts them back.
    pub(crate) fn hold_run(&mut self, run: RunIx, held: bool) {
        for worker in &mut self.list {
            worker.ready.hold(run, held);
        }
    }

    /// Lets paused workers go on. Returns whether there were any.
    pub(crate) fn unpause(&mut self) -> bool {
        let paused = self.list.iter_mut().filter_map(|worker| worker.paused.take());
        paused.count() > 0
    }

    /// Returns the tasks with a live attempt, in no order.
    pub(crate) fn live_tasks(&self) -> impl Iterator<Item = TaskIx> {
        self.replicas.values().filter_map(|replica| match replica.usage {
            Use::Live(task) => Some(task),
            Use::Free | Use::Leaving => None,
        })
    }

    /// Returns the task whose attempt the replica has.
    pub(crate) fn task_on(&self, id: &ReplicaId) -> Option<TaskIx> {
        match self.replicas.get(id)?.usage {
            Use::Live(task) => Some(task),
            Use::Free | Use::Leaving => None,
        }
    }

    /// Gives the replica to a task. A replica whose name is not one of the worker's gets no number.
    pub(crate) fn take(&mut self, id: &ReplicaId, worker: WorkerIx, task: TaskIx) {
        let name = self.list[worker].id.as_str();
        let number = id.as_str().strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
        let number = number.and_then(|digits| digits.parse().ok()).unwrap_or(u32::MAX);
        let fresh = Replica { worker, number, up: false, usage: Use::Free, stopping: false };
        let replica = self.replicas.entry(id.clone()).or_insert(fresh);
        match replica.usage {
            Use::Free => self.list[replica.worker].take(replica.number),
            Use::Leaving => {}
            Use::Live(_) => self.live -= 1,
        }
        replica.usage = Use::Live(task);
        replica.stopping = false;
        self.live += 1;
    }

    /// Frees the replica: its attempt is over.
    pub(crate) fn release(&mut self, id: &ReplicaId) {
        if let Some(replica) = self.replicas.get_mut(id)
            && let Use::Live(_) = replica.usage
        {
            self.live -= 1;
            replica.usage = Use::Free;
            self.list[replica.worker].put_back(replica.number, replica.up);
        }
    }

    /// Notes that the replica is known to be running, or not to be.
    pub(crate) fn set_up(&mut self, id: &ReplicaId, up: bool) {
        let Some(replica) = self.replicas.get_mut(id) else {
            return;
        };
        replica.up = up;
        if replica.usage == Use::Free {
            self.list[replica.worker].shelve(replica.number, up);
        }
    }

    /// Notes that the replica of a live attempt was asked to stop.
    pub(crate) fn set_stopping(&mut self, id: &ReplicaId) {
        if let Some(replica) = self.replicas.get_mut(id) {
            replica.stopping = true;
        }
    }

    /// Keeps a replica whose attempt is over from being used until it is gone, when it was asked
    /// to stop or its worker wants a new one each time. Returns whether it has yet to be asked to.
    pub(crate) fn retire(&mut self, id: &ReplicaId) -> bool {
        let Some(replica) = self.replicas.get_mut(id) else {
            return false;
        };
        let worker = &mut self.list[replica.worker];
        if replica.usage != Use::Free || !(replica.stopping || worker.limits.per_attempt) {
            return false;
        }
        replica.usage = Use::Leaving;
        worker.take(replica.number);
        !replica.stopping
    }

    /// Notes that the replica is gone for sure; it can be made anew.
    pub(crate) fn gone(&mut self, id: &ReplicaId) {
        let Some(replica) = self.replicas.get_mut(id) else {
            return;
        };
        replica.stopping = false;
        if replica.usage == Use::Leaving {
            replica.usage = Use::Free;
            self.list[replica.worker].put_back(replica.number, false);
        }
        self.set_up(id, false);
    }
}
