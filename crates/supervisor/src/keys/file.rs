//! A key in a file.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{MAX_BYTES, text_of};
use crate::failure::Failure;
use crate::install::Installation;

/// Where container engines put secrets, by convention readable by all that is in the container: which is
/// this daemon.
const SECRETS: &str = "/run/secrets";

/// Why a file is not read as a key.
#[derive(Debug)]
pub(super) struct Fault {
    what: String,
    because: Option<io::Error>,
    hint: String,
}

impl Fault {
    /// Returns it as a failure, with its place.
    pub(super) fn failure(self, refused: impl Fn(String) -> Failure) -> Failure {
        let failure = refused(self.what).hint(self.hint);
        match self.because {
            Some(error) => failure.because(error),
            None => failure,
        }
    }
}

/// Reads a key file.
pub(super) fn read(installation: &Installation, path: &Path) -> Result<String, Fault> {
    let path = installation.root().join(path);
    let shown = path.display();
    let cant_read = |error: io::Error| Fault {
        what: format!("the key file `{shown}` can't be read"),
        hint: match error.kind() {
            io::ErrorKind::NotFound if path.to_string_lossy().contains("/~") => {
                "Write the whole path: only a shell knows what `~` is.".to_owned()
            }
            io::ErrorKind::NotFound => {
                format!("Put the key there: (umask 077; cat > {shown}), paste it, then Ctrl-D.")
            }
            _ => "Give it to the user who runs the supervisor.".to_owned(),
        },
        because: Some(error),
    };
    let real = fs::canonicalize(&path).map_err(cant_read)?;
    let metadata = fs::metadata(&real).map_err(cant_read)?;
    let user = rustix::process::geteuid().as_raw();
    check(installation, &real, &metadata, user)?;
    let mut buffer = Zeroizing::new(vec![0; MAX_BYTES + 1]);
    let mut file = File::open(&real).map_err(cant_read)?;
    let mut len = 0;
    // Into one buffer that does not grow: one that grows leaves copies behind.
    while len < buffer.len() {
        match file.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(cant_read(error)),
        }
    }
    let text = if len > MAX_BYTES { None } else { text_of(&buffer[..len]) };
    text.ok_or_else(|| Fault {
        what: format!("what is in the file `{shown}` is no key: it has other than a line of text"),
        because: None,
        hint: "Put the key there, and nothing else.".to_owned(),
    })
}

/// Checks that nobody but this user can read a key file, and no agent.
fn check(
    installation: &Installation,
    path: &Path,
    metadata: &Metadata,
    user: u32,
) -> Result<(), Fault> {
    let shown = path.display();
    let fault = |what: String, hint: String| Err(Fault { what, because: None, hint });
    if !metadata.is_file() {
        // A pipe could make us wait for ever.
        return fault(
            format!("`{shown}` is no file"),
            "Name a file with the key in it.".to_owned(),
        );
    }
    if let Some(folder) = folders_of_agents(installation).into_iter().find(|f| path.starts_with(f))
    {
        let folder = installation.relative(&folder);
        return fault(
            format!("the key file `{shown}` is in `{folder}/`, where agents can read it"),
            "Move it out of the installation, and have the key replaced if an agent has run since."
                .to_owned(),
        );
    }
    if path.starts_with(SECRETS) {
        return Ok(());
    }
    let mode = metadata.permissions().mode() & 0o777;
    // Who owns a file can mend its mode. One that somebody else has put there for a group that we are in
    // is that person's choice; one for everybody is not.
    let (too_many, cure) = match metadata.uid() == user {
        true => (0o077, format!("chmod 600 {shown}")),
        false => (0o007, format!("As its owner: chmod o= {shown}")),
    };
    if mode & too_many != 0 {
        return fault(
            format!("the key file `{shown}` is open to other users (its mode is {mode:04o})"),
            cure,
        );
    }
    Ok(())
}

/// Returns the folders that are mounted into containers, or that others write into.
fn folders_of_agents(installation: &Installation) -> [PathBuf; 5] {
    ["workspaces", "tasks", "results", "auth-homes", ".supervisor"]
        .map(|name| installation.root().join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_of_somebody_else_may_be_for_a_group_and_not_for_everybody() {
        let dir = tempfile::tempdir().unwrap();
        let at = Installation::at(dir.path()).unwrap();
        let path = at.root().join("key");
        protocol::atomic_file::create(&path, b"k", protocol::atomic_file::Durability::Volatile)
            .unwrap();
        let own = rustix::process::geteuid().as_raw();
        let refused = |mode: u32, user: u32| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let metadata = fs::metadata(&path).unwrap();
            check(&at, &path, &metadata, user).err().map(|fault| fault.hint)
        };
        let chmod = Some(format!("chmod 600 {}", path.display()));
        for mode in [0o640, 0o604, 0o620, 0o644] {
            assert_eq!(refused(mode, own), chmod, "{mode:o}");
        }
        for mode in [0o600, 0o400] {
            assert_eq!(refused(mode, own), None, "{mode:o}");
            assert_eq!(refused(mode, own + 1), None, "{mode:o}");
        }
        assert_eq!(refused(0o640, own + 1), None);
        assert!(refused(0o644, own + 1).unwrap().contains("chmod o="));
        // A secret of the container that this daemon is in.
        let metadata = fs::metadata(&path).unwrap();
        assert!(check(&at, Path::new("/run/secrets/key"), &metadata, own).is_ok());
        assert!(check(&at, Path::new("/run/secrets-of-all/key"), &metadata, own).is_err());
    }
}
