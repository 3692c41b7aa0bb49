//! An engine, asked in our own words.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerSummary, SystemInfo};
use bollard::query_parameters::{
    InspectContainerOptions, KillContainerOptions, ListContainersOptionsBuilder,
    LogsOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use futures_util::StreamExt;
use protocol::Wall;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::container::{Container, Stage};
use super::endpoint::{check_version, client};
use super::error::{explain, status};
use crate::runtime::{RuntimeError, output};

/// How long a call may take. They take milliseconds; under load on a slow disk, seconds.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a container may take to go away once it was removed; with a busy disk, seconds.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a wait for the end of what was printed may take. It is only for people.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a state that passes by itself is given to pass, and how often.
const MOMENT: Duration = Duration::from_millis(50);
const MOMENT_TRIES: u32 = 100;

/// An engine that has answered once.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    /// How to reach it.
    pub(super) docker: Docker,
    /// Where it is, for people.
    pub(super) endpoint: String,
    /// How many processors it has. It refuses to give more.
    pub(super) cpus: Option<u32>,
    /// Whether it is Podman, which differs in places.
    pub(super) podman: bool,
    /// Whether it is run by an ordinary user, in a user namespace.
    pub(super) rootless: bool,
    /// The limits that it says it does not keep.
    pub(super) unkept: Vec<Wall>,
}

impl Engine {
    /// Connects to the engine at `endpoint`.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Unreachable`] and [`RuntimeError::TooOld`].
    pub(super) async fn connect(endpoint: &str) -> Result<Self, RuntimeError> {
        let failed = |error| explain(endpoint, "connect to", endpoint, error);
        let docker = client(endpoint).map_err(failed)?;
        let version = docker.version().await.map_err(failed)?;
        // No version is set on the client: the engine then speaks its own, and ours may be newer.
        check_version(version.api_version.as_deref().unwrap_or("unknown"))?;
        let podman = version.components.is_some_and(|parts| {
            parts.iter().any(|part| part.name.to_ascii_lowercase().contains("podman"))
        });
        let info = docker.info().await.map_err(failed)?;
        let unkept = unkept(&info);
        let rootless = info.security_options.is_some_and(|options| {
            options.iter().any(|option| option.split(',').any(|part| part == "name=rootless"))
        });
        Ok(Self {
            docker,
            endpoint: endpoint.to_owned(),
            cpus: info.ncpu.and_then(|cpus| u32::try_from(cpus).ok()).filter(|&cpus| cpus > 0),
            podman,
            rootless,
            unkept,
        })
    }

    /// Returns a client for a call that takes up to `duration` by design.
    fn patient(&self, duration: Duration) -> Docker {
        self.docker.clone().with_timeout(duration.saturating_add(CALL_TIMEOUT))
    }

    /// Says which call failed. See [`explain`].
    pub(super) fn failed(&self, action: &'static str, name: &str, error: Error) -> RuntimeError {
        explain(&self.endpoint, action, name, error)
    }

    /// Returns the container of that name or id, if there is one.
    pub(super) async fn inspect(&self, name: &str) -> Result<Option<Container>, RuntimeError> {
        let ask = || self.docker.inspect_container(name, None::<InspectContainerOptions>);
        match self.settled(ask).await {
            Ok(answer) => Ok(Some(Container::new(answer))),
            Err(e) if status(&e) == Some(404) => Ok(None),
            Err(e) => Err(self.failed("inspect", name, e)),
        }
    }

    /// Returns all containers with that label, running or not.
    pub(super) async fn list(&self, label: &str) -> Result<Vec<ContainerSummary>, RuntimeError> {
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let ask = || self.docker.list_containers(Some(options.clone()));
        self.settled(ask).await.map_err(|e| self.failed("list", label, e))
    }

    /// Asks again while the answer is of a moment that passes.
    ///
    /// Podman has states between the others that Docker's API, and so bollard, does not have, and
    /// fails on a container that is just being removed.
    async fn settled<T, F>(&self, ask: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        for _ in 0..MOMENT_TRIES {
            match ask().await {
                Err(Error::JsonDataError { .. }) if self.podman => sleep(MOMENT).await,
                Err(e) if self.podman && status(&e) == Some(500) => sleep(MOMENT).await,
                answer => return answer,
            }
        }
        ask().await
    }

