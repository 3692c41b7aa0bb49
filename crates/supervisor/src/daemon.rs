//! The daemon: puts the parts together, and takes them apart again.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use protocol::atomic_file::{self, Durability};
use protocol::{Auth, Record, Wall, WorkerId};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use scheduler::Scheduler;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::types::{Health, Shutdown};
use crate::api::{self, Api};
use crate::cli::args::RuntimeChoice;
use crate::clock::Clock;
use crate::config::{Config, GatewayMode};
use crate::dispatch::{Beginning, Dispatcher};
use crate::drops::Drops;
use crate::failure::Failure;
use crate::gateways::Gateways;
use crate::inbox::Inbox;
use crate::install::{Installation, cant_write};
use crate::journal::Journals;
use crate::keys::Keys;
use crate::lock::Lock;
use crate::programs;
use crate::replica::Surroundings;
use crate::replicas::Replicas;
use crate::report_key;
use crate::room;
use crate::runtime::docker::DockerRuntime;
use crate::runtime::process::ProcessRuntime;
use crate::runtime::{Owner, Runtime, RuntimeError};
use crate::slot;
use crate::walls;
use crate::watch::Watch;
use crate::workers::{self, Worker};

/// The socket of the API, in the folder of the sockets.
pub const API_SOCKET: &str = "api.sock";

/// Who agents run as in their containers when the daemon is root.
const AGENT: Owner = Owner { uid: 1000, gid: 1000 };

/// How long after an attempt's own timeout it is stopped from outside: the worker gets there first, with its own steps
/// of stopping, also where it waited for the model's API before (a minute and a half at most) and only then looked at the clock.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(120);

/// How long the engine that ran the workers last is waited for at a start. One that is restarted stops its containers
/// first, for which Docker gives them 15 s (`shutdown-timeout`).
const ENGINE_PATIENCE: Duration = Duration::from_secs(30);

/// How long after one try to reach the engine the next begins.
const ENGINE_PAUSE: Duration = Duration::from_millis(250);

