//! The container engine: it may be away, be slow, fail before or after it has done what was asked, and lose
//! containers.

use std::future::{pending, poll_fn};
use std::task::{Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use protocol::ReplicaId;
use protocol::disk::simulated as disk;
use tokio::time::sleep;

use super::with;
use super::worker::Player;
use super::world::World;
use crate::runtime::{CheckSpec, Exit, Found, ReplicaSpec, Runtime, RuntimeError};

/// The engine, as the daemon sees it.
#[derive(Debug)]
pub(super) struct SimulatedEngine;

/// A container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) spec: ReplicaSpec,
    /// Which of those that had this name.
    pub(super) number: u64,
    /// How it ended, once it has.
    pub(super) exit: Option<Exit>,
    pub(super) player: Player,
    waiting: Vec<Waker>,
}

impl Container {
    pub(super) fn runs(&self) -> bool {
        self.exit.is_none()
    }

    fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

/// How a container ends that is killed.
pub(super) fn killed() -> Exit {
    Exit { code: Some(137), oom: false, output: String::new() }
}

impl World {
    fn reach(&self) -> Result<(), RuntimeError> {
        match self.engine_away {
            true => Err(RuntimeError::Unreachable {
                endpoint: "unix:///run/docker.sock".to_owned(),
                source: "connection refused".into(),
            }),
            false => Ok(()),
        }
    }

    /// Ends a container, if it runs.
    pub(super) fn end(&mut self, replica: &ReplicaId, exit: Exit) {
        if let Some(container) = self.containers.get_mut(replica)
            && container.runs()
        {
            disk::trace(format_args!("{replica} ends: {exit}"));
            container.exit = Some(exit);
            container.player = Player::default();
            container.wake();
        }
    }

    /// Removes a container.
    pub(super) fn remove(&mut self, replica: &ReplicaId) {
        self.end(replica, killed());
        self.containers.remove(replica);
    }

    /// Lets the engine go away, or come back.
    pub(super) fn set_away(&mut self, away: bool) {
        disk::trace(format_args!("the engine is {}", if away { "away" } else { "back" }));
        self.engine_away = away;
        self.containers.values_mut().for_each(Container::wake);
    }

    fn start(&mut self, spec: &ReplicaSpec) {
        self.numbers += 1;
        let number = self.numbers;
        disk::trace(format_args!("{} starts", spec.replica));
        let container = Container {
            spec: spec.clone(),
            number,
            exit: None,
            player: Player::default(),
            waiting: Vec::new(),
        };
        self.containers.insert(spec.replica.clone(), container);
        disk::with(|disk| disk.watch(&spec.tasks));
        self.soon_look(&spec.replica);
    }

    fn ensure(&mut self, spec: &ReplicaSpec, busy: bool) -> Result<(), RuntimeError> {
        self.reach()?;
        disk::trace(format_args!("ensure {} busy={busy}", spec.replica));
        let refused = |source: &str| RuntimeError::Refused {
            action: "start",
            name: spec.replica.to_string(),
            source: source.into(),
        };
        let mut failed = None;
        if self.mischief(30) {
            failed = Some(refused("no space left on device"));
        } else if self.rng.per_mille(40) && self.may_lose() {
            self.saw("launch failed");
            failed = Some(refused("the engine is confused"));
        }
        if let Some(error) = failed.take_if(|_| self.rng.per_mille(600)) {
            return Err(error);
        }
        let adopted = self
            .containers
            .get(&spec.replica)
            .is_some_and(|found| found.runs() && (found.spec == *spec || busy));
        if !adopted {
            self.remove(&spec.replica);
            self.start(spec);
        }
        // It may have done it, and say that it has not.
        failed.map_or(Ok(()), Err)
    }

    fn stop(&mut self, replica: &ReplicaId) -> Result<(), RuntimeError> {
        self.reach()?;
        disk::trace(format_args!("stop {replica}"));
        let confused = self.mischief(100);
        if !confused || self.rng.per_mille(400) {
            self.remove(replica);
        }
        match confused {
            true => {
                self.saw("stop failed");
                Err(RuntimeError::Refused {
                    action: "stop",
                    name: replica.to_string(),
                    source: "the engine is confused".into(),
                })
            }
            false => Ok(()),
        }
    }
}

/// Takes the time of a call of the engine. It does not come back when the daemon is gone.
async fn call() {
    let millis = with(|world| match world.rng.below(10) {
        0..7 => world.rng.below(60),
        7..9 => world.rng.below(1000),
        _ => world.rng.below(8000),
    });
    sleep(Duration::from_millis(millis)).await;
    if disk::is_frozen() {
        pending::<()>().await;
    }
}

#[async_trait]
impl Runtime for SimulatedEngine {
    fn name(&self) -> &'static str {
        "simulated"
    }

    async fn check(&self, _images: &[String]) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn ensure(&self, spec: &ReplicaSpec, busy: bool) -> Result<(), RuntimeError> {
        call().await;
        with(|world| world.ensure(spec, busy))
    }

    async fn wait(&self, replica: &ReplicaId) -> Result<Exit, RuntimeError> {
        call().await;
        let exit = poll_fn(|context| {
            with(|world| {
                if let Err(error) = world.reach() {
                    return Poll::Ready(Err(error));
                }
                match world.containers.get_mut(replica) {
                    None => Poll::Ready(Ok(Exit::unknown())),
                    Some(Container { exit: Some(exit), .. }) => Poll::Ready(Ok(exit.clone())),
                    Some(container) => {
                        container.waiting.push(context.waker().clone());
                        Poll::Pending
                    }
                }
            })
        })
        .await;
        // It may be late with it.
        call().await;
        exit
    }

    async fn stop(&self, replica: &ReplicaId, grace: Duration) -> Result<(), RuntimeError> {
        call().await;
        // Some don't end when they are asked to.
        if with(|world| world.asked_to_end(replica)) {
            sleep(grace).await;
        }
        call().await;
        with(|world| world.stop(replica))
    }

    async fn verify(&self, check: &CheckSpec) -> Result<Exit, RuntimeError> {
        call().await;
        with(|world| world.reach())?;
        disk::trace(format_args!("check {}", check.replica.replica));
        call().await;
        // It is lost now and then, and then made again.
        let code = with(|world| (!world.mischief(20)).then_some(0));
        Ok(Exit { code, ..Exit::unknown() })
    }

    async fn end_check(&self, _replica: &ReplicaId) -> Result<(), RuntimeError> {
        call().await;
        with(|world| world.reach())
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        call().await;
        with(|world| {
            world.reach()?;
            let found = world.containers.iter();
            Ok(found
                .map(|(replica, c)| Found { replica: replica.clone(), running: c.runs() })
                .collect())
        })
    }
}
