//! Writing files so that a reader never sees half of one.
//!
//! Every file that another process reads is written here, and nowhere else.

use std::io::{self, Write};
use std::path::Path;

use crate::disk::{self as fs, File, Partial};

/// How sure it is that a file is there after a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It is: contents and name are on disk when the call returns.
    Synced,
    /// It may be missing, since it can be made again from the journal. It is never torn while the
    /// machine runs.
    Volatile,
}

/// Returns whether a reader of a folder should look at a file of that name: not hidden, not
/// temporary.
pub fn is_visible(name: &str) -> bool {
    !name.starts_with('.') && !name.ends_with(".tmp")
}

/// Writes a new file; never replaces one that is there.
///
/// # Errors
///
/// * [`AlreadyExists`](io::ErrorKind::AlreadyExists) when there is a file of that name.
/// * Any other I/O error. It is safe to call again.
pub fn create(path: &Path, contents: &[u8], durability: Durability) -> io::Result<()> {
    let partial = write_partial(path, contents, durability)?;
    partial.persist_noclobber(path)?;
    sync_name(path, durability)
}

/// Writes a file that was not there, for the user alone, and makes it survive a power cut. It is on the machine's own
/// disk, in a simulation, too.
///
/// # Errors
///
/// As [`create`].
pub fn create_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    // Files of this kind are made with 0600.
    let mut partial =
        tempfile::Builder::new().prefix(".").suffix(".tmp").tempfile_in(parent(path))?;
    partial.write_all(contents)?;
    partial.as_file().sync_all()?;
    partial.persist_noclobber(path)?;
    std::fs::File::open(parent(path))?.sync_all()
}

/// Writes a file, in place of one that may be there.
///
/// # Errors
///
/// Any I/O error; the old file is there then, or the new one, whole. It is safe to call again.
pub fn replace(path: &Path, contents: &[u8], durability: Durability) -> io::Result<()> {
    let partial = write_partial(path, contents, durability)?;
    partial.persist(path)?;
    sync_name(path, durability)
}

/// Writes a file piece by piece, in place of one that may be there, unless `write` returns `false`. Returns what
/// `write` does.
///
/// # Errors
///
/// Those of `write`, and any I/O error: as [`replace`].
pub fn replace_with(
    path: &Path,
    durability: Durability,
    write: impl FnOnce(&mut dyn Write) -> io::Result<bool>,
) -> io::Result<bool> {
    let mut partial = Partial::create_in(parent(path))?;
    if !write(&mut partial)? {
        return Ok(false);
    }
    if durability == Durability::Synced {
        partial.sync_all()?;
    }
    partial.persist(path)?;
    sync_name(path, durability)?;
    Ok(true)
}

/// Moves a file or folder to another name on the same file system, in place of a file that may be
/// there.
///
/// # Errors
///
/// Any I/O error; nothing has moved then.
pub fn move_to(from: &Path, to: &Path, durability: Durability) -> io::Result<()> {
    fs::rename(from, to)?;
    if parent(from) != parent(to) {
        sync_name(from, durability)?;
    }
    sync_name(to, durability)
}

/// Removes a file. `Ok` when there is none.
///
/// # Errors
///
/// Any other I/O error.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes what is named in a folder survive a power cut.
///
/// # Errors
///
/// Any I/O error; after one nothing is known about the folder.
pub fn sync_folder(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn write_partial(path: &Path, contents: &[u8], durability: Durability) -> io::Result<Partial> {
    // In the folder itself: a rename within one file system is atomic, across two it is a copy.
    let mut partial = Partial::create_in(parent(path))?;
    partial.write_all(contents)?;
    if durability == Durability::Synced {
        // Contents first, then the name: the other order can leave an empty file after a power cut.
        partial.sync_all()?;
    }
    Ok(partial)
}

fn sync_name(path: &Path, durability: Durability) -> io::Result<()> {
    match durability {
        Durability::Synced => sync_folder(parent(path)),
        Durability::Volatile => Ok(()),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
