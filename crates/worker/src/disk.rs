//! How much an attempt may write to disk, and how many files. The kernel has no such bound for a folder that is
//! mounted, so the folders are looked at once a second.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getpid, getrlimit, setrlimit};

use crate::process;

/// How often the folders are looked at, at most. What takes long is done less often: a tenth of the time goes into it.
const EVERY: Duration = Duration::from_secs(1);

/// How deep folders are followed: each level is held open meanwhile. Nobody nests deeper but who wants to hide.
const MAX_DEPTH: usize = 128;

/// How many open files are looked at for one without a name.
const MAX_OPEN: usize = 1 << 16;

/// A file may have as much in any case: our own transcript.
const LEAST_FILE: u64 = 512 << 20;

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What an attempt may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// Files, folders and links.
    pub(crate) files: u64,
}

impl Bounds {
    /// Keeps every process that is started from now on from writing a single file that is larger than the bound.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn limit_files(self) -> Result<(), Errno> {
        let before = getrlimit(Resource::Fsize);
        let lower =
            |limit: Option<u64>| limit.map_or(u64::MAX, |l| l).min(self.bytes.max(LEAST_FILE));
        let limit =
            Rlimit { current: Some(lower(before.current)), maximum: Some(lower(before.maximum)) };
        setrlimit(Resource::Fsize, limit)
    }
}

/// What is in folders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    bytes: u64,
    files: u64,
    /// Folders that can't be looked into: they are locked, or too deep.
    unseen: u64,
}

/// Watches what an attempt writes, in a thread of its own: a look may take long, when an attempt has made many files or
/// processes, and the attempt's end is not to wait for it. The thread ends with this.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    shared: Arc<Shared>,
    /// `None` where nothing is watched.
    looker: Option<Thread>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Which bound was passed.
    passed: OnceLock<String>,
    is_over: AtomicBool,
}

impl Meter {
    /// Begins to watch those folders. What is in them already is not the attempt's.
    ///
    /// # Errors
    ///
    /// That there is no room for a thread.
    pub(crate) fn start(folders: &[&Path], bounds: Bounds) -> io::Result<Self> {
        let looks = Looks::new(folders, bounds);
        let mut meter = Self::default();
        let shared = Arc::clone(&meter.shared);
        let looker = thread::Builder::new().name("disk".to_owned()).spawn(move || {
            let mut pause = EVERY;
            loop {
                thread::park_timeout(pause);
                if shared.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let began = Instant::now();
                if let Some(what) = looks.passed(&shared.is_over) {
                    let _ = shared.passed.set(what);
                    return;
                }
                pause = EVERY.max(began.elapsed() * 9);
            }
        })?;
        meter.looker = Some(looker.thread().clone());
        Ok(meter)
    }

    /// Returns which bound the attempt has passed, as far as was seen by now.
    pub(crate) fn passed(&self) -> Option<String> {
        self.shared.passed.get().cloned()
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(looker) = &self.looker {
            looker.unpark();
        }
    }
}

/// Looks at folders again and again.
#[derive(Debug)]
struct Looks {
    folders: Vec<PathBuf>,
    bounds: Bounds,
    /// What was there before the attempt.
    before: Usage,
}

impl Looks {
    fn new(folders: &[&Path], bounds: Bounds) -> Self {
        let folders = folders.iter().map(|&folder| folder.to_owned()).collect();
        let mut looks = Self { folders, bounds, before: Usage::default() };
        // Also this look has an end.
        let files = bounds.files.saturating_mul(10);
        let most = Usage { bytes: u64::MAX, files, unseen: u64::MAX };
        looks.before = looks.measure(most, &AtomicBool::new(false));
        looks
    }

    /// Returns which bound the attempt has passed, if it has; nothing when nobody wants to know any more.
    fn passed(&self, is_over: &AtomicBool) -> Option<String> {
        let (before, bounds) = (self.before, self.bounds);
        let most = Usage {
            bytes: before.bytes.saturating_add(bounds.bytes),
            files: before.files.saturating_add(bounds.files),
            unseen: before.unseen,
        };
        let now = self.measure(most, is_over);
        if now.bytes > most.bytes {
            Some(format!("more than {} MiB", bounds.bytes >> 20))
        } else if now.files > most.files {
            Some(format!("more than {} files and folders", bounds.files))
        } else if now.unseen > most.unseen {
            Some(format!("a folder that can't be looked into, or is more than {MAX_DEPTH} deep"))
        } else {
            None
        }
    }