/// Runs the daemon until somebody ends it.
///
/// # Errors
///
/// Bad input or unavailable, before anything was changed; unavailable when the journal can't be trusted
/// any more.
pub async fn run(installation: Installation, config: Config) -> Result<(), Failure> {
    allow_many_files();
    make_folders(&installation)?;
    let _lock = Lock::take(&installation)?;
    let workers = workers::load_all(&installation)?;
    config.check_workers(&workers)?;
    config.check_models(&workers)?;
    let rehearsal = config.is_rehearsal(has_login(&installation, &workers));
    let keys = match rehearsal {
        true => Keys::none(&installation),
        false => Keys::load(&installation, &config, &workers).await?,
    };
    let (journals, records) = Journals::open(&installation).map_err(|error| {
        let hint = error.hint();
        Failure::unavailable("the journal can't be used").because(error).hint(hint)
    })?;
    let scheduler = replay(&config, &workers, &records);
    // Some hundred thousand of them: nobody has to wait until they are gone.
    tokio::task::spawn_blocking(move || drop(records));
    let runtime = choose_runtime(&installation, &config, &workers, rehearsal).await?;
    if config.gateway.value == GatewayMode::Tcp && runtime.name() != "docker" {
        warn!("The setting `gateway` is for containers: these workers have their sockets.");
    }
    let grace = Duration::from_secs_f64(config.stop_grace.value);
    retire_other_runtime(&installation, &*runtime, grace).await?;
    let sockets = installation.make_sockets()?;
    let gateways = Arc::new(
        Gateways::start(&installation, &config, &workers, keys, &sockets, rehearsal)?
            .on_threads()?,
    );
    let (inbox, messages) = Inbox::new();
    let clock = Clock::starting_after(journals.latest());
    let health = Health {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        build: programs::build(),
        pid: std::process::id(),
        started_at: clock.now(),
        folder: installation.root().to_string_lossy().into_owned(),
        runtime: runtime.name().to_owned(),
        rehearsal,
        upstream: gateways.upstream().to_owned(),
        notices: Vec::new(),
    };
    let surroundings = Surroundings {
        runtime: Arc::clone(&runtime),
        gateways: Arc::clone(&gateways),
        inbox: inbox.clone(),
        clock,
        stop_grace: grace,
    };
    let replicas = replicas(&installation, &config, &*runtime, gateways, rehearsal)?;
    let committed = journals.committed();
    let dispatcher = Dispatcher::new(Beginning {
        installation: installation.clone(),
        scheduler,
        journals,
        workers: workers.clone(),
        replicas,
        surroundings,
        watch: Watch::start(),
        rehearsal,
        random,
    });
    stop_strangers(&runtime, &workers, grace).await;
    let (shutdown, mut requests) = mpsc::unbounded_channel();
    let api = Api {
        inbox: inbox.clone(),
        committed,
        installation: installation.clone(),
        health,
        shutdown,
    };
    let stop = CancellationToken::new();
    let mut work = tokio::spawn(dispatcher.run(messages, stop.clone()));
    for worker in workers.keys() {
        Drops::start(installation.clone(), worker.clone(), inbox.clone())
            .map_err(|e| cant_write(&installation.tasks(worker), e))?;
    }
    room::watch(installation.clone(), inbox.clone());
    if let Some(text) = walls::notice("the container engine", &runtime.unkept()) {
        inbox.notice(&"engine", Some(text));
    }
    // Not before: whoever gets an answer may drop a file.
    let server = serve(api, &sockets.join(API_SOCKET))?;
    info!(folder = %installation.root().display(), runtime = runtime.name(), rehearsal, "Ready.");
    let mut workers_too = false;
    let ended = loop {
        tokio::select! {
            ended = &mut work => break ended,
            request = end_request(&mut requests) => {
                let request = request?;
                info!(?request, "Ending.");
                // The last word counts: a signal in the middle of a drain leaves the workers to the next one.
                workers_too = request.stop_workers;
                if !request.drain {
                    stop.cancel();
                    break work.await;
                }
                // It may take hours. Whoever does not want to wait any more says so again.
                let inbox = inbox.clone();
                tokio::spawn(async move { inbox.ask(Dispatcher::drain).await });
            }
        }
    };
    if workers_too {
        stop_workers(&*runtime, grace).await;
    }
    server.abort();
    if workers_too && let Err(error) = fs::remove_dir_all(&sockets) {
        warn!(folder = %sockets.display(), %error, "Can't remove the folder of the sockets.");
    }
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::unavailable("the journal can't be trusted any more")
            .because(error)
            .hint("Look at the disk, then start again: nothing that was promised is lost.")),
        Err(panic) => Err(Failure::unavailable("the supervisor ended by a defect of its own")
            .because(panic)
            .hint("Start it again: nothing that was promised is lost. Please report it.")),
    }
}

/// Raises the bound on open files to what the system allows: each replica may have a hundred connections, and
/// the usual bound is 1024.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "The bound on open files stays as it is.");
    }
}

/// Makes the folders that are the daemon's own.
pub(crate) fn make_folders(installation: &Installation) -> Result<(), Failure> {
    use protocol::disk as fs;
    let state = installation.state();
    fs::create_dir_all(&state)
        // Requests, sessions and all that happened are the user's own.
        .and_then(|()| fs::set_permissions(&state, Permissions::from_mode(0o700)))
        .map_err(|e| cant_write(&state, e))?;
    let folders =
        [installation.runs(), installation.results(), installation.bin(), installation.processes()];
    for folder in folders {
        fs::create_dir_all(&folder).map_err(|e| cant_write(&folder, e))?;
    }
    // What is safe in a journal is lost with the folder that it is in.
    for folder in [state.as_path(), installation.root()] {
        protocol::mutant!(FoldersNotSynced, atomic_file::sync_folder(folder), Ok(()))
            .map_err(|e| cant_write(folder, e))?;
    }
    Ok(())
}

/// Returns whether a worker has a login of its own.
fn has_login(installation: &Installation, workers: &BTreeMap<WorkerId, Worker>) -> bool {
    let own = workers.values().filter(|worker| worker.config.auth == Auth::Home);
    own.into_iter().any(|w| installation.auth_home(&w.id).join(".credentials.json").exists())
}

