//! An installation in a temporary folder, and daemons that serve it one after the other.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::atomic_file::{self, Durability};
use protocol::{Choice, Event, RunId, Status, TaskError, TaskId, TaskResult, Time, WorkerId};
use scheduler::Input;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::job::serve;
use super::{Engine, Job};
use crate::api::types::{ApiError, DecisionView, TaskAdded, TaskView};
use crate::clock::Clock;
use crate::config::{Config, Flags};
use crate::dispatch::{Beginning, Dispatcher};
use crate::drops::Drops;
use crate::failure::Failure;
use crate::gateways::Gateways;
use crate::inbox::Inbox;
use crate::install::Installation;
use crate::journal::{self, CommitError, Committed, Journals};
use crate::replica::Surroundings;
use crate::replicas::Replicas;
use crate::runtime::fake::FakeRuntime;
use crate::runtime::{Exit, Owner};
use crate::watch::Watch;
use crate::workers::{self, Worker};
use crate::{admit, daemon, decisions, view};

/// How often a condition is looked at, and how long it may take to come true. On tokio's paused clock
/// neither takes time.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(3600);

/// An installation with the workers `marie` (one replica), `emma` (two) and the orchestrator.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) installation: Installation,
    pub(crate) engine: Engine,
    /// The attempts that workers began, in order: `build.1 on marie-1`.
    pub(crate) begun: Arc<Mutex<Vec<String>>>,
    /// Whether no folder can be watched.
    deaf: bool,
    /// From how many bytes on journals are made shorter, where that is to be soon.
    pub(crate) growth: Option<u64>,
    dir: TempDir,
}

impl World {
    /// Returns an installation whose workers do `act` with each attempt. What it returns, if anything,
    /// is the end of its replica.
    pub(crate) fn new<F>(act: impl Fn(Job) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Option<Exit>> + Send + 'static,
    {
        let begun = Arc::new(Mutex::new(Vec::new()));
        let (act, log) = (Arc::new(act), Arc::clone(&begun));
        let runtime = FakeRuntime::new(move |spec| {
            let (act, log) = (Arc::clone(&act), Arc::clone(&log));
            serve(spec, move |job| {
                let text = format!("{} on {}", job.name(), job.spec.replica);
                log.lock().unwrap().push(text);
                act(job)
            })
        });
        let world = Self::with_runtime(runtime);
        Self { begun, ..world }
    }

    /// Returns an installation whose workers do each task at once and leave `report.md`.
    pub(crate) fn of_diligent_workers() -> Self {
        Self::new(async |job| {
            job.leave("report.md", "all is well");
            job.hand_in(&job.done(&["report.md"]));
            None
        })
    }

    /// Returns an installation with that runtime.
    pub(crate) fn with_runtime(runtime: FakeRuntime) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let installation = Installation::at(dir.path()).unwrap();
        daemon::make_folders(&installation).unwrap();
        let engine = Engine::new(runtime);
        let begun = Arc::default();
        let world = Self { installation, engine, begun, deaf: false, growth: None, dir };
        for (worker, replicas) in [("marie", 1), ("emma", 2), ("orchestrator", 1)] {
            fs::create_dir_all(world.installation.workspace(&id(worker))).unwrap();
            world.configure(worker, &format!("replicas = {replicas}"));
        }
        world
    }

    /// Returns the installation where no folder can be watched.
    pub(crate) fn deaf(self) -> Self {
        Self { deaf: true, ..self }
    }

    /// Writes a worker's configuration: what all have, and this.
    pub(crate) fn configure(&self, worker: &str, rest: &str) {
        let common = "description = \"Does things.\"\ncommand = [\"true\"]\ntimeout = 60\n";
        // What replicas do is easier to follow when they stay.
        let stays = if rest.contains("container = ") { "" } else { "container = \"resident\"\n" };
        let file = self.installation.workspace(&id(worker)).join("worker.toml");
        let text = format!("{common}{stays}{rest}\n");
        atomic_file::replace(&file, text.as_bytes(), Durability::Volatile).unwrap();
    }

