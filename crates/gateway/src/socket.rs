//! The socket file of one replica.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};

/// The mode of a socket's folder, if the gateway has to make it.
///
/// The container's user is another one than the daemon's and must find the socket in the folder it
/// mounts, but need not list it. Folders above that are missing too are made with mode 0700: they keep out
/// the host's other users, and are not part of what the container sees.
pub const DIR_MODE: u32 = 0o711;

/// The mode of a socket. To connect is to write, and the container's user is not the daemon's.
pub const SOCKET_MODE: u32 = 0o666;

/// The longest path that fits into a `sockaddr_un`, in bytes: 108 with the final zero.
const MAX_PATH_BYTES: usize = 107;

/// A socket file that is removed when this is dropped, unless somebody has put another in its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl SocketFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|id| id == self.id)
            && let Err(error) = fs::remove_file(&self.path)
        {
            // The next `bind` finds it stale and replaces it.
            tracing::debug!(path = %self.path.display(), %error, "Cannot remove the socket.");
        }
    }
}

/// Binds a socket at `path`, in place of one that nobody listens on any more.
///
/// # Cancel safety
///
/// The only wait is before anything is changed.
pub(crate) async fn bind(path: &Path) -> Result<(UnixListener, SocketFile), ListenError> {
    let fail = |action| move |source| ListenError::Io { action, path: path.to_owned(), source };
    let len = path.as_os_str().as_bytes().len();
    if len > MAX_PATH_BYTES {
        return Err(ListenError::PathTooLong { path: path.to_owned(), len });
    }
    let stale = is_stale(path).await?;
    if let Some(dir) = path.parent() {
        make_dir(dir).map_err(fail("make the folder of"))?;
    }
    if stale {
        fs::remove_file(path).map_err(fail("replace the stale"))?;
    }
    let listener = UnixListener::bind(path).map_err(fail("bind"))?;
    // From here on an error takes the file away again.
    let id = identity(path).map_err(fail("look at"))?;
    let file = SocketFile { path: path.to_owned(), id };
    // Whatever the umask says.
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))
        .map_err(fail("set the mode of"))?;
    Ok((listener, file))
}

/// Returns whether `path` is a socket that a process has left behind.
async fn is_stale(path: &Path) -> Result<bool, ListenError> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NotASocket { path: path.to_owned() });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        // Any other error comes up again, with its own name, when the socket is bound.
        Ok(_) | Err(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // Also "would block": somebody listens and has a full queue.
        Ok(_) | Err(_) => Err(ListenError::InUse { path: path.to_owned() }),
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    if let Some(above) = dir.parent().filter(|above| !above.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(above)?;
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(DIR_MODE))
}

/// Returns what tells this file from another one of the same name.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Why a replica's socket can't be opened.
///
/// `Display` says what failed, without the cause; the cause is in
/// [`source`](std::error::Error::source), and what to do about it in [`hint`](Self::hint).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The kernel takes no longer paths for sockets.
    #[error("socket path `{}` is {len} bytes long; at most 107 are possible", path.display())]
    PathTooLong {
        /// Where the socket should be.
        path: PathBuf,
        /// The length of the path, in bytes.
        len: usize,
    },
    /// A file, folder or link is in the way. It is left alone.
    #[error("`{}` is in the way of a socket and is not a socket", path.display())]
    NotASocket {
        /// Where the socket should be.
        path: PathBuf,
    },
    /// A living process listens there.
    #[error("socket `{}` is in use", path.display())]
    InUse {
        /// Where the socket should be.
        path: PathBuf,
    },
    /// The system does not let us listen there.
    #[error("cannot listen on {address}")]
    Address {
        /// Where the port should be.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The file system says no.
    #[error("cannot {action} socket `{}`", path.display())]
    Io {
        /// What was tried, as the beginning of a sentence: "bind".
        action: &'static str,
        /// Where the socket should be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ListenError {
    /// Returns what the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::PathTooLong { .. } => {
                Some("Set XDG_RUNTIME_DIR to a folder with a short path.".to_owned())
            }
            Self::NotASocket { path } => Some(format!("Move `{}` away.", path.display())),
            Self::InUse { path } => Some(format!(
                "Stop the process that listens there; `ss -xlp src {}` names it.",
                path.display()
            )),
            Self::Address { address, source } => match source.kind() {
                io::ErrorKind::AddrInUse => Some(format!(
                    "Choose another port, or stop the process that listens there; \
                     `ss -tlnp sport = :{}` names it.",
                    address.port()
                )),
                io::ErrorKind::AddrNotAvailable => {
                    Some("Choose an address of this machine; `ip address` shows them.".to_owned())
                }
                _ => None,
            },
            Self::Io { .. } => None,
        }
    }
}
