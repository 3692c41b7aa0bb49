//! The open way out of a replica: by a socket, or by a port.

use std::error::Error;
use std::fs::{self, DirBuilder, Permissions};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use gateway::{
    Caller, DIR_MODE, Gateway, Listener, PortListener, RefusedRequests, Replica, Secret, Stop,
};
use protocol::atomic_file::{self, Durability};
use protocol::{Attempt, DOOR_FILE, Door, TaskId};

use crate::runtime::GATEWAY_SOCKET;

/// The open way out of a replica. It is closed when this is dropped.
#[derive(Debug)]
pub enum WayOut {
    /// A socket in its folder.
    Socket(Listener),
    /// A port, which a file in its folder names.
    Port {
        /// The port.
        listener: PortListener,
        /// The file.
        file: PathBuf,
    },
    /// None, in a simulation.
    #[cfg(feature = "simulate")]
    Simulated,
}

impl WayOut {
    pub(super) async fn open(
        gateway: &Gateway,
        replica: Replica,
        folder: &Path,
        door: Option<IpAddr>,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let Some(address) = door else {
            return Ok(Self::Socket(gateway.listen(replica, &folder.join(GATEWAY_SOCKET)).await?));
        };
        let file = folder.join(DOOR_FILE);
        // A replica that has outlived a daemon goes on with the secret that it has read.
        let known: Option<Door> =
            fs::read(&file).ok().and_then(|b| serde_json::from_slice(&b).ok());
        let known = known.and_then(|door| door.secret.parse().ok());
        let secret = known.unwrap_or_else(Secret::generate);
        let shown = secret.expose().to_owned();
        let listener = gateway.listen_tcp(replica, secret, SocketAddr::new(address, 0)).await?;
        DirBuilder::new().recursive(true).mode(0o700).create(folder.parent().unwrap_or(folder))?;
        match DirBuilder::new().mode(DIR_MODE).create(folder) {
            Err(error) if !folder.is_dir() => return Err(error.into()),
            _ => {}
        }
        let door = Door { address: listener.address(), secret: shown };
        atomic_file::replace(&file, &serde_json::to_vec(&door)?, Durability::Volatile)?;
        // Whatever the umask says: the reader is another user, and the folder above is ours alone.
        fs::set_permissions(folder, Permissions::from_mode(DIR_MODE))?;
        fs::set_permissions(&file, Permissions::from_mode(0o644))?;
        Ok(Self::Port { listener, file })
    }

    /// Returns whether the replica can find it.
    pub fn is_there(&self) -> bool {
        match self {
            Self::Socket(listener) => listener.path().exists(),
            Self::Port { file, .. } => file.exists(),
            #[cfg(feature = "simulate")]
            Self::Simulated => true,
        }
    }

    /// Says on whose account the replica asks the model from now on. See [`Listener::assign`].
    pub fn assign(&self, caller: Option<Caller>) {
        match self {
            Self::Socket(listener) => listener.assign(caller),
            Self::Port { listener, .. } => listener.assign(caller),
            #[cfg(feature = "simulate")]
            Self::Simulated => {}
        }
    }

    /// Returns why an attempt got nothing more from the model. See [`Listener::stop`].
    pub fn stop(&self, task: &TaskId, attempt: Attempt) -> Option<Stop> {
        match self {
            Self::Socket(listener) => listener.stop(task, attempt),
            Self::Port { listener, .. } => listener.stop(task, attempt),
            #[cfg(feature = "simulate")]
            Self::Simulated => None,
        }
    }

    /// Returns what an attempt was refused because of what its requests contained. See [`Listener::refused`].
    pub fn refused(&self, task: &TaskId, attempt: Attempt) -> Option<RefusedRequests> {
        match self {
            Self::Socket(listener) => listener.refused(task, attempt),
            Self::Port { listener, .. } => listener.refused(task, attempt),
            #[cfg(feature = "simulate")]
            Self::Simulated => None,
        }
    }
}
