//! Folders that a worker may change while we look at them: compared, handed over, removed.

use std::ffi::{CStr, CString};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use protocol::disk::{self as fs, MetadataExt as _};
use rustix::fs::{AtFlags, Dir, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::runtime::Owner;

/// The most names of a worker's folder that are looked at in one go: there may be millions.
pub(super) const MAX_NAMES: usize = if cfg!(test) { 64 } else { 4096 };

/// How much of two files is compared at a time.
const PIECE: usize = 64 << 10;

/// How a folder is opened.
pub(super) const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// How deep folders are handed over: each level is held open meanwhile.
const MAX_DEPTH: usize = 64;

/// Returns whether all that is in a folder is in another one, too. What is not there has nothing in it.
pub(super) fn has_tree(from: &Path, to: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(from) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let to = to.join(entry.file_name());
        let has = if entry.file_type()?.is_dir() { has_tree } else { is_same };
        if !has(&entry.path(), &to)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns whether two files are one, or hold the same.
pub(super) fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (a, b) = match (fs::symlink_metadata(one), fs::symlink_metadata(other)) {
        (Ok(a), Ok(b)) => (a, b),
        (Err(error), _) | (_, Err(error)) if error.kind() != ErrorKind::NotFound => {
            return Err(error);
        }
        _ => return Ok(false),
    };
    let is_one = (a.dev(), a.ino()) == (b.dev(), b.ino());
    if is_one || a.len() != b.len() || !b.is_file() {
        return Ok(is_one);
    }
    let (mut a, mut b) = (fs::File::open(one)?, fs::File::open(other)?);
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let read = io::Read::read(&mut a, &mut left)?;
        if read == 0 {
            return Ok(true);
        }
        io::Read::read_exact(&mut b, &mut right[..read])?;
        if left[..read] != right[..read] {
            return Ok(false);
        }
    }
}

/// Gives a folder, with all that is in it, to whom the worker runs as: another runtime may have run it
/// as somebody else.
///
/// A worker that still runs may put a link in place of a folder at any moment. So nothing is named by
/// more than one component, beneath a folder that is held open.
pub(super) fn hand_over(path: &Path, owner: Owner) -> io::Result<()> {
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
    let parent = rustix::fs::open(path.parent().unwrap_or(path), FOLDER, Mode::empty())?;
    Ok(hand_over_entry(&parent, &CString::new(name.as_bytes())?, owner, MAX_DEPTH)?)
}

fn hand_over_entry(at: &OwnedFd, name: &CStr, owner: Owner, depth: usize) -> Result<(), Errno> {
    match rustix::fs::openat(at, name, FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(folder) if depth > 0 => {
            for inner in Dir::read_from(&folder)? {
                let inner = inner?;
                if !is_dot(inner.file_name()) {
                    hand_over_entry(&folder, inner.file_name(), owner, depth - 1)?;
                }
            }
        }
        // A file, or a link; or what nobody but a worker that means harm nests so deep.
        Ok(_) | Err(Errno::NOTDIR | Errno::LOOP) => {}
        // Gone meanwhile.
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    match rustix::fs::chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Removes a folder with all that is in it, following no link.
///
/// A worker can nest folders deeper than files can be open, and than a path can name. So they are moved up
/// beside each other before they are removed, and two are open at a time.
#[cfg(not(feature = "simulate"))]
fn remove_folder(path: &Path) -> io::Result<()> {
    let top = rustix::fs::open(path, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
    loop {
        let before = names(&top)?;
        if before.is_empty() {
            return fs::remove_dir(path);
        }
        for name in before {
            remove_entry(&top, &name)?;
        }
    }
}

/// Removes a file, or an empty folder; of another folder takes out what is in it: files for good, folders
/// to beside it.
#[cfg(not(feature = "simulate"))]
fn remove_entry(top: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(top, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        other => return other,
    }
    let folder = rustix::fs::openat(top, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
    for inner in names(&folder)? {
        match rustix::fs::unlinkat(&folder, &inner, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {
                let aside = CString::new(uuid::Uuid::new_v4().to_string());
                let aside = aside.map_err(|_| Errno::INVAL)?;
                rustix::fs::renameat(&folder, &inner, top, &aside)?;
            }
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    match rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR) {
        // Something was put there meanwhile: the next round finds it.
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Returns some of the names in a folder, and none only when it is empty.
#[cfg(not(feature = "simulate"))]
fn names(folder: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !is_dot(entry.file_name()) {
            names.push(entry.file_name().to_owned());
        }
        if names.len() == MAX_NAMES {
            break;
        }
    }
    Ok(names)
}

fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// Returns the bytes of a file, or of all that is below a folder, following no link. What is nested deeper than
/// [`MAX_DEPTH`] is not counted.
///
/// # Errors
///
/// Any I/O error, but that something below has gone meanwhile.
pub(crate) fn size(path: &Path) -> io::Result<u64> {
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
    let parent = rustix::fs::open(path.parent().unwrap_or(path), FOLDER, Mode::empty())?;
    Ok(size_of_entry(&parent, &CString::new(name.as_bytes())?, MAX_DEPTH)?)
}

fn size_of_entry(at: &OwnedFd, name: &CStr, depth: usize) -> Result<u64, Errno> {
    let folder = match rustix::fs::openat(at, name, FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(folder) => folder,
        Err(Errno::NOTDIR | Errno::LOOP) => {
            let stat = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
            return Ok(u64::try_from(stat.st_size).unwrap_or(0));
        }
        Err(errno) => return Err(errno),
    };
    let mut bytes = 0;
    for inner in Dir::read_from(&folder)? {
        let inner = inner?;
        if depth > 0 && !is_dot(inner.file_name()) {
            bytes += match size_of_entry(&folder, inner.file_name(), depth - 1) {
                Err(Errno::NOENT) => 0,
                size => size?,
            };
        }
    }
    Ok(bytes)
}

/// Removes a file or a folder with all that is in it, following no link. `Ok` when there is none.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        #[cfg(feature = "simulate")]
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        #[cfg(not(feature = "simulate"))]
        Ok(meta) if meta.is_dir() => remove_folder(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
