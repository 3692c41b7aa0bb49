//! The programs that replicas run: the worker's own, and the Claude Code CLI.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use protocol::atomic_file::{self, Durability};
use sha2::{Digest, Sha256};

use crate::config::{CLI_VERSION, Config};
use crate::failure::Failure;
use crate::install::{Installation, cant_write};

/// Returns where the worker's program should be: as configured, else where `make up` installs it, else
/// beside this program.
pub fn worker_places(installation: &Installation, config: &Config) -> Vec<PathBuf> {
    if let Some(path) = &config.worker.value {
        return vec![installation.root().join(path)];
    }
    let exe = std::env::current_exe().and_then(fs::canonicalize).unwrap_or_default();
    let dir = exe.parent().unwrap_or(Path::new("/"));
    vec![dir.join("../lib/supervisor/worker"), dir.join("worker")]
}

/// Returns the worker's program, in a folder of its own that containers can be given.
///
/// The folder is named by what the program is: containers that run keep the one that they have.
///
/// # Errors
///
/// Unavailable when there is no such program.
pub fn worker(installation: &Installation, config: &Config) -> Result<PathBuf, Failure> {
    let places = worker_places(installation, config);
    let Some(found) = places.iter().find(|path| path.is_file()) else {
        let looked = places.iter().map(|path| format!("`{}`", path.display()));
        let looked = looked.collect::<Vec<_>>().join(" and ");
        return Err(Failure::unavailable(format!("the worker's program is not at {looked}")).hint(
            "Build and install it with `make up`, or name it with `worker` in supervisor.toml.",
        ));
    };
    let cant_read =
        |error| Failure::unavailable(format!("`{}` can't be read", found.display())).because(error);
    let hash = hash_of(found).map_err(cant_read)?;
    let folder = installation.bin().join(&hash[..16]);
    let target = folder.join("worker");
    // Not only its name: a power cut, or a full disk, may have left a part of it.
    if hash_of(&target).ok().as_ref() != Some(&hash) {
        // Agents in containers are another user, whatever the umask says.
        let open = || fs::set_permissions(&folder, Permissions::from_mode(0o755));
        fs::create_dir_all(&folder).and_then(|()| open()).map_err(|e| cant_write(&folder, e))?;
        let bytes = fs::read(found).map_err(cant_read)?;
        let partial = folder.join(".worker.tmp");
        atomic_file::replace(&partial, &bytes, Durability::Synced)
            .and_then(|()| fs::set_permissions(&partial, Permissions::from_mode(0o755)))
            .and_then(|()| atomic_file::move_to(&partial, &target, Durability::Synced))
            .map_err(|e| cant_write(&target, e))?;
    }
    Ok(target)
}

/// Returns where the Claude Code CLI should be, for runtimes without images.
pub fn claude_places(installation: &Installation, config: &Config) -> Vec<PathBuf> {
    match &config.claude.value {
        Some(path) => vec![installation.root().join(path)],
        None => vec![installation.root().join(format!(".cache/cli/{CLI_VERSION}/claude"))],
    }
}

/// Returns the Claude Code CLI, for runtimes without images.
///
/// # Errors
///
/// Unavailable when it is not there.
pub fn claude(installation: &Installation, config: &Config) -> Result<PathBuf, Failure> {
    let places = claude_places(installation, config);
    match places.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => {
            let looked = places.iter().map(|path| format!("`{}`", path.display()));
            let looked = looked.collect::<Vec<_>>().join(" and ");
            Err(Failure::unavailable(format!("the Claude Code CLI is not at {looked}"))
                .hint("Fetch it with `make up`, or name it with `claude` in supervisor.toml."))
        }
    }
}

/// Returns what tells this build of the program from others: the beginning of its hash. Empty where it
/// can't be read.
pub fn build() -> String {
    // The file that runs, also when another has taken its name.
    hash_of(Path::new("/proc/self/exe")).map(|hash| hash[..16].to_owned()).unwrap_or_default()
}

fn hash_of(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    #[test]
    fn copy_of_the_program_that_a_power_cut_has_emptied_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let installation = Installation::at(dir.path()).unwrap();
        let write = |name: &str, text: &[u8]| {
            atomic_file::replace(&dir.path().join(name), text, Durability::Volatile).unwrap();
        };
        write("program", b"what it does");
        write("supervisor.toml", b"worker = \"program\"\n");
        let config = Config::load(&installation, Flags::default(), |_| None).unwrap();
        let copy = worker(&installation, &config).unwrap();
        assert_eq!(fs::read(&copy).unwrap(), b"what it does");

        File::options().write(true).open(&copy).unwrap().set_len(0).unwrap();
        assert_eq!(worker(&installation, &config).unwrap(), copy);
        assert_eq!(fs::read(&copy).unwrap(), b"what it does");
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o755);
    }
}