/// Decides what runs the workers.
///
/// # Errors
///
/// Unavailable when what was asked for can't be had; when a real key would be used without a
/// container's walls and nobody asked for that.
async fn choose_runtime(
    installation: &Installation,
    config: &Config,
    workers: &BTreeMap<WorkerId, Worker>,
    rehearsal: bool,
) -> Result<Arc<dyn Runtime>, Failure> {
    let process = || Arc::new(ProcessRuntime::new(installation.processes())) as Arc<dyn Runtime>;
    if config.runtime.value == RuntimeChoice::Process {
        return Ok(process());
    }
    let mut images: Vec<_> = workers
        .values()
        .map(|w| w.config.image.clone().unwrap_or_else(|| config.image.value.clone()))
        .collect();
    images.sort();
    images.dedup();
    let by_network = config.gateway.value == GatewayMode::Tcp;
    match find_engine(installation, &images).await {
        Ok(docker) => Ok(Arc::new(docker.by_network(by_network))),
        Err(error)
            if config.runtime.value == RuntimeChoice::Auto && rehearsal && error.is_transient() =>
        {
            warn!(
                error = &error as &dyn std::error::Error,
                "No container engine: using processes."
            );
            Ok(process())
        }
        Err(error) => {
            let mut hint = error.hint().unwrap_or_default();
            if error.is_transient() {
                hint.push_str(
                    " Or choose `--runtime process`: agents then run as you, without a container's \
                     walls, and can read what you can read.",
                );
            }
            Err(Failure::unavailable("no container can be started")
                .because(error)
                .hint(hint.trim()))
        }
    }
}

/// Connects to the engine, and sees that it has the images. One that ran the workers last is waited for: it may be
/// starting beside us, or be restarted.
async fn find_engine(
    installation: &Installation,
    images: &[String],
) -> Result<DockerRuntime, RuntimeError> {
    let patience = match last_runtime(installation).as_str() {
        "docker" => ENGINE_PATIENCE,
        _ => Duration::ZERO,
    };
    let (start, mut is_told) = (Instant::now(), false);
    loop {
        let found = match DockerRuntime::connect(installation.id()).await {
            Ok(docker) => docker.check(images).await.map(|()| docker),
            Err(error) => Err(error),
        };
        match found {
            Err(error) if error.is_away() && start.elapsed() < patience => {
                if !is_told {
                    let (error, seconds) = (&error as &dyn std::error::Error, patience.as_secs());
                    warn!(error, seconds, "The container engine is away: waiting for it.");
                    is_told = true;
                }
                sleep(ENGINE_PAUSE).await;
            }
            found => return found,
        }
    }
}

/// Returns the name of what ran the workers last; empty where nothing did.
fn last_runtime(installation: &Installation) -> String {
    fs::read_to_string(installation.runtime_file()).unwrap_or_default().trim().to_owned()
}

/// Makes sure that nothing of another runtime, which ran the workers before this one, runs any more: two
/// workers of one slot would both do its attempt.
///
/// # Errors
///
/// Unavailable when a worker still serves a slot, and the engine that runs it does not answer.
async fn retire_other_runtime(
    installation: &Installation,
    runtime: &dyn Runtime,
    grace: Duration,
) -> Result<(), Failure> {
    let path = installation.runtime_file();
    let last = last_runtime(installation);
    if last != runtime.name() {
        let other: Option<Arc<dyn Runtime>> = match last.as_str() {
            "docker" => match DockerRuntime::connect(installation.id()).await {
                Ok(docker) => Some(Arc::new(docker)),
                Err(error) => match slot::served(&installation.results()).first() {
                    Some(slot) => {
                        let message = format!("a container still serves `{}`", slot.display());
                        return Err(Failure::unavailable(message).because(error).hint(
                            "Let the container engine answer, then `supervisor up` again; or end that \
                             container.",
                        ));
                    }
                    // An engine that is gone, with all that it ran.
                    None => None,
                },
            },
            "process" => Some(Arc::new(ProcessRuntime::new(installation.processes()))),
            _ => None,
        };
        if let Some(other) = other {
            info!(from = other.name(), to = runtime.name(), "The runtime has changed.");
            stop_workers(&*other, grace).await;
        }
    }
    atomic_file::replace(&path, runtime.name().as_bytes(), Durability::Synced)
        .map_err(|e| cant_write(&path, e))
}

/// Collects what replicas are started with.
fn replicas(
    installation: &Installation,
    config: &Config,
    runtime: &dyn Runtime,
    gateways: Arc<Gateways>,
    rehearsal: bool,
) -> Result<Replicas, Failure> {
    let walls = runtime.name() == "docker";
    let is_root = rustix::process::geteuid().is_root();
    let own = Owner {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    };
    Ok(Replicas {
        installation: installation.clone(),
        gateways,
        image: config.image.value.clone(),
        program: programs::worker(installation, config)?,
        report_key: report_key::load(installation)?,
        claude: if walls { None } else { Some(programs::claude(installation, config)?) },
        user: if walls && is_root { AGENT } else { own },
        hand_over: walls && is_root,
        walls,
        // No model, no harm: what does not hold is only shown.
        accepted: if rehearsal { Wall::ALL.to_vec() } else { config.accepted.value.clone() },
    })
}

