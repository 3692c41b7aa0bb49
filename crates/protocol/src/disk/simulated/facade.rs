//! What stands in for `std::fs`.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::io::Errno;

pub use super::folder::SimulatedFolder as Folder;
use super::{Contents, Disk, Ino, Node, Opening, with};

/// A file that is open.
#[derive(Debug)]
pub struct File {
    pub(super) ino: Ino,
    pub(super) at: usize,
    append: bool,
}

impl File {
    /// Opens a file or a folder to read.
    ///
    /// # Errors
    ///
    /// As [`std::fs::File::open`], and what is injected; so it is with all here.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        OpenOptions::new().read(true).open(path)
    }

    /// Opens a file to write, made or emptied.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        OpenOptions::new().write(true).create(true).truncate(true).open(path)
    }

    pub(super) fn of(ino: Ino) -> Self {
        Self { ino, at: 0, append: false }
    }

    /// Makes its contents safe.
    pub fn sync_all(&self) -> io::Result<()> {
        with(|disk| disk.sync(self.ino))
    }

    /// Makes its contents safe.
    pub fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    /// Sets its length.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        with(|disk| disk.set_len(self.ino, usize::try_from(len).unwrap_or(usize::MAX)))
    }

    /// Does nothing: there is one user.
    pub fn set_permissions(&self, _permissions: Permissions) -> io::Result<()> {
        Ok(())
    }

    /// Returns what is known of it.
    pub fn metadata(&self) -> io::Result<Metadata> {
        with(|disk| Ok(Metadata::of(disk, self.ino)))
    }
}

impl Read for File {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        with(|disk| {
            let data = &disk.file(self.ino)?.data;
            let rest = data.get(self.at..).unwrap_or_default();
            let len = rest.len().min(buf.len());
            buf[..len].copy_from_slice(&rest[..len]);
            self.at += len;
            Ok(len)
        })
    }
}

impl Write for File {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let len = with(|disk| disk.write(self.ino, (!self.append).then_some(self.at), buf))?;
        self.at += len;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Seek for File {
    fn seek(&mut self, pos: io::SeekFrom) -> io::Result<u64> {
        let len = with(|disk| disk.file(self.ino).map(|file| file.data.len()))? as i64;
        let at = match pos {
            io::SeekFrom::Start(at) => i64::try_from(at).unwrap_or(i64::MAX),
            io::SeekFrom::End(by) => len + by,
            io::SeekFrom::Current(by) => self.at as i64 + by,
        };
        self.at = usize::try_from(at).map_err(|_| Errno::INVAL)?;
        Ok(self.at as u64)
    }
}

/// How a file is to be opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    how: Opening,
    append: bool,
}

impl OpenOptions {
    /// Returns none.
    pub fn new() -> Self {
        Self::default()
    }

    /// Does nothing: all can be read.
    pub fn read(&mut self, _read: bool) -> &mut Self {
        self
    }

    /// To write.
    pub fn write(&mut self, write: bool) -> &mut Self {
        self.how.write = write;
        self
    }

    /// To write at its end.
    pub fn append(&mut self, append: bool) -> &mut Self {
        self.how.write = append;
        self.append = append;
        self
    }

    /// Made where there is none.
    pub fn create(&mut self, create: bool) -> &mut Self {
        self.how.create = create;
        self
    }

    /// Made, and only then.
    pub fn create_new(&mut self, new: bool) -> &mut Self {
        (self.how.create, self.how.new) = (new, new);
        self
    }

    /// Emptied.
    pub fn truncate(&mut self, truncate: bool) -> &mut Self {
        self.how.truncate = truncate;
        self
    }

    /// Opens it.
    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let ino = with(|disk| disk.open(path.as_ref(), self.how))?;
        Ok(File { ino, at: 0, append: self.append })
    }
}

/// What is known of a file or folder.
#[derive(Clone, Copy, Debug)]
pub struct Metadata {
    ino: u64,
    len: u64,
    modified: u64,
    is_dir: bool,
}

impl Metadata {
    fn of(disk: &Disk, ino: Ino) -> Self {
        let (len, modified, is_dir) = match &disk.nodes[ino] {
            Node::File(Contents { data, modified, .. }) => (data.len() as u64, *modified, false),
            Node::Folder(_) => (0, 0, true),
        };
        Self { ino: ino as u64, len, modified, is_dir }
    }

    /// Returns its length.
    #[expect(clippy::len_without_is_empty, reason = "as `std::fs::Metadata`")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether it is a folder.
    pub fn is_dir(&self) -> bool {
        self.is_dir
    }

    /// Returns whether it is a file.
    pub fn is_file(&self) -> bool {
        !self.is_dir
    }

    /// Returns when it was made: nobody knows.
    pub fn created(&self) -> io::Result<SystemTime> {
        Err(Errno::NOSYS.into())
    }
}

/// What Unix knows besides.
pub trait MetadataExt {
    /// The device.
    fn dev(&self) -> u64;
    /// Its number.
    fn ino(&self) -> u64;
    /// What it is, and who may do what with it.
    fn mode(&self) -> u32;
    /// When it changed, in seconds.
    fn mtime(&self) -> i64;
    /// The rest of that, in nanoseconds.
    fn mtime_nsec(&self) -> i64;
}

