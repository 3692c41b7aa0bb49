//! Workers in containers of a Docker-compatible engine.
//!
//! Names are computed and labels say whose a container is, so that a supervisor that was restarted
//! finds its containers by itself. The record of how a container ended is the container: it is
//! never removed by the engine, and the engine's events are not used, since it forgets them.

mod container;
mod endpoint;
mod engine;
mod error;
mod network;
mod old;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, ContainerSummaryStateEnum};
use bollard::query_parameters::{CreateContainerOptionsBuilder, WaitContainerOptionsBuilder};
use futures_util::StreamExt;
use protocol::{ReplicaId, Wall};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use self::container::{Container, Stage};
use self::engine::Engine;
use self::error::status;
use super::fingerprint::{self, Programs};
use super::{CheckSpec, Exit, Found, ReplicaSpec, Runtime, RuntimeError, output};

/// The exit code of a process that was killed: by hand, or by the kernel for its memory.
const KILLED: i64 = 137;

/// How long after such an end the engine may still note that it was the memory limit. Docker 20.10 has it noted by then
/// (24 of 24 on cgroup v1, half of them under load); and the next attempt waits for this, too. Where it is noted later,
/// the worker counts as lost, which costs the task nothing.
const OOM_WAIT: Duration = Duration::from_millis(80);

/// How often to look meanwhile.
const OOM_LOOK: Duration = Duration::from_millis(20);

/// How long a `wait` is believed before the container is looked at: when an engine goes away without
/// closing the connection, nothing ever comes.
const WAIT_SLICE: Duration = Duration::from_secs(15);

/// How long a container that is replaced may take to stop.
const REPLACE_GRACE: Duration = Duration::from_secs(10);

/// How often a name that is taken and free again within a moment is tried.
const CREATE_TRIES: u32 = 3;

/// Starts at once: a start is half a second of processor time, and more only make each other late.
const STARTS_AT_ONCE: usize = 3;

/// Workers in containers.
#[derive(Debug)]
pub struct DockerRuntime {
    engine: Engine,
    installation: String,
    /// Whether containers find their gateways by a network of ours, and not by sockets.
    by_network: bool,
    programs: Programs,
    starts: Semaphore,
    /// Warnings of the engine that were passed on: each comes with every container.
    warned: Mutex<BTreeSet<String>>,
}

impl DockerRuntime {
    /// Connects to the engine at `DOCKER_HOST`; without it, to Docker's socket, or to Podman's where
    /// there is only that.
    ///
    /// `installation` tells our containers from other installations': it is a part of their names,
    /// so it is short and of `[a-z0-9-]`.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Unreachable`] and [`RuntimeError::TooOld`].
    pub async fn connect(installation: &str) -> Result<Self, RuntimeError> {
        Self::connect_to(&endpoint::default(), installation).await
    }

