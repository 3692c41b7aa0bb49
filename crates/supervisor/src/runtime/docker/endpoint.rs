//! Where an engine is, and how to speak to it.

use std::env;
use std::path::PathBuf;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::engine::CALL_TIMEOUT;
use crate::runtime::RuntimeError;

/// The oldest API that has what we use, of Docker 20.10.
const OLDEST_API: (u32, u32) = (1, 41);

/// Where Docker listens when nothing else is said.
const DOCKER_SOCKET: &str = "unix:///var/run/docker.sock";

/// Returns where the engine should be: `DOCKER_HOST`; else Docker's socket, or Podman's where there
/// is only that.
pub(super) fn default() -> String {
    if let Some(host) = env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()) {
        return host;
    }
    let own_podman = env::var_os("XDG_RUNTIME_DIR")
        .map(|dir| PathBuf::from(dir).join("podman/podman.sock"))
        .map(|path| format!("unix://{}", path.display()));
    [Some(DOCKER_SOCKET.to_owned()), own_podman, Some("unix:///run/podman/podman.sock".to_owned())]
        .into_iter()
        .flatten()
        .find(|endpoint| PathBuf::from(endpoint.trim_start_matches("unix://")).exists())
        .unwrap_or_else(|| DOCKER_SOCKET.to_owned())
}

/// Returns a client for that endpoint. Nothing is sent yet.
///
/// # Errors
///
/// Of bollard: there is no such socket, or its kind is not known.
pub(super) fn client(endpoint: &str) -> Result<Docker, Error> {
    let timeout = CALL_TIMEOUT.as_secs();
    match endpoint.split_once("://") {
        Some(("unix", path)) => Docker::connect_with_unix(path, timeout, API_DEFAULT_VERSION),
        Some(("tcp" | "http", host)) => {
            // As bollard's own feature `http` does it.
            let client = Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(HttpConnector::new());
            let transport = move |request: BollardRequest| {
                let response = client.request(request);
                async move { response.await.map_err(Error::from) }
            };
            let address = format!("http://{}", host.trim_end_matches('/'));
            Docker::connect_with_custom_transport(
                transport,
                Some(address),
                timeout,
                API_DEFAULT_VERSION,
            )
        }
        _ => Err(Error::UnsupportedURISchemeError { uri: endpoint.to_owned() }),
    }
}

/// Checks that an API version is one that has what we use.
///
/// # Errors
///
/// [`RuntimeError::TooOld`].
pub(super) fn check_version(found: &str) -> Result<(), RuntimeError> {
    let version = found
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    match version {
        Some(version) if version >= OLDEST_API => Ok(()),
        _ => Err(RuntimeError::TooOld { found: found.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for good in ["1.41", "1.53", "1.100", "2.0"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["1.40", "1.9", "0.99", "", "unknown"] {
            assert!(
                matches!(check_version(bad), Err(RuntimeError::TooOld { found }) if found == bad)
            );
        }
    }

    #[test]
    fn hosts_that_we_do_not_speak_to_are_refused() {
        assert!(matches!(
            client("ssh://build-host"),
            Err(Error::UnsupportedURISchemeError { uri }) if uri == "ssh://build-host"
        ));
    }
}