/// Returns the scheduler to which all of these happened.
pub(crate) fn replay(
    config: &Config,
    workers: &BTreeMap<WorkerId, Worker>,
    records: &[Record],
) -> Scheduler {
    let mut scheduler = scheduler(config, workers);
    for record in records {
        scheduler.replay(record.at, &record.event);
    }
    scheduler
}

/// Returns a scheduler to which nothing has happened yet.
pub(crate) fn scheduler(config: &Config, workers: &BTreeMap<WorkerId, Worker>) -> Scheduler {
    Scheduler::new(scheduler::Config {
        workers: workers.values().map(|worker| (worker.id.clone(), worker.limits())).collect(),
        max_running: config.max_running.value,
        plan: protocol::PlanLimits {
            tasks: config.plan_max_tasks.value,
            depth: config.plan_max_depth.value,
        },
        backoff_base: Duration::from_secs_f64(config.backoff_base.value),
        backoff_max: Duration::from_secs_f64(config.backoff_max.value),
        aging: Duration::from_secs(600),
        timeout_margin: TIMEOUT_MARGIN,
        stop_grace: Duration::from_secs_f64(config.stop_grace.value),
        max_lost: 5,
    })
}

fn random() -> u64 {
    // The random part of a version 4 UUID comes from the system; six bits of it are fixed.
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    high.rotate_left(32) ^ low
}

/// Serves the API until the task is ended.
fn serve(api: Api, socket: &Path) -> Result<tokio::task::JoinHandle<()>, Failure> {
    // The lock says that no other daemon serves this folder, so what is there is left over.
    atomic_file::remove(socket).map_err(|e| cant_write(socket, e))?;
    let listener = UnixListener::bind(socket).map_err(|e| cant_write(socket, e))?;
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, api::router(api)).await {
            warn!(%error, "The API ended.");
        }
    }))
}

/// Waits until somebody wants an end: by a signal, or by the API.
async fn end_request(
    requests: &mut mpsc::UnboundedReceiver<Shutdown>,
) -> Result<Shutdown, Failure> {
    let listen =
        |kind| signal(kind).map_err(|e| Failure::unavailable("signals can't be heard").because(e));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok(Shutdown::default()),
        _ = interrupt.recv() => Ok(Shutdown::default()),
        request = requests.recv() => Ok(request.unwrap_or_default()),
    }
}

/// Stops, in the background, replicas that no worker has any more.
async fn stop_strangers(
    runtime: &Arc<dyn Runtime>,
    workers: &BTreeMap<WorkerId, Worker>,
    grace: Duration,
) {
    let found = match runtime.list().await {
        Ok(found) => found,
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "Can't look for replicas.");
            return;
        }
    };
    for found in found {
        if workers.values().flat_map(Worker::replicas).any(|replica| replica == found.replica) {
            continue;
        }
        info!(replica = %found.replica, "No worker has this replica any more: stopping it.");
        let runtime = Arc::clone(runtime);
        tokio::spawn(async move {
            if let Err(error) = runtime.stop(&found.replica, grace).await {
                let error = &error as &dyn std::error::Error;
                warn!(replica = %found.replica, error, "Can't stop a replica.");
            }
        });
    }
}

/// Stops all replicas. What they were at is resumed at the next start.
async fn stop_workers(runtime: &dyn Runtime, grace: Duration) {
    let found = match runtime.list().await {
        Ok(found) => found,
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "Can't stop the workers.");
            return;
        }
    };
    let stops = found.iter().map(|found| runtime.stop(&found.replica, grace));
    for (found, stopped) in found.iter().zip(futures_util::future::join_all(stops).await) {
        if let Err(error) = stopped {
            let error = &error as &dyn std::error::Error;
            warn!(replica = %found.replica, error, "Can't stop a worker.");
        }
    }
    if let Err(error) = runtime.clear_away().await {
        warn!(error = &error as &dyn std::error::Error, "Can't clear away after the workers.");
    }
}
