//! The files that an agent leaves for others.

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path};

use protocol::untrusted::{Bounds, Folder, Found, Refusal};
use protocol::{FailureKind, TaskError};

/// How much an attempt may leave: what the supervisor takes.
const BOUNDS: Bounds = Bounds { entries: 4096, depth: 16, bytes: 1 << 30 };

/// Returns all files in the artifact folder, those that were named first.
///
/// # Errors
///
/// [`FailureKind::BadOutput`]: a file that was named is not there, or something is there that is
/// no file.
pub(crate) fn collect(
    folder: &Folder,
    path: &Path,
    named: &[String],
) -> Result<Vec<String>, TaskError> {
    let found = found(folder).map_err(|refusal| refused(path, &refusal))?;
    let mut artifacts: Vec<String> = Vec::with_capacity(found.len());
    let mut missing = Vec::new();
    for name in named {
        match resolve(path, name, &found) {
            Some(file) if !artifacts.contains(&file) => artifacts.push(file),
            Some(_) => {}
            None => missing.push(format!("`{name}`")),
        }
    }
    if !missing.is_empty() {
        let (s, is) = if missing.len() == 1 { ("", "is") } else { ("s", "are") };
        missing.truncate(20);
        let message = format!(
            "the artifact{s} {} {is} named in the output but {is} not in the artifact folder {}",
            missing.join(", "),
            path.display()
        );
        return Err(TaskError::new(FailureKind::BadOutput, message));
    }
    for file in found {
        if !artifacts.contains(&file.path) {
            artifacts.push(file.path);
        }
    }
    Ok(artifacts)
}

/// Makes files survive a power cut, with the folders that they are in: what a result names is on disk before
/// it.
///
/// # Errors
///
/// Any error of the syncing. What can't be opened the supervisor refuses, and says why.
pub(crate) fn make_safe(folder: &Folder, files: &[String]) -> io::Result<()> {
    let mut folders = BTreeSet::new();
    for path in files.iter().map(Path::new) {
        if let Ok((file, _)) = folder.open_file(path, u64::MAX) {
            file.sync_all()?;
        }
        folders.extend(path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()));
    }
    for path in folders.into_iter().rev() {
        if let Ok(folder) = folder.folder(path) {
            folder.sync()?;
        }
    }
    folder.sync()
}

/// Returns the files that are there, of an attempt that failed anyway.
pub(crate) fn whatever(folder: &Folder) -> Vec<String> {
    found(folder).map(|found| found.into_iter().map(|f| f.path).collect()).unwrap_or_default()
}

fn found(folder: &Folder) -> Result<Vec<Found>, Refusal> {
    folder.files(BOUNDS)
}

fn refused(path: &Path, refusal: &Refusal) -> TaskError {
    let message = match std::error::Error::source(refusal) {
        Some(source) => format!("the artifact folder can't be taken: {refusal}: {source}"),
        None => format!("the artifact folder can't be taken: {refusal}"),
    };
    TaskError::new(FailureKind::BadOutput, message).with_hint(format!(
        "Leave only regular files in {}, no links or pipes, at most {} of them.",
        path.display(),
        BOUNDS.entries
    ))
}

/// Returns the file that is meant: a path in the folder, absolute or relative to it.
fn resolve(folder: &Path, name: &str, found: &[Found]) -> Option<String> {
    let name = Path::new(name.trim());
    let name = name.strip_prefix(folder).unwrap_or(name);
    let mut plain = String::new();
    for component in name.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => {
                if !plain.is_empty() {
                    plain.push('/');
                }
                plain.push_str(part.to_str()?);
            }
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    // The prompt shows the folder by its whole path, whose last part is then sometimes kept.
    let short = plain.strip_prefix("artifacts/").map(str::to_owned);
    [Some(plain), short].into_iter().flatten().find(|path| found.iter().any(|f| f.path == *path))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    fn named(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn files_are_found_by_any_reasonable_name_and_none_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        for name in ["b.md", "a.md", "sub/c.md", "extra.txt"] {
            File::create(dir.path().join(name)).unwrap();
        }
        let folder = Folder::open(dir.path()).unwrap();
        let absolute = dir.path().join("sub/c.md");
        let names =
            named(&["./b.md", absolute.to_str().unwrap(), "artifacts/a.md", "b.md", " a.md "]);
        let artifacts = collect(&folder, dir.path(), &names).unwrap();
        assert_eq!(artifacts, ["b.md", "sub/c.md", "a.md", "extra.txt"]);
        make_safe(&folder, &artifacts).unwrap();
    }

    #[test]
    fn names_that_lead_elsewhere_or_nowhere_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("a.md")).unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        for name in ["/etc/passwd", "../a.md", "missing.md", "", "sub"] {
            let error = collect(&folder, dir.path(), &named(&["a.md", name])).unwrap_err();
            assert_eq!(error.kind, FailureKind::BadOutput, "{name}");
            assert!(error.message.contains(&format!("`{name}` is named")), "{error}");
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let error = collect(&folder, dir.path(), &[]).unwrap_err();
        assert!(error.message.contains("`link`"), "{error}");
        assert!(whatever(&folder).is_empty());
    }
}
