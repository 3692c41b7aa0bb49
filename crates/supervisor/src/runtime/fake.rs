//! A runtime that tests play.
//!
//! A replica is a future of the test's: it gets the [`ReplicaSpec`], may act as the worker in the
//! spec's folders, and what it returns is how the replica ends. One that hangs is
//! [`std::future::pending`]. The fake starts and stops these futures as a runtime starts and stops
//! workers, writes down each call that changes something, and runs on tokio's paused clock as well.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use protocol::{Auth, ReplicaId, Resources, WorkspaceMode};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{CheckSpec, Exit, Found, Owner, ReplicaSpec, Runtime, RuntimeError};

type Playing = Pin<Box<dyn Future<Output = Exit> + Send>>;
type Play = Box<dyn Fn(ReplicaSpec) -> Playing + Send + Sync>;
type PlayCheck = Box<dyn Fn(CheckSpec) -> Playing + Send + Sync>;

/// A runtime whose replicas are futures. Clones share their state, so that a test can hand one to
/// a daemon, and another to the daemon after it.
#[derive(Clone)]
pub struct FakeRuntime {
    play: Option<Arc<Play>>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    calls: Vec<String>,
    failures: HashMap<ReplicaId, VecDeque<RuntimeError>>,
    replicas: BTreeMap<ReplicaId, Replica>,
    check: Option<Arc<PlayCheck>>,
}

struct Replica {
    spec: ReplicaSpec,
    /// How it ended, once it has.
    end: watch::Sender<Option<Exit>>,
    player: JoinHandle<()>,
}

