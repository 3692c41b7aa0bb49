//! The scratch folder: emptied around each attempt; and the copy of the workspace in it.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};

use protocol::{FailureKind, TaskError};

/// The largest workspace that is copied for every attempt.
const MAX_BYTES: u64 = 2 << 30;
const MAX_ENTRIES: u64 = 100_000;
const MAX_DEPTH: usize = 64;

/// Removes what is in a folder. Returns what can't be removed, and why.
pub(crate) fn empty(folder: &Path) -> Vec<String> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return vec![format!("{} can't be emptied: {error}", folder.display())],
    };
    let stays = |path: &Path| {
        let error = remove(path).err()?;
        tracing::warn!(path = %path.display(), %error, "A leftover can't be removed.");
        Some(format!("{} can't be removed: {error}", path.display()))
    };
    entries.flatten().filter_map(|entry| stays(&entry.path())).collect()
}

/// Removes a file or a folder with all that is in it.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let is_folder = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?.is_dir(),
    };
    if !is_folder {
        return fs::remove_file(path);
    }
    fs::remove_dir_all(path).or_else(|_| {
        // Package managers make their folders read-only, and then not even their owner can remove
        // what is in them.
        unlock(path, 0);
        fs::remove_dir_all(path)
    })
}

fn unlock(folder: &Path, depth: usize) {
    let _ = fs::set_permissions(folder, Permissions::from_mode(0o700));
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if depth < 4 * MAX_DEPTH && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            unlock(&entry.path(), depth + 1);
        }
    }
}

/// Copies a workspace: files, folders, and links that stay inside of it.
///
/// # Errors
///
/// [`FailureKind::Invalid`] when it is too large, [`FailureKind::WorkerLost`] when it can't be
/// copied.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), TaskError> {
    let mut copy = Copy { root: from, entries: 0, bytes: 0 };
    copy.folder(from, to, 0)
}

struct Copy<'a> {
    root: &'a Path,
    entries: u64,
    bytes: u64,
}

impl Copy<'_> {
    fn folder(&mut self, from: &Path, to: &Path, depth: usize) -> Result<(), TaskError> {
        if depth > MAX_DEPTH {
            return Err(too_large(format!("folders more than {MAX_DEPTH} deep")));
        }
        fs::create_dir(to).map_err(|e| failed(to, &e))?;
        for entry in fs::read_dir(from).map_err(|e| failed(from, &e))? {
            let entry = entry.map_err(|e| failed(from, &e))?;
            let (path, copy) = (entry.path(), to.join(entry.file_name()));
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(too_large(format!("more than {MAX_ENTRIES} files and folders")));
            }
            let stat = entry.metadata().map_err(|e| failed(&path, &e))?;
            if stat.is_dir() {
                self.folder(&path, &copy, depth + 1)?;
            } else if stat.is_file() {
                self.bytes = self.bytes.saturating_add(stat.len());
                if self.bytes > MAX_BYTES {
                    return Err(too_large(format!("more than {} MiB", MAX_BYTES >> 20)));
                }
                fs::copy(&path, &copy).map_err(|e| failed(&path, &e))?;
                // The copy is there to be changed.
                let mode = stat.permissions().mode() | 0o200;
                fs::set_permissions(&copy, Permissions::from_mode(mode))
                    .map_err(|e| failed(&copy, &e))?;
            } else if stat.is_symlink() {
                let target = fs::read_link(&path).map_err(|e| failed(&path, &e))?;
                if self.stays_inside(from, &target) {
                    symlink(&target, &copy).map_err(|e| failed(&copy, &e))?;
                }
            }
        }
        Ok(())
    }

    /// Returns whether a link in `folder` leads to a place in the workspace.
    fn stays_inside(&self, folder: &Path, target: &Path) -> bool {
        let depth = folder.strip_prefix(self.root).map_or(0, |path| path.components().count());
        let mut depth = i64::try_from(depth).unwrap_or(0);
        target.is_relative()
            && target.components().all(|component| {
                match component {
                    Component::ParentDir => depth -= 1,
                    Component::Normal(_) => depth += 1,
                    _ => {}
                }
                depth >= 0
            })
    }
}

fn too_large(what: String) -> TaskError {
    let message =
        format!("the workspace is too large to be copied for each attempt: it has {what}");
    TaskError::new(FailureKind::Invalid, message).with_hint(
        "Make it smaller, or set `workspace = \"read-only\"` or `\"shared\"` in worker.toml.",
    )
}

fn failed(path: &Path, error: &io::Error) -> TaskError {
    let message = format!("the workspace can't be copied: {}: {error}", path.display());
    TaskError::new(FailureKind::WorkerLost, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_emptied_of_whatever_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::File::create(outside.path().join("keep")).unwrap();
        let locked = dir.path().join("cache/pkg");
        fs::create_dir_all(&locked).unwrap();
        fs::File::create(locked.join("file")).unwrap();
        fs::set_permissions(&locked, Permissions::from_mode(0o555)).unwrap();
        fs::File::create(dir.path().join(".hidden")).unwrap();
        symlink(outside.path(), dir.path().join("link")).unwrap();
        assert_eq!(empty(dir.path()), [""; 0]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(outside.path().join("keep").exists());
    }

    #[test]
    fn copy_has_everything_but_links_that_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("src")).unwrap();
        fs::File::create(from.join("src/run.sh")).unwrap();
        fs::set_permissions(from.join("src/run.sh"), Permissions::from_mode(0o555)).unwrap();
        symlink("src/run.sh", from.join("good")).unwrap();
        symlink("../from/src", from.join("out")).unwrap();
        symlink("../../x", from.join("src/far")).unwrap();
        symlink("../good", from.join("src/near")).unwrap();
        symlink("/etc/passwd", from.join("absolute")).unwrap();
        copy(&from, &to).unwrap();
        let mut names: Vec<_> = [&to, &to.join("src")]
            .iter()
            .flat_map(|dir| fs::read_dir(dir).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["good", "near", "run.sh", "src"]);
        let mode = fs::metadata(to.join("src/run.sh")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }
}
