//! The machine: sockets, watches, room, memory, clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Access, inotify};

use super::{Finding, files};
use crate::cli::check;
use crate::install::Installation;

/// The longest path of a unix socket: `sun_path` has 108 bytes, the last of them is 0.
const MAX_SOCKET_PATH: usize = 107;

/// Below that a run may end for want of room; the journal, transcripts and artifacts need it.
const LITTLE_DISK: u64 = 256 << 20;

/// Below that it is time to make room.
const SCARCE_DISK: u64 = 2 << 30;

/// What an agent needs by itself: the CLI takes about 200 MiB.
const MEMORY_PER_ATTEMPT: u64 = 256 << 20;

/// 2026-01-01: this program did not exist before.
const NOT_BEFORE: Duration = Duration::from_secs(1_767_225_600);

/// Checks what is the same for every installation.
pub(super) fn check_machine() -> Vec<Finding> {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    vec![check_clock(SystemTime::now()), check_open_files(files)]
}

/// Returns where the folder of the sockets may be, in order.
pub(super) fn socket_places() -> Vec<PathBuf> {
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    named.into_iter().chain(["/run".into(), "/tmp".into()]).collect()
}

/// Checks that sockets can be made, and that their paths fit.
pub(super) fn check_sockets(installation: &Installation, places: &[PathBuf]) -> Finding {
    const CHECK: &str = "sockets";
    let usable = |place: &&PathBuf| {
        rustix::fs::access(place.as_path(), Access::WRITE_OK | Access::EXEC_OK).is_ok()
    };
    let cure = "Set XDG_RUNTIME_DIR to a short folder that is yours alone (mode 0700).";
    let Some(place) = places.iter().find(usable) else {
        let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        let message = format!("none of {} can be written", places.join(", "));
        return Finding::problem(CHECK, message, cure);
    };
    let folder = place.join(format!("supervisor-{}", installation.id()));
    let workers = check::workers(installation);
    let longest = workers.iter().map(|worker| worker.as_str().len()).max().unwrap_or_default();
    // The longest name of a replica: two digits after the worker's name.
    let replica = format!("{}-00", "x".repeat(longest));
    let path = folder.join("gateway").join(replica).join("gateway.sock");
    let len = path.as_os_str().len();
    if len > MAX_SOCKET_PATH {
        let message = format!(
            "sockets in {} would have paths of {len} bytes, at most {MAX_SOCKET_PATH} are possible",
            folder.display()
        );
        return Finding::problem(CHECK, message, cure);
    }
    Finding::ok(CHECK, folder.display().to_string())
}

/// The kernel's limits on watching, for one user.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inotify {
    pub(super) instances: u64,
    pub(super) watches: u64,
    /// Whether there is an instance left.
    pub(super) is_one_left: bool,
}

/// Returns the kernel's limits; `None` where the kernel has no such thing.
pub(super) fn inotify_limits() -> Option<Inotify> {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok()?;
        text.trim().parse().ok()
    };
    let one = inotify::init(inotify::CreateFlags::CLOEXEC);
    Some(Inotify {
        instances: read("max_user_instances")?,
        watches: read("max_user_watches")?,
        is_one_left: one.is_ok(),
    })
}

/// Checks that all folders can be watched.
pub(super) fn check_watches(needed: u64, limits: Option<Inotify>) -> Finding {
    const CHECK: &str = "watches";
    let Some(Inotify { instances, watches, is_one_left }) = limits else {
        let message = "there is no inotify here: folders are looked at every 2 seconds";
        return Finding::note(CHECK, message, "Nothing needs to be done; it is only slower.");
    };
    if !is_one_left {
        return Finding::note(
            CHECK,
            format!(
                "all {instances} inotify instances of this user are taken: folders are looked at every \
                 few seconds"
            ),
            format!("sudo sysctl fs.inotify.max_user_instances={}", instances.max(128) * 4),
        );
    }
    // Others of the same user need some too.
    if watches < needed.saturating_mul(2) {
        return Finding::note(
            CHECK,
            format!("{watches} watches are allowed, {needed} are needed: the rest is polled"),
            "sudo sysctl fs.inotify.max_user_watches=65536",
        );
    }
    if instances < 16 {
        return Finding::note(
            CHECK,
            format!("{instances} inotify instances are allowed for all programs of this user"),
            "sudo sysctl fs.inotify.max_user_instances=128",
        );
    }
    Finding::ok(CHECK, format!("{} of {watches} watches are needed", files::folders(needed)))
}

/// Returns the bytes that are free for this user; `None` where that is not known.
pub(super) fn free_disk(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Checks that there is room.
pub(super) fn check_disk(free: Option<u64>) -> Finding {
    const CHECK: &str = "disk";
    let cure = "Make room, or move the installation to a larger file system.";
    match free {
        None => Finding::note(CHECK, "it is not known how much is free", cure),
        Some(free) if free < LITTLE_DISK => {
            Finding::problem(CHECK, format!("only {} are free", size(free)), cure)
        }
        Some(free) if free < SCARCE_DISK => {
            Finding::note(CHECK, format!("only {} are free", size(free)), cure)
        }
        Some(free) => Finding::ok(CHECK, format!("{} are free", size(free))),
    }
}

/// Returns the bytes of memory that can be had; `None` where that is not known.
pub(super) fn free_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

/// Checks that as many agents as may run at once fit into memory.
pub(super) fn check_memory(max_running: usize, free: Option<u64>) -> Finding {
    const CHECK: &str = "memory";
    let Some(free) = free else {
        return Finding::note(
            CHECK,
            "it is not known how much is free",
            "Nothing needs to be done.",
        );
    };
    let fit = free / MEMORY_PER_ATTEMPT;
    if fit == 0 {
        let message = format!("only {} are free: not even one agent fits", size(free));
        return Finding::problem(CHECK, message, "End other programs, or use a larger machine.");
    }
    if fit < max_running as u64 {
        return Finding::note(
            CHECK,
            format!("{} are free: {fit} agents fit, {max_running} may run at once", size(free)),
            format!("max_running = {fit}     in supervisor.toml"),
        );
    }
    Finding::ok(CHECK, format!("{} are free for {max_running} agents at once", size(free)))
}

/// Checks that the clock is not somewhere in the past, where no certificate is valid.
pub(super) fn check_clock(now: SystemTime) -> Finding {
    const CHECK: &str = "clock";
    match now.duration_since(UNIX_EPOCH) {
        Ok(since) if since >= NOT_BEFORE => Finding::ok(CHECK, "set"),
        _ => Finding::problem(
            CHECK,
            "it shows a time before 2026",
            "Set the clock: timedatectl set-ntp true",
        ),
    }
}

/// Checks how many files and connections may be open at once; `None` is without limit.
pub(super) fn check_open_files(limit: Option<u64>) -> Finding {
    const CHECK: &str = "open files";
    match limit {
        Some(limit) if limit < 1024 => Finding::note(
            CHECK,
            format!("at most {limit} at once: many agents at once may need more"),
            "ulimit -n 4096     before `supervisor up`",
        ),
        Some(limit) => Finding::ok(CHECK, format!("at most {limit} at once")),
        None => Finding::ok(CHECK, "without limit"),
    }
}

fn size(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1 << 30);
    if gib >= 1.0 { format!("{gib:.1} GiB") } else { format!("{} MiB", bytes >> 20) }
}
