//! What outlives the processes of an attempt: files in memory, and shared memory, semaphores and queues, which belong
//! to the container. All of it counts as the container's memory, and a later attempt could read it.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::process::{Pid, getpid};

use crate::paths::Paths;
use crate::process::Processes;
use crate::{mounts, scratch};

/// How long the kernel has to end what was killed.
const PATIENCE: Duration = Duration::from_secs(1);

/// Removes what attempts left in this worker's container. Outside of a container only the
/// scratch folder is ours.
///
/// # Errors
///
/// What stays in a container, for a person to read: a further attempt would find it. Elsewhere it is only logged, since
/// no other place would do better.
pub(crate) fn clear(paths: &Paths, processes: &Processes) -> Result<(), String> {
    let mut stays = Vec::new();
    let alive = processes.kill_descendants(PATIENCE);
    if alive > 0 {
        stays.push(format!("{alive} processes can't be killed"));
    }
    stays.extend(scratch::empty(&paths.scratch));
    if getpid() != Pid::INIT {
        return Ok(());
    }
    // POSIX shared memory, semaphores and queues, and what an engine has put there besides.
    for folder in mounts::in_memory() {
        if access(&folder, Access::WRITE_OK).is_ok() {
            stays.extend(scratch::empty(&folder));
        }
    }
    for kind in Kind::ALL {
        stays.extend(kind.remove_all());
    }
    stays.truncate(5);
    if stays.is_empty() { Ok(()) } else { Err(stays.join("; ")) }
}

/// A kind of System V's objects, which have numbers and no files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    SharedMemory,
    Semaphores,
    Queue,
}

impl Kind {
    const ALL: [Self; 3] = [Self::SharedMemory, Self::Semaphores, Self::Queue];

    /// Returns the kernel's list of them.
    fn list(self) -> &'static str {
        match self {
            Self::SharedMemory => "/proc/sysvipc/shm",
            Self::Semaphores => "/proc/sysvipc/sem",
            Self::Queue => "/proc/sysvipc/msg",
        }
    }

    /// Removes all that are in this container; returns which stay.
    fn remove_all(self) -> Vec<String> {
        // A kernel that has no list has none of them.
        let ids = ids(&fs::read_to_string(self.list()).unwrap_or_default());
        let stays = |id| match self.remove(id) {
            Ok(()) => None,
            // It went by itself.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIDRM)) => None,
            Err(error) => Some(format!("{self:?} {id} can't be removed: {error}")),
        };
        ids.into_iter().filter_map(stays).collect()
    }

    #[expect(unsafe_code, reason = "no crate has these calls, and an image need not have `ipcrm`")]
    fn remove(self, id: i32) -> io::Result<()> {
        // SAFETY: with IPC_RMID the kernel reads and writes no memory of ours: it ignores the last argument.
        let done = unsafe {
            match self {
                Self::SharedMemory => libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()),
                Self::Semaphores => libc::semctl(id, 0, libc::IPC_RMID),
                Self::Queue => libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()),
            }
        };
        if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Returns the numbers in one of the kernel's lists: a line of titles, then a line for each, with its key first.
fn ids(list: &str) -> Vec<i32> {
    let id = |line: &str| line.split_ascii_whitespace().nth(1)?.parse().ok();
    list.lines().skip(1).filter_map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_process_holds_is_found_in_the_kernels_lists_and_removed() {
        let list = "       key      shmid perms                  size  cpid\n\
                    \x20        0          3  1600            1932735283    77\n\
                    -123456789      65538   666                  4096    77\n";
        assert_eq!(ids(list), [3, 65538]);
        assert_eq!(ids(""), [0; 0]);

        for (kind, make) in [
            (Kind::SharedMemory, "print shmget(0, 4096, 0600)"),
            (Kind::Semaphores, "print semget(0, 1, 0600)"),
            (Kind::Queue, "print msgget(0, 0600)"),
        ] {
            let made = std::process::Command::new("perl").args(["-e", make]).output().unwrap();
            let id: i32 = String::from_utf8(made.stdout).unwrap().parse().unwrap();
            let is_there = || ids(&fs::read_to_string(kind.list()).unwrap()).contains(&id);
            assert!(is_there(), "{kind:?}");
            kind.remove(id).unwrap();
            assert!(!is_there(), "{kind:?}");
        }
    }
}