impl FakeRuntime {
    /// Returns a runtime whose replicas do what `play` does.
    pub fn new<F>(play: impl Fn(ReplicaSpec) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Exit> + Send + 'static,
    {
        let play: Play = Box::new(move |spec| Box::pin(play(spec)));
        Self { play: Some(Arc::new(play)), state: Arc::default() }
    }

    /// Returns a runtime that must not be asked to start anything.
    pub fn unused() -> Self {
        Self { play: None, state: Arc::default() }
    }

    /// Has each check do what `play` does, and end as that does. Without it each passes.
    pub fn play_checks<F>(&self, play: impl Fn(CheckSpec) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Exit> + Send + 'static,
    {
        self.state().check = Some(Arc::new(Box::new(move |check| Box::pin(play(check)))));
    }

    /// Makes the next call of `ensure` for a replica fail; after it the ones that were said before.
    pub fn fail_ensure(&self, replica: &ReplicaId, error: RuntimeError) {
        self.state().failures.entry(replica.clone()).or_default().push_back(error);
    }

    /// Ends a replica from outside, as a crash does.
    ///
    /// # Panics
    ///
    /// When it is not there.
    pub fn end(&self, replica: &ReplicaId, exit: Exit) {
        let state = self.state();
        let Some(found) = state.replicas.get(replica) else {
            panic!("BUG: {replica:?} can't be ended, it is not there");
        };
        found.player.abort();
        found.end.send_replace(Some(exit));
    }

    /// Returns the calls of `ensure`, `stop`, `verify` and `end_check`, in order: "ensure marie-1", "stop marie-1",
    /// "verify marie-1", "end check of marie-1".
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for FakeRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeRuntime").field("calls", &self.calls()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn check(&self, _images: &[String]) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn ensure(&self, spec: &ReplicaSpec, busy: bool) -> Result<(), RuntimeError> {
        let mut state = self.state();
        state.calls.push(format!("ensure {}", spec.replica));
        if let Some(error) = state.failures.get_mut(&spec.replica).and_then(VecDeque::pop_front) {
            return Err(error);
        }
        if let Some(found) = state.replicas.remove(&spec.replica) {
            let runs = found.end.borrow().is_none();
            if runs && (found.spec == *spec || busy) {
                state.replicas.insert(spec.replica.clone(), found);
                return Ok(());
            }
            found.stop();
        }
        let Some(play) = &self.play else {
            panic!("BUG: no test said what {:?} does", spec.replica);
        };
        let playing = play(spec.clone());
        let end = watch::Sender::new(None);
        let player = tokio::spawn({
            let end = end.clone();
            async move {
                let exit = playing.await;
                end.send_replace(Some(exit));
            }
        });
        let replica = Replica { spec: spec.clone(), end, player };
        state.replicas.insert(spec.replica.clone(), replica);
        Ok(())
    }

    async fn wait(&self, replica: &ReplicaId) -> Result<Exit, RuntimeError> {
        let Some(mut end) = self.state().replicas.get(replica).map(|found| found.end.subscribe())
        else {
            return Ok(Exit::unknown());
        };
        let exit = end.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        Ok(exit.unwrap_or_else(Exit::unknown))
    }

    async fn stop(&self, replica: &ReplicaId, _grace: Duration) -> Result<(), RuntimeError> {
        let mut state = self.state();
        state.calls.push(format!("stop {replica}"));
        if let Some(found) = state.replicas.remove(replica) {
            found.stop();
        }
        Ok(())
    }

    async fn verify(&self, check: &CheckSpec) -> Result<Exit, RuntimeError> {
        let play = {
            let mut state = self.state();
            state.calls.push(format!("verify {}", check.replica.replica));
            state.check.clone()
        };
        match play {
            Some(play) => Ok(play(check.clone()).await),
            None => Ok(Exit { code: Some(0), ..Exit::unknown() }),
        }
    }

    async fn end_check(&self, replica: &ReplicaId) -> Result<(), RuntimeError> {
        self.state().calls.push(format!("end check of {replica}"));
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        let state = self.state();
        let found = state.replicas.iter().map(|(replica, found)| Found {
            replica: replica.clone(),
            running: found.end.borrow().is_none(),
        });
        Ok(found.collect())
    }
}

impl Replica {
    fn stop(self) {
        self.player.abort();
        // What has ended keeps its end.
        self.end.send_if_modified(|end| {
            let runs = end.is_none();
            if runs {
                *end = Some(Exit { code: Some(143), ..Exit::unknown() });
            }
            runs
        });
    }
}

/// Returns what starts `marie-1`, for tests that do not look into it.
pub fn spec() -> ReplicaSpec {
    ReplicaSpec {
        replica: "marie-1".parse().unwrap_or_else(|_| unreachable!("BUG: not a name")),
        worker: "marie".parse().unwrap_or_else(|_| unreachable!("BUG: not a name")),
        image: String::new(),
        program: "/worker".into(),
        claude: None,
        secret: protocol::ReportKey::new([7; 32])
            .secret(&"marie-1".parse().unwrap_or_else(|_| unreachable!("BUG: not a name"))),
        tasks: "/tasks".into(),
        results: "/results".into(),
        workspace: "/workspace".into(),
        workspace_mode: WorkspaceMode::ReadOnly,
        login: None,
        auth: Auth::Gateway,
        scratch: "/scratch".into(),
        gateway: "/gateway".into(),
        egress: Vec::new(),
        requests: gateway::RequestPolicy::default(),
        resources: Resources::default(),
        user: Owner { uid: 1, gid: 1 },
        asks_model: true,
        container: protocol::ContainerMode::Resident,
        accepted: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn replica_ends_as_its_play_does() {
        let hour = Duration::from_secs(3600);
        let runtime = FakeRuntime::new(move |spec| async move {
            sleep(hour).await;
            Exit { code: Some(7), oom: false, output: spec.replica.to_string() }
        });
        let (spec, start) = (spec(), Instant::now());
        runtime.ensure(&spec, false).await.unwrap();
        runtime.ensure(&spec, false).await.unwrap();
        let exit = runtime.wait(&spec.replica).await.unwrap();
        assert_eq!((exit.code, exit.output.as_str()), (Some(7), "marie-1"));
        assert_eq!(start.elapsed(), hour);
        assert_eq!(runtime.calls(), ["ensure marie-1", "ensure marie-1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn replica_that_hangs_is_stopped_or_ended_and_a_failure_is_told_once() {
        let runtime = FakeRuntime::new(|_| pending());
        let spec = spec();
        let image = "none".to_owned();
        runtime.fail_ensure(&spec.replica, RuntimeError::ImageMissing { image });
        assert!(runtime.ensure(&spec, false).await.is_err());
        runtime.ensure(&spec, false).await.unwrap();
        let (exit, stopped) =
            tokio::join!(runtime.wait(&spec.replica), runtime.stop(&spec.replica, Duration::ZERO));
        stopped.unwrap();
        assert_eq!(exit.unwrap().code, Some(143));
        assert_eq!(runtime.wait(&spec.replica).await.unwrap(), Exit::unknown());

        runtime.ensure(&spec, false).await.unwrap();
        let crash = Exit { code: Some(137), oom: true, output: String::new() };
        runtime.end(&spec.replica, crash.clone());
        assert_eq!(runtime.wait(&spec.replica).await.unwrap(), crash);
        assert!(!runtime.list().await.unwrap()[0].running);
    }

    #[tokio::test]
    #[should_panic(expected = "no test said what `marie-1` does")]
    async fn replica_that_no_test_plays_is_named() {
        drop(FakeRuntime::unused().ensure(&spec(), false).await);
    }
}
