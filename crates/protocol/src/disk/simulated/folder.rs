//! What stands in for `untrusted::Folder`.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::facade::File;
use super::{Disk, Ino, Node, with};
use crate::atomic_file::is_visible;
use crate::untrusted::{Bounds, Found, Refusal};

/// A folder that a container can write into, held open.
#[derive(Debug)]
pub struct SimulatedFolder {
    ino: Ino,
}

impl SimulatedFolder {
    /// Opens a folder.
    ///
    /// # Errors
    ///
    /// Any I/O error.
    pub fn open(path: &Path) -> io::Result<Self> {
        with(|disk| {
            disk.begin("open folder", path)?;
            let ino = disk.find(path)?;
            disk.folder(ino)?;
            disk.end();
            Ok(Self { ino })
        })
    }

    /// Returns the contents of a file.
    ///
    /// # Errors
    ///
    /// See [`Refusal`].
    pub fn read(&self, path: &Path, max: u64) -> Result<Vec<u8>, Refusal> {
        let (file, _) = self.open_file(path, max)?;
        with(|disk| disk.file(file.ino).map(|found| found.data.clone()))
            .map_err(|e| io_error(path, e))
    }

    /// Opens a file.
    ///
    /// # Errors
    ///
    /// See [`Refusal`].
    pub fn open_file(&self, path: &Path, max: u64) -> Result<(File, u64), Refusal> {
        with(|disk| {
            let ino = self.find(disk, path)?;
            let Node::File(file) = &disk.nodes[ino] else {
                return Err(Refusal::NotAFile(path.to_owned()));
            };
            let len = file.data.len() as u64;
            if len > max {
                return Err(Refusal::TooLarge { path: path.to_owned(), len, max });
            }
            Ok((File::of(ino), len))
        })
    }

    /// Opens a folder beneath this one.
    ///
    /// # Errors
    ///
    /// See [`Refusal`].
    pub fn folder(&self, path: &Path) -> Result<Self, Refusal> {
        with(|disk| {
            let ino = self.find(disk, path)?;
            disk.folder(ino).map_err(|e| io_error(path, e))?;
            Ok(Self { ino })
        })
    }

    fn find(&self, disk: &mut Disk, path: &Path) -> Result<Ino, Refusal> {
        let failed = |e| io_error(path, e);
        disk.begin("open beneath", path).map_err(failed)?;
        let ino = disk.find_from(self.ino, path).map_err(failed)?;
        let odds = disk.weather.bad_read;
        disk.fails("bad read", odds, Errno::IO).map_err(failed)?;
        disk.end();
        Ok(ino)
    }

    /// Returns the names in this folder.
    ///
    /// # Errors
    ///
    /// See [`Refusal`].
    pub fn names(&self, max: usize) -> Result<Vec<String>, Refusal> {
        let names = with(|disk| disk.list(self.ino)).map_err(|e| io_error(Path::new(""), e))?;
        let names: Vec<_> = names.into_iter().filter(|name| is_visible(name)).collect();
        if names.len() > max {
            return Err(Refusal::TooMany { path: PathBuf::new(), what: "entries", max });
        }
        Ok(names)
    }

    /// Returns all files beneath this folder.
    ///
    /// # Errors
    ///
    /// See [`Refusal`].
    pub fn files(&self, _bounds: Bounds) -> Result<Vec<Found>, Refusal> {
        with(|disk| {
            let failed = |e| io_error(Path::new(""), e);
            disk.begin("walk", Path::new("")).map_err(failed)?;
            let mut found = Vec::new();
            walk(disk, self.ino, "", &mut found).map_err(failed)?;
            disk.end();
            found.sort_by(|a, b| a.path.cmp(&b.path));
            Ok(found)
        })
    }
}

fn walk(disk: &Disk, ino: Ino, path: &str, found: &mut Vec<Found>) -> io::Result<()> {
    for (name, ino) in &disk.folder(ino)?.now {
        let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
        match &disk.nodes[*ino] {
            Node::File(file) => found.push(Found { path, len: file.data.len() as u64 }),
            Node::Folder(_) => walk(disk, *ino, &path, found)?,
        }
    }
    Ok(())
}

fn io_error(path: &Path, source: io::Error) -> Refusal {
    Refusal::Io { path: path.to_owned(), source }
}
