//! What programs do with files and folders.

use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::{Actor, Change, Contents, Disk, Ino, Names, Node};

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Opening {
    pub(super) write: bool,
    pub(super) create: bool,
    pub(super) new: bool,
    pub(super) truncate: bool,
}

impl Opening {
    fn name(self) -> &'static str {
        if self.create {
            "create"
        } else if self.write {
            "open to write"
        } else {
            "open"
        }
    }
}

impl Disk {
    pub(super) fn make_folder(&mut self, path: &Path) -> io::Result<()> {
        self.begin("mkdir", path)?;
        let (folder, name) = self.place(path)?;
        if self.folder(folder)?.now.contains_key(&name) {
            return Err(Errno::EXIST.into());
        }
        self.fails("denied", self.weather.denied, Errno::ACCESS)?;
        self.room()?;
        let ino = self.add(Node::Folder(Names::default()));
        self.rename_all(vec![(folder, name, Some(ino))])?;
        self.show(path, true);
        self.end();
        Ok(())
    }

    /// Opens a file; makes it where there is none and that is wanted.
    pub(super) fn open(&mut self, path: &Path, how: Opening) -> io::Result<Ino> {
        self.begin(how.name(), path)?;
        let ino = match self.find(path) {
            Ok(_) if how.new => return Err(Errno::EXIST.into()),
            Ok(ino) => {
                if how.write {
                    self.file(ino)?;
                    self.fails("denied", self.weather.denied, Errno::ACCESS)?;
                }
                ino
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && how.create => {
                let (folder, name) = self.place(path)?;
                self.fails("denied", self.weather.denied, Errno::ACCESS)?;
                self.room()?;
                let modified = self.clock;
                let ino = self.add(Node::File(Contents { modified, ..Contents::default() }));
                self.rename_all(vec![(folder, name, Some(ino))])?;
                self.show(path, true);
                self.judge(path);
                ino
            }
            Err(error) => return Err(error),
        };
        if how.truncate && !self.file(ino)?.data.is_empty() {
            self.change(ino, Change::Len(0))?;
        }
        self.end();
        Ok(ino)
    }

    pub(super) fn change(&mut self, ino: Ino, change: Change) -> io::Result<()> {
        let clock = self.clock;
        let file = self.file_mut(ino)?;
        change.apply(&mut file.data);
        file.unsynced.push(change);
        file.modified = clock;
        Ok(())
    }

    /// Writes as much as there is room for, and returns how much that was.
    pub(super) fn write(&mut self, ino: Ino, at: Option<usize>, bytes: &[u8]) -> io::Result<usize> {
        self.begin("write", Path::new(""))?;
        let at = match at {
            Some(at) => at,
            None => self.file(ino)?.data.len(),
        };
        let mut len = bytes.len();
        if self.actor == Actor::Daemon
            && let Err(error) = self.room()
        {
            // Some of it may fit.
            len = self.rng.index(len);
            if len == 0 || self.rng.per_mille(300) {
                return Err(error);
            }
        }
        self.change(ino, Change::Write(at, bytes[..len].to_vec()))?;
        self.trace(format_args!("  {len} bytes at {at}"));
        self.end();
        Ok(len)
    }

    pub(super) fn set_len(&mut self, ino: Ino, len: usize) -> io::Result<()> {
        self.begin("set_len", Path::new(""))?;
        self.change(ino, Change::Len(len))?;
        self.end();
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        self.begin("rename", to)?;
        let ino = self.find(from)?;
        let (from_folder, from_name) = self.place(from)?;
        let (to_folder, to_name) = self.place(to)?;
        if let Some(&there) = self.folder(to_folder)?.now.get(&to_name) {
            if !replace {
                return Err(Errno::EXIST.into());
            }
            match (&self.nodes[ino], &self.nodes[there]) {
                (Node::Folder(_), Node::Folder(names)) if !names.now.is_empty() => {
                    return Err(Errno::NOTEMPTY.into());
                }
                (Node::Folder(_), Node::File(_)) => return Err(Errno::NOTDIR.into()),
                (Node::File(_), Node::Folder(_)) => return Err(Errno::ISDIR.into()),
                _ => {}
            }
        }
        self.fails("denied", self.weather.denied, Errno::ACCESS)?;
        self.fails("no room", self.weather.no_room, Errno::NOSPC)?;
        self.rename_all(vec![(from_folder, from_name, None), (to_folder, to_name, Some(ino))])?;
        self.show(from, false);
        self.show(to, true);
        self.judge(to);
        self.end();
        Ok(())
    }

    pub(super) fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.begin("link", to)?;
        let ino = self.find(from)?;
        self.file(ino)?;
        let (folder, name) = self.place(to)?;
        if self.folder(folder)?.now.contains_key(&name) {
            return Err(Errno::EXIST.into());
        }
        self.room()?;
        self.rename_all(vec![(folder, name, Some(ino))])?;
        self.show(to, true);
        self.end();
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.begin("unlink", path)?;
        let ino = self.find(path)?;
        self.file(ino)?;
        self.fails("denied", self.weather.denied, Errno::ACCESS)?;
        let (folder, name) = self.place(path)?;
        self.rename_all(vec![(folder, name, None)])?;
        self.show(path, false);
        self.end();
        Ok(())
    }

    pub(super) fn remove_folder(&mut self, path: &Path) -> io::Result<()> {
        self.begin("rmdir", path)?;
        let ino = self.find(path)?;
        if !self.folder(ino)?.now.is_empty() {
            return Err(Errno::NOTEMPTY.into());
        }
        let (folder, name) = self.place(path)?;
        self.rename_all(vec![(folder, name, None)])?;
        self.show(path, false);
        self.end();
        Ok(())
    }

    /// Removes a file, or a folder with all that is in it, one name after the other, in any order.
    pub(super) fn remove_all(&mut self, path: &Path) -> io::Result<()> {
        let ino = self.find(path)?;
        if let Node::File(_) = &self.nodes[ino] {
            return self.remove_file(path);
        }
        for name in self.list(ino)? {
            self.remove_all(&path.join(name))?;
        }
        self.remove_folder(path)
    }

    /// Returns the names in a folder, in an order of the disk's own.
    pub(super) fn list(&mut self, ino: Ino) -> io::Result<Vec<String>> {
        let mut names: Vec<_> = self.folder(ino)?.now.keys().cloned().collect();
        for i in (1..names.len()).rev() {
            names.swap(i, self.rng.index(i + 1));
        }
        Ok(names)
    }

    pub(super) fn read_folder(&mut self, path: &Path) -> io::Result<(Ino, Vec<String>)> {
        self.begin("list", path)?;
        let ino = self.find(path)?;
        self.fails("bad read", self.weather.bad_read, Errno::IO)?;
        let names = self.list(ino)?;
        self.end();
        Ok((ino, names))
    }

    pub(super) fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        self.begin("read", path)?;
        let ino = self.find(path)?;
        self.fails("bad read", self.weather.bad_read, Errno::IO)?;
        let data = self.file(ino)?.data.clone();
        self.end();
        Ok(data)
    }
}
