//! What runs the workers.
//!
//! A [`Runtime`] starts, finds again, waits for and stops replicas. There are two: containers of a
//! Docker-compatible engine ([`docker`]), and plain child processes ([`process`]).

pub mod docker;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
mod fingerprint;
mod output;
pub mod process;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use gateway::RequestPolicy;
use protocol::{
    Auth, ContainerMode, HostRule, ReplicaId, ReportSecret, Resources, Wall, WorkerId,
    WorkspaceMode,
};
use thiserror::Error;

/// What starts a replica. Paths are absolute and on the supervisor's file system.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaSpec {
    /// The replica.
    pub replica: ReplicaId,
    /// Its worker.
    pub worker: WorkerId,
    /// The image, where the runtime has images.
    pub image: String,
    /// The worker's program: one static file.
    pub program: PathBuf,
    /// The Claude Code CLI, where the runtime has no images. In an image it is on the `PATH`.
    pub claude: Option<PathBuf>,
    /// What its worker proves its reports with: an environment variable of process 1, and nowhere else.
    pub secret: ReportSecret,
    /// The slot's folder of attempts: `/tasks` in a container, read-only.
    pub tasks: PathBuf,
    /// The slot's folder of results: `/results` in a container.
    pub results: PathBuf,
    /// The worker's workspace: `/workspace` in a container.
    pub workspace: PathBuf,
    /// Whether the workspace may be written.
    pub workspace_mode: WorkspaceMode,
    /// With [`Auth::Home`], the worker's folder in `auth-homes/`: `/login` in a container, read-only.
    pub login: Option<PathBuf>,
    /// Whose credential is used; only to be shown.
    pub auth: Auth,
    /// Where the agent keeps what it throws away, where the runtime has no `/tmp` of its own for it.
    pub scratch: PathBuf,
    /// The folder with the gateway's socket: `/run/gateway` in a container. The socket's name in it
    /// is [`GATEWAY_SOCKET`]; in its place there may be a [`DOOR_FILE`](protocol::DOOR_FILE).
    pub gateway: PathBuf,
    /// Whether it asks the model: then the model's API has to answer before it takes an attempt.
    pub asks_model: bool,
    /// The hosts that its tools may reach by the gateway. Not the runtime's business: they change nothing
    /// of how it is started.
    pub egress: Vec<HostRule>,
    /// What its requests to the model may contain. Not the runtime's business either.
    pub requests: RequestPolicy,
    /// What it may use.
    pub resources: Resources,
    /// Who the agent runs as, in a container.
    pub user: Owner,
    /// How long it serves. Not the runtime's business.
    pub container: ContainerMode,
    /// Walls and limits that a container may lack. Without any other it takes no attempt.
    pub accepted: Vec<Wall>,
}

/// A task's own check of what an attempt left: where it runs, and what it is given. It runs in the same image and behind
/// the same walls as the replica, with nothing that an agent wrote but the artifacts, and without a way out.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckSpec {
    /// The replica that the attempt was on: the image, the program, the workspace and what may be used.
    pub replica: ReplicaSpec,
    /// The attempt's folder in the slot, with its assignment and its inputs.
    pub task: PathBuf,
    /// The artifacts that were taken in, where there are any.
    pub artifacts: Option<PathBuf>,
}

/// How long a check may take until it counts as stuck: its own 60 seconds, and what an engine under load adds.
pub(crate) const CHECK_TIMEOUT: Duration = Duration::from_secs(90);

/// Returns the options with the bounds that the worker itself keeps.
fn bounds(spec: &ReplicaSpec) -> [String; 4] {
    let Resources { disk_mib, files, .. } = spec.resources;
    ["--disk-mib".to_owned(), disk_mib.to_string(), "--files".to_owned(), files.to_string()]
}

/// The name of the gateway's socket in its folder.
pub const GATEWAY_SOCKET: &str = "gateway.sock";

/// A user and group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// How a replica ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, or 128 and the number of the signal; `None` when nobody knows any more.
    pub code: Option<i64>,
    /// Whether it, or a process in it, hit its memory limit.
    pub oom: bool,
    /// The end of what it printed, for a person to read.
    pub output: String,
}

impl Exit {
    /// Returns the end of which nothing is known but that it came.
    pub fn unknown() -> Self {
        Self { code: None, oom: false, output: String::new() }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "it ended with {code}")?,
            None => write!(f, "it is gone")?,
        }
        if self.oom {
            write!(f, " after it hit its memory limit")?;
        }
        match self.output.trim().lines().last() {
            Some(line) => write!(f, " (its last words: {line})"),
            None => Ok(()),
        }
    }
}

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a runtime did not do as asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The engine does not answer.
    #[error("cannot reach the container engine at {endpoint}")]
    Unreachable {
        /// Where it should be.
        endpoint: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// The engine is too old.
    #[error("the container engine speaks API {found}, at least 1.41 is needed")]
    TooOld {
        /// What it speaks.
        found: String,
    },
    /// The image is not on the engine's host.
    #[error("image `{image}` is not on this host")]
    ImageMissing {
        /// The image that was asked for.
        image: String,
    },
    /// Something of that name is there, and it is not ours.
    #[error("container `{name}` belongs to somebody else")]
    NotOurs {
        /// The name.
        name: String,
    },
    /// A network of that name is there, and it is not ours, or not one without a way out.
    #[error("network `{name}` is not the one that was made for containers without a way out")]
    NetworkNotOurs {
        /// The name.
        name: String,
    },
    /// A program is missing.
    #[error("`{}` is not there or can't be run", .path.display())]
    ProgramMissing {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        #[source]
        source: Source,
    },
    /// The engine, or the system, answered with an error.
    #[error("cannot {action} `{name}`")]
    Refused {
        /// What was asked, as a verb: "create", "start".
        action: &'static str,
        /// Which replica.
        name: String,
        /// What was said.
        #[source]
        source: Source,
    },
}

