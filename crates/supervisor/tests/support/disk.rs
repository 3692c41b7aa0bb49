//! A small disk that can be full.

use std::fs::{self, File};
use std::io::{self, Error, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::geteuid;

/// What takes up all the room.
const BALLAST: &str = ".ballast";

/// A file system of its own, in memory. Its files are gone with it.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Returns why there can't be one here.
    pub(crate) fn impossible() -> Option<String> {
        (!geteuid().is_root()).then(|| "a disk of its own needs root".to_owned())
    }

    /// Makes an empty one of that size, in MiB, in the place of what is in the folder.
    pub(crate) fn mount(folder: &Path, mib: u32) -> io::Result<Self> {
        let options = format!("size={mib}m,mode=0755");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder);
        let output = mount.output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Error::other(format!("`mount` ended with {}: {said}", output.status)));
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// Takes up all the room that there is.
    pub(crate) fn fill(&self) -> io::Result<()> {
        let mut ballast = File::options().create(true).append(true).open(self.ballast())?;
        for size in [1 << 20, 1 << 12, 1] {
            let block = vec![b'.'; size];
            loop {
                match ballast.write(&block) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Gives it back.
    pub(crate) fn free(&self) -> io::Result<()> {
        fs::remove_file(self.ballast())
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join(BALLAST)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also with files that are still open somewhere.
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).output();
    }
}