    /// Connects to the engine at `endpoint`: `unix://…`, `tcp://…` or `http://…`.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn connect_to(endpoint: &str, installation: &str) -> Result<Self, RuntimeError> {
        Ok(Self {
            engine: Engine::connect(endpoint).await?,
            installation: installation.to_owned(),
            by_network: false,
            programs: Programs::default(),
            starts: Semaphore::new(STARTS_AT_ONCE),
            warned: Mutex::default(),
        })
    }

    /// Returns the same, but that containers find their gateways by a network on which there is nothing
    /// else, and not by sockets, if that is wanted.
    #[must_use]
    pub fn by_network(self, by_network: bool) -> Self {
        Self { by_network, ..self }
    }

    /// Returns where the engine is.
    pub fn endpoint(&self) -> &str {
        &self.engine.endpoint
    }

    /// Returns the name of a replica's container.
    pub fn container_name(&self, replica: &ReplicaId) -> String {
        format!("supervisor-{}-{replica}", self.installation)
    }

    /// Returns the name of the container of a replica's check. No replica has it: an installation is no `check`.
    pub fn check_name(&self, replica: &ReplicaId) -> String {
        format!("supervisor-check-{}-{replica}", self.installation)
    }

    /// Returns the container of a replica's check, if there is one and it is ours.
    async fn find_check(&self, replica: &ReplicaId) -> Result<Option<Container>, RuntimeError> {
        let container = self.engine.inspect(&self.check_name(replica)).await?;
        Ok(container.filter(|container| self.is_ours(container, replica)))
    }

    /// Returns the name of the network of this installation's containers, where they have one.
    fn network(&self) -> String {
        format!("supervisor-{}", self.installation)
    }

    fn is_ours(&self, container: &Container, replica: &ReplicaId) -> bool {
        container.label(container::INSTALLATION) == Some(&self.installation)
            && container.label(container::REPLICA) == Some(replica.as_str())
    }

    /// Returns a replica's container, if there is one and it is ours.
    async fn find(&self, replica: &ReplicaId) -> Result<Option<Container>, RuntimeError> {
        let container = self.engine.inspect(&self.container_name(replica)).await?;
        Ok(container.filter(|container| self.is_ours(container, replica)))
    }

    /// Returns what the engine is to be told about a replica.
    async fn describe(&self, spec: &ReplicaSpec) -> Result<ContainerCreateBody, RuntimeError> {
        let program = self.programs.hash(&spec.program).await?;
        container::check_folders(spec)?;
        let image = self.engine.image_id(&spec.image).await?;
        let network = self.by_network.then(|| self.network());
        let mut body = container::describe(spec, &self.engine, network.as_deref());
        let folders = container::identity(spec);
        let fingerprint = fingerprint::of(json!({
            "body": body, "image": image, "program": program,
            "folders": folders, "settings": container::settings_identity(spec),
        }));
        let labels = HashMap::from([
            (container::INSTALLATION.to_owned(), self.installation.clone()),
            (container::WORKER.to_owned(), spec.worker.to_string()),
            (container::REPLICA.to_owned(), spec.replica.to_string()),
            (container::SPEC.to_owned(), fingerprint),
            (container::FOLDERS.to_owned(), folders),
            (container::PROOF.to_owned(), spec.secret.print()),
        ]);
        body.labels = Some(labels);
        Ok(body)
    }

    /// Creates and starts a container. `None` when the name was taken in the meantime.
    async fn launch(
        &self,
        name: &str,
        spec: &ReplicaSpec,
        body: ContainerCreateBody,
    ) -> Result<Option<()>, RuntimeError> {
        let _permit = self.starts.acquire().await;
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let created = match self.engine.docker.create_container(Some(options), body).await {
            Ok(created) => created,
            Err(e) if status(&e) == Some(409) => return Ok(None),
            Err(e) if status(&e) == Some(404) => {
                return Err(RuntimeError::ImageMissing { image: spec.image.clone() });
            }
            Err(e) => return Err(self.engine.failed("create", name, e)),
        };
        self.warn_once(created.warnings);
        if let Err(e) = self.engine.docker.start_container(&created.id, None).await {
            let error = self.engine.failed("start", name, e);
            // What never ran is of no use to anybody, unless the engine went away: then nobody
            // knows whether it runs.
            if !error.is_transient() {
                self.engine.remove(name, &created.id).await?;
            }
            return Err(error);
        }
        info!(container = name, image = spec.image, "Container started.");
        Ok(Some(()))
    }

    /// Waits until a container does not run and returns how it ended, with that many lines of what it printed.
    async fn ended(
        &self,
        name: &str,
        mut found: Container,
        lines: usize,
    ) -> Result<Exit, RuntimeError> {
        // By its id from now on: the name may be given to a successor.
        let id = found.id.clone();
        while found.stage == Stage::Running {
            let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
            let mut answers = pin!(self.engine.docker.wait_container(&id, Some(options)));
            let code = match timeout(WAIT_SLICE, answers.next()).await {
                Err(_) => None,
                Ok(Some(Ok(answer))) => Some(answer.status_code),
                // bollard turns a non-zero exit into an error; to us it is an answer.
                Ok(Some(Err(Error::DockerContainerWaitError { code, .. }))) => Some(code),
                Ok(Some(Err(e))) if status(&e) == Some(404) => None,
                Ok(Some(Err(e))) => return Err(self.engine.failed("wait for", name, e)),
                Ok(None) => {
                    let endpoint = self.engine.endpoint.clone();
                    let source = "it hung up without an answer".into();
                    return Err(RuntimeError::Unreachable { endpoint, source });
                }
            };
            found = match (self.engine.inspect(&id).await?, code) {
                // Somebody removed it. What the engine says is the code then is of no use: Podman
                // says 0.
                (None, _) => return Ok(Exit::unknown()),
                // An engine may say so a moment before it shows it.
                (Some(mut now), Some(code)) => {
                    now.stage = Stage::Ended;
                    now.code = now.code.or(Some(code));
                    now
                }
                (Some(now), None) => now,
            };
        }
        // The engine hears of the memory limit apart from the end, and may note it a moment later.
        let until = Instant::now() + OOM_WAIT;
        while found.code == Some(KILLED) && !found.oom && Instant::now() < until {
            sleep(OOM_LOOK).await;
            match self.engine.inspect(&id).await? {
                Some(now) => found.oom = now.oom,
                None => break,
            }
        }
        Ok(Exit { code: found.code, oom: found.oom, output: self.engine.output(&id, lines).await })
    }

    fn warn_once(&self, warnings: Vec<String>) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in warnings {
            if warned.insert(warning.clone()) {
                warn!(warning, "The container engine does not do all that it was asked to.");
            }
        }
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    fn name(&self) -> &'static str {
        "docker"
    }

    async fn check(&self, images: &[String]) -> Result<(), RuntimeError> {
        let endpoint = self.endpoint();
        self.engine.docker.ping().await.map_err(|e| self.engine.failed("ping", endpoint, e))?;
        for image in images {
            self.engine.image_id(image).await?;
        }
        Ok(())
    }

    async fn ensure(&self, spec: &ReplicaSpec, busy: bool) -> Result<(), RuntimeError> {
        let name = self.container_name(&spec.replica);
        for _ in 0..CREATE_TRIES {
            let found = self.engine.inspect(&name).await?;
            if found.as_ref().is_some_and(|found| !self.is_ours(found, &spec.replica)) {
                return Err(RuntimeError::NotOurs { name });
            }
            let running = found.as_ref().filter(|found| found.stage == Stage::Running);
            if busy && running.is_some_and(|running| running.is_kept_while_busy(spec)) {
                debug!(container = name, "Busy container adopted.");
                return Ok(());
            }
            // Before anything is stopped: it may not be possible to start another.
            let body = self.describe(spec).await?;
            let wanted = body.labels.as_ref().and_then(|labels| labels.get(container::SPEC));
            let same =
                |running: &Container| running.label(container::SPEC) == wanted.map(String::as_str);
            if running.is_some_and(same) {
                debug!(container = name, "Container adopted.");
                return Ok(());
            }
            if let Some(found) = &found {
                info!(container = name, stage = ?found.stage, "Container is replaced.");
                self.engine.end(&name, found, REPLACE_GRACE).await?;
            }
            if self.launch(&name, spec, body).await?.is_some() {
                return Ok(());
            }
        }
        Err(RuntimeError::Refused {
            action: "create",
            name,
            source: "its name is taken again and again".into(),
        })
    }

    async fn wait(&self, replica: &ReplicaId) -> Result<Exit, RuntimeError> {
        let Some(found) = self.find(replica).await? else {
            return Ok(Exit::unknown());
        };
        self.ended(&self.container_name(replica), found, output::LINES).await
    }

    async fn stop(&self, replica: &ReplicaId, grace: Duration) -> Result<(), RuntimeError> {
        if let Some(found) = self.find(replica).await? {
            self.engine.end(&self.container_name(replica), &found, grace).await?;
        }
        self.end_check(replica).await
    }

    async fn verify(&self, check: &CheckSpec) -> Result<Exit, RuntimeError> {
        let replica = &check.replica.replica;
        let name = self.check_name(replica);
        self.programs.hash(&check.replica.program).await?;
        self.end_check(replica).await?;
        let mut body = container::describe_check(check, &self.engine);
        body.labels = Some(HashMap::from([
            (container::INSTALLATION.to_owned(), self.installation.clone()),
            (container::WORKER.to_owned(), check.replica.worker.to_string()),
            (container::REPLICA.to_owned(), replica.to_string()),
            (container::CHECK.to_owned(), String::new()),
        ]));
        if self.launch(&name, &check.replica, body).await?.is_none() {
            return Err(RuntimeError::NotOurs { name });
        }
        let Some(found) = self.find_check(replica).await? else { return Ok(Exit::unknown()) };
        let ended = self.ended(&name, found, output::CHECK_LINES);
        let exit = timeout(super::CHECK_TIMEOUT, ended).await.unwrap_or(Ok(Exit::unknown()))?;
        self.end_check(replica).await?;
        Ok(exit)
    }

    async fn end_check(&self, replica: &ReplicaId) -> Result<(), RuntimeError> {
        match self.find_check(replica).await? {
            Some(found) => self.engine.remove(&self.check_name(replica), &found.id).await,
            None => Ok(()),
        }
    }

    async fn door(&self) -> Result<Option<IpAddr>, RuntimeError> {
        if !self.by_network {
            return Ok(None);
        }
        network::make(&self.engine, &self.network(), &self.installation).await.map(Some)
    }

    fn unkept(&self) -> Vec<Wall> {
        self.engine.unkept.clone()
    }

    async fn clear_away(&self) -> Result<(), RuntimeError> {
        network::remove(&self.engine, &self.network(), &self.installation).await
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        use ContainerSummaryStateEnum as State;
        let label = format!("{}={}", container::INSTALLATION, self.installation);
        let listed = self.engine.list(&label).await?;
        // Of a replica there may be two: its check is a part of it, which goes when it is stopped.
        let mut found = BTreeMap::new();
        for container in listed {
            let replica = container.labels.and_then(|mut labels| labels.remove(container::REPLICA));
            let Some(replica) = replica.and_then(|replica| replica.parse().ok()) else { continue };
            let ended = matches!(
                container.state,
                Some(State::CREATED | State::EXITED | State::DEAD | State::REMOVING)
            );
            *found.entry(replica).or_insert(false) |= !ended;
        }
        Ok(found.into_iter().map(|(replica, running)| Found { replica, running }).collect())
    }
}