impl RuntimeError {
    /// Returns whether to make the same call again: it may succeed with nothing changed by us.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { source, .. } => lacks_room(&**source),
            _ => false,
        }
    }

    /// Returns whether nobody answered, as when an engine starts or restarts.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Unreachable { source, .. } if !is_denied(&**source))
    }

    /// Returns whether no replica of the worker can be started before somebody has done something.
    pub fn needs_somebody(&self) -> bool {
        match self {
            Self::TooOld { .. }
            | Self::ImageMissing { .. }
            | Self::NotOurs { .. }
            | Self::NetworkNotOurs { .. }
            | Self::ProgramMissing { .. } => true,
            Self::Unreachable { .. } | Self::Refused { .. } => false,
        }
    }

    /// Returns what the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { source, .. } if is_denied(&**source) => Some(
                "Add your user to the group `docker`, then log in again (or run as root)."
                    .to_owned(),
            ),
            Self::Unreachable { .. } => {
                Some("Check that Docker runs and that DOCKER_HOST points to it.".to_owned())
            }
            Self::TooOld { .. } => Some("Install Docker 20.10 or newer.".to_owned()),
            Self::ImageMissing { .. } => Some("Build it with `make image`.".to_owned()),
            Self::NotOurs { name } => Some(format!("Rename or remove the container `{name}`.")),
            Self::NetworkNotOurs { name } => {
                Some(format!("Remove it with `docker network rm {name}`: it is made anew."))
            }
            Self::ProgramMissing { .. } => Some("Build and fetch it with `make up`.".to_owned()),
            Self::Refused { .. } => None,
        }
    }
}

/// Returns whether access was denied by the system, here or in one of the causes.
fn is_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Returns whether there is no room on a disk, here or, as far as it says so, at the engine.
fn lacks_room(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
            || error.to_string().contains("no space left on device")
    })
}

/// A replica that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The replica.
    pub replica: ReplicaId,
    /// Whether it runs.
    pub running: bool,
}

/// What runs workers.
///
/// Each method may be called again after a crash, or at the same time for different replicas; a
/// repeat finds what the first call did and does not do it twice.
#[async_trait]
pub trait Runtime: fmt::Debug + Send + Sync + 'static {
    /// Returns what it is called: `docker` or `process`.
    fn name(&self) -> &'static str;

    /// Checks that replicas of these images could be started.
    ///
    /// # Errors
    ///
    /// See [`RuntimeError`].
    async fn check(&self, images: &[String]) -> Result<(), RuntimeError>;

    /// Makes sure that the replica runs as the spec says. Adopts it when it does; replaces it when it
    /// runs by another spec and `busy` is false.
    ///
    /// # Errors
    ///
    /// See [`RuntimeError`]. After an error nothing is known about the replica.
    async fn ensure(&self, spec: &ReplicaSpec, busy: bool) -> Result<(), RuntimeError>;

    /// Waits until the replica does not run and returns how it ended. `Exit` without a code when it
    /// is not there.
    ///
    /// # Errors
    ///
    /// See [`RuntimeError`]: a lost connection is not an end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the replica alone.
    async fn wait(&self, replica: &ReplicaId) -> Result<Exit, RuntimeError>;

    /// Asks the replica to stop, kills it after `grace`, and removes what is left of it and of a check. When this
    /// returns `Ok` nothing of it runs. `Ok` when it was already gone.
    ///
    /// # Errors
    ///
    /// See [`RuntimeError`].
    async fn stop(&self, replica: &ReplicaId, grace: Duration) -> Result<(), RuntimeError>;

    /// Runs a task's own check to its end and returns how it ended; nothing of it is left then. What is left of an
    /// earlier check of the same replica is ended first. One of which nobody knows how it ended has no code.
    ///
    /// # Errors
    ///
    /// See [`RuntimeError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the check to [`end_check`](Self::end_check), to the next one, and to
    /// [`stop`](Self::stop).
    async fn verify(&self, check: &CheckSpec) -> Result<Exit, RuntimeError>;

    /// Ends what there is of a check of that replica. `Ok` when there is nothing.
    ///
    /// # Errors
    ///
    /// See [`RuntimeError`].
    async fn end_check(&self, replica: &ReplicaId) -> Result<(), RuntimeError>;

    /// Returns the address of this machine at which replicas find their gateways, and makes what that
    /// takes. `None` where they find them by their sockets.
    ///
    /// # Errors
    ///
    /// See [`RuntimeError`].
    async fn door(&self) -> Result<Option<IpAddr>, RuntimeError> {
        Ok(None)
    }

    /// Returns the limits of which it is known that no replica has them, in spite of being asked for.
    fn unkept(&self) -> Vec<Wall> {
        Vec::new()
    }

    /// Removes what was made for all replicas, when there is none any more.
    ///
    /// # Errors
    ///
    /// See [`RuntimeError`].
    async fn clear_away(&self) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Returns all replicas of this installation.
    ///
    /// # Errors
    ///
    /// See [`RuntimeError`].
    async fn list(&self) -> Result<Vec<Found>, RuntimeError>;
}
