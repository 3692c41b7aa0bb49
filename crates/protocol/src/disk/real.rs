//! The machine's own files.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub use std::fs::{
    DirEntry, File, Metadata, OpenOptions, copy, create_dir, create_dir_all, hard_link, metadata,
    read, read_dir, read_to_string, remove_dir, remove_dir_all, remove_file, set_permissions,
    symlink_metadata,
};
pub use std::os::unix::fs::MetadataExt;

pub use crate::untrusted::Folder;

/// Returns whether there is something of that name.
#[inline]
pub fn exists(path: &Path) -> bool {
    path.exists()
}

/// Returns whether there is a folder of that name.
#[inline]
pub fn is_dir(path: &Path) -> bool {
    path.is_dir()
}

/// Gives a file or a folder another name.
///
/// # Errors
///
/// Any I/O error.
#[inline]
#[expect(clippy::disallowed_methods, reason = "called by `atomic_file`, to which the ban points")]
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}

impl Write for Partial {
    fn write(&mut self, contents: &[u8]) -> io::Result<usize> {
        self.0.write(contents)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that has no name of its own yet. It is removed when it gets none.
#[derive(Debug)]
pub(crate) struct Partial(tempfile::NamedTempFile);

impl Partial {
    pub(crate) fn create_in(dir: &Path) -> io::Result<Self> {
        let partial = tempfile::Builder::new()
            .prefix(".")
            .suffix(".tmp")
            // As any other program makes its files: who else may read them, the user's umask says.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(dir)?;
        Ok(Self(partial))
    }

    pub(crate) fn sync_all(&self) -> io::Result<()> {
        self.0.as_file().sync_all()
    }

    /// Names it, in place of a file that may be there.
    pub(crate) fn persist(self, path: &Path) -> io::Result<()> {
        self.0.persist(path).map(drop).map_err(|e| e.error)
    }

    /// Names it, unless there is a file of that name.
    pub(crate) fn persist_noclobber(self, path: &Path) -> io::Result<()> {
        self.0.persist_noclobber(path).map(drop).map_err(|e| e.error)
    }
}