impl MetadataExt for Metadata {
    fn dev(&self) -> u64 {
        1
    }

    fn ino(&self) -> u64 {
        self.ino
    }

    fn mode(&self) -> u32 {
        0o100_644
    }

    fn mtime(&self) -> i64 {
        i64::try_from(self.modified / 1000).unwrap_or(i64::MAX)
    }

    fn mtime_nsec(&self) -> i64 {
        i64::try_from(self.modified % 1000).unwrap_or(0) * 1_000_000
    }
}

/// A name in a folder.
#[derive(Clone, Debug)]
pub struct DirEntry {
    folder: PathBuf,
    name: String,
    metadata: Metadata,
}

impl DirEntry {
    /// Returns the name.
    pub fn file_name(&self) -> OsString {
        self.name.clone().into()
    }

    /// Returns the whole path.
    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Returns what it is.
    pub fn file_type(&self) -> io::Result<Metadata> {
        Ok(self.metadata)
    }
}

/// Makes a folder.
pub fn create_dir(path: impl AsRef<Path>) -> io::Result<()> {
    with(|disk| disk.make_folder(path.as_ref()))
}

/// Makes a folder, and those that it is in.
pub fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    if is_dir(path) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_dir_all(parent)?;
    }
    match create_dir(path) {
        Err(_) if is_dir(path) => Ok(()),
        other => other,
    }
}

/// Reads a file.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    with(|disk| disk.read(path.as_ref()))
}

/// Reads a text.
pub fn read_to_string(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Returns what is in a folder, in no order that means anything.
pub fn read_dir(path: impl AsRef<Path>) -> io::Result<std::vec::IntoIter<io::Result<DirEntry>>> {
    let folder = path.as_ref();
    with(|disk| {
        let (ino, names) = disk.read_folder(folder)?;
        let entries: Vec<_> = names
            .into_iter()
            .map(|name| {
                let metadata = Metadata::of(disk, disk.folder(ino)?.now[&name]);
                Ok(DirEntry { folder: folder.to_owned(), name, metadata })
            })
            .collect();
        Ok(entries.into_iter())
    })
}

/// Returns what is known of a path.
pub fn metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    with(|disk| disk.find(path.as_ref()).map(|ino| Metadata::of(disk, ino)))
}

/// Returns what is known of a path: there are no links.
pub fn symlink_metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    metadata(path)
}

/// Returns whether there is something of that name.
pub fn exists(path: &Path) -> bool {
    metadata(path).is_ok()
}

/// Returns whether there is a folder of that name.
pub fn is_dir(path: &Path) -> bool {
    metadata(path).is_ok_and(|found| found.is_dir())
}

/// Gives a file another name, too.
pub fn hard_link(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    with(|disk| disk.link(from.as_ref(), to.as_ref()))
}

/// Copies a file.
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<u64> {
    let contents = read(from)?;
    File::create(to)?.write_all(&contents)?;
    Ok(contents.len() as u64)
}

/// Does nothing: there is one user.
pub fn set_permissions(_path: impl AsRef<Path>, _permissions: Permissions) -> io::Result<()> {
    Ok(())
}

/// Removes a file.
pub fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    with(|disk| disk.remove_file(path.as_ref()))
}

/// Removes a folder that is empty.
pub fn remove_dir(path: impl AsRef<Path>) -> io::Result<()> {
    with(|disk| disk.remove_folder(path.as_ref()))
}

/// Removes a folder with all that is in it.
pub fn remove_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    with(|disk| disk.remove_all(path.as_ref()))
}

/// Moves a file out of a folder, if it is there.
pub fn keep(left: &Path, name: &str, folder: &Path) -> io::Result<()> {
    if !metadata(left.join(name)).is_ok_and(|found| found.is_file()) {
        return Ok(());
    }
    create_dir_all(folder)?;
    rename(&left.join(name), &folder.join(name))
}

pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    with(|disk| disk.rename(from, to, true))
}

/// A file that has no name of its own yet. It is removed when it gets none.
#[derive(Debug)]
pub(crate) struct Partial {
    path: Option<PathBuf>,
    file: File,
}

impl Partial {
    pub(crate) fn create_in(dir: &Path) -> io::Result<Self> {
        let number = with(|disk| {
            disk.temporary += 1;
            disk.temporary
        });
        let path = dir.join(format!(".{number}.tmp"));
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Self { path: Some(path), file })
    }

    pub(crate) fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    pub(crate) fn persist(self, path: &Path) -> io::Result<()> {
        self.named(path, true)
    }

    pub(crate) fn persist_noclobber(self, path: &Path) -> io::Result<()> {
        self.named(path, false)
    }

    fn named(mut self, path: &Path, replace: bool) -> io::Result<()> {
        if let Some(own) = &self.path {
            with(|disk| disk.rename(own, path, replace))?;
            self.path = None;
        }
        Ok(())
    }
}

impl Write for Partial {
    fn write(&mut self, contents: &[u8]) -> io::Result<usize> {
        self.file.write(contents)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            let _ = remove_file(path);
        }
    }
}
