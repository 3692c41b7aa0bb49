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
    per_task: false,
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
    /// How many of its tasks have not ended, and have no attempt out.
    pub(crate) to_come: usize,
    /// Whether a spare was lost before it had an attempt: no other is started until an attempt runs.
    spares_fail: bool,
    /// Free, and known to be running.
    up: BTreeSet<u32>,
    /// Free, and being started.
    warming: BTreeSet<u32>,
    /// Free, and used before.
    down: BTreeSet<u32>,
    /// All numbers from here on were never used.
    unused: u32,
    /// How many are not free.
    taken: u32,
    /// How many of those wait to be gone.
    leaving: u32,
}

impl Worker {
    fn new(id: WorkerId, limits: WorkerLimits) -> Self {
        Self {
            id,
            limits,
            ready: Queue::default(),
            paused: None,
            held: false,
            to_come: 0,
            spares_fail: false,
            up: BTreeSet::new(),
            warming: BTreeSet::new(),
            down: BTreeSet::new(),
            unused: 1,
            taken: 0,
            leaving: 0,
        }
    }

    /// Returns the number of the replica that gets the next attempt: the lowest that is known to
    /// be running, else that is being started, else the lowest.
    pub(crate) fn free(&self) -> Option<u32> {
        // One that is being replaced takes no place of those that serve.
        let serving = if self.limits.per_task { self.taken - self.leaving } else { self.taken };
        if serving >= self.limits.replicas {
            return None;
        }
        let started = self.up.first().or(self.warming.first()).copied();
        started.or_else(|| self.cold())
    }

    /// Returns the lowest number of a replica that is neither running nor being started.
    fn cold(&self) -> Option<u32> {
        let unused = (self.unused <= self.limits.highest_number()).then_some(self.unused);
        self.down.first().copied().into_iter().chain(unused).min()
    }

    /// Returns the number of a replica that should be started before it is needed: there is work to come
    /// for it, and those that wait for an attempt are fewer.
    fn to_warm(&self) -> Option<u32> {
        let wanted = self.to_come.min(self.limits.replicas as usize);
        let spares = self.up.len() + self.warming.len();
        let serves = self.paused.is_none() && !self.held && !self.spares_fail;
        self.cold().filter(|_| self.limits.per_task && serves && spares < wanted)
    }

    fn take(&mut self, number: u32) {
        self.taken += 1;
        self.up.remove(&number);
        self.warming.remove(&number);
        self.down.remove(&number);
        if (self.unused..=self.limits.highest_number()).contains(&number) {
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
        self.warming.remove(&number);
        self.down.remove(&number);
        if number <= self.limits.highest_number() {
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

    /// Returns what is known of a replica. One whose name is not one of the worker's gets no number.
    fn replica(&mut self, id: &ReplicaId, worker: WorkerIx) -> &mut Replica {
        let name = self.list[worker].id.as_str();
        let number = id.as_str().strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
        let number = number.and_then(|digits| digits.parse().ok()).unwrap_or(u32::MAX);
        let fresh = Replica { worker, number, up: false, usage: Use::Free, stopping: false };
        self.replicas.entry(id.clone()).or_insert(fresh)
    }

    /// Gives the replica to a task.
    pub(crate) fn take(&mut self, id: &ReplicaId, worker: WorkerIx, task: TaskIx) {
        let Replica { worker, number, usage, .. } = *self.replica(id, worker);
        match usage {
            Use::Free => self.list[worker].take(number),
            Use::Leaving => self.list[worker].leaving -= 1,
            Use::Live(_) => self.live -= 1,
        }
        let replica = self.replica(id, worker);
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

    /// Returns a replica that should be started before it is needed, if there is one, and notes that it is
    /// being started.
    pub(crate) fn warm(&mut self) -> Option<ReplicaId> {
        let (ix, number) = self.iter().find_map(|(ix, worker)| Some((ix, worker.to_warm()?)))?;
        let worker = &mut self.list[ix];
        // A name that is too long is told where it is dispatched to.
        let id = ReplicaId::new(&worker.id, number).ok();
        worker.down.remove(&number);
        worker.warming.insert(number);
        worker.unused = worker.unused.max(number + 1);
        let id = id?;
        self.replica(&id, ix);
        Some(id)
    }

    /// Notes that the replica is known to be running, or not to be.
    pub(crate) fn set_up(&mut self, id: &ReplicaId, up: bool) {
        let Some(replica) = self.replicas.get_mut(id) else {
            return;
        };
        replica.up = up;
        if up && replica.usage != Use::Free {
            self.list[replica.worker].spares_fail = false;
        }
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
        if replica.usage != Use::Free || !(replica.stopping || worker.limits.per_task) {
            return false;
        }
        replica.usage = Use::Leaving;
        worker.take(replica.number);
        worker.leaving += 1;
        !replica.stopping
    }

    /// Notes that the replica is gone for sure; it can be made anew. With `pause`, every other of its worker
    /// would end so before it has an attempt.
    pub(crate) fn gone(&mut self, id: &ReplicaId, pause: Option<TaskError>) {
        let Some(replica) = self.replicas.get_mut(id) else {
            return;
        };
        replica.stopping = false;
        let worker = &mut self.list[replica.worker];
        if replica.usage == Use::Leaving {
            replica.usage = Use::Free;
            worker.leaving -= 1;
            worker.put_back(replica.number, false);
        } else if replica.usage == Use::Free && worker.limits.per_task {
            worker.spares_fail = true;
            worker.paused = worker.paused.take().or(pause);
        }
        self.set_up(id, false);
    }
}
