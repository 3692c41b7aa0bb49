//! Reading what a container wrote.
//!
//! Its folders may hold links, pipes, devices and giants, and change at any time. So a file is
//! opened beneath its folder without following any link, looked at through the descriptor that is
//! then read, and read once.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use thiserror::Error;

/// Why a container's file is not read.
#[derive(Debug, Error)]
pub enum Refusal {
    /// The path leaves the folder, or passes a link.
    #[error("`{0}` leads out of its folder or through a link")]
    Escapes(PathBuf),
    /// It is no regular file.
    #[error("`{0}` is not a regular file")]
    NotAFile(PathBuf),
    /// It is larger than allowed.
    #[error("`{path}` has {len} bytes, at most {max} are allowed")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        len: u64,
        /// The largest allowed.
        max: u64,
    },
    /// There are more files, or deeper folders, than allowed.
    #[error("{} has more than {max} {what}", place(.path))]
    TooMany {
        /// The folder.
        path: PathBuf,
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        max: usize,
    },
    /// A name is not UTF-8, or has a character that steers a terminal or can't be seen.
    #[error("{0} has a name that can't be shown")]
    BadName(String),
    /// It can't be read.
    #[error("can't read `{path}`")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn place(path: &Path) -> String {
    if path.as_os_str().is_empty() { "it".to_owned() } else { format!("`{}`", path.display()) }
}

impl Refusal {
    /// Returns whether the file is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// A folder that a container can write into.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
}

/// A regular file beneath a [`Folder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its path relative to the folder: UTF-8, without characters that steer a terminal or can't be seen.
    pub path: String,
    /// Its size in bytes when it was seen.
    pub len: u64,
}

/// The bounds of [`Folder::files`].
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most files and folders together.
    pub entries: usize,
    /// The deepest nesting.
    pub depth: usize,
    /// The most bytes of all files together.
    pub bytes: u64,
}

impl Folder {
    /// Opens a folder whose own path is trusted.
    ///
    /// # Errors
    ///
    /// Any I/O error.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// Returns the contents of a regular file beneath this folder.
    ///
    /// # Errors
    ///
    /// See [`Refusal`]. A pipe or a device is never waited for.
    pub fn read(&self, path: &Path, max: u64) -> Result<Vec<u8>, Refusal> {
        let (mut file, len) = self.open_file(path, max)?;
        // The size may have changed since; so the reading is bounded too.
        let mut contents = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        let failed = |source| Refusal::Io { path: path.to_owned(), source };
        file.by_ref().take(max + 1).read_to_end(&mut contents).map_err(failed)?;
        if contents.len() as u64 > max {
            let len = contents.len() as u64;
            return Err(Refusal::TooLarge { path: path.to_owned(), len, max });
        }
        Ok(contents)
    }

    /// Opens a regular file beneath this folder and returns it with its size.
    ///
    /// # Errors
    ///
    /// See [`Refusal`].
    pub fn open_file(&self, path: &Path, max: u64) -> Result<(File, u64), Refusal> {
        // Non-blocking, so that opening a pipe returns at once; a regular file does not mind.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = self.open_beneath(path, flags)?;
        let stat = rustix::fs::fstat(&fd)
            .map_err(|e| Refusal::Io { path: path.to_owned(), source: e.into() })?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Refusal::NotAFile(path.to_owned()));
        }
        let len = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if len > max {
            return Err(Refusal::TooLarge { path: path.to_owned(), len, max });
        }
        Ok((File::from(fd), len))
    }

    /// Opens a folder beneath this one.
    ///
    /// # Errors
    ///
    /// See [`Refusal`].
    pub fn folder(&self, path: &Path) -> Result<Self, Refusal> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { fd: self.open_beneath(path, flags)? })
    }

    /// Makes what is named in this folder survive a power cut.
    ///
    /// # Errors
    ///
    /// Any I/O error.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    /// Returns the names of what is directly in this folder, at most `max`, leaving out what is
    /// hidden or temporary.
    ///
    /// # Errors
    ///
    /// [`Refusal::TooMany`] and I/O errors.
    pub fn names(&self, max: usize) -> Result<Vec<String>, Refusal> {
        let failed = |e: Errno| Refusal::Io { path: PathBuf::new(), source: e.into() };
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            match entry.file_name().to_str() {
                Ok(name) if crate::atomic_file::is_visible(name) => names.push(name.to_owned()),
                _ => continue,
            }
            if names.len() > max {
                return Err(Refusal::TooMany { path: PathBuf::new(), what: "entries", max });
            }
        }
        Ok(names)
    }

    /// Returns all regular files beneath this folder, in order of their paths.
    ///
    /// # Errors
    ///
    /// See [`Refusal`]: anything that is neither a file nor a folder, and any bound that is passed.
    pub fn files(&self, bounds: Bounds) -> Result<Vec<Found>, Refusal> {
        let mut walk = Walk { bounds, found: Vec::new(), entries: 0, bytes: 0 };
        walk.folder(self, &mut String::new(), 0)?;
        walk.found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(walk.found)
    }

    fn open_beneath(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Refusal> {
        if !path.components().all(|c| matches!(c, Component::Normal(_))) {
            return Err(Refusal::Escapes(path.to_owned()));
        }
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), resolve) {
            // Kernels before 5.6, and seccomp filters older than them.
            Err(Errno::NOSYS | Errno::PERM) => self.open_stepwise(path, flags),
            other => other,
        }
        .map_err(|errno| refusal(path, errno))
    }

    /// Does without `openat2`: one component after the other, none of them a link.
    fn open_stepwise(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut components = path.components().peekable();
        let mut folder: Option<OwnedFd> = None;
        while let Some(component) = components.next() {
            let at = folder.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            let last = components.peek().is_none();
            let step = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let flags = OFlags::NOFOLLOW | if last { flags } else { step };
            folder = Some(rustix::fs::openat(at, component.as_os_str(), flags, Mode::empty())?);
        }
        folder.ok_or(Errno::NOENT)
    }
}