    /// Returns where the sockets are.
    pub(crate) fn sockets(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// Returns what keepers and dispatchers are made of.
    pub(crate) fn parts(&self, inbox: Inbox, latest: Time) -> Parts {
        let installation = &self.installation;
        let environment =
            |name| (name == "ANTHROPIC_BASE_URL").then(|| "http://127.0.0.1:9".to_owned());
        let config = Config::load(installation, Flags::default(), environment).unwrap();
        let keys = crate::keys::Keys::none(installation);
        let workers = crate::workers::load_all(installation).unwrap();
        let gateways =
            Gateways::start(installation, &config, &workers, keys, &self.sockets(), false).unwrap();
        let gateways = Arc::new(gateways);
        let engine = Arc::new(self.engine.clone());
        let user = Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        Parts {
            surroundings: Surroundings {
                runtime: engine.clone(),
                gateways: Arc::clone(&gateways),
                inbox,
                clock: Clock::starting_after(latest),
                stop_grace: Duration::from_secs_f64(config.stop_grace.value),
            },
            replicas: Replicas {
                installation: installation.clone(),
                gateways,
                image: "image".to_owned(),
                program: "/worker".into(),
                report_key: protocol::ReportKey::new([7; 32]),
                claude: None,
                user,
                hand_over: false,
                walls: true,
                accepted: Vec::new(),
            },
            workers: workers::load_all(installation).unwrap(),
            engine,
            config,
        }
    }

    /// Starts a daemon, as `daemon::run` does.
    pub(crate) async fn up(&self) -> Daemon {
        let installation = &self.installation;
        let (mut journals, records) = Journals::open(installation).unwrap();
        if let Some(growth) = self.growth {
            journals.set_growth(growth);
        }
        let latest = journals.latest();
        let (inbox, messages) = Inbox::new();
        let Parts { surroundings, replicas, workers, engine, config } =
            self.parts(inbox.clone(), latest);
        let committed = journals.committed();
        let dispatcher = Dispatcher::new(Beginning {
            installation: installation.clone(),
            scheduler: daemon::replay(&config, &workers, &records),
            journals,
            workers: workers.clone(),
            replicas,
            surroundings,
            watch: if self.deaf { Watch::deaf() } else { Watch::start() },
            rehearsal: false,
            random,
        });
        let stop = CancellationToken::new();
        let work = tokio::spawn(dispatcher.run(messages, stop.clone()));
        for worker in workers.keys() {
            Drops::start(installation.clone(), worker.clone(), inbox.clone()).unwrap();
        }
        // Tests find it as it is when it has begun.
        inbox.ask(|_| ()).await;
        Daemon { inbox, committed, stop, work, engine }
    }

    /// Returns the result of a task as it is published.
    pub(crate) fn result(&self, worker: &str, task: &str) -> Option<TaskResult> {
        let path = self.installation.result_file(&id(worker), &id(task));
        let bytes = fs::read(path).ok()?;
        Some(protocol::strict::from_slice(&bytes).unwrap())
    }

    /// Returns a published artifact's text.
    pub(crate) fn artifact(&self, worker: &str, task: &str, path: &str) -> Option<String> {
        let folder = self.installation.artifacts(&id(worker), &id(task));
        fs::read_to_string(folder.join(path)).ok()
    }

    /// Returns the file of a task.
    pub(crate) fn task_file(&self, worker: &str, task: &str) -> PathBuf {
        self.installation.task_file(&id(worker), &id(task))
    }

    /// Returns the events that the journal of the standing run holds.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events_of(RunId::Adhoc)
    }

    /// Returns the events that the journal of a run holds.
    pub(crate) fn events_of(&self, run: RunId) -> Vec<Event> {
        let bytes = fs::read(self.installation.journal(run)).unwrap_or_default();
        journal::records(&bytes).unwrap().into_iter().map(|record| record.event).collect()
    }

    /// Returns the attempts of a task that failed: number, kind and whether it counted.
    pub(crate) fn failures(&self, task: &str) -> Vec<(u32, String, bool)> {
        let failed = |event: &Event| match event {
            Event::AttemptFailed { task: found, attempt, error, counted, .. }
                if found.as_str() == task =>
            {
                Some((attempt.get(), error.kind.to_string(), *counted))
            }
            _ => None,
        };
        self.events().iter().filter_map(failed).collect()
    }

    /// Returns the attempts that workers began.
    pub(crate) fn begun(&self) -> Vec<String> {
        self.begun.lock().unwrap().clone()
    }
}

/// What keepers and dispatchers are made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) surroundings: Surroundings,
    pub(crate) replicas: Replicas,
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    pub(crate) config: Config,
    /// A share of it is in all that can call it.
    engine: Arc<Engine>,
}

/// A daemon that runs.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) inbox: Inbox,
    pub(crate) committed: Committed,
    pub(crate) stop: CancellationToken,
    pub(crate) work: JoinHandle<Result<(), CommitError>>,
    engine: Arc<Engine>,
}

