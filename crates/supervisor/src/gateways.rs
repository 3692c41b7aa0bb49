//! The gateways of the replicas: each its socket, all of them the way to one model's API.

use std::path::{Path, PathBuf};

use gateway::{Credential, EgressPolicy, Gateway, Listener, Replica, Upstream};
use protocol::{Auth, ReplicaId};
use rehearsal::{Rehearsal, Scenario};
use tokio::net::UnixListener;
use tracing::info;

use crate::config::Config;
use crate::failure::Failure;
use crate::install::{Installation, cant_write, private_folder};
use crate::keys::Keys;
use crate::runtime::{GATEWAY_SOCKET, ReplicaSpec, RuntimeError};

/// The gateways of a daemon.
#[derive(Debug)]
pub struct Gateways {
    gateway: Gateway,
    keys: Keys,
    sockets: PathBuf,
    /// Where the model's API is, to be shown.
    upstream: String,
}

impl Gateways {
    /// Makes the way to the model's API, and the API itself in a rehearsal.
    ///
    /// # Errors
    ///
    /// Bad input for an address or a scenario that can't be; unavailable when a socket can't be made.
    pub fn start(
        installation: &Installation,
        config: &Config,
        keys: Keys,
        sockets: &Path,
        rehearsal: bool,
    ) -> Result<Self, Failure> {
        let address = if rehearsal {
            let socket = sockets.join("rehearsal.sock");
            rehearse(installation, config, &socket)?;
            format!("unix:{}", socket.display())
        } else {
            config.base_url.value.clone()
        };
        let upstream = Upstream::parse(&address).map_err(|error| {
            let hint = error.hint();
            Failure::bad_input(format!("`{address}` ({}) is no address", config.base_url.origin))
                .because(error)
                .hint(hint)
        })?;
        let shown = if rehearsal { "rehearsal".to_owned() } else { upstream.to_string() };
        let gateway = Gateway::new(upstream).map_err(|error| {
            let hint = error.hint();
            Failure::unavailable("the gateway can't be made").because(error).hint(hint)
        })?;
        Ok(Self { gateway, keys, sockets: sockets.join("gateway"), upstream: shown })
    }

    /// Returns where the model's API is, to be shown.
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// Returns the folder of a replica's socket: the container mounts the folder, so that a socket that
    /// is made anew is seen.
    pub fn folder(&self, replica: &ReplicaId) -> PathBuf {
        self.sockets.join(replica.as_str())
    }

    /// Opens the way out of a replica. It is closed when the listener is dropped.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Refused`] when the socket can't be made.
    pub async fn listen(&self, spec: &ReplicaSpec) -> Result<Listener, RuntimeError> {
        let credential = self.keys.credential(&spec.worker);
        let refused = |source| {
            let (action, name) = ("open the gateway of", spec.replica.to_string());
            RuntimeError::Refused { action, name, source }
        };
        // Whoever can open the socket can use the key, and the folder may have been cleaned up since it
        // was made; in `/tmp` anybody could make it anew.
        if let Some(root) = self.sockets.parent() {
            let uid = rustix::process::geteuid().as_raw();
            private_folder(root, uid).map_err(|error| refused(error.into()))?;
        }
        let path = self.folder(&spec.replica).join(GATEWAY_SOCKET);
        let replica = Replica {
            id: spec.replica.clone(),
            worker: spec.worker.clone(),
            credential,
            egress: EgressPolicy { rules: spec.egress.clone() },
        };
        let listener = self.gateway.listen(replica, &path).await;
        listener.map_err(|error| refused(Box::new(error)))
    }
}

/// Starts the stand-in for the model's API.
fn rehearse(installation: &Installation, config: &Config, socket: &Path) -> Result<(), Failure> {
    let scenario = match &config.scenario.value {
        None => Scenario::default(),
        Some(file) => Scenario::load(&installation.root().join(file)).map_err(|error| {
            let hint = error.hint();
            let message = format!("the scenario in {} can't be played", config.scenario.origin);
            Failure::bad_input(message).because(error).hint(hint)
        })?,
    };
    // The lock says that no other daemon serves this folder, so what is there is left over.
    protocol::atomic_file::remove(socket).map_err(|e| cant_write(socket, e))?;
    let listener = UnixListener::bind(socket).map_err(|e| cant_write(socket, e))?;
    info!("The model is the built-in rehearsal.");
    tokio::spawn(Rehearsal::new(scenario).serve_unix(listener, std::future::pending()));
    Ok(())
}
