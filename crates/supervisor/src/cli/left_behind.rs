//! Workers that run on without a daemon: one that is killed, or stopped by a signal, leaves them for the
//! next one.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::failure::Failure;
use crate::install::Installation;
use crate::lock::Lock;
use crate::runtime::docker::DockerRuntime;
use crate::runtime::process::ProcessRuntime;
use crate::runtime::{Found, Runtime, RuntimeError};

/// How long a worker has to stop. The agent's session is on disk; it needs no more.
const GRACE: Duration = Duration::from_secs(15);

/// What became of workers without a daemon.
#[derive(Debug)]
pub(crate) enum LeftBehind {
    /// So many ran, and do not any more.
    Stopped(usize),
    /// The engine that could tell does not answer. It may be gone for good, and with it all that ran.
    Unknown(RuntimeError),
}

/// Returns how many workers run. Where that can't be told, none do as far as one knows.
pub(crate) async fn running(installation: &Installation) -> usize {
    match last_runtime(installation).await {
        Some(Ok(runtime)) => live(&*runtime).await.map_or(0, |found| found.len()),
        Some(Err(_)) | None => 0,
    }
}

/// Stops what a daemon left behind that is not there any more.
///
/// # Errors
///
/// Unavailable when a daemon starts meanwhile, or when a worker can't be stopped.
pub(crate) async fn stop(installation: &Installation) -> Result<LeftBehind, Failure> {
    let Some(runtime) = last_runtime(installation).await else {
        return Ok(LeftBehind::Stopped(0));
    };
    let _lock = Lock::take(installation)?;
    let stopped = match runtime {
        Ok(runtime) => stop_all(&*runtime).await,
        Err(error) => Err(error),
    };
    match stopped {
        Ok(workers) => Ok(LeftBehind::Stopped(workers)),
        Err(error) if error.is_transient() => Ok(LeftBehind::Unknown(error)),
        Err(error) => {
            let hint = error.hint();
            let failure =
                Failure::unavailable("what the last supervisor left running can't be stopped");
            let failure = failure.because(error);
            Err(match hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            })
        }
    }
}

async fn stop_all(runtime: &dyn Runtime) -> Result<usize, RuntimeError> {
    let running = live(runtime).await?.len();
    // What has ended is removed with the rest.
    let found = runtime.list().await?;
    let stops = found.iter().map(|found| runtime.stop(&found.replica, GRACE));
    join_all(stops).await.into_iter().collect::<Result<(), _>>()?;
    runtime.clear_away().await?;
    Ok(running)
}

async fn live(runtime: &dyn Runtime) -> Result<Vec<Found>, RuntimeError> {
    let found = runtime.list().await?;
    Ok(found.into_iter().filter(|found| found.running).collect())
}

/// Returns what ran the workers the last time, if they have ever run.
async fn last_runtime(
    installation: &Installation,
) -> Option<Result<Arc<dyn Runtime>, RuntimeError>> {
    let name = fs::read_to_string(installation.runtime_file()).ok()?;
    match name.trim() {
        "docker" => {
            let docker = DockerRuntime::connect(installation.id()).await;
            Some(docker.map(|docker| Arc::new(docker) as Arc<dyn Runtime>))
        }
        "process" => Some(Ok(Arc::new(ProcessRuntime::new(installation.processes())))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use protocol::atomic_file::{Durability, replace};

    use super::*;
    use crate::runtime::fake::{FakeRuntime, spec};

    #[tokio::test]
    async fn workers_without_a_daemon_are_stopped_and_counted() {
        let runtime = FakeRuntime::new(|_| std::future::pending());
        runtime.ensure(&spec(), false).await.unwrap();
        assert_eq!(stop_all(&runtime).await.unwrap(), 1);
        assert_eq!(stop_all(&runtime).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn nothing_is_stopped_where_a_daemon_starts_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("workspaces")).unwrap();
        let installation = Installation::at(dir.path()).unwrap();
        assert!(matches!(stop(&installation).await, Ok(LeftBehind::Stopped(0))));
        std::fs::create_dir_all(installation.state()).unwrap();
        replace(&installation.runtime_file(), b"process", Durability::Volatile).unwrap();
        assert!(matches!(stop(&installation).await, Ok(LeftBehind::Stopped(0))));
        let _lock = Lock::take(&installation).unwrap();
        stop(&installation).await.unwrap_err();
    }
}