fn refusal(path: &Path, errno: Errno) -> Refusal {
    match errno {
        Errno::LOOP | Errno::XDEV => Refusal::Escapes(path.to_owned()),
        // A socket, or a pipe opened for writing.
        Errno::NXIO => Refusal::NotAFile(path.to_owned()),
        errno => Refusal::Io { path: path.to_owned(), source: errno.into() },
    }
}

/// Returns whether a name with that character may read as another one: it steers the terminal, turns text
/// around, ends the line, or takes no room. Not so what joins letters in Persian and emoji.
fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}' | '\u{2028}'..='\u{202e}' | '\u{2060}' | '\u{2066}'..='\u{2069}')
        || matches!(c, '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

struct Walk {
    bounds: Bounds,
    found: Vec<Found>,
    entries: usize,
    bytes: u64,
}

impl Walk {
    fn folder(&mut self, at: &Folder, path: &mut String, depth: usize) -> Result<(), Refusal> {
        let here = || PathBuf::from(path.as_str());
        if depth > self.bounds.depth {
            let (what, max) = ("levels of folders", self.bounds.depth);
            return Err(Refusal::TooMany { path: here(), what, max });
        }
        let failed = |e: Errno| Refusal::Io { path: here(), source: e.into() };
        let mut entries = Vec::new();
        for entry in Dir::read_from(&at.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            self.entries += 1;
            if self.entries > self.bounds.entries {
                let (what, max) = ("entries", self.bounds.entries);
                return Err(Refusal::TooMany { path: PathBuf::new(), what, max });
            }
            entries.push(entry.file_name().to_owned());
        }
        for name in entries {
            let name = match name.to_str() {
                Ok(name) if !name.chars().any(misleads) => name,
                _ => {
                    let name = Path::new(path.as_str()).join(name.to_string_lossy().as_ref());
                    return Err(Refusal::BadName(format!("{name:?}")));
                }
            };
            let len = path.len();
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(name);
            self.entry(at, name, path, depth)?;
            path.truncate(len);
        }
        Ok(())
    }

    fn entry(
        &mut self,
        at: &Folder,
        name: &str,
        path: &mut String,
        depth: usize,
    ) -> Result<(), Refusal> {
        let stat = rustix::fs::statat(&at.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| refusal(Path::new(path.as_str()), e))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.folder(&at.folder(Path::new(name))?, path, depth + 1),
            FileType::RegularFile => {
                let len = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
                self.bytes = self.bytes.saturating_add(len);
                if self.bytes > self.bounds.bytes {
                    let (len, max) = (self.bytes, self.bounds.bytes);
                    return Err(Refusal::TooLarge { path: PathBuf::from(path.as_str()), len, max });
                }
                self.found.push(Found { path: path.clone(), len });
                Ok(())
            }
            FileType::Symlink => Err(Refusal::Escapes(PathBuf::from(path.as_str()))),
            _ => Err(Refusal::NotAFile(PathBuf::from(path.as_str()))),
        }
    }
}

#[cfg(test)]
mod tests;