    /// Measures what is in the folders, until it is more than that, or nobody wants to know any more.
    fn measure(&self, most: Usage, is_over: &AtomicBool) -> Usage {
        let mut walk = Walk { most, found: Usage::default(), is_over };
        let mut devices = Vec::new();
        for folder in &self.folders {
            if let Ok(opened) = openat(CWD, folder, FOLDER, Mode::empty()) {
                devices.extend(rustix::fs::fstat(&opened).map(|stat| stat.st_dev));
                walk.folder(opened.as_fd(), 0);
            }
        }
        if !walk.is_over() {
            walk.without_names(&devices, &self.folders);
        }
        walk.found
    }
}

struct Walk<'a> {
    most: Usage,
    found: Usage,
    is_over: &'a AtomicBool,
}

impl Walk<'_> {
    fn is_over(&self) -> bool {
        let (found, most) = (self.found, self.most);
        found.bytes > most.bytes
            || found.files > most.files
            || found.unseen > most.unseen
            || self.is_over.load(Ordering::Relaxed)
    }

    /// Counts what is in a folder, following no link.
    fn folder(&mut self, folder: BorrowedFd<'_>, depth: usize) {
        let Ok(entries) = Dir::read_from(folder) else {
            self.found.unseen += 1;
            return;
        };
        for entry in entries {
            let Ok(entry) = entry else { return };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.entry(folder, name, depth);
            if self.is_over() {
                return;
            }
        }
    }

    fn entry(&mut self, folder: BorrowedFd<'_>, name: &CStr, depth: usize) {
        // What is gone by now counts no more.
        let Ok(stat) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { return };
        self.found.files += 1;
        // Each of a file's names counts for its share.
        let names = if is_folder(&stat) { 1 } else { u64::from(stat.st_nlink.max(1) as u32) };
        self.found.bytes = self.found.bytes.saturating_add(size(&stat) / names);
        if !is_folder(&stat) {
            return;
        }
        match openat(folder, name, FOLDER, Mode::empty()) {
            Ok(inner) if depth < MAX_DEPTH => self.folder(inner.as_fd(), depth + 1),
            // Gone, or something else by now.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Ok(_) | Err(_) => self.found.unseen += 1,
        }
    }

    /// Counts files on those devices that have no name any more, but are open or mapped. Of a process that lets
    /// nobody look at it nothing is seen.
    fn without_names(&mut self, devices: &[u64], folders: &[PathBuf]) {
        let (mut files, mut looked_at) = (HashMap::new(), 0);
        for pid in process::descendants(getpid()) {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let process = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
            for fd in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
                looked_at += 1;
                if looked_at > MAX_OPEN {
                    self.found.unseen += 1;
                    return;
                }
                // Not by its text: the kernel leads to the file itself.
                let Ok(stat) = statat(CWD, fd.path(), AtFlags::empty()) else { continue };
                let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
                if is_file && stat.st_nlink == 0 && devices.contains(&stat.st_dev) {
                    files.insert(stat.st_ino, size(&stat));
                }
            }
            let maps = fs::read(process.join("maps")).unwrap_or_default();
            for (number, len) in
                maps.split(|&b| b == b'\n').filter_map(|line| mapped(line, folders))
            {
                let file = files.entry(number).or_default();
                *file = (*file).max(len);
            }
        }
        let bytes = files.into_values().fold(0_u64, u64::saturating_add);
        self.found.bytes = self.found.bytes.saturating_add(bytes);
    }
}

fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Returns what a file takes on disk. Its length says little: a file may have holes.
fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512)
}

