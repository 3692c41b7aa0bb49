//! What is safe, and what a power cut leaves of the rest.

use std::io;
use std::path::{Component, Path};

use rustix::io::Errno;

use super::{Change, Disk, Ino, Node, ROOT, Renaming};

impl Disk {
    /// Makes a file's contents, or a folder's names, safe.
    pub(super) fn sync(&mut self, ino: Ino) -> io::Result<()> {
        self.begin("sync", Path::new(""))?;
        self.trace(format_args!("  of {ino}"));
        let odds = self.weather.bad_sync;
        if let Err(error) = self.fails("bad sync", odds, Errno::IO) {
            // What was to be written counts as written from now on, and is not.
            if let Node::File(_) = &self.nodes[ino] {
                let kept = self.survivor(ino);
                if let Node::File(file) = &mut self.nodes[ino] {
                    file.synced = kept;
                    file.unsynced.clear();
                }
            }
            return Err(error);
        }
        self.sync_now(ino);
        self.end();
        Ok(())
    }

    pub(super) fn sync_now(&mut self, ino: Ino) {
        match &mut self.nodes[ino] {
            Node::File(file) => {
                for change in file.unsynced.drain(..) {
                    change.apply(&mut file.synced);
                }
            }
            Node::Folder(_) => {
                let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.renamings)
                    .into_iter()
                    .partition(|changes| changes.iter().any(|(folder, ..)| *folder == ino));
                self.renamings = later;
                for changes in now {
                    self.keep_names(&changes);
                }
            }
        }
    }

    pub(super) fn keep_names(&mut self, changes: &Renaming) {
        for (folder, name, ino) in changes {
            if let Node::Folder(names) = &mut self.nodes[*folder] {
                match ino {
                    Some(ino) => names.synced.insert(name.clone(), *ino),
                    None => names.synced.remove(name),
                };
            }
        }
    }

    /// Makes all safe, as a kernel does from time to time.
    pub fn write_back(&mut self) {
        self.trace(format_args!("written back"));
        for changes in std::mem::take(&mut self.renamings) {
            self.keep_names(&changes);
        }
        for node in &mut self.nodes {
            if let Node::File(file) = node {
                for change in file.unsynced.drain(..) {
                    change.apply(&mut file.synced);
                }
            }
        }
    }

    /// Returns what a power cut leaves of a file.
    pub(super) fn survivor(&mut self, ino: Ino) -> Vec<u8> {
        let Node::File(file) = &self.nodes[ino] else { return Vec::new() };
        if file.unsynced.is_empty() {
            return file.synced.clone();
        }
        let mut kept = file.synced.clone();
        // All, nothing, or some.
        let whole = match self.rng.below(4) {
            0 => 0,
            1 => file.unsynced.len(),
            _ => self.rng.index(file.unsynced.len() + 1),
        };
        for change in &file.unsynced[..whole] {
            change.apply(&mut kept);
        }
        match file.unsynced.get(whole) {
            Some(Change::Write(at, bytes)) if self.rng.per_mille(600) => {
                let (at, end) = (*at, *at + bytes.len());
                let cut = self.rng.index(bytes.len() + 1);
                let torn = Change::Write(at, bytes[..cut].to_vec());
                let zeros = self.rng.per_mille(300);
                torn.apply(&mut kept);
                if zeros && kept.len() < end {
                    // The new length is there, what it holds is not.
                    kept.resize(end, 0);
                }
            }
            Some(Change::Len(len)) if self.rng.per_mille(500) => kept.resize(*len, 0),
            _ => {}
        }
        kept
    }

    /// Cuts the power: what remains is what was synced, and of the rest what the seed chooses.
    pub fn cut_power(&mut self) {
        let renamings = std::mem::take(&mut self.renamings);
        let in_order = self.rng.per_mille(500);
        let first = self.rng.index(renamings.len() + 1);
        let odds = [100, 500, 900][self.rng.index(3)];
        for (i, changes) in renamings.iter().enumerate() {
            if if in_order { i < first } else { self.rng.per_mille(odds) } {
                self.keep_names(changes);
            }
        }
        for ino in 0..self.nodes.len() {
            if matches!(&self.nodes[ino], Node::File(file) if !file.unsynced.is_empty()) {
                let kept = self.survivor(ino);
                if let Node::File(file) = &mut self.nodes[ino] {
                    file.unsynced.clear();
                    file.synced = kept;
                }
            }
            match &mut self.nodes[ino] {
                // What a bad sync had lost is lost for good.
                Node::File(file) => file.data.clone_from(&file.synced),
                Node::Folder(names) => names.now.clone_from(&names.synced),
            }
        }
        let kept = if in_order { "in order" } else { "of each its own" };
        self.trace(format_args!("the power is back; names {kept}"));
    }

    /// Returns what is there for sure, whenever the power is cut.
    pub fn safe(&self, path: &Path) -> Option<&[u8]> {
        let mut at = ROOT;
        for component in path.components() {
            if let Component::Normal(name) = component {
                at = *self.folder(at).ok()?.synced.get(name.to_str()?)?;
            }
        }
        self.file(at).ok().map(|file| file.synced.as_slice())
    }
}
