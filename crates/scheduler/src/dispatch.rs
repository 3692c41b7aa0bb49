//! Gives ready tasks to free replicas.

use protocol::{
    Attempt, Event, FailureKind, HoldScope, ReplicaId, SessionId, TaskError, Token, mutant,
};

use crate::graph::TaskIx;
use crate::queue::Rank;
use crate::replicas::WorkerIx;
use crate::scheduler::Turn;
use crate::{Command, Scheduler, work};

impl Scheduler {
    /// Dispatches the most urgent tasks as long as there is room. A worker without a free replica,
    /// or one that is paused or held, holds up nobody else.
    pub(crate) fn dispatch(&mut self, turn: &mut Turn<'_>) {
        while mutant!(
            OneTooMany,
            self.workers.live < self.config.max_running,
            self.workers.live <= self.config.max_running
        ) && !self.holds.is_held(&HoldScope::All)
        {
            self.promote(turn);
            let Some((rank, worker, number)) = self.best() else {
                return;
            };
            match ReplicaId::new(&self.workers.get(worker).id, number) {
                Ok(replica) => self.dispatch_to(turn, rank.task(), worker, replica),
                Err(fault) => {
                    let message = format!("its replicas can't be named: {fault}");
                    let error = TaskError::new(FailureKind::Invalid, message)
                        .with_hint("Give the worker a shorter name.");
                    self.workers.get_mut(worker).paused = Some(error);
                }
            }
        }
    }

    /// Has spares started for workers that have work to come.
    pub(crate) fn start_spares(&mut self, turn: &mut Turn<'_>) {
        // Nothing is dispatched any more while what runs comes to its end.
        while self.config.max_running > 0
            && let Some(replica) = self.workers.warm()
        {
            turn.command(Command::Start { replica });
        }
    }

    /// Moves up the tasks that have waited long enough. It matters to nobody at any other time, so
    /// nobody has to be woken for it.
    fn promote(&mut self, turn: &Turn<'_>) {
        while let Some(&(at, ix)) = self.promotions.first()
            && at <= turn.now
        {
            work::count();
            self.rerank(turn.now, vec![ix]);
        }
    }

    /// Returns the most urgent task that could go, with its worker and the replica's number.
    fn best(&self) -> Option<(Rank, WorkerIx, u32)> {
        let could_go = self.workers.iter().filter_map(|(ix, worker)| {
            let goes_on = worker.paused.is_none() && !worker.held;
            let number = worker.free().filter(|_| goes_on)?;
            Some((worker.ready.first()?, ix, number))
        });
        could_go.min()
    }

    fn dispatch_to(
        &mut self,
        turn: &mut Turn<'_>,
        ix: TaskIx,
        worker: WorkerIx,
        replica: ReplicaId,
    ) {
        assert_eq!(self.workers.task_on(&replica), None, "BUG: {replica} is not free");
        let resumes = self.workers.get(worker).limits.resumes;
        let entry = &self.graph[ix].entry;
        let task = entry.task.id.clone();
        let attempt = entry.last_attempt.map_or(Attempt::FIRST, Attempt::next);
        let old = entry.session.filter(|_| resumes);
        let mut random = || ((turn.rng)(), (turn.rng)());
        let (high, low) = random();
        let token = Token::from_random(high, low);
        let session = old.map_or_else(
            || {
                let (high, low) = random();
                SessionId::from_random(high, low)
            },
            |session| session.id,
        );
        self.record(
            turn,
            Event::AttemptDispatched {
                task: task.clone(),
                attempt,
                replica: replica.clone(),
                token,
                session,
                resume: old.is_some(),
            },
        );
        turn.command(Command::Dispatch { task, attempt, replica });
    }
}