/// Returns the number and the length of a mapped file of those folders that has no name any more, of a line such as
/// `7f00-7f01 rw-s 00000000 08:01 1234 /results/x (deleted)`.
fn mapped(line: &[u8], folders: &[PathBuf]) -> Option<(u64, u64)> {
    let line = line.strip_suffix(b" (deleted)")?;
    let path = &line[line.iter().position(|&b| b == b'/')?..];
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    if !folders.iter().any(|folder| path.starts_with(folder)) {
        return None;
    }
    let mut fields =
        str::from_utf8(line.split(|&b| b == b'/').next()?).ok()?.split_ascii_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let number = fields.nth(3)?.parse().ok()?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    Some((number, hex(to)?.checked_sub(hex(from)?)?))
}

#[cfg(test)]
mod tests {
    use std::fs::{File, Permissions};
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn fill(path: &Path, bytes: u64) -> File {
        let mut file = File::create(path).unwrap();
        file.write_all(&vec![1; usize::try_from(bytes).unwrap()]).unwrap();
        file
    }

    /// Returns what is passed by what was written since.
    fn passed(looks: &Looks) -> Option<String> {
        looks.passed(&AtomicBool::new(false))
    }

    #[test]
    fn what_was_written_since_counts_and_what_was_there_does_not() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = |name: &str| dir.path().join(name);
        fill(&path("before"), 3 * MIB);
        fill(&outside.path().join("large"), 8 * MIB);
        let looks = Looks::new(&[dir.path()], Bounds { bytes: 2 * MIB, files: 8 });
        symlink(outside.path(), path("link")).unwrap();
        fs::create_dir_all(path("a/b")).unwrap();
        fill(&path("a/b/one"), MIB);
        // A file with holes takes no room, and one file with two names takes it once.
        File::create(path("holes")).unwrap().set_len(1 << 30).unwrap();
        fs::hard_link(path("a/b/one"), path("again")).unwrap();
        assert_eq!(passed(&looks), None);
        let second = fill(&path("two"), MIB + 8192);
        assert_eq!(passed(&looks).as_deref(), Some("more than 2 MiB"));
        second.set_len(0).unwrap();
        assert_eq!(passed(&looks), None);
        for name in ["c", "d", "e"] {
            fs::create_dir(path(name)).unwrap();
        }
        assert_eq!(passed(&looks).as_deref(), Some("more than 8 files and folders"));
    }

    #[test]
    fn folder_that_can_not_be_looked_into_is_not_overlooked() {
        let dir = tempfile::tempdir().unwrap();
        let looks = Looks::new(&[dir.path()], Bounds { bytes: MIB, files: 1000 });
        let deep: PathBuf = std::iter::repeat_n("x", MAX_DEPTH).collect();
        fs::create_dir_all(dir.path().join(&deep)).unwrap();
        assert_eq!(passed(&looks), None);
        fs::create_dir_all(dir.path().join(&deep).join("x/y")).unwrap();
        assert!(passed(&looks).unwrap().contains("can't be looked into"));
        fs::remove_dir_all(dir.path().join("x")).unwrap();
        assert_eq!(passed(&looks), None);
        let locked = dir.path().join("locked");
        fs::create_dir(&locked).unwrap();
        fs::set_permissions(&locked, Permissions::from_mode(0o0)).unwrap();
        // Nothing is locked for root.
        assert_eq!(passed(&looks).is_none(), fs::read_dir(&locked).is_ok());
    }

    #[test]
    fn file_that_is_only_open_or_only_mapped_counts() {
        let dir = tempfile::tempdir().unwrap();
        let folders = [dir.path().to_owned()];
        let looks = Looks::new(&[dir.path()], Bounds { bytes: MIB, files: 8 });
        let script = "head -c 2097152 /dev/zero > x; exec 3< x; rm x; echo; read _";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .current_dir(dir.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(passed(&looks).as_deref(), Some("more than 1 MiB"));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(passed(&looks), None);

        let line =
            |path: &str| format!("7f0000000000-7f0000200000 rw-s 00000000 08:01 1234 {path}");
        let deleted = format!("{}/x y (deleted)", dir.path().display());
        assert_eq!(mapped(line(&deleted).as_bytes(), &folders), Some((1234, 2 * MIB)));
        for other in ["/memfd:x (deleted)", deleted.trim_end_matches(" (deleted)"), ""] {
            assert_eq!(mapped(line(other).as_bytes(), &folders), None);
        }
    }
}