impl Daemon {
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Dispatcher) -> T + Send + 'static,
    ) -> T {
        self.inbox.ask(question).await.expect("the daemon should be up")
    }

    /// Adds a task as the API does.
    pub(crate) async fn add(&self, task: Value) -> Result<TaskAdded, Failure> {
        self.ask(move |dispatcher| admit::new_task(dispatcher, task)).await
    }

    /// Returns a task as `status` shows it.
    pub(crate) async fn view(&self, task: &str) -> TaskView {
        let task: TaskId = id(task);
        self.ask(move |dispatcher| {
            let entry = dispatcher.scheduler().task(&task).unwrap();
            view::task(dispatcher.scheduler(), entry, dispatcher.now())
        })
        .await
    }

    /// Returns why a task is where it is.
    pub(crate) async fn reason(&self, task: &str) -> String {
        self.view(task).await.reason.unwrap_or_default()
    }

    pub(crate) async fn notices(&self) -> Vec<String> {
        self.ask(|dispatcher| dispatcher.notices()).await
    }

    /// Returns the time that the daemon has.
    pub(crate) async fn now(&self) -> Time {
        self.ask(|dispatcher| dispatcher.now()).await
    }

    /// Waits until an attempt of the task is out, and has it fail: with what only the gateway knows, too.
    pub(crate) async fn fails(&self, task: &str, error: TaskError) {
        let task: TaskId = id(task);
        let report = until(&format!("an attempt of {task} is out"), async || {
            let (task, error) = (task.clone(), error.clone());
            self.ask(move |dispatcher| {
                let entry = dispatcher.scheduler().task(&task)?;
                let live = entry.live()?;
                let (run, worker) = (entry.task.run, entry.task.worker.clone());
                let (attempt, failed, now) = (Some(live.attempt), Status::Failed, dispatcher.now());
                let token = Some(live.token);
                let report =
                    TaskResult::without_report(task, run, worker, attempt, failed, error, now);
                Some(TaskResult { token, cost_usd: Some(0.5), ..report })
            })
            .await
        })
        .await;
        self.ask(|dispatcher| dispatcher.request(Input::AttemptReported { report })).await.unwrap();
    }

    /// Returns the questions that are open.
    pub(crate) async fn decisions(&self) -> Vec<DecisionView> {
        self.ask(|d| decisions::views(d, None)).await
    }

    /// Answers a question as the API does.
    pub(crate) async fn decide(&self, decision: &str, choice: Choice) -> Result<(), ApiError> {
        let decision = id(decision);
        self.ask(move |dispatcher| decisions::decide(dispatcher, decision, choice)).await
    }

    /// Waits until all these tasks have ended and returns how, in that order.
    pub(crate) async fn ended<const N: usize>(&self, tasks: [&str; N]) -> [Status; N] {
        let mut statuses = [Status::Failed; N];
        for (status, task) in statuses.iter_mut().zip(tasks) {
            let task: TaskId = id(task);
            *status = until(&format!("{task} has ended"), async || {
                let task = task.clone();
                self.ask(move |d| d.scheduler().task(&task)?.status()).await
            })
            .await;
        }
        statuses
    }

    /// Waits until a task's reason has this in it.
    pub(crate) async fn says(&self, task: &str, part: &str) -> String {
        until(&format!("{task} says {part}"), async || {
            Some(self.reason(task).await).filter(|reason| reason.contains(part))
        })
        .await
    }

    /// Ends the daemon as `kill -9` does: its workers go on.
    pub(crate) async fn kill(self) {
        self.work.abort();
        let _ = self.work.await;
        drop(self.inbox);
        // Its keepers end by themselves; each has a share in the engine.
        until("the keepers are gone", async || {
            (Arc::strong_count(&self.engine) == 1).then_some(())
        })
        .await;
    }
}

/// Waits until `look` finds something. A test that waits in vain fails and says for what.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        sleep(LOOK_EVERY).await;
    }
}

/// Waits until a condition holds; the same for what a worker plays.
pub(crate) async fn until_true(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        sleep(LOOK_EVERY).await;
    }
}

/// Returns the end of a replica that was killed.
pub(crate) fn lost() -> Exit {
    Exit { code: Some(137), oom: false, output: String::new() }
}

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

/// Numbers that look random and are the same every time (SplitMix64, Steele, Lea and Flood, 2014).
fn random() -> u64 {
    static STATE: AtomicU64 = AtomicU64::new(7);
    let state = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