    /// Returns the id of an image: it changes with its contents.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::ImageMissing`], and what any call may say.
    pub(super) async fn image_id(&self, image: &str) -> Result<String, RuntimeError> {
        match self.docker.inspect_image(image).await {
            Ok(found) => Ok(found.id.unwrap_or_default()),
            Err(e) if status(&e) == Some(404) => {
                Err(RuntimeError::ImageMissing { image: image.to_owned() })
            }
            Err(e) => Err(self.failed("inspect image", image, e)),
        }
    }

    /// Stops a container and removes it.
    pub(super) async fn end(
        &self,
        name: &str,
        found: &Container,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        if found.stage == Stage::Running {
            // The engine itself waits for the end, and kills after the grace period.
            let seconds = i32::try_from(grace.as_secs_f64().ceil() as u64).unwrap_or(i32::MAX);
            let options = StopContainerOptionsBuilder::new().t(seconds).build();
            match self.patient(grace).stop_container(&found.id, Some(options)).await {
                Ok(()) => {}
                Err(e) if status(&e) == Some(404) => {}
                Err(error) => {
                    debug!(container = name, %error, "It did not stop: killing it.");
                    let killed =
                        self.docker.kill_container(&found.id, None::<KillContainerOptions>).await;
                    // Whether that helped is seen when it is removed.
                    if let Err(error) = killed {
                        debug!(container = name, %error, "It was not killed.");
                    }
                }
            }
        }
        self.remove(name, &found.id).await
    }

    /// Removes a container, running or not, and waits until it is gone.
    pub(super) async fn remove(&self, name: &str, id: &str) -> Result<(), RuntimeError> {
        // With the volumes that an image may declare: they are nobody's then.
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let removed = self.docker.remove_container(id, Some(options)).await;
        let refused = match removed {
            Ok(()) => None,
            Err(e) if status(&e) == Some(404) => return Ok(()),
            // Somebody else is removing it, or it can't be: seen below.
            Err(e) if status(&e).is_some() => Some(e),
            Err(e) => return Err(self.failed("remove", name, e)),
        };
        let gone = async {
            let mut pause = Duration::from_millis(10);
            while self.inspect(id).await?.is_some() {
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            Ok(())
        };
        match timeout(REMOVAL_TIMEOUT, gone).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(self.failed("remove", name, refused.unwrap_or(Error::RequestTimeoutError)))
            }
        }
    }

    /// Returns the end of what a container printed, at most that many lines; empty when that can't be had.
    pub(super) async fn output(&self, id: &str, most: usize) -> String {
        let lines = most.to_string();
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(&lines).build();
        let read = async {
            let mut text = Vec::new();
            let mut chunks = pin!(self.docker.logs(id, Some(options)));
            while let Some(Ok(chunk)) = chunks.next().await {
                text.extend_from_slice(chunk.as_ref());
                // Lines may be long.
                let surplus = text.len().saturating_sub(2 * output::BYTES);
                text.drain(..surplus);
            }
            output::tail_of(&text, most)
        };
        timeout(OUTPUT_TIMEOUT, read).await.unwrap_or_default()
    }
}

/// Returns the limits that an engine says it can't keep: a kernel, or a user's part of one, without the controller. What
/// it says nothing of may well be kept.
fn unkept(info: &SystemInfo) -> Vec<Wall> {
    let has_memory = info.memory_limit != Some(false);
    let says = [
        (Wall::Memory, Some(has_memory)),
        // Without a limit on memory there is none with swap either; the cure is the other's.
        (Wall::Swap, info.swap_limit.filter(|_| has_memory)),
        (Wall::Pids, info.pids_limit),
        (Wall::Cpus, info.cpu_cfs_quota),
    ];
    says.into_iter().filter(|(_, keeps)| *keeps == Some(false)).map(|(wall, _)| wall).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_an_engine_does_not_keep_are_those_that_it_says_it_does_not() {
        assert_eq!(unkept(&SystemInfo::default()), []);
        let none = SystemInfo {
            memory_limit: Some(false),
            swap_limit: Some(false),
            pids_limit: Some(false),
            cpu_cfs_quota: Some(false),
            ..SystemInfo::default()
        };
        assert_eq!(unkept(&none), [Wall::Memory, Wall::Pids, Wall::Cpus]);
        let swap = SystemInfo { memory_limit: Some(true), swap_limit: Some(false), ..none };
        assert_eq!(unkept(&swap), [Wall::Swap, Wall::Pids, Wall::Cpus]);
    }
}
